"""What goes wrong, as sentences: refusals, deadlines, lost channels, a journal that fails, the end of the plugin."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest

from fsm.scene import (
    CHANNEL,
    CLTV,
    FEE,
    FUNDING,
    HASH,
    HEIGHT,
    LIMITS,
    OTHER_HASH,
    PREIMAGE,
    PUBLIC,
    SCID,
    SECOND_CHANNEL,
    SIZE,
    TERMS,
    UPSTREAM,
    VARIABLE,
    WALL_MS,
    Scene,
    both_modes,
    failed,
    kinds,
)
from lsps2fast import actions as order
from lsps2fast._table import Input, State
from lsps2fast.actions import TEMPORARY, UNKNOWN_NEXT_PEER
from lsps2fast.errors import ProtocolBug

Play = partial[Scene]
UNDO_FUNDING = order.Undo(SCID, HASH, None, FUNDING)
UNDO_CHANNEL = order.Undo(SCID, HASH, CHANNEL, FUNDING)


# The open is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "failure"), [("rejected", UNKNOWN_NEXT_PEER), ("refused", TEMPORARY)])
def test_a_refused_open_fails_all_parts_at_once_and_the_offer_stays(scene: Play, word: str, failure: str) -> None:
    """O-08, O-09, O-20, T4, T27: the client's refusal is permanent, our own trouble is not; both can be tried again."""
    play = scene()
    play.part(400_000)
    play.part(600_000)
    play.walk("reserved stored")
    assert play.walk(word) == (failed([0, 1], failure), UNDO_FUNDING)
    assert play.part() == (failed([2]),)  # the lock is held until the coins are free
    assert kinds(play.walk("undone")) == ["Reset"]
    assert play.state is State.FAILED
    play.forward()


def test_no_coins_is_no_attempt_and_leaves_nothing_to_undo(scene: Play) -> None:
    """O-09, T27, C-16: empty the wallet as often as you like, then fund it and the payment goes through."""
    play = scene()
    for number in range(7):
        assert kinds(play.part()) == ["ReserveCoins"]
        assert play.walk("refused") == (failed([number]),)
    assert play.buy.attempts == 0
    play.forward()


def test_after_five_opened_channels_the_offer_is_used_up(scene: Play) -> None:
    """C-16, C-26: a client that rejects, or fails its parts, does not cost us opens without end."""
    play = scene()
    for _ in range(5):
        play.walk("part reserved stored rejected undone")
    assert play.part() == (failed([5], UNKNOWN_NEXT_PEER),)
    assert play.of(order.Reset)[-1].journal.attempts == 5


def test_a_channel_opened_by_the_last_attempt_can_still_be_paid_for(scene: Play) -> None:
    """C-16 limits opening; over the channel that exists nothing more is opened (O-13)."""
    play = scene(**PUBLIC, limits={"max_attempts": 1})
    play.walk("part reserved stored funded stored unready")
    assert kinds(play.part()) == ["Broadcast", "AwaitReady"]


# The channel does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "failure"),
    [
        ({"to_self_delay_blocks": 2017}, UNKNOWN_NEXT_PEER),
        ({"htlc_minimum_msat": SIZE - FEE + 1}, TEMPORARY),
        ({"spendable_msat": SIZE - FEE - 1}, TEMPORARY),
        ({"max_in_flight_msat": SIZE - FEE - 1}, TEMPORARY),
    ],
)
@pytest.mark.parametrize("early", [True, False], ids=["known at the open", "known when usable"])
def test_a_channel_that_does_not_fit_is_dropped(
    scene: Play, early: bool, limits: dict[str, int], failure: str
) -> None:
    """O-05, O-06, T21: nothing was forwarded, nothing is public."""
    play = scene()
    misfit = LIMITS._replace(**limits)
    channel = CHANNEL._replace(limits=misfit if early else None)
    play.walk("part reserved stored")
    orders = play.tell(Input.FUNDED, channel) + play.tell(Input.READY, misfit)
    assert orders[-2:] == (failed([0], failure), UNDO_CHANNEL)
    assert play.state is State.ABORTING


@pytest.mark.parametrize(
    "limits",
    [
        {"to_self_delay_blocks": 2016},
        {"htlc_minimum_msat": SIZE - FEE},
        {"spendable_msat": SIZE - FEE},
        {"max_in_flight_msat": SIZE - FEE},
    ],
)
@pytest.mark.parametrize("terms", both_modes())
def test_a_channel_that_just_fits_is_used(scene: Play, terms: dict[str, Any], limits: dict[str, int]) -> None:
    """O-05, O-06: the limits themselves are allowed."""
    play = scene(**terms)
    assert play.forward(limits=LIMITS._replace(**limits)).parts[0].forward_msat == SIZE - FEE


