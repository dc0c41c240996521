"""A plugin that lives inside our process: real service or client, its pipes in memory, a death of its own.

Each life has a context (`contextvars`) in which all its code runs: by it the log finds its host, and a kill its tasks.
A killed life is mute at once: what its `finally` clauses still do has no effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from weakref import WeakSet

from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.inbox import Inbox
from lsps2fast_plugin.cln.reader import FrameSorter, Output
from lsps2fast_plugin.service.app import Service
from lsps2fast_plugin.simnode.process import Plugin

from .loop import SimulatedLoop, simulated_loop
from .wire import Pipe, Tape

Program = Callable[..., Any]  # makes a Service or a Client
PROGRAMS: dict[str, Program] = {"lsps2fast-service": Service, "lsps2fast-client": Client}
DEAD = "of a plugin that was killed"  # the name of such a task
LIVING: ContextVar[Life | None] = ContextVar("LIVING", default=None)


class PluginClock(Clock):
    """The clock of one plugin: the town's, and `skew_ms` of its own."""

    def __init__(self, loop: SimulatedLoop, start_ms: int) -> None:
        super().__init__()
        self._loop = loop
        self._start_ms = start_ms
        self.skew_ms = 0  # of the wall clock; the monotonic one never jumps

    def now_ms(self) -> int:
        return self._loop.now_us // 1000

    def wall_ms(self) -> int:
        return self._start_ms + self._loop.now_us // 1000 + self.skew_ms


class _Stdout:
    """What the host writes to."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._mute = False

    def write(self, whole_frames: bytes) -> None:
        if not self._mute:
            self._life.said(whole_frames)

    def move(self, fd: int) -> None:
        """There is no descriptor."""

    def mute(self) -> None:
        self._mute = True


class _Stdin:
    """The lane without a thread: it sorts what comes in at once."""

    wake_fd = -1

    def __init__(self, life: Life, interest: HtlcFilter, out: Output, wake: Callable[[], None]) -> None:
        self._life = life
        self._inbox = Inbox(wake)
        self._sorter = FrameSorter(interest, out, self._inbox)
        self.take = self._inbox.take
        self.take_shed = self._inbox.take_shed

    def start(self) -> None:
        self._life.stdin = self

    def feed(self, data: bytes) -> None:
        """Bytes of lightningd; none: the end of the stream."""
        if data:
            self._sorter.feed(data)
        else:
            self._inbox.end(None)

    def stop(self) -> None:
        self._life.stdin = None

    def join(self, timeout_s: float) -> bool:
        return True

    @property
    def shed_count(self) -> int:
        return self._inbox.shed_count

    @property
    def latencies(self) -> tuple[list[int], float]:
        return self._sorter.latencies


class LifeHost(Host):
    """A host that owns no process: no descriptors, no signals, the log only of its own life."""

    has_threads = False

    def _claim_standard_streams(self) -> None:
        """There are none."""

    @contextlib.contextmanager
    def _sigterm(self) -> Iterator[None]:
        yield

    def _log_handler(self) -> logging.Handler:
        life = LIVING.get()
        handler = super()._log_handler()
        handler.addFilter(lambda record: LIVING.get() is life)
        return handler

    def terminate(self) -> None:
        """SIGTERM."""
        self._stop("SIGTERM", 0)


class Life:
    """One start of a plugin, from its first line to its end; also the `Child` of its `InnerPlugin`."""

    pid = 0

    def __init__(
        self, program: Program, clock: PluginClock, dice: random.Random, hear: Callable[[bytes], None]
    ) -> None:
        """`hear(frames)` takes what the plugin writes; b"" at its end."""
        self._loop = simulated_loop()
        self.stderr = asyncio.StreamReader()
        self.stdin: _Stdin | None = None
        self.clock = clock
        self._before: list[bytes] = []  # what came before it read
        self._hear = hear
        self._mute = False
        self.pipes: WeakSet[Pipe] = WeakSet()  # its ends of connections
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._begun = 0
        self._end: asyncio.Future[int] = self._loop.create_future()
        self._context = copy_context()
        self._context.run(LIVING.set, self)
        self._main = self._context.run(self._begin, program, dice)

    def _begin(self, program: Program, dice: random.Random) -> asyncio.Task[int]:
        self.app = program(clock=self.clock, dice=dice, make_host=self._make_host)
        task = asyncio.get_running_loop().create_task(self.app.host.run())
        task.add_done_callback(self._ended)
        return task

    def _make_host(self, plugin: Any, interest: HtlcFilter, on_htlc: Callable[[Any], None]) -> Host:
        return LifeHost(
            plugin,
            interest,
            on_htlc,
            fd_in=-1,
            fd_out=-1,
            now=asyncio.get_running_loop().time,
            lane=self._make_lane,
            output=lambda *_: _Stdout(self),
        )

    def _make_lane(self, fd: int, interest: HtlcFilter, out: Output, wake: Callable[[], None]) -> _Stdin:
        lane = _Stdin(self, interest, out, wake)
        asyncio.get_running_loop().call_soon(self._catch_up)
        return lane

    def _catch_up(self) -> None:
        before, self._before = self._before, []
        for data in before:
            self._read(data)

    def add(self, task: asyncio.Task[Any]) -> None:
        """Name a task of this life that has begun by its number, which a run repeats."""
        self._begun += 1
        task.set_name(DEAD if self._mute else f"{self._begun:012d}")
        self._tasks.add(task)

    # from lightningd

    def feed(self, data: bytes) -> None:
        """Bytes on stdin; none: its end."""
        self._loop.deliver(self, self._read, data, context=self._context)

    def _read(self, data: bytes) -> None:
        if self._mute:
            return
        if self.stdin is None:
            self._before.append(data)
        else:
            self.stdin.feed(data)

    # to lightningd

    def said(self, frames: bytes) -> None:
        """Frames on stdout."""
        if not self._mute:
            self._hear(frames)

    def _ended(self, task: asyncio.Task[int]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.stderr.feed_data(f"{type(error).__name__}: {error}\n".encode())
        self._bury()
        self._finish(-signal.SIGKILL if task.cancelled() else 1 if error is not None else task.result())

    def _finish(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)
            self.stderr.feed_eof()
            self._hear(b"")

    # Child

    async def wait(self) -> int:
        """Return the exit code once it has ended."""
        return await asyncio.shield(self._end)

    def send_signal(self, sign: int) -> None:
        """SIGKILL ends it on the spot, SIGTERM politely."""
        if self._end.done():
            return
        if sign == signal.SIGTERM:
            self._context.run(self.app.host.terminate)
            return
        self._bury()
        self._finish(-sign)

    def _bury(self) -> None:
        """Nothing of it goes on, as after the end of a process."""
        self._mute = True
        for pipe in self.pipes:
            pipe.let_go()
        for task in sorted(self._tasks, key=lambda each: each.get_name()):
            if not task.done():
                task.cancel()
                task.set_name(DEAD)
                task.add_done_callback(_retrieve)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Pass on an exception, unless the process is dead."""
    if not task.cancelled():
        task.exception()


