"""How much lay in channels for how long, in satoshi-days.

The table `capital` has what was locked and released on each day, kept by triggers: so what was there at the beginning
of a time is a sum over days, not over channels. What came and went within it is read row by row.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS, Period

Group = str | None


class Bound(NamedTuple):
    """Capital of a time: for how long, and how much of it was there at all."""

    sat_days: float
    sat: int


MOVES: Final = (("locked_ms", 1), ("released_ms", -1))


def by_time(db: sqlite3.Connection, periods: Sequence[Period]) -> list[Bound]:
    """Return the capital of each of these periods, one behind the other, cut at midnight."""
    since_ms, until_ms = periods[0].since_ms, periods[-1].until_ms
    places = {
        day: place
        for place, period in enumerate(periods)
        for day in range(period.since_ms // DAY_MS, (period.until_ms - 1) // DAY_MS + 1)
    }
    first = since_ms // DAY_MS
    query = "SELECT COALESCE(SUM(locked_sat - released_sat), 0) FROM capital WHERE day < ?"
    (there_sat,) = db.execute(query, (first,)).fetchone()
    change_sat, locked_sat, sat_ms = [0] * len(periods), [0] * len(periods), [0.0] * len(periods)
    for column, sign in MOVES:
        for day, amount_sat, moments in db.execute(
            f"SELECT {column} / {DAY_MS} AS day, sum(capacity_sat), total(capacity_sat * (max({column}, ?) - ?))"
            f" FROM channels WHERE locked_ms IS NOT NULL AND {column} >= ? AND {column} < ? GROUP BY day",
            (since_ms, since_ms, first * DAY_MS, until_ms),
        ):
            place = places[day]
            change_sat[place] += sign * (amount_sat or 0)
            locked_sat[place] += (amount_sat or 0) if sign > 0 else 0
            sat_ms[place] += sign * ((amount_sat or 0) * (periods[place].until_ms - since_ms) - moments)
    for place, period in enumerate(periods):
        sat_ms[place] += there_sat * (period.until_ms - period.since_ms)
        locked_sat[place] += there_sat
        there_sat += change_sat[place]
    return [Bound(each / DAY_MS, sat) for each, sat in zip(sat_ms, locked_sat, strict=True)]


def by_terms(db: sqlite3.Connection, period: Period, column: str) -> dict[Group, Bound]:
    """Return the capital of a time for each token, or for each fee line."""
    since_ms, until_ms = period.since_ms, period.until_ms
    first = since_ms // DAY_MS
    found: defaultdict[Group, float] = defaultdict(float)
    sat: defaultdict[Group, int] = defaultdict(int)
    for group, there_sat in db.execute(
        f"SELECT {column}, SUM(locked_sat - released_sat) FROM capital WHERE day < ? GROUP BY {column}", (first,)
    ):
        found[group or None] += there_sat * (until_ms - since_ms) / DAY_MS
        sat[group or None] += there_sat
    for move, sign in MOVES:
        for group, sat_ms, amount_sat in db.execute(
            f"SELECT {column}, total(capacity_sat * (? - max({move}, ?))), sum(capacity_sat) FROM channels"
            f" WHERE locked_ms IS NOT NULL AND {move} >= ? AND {move} < ? GROUP BY {column}",
            (until_ms, since_ms, first * DAY_MS, until_ms),
        ):
            found[group] += sign * sat_ms / DAY_MS
            sat[group] += (amount_sat or 0) if sign > 0 else 0
    return {group: Bound(days, sat[group]) for group, days in found.items()}


def by_peer(db: sqlite3.Connection, period: Period) -> dict[Group, Bound]:
    """Return the capital of a time for each client: every channel is looked at."""
    since_ms, until_ms = period.since_ms, period.until_ms
    rows = db.execute(
        "SELECT lower(hex(peer_id)), total(capacity_sat * (min(COALESCE(released_ms, ?), ?) - max(locked_ms, ?))),"
        " sum(capacity_sat) FROM channels WHERE locked_ms < ? AND (released_ms IS NULL OR released_ms >= ?)"
        " GROUP BY peer_id",
        (until_ms, until_ms, since_ms, until_ms, since_ms),
    )
    return {group: Bound(sat_ms / DAY_MS, sat or 0) for group, sat_ms, sat in rows}
