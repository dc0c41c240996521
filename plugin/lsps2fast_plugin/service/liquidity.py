"""What a buy must know of the node: its channels' names, what it can receive and fund, what a block costs now.

Coins are asked for anew at each buy. Channels are listed every few seconds at most, however many buy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.channel_types import OurNode
from lsps2fast_plugin.cln.models import PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coins import Coins
from lsps2fast_plugin.service.known_node import KnownFeerates

LIQUIDITY_FRESH_MS: Final = 5_000  # what we do with our coins is never missed
LONGEST_FRESH_MS: Final = 60_000
LISTING_SHARE: Final = 20  # of a node with thousands of channels: listing them takes at most 1 / 20 of the time
FEERATE_FRESH_MS: Final = 10_000  # a crowd asking for menus costs no more than one question in this time


class Feerates(NamedTuple):
    """Sat per 1000 weight."""

    opening_perkw: int
    commitment_perkw: int  # of a channel without anchors, soon after it was opened
    anchors_perkw: int | None = None  # the same with anchors, None when we make no such channels


class Liquidity(NamedTuple):
    """What the node has at this moment."""

    incoming_liquidity_msat: int | None  # of public channels (B-08), None when there are none
    confirmed_sat: int  # confirmed outputs that nothing has reserved, and no opening was promised
    feerates: Feerates


class NodeLiquidity:
    """Asks lightningd; keeps only the names of its channels between two questions."""

    def __init__(self, rpc: Rpc, coins: Coins, known: KnownFeerates, now_ms: Callable[[], int], node: OurNode) -> None:
        """`now_ms` is the monotonic clock."""
        self._rpc = rpc
        self._coins = coins
        self._known = known
        self._node = node
        self._now_ms = now_ms
        self._scids: set[int] = set()
        self._surveying = asyncio.Lock()
        self._listed_ms: int | None = None  # when `_incoming_msat` was asked for
        self._fresh_ms = LIQUIDITY_FRESH_MS
        self._incoming_msat: int | None = None
        self._asking = asyncio.Lock()
        self._asked = 0  # questions for the purse that have begun
        self._answer: Liquidity | None = None  # to the last of them

    def scid_taken(self, scid: int) -> bool:
        """Return whether a channel of ours had this scid or alias when last asked (B-11)."""
        return scid in self._scids

    async def refresh(self) -> list[PeerChannel]:
        """Return all channels; remembers every name they go by. Raises NodeError."""
        channels = await list_peer_channels(self._rpc)
        self._scids = {scid for channel in channels for scid in channel.scids_and_theirs}
        return channels

    async def recent(self) -> Liquidity:
        """As `purse`, a few seconds old at most, less what is promised since: for a crowd's menus. Raises NodeError."""
        async with self._surveying:
            incoming_msat = await self._incoming()
            return Liquidity(incoming_msat, await self._coins.free_sat(LIQUIDITY_FRESH_MS), await self.feerates())

    async def purse(self) -> Liquidity:
        """Return what can come in, and what can be spent, asked anew. Raises NodeError.

        One question at a time; all who come meanwhile share the next, which begins after each of them asked.
        """
        before = self._asked
        async with self._asking:
            if self._asked > before and self._answer is not None:
                return self._answer
            self._asked, self._answer = self._asked + 1, None
            incoming_msat = await self._incoming()
            self._answer = Liquidity(incoming_msat, await self._coins.free_sat(), await self.feerates())
            return self._answer

    async def _incoming(self) -> int | None:
        """Return what public channels can receive, some seconds old at most: a buy is no promise of it."""
        now_ms = self._now_ms()
        if self._listed_ms is None or now_ms - self._listed_ms >= self._fresh_ms:
            public = [channel for channel in await self.refresh() if channel.is_normal and not channel.private]
            self._incoming_msat = sum(channel.receivable_msat for channel in public) if public else None
            took_ms = self._now_ms() - now_ms
            self._fresh_ms = min(max(LIQUIDITY_FRESH_MS, LISTING_SHARE * took_ms), LONGEST_FRESH_MS)
            self._listed_ms = now_ms
        return self._incoming_msat

    async def perkw(self) -> PerKw:
        """Return lightningd's fee rates, a few seconds old at most while it answers. Raises NodeError."""
        return await self._known.perkw(FEERATE_FRESH_MS)

    async def opening_perkw(self) -> int:
        """Return what a funding pays now, in sat per 1000 weight. Raises NodeError."""
        return (await self.feerates()).opening_perkw

    async def feerates(self) -> Feerates:
        """Return what lightningd would pay now, a few seconds old at most while it answers. Raises NodeError."""
        perkw = await self.perkw()
        return Feerates(perkw.funding, *self._node.commitment_rates(perkw))
