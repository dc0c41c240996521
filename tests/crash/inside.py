"""A world in this process, for cases that play again to the letter: the plugin is real, its pipes are in memory.

There is one thread, one loop, no waiting for the kernel, and all chance comes from the seed of the case: jit scids and
preimages of the plugin, keys and orders of the world. So a case has one outcome. What only a process has, its pipes,
its threads and its death by signal, is tried with `--processes`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import FrameType
from typing import Any, TypeVar

from lsps2fast_plugin.cln.clock import Clock as OurClock
from lsps2fast_plugin.simnode.clock import START_US, Clock
from lsps2fast_plugin.tools.simulate.life import PluginClock
from lsps2fast_plugin.tools.simulate.loop import SimulatedLoop
from lsps2fast_plugin.tools.simulate.town import Town, play

T = TypeVar("T")
REAL_S = 60  # of one case, which takes less than one
TURNS = (0, 0, 0, 1, 2, 4)  # of the loop, that a message may take longer than another
ENVIRONMENT = {"LSPS2FAST_TEST_CLOCK": "1"}


class _Late(SystemExit):
    """Nothing that runs on a loop catches it."""


class UnevenLoop(SimulatedLoop):
    """Wires are not equally quick: what goes over one may be overtaken by what goes over another, as `dice` has it."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self._under_way: dict[object, deque[Callable[[], object]]] = {}
        self._idlers: list[asyncio.Future[None]] = []
        self._jump_on = self._jump.select
        self._jump.select = self._select  # type: ignore[method-assign]

    async def idle(self) -> None:
        """Return when nothing moves any more before the clock does."""
        idler: asyncio.Future[None] = self.create_future()
        self._idlers.append(idler)
        await idler

    def _select(self, timeout: float | None = None) -> list[Any]:
        if not self._idlers or timeout == 0:
            return self._jump_on(timeout)
        idlers, self._idlers = self._idlers, []
        for idler in idlers:
            if not idler.done():
                idler.set_result(None)
        return []

    def deliver(self, wire: object, work: Callable[..., None], *args: Any, context: Context) -> None:
        under_way = self._under_way.setdefault(wire, deque())
        under_way.append(lambda: self.call_soon(work, *args, context=context))
        if len(under_way) == 1:
            self._go_on(wire, self._dice.choice(TURNS))

    def _go_on(self, wire: object, turns: int) -> None:
        if turns:
            self.call_soon(self._go_on, wire, turns - 1)
            return
        under_way = self._under_way[wire]
        under_way.popleft()()
        if under_way:
            self.call_soon(self._go_on, wire, self._dice.choice(TURNS))
        else:
            del self._under_way[wire]


class HandClock(PluginClock):
    """The clock of one plugin, turned by hand like that of a process."""

    def now_ms(self) -> int:
        return self._loop.now_us // 1000 + self._offset_ms

    def wall_ms(self) -> int:
        return self._start_ms + self.now_ms()

    def turned(self, timeout_s: float | None = None) -> Coroutine[Any, Any, None]:
        return OurClock.turned(self, timeout_s)


class Inside(Town):
    """A town whose clocks are turned by hand."""

    def __init__(self, seed: int, **world: Any) -> None:
        super().__init__(seed, **world)
        self.transcript.entries = deque(self.transcript.entries)

    async def idle(self) -> None:
        """Return when every message has arrived and nothing acts any more."""
        assert isinstance(self.loop, UnevenLoop)
        await self.loop.idle()

    def make_clock(self) -> Clock:
        return Clock()

    def plugin_clock(self) -> PluginClock:
        return HandClock(self.loop, START_US // 1000)


def once(name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run one case; its name, with its seed, decides which of two messages on their way comes first.

    Raises TimeoutError when it takes too long by the clock on the wall.
    """
    gc.collect()
    gc.disable()  # its moments are chance, too, and a case leaves little
    try:
        with _environment(), _bounded(), _without_stacks(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of what a killed plugin never awaited
            return play(work, lambda: UnevenLoop(random.Random(f"wires of {name}")))
    except _Late:
        raise TimeoutError(f"not over after {REAL_S} s by the clock on the wall") from None
    finally:
        gc.enable()


@contextmanager
def _without_stacks() -> Iterator[None]:
    """Pyln keeps where each of its requests began, which is a fifth of the time of a case."""
    before = traceback.extract_stack
    traceback.extract_stack = lambda *_, **__: traceback.StackSummary()
    try:
        yield
    finally:
        traceback.extract_stack = before


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _bounded() -> Iterator[None]:
    """What turns in circles moves no simulated clock."""

    def late(_: int, __: FrameType | None) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(REAL_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
