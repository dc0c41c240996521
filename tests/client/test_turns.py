"""Writers of one record: those who wait for one turn share a write; a deletion between them counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.records import Distrust
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.datastore import NO_SUCH_KEY

LSP = "02" + "aa" * 32


class Datastore:
    """lightningd's, and slow: each call waits until `go` lets it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], Any] = {}
        self.writes = 0
        self.go = asyncio.Event()

    async def call(self, method: str, params: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        await self.go.wait()
        key = tuple(params["key"])
        if method == "datastore":
            self.writes += 1
            self.rows[key] = json.loads(bytes.fromhex(params["hex"]))
        elif self.rows.pop(key, None) is None:
            raise NodeError(method, NO_SUCH_KEY, "no such key")
        return {}


def book(node: Any) -> WalletRecords:
    """The wallet's records over this datastore."""
    anything: Any = None
    return WalletRecords(node, anything, anything, anything, lambda: None)


async def test_those_who_wait_for_one_turn_share_a_write() -> None:
    """P24, rule:11: each is told once what it asked for stands there."""
    node = Datastore()
    records, said = book(node), ["first"]
    writes = [asyncio.ensure_future(records._write(("a",), lambda: {"says": said[0]})) for _ in range(5)]
    await asyncio.sleep(0)
    said[0] = "last"
    node.go.set()
    await asyncio.gather(*writes)
    assert node.rows == {("a",): {"says": "last"}}
    assert node.writes == 2


async def test_a_record_that_is_deleted_and_written_again_is_there() -> None:
    """rule:11: the write of before the deletion does not stand for the one after it."""
    node = Datastore()
    records = book(node)
    asked = [
        records._write(("a",), lambda: {"n": 1}),
        records._write(("a",), lambda: {"n": 2}),
        records._delete(("a",)),
        records._write(("a",), lambda: {"n": 3}),
    ]
    tasks = [asyncio.ensure_future(each) for each in asked]
    await asyncio.sleep(0)
    node.go.set()
    await asyncio.gather(*tasks)
    assert node.rows == {("a",): {"n": 3}}


async def test_what_could_not_be_written_is_written_by_the_next_who_waits() -> None:
    """rule:11: an error is for the one whose turn it was."""
    node = Datastore()
    records, good = book(node), node.call
    node.go.set()

    async def full_once(*args: Any, **how: Any) -> dict[str, Any]:
        node.call = good  # type: ignore[method-assign]
        await asyncio.sleep(0)
        raise NodeError("datastore", -1, "disk full")

    node.call = full_once  # type: ignore[method-assign]
    distrust = Distrust(LSP, "why", 1)
    outcomes = await asyncio.gather(
        *(records._write(("a",), distrust.to_json) for _ in range(3)), return_exceptions=True
    )
    assert [type(each).__name__ for each in outcomes] == ["StoreError", "NoneType", "NoneType"]
    assert node.rows == {("a",): distrust.to_json()}
    assert node.writes == 1
