"""`lsps2fast bench --real --sales` and `--real --crowd N`: how long a payer waits for a channel, on real nodes.

Ours, lightningd's built-in service where lightningd has it, and an ordinary payment of as many parts, in turn in one
run. A sale counts from the last part sent until the payer knows that all parts are paid.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lsps2fast.errors import NodeError
from lsps2fast_plugin.tools.bench.figures import Figure, figure, of_pairs
from lsps2fast_plugin.tools.bench.harness import cpu_s
from lsps2fast_plugin.tools.bench.market import BUILT_IN, OURS, Market, Paid
from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.bench.run import load, machine
from lsps2fast_plugin.tools.regtest.processes import Programs

ORDINARY = "ordinary payment"
WALLETS = 4  # who buy in turn
CROWD_WALLETS = 20
PARTS = (1, 5)
NOT_SOLD = re.compile(r"not sold: .*?; (failed .*)")
Say = Callable[[str], None]


@dataclass
class Case:
    """Everything seen of one kind of payment."""

    name: str
    parts: int
    took_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def take(self, paid: Paid) -> None:
        """Count one."""
        if paid.why:
            self.failures.append(paid.why)
        else:
            self.took_ms.append(paid.took_s * 1e3)

    @property
    def title(self) -> str:
        """For a row."""
        return f"{self.name}, {self.parts} part{'s' * (self.parts > 1)}"


@dataclass
class Sales:
    """One run of `--sales`."""

    machine: dict[str, Any]
    lightningd: str
    cases: list[Case]
    loads: list[float] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def case(self, name: str, parts: int) -> Case | None:
        """Return it, None where it was left out."""
        return next((case for case in self.cases if (case.name, case.parts) == (name, parts)), None)


@dataclass
class Rush:
    """One crowd at one LSP."""

    name: str
    sales: int
    total_s: float
    wait_s: Figure
    last_s: float
    cpu_ms: float  # of the plugin's process, for each sale
    failures: list[str]
    told: list[str] = field(default_factory=list)  # what our service logged of sales that came to nothing


@dataclass
class Crowds:
    """One run of `--real --crowd`."""

    machine: dict[str, Any]
    lightningd: str
    rushes: list[Rush] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def _market(stack: ExitStack, wallets: int, sales: int, programs: Programs | None, say: Say) -> Market:
    """Open one. Raises ConfigError where bitcoind or lightningd is missing."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2b-", dir="/tmp")))
    market = Market(place, wallets, sales, programs)
    say(f"starting an LSP for each of {', '.join(market.lsps)}, {wallets} wallets, a payer, a neighbour")
    return stack.enter_context(market)


def _left_out(market: Market) -> list[str]:
    return [] if BUILT_IN in market.lsps else ["this lightningd was built without cln-lsps-service"]


def run_sales(rounds: int, say: Say, programs: Programs | None = None) -> Sales:
    """One sale of each kind in each round, the order reversed every other round."""
    with ExitStack() as stack:
        market = _market(stack, WALLETS, rounds * len(PARTS), programs, say)
        found = Sales(machine(), market.lsp.call("getinfo")["version"], [], left_out=_left_out(market))
        for parts in PARTS:
            found.cases += [
                Case(name, parts) for name in (OURS, BUILT_IN, ORDINARY) if name in (*market.lsps, ORDINARY)
            ]
        say(f"{rounds} rounds of {len(found.cases)} payments")
        for turn in range(rounds):
            for case in found.cases if turn % 2 == 0 else found.cases[::-1]:
                _one(market, case)
            found.loads.append(load())
            market.mine()
    leave_out(found)
    return found


def _one(market: Market, case: Case) -> None:
    """One payment; the built-in service of v26.06 serves only a payment in one part, of no fixed size."""
    if case.name == ORDINARY:
        case.take(market.paid(market.ordinary(), case.parts))
        return
    if len(case.failures) > 2 and not case.took_ms:
        return  # it is not able to: no time is spent on that
    try:
        _, way = market.sale(case.name, fixed=case.parts > 1)
    except NodeError as error:
        case.failures.append(str(error))
        return
    case.take(market.paid(way, case.parts))
    market.settled(case.name)


def leave_out(found: Sales) -> None:
    """Take out what an LSP is not able to, and say so."""
    for case in list(found.cases):
        if case.failures and not case.took_ms:
            found.cases.remove(case)
            found.left_out.append(f"{case.title}: none of {len(case.failures)} was served: {case.failures[0]:.120}")


def run_crowds(sales: int, rounds: int, say: Say, programs: Programs | None = None) -> Crowds:
    """Sell to so many at once, one part each; each LSP in turn, the order reversed every other round."""
    with ExitStack() as stack:
        market = _market(stack, min(CROWD_WALLETS, sales), sales * rounds, programs, say)
        found = Crowds(machine(), market.lsp.call("getinfo")["version"], left_out=_left_out(market))
        for turn in range(rounds):
            for name in list(market.lsps)[:: 1 if turn % 2 == 0 else -1]:
                say(f"{sales} sales at once, {name}")
                found.rushes.append(_rush(market, name, sales))
                found.loads.append(load())
                market.mine()
    return found