@pytest.mark.parametrize("limits", [{"to_self_delay_blocks": 2017}, {"htlc_minimum_msat": SIZE}])
def test_a_misfit_known_at_the_open_is_never_broadcast(scene: Play, limits: dict[str, int]) -> None:
    """O-01, O-05, O-06: in the careful client's mode the checks come before the funding is sent."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    play.tell(Input.FUNDED, CHANNEL._replace(limits=LIMITS._replace(**limits)))
    assert play.of(order.Broadcast) == []
    assert play.of(order.Undo) == [UNDO_CHANNEL]


def test_a_misfit_found_too_late_leaves_the_public_channel_alone(scene: Play) -> None:
    """O-05, O-13: it is on chain; the parts fail, nothing is undone."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent")
    assert play.walk("slow")[0] == failed([0], UNKNOWN_NEXT_PEER)
    assert play.state is State.FAILED
    assert play.of(order.Undo) == []


def test_the_clients_minimum_is_known_from_the_first_channel_on(scene: Play) -> None:
    """O-06, H-03, T19, C-04: parts below it are refused on arrival, alone, and nothing is opened for them."""
    play = scene()
    play.part(999_500)
    play.part(500)
    play.walk("reserved stored funded")
    orders = play.tell(Input.READY, LIMITS._replace(htlc_minimum_msat=1_000))
    assert orders == (failed([0, 1]), UNDO_CHANNEL)
    play.walk("undone")
    assert play.part(999) == (failed([2], "100b00000000000003e70000"),)
    assert play.part(1_000) == ()


def test_channel_ready_of_a_withheld_channel_never_comes(scene: Play) -> None:
    """O-13, K-22: it is dropped, the offer stays."""
    play = scene()
    play.walk("part reserved stored funded")
    assert play.walk("unready") == (failed([0]), UNDO_CHANNEL)
    assert kinds(play.walk("undone")) == ["Reset"]
    assert play.buy.channel is None


def test_channel_ready_of_a_public_channel_never_comes(scene: Play) -> None:
    """O-13, X-14, K-22: it is kept for the next payment, its fee unpaid."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent")
    assert kinds(play.walk("unready")) == ["FailParts", "RestoreFees", "Reset"]
    assert play.of(order.Undo) == []
    assert play.buy.channel == CHANNEL


# Deadlines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("road", "orders"),
    [
        ("part", []),
        ("part reserved", []),
        ("part reserved stored", []),
        ("part reserved stored funded", ["Undo"]),
        ("part reserved stored funded ready", []),
    ],
)
def test_parts_near_their_expiry_are_failed_whatever_is_under_way(scene: Play, road: str, orders: list[str]) -> None:
    """K-06, T28, rule 5: failing late would cost the channel upstream."""
    play = scene()
    play.walk(road)
    assert "FailParts" not in kinds(play.block(CLTV - 7))
    actions = play.block(CLTV - 6)
    assert actions[0] == failed([0])
    assert kinds(actions[1:]) == orders
    assert play.state is State.ABORTING


def test_a_forwarded_part_is_not_failed_near_its_expiry(scene: Play) -> None:
    """T28, rule 5: the client can still claim it; lightningd watches the two sides."""
    play = scene()
    play.forward()
    play.block(CLTV - 6)
    play.block(CLTV + 1)
    assert play.of(order.FailParts) == []
    assert kinds(play.walk("settled")) == ["Broadcast"]


def test_the_earliest_expiry_counts_also_when_it_comes_late(scene: Play) -> None:
    """K-06: m is the smallest expiry of the held parts."""
    play = scene()
    play.part(400_000)
    play.part(300_000, cltv=CLTV - 50)
    assert play.block(CLTV - 57) == ()
    assert play.block(CLTV - 56) == (failed([0, 1]),)


@pytest.mark.parametrize("road", ["", " settled"])
def test_a_late_part_whose_record_takes_too_long_is_failed_in_time(scene: Play, road: str) -> None:
    """K-06, rule 5: a hanging journal does not hold a part into its expiry; the others stay out."""
    play = scene()
    play.forward()
    play.walk(road)
    play.part(50_000, cltv=CLTV + 10)
    play.block(CLTV)
    assert play.block(CLTV + 3) == ()
    assert play.block(CLTV + 4) == (failed([1]),)
    assert play.walk("stored") == ()


@pytest.mark.parametrize(
    ("road", "late", "undo"),
    [
        ("part", ("reserved",), UNDO_FUNDING),
        ("part reserved", ("stored",), UNDO_FUNDING),
        ("part reserved", ("unstored",), UNDO_FUNDING),
        ("part reserved stored", ("funded",), UNDO_CHANNEL),
        ("part reserved stored", ("refused",), UNDO_FUNDING),
        ("part reserved stored funded ready", ("stored",), UNDO_CHANNEL),
        ("part reserved stored funded ready", ("unstored",), UNDO_CHANNEL),
    ],
)
def test_a_result_after_the_deadline_is_undone(
    scene: Play, road: str, late: tuple[str], undo: order.Undo
) -> None:
    """K-19, T5: no orphan channel, no coins left reserved, and the lock is held until then."""
    play = scene()
    play.walk(road)
    play.walk("deadline")
    assert play.walk(*late) == (undo,)
    assert play.buy.holder is play.session
    assert kinds(play.walk("undone")) == ["Reset"]
    assert play.buy.holder is None


def test_no_coins_after_the_deadline_is_the_end(scene: Play) -> None:
    """K-19: nothing was made, nothing is undone."""
    play = scene()
    play.walk("part deadline")
    assert play.walk("refused") == ()
    assert play.state is State.FAILED


def test_a_public_channel_survives_a_deadline_while_its_forwards_are_journalled(scene: Play) -> None:
    """O-13, K-06: the lock is held until the journal has answered, so that its answer reaches nobody else."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent ready")
    assert play.walk("deadline") == (failed([0]),)
    assert play.state is State.ABORTING
    fees, reset = play.walk("stored")
    assert (fees, reset.journal.channel) == (order.RestoreFees(CHANNEL.channel_id), CHANNEL)
    assert play.of(order.Undo) == []


