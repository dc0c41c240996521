"""Capital in unpaid channels: counted from the reservation, asked before each open, journalled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, WALL_MS, Datastore, StillClock, no_late_replies, settings
from harness.rows import peer_channel
from msgspec.structs import replace

from lsps2fast.actions import Channel, Funding, SessionRecord
from lsps2fast.errors import NodeError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.table import State
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.notifications import ForwardEvent, heard
from lsps2fast_plugin.service.capital import BURNT, CapitalAtRisk
from lsps2fast_plugin.service.options import DEFAULT_LINE
from lsps2fast_plugin.service.policy.budgets import No
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.session_record import StoredSession
from lsps2fast_plugin.simnode.psbt import Output, Tx, encode

PARAMS: FeeParams = DEFAULT_LINE.params(WALL_MS)
CAPACITY_SAT = 100_000
HASH = bytes(32)
OPENING, READY, WITH_CLIENT = State.OPENING, State.AWAITING_CHANNEL_READY, State.AWAITING_SETTLEMENT
FAILED_BY_CLIENT = {"status": "failed"}
FORWARD = {"payment_hash": HASH.hex(), "in_channel": "1x1x1", "in_htlc_id": 0}
FAILED_BY_US = {"status": "local_failed", "failcode": 4103}


def came_back(event: dict[str, Any]) -> ForwardEvent:
    """A part that came back, as lightningd tells it."""
    told: ForwardEvent = heard("forward_event", {"forward_event": FORWARD | event})
    return told


def buy(jit_scid: int = 1, peer_id: str = ALICE, client_trusts_lsp: bool = False) -> Buy:
    """A buy of a channel of 100,000 sat."""
    return Buy(jit_scid, peer_id, PARAMS, 10**7, 144, client_trusts_lsp, WALL_MS, CAPACITY_SAT)


def channel_of(jit_scid: int) -> str:
    """The id of its channel."""
    return f"{jit_scid:064x}"


def funding(sat: int = CAPACITY_SAT) -> Funding:
    """Coins chosen for a channel."""
    return Funding("psbt", ("aa:0",), 200, sat)


class Books:
    """Capital with a policy and a datastore of its own; writes are over when `settle` returns."""

    def __init__(self, datastore: Datastore | None = None, **options: Any) -> None:
        self.datastore = datastore or Datastore()
        self.clock = StillClock()
        self.work: list[asyncio.Task[None]] = []
        self.perkw = 253
        self.guarded: list[str] = []
        self.not_opened_for: list[tuple[int, Refusal]] = []
        self.options = options
        rules = settings(**({"lsps2_capital_budget_sat": 250_000} | options)).rules
        self.policy = Policy(rules)
        self.ledger = self.policy.ledger
        self.capital = CapitalAtRisk(
            self.policy,
            DatastoreRecords(self.datastore, no_late_replies),
            self.clock,
            self.begin,
            feerate_perkw=self.feerate_perkw,
            free_sat=lambda: 10**9,
            sessions=self,
        )

    def fee_msat(self, jit_scid: int) -> int:
        """The fee of the payment under way."""
        return 1_000_000

    def unpaid_changed(self, channel_id: str, peer_id: str) -> None:
        """It is to be shut or opened."""
        self.guarded.append(channel_id)

    def not_opened(self, jit_scid: int, no: No) -> None:
        """A payment gets no channel."""
        self.not_opened_for.append((jit_scid, no.reason))

    async def feerate_perkw(self) -> int:
        """What lightningd says; an error when a test wants one."""
        if not self.perkw:
            raise NodeError("feerates", -1, "bitcoind is away")
        return self.perkw

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry out a write in the background."""
        self.work.append(asyncio.ensure_future(work))

    async def settle(self) -> None:
        """Everything that was to be written is."""
        work, self.work = self.work, []
        await asyncio.gather(*work)

    async def may_open(self, each: Buy, sat: int = CAPACITY_SAT) -> bool:
        """Both questions that are asked before an open."""
        return await self.capital.turn(each) and await self.capital.may_open(each, funding(sat))

    async def open(self, *buys: Buy) -> None:
        """Channels of these buys are on chain."""
        for each in buys:
            assert await self.may_open(each)
            self.changed(each, State.COLLECTING, OPENING)
            self.capital.sent(each, channel_of(each.jit_scid))
            self.capital.mined(channel_of(each.jit_scid))

    def changed(self, each: Buy, old: State, new: State) -> None:
        """Its payment changes its state."""
        self.capital.session_changed(each, HASH, old, new)

    def fail(self, each: Buy, event: dict[str, Any] = FAILED_BY_CLIENT) -> None:
        """The payment on this buy ends unpaid after its parts went out."""
        self.capital.part_failed(each.jit_scid, HASH, came_back(event))
        self.changed(each, WITH_CLIENT, State.FAILED)

    def refused(self) -> dict[str, int]:
        """Refusals that were counted."""
        return {name: count for name, count in self.policy.refusals.as_dict().items() if count}

    def records(self) -> dict[str, Any]:
        """What is on disk, by the last part of the key."""
        return {key[-1]: json.loads(bytes.fromhex(value)) for key, value in self.datastore.rows.items()}

    async def restarted(self, stored: list[StoredSession], *channels: str, state: str = "CHANNELD_NORMAL") -> Books:
        """The next run on the same datastore; lightningd lists these channels."""
        again = Books(self.datastore, **self.options)
        await again.capital.load()
        again.capital.reconcile(stored, [peer_channel(channel_id=each, state=state) for each in channels])
        return again


