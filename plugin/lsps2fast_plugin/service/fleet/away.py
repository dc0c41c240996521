"""While the fleet's database is away: how many buys a client may have here, and how often the operator hears of it.

Sans-IO but for the log. `gone` begins it and `back` ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from lsps2fast_plugin.cln.clock import Clock

FIRST_QUIET_MS, LONGEST_QUIET_MS = 60_000, 3_600_000
NOT_YET: Final = "not joined yet"

log = logging.getLogger(__name__)


class Away:
    """`since_ms` it was last seen to go, None while it is there, and `why`."""

    def __init__(self, clock: Clock, alarm: Callable[[str], None]) -> None:
        """Take the database for one that was not asked yet."""
        self.since_ms: int | None = None
        self.why = NOT_YET
        self._clock = clock
        self._alarm = alarm
        self._quiet_ms = FIRST_QUIET_MS  # after an alarm, that long only the log is told
        self._quiet_until_ms = clock.now_ms() - FIRST_QUIET_MS
        self._before: dict[str, int] = {}  # unused buys here of clients that the fleet told of, as it went

    def gone(self, why: str) -> None:
        """Tell the operator that this node sells alone, or why it still does."""
        if self.since_ms is None:
            self.since_ms = self._clock.wall_ms()
            self._tell(why)
        elif why != self.why:
            log.warning(f"the fleet is still away: {why}")
        self.why = why

    def back(self) -> None:
        """Let the database judge again."""
        self.since_ms, self.why = None, ""
        self._before.clear()

    def _tell(self, why: str) -> None:
        """Alarm: after the last one only once a pause is over, which doubles until there was as long a calm."""
        now_ms = self._clock.now_ms()
        if now_ms < self._quiet_until_ms:
            log.warning(f"the fleet is away again: {why}; this node sells alone, from its share")
            return
        calm = now_ms >= self._quiet_until_ms + self._quiet_ms
        self._quiet_ms = FIRST_QUIET_MS if calm else min(2 * self._quiet_ms, LONGEST_QUIET_MS)
        self._quiet_until_ms = now_ms + self._quiet_ms
        self._alarm(f"fleet: {why}; this node sells alone, from its share")

    def most_buys(self, peer_id: str, here: int, elsewhere: int | None, most: int, nodes: int) -> int:
        """Return how many unused buys a client may have here, of `most` at all nodes: what it had when the database
        went, and a share of what was left, at least one while any was.

        `here`: what it has now; `elsewhere`: by the last word of the database, None where there was none.
        """
        before = 0 if elsewhere is None else self._before.setdefault(peer_id, here)
        left = most - before - (elsewhere or 0)
        return before + max(left // nodes, min(left, 1), 0)
