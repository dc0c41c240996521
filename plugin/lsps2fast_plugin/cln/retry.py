"""Trying until it works: the one loop for everything that must be done in the end.

Pauses double, and are slept by the clock, so that a test can turn it. To give up cancel the task.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from logging import DEBUG, WARNING
from typing import Final, TypeVar

from lsps2fast.errors import Lsps2Error
from lsps2fast_plugin.cln.clock import Clock

FIRST_PAUSE_MS: Final = 500
LONGEST_PAUSE_MS: Final = 60_000
ALARM_AFTER: Final = 3
START_PAUSE_MS: Final = 5_000  # the longest between two questions that a start waits for

Result = TypeVar("Result")
Errors = type[Exception] | tuple[type[Exception], ...]
log = logging.getLogger(__name__)


async def retry(
    what: str,
    work: Callable[[], Awaitable[Result]],
    clock: Clock,
    *,
    errors: Errors = Lsps2Error,
    final: Errors = (),
    tries: int | None = None,
    longest_ms: int = LONGEST_PAUSE_MS,
    alarm: Callable[[str], None] | None = None,
    alarm_after: int = ALARM_AFTER,
) -> Result:
    """Return what `work()` returns, once it raises none of `errors`; after `tries` failures raise the last one.

    An error of `final` is an answer, and raised at once.

    `what` names it in the log, as in "reading the journal". No pause is longer than `longest_ms`. `alarm`
    hears of it after `alarm_after` failures, and each time they have doubled; the log warns of the first ones, and then
    as often.
    """
    pause_ms, failures = FIRST_PAUSE_MS, 0
    while True:
        try:
            return await work()
        except final:
            raise
        except errors as error:
            failures += 1
            last = failures == tries
            then = "giving up" if last else f"next try in {pause_ms / 1000:g} s"
            is_news = last or failures < alarm_after or is_doubled(failures, alarm_after)
            log.log(WARNING if is_news else DEBUG, f"{what} failed ({type(error).__name__}: {error}); {then}")
            if alarm is not None and is_doubled(failures, alarm_after):
                alarm(f"{what} has failed {failures} times: {error}")
            if last:
                raise
        await clock.sleep_until(clock.now_ms() + pause_ms)
        pause_ms = min(2 * pause_ms, longest_ms)


async def until_answered(what: str, ask: Callable[[], Awaitable[Result]], clock: Clock) -> Result:
    """Ask lightningd until it answers: for a start, which cannot go on without."""
    return await retry(what, ask, clock, longest_ms=START_PAUSE_MS)


def is_doubled(count: int, first: int) -> bool:
    """Return whether `count` is `first`, or twice, four times … as many:
    when to say again that something goes on failing.
    """
    times, rest = divmod(count, first)
    return rest == 0 and times > 0 and times & (times - 1) == 0
