"""What we put into channels that are not paid for: whether one more may be opened now, and what became of each.

The rules are `policy.budgets`, the memory of peers is `policy.trust`; here is what live sessions and the node tell
them, and what of that is journalled. A channel under way stands in its own session's record, so an honest peer costs no
commit here; only what must outlive the session is written: unpaid channels, doubts, mining fees that were burnt.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Protocol

from lsps2fast.actions import Channel, Funding, SessionRecord
from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.buys import Buy, TokenBucket
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import State
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.cln.notifications import ForwardEvent
from lsps2fast_plugin.cln.psbt import fee_sat
from lsps2fast_plugin.service.channel_changes import Watch
from lsps2fast_plugin.service.policy.budgets import No, Opening
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import Floor
from lsps2fast_plugin.service.policy.stakes import Fault, Stake
from lsps2fast_plugin.service.policy.tokens import Record
from lsps2fast_plugin.service.policy.trust import ROOT
from lsps2fast_plugin.service.session_record import StoredSession

log = logging.getLogger(__name__)

WITH_THE_CLIENT: Final = State.AWAITING_SETTLEMENT
NOT_PAID: Final = (State.ABORTING, State.FAILED, State.ABANDONED)
OVER: Final = (State.FAILED, State.ABANDONED, State.UNDERPAID)
SPENT: Final = ("FUNDING_SPEND_SEEN", "ONCHAIN")
BACK: Final = (*SPENT, "CLOSED")  # a block has the close, or nothing was ever on chain
TURN_MS: Final = 30_000  # so long one more waits for those
ANY: Final = ""  # key of `Watch`: those who wait are few, and each looks again at any change
BURNT: Final = ("lsps", "lsps2", "selling", "burnt")
SMALLEST_VBYTES: Final = 111  # of a funding: one input, one output
TAKING_BACK: Final = 2  # so many times its miners' part a funding that is taken back costs
SMALLEST_SHARE_VBYTES: Final = 43  # of a funding of many channels: its own output


class Sales(Protocol):
    """The payments under way: `SessionDriver`."""

    def fee_msat(self, jit_scid: int) -> int:
        """Return the opening fee that the one on this scid brings."""

    def unpaid_changed(self, channel_id: str, peer_id: str) -> None:
        """Take note that `CapitalAtRisk.is_unpaid` has another answer for this channel."""

    def not_opened(self, jit_scid: int, no: No) -> None:
        """Take note that no channel is opened for the one on this scid."""


class CapitalAtRisk:
    """Feeds the ledger; answers whether one more channel may be opened."""

    def __init__(
        self,
        policy: Policy,
        notebook: DatastoreRecords,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        *,
        feerate_perkw: Callable[[], Awaitable[int]],
        last_perkw: Callable[[], int | None] = lambda: None,
        free_sat: Callable[[], int | None],
        sessions: Sales,
    ) -> None:
        """`feerate_perkw()` is that of funding transactions, `last_perkw()` the one that coins were just chosen for,
        `free_sat()` our free coins at the last look.
        """
        self._policy = policy
        self._budgets = policy.budgets
        self._ledger = policy.ledger
        self._stakes = policy.ledger.stakes
        self._notebook = notebook
        self._clock = clock
        self._spawn = spawn
        self._feerate_perkw = feerate_perkw
        self._last_perkw = last_perkw
        self._free_sat = free_sat
        self._sessions = sessions
        self._turns: dict[str, set[int]] = {}  # jit scids by client: opening on trust, their coins not chosen yet
        self._doubted: set[tuple[int, bytes]] = (
            set()
        )  # payments, by jit scid and hash, of which a part failed behind us
        self._faults: dict[int, Fault] = {}  # by jit scid: of the payment that is being given up
        self._binding: dict[Refusal, int] = {}  # limits that refuse, and the room that was asked for last
        self._told = TokenBucket(1, 10)
        self._changed = Watch(clock)
        self._written: set[tuple[str, ...]] = set()
        self._unpriced: list[Stake] = []  # gone before it was known what their mining cost

    # Questions ------------------------------------------------------------------------------------

    def at_risk_msat(self) -> int:
        """Return what lies in channels that are not paid for, in both trust modes."""
        return self._stakes.msat(on_trust=True) + self._stakes.msat(on_trust=False)

    def oldest_withheld_ms(self) -> int | None:
        """Return since when the oldest channel that is withheld has its coins reserved."""
        return min((stake.since_ms for stake in self._stakes if not stake.sent), default=None)

    async def turn(self, buy: Buy) -> bool:
        """Return whether a channel for this buy may be thought of now (rule:19): before coins are chosen.

        On trust a client has few unpaid channels at once: one more waits until the payments under way have come to an
        end, and is judged by what is known then.
        """
        if buy.client_trusts_lsp:
            return True
        deadline_ms = self._clock.now_ms() + TURN_MS
        while True:
            self._changed.look(ANY)
            no = self._budgets.why_not_on_trust(buy.peer_id, self._clock.wall_ms())
            turns = self._turns.get(buy.peer_id, set()) - {buy.jit_scid}
            under_way = len(turns) + self._ledger.under_way(buy.peer_id, but=buy.jit_scid)
            if no is None and self._budgets.has_turn(buy.peer_id, under_way, self._clock.wall_ms()):
                break
            left_ms = deadline_ms - self._clock.now_ms()
            if no is None and left_ms <= 0:
                no = No(Refusal.PEER_UNPAID, f"{under_way} channels of {buy.peer_id} wait for their first payment")
            if no is not None:
                self._refuse(buy, no)
                return False
            await self._changed.wait(ANY, left_ms / 1000)
        self._turns.setdefault(buy.peer_id, set()).add(buy.jit_scid)
        return True

    def free_sat(self) -> int:
        """Return what was free at the last look."""
        return self._free_sat() or 0

    async def may_open(self, buy: Buy, funding: Funding, free_sat: int | None = None) -> bool:
        """Return whether this very channel may be opened now; if so it counts from here on (rule:18).

        It takes the place of another that was thought of for the same payment: other coins, another type.
        `free_sat`: what is free, and what was chosen for it and counts for no other; by default as of the last look.
        """
        try:
            feerate_perkw = self._last_perkw() or await self._feerate_perkw()
        except NodeError as error:
            log.warning(f"no channel for {buy.peer_id} now: lightningd knows no feerate ({error})")
            self._leave_turn(buy)
            return False
        self._price(feerate_perkw)
        free_sat = self.free_sat() if free_sat is None else free_sat
        wall_ms, on_trust = self._clock.wall_ms(), not buy.client_trusts_lsp
        fee_msat = self._sessions.fee_msat(buy.jit_scid)
        before = self._stakes.now(buy.jit_scid)
        if before is not None and not before.sent:
            self._stakes.take(before)
        opening = Opening(buy.peer_id, on_trust, funding.capacity_sat, fee_msat, feerate_perkw, free_sat)
        no = self._budgets.why_not_open(opening, wall_ms)
        if no is None:
            mining_msat = self._policy.rules.floor.mining_msat(feerate_perkw)
            amount_msat = funding.capacity_sat * 1000
            self._ledger.reserved(buy.peer_id, buy.jit_scid, amount_msat, on_trust, mining_msat, wall_ms)
        else:
            self._refuse(buy, no)
        self._leave_turn(buy)
        return no is None

    def may_open_order(self, key: int, peer_id: str, funding: Funding, fee_msat: int) -> No | None:
        """Return why a channel that was ordered, and whose payment is held, may not be opened now (rule:18, rule:19).

        None: it may, and counts from here on among those that are withheld, until `order_over`.
        """
        feerate_perkw = self._last_perkw() or 0  # of the coins that were just chosen
        free_sat, wall_ms = self._free_sat() or 0, self._clock.wall_ms()
        self.order_over(key)
        if not self._policy.is_served(peer_id):
            return No(Refusal.PEER_DENIED, "this client is not served any more")
        opening = Opening(peer_id, False, funding.capacity_sat, fee_msat, feerate_perkw, free_sat)
        no = self._budgets.why_not_open(opening, wall_ms)
        if no is None:
            self._order_under_way(key, peer_id, funding, feerate_perkw)
        else:
            self._policy.refusals.count(no.reason)
        return no

    async def order_found(self, key: int, peer_id: str, funding: Funding) -> None:
        """Count the channel of an order of an earlier run, at what a funding costs now. Raises NodeError."""
        self._order_under_way(key, peer_id, funding, self._last_perkw() or await self._feerate_perkw())

    def _order_under_way(self, key: int, peer_id: str, funding: Funding, feerate_perkw: int) -> None:
        mining_msat = self._policy.rules.floor.mining_msat(feerate_perkw)
        amount_msat = funding.capacity_sat * 1000
        self._ledger.reserved(peer_id, key, amount_msat, False, mining_msat, self._clock.wall_ms())

    def order_over(self, key: int, *, given_away: str | None = None) -> None:
        """Count it no longer: it is paid for, or nothing was put into it. `given_away`: a channel that never was."""
        stake = self._stakes.now(key)
        if stake is None:
            return
        self._stakes.take(stake)
        if given_away is not None:
            self._stakes.burnt.add(given_away, stake.since_ms, stake.mining_msat, self._clock.wall_ms())
            self.save()

    def too_large(self, buy: Buy, why: str) -> None:
        """Take note that the payment needs a channel that no rule allows (rule:18)."""
        self._refuse(buy, No(Refusal.CHANNEL_TOO_LARGE, why))

    def is_unpaid(self, channel_id: str) -> bool:
        """Return whether this channel is on chain, or on its way there, and not paid for (rule:21)."""
        stake = self._stakes.of_channel(channel_id)
        return stake is not None and stake.sent

    def _refuse(self, buy: Buy, no: No) -> None:
        self._policy.refusals.count(no.reason)
        self._sessions.not_opened(buy.jit_scid, no)
        if no.reason in self._limits() and no.reason not in self._binding:
            log.warning(f"{no.reason.value} binds from now on: {no.why}; lsps2-stats shows all limits")
        self._binding[no.reason] = no.needed_msat
        if self._told.take(self._clock.now_ms()):
            log.info(f"no channel for {format_scid(buy.jit_scid)} of {buy.peer_id} now: {no.why}")

    def _leave_turn(self, buy: Buy) -> None:
        turns = self._turns.get(buy.peer_id, set())
        turns.discard(buy.jit_scid)
        if not turns:
            self._turns.pop(buy.peer_id, None)
        self._changed.changed(ANY)

    # Facts ----------------------------------------------------------------------------------------

    def sent(self, buy: Buy, channel_id: str) -> None:
        """Count a funding that is ordered on chain; may be repeated."""
        self._ledger.sent(buy.peer_id, buy.jit_scid, channel_id, buy.capacity_sat * 1000, self._clock.wall_ms())
        self._sessions.unpaid_changed(channel_id, buy.peer_id)
        self.save()

    def mined(self, channel_id: str) -> None:
        """Take note that bitcoind has the funding."""
        if (stake := self._stakes.of_channel(channel_id)) is not None:
            stake.mined = True

    def taken_back(self, channel: Channel) -> None:
        """Take note that its funding was sent and taken back, for twice what it had paid the miners (rule:18).

        Nothing else was put in, and nothing is left to close. Its stake may be gone: with the channel.
        """
        cost_msat, wall_ms = TAKING_BACK * _opening_msat(channel), self._clock.wall_ms()
        stake = self._stakes.of_channel(channel.channel_id)
        if stake is None:
            self._stakes.burnt.add(channel.channel_id, wall_ms, cost_msat, wall_ms)
            self.save()
            return
        stake.mined = True
        if channel.mining_sat is not None:
            self._stakes.price(stake, cost_msat)

    def part_failed(self, jit_scid: int, payment_hash: bytes, event: ForwardEvent) -> None:
        """Count a forwarded part that came back failed, unless our own node refused it (rule:22).

        Why the client, or a node behind it, refused a part, no lightningd can read: `failure_reason` is given for what
        our own refused, and only there (cln:N9).
        """
        if event.status == "failed" and event.failure_reason is None:
            self._doubted.add((jit_scid, payment_hash))

    def session_changed(
        self, buy: Buy, payment_hash: bytes, old: State | None, new: State, took_whole: bool = False
    ) -> None:
        """Take note that a payment on this buy has changed its state.

        `took_whole`: what the client took of one that is underpaid was a whole payment, so that the parts which failed
        may be those of a stranger: promises and standing hold, and a doubt is booked (rule:22).
        """
        wall_ms = self._clock.wall_ms()
        if old == WITH_THE_CLIENT and new in NOT_PAID and (buy.jit_scid, payment_hash) in self._doubted:
            self._ledger.probed(buy.peer_id, buy.jit_scid, wall_ms)  # C-26
            self._faults[buy.jit_scid] = Fault.DOUBT
        if old == State.COLLECTING and new == State.AWAITING_CHANNEL_READY:
            self._ledger.again(buy.jit_scid)  # O-13: over the channel that is there
        if new == State.SUCCEEDED or (new == State.UNDERPAID and took_whole):
            stake = self._stakes.now(buy.jit_scid)
            self._ledger.paid(buy.peer_id, buy.jit_scid, wall_ms, whole_fee=new == State.SUCCEEDED)
            if stake is not None and stake.channel_id is not None:
                self._sessions.unpaid_changed(stake.channel_id, stake.peer_id)
        elif new == State.UNDERPAID:
            self._ledger.underpaid(buy.peer_id, buy.jit_scid, wall_ms)
        elif new in OVER and old != State.COLLECTING:
            self._ledger.let_go(buy.peer_id, buy.jit_scid, wall_ms, self._faults.pop(buy.jit_scid, Fault.NONE))
        if new == State.SUCCEEDED or new in OVER:
            self._doubted.discard((buy.jit_scid, payment_hash))
            self._leave_turn(buy)
        self.save()

    def over_existing(self, buy: Buy, payment_hash: bytes, new: State) -> None:
        """Take note that a payment over a channel which the client had has changed its state.

        Nothing of ours is at stake in it, so it speaks neither for the client nor against it.
        """
        if new == State.SUCCEEDED or new in OVER:
            self._doubted.discard((buy.jit_scid, payment_hash))

    def buy_ended(self, jit_scid: int) -> None:
        """Forget this jit scid; a channel that is not paid for stays a stake."""
        self._ledger.buy_ended(jit_scid)
        self._faults.pop(jit_scid, None)

    def channel_state(self, channel_id: str, state: str, cause: str) -> None:
        """Note that a channel is closing or gone. Its capital is back once a block has the close."""
        stake = self._stakes.of_channel(channel_id)
        if stake is None:
            return
        if state in BACK:
            if state in SPENT and not stake.closing:  # its commitment came out of the blue: not by our doing
                self._ledger.closing(channel_id, True, self._clock.wall_ms())
            self.money_back(channel_id)
            return
        self._ledger.closing(channel_id, cause == "remote", self._clock.wall_ms())
        self._changed.changed(ANY)
        self.save()

    def money_back(self, channel_id: str) -> None:
        """Note that a block has the close of this channel."""
        stake = self._stakes.of_channel(channel_id)
        if stake is not None:
            self._back(stake)
            self._sessions.unpaid_changed(channel_id, stake.peer_id)
            self._changed.changed(ANY)
            self.save()

    async def look(self) -> None:
        """Write what could not be written, see which limits have room again and what mining costs, every few s."""
        self.save()
        for reason, use in self._limits().items():
            if reason in self._binding and use.limit - use.used >= self._binding[reason]:
                del self._binding[reason]
                log.info(f"{reason.value} has room again")
        if self._unpriced or self._stakes.unpriced:
            try:
                self._price(await self._feerate_perkw())
            except NodeError:
                return

    def _price(self, feerate_perkw: int) -> None:
        """Count the mining of channels of an earlier run, which was under way with them or has lost them meanwhile."""
        mining_msat = self._policy.rules.floor.mining_msat(feerate_perkw)
        for stake in tuple(self._stakes.unpriced):
            self._stakes.price(stake, mining_msat)
        for stake in self._unpriced:
            self._stakes.burnt.add(stake.channel_id, stake.since_ms, mining_msat, self._clock.wall_ms())
        if self._unpriced:
            self._unpriced.clear()
            self.save()

    def _back(self, stake: Stake) -> None:
        """Coins of a stake are ours again. What mining cost may not be known yet after a start."""
        if stake.on_trust and stake.mined and not stake.mining_msat:
            self._unpriced.append(stake)
        self._ledger.back(stake, self._clock.wall_ms())

    # For the operator -----------------------------------------------------------------------------

    def _limits(self) -> Mapping[Refusal, Any]:
        return self._budgets.uses(self._free_sat() or 0, self._clock.wall_ms())

    def limits(self) -> dict[str, dict[str, Any]]:
        """Return each limit with what is used of it, in msat, and whether it refuses now."""
        return {
            reason.value: {"used_msat": use.used, "limit_msat": use.limit, "binds": reason in self._binding}
            for reason, use in self._limits().items()
        }

    def unpaid_channels(self) -> list[dict[str, Any]]:
        """Return every channel with money of ours in it that is not paid for, until the money is back."""
        return [_describe(stake) for stake in self._stakes if stake.sent]

    def overdue(self) -> list[Stake]:
        """Return channels on chain that no payment is under way for."""
        return [stake for stake in self._stakes if stake.sent and stake.over]

    def forgive(self, peer_id: str) -> dict[str, int]:
        """Hold nothing against this peer any more; what was held is told."""
        told = self._ledger.forgive(peer_id, self._clock.wall_ms())
        self._changed.changed(ANY)
        self.save()
        return told

    # SessionRecord --------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load what peers did before the start. Raises StoreError."""
        records = await self._notebook.read(ROOT)
        self._written.update(key for key, _ in records)
        for complaint in self._ledger.load(records):
            log.error(complaint)
        for _, value in await self._notebook.read(BURNT):
            try:
                self._stakes.burnt.read(value)
            except (KeyError, TypeError, ValueError) as error:
                log.error(f"journal record {list(BURNT)} cannot be read ({error}); counted from nothing")

    def reconcile(self, stored: Iterable[StoredSession], channels: Iterable[PeerChannel]) -> None:
        """After `load`: which stakes still stand. `channels` are what lightningd lists now."""
        standing = {channel.channel_id: channel for channel in channels if channel.state not in BACK}
        records = {record.buy.jit_scid: record for record in stored}
        for stake in [each for each in self._stakes if each.sent]:  # the others are of orders, whose records tell
            record = records.get(stake.jit_scid)
            if stake.channel_id is None and record is not None and record.journal.channel is not None:
                self._stakes.name(stake, record.journal.channel.channel_id)
            if stake.channel_id not in standing:
                self._back(stake)
            else:
                self._sessions.unpaid_changed(stake.channel_id, stake.peer_id)
        for record in records.values():
            channel = record.journal.channel
            row = None if channel is None else standing.get(channel.channel_id)
            if record.outcome is not None and not record.keeps_promises and row is not None:
                self.revive(record.buy, record.journal, row, public=not row.is_withheld)
        self.save()

    def revive(
        self, buy: Buy, journal: SessionRecord, row: PeerChannel | None, *, public: bool, under_way: bool = False
    ) -> None:
        """After a start: what the record of this buy says of coins; `row` is its channel as lightningd lists it.

        A record without the coins speaks of a channel that was left unpaid: lightningd alone knows how large it is.
        """
        if journal.funding is None and journal.channel is None:
            return
        if journal.funding is not None:
            capacity_sat = journal.funding.capacity_sat
        else:
            capacity_sat = buy.capacity_sat if row is None else row.total_msat // 1000
        wall_ms = self._clock.wall_ms()
        if journal.channel is not None and public:
            stake = self._stakes.of_channel(journal.channel.channel_id)
            if stake is None:
                arguments = (buy.peer_id, buy.jit_scid, journal.channel.channel_id, capacity_sat * 1000)
                stake = self._ledger.sent(*arguments, wall_ms)
            stake.mined = True
            if not stake.mining_msat:
                self._stakes.price(stake, _mining_msat(self._policy.rules.floor, journal.channel))
            if under_way:
                stake.ended_ms = None
            elif not stake.over:
                self._ledger.let_go(buy.peer_id, buy.jit_scid, wall_ms, Fault.NONE)
            self._sessions.unpaid_changed(journal.channel.channel_id, buy.peer_id)
        elif under_way:
            on_trust = not buy.client_trusts_lsp
            self._ledger.reserved(buy.peer_id, buy.jit_scid, capacity_sat * 1000, on_trust, 0, wall_ms)

    def save(self) -> None:
        """Write what has changed and must outlive its session, in the background."""
        for record in self._ledger.changes():
            if record.value is not None:
                self._written.add(record.key)
                self._spawn(self._write(record))
            elif record.key in self._written:
                self._written.discard(record.key)
                self._spawn(self._write(record))
        if self._stakes.burnt.changed:
            self._spawn(self._write_burnt())

    async def _write(self, record: Record) -> None:
        try:
            await self._notebook.write(record.key, lambda: record.value)
        except StoreError as error:  # the next change, or the next look at the clock, writes it
            self._written.add(record.key)
            self._ledger.unsaved([record])
            log.warning(f"what {record.key[-1]} did could not be journalled, will be tried again: {error}")

    async def _write_burnt(self) -> None:
        try:
            await self._notebook.write(BURNT, self._stakes.burnt.write)
        except StoreError as error:
            self._stakes.burnt.changed = True
            log.warning(f"burnt mining fees could not be journalled, will be tried again: {error}")


def _opening_msat(channel: Channel) -> int:
    """Return what opening this channel paid the miners; 0: its funding does not say."""
    if channel.mining_sat is not None:
        return channel.mining_sat * 1000
    try:
        return fee_sat(channel.signed_psbt) * 1000
    except ValueError:
        return 0


def _mining_msat(floor: Floor, channel: Channel) -> int:
    """Return what opening this channel cost, and closing costs at most at its feerate; 0: its funding does not say."""
    smallest_vbytes = SMALLEST_VBYTES if channel.mining_sat is None else SMALLEST_SHARE_VBYTES
    return _opening_msat(channel) * (smallest_vbytes + floor.close_vbytes) // smallest_vbytes


def _describe(stake: Stake) -> dict[str, Any]:
    return {
        "peer_id": stake.peer_id,
        "channel_id": stake.channel_id,
        "jit_channel_scid": format_scid(stake.jit_scid),
        "amount_msat": stake.amount_msat,
        "mining_msat": stake.mining_msat,
        "since_ms": stake.since_ms,
        "payment_under_way": not stake.over,
        "fault": stake.fault.value,
    }
