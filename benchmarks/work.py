"""What the benchmarks do, with seeded data: the same steps for timing and for counting instructions."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lsps2fast import actions as order
from lsps2fast.table import Input
from lsps2fast_plugin.tools.bench.calls import event_frame, hook_frame

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from harness.backends import load_compiled, load_pure  # noqa: E402

RUNS = {"compiled": load_compiled, "interpreted": load_pure}
SEED = 1
HEIGHT, DELTA = 800_000, 144
CLTV = HEIGHT + 400
CLIENT = "02" + "11" * 32
FEE_MSAT = 10_000
WALL_MS = 1_800_000_000_000
FUNDING = order.Funding("psbt", ("aa" * 32 + ":0",), HEIGHT + 72, 100_000)
CHANNEL = order.Channel("cc" * 32, "signed", "dd" * 32)
LIMITS = order.ChannelLimits(1, 9_000_000_000, 9_000_000_000, 144)
PART_MSAT = 100_000
PAYLOAD = "12020398968004017906080000010000020003"
FINAL_PAYLOAD = "2d0203989680040179" + "0823" + "ab" * 32 + "989680"


class Core(NamedTuple):
    """The core in one run."""

    fsm: ModuleType
    parts: ModuleType
    sessions: ModuleType
    tlv: ModuleType
    hook: ModuleType


def core(run: str) -> Core:
    """`run`: "compiled" or "interpreted"."""
    return Core(*(RUNS[run](name) for name in ("_fsm", "_parts", "_sessions", "_tlv", "_hook")))


def terms(size_msat: int) -> order.Terms:
    """Of one buy."""
    return order.Terms(size_msat, FEE_MSAT, 0, 1, 2**64 - 1, 2016, DELTA, WALL_MS + 3_600_000, True)


def machine(c: Core, buys: int, parts: int, max_parts: int = 500) -> Any:
    """Return a machine with so many buys of `parts` parts; scids 1, 2, …; each client of its own, all online."""
    most = 2**62
    pots = ("max_held_parts", "max_held_parts_per_peer", "max_held_parts_per_buy")
    msat = {"max_held_msat": most, "max_held_msat_per_peer": most}
    sessions = c.sessions.Sessions(max_parts=max_parts, **dict.fromkeys(pots, 10**9), **msat)
    sessions.block(HEIGHT)
    for scid in range(1, buys + 1):
        peer = f"{scid:066x}"
        sessions.add_buy(scid, peer, terms(PART_MSAT * parts))
        sessions.peer(peer, True)
    return sessions


def htlc(c: Core, scid: int, payment_hash: bytes, in_scid: int, number: int) -> Any:
    """One part of a payment."""
    return c.parts.IncomingHtlc(
        jit_scid=scid,
        payment_hash=payment_hash,
        in_scid=in_scid,
        htlc_id=number,
        amount_msat=PART_MSAT,
        amt_to_forward_msat=PART_MSAT,
        cltv_expiry=CLTV,
        outgoing_cltv_value=CLTV - DELTA,
    )


def part_calls(c: Core, scid: int, payment_hash: bytes, first: int, count: int) -> list[tuple[Any, ...]]:
    """Return the arguments of `Sessions.part` for parts of one payment."""
    return [(htlc(c, scid, payment_hash, scid, n), 5_000, WALL_MS) for n in range(first, first + count)]


def each(call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call it with each of these, with nothing of Python between the calls."""
    deque(itertools.starmap(call, arguments), maxlen=0)


def put_parts(c: Core, sessions: Any, scid: int, payment_hash: bytes, first: int, count: int) -> None:
    """Parts of one payment; changes are not read."""
    each(sessions.part, part_calls(c, scid, payment_hash, first, count))
    sessions.take_changes()


def live(c: Core, count: int) -> Any:
    """Return a machine with so many live sessions, each with one part of ten thousand."""
    sessions = machine(c, count, 10_000)
    for scid in range(1, count + 1):
        put_parts(c, sessions, scid, scid.to_bytes(32, "big"), 0, 1)
    return sessions


class Calls(NamedTuple):
    """Every call of one whole session, made before anything is timed."""

    scid: int
    payment_hash: bytes
    preimage: bytes
    parts: list[tuple[Any, ...]]
    steps: list[tuple[Any, ...]]  # of `Sessions.handle`
    sent: int
    resolved: list[tuple[Any, ...]]


