"""What goes wrong on the way to a channel, as sentences: refusals, misfits, deadlines, an offer that ends."""

from __future__ import annotations

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
    LIMITS,
    OTHER_HASH,
    PREIMAGE,
    PUBLIC,
    SCID,
    SIZE,
    UPSTREAM,
    WALL_MS,
    Scene,
    both_modes,
    failed,
    kinds,
)
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import TEMPORARY, UNKNOWN_NEXT_PEER
from lsps2fast.table import Input, State

Play = partial[Scene]
UNDO_FUNDING = order.Undo(SCID, HASH, None, FUNDING)
OTHERS = replace(FUNDING, psbt="other coins", inputs=("cc" * 32 + ":7",))
UNDO_CHANNEL = order.Undo(SCID, HASH, CHANNEL, FUNDING)


# The open is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "failure"), [("rejected", UNKNOWN_NEXT_PEER), ("refused", TEMPORARY)])
def test_a_refused_open_fails_all_parts_at_once_and_the_offer_stays(scene: Play, word: str, failure: str) -> None:
    """O-08, O-09, O-20, trap:4, trap:27: the client's refusal is permanent, our own trouble is not; both can be tried
    again.
    """
    play = scene()
    play.part(400_000)
    play.part(600_000)
    play.walk("reserved stored")
    assert play.walk(word) == (failed([0, 1], failure), UNDO_FUNDING)
    assert play.part() == (failed([2]),)  # the lock is held until the coins are free
    assert kinds(play.walk("undone")) == ["Reset"]
    assert play.state is State.FAILED
    play.forward()


def test_other_coins_are_journalled_before_the_open_goes_on(scene: Play) -> None:
    """K-02, C-16: a chosen coin was taken; the record names the new ones first, and it stays one attempt."""
    play = scene()
    play.part()
    play.walk("reserved stored")
    (persist,) = play.tell(Input.COINS_CHOSEN, OTHERS)
    assert isinstance(persist, order.Persist)
    assert (persist.record.stage, persist.record.funding, persist.record.attempts) == ("intent", OTHERS, 1)
    assert play.walk("stored") == (order.OpenChannel(SCID, HASH, OTHERS),)
    assert play.walk("refused")[-1] == order.Undo(SCID, HASH, None, OTHERS)


def test_other_coins_for_a_payment_given_up_are_given_back(scene: Play) -> None:
    """K-19, rule:9: chosen when they were no longer wanted."""
    play = scene()
    play.part()
    play.walk("reserved stored deadline")
    assert play.tell(Input.COINS_CHOSEN, OTHERS) == (order.Undo(SCID, HASH, None, OTHERS),)


def test_no_coins_is_no_attempt_and_leaves_nothing_to_undo(scene: Play) -> None:
    """O-09, trap:27, C-16: empty the wallet as often as you like, then fund it and the payment goes through."""
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
    assert play.of(order.Reset)[-1].record.attempts == 5


def test_a_set_that_was_collecting_when_the_offer_was_used_up_is_refused(scene: Play) -> None:
    """C-16: for good, when it is complete."""
    play = scene(limits={"max_attempts": 1})
    play.part(400_000, payment_hash=OTHER_HASH)
    play.walk("part reserved stored rejected undone")
    assert play.part(600_000, payment_hash=OTHER_HASH) == (failed([0, 2], UNKNOWN_NEXT_PEER),)


def test_a_channel_opened_by_the_last_attempt_can_still_be_paid_for(scene: Play) -> None:
    """C-16 limits opening; over the channel that exists nothing more is opened (O-13)."""
    play = scene(**PUBLIC, limits={"max_attempts": 1})
    play.walk("part reserved stored funded stored unready sent")
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
def test_a_channel_that_does_not_fit_is_dropped(scene: Play, early: bool, limits: dict[str, int], failure: str) -> None:
    """O-05, O-06, trap:21: nothing was forwarded, nothing is public."""
    play = scene()
    misfit = replace(LIMITS, **limits)
    channel = order.Opened(CHANNEL, misfit if early else None)
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
    assert play.forward(limits=replace(LIMITS, **limits)).parts[0].out_msat == SIZE - FEE


