"""What `Recovery` makes of a journal in the running service: who is live, who is set aside, what is owed, what stays.

The session machine is the real one; the rest of the service is what these tests look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from harness.logs import Log
from harness.session_records import (
    CHANNEL,
    CLIENT,
    FUNDING,
    HELD,
    ID,
    JIT,
    KEYS,
    OTHER_ID,
    PARTS,
    channel,
    record,
    row,
    snapshot,
)
from msgspec.structs import replace

from lsps2fast._parts import IncomingHtlc
from lsps2fast._sessions import Sessions
from lsps2fast.actions import (
    Action,
    Broadcast,
    ExistingChannel,
    ForwardParts,
    RenewInputs,
    RestoreFees,
    SessionRecord,
    Undo,
)
from lsps2fast.errors import StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.service.coins import POOL, UNREAD
from lsps2fast_plugin.service.driver import buy_terms
from lsps2fast_plugin.service.reconcile import Snapshot
from lsps2fast_plugin.service.recovery import DROPPED_AT_ONCE, Recovery
from lsps2fast_plugin.service.session_record import FRESH, StoredSession, Unread
from lsps2fast_plugin.service.session_store import AT_ONCE

BUY = record("buy").buy
END_MS = BUY.params.valid_until_ms
HASH = b"\x07" * 32
COIN = FUNDING.inputs[0]
HEIGHT = 100


def buy_of(jit_scid: int) -> Buy:
    """The same buy under another scid."""
    return replace(BUY, jit_scid=jit_scid)


def _part(key: tuple[int, int], payment_hash: bytes) -> IncomingHtlc:
    return IncomingHtlc(
        jit_scid=JIT,
        payment_hash=payment_hash,
        in_scid=key[0],
        htlc_id=key[1],
        amount_msat=500,
        amt_to_forward_msat=500,
        cltv_expiry=HEIGHT + 300,
        outgoing_cltv_value=HEIGHT + 100,
    )


class House:
    """A service that has just started, and what recovery did to it."""

    def __init__(self, *unread: Unread, wall_ms: int = END_MS - 1) -> None:
        self.core: Any = Sessions()
        self.core.block(HEIGHT)
        self.orders: list[Action] = []
        self.alarms: list[str] = []
        self.log = Log()
        self.promised: dict[str, int] = {}
        self.finished: list[tuple[int, RestoreFees | None]] = []
        self.aliases: list[RestoreFees] = []
        self.forgotten: list[int] = []
        self.lapsed: list[tuple[int, int]] = []
        self.kept: list[int] = []
        self.used: set[int] = set()
        self.withheld: dict[str, bool] = {}
        self.journal_fails = 0  # so many times more
        self.pauses_ms: list[int] = []
        self.work: list[Coroutine[Any, Any, None]] = []
        self.service: Any = SimpleNamespace(
            host=SimpleNamespace(spawn=self.work.append),
            store=SimpleNamespace(
                unread=unread,
                unread_names=lambda name: any(name.encode() in each.raw for each in unread),
                keep=self.kept.append,
                forget=self._forget,
                lapse=self._lapse,
            ),
            effects=SimpleNamespace(
                alarm=self.alarms.append,
                unready=set(),
                of_last_life=set(),
                found_fees=lambda row: None,
                take_up_fees=lambda rows, same_node: None,
                finish=lambda buy, fees: self.finished.append((buy.jit_scid, fees)),
                keep_alias=lambda buy, fees: self.aliases.append(fees),
            ),
            coins=SimpleNamespace(promise=self._promise),
            offers=SimpleNamespace(mark_used=self.used.add),
            fee_notes=SimpleNamespace(rates=lambda channel_id: None),
            exposure=SimpleNamespace(revive=lambda buy, journal, row, public, under_way=False: None),
            interest=SimpleNamespace(scids=set()),
            clock=SimpleNamespace(wall_ms=lambda: wall_ms, now_ms=lambda: 0, sleep_until=self._sleep_until),
            sessions=self.core,
            shut=SimpleNamespace(withhold=lambda channel_id, yes, _: self.withheld.__setitem__(channel_id, yes)),
            orders=None,
            driver=SimpleNamespace(
                set_aside=set(),
                go_live=self._go_live,
                carry_out=self.orders.extend,
                feed=lambda *given: self.orders.extend(self.core.handle(*given)),
            ),
        )

    def _promise(self, jit_scid: int, inputs: Any, shared: bool = False) -> None:
        for point in inputs:
            self.promised.setdefault(point, jit_scid)

    def _go_live(self, buy: Buy) -> Any:
        return self.core.add_buy(buy.jit_scid, buy.peer_id, buy_terms(buy))

    async def _lapse(self, jit_scid: int, wall_ms: int) -> None:
        assert not self.forgotten  # the final record comes first (K-15)
        self.lapsed.append((jit_scid, wall_ms))

    async def _sleep_until(self, now_ms: int) -> None:
        self.pauses_ms.append(now_ms)

    async def _forget(self, jit_scid: int) -> None:
        if self.journal_fails:
            self.journal_fails -= 1
            raise StoreError("disk is full")
        self.forgotten.append(jit_scid)

    def revive(self, *stored: StoredSession, said: Snapshot | None = None) -> None:
        """Recovery, and what it left to do in the background."""
        recovery, records = Recovery(self.service), list(stored)
        recovery.channels = [] if said is None else list(said.channels.values())
        begun = recovery.begun(records)
        recovery.revive_begun(begun, said or snapshot())
        list(recovery.revive_offers(records, begun))
        for work in self.work:
            asyncio.run(work)  # type: ignore[arg-type]

    def kinds(self) -> list[str]:
        """The orders by name."""
        return [type(order).__name__ for order in self.orders]


# Records that are not understood --------------------------------------------------------------------------------


def unread(*names: str, jit_scid: int | None = JIT) -> Unread:
    """A record of a newer version that speaks of these."""
    return Unread(jit_scid, " ".join(names).encode())


def test_parts_of_a_record_that_is_not_understood_fail_for_now() -> None:
    """K-08, rule:6: its scid is known, so that no payer is told that it does not exist, and nothing is sold on it."""
    house = House(unread(), unread("promise-secret", jit_scid=None))
    house.revive()
    assert house.service.driver.set_aside == house.service.interest.scids == {JIT}
    assert house.core.buys == {}


def test_coins_of_a_record_that_is_not_understood_pay_for_nothing_else() -> None:
    """K-08, O-04, trap:8: their reservation is not renewed, and its channel may have been paid for."""
    house = House(unread(f'"{COIN}"'), unread(f'["{"bb" * 32}:1"]', jit_scid=None))
    house.revive(record("intent"))
    assert set(house.promised) == {COIN, "bb" * 32 + ":1"}
    assert house.promised["bb" * 32 + ":1"] == UNREAD != POOL  # else no coin would ever be split


@pytest.mark.parametrize("name", [ID, CLIENT], ids=["the channel", "the peer"])
def test_a_channel_that_such_a_record_may_own_is_not_taken_for_an_orphan(name: str) -> None:
    """K-08, K-11: an intent of the same client does not close it, and there is no alarm."""
    house = House(unread(name, jit_scid=JIT + 1))
    house.revive(record("intent"), said=snapshot(channel()))
    assert house.orders == [Undo(JIT, HASH, None, FUNDING)]
    assert house.alarms == []


def test_a_record_that_breaks_recovery_stays_and_the_others_go_on() -> None:
    """K-08: two records of one scid are a bug of ours; the second is kept, its parts fail, the third is live."""
    house = House()
    house.revive(
        StoredSession(BUY, FRESH, None), StoredSession(BUY, FRESH, None), StoredSession(buy_of(JIT + 1), FRESH, None)
    )
    assert (house.kept, house.service.driver.set_aside) == ([JIT], {JIT})
    assert "is kept and its parts fail" in house.alarms[0]
    assert JIT + 1 in house.core.buys


# Orphans --------------------------------------------------------------------------------------------------------


def test_a_withheld_channel_that_nobody_names_is_taken_up_by_the_intent() -> None:
    """trap:6, K-02: the crash fell between fundchannel_complete and the next write; it is closed, its coins
    released.
    """
    house = House()
    house.revive(record("intent"), said=snapshot(channel()))
    (undo,) = house.orders
    assert isinstance(undo, Undo)
    assert undo.channel is not None
    assert (undo.channel.channel_id, undo.funding) == (ID, FUNDING)
    assert house.withheld == {ID: True}


def test_two_intents_of_one_client_do_not_take_up_the_same_channel() -> None:
    """K-09, rule:2: one channel, one of them closes it; each releases its own coins."""
    second = StoredSession(buy_of(JIT + 1), record("intent").journal, None)
    house = House()
    house.revive(record("intent"), second, said=snapshot(channel()))
    undone = [order.channel for order in house.orders if isinstance(order, Undo)]
    assert [found is None for found in undone] == [False, True]


def test_coins_that_were_reserved_for_no_channel_are_released() -> None:
    """rule:9, K-02: the crash fell after reserveinputs."""
    house = House()
    house.revive(record("intent"))
    assert house.orders == [Undo(JIT, HASH, None, FUNDING)]
    assert house.promised == {COIN: JIT}


def test_a_withheld_channel_that_no_record_explains_is_told_and_left() -> None:
    """K-11: it may be another tool's; ours to close is only a channel that we made."""
    house = House()
    house.revive(StoredSession(BUY, FRESH, None), said=snapshot(channel(OTHER_ID), channel(opener="remote")))
    assert house.orders == []
    assert [OTHER_ID in alarm for alarm in house.alarms] == [True]