def calls_of(c: Core, scid: int, parts: int) -> Calls:
    """Return the session of the buy `scid` of `stories`."""
    preimage = scid.to_bytes(32, "big")
    payment_hash = hashlib.sha256(preimage).digest()
    facts = (
        (Input.COINS_CHOSEN, FUNDING),
        (Input.STORED, None),
        (Input.FUNDED, order.Opened(CHANNEL)),
        (Input.READY, LIMITS),
    )
    steps = [(scid, payment_hash, int(kind), fact) for kind, fact in (*facts, (Input.STORED, None))]
    resolved = [((scid, n), payment_hash, preimage) for n in range(parts)]
    arrivals = part_calls(c, scid, payment_hash, 0, parts)
    return Calls(scid, payment_hash, preimage, arrivals, steps, int(Input.FUNDING_BROADCAST), resolved)


def story(sessions: Any, calls: Calls) -> None:
    """One whole session by calls from Python: parts, funding, forward, settle, broadcast."""
    each(sessions.part, calls.parts)
    each(sessions.handle, calls.steps)
    sessions.resolved(*calls.resolved[0])
    sessions.handle(calls.scid, calls.payment_hash, calls.sent)
    each(sessions.resolved, calls.resolved[1:])


def all_at_once(sessions: Any, calls: list[Calls]) -> None:
    """Take as many whole sessions of equally many parts step by step in turn, all of them under way at one time."""
    each(
        sessions.part,
        (arguments for arrivals in zip(*(one.parts for one in calls), strict=True) for arguments in arrivals),
    )
    each(sessions.handle, (step for steps in zip(*(one.steps for one in calls), strict=True) for step in steps))
    each(sessions.resolved, [one.resolved[0] for one in calls])
    each(sessions.handle, [(one.scid, one.payment_hash, one.sent) for one in calls])
    each(sessions.resolved, (end for one in calls for end in one.resolved[1:]))


def stories(c: Core, count: int, parts: int) -> tuple[Any, list[Calls]]:
    """Return a machine, and the calls of so many whole sessions."""
    return machine(c, count, parts), [calls_of(c, scid, parts) for scid in range(1, count + 1)]


def compile_inside(directory: Path) -> ModuleType:
    """`inside.pyx`, compiled there."""
    shutil.copy(HERE / "inside.pyx", directory)
    build = (
        "from setuptools import setup; from Cython.Build import cythonize; "
        f"setup(script_args=['-q', 'build_ext', '-i'], ext_modules=cythonize(['inside.pyx'], quiet=True, "
        f"include_path=[{str(HERE.parent / 'src')!r}]))"
    )
    subprocess.run([sys.executable, "-c", build], cwd=directory, check=True, capture_output=True)
    (built,) = directory.glob("inside.*.so")
    spec = importlib.util.spec_from_file_location("inside", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(count: int, scid: str | None = None) -> list[bytes]:
    """Return hook calls as lightningd writes them."""
    dice = random.Random(SEED)
    return [hook_frame(dice, n, scid) for n in range(count)]


def event_frames(count: int) -> list[bytes]:
    """Return forward_events of other payments."""
    dice = random.Random(SEED)
    return [event_frame(dice, n) for n in range(count)]


NEW = ("outgoing_peer_offline", 17, {"kind": "added", "why": [None, "}]"]})


def of_tomorrow(frame: bytes, number: int) -> bytes:
    """Return this frame with a member that no lightningd has yet, its place and value by `number` (cln:N9)."""
    call = json.loads(frame)
    inner = [call["params"], *(value for value in call["params"].values() if isinstance(value, dict))]
    here = inner[number % len(inner)]
    members = list(here.items())
    members.insert(number // len(inner) % (len(members) + 1), ("failure_reason", NEW[number % len(NEW)]))
    here.clear()
    here.update(members)
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"


def through_lane(compiled: bool, path: str, watched: tuple[str, ...] = ()) -> int:
    """Send a file of frames through a lane, answers to nowhere; return what was left for the loop. `watched`: peers."""
    from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
    from lsps2fast_plugin.cln.inbox import Ended
    from lsps2fast_plugin.cln.reader import make_lane, make_output

    interest = HtlcFilter(compiled=compiled)
    interest.scids.add(1 << 40 | 2 << 16 | 3)
    interest.payment_hashes.add(bytes(32))
    for peer in watched:
        interest.peers.add(peer)
    interest.loaded = interest.channels_loaded = True
    fd, nowhere = os.open(path, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    lane = make_lane(fd, interest, make_output(interest, nowhere, print), print)
    lane.start()
    deadline = time.monotonic() + 60
    while not lane.join(1.0) and time.monotonic() < deadline:
        pass
    handed = lane.take(10**9)
    os.close(fd)
    os.close(nowhere)
    if handed != [Ended(None)]:
        assert lane.take(1) == [Ended(None)]
        return len(handed)
    return 0