def record(each: Buy, outcome: str | None = None) -> StoredSession:
    """What the journal says of this buy."""
    journal = SessionRecord("channel", None, 1, 0, None, Channel(channel_of(each.jit_scid), "", ""), (), None)
    return StoredSession(each, journal, outcome)


# --- Before each open -------------------------------------------------------------------------------------------------


async def test_no_gap_between_the_answer_and_the_chain() -> None:
    """people:S4, rule:18: what may be opened counts at once, as it is, not as it was sold; what failed is free."""
    books = Books()
    buys = [buy(1, ALICE), buy(2, BOB), buy(3, BOB)]
    assert await books.may_open(buys[0], 150_000)
    assert await books.may_open(buys[1], 100_000)
    assert not await books.may_open(buys[2], 1_000)
    assert books.capital.at_risk_msat() == 250_000_000
    assert books.refused() == {"capital_budget": 1}
    assert books.not_opened_for == [(3, Refusal.CAPITAL_BUDGET)]
    books.changed(buys[0], OPENING, State.ABORTING)
    assert books.capital.at_risk_msat() == 250_000_000  # its coins are not back yet
    books.changed(buys[0], State.ABORTING, State.FAILED)
    assert await books.may_open(buys[2], 1_000)


@pytest.mark.parametrize("trusts", [True, False])
async def test_coins_that_are_chosen_anew_take_the_place_of_the_first(trusts: bool) -> None:
    """rule:18, O-02: another type of channel, or one coin taken: the same channel is judged and counted once."""
    books = Books(lsps2_capital_budget_sat=CAPACITY_SAT)
    each = buy(client_trusts_lsp=trusts)
    assert await books.may_open(each)
    assert await books.may_open(each)
    assert books.capital.at_risk_msat() == CAPACITY_SAT * 1000
    assert books.refused() == {}


@pytest.mark.parametrize("trusts", [True, False])
async def test_what_a_client_took_decides_what_an_underpaid_sale_means(trusts: bool) -> None:
    """rule:20, rule:22: the whole, and its channel is free with a doubt; less, and it stays unpaid by its own deed."""
    books = Books()
    for each, whole in ((buy(1, ALICE, trusts), True), (buy(2, BOB, trusts), False)):
        await books.open(each)
        books.capital.session_changed(each, HASH, State.BROADCASTING, State.UNDERPAID, whole)
        assert books.capital.is_unpaid(channel_of(each.jit_scid)) is not whole
        assert books.ledger.probes(each.peer_id, WALL_MS) == whole
        assert books.ledger.unpaid(each.peer_id, WALL_MS) == (not whole)
    assert books.guarded.count(channel_of(1)) == 2  # when it went on chain, and when it was free
    assert "took parts" in books.ledger.reasons(BOB)[0]


