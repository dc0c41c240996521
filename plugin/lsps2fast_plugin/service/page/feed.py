"""What the page is told once a second: numbers, payments under way as lanes, payments that ended, alarms.

One look serves every reader. A reader gets everything once, and then what has changed since it was last told: a slow
one skips looks and misses nothing that still stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from lsps2fast_plugin.service.recent import Recent

PERIOD_MS: Final = 1_000
MOST_LANES: Final = 1_000  # as many as a page can show; the others are counted (rule:14)

# Scid, payment hash, client, state, parts, sum and opening fee in msat, when it began.
Lane = tuple[str, str, str, str, int, int, int, int]


class Source(Protocol):
    """Whatever a page is about."""

    alarms: Recent
    ended: Recent

    def stats(self) -> dict[str, Any]:
        """Return the answer of `lsps2-stats`, and what else is shown of the whole service."""

    def lanes(self, most: int) -> dict[str, Lane]:
        """Return payments under way by any name that stays theirs, at most so many."""


class Look(NamedTuple):
    """The service at one moment."""

    stats: bytes
    lanes: dict[str, Lane]


class Feed:
    """Looks at the source at most once a second, however many read."""

    def __init__(self, source: Source, now_ms: Callable[[], int], wall_ms: Callable[[], int]) -> None:
        self.source = source
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self._look: Look | None = None
        self._looked_ms = 0

    def look(self) -> Look:
        """Return the latest look, a new one where it is older than a period."""
        now_ms = self._now_ms()
        if self._look is None or now_ms - self._looked_ms >= PERIOD_MS * 9 // 10:
            self._look = Look(msgspec.json.encode(self.source.stats()), self.source.lanes(MOST_LANES))
            self._looked_ms = now_ms
        return self._look

    def reader(self) -> Reader:
        """Return one who has been told nothing yet."""
        return Reader(self, self._wall_ms)


class Reader:
    """One open page: what it has been told."""

    def __init__(self, feed: Feed, wall_ms: Callable[[], int]) -> None:
        self._feed = feed
        self._wall_ms = wall_ms
        self._stats = b""
        self._lanes: dict[str, Lane] = {}
        self._told: dict[str, int] = {"alarms": 0, "ended": 0}
        self._is_new = True

    def news(self) -> bytes | None:
        """Return what has changed as JSON, None where nothing has."""
        look, source = self._feed.look(), self._feed.source
        news: dict[str, Any] = {}
        if self._is_new:
            news["whole"] = True
        if look.stats != self._stats:
            news["stats"] = msgspec.Raw(look.stats)
        if look.lanes is not self._lanes:
            before = self._lanes
            changed = {name: lane for name, lane in look.lanes.items() if before.get(name) != lane}
            gone = [name for name in before if name not in look.lanes]
            news |= {name: value for name, value in (("lanes", changed), ("gone", gone)) if value}
        for name, recent in (("alarms", source.alarms), ("ended", source.ended)):
            if recent.count != self._told[name]:
                news[name] = recent.after(self._told[name])
                self._told[name] = recent.count
        self._stats, self._lanes, self._is_new = look.stats, look.lanes, False
        return msgspec.json.encode({"at_ms": self._wall_ms(), **news}) if news else None
