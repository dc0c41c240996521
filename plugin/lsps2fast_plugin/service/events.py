"""Hears of every change of a session and of every order, and tells those who keep books about it.

Lightningd's subscribers get a notification, the trust ledger its facts, the offers and tokens what is used and what is
not. Answers in return what a negotiation must know of the payments under way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from lsps2fast._sessions import Sessions
from lsps2fast.actions import (
    ABANDONED,
    FAILED,
    FAILURE_NAMES,
    UNDERPAID,
    Action,
    Broadcast,
    Channel,
    FailParts,
    Finalize,
    ForgetBuy,
)
from lsps2fast.errors import StoreError
from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import Input, State
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.policy.budgets import No
from lsps2fast_plugin.service.sales_ledger.evidence import LSP, Blame
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger

log = logging.getLogger(__name__)

TOPIC: Final = "lsps2_session"  # our notification: a session has changed its state
ENDS: Final = (State.SUCCEEDED, State.FAILED, State.ABANDONED, State.UNDERPAID)
PAID_OVER_EXISTING: Final = (State.SUCCEEDED, State.UNDERPAID)
ATTEMPTS: Final = {State.FAILED: FAILED, State.ABANDONED: ABANDONED, State.UNDERPAID: UNDERPAID}  # by their last state


class SessionEvents:
    """The hub between the sessions and what follows them."""

    def __init__(
        self,
        *,
        host: Host,
        sessions: Sessions,
        offers: BuyRegistry,
        exposure: CapitalAtRisk,
        afterwards: ChannelLeaseGuard,
        attempt_ended: Callable[[int, bytes, str], Awaitable[None]],
        sales: SalesLedger,
        touched: Callable[[str], None] | None = None,
    ) -> None:
        """`touched(peer_id)`: what this client has may have changed.

        `attempt_ended(jit_scid, payment_hash, outcome)` leaves word of a payment whose buy lives on.
        """
        self._host = host
        self._sessions = sessions
        self._offers = offers
        self._exposure = exposure
        self._afterwards = afterwards
        self._attempt_ended = attempt_ended
        self._sales = sales
        self._touched = touched or (lambda _: None)
        self._opening: set[int] = set()  # jit scids for whose channel coins are being chosen
        self.failed_parts = dict.fromkeys((*FAILURE_NAMES.values(), "other"), 0)  # by what the payer was told
        self.ends = dict.fromkeys((*(state.name for state in ENDS), "REUSED"), 0)  # of payments, since the start

    def take(self, actions: Iterable[Action]) -> None:
        """Take note that sessions may have changed, and of the orders that are about to be carried out."""
        changes, actions = self._sessions.take_changes(), tuple(actions)
        self._sales.take(changes, actions)
        over = {action.jit_scid for action in actions if isinstance(action, (Finalize, ForgetBuy))}
        for jit_scid, payment_hash, old, new, fee_msat, came_msat, over_existing in changes:
            before = None if old is None else State(old)
            self._changed(jit_scid, payment_hash, before, State(new), fee_msat, came_msat, over_existing)
            if new in ATTEMPTS and jit_scid not in over and not (over_existing and new in PAID_OVER_EXISTING):
                self._host.spawn(self._tell_attempt(jit_scid, payment_hash, ATTEMPTS[State(new)]))
        for action in actions:
            match action:
                case FailParts():
                    self.failed_parts[FAILURE_NAMES.get(action.failure[:4], "other")] += len(action.parts)
                case Broadcast():
                    self._funding_ordered(action)
                case ForgetBuy():
                    if (buy := self._offers.get(action.jit_scid)) is not None:
                        self._touched(buy.peer_id)
                    self._exposure.buy_ended(action.jit_scid)

    def _changed(
        self,
        jit_scid: int,
        payment_hash: bytes,
        old: State | None,
        new: State,
        fee_msat: int,
        came_msat: int,
        over_existing: bool,
    ) -> None:
        """Tell that a session has gone from `old` to `new`, with its opening fee and what came of that so far.

        `over_existing`: over a channel that the client had, which this buy has not brought.
        """
        change = {
            "jit_channel_scid": format_scid(jit_scid),
            "payment_hash": payment_hash.hex(),
            "old_state": None if old is None else old.name,
            "new_state": new.name,
            "opening_fee_msat": fee_msat,
            "fee_paid_msat": came_msat,
            "fee_owed_msat": max(fee_msat - came_msat, 0),
        }
        self._host.send(TOPIC, {TOPIC: change})
        (self._opening.add if new == State.OPENING else self._opening.discard)(jit_scid)
        if over_existing and new in PAID_OVER_EXISTING:
            self.ends["REUSED"] += 1
        elif new.name in self.ends:
            self.ends[new.name] += 1
        buy, core = self._offers.get(jit_scid), self._sessions.buys.get(jit_scid)
        if buy is None:
            return
        self._touched(buy.peer_id)
        if over_existing:
            self._exposure.over_existing(buy, payment_hash, new)
            return
        whole = new == State.UNDERPAID and core is not None and core.took_whole
        self._exposure.session_changed(buy, payment_hash, old, new, whole)
        if (new == State.SUCCEEDED or whole) and core is not None and core.channel is not None:
            self._afterwards.owe(core.channel.channel_id, buy)

    async def _tell_attempt(self, jit_scid: int, payment_hash: bytes, outcome: str) -> None:
        """Leave the record that lightningd's built-in plugin would leave; no money depends on it."""
        try:
            await self._attempt_ended(jit_scid, payment_hash, outcome)
        except StoreError as error:
            log.warning(f"the failed payment of {format_scid(jit_scid)} is in no record: {error}")

    def failing(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        """Publish a fact right before a session learns it."""
        self._sales.failed(jit_scid, payment_hash, kind, fact)

    def because(self, jit_scid: int, payment_hash: bytes, blame: Blame) -> None:
        """Publish that a payment is about to fail for this reason."""
        self._sales.blame(jit_scid, payment_hash, blame)

    def not_opened(self, jit_scid: int, no: No) -> None:
        """Record why no channel is opened for the payment under way on this scid."""
        self._sales.blame_holder(jit_scid, Blame(LSP, no.reason.value, no.why))

    def funding_sent(self, channel: Channel) -> None:
        """Take note that bitcoind has this funding."""
        self._sales.funding_sent(channel)

    def money_back(self, channel_id: str) -> None:
        """Nothing of ours is in this channel any more."""
        self._sales.channel_back(channel_id)

    def _funding_ordered(self, action: Broadcast) -> None:
        """No way back: the buy has its channel."""
        self._offers.mark_used(action.jit_scid)
        buy = self._offers.get(action.jit_scid)
        if buy is not None:
            self._exposure.sent(buy, action.channel.channel_id)

    # What a negotiation asks -----------------------------------------------------------------------

    def is_online(self, peer_id: str) -> bool:
        """Return whether this client is connected."""
        online: bool = self._sessions.is_online(peer_id)
        return online

    def committed_sat(self) -> int:
        """Return what payments that open a channel now will still reserve of the wallet."""
        total = 0
        for jit_scid in tuple(self._opening):
            buy, core = self._offers.get(jit_scid), self._sessions.buys.get(jit_scid)
            if buy is None or core is None or core.holder is None or core.holder.funding is not None:
                self._opening.discard(jit_scid)  # its coins are chosen
            else:
                total += max(buy.capacity_sat, -(-core.holder.sum_msat // 1000))
        return total