@pytest.mark.parametrize("trusts", [True, False])
async def test_both_modes_count_what_is_reserved(trusts: bool) -> None:
    """people:S11, rule:18: coins of a withheld channel are bound for as long as the client holds its parts."""
    books = Books()
    buys = [buy(scid, peer_id, trusts) for scid, peer_id in ((1, ALICE), (2, BOB), (3, ALICE))]
    assert [await books.may_open(each) for each in buys] == [True, True, False]
    assert books.capital.at_risk_msat() == 200_000_000
    assert books.refused() == {"withheld_budget" if trusts else "capital_budget": 1}


async def test_a_set_that_never_opened_frees_nothing_of_another() -> None:
    """C-14: several payments may collect on one scid; only the one that opens has capital."""
    books = Books()
    assert await books.may_open(buy(1))
    books.changed(buy(1), State.COLLECTING, State.FAILED)
    assert books.capital.at_risk_msat() == 100_000_000


async def test_ten_buys_sold_before_the_first_payment_are_judged_when_they_are_paid() -> None:
    """people:S4, rule:19: after two channels went unpaid no other is opened on trust; the refusals are temporary."""
    books = Books(lsps2_capital_budget_sat=10_000_000)
    buys = [buy(scid) for scid in range(1, 11)]
    for each in buys[:2]:
        await books.open(each)
        books.fail(each)
    assert [await books.may_open(each) for each in buys[2:]] == [False] * 8
    assert books.refused() == {"peer_unpaid": 8}
    books.changed(buys[0], WITH_CLIENT, State.SUCCEEDED)  # it is paid in the end
    assert await books.may_open(buys[2])


async def test_ten_buys_paid_at_once_wait_for_one_another() -> None:
    """people:S4, rule:19: two channels of one client are under way on trust, the rest goes by what became of them."""
    books = Books(lsps2_capital_budget_sat=10_000_000)
    buys = [buy(scid) for scid in range(1, 11)]
    asked = [asyncio.ensure_future(books.may_open(each)) for each in buys]
    for _ in range(20):
        await asyncio.sleep(0)
    assert [task.done() for task in asked] == [True] * 2 + [False] * 8
    for each in buys[:2]:
        books.capital.sent(each, channel_of(each.jit_scid))
        books.fail(each)
    assert await asyncio.gather(*asked) == [True] * 2 + [False] * 8
    assert books.capital.at_risk_msat() == 200_000_000


async def test_an_honest_client_paid_ten_times_at_once_gets_all_its_channels() -> None:
    """rule:19, trap:35: who waits for its turn is served once the others are paid."""
    books = Books(lsps2_capital_budget_sat=10_000_000)
    buys = [buy(scid) for scid in range(1, 11)]
    asked = {each.jit_scid: asyncio.ensure_future(books.may_open(each)) for each in buys}
    for each in buys:
        assert await asked[each.jit_scid]
        books.capital.sent(each, channel_of(each.jit_scid))
        books.changed(each, WITH_CLIENT, State.SUCCEEDED)
    assert books.capital.at_risk_msat() == 0


async def test_a_feerate_that_nobody_knows_opens_nothing() -> None:
    """people:S12, O-09: what mining costs must be known before it is spent; the next payment is served."""
    books = Books()
    books.perkw = 0
    assert not await books.may_open(buy())
    assert books.capital.at_risk_msat() == 0
    books.perkw = 253
    assert await books.may_open(buy())


async def test_a_limit_that_binds_is_told_once_and_again_when_it_has_room(caplog: pytest.LogCaptureFixture) -> None:
    """rule:18: the log says when a limit begins to bind and when it stops; `lsps2-stats` shows each."""
    caplog.set_level("INFO")
    books = Books()
    await books.open(buy(1), buy(2, BOB))
    books.fail(buy(1))
    for _ in range(5):
        assert not await books.may_open(buy(3, BOB))
    told = [text for text in caplog.messages if "binds from now on" in text]
    assert len(told) == 1
    assert "capital_budget" in told[0]
    assert books.capital.limits()["capital_budget"] == {
        "used_msat": 200_000_000,
        "limit_msat": 250_000_000,
        "binds": True,
    }
    await books.capital.look()
    assert "has room again" not in caplog.messages[-1]
    books.capital.channel_state(channel_of(1), "ONCHAIN", "remote")
    await books.capital.look()
    assert caplog.messages[-1] == "capital_budget has room again"
    assert not books.capital.limits()["capital_budget"]["binds"]


# --- What becomes of it -----------------------------------------------------------------------------------------------


