"""Refusals and warnings for the owner, kept over restarts; alarms in a place of their own, where no noise reaches them.

A stranger decides how often something is refused, so refusals are written together, at most once a minute; an alarm is
written at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from lsps2fast.errors import StoreError
from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords

log = logging.getLogger(__name__)

Json = dict[str, Any]
MOST_REPORTS: Final = 100
KEY: Final = ("lsps2fast", "client", "reports")
PAUSE_MS: Final = 60_000
NOTHING_SAID: Final[Json] = {"time": None, "lsp_id": "", "report": "", "times": 1}  # every field of a report


class Reports:
    """The last refusals, and the last alarms, newest last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: DatastoreRecords | None = None
        self._spawn: Callable[[Coroutine[Any, Any, None]], object] | None = None
        self._noise: deque[Json] = deque(maxlen=MOST_REPORTS)
        self._alarms: deque[Json] = deque(maxlen=MOST_REPORTS)
        self._number = 0
        self._written_ms = 0
        self._unwritten = False

    def keep_in(self, records: DatastoreRecords, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Where they are written, and how a coroutine is run by itself."""
        self._records, self._spawn = records, spawn

    async def load(self) -> None:
        """Read those of before. Raises StoreError."""
        assert self._records is not None
        for _, value in await self._records.read(KEY):
            for report in value if isinstance(value, list) else ():
                if isinstance(report, dict) and isinstance(report.get("report"), str):
                    self._append({**NOTHING_SAID, **report})

    @property
    def kept(self) -> list[Json]:
        """All of them, in the order they came."""
        both = sorted([*self._alarms, *self._noise], key=lambda each: each["number"])
        return [{key: value for key, value in each.items() if key != "number"} for each in both]

    def add(self, lsp_id: str, sentence: str) -> None:
        """Keep one; what was said last again is counted."""
        time, alarm = format_datetime(self._clock.wall_ms()), sentence.startswith("ALARM")
        last = self._noise[-1] if self._noise else None
        if last is not None and not alarm and (last["lsp_id"], last["report"]) == (lsp_id, sentence):
            last["time"], last["times"] = time, last["times"] + 1
        else:
            self._append({"time": time, "lsp_id": lsp_id, "report": sentence, "times": 1})
        self._unwritten = True
        self.write(at_once=alarm)

    def write(self, *, at_once: bool = False) -> None:
        """Write what is new, if that is due."""
        now_ms = self._clock.now_ms()
        due = at_once or now_ms - self._written_ms >= PAUSE_MS
        if self._unwritten and due and self._spawn is not None:
            self._unwritten, self._written_ms = False, now_ms
            self._spawn(self._write())

    def _append(self, report: Json) -> None:
        self._number += 1
        kept = self._alarms if report["report"].startswith("ALARM") else self._noise
        kept.append({**report, "number": self._number})

    async def _write(self) -> None:
        assert self._records is not None
        try:
            await self._records.write(KEY, lambda: self.kept)
        except StoreError as error:  # written with the next one
            self._unwritten = True
            log.warning(f"the reports could not be written: {error}")
