"""What strangers, a failing journal, a lost channel and the end of the plugin may not do, as sentences."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLTV,
    FEE,
    FUNDING,
    HASH,
    HEIGHT,
    OTHER_CLIENT,
    OTHER_HASH,
    OTHER_SCID,
    OTHER_UPSTREAM,
    PREIMAGE,
    PUBLIC,
    SCID,
    SECOND_CHANNEL,
    TERMS,
    UPSTREAM,
    VARIABLE,
    Scene,
    failed,
    kinds,
)
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import UNKNOWN_NEXT_PEER
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import Input, State

Play = partial[Scene]
UNDO_FUNDING = order.Undo(SCID, HASH, None, FUNDING)
UNDO_CHANNEL = order.Undo(SCID, HASH, CHANNEL, FUNDING)


# Strangers and odd parts --------------------------------------------------------------------------------


def test_the_31st_part_fails_the_set_and_the_offer_survives(scene: Play) -> None:
    """C-10, trap:26, C-09: with the temporary code; the payer can come back with fewer parts."""
    play = scene()
    for _ in range(30):
        assert play.part(1_000) == ()
    assert play.part(1_000) == (failed(list(range(31))),)
    play.forward()


def test_too_many_parts_while_opening_fail_alone(scene: Play) -> None:
    """C-10, C-18, trap:26: a stranger with the invoice does not end a payment that is complete."""
    play = scene()
    play.part()
    for _ in range(29):
        assert play.part(1) == ()
    assert play.part(1) == (failed([30]),)
    assert play.state is State.OPENING


def test_late_parts_do_not_grow_a_session_without_end(scene: Play) -> None:
    """C-10, rule:14: 483 in its whole life, what one channel can hold."""
    play = scene()
    play.forward()
    for _ in range(482):
        assert kinds(play.part(1)) == ["Persist"]
        play.walk("stored")
    assert play.part(1) == (failed([483]),)
    assert len(play.session.parts) == 483


def test_a_part_that_no_fee_can_be_taken_from_fails_for_now(scene: Play) -> None:
    """H-05, C-10: too many parts near the floor; the same payment in fewer parts goes through."""
    play = scene(payment_size_msat=30, min_fee_msat=10)
    for _ in range(29):
        play.part(1)
    assert play.part(1) == (failed(list(range(30))),)
    assert play.forward(30).parts[0].extra_fee_msat == 10


@pytest.mark.parametrize(
    "road", ["", "reserved stored", "reserved stored funded", "reserved stored funded ready stored"]
)
@pytest.mark.parametrize("payment_hash", [HASH, OTHER_HASH], ids=["same hash", "other hash"])
def test_another_part_of_a_payment_without_size_fails_alone(scene: Play, road: str, payment_hash: bytes) -> None:
    """C-24, X-16: it neither joins nor disturbs."""
    play = scene(**VARIABLE)
    play.part()
    play.walk(road)
    before = play.state
    assert play.part(payment_hash=payment_hash) == (failed([1]),)
    assert play.state is before


def test_a_first_part_that_cannot_pay_the_fee_does_not_use_up_the_offer(scene: Play) -> None:
    """C-24, C-22, trap:26."""
    play = scene(**VARIABLE)
    assert play.part(FEE) == (failed([0], UNKNOWN_NEXT_PEER),)
    assert kinds(play.part()) == ["ReserveCoins"]


def test_a_part_worth_nothing_is_refused(scene: Play) -> None:
    """C-04, H-03: even where the buy expects no minimum."""
    play = scene()
    play.buy.floor_msat = 0
    assert play.part(0, amount_msat=5) == (failed([0], "100b00000000000000000000"),)


def test_a_part_under_another_scid_or_hash_than_before_is_a_bug(scene: Play) -> None:
    """rule:3: one HTLC is one part of one payment; the caller must not guess."""
    play = scene()
    play.part(500_000, htlc_id=3)
    with pytest.raises(ProtocolBug, match="another jit scid or payment hash"):
        play.part(500_000, htlc_id=3, payment_hash=OTHER_HASH)
    assert play.session.sum_msat == 500_000


# The journal fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "road", "undo"),
    [
        ({}, "part reserved", [UNDO_FUNDING]),
        (PUBLIC, "part reserved stored funded", [UNDO_CHANNEL]),
        ({}, "part reserved stored funded ready", [UNDO_CHANNEL]),
        (PUBLIC, "part reserved stored funded stored sent ready", []),
    ],
    ids=["intent", "channel", "forwards", "forwards of a public channel"],
)
def test_without_the_journal_nothing_irreversible_happens(
    scene: Play, terms: dict[str, Any], road: str, undo: list[order.Undo]
) -> None:
    """rule:11, K-23, trap:32: the parts fail for now, what was made is undone, and the next try works."""
    play = scene(**terms)
    play.walk(road)
    sent_before = len(play.of(order.Broadcast))
    assert play.walk("unstored")[0] == failed([0])
    assert play.of(order.Undo) == undo
    assert len(play.of(order.Broadcast)) == sent_before
    assert play.of(order.ForwardParts) == []


# The channel goes -----------------------------------------------------------------------------------------


def test_a_withheld_channel_closes_with_parts_in_it(scene: Play) -> None:
    """cln:A3, K-13: no event comes for them; coins are released, the offer stays."""
    play = scene()
    play.forward(600_000, 400_000)
    alarm, undo = play.walk("closed")
    assert (undo, "none of our coins go into it" in alarm.text) == (UNDO_CHANNEL, True)
    play.walk("undone")
    assert play.state is State.ABANDONED
    assert (list(play.core.index), play.core.live) == ([], 0)
    play.forward()


def test_a_preimage_after_giving_up_is_broadcast(scene: Play) -> None:
    """K-11, rule:8: the client has paid for its channel, whatever we thought before."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("closed")
    alarm, broadcast = play.resolved(0, PREIMAGE)
    assert broadcast == order.Broadcast(SCID, HASH, CHANNEL)
    assert HASH.hex() in alarm.text
    assert play.walk("undone") == ()
    assert play.resolved(1) == ()
    assert kinds(play.walk("sent")) == ["Reset"]
    assert play.state is State.UNDERPAID  # 6,000 of 10,000 msat
    assert play.part() == (failed([2], UNKNOWN_NEXT_PEER),)  # nothing goes into a closed channel


