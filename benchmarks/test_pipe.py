"""Layer hook: whole programs behind real pipes, and the start of the service. P1, P2, P4, P7, P18, P20.

`lsps2fast bench` measures them at given rates, too, and with quantiles; here is the time of a call as fast as it goes.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import work

from lsps2fast_plugin.tools.bench import children
from lsps2fast_plugin.tools.bench.calls import hook_frame
from lsps2fast_plugin.tools.bench.harness import Child
from lsps2fast_plugin.tools.bench.start import measure

CALLS = 2_000
ROUNDS = 9
JIT_EVERY = 100
JIT_SCID = "0x0x1"  # in the live set of `children.ours`, so that the loop answers it
BUSY = 1.0  # a Python thread that always computes
STORED = 10_000
PROGRAMS = {
    "c-noop": lambda directory, busy: children.build_ceiling(directory),
    "lane": lambda directory, busy: children.ours("c", busy),
    "interpreted": lambda directory, busy: children.ours("python", busy),
    "pyln": lambda directory, busy: children.stock(busy),
}
CASES = [(name, "quiet") for name in PROGRAMS] + [(name, "busy thread") for name in PROGRAMS if name != "c-noop"]


def _saturate(benchmark: Any, child: Child, frames: list[bytes]) -> None:
    stream, calls = b"".join(frames), len(frames)
    benchmark.extra_info["per"] = calls
    cpu_us = []
    try:
        child.saturate(stream, calls)  # warm
        benchmark.pedantic(lambda: cpu_us.append(child.saturate(stream, calls).cpu_us), rounds=ROUNDS)
    finally:
        child.close()
    benchmark.extra_info["cpu_us"] = sorted(cpu_us)[len(cpu_us) // 2]


@pytest.mark.benchmark(group="foreign call through a pipe, saturated")
@pytest.mark.parametrize(("program", "beside"), CASES)
def test_pipe(benchmark: Any, program: str, beside: str, tmp_path: Path) -> None:
    """P1, P2, P7, P20; with a busy thread beside P4."""
    command = PROGRAMS[program](tmp_path, BUSY if beside == "busy thread" else 0.0)
    assert command is not None
    child = Child(command, pure=program == "interpreted", shake_hands=program != "c-noop")
    slow = program == "pyln" or (program, beside) == ("interpreted", "busy thread")
    _saturate(benchmark, child, work.frames(CALLS // 20 if slow else CALLS))


@pytest.mark.benchmark(group="call through a pipe, one of a hundred ours")
@pytest.mark.parametrize("program", ["lane", "interpreted"])
def test_mixed(benchmark: Any, program: str, tmp_path: Path) -> None:
    """One call of a hundred is handed to the loop, which answers it."""
    child = Child(PROGRAMS[program](tmp_path, 0.0), pure=program == "interpreted")
    dice = random.Random(work.SEED)
    frames = [hook_frame(dice, n, JIT_SCID if n % JIT_EVERY == 0 else None) for n in range(CALLS)]
    _saturate(benchmark, child, frames)


@pytest.mark.benchmark(group="start with 10,000 stored buys")
def test_buys(benchmark: Any) -> None:
    """P18: until `init` is answered (the rounds time the whole program); until all are live beside it."""
    starts = []
    benchmark.pedantic(lambda: starts.append(asyncio.run(measure(STORED))), rounds=3)
    benchmark.extra_info["init_s"] = sorted(start.init_s for start in starts)[1]
    benchmark.extra_info["live_s"] = sorted(start.live_s for start in starts)[1]