async def test_an_honest_sale_costs_no_commit() -> None:
    """P16: the session's own record tells of its channel; only debts, doubts and burnt fees are written."""
    books = Books()
    await books.open(buy())
    assert books.capital.at_risk_msat() == 100_000_000
    books.changed(buy(), WITH_CLIENT, State.SUCCEEDED)
    await books.settle()
    assert books.capital.at_risk_msat() == 0
    assert books.datastore.commits == 0


async def test_an_unpaid_channel_is_guarded_until_it_is_paid() -> None:
    """people:S5, rule:21: the filter hears of it when it goes on chain and when its fee has come."""
    books = Books()
    await books.open(buy())
    assert books.guarded == [channel_of(1)]
    assert books.capital.is_unpaid(channel_of(1))
    books.fail(buy())
    assert books.capital.is_unpaid(channel_of(1))
    books.changed(buy(), WITH_CLIENT, State.SUCCEEDED)
    assert not books.capital.is_unpaid(channel_of(1))
    assert books.guarded == [channel_of(1)] * 2


@pytest.mark.parametrize(
    ("event", "probes"),
    [
        (FAILED_BY_CLIENT, 1),
        (FAILED_BY_US, 0),
        (FAILED_BY_US | {"failure_reason": "insufficient_outgoing_liquidity"}, 0),
        (FAILED_BY_US | {"failure_reason": "outgoing_peer_offline"}, 0),
        (FAILED_BY_CLIENT | {"failure_reason": "outgoing_peer_offline"}, 0),
    ],
)
@pytest.mark.parametrize("new", [State.ABORTING, State.FAILED])
async def test_standing_goes_by_evidence(event: dict[str, Any], probes: int, new: State) -> None:
    """people:L2, C-26, rule:22: what our node refused, or what no prober causes, is no probe; in either mode."""
    for trusts in (True, False):
        books = Books()
        books.capital.part_failed(buy().jit_scid, HASH, came_back(event))
        books.changed(buy(client_trusts_lsp=trusts), WITH_CLIENT, new)
        assert books.ledger.probes(ALICE, WALL_MS) == probes
        assert books.ledger.unpaid(ALICE, WALL_MS) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (State.AWAITING_SETTLEMENT, State.BROADCASTING),
        (State.COLLECTING, State.FAILED),
        (State.OPENING, State.ABORTING),
        (State.AWAITING_CHANNEL_READY, State.FAILED),
        (State.ABORTING, State.ABANDONED),
    ],
)
async def test_only_a_payment_that_failed_behind_us_is_a_doubt(old: State, new: State) -> None:
    """C-26: after its parts went out; nothing else is one."""
    books = Books()
    books.capital.part_failed(buy().jit_scid, HASH, came_back(FAILED_BY_CLIENT))
    books.changed(buy(), old, new)
    assert books.ledger.probes(ALICE, WALL_MS) == 0


async def test_a_part_of_another_sale_with_the_same_hash_is_no_doubt_of_this_one() -> None:
    """people:L2, rule:12, rule:22: another client failed it; what our own node refused here stays our trouble."""
    books = Books()
    books.capital.part_failed(2, HASH, came_back(FAILED_BY_CLIENT))
    books.capital.part_failed(1, HASH, came_back(FAILED_BY_US))
    books.changed(buy(1), WITH_CLIENT, State.FAILED)
    assert books.ledger.probes(ALICE, WALL_MS) == 0
    books.changed(buy(2, BOB), WITH_CLIENT, State.FAILED)
    assert books.ledger.probes(BOB, WALL_MS) == 1


async def test_a_close_is_back_only_with_its_block() -> None:
    """people:S6, rule:18: until then the capital counts; what was burnt counts on, and the client did it itself."""
    books = Books()
    await books.open(buy())
    books.fail(buy())
    for state in ("CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE", "AWAITING_UNILATERAL"):
        books.capital.channel_state(channel_of(1), state, "remote")
        assert books.capital.at_risk_msat() == 100_000_000
    books.capital.channel_state(channel_of(1), "FUNDING_SPEND_SEEN", "onchain")
    books.capital.channel_state(channel_of(1), "ONCHAIN", "onchain")
    books.capital.channel_state(channel_of(9), "ONCHAIN", "remote")
    assert books.capital.at_risk_msat() == 0
    assert books.ledger.unpaid(ALICE, WALL_MS) == 1
    assert books.capital.limits()["mining_budget"]["used_msat"] == 1_800 * 253
    await books.settle()
    again = await books.restarted([])
    assert again.capital.limits()["mining_budget"]["used_msat"] == 1_800 * 253
    assert again.ledger.unpaid(ALICE, WALL_MS) == 1