def test_heights_running_backwards_do_no_harm(scene: Play) -> None:
    """R2: lightningd rolls back at its start; the highest height counts."""
    play = scene()
    play.walk("half")
    play.block(HEIGHT + 300)
    for height in range(HEIGHT - 30, HEIGHT + 300, 30):
        assert play.block(height) == ()
    assert play.core.height == HEIGHT + 300
    assert play.part(500_000, cltv=HEIGHT + 100) == (failed([1], "100e0000"),)


# The offer ends ---------------------------------------------------------------------------------------


def test_an_incomplete_payment_fails_for_good_when_the_offer_ends(scene: Play) -> None:
    """C-07, T24, X-06: at valid_until itself, with the permanent code; the record goes."""
    play = scene(valid_until_ms=WALL_MS + 10_000)
    play.walk("half")
    assert play.wait(9_999) == ()
    assert play.wait(1) == (failed([0], UNKNOWN_NEXT_PEER), order.ForgetBuy(SCID, "Timeout"))
    assert play.part() == (failed([1], UNKNOWN_NEXT_PEER),)


def test_the_part_that_completes_a_payment_too_late_does_not_open_a_channel(scene: Play) -> None:
    """C-08, T24: one millisecond is too late, also when the clock was not fed in between."""
    play = scene(valid_until_ms=WALL_MS + 10_000)
    play.part(400_000)
    play.wall_ms += 10_000
    assert play.part(600_000) == (
        failed([0], UNKNOWN_NEXT_PEER),
        order.ForgetBuy(SCID, "Timeout"),
        failed([1], UNKNOWN_NEXT_PEER),
    )


@pytest.mark.parametrize(
    ("terms", "road"),
    [
        ({}, "reserved stored funded ready stored settled sent settled2"),
        (PUBLIC, "reserved stored funded stored sent ready stored settled settled2"),
    ],
)
def test_an_offer_that_ends_does_not_disturb_a_payment_under_way(
    scene: Play, terms: dict[str, Any], road: str
) -> None:
    """C-12, K-16, T24: a late part still joins it; another payment gets the permanent code."""
    play = scene(**terms)
    play.part()
    assert play.walk("expired") == ()
    assert play.part(50_000) == ()
    assert play.part(payment_hash=OTHER_HASH) == (failed([2], UNKNOWN_NEXT_PEER),)
    assert kinds(play.walk(road)) == ["Finalize", "RestoreFees", "ForgetBuy"]
    assert play.of(order.RestoreFees) == [order.RestoreFees(CHANNEL.channel_id, 0)]
    assert play.core.buys == {}


