"""Fixtures for the embedded node: worlds with a puppet plugin, and the recordings to compare with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lsps2fast_plugin.node import World
from lsps2fast_plugin.node.lightningd import Node

PUPPET = [sys.executable, str(Path(__file__).parent / "plugins" / "puppet.py")]


class Strings:
    """What a test holds of the puppet plugin of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def open(self, method: str = "htlc_accepted") -> list[dict[str, Any]]:
        """The calls it holds, oldest first."""
        calls = await self.node.call("puppet-open")
        return [call for call in calls if call["method"] == method]

    async def opened(self, count: int, method: str = "htlc_accepted") -> list[dict[str, Any]]:
        """Wait until it holds `count` calls."""
        await self.node.world.until(lambda: self.sent(method) >= count, f"{count} calls of {method}")
        calls = await self.open(method)
        assert len(calls) == count
        return calls

    def sent(self, method: str) -> int:
        """How many calls of a hook the node has written to it."""
        return len(self.node.transcript.select("host>plugin", self.node.plugin.peer, method))

    async def answer(self, call: dict[str, Any], **answer: Any) -> None:
        await self.node.call("puppet-answer", {"id": call["id"], **answer})

    async def set(self, **hooks: Any) -> None:
        """How it answers hooks from now on."""
        await self.node.call("puppet-set", {"hooks": hooks})

    async def seen(self, method: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = await self.node.call("puppet-seen", {"method": method})
        return result


def puppet(plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Keywords for `World(...)`: the puppet with a plan."""
    return {"plugin": PUPPET, "env": {"PUPPET": json.dumps(plan or {})}}


@pytest.fixture
def make_world() -> Callable[..., World]:
    """`make_world(plan, **keywords)`: a world whose LSP runs the puppet."""

    def make(plan: dict[str, Any] | None = None, **keywords: Any) -> World:
        return World(**{"seed": 1, **puppet(plan), **keywords})

    return make