@pytest.mark.parametrize(("first", "unpaid"), [(None, 1), (("CHANNELD_SHUTTING_DOWN", "user"), 0)])
async def test_a_commitment_out_of_the_blue_is_the_clients(first: tuple[str, str] | None, unpaid: int) -> None:
    """rule:22, people:S6: it closes an unpaid channel alone; what we close ourselves is not its deed."""
    books = Books()
    await books.open(buy())
    books.fail(buy())
    if first is not None:
        books.capital.channel_state(channel_of(1), *first)
    books.capital.channel_state(channel_of(1), "FUNDING_SPEND_SEEN", "onchain")
    assert books.ledger.unpaid(ALICE, WALL_MS) == unpaid
    assert books.capital.at_risk_msat() == 0


async def test_money_in_an_unpaid_channel_is_listed_until_it_is_back() -> None:
    """people:S17: also after its offer has lapsed, with what is known of why."""
    books = Books()
    await books.open(buy())
    books.fail(buy())
    books.capital.buy_ended(1)
    (listed,) = books.capital.unpaid_channels()
    assert listed["channel_id"] == channel_of(1)
    assert listed["amount_msat"] == 100_000_000
    assert listed["payment_under_way"] is False
    assert listed["fault"] == "doubt"
    assert [stake.jit_scid for stake in books.capital.overdue()] == [1]
    books.capital.channel_state(channel_of(1), "ONCHAIN", "user")
    assert books.capital.unpaid_channels() == []


# --- Restarts ---------------------------------------------------------------------------------------------------------


async def test_a_restart_finds_the_unpaid_channels() -> None:
    """K-24, K-09, rule:18: a stake stands while its channel does, whether its buy is live or ended; guarded again."""
    books = Books()
    await books.open(buy(1), buy(2, BOB))
    books.fail(buy(1))
    books.fail(buy(2, BOB))
    await books.settle()
    again = await books.restarted([record(buy(1)), record(buy(2, BOB), "Failed")], channel_of(1), channel_of(2))
    assert again.capital.at_risk_msat() == 200_000_000
    assert set(again.guarded) == {channel_of(1), channel_of(2)}
    assert again.ledger.unsettled(ALICE, WALL_MS) == 1
    closing = await books.restarted([record(buy(1))], channel_of(1), channel_of(2), state="CLOSINGD_COMPLETE")
    assert closing.capital.at_risk_msat() == 200_000_000
    later = await books.restarted([record(buy(1))], channel_of(1), state="ONCHAIN")
    assert later.capital.at_risk_msat() == 0
    assert later.capital.limits()["mining_budget"]["used_msat"] == 2 * 1_800 * 253


async def test_an_unpaid_channel_whose_note_was_never_written_is_found_in_the_final_record() -> None:
    """rule:18, rule:11: the crash fell between the end of the sale and our note of it."""
    again = await Books().restarted([record(buy(1), "Failed"), record(buy(2), "Succeeded")], *map(channel_of, (1, 2)))
    assert again.capital.at_risk_msat() == 100_000_000
    assert again.capital.is_unpaid(channel_of(1))


@pytest.mark.parametrize("trusts", [True, False])
async def test_sessions_that_go_on_count_again(trusts: bool) -> None:
    """rule:18: over restarts, with the capacity that was reserved; mining fees are priced with the next look."""
    books = Books()
    each = buy(client_trusts_lsp=trusts)
    journal = SessionRecord("intent", HASH, 1, 0, funding(123_456), None, (), None)
    books.capital.revive(each, journal, None, public=False, under_way=True)
    assert books.capital.at_risk_msat() == 123_456_000
    await books.capital.look()
    assert books.capital.limits()["mining_budget"]["used_msat"] == (0 if trusts else 1_800 * 253)
    books.changed(each, State.ABORTING, State.FAILED)
    assert books.capital.at_risk_msat() == 0
    books.capital.revive(each, replace(journal, funding=None), None, public=False)
    assert books.capital.at_risk_msat() == 0


