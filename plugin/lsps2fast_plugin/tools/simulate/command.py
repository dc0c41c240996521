"""`lsps2fast simulate`: progress, and what is printed at the end."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import Any

from . import strategies
from .market import Market, Result, simulate
from .mutants import MUTANTS
from .plan import NONE, Plan, numbers_of
from .shrink import shrink

DAYS_A_LINE = 5.0


def plan_of(args: argparse.Namespace, seed: int) -> Plan:
    """Return the plan that the arguments ask for. Raises ValueError with a sentence."""
    unknown = [name for name in args.only if name not in strategies.KINDS and args.only != [NONE]]
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: there are {', '.join(sorted(strategies.KINDS))}; or {NONE}")
    if args.mutant and args.mutant not in MUTANTS:
        raise ValueError(f"--mutant {args.mutant}: there are {', '.join(MUTANTS)}")
    try:
        without = numbers_of(args.without)
    except ValueError:
        raise ValueError(f"--without {args.without}: name numbers and spans, as in 2-8,13") from None
    return Plan(
        seed=seed,
        days=args.days,
        people=args.people,
        only=tuple(args.only),
        without=without,
        weather=not args.no_weather,
        mutant=args.mutant,
        mode=args.mode,
    )


def run(args: argparse.Namespace) -> int:
    """Play; 0 when every promise held, 1 when one did not, 2 for arguments that cannot be, 130 after Ctrl-C."""
    try:
        plans = [plan_of(args, args.seed + more) for more in range(args.seeds)]
        if args.plot is not None:
            args.plot.touch()  # a path that cannot be written is told before the run, not after it
    except ValueError as error:
        sys.stderr.write(f"lsps2fast simulate: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"lsps2fast simulate: --plot {args.plot}: {error.strerror}; name a file that can be written\n")
        return 2
    if args.mutants:
        return _mutants()
    results = []
    for plan in plans:
        result = simulate(plan, _Progress(plan.days), _say if args.tell else None)
        if result.violation is not None and args.shrink:
            result = shrink(result, lambda text: _say(text))
        results.append(result)
        if result.violation is not None or result.interrupted:
            break
        if len(plans) > 1:
            _say(f"seed {plan.seed}: {result.totals['sales']} sales, {result.steps} steps, all promises held")
    if args.plot is not None and not results[-1].interrupted:
        from .plot import svg

        honest = simulate(replace(results[-1].plan, only=(NONE,)), _Progress(args.days))
        args.plot.write_text(svg(honest, results[-1]), encoding="utf-8")
    sys.stdout.write(as_json(results) if args.json else as_text(results))
    if results[-1].interrupted:
        return 130
    return 1 if results[-1].violation is not None else 0


def _mutants() -> int:
    """Print what finds each; 1 when one was not found."""
    missed = 0
    sys.stdout.write("| mutant | takes away | broken | found at step | by |\n|---|---|---|---|---|\n")
    for name, mutant in MUTANTS.items():
        result = simulate(mutant.plan(name))
        found = "not found" if result.violation is None else f"step {result.steps}, {result.violation.rule}"
        missed += result.violation is None
        row = f"| `{name}` | {mutant.takes_away} | {mutant.rule} | {found} | {', '.join(mutant.only)} |"
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
    return min(missed, 1)


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


class _Progress:
    """A line every few simulated days."""

    def __init__(self, days: float) -> None:
        self._days = days
        self._next = 0.0  # the first line comes at once: it is under way

    def __call__(self, market: Market) -> None:
        if market.town.day >= self._next:
            self._next = DAYS_A_LINE * (market.town.day // DAYS_A_LINE + 1)
            totals = market.books.totals
            day = min(market.town.day, self._days)  # what is under way then has some more days to end
            _say(f"day {day:.0f} of {self._days:g}: {totals['sales']} sales, {market.story.step} steps")


def as_json(results: list[Result]) -> str:
    """All results for programs."""
    return json.dumps([_plain(result) for result in results], indent=2) + "\n"


def _plain(result: Result) -> dict[str, Any]:
    fields = vars(result) | {"command": result.plan.command()}
    fields["plan"] = asdict(result.plan) | {"without": sorted(result.plan.without)}
    violation = result.violation
    fields["violation"] = None if violation is None else {"rule": violation.rule, "sentence": violation.sentence}
    return fields


def as_text(results: list[Result]) -> str:
    """Return the books so far, and the violation if there is one."""
    sums = {name: sum(getattr(each, name) for each in results) for name in ("days", "steps", "frames", "cpu_s")}
    sales = sum(each.totals["sales"] for each in results)
    lines = [
        f"seeds {results[0].plan.seed} to {results[-1].plan.seed}: {sums['days']:.0f} simulated days,"
        f" {sums['steps']} steps, {sums['frames']} messages, {sums['cpu_s']:.1f} s of CPU,"
        f" {60 * sales / max(sums['cpu_s'], 0.001):.0f} sales a minute",
        _line("came of it", _total(results, "totals")),
        _line("who came", _total(results, "visits")),
        _line("the weather", _total(results, "storms")),
        _line("and", _total(results, "counts")),
        "the highest: "
        + ", ".join(f"{name} {max(each.worst[name] for each in results):,}" for name in sorted(results[-1].worst)),
        f"opening fees {sum(each.opening_fees_msat for each in results) // 1000:,} sat, the LSP's gain"
        f" {sum(each.profit_msat for each in results) // 1000:,} sat",
    ]
    last = results[-1]
    if last.interrupted:
        lines.append("interrupted")
    elif last.violation is None:
        lines.append("every promise held")
    else:
        lines += ["", *last.last_lines, "", f"VIOLATION of {last.violation}", f"again: {last.plan.command()}"]
    return "\n".join(lines) + "\n"


def _total(results: list[Result], name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for result in results:
        for key, count in getattr(result, name).items():
            found[key] = found.get(key, 0) + count
    return found


def _line(head: str, counts: dict[str, int]) -> str:
    return f"{head}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
