"""Channels that are put on chain before they are paid for: how many sats may lie there, and what became of each.

The rules are `policy`'s, the memory of peers is its `TrustLedger`; here is what live sessions tell it, and what of that
is journalled. A channel under way stands in its own session's record, so an honest peer costs no commit here; only
what must outlive the session is written: debts and probes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from lsps2fast.errors import StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import State
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.tokens import Record
from lsps2fast_plugin.service.policy.trust import ROOT
from lsps2fast_plugin.service.session_store import StoredSession

log = logging.getLogger(__name__)

WITH_THE_CLIENT = State.AWAITING_SETTLEMENT
NOT_PAID = (State.ABORTING, State.FAILED, State.ABANDONED)
OVER = (State.FAILED, State.ABANDONED)


class CapitalAtRisk:
    """Feeds the trust ledger; answers whether one more channel may be put on chain."""

    def __init__(
        self,
        policy: Policy,
        notebook: DatastoreRecords,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
    ) -> None:
        self._policy = policy
        self._ledger = policy.ledger
        self._notebook = notebook
        self._clock = clock
        self._spawn = spawn
        self._opening: dict[int, int] = {}  # jit scid: msat about to be put on chain
        self._channels: dict[str, tuple[str, int]] = {}  # channel id: peer and jit scid of what is open and unpaid
        self._written: set[tuple[str, ...]] = set()

    # Questions ------------------------------------------------------------------------------------

    def at_risk_msat(self) -> int:
        """Capital that is on chain unpaid, or about to be."""
        return self._ledger.at_risk_msat() + sum(self._opening.values())

    def may_open(self, buy: Buy) -> bool:
        """Whether the channel of this buy may be opened now; if so its capital counts from here on."""
        if buy.client_trusts_lsp:
            return True
        amount_msat = buy.capacity_sat * 1000
        others_msat = self.at_risk_msat() - self._opening.get(buy.jit_scid, 0)
        if not self._policy.may_open(False, amount_msat, others_msat):
            log.warning(f"no channel for {buy.peer_id} now: capital_budget_sat is used up")
            return False
        self._opening[buy.jit_scid] = amount_msat
        return True

    # Facts ----------------------------------------------------------------------------------------

    def sent(self, buy: Buy, channel_id: str) -> None:
        """The funding is ordered on chain; may be repeated."""
        amount_msat = self._opening.pop(buy.jit_scid, buy.capacity_sat * 1000)
        if not buy.client_trusts_lsp:
            self._channels[channel_id] = (buy.peer_id, buy.jit_scid)
            self._ledger.opened(buy.peer_id, buy.jit_scid, amount_msat, self._clock.wall_ms())
            self.save()

    def session_changed(self, buy: Buy, old: State | None, new: State) -> None:
        """A payment on this buy has changed its state."""
        wall_ms = self._clock.wall_ms()
        if old == WITH_THE_CLIENT and new in NOT_PAID:
            self._ledger.probed(buy.peer_id, wall_ms)  # C-26
        if new == State.SUCCEEDED:
            self._ledger.paid(buy.peer_id, buy.jit_scid, wall_ms)
            paid = (buy.peer_id, buy.jit_scid)
            self._channels = {channel_id: who for channel_id, who in self._channels.items() if who != paid}
        elif new in OVER and old != State.COLLECTING:
            self._opening.pop(buy.jit_scid, None)
            self._ledger.let_go(buy.peer_id, buy.jit_scid, wall_ms)  # only if it was put on chain
        self.save()

    def channel_closed(self, channel_id: str) -> None:
        """This channel is gone or on its way: its capital comes back."""
        exposed = self._channels.pop(channel_id, None)
        if exposed is not None:
            self._ledger.closed(*exposed, self._clock.wall_ms())
            self.save()

    # Journal --------------------------------------------------------------------------------------

    async def load(self) -> None:
        """What peers did before the start. Or StoreError."""
        records = await self._notebook.read(ROOT)
        self._written.update(key for key, _ in records)
        for complaint in self._ledger.load(records):
            log.error(complaint)

    def reconcile(self, stored: Iterable[StoredSession], open_channels: Collection[str]) -> None:
        """After `load`: which exposures still stand. `open_channels` are the ids that lightningd lists now."""
        ids = {
            record.buy.jit_scid: record.journal.channel.channel_id
            for record in stored
            if record.journal.channel is not None
        }
        for peer_id, jit_scid in self._ledger.exposures():
            channel_id = ids.get(jit_scid)
            if channel_id in open_channels and channel_id is not None:
                self._channels[channel_id] = (peer_id, jit_scid)
            else:
                self._ledger.closed(peer_id, jit_scid, self._clock.wall_ms())
        self.save()

    def save(self) -> None:
        """Write what has changed and must outlive its session, in the background."""
        for record in self._ledger.changes():
            if _is_worth_keeping(record):
                self._written.add(record.key)
                self._spawn(self._write(record))
            elif record.key in self._written:
                self._written.discard(record.key)
                self._spawn(self._write(Record(record.key, None)))

    async def _write(self, record: Record) -> None:
        try:
            await self._notebook.write(record.key, lambda: record.value)
        except StoreError as error:  # the next change, or the next look at the clock, writes it
            self._written.add(record.key)
            self._ledger.unsaved([record])
            log.warning(f"what {record.key[-1]} did could not be journalled, will be tried again: {error}")


def _is_worth_keeping(record: Record) -> bool:
    """False for a peer of whom only live sessions tell."""
    value = record.value
    if value is None:
        return False
    return value["unpaid"][0] > 0 or value["probes"][0] > 0 or any(defaulted for *_, defaulted in value["open"])
