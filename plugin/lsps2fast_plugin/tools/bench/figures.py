"""A figure and how far it may be trusted: with its spread, and not at all when too little was measured for it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

BEYOND = 2  # values that must lie above a quantile and below it; fewer, and chance alone has made it


def needed(share: float) -> int:
    """Return how many values the quantile `share` takes: p50 four, p90 twenty, p99 two hundred."""
    return round(BEYOND / min(share, 1 - share))


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the quantile, None when the run was too short for it."""
    if len(values) < needed(share):
        return None
    return sorted(values)[int((len(values) - 1) * share)]


class Figure(NamedTuple):
    """A median with its quartiles, `most` of nine in ten, and how many values it comes from; None: too few."""

    values: int
    median: float | None
    low: float | None
    high: float | None
    p90: float | None

    def shown(self, digits: int = 0) -> str:
        """Return the median and its quartiles, or how many values are missing."""
        if self.median is None or self.low is None or self.high is None:
            return f"{self.values} of {needed(0.25)} needed"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"

    def shown_p90(self, digits: int = 0) -> str:
        """Return p90, or how many values are missing."""
        return f"{self.values} of {needed(0.9)} needed" if self.p90 is None else f"{self.p90:,.{digits}f}"


def figure(values: Sequence[float]) -> Figure:
    """Sum up measurements of one thing."""
    median = statistics.median(values) if len(values) >= needed(0.5) else None
    return Figure(len(values), median, quantile(values, 0.25), quantile(values, 0.75), quantile(values, 0.9))


def of_pairs(above: Sequence[float], below: Sequence[float]) -> Figure:
    """Return the ratio of two things that were measured in turn, pair by pair: what both met goes out of it."""
    return figure([a / b for a, b in zip(above, below, strict=False)])
