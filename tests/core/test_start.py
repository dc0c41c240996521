"""After a start: sessions rebuilt from their records, and what the node then says about them (K-09, row by row)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLIENT,
    FEE,
    FUNDING,
    HASH,
    HEIGHT,
    OTHER_HASH,
    PREIMAGE,
    PUBLIC,
    SCID,
    SIZE,
    TERMS,
    UPSTREAM,
    Machine,
    Scene,
    both_modes,
    failed,
    kinds,
)
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import UNKNOWN_NEXT_PEER
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import State

Play = partial[Scene]

FRESH = order.SessionRecord("buy", None, 0, 0, None, None, (), None)
INTENT = order.SessionRecord("intent", HASH, 2, FEE, FUNDING, None, (), None)
OPENED = order.SessionRecord("channel", HASH, 2, FEE, FUNDING, CHANNEL, (), None)
FORWARDS = order.SessionRecord(
    "forwards",
    HASH,
    2,
    FEE,
    FUNDING,
    CHANNEL,
    (order.Forward(UPSTREAM, 0, 600_000 - FEE, FEE), order.Forward(UPSTREAM, 1, 400_000, 0)),
    None,
)
UNPAID = order.SessionRecord("channel", None, 2, 0, None, CHANNEL, (), None)


def _restored(
    scene: Play, journal: order.SessionRecord, sent: bool = False, public: bool = False, **terms: Any
) -> Scene:
    play = scene(**terms)
    play.session = play.core.restore(SCID, journal, sent, public)
    play.count = 10
    return play


# The rows of K-09 -----------------------------------------------------------------------------------------


def test_a_buy_without_a_payment_is_live_again(scene: Play) -> None:
    """K-09 row 1: nothing is owed; the next payment opens its channel."""
    play = _restored(scene, replace(FRESH, attempts=3))
    assert play.session is None
    assert (play.buy.attempts, play.core.live) == (3, 0)
    play.forward()


def test_a_buy_whose_attempts_were_used_up_stays_so(scene: Play) -> None:
    """C-16: a restart is no new chance."""
    play = scene()
    play.core.forget_buy(SCID)
    play.core.add_buy(SCID, CLIENT, TERMS, attempts=5)
    assert play.part() == (failed([0], UNKNOWN_NEXT_PEER),)


def test_a_buy_without_a_payment_that_ended_meanwhile_is_dropped(scene: Play) -> None:
    """K-09 row 1."""
    play = _restored(scene, FRESH)
    assert play.walk("expired") == (order.ForgetBuy(SCID, "Timeout"),)


@pytest.mark.parametrize("journal", [INTENT, OPENED], ids=["intent", "channel"])
@pytest.mark.parametrize("terms", both_modes())
def test_a_payment_that_was_forwarding_nothing_yet_is_undone(
    scene: Play, journal: order.SessionRecord, terms: dict[str, Any]
) -> None:
    """K-09 rows 1 and 3, trap:6: the caller undoes; until then parts that come again fail for now, then they are
    served.
    """
    play = _restored(scene, journal, **terms)
    assert play.state is State.ABORTING
    assert (play.session.funding, play.session.channel) == (FUNDING, journal.channel)
    assert play.part() == (failed([10]),)
    (reset,) = play.walk("undone")
    assert reset.record == order.SessionRecord("buy", None, 2, 0, None, None, (), None)
    assert kinds(play.part()) == ["ReserveCoins"]


def test_a_public_channel_that_nothing_went_through_waits_for_the_next_payment(scene: Play) -> None:
    """K-09, O-13: it must not be closed, and a second one must not be opened (rule:2)."""
    play = _restored(scene, OPENED, sent=True, **PUBLIC)
    assert play.session is None
    assert kinds(play.part()) == ["Broadcast", "AwaitReady"]


def test_a_channel_that_may_be_public_is_kept_although_nobody_has_seen_it(scene: Play) -> None:
    """K-09, rule:8, rule:2: its funding was ordered before the crash; the next payment orders it again."""
    play = _restored(scene, OPENED, public=True, **PUBLIC)
    assert play.session is None
    assert kinds(play.part()) == ["Broadcast", "AwaitReady"]


def test_a_payment_whose_channel_may_be_public_is_not_undone(scene: Play) -> None:
    """K-09, K-11: all parts failed, the channel stays, its fee not paid (O-13)."""
    play = _restored(scene, FORWARDS, public=True)
    assert play.state is State.AWAITING_SETTLEMENT
    assert play.walk("lost lost2") == ()
    assert play.state is State.ABORTING  # the broadcast that is owed will tell (rule:23)
    assert kinds(play.walk("sent")) == ["RestoreFees", "Reset"]
    assert (play.state, play.buy.channel) == (State.FAILED, CHANNEL)


def test_a_payment_whose_channel_may_be_public_is_broadcast_when_it_settles(scene: Play) -> None:
    """rule:8: not seen is not sent."""
    play = _restored(scene, FORWARDS, public=True)
    assert play.walk("settled") == (order.Broadcast(SCID, HASH, CHANNEL),)


def test_a_public_channel_left_unpaid_is_known_after_the_start(scene: Play) -> None:
    """O-13: the record of a buy whose payment failed."""
    play = _restored(scene, UNPAID, **PUBLIC)
    assert play.session is None
    assert (play.buy.channel, play.buy.attempts) == (CHANNEL, 2)
    assert kinds(play.part()) == ["Broadcast", "AwaitReady"]


def test_a_payment_whose_channel_is_unknown_to_the_node_is_abandoned(scene: Play) -> None:
    """K-09 row 2: coins are released."""
    play = _restored(scene, FORWARDS)
    assert play.walk("closed")[1:] == (order.Undo(SCID, HASH, CHANNEL, FUNDING),)
    assert kinds(play.walk("undone")) == ["Reset"]
    assert play.state is State.ABANDONED


def test_a_payment_whose_forwards_all_failed_is_undone(scene: Play) -> None:
    """K-09 row 4, trap:10: only when the last one failed."""
    play = _restored(scene, FORWARDS)
    assert play.walk("lost") == ()
    assert play.walk("lost2") == (order.Undo(SCID, HASH, CHANNEL, FUNDING),)


def test_a_payment_with_forwards_under_way_is_joined_again(scene: Play) -> None:
    """K-09 row 5, trap:10, K-10, rule:20: three parts out, the one with the fee fails, two settle."""
    third = order.Forward(UPSTREAM, 2, 50_000, 0)
    play = _restored(scene, replace(FORWARDS, forwards=(*FORWARDS.forwards, third)))
    assert play.state is State.AWAITING_SETTLEMENT
    assert (play.session.in_flight, play.session.sum_msat, play.session.fee_msat) == (3, 1_050_000, FEE)
    assert play.walk("lost") == ()
    assert play.walk("settled2") == (order.Broadcast(SCID, HASH, CHANNEL),)
    assert play.resolved(2, PREIMAGE) == ()
    assert kinds(play.walk("sent")) == ["RestoreFees", "Reset"]
    assert (play.state, play.buy.owed_msat, play.buy.paid) == (State.UNDERPAID, FEE, False)


def test_a_payment_that_settled_while_we_were_away_is_broadcast(scene: Play) -> None:
    """K-09 row 6, K-12, rule:8: the tables of lightningd have no preimage (cln:F5); the fact is enough."""
    play = _restored(scene, FORWARDS)
    assert play.core.resolve_from_tables((UPSTREAM, 1), False) == ()
    assert play.core.resolve_from_tables((UPSTREAM, 0), True) == (order.Broadcast(SCID, HASH, CHANNEL),)
    assert play.core.resolve_from_tables((UPSTREAM, 2), True) == ()  # no part of ours


def test_a_payment_that_settled_and_was_sent_ends_with_its_last_part(scene: Play) -> None:
    """K-09 row 6, cln:O6: nothing is broadcast twice."""
    play = _restored(scene, FORWARDS, sent=True)
    assert play.walk("settled") == ()
    assert kinds(play.walk("settled2")) == ["Finalize", "RestoreFees"]
    assert play.of(order.Broadcast) == []


def test_a_record_with_a_preimage_is_owed_its_broadcast(scene: Play) -> None:
    """K-12, rule:8, K-11: the built-in plugin writes one; whatever else it says, nothing is undone."""
    play = _restored(scene, replace(FORWARDS, forwards=(), preimage=PREIMAGE, opening_fee_msat=0))
    assert play.state is State.BROADCASTING
    assert kinds(play.walk("sent")) == ["Finalize", "RestoreFees"]
    assert play.of(order.Finalize)[0].record.preimage == PREIMAGE


# What goes on after it ------------------------------------------------------------------------------------


def test_a_forwarded_part_that_is_replayed_gets_its_stored_answer(scene: Play) -> None:
    """H-16, K-07, rule:2: crashed between the record and the answers."""
    play = _restored(scene, FORWARDS)
    assert play.part(600_000, htlc_id=0) == (order.ForwardParts(SCID, HASH, CHANNEL.channel_id, FORWARDS.forwards[:1]),)
    assert play.core.index[UPSTREAM, 0].status == 1


def test_a_part_that_comes_after_the_start_is_journalled_with_the_others(scene: Play) -> None:
    """C-18, H-16: the whole record is written again."""
    play = _restored(scene, FORWARDS)
    (record,) = play.part(50_000)
    assert record.record.forwards == (*FORWARDS.forwards, order.Forward(UPSTREAM, 10, 50_000, 0))
    assert kinds(play.walk("stored")) == ["ForwardParts"]


def test_the_fee_of_a_part_lost_before_the_start_is_carried_by_a_later_one(scene: Play) -> None:
    """H-17: the fee is in the record."""
    play = _restored(scene, FORWARDS)
    play.walk("lost")
    assert play.part(600_000)[0].record.forwards[-1] == order.Forward(UPSTREAM, 10, 600_000 - FEE, FEE)


@pytest.mark.parametrize("sent", [True, False])
def test_a_careful_clients_channel_is_public_whatever_the_mempool_says(scene: Play, sent: bool) -> None:
    """O-10, O-13: nothing was forwarded before its funding was seen, so nothing is undone."""
    play = _restored(scene, FORWARDS, sent=sent, **PUBLIC)
    assert play.session.committed
    ended = play.walk("lost lost2")
    assert kinds(ended if sent else play.walk("sent")) == ["RestoreFees", "Reset"]
    assert play.buy.channel == CHANNEL


def test_a_careful_clients_payment_is_broadcast_again_if_the_mempool_forgot_it(scene: Play) -> None:
    """rule:8: idempotent, until it is seen."""
    play = _restored(scene, FORWARDS, **PUBLIC)
    assert play.walk("settled") == (order.Broadcast(SCID, HASH, CHANNEL),)
    play.walk("settled2")
    assert kinds(play.walk("sent")) == ["Finalize", "RestoreFees"]


def test_the_funding_seen_after_the_start_is_remembered(scene: Play) -> None:
    """O-10: SENT while parts are out."""
    play = _restored(scene, FORWARDS, **PUBLIC)
    assert play.walk("sent") == ()
    play.walk("settled")
    assert kinds(play.walk("settled2")) == ["Finalize", "RestoreFees"]


@pytest.mark.parametrize("height", [HEIGHT + 1, HEIGHT + 61, HEIGHT + 100])
def test_the_reservation_goes_on_being_renewed(machine: Machine, height: int) -> None:
    """O-04, trap:8: also one that came near its end while we were away."""
    core = machine.sessions.Sessions()
    core.block(height)
    core.add_buy(SCID, CLIENT, TERMS)
    core.restore(SCID, FORWARDS, False)
    next_height = max(height + 1, HEIGHT + 60)
    (renew,) = core.block(next_height)
    assert renew.funding.reserved_to_block == next_height + 72


def test_the_lock_is_held_by_the_restored_payment(scene: Play) -> None:
    """C-14, rule:2: another hash does not open a second channel."""
    play = _restored(scene, FORWARDS)
    assert play.part(payment_hash=OTHER_HASH) == (failed([10]),)


def test_an_offer_that_ended_meanwhile_ends_with_its_payment(scene: Play) -> None:
    """K-16, C-12: the payment goes on, nothing new begins."""
    play = _restored(scene, FORWARDS)
    assert play.walk("expired") == ()
    assert play.part(payment_hash=OTHER_HASH) == (failed([10], UNKNOWN_NEXT_PEER),)
    play.walk("settled settled2")
    assert kinds(play.walk("sent")) == ["Finalize", "RestoreFees", "ForgetBuy"]


def test_a_paid_buy_is_an_alias_again(scene: Play) -> None:
    """A-03, trap:25: as the service sets it from the final record."""
    play = scene()
    play.buy.paid, play.buy.channel = True, CHANNEL
    assert kinds(play.part(SIZE)) == ["ForwardParts"]
    assert play.walk("expired") == (order.ForgetBuy(SCID, "Succeeded"),)


def test_a_buy_is_restored_once(scene: Play) -> None:
    """rule:2: the second record of one scid would be a second payment with the lock."""
    play = _restored(scene, FORWARDS)
    with pytest.raises(ProtocolBug, match="under way"):
        play.core.restore(SCID, FORWARDS, False)
    with pytest.raises(ProtocolBug, match="not live"):
        play.core.restore(SCID + 1, FORWARDS, False)
    assert play.core.live == 1


@pytest.mark.parametrize(
    ("terms", "road", "state"),
    [
        ({}, "reserved", State.ABORTING),
        (PUBLIC, "reserved stored funded", State.ABORTING),
        ({}, "reserved stored funded ready", State.AWAITING_SETTLEMENT),
        (PUBLIC, "reserved stored funded stored sent ready", State.AWAITING_SETTLEMENT),
        ({}, "reserved stored funded ready stored late", State.AWAITING_SETTLEMENT),
    ],
)
def test_what_was_journalled_is_what_is_restored(
    machine: Machine, terms: dict[str, Any], road: str, state: State
) -> None:
    """K-02, K-23: each record of a live payment leads back to a session that owes the right thing."""
    live = Scene(machine, **terms)
    live.walk("half half " + road)
    journal = live.of(order.Persist)[-1].record
    again = Scene(machine, **terms)
    session = again.core.restore(SCID, journal, False)
    assert State(session.state) is state
    assert session.record(journal.stage) == journal