async def test_a_public_channel_that_waits_for_the_next_payment_is_revived_as_unpaid() -> None:
    """O-13, people:S5: guarded, counted, and no reason to trust; its payment pays for it."""
    books = Books()
    books.capital.revive(buy(), record(buy()).journal, None, public=True)
    assert books.capital.is_unpaid(channel_of(1))
    assert books.ledger.unsettled(ALICE, WALL_MS) == 1
    books.changed(buy(), State.COLLECTING, READY)
    assert books.ledger.unsettled(ALICE, WALL_MS) == 0
    books.changed(buy(), WITH_CLIENT, State.SUCCEEDED)
    assert not books.capital.is_unpaid(channel_of(1))


async def test_a_channel_that_is_gone_is_burnt_once_however_often_we_start() -> None:
    """people:S6, rule:18: lightningd lists it for a hundred blocks more, and each start found it gone once again."""
    books = Books()
    await books.open(buy())
    books.fail(buy())
    books.capital.channel_state(channel_of(1), "ONCHAIN", "onchain")
    await books.settle()
    gone = peer_channel(channel_id=channel_of(1), state="ONCHAIN")
    for _ in range(3):
        books = await books.restarted([record(buy())])
        books.capital.revive(buy(), record(buy()).journal, gone, public=True)
        books.capital.money_back(channel_of(1))
        books.perkw = 15_000
        await books.capital.look()
        await books.settle()
        assert books.capital.limits()["mining_budget"]["used_msat"] == 1_800 * 253


async def test_after_a_start_mining_costs_what_it_cost_and_not_what_it_would_cost_now() -> None:
    """rule:18: an unpaid channel that only the session's record knows; its funding says what it left to miners."""
    script = b"\x00\x20" + bytes(32)
    funding_tx = Tx((("aa" * 32, 0),), (Output(CAPACITY_SAT, script),), (Output(CAPACITY_SAT + 1_000, script),))
    channel = Channel(channel_of(1), encode(funding_tx), "")
    journal = replace(record(buy()).journal, channel=channel)
    books = Books()
    books.perkw = 15_000
    books.capital.revive(buy(), journal, peer_channel(channel_id=channel_of(1)), public=True)
    await books.capital.look()
    assert books.capital.limits()["mining_budget"]["used_msat"] == 1_000_000 * (111 + 200) // 111


async def test_a_start_counts_an_unpaid_channel_as_large_as_it_is() -> None:
    """rule:18: a buy of any amount, left unpaid over a channel for a large one; its record has no coins any more."""
    books, row = Books(), peer_channel(channel_id=channel_of(1), total_msat=427_340_000)
    books.capital.revive(buy(), record(buy()).journal, row, public=True)
    assert books.capital.at_risk_msat() == 427_340_000
    again = Books()
    again.capital.reconcile([record(buy(), "Unpaid")], [row])
    assert again.capital.at_risk_msat() == 427_340_000


async def test_a_record_that_cannot_be_written_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    """rule:11: told to the operator, tried again with the next look; burnt fees, too."""
    books = Books()
    await books.open(buy())
    books.fail(buy())
    books.datastore.broken = True
    books.capital.channel_state(channel_of(1), "ONCHAIN", "remote")
    await books.settle()
    assert sum("will be tried again" in text for text in caplog.messages) == 3
    books.datastore.broken = False
    await books.capital.look()
    await books.settle()
    assert books.records()[ALICE]["probes"][0] == 1
    assert books.records()[BURNT[-1]]["hours"]


async def test_a_broken_note_of_burnt_fees_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """K-08: and nothing else is lost by it."""
    books = Books()
    books.datastore.rows[BURNT] = json.dumps({"version": 2}).encode().hex()
    await books.restarted([])
    assert any("cannot be read" in text for text in caplog.messages)


async def test_a_healed_peer_leaves_the_disk() -> None:
    """rule:14: the datastore does not grow for ever."""
    books = Books()
    for each in (buy(), buy(2, BOB)):
        books.capital.part_failed(each.jit_scid, HASH, came_back(FAILED_BY_CLIENT))
        books.changed(each, WITH_CLIENT, State.FAILED)
        await books.settle()
        books.clock.pass_ms(3 * 86_400_000)
    assert set(books.records()) == {BOB}
