"""Layer core: parts, whole sessions, the fee, blocks, timers, memory. P8 to P12, P15.

What P8 to P11 compare is measured by `interleaved`: all cases in turn, the order reversed every other round, so that a
burst of other work on the machine meets all of them alike.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import work
from msgspec.structs import replace

COMPILED = work.core("compiled")
UPSTREAM = 1 << 62  # an incoming channel no other part has
PARTS_A_ROUND = 19
EMPTY_CALLS = 200
Case = tuple[Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]], int]


def interleaved(cases: dict[str, Case], rounds: int) -> dict[str, float]:
    """Seconds of one operation of each case. A case makes, untimed, what to call; the number says how many that are."""
    took: dict[str, list[float]] = {name: [] for name in cases}
    gc.disable()
    for turn in range(rounds):
        for name in list(cases)[:: 1 if turn % 2 else -1]:
            make, operations = cases[name]
            call, arguments = make()
            begin = time.perf_counter()
            call(*arguments)
            took[name].append((time.perf_counter() - begin) / operations)
    gc.enable()
    return {name: median(times) for name, times in took.items()}


def empty(call: Callable[[], None]) -> Case:
    """Call the yardstick as the cases are called."""
    return lambda: (work.each, (call, [()] * EMPTY_CALLS)), EMPTY_CALLS


@pytest.mark.benchmark(group="call")
def test_empty_call(benchmark: Any, empty_call: Callable[[], None]) -> None:
    """The yardstick of P8 and P9."""
    benchmark(empty_call)


def parts_of(machine: Any, sessions: int) -> Callable[[], list[tuple[Any, ...]]]:
    """Return arguments for further parts, of sessions far from each other."""
    hashes = [scid.to_bytes(32, "big") for scid in range(1, sessions + 1)]
    turns = itertools.count()

    def calls() -> list[tuple[Any, ...]]:
        chosen = [(turn, turn * 7919 % sessions) for turn in itertools.islice(turns, PARTS_A_ROUND)]
        return [(work.htlc(COMPILED, at + 1, hashes[at], UPSTREAM, turn), 5_000, work.WALL_MS) for turn, at in chosen]

    return calls


@pytest.mark.benchmark(group="part")
@pytest.mark.parametrize("sessions", [1, 1_000, 10_000, 100_000])
def test_part(benchmark: Any, sessions: int, inside: ModuleType, empty_call: Callable[[], None]) -> None:
    """P8, P10: a further part of one of so many live sessions, by call and inside C, between empty calls."""
    machine = work.live(COMPILED, sessions)
    calls = parts_of(machine, sessions)
    firsts = itertools.count(10**6, PARTS_A_ROUND)
    scids = itertools.cycle(range(1, sessions + 1, 7 if sessions > 7 else 1))

    def more() -> tuple[Any, ...]:
        scid = next(scids)
        payment_hash = scid.to_bytes(32, "big")
        bounds = (work.CLTV, work.CLTV - work.DELTA, work.WALL_MS)
        return (machine, scid, payment_hash, UPSTREAM, next(firsts), PARTS_A_ROUND, *bounds)

    cases: dict[str, Case] = {
        "empty": empty(empty_call),
        "call": (lambda: (work.each, (machine.part, calls())), PARTS_A_ROUND),
        "inside": (lambda: (inside.more_parts, more()), PARTS_A_ROUND),
    }
    benchmark.extra_info.update(interleaved(cases, 12))
    benchmark.extra_info["per"] = PARTS_A_ROUND
    benchmark.pedantic(work.each, setup=lambda: ((machine.part, calls()), {}), rounds=12)


@pytest.mark.benchmark(group="whole session")
@pytest.mark.parametrize("run", work.RUNS)
@pytest.mark.parametrize("parts", [1, 4, 10, 16, 100, 483])
def test_lifecycle(benchmark: Any, run: str, parts: int, inside: ModuleType, empty_call: Callable[[], None]) -> None:
    """P9, P10."""
    rounds = 60 if parts < 100 else 15
    machine, calls = work.stories(work.core(run), 2 * rounds, parts)
    todo = iter(calls)
    if run == "compiled":
        cases: dict[str, Case] = {
            "empty": empty(empty_call),
            "call": (lambda: (work.story, (machine, next(todo))), 1),
            "inside": (lambda: (inside.story, (machine, next(todo))), 1),
        }
        benchmark.extra_info.update(interleaved(cases, rounds // 2))
    benchmark.pedantic(work.story, setup=lambda: ((machine, next(todo)), {}), rounds=rounds)
    assert machine.live == 0


@pytest.mark.benchmark(group="whole sessions of ten parts, all at once")
@pytest.mark.parametrize("sessions", [1_000, 10_000])
def test_at_once(benchmark: Any, sessions: int) -> None:
    """P28: thousands of payments under way at one time, each from its first part to its end, step by step in turn."""
    benchmark.extra_info["per"] = sessions
    machines = []

    def make() -> tuple[tuple[Any, ...], dict[str, Any]]:
        machine, calls = work.stories(COMPILED, sessions, 10)
        machines.append(machine)
        return (machine, calls), {}

    benchmark.pedantic(work.all_at_once, setup=make, rounds=9)
    assert [machine.live for machine in machines] == [0] * 9


@pytest.mark.benchmark(group="fee laid on parts, in C")
@pytest.mark.parametrize("parts", [1, 10, 100, 483])
def test_allocate(benchmark: Any, parts: int, inside: ModuleType) -> None:
    """P11."""
    benchmark.extra_info["per"] = 1000
    assert benchmark(inside.Fee(parts).lay, 1000, work.PART_MSAT // 2 * parts)


@pytest.mark.benchmark(group="block with nothing due")
@pytest.mark.parametrize("sessions", [1_000, 100_000])
@pytest.mark.parametrize("way", ["idle", "swept"])
def test_block(benchmark: Any, sessions: int, way: str) -> None:
    """P15: the usual one, and one at which the whole column is looked at because the first session falls due."""
    machine = work.live(COMPILED, sessions)
    heights = itertools.count(work.HEIGHT + 1)
    rounds = 100

    def idle() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (next(heights),), {}

    def swept() -> tuple[tuple[Any, ...], dict[str, Any]]:
        height = next(heights)  # one session more, which falls due two blocks on
        machine.add_buy(UPSTREAM + height, f"{height:066x}", replace(work.terms(10**9), cltv_expiry_delta_blocks=1))
        part = COMPILED.parts.IncomingHtlc(
            jit_scid=UPSTREAM + height,
            payment_hash=height.to_bytes(32, "big"),
            in_scid=UPSTREAM,
            htlc_id=height,
            amount_msat=1,
            amt_to_forward_msat=1,
            cltv_expiry=height + 8,
            outgoing_cltv_value=height + 7,
        )
        assert machine.part(part, 5_000, work.WALL_MS) == ()
        return (height,), {}

    benchmark.pedantic(machine.block, setup={"idle": idle, "swept": swept}[way], rounds=rounds)


@pytest.mark.benchmark(group="timers")
def test_timers(benchmark: Any) -> None:
    """P15: sets that time out, by `tick`."""
    count = 1_000
    benchmark.extra_info["per"] = count

    def expire() -> Callable[..., Any]:
        machine = work.live(COMPILED, count)
        return lambda: machine.tick(10**6, work.WALL_MS)

    benchmark.pedantic(lambda call: call(), setup=lambda: ((expire(),), {}), rounds=15)


def held(count: int) -> Any:
    """Return a machine with so many sessions of ten held parts."""
    machine = work.machine(COMPILED, count, 100)
    for scid in range(1, count + 1):
        work.put_parts(COMPILED, machine, scid, scid.to_bytes(32, "big"), 0, 10)
    return machine


@pytest.mark.benchmark(group="memory")
def test_memory(benchmark: Any) -> None:
    """P12: bytes of a session with ten held parts, machine and buy included: by allocations, and by RSS of 100,000."""
    count = 10_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    machine = held(count)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert machine.live == count
    benchmark.extra_info["bytes_a_session"] = round((after - before) / count)
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    benchmark.extra_info["rss_a_session"] = int(done.stdout)
    benchmark.pedantic(lambda: None, rounds=1)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    start, sessions = resident(), 100_000
    kept = held(sessions)
    print((resident() - start) // sessions)
