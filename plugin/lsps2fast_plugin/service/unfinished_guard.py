"""Keeps commands of the operator from breaking a sale under way: closes and splices of a channel that is not confirmed.

A channel that was ordered waits with its payment for its funding. A JIT channel is used before its funding is in a
block, and while that is withheld lightningd would not even send it. `close` then takes the channel from under a
payment, and a splice makes lightningd close it by force (cln:N3); `fundchannel_cancel` without an open under way takes
it, no matter who made it (cln:N1), also at the end of a `fundchannel` that failed. So lightningd asks before it carries
them out (hook `rpc_command`), and what can wait is refused with the reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.models import Caller, PeerChannel, open_attempts, peer_channels
from lsps2fast_plugin.service.leases import FORCE, PATIENCE_S, asked_to_close, names_of
from lsps2fast_plugin.service.opening import AWAITING_LOCKIN

log = logging.getLogger(__name__)

SPLICES: Final = ("splicein", "spliceout", "splice_init", "dev-splice", "stfu_channels")
CANCEL: Final = "fundchannel_cancel"
GUARDED: Final = ("close", CANCEL, *SPLICES)
HARM: Final = {
    "close": f"to close it all the same add {FORCE}=true",
    CANCEL: "no other open is under way with its peer, so this channel would go",
}
OWN_CALLS: Final = "lsps2fast:"  # how the ids of this plugin's calls begin: it closes what it gives up
SHORT: Final = re.compile(r"[0-9a-f]{4,}")  # the first digits of an id, as that language takes them
WILDCARD: Final = "*"  # of the language of splices: every channel


class Sales(Protocol):
    """What is sold."""

    def sold(self) -> Mapping[str, str]:
        """Return every channel that may be unconfirmed, with what it was sold as."""

    def opening(self) -> Mapping[str, str]:
        """Return every client to whom one is being opened, whose id is not known yet, with what it was sold as."""


class UnfinishedChannelGuard:
    """Answers lightningd for channels whose funding is not confirmed."""

    def __init__(self, *, rpc: Caller, sales: Sales, guard: str) -> None:
        """`guard`: refuse, warn or off."""
        self._rpc = rpc
        self._sales = [sales]
        self._guard = guard
        self.refused = 0

    def guards(self, sales: Sales) -> None:
        """Guard these channels, too."""
        self._sales.append(sales)

    async def judge(self, rpc_command: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the refusal of a command that would break a sale; None lets it go on."""
        sold = {channel_id: name for sales in self._sales for channel_id, name in sales.sold().items()}
        opening = {peer_id: name for sales in self._sales for peer_id, name in sales.opening().items()}
        if self._guard == "off" or not (sold or opening) or str(rpc_command.get("id")).strip('"').startswith(OWN_CALLS):
            return None
        method, params = str(rpc_command["method"]), rpc_command.get("params")
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._rpc.call("listpeerchannels", {})
            channels, attempts = peer_channels(answer), open_attempts(answer)
        except (NodeError, TimeoutError) as error:
            log.warning(f"{method}: the node does not list its channels ({error}); let through")
            return None
        if method == CANCEL and any(attempt.peer_id == asked_to_close(params)[0] for attempt in attempts):
            return None  # it ends that open
        for channel in channels:
            name = sold.get(channel.channel_id)
            if name is None and channel.is_withheld and channel.is_ours:  # lightningd made it this moment
                name = opening.get(channel.peer_id)
            if name is not None and not channel.is_confirmed and _means(method, params, channel):
                return self._refuse(method, params, channel, name)
        return None

    def _refuse(self, method: str, params: Any, channel: PeerChannel, name: str) -> dict[str, Any] | None:
        how_far = "its funding is not sent yet" if channel.is_withheld else "its funding is in no block yet"
        text = f"channel {channel.channel_id} was sold as {name} and {how_far}"
        forced = method == "close" and asked_to_close(params)[1]
        if forced or self._guard == "warn":
            log.warning(f"{method} breaks a sale: {text}")
            return None
        self.refused += 1
        log.info(f"{method} refused: {text}")
        harm = HARM.get(method, "a splice would force-close it")
        return {"return": {"error": {"code": -1, "message": f"{text}; try again after the next blocks ({harm})"}}}


def _means(method: str, params: Any, channel: PeerChannel) -> bool:
    """Return whether this command names the channel. A splice may name several, in a script of its own, shortened."""
    if method == CANCEL:
        return channel.peer_id == asked_to_close(params)[0] and channel.state in AWAITING_LOCKIN
    if method == "close":
        return asked_to_close(params)[0] in names_of(channel)
    text = json.dumps(params).lower()
    names = names_of(channel)
    if WILDCARD in text or any(name in text for name in names):
        return True
    return method == "dev-splice" and any(name.startswith(short) for short in SHORT.findall(text) for name in names)
