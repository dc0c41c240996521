"""`lsps2fast bench --flood --sweep`: what other people's forwards and wallets wait for as the flood of messages grows.

One run: the real service at rest and at each rate in turn, up and down again; then our host, compiled and interpreted,
with its loop blocked. A forward counts from the moment it was due, so also what it waited for us, who flood: that has a
column of its own, and where it is most of the whole, the machine has too few cores for this rate.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lsps2fast_plugin.tools.bench import children
from lsps2fast_plugin.tools.bench.figures import needed, quantile
from lsps2fast_plugin.tools.bench.flood import SWITCH_S, WALLETS, Ear, Pace, Wallet, crowd_frames, offers_of
from lsps2fast_plugin.tools.bench.harness import Child
from lsps2fast_plugin.tools.bench.report import Line, picture, table
from lsps2fast_plugin.tools.bench.run import load, machine
from lsps2fast_plugin.tools.bench.sales import ServiceUnderLoad

REST_PER_S = 100.0  # messages outside a flood; also where "at rest" stands in the picture
RATES = (REST_PER_S, 1_000.0, 3_000.0, 6_000.0, 12_000.0, 20_000.0)
FORWARD_EVERY_S = 0.01
BLOCK_S = 5.0
BLOCK_PER_S = 20_000.0
PEERS = 1_000
Say = Callable[[str], None]


@dataclass
class Step:
    """What was seen at one rate, over both turns."""

    per_s: float
    written: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    shed: int = 0
    wallets: int = 0
    wallets_served: int = 0
    forward_us: list[float] = field(default_factory=list)
    own_us: list[float] = field(default_factory=list)  # what forwards waited for the generator
    wallet_us: list[float] = field(default_factory=list)


@dataclass
class Blocked:
    """Forwards beside a loop that is blocked, of one lane."""

    lane: str
    rest_us: list[float]
    blocked_us: list[float]
    written_per_s: float


@dataclass
class Sweep:
    """One run."""

    machine: dict[str, Any]
    peers: int
    steps: list[Step]
    blocked: list[Blocked] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


def run_sweep(
    seed: int, seconds: float, say: Say, *, rates: Sequence[float] = RATES, peers: int = PEERS, block_s: float = BLOCK_S
) -> Sweep:
    """Flood the real service at each rate for so many seconds, twice. Raises TimeoutError when it stops answering."""
    found = Sweep(machine(), peers, [Step(rate) for rate in rates])
    turns = [*found.steps, *found.steps[::-1]]
    names = [f"peer{number}" for number in range(peers)]
    names += [f"wallet{number}" for number in range(WALLETS * len(turns))]
    ear = Ear()
    service = ServiceUnderLoad(seed, names, (10**9,) * 3)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # our search for garbage would be 80 ms in which no forward is written
    try:
        service.listen(ear)
        say(f"{peers:,} peers ask for their first menu")
        frames = crowd_frames(offers_of(service, ear, service.ids[:peers]), seed)
        for turn, step in enumerate(turns):
            say(f"{step.per_s:,.0f} messages a second for {seconds:g} s")
            guests = service.ids[peers + turn * WALLETS :][:WALLETS]
            _run(service.child, guests, ear, seed, step, frames, seconds)
            found.loads.append(load())
    finally:
        gc.enable()
        sys.setswitchinterval(interval_s)
        service.close()
    for lane in ("c", "python"):
        say(f"the loop blocked for {block_s:g} s, {BLOCK_PER_S:,.0f} messages a second, the lane in {lane}")
        found.blocked.append(run_blocked(seed, lane, frames, block_s))
        found.loads.append(load())
    return found


def _run(child: Child, guests: list[str], ear: Ear, seed: int, step: Step, frames: list[bytes], seconds: float) -> None:
    shed, cpu_s, now = unread(child), child.cpu_s(), time.perf_counter()
    wallets = [Wallet(peer_id, now + seconds * (n + 0.5) / WALLETS) for n, peer_id in enumerate(guests)]
    pace = Pace(child, wallets, ear, seed, FORWARD_EVERY_S)
    pace.run(frames, step.per_s, seconds)
    step.cpu_s += child.cpu_s() - cpu_s
    step.shed += unread(child) - shed
    step.written += pace.written
    step.seconds += seconds
    step.wallets += len(wallets)
    step.wallets_served += sum(wallet.served for wallet in wallets)
    step.forward_us += pace.forward_us
    step.own_us += pace.own_us
    step.wallet_us += [late for wallet in wallets for late in wallet.late_us]


def unread(child: Child) -> int:
    """Return how many messages were let go unread."""
    count: int = child.ask("lsps2-stats", {})["unread"]["messages"]
    return count


def run_blocked(seed: int, lane: str, frames: list[bytes], block_s: float) -> Blocked:
    """P25: forwards at rest, and while the loop of our host does nothing and peers flood."""
    child = Child(children.ours(lane), pure=lane == "python")
    try:
        rest = Pace(child, [], Ear(), seed, FORWARD_EVERY_S)
        rest.run([], 0.0, block_s)
        call = {"jsonrpc": "2.0", "id": "bench:block#1", "method": "block", "params": {"seconds": block_s}}
        child.send(json.dumps(call).encode() + b"\n\n")
        pace = Pace(child, [], Ear(), seed, FORWARD_EVERY_S)
        pace.run(frames, BLOCK_PER_S, block_s)
    finally:
        child.close()
    return Blocked(lane, rest.forward_us, pace.forward_us, pace.written / block_s)


# ---- for people, programs and browsers


def text(sweep: Sweep) -> str:
    """Return the table."""
    m = sweep.machine
    head = (
        f"{m['cpu']}, {m['cores']} cores, load {m['load']} before, {min(sweep.loads):g} to {max(sweep.loads):g}"
        f" meanwhile, Python {m['python']}, lsps2fast {m['lsps2fast']}, {m['at']}; {sweep.peers:,} peers"
    )
    forwards = ["forwards ms p50", "p99", "÷ rest", "bench itself p99"]
    rows = [["messages/s", "taken/s", "unread", *forwards, "wallets ms p50", "p90", "served"]]
    rest_us = sweep.steps[0].forward_us
    for step in sweep.steps:
        late = [_ms(step.forward_us, 0.5), _ms(step.forward_us, 0.99), _over(step.forward_us, rest_us)]
        late.append(_ms(step.own_us, 0.99))
        late += [_ms(step.wallet_us, 0.5), _ms(step.wallet_us, 0.9), f"{step.wallets_served} of {step.wallets}"]
        share = step.shed / max(step.written, 1)
        rows.append([f"{step.per_s:,.0f}", f"{step.written / step.seconds:,.0f}", f"{share:.0%}", *late])
    idle = [["loop blocked, the lane in", "messages/s", "forwards ms p50", "p99", "at rest p50", "p99", "p99 ÷ rest"]]
    for each in sweep.blocked:
        late = [_ms(us, share) for us in (each.blocked_us, each.rest_us) for share in (0.5, 0.99)]
        idle.append([each.lane, f"{each.written_per_s:,.0f}", *late, _over(each.blocked_us, each.rest_us)])
    return f"{head}\n\n{table(rows)}\n\n{table(idle)}\n\nP25: p99 ÷ rest ≤ 2\n"


def _ms(late_us: list[float], share: float) -> str:
    late = quantile(late_us, share)
    return f"{len(late_us)} of {needed(share)}" if late is None else f"{late / 1e3:.2f}"


def _over(late_us: list[float], rest_us: list[float]) -> str:
    above, below = quantile(late_us, 0.99), quantile(rest_us, 0.99)
    return "-" if above is None or not below else f"{above / below:.2f}"


def as_json(sweep: Sweep) -> str:
    """For programs."""
    return json.dumps(asdict(sweep), indent=2) + "\n"


def svg(sweep: Sweep) -> str:
    """Draw what forwards and wallets wait over the rate; at rest is the leftmost."""
    lines = []
    forwards = [(step.per_s, step.forward_us) for step in sweep.steps]
    wallets = [(step.per_s, step.wallet_us) for step in sweep.steps]
    for name, colour, seen in (("foreign forwards", "#0a7d4f", forwards), ("requests of wallets", "#c98a00", wallets)):
        for share, dash in ((0.9, ""), (0.5, "5 4")):
            points = [(per_s, us / 1e3) for per_s, late_us in seen if (us := quantile(late_us, share))]
            lines.append(Line(name, points, colour, dash))
    title = "Milliseconds (p90; dashed p50) over messages of peers a second"
    m = sweep.machine
    foot = f"{m['cpu']}, {m['cores']} cores, load {min(sweep.loads):g} to {max(sweep.loads):g}, {m['at']}"
    return picture([(title, lines)], foot)
