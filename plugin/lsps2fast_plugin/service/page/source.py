"""The running service, as the page sees it."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.service.operator_rpc import stats_of
from lsps2fast_plugin.service.page.feed import Lane
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.payment_reports import BOUNDS_S


class ServiceSource:
    """Reads the service's own counters; nothing is asked of lightningd."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self.alarms = parts.alarms.recent
        self.ended = parts.reports.recent

    def stats(self) -> dict[str, Any]:
        """As `lsps2-stats`, with the time that each step took."""
        steps = {name: (each.counts, each.sum_s) for name, each in self._parts.reports.durations.items()}
        starting = not self._parts.interest.loaded
        return stats_of(self._parts) | {"starting": starting, "steps": steps, "step_bounds_s": BOUNDS_S}

    def lanes(self, most: int) -> dict[str, Lane]:
        """Return payments under way, by scid and payment hash."""
        return self._parts.sales.tracker.lanes(most)
