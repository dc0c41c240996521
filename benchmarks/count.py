"""`make count`: instructions of the hot paths against what is recorded, and the exact counts of P6 and P16.

An instruction count repeats to the digit on one machine, so 3 % is a change of the program. Each case runs twice under
callgrind, with few and with many repetitions; the difference is its own. Counts depend on compiler, libc and Python:
they are held against the record only where those are the ones recorded. `--record` writes the record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORD = HERE / "counts.json"
TOLERANCE = 0.03
P5_MOST = 6000
FEW, MANY = 200, 1200
SERVICE_HOOKS = 10_000
FRAMES_FILE = "LSPS2FAST_BENCH_FRAMES"

sys.path.insert(0, str(HERE))


def _lane(count: int) -> None:
    import work

    assert work.through_lane(True, os.environ[FRAMES_FILE]) == 0


def _scan(count: int) -> None:
    import work

    frame, read = work.frames(1, "1x2x3")[0].strip(), work.core("compiled").hook.scan
    for _ in range(count):
        read(frame)


def _payload(count: int) -> None:
    import work

    forward = work.core("compiled").tlv.forward_payload
    for _ in range(count):
        forward(work.PAYLOAD, 9_000_000)


def _part(count: int, live: int = 4) -> None:
    import work

    sessions = work.live(work.core("compiled"), live)
    scids = [n % live + 1 for n in range(count)]
    calls = [work.part_calls(scid, scid.to_bytes(32, "big"), n + 1, 1)[0] for n, scid in enumerate(scids)]
    work.each(sessions.part, calls)
    assert len(sessions.index) == live + count


def _part_of_many(count: int) -> None:
    _part(count, 1_000)


def _story(count: int, parts: int = 10) -> None:
    import work

    sessions, calls = work.stories(work.core("compiled"), count // parts, parts)
    for one in calls:
        work.story(sessions, one)


def _long_story(count: int) -> None:
    _story(count, 100)


CASES: dict[str, Callable[[int], None]] = {
    "foreign hook through the lane": _lane,
    "scan of a JIT call": _scan,
    "payload with a smaller amount": _payload,
    "part of a live session": _part,
    "part of one of 1,000 sessions": _part_of_many,
    "a tenth of a session of ten parts": _story,
    "a hundredth of a session of 100 parts": _long_story,
}
GROWTH = (  # the second costs at most so many times the first, on any machine
    ("part of a live session", "part of one of 1,000 sessions", 1.1),
    ("a tenth of a session of ten parts", "a hundredth of a session of 100 parts", 1.0),
)


def place() -> dict[str, str]:
    """What the counts depend on."""
    compiler = subprocess.run(["cc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cc": compiler,
    }


def instructions(case: str, count: int) -> int:
    """All of a process that repeats the case so often."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        sys.executable, str(Path(__file__)), "--work", case, str(count),
    ]  # fmt: skip
    import work

    with tempfile.NamedTemporaryFile() as file:  # made out here: copying frames is no part of reading them
        file.write(b"".join(work.frames(100)) * (count // 100))
        file.flush()
        environment = {**os.environ, "PYTHONHASHSEED": "0", FRAMES_FILE: file.name}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found.group(1))


def count_all() -> dict[str, float]:
    """Instructions of each case, once."""
    counts = {}
    for case in CASES:
        counts[case] = (instructions(case, MANY) - instructions(case, FEW)) / (MANY - FEW)
        print(f"  {counts[case]:10,.0f}  {case}", flush=True)
    return counts


def exact() -> dict[str, int]:
    """P6: what foreign hooks make the real service ask of lightningd. P16: what a whole session does.

    The service asks some things by the clock, none more often than once a minute. What a hook causes comes with every
    batch of hooks, so the quieter one of two batches counts; commits count over both.
    """
    import work

    from lsps2fast_plugin.load.sales import COMMITS, ServiceUnderLoad, run_sales

    frames = b"".join(work.frames(1000)) * (SERVICE_HOOKS // 1000)
    asked, commits = [], 0
    service = ServiceUnderLoad(work.SEED)
    try:
        for _ in range(2):
            before = service.rpc_calls()
            service.child.saturate(frames, SERVICE_HOOKS)
            calls = service.rpc_calls() - before
            asked.append(calls.total())
            commits += sum(calls[method] for method in COMMITS)
    finally:
        service.close()
    sale = run_sales(work.SEED, 1, 10)
    return {
        "P6 RPC calls of foreign hooks": min(asked),
        "P6 commits of foreign hooks": commits,
        "P16 commits of a session": sale["commits"],
    }


def proportions(counts: dict[str, float]) -> list[str]:
    """What must hold whatever the machine: costs that do not grow with what is live (P10). In words what does not."""
    wrong = []
    for small, large, most in GROWTH:
        if counts[large] > most * counts[small]:
            wrong.append(f"P10: {large} takes {counts[large] / counts[small]:.2f} times {small}, at most {most:g}")
    return wrong


def compare(counts: dict[str, Any], recorded: dict[str, Any], tolerance: float) -> list[str]:
    """What is out of bounds, in words."""
    wrong = []
    for case, value in counts.items():
        was = recorded.get(case)
        if was is None:
            wrong.append(f"{case}: not recorded")
        elif abs(value - was) > tolerance * was:
            better = "; cheaper now: record it" if value < was else ""
            wrong.append(f"{case}: {value:,.0f}, recorded {was:,.0f}{better}")
    return wrong


def main() -> int:
    """0 when all is within bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write benchmarks/counts.json")
    parser.add_argument("--work", nargs=2, metavar=("CASE", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        CASES[args.work[0]](int(args.work[1]))
        return 0
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found: dict[str, Any] = {"place": place(), "exact": exact()}
    wrong = compare(found["exact"], record.get("exact", {}), 0.0)
    print("  " + ", ".join(f"{name}: {value}" for name, value in found["exact"].items()))
    if shutil.which("valgrind") is None:
        print(
            f"!! valgrind is not installed: {len(CASES)} COUNTS OF INSTRUCTIONS WERE SKIPPED, only P6 and P16 hold !!"
        )
    else:
        found["instructions"] = count_all()
        hook = found["instructions"]["foreign hook through the lane"]
        if hook > P5_MOST:
            wrong.append(f"P5: {hook:,.0f} instructions a foreign hook, at most {P5_MOST:,}")
        wrong += proportions(found["instructions"])
        if record.get("place") == found["place"]:
            wrong += compare(found["instructions"], record["instructions"], TOLERANCE)
        elif not args.record:
            print(f"!! recorded for {record.get('place')}, here is {found['place']} !!")
            print(f"!! {len(CASES)} COUNTS WERE NOT COMPARED, only P5 and P10 are checked !!")
    if args.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        print(f"recorded in {RECORD.name}")
        return 0
    for line in wrong:
        print(f"OUT OF BOUNDS  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
