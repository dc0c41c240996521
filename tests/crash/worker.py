"""A process that runs cases: one JSON line in, one JSON line out. `Workers` is the other side."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from .machine import Case, Outcome, run
from .nursery import Nursery, environment
from .points import Death
from .stage import Trouble

LINE = 1 << 24


def encode(case: Case) -> dict[str, Any]:
    """A case as JSON."""
    return {
        "scenario": case.scenario,
        "mode": case.mode,
        "deaths": [str(death) for death in case.deaths],
        "trouble": None if case.trouble is None else str(case.trouble),
        "seed": case.seed,
        "mutant": case.mutant,
    }


def decode(data: dict[str, Any]) -> Case:
    """The opposite of `encode`."""
    return Case(
        data["scenario"],
        data["mode"],
        tuple(Death.parse(text) for text in data["deaths"]),
        None if data["trouble"] is None else Trouble.parse(data["trouble"]),
        data["seed"],
        data["mutant"],
    )


async def _serve() -> None:
    async with Nursery() as nursery:
        while line := await asyncio.to_thread(sys.stdin.readline):
            outcome = await run(nursery, decode(json.loads(line)))
            answer = {"points": outcome.points, "hit": outcome.hit, "violations": outcome.violations}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def run(self, case: Case) -> Outcome:
        self._stdin.write(json.dumps(encode(case)).encode() + b"\n")
        line = await self._stdout.readline()
        if not line:
            raise RuntimeError(f"the worker died of {case}")
        answer = json.loads(line)
        return Outcome(case, tuple(answer["points"]), answer["hit"], tuple(answer["violations"]))

    async def end(self) -> None:
        self._stdin.close()
        await self._process.wait()


class Workers:
    """Several of them; `async with Workers(2) as workers: async for outcome in workers.run(cases)`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Workers:
        command = [sys.executable, "-m", __name__]
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
    asyncio.run(_serve())
