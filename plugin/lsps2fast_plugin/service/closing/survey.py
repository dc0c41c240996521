"""Ask the ledger and lightningd for what a decision needs: the channels that were sold, and what went over each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol

from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.models import (
    Caller,
    ForwardRow,
    PeerChannel,
    find_channel,
    get_info,
    list_configs,
    list_forwards,
    list_peer_channels,
)
from lsps2fast_plugin.service.closing.decision import ChannelFacts, Use
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger
from lsps2fast_plugin.service.sales_ledger.story import Row, rows

AT_ONCE: Final = 500  # channels that are looked at before the loop has its turn: some milliseconds
BLOCK_MS: Final = 600_000
AUTOCLEAN: Final = "autoclean-succeededforwards-age"  # seconds after which lightningd deletes settled forwards
_SOLD: Final = """SELECT c.channel_id, c.jit_scid, c.token, c.band, c.mining_msat,
  COALESCE(c.locked_ms, c.sent_ms) AS locked_ms, b.min_lifetime_blocks,
  COALESCE((SELECT SUM(a.fee_taken_msat) FROM attempts a
    WHERE a.jit_scid = c.jit_scid AND a.channel_id = c.channel_id), 0) AS fee_taken_msat
  FROM channels c JOIN buys b USING (jit_scid)
  WHERE c.released_ms IS NULL AND c.sent_ms IS NOT NULL ORDER BY c.locked_ms"""
_DECIDED: Final = "SELECT lower(hex(channel_id)) AS channel_id FROM closes WHERE decided_ms > ?"


class Lifetimes(Protocol):
    """What was promised: `ChannelLeaseGuard`."""

    def promised_blocks(self, channel_id: str) -> int:
        """Return for how many confirmations this channel must stay open, as the journal says; 0: no duty is known."""


class Moment(Protocol):
    """What is under way at a moment: `ties.UnderWay`."""

    def why_kept(self, channel_id: str, peer_id: str) -> str | None:
        """Return why this channel stays for now, or None."""


class Clients(Protocol):
    """What is under way: `Ties`."""

    def look(self) -> Moment:
        """Return it, as it is now."""


class Survey:
    """Facts of channels that this node has sold and that are still there."""

    def __init__(self, rpc: Caller, sales: SalesLedger, lifetimes: Lifetimes, clients: Clients) -> None:
        self._rpc = rpc
        self._sales = sales
        self._lifetimes = lifetimes
        self._clients = clients
        self._forwards_kept_s = 0  # 0: for ever

    async def sold(self, channels: Iterable[PeerChannel] | None = None) -> list[ChannelFacts]:
        """Return them, the oldest first. Raises NodeError, MethodError."""
        found = await self._sales.ask(lambda db: rows(db, _SOLD))
        height = (await get_info(self._rpc)).blockheight
        self._forwards_kept_s = (await list_configs(self._rpc)).number(AUTOCLEAN, 0)
        listed = await list_peer_channels(self._rpc) if channels is None else channels
        now = {channel.channel_id: channel for channel in listed}
        under_way = self._clients.look()
        facts: list[ChannelFacts] = []
        for number, row in enumerate(found, 1):
            if (channel := now.get(row["channel_id"].hex())) is not None:
                facts.append(self._facts(row, channel, height, under_way))
            if number % AT_ONCE == 0:  # what has come meanwhile is seen right before a close
                await asyncio.sleep(0)
        return facts

    async def again(self, facts: ChannelFacts) -> ChannelFacts | None:
        """Return the facts as they are now; None for a channel that is gone. Raises NodeError."""
        height = (await get_info(self._rpc)).blockheight
        channel = await find_channel(self._rpc, facts.channel_id, id=facts.peer_id)
        return None if channel is None else facts._replace(**_live(channel, height, self._clients.look()))

    async def use(self, facts: ChannelFacts, wall_ms: int) -> Use:
        """Return what went over a channel of the last answer of `sold`. Raises NodeError."""
        forwards: list[ForwardRow] = []
        for scid in map(format_scid, facts.scids):
            forwards += await list_forwards(self._rpc, out_channel=scid, status="settled")
            forwards += await list_forwards(self._rpc, in_channel=scid, status="settled")
        fees_msat = sum(forward.in_msat - forward.out_msat for forward in forwards)
        named_ms = wall_ms - BLOCK_MS * facts.confirmations if facts.was_spliced else 0  # since it has its names of now
        kept_ms = wall_ms - 1000 * self._forwards_kept_s if self._forwards_kept_s else 0
        return Use(
            used_ms=max([facts.locked_ms, named_ms, *(round(forward.resolved_time * 1000) for forward in forwards)]),
            # To lightningd the opening fee is a routing fee, too (operator:O11).
            routing_fees_msat=max(fees_msat - facts.opening_fee_msat, 0),
            known_since_ms=max(kept_ms, named_ms),
        )

    async def decided_since(self, since_ms: int) -> set[str]:
        """Return the channels that were closed by a rule since then, as the ledger has it. Raises MethodError."""
        found = await self._sales.ask(lambda db: rows(db, _DECIDED, since_ms))
        return {row["channel_id"] for row in found}

    def _facts(self, row: Row, channel: PeerChannel, height: int, under_way: Moment) -> ChannelFacts:
        live = _live(channel, height, under_way)
        promised = max(row["min_lifetime_blocks"], self._lifetimes.promised_blocks(channel.channel_id))
        return ChannelFacts(
            channel_id=channel.channel_id,
            peer_id=channel.peer_id,
            jit_scid=row["jit_scid"],
            is_ours=channel.is_ours,
            min_lifetime_blocks=promised,
            opening_fee_msat=row["fee_taken_msat"],
            mining_msat=row["mining_msat"] or 0,
            locked_ms=row["locked_ms"],
            token=row["token"],
            band=row["band"],
            **live,
        )


def _live(channel: PeerChannel, height: int, under_way: Moment) -> dict[str, Any]:
    return {
        "scids": channel.scids,
        "short_channel_id": channel.short_channel_id,
        "state": channel.state,
        "is_ready": channel.is_ready,
        "confirmations": channel.confirmations(height),
        "htlcs": len(channel.htlcs),
        "capacity_msat": channel.total_msat,
        "ours_msat": channel.to_us_msat,
        "kept": under_way.why_kept(channel.channel_id, channel.peer_id),
        "was_spliced": channel.was_spliced,
    }
