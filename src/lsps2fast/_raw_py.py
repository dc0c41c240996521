"""What `_raw.pxd` does in C, for the interpreted run: rows, columns, orders. A test holds both equal.

Keys of the look-up are bytes, because CPython's hash of bytes is keyed and that of integers is not: peers choose them.
"""

from __future__ import annotations

from typing import Any, TypeVar

NUMBER_BITS = 10
NEVER = 0xFFFF_FFFF
HELD, OUT, PAID, DEAD = range(4)

Order = TypeVar("Order", bound=tuple[Any, ...])


class Row:
    """One part."""

    __slots__ = ("cltv_expiry", "htlc_id", "in_scid", "status", "taken_msat", "value_msat")

    def __init__(self) -> None:
        self.in_scid = self.htlc_id = self.value_msat = self.taken_msat = self.cltv_expiry = self.status = 0


class Columns:
    """Of all live sessions, by slot."""

    def __init__(self) -> None:
        self.rows: list[list[Row]] = []
        self.heights: list[int] = []
        self.soonest = NEVER
        self.places: dict[bytes, int] = {}

    @property
    def count(self) -> int:
        """Parts that can be found."""
        return len(self.places)


def make(kind: type[Order], fields: tuple[Any, ...]) -> Order:
    """`kind(*fields)` for a NamedTuple."""
    return tuple.__new__(kind, fields)


def no_rows() -> list[Row]:
    """Of a new session."""
    return []


def more_rows(rows: list[Row], room: int) -> list[Row]:
    """Space for `room` parts, the old ones kept."""
    rows += [Row() for _ in range(room - len(rows))]
    return rows


def free_rows(rows: list[Row]) -> None:
    """Nobody will look at them again."""
    rows.clear()


def columns_open(secret0: int, secret1: int) -> Columns:
    """Empty; the secrets are for the hash in C."""
    return Columns()


def columns_close(columns: Columns) -> None:
    """Nobody will look at them again."""
    columns.rows.clear()


def columns_enter(columns: Columns, slot: int, rows: list[Row]) -> None:
    """The session in this slot keeps its parts in `rows`."""
    while slot >= len(columns.rows):
        columns.rows.append([])
        columns.heights.append(NEVER)
    columns.rows[slot] = rows


def columns_watch(columns: Columns, slot: int, height: int) -> None:
    """The session in this slot wants to be told BLOCK at this height."""
    columns.heights[slot] = height
    columns.soonest = min(columns.soonest, height)


def columns_watched(columns: Columns, slot: int) -> int:
    """At which height this session wants to be told BLOCK."""
    return columns.heights[slot]


def columns_due(columns: Columns, slots: int, height: int) -> list[int]:
    """The slots among the first `slots` that wait for this height or a lower one."""
    if height < columns.soonest:
        return []
    heights = columns.heights[:slots]
    columns.soonest = min((wanted for wanted in heights if wanted > height), default=NEVER)
    return [slot for slot, wanted in enumerate(heights) if wanted <= height]


def _key(in_scid: int, htlc_id: int) -> bytes:
    return in_scid.to_bytes(8, "little") + htlc_id.to_bytes(8, "little")


def _key_of(columns: Columns, slot: int, number: int) -> bytes:
    row = columns.rows[slot][number]
    return _key(row.in_scid, row.htlc_id)


def columns_find(columns: Columns, in_scid: int, htlc_id: int) -> int:
    """slot << NUMBER_BITS | number of this part, -1 if there is none."""
    return columns.places.get(_key(in_scid, htlc_id), -1)


def columns_add(columns: Columns, slot: int, number: int) -> None:
    """From now on this part, which must not be there yet, is found."""
    columns.places[_key_of(columns, slot, number)] = slot << NUMBER_BITS | number


def columns_drop(columns: Columns, slot: int, number: int) -> None:
    """This part, which must be there, is found no more."""
    del columns.places[_key_of(columns, slot, number)]
