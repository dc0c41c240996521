"""`python -m crash` (in tests/, or `make crash`): every point of every scenario, then a report.

python -m crash                                  all families, a sample of about 300 cases of each
python -m crash --all                            every case there is
python -m crash --scenario mpp --mode lsp-trusts-client
python -m crash --family clients                 clients that misbehave at each message of an open
python -m crash --recoveries 20000               fresh samples, seed after seed, until so many recoveries were tried
python -m crash --replay "mpp client-trusts-lsp plugin@1/reply datastore#3" [--seed 1]
python -m crash --processes --most 40            the plugins as processes that are killed by a signal

The plugins run inside this process, where all chance comes from the seed: a case has one outcome. The seed also draws
the samples. Without --seed it follows from the version, so each release tries others; it is printed. A violation is
printed with the line that plays it again; the run goes on and ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import replace

import lsps2fast

from . import plan
from .case import MODES, Case
from .machine import Outcome, play, run
from .nursery import Nursery
from .points import DEATHS
from .scenarios import SCENARIOS
from .worker import Workers

MOST = 300  # cases of a family, unless --all
MOST_OF_A_SEED, CHAINS_OF_A_SEED = 40, 600  # of a family, when seeds follow each other: chains recover most
LINES = 150  # of the transcript, when a case is replayed
EACH_S = 10.0  # a line of progress where there is no terminal


class Progress:
    """One line that is rewritten on a terminal; elsewhere one a family and one every few seconds."""

    def __init__(self, processes: bool) -> None:
        self._live = sys.stdout.isatty()
        self.tried = self.missed = self.recoveries = 0
        self.bad: list[Outcome] = []
        self._again = "python -m crash --processes" if processes else "python -m crash"
        self._begin = self._said = time.monotonic()

    def family(self, name: str, count: int) -> None:
        """Begin a family of cases."""
        self._name, self._count, self._done = name, count, 0
        if not self._live:
            print(f"{name}: {count} cases", flush=True)

    def take(self, outcome: Outcome) -> None:
        """Count one case that is over; a violation is printed at once."""
        self.tried += 1
        self._done += 1
        self.missed += not outcome.hit
        self.recoveries += outcome.recoveries
        if outcome.violations:
            self.bad.append(outcome)
            print(f"{chr(13) if self._live else ''}VIOLATION {outcome.case}")
            for violation in outcome.violations:
                print(f"    {violation}")
            print(f'    again: {self._again} --seed {outcome.case.seed} --replay "{outcome.case}"', flush=True)
        now = time.monotonic()
        if self._live:
            print(f"\r{self._line():<78}", end="", flush=True)
        elif now - self._said > EACH_S:
            self._said = now
            print(f"    {self._line()}", flush=True)

    def _line(self) -> str:
        seconds = time.monotonic() - self._begin
        bad = f"{len(self.bad)} violations, {self.recoveries} recoveries, {seconds:.0f} s"
        return f"{self._name[:34]}: {self._done}/{self._count}, {bad}"

    def report(self) -> int:
        """Print the last lines; return the exit code."""
        seconds = time.monotonic() - self._begin
        print(
            f"{chr(13) if self._live else ''}{self.tried} cases tried, {self.recoveries} recoveries,"
            f" {len(self.bad)} with violations, {self.missed} did not come to their point, {seconds:.0f} s"
        )
        for outcome in self.bad:
            print(f'    {self._again} --seed {outcome.case.seed} --replay "{outcome.case}"')
        return 1 if self.bad else 0


class Campaign:
    """Families of cases, for one seed or for many."""

    def __init__(self, args: argparse.Namespace, workers: Workers, progress: Progress) -> None:
        self.names: list[str] = args.scenario or list(SCENARIOS)
        self.modes: list[str] = args.mode or list(MODES)
        self.families: list[str] = args.family or list(plan.FAMILIES)
        self.most = sys.maxsize if args.all else args.most or (MOST_OF_A_SEED if args.recoveries else MOST)
        self.chains = args.most or (CHAINS_OF_A_SEED if args.recoveries else MOST)
        self._workers, self._progress = workers, progress
        self._dry: list[Outcome] = []

    async def seed(self, seed: int) -> None:
        """Try a sample of each family; the points are those of the first seed."""
        if not self._dry:
            self._dry = await self._family("undisturbed", plan.dry_cases(self.names, self.modes, seed))
        dry = [replace(each, case=replace(each.case, seed=seed)) for each in self._dry]
        if "deaths" in self.families:
            for kind in (*plan.KILLS, *plan.STOPS):
                await self._some(DEATHS[kind], [case for each in dry for case in plan.deaths(each, (kind,))], seed)
        if "troubles" in self.families:
            await self._some("one RPC call in trouble", [case for each in dry for case in plan.troubles(each)], seed)
        if "clients" in self.families:
            cases = plan.clients(self.names, self.modes, seed)
            await self._some("the client does something", cases, seed)
            await self._some("the client does something, then a death", plan.clients_and_deaths(cases), seed)
        if "recovery" in self.families:
            await self._recovery(dry, seed)
        if "chains" in self.families:
            await self._family(f"several harms in one story, seed {seed}", plan.chains(dry, self.chains, seed))

    async def _recovery(self, dry: list[Outcome], seed: int) -> None:
        firsts = plan.sample([case for each in dry for case in plan.milestones(each)], self.most, seed)
        begun = await self._family("deaths with something to recover", firsts[: max(self.most // 4, 1)])
        cases = [case for each in begun for case in (*plan.again(each), *plan.recovery_troubles(each))]
        await self._some("a second death, or trouble, while recovering", cases, seed)

    async def _some(self, name: str, cases: list[Case], seed: int) -> None:
        await self._family(name, plan.sample(cases, self.most, seed))

    async def _family(self, name: str, cases: Iterable[Case]) -> list[Outcome]:
        cases = list(cases)
        self._progress.family(name, len(cases))
        outcomes = []
        async for outcome in self._workers.run(cases):
            self._progress.take(outcome)
            outcomes.append(outcome)
        return outcomes


async def _campaign(args: argparse.Namespace) -> int:
    progress = Progress(args.processes)
    async with Workers(args.jobs, args.processes) as workers:
        campaign, seed = Campaign(args, workers, progress), args.seed
        await campaign.seed(seed)
        while progress.recoveries < args.recoveries:
            seed += 1
            await campaign.seed(seed)
    return progress.report()


async def _in_processes(case: Case) -> Outcome:
    async with Nursery() as nursery:
        return await run(nursery, case, LINES)


def _replay(case: Case, processes: bool) -> int:
    outcome = asyncio.run(_in_processes(case)) if processes else play(case, LINES)
    print(outcome.tail)
    for violation in outcome.violations:
        print(f"    {violation}")
    print(f"{case}: {'hit' if outcome.hit else 'the point was not reached'}, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


def seed_of_version() -> int:
    """Return the seed of this release: other samples with each."""
    return zlib.crc32(lsps2fast.__version__.encode()) % 1_000_000


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="crash", description="kill the plugin at every point and count the money")
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only this one; repeatable")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--family", action="append", choices=plan.FAMILIES)
    parser.add_argument("--seed", type=int, default=None, help="default: from the version")
    parser.add_argument("--jobs", type=int, default=2 * min(2, os.cpu_count() or 1))
    parser.add_argument("--all", action="store_true", help="every case, not a sample of the large families")
    parser.add_argument("--most", type=int, default=None, metavar="N", help="cases of a family (300)")
    parser.add_argument("--processes", action="store_true", help="plugins are processes: slower, and not twice alike")
    parser.add_argument("--recoveries", type=int, default=0, metavar="N", help="seed after seed, until N were tried")
    parser.add_argument("--replay", metavar="CASE", help="one case by its name, with the end of its transcript")
    args = parser.parse_args()
    if args.replay:
        try:
            case = Case.parse(args.replay, 1 if args.seed is None else args.seed)
        except ValueError as wrong:
            parser.error(str(wrong))
        if case.scenario not in SCENARIOS:
            parser.error(f"{case.scenario!r} is no story: give one of {', '.join(sorted(SCENARIOS))}")
        return _replay(case, args.processes)
    args.seed = seed_of_version() if args.seed is None else args.seed
    print(f"seed {args.seed} (lsps2fast {lsps2fast.__version__}; --seed tries others)", flush=True)
    return asyncio.run(_campaign(args))


if __name__ == "__main__":
    sys.exit(main())
