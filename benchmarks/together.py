"""Processes that are measured at one time: all get the same order in a line, and each says what it found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

END_S = 60.0  # that a process may take to end


async def serve(carry_out: Callable[[Any], Awaitable[Any]]) -> None:
    """Be one of them: say that all is ready, then carry out orders until there are no more."""
    answer: Any = "ready"
    while True:
        print(json.dumps(answer), flush=True)
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return
        answer = await carry_out(json.loads(line))


class Team:
    """`with Team(commands) as team`: all of them are ready; at the end they are gone."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._workers = [
            subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for command in commands
        ]

    def __enter__(self) -> Team:
        try:
            for each in self._workers:
                _heard(each)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def order(self, what: Any, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
        """Return what each found; `meanwhile()` is called once all have their order."""
        for each in self._workers:
            assert each.stdin is not None
            each.stdin.write(json.dumps(what) + "\n")
            each.stdin.flush()
        meanwhile()
        return [_heard(each) for each in self._workers]

    def _end(self) -> None:
        for each in self._workers:
            assert each.stdin is not None
            each.stdin.close()
        for each in self._workers:
            try:
                each.wait(END_S)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
            assert each.stdout is not None
            each.stdout.close()


def _heard(worker: subprocess.Popen[str]) -> Any:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError("a process ended before it had answered")
    return json.loads(line)
