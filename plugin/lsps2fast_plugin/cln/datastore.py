"""Small records beside the journal of sales: uses of tokens, what peers did, whether selling is paused.

A write either happened or raises StoreError. Writes of one key keep their order. What a record says belongs to its
owner; this file only moves JSON in and out of lightningd's datastore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from lsps2fast.errors import NodeError, StoreError
from lsps2fast_plugin.cln.models import Caller
from lsps2fast_plugin.cln.rows import read, rows_of

NO_SUCH_KEY = 1200  # deldatastore, cln:D2
Key = tuple[str, ...]


class DatastoreRow(msgspec.Struct, frozen=True):
    """One entry of listdatastore; a folder has no `hex` (cln:D4)."""

    key: Key
    hex: str | None = None


async def list_datastore(rpc: Caller, root: Sequence[str]) -> Iterator[DatastoreRow]:
    """Return the entries right under `root`, each read when its turn comes. Raises StoreError, also while read."""
    try:
        answer = await rpc.call("listdatastore", {"key": list(root)})
        return _rows(rows_of(answer, "listdatastore", "datastore"))
    except NodeError as error:
        raise StoreError(str(error)) from error


def _rows(entries: Iterable[object]) -> Iterator[DatastoreRow]:
    try:
        for entry in entries:
            yield read(DatastoreRow, entry, "listdatastore")
    except NodeError as error:
        raise StoreError(str(error)) from error


async def put_record(rpc: Caller, key: Key, value: Any) -> None:
    """Write a value as JSON, over what was there. Raises StoreError."""
    # hex, not string: lightningd refuses strings with \u escapes (cln:D3)
    params = {"key": list(key), "hex": msgspec.json.encode(value).hex(), "mode": "create-or-replace"}
    try:
        await rpc.call("datastore", params)
    except NodeError as error:
        raise StoreError(str(error)) from error


async def remove_record(rpc: Caller, key: Key) -> None:
    """Delete a record; none there is fine. Raises StoreError."""
    try:
        await rpc.call("deldatastore", {"key": list(key)})
    except NodeError as error:
        if error.code != NO_SUCH_KEY:
            raise StoreError(str(error)) from error


class DatastoreRecords:
    """JSON values under datastore keys."""

    def __init__(self, rpc: Caller) -> None:
        self._rpc = rpc
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()  # while held or waited for
        self.commits = 0

    async def read(self, root: Sequence[str]) -> list[tuple[Key, Any]]:
        """Return every (key, value) right under `root`; None for a value that is no JSON. Raises StoreError."""
        return [(row.key, _decode(row.hex)) for row in await list_datastore(self._rpc, root) if row.hex is not None]

    async def write(self, key: Key, value_now: Callable[[], Any]) -> None:
        """Write what `value_now()` says when this key's turn has come; None deletes the record. Raises StoreError."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            value = value_now()
            if value is None:
                await remove_record(self._rpc, key)
            else:
                await put_record(self._rpc, key, value)
            self.commits += 1


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(bytes.fromhex(text))
    except ValueError:
        return None