@pytest.mark.parametrize("limits", [{"to_self_delay_blocks": 2017}, {"htlc_minimum_msat": SIZE}])
def test_a_misfit_known_at_the_open_is_never_broadcast(scene: Play, limits: dict[str, int]) -> None:
    """O-01, O-05, O-06: in the careful client's mode the checks come before the funding is sent."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    play.tell(Input.FUNDED, order.Opened(CHANNEL, replace(LIMITS, **limits)))
    assert play.of(order.Broadcast) == []
    assert play.of(order.Undo) == [UNDO_CHANNEL]


def test_a_misfit_found_too_late_leaves_the_public_channel_alone(scene: Play) -> None:
    """O-05, O-13: it is on chain; the parts fail, nothing is undone."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent")
    assert play.walk("slow")[0] == failed([0], UNKNOWN_NEXT_PEER)
    assert play.state is State.FAILED
    assert play.of(order.Undo) == []


PICKY = replace(LIMITS, htlc_minimum_msat=1_000)


@pytest.mark.parametrize(
    ("terms", "early", "road"),
    [
        ({}, PICKY, "picky stored"),
        ({}, None, "picky stored"),
        (PUBLIC, PICKY, "stored sent picky"),
        (PUBLIC, LIMITS, "stored sent picky stored"),
        (PUBLIC, None, "stored sent picky stored"),
    ],
    ids=["trust, at the open", "trust, when usable", "public, at the open", "public, otherwise", "public, when usable"],
)
def test_a_strangers_crumbs_do_not_end_a_payment_that_is_complete_without_them(
    scene: Play, terms: dict[str, Any], early: order.ChannelLimits | None, road: str
) -> None:
    """trap:26, trap:19, O-06: too small for the client's minimum, they fail alone; so do the crumbs that come later."""
    play = scene(**terms)
    for value in (1, 600_000, 400_000, 1_000, 999):
        play.part(value)
    play.walk("reserved stored")
    play.tell(Input.FUNDED, order.Opened(CHANNEL, early))
    play.walk(road)
    (forwards,) = play.of(order.ForwardParts)
    assert forwards.parts == (
        order.Forward(UPSTREAM, 1, 600_000 - 6_004, 6_004),  # what the smallest cannot bear lies on the first
        order.Forward(UPSTREAM, 2, 400_000 - 3_996, 3_996),
        order.Forward(UPSTREAM, 3, 1_000, 0),
    )
    assert play.of(order.FailParts) == [failed([4, 0])]
    assert kinds(play.part(1_000)) == ["Persist"]
    assert play.part(999) == (failed([6], "100b00000000000003e70000"),)


@pytest.mark.parametrize("limit", ["spendable_msat", "max_in_flight_msat"])
def test_a_strangers_whale_does_not_end_a_payment_that_is_complete_without_it(scene: Play, limit: str) -> None:
    """trap:26, trap:21, O-06: what the channel cannot carry on top fails alone."""
    play = scene()
    play.part()
    play.part(50_000)
    play.part(700_000)
    play.part(60_000)
    play.walk("reserved stored funded")
    shed, _ = play.tell(Input.READY, replace(LIMITS, **{limit: SIZE - FEE + 50_000}))
    assert shed == failed([3, 2])
    (forwards,) = play.walk("stored")
    assert [part.out_msat + part.extra_fee_msat for part in forwards.parts] == [SIZE, 50_000]


def test_a_surplus_that_carries_the_fee_is_not_shed(scene: Play) -> None:
    """H-05, trap:26: a payment smaller than its own fee is not complete without what comes on top."""
    play = scene(payment_size_msat=5_000, limits={"overpay_ppm": 2_000_000})
    play.part(4_000)
    play.part(FEE)
    play.walk("reserved stored funded")
    assert play.tell(Input.READY, replace(LIMITS, spendable_msat=500)) == (failed([0, 1]), UNDO_CHANNEL)