@pytest.mark.parametrize(
    ("terms", "road", "outcome"),
    [
        ({}, "reserved stored rejected undone", "Failed"),
        ({}, "reserved stored funded unready undone", "Abandoned"),
        (PUBLIC, "reserved stored funded stored unready", "Failed"),
        ({}, "reserved stored funded ready stored settled sent", "Succeeded"),
    ],
)
def test_a_payment_that_ends_after_its_offer_takes_the_buy_with_it(
    scene: Play, terms: dict[str, Any], road: str, outcome: str
) -> None:
    """K-15, K-16: one final record, then nothing is left."""
    play = scene(**terms)
    play.walk("part expired " + road)
    assert [final.outcome for final in play.of(order.Finalize)] == [outcome]
    assert play.orders[-1] == order.ForgetBuy(SCID, outcome)
    assert play.core.buys == {}
    assert play.of(order.Reset) == []


def test_a_public_channel_nobody_paid_for_ends_as_failed(scene: Play) -> None:
    """O-13, A-07."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored unready")
    final, forget = play.walk("expired")
    assert (final.journal.stage, final.journal.channel.channel_id, final.outcome) == ("channel", "c" * 64, "Failed")
    assert forget == order.ForgetBuy(SCID, "Failed")


# Strangers and odd parts --------------------------------------------------------------------------------


def test_the_31st_part_fails_the_set_and_the_offer_survives(scene: Play) -> None:
    """C-10, T26, C-09: with the temporary code; the payer can come back with fewer parts."""
    play = scene()
    for _ in range(30):
        assert play.part(1_000) == ()
    assert play.part(1_000) == (failed(list(range(31))),)
    play.forward()


def test_too_many_parts_while_opening_fail_alone(scene: Play) -> None:
    """C-10, C-18, T26: a stranger with the invoice does not end a payment that is complete."""
    play = scene()
    play.part()
    for _ in range(29):
        assert play.part(1) == ()
    assert play.part(1) == (failed([30]),)
    assert play.state is State.OPENING


def test_late_parts_do_not_grow_a_session_without_end(scene: Play) -> None:
    """C-10, rule 14: 483 in its whole life, what one channel can hold."""
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
    """C-24, C-22, T26."""
    play = scene(**VARIABLE)
    assert play.part(FEE) == (failed([0], UNKNOWN_NEXT_PEER),)
    assert kinds(play.part()) == ["ReserveCoins"]


def test_a_part_worth_nothing_is_refused(scene: Play) -> None:
    """C-04, H-03: even where the buy expects no minimum."""
    play = scene()
    play.buy.floor_msat = 0
    assert play.part(0, amount_msat=5) == (failed([0], "100b00000000000000000000"),)


def test_a_part_under_another_scid_or_hash_than_before_is_a_bug(scene: Play) -> None:
    """Rule 3: one HTLC is one part of one payment; the caller must not guess."""
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
    """Rule 11, K-23, T32: the parts fail for now, what was made is undone, and the next try works."""
    play = scene(**terms)
    play.walk(road)
    sent_before = len(play.of(order.Broadcast))
    assert play.walk("unstored")[0] == failed([0])
    assert play.of(order.Undo) == undo
    assert len(play.of(order.Broadcast)) == sent_before
    assert play.of(order.ForwardParts) == []


# The channel goes -----------------------------------------------------------------------------------------


def test_a_withheld_channel_closes_with_parts_in_it(scene: Play) -> None:
    """A3, K-13: no event comes for them; coins are released, the offer stays."""
    play = scene()
    play.forward(600_000, 400_000)
    assert play.walk("closed") == (UNDO_CHANNEL,)
    play.walk("undone")
    assert play.state is State.ABANDONED
    assert (play.core.index, play.core.live) == ({}, 0)
    play.forward()


def test_a_preimage_after_giving_up_is_broadcast(scene: Play) -> None:
    """K-11, rule 8: the client has paid for its channel, whatever we thought before."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("closed")
    alarm, broadcast = play.resolved(0, PREIMAGE)
    assert broadcast == order.Broadcast(SCID, HASH, CHANNEL)
    assert HASH.hex() in alarm.text
    assert play.walk("undone") == ()
    assert play.resolved(1) == ()
    assert kinds(play.walk("sent")) == ["Finalize"]
    assert play.state is State.SUCCEEDED
    assert play.part() == (failed([2], UNKNOWN_NEXT_PEER),)  # nothing goes into a closed channel


def test_a_rescued_payment_settles_its_other_part_too(scene: Play) -> None:
    """K-11: both parts were written off when the channel closed; the count of open ones stays right."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("closed settled")
    assert play.resolved(1, PREIMAGE) == ()
    assert (play.session.out, play.session.settled) == (0, 2)
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


def test_a_part_reported_lost_and_then_paid_counts_as_paid(scene: Play) -> None:
    """K-11: the preimage proves it."""
    play = scene()
    play.forward(600_000, 400_000)
    play.resolved(0)
    assert kinds(play.resolved(0, PREIMAGE)) == ["Broadcast"]
    assert (play.session.out, play.session.settled) == (1, 1)


def test_a_channel_that_closes_before_its_funding_was_sent_raises_an_alarm(scene: Play) -> None:
    """Rule 8, A3: parts that get no event any more do not keep the session open."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("settled")
    (alarm,) = play.walk("closed")
    assert CHANNEL.channel_id in alarm.text
    assert play.resolved(1, PREIMAGE) == ()
    assert play.session.out == 0
    play.walk("sent")
    assert play.state is State.SUCCEEDED


