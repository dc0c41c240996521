"""`retry`: pauses grow, the clock drives them, alarms are few, and giving up is said."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lsps2fast.errors import NodeError, StoreError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.retry import retry


class Pauses(Clock):
    """A clock that notes how long it is slept, and turns at once."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_ms: list[int] = []
        self.time_ms = 0

    def now_ms(self) -> int:
        return self.time_ms

    async def sleep_until(self, now_ms: int) -> None:
        self.slept_ms.append(now_ms - self.time_ms)
        self.time_ms = now_ms


class Work:
    """Fails so many times, then works."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left = failures
        self.error = error or StoreError("disk full")

    async def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"


def test_pauses_double_up_to_a_minute_and_alarms_come_as_failures_double(caplog: pytest.LogCaptureFixture) -> None:
    """rule:8, rule:11: it goes on for as long as it takes, and the operator is told, not flooded."""
    clock, alarms = Pauses(), list[str]()
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(retry("writing", Work(12), clock, alarm=alarms.append)) == "done"
    assert clock.slept_ms == [500, 1000, 2000, 4000, 8000, 16000, 32000, *[60000] * 5]
    assert alarms == [f"writing has failed {times} times: disk full" for times in (3, 6, 12)]
    assert caplog.messages[1] == "writing failed (StoreError: disk full); next try in 1 s"
    assert len(caplog.messages) == 5  # of failures 1, 2, 3, 6 and 12


def test_after_so_many_tries_the_last_error_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    """rule:11."""
    clock, alarms = Pauses(), list[str]()
    with pytest.raises(StoreError, match="disk full"):
        asyncio.run(retry("writing", Work(9), clock, tries=4, alarm=alarms.append, alarm_after=1))
    assert clock.slept_ms == [500, 1000, 2000]
    assert [text.split()[3] for text in alarms] == ["1", "2", "4"]
    assert caplog.messages[-1].endswith("giving up")


def test_other_errors_are_not_tried_again() -> None:
    """rule:10 is about errors of the node; a bug is none."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(retry("asking", Work(1, ZeroDivisionError()), Pauses()))
    with pytest.raises(NodeError):
        asyncio.run(retry("asking", Work(1, NodeError("x", 1, "no")), Pauses(), errors=StoreError))


def test_turning_the_clock_is_enough_and_cancelling_ends_it() -> None:
    """K-25."""

    async def story() -> None:
        clock, work = Clock(), Work(1)
        task = asyncio.ensure_future(retry("asking", work, clock))
        await asyncio.sleep(0)
        clock.advance(0.4)
        await asyncio.sleep(0)
        assert not task.done()
        clock.advance(0.2)
        assert await task == "done"
        task = asyncio.ensure_future(retry("asking", Work(99), clock))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(story(), 60))
