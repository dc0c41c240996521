"""What all in a run share: the town, its story and books, who is there, and how things stand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from lsps2fast_plugin.simnode import Payer, RpcError
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.errors import NodeProblem, PluginFailed
from lsps2fast_plugin.simnode.party import Party, connect
from lsps2fast_plugin.simnode.process import Plugin
from lsps2fast_plugin.simnode.psbt import Outpoint
from lsps2fast_plugin.simnode.splices import FEE_SAT as SPLICE_FEE_SAT

from .books import Books
from .purse import Purse
from .story import Story, Violation
from .town import Town


class Common:
    """The state of a run that belongs to the run as a whole."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.story = Story(town.loop.time)
        self.books = Books(town, self.story)
        self.purse = Purse(town)
        self.payers: list[Payer] = []
        self.spent_msat: Counter[str] = Counter()  # by a payer, on something else than receipts
        self.present: set[Party] = set()  # wallets whose owners are in town
        self.harm = 0  # bad weather that goes on now
        self.disturbed_s = float("-inf")  # when the last weather came or ended, or a strategist did or said something
        self.deeds: Counter[str] = Counter()  # what strategists came for and really did, by strategy
        self.storms: Counter[str] = Counter()  # what the weather really did, by kind
        self.lives = 1  # starts of the LSP's plugin
        self.died_s = 0.0  # when its node was last started
        self.sells_ahead = False  # channels may be ordered
        self.others: dict[Outpoint, int] = {}  # coins that other tools set aside, and the height where that ends
        self._restarting = asyncio.Lock()
        self.operator = asyncio.Lock()  # one change of the node's options at a time
        self.skew_ms = 0  # of the wall clock of the LSP's machine
        self.over = False
        self.failed: asyncio.Future[Violation] = town.loop.create_future()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._part_came = asyncio.Event()

    def fail(self, violation: Violation) -> None:
        """End the run."""
        if not self.failed.done():
            self.failed.set_result(violation)

    def disturb(self) -> None:
        """Note that it is not quiet."""
        self.disturbed_s = self.town.loop.time()

    async def height(self, height: int) -> None:
        """Return at this height or a higher one."""
        if self.town.chain.height < height:
            reached: asyncio.Future[None] = self.town.loop.create_future()
            self._waiting.append((height, reached))
            await reached

    def mined(self) -> None:
        """There is a block: those who waited for it go on."""
        now = self.town.chain.height
        for height, reached in self._waiting:
            if height <= now and not reached.done():
                reached.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]

    async def part_held(self) -> None:
        """Return while a part waits for our answer."""
        if not self.town.lsp.htlcs.held:
            self._part_came.clear()
            await self._part_came.wait()

    def part_came(self) -> None:
        """Note that the hook is asked about a part."""
        self._part_came.set()

    def splice(self, end: End, add_sat: int) -> bool:
        """Make a channel larger with coins of the owner of this end; whether it could be begun."""
        try:
            self.town.splice(end, add_sat)
        except RpcError:
            return False
        self.spent_msat[end.owner.name] += SPLICE_FEE_SAT * 1000
        return True

    async def restart(self, how: str, while_down: Callable[[], Awaitable[None]] | None = None) -> bool:
        """End the LSP's plugin or its node in one of the ways there are, and start it again; one at a time.

        Return whether there was something to end.
        """
        async with self._restarting:
            return await self._restart(how, while_down)

    async def _restart(self, how: str, while_down: Callable[[], Awaitable[None]] | None) -> bool:
        lsp = self.town.lsp
        if lsp.state != "running" or not lsp.plugins:
            return False
        argv, options, env = lsp.plugin_plans[0]
        is_node = how not in ("plugin killed", "plugin stopped")
        try:
            await {
                "plugin killed": lsp.kill_plugin,
                "plugin stopped": lsp.stop_plugin,
                "power cut": self._cut,
                "node stopped": lsp.stop,
            }[how]()
            if while_down is not None:
                await while_down()
            await (lsp.start() if is_node else lsp.start_plugin(argv, options, env))
        except (PluginFailed, RpcError, NodeProblem) as error:
            self.story.tell("weather", f"{how}: {error}")
        self.lives += 1
        self.town.apps.plugin_started()
        if is_node:
            self.died_s = self.town.loop.time()
        for party in list(self.town.parties.values()):
            if party is not lsp and party.online and (party.ends or party in self.present):
                connect(party, lsp)
        return True

    async def _cut(self) -> None:
        self.town.lsp.sigkill()

    def died_since(self, since_s: float) -> bool:
        """Return whether the LSP's node was started anew since then."""
        return self.died_s >= since_s

    def set_skew(self, skew_ms: int) -> None:
        """Set the wall clock of the LSP's machine so much off from now on, for this plugin and later ones."""
        self.skew_ms = skew_ms
        for plugin in self.town.lsp.plugins:
            self.apply_skew(plugin)

    def apply_skew(self, plugin: Plugin) -> None:
        """Set a plugin's clock."""
        inner: Any = plugin
        inner.life.clock.skew_ms = self.skew_ms