def _rush(market: Market, name: str, sales: int) -> Rush:
    ways, unsold = [], []
    for _ in range(sales):
        try:
            ways.append(market.sale(name, fixed=False)[1])
        except NodeError as error:
            if not ways:
                raise
            unsold.append(f"no offer: {error}")
    pid = market.plugin_pid(name)
    logged, before_s = len(market.lsps[name].log_text()), cpu_s(pid)
    ends = market.paid_all(ways)
    good = [paid for paid in ends if not paid.why]
    market.settled(name)
    cpu_ms = (cpu_s(pid) - before_s) * 1e3 / len(ways)
    first_s = min(paid.began_s for paid in ends)
    return Rush(
        name=name,
        sales=sales,
        total_s=round(max((paid.ended_s for paid in good), default=first_s) - first_s, 3),
        wait_s=figure([paid.took_s for paid in good]),
        last_s=round(max((paid.took_s for paid in good), default=0.0), 3),
        cpu_ms=round(cpu_ms, 2),
        failures=unsold + [paid.why for paid in ends if paid.why],
        told=NOT_SOLD.findall(market.lsps[name].log_text()[logged:]),
    )


# ---- for people


def _head(r: Sales | Crowds) -> str:
    m = r.machine
    low, high = min(r.loads, default=0.0), max(r.loads, default=0.0)
    return (
        f"{m['cpu']}, {m['cores']} cores, load {m['load']} before, {low:g} to {high:g} meanwhile, lightningd"
        f" {r.lightningd}, Python {m['python']}, lsps2fast {m['lsps2fast']}, {m['at']}"
    )


def ratios(r: Sales) -> list[tuple[str, str, Figure]]:
    """P23: what is divided by what, the target, and the ratio of payments of the same round."""
    found = []
    for parts, most in ((1, 1.6), (5, 1.1)):
        ours, ordinary, other = (r.case(name, parts) for name in (OURS, ORDINARY, BUILT_IN))
        if ours is not None and ordinary is not None:
            ratio = of_pairs(ours.took_ms, ordinary.took_ms)
            found.append((f"{ours.title} ÷ ordinary payment", f"P23 ≤ {most:g}", ratio))
        if ours is not None and other is not None:
            found.append((f"{ours.title} ÷ built-in", "", of_pairs(ours.took_ms, other.took_ms)))
    return found


def sales_text(r: Sales) -> str:
    """Return the table of sales."""
    rows = [["last part to paid, ms", "sales", "median (quartiles)", "p90", "failures"]]
    for case in r.cases:
        late = figure(case.took_ms)
        rows.append([case.title, str(late.values), late.shown(), late.shown_p90(), str(len(case.failures))])
    bounds = [["ratio, in the same round", "target", "median (quartiles)"]]
    bounds += [[what, target, ratio.shown(2)] for what, target, ratio in ratios(r)]
    return "\n\n".join([_head(r), table(rows), table(bounds), *_notes(r)]) + "\n"


def _notes(r: Sales | Crowds) -> list[str]:
    return ["\n".join(f"left out: {line}" for line in r.left_out)] if r.left_out else []


def crowd_text(r: Crowds) -> str:
    """Return the table of crowds."""
    rows = [
        ["sales at once", "all paid s", "a payer waits s (quartiles)", "p90", "longest", "CPU ms a sale", "failures"]
    ]
    for rush in r.rushes:
        late = [rush.wait_s.shown(2), rush.wait_s.shown_p90(2), f"{rush.last_s:.2f}"]
        rows.append(
            [f"{rush.sales}, {rush.name}", f"{rush.total_s:.2f}", *late, f"{rush.cpu_ms:.2f}", str(len(rush.failures))]
        )
    why = Counter(f"{rush.name}: {each:.300}" for rush in r.rushes for each in (*rush.failures, *rush.told))
    failed = ["\n".join(f"failed {count} times, {what}" for what, count in why.most_common())] if why else []
    return "\n\n".join([_head(r), table(rows), *_crowd_ratios(r.rushes), *failed, *_notes(r)]) + "\n"


def _crowd_ratios(rushes: Sequence[Rush]) -> list[str]:
    """P24: medians over the rounds; their least and most are said, as rounds are few."""
    pairs = [(ours, other) for ours, other in zip(*(_of(rushes, name) for name in (OURS, BUILT_IN)), strict=False)]
    if not pairs:
        return []
    rows = [["ours ÷ built-in, round by round", "target", "median", "least", "most"]]
    measures: list[tuple[str, str, Callable[[Rush], float]]] = [
        ("all paid", "P24 ≤ 0.8", lambda rush: rush.total_s),
        ("the same, by sales that were paid", "", lambda rush: rush.total_s / max(1, rush.sales - len(rush.failures))),
        ("a payer waits, median", "P24 ≤ 0.8", lambda rush: rush.wait_s.median or 0.0),
        ("CPU a sale", "", lambda rush: rush.cpu_ms),
    ]
    for what, target, measure in measures:
        values = [measure(ours) / measure(other) for ours, other in pairs if measure(other)]
        if values:
            spread = [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]
            rows.append([what, target, *spread])
    return [table(rows)]


def _of(rushes: Sequence[Rush], name: str) -> list[Rush]:
    return [rush for rush in rushes if rush.name == name]


def as_json(r: Sales | Crowds) -> str:
    """For programs."""
    return json.dumps(asdict(r), indent=2) + "\n"
