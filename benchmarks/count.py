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


def _part(count: int) -> None:
    import work

    sessions = work.machine(work.core("compiled"), 1, 10_000, 5000)
    work.put_parts(sessions, 1, bytes(32), 0, count)


def _story(count: int) -> None:
    import work

    sessions, preimages = work.stories(work.core("compiled"), count // 10, 10)
    for number, preimage in enumerate(preimages, 1):
        work.story(sessions, number, preimage, 10)


CASES: dict[str, Callable[[int], None]] = {
    "foreign hook through the lane": _lane,
    "scan of a JIT call": _scan,
    "payload with a smaller amount": _payload,
    "part of a live session": _part,
    "a tenth of a session of ten parts": _story,
}


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
    """P6: what foreign hooks make the real service ask of lightningd. P16: what a whole session does."""
    import work

    from lsps2fast_plugin.load.sales import ServiceUnderLoad, run_sales

    service = ServiceUnderLoad(work.SEED)
    try:
        before = service.rpc_calls()
        frames = work.frames(1000)
        service.child.saturate(b"".join(frames) * (SERVICE_HOOKS // 1000), SERVICE_HOOKS)
        asked = (service.rpc_calls() - before).total()
    finally:
        service.close()
    sale = run_sales(work.SEED, 1, 10)
    return {"P6 RPC calls of foreign hooks": asked, "P16 commits of a session": sale["commits"]}


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
        print("!! valgrind is not installed: NO INSTRUCTIONS WERE COUNTED, only P6 and P16 !!")
    else:
        found["instructions"] = count_all()
        hook = found["instructions"]["foreign hook through the lane"]
        if hook > P5_MOST:
            wrong.append(f"P5: {hook:,.0f} instructions a foreign hook, at most {P5_MOST:,}")
        if record.get("place") == found["place"]:
            wrong += compare(found["instructions"], record["instructions"], TOLERANCE)
        elif not args.record:
            print(f"!! recorded for {record.get('place')}, here is {found['place']}: NOT COMPARED, only P5 !!")
    if args.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        print(f"recorded in {RECORD.name}")
        return 0
    for line in wrong:
        print(f"OUT OF BOUNDS  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
