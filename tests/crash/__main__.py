"""`python -m crash` (in tests/, or `make crash`): every point of every scenario, then a report.

python -m crash                                  all families, a sample of about 300 cases of each
python -m crash --all                            every case there is
python -m crash --scenario mpp --mode lsp-trusts-client
python -m crash --replay "mpp client-trusts-lsp plugin@1/reply datastore#3" [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Iterable

from . import plan
from .machine import Case, Outcome, run
from .nursery import Nursery
from .points import DEATHS, Death
from .scenarios import SCENARIOS
from .stage import MODES, TROUBLES, Trouble
from .worker import Workers

MOST = 300  # cases of a family, unless --all
LINES = 150  # of the transcript, when a case is replayed


class Progress:
    """One line that is rewritten on a terminal, one line a family where there is none."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self.tried = 0
        self.bad: list[Outcome] = []
        self._begin = time.monotonic()

    def family(self, name: str, count: int) -> None:
        """A family of cases begins."""
        self._name, self._count, self._done = name, count, 0
        if not self._live:
            print(f"{name}: {count} cases", flush=True)

    def take(self, outcome: Outcome) -> None:
        """One case is over."""
        self.tried += 1
        self._done += 1
        if outcome.violations:
            self.bad.append(outcome)
            print(f"{chr(13) if self._live else ''}{outcome.case}")
            for violation in outcome.violations:
                print(f"    {violation}", flush=True)
        if self._live:
            line = f"{self._name}: {self._done}/{self._count}, {len(self.bad)} violations"
            print(f"\r{line:<60}", end="", flush=True)

    def report(self) -> int:
        """The last line; the exit code."""
        seconds = time.monotonic() - self._begin
        print(
            f"{chr(13) if self._live else ''}{self.tried} cases tried, {len(self.bad)} with violations, {seconds:.0f} s"
        )
        return 1 if self.bad else 0


async def _family(workers: Workers, progress: Progress, name: str, cases: Iterable[Case]) -> list[Outcome]:
    cases = list(cases)
    progress.family(name, len(cases))
    outcomes = []
    async for outcome in workers.run(cases):
        progress.take(outcome)
        outcomes.append(outcome)
    return outcomes


async def _everything(names: list[str], modes: list[str], families: list[str], seed: int, most: int, jobs: int) -> int:
    progress = Progress()

    def some(cases: list[Case]) -> list[Case]:
        return plan.sample(cases, most, seed)

    async with Workers(jobs) as workers:
        dry = await _family(workers, progress, "undisturbed", plan.dry_cases(names, modes, seed))
        for kind in (*plan.KILLS, *plan.STOPS):
            if "deaths" in families:
                cases = [case for outcome in dry for case in plan.deaths(outcome, (kind,))]
                await _family(workers, progress, DEATHS[kind], some(cases))
        if "troubles" in families:
            cases = [case for outcome in dry for case in plan.troubles(outcome)]
            await _family(workers, progress, "one RPC call in trouble", some(cases))
        if "recovery" in families:
            firsts = some([case for outcome in dry for case in plan.milestones(outcome)])[: most // 4]
            begun = await _family(workers, progress, "deaths with something to recover", firsts)
            cases = [case for outcome in begun for case in (*plan.again(outcome), *plan.recovery_troubles(outcome))]
            await _family(workers, progress, "a second death, or trouble, while recovering", some(cases))
    return progress.report()


def parse_case(text: str, seed: int) -> Case:
    """The opposite of str(Case). ValueError for what it cannot be."""
    scenario, mode, *rest = text.split(" ", 2)
    harms = re.findall(r"\S+@.*?(?= \S+@|$)", rest[0]) if rest else []
    deaths = tuple(Death.parse(harm) for harm in harms if harm.partition("@")[0] in DEATHS)
    troubles = [Trouble.parse(harm) for harm in harms if harm.partition("@")[0] in TROUBLES]
    if scenario not in SCENARIOS or mode not in MODES or len(deaths) + len(troubles) != len(harms):
        raise ValueError(f"{text!r} names no case")
    return Case(scenario, mode, deaths, troubles[0] if troubles else None, seed)


async def _replay(case: Case) -> int:
    async with Nursery() as nursery:
        outcome = await run(nursery, case, LINES)
    print(outcome.tail)
    for violation in outcome.violations:
        print(f"    {violation}")
    print(f"{case}: {'hit' if outcome.hit else 'the point was not reached'}, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="crash", description="kill the plugin at every point and count the money")
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only this one; repeatable")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--family", action="append", choices=plan.FAMILIES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--all", action="store_true", help="every case, not a sample of the large families")
    parser.add_argument("--replay", metavar="CASE", help="one case by its name, with the end of its transcript")
    args = parser.parse_args()
    if args.replay:
        return asyncio.run(_replay(parse_case(args.replay, args.seed)))
    names, modes = args.scenario or list(SCENARIOS), args.mode or list(MODES)
    families, most = args.family or list(plan.FAMILIES), sys.maxsize if args.all else MOST
    return asyncio.run(_everything(names, modes, families, args.seed, most, args.jobs))


if __name__ == "__main__":
    sys.exit(main())