def test_the_clients_minimum_is_known_from_the_first_channel_on(scene: Play) -> None:
    """O-06, H-03, trap:19, C-04: parts below it are refused on arrival, alone, and nothing is opened for them."""
    play = scene()
    play.part(999_500)
    play.part(500)
    play.walk("reserved stored funded")
    orders = play.tell(Input.READY, replace(LIMITS, htlc_minimum_msat=1_000))
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
    """K-06, trap:28, rule:5: failing late would cost the channel upstream."""
    play = scene()
    play.walk(road)
    assert "FailParts" not in kinds(play.block(CLTV - 7))
    actions = play.block(CLTV - 6)
    assert actions[0] == failed([0])
    assert kinds(actions[1:]) == orders
    assert play.state is State.ABORTING


def test_a_forwarded_part_is_not_failed_near_its_expiry(scene: Play) -> None:
    """trap:28, rule:5: the client can still claim it; lightningd watches the two sides."""
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
    """K-06, rule:5: a hanging journal does not hold a part into its expiry; the others stay out."""
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
def test_a_result_after_the_deadline_is_undone(scene: Play, road: str, late: tuple[str], undo: order.Undo) -> None:
    """K-19, K-04, trap:5: no orphan channel, no coins left reserved; no new session meets what comes of the old one."""
    play = scene()
    play.walk(road)
    play.walk("deadline")
    assert play.part(cltv=CLTV + 200, htlc_id=50) == (failed([50]),)
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
    """O-13, K-06: the lock is held until the journal has answered, so that its answer reaches no other session."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent ready")
    assert play.walk("deadline") == (failed([0]),)
    assert play.state is State.ABORTING
    fees, reset = play.walk("stored")
    assert (fees, reset.record.channel) == (order.RestoreFees(CHANNEL.channel_id), CHANNEL)
    assert play.of(order.Undo) == []


def test_a_write_under_way_when_a_public_channel_closes_is_awaited(scene: Play) -> None:
    """rule:2, rule:11: its result must not reach the next payment with this hash, whose intent is not written yet."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent ready")
    assert kinds(play.orders[-1:]) == ["Persist"]
    play.note(play.core.channel_closed(CHANNEL.channel_id))
    assert play.part() == (failed([1], TEMPORARY),)
    play.walk("stored")
    assert play.core.live == 0
    assert kinds(play.part()) == ["ReserveCoins"]
    play.walk("reserved")
    assert play.orders[-1].record.stage == "intent"


def test_heights_running_backwards_do_no_harm(scene: Play) -> None:
    """cln:R2: lightningd rolls back at its start; the highest height counts."""
    play = scene()
    play.walk("half")
    play.block(HEIGHT + 300)
    for height in range(HEIGHT - 30, HEIGHT + 300, 30):
        assert play.block(height) == ()
    assert play.core.height == HEIGHT + 300
    assert play.part(500_000, cltv=HEIGHT + 100) == (failed([1], "100e0000"),)


# The offer ends ---------------------------------------------------------------------------------------


def test_an_incomplete_payment_fails_for_good_when_the_offer_ends(scene: Play) -> None:
    """C-07, trap:24, X-06: at valid_until itself, with the permanent code; the record goes."""
    play = scene(valid_until_ms=WALL_MS + 10_000)
    play.walk("half")
    assert play.wait(9_999) == ()
    assert play.wait(1) == (failed([0], UNKNOWN_NEXT_PEER), order.ForgetBuy(SCID, "Timeout"))
    assert play.part() == (failed([1], UNKNOWN_NEXT_PEER),)


def test_the_part_that_completes_a_payment_too_late_does_not_open_a_channel(scene: Play) -> None:
    """C-08, trap:24: one millisecond is too late, also when the clock was not fed in between."""
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
def test_an_offer_that_ends_does_not_disturb_a_payment_under_way(scene: Play, terms: dict[str, Any], road: str) -> None:
    """C-12, K-16, trap:24: a late part still joins it; another payment gets the permanent code."""
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