def test_a_rescued_payment_settles_its_other_part_too(scene: Play) -> None:
    """K-11: both parts were written off when the channel closed; the count of open ones stays right."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("closed settled")
    assert play.resolved(1, PREIMAGE) == ()
    assert (play.session.in_flight, play.session.fulfilled) == (0, 2)
    play.walk("sent")
    assert play.state is State.SUCCEEDED


def test_a_rescued_payment_has_its_coins_reserved_on(scene: Play) -> None:
    """K-11, O-04: the reservation came near its end while the channel was being given up."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("closed")
    play.block(FUNDING.reserved_to_block - 5)
    play.walk("settled")
    assert kinds(play.block(FUNDING.reserved_to_block - 4)) == ["RenewInputs"]


def test_a_channel_that_may_not_be_undone_is_kept(scene: Play) -> None:
    """K-11, O-13: the client's money is in it, so the undo put it on chain: it is public, and its fee not paid."""
    play = scene()
    play.forward(600_000, 400_000)
    play.resolved(0)
    play.resolved(1)
    fees, reset = play.walk("kept")
    assert play.state is State.FAILED
    assert fees == order.RestoreFees(CHANNEL.channel_id)
    assert (reset.record.stage, reset.record.channel, reset.record.funding) == ("channel", CHANNEL, None)
    assert kinds(play.part()) == ["Broadcast", "AwaitReady"]


def test_a_part_reported_lost_and_then_paid_counts_as_paid(scene: Play) -> None:
    """K-11: the preimage proves it."""
    play = scene()
    play.forward(600_000, 400_000)
    play.resolved(0)
    assert kinds(play.resolved(0, PREIMAGE)) == ["Broadcast"]
    assert (play.session.in_flight, play.session.fulfilled) == (1, 1)


