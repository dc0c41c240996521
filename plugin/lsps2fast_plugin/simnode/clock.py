"""Time of the simulated world: it moves only when it is turned.

Whole microseconds inside, so that two runs with one seed give the same timestamps to the last digit.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime

START_US = 1_795_345_976_000_000  # 2026-11-22, when the recordings were made


class Timer:
    """A planned call; `cancel()` may be called at any time, also after it fired."""

    __slots__ = ("action", "due_us", "order")

    def __init__(self, due_us: int, order: int, action: Callable[[], None] | None) -> None:
        self.due_us = due_us
        self.order = order
        self.action = action

    def cancel(self) -> None:
        self.action = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due_us, self.order) < (other.due_us, other.order)


class Clock:
    """`time()` is Unix time in seconds; `advance()` turns it and fires what is due, in order."""

    def __init__(self, start_us: int = START_US) -> None:
        self.now_us = start_us
        self._timers: list[Timer] = []
        self._order = 0

    def time(self) -> float:
        return self.now_us / 1_000_000

    def iso(self) -> str:
        """`2026-11-22T11:12:56.836Z`, the form of lightningd's timestamps."""
        moment = datetime.fromtimestamp(self.now_us // 1_000_000, UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{self.now_us // 1000 % 1000:03d}Z"

    def tick(self) -> float:
        """One microsecond on, then the time: keeps stamps of one burst distinct, as on a real machine."""
        self.now_us += 1
        return self.time()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        self._order += 1
        timer = Timer(self.now_us + round(delay_s * 1_000_000), self._order, action)
        heapq.heappush(self._timers, timer)
        return timer

    async def pass_time(self, seconds: float) -> None:
        """Let so much time go by; here it is turned at once."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Turn the clock; timers planned meanwhile fire too if they are due before the end."""
        end_us = self.now_us + round(seconds * 1_000_000)
        while self._timers and self._timers[0].due_us <= end_us:
            timer = heapq.heappop(self._timers)
            self.now_us = max(self.now_us, timer.due_us)
            action, timer.action = timer.action, None
            if action is not None:
                action()
        self.now_us = max(self.now_us, end_us)
