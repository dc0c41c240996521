"""Closing by rule, step by step at a node of rows: what is written before what is asked, and every way it can end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from harness.logs import Log
from harness.negotiator import Json, StillClock, no_late_replies
from harness.policy import rules
from harness.rows import CHANNEL as ROW
from harness.sales_ledger import CHANNEL, PEER, SCID, a_buy, a_channel, a_sale, memory, table

from lsps2fast.errors import AnswerPending, NodeError, StoreError
from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.closing import closer as module
from lsps2fast_plugin.service.closing.closer import Closer
from lsps2fast_plugin.service.closing.journal import CloseJournal
from lsps2fast_plugin.service.closing.survey import Survey
from lsps2fast_plugin.service.policy.closing import CloseRule, Closing
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.sales_ledger.facts import CloseFact, Fact
from lsps2fast_plugin.service.sales_ledger.writes import write

DAY_MS = 86_400_000
RULE = CloseRule("spent", idle_days=30, max_client_sat=20_000)
HEIGHT = 5_000
SHUTTING = {"state": "CHANNELD_SHUTTING_DOWN", "closer": "local"}


class House:
    """A closer at a node with one channel that was sold, two months after its sale."""

    def __init__(self, *given: CloseRule, is_on: bool = True, pace: Closing | None = None) -> None:
        self.clock = StillClock()
        self.log = Log()
        self.channels: dict[str, Json] = {}
        self.closed: list[Json] = []
        self.forwards: list[Json] = []
        self.busy: tuple[str, ...] = ()  # channels over which something has just gone
        self.stored: dict[tuple[str, ...], str] = {}
        self.errors: dict[str, list[NodeError]] = {}
        self.on: dict[str, Callable[[], object]] = {}  # what happens before a method is carried out
        self.asked: list[str] = []
        self.closes: list[Json] = []
        self.configs: Json = {}
        self.kept: str | None = None
        self.promised = 0
        self.rates = PerKw(min_acceptable=253, opening=2_000, mutual_close=300)
        self.db = memory()
        self.is_behind = False
        self.sell(CHANNEL, SCID)
        self.policy = Policy(rules(closing=(pace or Closing())._replace(rules=given or (RULE,))))
        self.begin(is_on)
        self.closer.journal.is_loaded = True  # there is nothing in it

    def begin(self, is_on: bool = True) -> None:
        """A plugin that has just started."""
        self.closer = Closer(
            rpc=self,
            survey=Survey(self, self, self, self),  # type: ignore[arg-type]
            journal=CloseJournal(DatastoreRecords(self, no_late_replies)),
            sales=self,  # type: ignore[arg-type]
            policy=self.policy,
            rates=self,
            clock=self.clock,
            is_on=is_on,
        )

    def sell(self, channel_id: str, scid: str, **row: Any) -> None:
        """One more channel in ledger and node."""
        sold_ms = self.clock.wall_ms() - 60 * DAY_MS
        for fact in (
            a_buy(jit_scid=scid),
            a_sale(jit_scid=scid, channel_id=channel_id, payment_hash=channel_id),
            a_channel(channel_id=channel_id, jit_scid=scid, locked_ms=sold_ms, sent_ms=sold_ms),
        ):
            write(self.db, fact)
        usual = {"channel_id": channel_id, "short_channel_id": "3000x1x0", "to_us_msat": 90_000_000, "htlcs": []}
        usual["funding_txid"] = bytes.fromhex(channel_id)[::-1].hex()
        self.channels[channel_id] = ROW | usual | row

    # The node, the ledger, what was promised, what is under way -------------------------------------

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Any = None
    ) -> Json:
        """lightningd."""
        params = params or {}
        self.asked.append(method)
        if method in self.on:
            self.on.pop(method)()
        if self.errors.get(method):
            raise self.errors[method].pop(0)
        answer: Json = getattr(self, f"_{method}")(params)
        return answer

    def _listpeerchannels(self, params: Json) -> Json:
        return {"channels": [row for row in self.channels.values() if params.get("id") in (None, row["peer_id"])]}

    def _listclosedchannels(self, params: Json) -> Json:
        return {"closedchannels": self.closed}

    def _getinfo(self, params: Json) -> Json:
        return {"blockheight": HEIGHT}

    def _listconfigs(self, params: Json) -> Json:
        return {"configs": self.configs}

    def _listforwards(self, params: Json) -> Json:
        if params.get("out_channel") in self.busy:
            row = {"in_channel": "1x1x1", "status": "settled", "in_msat": 1}
            return {"forwards": [row | {"resolved_time": self.clock.wall_ms() / 1000}]}
        return {"forwards": self.forwards if "out_channel" in params else []}

    def _listdatastore(self, params: Json) -> Json:
        return {"datastore": [{"key": list(key), "hex": value} for key, value in self.stored.items()]}

    def _datastore(self, params: Json) -> Json:
        self.stored[tuple(params["key"])] = params["hex"]
        return {}

    def _deldatastore(self, params: Json) -> Json:
        del self.stored[tuple(params["key"])]
        return {}

    def _close(self, params: Json) -> Json:
        assert (*module_root(), params["id"]) in self.stored, "closed without a record"
        self.closes.append(params)
        self.channels[params["id"]] |= SHUTTING
        return {"type": "mutual"}

    async def perkw(self) -> PerKw:
        """The fee rates."""
        return self.rates

    async def ask(self, question: Callable[[sqlite3.Connection], Any]) -> Any:
        """The ledger, asked."""
        return question(self.db)

    async def settled(self) -> None:
        """All is written at once."""

    def closed_by_rule(self, fact: Fact) -> None:
        """The ledger, told."""
        write(self.db, fact)

    def promised_blocks(self, channel_id: str) -> int:
        """The journal's word."""
        return self.promised

    def look(self) -> House:
        """What is under way, at this moment."""
        return self

    def why_kept(self, channel_id: str, peer_id: str) -> str | None:
        """What is under way."""
        return self.kept

    # What happens ----------------------------------------------------------------------------------

    async def blocks(self, count: int = 1, hours: float = 0.0) -> None:
        """So many blocks come, so far apart."""
        for _ in range(count):
            self.clock.pass_ms(round(hours * 3_600_000))
            await self.closer.look()

    def money_back(self, channel_id: str = CHANNEL) -> None:
        """A block has the close."""
        self.channels[channel_id] |= {"state": "ONCHAIN", "closer": "local"}

    def books(self) -> list[Any]:
        """What the ledger says of closes."""
        return table(self.db, "lower(hex(channel_id)), rule", "closes")


