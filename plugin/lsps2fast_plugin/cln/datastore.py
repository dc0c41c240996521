"""Records in lightningd's datastore: how they are written, and small ones beside the journal of sales.

A write either happened or raises StoreError. Writes of one key keep their order, and one that was given up and comes
late does not undo a newer one. What a record says belongs to its owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from lsps2fast.errors import NodeError, StoreError
from lsps2fast_plugin.cln.late_replies import Insist, Late, LateReplyGuard
from lsps2fast_plugin.cln.models import Caller, Json
from lsps2fast_plugin.cln.rows import read, rows_of

NO_SUCH_KEY = 1200  # deldatastore, cln:D2
Key = tuple[str, ...]


class Versioned(Protocol):
    """A record that says which form it has."""

    @property
    def version(self) -> int:
        """Return its form."""


Record = TypeVar("Record", bound=Versioned)


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


class Writer(Protocol):
    """The part of `rpc.Rpc` that is needed to ask and to hear of answers that come late."""

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Late | None = None
    ) -> Json:
        """Return the result. Raises NodeError."""


class KeyWriter:
    """Writes and deletes, one call a key at a time; the newest has the last word (K-13)."""

    def __init__(self, rpc: Writer, insist: Insist) -> None:
        """`insist` as in `LateReplyGuard`."""
        self._rpc = rpc
        self._last = LateReplyGuard(insist)

    async def put(self, key: Key, hex_now: Callable[[], str | None]) -> None:
        """Write what `hex_now()` says when this key's turn has come, over what was there; None deletes it, if any.

        Raises StoreError.
        """
        said: list[str | None] = []

        async def work(late: Late) -> None:
            if not said:
                said.append(hex_now())  # a repetition says the same
            if said[0] is None:
                await self._delete(key, late)
            else:  # hex, not string: lightningd refuses strings with \u escapes (cln:D3)
                params = {"key": list(key), "hex": said[0], "mode": "create-or-replace"}
                await self._rpc.call("datastore", params, late=late)

        try:
            await self._last.ask(key, f"writing the record {key[-1]}", work)
        except NodeError as error:
            raise StoreError(str(error)) from error

    async def _delete(self, key: Key, late: Late) -> None:
        try:
            await self._rpc.call("deldatastore", {"key": list(key)}, late=late)
        except NodeError as error:
            if error.code != NO_SUCH_KEY:
                raise


def as_hex(value: Any) -> str:
    """Return a value as JSON, as the datastore takes it."""
    return msgspec.json.encode(value).hex()


class DatastoreRecords:
    """JSON values under datastore keys."""

    def __init__(self, rpc: Writer, insist: Insist) -> None:
        """`insist` as in `LateReplyGuard`."""
        self._rpc = rpc
        self._writer = KeyWriter(rpc, insist)
        self.commits = 0

    async def read(self, root: Sequence[str]) -> list[tuple[Key, Any]]:
        """Return every (key, value) right under `root`; None for a value that is no JSON. Raises StoreError."""
        return [(row.key, _decode(row.hex)) for row in await list_datastore(self._rpc, root) if row.hex is not None]

    async def write(self, key: Key, value_now: Callable[[], Any]) -> None:
        """Write what `value_now()` says when this key's turn has come; None deletes the record. Raises StoreError."""

        def hex_now() -> str | None:
            value = value_now()
            return None if value is None else as_hex(value)

        await self._writer.put(key, hex_now)
        self.commits += 1


def read_as(kind: type[Record], value: Any, version: int) -> Record | None:
    """Return a value as a record of this kind; None where it is none, or of another version."""
    try:
        record = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None
    return record if record.version == version else None


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(bytes.fromhex(text))
    except ValueError:
        return None
