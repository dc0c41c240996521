"""The `lightning-rpc` unix socket: many requests in flight per connection, answered when done (cln:P1)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from . import frames
from .errors import INVALID_REQUEST, Outcome, RpcError
from .faults import Fault, Faults
from .transcript import Transcript


class RpcHost(Protocol):
    """What the socket asks and tells its node."""

    name: str
    generation: int
    faults: Faults
    transcript: Transcript

    def run_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome | asyncio.Future[Outcome]:
        """Carry out a call."""

    async def finish_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome:
        """Carry out a call and wait for its end."""

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "work") -> asyncio.Task[Any]:
        """Return a task that ends with the node."""

    def said(self, body: Any) -> Any:
        """Return what the node says in place of `body`."""

    def note(self, text: str) -> None:
        """Log a line of lightningd's own."""


class Connection(asyncio.Protocol):
    """One client of the socket. Its requests count as this node's plugin's in the transcript."""

    def __init__(self, server: RpcServer) -> None:
        self.server = server
        self.node = server.node
        self.splitter = frames.Splitter()
        self.transport: asyncio.Transport
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.splitter.feed(data):
                self._take(frame, frames.parse(frame))
        except frames.BadFrame as error:
            self.node.note(f"RPC connection closed: {error}")
            self.transport.close()

    def _take(self, frame: bytes, request: dict[str, Any]) -> None:
        self.node.transcript.add("rpc>host", self.server.peer, request)
        method, request_id = request.get("method"), request.get("id")
        if not isinstance(method, str) or request_id is None:
            self.answer(request_id, None, RpcError(INVALID_REQUEST, "No method or id"))
            return
        params = request.get("params", {})
        fault = self.node.faults.find(method, params)
        if fault is None:
            outcome = self.node.run_method(method, params, frame, str(request_id))
            if not isinstance(outcome, asyncio.Future):
                self.answer(request_id, *outcome)
                return
            outcome.add_done_callback(lambda done: self._done(request_id, done))
            return
        self.node.spawn(self._faulty(fault, method, params, frame, request_id))

    def _done(self, request_id: Any, done: asyncio.Future[Outcome]) -> None:
        if not done.cancelled():
            self.answer(request_id, *done.result())

    async def _faulty(self, fault: Fault, method: str, params: Any, frame: bytes, request_id: Any) -> None:
        outcome: Outcome = (None, fault.error)
        generation = self.node.generation
        if fault.carry_out:
            outcome = await self.node.finish_method(method, params, frame, str(request_id))
        if fault.hang_up:
            self.transport.abort()
            return
        if fault.wait:
            # lightningd works off what it has read: at the latest when the caller is gone, unless it died itself
            waits = [asyncio.ensure_future(event.wait()) for event in (fault.released, self._lost)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        if self.node.generation != generation:
            return
        if fault.error is not None:
            outcome = (None, fault.error)
        elif not fault.carry_out:
            outcome = await self.node.finish_method(method, params, frame, str(request_id))
        for _ in range(2 if fault.repeat else 1):
            self.answer(request_id, *outcome)

    def answer(self, request_id: Any, result: Any, error: RpcError | None) -> None:
        if self.transport.is_closing():
            return
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id}
        if error is not None:
            body["error"] = error.to_json()
        else:
            body["result"] = self.node.said(result)
        self.node.transcript.add("host>rpc", self.server.peer, body)
        self.transport.write(frames.encode_answer(body))


class RpcServer:
    """The listening socket of one node.

    Not asyncio's own server: until Python 3.12 that one forgets a socket which it is accepting when it is closed.
    """

    def __init__(self, node: RpcHost) -> None:
        self.node = node
        self.peer = f"{node.name}/plugin-rpc"
        self.connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._coming: dict[asyncio.Task[Any], socket.socket] = {}

    async def start(self, path: str) -> None:
        self._listener = _listen(Path(path))
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        caller, _ = listener.accept()
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(lambda: Connection(self), caller))
        self._coming[task] = caller
        task.add_done_callback(self._came)

    def _came(self, task: asyncio.Task[Any]) -> None:
        caller = self._coming.pop(task)
        if task.cancelled():
            caller.close()

    def stop(self) -> None:
        """Hang up on all clients at once, as a dying lightningd does."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._coming:
            task.cancel()
        for connection in list(self.connections):
            connection.transport.abort()
        self.connections.clear()

    async def stopped(self) -> None:
        """Wait until those who were just coming are gone."""
        await asyncio.gather(*self._coming, return_exceptions=True)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a node that was killed
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen(100)
    return listener
