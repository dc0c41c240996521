"""The wallet as a process: real pipes, a real `lightning-rpc` socket, the staged lightningd behind it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from lsps2fast import _hook as hook
from lsps2fast.errors import NodeError

from .client import HEIGHT, LSP, Json, Lightningd, Lsp

CLIENT = [sys.executable, "-m", "lsps2fast_plugin.client.app"]
LIMIT_S = 60.0


class World:
    """What outlives a plugin process: lightningd's tables, its peers, the time it has."""

    def __init__(self) -> None:
        self.height = HEIGHT
        self.preimages: dict[bytes, bytes] = {}
        self.lsps = {LSP: Lsp(LSP)}
        self.node = Lightningd(self)  # type: ignore[arg-type]
        self.process: Process | None = None

    def message(self, peer_id: str, payload: bytes) -> None:
        assert self.process is not None
        self.process.request("custommsg", {"peer_id": peer_id, "payload": "9419" + payload.hex()})

    def connect(self, peer_id: str) -> None:
        self.node.peers[peer_id] = {}


class Process:
    """One life of the plugin. `answers` by id; `notes` are its notifications (log lines)."""

    def __init__(self, world: World, directory: str) -> None:
        self.world = world
        world.process = self
        self.directory = directory
        self.answers: dict[str, asyncio.Future[Json]] = {}
        self.notes: list[Json] = []
        self._ids = itertools.count(19)

    async def launch(self, test_clock: bool) -> None:
        env = {**os.environ, "LIGHTNINGD_PLUGIN": "1"}
        env.pop("LSPS2FAST_TEST_CLOCK", None)
        env |= {"LSPS2FAST_TEST_CLOCK": "1"} if test_clock else {}
        path = Path(self.directory) / "lightning-rpc"
        self.server = await asyncio.start_unix_server(self._serve, str(path))
        self.child = await asyncio.create_subprocess_exec(
            *CLIENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=env
        )
        self.reading = asyncio.ensure_future(self._read())

    async def begin(self, startup: bool = True, **options: Any) -> Json:
        """getmanifest and init; the manifest."""
        manifest = await self.ask("getmanifest", {"allow-deprecated-apis": False})
        assert await self.ask("init", self.init_params(startup, options)) is None
        return manifest

    def init_params(self, startup: bool, options: Json) -> Json:
        configuration = {
            "lightning-dir": self.directory,
            "rpc-file": "lightning-rpc",
            "startup": startup,
            "network": "regtest",
            "feature_set": {},
        }
        return {"options": options, "configuration": configuration}

    async def ready(self) -> None:
        """Until the plugin says that it is."""
        await self.ask("lsps2-status", {})

    # the pipe

    def write(self, call: Json) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(call).encode() + b"\n\n")

    def request(self, method: str, params: Any) -> str:
        """Send a request; its id."""
        call_id = f"cln:{method}#{next(self._ids)}"
        self.answers[call_id] = asyncio.get_running_loop().create_future()
        self.write({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
        return call_id

    async def until(self, condition: Callable[[Json], object]) -> Json:
        """lsps2-status, asked until the condition holds."""
        while True:
            status: Json = await self.ask("lsps2-status", {})
            if condition(status):
                return status

    async def reply(self, call_id: str) -> Json:
        return await asyncio.wait_for(asyncio.shield(self.answers[call_id]), LIMIT_S)

    async def ask(self, method: str, params: Any) -> Any:
        """The result; a JSON-RPC error is raised as NodeError."""
        answer = await self.reply(self.request(method, params))
        if "error" in answer:
            raise NodeError(method, answer["error"]["code"], answer["error"]["message"], answer["error"].get("data"))
        return answer["result"]

    def notify(self, topic: str, body: Json) -> None:
        self.write({"jsonrpc": "2.0", "method": topic, "params": {topic: body}})

    async def _read(self) -> None:
        assert self.child.stdout is not None
        frames = hook.FrameReader()
        while data := await self.child.stdout.read(65536):
            for frame in frames.feed(data):
                self._take(json.loads(frame))

    def _take(self, message: Json) -> None:
        if "id" not in message:
            self.notes.append(message)
            return
        future = self.answers[message["id"]]
        assert not future.done(), f"a second answer: {message}"
        future.set_result(message)

    @property
    def log(self) -> str:
        return "\n".join(note["params"].get("message", "") for note in self.notes)

    # the socket

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = hook.FrameReader()
        waiting: list[asyncio.Task[None]] = []
        with contextlib.suppress(ConnectionError):  # a plugin that was killed does not say goodbye
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    answer = asyncio.ensure_future(self._answer(json.loads(frame), writer))
                    waiting.append(answer)
                    if json.loads(frame)["method"] != "wait":
                        await answer
        for answer in waiting:
            answer.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        writer.close()

    async def _answer(self, call: Json, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(await self._result(call)).encode() + b"\n\n")

    async def _result(self, call: Json) -> Json:
        body: Json = {"jsonrpc": "2.0", "id": call["id"]}
        try:
            return body | {"result": await self.world.node.call(call["method"], call["params"])}
        except NodeError as error:
            return body | {"error": {"code": error.code, "message": error.message}}

    # the end

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.child.wait(), LIMIT_S)

    async def close(self) -> None:
        if self.child.returncode is None:
            assert self.child.stdin is not None
            self.child.stdin.close()
            await self.exit_code()
        await self.reading
        self.server.close()
        await self.server.wait_closed()


@contextlib.asynccontextmanager
async def running(
    world: World | None = None, *, begin: bool = True, test_clock: bool = True, **options: Any
) -> AsyncIterator[Process]:
    """A plugin that has started; ended politely unless the test did it."""
    with tempfile.TemporaryDirectory(prefix="l2fc-", dir="/tmp") as directory:
        process = Process(world or World(), directory)
        await process.launch(test_clock)
        try:
            if begin:
                await process.begin(**options)
                await process.ready()
            yield process
        finally:
            await process.close()
