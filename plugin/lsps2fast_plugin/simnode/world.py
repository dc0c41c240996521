"""A world: chain, clock, one LSP node, wallets and payers around it; everything is cleaned up at the end."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from . import splices
from .chain import Chain
from .channels import Channel, End
from .client import Client
from .clock import Clock
from .lightningd import Node
from .openings import make_end
from .party import Party, Surroundings, connect
from .payer import Payer
from .process import StartProcess, start_process
from .transcript import Transcript

T = TypeVar("T")
PLAN_HEIGHT = 103
_directories: set[str] = set()


def _sweep() -> None:
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)


atexit.register(_sweep)  # for an interpreter that ends inside a world


class World(Surroundings):
    """See the package docstring. All waits are bounded by `timeout_s` of real time.

    A subclass may let plugins, sockets and time be of other kinds.
    """

    lsp: Node

    def __init__(
        self,
        seed: int = 0,
        plugin: list[str] | None = None,
        options: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        *,
        fee_base_msat: int = 1,
        fee_ppm: int = 10,
        wallet_sat: tuple[int, ...] = (1_000_000, 1_000_000, 1_000_000),
        height: int = 109,
        sphinx: bool = True,
        transcript_limit: int | None = None,
        timeout_s: float = 60.0,
        exit_grace_s: float = 5.0,
        test_clock: bool = True,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = self.make_clock()
        self.chain = Chain(height)
        self.transcript = Transcript(transcript_limit)
        self.sphinx = sphinx
        self.timeout_s = timeout_s
        self.exit_grace_s = exit_grace_s
        self.env = {"LSPS2FAST_TEST_CLOCK": "1"} if test_clock else {}
        self.env |= env or {}
        self.start_process: StartProcess = start_process  # how plugins come to life; tests may fork one instead
        self.parties: dict[str, Party] = {}
        self.nodes: list[Node] = []
        self.driver_calls = 0
        self.directory = tempfile.mkdtemp(prefix="l2f-", dir="/tmp" if os.path.isdir("/tmp") else None)
        _directories.add(self.directory)
        self._opening_books: dict[str, int] = {}
        self._upstream_count = 0
        self.lsp = self.add_node("lsp", fee_base_msat=fee_base_msat, fee_ppm=fee_ppm, wallet_sat=wallet_sat)
        self.chain.listeners.append(self._block)
        if plugin is not None:
            self.lsp.plan_plugin(plugin, options, self.env)

    def make_clock(self) -> Clock:
        """Return the clock of this world."""
        return Clock()

    async def __aenter__(self) -> World:
        try:
            asyncio.get_running_loop().set_exception_handler(self._unforeseen)
            await self.lsp.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if error is None and self.problems:
            raise self.problems[0]

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep an exception in a callback: it fails the test at the end of the world."""
        self.problems.append(context.get("exception") or RuntimeError(context["message"]))

    async def close(self) -> None:
        """End every process, socket and directory; harmless when repeated."""
        for task in list(self._tasks):
            task.cancel()
        for node in self.nodes:
            await node.dispose()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        _directories.discard(self.directory)

    # people

    def add_node(
        self, name: str, *, fee_base_msat: int = 1, fee_ppm: int = 10, wallet_sat: tuple[int, ...] = ()
    ) -> Node:
        """Return a full node, not started; give it plugins with `plan_plugin()` and then `await node.start()`."""
        node = Node(self, name, Path(self.directory) / name, fee_base_msat=fee_base_msat, fee_ppm=fee_ppm)
        for amount_sat in wallet_sat:
            self.chain.grant(amount_sat, node.wallet.new_script())
        self.nodes.append(node)
        self._welcome(node)
        self._opening_books[name] = node.books_msat()
        return node

    async def start_node(
        self,
        name: str,
        plugin: list[str] | None = None,
        options: dict[str, Any] | None = None,
        *,
        wallet_sat: tuple[int, ...] = (),
    ) -> Node:
        """Another full node with a plugin of its own, for example a wallet; started and connected to the LSP."""
        node = self.add_node(name, wallet_sat=wallet_sat)
        if plugin is not None:
            node.plan_plugin(plugin, options, self.env)
        await node.start()
        connect(node, self.lsp)
        return node

    def client(
        self, name: str = "client", *, connected: bool = True, address_known: bool = False, **behaviour: Any
    ) -> Client:
        """Return a light wallet, connected to the LSP; keywords are fields of `Behaviour`."""
        client = Client(self, name, **behaviour)
        self._welcome(client)
        if address_known:
            self.address_book[client.node_id] = client
        if connected:
            connect(client, self.lsp)
        return client

    def payer(self, name: str = "payer", channels: int = 1, capacity_sat: int = 1_000_000) -> Payer:
        """Return a payer with confirmed channels to the LSP, all money on its side."""
        payer = Payer(self, name)
        self._welcome(payer)
        connect(payer, self.lsp)
        for _ in range(channels):
            self.add_channel(payer, self.lsp, capacity_sat)
        return payer

    def _welcome(self, party: Party) -> None:
        """Take in a new party; its name, and so its key, is its own."""
        if party.name in self.parties:
            raise ValueError(f"there is a {party.name!r} in this world already")
        self.parties[party.name] = party

    def add_channel(
        self, opener: Party, other: Party, capacity_sat: int = 1_000_000, *, push_msat: int = 0, private: bool = False
    ) -> End:
        """Return a channel that has long been there: confirmed, normal. The opener's end is returned."""
        self._upstream_count += 1
        spot = (PLAN_HEIGHT, self._upstream_count)
        txid, vout = self.chain.grant(capacity_sat, b"\0\x20" + self._upstream_count.to_bytes(32, "big"), at=spot)
        channel = Channel(capacity_sat, (12, 22), (txid, vout), private)
        ours = make_end(channel, opener, capacity_sat * 1000 - push_msat)
        theirs = make_end(channel, other, push_msat)
        channel.join(ours, theirs)
        for end in (ours, theirs):
            # money from outside the world is no gain
            self._opening_books[end.owner.name] = self._opening_books.get(end.owner.name, 0) + end.to_us_msat
            end.reserve_sat = max(capacity_sat // 100, 546)
            end.htlc_maximum_msat = (capacity_sat - end.reserve_sat) * 1000
            end.ready_sent = True
            end.state = "CHANNELD_NORMAL"
            end.scid = f"{spot[0]}x{spot[1]}x{vout}"
            end.owner.ends.append(end)
            if isinstance(end.owner, Node):
                end.owner.end_defaults(end)
        channel.set_reestablished(other.node_id in opener.links)
        self.channels.append(channel)
        return ours

    # time

    def mine(self, blocks: int = 1) -> None:
        """Mine blocks; the first takes the mempool."""
        self.chain.mine(blocks)

    def reorg(self, blocks: int, *, without: tuple[str, ...] = ()) -> None:
        """Replace the last blocks by one more, mined anew; transactions `without` are not in them nor anywhere."""
        gone = self.chain.unwind(blocks)
        for txid in without:
            if txid in self.chain.mempool:
                self.chain.forget(txid)
        for channel in self.channels:
            channel.moved |= channel.funding_txid in gone
        self.chain.mine(blocks + 1)

    def splice(self, end: End, add_sat: int = 0) -> None:
        """Splice by the owner of `end`: another scid, and more room, once it is deep enough (cln:N3)."""
        splices.begin(end, add_sat)

    def _block(self, height: int, block_hash: str) -> None:
        for channel in self.channels:
            if channel.splice is not None:
                splices.see_block(channel, height)
        for party in list(self.parties.values()):
            party.block_mined(height, block_hash)

    async def advance(self, seconds: float) -> None:
        """Turn the clock of the world, and that of every plugin that has `lsps2-dev-advance`."""
        self.clock.advance(seconds)
        for node in self.nodes:
            for plugin in node.plugins:
                if "lsps2-dev-advance" in plugin.manifest.methods and node.state == "running":
                    await node.call("lsps2-dev-advance", {"seconds": seconds})

    def state(self) -> str:
        """One line per node: for error messages."""
        lines = []
        for node in self.nodes:
            plugins = ", ".join(f"{plugin.name} {'ready' if plugin.ready else 'starting'}" for plugin in node.plugins)
            lines.append(f"  {node.name}: {node.state} {node.crash_log} plugins: {plugins or 'none'}")
            for plugin in node.plugins:
                lines += [f"    stderr: {line}" for line in list(plugin.stderr)[-8:]]
        return "\n".join([*lines, *(f"  problem: {problem!r}" for problem in self.problems)])

    # books

    def orphaned_sat(self) -> dict[str, int]:
        """Return fundings on chain whose opener had forgotten the channel before: lost money (rule:23, cln:N2)."""
        return {
            channel.funding_txid: channel.capacity_sat
            for channel in self.channels
            if channel.withheld and channel.opener.forgotten and self.chain.knows(channel.funding_txid)
        }

    def open_books(self) -> None:
        """From now on `books()` counts changes from here."""
        self._opening_books = {name: party.books_msat() for name, party in self.parties.items()}

    def books(self) -> dict[str, int]:
        """Return what every party gained (msat) since it came or since `open_books()`;
        the sum is minus what miners got.
        """
        return {name: self.gained_msat(party) for name, party in self.parties.items()}

    def gained_msat(self, party: Party) -> int:
        """Return what one party gained, as in `books()`."""
        return party.books_msat() - self._opening_books.get(party.name, 0)

    def check_books(self, changes: dict[str, int] | None = None) -> None:
        """Check that coins are conserved: what all own, and fees to miners, is what was issued; no funding is lost.

        `changes` as `books()` returns them, where that was asked just now.
        """
        orphans = self.orphaned_sat()
        if orphans:
            raise AssertionError(f"{sum(orphans.values())} sat went into fundings that no channel owns: {orphans}")
        changes = self.books() if changes is None else changes
        owned_msat = sum(changes.values()) + sum(self._opening_books.get(name, 0) for name in changes)
        issued_msat = (self.chain.issued_sat - self.chain.fees_sat) * 1000
        if owned_msat != issued_msat:
            raise AssertionError(f"books do not balance: {owned_msat} owned, {issued_msat} issued: {changes}")
