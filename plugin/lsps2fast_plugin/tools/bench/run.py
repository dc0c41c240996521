"""The cases of `lsps2fast bench`: interleaved, order reversed every other round, medians; then ratios."""

from __future__ import annotations

import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsps2fast import __version__
from lsps2fast_plugin.tools.bench import children
from lsps2fast_plugin.tools.bench.calls import event_frame, hook_frame
from lsps2fast_plugin.tools.bench.figures import quantile
from lsps2fast_plugin.tools.bench.harness import Child, Late, percentiles
from lsps2fast_plugin.tools.bench.sales import ServiceUnderLoad, run_beside_a_hanging_one, run_in_turn, run_sales
from lsps2fast_plugin.tools.bench.start import measure

FRAMES = 2000
FEWEST_ROUNDS = 3  # of a ratio
BLOCK_S = 0.5  # a method handler that blocks
BLOCK_EVERY_S = 0.6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rounds: int
    calls: int  # a saturation round of a quick program; a slow one gets a tenth
    seconds: float  # of each steady rate
    rates: tuple[int, ...]
    sessions: tuple[int, ...]  # sold at once
    live: tuple[int, ...]  # buys in the journal while foreign hooks come
    stored: int  # buys at the start
    in_turn: int  # sales one after the other
    beside: int  # sales at once, one of which hangs
    parts: int = 10


QUICK = Scale(
    rounds=3,
    calls=10_000,
    seconds=0.5,
    rates=(1000, 10_000),
    sessions=(1, 10),
    live=(1, 1000),
    stored=1000,
    in_turn=10,
    beside=10,
)
FULL = Scale(
    rounds=9,
    calls=40_000,
    seconds=1.5,
    rates=(100, 1000, 3000, 10_000, 30_000),
    sessions=(1, 10, 50, 200),
    live=(1, 1000, 10_000, 100_000),
    stored=100_000,
    in_turn=100,
    beside=1000,
)


@dataclass
class Results:
    """Everything measured; medians over rounds, with the spread where there are rounds."""

    machine: dict[str, Any]
    saturation: dict[str, dict[str, float]] = field(default_factory=dict)
    latency: dict[str, dict[int, Late]] = field(default_factory=dict)
    at_rate_cpu_us: dict[str, dict[int, float]] = field(default_factory=dict)
    busy: dict[str, Late] = field(default_factory=dict)
    blocking: dict[str, Late] = field(default_factory=dict)
    rounds: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)  # what: program: each round
    events_cpu_us: dict[str, float] = field(default_factory=dict)
    rss_kb: dict[str, int] = field(default_factory=dict)
    foreign_rpc_calls: int = 0
    foreign_hooks: int = 0
    sales: list[dict[str, Any]] = field(default_factory=list)
    growth: list[dict[str, float]] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    added_ms: Late = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def load() -> float:
    """Return how many processes wanted to run, on average over the last minute."""
    return float(Path("/proc/loadavg").read_text().split()[0])