def connected(transport: asyncio.Transport) -> None:
    """Note whose end of a connection this is."""
    life = LIVING.get()
    if life is not None and isinstance(transport, Pipe):
        life.pipes.add(transport)


def task_factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
    """Make tasks that know whose they are."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    life = LIVING.get()
    if life is not None:
        life.add(task)
    return task


class _Writer(asyncio.WriteTransport):
    """lightningd's end of the plugin's stdin."""

    def __init__(self, life: Life, said: Callable[[bytes], None]) -> None:
        super().__init__()
        self._life = life
        self._said = said
        self._closed = False

    def write(self, data: Any) -> None:
        self._said(bytes(data))
        self._life.feed(bytes(data))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._life.feed(b"")

    def is_closing(self) -> bool:
        return self._closed


class _Reader(asyncio.ReadTransport):
    """lightningd's end of the plugin's stdout."""

    def __init__(self, owner: InnerPlugin) -> None:
        super().__init__()
        self._owner = owner
        self._closed = self._paused = False
        self._kept: list[bytes] = []

    def arrive(self, data: bytes) -> None:
        """Frames, or b"" at the end."""
        if self._closed:
            return
        if self._paused:
            self._kept.append(data)
        elif data:
            self._owner.data_received(data)
        else:
            self._closed = True
            self._owner.connection_lost(None)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        kept, self._kept = self._kept, []
        for data in kept:
            self.arrive(data)

    def close(self) -> None:
        self._closed = True

    def is_closing(self) -> bool:
        return self._closed


class InnerPlugin(Plugin):
    """The embedded node's plugin, whose process is a `Life`."""

    async def launch(self) -> None:
        host: Any = self.node
        town = host.world  # a Town
        tape: Tape = town.tape
        reader = _Reader(self)
        name = self.node.name

        def hear(frames: bytes) -> None:
            tape.add(f"({name}", frames)
            town.loop.deliver(reader, reader.arrive, frames, context=town.context)

        program = town.program_of(self)
        self._process = life = Life(program, town.plugin_clock(), town.chance.stream(f"plugin of {name}"), hear)
        self._watch = asyncio.gather(self._read_stderr(), self._wait_for_exit())
        self.node.processes.append(self)
        self._writer = _Writer(life, lambda data: tape.add(f"){name}", data))
        self.alive = True
        self.node.transcript.mark(self.peer, "plugin process start", plugin=self.name)
        self.connection_made(reader)

    @property
    def life(self) -> Life:
        """The process."""
        assert isinstance(self._process, Life)
        return self._process


def program_named(argv: list[str]) -> Program:
    """Return what an argument list starts."""
    return PROGRAMS[Path(argv[-1]).name]
