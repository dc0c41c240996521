"""A process that runs cases: one JSON line in, one JSON line out. `Workers` is the other side."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType

from .case import Case
from .machine import Outcome, play, run
from .nursery import Nursery, environment

LINE = 1 << 24


PROCESSES = "processes"  # the argument of a worker whose plugins are processes


async def _serve_processes() -> None:
    async with Nursery() as nursery:
        while line := await asyncio.to_thread(sys.stdin.readline):
            _answer(await run(nursery, _case(line)))


def _serve() -> None:
    for line in sys.stdin:
        _answer(play(_case(line)))


def _case(line: str) -> Case:
    order = json.loads(line)
    return replace(Case.parse(order["case"], order["seed"]), mutant=order["mutant"])


def _answer(outcome: Outcome) -> None:
    answer = [outcome.points, outcome.hit, outcome.violations, "", outcome.recoveries]
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def run(self, case: Case) -> Outcome:
        order = {"case": str(case), "seed": case.seed, "mutant": case.mutant}
        self._stdin.write(json.dumps(order).encode() + b"\n")
        line = await self._stdout.readline()
        if not line:
            raise RuntimeError(f"the worker died of {case}")
        points, hit, violations, tail, recoveries = json.loads(line)
        return Outcome(case, tuple(points), hit, tuple(violations), tail, recoveries)

    async def end(self) -> None:
        self._stdin.close()
        await self._process.wait()


class Workers:
    """Several of them; `async with Workers(2) as workers: async for outcome in workers.run(cases)`."""

    def __init__(self, count: int, processes: bool = False) -> None:
        self._count = count
        self._kind = [PROCESSES] if processes else []
        self._workers: list[_Worker] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Workers:
        command = [sys.executable, "-m", __name__, *self._kind]
        for _ in range(self._count):
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE, env=environment()
            )
            worker = _Worker(process)
            self._workers.append(worker)
            self._stack.push_async_callback(worker.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def run(self, cases: Iterable[Case]) -> AsyncIterator[Outcome]:
        """Outcomes as they come."""
        left = list(reversed(list(cases)))
        under_way: dict[asyncio.Task[Outcome], _Worker] = {}
        free = list(self._workers)
        while left or under_way:
            while left and free:
                worker = free.pop()
                under_way[asyncio.create_task(worker.run(left.pop()))] = worker
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                free.append(under_way.pop(task))
                yield task.result()


if __name__ == "__main__":
    if PROCESSES in sys.argv:
        asyncio.run(_serve_processes())
    else:
        _serve()