# Payments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_of_rows", [(0, 1), (1, 0)])
def test_what_was_paid_is_told_before_what_was_lost(order_of_rows: tuple[int, int]) -> None:
    """K-11, rule:8: one part settled, one failed while we were away; the funding is owed, whatever comes first."""
    rows = tuple(row(each, ("settled", "failed")[place]) for place, each in enumerate(order_of_rows))
    house = House()
    house.revive(record("forwards", CHANNEL, PARTS), said=snapshot(channel(), rows=rows))
    assert house.kinds() == ["RenewInputs", "Broadcast"]


def test_a_payment_whose_channel_closed_while_we_were_away_is_not_waited_for() -> None:
    """cln:A3: lightningd's rows say `offered` for ever; the coins are released and the offer stands."""
    house = House()
    said = snapshot(rows=(row(0, "offered"), row(1, "offered")))
    house.revive(record("forwards", CHANNEL, PARTS), said=said)
    assert house.kinds()[-1] == "Undo"
    assert house.withheld == {ID: False}
    assert house.core.live == 1  # until the undo is done


def test_parts_that_lightningd_asks_about_again_wait_for_their_client() -> None:
    """cln:R1, cln:R4, cln:H10, cln:H16: the replayed calls come in one burst before any peer is back; both get their
    stored answer.
    """
    house = House()
    said = snapshot(channel(), held=set(HELD))
    said.held = {said.same(key) for key in KEYS}
    house.revive(record("forwards", CHANNEL, PARTS), said=said)
    assert house.orders == [RenewInputs(JIT, HASH, FUNDING)]
    assert house.service.effects.unready == {ID}
    again = [house.core.part(_part(key, HASH), 0, 0)[0].parts[0] for key in reversed(KEYS)]
    assert again == list(reversed(PARTS))


