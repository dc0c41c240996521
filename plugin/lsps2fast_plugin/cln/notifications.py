"""lightningd's notifications as types: decoded here and nowhere else, as its rows are in `models`.

The payload of each sits under the notification's own name (cln:W3).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from lsps2fast_plugin.cln.models import Json
from lsps2fast_plugin.cln.rows import read


class PeerLink(msgspec.Struct, frozen=True):
    """`connect` or `disconnect`: the peer's node id."""

    id: str


class BlockAdded(msgspec.Struct, frozen=True):
    """`block_added`."""

    height: int


class ChannelStateChanged(msgspec.Struct, frozen=True):
    """`channel_state_changed`. `cause`: who began it, as `local`, `user`, `remote`, `protocol`, `onchain`."""

    peer_id: str
    channel_id: str
    new_state: str
    cause: str = ""


class ForwardEvent(msgspec.Struct, frozen=True):
    """`forward_event`. Reasons are words for people, of whatever form: they never keep the event from being read."""

    status: str
    payment_hash: str
    in_channel: str
    in_htlc_id: int
    preimage: str | None = None
    failcode: Any = None
    failreason: Any = None
    failure_reason: Any = None  # of what our own node refused, and only there (cln:N9)

    @property
    def reason(self) -> str:
        """Return the best words there are for a failure; "" without any."""
        return str(self.failure_reason or self.failreason or self.failcode or "")


class InvoicePayment(msgspec.Struct, frozen=True):
    """`invoice_payment`: an invoice of this node was paid."""

    preimage: str


class OnionMessageLost(msgspec.Struct, frozen=True):
    """`onionmessage_forward_fail`: who sent it, what came and how to read it, and for which peer it was.

    The peer is named by its id, or by scid and direction, as `1x2x3/0`; neither where the message is broken.
    """

    source: str = ""
    incoming: str = ""
    path_key: str = ""
    next_node_id: str | None = None
    next_short_channel_id_dir: str = ""


KINDS: Final[dict[str, type[msgspec.Struct]]] = {
    "connect": PeerLink,
    "disconnect": PeerLink,
    "block_added": BlockAdded,
    "channel_state_changed": ChannelStateChanged,
    "forward_event": ForwardEvent,
    "invoice_payment": InvoicePayment,
    "onionmessage_forward_fail": OnionMessageLost,
}


def heard(topic: str, params: Json) -> Any:
    """Return a notification as its type. Raises NodeUnreachable, naming what is wrong with it."""
    return read(KINDS[topic], params.get(topic), topic)
