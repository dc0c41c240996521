"""Payments that come through, as sentences: what arrives, what is ordered, what the client gets and what we keep."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLIENT,
    CLTV,
    FEE,
    FUNDING,
    HASH,
    LIMITS,
    OTHER_CLIENT,
    OTHER_HASH,
    OTHER_PREIMAGE,
    OTHER_SCID,
    OTHER_UPSTREAM,
    PREIMAGE,
    PUBLIC,
    SCID,
    SIZE,
    TERMS,
    UPSTREAM,
    VALID_UNTIL_MS,
    VARIABLE,
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


# From the first part to the end -----------------------------------------------------------------------


def test_a_trusting_client_gets_its_channel_and_the_funding_waits_for_the_preimage(scene: Play) -> None:
    """O-11, K-02, K-23, rule:2 and rule:8: intent, channel, forwards, preimage, broadcast, in this order."""
    play = scene()
    assert kinds(play.part()) == ["ReserveCoins"]
    (intent,) = play.walk("reserved")
    assert (intent.record.stage, intent.record.funding, intent.record.attempts) == ("intent", FUNDING, 1)
    assert play.walk("stored") == (order.OpenChannel(SCID, HASH, FUNDING),)
    assert play.walk("funded") == (order.AwaitReady(SCID, HASH, CHANNEL.channel_id),)
    (record,) = play.walk("ready")
    forward = order.Forward(UPSTREAM, 0, SIZE - FEE, FEE)
    assert record.record == order.SessionRecord("forwards", HASH, 1, FEE, FUNDING, CHANNEL, (forward,), None)
    assert play.walk("stored") == (order.ForwardParts(SCID, HASH, CHANNEL.channel_id, (forward,)),)
    assert play.walk("settled") == (order.Broadcast(SCID, HASH, CHANNEL),)
    final, fees = play.walk("sent")
    assert (final.outcome, final.record.stage, final.record.preimage) == ("Succeeded", "paid", PREIMAGE)
    assert fees == order.RestoreFees(CHANNEL.channel_id, VALID_UNTIL_MS)
    assert play.state is State.SUCCEEDED


def test_a_careful_client_sees_the_funding_on_chain_before_anything_is_forwarded(scene: Play) -> None:
    """O-10, O-12: the channel is journalled, broadcast and seen before the first part goes out."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    record, watch = play.walk("funded")
    assert (record.record.stage, record.record.channel) == ("channel", CHANNEL)
    assert watch == order.AwaitReady(SCID, HASH, CHANNEL.channel_id)
    assert play.walk("stored") == (order.Broadcast(SCID, HASH, CHANNEL),)
    assert play.walk("ready") == ()  # usable, but not in the mempool yet
    assert kinds(play.walk("sent")) == ["Persist"]
    assert kinds(play.walk("stored")) == ["ForwardParts"]
    assert kinds(play.walk("settled")) == ["Finalize", "RestoreFees"]
    assert len(play.of(order.Broadcast)) == 1


@pytest.mark.parametrize("last", [("sent", "ready"), ("ready", "sent")], ids=" ".join)
def test_what_is_known_at_the_open_is_journalled_with_the_channel(scene: Play, last: tuple[str, str]) -> None:
    """P16, rule:2, O-10: one record names channel and forwards before the funding is sent; they go out after it is."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    record, _ = play.walk("known")
    forward = order.Forward(UPSTREAM, 0, SIZE - FEE, FEE)
    assert record.record == order.SessionRecord("channel", HASH, 1, FEE, FUNDING, CHANNEL, (forward,), None)
    assert play.walk("stored") == (order.Broadcast(SCID, HASH, CHANNEL),)
    assert play.walk(last[0]) == ()
    assert play.walk(last[1]) == (order.ForwardParts(SCID, HASH, CHANNEL.channel_id, (forward,)),)
    assert play.walk("late")[0].record.stage == "forwards"  # a late part is written before it goes
    assert [part.htlc_id for part in play.walk("stored")[0].parts] == [1]
    assert kinds(play.walk("settled settled2")) == ["Finalize", "RestoreFees"]


@pytest.mark.parametrize(
    "when", ["known late stored sent ready", "known stored late sent ready", "known stored sent late ready"]
)
def test_a_part_that_comes_meanwhile_is_journalled_with_the_others(scene: Play, when: str) -> None:
    """P16, C-18, rule:2: the channel's record does not name it, so nothing goes out on that record."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    (record,) = play.walk(when)
    assert play.of(order.ForwardParts) == []
    assert [part.htlc_id for part in record.record.forwards] == [0, 1]
    assert record.record.stage == "forwards"
    assert [part.htlc_id for part in play.walk("stored")[0].parts] == [0, 1]


