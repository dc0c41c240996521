"""Held parts that can go no further fail alone; the payment goes on where it is whole without them."""

from __future__ import annotations

from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    FEE,
    FUNDING,
    HASH,
    LIMITS,
    OTHER_HASH,
    PREIMAGE,
    PUBLIC,
    SCID,
    SIZE,
    UPSTREAM,
    VARIABLE,
    Machine,
    Scene,
    both_modes,
    failed,
    kinds,
)

from lsps2fast import actions as order
from lsps2fast.table import Input, State

LEAVES = "its channel leaves"
ANSWERS = [({}, answers) for answers in range(5)] + [(PUBLIC, answers) for answers in range(7)]
"""Terms, and how many orders are carried out: every moment from the open to the last write before parts go out."""


def _drop(scene: Scene, *htlc_ids: int, why: str = LEAVES) -> tuple[order.Action, ...]:
    return scene.note(scene.core.drop([(UPSTREAM, each) for each in htlc_ids], why))


@pytest.mark.parametrize(("terms", "answers"), ANSWERS)
def test_a_payment_that_is_not_whole_without_a_dropped_part_is_given_up(
    machine: Machine, terms: dict[str, Any], answers: int
) -> None:
    """rule:19, rule:6: nothing more is let out; the other parts fail temporarily, the offer stays."""
    play = Scene(machine, **terms)
    play.part(SIZE // 2)
    play.part(SIZE // 2)
    play.serve(most=answers)
    actions = _drop(play, 1)
    assert actions[:2] == (failed([1]), failed([0]))
    assert play.core.refused[LEAVES] == 1
    play.serve()
    assert play.of(order.ForwardParts) == []
    assert play.core.live == 0
    assert play.buy.holder is None
    assert kinds(play.part()) in (["ReserveCoins"], ["Broadcast", "AwaitReady"], ["AwaitReady"])


@pytest.mark.parametrize(("terms", "answers"), ANSWERS)
def test_a_payment_that_is_whole_without_a_dropped_part_goes_on(
    machine: Machine, terms: dict[str, Any], answers: int
) -> None:
    """rule:19, rule:20: the part fails alone, and the others bear the whole fee, to the msat."""
    play = Scene(machine, **terms)
    for value in (SIZE // 2, SIZE // 4, SIZE // 4, SIZE // 5):
        play.part(value)
    play.serve(most=answers)
    assert _drop(play, 3) == (failed([3]),)
    play.serve()
    (forwards,) = play.of(order.ForwardParts)
    assert [part.htlc_id for part in forwards.parts] == [0, 1, 2]
    assert sum(part.extra_fee_msat for part in forwards.parts) == FEE
    assert play.of(order.Persist)[-1].record.forwards == forwards.parts
    for number in range(3):
        play.resolved(number, PREIMAGE)
    play.serve()
    assert play.state is State.SUCCEEDED


@pytest.mark.parametrize("terms", both_modes())
def test_a_part_that_joined_can_be_dropped_too_and_one_that_comes_after_it_joins(
    machine: Machine, terms: dict[str, Any]
) -> None:
    """rule:19, C-18: a joiner bears no share while the record is written, so that record holds."""
    play = Scene(machine, **terms)
    play.part()
    play.serve(most=6 if terms else 4)
    play.part(SIZE // 10)
    assert _drop(play, 1) == (failed([1]),)
    play.part(SIZE // 10)
    actions = play.tell(Input.STORED)
    assert [part.htlc_id for part in actions[0].parts] == [0]
    assert kinds(actions[1:]) == ["Persist"]
    (late,) = play.tell(Input.STORED)
    assert [(part.htlc_id, part.extra_fee_msat) for part in late.parts] == [(2, 0)]


@pytest.mark.parametrize("terms", both_modes())
@pytest.mark.parametrize("then", ["", "settled"])
def test_what_is_out_is_not_touched_and_a_late_part_is_failed(
    machine: Machine, terms: dict[str, Any], then: str
) -> None:
    """rule:5, rule:19: a part that is let out is the client's to claim; one that still waits for its record fails."""
    play = Scene(machine, **terms)
    play.forward(SIZE // 2, SIZE // 2)
    play.walk(then)
    play.part(SIZE // 10)
    assert _drop(play, 0, 1, 2) == (failed([2]),)
    assert _drop(play, 2) == ()
    play.tell(Input.STORED)
    assert len(play.of(order.ForwardParts)) == 1
    play.resolved(0, PREIMAGE)
    play.resolved(1, PREIMAGE)
    if not terms:
        play.walk("sent")
    assert play.state is State.SUCCEEDED


def test_a_dropped_part_counts_no_more_towards_its_set(machine: Machine) -> None:
    """rule:19, people:L3: neither for the sum nor for the number; its set collects on, or ends with its last part."""
    play = Scene(machine)
    for _ in range(3):
        play.part(SIZE // 4)
    assert _drop(play, 1) == (failed([1]),)
    assert play.part(SIZE // 4) == ()
    assert kinds(play.part(SIZE // 4)) == ["ReserveCoins"]
    other = Scene(machine)
    other.part(SIZE // 2)
    assert _drop(other, 0) == (failed([0]),)
    assert (other.core.live, other.core.held_parts, other.state) == (0, 0, State.FAILED)


def test_a_set_that_was_complete_collects_again_and_no_longer_than_any(machine: Machine) -> None:
    """rule:19, C-05, C-13: it waited for its client; now it waits for a part."""
    play = Scene(machine, online=False)
    play.part(SIZE // 2)
    play.part(SIZE // 2)
    play.wait(200_000)
    _drop(play, 1)
    assert play.wait(89_999) == ()
    assert play.wait(1) == (failed([0]),)
    again = Scene(machine, online=False)
    again.part(SIZE // 2)
    again.part(SIZE // 2)
    _drop(again, 1)
    again.part(SIZE // 2)
    assert again.wait(90_000) == ()
    assert kinds(again.peer(True)) == ["ReserveCoins"]


def test_the_one_part_of_a_variable_payment_ends_it(machine: Machine) -> None:
    """rule:19, C-24."""
    play = Scene(machine, **VARIABLE)
    play.part(SIZE)
    play.walk("reserved stored funded")
    refused, undo = _drop(play, 0)
    assert (refused, undo) == (failed([0]), order.Undo(SCID, HASH, CHANNEL, FUNDING))


def test_parts_are_found_by_the_channel_they_came_over(machine: Machine) -> None:
    """rule:25: by its id; by a name of it where the id was not known; never those that are out."""
    play = Scene(machine)
    play.part(SIZE // 4, in_channel="ab" * 32, in_scid=1)
    play.part(SIZE // 4, in_scid=2)
    play.part(SIZE // 4, in_scid=3)
    play.part(SIZE // 4, in_channel="ac" * 32, in_scid=4, payment_hash=OTHER_HASH)
    assert play.core.held_over("ab" * 32, (2,)) == [("ab" * 32, 0), (2, 1)]
    assert play.core.held_over("ac" * 32, (1, 4)) == [("ac" * 32, 3)]
    play.part(SIZE // 4, in_scid=3)
    play.walk("reserved stored funded")
    play.tell(Input.READY, LIMITS)
    play.tell(Input.STORED)
    assert play.core.held_over("ab" * 32, (2, 3)) == []


# Room for the larger part (rule:24), while the channel is made ---------------------------------------------------


@pytest.mark.parametrize(("terms", "answers"), ANSWERS)
@pytest.mark.parametrize("least", [1, SIZE // 100])
def test_a_part_that_makes_the_payment_whole_takes_the_place_of_smaller_ones(
    machine: Machine, terms: dict[str, Any], answers: int, least: int
) -> None:
    """people:L3, rule:24: a stranger's parts completed the sum with the payer's first half; the second half comes."""
    play = Scene(machine, limits={"overpay_ppm": 100_000}, **terms)
    for _ in range(5):
        play.part(SIZE // 10 + least)
    play.part(SIZE // 2)
    play.serve(most=answers)
    actions = play.part(SIZE // 2)
    gone = [key[1] for action in actions for key in action.parts]
    assert gone == [0, 1, 2, 3, 4][: len(gone)]
    assert len(gone) >= 4
    play.serve()
    (forwards,) = play.of(order.ForwardParts)
    assert {5, 6} <= {part.htlc_id for part in forwards.parts}
    assert sum(part.extra_fee_msat for part in forwards.parts) == FEE
    assert sum(part.out_msat + part.extra_fee_msat for part in forwards.parts) <= SIZE * 11 // 10


def test_crumbs_that_fill_the_parts_of_a_payment_do_not_keep_its_last_part_out(machine: Machine) -> None:
    """people:L3, rule:24: the tenth of ten real parts comes when thirty are held and the channel is being made."""
    play = Scene(machine, limits={"overpay_ppm": 100_000})
    for _ in range(20):
        play.part(SIZE // 200)
    for _ in range(9):
        play.part(SIZE // 10)
    assert play.state is State.OPENING
    play.part(SIZE // 200 - 1)
    assert play.session.held == 30
    assert play.part(SIZE // 10) == (failed([29]),)
    assert play.part(1) == (failed([31]),)
    assert (play.session.held, play.core.refused["gave way"]) == (30, 1)


def test_no_exchange_leaves_less_than_a_whole_payment(machine: Machine) -> None:
    """rule:24, rule:20: where the offer's largest payment is hardly more than what was bought."""
    play = Scene(machine, max_payment_size_msat=SIZE + 10)
    for value in (SIZE * 9 // 10, SIZE // 20, SIZE // 20):
        play.part(value)
    assert play.state is State.OPENING
    assert play.part(SIZE * 3 // 50) == (failed([3]),)
    assert (play.session.held, play.session.sum_msat) == (3, SIZE)


def test_exchanges_end(machine: Machine) -> None:
    """rule:14, C-10: each a msat larger than the last; a payment has no more parts than any."""
    play = Scene(machine, limits={"overpay_ppm": 100_000, "max_parts": 2})
    play.part(SIZE)
    for number in range(600):
        play.part(1 + number)
    assert (play.session.held, len(play.session.parts)) == (2, 483)
