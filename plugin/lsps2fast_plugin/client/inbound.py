"""Whether a payment needs a new channel at all, asked before one is bought."""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast import _tlv as tlv
from lsps2fast import bolt11
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.cln.models import PeerChannel

MOST_HINTS: Final = 3


class Inbound(NamedTuple):
    """What the channels there are can receive: together, in one part, and the hints that lead to them."""

    receivable_msat: int
    single_msat: int = 0
    hints: tuple[bolt11.Hint, ...] = ()

    def is_enough(self, payment_msat: int | None) -> bool:
        """Return whether a payment fits in; that of any amount never does for sure."""
        return payment_msat is not None and 0 < payment_msat <= self.receivable_msat


async def look(chain: Chain, watch: Watch, payment_msat: int | None) -> Inbound:
    """Return what can be received without a new channel. Raises NodeError, StoreError."""
    if payment_msat is None:
        return Inbound(0)
    ready = [row for row in await chain.rows() if row.is_ready]
    rows = [row for row in ready if await watch.unsafe(row.channel_id) is None]
    return inbound(rows, payment_msat)


def inbound(rows: list[PeerChannel], payment_msat: int) -> Inbound:
    """Return what these channels can receive; hints only to private ones, each large enough by itself."""
    wide = sorted((row for row in rows if _takes(row, payment_msat)), key=lambda row: -row.receivable_msat)
    hints = [hint for row in wide if row.private and (hint := _hint(row)) is not None]
    return Inbound(
        sum(row.receivable_msat for row in rows),
        max((row.receivable_msat for row in wide), default=0),
        tuple(hints[:MOST_HINTS]),
    )


def _takes(row: PeerChannel, payment_msat: int) -> bool:
    policy = row.updates.remote
    if policy is not None and not policy.htlc_minimum_msat <= payment_msat <= policy.htlc_maximum_msat:
        return False
    return payment_msat <= row.receivable_msat


def _hint(row: PeerChannel) -> bolt11.Hint | None:
    """Return how a payer reaches us through a private channel; None before its peer has said on which terms."""
    policy, name = row.updates.remote, row.alias.remote or row.short_channel_id
    if policy is None or name is None:
        return None
    return bolt11.Hint(
        bytes.fromhex(row.peer_id),
        tlv.scid_from_str(name),
        policy.fee_base_msat,
        policy.fee_proportional_millionths,
        policy.cltv_expiry_delta,
    )
