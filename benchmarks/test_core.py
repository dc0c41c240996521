"""Layer core: parts, whole sessions, the fee, blocks, memory. P8 to P12, P15."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import work

COMPILED = work.core("compiled")
UPSTREAM = 1 << 62  # an incoming channel no other part has
PARTS_A_ROUND = 19


@pytest.mark.benchmark(group="call")
def test_empty_call(benchmark: Any, empty_call: Callable[[], None]) -> None:
    """The yardstick of P8 and P9."""
    benchmark(empty_call)


@pytest.mark.benchmark(group="part")
@pytest.mark.parametrize("sessions", [1, 1_000, 10_000, 100_000])
def test_part(benchmark: Any, sessions: int) -> None:
    """P8, P10: a further part of one of so many live sessions."""
    machine = work.live(COMPILED, sessions)
    hashes = [scid.to_bytes(32, "big") for scid in range(1, sessions + 1)]
    turns = itertools.count()

    def call() -> tuple[Any, ...]:
        turn = next(turns)
        scid = turn * 7919 % sessions + 1
        arguments = (scid, hashes[scid - 1], UPSTREAM, turn, work.PART_MSAT, work.PART_MSAT, work.CLTV)
        return (*arguments, work.CLTV - work.DELTA, 5_000, work.WALL_MS)

    def calls() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (itertools.starmap(machine.part, [call() for _ in range(PARTS_A_ROUND)]),), {}

    benchmark.extra_info["per"] = PARTS_A_ROUND
    benchmark.pedantic(deque(maxlen=0).extend, setup=calls, rounds=25)


@pytest.mark.benchmark(group="whole session")
@pytest.mark.parametrize("run", work.RUNS)
@pytest.mark.parametrize("parts", [1, 10, 100, 483])
def test_lifecycle(benchmark: Any, run: str, parts: int) -> None:
    """P9, P10."""
    rounds = 60 if parts < 100 else 12
    machine, preimages = work.stories(work.core(run), rounds, parts)
    turns = itertools.count()

    def one() -> tuple[tuple[Any, ...], dict[str, Any]]:
        turn = next(turns)
        return (machine, turn + 1, preimages[turn], parts), {}

    benchmark.pedantic(work.story, setup=one, rounds=rounds)


@pytest.mark.benchmark(group="fee laid on parts")
@pytest.mark.parametrize("parts", [1, 10, 100, 483])
def test_allocate(benchmark: Any, parts: int) -> None:
    """P11."""
    assert benchmark(COMPILED.fsm.allocate, [work.PART_MSAT] * parts, 1, work.PART_MSAT // 2 * parts)


@pytest.mark.benchmark(group="block with nothing due")
@pytest.mark.parametrize("sessions", [1_000, 100_000])
def test_block(benchmark: Any, sessions: int) -> None:
    """P15."""
    machine = work.live(COMPILED, sessions)
    heights = itertools.count(work.HEIGHT + 1)
    benchmark.pedantic(machine.block, setup=lambda: ((next(heights),), {}), rounds=100)


@pytest.mark.benchmark(group="memory")
def test_memory(benchmark: Any) -> None:
    """P12: bytes of a session with ten held parts, machine and buy included; 2,000 of them."""
    count = 2_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    machine = work.machine(COMPILED, count, 100)
    for scid in range(1, count + 1):
        work.put_parts(machine, scid, scid.to_bytes(32, "big"), 0, 10)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    benchmark.extra_info["bytes_a_session"] = round((after - before) / count)
    benchmark.pedantic(lambda: None, rounds=1)
