"""Payments over a channel that the client has: found when it closes, paid once, and the buy as it was sold."""

from __future__ import annotations

from functools import partial

import pytest
from harness.scene import EXISTING, FEE, HASH, LIMITS, PREIMAGE, SCID, SIZE, VARIABLE, Machine, Scene, kinds
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.table import Input, State

Play = partial[Scene]
PAYABLE = replace(EXISTING, fee_msat=FEE // 5)
CLOSED = EXISTING.channel_id


@pytest.fixture
def scene(machine: Machine) -> Play:
    """A maker of scenes for this machine."""
    return partial(Scene, machine)


def over_existing(play: Scene, existing: order.ExistingChannel = EXISTING) -> None:
    """From one part to its forwarding over the channel."""
    play.part()
    play.tell(Input.CHANNEL_FOUND, existing)
    play.walk("stored room")


def again_after_a_start(scene: Play, play: Scene, **terms: object) -> Scene:
    """The same payment, as its record tells of it."""
    again = scene(**terms)
    again.session = again.core.restore(SCID, play.of(order.Persist)[-1].record, False)
    return again


def forgets_the_channel(play: Scene) -> None:
    """No payment is found by it any more."""
    assert play.core.channel_closed(CLOSED) == ()
    assert not getattr(play.core, "_over_existing", None)  # only the interpreted one shows it


@pytest.mark.parametrize("restart", [False, True])
def test_a_payment_is_found_by_the_channel_it_goes_over(scene: Play, restart: bool) -> None:
    """K-13, rule:23: from its promise on, and after a start; its parts are out, so each is resolved by itself."""
    play = scene()
    over_existing(play)
    if restart:
        play = again_after_a_start(scene, play)
    assert play.note(play.core.channel_closed(CLOSED)) == ()
    assert play.session.gone
    play.resolved(0, PREIMAGE)
    assert play.state is State.SUCCEEDED
    forgets_the_channel(play)


@pytest.mark.parametrize(
    ("walk", "then"),
    [("part existing", "stored"), ("part existing stored", "unready"), ("part existing stored", "room")],
)
def test_a_channel_that_closes_before_the_parts_are_out_has_another_opened(scene: Play, walk: str, then: str) -> None:
    """K-13, rule:18: in the same payment, for the whole fee; the old channel is no business of it any more."""
    play = scene()
    play.walk(walk)
    assert play.note(play.core.channel_closed(CLOSED)) == ()
    left, reserve = play.walk(then)
    assert isinstance(left, order.LeaveChannel)
    assert (reserve.may_reuse, reserve.out_msat, play.state) == (False, SIZE - FEE, State.OPENING)
    forgets_the_channel(play)


@pytest.mark.parametrize("end", ["lost", "settled"])
def test_a_payment_that_is_over_is_found_by_no_channel(scene: Play, end: str) -> None:
    """rule:14: nothing is left in the index; the buy stands."""
    play = scene()
    over_existing(play)
    play.walk(end)
    assert play.buy.holder is None
    forgets_the_channel(play)


def test_the_channel_of_a_buy_is_another_matter_than_that_of_its_client(scene: Play) -> None:
    """rule:26: a sale pays for the channel; the next payment of another buy goes over it, and it closes: both hear."""
    play = scene()
    play.forward()
    play.walk("settled sent")
    (reserve,) = (play.core.add_buy(SCID + 1, play.buy.peer_id, play.terms), play.part(scid=SCID + 1))[1]
    assert reserve.may_reuse
    own = replace(EXISTING, channel_id=play.buy.channel.channel_id)
    for kind, fact in ((Input.CHANNEL_FOUND, own), (Input.STORED, None), (Input.READY, LIMITS)):
        play.tell(kind, fact, scid=SCID + 1)
    assert play.note(play.core.channel_closed(own.channel_id)) == ()
    assert play.buy.dead
    assert play.core.buys[SCID + 1].sets[HASH].gone


def test_a_part_of_the_fee_that_came_before_is_no_discount_on_a_channel(scene: Play) -> None:
    """rule:4, rule:20, K-09: twice over an old channel, with a start in the middle; then one is opened."""
    play = scene()
    over_existing(play, PAYABLE)
    play.walk("settled")
    assert play.buy.fee_paid_msat == FEE // 5
    play.part()
    play.tell(Input.CHANNEL_FOUND, PAYABLE)
    play.walk("stored room")
    again = again_after_a_start(scene, play)
    again.core.resolve_from_tables((play.of(order.ForwardParts)[-1].parts[0].key), False)
    assert (again.buy.owed_msat, again.buy.fee_paid_msat) == (0, FEE // 5)
    (reserve,) = again.part(htlc_id=9)
    assert reserve.out_msat == SIZE - FEE


def test_nor_does_it_fix_the_fee_of_a_payment_of_another_size(scene: Play) -> None:
    """F-04, C-20: no size was bought; a start falls into the opening for a large payment, then a small one comes."""
    terms = {**VARIABLE, "min_fee_msat": 1, "proportional": 10_000}
    play = scene(**terms)
    over_existing(play, PAYABLE)
    play.walk("settled")
    play.part(50 * SIZE)
    play.tell(Input.COINS_CHOSEN, order.Funding("psbt", ("aa" * 32 + ":0",), 800_072, 100_000))
    again = again_after_a_start(scene, play, **terms)
    again.tell(Input.UNDONE)
    (reserve,) = again.part(htlc_id=9)
    assert reserve.out_msat == SIZE - SIZE // 100


def test_what_came_over_an_old_channel_does_not_end_reuse_at_a_start(scene: Play) -> None:
    """rule:20, K-09: a later payment was to have a channel of its own when the plugin died; nothing of it is owed."""
    play = scene()
    over_existing(play, PAYABLE)
    play.walk("settled part reserved")
    again = again_after_a_start(scene, play)
    (reset,) = again.walk("undone")
    assert (reset.record.opening_fee_msat, reset.record.fee_paid_msat) == (0, FEE // 5)
    (reserve,) = again.part(htlc_id=9)
    assert (reserve.out_msat, reserve.may_reuse) == (SIZE - FEE, True)


def test_the_whole_fee_is_never_taken_and_the_channel_not_opened(scene: Play) -> None:
    """rule:4: what is called a fee for an old channel is at most the opening fee, and never that of the last try."""
    play = scene()
    play.part()
    play.tell(Input.CHANNEL_FOUND, replace(EXISTING, fee_msat=10 * FEE))
    (persist,) = play.of(order.Persist)
    assert (persist.record.opening_fee_msat, persist.record.channel, persist.record.funding) == (FEE, None, None)
    assert sum(part.extra_fee_msat for part in persist.record.forwards) == FEE


def test_where_no_channel_is_found_all_is_as_without_reuse(scene: Play) -> None:
    """C-14: the order to choose coins is the only one, and its answer leads where it always did."""
    play = scene()
    assert kinds(play.part()) == ["ReserveCoins"]
    assert kinds(play.walk("reserved")) == ["Persist"]
    assert play.of(order.Persist)[0].record.existing is None


def test_a_record_of_it_does_not_stay_when_no_channel_is_opened_either(scene: Play) -> None:
    """K-15: the room had gone by the last look, and there are no coins; the record is that of a buy again."""
    play = scene()
    play.walk("part existing stored unready")
    ended = play.tell(Input.OPEN_FAILED, False)
    assert kinds(ended) == ["FailParts", "Reset"]
    assert play.of(order.Reset)[0].record == replace(play.of(order.Reset)[0].record, stage="buy", existing=None)
    assert play.state is State.FAILED
