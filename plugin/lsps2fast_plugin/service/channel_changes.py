"""Waiting for a change of a channel: what lightningd tells ends the wait, a poll comes beside it (K-17)."""

from __future__ import annotations

import asyncio

from lsps2fast_plugin.cln.clock import Clock


class Watch:
    """Wakes what waits for a change of its channel; one waits for each channel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: dict[str, asyncio.Event] = {}

    def changed(self, channel_id: str) -> None:
        """Wake what waits for this channel: a notification named it."""
        if event := self._events.get(channel_id):
            event.set()

    def all_changed(self) -> None:
        """Wake everything: a peer came or went."""
        for event in self._events.values():
            event.set()

    def look(self, channel_id: str) -> None:
        """Begin to look: a change from now on ends the next `wait` at once."""
        self._events.setdefault(channel_id, asyncio.Event()).clear()

    async def wait(self, channel_id: str, timeout_s: float) -> None:
        """Return at the first change since `look`, after the time-out, or when the clock is turned."""
        event = self._events.setdefault(channel_id, asyncio.Event())
        waiters = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._clock.turned(timeout_s))}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()

    def forget(self, channel_id: str) -> None:
        """Drop this channel: nothing waits for it any more."""
        self._events.pop(channel_id, None)
