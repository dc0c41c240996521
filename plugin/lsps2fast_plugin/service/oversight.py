"""Look with every block at offers that would be sold at a loss now, and at channels that will not be paid for any more.

Nothing here is urgent, and nothing of it is binding: a client's offer stays what it is (whether its channel is
opened is judged then), and an unpaid channel may be closed at any time (A-07), if the operator's rules say so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from lsps2fast.errors import NodeError
from lsps2fast.lsps.buys import Buy
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import Caller, PeerChannel
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.stakes import HOUR_MS, Stake

log = logging.getLogger(__name__)

UNILATERAL_S: Final = 600  # so long the client is asked to agree
CLOSE_TIMEOUT_S: Final = 60.0  # for lightningd's answer; a close that goes on behind it is found in its state
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 600_000, 24 * HOUR_MS


class AtALoss(NamedTuple):
    """Open offers whose channel would cost more than their fee brings at this feerate."""

    offers: int = 0
    msat: int = 0


class OpenOffers(Protocol):
    """What was sold: `SessionDriver`."""

    def unused(self) -> Iterable[Buy]:
        """Return the offers that have no channel yet."""

    def is_live(self, jit_scid: int) -> bool:
        """Return whether its channel can still be paid for."""


class Node(Protocol):
    """What our node knows: `NodeLiquidity`."""

    async def refresh(self) -> list[PeerChannel]:
        """Return all channels. Raises NodeError."""

    async def opening_perkw(self) -> int:
        """Return the feerate of funding transactions. Raises NodeError."""


class Oversight:
    """Looks after offers and unpaid channels."""

    def __init__(
        self,
        *,
        policy: Policy,
        capital: CapitalAtRisk,
        clock: Clock,
        rpc: Caller,
        offers: OpenOffers,
        node: Node,
    ) -> None:
        self._policy = policy
        self._capital = capital
        self._clock = clock
        self._rpc = rpc
        self._offers = offers
        self._node = node
        self._warned_at = 1  # as many offers at a loss are told next
        self._pauses: dict[str, tuple[int, int]] = {}  # by channel id: when to try again, and the pause after that
        self.at_a_loss = AtALoss()

    async def block(self) -> None:
        """Look at everything once; what lightningd does not answer is looked at with the next block."""
        try:
            await self._look_at_offers()
            await self._close_overdue()
        except NodeError as error:
            log.warning(f"offers and unpaid channels could not be looked at: {error}")

    async def _look_at_offers(self) -> None:
        offers = list(self._offers.unused())
        if not offers:
            self.at_a_loss, self._warned_at = AtALoss(), 1
            return
        feerate_perkw, floor = await self._node.opening_perkw(), self._policy.rules.floor
        losses = [loss for buy in offers if (loss := floor.loss_msat(feerate_perkw, least_fee_msat(buy)))]
        self.at_a_loss = AtALoss(len(losses), sum(losses))
        if self.at_a_loss.offers >= self._warned_at:
            self._warned_at = 2 * self.at_a_loss.offers
            log.warning(
                f"{self.at_a_loss.offers} open offers would be sold at a loss of {self.at_a_loss.msat // 1000} sat at"
                f" {feerate_perkw} sat per 1000 weight; a shorter validity_s makes such offers end sooner"
            )
        elif not self.at_a_loss.offers:
            self._warned_at = 1

    async def _close_overdue(self) -> None:
        hours, wall_ms = self._policy.rules.trust.close_unpaid_hours, self._clock.wall_ms()
        overdue = [stake for stake in self._capital.overdue() if hours and self._is_overdue(stake, hours, wall_ms)]
        if not overdue:
            return
        rows = {channel.channel_id: channel for channel in await self._node.refresh()}
        for stake in overdue:
            row = rows.get(stake.channel_id or "")
            if row is not None and row.is_normal and row.is_confirmed and not row.htlcs:
                await self._close(stake, row.channel_id)

    def _is_overdue(self, stake: Stake, hours: int, wall_ms: int) -> bool:
        """Return whether its offer is over and its last payment long enough ago."""
        last_ms = max(stake.ended_ms or 0, stake.since_ms)
        return not self._offers.is_live(stake.jit_scid) and wall_ms - last_ms >= hours * HOUR_MS

    async def _close(self, stake: Stake, channel_id: str) -> None:
        now_ms = self._clock.now_ms()
        due_ms, pause_ms = self._pauses.get(channel_id, (now_ms, FIRST_PAUSE_MS))
        if now_ms < due_ms:
            return
        self._pauses[channel_id] = now_ms + pause_ms, min(2 * pause_ms, LONGEST_PAUSE_MS)
        log.info(f"closing channel {channel_id} to {stake.peer_id}: it was not paid for")
        try:
            await self._rpc.call("close", {"id": channel_id, "unilateraltimeout": UNILATERAL_S}, CLOSE_TIMEOUT_S)
        except NodeError as error:
            log.warning(f"channel {channel_id}, which was not paid for, could not be closed yet: {error}")


def least_fee_msat(buy: Buy) -> int:
    """Return the smallest opening fee that this offer can bring."""
    size_msat = buy.params.min_payment_size_msat if buy.payment_size_msat is None else buy.payment_size_msat
    return buy.params.fee_msat(size_msat) or 0