def test_a_channel_that_closes_before_its_funding_was_sent_raises_an_alarm(scene: Play) -> None:
    """rule:8, cln:A3: parts that get no event any more do not keep the session open."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("settled")
    (alarm,) = play.walk("closed")
    assert CHANNEL.channel_id in alarm.text
    assert play.resolved(1, PREIMAGE) == ()
    assert play.session.in_flight == 0
    play.walk("sent")
    assert play.state is State.SUCCEEDED


def test_a_closed_channel_takes_no_late_parts(scene: Play) -> None:
    """cln:A3, rule:2: they would get the permanent code from lightningd."""
    play = scene(**PUBLIC)
    play.forward(600_000, 400_000)
    play.walk("late closed")
    assert play.orders[-1] == failed([2])
    assert play.part(50_000) == (failed([3]),)


def test_a_dead_public_channel_is_followed_by_a_second_one_within_limits(scene: Play) -> None:
    """people:L9, rule:2, C-16: one at a time, and never more than `max_attempts`."""
    play = scene(**PUBLIC, limits={"max_attempts": 2})
    for number in range(2):
        assert kinds(play.part()) == ["ReserveCoins"]
        play.walk("reserved stored funded stored sent")
        assert play.walk("closed")[0] == failed([number])
        assert (play.buy.channel, list(play.buy.closing)) == (None, [CHANNEL.channel_id])
    assert play.part() == (failed([2], UNKNOWN_NEXT_PEER),)
    assert len(play.of(order.OpenChannel)) == 2


def test_a_set_that_waits_while_a_closing_channel_is_paid_is_refused_for_good(scene: Play) -> None:
    """A-03, rule:2: there is nothing it could be forwarded over, and there will not be."""
    play = scene(**PUBLIC)
    play.part(300_000, payment_hash=OTHER_HASH)
    play.forward()
    play.walk("closed")
    assert play.resolved(1, PREIMAGE)[1:] == (failed([0], UNKNOWN_NEXT_PEER),)


def test_parts_in_a_public_channel_that_closes_are_resolved_on_chain(scene: Play) -> None:
    """cln:A3, K-10: lightningd goes on telling what becomes of them."""
    play = scene(**PUBLIC)
    play.forward(600_000, 400_000)
    assert play.walk("closed") == ()
    play.resolved(0)
    (reset,) = play.resolved(1, PREIMAGE)
    assert (reset.outcome, reset.record.fee_paid_msat, reset.record.opening_fee_msat) == ("Underpaid", 4_000, 6_000)
    assert list(play.buy.closing) == [CHANNEL.channel_id]


def test_the_same_payment_opens_a_second_channel_only_after_the_first_is_undone(scene: Play) -> None:
    """K-02, K-03, rule:2: until then its parts fail for now."""
    play = scene()
    play.walk("part reserved stored funded unready")
    assert play.part() == (failed([1]),)
    assert play.of(order.OpenChannel) == [order.OpenChannel(SCID, HASH, FUNDING)]
    play.walk("undone part reserved stored")
    play.tell(Input.FUNDED, order.Opened(SECOND_CHANNEL))
    play.walk("ready stored")
    assert play.of(order.ForwardParts)[0].channel_id == SECOND_CHANNEL.channel_id


# Reservations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["", "ready stored", "ready stored settled"])
def test_the_reservation_is_renewed_as_long_as_the_funding_is_withheld(scene: Play, road: str) -> None:
    """O-04, trap:8, rule:7: long before the 72 blocks are over, again and again."""
    play = scene()
    play.walk("part reserved stored funded " + road)
    assert play.block(HEIGHT + 59) == ()
    for start in (HEIGHT + 60, HEIGHT + 120, HEIGHT + 180):
        (renew,) = play.block(start)
        assert renew == order.RenewInputs(SCID, HASH, replace(FUNDING, reserved_to_block=start + 72))
        assert play.block(start + 59) == ()


def test_the_reservation_is_not_renewed_once_the_funding_is_sent(scene: Play) -> None:
    """O-04: the coins are spent."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("settled sent old")
    assert play.of(order.RenewInputs) == []


# The plugin ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("road", "parts", "state"),
    [
        ("half", [0], State.FAILED),
        ("part", [0], State.ABORTING),
        ("part reserved stored", [0], State.ABORTING),
        ("part reserved stored funded", [0], State.ABORTING),
        ("part reserved stored funded ready stored", [], State.AWAITING_SETTLEMENT),
        ("part reserved stored funded ready stored late", [1], State.AWAITING_SETTLEMENT),
        ("part reserved stored funded ready stored settled", [], State.BROADCASTING),
        ("part reserved stored funded ready stored settled late", [1], State.BROADCASTING),
        ("part reserved unstored", [], State.ABORTING),
    ],
)
def test_before_the_plugin_ends_every_held_part_fails_for_now(
    scene: Play, road: str, parts: list[int], state: State
) -> None:
    """rule:17, cln:W12, trap:50: forwarded ones stay, the journal and the channel too; what comes later fails at
    once.
    """
    play = scene()
    play.walk(road)
    failures = (failed(parts),) if parts else ()
    assert play.shutdown() == failures
    assert play.state is state
    assert play.part(1_000, payment_hash=OTHER_HASH, htlc_id=90) == (failed([90]),)
    assert play.part(1_000, htlc_id=91) == (failed([91]),)


