"""Frames on their way from the lane to the loop, and the limit on what is logged: what `host` stands on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LOG_BURST = 200
LOG_LINES_A_SECOND = 20.0


class Ended(NamedTuple):
    """Behind the last frame: None for the end of the stream, else why it cannot be read further."""

    why: str | None


class FrameQueue:
    """Frames on their way from the lane to the loop, in order; the lane waits while it is full."""

    def __init__(self, most: int, wake: Callable[[], None]) -> None:
        self._items: deque[bytes | Ended] = deque()
        self._most = most
        self._wake = wake
        self._asleep = True
        self._closed = False
        self._change = threading.Condition()

    def put(self, items: list[bytes] | list[Ended]) -> None:
        """Append, from the lane: wait while full, wake the loop once."""
        with self._change:
            self._change.wait_for(lambda: len(self._items) < self._most or self._closed)
            if self._closed:
                return
            self._items.extend(items)
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake()

    def take(self, most: int) -> list[bytes | Ended]:
        """Return the next items, on the loop; none means that put() will wake the loop again."""
        with self._change:
            items = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._asleep = not items
            self._change.notify_all()
        return items

    def close(self) -> None:
        """Let the lane go, whatever it brings."""
        with self._change:
            self._closed = True
            self._change.notify_all()


class LogLimit:
    """How many log lines may pass: a burst, then a steady rate; what was dropped is said."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._at = now()
        self._room = float(LOG_BURST)
        self._dropped = 0
        self._lock = threading.Lock()

    def pass_or_drop(self) -> int | None:
        """Return None to drop this line, else the number of lines dropped before it."""
        with self._lock:
            at = self._now()
            self._room = min(LOG_BURST, self._room + (at - self._at) * LOG_LINES_A_SECOND)
            self._at = at
            if self._room < 1:
                self._dropped += 1
                return None
            self._room -= 1
            dropped, self._dropped = self._dropped, 0
            return dropped
