"""The rows of lightningd's tables, read straight from the bytes of the answer and when their turn comes.

A table may be long: 10,000 channels are 30 MB. What is not read of a row is never made an object, and between two
slices of a table the loop does other things (P27).
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from lsps2fast import _hook as hook
from lsps2fast.errors import MalformedFrame, NodeUnreachable

_TABLE: Final = re.compile(
    rb'\s*{\s*"jsonrpc"\s*:\s*"2.0"\s*,\s*"id"\s*:\s*("[^"\\]*")\s*,'
    rb'\s*"result"\s*:\s*{\s*"(channels|closedchannels|datastore|forwards|outputs|peers)"\s*:\s*\['
)
_AT_ONCE: Final = 250  # rows of a slice: two or three milliseconds
Frame = bytes | bytearray
Row = TypeVar("Row", bound="msgspec.Struct")


class Rows:
    """The rows of a table as the bytes of their objects; can be gone through again."""

    def __init__(self, frame: Frame, at: int) -> None:
        """`at`: right behind the `[` of the list."""
        self._frame = frame
        self._at = at

    def __iter__(self) -> Iterator[Frame]:
        """Cut out one row after the other. Raises MalformedFrame where the list makes no sense."""
        return hook.objects(self._frame, self._at)


def table_in(frame: Frame) -> dict[str, Any] | None:
    """Return an answer that is a table, its rows not read yet; None for another.

    Members behind the table are dropped.
    """
    found = _TABLE.match(frame)
    if found is None:
        return None
    return {"id": msgspec.json.decode(found[1]), "result": {found[2].decode(): Rows(frame, found.end())}}


def decode(frame: Frame) -> Any:
    """Return the JSON value in these bytes; plugins can put raw control characters into results.

    Raises ValueError or RecursionError when it is none.
    """
    try:
        return msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(frame.decode(errors="replace"), strict=False)


@functools.cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read(kind: type[Row], row: object, method: str) -> Row:
    """Return a row, its bytes or its members, as a type. Raises NodeUnreachable, naming what is wrong with it."""
    try:
        return _decoded(kind, row) if isinstance(row, Frame) else msgspec.convert(row, kind)
    except (ValueError, RecursionError) as error:
        raise NodeUnreachable(method, f"an answer we cannot read: {kind.__name__} {_name(row)}: {error}") from error


def _decoded(kind: type[Row], row: Frame) -> Row:
    try:
        decoded: Row = _decoder(kind).decode(row)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.convert(decode(row), kind)
    return decoded


def _name(row: object) -> str:
    """Return by what the rows of lightningd are told apart, "" for one that has none."""
    try:
        members = decode(row) if isinstance(row, Frame) else row
    except (ValueError, RecursionError):
        return ""
    return str(members.get("channel_id") or members.get("id") or "") if isinstance(members, dict) else ""


def rows_of(answer: dict[str, Any], method: str, member: str) -> Iterator[object]:
    """Yield the rows of a table. Raises NodeUnreachable where it is none, also between two rows."""
    rows = answer.get(member)
    if not isinstance(rows, list | Rows):
        raise NodeUnreachable(method, f"an answer without `{member}`")
    return _sound(rows, method)


def _sound(rows: Iterable[object], method: str) -> Iterator[object]:
    try:
        yield from rows
    except MalformedFrame as error:
        raise NodeUnreachable(method, f"an answer we cannot read: {error}") from error


async def read_all(kind: type[Row], rows: Iterable[object], method: str) -> list[Row]:
    """Return all rows as a type, slice by slice. Raises NodeUnreachable."""
    found: list[Row] = []
    for place, row in enumerate(rows, 1):
        found.append(read(kind, row, method))
        if not place % _AT_ONCE:
            await asyncio.sleep(0)
    return found
