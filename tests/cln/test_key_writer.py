"""Records in lightningd's datastore: what is written last stands there, whatever comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lsps2fast.errors import AnswerPending, NodeError, StoreError
from lsps2fast_plugin.cln.datastore import NO_SUCH_KEY, DatastoreRecords
from lsps2fast_plugin.cln.late_replies import Late

KEY = ("lsps", "word")


class Node:
    """A datastore that may keep a call until it is told, when its caller is gone."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], str] = {}
        self.keeps = False
        self.kept: list[Callable[[], None]] = []

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = 60.0,
        late: Late | None = None,
    ) -> dict[str, Any]:
        assert params is not None
        if self.keeps:
            assert late is not None
            tell = late

            def carry_out() -> None:
                self.do(method, params)
                tell()

            self.kept.append(carry_out)
            raise AnswerPending(method, "no answer within 60 s")
        await asyncio.sleep(0)
        self.do(method, params)
        return {}

    def do(self, method: str, params: dict[str, Any]) -> None:
        if method == "datastore":
            self.rows[tuple(params["key"])] = params["hex"]
        elif self.rows.pop(tuple(params["key"]), None) is None:
            raise NodeError(method, NO_SUCH_KEY, "Key does not exist")


class Scene:
    """Records over it, and what is done in the background."""

    def __init__(self) -> None:
        self.node = Node()
        self.work: list[Callable[[], Awaitable[Any]]] = []
        self.records = DatastoreRecords(self.node, lambda what, work: self.work.append(work))

    async def write(self, value: Any) -> None:
        await self.records.write(KEY, lambda: value)

    async def give_up(self, value: Any) -> None:
        self.node.keeps = True
        with pytest.raises(StoreError):
            await self.write(value)
        self.node.keeps = False

    async def stands(self) -> Any:
        """What is there once the call that was kept is carried out, and all is done."""
        for carry_out in self.node.kept:
            carry_out()
        for work in self.work:
            await work()
        found = dict(await self._read())
        return found.get(KEY)

    async def _read(self) -> list[tuple[Any, Any]]:
        return [(key, bytes.fromhex(value).decode()) for key, value in self.node.rows.items()]


@pytest.mark.parametrize(("newest", "stands"), [(2, "2"), (None, None)])
async def test_a_write_that_comes_late_undoes_no_newer_one(newest: int | None, stands: str | None) -> None:
    """K-13, rule:2: what a fleet's node holds would be more again than others leave it, a webhook would be back."""
    scene = Scene()
    await scene.write(0)
    await scene.give_up(1)
    await scene.write(newest)
    assert await scene.stands() == stands


async def test_a_deletion_that_comes_late_takes_no_newer_record() -> None:
    """K-13: nor one whose key was written twice since."""
    scene = Scene()
    await scene.write(0)
    await scene.give_up(None)
    await scene.write(1)
    await scene.write(2)
    assert await scene.stands() == "2"


async def test_a_repetition_writes_what_was_written_and_not_what_is_thought_by_now() -> None:
    """rule:11: a value that no one has ordered to be stored is not."""
    scene, said = Scene(), [1]
    await scene.give_up(0)
    await scene.records.write(KEY, lambda: said[0])
    said[0] = 2
    assert await scene.stands() == "1"
