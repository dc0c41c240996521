"""Many seeds, in as many processes at a time as there are cores. Each process is the command itself, with one seed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from .plan import Plan
from .sums import Run

Say = Callable[[str], None]
COMMAND = (sys.executable, "-m", "lsps2fast_plugin.tools.cli")
PATIENCE_S = 60.0  # that a process may take to end
TELLING = 12  # lines of a process that broke


class Campaign:
    """Plays plans. A violation ends its own run only."""

    def __init__(self, plans: list[Plan], say: Say, *, minutes: float | None, shrinks: bool) -> None:
        """`minutes`: after which no seed begins."""
        self._plans = plans
        self._say = say
        self._until_s = None if minutes is None else time.monotonic() + 60 * minutes
        self._more = ["--json", *(["--shrink"] if shrinks else [])]
        self._children: set[asyncio.subprocess.Process] = set()
        self.is_over = False  # interrupted
        self.runs: list[Run] = []
        self.broken: list[int] = []  # seeds without a result: a bug of the town itself, or memory ran out

    async def play(self) -> None:
        """Play all. Once cancelled it ends with what the runs under way have come to."""
        workers = min(len(self._plans), cores())
        self._say(f"{len(self._plans)} seeds of {self._plans[0].days:g} days, {workers} at a time")
        plans = iter(self._plans)
        tasks = [asyncio.ensure_future(self._work(plans)) for _ in range(workers)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
        except asyncio.CancelledError:
            self._say("interrupted: the books so far follow")
            await self._end(tasks)
        await asyncio.gather(*tasks)
        self.runs.sort(key=lambda run: int(run["plan"]["seed"]))

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """Interrupt all processes; one that has lost it, as it was just beginning, is killed in the end."""
        self.is_over = True
        for number in (signal.SIGINT, signal.SIGKILL):
            for child in self._children:
                _send(child, number)
            _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
            if not late:
                break

    def _has_time(self) -> bool:
        return not self.is_over and (self._until_s is None or time.monotonic() < self._until_s)

    async def _work(self, plans: Iterator[Plan]) -> None:
        for plan in plans:
            if not self._has_time():
                return
            run = await self._one(plan)
            if run is None:
                continue
            self.runs.append(run)
            held = "all promises held" if run["violation"] is None else f"VIOLATION of {run['violation']['rule']}"
            end = f"interrupted on day {run['days']:.0f}" if run["interrupted"] else held
            count = f"{len(self.runs)} of {len(self._plans)}"
            self._say(f"seed {plan.seed}: {run['totals'].get('sales', 0)} sales, {run['steps']} steps, {end} ({count})")

    async def _one(self, plan: Plan) -> Run | None:
        """Return what came of one seed; None when it broke, or was interrupted before anything came of it."""
        words = plan.command().split()[1:]
        child = await asyncio.create_subprocess_exec(
            *COMMAND,
            *words,
            *self._more,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C comes from us, once
        )
        self._children.add(child)
        if self.is_over:  # it was just being started
            _send(child, signal.SIGINT)
        try:
            out, said = await child.communicate()
        except asyncio.CancelledError:  # by a second Ctrl-C
            _send(child, signal.SIGKILL)
            raise
        finally:
            self._children.discard(child)
        try:
            run: Run = json.loads(out)["runs"][0]
        except ValueError:
            if not self.is_over:
                last = "\n".join(said.decode(errors="replace").splitlines()[-TELLING:])
                self.broken.append(plan.seed)
                self._say(f"seed {plan.seed} BROKE, with code {child.returncode} and no result:\n{last}")
            return None
        return run


def _send(child: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


def campaign(
    plans: list[Plan], say: Say, *, minutes: float | None = None, shrinks: bool = False
) -> tuple[list[Run], list[int], bool]:
    """Play plans. Return what came of each, by seed, the seeds that broke, and whether it was interrupted."""
    it = Campaign(plans, say, minutes=minutes, shrinks=shrinks)
    asyncio.run(it.play())
    return it.runs, it.broken, it.is_over


def cores() -> int:
    """Return how many processes can run at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