def module_root() -> tuple[str, ...]:
    """The folder of the records."""
    return ("lsps", "lsps2", "closes")


async def test_a_close_is_written_before_it_is_asked_and_booked_when_it_is_over() -> None:
    """rule:2, rule:11: record, another look, close by agreement within the ceiling; then the books, then no record."""
    house = House()
    await house.blocks()
    where = [house.asked.index(name) for name in ("listforwards", "datastore", "close")]
    assert where == sorted(where)
    assert "listpeerchannels" in house.asked[where[1] : where[2]]
    assert house.closes == [{"id": CHANNEL, "unilateraltimeout": 0, "feerange": ["253perkw", "1250perkw"]}]
    assert house.books() == [(CHANNEL, "spent")]
    assert "closing channel" in house.log.text("info")
    await house.blocks(3)
    assert len(house.closes) == 1
    assert len(house.stored) == 1
    house.money_back()
    await house.blocks()
    assert house.stored == {}
    assert house.closer.state() == {
        "is_on": True,
        "rules": 1,
        "is_cheap": True,
        "under_way": 0,
        "asked": 1,
        "closed": 1,
        "withdrawn": 0,
        "failed": 0,
    }


async def test_without_the_switch_or_a_rule_lightningd_is_asked_nothing() -> None:
    """operator:O2: off is off: not even a list of channels."""
    for house in (House(is_on=False), House()):
        if house.closer.is_on:
            house.policy.replace(house.policy.rules._replace(closing=Closing()))
        await house.blocks(3)
        assert house.asked == []


@pytest.mark.parametrize(
    "change",
    [
        lambda house: house.channels[CHANNEL].update(htlcs=[{"direction": "in", "id": 1, "state": "SENT_ADD_HTLC"}]),
        lambda house: house.channels[CHANNEL].update(to_us_msat=80_000_000),
        lambda house: house.channels[CHANNEL].update(peer_connected=False),
        lambda house: house.channels[CHANNEL].update(state="CHANNELD_AWAITING_SPLICE"),
        lambda house: house.channels.pop(CHANNEL),
        lambda house: setattr(house, "kept", "its client has an offer"),
        lambda house: setattr(house.closer, "is_on", False),
        lambda house: house.closer.hold(),
    ],
)
async def test_a_channel_that_wakes_up_after_the_decision_is_left_alone(change: Callable[[House], object]) -> None:
    """rule:19: what happens while the record is written is seen, and the record goes again."""
    house = House()
    house.on["datastore"] = lambda: change(house)
    await house.blocks(2)
    assert house.closes == []
    assert house.stored == {}
    assert house.books() == []
    assert "is not closed by rule 'spent' after all" in house.log.text("info")


