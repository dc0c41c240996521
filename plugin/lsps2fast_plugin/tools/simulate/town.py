"""The world of a run: an embedded world on simulated time, whose plugins live in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

from lsps2fast_plugin.client import app as wallet
from lsps2fast_plugin.client import release_ground
from lsps2fast_plugin.service import app as service
from lsps2fast_plugin.service import wiring
from lsps2fast_plugin.service.options import LEDGER_FILE
from lsps2fast_plugin.service.policy import watch
from lsps2fast_plugin.service.policy.limits import Refusals
from lsps2fast_plugin.service.policy.watch import PolicyFile
from lsps2fast_plugin.service.sales_ledger.ledger import path_of
from lsps2fast_plugin.service.sales_ledger.writer import LedgerWriter, LoopWriter
from lsps2fast_plugin.simnode import World
from lsps2fast_plugin.simnode.clock import START_US, Clock, Timer
from lsps2fast_plugin.simnode.lightningd import Node
from lsps2fast_plugin.simnode.party import Party
from lsps2fast_plugin.simnode.process import Plugin

from .chance import Chance
from .life import DEAD, InnerPlugin, PluginClock, Program, connected, program_named, task_factory
from .loop import SimulatedLoop, simulated_loop
from .page import PageServer
from .watched_room import WatchedRoom
from .webhooks import TownPost
from .wire import MemoryServer, Tape

T = TypeVar("T")
KEPT = 400  # entries of the transcript
PATIENCE_S = 3_600.0  # simulated, before a wait of the world itself counts as lost
LOOKS_S = 600.0  # between looks at limits and fundings that come by the clock: they would be half of a run's work


class TownClock(Clock):
    """The world's clock, turned by the loop."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._order = 0

    @property
    def now_us(self) -> int:  # type: ignore[override]
        return START_US + self._loop.now_us

    def iso(self) -> str:
        now_us = self.now_us
        moment = datetime.fromtimestamp(now_us // 1_000_000, UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{now_us // 1000 % 1000:03d}Z"

    def tick(self) -> float:
        self._loop.tick()
        return self.time()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        self._order += 1
        timer = Timer(self.now_us + round(delay_s * 1_000_000), self._order, action)
        self._loop.call_later(max(0.0, delay_s), _fire, timer)
        return timer

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        raise RuntimeError("time passes by itself here")


def _fire(timer: Timer) -> None:
    action, timer.action = timer.action, None
    if action is not None:
        action()


class Town(World):
    """`async with Town(...)` on a `SimulatedLoop`."""

    plugin_kind = InnerPlugin
    server_kind = MemoryServer

    def __init__(self, seed: int, **world: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self.loop = loop
        loop.set_task_factory(task_factory)  # type: ignore[arg-type]  # typeshed wants one that is generic
        loop.make_server, loop.connected = PageServer, connected
        self.tape = Tape()
        self.chance = Chance(seed)
        self.context = copy_context()
        self.over = False
        self.programs: dict[str, Program] = {}  # in place of the real one, by name of the node
        self.apps = TownPost(loop.time)
        super().__init__(
            seed, sphinx=False, transcript_limit=KEPT, timeout_s=PATIENCE_S, exit_grace_s=PATIENCE_S, **world
        )
        loop.folder, self.tape.folder = self.directory, self.directory.encode()
        self.lsp.signs_what_is_meant = True
        self.apps.lsp_id = self.lsp.node_id

    @property
    def ledger_path(self) -> str:
        """Where the LSP's plugin keeps its sales ledger: a real file, in a folder whose name no frame knows."""
        return f"{self.directory}/{LEDGER_FILE}"

    def make_clock(self) -> Clock:
        return TownClock(self.loop)

    def add_node(
        self, name: str, *, fee_base_msat: int = 1, fee_ppm: int = 10, wallet_sat: tuple[int, ...] = ()
    ) -> Node:
        node = super().add_node(name, fee_base_msat=fee_base_msat, fee_ppm=fee_ppm, wallet_sat=wallet_sat)
        node.lightning_dir = f"/town/{name}"  # the real one has a name of chance
        node.rpc_path = f"/town/{name}/lightning-rpc"
        return node

    def program_of(self, plugin: Plugin) -> Program:
        """Return what this plugin runs; where a service's webhooks lead is in town, too."""
        program = self.programs.get(plugin.node.name) or program_named(plugin.argv)
        return partial(program, post=self.apps) if program is service.Service else program

    def plugin_clock(self) -> PluginClock:
        """Return a clock for one plugin."""
        return PluginClock(self.loop, START_US // 1000)

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Ignore what a killed process leaves unfinished, and what the end of the run cut off."""
        task = context.get("task") or context.get("future")
        if self.over:
            return
        if not isinstance(task, asyncio.Task) or task.get_name() != DEAD:
            super()._unforeseen(loop, context)

    async def close(self) -> None:
        self.over = True
        while pending := [task for task in self._tasks if not task.done()]:
            for task in pending:  # once more: a cancellation that comes with the answer to a call is lost in `wait_for`
                task.cancel()
            await asyncio.wait(pending, timeout=1)
        await super().close()
        for database in self.loop.databases.values():
            database.close()

    def emigrate(self, party: Party) -> None:
        """Let a party without channels leave for good, with its coins."""
        for point, output in party.wallet.outputs().items():
            del self.chain.unspent[point]
            self.chain.issued_sat -= output.amount_sat
        party.wallet.dispose()
        self._opening_books.pop(party.name, None)
        del self.parties[party.name]

    @property
    def day(self) -> float:
        """Days since the start."""
        return self.loop.time() / 86_400


def _opened(writer: LoopWriter) -> sqlite3.Connection:
    """Open a ledger once in a run for all who write it: no power fails here, and a kill never falls into a write."""
    databases = simulated_loop().databases
    if writer.path not in databases:
        databases[writer.path] = LedgerWriter._open(writer)
        databases[writer.path].execute("PRAGMA synchronous = OFF")
    return databases[writer.path]


def _kept_open(writer: LoopWriter) -> None:
    writer._db = None


def _policy_file(name: str, refusals: Refusals) -> PolicyFile:
    """Return the one of this name in the town's folder, which no frame names; an absolute name stays."""
    return PolicyFile(os.path.join(simulated_loop().folder, name), refusals)


@contextlib.contextmanager
def as_plugins() -> Iterator[None]:
    """Let plugins run in this process: they look at the environment for who started them."""
    with (
        patch.object(LoopWriter, "_open", _opened),
        patch.object(LoopWriter, "_close", _kept_open),
        patch.dict(os.environ, LIGHTNINGD_PLUGIN="1"),
        patch.object(service, "LOOK_EVERY_S", LOOKS_S),
        patch.object(wiring, "PromisedRoom", WatchedRoom),
        patch.object(watch, "PolicyFile", _policy_file),
        patch.object(wiring, "path_of", lambda option, _: path_of(option, simulated_loop().folder)),
        patch.object(wallet, "POLL_S", LOOKS_S),
        patch.object(release_ground, "POLL_S", LOOKS_S),
    ):
        yield


def play(work: Callable[[], Coroutine[Any, Any, T]], make_loop: Callable[[], SimulatedLoop] = SimulatedLoop) -> T:
    """Run `work()` on a simulated loop; what it returns."""
    with as_plugins(), asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(work())
