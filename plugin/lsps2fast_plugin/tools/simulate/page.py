"""The service's page for Prometheus: listened to in memory, and read as a scraper reads it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from contextvars import copy_context

from .loop import SimulatedLoop, simulated_loop
from .wire import Pipe

PLACE = "127.0.0.1:9750"
ASK = b"GET /metrics HTTP/1.1\r\n\r\n"


def can_be_served() -> bool:
    """Return whether the extra `metrics` is installed; without it a town has no such page."""
    return importlib.util.find_spec("prometheus_client") is not None


class PageServer:
    """What a plugin listens with. Each caller gets a connection, whose work is the plugin's.

    What goes over it is not on the tape: the page tells how long calls really took.
    """

    def __init__(self, loop: SimulatedLoop, place: str, make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = loop
        self._place = place
        self._make_protocol = make_protocol
        self._context = copy_context()
        loop.listeners[place] = self

    def accept(self, make_protocol: Callable[[], asyncio.BaseProtocol]) -> asyncio.Transport:
        """Connect a caller."""
        context = self._context.copy()
        ours = Pipe(self._make_protocol(), context, _unheard)
        theirs = Pipe(make_protocol(), copy_context(), _unheard)
        theirs.other, ours.other = ours, theirs
        context.run(ours.protocol.connection_made, ours)
        theirs.protocol.connection_made(theirs)
        return theirs

    def close(self) -> None:
        """Listen no longer."""
        if self._loop.listeners.get(self._place) is self:
            del self._loop.listeners[self._place]


def _unheard(data: bytes) -> None:
    """Keep nothing of what is said."""


async def read_page() -> dict[str, float]:
    """Return the figures of the page that have no labels. Raises OSError when there is no page."""
    loop = simulated_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    if (listener := loop.listeners.get(PLACE)) is None:
        raise ConnectionRefusedError(111, "Connection refused")
    pipe = listener.accept(lambda: protocol)
    assert isinstance(pipe, Pipe)
    pipe.write(ASK)
    answer = (await reader.read()).decode()
    pipe.close()
    lines = [line.split() for line in answer.partition("\r\n\r\n")[2].splitlines() if not line.startswith("#")]
    return {words[0]: float(words[1]) for words in lines if "{" not in words[0]}
