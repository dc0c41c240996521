"""`lsps2fast simulate`: progress, and what is printed at the end."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from . import both_ways, order_tricks, together
from .campaign import campaign
from .cast import STRATEGISTS, unknown
from .market import Market, simulate
from .mutants import MUTANTS
from .plan import NONE, Plan, numbers_of
from .shrink import shrink
from .sums import Run, as_json, as_text, plain

DAYS_A_LINE = 5.0


def plan_of(args: argparse.Namespace, seed: int) -> Plan:
    """Return the plan that the arguments ask for. Raises ValueError with a sentence."""
    if wrong := unknown(args.only):
        raise ValueError(f"--only {' '.join(wrong)}: there are {', '.join(sorted(STRATEGISTS))}; or {NONE}")
    if args.mutant and args.mutant not in MUTANTS:
        raise ValueError(f"--mutant {args.mutant}: there are {', '.join(MUTANTS)}")
    try:
        without = numbers_of(args.without)
    except ValueError:
        raise ValueError(f"--without {args.without}: name numbers and spans, as in 2-8,13") from None
    args = _needed(args)
    return Plan(
        seed=seed,
        days=args.days,
        people=args.people,
        only=tuple(args.only),
        without=without,
        weather=not args.no_weather,
        mutant=args.mutant,
        mode=args.mode,
        reuse=args.reuse,
        closing=args.closing,
        batch=args.batch,
        orders=args.orders,
    )


def _needed(args: argparse.Namespace) -> argparse.Namespace:
    """Switch on what the chosen strategies need, unless the arguments say otherwise."""
    needs: dict[str, str] = {}
    if {*order_tricks.ORDER_TRICKS, *both_ways.KINDS} & {*args.only}:
        needs["orders"] = "on"
    if together.KINDS.keys() & {*args.only}:
        needs |= {"batch": "on", "reuse": "free", "mode": "lsp-trusts-client"}
    return argparse.Namespace(**vars(args) | {name: getattr(args, name) or value for name, value in needs.items()})


def run(args: argparse.Namespace) -> int:
    """Play; 0 when every promise held, 1 when one did not, 2 for arguments that cannot be, 130 after Ctrl-C."""
    try:
        if args.seeds > 1 and (args.tell or args.plot is not None):
            raise ValueError("--tell and --plot are for one seed: leave out --seeds")
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
    begun_s = time.monotonic()
    broken: list[int] = []
    if len(plans) == 1:
        runs = [_one(args, plans[0])]
        is_over = bool(runs[0]["interrupted"])
    else:
        runs, broken, is_over = campaign(plans, _say, minutes=args.minutes, shrinks=args.shrink)
    wall_s = time.monotonic() - begun_s
    if not runs and not broken:
        raise KeyboardInterrupt  # before there was anything to tell
    if runs:
        sys.stdout.write((as_json if args.json else as_text)(runs, wall_s, broken))
    if is_over:
        return 130
    return int(bool(broken) or any(run["violation"] is not None for run in runs))


def _one(args: argparse.Namespace, plan: Plan) -> Run:
    """Play a plan in this process."""
    result = simulate(plan, _Progress(plan.days), _say if args.tell else None)
    if result.violation is not None and args.shrink:
        result = shrink(result, _say)
    if args.plot is not None and not result.interrupted:
        from .plot import svg

        honest = simulate(replace(result.plan, only=(NONE,)), _Progress(args.days))
        args.plot.write_text(svg(honest, result), encoding="utf-8")
    return plain(result)


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
