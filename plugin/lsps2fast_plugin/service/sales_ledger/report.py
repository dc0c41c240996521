"""What was earned: fees that came, mining paid, capital bound, and the return on it.

A fee counts when its payment ended, mining when the transaction was sent (a close: when the money was back), capital
for as long as it lies in a channel. So the sum of days is the month, to the msat.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Any, Final

from lsps2fast_plugin.service.sales_ledger import capital_days
from lsps2fast_plugin.service.sales_ledger.facts import ALIAS, ONCE, REUSED
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS, LENGTHS, Period, split, text_of

GROUPS: Final = {"token": "token", "band": "band", "peer": "peer_id"}
BY: Final = (*LENGTHS, *GROUPS)
DAYS_A_YEAR: Final = 365
MOST_GROUPS: Final = 1_000


class _Sum:
    """Of one row of a report."""

    __slots__ = ("capital_sat", "capital_sat_days", "earned_msat", "failed", "mining_msat", "owed_msat", "sales")

    def __init__(self) -> None:
        self.sales = self.failed = self.earned_msat = self.owed_msat = self.mining_msat = 0
        self.capital_sat, self.capital_sat_days = 0, 0.0

    def count(self, outcome: str, count: int, taken_msat: int, owed_msat: int) -> None:
        """So many payments ended so."""
        if outcome in ONCE:
            self.sales += count
        elif outcome not in (ALIAS, REUSED):
            self.failed += count
        self.earned_msat += taken_msat
        self.owed_msat += owed_msat


def report(db: sqlite3.Connection, since_ms: int, until_ms: int, by: str | None, now_ms: int) -> dict[str, Any]:
    """Return the totals of a time, and with `by` a row for each of its parts."""
    until_ms = min(until_ms, max(now_ms, since_ms))
    whole = Period("total", since_ms, until_ms)
    answer: dict[str, Any] = {
        "since": text_of(since_ms),
        "until": text_of(until_ms),
        "total": _shown(_totals(db, whole)),
    }
    if by in LENGTHS:
        rows = _by_time(db, split(since_ms, until_ms, by))
        answer["rows"] = [{by: name, **_shown(total)} for name, total in rows.items()]
    elif by is not None:
        groups = _by_group(db, whole, GROUPS[by])
        order = sorted(groups, key=lambda name: -groups[name].earned_msat)
        answer["rows"] = [{by: name, **_shown(groups[name])} for name in order[:MOST_GROUPS]]
    return answer


def _shown(total: _Sum) -> dict[str, Any]:
    net_msat = total.earned_msat - total.mining_msat
    days = total.capital_sat_days
    is_aged = days >= max(total.capital_sat, 1)  # a day on average: of minutes no return of a year can be told
    return {
        "sales": total.sales,
        "failed": total.failed,
        "earned_msat": total.earned_msat,
        "owed_msat": total.owed_msat,
        "mining_msat": total.mining_msat,
        "net_msat": net_msat,
        "capital_sat_days": round(days),
        "return_percent_per_year": round(net_msat / 10 * DAYS_A_YEAR / days, 2) if is_aged else None,
    }


# Over a time ------------------------------------------------------------------------------------------


def _totals(db: sqlite3.Connection, period: Period) -> _Sum:
    return _by_time(db, [period])[period.name]


def _by_time(db: sqlite3.Connection, periods: list[Period]) -> dict[str, _Sum]:
    """Each row of the tables within the time is read once, whatever the number of periods."""
    found = {period.name: _Sum() for period in periods}
    if not periods:
        return found
    since_ms, until_ms = periods[0].since_ms, periods[-1].until_ms
    slots = _Slots(periods)
    for slot, outcome, count, taken, owed in db.execute(
        f"SELECT {slots.sql('ended_ms')} AS slot, outcome, count(*), sum(fee_taken_msat), sum(fee_owed_msat)"
        " FROM attempts WHERE ended_ms >= ? AND ended_ms < ? GROUP BY slot, outcome",
        (since_ms, until_ms),
    ):
        found[slots.name(slot)].count(outcome, count, taken, owed)
    for column, when in (("mining_msat", "sent_ms"), ("close_mining_msat", "released_ms")):
        for slot, mining in db.execute(
            f"SELECT {slots.sql(when)} AS slot, sum({column}) FROM channels"
            f" WHERE {when} >= ? AND {when} < ? GROUP BY slot",
            (since_ms, until_ms),
        ):
            found[slots.name(slot)].mining_msat += mining or 0
    for period, bound in zip(periods, capital_days.by_time(db, periods), strict=True):
        found[period.name].capital_sat_days, found[period.name].capital_sat = bound
    return found


class _Slots:
    """Which of several periods, one behind the other, a moment falls into: as an SQL expression, the number of a day.

    Periods begin and end at midnight, the outer ones aside, so no day is in two of them.
    """

    def __init__(self, periods: list[Period]) -> None:
        self._names = [period.name for period in periods]
        self._of_day = {
            day: place
            for place, period in enumerate(periods)
            for day in range(period.since_ms // DAY_MS, (period.until_ms - 1) // DAY_MS + 1)
        }

    def sql(self, column: str) -> str:
        return f"{column} / {DAY_MS}" if len(self._names) > 1 else "0"

    def place(self, slot: int) -> int:
        return self._of_day[slot] if len(self._names) > 1 else 0

    def name(self, slot: int) -> str:
        return self._names[self.place(slot)]


# By token, band or peer -------------------------------------------------------------------------------


def _by_group(db: sqlite3.Connection, period: Period, column: str) -> dict[str | None, _Sum]:
    found: defaultdict[str | None, _Sum] = defaultdict(_Sum)
    name = f"lower(hex({column}))" if column == "peer_id" else column
    since_ms, until_ms = period.since_ms, period.until_ms

    for group, outcome, count, taken, owed in db.execute(
        f"SELECT {name}, outcome, count(*), sum(fee_taken_msat), sum(fee_owed_msat) FROM attempts"
        f" WHERE ended_ms >= ? AND ended_ms < ? GROUP BY {column}, outcome",
        (since_ms, until_ms),
    ):
        found[group].count(outcome, count, taken, owed)
    for mined, when in (("mining_msat", "sent_ms"), ("close_mining_msat", "released_ms")):
        for group, mining in db.execute(
            f"SELECT {name}, sum({mined}) FROM channels WHERE {when} >= ? AND {when} < ? GROUP BY {column}",
            (since_ms, until_ms),
        ):
            found[group].mining_msat += mining or 0
    bound = capital_days.by_peer(db, period) if column == "peer_id" else capital_days.by_terms(db, period, column)
    for group, each in bound.items():
        found[group].capital_sat_days += each.sat_days
        found[group].capital_sat += each.sat
    return found
