"""Times as people give them, and the days, weeks and months of a report. All in UTC."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from lsps2fast.errors import ConfigError

DAY_MS: Final = 86_400_000
LENGTHS: Final = ("day", "week", "month")
MOST_PERIODS: Final = 4_000
MOST_SECONDS: Final = 253_402_300_799  # the end of the year 9999


class Period(NamedTuple):
    """From `since_ms` on, up to but without `until_ms`."""

    name: str
    since_ms: int
    until_ms: int


def read_time(value: int | str | None, name: str) -> int | None:
    """Return UTC milliseconds of a date, a date and time, or seconds since 1970. Raises ConfigError."""
    if value is None:
        return None
    text = str(value).strip()
    if text.isascii() and text.isdigit() and len(text) != 8 and int(text) <= MOST_SECONDS:
        return int(text) * 1000
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{name}={value!r} is no time; give a date such as 2026-11-01, a time such as 2026-11-01T12:00:00Z, or "
            "seconds since 1970"
        ) from None
    return milliseconds(when if when.tzinfo is not None else when.replace(tzinfo=UTC))


def milliseconds(when: datetime) -> int:
    """Return UTC milliseconds of a moment."""
    return round(when.timestamp() * 1000)


def text_of(wall_ms: int | None) -> str | None:
    """Return a moment as reports write it, to the second."""
    if wall_ms is None:
        return None
    return datetime.fromtimestamp(wall_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def month_of(wall_ms: int) -> tuple[int, int]:
    """Return the month that holds this moment: its beginning and its end."""
    begin = _begin(datetime.fromtimestamp(wall_ms / 1000, UTC), "month")
    return milliseconds(begin), milliseconds(_next(begin, "month"))


def split(since_ms: int, until_ms: int, length: str) -> list[Period]:
    """Return the days, weeks (from Monday) or months that cover a time, the first and last cut to it."""
    return list(_split(since_ms, until_ms, length))


def _split(since_ms: int, until_ms: int, length: str) -> Iterator[Period]:
    begin = _begin(datetime.fromtimestamp(since_ms / 1000, UTC), length)
    for _ in range(MOST_PERIODS):
        end = _next(begin, length)
        if milliseconds(begin) >= until_ms:
            return
        name = begin.strftime({"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}[length])
        yield Period(name, max(milliseconds(begin), since_ms), min(milliseconds(end), until_ms))
        begin = end
    raise ConfigError(f"so many {length}s are too many for one report: give since and until, or a longer `by`")


def _begin(when: datetime, length: str) -> datetime:
    midnight = when.replace(hour=0, minute=0, second=0, microsecond=0)
    if length == "week":
        return midnight - timedelta(days=midnight.weekday())
    return midnight.replace(day=1) if length == "month" else midnight


def _next(begin: datetime, length: str) -> datetime:
    if length == "month":
        return (begin + timedelta(days=32)).replace(day=1)
    return begin + timedelta(days=7 if length == "week" else 1)