async def test_what_the_journal_promised_counts_where_the_ledger_says_less() -> None:
    """A-06: the longer of the two lifetimes holds."""
    house = House()
    house.promised = HEIGHT
    await house.blocks()
    assert house.closes == []
    house.promised = 0
    await house.blocks()
    assert len(house.closes) == 1


async def test_a_channel_that_was_not_sold_here_is_never_touched() -> None:
    """rule:26: only what the ledger has as sold by this node, whatever the rules say."""
    house = House(CloseRule("all", idle_days=1, max_client_sat=10**12, min_ours_sat=0))
    house.channels = {"ab" * 32: house.channels[CHANNEL] | {"channel_id": "ab" * 32}}
    await house.blocks(3)
    assert house.closes == []


async def test_a_record_that_cannot_be_written_closes_nothing() -> None:
    """rule:11: stored means stored."""
    house = House()
    house.errors["datastore"] = [NodeError("datastore", -1, "disk full")]
    await house.blocks()
    assert house.closes == []
    assert "closing by rule waits for the next block" in house.log.text("warn")
    await house.blocks()
    assert len(house.closes) == 1


async def test_a_ledger_that_lacks_something_decides_nothing_and_keeps_the_record() -> None:
    """rule:11: what a channel earned must be known; and a record goes only when the books have it."""
    house = House()
    house.is_behind = True
    await house.blocks()
    assert house.closes == []
    house.is_behind = False
    await house.blocks()
    house.is_behind = True
    house.money_back()
    await house.blocks(2)
    assert len(house.stored) == 1
    house.is_behind = False
    await house.blocks()
    assert house.stored == {}


async def test_closes_that_fail_are_tried_again_with_growing_pauses_and_then_left_alone() -> None:
    """rule:10: each waiting state has an end: six tries, then a month of rest."""
    house = House()
    house.errors["close"] = [NodeError("close", -1, "no")] * 50
    tried = []
    for minute in range(0, 24 * 60, 10):
        before = house.asked.count("close")
        await house.blocks()
        if house.asked.count("close") > before:
            tried.append(minute)
        house.clock.pass_ms(600_000)
    assert tried == [0, 10, 30, 70, 150, 310]
    assert house.closer.state()["failed"] == 6
    (decision,) = house.closer.journal
    assert "no" in (decision.given_up or "")
    await house.blocks(10, hours=24)
    assert house.asked.count("close") == 6
    house.errors.clear()
    await house.blocks(30, hours=24)
    assert len(house.closes) == 1


async def test_a_close_that_hangs_is_found_in_the_state_of_the_channel() -> None:
    """rule:10: no answer is no failure; the channel shuts down, and that is what counts."""
    house = House()
    house.errors["close"] = [AnswerPending("close", "no answer within 60 s")]
    await house.blocks()
    assert house.books() == []
    house.channels[CHANNEL] |= SHUTTING
    await house.blocks()
    assert house.books() == [(CHANNEL, "spent")]
    assert house.asked.count("close") == 1


async def test_a_client_that_does_not_finish_is_waited_for_and_told_each_day() -> None:
    """rule:10: nothing is forced; after a day it holds up no other close."""
    house = House(pace=Closing(closes_at_once=1))
    await house.blocks()
    house.sell("dd" * 32, "2x2x2")
    await house.blocks()
    assert len(house.closes) == 1
    await house.blocks(3, hours=24)
    assert "nothing is forced by a rule" in house.log.text("warn")
    assert [each["id"] for each in house.closes] == [CHANNEL, "dd" * 32]
    assert all(each["unilateraltimeout"] == 0 for each in house.closes)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_channel_that_its_client_closes_is_not_booked_to_a_rule(gone: bool) -> None:
    """rule:22: each account has its own deeds."""
    house = House()
    house.errors["close"] = [NodeError("close", -1, "no")]
    await house.blocks()
    if gone:
        del house.channels[CHANNEL]
        house.closed = [{"channel_id": CHANNEL, "closer": "remote"}]
    else:
        house.channels[CHANNEL] |= SHUTTING | {"closer": "remote"}
    await house.blocks()
    assert house.books() == []
    assert house.stored == {}


# Feerates and pace -------------------------------------------------------------------------------------


async def test_nothing_is_closed_above_the_ceiling_and_cheap_hours_begin_below_it() -> None:
    """people:S12: by lightningd's estimate for closes; the log says when they begin and end."""
    house = House()
    for perkw, closes in ((1_251, 0), (1_100, 0), (1_000, 1)):
        house.rates = PerKw(min_acceptable=253, opening=253, mutual_close=perkw)
        await house.blocks()
        assert len(house.closes) == closes
    assert house.log.text("info").count("cheap hours for closes begin") == 1