# Nothing stays behind -------------------------------------------------------------------------------------


def test_many_short_payments_leave_nothing_behind(scene: Play) -> None:
    """rule:14: the queues for time and height do not keep what has ended, however far its height is."""
    play = scene(**VARIABLE)
    for number in range(20_000):
        play.core.part(play.machine.htlc(SCID, HASH, (UPSTREAM, number), FEE, CLTV), play.now_ms, play.wall_ms)
    assert (play.core.live, list(play.core.index), play.core.by_hash) == (0, [], {})
    gc.collect()
    session = play.machine.fsm.Session
    assert sum(type(thing) is session for thing in gc.get_objects()) < 10


def test_many_short_payments_do_not_make_a_waiting_one_forgotten(scene: Play) -> None:
    """C-05, K-06, rule:14: cleaning up keeps its time-out and its deadline."""
    play = scene(**VARIABLE)
    for number, payment_hash in enumerate((HASH, OTHER_HASH)):
        play.core.add_buy(OTHER_SCID + number, OTHER_CLIENT, TERMS)
        play.part(1_000, scid=OTHER_SCID + number, payment_hash=payment_hash, cltv=CLTV + 100 * number)
    for number in range(3_000):
        play.core.part(play.machine.htlc(SCID, HASH, (OTHER_UPSTREAM, number), FEE, CLTV), play.now_ms, play.wall_ms)
    assert play.walk("deadline") == (failed([0]),)
    assert play.core.next_due()[0] == play.now_ms + 90_000
    assert play.walk("due") == (failed([1]),)


def test_a_buy_with_a_payment_is_not_taken_away(scene: Play) -> None:
    """C-17: its parts would never be answered."""
    play = scene()
    play.walk("half")
    with pytest.raises(ProtocolBug, match="under way"):
        play.core.forget_buy(SCID)
    play.walk("due")
    play.core.forget_buy(SCID)
    with pytest.raises(ProtocolBug, match="not live"):
        play.core.forget_buy(SCID)
    assert play.core.buys == {}


def test_an_offer_that_is_taken_back_ends_like_one_that_lapses(scene: Play) -> None:
    """C-07, K-16: what collects fails for good, and the record goes."""
    play = scene()
    play.walk("half")
    assert play.core.cancel(SCID) == (failed([0], UNKNOWN_NEXT_PEER), order.ForgetBuy(SCID, "Timeout"))
    with pytest.raises(ProtocolBug, match="not live"):
        play.core.cancel(SCID)


def test_an_offer_is_not_taken_from_a_payment_under_way_nor_from_a_client_that_paid(scene: Play) -> None:
    """K-16, A-03: the one ends with its payment, the other was promised until valid_until."""
    play = scene()
    play.part()
    assert play.core.cancel(SCID) == ()
    assert kinds(play.walk("reserved stored funded ready stored settled sent"))[-1] == "ForgetBuy"
    play = scene()
    play.forward()
    play.walk("settled sent")
    with pytest.raises(ProtocolBug, match="alias"):
        play.core.cancel(SCID)


@pytest.mark.parametrize("kind", [Input.COINS_CHOSEN, Input.FUNDED, Input.OPEN_FAILED])
def test_something_made_for_no_payment_is_a_bug(scene: Play, kind: Input) -> None:
    """K-19, rule:9: coins or a channel that no session asked for must be told."""
    with pytest.raises(ProtocolBug, match="for no session"):
        scene().tell(kind)


def test_a_live_scid_is_not_sold_twice(scene: Play) -> None:
    """B-11, rule:3."""
    with pytest.raises(ProtocolBug, match="live already"):
        scene().core.add_buy(SCID, "02" + "33" * 32, TERMS)


def test_the_next_moment_to_wake_up_is_told(scene: Play) -> None:
    """K-25: one monotonic, one on the wall clock; payments that went on are no reason."""
    play = scene()
    assert play.core.next_due() == (None, TERMS.valid_until_ms)
    play.walk("half")
    assert play.core.next_due() == (play.now_ms + 90_000, TERMS.valid_until_ms)
    play.part(500_000)
    assert play.core.next_due() == (None, TERMS.valid_until_ms)
