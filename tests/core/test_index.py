"""Which part is where, and who waits for which height, when many sessions come and go; in both runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness.scene import CLIENT, CLTV, HEIGHT, SIZE, TERMS, U64_MAX, UPSTREAM, WALL_MS, Machine

from lsps2fast.actions import FailParts

BUYS = 40


def _busy(machine: Machine) -> tuple[Any, dict[tuple[int, int], tuple[int, int]]]:
    """A machine in which sessions have come and gone, and what must be there: key -> jit scid, value."""
    dice, core, there = random.Random(7), machine.sessions.Sessions(), {}
    core.block(HEIGHT)
    for scid in range(BUYS):
        core.add_buy(scid, f"{scid % 5:066x}", TERMS)
    for step in range(3_000):
        scid, value = dice.randrange(BUYS), dice.randrange(1, SIZE // 50)
        key = dice.choice((UPSTREAM, UPSTREAM + 1, 0, U64_MAX)), dice.choice((step, U64_MAX - step))
        cltv = HEIGHT + 300 + dice.randrange(100)
        there[key] = (scid, value)
        actions = core.part(machine.htlc(scid, scid.to_bytes(32, "big"), key, value, cltv), step * 100, WALL_MS)
        for failed in (*actions, *core.tick(step * 100, WALL_MS)):
            for part in failed.parts:
                del there[part]
    return core, there


def test_every_part_that_is_held_is_found_and_no_other(machine: Machine) -> None:
    """C-03, rule:3: over 3,000 parts of sessions that begin and end, at the edges of 64 bits."""
    core, there = _busy(machine)
    assert len(there) > 150
    assert sorted(core.index) == sorted(there)
    assert len(core.index) == len(there)
    assert {key: part.amt_to_forward_msat for key, part in core.index.items()} == {
        key: v for key, (_, v) in there.items()
    }
    assert all(key in core.index for key in there)
    assert (UPSTREAM, 10**9) not in core.index
    assert core.index.get((UPSTREAM, 10**9)) is None
    with pytest.raises(KeyError):
        core.index[UPSTREAM, 10**9]


def test_a_part_is_known_again_wherever_it_moved(machine: Machine) -> None:
    """K-07: the same HTLC once more stays held, also after its session got more room and others ended."""
    core, there = _busy(machine)
    for key, (scid, value) in there.items():
        assert core.part(machine.htlc(scid, scid.to_bytes(32, "big"), key, value, CLTV), 0, WALL_MS) == ()
    assert len(core.index) == len(there)


def test_each_session_is_told_of_its_own_height_only(machine: Machine) -> None:
    """K-06, P15: at each block exactly the sessions whose earliest part is due are failed."""
    core, _ = _busy(machine)
    due = {scid: min(p.cltv_expiry for s in buy.sets.values() for p in s.parts) - 6
           for scid, buy in core.buys.items() if buy.sets}  # fmt: skip
    assert len(set(due.values())) > 5
    for height in range(HEIGHT + 1, HEIGHT + 400):
        failed = [action for action in core.block(height) if isinstance(action, FailParts)]
        assert len(failed) == sum(wanted == height for wanted in due.values())
    assert len(core.index) == 0


def test_among_thousands_of_sessions_a_block_finds_each_one_that_is_due(machine: Machine) -> None:
    """K-06, P15: those of one height together, and no other."""
    core, edges = machine.sessions.Sessions(max_held_parts=5_000), (0, 1023, 1024, 2047, 2048, 2099)
    core.block(HEIGHT)
    for slot in range(2100):
        core.add_buy(slot + 1, CLIENT + str(slot), TERMS)
        cltv = CLTV - 50 + edges.index(slot) if slot in edges else CLTV
        htlc = machine.htlc(slot + 1, slot.to_bytes(32, "big"), (UPSTREAM, slot), SIZE // 2, cltv)
        assert core.part(htlc, 0, WALL_MS) == ()
    assert core.block(CLTV - 57) == ()
    failed = [core.block(CLTV - 56 + number) for number in range(len(edges))]
    assert [orders[0].parts for orders in failed] == [((UPSTREAM, slot),) for slot in edges]
    assert core.block(CLTV - 7) == ()
    assert len(core.block(CLTV - 6)) == core.live + 2094 == 2094


def test_more_parts_than_a_session_may_have_are_refused_when_the_machine_is_made(machine: Machine) -> None:
    """C-10: the limit is the operator's, its bound ours."""
    with pytest.raises(ValueError, match="max_parts"):
        machine.sessions.Sessions(max_parts=10_001)
    core = machine.sessions.Sessions(max_parts=10_000)
    assert core.add_buy(1, CLIENT, TERMS).terms == TERMS
