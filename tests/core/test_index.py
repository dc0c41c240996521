"""Which part is where, and who waits for which height, when many sessions come and go; in both runs."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLIENT,
    CLTV,
    FUNDING,
    HASH,
    HEIGHT,
    LIMITS,
    PREIMAGE,
    PUBLIC,
    SCID,
    SECOND_CHANNEL,
    SIZE,
    TERMS,
    U64_MAX,
    UPSTREAM,
    WALL_MS,
    Machine,
    Scene,
)
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import FailParts
from lsps2fast.table import Input

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


def test_a_channel_that_closes_is_found_without_a_look_at_every_offer(machine: Machine) -> None:
    """P15, people:S17: a node that closes 1,000 channels beside 100,000 offers still answers meanwhile."""

    def took_s(offers: int) -> float:
        core, times = machine.sessions.Sessions(), []
        for scid in range(offers):
            core.add_buy(scid, CLIENT, TERMS)
        for _ in range(9):
            began = time.perf_counter()
            assert core.channel_closed("c" * 64) == core.money_back("c" * 64) == core.money_seen("c" * 64) == ()
            times.append(time.perf_counter() - began)
        return min(times)

    assert took_s(20_000) < 50 * took_s(20)


PAID = order.SessionRecord("paid", HASH, 1, 1_000, FUNDING, CHANNEL, (), PREIMAGE)
UNPAID = order.SessionRecord("channel", None, 1, 0, None, CHANNEL, (), None)
WAYS = {  # in which a channel comes to an offer: words of a story, or a record
    "it was opened": "part reserved stored funded",
    "it was opened when it was no longer wanted": "part reserved stored deadline funded",
    "the undo found money of the client in it": "part reserved unstored kept",
    "a payment is under way after a start": PAID,
    "it waits for a payment after a start": UNPAID,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_channel_that_closes_is_found_however_it_came_to_its_offer(scene: partial[Scene], way: str) -> None:
    """K-13, rule:23: its end is heard, whatever step made it."""
    play, road = scene(**PUBLIC), WAYS[way]
    if isinstance(road, str):
        play.walk(road)
    else:
        play.session = play.core.restore(SCID, road, True)
    play.core.channel_closed(CHANNEL.channel_id)
    assert CHANNEL.channel_id in play.buy.closing or play.session.gone


def test_a_channel_is_forgotten_with_its_offer(scene: partial[Scene]) -> None:
    """rule:14, A-03: what finds an offer by its channel lasts no longer than the offer, also where it had several."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent unready part sent")
    play.tell(Input.READY, replace(LIMITS, spendable_msat=SIZE // 2))
    play.note(play.core.channel_closed(CHANNEL.channel_id))
    play.part()
    play.walk("reserved stored")
    play.tell(Input.FUNDED, order.Opened(SECOND_CHANNEL))
    play.walk("stored sent unready expired")
    assert list(play.core.buys) == [SCID]
    play.note(play.core.money_back(CHANNEL.channel_id))
    assert list(play.core.buys) == [SCID]
    play.note(play.core.money_back(SECOND_CHANNEL.channel_id))
    assert play.core.buys == {}
    assert not getattr(play.core, "_owners", None)  # only the interpreted one shows it


def test_more_parts_than_a_session_may_have_are_refused_when_the_machine_is_made(machine: Machine) -> None:
    """C-10: the limit is the operator's, its bound ours."""
    with pytest.raises(ValueError, match="max_parts"):
        machine.sessions.Sessions(max_parts=10_001)
    core = machine.sessions.Sessions(max_parts=10_000)
    assert core.add_buy(1, CLIENT, TERMS).terms == TERMS
