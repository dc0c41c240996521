"""The one door through which time comes in: milliseconds, monotonic and UTC (K-25), and sleeping until then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine
from typing import Any


class Clock:
    """Real time plus an offset that a test may turn forward (`advance`)."""

    def __init__(self) -> None:
        self._offset_ms = 0
        self._turned = asyncio.Event()

    def now_ms(self) -> int:
        """Return monotonic milliseconds, for time-outs."""
        return time.monotonic_ns() // 1_000_000 + self._offset_ms

    def wall_ms(self) -> int:
        """Return UTC milliseconds since 1970, for `valid_until`."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    def advance(self, seconds: float) -> None:
        """Turn both clocks forward and wake every sleeper to look again; zero wakes none. For tests only."""
        if not seconds:
            return
        self._offset_ms += round(seconds * 1000)
        self._turned.set()
        self._turned = asyncio.Event()

    async def sleep_until(self, now_ms: int) -> None:
        """Return once `now_ms()` has reached this value."""
        while (wait_ms := now_ms - self.now_ms()) > 0:
            await self.turned(wait_ms / 1000)

    async def all_done(self, work: Collection[asyncio.Future[Any]], most_ms: int) -> None:
        """Return when all of these are done, or after so much time."""
        until_ms = self.now_ms() + most_ms
        while (rest := [each for each in work if not each.done()]) and (left_ms := until_ms - self.now_ms()) > 0:
            waiter = asyncio.ensure_future(self.turned(left_ms / 1000))
            try:
                await asyncio.wait([*rest, waiter], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()

    def turned(self, timeout_s: float | None = None) -> Coroutine[Any, Any, None]:
        """Return when the clock is turned after this call, or after `timeout_s` of real time."""
        return self._wait(self._turned, timeout_s)  # this event, also if the coroutine is begun after a turn

    @staticmethod
    async def _wait(turned: asyncio.Event, timeout_s: float | None) -> None:
        try:
            await asyncio.wait_for(turned.wait(), timeout_s)
        except TimeoutError:
            return