@pytest.mark.parametrize("road", ["unready sent expired", "expired unready sent", "sent unready expired"])
@pytest.mark.parametrize("told", ["closed, then in a block", "in a block"])
def test_a_public_channel_nobody_paid_for_stays_until_its_money_is_back(scene: Play, road: str, told: str) -> None:
    """people:S17, rule:5, O-13, A-07: with an alarm; its record is final only when a block has the close."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored " + road)
    assert "unpaid" in play.of(order.Alarm)[-1].text
    assert (list(play.core.buys), play.of(order.ForgetBuy), play.of(order.Finalize)) == ([SCID], [], [])
    assert play.part() == (failed([1], UNKNOWN_NEXT_PEER),)
    if told != "in a block":
        assert play.core.channel_closed(CHANNEL.channel_id) == ()
        assert list(play.core.buys) == [SCID]
    final, forget = play.core.money_back(CHANNEL.channel_id)
    assert (final.record.stage, final.record.channel.channel_id, final.outcome) == ("channel", "c" * 64, "Unpaid")
    assert forget == order.ForgetBuy(SCID, "Unpaid")
    assert play.core.buys == {}


@pytest.mark.parametrize("told", ["closed, then in a block", "in a block"])
@pytest.mark.parametrize("road", ["lost expired", "expired lost"])
@pytest.mark.parametrize(("parts", "outcome"), [((SIZE,), "Unpaid"), ((SIZE // 2, SIZE // 2), "Underpaid")])
def test_money_that_is_back_before_the_payment_has_ended_is_not_waited_for(
    scene: Play, told: str, road: str, parts: tuple[int, ...], outcome: str
) -> None:
    """people:S17, rule:9: that a block has the close is told once, while parts are resolved on chain (cln:A3)."""
    play = scene(**PUBLIC)
    play.forward(*parts)
    if told != "in a block":
        play.note(play.core.channel_closed(CHANNEL.channel_id))
    play.note(play.core.money_back(CHANNEL.channel_id))
    for htlc_id in range(1, len(parts)):
        play.resolved(htlc_id, PREIMAGE)
    play.walk(road)
    assert play.orders[-2].record.channel.channel_id == CHANNEL.channel_id
    assert [final.outcome for final in play.of(order.Finalize)] == [outcome]
    assert play.orders[-1] == order.ForgetBuy(SCID, outcome)
    assert play.core.buys == {}


@pytest.mark.parametrize("road", ["lost expired", "expired lost"])
def test_a_late_part_that_bears_no_fee_is_a_payment_too(scene: Play, road: str) -> None:
    """rule:20, people:S17: it was taken and all that bore a fee failed: `Underpaid`, not `Unpaid`."""
    play = scene(**PUBLIC)
    play.forward()
    play.part(htlc_id=9)
    assert [part.extra_fee_msat for order_ in play.walk("stored") for part in order_.parts] == [0]
    play.resolved(9, PREIMAGE)
    play.note(play.core.money_back(CHANNEL.channel_id))
    play.walk(road)
    assert [final.outcome for final in play.of(order.Finalize)] == ["Underpaid"]
    assert play.orders[-1] == order.ForgetBuy(SCID, "Underpaid")


def test_what_is_owed_of_a_payment_without_a_fee_is_known_after_a_start(scene: Play) -> None:
    """rule:20, K-09: the whole fee, by the next payment, and the end is `Underpaid` after a start, too."""
    play = scene(**PUBLIC)
    play.forward()
    play.part(htlc_id=9)
    play.walk("stored")
    play.resolved(9, PREIMAGE)
    play.walk("lost")
    again = scene(**PUBLIC)
    assert again.core.restore(SCID, play.of(order.Reset)[-1].record, True) is None
    assert (again.buy.owed_msat, again.buy.fee_paid_msat) == (play.buy.owed_msat, 0) == (FEE, 0)


def test_money_that_is_back_before_the_payment_has_ended_lets_the_buy_open_another(scene: Play) -> None:
    """people:L9, people:S17."""
    play = scene(**PUBLIC)
    play.forward()
    play.note(play.core.money_back(CHANNEL.channel_id))
    play.walk("lost")
    assert (play.buy.channel, play.buy.closing, play.buy.closed) == (None, {}, CHANNEL)
    assert kinds(play.part()) == ["ReserveCoins"]
