"""The test in lightningd's place: the other end of a Host's pipes, with a real pyln Plugin inside."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyln.client import Plugin

from lsps2fast._hook_py import FrameReader
from lsps2fast_plugin.cln.host import Host, HtlcFilter

RECORDED = (Path(__file__).parents[1] / "data" / "hook-frames.jsonl").read_bytes().splitlines()
JIT, _, FORWARD, _, FINAL, *_ = (json.loads(frame) for frame in RECORDED)
EVENT = json.loads(RECORDED[8])
JIT_SCID = 1 << 40 | 2 << 16 | 3
WAIT_S = 60.0
PAYLOAD = "0203989680"
CHANNEL = "ab" * 32
TEMPORARY = {"result": "fail", "failure_message": "10070000"}
NODE_FAILURE = {"result": "fail", "failure_message": "2002"}
CONTINUE = {"result": "continue"}
INIT = {
    "jsonrpc": "2.0",
    "id": "cln:init#2",
    "method": "init",
    "params": {"options": {}, "configuration": {"lightning-dir": "/l", "rpc-file": "rpc", "startup": True}},
}
MANIFEST = {"jsonrpc": "2.0", "id": "cln:getmanifest#1", "method": "getmanifest", "params": {}}
SHUTDOWN = {"jsonrpc": "2.0", "method": "shutdown", "params": {"shutdown": {}}}


def htlc(call_id: str, call: Any = JIT, **changes: Any) -> dict[str, Any]:
    """A recorded htlc_accepted call under another id, with members of `htlc` changed."""
    params = call["params"]
    return {**call, "id": call_id, "params": {**params, "htlc": {**params["htlc"], **changes}}}


def ping(call_id: str) -> dict[str, Any]:
    """A call whose answer shows that everything before it went through the loop."""
    return {"jsonrpc": "2.0", "id": call_id, "method": "ping", "params": {}}


class Desk:
    """lightningd's end of a Host, which runs in a thread of its own."""

    def __init__(
        self,
        *,
        compiled: bool,
        final_hops: bool = False,
        prepare: Callable[[Desk], None] | None = None,
        on_htlc: Callable[[Desk, Any], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        host_in, self.stdin = os.pipe()
        self.stdout, host_out = os.pipe()
        self._host_fds = (host_in, host_out)
        self.interest = HtlcFilter(final_hops=final_hops, compiled=compiled)
        self.htlcs: queue.Queue[Any] = queue.Queue()
        self.plugin = Plugin(autopatch=False)
        take = self.htlcs.put if on_htlc is None else functools.partial(on_htlc, self)
        self.host = Host(self.plugin, self.interest, take, fd_in=host_in, fd_out=host_out, now=now)
        self.host.method("ping", self._ping)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.exit_code: int | None = None
        self.logs: list[str] = []
        self.others: list[dict[str, Any]] = []
        self._answers: dict[Any, dict[str, Any]] = {}
        self._reader = FrameReader()
        if prepare is not None:
            prepare(self)
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._running.wait(WAIT_S)
        self.send(MANIFEST)

    async def _ping(self) -> dict[str, Any]:
        """Answer at once."""
        return {"pong": True}

    def _run(self) -> None:
        async def main() -> int:
            self.loop = asyncio.get_running_loop()
            self._running.set()
            return await self.host.run()

        self.exit_code = asyncio.run(main())
        os.close(self._host_fds[1])

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        """Write messages in one go."""
        raw = (m if isinstance(m, bytes) else json.dumps(m, separators=(",", ":")).encode() + b"\n\n" for m in messages)
        data = memoryview(b"".join(raw))
        while data:
            data = data[os.write(self.stdin, data) :]

    def _take(self, frame: dict[str, Any]) -> None:
        if "method" not in frame:
            assert frame["id"] not in self._answers, f"two answers: {frame}"
            self._answers[frame["id"]] = frame
        elif frame["method"] == "log":
            self.logs.append(frame["params"]["message"])
        else:
            self.others.append(frame)

    def read_some(self) -> bool:
        """Read what there is, waiting for it; False at the end of the stream."""
        assert select.select([self.stdout], [], [], WAIT_S)[0], f"nothing came; the log says {self.logs[-5:]}"
        data = os.read(self.stdout, 65536)
        for frame in self._reader.feed(data) if data else []:
            self._take(json.loads(frame))
        return bool(data)

    def until(self, done: Callable[[], Any]) -> Any:
        """Read until `done()` is true; its value."""
        while not (value := done()):
            assert self.read_some(), f"the stream ended; the log says {self.logs[-5:]}"
        return value

    def answer(self, call_id: Any) -> dict[str, Any]:
        """The answer to one call."""
        return self.until(lambda: self._answers.get(call_id))

    def result(self, call_id: Any) -> Any:
        """The result in the answer to one call."""
        return self.answer(call_id)["result"]

    def answered(self) -> set[Any]:
        """The ids answered so far."""
        return set(self._answers)

    def log_with(self, text: str) -> str:
        """The first log line with this text."""
        return self.until(lambda: next((line for line in self.logs if text in line), None))

    def htlc(self) -> Any:
        """The next HTLC handed to the owner."""
        return self.htlcs.get(timeout=WAIT_S)

    def on_loop(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do something on the host's loop and wait for it."""

        async def call() -> Any:
            return work(*args)

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(WAIT_S)

    def load(self) -> None:
        """The owner knows its scids."""
        self.send(ping("before load"))
        self.answer("before load")
        self.interest.scids.add(JIT_SCID)
        self.on_loop(self.host.interest_loaded)

    def rest(self) -> int:
        """Read to the end; the exit code."""
        while self.read_some():
            pass
        self._thread.join(WAIT_S)
        assert self.exit_code is not None, "run() did not return"
        return self.exit_code

    def hang_up(self) -> int:
        """lightningd is gone; the exit code."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1
        return self.rest()

    def clean(self) -> None:
        """Free what a failed test left."""
        if self._thread.is_alive():
            self.hang_up()
        for fd in {self.stdin, self.stdout, self._host_fds[0]} - {-1}:
            os.close(fd)