def test_blocks_that_lightningd_reads_again_change_nothing() -> None:
    """cln:R2: heights run backwards after its start; a deadline neither moves nor comes twice."""
    house = House()
    house.revive(
        record("forwards", CHANNEL, PARTS), said=snapshot(channel(), rows=(row(0, "offered"), row(1, "offered")))
    )
    house.orders.clear()
    near_its_end = FUNDING.reserved_to_block - 10
    first = house.core.block(near_its_end)
    assert [type(order) for order in first] == [RenewInputs]
    assert [house.core.block(height) for height in range(near_its_end - 30, near_its_end + 1)] == [()] * 31


def test_a_public_channel_that_was_paid_is_sent_again() -> None:
    """rule:8: no longer withheld, in no block; only a confirmation would prove it."""
    house = House()
    rows = (row(0, "settled"), row(1, "settled"))
    said = snapshot(channel(funding={"withheld": False}), rows=rows)
    house.revive(record("forwards", CHANNEL, PARTS), said=said)
    assert Broadcast(JIT, HASH, CHANNEL) in house.orders
    assert house.used == {JIT}


# Offers ---------------------------------------------------------------------------------------------------------


def test_an_unpaid_offer_is_live_again_with_its_attempts() -> None:
    """K-09 row 1, C-16."""
    house = House()
    house.revive(StoredSession(BUY, replace(FRESH, attempts=3), None))
    assert house.core.buys[JIT].attempts == 3