def test_a_closed_channel_takes_no_late_parts(scene: Play) -> None:
    """A3, rule 2: they would get the permanent code from lightningd."""
    play = scene(**PUBLIC)
    play.forward(600_000, 400_000)
    play.walk("late closed")
    assert play.orders[-1] == failed([2])
    assert play.part(50_000) == (failed([3]),)


def test_a_dead_public_channel_is_never_followed_by_a_second_one(scene: Play) -> None:
    """Rule 2, K-02, K-03."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent")
    assert kinds(play.walk("closed")) == ["FailParts", "Reset"]
    assert play.part() == (failed([1], UNKNOWN_NEXT_PEER),)
    assert len(play.of(order.OpenChannel)) == 1


def test_parts_in_a_public_channel_that_closes_are_resolved_on_chain(scene: Play) -> None:
    """A3, K-10: lightningd goes on telling what becomes of them."""
    play = scene(**PUBLIC)
    play.forward(600_000, 400_000)
    assert play.walk("closed") == ()
    play.resolved(0)
    assert kinds(play.resolved(1, PREIMAGE)) == ["Finalize"]
    assert play.part() == (failed([2], UNKNOWN_NEXT_PEER),)


def test_the_same_payment_opens_a_second_channel_only_after_the_first_is_undone(scene: Play) -> None:
    """K-02, K-03, rule 2: until then its parts fail for now."""
    play = scene()
    play.walk("part reserved stored funded unready")
    assert play.part() == (failed([1]),)
    assert play.of(order.OpenChannel) == [order.OpenChannel(SCID, HASH, FUNDING)]
    play.walk("undone part reserved stored")
    play.tell(Input.FUNDED, SECOND_CHANNEL)
    play.walk("ready stored")
    assert play.of(order.ForwardParts)[0].channel_id == SECOND_CHANNEL.channel_id


# Reservations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["", "ready stored", "ready stored settled"])
def test_the_reservation_is_renewed_as_long_as_the_funding_is_withheld(scene: Play, road: str) -> None:
    """O-04, T8, rule 7: long before the 72 blocks are over, again and again."""
    play = scene()
    play.walk("part reserved stored funded " + road)
    assert play.block(HEIGHT + 59) == ()
    for start in (HEIGHT + 60, HEIGHT + 120, HEIGHT + 180):
        (renew,) = play.block(start)
        assert renew == order.RenewInputs(SCID, HASH, FUNDING._replace(reserved_to_block=start + 72))
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
    """Rule 17, W12, T50: forwarded ones stay, the journal and the channel too; what comes later fails at once."""
    play = scene()
    play.walk(road)
    failures = (failed(parts),) if parts else ()
    assert play.shutdown() == failures
    assert play.state is state
    assert play.part(1_000, payment_hash=OTHER_HASH, htlc_id=90) == (failed([90]),)


# Nothing stays behind -------------------------------------------------------------------------------------


def test_many_short_payments_leave_nothing_behind(scene: Play) -> None:
    """Rule 14: the queues for time and height do not keep what has ended, however far its height is."""
    play = scene(**VARIABLE)
    for number in range(20_000):
        play.core.part(SCID, HASH, UPSTREAM, number, FEE, FEE, CLTV, CLTV - 144, play.now_ms, play.wall_ms)
    assert (play.core.live, play.core.index, play.core.by_hash) == (0, {}, {})
    gc.collect()
    part = play.machine.fsm.Part
    assert sum(type(thing) is part for thing in gc.get_objects()) < 2_000


def test_a_buy_with_a_payment_is_not_taken_away(scene: Play) -> None:
    """C-17: its parts would have nobody to answer them."""
    play = scene()
    play.walk("half")
    with pytest.raises(ProtocolBug, match="under way"):
        play.core.forget_buy(SCID)
    play.walk("due")
    play.core.forget_buy(SCID)
    with pytest.raises(ProtocolBug, match="not live"):
        play.core.forget_buy(SCID)
    assert play.core.buys == {}


def test_a_live_scid_is_not_sold_twice(scene: Play) -> None:
    """B-11, rule 3."""
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