async def test_busy_channels_with_more_money_take_no_turn_from_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:24, operator:O2: some are looked at with each block; on a large node the busy ones are due again by then."""
    monkeypatch.setattr(module, "LOOKED_AT", 1)
    house = House()
    for number in (1, 2):
        house.sell(f"{number:02x}" * 32, f"{number}x9x9", short_channel_id=f"{number}x1x0", to_us_msat=95_000_000)
    house.busy = ("1x1x0", "2x1x0")
    await house.blocks(3, hours=7)
    assert [close["id"] for close in house.closes] == [CHANNEL]


async def test_a_close_that_ledger_and_journal_both_have_counts_once() -> None:
    """rule:24: three a day are three, also while those of today are under way."""
    house = House(pace=Closing(closes_per_day=3, closes_at_once=3))
    await house.blocks(2)
    assert len(house.closes) == len(table(house.db, "rule", "closes")) == len(house.stored) == 1
    for number in range(1, 5):
        house.sell(f"{number:02x}" * 32, f"{number}x9x9")
    await house.blocks(3)
    assert len(house.closes) == 3


async def test_a_day_and_a_moment_have_a_bound_also_over_a_restart() -> None:
    """rule:24: two at once, three a day; what is over counts from the ledger, what is open from the journal."""
    house = House(pace=Closing(closes_per_day=3, closes_at_once=2))
    names = [f"{number:02x}" * 32 for number in range(1, 7)]
    for number, name in enumerate(names):
        house.sell(name, f"{number}x9x9")
    await house.blocks()
    assert len(house.closes) == 2
    house.begin()
    await house.closer.journal.load()
    await house.blocks()
    assert len(house.closes) == 2
    for close in list(house.closes):
        house.money_back(close["id"])
    await house.blocks(3)
    assert len(house.closes) == 3
    house.begin()
    await house.closer.journal.load()
    house.money_back(house.closes[2]["id"])
    await house.blocks(3)
    assert len(house.closes) == 3
    house.clock.pass_ms(86_401_000)
    await house.blocks()
    assert len(house.closes) == 5


async def test_channels_whose_forwards_keep_them_make_room_for_others_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """rule:14: lightningd is asked for few forwards a block, and still each channel has its turn."""
    monkeypatch.setattr(module, "LOOKED_AT", 1)
    house = House()
    house.sell("dd" * 32, "2x2x2", short_channel_id="3000x2x0", to_us_msat=80_000_000)
    rows = {
        "3000x1x0": [{"in_channel": "1x1x1", "status": "settled", "in_msat": 1, "resolved_time": 0.0}],
        "3000x2x0": [],
    }
    rows["3000x1x0"][0]["resolved_time"] = house.clock.wall_ms() / 1000 - 60
    house._listforwards = lambda params: {"forwards": rows.get(params.get("out_channel", ""), [])}  # type: ignore[method-assign]
    await house.blocks()
    assert house.closes == []
    await house.blocks()
    assert [each["id"] for each in house.closes] == ["dd" * 32]


@pytest.mark.parametrize(("days", "closes"), [(10, 0), (32, 1)])
async def test_a_splice_is_a_use_of_its_channel(days: int, closes: int) -> None:
    """cln:N3, rule:25: what went over the names of before is listed under none that it has now."""
    house = House()
    block = HEIGHT - days * 144
    house.channels[CHANNEL] |= {"funding_txid": "ab" * 32, "short_channel_id": f"{block}x7x0"}
    await house.blocks()
    assert len(house.closes) == closes


async def test_what_a_spliced_channel_earned_is_not_known() -> None:
    """rule:25: a rule that asks for it leaves the channel alone."""
    house = House(RULE._replace(max_return_ppm=1_000_000))
    house.channels[CHANNEL] |= {"funding_txid": "ab" * 32, "short_channel_id": "1x7x0"}
    await house.blocks()
    assert house.closes == []


@pytest.mark.parametrize("state", ["CHANNELD_SHUTTING_DOWN", "ONCHAIN", None])
async def test_a_channel_that_was_given_up_and_is_closed_by_hand_is_no_close_of_a_rule(state: str | None) -> None:
    """operator:O2: weeks later its operator closes it; the books name no rule."""
    house = House()
    house.errors["close"] = [NodeError("close", -1, "no") for _ in range(module.MOST_TRIES)]
    await house.blocks(40, hours=1 / 6)
    await house.blocks(2, hours=24)
    assert [decision.given_up is None for decision in house.closer.journal] == [False]
    if state is None:
        house.closed.append({"channel_id": CHANNEL, "closer": "local"})
        del house.channels[CHANNEL]
    else:
        house.channels[CHANNEL] |= {"state": state, "closer": "local"}
    await house.blocks()
    assert house.stored == {}
    assert table(house.db, "rule", "closes") == []


# Starts ------------------------------------------------------------------------------------------------


async def test_a_block_before_the_records_are_read_decides_nothing() -> None:
    """rule:15, rule:2: they say what is under way, what has failed too often, and what is not ours to touch."""
    house = House()
    house.stored[*module_root(), CHANNEL] = json.dumps({"version": 9, "channel_id": CHANNEL}).encode().hex()
    house.begin()
    await house.blocks(2)
    assert house.asked == house.closes == []
    await house.closer.journal.load()
    await house.blocks(2)
    assert house.closes == []


async def test_a_start_between_the_record_and_the_close_decides_once_more_not_twice() -> None:
    """rule:2: the record is found; the channel is looked at as if it were new, and closed once."""
    house = House()
    house.errors["close"] = [NodeError("close", -1, "killed")]
    await house.blocks()
    house.begin()
    await house.closer.journal.load()
    await house.blocks()
    assert house.asked.count("close") == 1  # the pause goes on
    house.clock.pass_ms(601_000)
    await house.blocks(3)
    assert len(house.closes) == 1
    assert len(house.stored) == 1


@pytest.mark.parametrize("off", [True, False])
async def test_a_decision_that_its_operator_no_longer_wants_is_withdrawn_at_the_start(off: bool) -> None:
    """operator:O2: switched off, or the rule is gone: a close that was not asked for never is."""
    house = House()
    house.errors["close"] = [NodeError("close", -1, "killed")]
    await house.blocks()
    if not off:
        house.policy.replace(house.policy.rules._replace(closing=Closing((CloseRule("other", 36_500),))))
    house.begin(is_on=not off)
    await house.closer.journal.load()
    house.clock.pass_ms(601_000)
    await house.blocks()
    assert house.closes == []
    assert house.stored == {}


async def test_a_start_after_the_close_books_it() -> None:
    """rule:11: the ledger had not been written when the plugin died."""
    house = House()
    await house.blocks()
    house.db.execute("DROP TRIGGER closes_stay")
    house.db.execute("DELETE FROM closes")
    house.money_back()
    house.begin()
    await house.closer.journal.load()
    await house.blocks()
    assert house.books() == [(CHANNEL, "spent")]
    assert house.stored == {}


@pytest.mark.parametrize("spoil", ["broken", "newer", "of another channel"])
async def test_a_record_that_is_not_understood_keeps_its_channel(spoil: str) -> None:
    """rule:11: the channel is left alone, the record stays, and the log says so."""
    house = House()
    await house.blocks()
    ((key, value),) = house.stored.items()
    record = json.loads(bytes.fromhex(value))
    record |= {"newer": {"version": 2}, "of another channel": {"channel_id": "ee" * 32}}.get(spoil, {"tries": "many"})
    house.stored[key] = json.dumps(record).encode().hex()
    house.channels[CHANNEL] |= {"state": "CHANNELD_NORMAL"}
    house.closes.clear()
    house.begin()
    await house.closer.journal.load()
    assert "cannot be read; the channel is left alone" in house.log.text("error")
    await house.blocks(2)
    assert house.closes == []
    assert list(house.stored) == [key]


async def test_a_journal_that_cannot_be_read_is_told() -> None:
    """rule:11: the start tries until it can."""
    house = House()
    house.errors["listdatastore"] = [NodeError("listdatastore", -1, "no")]
    with pytest.raises(StoreError):
        await house.closer.journal.load()


def test_a_close_comes_as_often_as_it_likes_and_stands_once() -> None:
    """operator:O2: what a rule did cannot be changed or taken out of the books."""
    db = memory(a_buy(), a_channel())
    fact = CloseFact(
        channel_id=CHANNEL,
        rule="spent",
        decided_ms=1,
        feerate_perkw=300,
        ours_msat=1,
        client_msat=2,
        opening_fee_msat=3,
        routing_fees_msat=4,
        idle_days=5,
    )
    write(db, fact)
    write(db, fact)
    assert table(db, "lower(hex(channel_id)), rule, idle_days", "closes") == [(CHANNEL, "spent", 5)]
    for sql in ("DELETE FROM closes", "UPDATE closes SET rule = 'other'"):
        with pytest.raises(sqlite3.DatabaseError):
            db.execute(sql)
    assert PEER