def test_an_offer_that_lapsed_meanwhile_is_dropped_with_its_record() -> None:
    """B-14, K-09: nothing is live, a final record is written, then the active one goes."""
    house = House(wall_ms=END_MS)
    house.revive(StoredSession(BUY, FRESH, None))
    assert (house.core.buys, house.lapsed, house.forgotten) == ({}, [(JIT, END_MS)], [JIT])


def test_many_offers_let_others_have_their_turn() -> None:
    """P27: 100,000 offers come alive in slices; what payments have begun goes on before the first of them."""
    house = House()
    recovery, stored = (
        Recovery(house.service),
        [StoredSession(buy_of(JIT + n), FRESH, None) for n in range(3 * AT_ONCE)],
    )
    begun = recovery.begun(stored)
    assert begun == []
    alive = [len(house.core.buys) for _ in recovery.revive_offers(stored, begun)]
    assert alive == [AT_ONCE - 1, 2 * AT_ONCE - 1, 3 * AT_ONCE - 1]
    assert len(house.core.buys) == 3 * AT_ONCE


def test_a_crowd_of_lapsed_offers_is_dropped_a_few_at_a_time() -> None:
    """rule:14: lightningd is not asked for 1,000 deletions at once."""
    house = House(wall_ms=END_MS + 1)
    at_once, most = 0, 0

    async def forget(jit_scid: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    async def lapse(jit_scid: int, wall_ms: int) -> None:
        house.lapsed.append((jit_scid, wall_ms))

    house.service.store.forget, house.service.store.lapse = forget, lapse
    house.revive(*[StoredSession(buy_of(JIT + n), FRESH, None) for n in range(100)])
    assert len(house.lapsed) == 100
    assert most == DROPPED_AT_ONCE


def test_a_lapsed_record_that_cannot_be_deleted_is_tried_again() -> None:
    """rule:11, K-15: with a growing pause and an alarm; the quota of its token comes back once, at the end."""
    house = House(wall_ms=END_MS)
    house.journal_fails = 4
    house.revive(StoredSession(BUY, FRESH, None))
    assert (house.lapsed, house.forgotten) == ([(JIT, END_MS)], [JIT])
    assert house.pauses_ms == [500, 1_000, 2_000, 4_000]
    assert len(house.alarms) == 1
    assert "disk is full" in house.log.text()


CHARGED = (1, 10)  # what `channel` takes
FREE: dict[str, Any] = {"fee_base_msat": 0, "fee_proportional_millionths": 0}
PAID = SessionRecord("paid", HASH, 1, 100, FUNDING, CHANNEL, PARTS, None)


def test_a_crash_between_the_final_record_and_the_deletion_does_what_is_left() -> None:
    """K-15: routing fees, then the active record; the payment is not begun again."""
    house = House()
    house.revive(StoredSession(BUY, PAID, None), StoredSession(BUY, PAID, "Succeeded"), said=snapshot(channel()))
    assert house.finished == [(JIT, RestoreFees(ID, END_MS, CHARGED))]
    assert house.aliases == []
    assert house.core.buys[JIT].paid
    assert house.orders == []


@pytest.mark.parametrize(
    ("outcome", "wall_ms", "lives"),
    [("Succeeded", END_MS - 1, True), ("Succeeded", END_MS, False), ("Failed", END_MS - 1, False)],
)
def test_the_scid_of_a_paid_channel_is_its_alias_until_the_offer_ends(outcome: str, wall_ms: int, lives: bool) -> None:
    """A-03: over a restart, at the promised rate of zero; no second channel is opened on it."""
    house = House(wall_ms=wall_ms)
    house.revive(StoredSession(BUY, PAID, outcome), said=snapshot(channel()))
    assert house.aliases == [RestoreFees(ID, END_MS, CHARGED)] * lives
    parts = [house.core.part(_part((9, 9), b"\x08" * 32), 0, 0) for _ in range(lives)]
    assert [type(orders[0]) for orders in parts] == [ForwardParts] * lives
    assert (JIT in house.core.buys) is lives


@pytest.mark.parametrize(
    ("replays", "charges", "aliases"),
    [
        (True, True, [RestoreFees(ID, END_MS, CHARGED)]),
        (True, False, []),
        (False, True, [RestoreFees(ID, END_MS, CHARGED)]),
        (False, False, [RestoreFees(ID, END_MS)]),
    ],
)
def test_a_start_leaves_the_fees_of_an_alias_as_it_finds_them(
    replays: bool, charges: bool, aliases: list[RestoreFees]
) -> None:
    """A-03, rule:13: they are their operator's. Where lightningd has lived on, a zero may be a call that came late."""
    house = House(wall_ms=END_MS - 1)
    said = snapshot(channel() if charges else channel(**FREE))
    said.replays = replays
    house.revive(StoredSession(BUY, PAID, "Succeeded"), said=said)
    assert house.aliases == aliases


def test_fees_that_a_start_had_noted_come_back_after_the_next() -> None:
    """K-15, rule:13: a crash between zero and the fees, for which only an active record tells of them."""
    house = House(wall_ms=END_MS - 1)
    noted = replace(FRESH, existing=ExistingChannel(ID, 0, 77, 7))
    house.revive(StoredSession(BUY, noted, None), StoredSession(BUY, PAID, "Succeeded"), said=snapshot(channel(**FREE)))
    assert house.finished == [(JIT, RestoreFees(ID, END_MS, (77, 7)))]
    assert house.aliases == []


# Channels that went while we were away --------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False], ids=["in a block", "forgotten"])
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_public_channel_that_went_while_we_were_away_ends_with_its_offer(confirmed: bool, listed: bool) -> None:
    """people:S17, K-09, rule:9: nothing will be told of its close any more, and its record must not stay for ever."""
    house = House()
    facts = {"state": "ONCHAIN", "funding": {"withheld": False}, "short_channel_id": "100x1x0" if confirmed else None}
    stored = record("forwards", CHANNEL, PARTS)
    stored = stored._replace(buy=replace(stored.buy, client_trusts_lsp=False))
    house.revive(stored, said=snapshot(*([channel(**facts)] if listed else [])))
    for asked in [each for each in house.orders if isinstance(each, Broadcast)]:  # found in listclosedchannels
        house.orders += house.core.handle(JIT, asked.payment_hash, Input.FUNDING_BROADCAST, None)
    for asked in [each for each in house.orders if isinstance(each, Undo)]:
        house.orders += house.core.handle(JIT, asked.payment_hash, Input.UNDONE, None)
    house.orders += house.core.tick(0, END_MS)
    assert house.core.buys == {}
    assert house.kinds()[-2:] == ["Finalize", "ForgetBuy"]


def test_a_public_channel_that_closes_while_we_were_away_is_waited_for() -> None:
    """people:S17: its money is not back before a block has the close."""
    house = House()
    said = snapshot(channel(state="CLOSINGD_COMPLETE", funding={"withheld": False}, short_channel_id="100x1x0"))
    house.revive(record("forwards", CHANNEL, PARTS), said=said)
    house.core.tick(0, END_MS)
    assert list(house.core.buys) == [JIT]
    house.orders += house.core.money_back(ID)
    assert house.core.buys == {}
