"""Pipes and sockets in memory. What goes over them is real frames; `Tape` keeps the digest of them all."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from lsps2fast_plugin.simnode.rpcserver import Connection, RpcServer

from .loop import simulated_loop

if TYPE_CHECKING:
    from lsps2fast_plugin.simnode.lightningd import Node

_BATCH = 1 << 16  # bytes, before they are hashed
_LARGE = 1 << 12  # of one write, which is not copied


class Tape:
    """Every byte said on any wire, in order, as a digest; and how many frames there were.

    `folder`, once it is known, is the town's, which has another name in each run: all count as one.
    """

    def __init__(self) -> None:
        self.folder = b""
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self.frames = 0
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []  # by how many frames

    async def reach(self, frames: int) -> None:
        """Wait until so many frames were said."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((frames, reached))
        await reached

    def add(self, name: str, data: bytes) -> None:
        """`name` says who spoke."""
        self.frames += 1
        if self._awaited:
            for frames, reached in self._awaited:
                if frames <= self.frames and not reached.done():
                    reached.set_result(None)
            self._awaited = [each for each in self._awaited if not each[1].done()]
        self._waiting += name.encode()
        if self.folder and self.folder in data:
            data = data.replace(self.folder, b"/town")
        if len(data) > _LARGE:
            self._flush()
            self._hash.update(data)
            return
        self._waiting += data
        if len(self._waiting) > _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(self._waiting)
        self._waiting.clear()

    def digest(self) -> str:
        """Return the digest so far."""
        self._flush()
        return self._hash.hexdigest()


class Pipe(asyncio.Transport):
    """One side of a connection. What is written arrives on the other side a turn of the loop later."""

    def __init__(self, protocol: asyncio.BaseProtocol, context: Context, said: Callable[[bytes], None]) -> None:
        super().__init__()
        self.protocol: Any = protocol
        self.other: Pipe
        self._context = context  # of the process whose side this is
        self._said = said
        self._closed = self._lost = self._paused = False
        self._kept: deque[bytes] = deque()

    def write(self, data: Any) -> None:
        """Send; to a side that is gone nothing arrives."""
        if not self._closed:
            self._said(bytes(data))
            self.other.post(self.other.arrive, bytes(data))

    def post(self, work: Callable[..., None], *args: Any) -> None:
        """Run it as the process of this side."""
        simulated_loop().deliver(self, work, *args, context=self._context)

    def arrive(self, data: bytes) -> None:
        """Bytes of the other side."""
        if self._paused:
            self._kept.append(data)
        elif not self._lost:
            self.protocol.data_received(data)

    def close(self) -> None:
        """Hang up; both sides learn of it."""
        if not self._closed:
            self._closed = True
            for side in (self, self.other):
                side.post(side.hang_up)

    abort = close

    def hang_up(self) -> None:
        """End the connection."""
        self._closed = True
        if not self._lost:
            self._lost = True
            self.protocol.connection_lost(None)

    def let_go(self) -> None:
        """Be closed without a word: the process of this side is dead."""
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._kept and not self._paused:
            self.arrive(self._kept.popleft())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0


class MemoryServer(RpcServer):
    """The `lightning-rpc` of one node, without a socket."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._path = ""

    async def start(self, path: str) -> None:
        self._path = path
        simulated_loop().listeners[path] = self

    def accept(self, make_protocol: Callable[[], asyncio.BaseProtocol]) -> asyncio.Transport:
        """Connect a caller, whose process is the one that runs now."""
        tape: Tape = self.node.world.tape  # type: ignore[attr-defined]  # of a Town
        theirs = Pipe(make_protocol(), copy_context(), lambda data: tape.add(f">{self.node.name}", data))
        ours = Pipe(Connection(self), self.node.world.context, lambda data: tape.add(f"<{self.node.name}", data))  # type: ignore[attr-defined]
        theirs.other, ours.other = ours, theirs
        ours.protocol.connection_made(ours)
        theirs.protocol.connection_made(theirs)
        return theirs

    def stop(self) -> None:
        simulated_loop().listeners.pop(self._path, None)
        for connection in list(self.connections):
            connection.transport.abort()
        self.connections.clear()

    async def stopped(self) -> None:
        """Return at once: no connection is ever half made."""