def machine() -> dict[str, Any]:
    """Return where the figures come from."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))),
        "load": f"{load():g}",
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "lsps2fast": __version__,
    }


class Bench:
    """One run."""

    def __init__(self, scale: Scale, seed: int, say: Say) -> None:
        self.scale = scale
        self.say = say
        self.seed = seed
        dice = random.Random(seed)
        self.frames = [hook_frame(dice, number) for number in range(FRAMES)]
        self.events = b"".join(event_frame(dice, number) for number in range(FRAMES)) + self.frames[0]
        self.block = {"jsonrpc": "2.0", "id": "bench:block#1", "method": "block", "params": {"seconds": BLOCK_S}}
        self.results = Results(machine())

    def run(self) -> Results:
        """Return all cases."""
        begin = time.monotonic()
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lsps2fast-bench-")))
            self.say("starting: C ceiling, real service on the embedded node, interpreted run, stock pyln-client")
            service = ServiceUnderLoad(self.seed)
            stack.callback(service.close)
            quiet = {"service": service.child}
            ceiling = children.build_ceiling(directory)
            if ceiling is None:
                self.say("no C compiler: the C ceiling is left out, and so are P1 and P3")
            else:
                quiet = {"C ceiling": self._open(stack, ceiling, shake_hands=False), **quiet}
            quiet["interpreted"] = self._open(stack, children.ours("python"), pure=True)
            quiet["pyln-client"] = self._open(stack, children.stock())
            before = service.rpc_calls()
            self._saturate(quiet)
            self._steady(quiet)
            self.results.foreign_rpc_calls = (service.rpc_calls() - before).total()
            self.results.rss_kb = {name: child.rss_kb() for name, child in quiet.items()}
            self._forward_events({name: quiet[name] for name in ("service", "pyln-client")})
        self._blocking()
        self._busy()
        self._growth()
        for sessions in self.scale.sessions:
            self.say(f"{sessions} sales of {self.scale.parts} parts at once, on the embedded node")
            self.results.sales.append(run_sales(self.seed, sessions, self.scale.parts))
        self._sales_watched()
        self.results.ratios = ratios(self.results)
        self.results.seconds = round(time.monotonic() - begin, 1)
        return self.results

    def _open(self, stack: ExitStack, argv: list[str], **how: bool) -> Child:
        child = Child(argv, **how)
        stack.callback(child.close)
        return child

    def _rounds(self, programs: dict[str, Child]) -> list[tuple[str, Child]]:
        """Return every program once a round; the order turns round each time."""
        order = list(programs.items())
        return [each for turn in range(self.scale.rounds) for each in (order if turn % 2 == 0 else order[::-1])]

    def _note(self, what: str, name: str, values: Sequence[float | None]) -> None:
        self.results.rounds.setdefault(what, {})[name] = list(values)

    def _saturate(self, programs: dict[str, Child]) -> None:
        self.say(f"saturation, {self.scale.rounds} rounds")
        found: dict[str, list[Any]] = {name: [] for name in programs}
        stream = b"".join(self.frames)
        for name, child in self._rounds(programs):
            times = max(1, self.scale.calls // FRAMES // (1 if name in ("C ceiling", "service") else 10))
            found[name].append(child.saturate(stream * times, FRAMES * times))
            self.results.foreign_hooks += FRAMES * times * (name == "service")
        for name, rounds in found.items():
            cpu = [each.cpu_us for each in rounds]
            self._note("saturated CPU", name, cpu)
            self._note("saturated calls", name, [each.per_s for each in rounds])
            self.results.saturation[name] = {
                "per_s": round(statistics.median(each.per_s for each in rounds)),
                "cpu_us": round(statistics.median(cpu), 3),
                "cpu_us_min": round(min(cpu), 3),
                "cpu_us_max": round(max(cpu), 3),
            }

    def _steady(self, programs: dict[str, Child]) -> None:
        for rate in self.scale.rates:
            able = {
                name: child for name, child in programs.items() if self.results.saturation[name]["per_s"] > 1.5 * rate
            }
            self.say(f"{rate:,} calls a second: {', '.join(able)}")
            late: dict[str, list[Late]] = {name: [] for name in able}
            cpu: dict[str, list[float]] = {name: [] for name in able}
            for name, child in self._rounds(able):
                before = child.cpu_s()
                calls = child.offer(self.frames, rate, self.scale.seconds)
                cpu[name].append((child.cpu_s() - before) / len(calls) * 1e6)
                late[name].append(percentiles(calls))
                self.results.foreign_hooks += len(calls) * (name == "service")
            for name, rounds in late.items():
                self._note(f"CPU at {rate}", name, cpu[name])
                for key in ("p50_us", "p99_us"):
                    self._note(f"{key} at {rate}", name, [each[key] for each in rounds])
                self.results.latency.setdefault(name, {})[rate] = medians(rounds)
                self.results.at_rate_cpu_us.setdefault(name, {})[rate] = round(statistics.median(cpu[name]), 2)

    def _forward_events(self, programs: dict[str, Child]) -> None:
        self.say("forward_events of other payments")
        found: dict[str, list[float]] = {name: [] for name in programs}
        for name, child in self._rounds(programs):
            found[name].append(child.saturate(self.events, FRAMES, answers=1).cpu_us)
        self.results.events_cpu_us = {name: round(statistics.median(each), 3) for name, each in found.items()}

    def _blocking(self) -> None:
        """P21: a method handler blocks half a second of every 0.6."""
        call = json.dumps(self.block).encode() + b"\n\n"
        seconds = max(2.0, self.scale.seconds)
        with ExitStack() as stack:
            programs = {
                "our host": self._open(stack, children.ours("c")),
                "pyln-client": self._open(stack, children.stock()),
            }
            for name, child in programs.items():
                self.say(f"a method handler that blocks {BLOCK_S} s of every {BLOCK_EVERY_S}: {name}")
                quiet = percentiles(child.offer(self.frames, 500, 1.0))
                late = percentiles(child.offer(self.frames, 500, seconds, call, BLOCK_EVERY_S))
                self.results.blocking[name] = {**late, "quiet_p50_us": quiet["p50_us"]}

    def _busy(self) -> None:
        """P4: another Python thread of the plugin computes."""
        for share in (1.0, 0.1):
            self.say(f"a Python thread computes {share:.0%} of the time, 1,000 calls a second")
            with ExitStack() as stack:
                programs = {
                    f"lane in C, {share:.0%}": self._open(stack, children.ours("c", share)),
                    f"lane in Python, {share:.0%}": self._open(stack, children.ours("python", share)),
                }
                found: dict[str, list[Late]] = {name: [] for name in programs}
                for name, child in self._rounds(programs):
                    with child.alone(programs.values()):
                        late = child.offer(self.frames, 1000, min(1.0, self.scale.seconds))
                    found[name].append(percentiles(late))
                for name, rounds in found.items():
                    for key in ("p50_us", "p99_us"):
                        self._note(f"busy {key}", name, [each[key] for each in rounds])
                self.results.busy |= {name: medians(rounds) for name, rounds in found.items()}

    def _growth(self) -> None:
        """Measure a foreign hook at the real service while so many buys are live; P18 with the most of them."""
        stream = b"".join(self.frames)
        for live in self.scale.live:
            self.say(f"foreign hooks while {live:,} buys are live")
            service = ServiceUnderLoad(self.seed, buys=live)
            try:
                rounds = [service.child.saturate(stream, FRAMES).cpu_us for _ in range(self.scale.rounds)]
                cpu_us = round(statistics.median(rounds), 3)
                self.results.growth.append({"live": live, "cpu_us": cpu_us, "rss_kb": service.child.rss_kb()})
            finally:
                service.close()
        self.say(f"a start with {self.scale.stored:,} stored buys")
        start = asyncio.run(measure(self.scale.stored))
        self.results.start = {"stored": self.scale.stored, **{k: round(v, 3) for k, v in start._asdict().items()}}

    def _sales_watched(self) -> None:
        """P17 and P19."""
        scale = self.scale
        self.say(f"{scale.in_turn} sales of {scale.parts} parts, one after the other")
        added_ms = run_in_turn(self.seed, scale.in_turn, scale.parts)
        self.results.added_ms = {"p50": quantile(added_ms, 0.5), "p90": quantile(added_ms, 0.9)}
        self.say(f"{scale.beside:,} sales of {scale.parts} parts at once, one of which hangs")
        self.results.beside = run_beside_a_hanging_one(self.seed, scale.beside, scale.parts)


def medians(rounds: list[Late]) -> Late:
    """Return the median of each figure that every round had enough values for."""
    found: Late = {}
    for key in rounds[0]:
        values = [each[key] for each in rounds]
        enough = [value for value in values if value is not None]
        found[key] = round(statistics.median(enough), 1) if len(enough) == len(values) else None
    return found


def ratios(r: Results) -> list[dict[str, Any]]:
    """Return what the targets are about; `most` or `least` says which side is good.

    A ratio is of one round, so that what both met goes out of it; its value is the median over the rounds, with the
    smallest and the largest beside it. Fewer than three rounds make none.
    """
    rows: list[dict[str, Any]] = []

    def row(
        target: str,
        what: str,
        found: float | tuple[float, float, float] | None,
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        if found is None:
            return
        value, low, high = found if isinstance(found, tuple) else (found, found, found)
        good = value <= most if most is not None else value >= (least or 0)
        bound = f"≤ {most:g}" if most is not None else f"≥ {least:g}"
        figures = {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3)}
        rows.append({"target": target, "what": what, **figures, "bound": bound, "met": good})

    def over(what: str, a: str, b: str) -> tuple[float, float, float] | None:
        pairs = zip(r.rounds.get(what, {}).get(a, []), r.rounds.get(what, {}).get(b, []), strict=False)
        values = [top / bottom for top, bottom in pairs if top is not None and bottom]
        return (statistics.median(values), min(values), max(values)) if len(values) >= FEWEST_ROUNDS else None

    fast = 10_000
    row("P1", f"CPU a hook at {fast:,}/s ÷ C ceiling", over(f"CPU at {fast}", "service", "C ceiling"), most=1.25)
    row("P1s", "CPU a hook, saturated ÷ C ceiling", over("saturated CPU", "service", "C ceiling"), most=1.25)
    row("P2", "CPU a hook: pyln-client ÷ ours", over("saturated CPU", "pyln-client", "service"), least=50)
    row("P3", f"p50 at {fast:,}/s ÷ C ceiling", over(f"p50_us at {fast}", "service", "C ceiling"), most=1.5)
    row("P3", f"p99 at {fast:,}/s ÷ C ceiling", over(f"p99_us at {fast}", "service", "C ceiling"), most=1.5)
    for share, least in (("100%", 20.0), ("10%", 10.0)):
        names = f"lane in Python, {share}", f"lane in C, {share}"
        row("P4p50", f"p50 with a thread busy {share}: Python reader ÷ ours", over("busy p50_us", *names), least=1)
        row("P4", f"p99 with a thread busy {share}: Python reader ÷ ours", over("busy p99_us", *names), least=least)
    row("P6", f"RPC calls for {r.foreign_hooks:,} foreign hooks", float(r.foreign_rpc_calls), most=0)
    row("P7", "saturation: ours ÷ pyln-client", over("saturated calls", "service", "pyln-client"), least=25)
    row(
        "P20",
        "CPU a hook: interpreted ÷ pyln-client",
        over("saturated CPU", "interpreted", "pyln-client"),
        most=0.08,
    )
    if r.blocking:
        ours = r.blocking["our host"]
        if ours["p50_us"] and ours["quiet_p50_us"]:
            row("P21", "p50 with a blocking method ÷ quiet (pipe)", ours["p50_us"] / ours["quiet_p50_us"], most=1.05)
    if r.events_cpu_us:
        events = 2 * r.events_cpu_us["service"] / r.saturation["service"]["cpu_us"]
        row("P22", "CPU of a payment's two forward_events ÷ one hook", events, most=2)
    for sale in r.sales:
        each = sale["commits"] / sale["sessions"]
        row("P16", f"commits a session, {sale['sessions']} × {sale['parts']} parts", each, most=5)
    row("P17", "ms added between last part and answers, p50", r.added_ms.get("p50"), most=3)
    if r.start:
        row("P18", f"s until init is answered, {r.start['stored']:,} stored buys", r.start["init_s"], most=1)
        row("P18", f"s until {r.start['stored']:,} stored buys are live", r.start["live_s"], most=20)
    if r.beside:
        row("P19", "sales paid beside a hanging one ÷ all of them", r.beside["paid"] / r.beside["others"], least=1)
    if r.growth:
        first, last = r.growth[0], r.growth[-1]
        row(
            "flat",
            f"CPU a hook, {last['live']:,} live buys ÷ {first['live']:,}",
            last["cpu_us"] / first["cpu_us"],
            most=1.25,
        )
    return rows