def test_a_channel_that_allows_something_else_in_the_end_is_journalled_anew(scene: Play) -> None:
    """P16, H-04: the fee lies differently on the parts than the channel's record says: the first keeps 1,000 msat."""
    play = scene(**PUBLIC, min_fee_msat=SIZE // 2)
    values = (1_500, SIZE - 1_500)
    for value in values:
        play.part(value)
    play.walk("reserved stored")
    told, _ = play.walk("known")
    play.walk("stored sent")
    (record,) = play.walk("picky")
    assert record.record.stage == "forwards"
    assert record.record.forwards != told.record.forwards
    assert [part.extra_fee_msat for part in told.record.forwards] == [750, SIZE // 2 - 750]
    assert [part.extra_fee_msat for part in record.record.forwards] == [500, SIZE // 2 - 500]
    assert play.walk("stored")[0].parts == record.record.forwards


def test_a_settlement_told_after_the_shutdown_is_taken(scene: Play) -> None:
    """cln:W12, rule:17, K-11: the set that waited on the same scid was failed by the shutdown and asks for nothing
    more.
    """
    play = scene(**PUBLIC)
    play.walk("other part reserved stored known stored sent ready")
    assert [State(session.state) for session in play.buy.sets.values()] == [State.COLLECTING, State.AWAITING_SETTLEMENT]
    play.shutdown()
    assert kinds(play.resolved(1, PREIMAGE)) == ["Finalize", "RestoreFees"]


def test_channel_ready_may_come_before_the_channel_is_journalled(scene: Play) -> None:
    """O-10, rule:2: the client was faster than our datastore; nothing goes out before both are told."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded")
    assert play.walk("ready") == ()
    assert kinds(play.walk("stored")) == ["Broadcast"]
    assert kinds(play.walk("sent")) == ["Persist"]


@pytest.mark.parametrize("terms", both_modes())
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 30])
def test_a_payment_in_one_to_thirty_parts_comes_through(scene: Play, terms: dict[str, Any], parts: int) -> None:
    """C-10, H-06, H-15: all parts leave together, and what is kept is the opening fee to the msat."""
    values = [SIZE // parts] * (parts - 1)
    values.append(SIZE - sum(values))
    play = scene(**terms)
    forwards = play.forward(*values).parts
    assert [part.out_msat + part.extra_fee_msat for part in forwards] == values
    assert sum(part.extra_fee_msat for part in forwards) == FEE
    for number in range(parts):
        assert play.state in (State.AWAITING_SETTLEMENT, State.BROADCASTING)
        play.resolved(number, PREIMAGE)
    play.walk("sent")
    assert play.state is State.SUCCEEDED
    assert play.of(order.Finalize)[0].outcome == "Succeeded"
    assert (list(play.core.index), play.core.live, play.buy.sets) == ([], 0, {})


@pytest.mark.parametrize("terms", both_modes())
def test_without_a_size_the_first_part_alone_decides(scene: Play, terms: dict[str, Any]) -> None:
    """C-20, C-21, H-19: the fee is that of its value."""
    play = scene(**VARIABLE, **terms, proportional=20_000)
    assert play.forward(3_000_000).parts == (order.Forward(UPSTREAM, 0, 2_940_000, 60_000),)


def test_two_parts_with_the_same_id_on_two_channels_are_two_parts(scene: Play) -> None:
    """C-03, K-01, rule:3: ids count per channel."""
    play = scene()
    play.part(400_000, htlc_id=0)
    assert kinds(play.part(600_000, htlc_id=0, in_scid=OTHER_UPSTREAM)) == ["ReserveCoins"]
    play.walk("reserved stored funded ready stored")
    assert play.resolved(0, PREIMAGE, in_scid=OTHER_UPSTREAM) == (order.Broadcast(SCID, HASH, CHANNEL),)
    assert play.session.in_flight == 1


def test_what_the_payer_adds_for_routing_stays_ours(scene: Play) -> None:
    """H-01, X-07: the onion's amount counts, not what came in."""
    play = scene(payment_size_msat=1000, min_fee_msat=100)
    play.part(1000, amount_msat=1010)
    play.walk("reserved stored funded ready stored")
    assert play.of(order.ForwardParts)[0].parts == (order.Forward(UPSTREAM, 0, 900, 100),)


def test_the_fee_of_an_overpaid_payment_is_that_of_its_size(scene: Play) -> None:
    """trap:17, F-04, H-06: the surplus is the client's."""
    play = scene(proportional=20_000)
    forwards = play.forward(700_000, 800_000).parts
    assert [part.extra_fee_msat for part in forwards] == [9_334, 10_666]  # H-04: 9,333.3 and 10,666.7
    assert sum(part.out_msat for part in forwards) == 1_480_000


# Parts that come late -------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["", "reserved", "reserved stored", "reserved stored funded"])
def test_a_part_that_comes_while_the_channel_is_made_goes_with_the_others(scene: Play, road: str) -> None:
    """C-18: it takes part in the allocation."""
    play = scene()
    play.part()
    play.walk(road)
    assert play.part(50_000) == ()
    rest = "reserved stored funded ready stored".removeprefix(road)
    (forwards,) = play.walk(rest)
    first, second = 9_524, 476  # of the fee, in proportion
    assert first + second == FEE
    assert forwards.parts == (
        order.Forward(UPSTREAM, 0, SIZE - first, first),
        order.Forward(UPSTREAM, 1, 50_000 - second, second),
    )


def test_a_part_that_comes_while_the_forwards_are_journalled_is_journalled_next(scene: Play) -> None:
    """C-18, H-16, rule:2: it was in no record, so it waits for its own."""
    play = scene()
    play.walk("part reserved stored funded ready")
    assert play.part(50_000) == ()
    forwards, record = play.walk("stored")
    assert [part.htlc_id for part in forwards.parts] == [0]
    assert [part.htlc_id for part in record.record.forwards] == [0, 1]
    (second,) = play.walk("stored")
    assert second.parts == (order.Forward(UPSTREAM, 1, 50_000, 0),)


def test_a_part_after_forwarding_follows_in_full(scene: Play) -> None:
    """C-18, F-05: no fee, no TLV, but journalled first (H-16, rule:2)."""
    play = scene()
    play.forward()
    (record,) = play.part(50_000)
    assert record.record.forwards[1] == order.Forward(UPSTREAM, 1, 50_000, 0)
    assert play.part(60_000) == ()  # one write at a time
    forwards, record = play.walk("stored")
    assert [part.htlc_id for part in forwards.parts] == [1]
    assert [part.htlc_id for part in record.record.forwards] == [0, 1, 2]
    assert [part.htlc_id for part in play.walk("stored")[0].parts] == [2]
    assert play.session.in_flight == 3


def test_a_late_part_keeps_the_session_open_until_it_is_resolved(scene: Play) -> None:
    """C-18, K-10: success waits for its journal and for its outcome."""
    play = scene()
    play.forward()
    play.walk("settled late sent")
    assert play.state is State.BROADCASTING
    assert kinds(play.walk("stored")) == ["ForwardParts"]
    play.walk("settled2")
    assert play.state is State.SUCCEEDED


def test_a_late_part_that_cannot_be_journalled_fails_alone(scene: Play) -> None:
    """rule:11, K-23: the payment itself goes on."""
    play = scene()
    play.forward()
    play.walk("late")
    assert play.walk("unstored") == (failed([1]),)
    assert kinds(play.walk("settled sent")) == ["Finalize", "RestoreFees"]


def test_after_success_the_scid_is_an_alias_without_fee_until_the_offer_ends(scene: Play) -> None:
    """A-03, A-08, trap:25, rule:6: nothing more is taken or owed; then it is unknown."""
    play = scene()
    play.forward()
    play.walk("settled sent")
    for payment_hash in (HASH, OTHER_HASH):
        (forwards,) = play.part(5_000, payment_hash=payment_hash)
        assert forwards.channel_id == CHANNEL.channel_id
        assert [(part.out_msat, part.extra_fee_msat) for part in forwards.parts] == [(5_000, 0)]
    assert (list(play.core.index), play.core.live) == ([], 0)
    assert play.walk("expired") == (order.ForgetBuy(SCID, "Succeeded"),)
    assert play.part(5_000) == (failed([3], UNKNOWN_NEXT_PEER),)


def test_an_alias_ends_with_the_offer_even_before_the_clock_was_fed(scene: Play) -> None:
    """A-03, X-06: the part itself brings the time."""
    play = scene()
    play.forward()
    play.walk("settled sent")
    play.wall_ms = VALID_UNTIL_MS
    assert play.part(5_000) == (order.ForgetBuy(SCID, "Succeeded"), failed([1], UNKNOWN_NEXT_PEER))


def test_a_set_that_waits_while_another_pays_leaves_without_a_second_fee(scene: Play) -> None:
    """A-03, C-14, F-05: its parts are plain forwards from that moment, and no fee is paid twice."""
    play = scene()
    play.part(300_000, payment_hash=OTHER_HASH)
    play.part(200_000, payment_hash=OTHER_HASH)
    play.forward()
    play.resolved(2, PREIMAGE)
    final, fees, forwards = play.tell(Input.FUNDING_BROADCAST)
    assert (final.outcome, kinds((fees,))) == ("Succeeded", ["RestoreFees"])
    assert [(part.htlc_id, part.out_msat, part.extra_fee_msat) for part in forwards.parts] == [
        (0, 300_000, 0),
        (1, 200_000, 0),
    ]
    assert (list(play.core.index), play.core.live, play.core.by_hash) == ([], 0, {})
    assert kinds(play.part(500_000, payment_hash=OTHER_HASH)) == ["ForwardParts"]


# A part fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", both_modes())
def test_one_part_of_three_fails_and_the_session_goes_on(scene: Play, terms: dict[str, Any]) -> None:
    """K-10, rule:10, trap:10: a payer that sends it again completes the payment, fee and all."""
    play = scene(**terms)
    play.forward(400_000, 300_000, 300_000)
    assert play.resolved(2) == ()
    assert play.part(300_000)[0].record.forwards[-1].extra_fee_msat == 3_000
    play.walk("stored")
    for number in (0, 1, 3):
        assert play.state is not State.SUCCEEDED
        play.resolved(number, PREIMAGE)
    play.walk("sent")
    assert play.state is State.SUCCEEDED


@pytest.mark.parametrize("outcomes", [(PREIMAGE, None), (None, PREIMAGE)], ids=["paid first", "lost first"])
def test_one_part_paid_and_one_lost_in_either_order_is_broadcast(
    scene: Play, outcomes: tuple[bytes | None, ...]
) -> None:
    """K-11: a preimage once seen leads to broadcast, nothing is undone. What is missing is owed (rule:20)."""
    play = scene()
    play.forward(600_000, 400_000)
    for number, outcome in enumerate(outcomes):
        play.resolved(number, outcome)
    play.walk("sent")
    assert play.state is State.UNDERPAID
    assert kinds(tuple(play.of(order.Broadcast))) == ["Broadcast"]
    assert play.of(order.Undo) == []


def test_the_fee_of_a_lost_part_is_carried_by_a_later_one(scene: Play) -> None:
    """H-17, rule:4: the client's loss is not ours, and never more than the opening fee is taken."""
    play = scene()
    play.forward(600_000, 400_000)
    play.resolved(0)
    (record,) = play.part(600_000)
    assert record.record.forwards == (
        order.Forward(UPSTREAM, 1, 396_000, 4_000),
        order.Forward(UPSTREAM, 2, 594_000, 6_000),
    )
    (forwards,) = play.walk("stored")
    assert forwards.parts == (order.Forward(UPSTREAM, 2, 594_000, 6_000),)
    assert play.part(5_000)[0].record.forwards[-1].extra_fee_msat == 0


def test_a_later_part_too_small_for_the_whole_fee_carries_what_it_can(scene: Play) -> None:
    """H-17, H-02: down to the client's minimum, no further."""
    play = scene()
    play.forward(600_000, 400_000, limits=replace(LIMITS, htlc_minimum_msat=1_000))
    play.resolved(0)
    play.part(4_000)
    assert play.walk("stored")[0].parts == (order.Forward(UPSTREAM, 2, 1_000, 3_000),)
    play.part(600_000)
    assert play.walk("stored")[0].parts == (order.Forward(UPSTREAM, 3, 597_000, 3_000),)


# Tried again ------------------------------------------------------------------------------------------


def test_a_payment_that_timed_out_is_paid_on_the_second_try(scene: Play) -> None:
    """C-06, trap:2, C-05, rule:6: 90 s from the first part, the temporary code, the offer stays."""
    play = scene()
    play.part(400_000)
    play.wait(60_000)
    play.part(400_000)
    assert play.wait(29_999) == ()
    assert play.wait(1) == (failed([0, 1]),)
    assert list(play.core.index) == []
    assert len(play.forward(400_000, 600_000).parts) == 2


def test_a_probe_costs_nothing_on_chain_and_the_payment_after_it_is_paid(scene: Play) -> None:
    """trap:3, C-26, K-11: the client does not know the hash; the withheld channel is dropped, the offer stays."""
    play = scene()
    play.part(payment_hash=OTHER_HASH)
    for kind, fact in (
        (Input.COINS_CHOSEN, FUNDING),
        (Input.STORED, None),
        (Input.FUNDED, order.Opened(CHANNEL)),
        (Input.READY, LIMITS),
        (Input.STORED, None),
    ):
        play.tell(kind, fact, payment_hash=OTHER_HASH)
    (undo,) = play.resolved(0, payment_hash=OTHER_HASH)
    assert undo == order.Undo(SCID, OTHER_HASH, CHANNEL, FUNDING)
    (reset,) = play.tell(Input.UNDONE, payment_hash=OTHER_HASH)
    assert reset == order.Reset(SCID, order.SessionRecord("buy", None, 0, 0, None, None, (), None), "Abandoned")
    assert play.of(order.Broadcast) == []
    assert play.forward().parts[0].extra_fee_msat == FEE


def test_after_all_parts_failed_the_client_gets_another_chance_over_its_public_channel(scene: Play) -> None:
    """O-13, K-10, X-13: nothing is closed; the next payment pays the fee over the channel that is there."""
    play = scene(**PUBLIC)
    play.forward()
    fees, reset = play.walk("lost")
    assert fees == order.RestoreFees(CHANNEL.channel_id)
    assert reset.record == order.SessionRecord("channel", None, 0, 0, None, CHANNEL, (), None)
    broadcast, watch = play.part(payment_hash=HASH)
    assert broadcast == order.Broadcast(SCID, HASH, CHANNEL)
    assert watch == order.AwaitReady(SCID, HASH, CHANNEL.channel_id, was_there=True)
    play.walk("ready")
    assert kinds(play.walk("sent")) == ["Persist"]
    (forwards,) = play.walk("stored")
    assert forwards.parts == (order.Forward(UPSTREAM, 1, SIZE - FEE, FEE),)
    assert kinds(play.walk("settled2")) == ["Finalize", "RestoreFees"]
    assert len(play.of(order.OpenChannel)) == 1
    assert play.of(order.Undo) == []


def test_a_public_channel_is_not_used_for_the_payment_before_its_funding_was_seen(scene: Play) -> None:
    """O-10, O-13: channel_ready came at once this time, the mempool did not know the funding yet."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored unready")
    assert play.walk("part") == (failed([1]),)  # the broadcast has not answered yet: it may be gone (rule:23)
    play.walk("sent part")
    assert play.walk("ready") == ()
    assert kinds(play.walk("sent")) == ["Persist"]


def test_the_funding_of_a_given_up_payment_may_be_seen_later(scene: Play) -> None:
    """O-13, rule:10: once more after the session is over it is no bug of ours, nor while the next set collects."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored unready")
    assert kinds(play.tell(Input.FUNDING_BROADCAST)) == ["RestoreFees", "Reset"]
    assert play.tell(Input.FUNDING_BROADCAST) == ()
    play.walk("half")
    assert play.tell(Input.FUNDING_BROADCAST) == ()
    assert play.state is State.COLLECTING


# Online and offline -------------------------------------------------------------------------------------


def test_a_complete_payment_waits_for_its_client(scene: Play) -> None:
    """C-13, C-08: we try to reach it, and begin the moment it is there."""
    play = scene(online=False)
    assert play.part() == (order.ConnectPeer(CLIENT),)
    play.wait(30_000)
    assert kinds(play.peer(True)) == ["ReserveCoins"]


def test_an_incomplete_payment_goes_on_waiting_when_its_client_comes(scene: Play) -> None:
    """C-08."""
    play = scene(online=False)
    play.part(400_000)
    assert play.peer(True) == ()
    assert kinds(play.part(600_000)) == ["ReserveCoins"]


@pytest.mark.parametrize(
    ("wait_ms", "valid_ms", "failure"),
    [(600_000, 3_600_000, TEMPORARY), (10_000, 10_000, UNKNOWN_NEXT_PEER), (600_000, 600_000, UNKNOWN_NEXT_PEER)],
)
def test_a_client_that_never_comes_costs_the_payer_only_time(
    scene: Play, wait_ms: int, valid_ms: int, failure: str
) -> None:
    """C-13, C-07, X-11: temporary after ten minutes, permanent once the offer has ended, also when both come."""
    play = scene(online=False, valid_until_ms=TERMS.valid_until_ms - 3_600_000 + valid_ms)
    play.part()
    assert play.wait(wait_ms - 1) == ()
    assert play.wait(1)[0] == failed([0], failure)


def test_a_client_that_comes_after_the_offer_ended_gets_no_channel(scene: Play) -> None:
    """C-08: the time is looked at again when the client is there, even before the clock was fed."""
    play = scene(online=False)
    play.part()
    play.wall_ms = VALID_UNTIL_MS
    assert play.peer(True) == (failed([0], UNKNOWN_NEXT_PEER), order.ForgetBuy(SCID, "Timeout"))


def test_a_client_with_two_offers_is_served_on_the_one_that_is_left(scene: Play) -> None:
    """C-13: forgetting one offer does not forget the client."""
    play = scene(online=False)
    play.core.add_buy(OTHER_SCID, CLIENT, TERMS)
    play.core.forget_buy(OTHER_SCID)
    play.part()
    assert kinds(play.peer(True)) == ["ReserveCoins"]


@pytest.mark.parametrize("gone", range(4))
def test_whichever_offer_of_a_client_is_forgotten_the_others_are_served_in_order(scene: Play, gone: int) -> None:
    """C-13, C-12: the first, one in the middle, the last."""
    play = scene(online=False)
    scids = [SCID, *range(1, 4)]
    for scid in scids[1:]:
        play.core.add_buy(scid, CLIENT, TERMS)
    for scid in scids:
        play.part(scid=scid, in_scid=UPSTREAM + scid)
    assert kinds(play.core.cancel(scids[gone])) == ["FailParts", "ForgetBuy"]
    left = [scid for scid in scids if scid != scids[gone]]
    assert [reserve.jit_scid for reserve in play.peer(True)] == left
    assert list(play.core.buys) == left


@pytest.mark.parametrize("gone", range(3))
def test_whichever_payment_of_an_offer_ends_the_others_are_found(scene: Play, gone: int) -> None:
    """C-10, K-04: the first, one in the middle, the last; they keep their order."""
    play = scene(limits={"max_sets": 3})
    hashes = [bytes([number]) * 32 for number in range(3)]
    for at, payment_hash in enumerate(hashes):
        play.part(SIZE // 2, payment_hash=payment_hash, cltv=CLTV - (at == gone))
    assert kinds(play.block(CLTV - 7)) == ["FailParts"]
    left = [payment_hash for payment_hash in hashes if payment_hash != hashes[gone]]
    assert list(play.buy.sets) == left
    assert kinds(play.part(SIZE // 2, payment_hash=left[1], cltv=CLTV + 1_000)) == ["ReserveCoins"]


def test_another_part_while_the_client_is_away_does_not_join_a_payment_without_size(scene: Play) -> None:
    """C-24: it fails alone; the first one is served when the client comes."""
    play = scene(online=False, **VARIABLE)
    play.part(500_000)
    assert play.part(700_000) == (failed([1]),)
    assert play.part(700_000, payment_hash=OTHER_HASH) == (failed([2]),)
    (reserve,) = play.peer(True)
    assert (reserve.out_msat, reserve.parts) == (490_000, 1)


# Several payments ---------------------------------------------------------------------------------------


def test_two_payments_complete_on_one_scid_and_one_channel_is_opened(scene: Play) -> None:
    """C-14, trap:16, K-02, rule:2: the second one fails for now."""
    play = scene()
    play.part(400_000)
    play.part(400_000, payment_hash=OTHER_HASH)
    assert kinds(play.part(600_000)) == ["ReserveCoins"]
    assert play.part(600_000, payment_hash=OTHER_HASH) == (failed([1, 3]),)
    assert play.part(payment_hash=OTHER_HASH) == (failed([4]),)
    assert len(play.of(order.ReserveCoins)) == 1


def test_two_payments_wait_for_one_client_and_one_channel_is_opened(scene: Play) -> None:
    """C-14, C-13: both are complete when it comes; the first one is served."""
    play = scene(online=False)
    play.part()
    play.part(payment_hash=OTHER_HASH)
    reserve, refusal = play.peer(True)
    assert (kinds((reserve,)), refusal) == (["ReserveCoins"], failed([1]))


def test_the_same_hash_on_two_scids_is_two_payments(scene: Play) -> None:
    """C-02, C-15, trap:16: each must reach its own size, and settling one does not settle the other."""
    play = scene()
    play.core.add_buy(OTHER_SCID, OTHER_CLIENT, TERMS)
    play.core.peer(OTHER_CLIENT, True)
    play.part(400_000)
    assert play.part(600_000, scid=OTHER_SCID) == ()
    assert kinds(play.part(600_000)) == ["ReserveCoins"]
    assert kinds(play.part(400_000, scid=OTHER_SCID)) == ["ReserveCoins"]
    assert play.core.by_hash == {HASH: 2}
    play.walk("reserved stored funded ready stored settled")
    assert State(play.core.buys[OTHER_SCID].sets[HASH].state) is State.OPENING
    play.resolved(2, PREIMAGE)
    play.walk("sent")
    assert play.core.by_hash == {HASH: 1}


def test_the_same_hash_is_paid_twice(scene: Play) -> None:
    """trap:16, A-03: the second time is a plain forward over the channel."""
    play = scene()
    play.forward()
    play.walk("settled sent")
    assert kinds(play.part()) == ["ForwardParts"]
    assert len(play.of(order.OpenChannel)) == 1


def test_more_than_three_sets_do_not_collect_at_once(scene: Play) -> None:
    """C-10, K-27: a stranger occupies at most three sets, each for 90 s."""
    play = scene()
    for number in range(3):
        assert play.part(1_000, payment_hash=bytes([number]) * 32) == ()
    assert play.part(1_000, payment_hash=b"\xff" * 32) == (failed([3]),)
    play.walk("due")
    assert play.part(1_000, payment_hash=OTHER_HASH) == ()


# The same part again ------------------------------------------------------------------------------------


def test_a_part_delivered_twice_counts_once(scene: Play) -> None:
    """trap:14, K-07, rule:3."""
    play = scene()
    play.part(500_000, htlc_id=4)
    assert play.part(500_000, htlc_id=4) == ()
    assert play.session.sum_msat == 500_000
    assert len(play.session.parts) == 1


def test_a_forwarded_part_delivered_again_gets_its_stored_answer(scene: Play) -> None:
    """H-16, K-07: same amount, same fee, same channel."""
    play = scene()
    forwards = play.forward()
    assert play.part(htlc_id=0) == (forwards,)
    play.walk("settled")
    assert play.part(htlc_id=0) == (forwards,)


def test_a_lost_part_delivered_again_fails_again(scene: Play) -> None:
    """K-07: it is answered by what became of it."""
    play = scene()
    play.forward(600_000, 400_000)
    play.resolved(0)
    assert play.part(600_000, htlc_id=0) == (failed([0]),)


def test_the_preimage_of_another_payment_settles_nothing(scene: Play) -> None:
    """K-18, rule:12: another hash on this part, this hash on another part."""
    play = scene()
    play.forward()
    assert play.resolved(0, OTHER_PREIMAGE, payment_hash=OTHER_HASH) == ()
    assert play.resolved(1, PREIMAGE) == ()
    assert play.resolved(0, PREIMAGE, in_scid=OTHER_UPSTREAM) == ()
    assert play.resolved(0, payment_hash=OTHER_HASH) == ()
    assert play.state is State.AWAITING_SETTLEMENT


def test_a_settlement_told_twice_counts_once(scene: Play) -> None:
    """K-18, rule:12: the other part is still out."""
    play = scene()
    play.forward(600_000, 400_000)
    play.walk("settled settled sent settled")
    assert (play.session.in_flight, play.session.fulfilled) == (1, 1)
    assert play.state is State.BROADCASTING


def test_a_preimage_that_does_not_fit_is_ignored_and_reported(scene: Play) -> None:
    """rule:16: a forged event does not put coins on chain."""
    play = scene()
    play.forward()
    (alarm,) = play.resolved(0, OTHER_PREIMAGE)
    assert "does not fit" in alarm.text
    assert play.state is State.AWAITING_SETTLEMENT
    assert play.session.in_flight == 1
