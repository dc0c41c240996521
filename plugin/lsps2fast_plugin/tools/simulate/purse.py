"""The real wallet plugin in town, and what it owns for certain: the books that rule:27 is held to."""

from __future__ import annotations

import asyncio
from typing import Any

from lsps2fast_plugin.simnode import Client, Node, onchain
from lsps2fast_plugin.simnode.channels import End, Htlc
from lsps2fast_plugin.simnode.onchain import DUST_SAT
from lsps2fast_plugin.simnode.party import connect

from .evil_lsp import EvilLsp
from .story import Violation
from .town import Town

REAL_SAT = 2_000_000  # of the wallet's own channel to Bob


class Purse:
    """One node with the client plugin. `bob` is behind a channel of its own, which others may want to drain."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.node: Node
        self.bob: Client
        self.real: End
        self.came_msat = 0  # for preimages that the wallet gave away
        self._begun: asyncio.Task[None] | None = None
        self._start_msat = 0
        self._restarting = asyncio.Lock()
        self._closed: dict[End, int] = {}
        self._rounded_msat = 0  # of channels that are gone

    async def ready(self) -> None:
        """Start the node at the first call."""
        if self._begun is None:
            self._begun = self.town.background(self._begin())
        await asyncio.shield(self._begun)

    async def _begin(self) -> None:
        town = self.town
        self.node = town.add_node("wallet")
        self.node.plan_plugin(["lsps2fast-client"], {}, town.env)
        await self.node.start()
        self.bob = town.client("bob", connected=False)
        connect(self.bob, self.node)
        self.real = town.add_channel(self.node, self.bob, REAL_SAT)
        self._start_msat = self.sound_msat()

    def came(self, lsp: EvilLsp, htlc: Htlc) -> None:
        """Count a part over a channel of this LSP for which the wallet gave its preimage."""
        self.came_msat += htlc.amount_msat
        agreed = lsp.agreed.get(htlc.payment_hash)
        claimed_msat = lsp.claimed.get(htlc.payment_hash, 0)
        if claimed_msat > (agreed[0] if agreed else 0):
            raise Violation("rule:27", f"the wallet let {lsp.name} take {claimed_msat} msat; agreed: {agreed}")

    def sound_msat(self) -> int:
        """Return what the wallet owns on chain and in channels that have a funding."""
        node = self.node
        total = node.wallet.balance_sat() * 1000
        for end in node.ends:
            channel = end.channel
            if channel.settled_on_chain and channel.on_chain is not None:
                total += onchain.worth_msat(channel.on_chain, end)
            elif self.town.chain.knows(channel.funding_txid):
                total += end.to_us_msat
        return total

    def check(self) -> None:
        """rule:27: what it has is what it had, and all that came for its preimages, less what it sent on to Bob."""
        if self._start_msat == 0:
            return
        have_msat = self.sound_msat() + self.bob.received_msat() + self._rounded_off_msat()
        must_msat = self._start_msat + self.came_msat
        if have_msat < must_msat:
            raise Violation("rule:27", f"the wallet lacks {must_msat - have_msat} msat for preimages that it gave away")

    def tidy(self) -> None:
        """Forget channels that are gone; what rounding took of them stays known."""
        if self._begun is not None and self._begun.done():
            for end in [each for each in self._closed if each not in self.node.ends]:
                self._rounded_msat += self._closed.pop(end)

    def _rounded_off_msat(self) -> int:
        """Return what its outputs of closing transactions lack, because chains know neither msat nor dust."""
        for end in self.node.ends:
            if end.channel.on_chain is not None and end not in self._closed:
                share_msat = end.to_us_msat - end.pending_msat
                self._closed[end] = share_msat if share_msat < DUST_SAT * 1000 else share_msat % 1000
        return self._rounded_msat + sum(self._closed.values())

    async def restart(self) -> None:
        """Kill the plugin and start it again."""
        async with self._restarting:
            if self.node.plugins:
                await self.node.kill_plugin()
                argv, options, env = self.node.plugin_plans[0]
                await self.node.start_plugin(argv, options, env)

    async def status(self) -> dict[str, Any]:
        """Return `lsps2-status`."""
        told: dict[str, Any] = await self.node.call("lsps2-status")
        return told
