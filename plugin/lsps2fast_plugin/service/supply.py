"""Gather the facts on which menus, quotes and buys are judged, so that all of them ask the same (people:L8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from lsps2fast_plugin.service.forward_limits import ForwardLimits
from lsps2fast_plugin.service.liquidity import Liquidity
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.preflight import Facts, Payable
from lsps2fast_plugin.service.sales_policy import Desk


class Node(Protocol):
    """The questions a negotiation asks of the node."""

    async def purse(self) -> Liquidity:
        """Return what can come in and what can be spent at this moment, or NodeError."""

    async def recent(self) -> Liquidity:
        """Return the same, a few seconds old at most and nothing of ours missed. Raises NodeError."""


class Live(Protocol):
    """What a negotiation must know of what is under way."""

    def is_online(self, peer_id: str) -> bool:
        """Return whether this client is connected."""

    def committed_sat(self) -> int:
        """Return what payments under way will still reserve of the wallet."""


class NodeTerms(NamedTuple):
    """What the node imposes on every buy."""

    cltv_expiry_delta_blocks: int
    floor_msat: int = 1  # H-03: the expectation before there is a channel


class Supply:
    """What this node could provide."""

    def __init__(
        self,
        node: Node,
        live: Live,
        desk: Desk,
        max_parts: int,
        overpay_ppm: int,
        payable: Callable[[], Payable] | None = None,
    ) -> None:
        """`payable()`: the largest payment that could be held and forwarded."""
        self._node = node
        self._live = live
        self._desk = desk
        self._max_parts = max_parts
        self._overpay_ppm = overpay_ppm
        self._payable = payable

    async def facts(self, peer_id: str, *, fresh: bool) -> Facts:
        """Return the facts for one client, asked anew if `fresh`: for a sale. Raises NodeError."""
        purse = await (self._node.purse() if fresh else self._node.recent())
        rules = self._desk.policy.rules
        facts = Facts(
            connected=self._live.is_online(peer_id),
            incoming_liquidity_msat=purse.incoming_liquidity_msat,
            confirmed_sat=purse.confirmed_sat,
            committed_sat=self._live.committed_sat(),
            keep_onchain_sat=rules.capacity.keep_onchain_sat,
            feerate_perkw=purse.feerates.opening_perkw,
            commitment_perkw=purse.feerates.commitment_perkw,
            anchors_perkw=purse.feerates.anchors_perkw,
            open_vbytes=rules.floor.open_vbytes,
            zero_reserve=self._desk.zero_reserve(peer_id),
            max_parts=self._max_parts,
            overpay_ppm=self._overpay_ppm,
        )
        return facts if self._payable is None else facts._replace(payable=self._payable())


def largest_payable(settings: Settings, forward_limits: ForwardLimits) -> Payable:
    """Return the largest payment that may be held for one client, and that lightningd would forward."""
    held_msat = min(settings.held_msat_per_peer, settings.gate.held_sat * 1000)
    most_msat = forward_limits.most_payment_msat(settings.max_parts)
    return Payable(most_msat, Refusal.HTLC_MAXIMUM) if most_msat < held_msat else Payable(held_msat, Refusal.HELD_SATS)
