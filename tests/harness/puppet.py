"""The puppet plugin of the embedded node's tests, raw sockets, and the recordings to compare with."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from lsps2fast_plugin.simnode import Node
from lsps2fast_plugin.simnode.frames import Splitter, parse

HERE = Path(__file__).parents[1] / "simnode"
PUPPET = [sys.executable, str(HERE / "plugins" / "puppet.py")]


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

        async def enough() -> list[dict[str, Any]]:
            while len(calls := await self.open(method)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            return calls

        calls = await self.node.world.bounded(enough(), None, f"{count} calls of {method}")
        assert len(calls) == count
        return calls

    async def answer(self, call: dict[str, Any], **answer: Any) -> None:
        """`result=`, `error=` or `raw=`."""
        await self.node.call("puppet-answer", {"id": call["id"], **answer})

    async def last_answer(self, call: dict[str, Any], **answer: Any) -> None:
        """An answer the node may not survive."""
        await asyncio.gather(self.answer(call, **answer), return_exceptions=True)

    async def set(self, **hooks: Any) -> None:
        """How it answers hooks from now on."""
        await self.node.call("puppet-set", {"hooks": hooks})

    async def seen(self, method: str, count: int = 0) -> list[dict[str, Any]]:
        """Notifications or requests it got; waits for `count` of them. Gives their params."""

        async def enough() -> list[dict[str, Any]]:
            while True:
                got = await self.node.call("puppet-seen", {"method": method})
                if len(got) >= count:
                    return [message["params"] for message in got]
                await asyncio.sleep(0.001)

        return await self.node.world.bounded(enough(), None, f"{count} times {method}")

    async def events(self, name: str, count: int = 0) -> list[dict[str, Any]]:
        """Bodies of notifications (they sit under their own name, cln:W3)."""
        return [params[name] for params in await self.seen(name, count)]


def puppet(plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Keywords for `World(...)`: the puppet with a plan."""
    return {"plugin": PUPPET, "env": {"PUPPET": json.dumps(plan or {})}}


def hearing(*topics: str, **plan: Any) -> dict[str, Any]:
    """A plan that subscribes to topics."""
    return {"manifest": {"subscriptions": list(topics)}, **plan}


class Wire:
    """A raw connection to `lightning-rpc`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.splitter = Splitter()
        self.waiting: list[dict[str, Any]] = []

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await asyncio.open_unix_connection(self.node.rpc_path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, request_id: Any, method: str, params: Any) -> None:
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        self.send(json.dumps(body, ensure_ascii=False).encode())

    async def next(self) -> dict[str, Any]:
        """The next answer, in the order they come."""
        while not self.waiting:
            data = await asyncio.wait_for(self.reader.read(65536), 60)
            assert data, "the node hung up"
            self.waiting += [parse(frame) for frame in self.splitter.feed(data)]
        return self.waiting.pop(0)


def recording(name: str) -> list[dict[str, Any]]:
    """Lines of a recording: this directory's cut, or tests/data/recordings."""
    own = HERE / "data" / f"{name}.jsonl"
    path = own if own.exists() else HERE.parent / "data" / "recordings" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recorded_calls(name: str, peer: str | None = None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Requests with their answers, in the order of the requests."""
    answers = {}
    entries = recording(name)
    for entry in entries:
        if entry["dir"] == "host>rpc":
            answers[entry["peer"], entry["msg"].get("id")] = entry["msg"]
    return [
        (entry["msg"], answers[entry["peer"], entry["msg"]["id"]])
        for entry in entries
        if entry["dir"] == "rpc>host"
        and peer in (None, entry["peer"])
        and (entry["peer"], entry["msg"]["id"]) in answers
    ]


def shape(value: Any) -> Any:
    """Names, order and types, without values: what must be equal to the real thing."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
