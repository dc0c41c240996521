"""An asyncio loop whose clock jumps: nothing waits, and two runs see the same times to the microsecond."""

from __future__ import annotations

import asyncio
import math
import selectors
import sqlite3
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

MakeServer = Callable[["SimulatedLoop", str, Callable[[], asyncio.BaseProtocol]], Any]


class StandsStill(Exception):
    """Nothing is planned and nothing is ready, though the run has not ended."""


class Listener(Protocol):
    """A socket that can be connected to."""

    def accept(self, make_protocol: Callable[[], asyncio.BaseProtocol]) -> asyncio.Transport:
        """Connect; the transport of the caller's side."""


class _Jump(selectors.SelectSelector):
    """Asked to wait for a while, it turns the clock by as much."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if timeout is None:
            raise StandsStill("nothing more can happen")
        if timeout > 0:
            self.now_us += max(1, math.ceil(timeout * 1_000_000))
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Time starts at 0. `listeners` are the unix sockets there are, by path."""

    def __init__(self) -> None:
        self._jump = _Jump()
        self.listeners: dict[str, Listener] = {}
        self.folder = ""  # of the files that plugins keep
        self.promised: Callable[[str, list[Any]], None] = lambda *_: None  # hears of room that is promised
        self.databases: dict[str, sqlite3.Connection] = {}  # of those that are open, by path
        self.make_server: MakeServer  # of a town
        self.connected: Callable[[asyncio.Transport], None] = (
            _unnoted  # hears of each connection, in its caller's context
        )
        super().__init__(self._jump)
        # Half a tick. What asyncio takes, 1 ns, is lost in a sum of more than 194 days: a timer due now would never be.
        self._clock_resolution = 5e-7

    @property
    def now_us(self) -> int:
        """Microseconds since the start."""
        return self._jump.now_us

    @property
    def turns(self) -> int:
        """How often the loop has gone round."""
        return self._jump.turns

    def tick(self) -> None:
        """One microsecond on, so that two stamps of one burst differ."""
        self._jump.now_us += 1

    def deliver(self, wire: object, work: Callable[..., None], *args: Any, context: Context) -> None:
        """Let something arrive, behind all that is on its wire, a turn of the loop later; a subclass may be slower."""
        self.call_soon(work, *args, context=context)

    def time(self) -> float:
        return self._jump.now_us / 1_000_000

    def _write_to_self(self) -> None:
        """There is one thread, which needs no waking."""

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], path: str | None = None, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect within this process."""
        listener = self.listeners.get(str(path))
        if listener is None:
            raise ConnectionRefusedError(111, "Connection refused")
        protocol = protocol_factory()
        transport = listener.accept(lambda: protocol)
        self.connected(transport)
        return transport, protocol

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **_: Any
    ) -> Any:
        """Listen within this process, as `make_server` does."""
        return self.make_server(self, f"{host}:{port}", protocol_factory)


def _unnoted(transport: asyncio.Transport) -> None:
    """Take no note of it."""


def simulated_loop() -> SimulatedLoop:
    """Return the loop that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop
