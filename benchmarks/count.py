"""`make count`: instructions of the hot paths against what is recorded, and the exact counts of P6 and P16.

An instruction count repeats to the digit on one machine, so 3 % is a change of the program. Under callgrind
each case runs few and many times, with prepared calls; the difference is its own. Counts depend on
compiler, libc, Python and kind of processor: they are held against the record only where those are the ones recorded.
Elsewhere, and where valgrind is not there or does not work, it says what was not checked. `--record` writes the record.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CALLGRIND = ("valgrind", "--tool=callgrind")
SIMD = frozenset({"sse4_2", "avx2", "sha_ni", "asimd", "sha2"})
RECORD = HERE / "counts.json"
TOLERANCE = 0.03
P5_MOST = 6000
FEW, MANY = 200, 1200
REPEATED = (FEW, FEW, MANY)  # until all is warm; what is to be taken off; what counts
ALL = sum(REPEATED)
LIVE = ALL // 10  # sessions of so few parts that no luck of malloc decides whether their rows move as they grow
SERVICE_HOOKS = 10_000

sys.path.insert(0, str(HERE))


Run = Callable[[int], None]  # so many repetitions, with calls that were prepared before


def _lane(inside: Any, watched: tuple[str, ...] = (), kind: str = "frames", tomorrow: bool = False) -> Run:
    """`kind`: what of `work` makes the frames; `tomorrow`: with members that no lightningd has yet."""
    import work

    frames = getattr(work, kind)(100)
    if tomorrow:
        frames = [work.of_tomorrow(frame, number) for number, frame in enumerate(frames)]
    files = {}
    for count in (FEW, MANY):
        files[count] = tempfile.NamedTemporaryFile()  # noqa: SIM115, there until the process ends
        files[count].write(b"".join(frames) * (count // 100))
        files[count].flush()

    def run(count: int) -> None:
        assert work.through_lane(True, files[count].name, watched) == 0

    return run


def _each(call: Callable[..., object], calls: list[tuple[Any, ...]]) -> Run:
    import work

    ahead = iter(calls)
    return lambda count: work.each(call, itertools.islice(ahead, count))


def _empty(inside: Any) -> Run:
    return _each(inside.Empty().call, [()] * ALL)


def _scan(inside: Any) -> Run:
    import work

    return _each(work.core("compiled").hook.scan, [(work.frames(1, "1x2x3")[0].strip(),)] * ALL)


def _payload(inside: Any) -> Run:
    import work

    return _each(work.core("compiled").tlv.forward_payload, [(work.PAYLOAD, 9_000_000)] * ALL)


def _part(inside: Any, live: int = LIVE) -> Run:
    import work

    core = work.core("compiled")
    sessions = work.live(core, live)
    hashes = [(n % live + 1).to_bytes(32, "big") for n in range(ALL)]
    return _each(sessions.part, [work.part_calls(core, n % live + 1, hashes[n], n + 1, 1)[0] for n in range(ALL)])


def _htlc(inside: Any) -> Run:
    import work

    facts = {"jit_scid": 1 << 60, "payment_hash": bytes(32), "in_scid": 1 << 61, "amount_msat": 10**8}
    onion = {"htlc_id": 1_000, "amt_to_forward_msat": 10**8, "cltv_expiry": 800_400, "outgoing_cltv_value": 800_256}
    return _each(partial(work.core("compiled").parts.IncomingHtlc, **facts, **onion), [()] * ALL)


def _part_inside(inside: Any) -> Run:
    import work

    sessions = work.live(work.core("compiled"), LIVE)
    bounds = (work.CLTV, work.CLTV - work.DELTA, work.WALL_MS)
    ahead = iter([(scid, scid.to_bytes(32, "big")) for scid in range(1, LIVE + 1)])

    def run(count: int) -> None:
        for scid, payment_hash in itertools.islice(ahead, count // 10):
            inside.more_parts(sessions, scid, payment_hash, scid, 1, 10, *bounds)

    return run


def _story(inside: Any, parts: int = 10, by_call: bool = True) -> Run:
    import work

    sessions, calls = work.stories(work.core("compiled"), ALL // parts, parts)
    story, ahead = work.story if by_call else inside.story, iter(calls)

    def run(count: int) -> None:
        for one in itertools.islice(ahead, count // parts):
            story(sessions, one)

    return run


CASES: dict[str, Callable[[Any], Run]] = {
    "foreign hook through the lane": _lane,
    "foreign hook through the lane, another peer watched": partial(_lane, watched=("02" + "5a" * 32,)),
    "foreign hook through the lane, with members of tomorrow": partial(_lane, tomorrow=True),
    "event of another payment through the lane": partial(_lane, kind="event_frames"),
    "event of another payment, with members of tomorrow": partial(_lane, kind="event_frames", tomorrow=True),
    "scan of a JIT call": _scan,
    "payload with a smaller amount": _payload,
    "empty call": _empty,
    "an incoming HTLC, made": _htlc,
    "part of a live session": _part,
    "part of a live session, inside C": _part_inside,
    "part of one of 1,000 sessions": partial(_part, live=1_000),
    "a tenth of a session of ten parts": _story,
    "a tenth of a session of ten parts, inside C": partial(_story, by_call=False),
    "a hundredth of a session of 100 parts": partial(_story, parts=100),
}
GROWTH = (  # the second costs at most so many times the first, on any machine
    ("part of a live session", "part of one of 1,000 sessions", 1.1),
    ("a tenth of a session of ten parts", "a hundredth of a session of 100 parts", 1.0),
    ("foreign hook through the lane", "foreign hook through the lane, another peer watched", 1.02),
    ("foreign hook through the lane", "foreign hook through the lane, with members of tomorrow", 1.2),
    ("event of another payment through the lane", "event of another payment, with members of tomorrow", 1.2),
)


def place() -> dict[str, str]:
    """Return the parts that the counts depend on. libc and OpenSSL choose their code by what the processor can."""
    compiler = subprocess.run(["cc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    built = (
        f"{platform.python_compiler()} {sysconfig.get_config_var('CONFIG_ARGS')} {sysconfig.get_config_var('CFLAGS')}"
    )
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return {
        "python": platform.python_version(),
        "python built": hashlib.sha256(built.encode()).hexdigest()[:12],
        "cython": importlib.metadata.version("Cython"),
        "machine": " ".join([platform.machine(), *sorted(SIMD.intersection(flags))]),
        "libc": " ".join(platform.libc_ver()),
        "cc": compiler,
    }


def no_valgrind() -> str | None:
    """Why instructions cannot be counted here; None where they can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    probe = [*CALLGRIND, "--callgrind-out-file=/dev/null", sys.executable, "-c", "import lsps2fast._sessions"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"valgrind cannot run this Python (exit status {done.returncode})"


def run_all(directory: str) -> None:
    """Every case; what runs under callgrind. Each call of `mark` ends what counts since the one before."""
    gc.disable()  # a collection of everything that is imported would fall into one case or another
    sys.path.insert(0, directory)
    inside = importlib.import_module("inside")
    for case in CASES.values():
        run = case(inside)
        for count in REPEATED:
            run(count)
            inside.mark()


def count_all() -> dict[str, float]:
    """Instructions of each case, once."""
    import work

    with tempfile.TemporaryDirectory() as directory:
        work.compile_inside(Path(directory))
        out = f"--callgrind-out-file={directory}/out"
        command = [*CALLGRIND, out, "--dump-before=*6inside_*mark", sys.executable, __file__, "--work", directory]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run(command, capture_output=True, check=True, env=environment)
        dumps = sorted(Path(directory).glob("out.*"), key=lambda dump: int(dump.suffix[1:]))
        totals = [int(re.findall(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)[0]) for dump in dumps]
    found = [(many - few) / (MANY - FEW) for few, many in zip(totals[1::3], totals[2::3], strict=True)]
    counts = dict(zip(CASES, found, strict=True))
    for case, count in counts.items():
        print(f"  {count:10,.0f}  {case}")
    return counts


def exact() -> dict[str, int]:
    """P6: what foreign hooks make the real service ask of lightningd. P16: what a whole session does.

    The service asks some things by the clock, none more often than once a minute. What a hook causes comes with every
    batch of hooks, so the quieter one of two batches counts; commits count over both.
    """
    import work

    from lsps2fast_plugin.service.policy.rules import MODES
    from lsps2fast_plugin.tools.bench.sales import COMMITS, ServiceUnderLoad, run_sales

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
    commits_of_sale = {mode: run_sales(work.SEED, 1, 10, mode)["commits"] for mode in MODES}
    return {
        "P6 RPC calls of foreign hooks": min(asked),
        "P6 commits of foreign hooks": commits,
        **{f"P16 commits of a session, {mode}": number for mode, number in commits_of_sale.items()},
    }


def proportions(counts: dict[str, float]) -> list[str]:
    """Return in words the bounds of any machine that do not hold here: costs that do not grow (P10)."""
    wrong = []
    for small, large, most in GROWTH:
        if counts[large] > most * counts[small]:
            wrong.append(
                f"P5, P10, wallet:W0: {large} takes {counts[large] / counts[small]:.2f} times {small}, at most {most:g}"
            )
    return wrong


def compare(counts: dict[str, Any], recorded: dict[str, Any], tolerance: float) -> list[str]:
    """Return in words the counts that are out of bounds."""
    wrong = []
    for case, value in counts.items():
        was = recorded.get(case)
        if was is None:
            wrong.append(f"{case}: not recorded")
        elif abs(value - was) > tolerance * was:
            better = "; cheaper now: record it" if value < was else ""
            wrong.append(f"{case}: {value:,.0f}, recorded {was:,.0f}{better}")
    return wrong


def held_instructions(counts: dict[str, float]) -> list[str]:
    """Return in words the bounds of any machine that do not hold: P5, and costs that do not grow (P10)."""
    hook = counts["foreign hook through the lane"]
    wrong = [f"P5: {hook:,.0f} instructions a foreign hook, at most {P5_MOST:,}"] if hook > P5_MOST else []
    return wrong + proportions(counts)


def main() -> int:
    """0 when all is within bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write benchmarks/counts.json")
    parser.add_argument("--work", metavar="DIRECTORY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        run_all(args.work)
        return 0
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found: dict[str, Any] = {"place": place(), "exact": exact()}
    print("  " + ", ".join(f"{name}: {value}" for name, value in found["exact"].items()))
    wrong = compare(found["exact"], record.get("exact", {}), 0.0)
    obstacle = no_valgrind()
    if obstacle is not None:
        print(f"!! {obstacle}: {len(CASES)} COUNTS OF INSTRUCTIONS WERE SKIPPED, P5 is not checked, only P6 and P16 !!")
        found["place"], found["instructions"] = record.get("place"), record.get("instructions")
    else:
        found["instructions"] = count_all()
        wrong += held_instructions(found["instructions"])
        if record.get("place") == found["place"]:
            wrong += compare(found["instructions"], record["instructions"], TOLERANCE)
        elif not args.record:
            print(f"!! recorded for {record.get('place')}\n!! here is      {found['place']}")
            print(f"!! {len(CASES)} COUNTS WERE NOT COMPARED, of instructions only P5 and P10 are checked !!")
    if args.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        print(f"recorded in {RECORD.name}")
        return 0
    for line in wrong:
        print(f"OUT OF BOUNDS  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
