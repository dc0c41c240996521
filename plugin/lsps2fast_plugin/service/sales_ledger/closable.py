"""Channels past their lifetime: what they earned, when they were used, and what closing them costs now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.models import Caller, ForwardRow, PeerChannel, get_info, list_forwards, list_peer_channels
from lsps2fast_plugin.service.policy.rules import Floor
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS, text_of
from lsps2fast_plugin.service.sales_ledger.story import Row, rows

MOST_CHANNELS: Final = 200  # in one answer: lightningd is asked for the forwards of each
_SOLD: Final = """SELECT c.channel_id, c.jit_scid, c.token, c.band, c.mining_msat, c.locked_ms, b.min_lifetime_blocks,
  COALESCE((SELECT SUM(a.fee_taken_msat) FROM attempts a WHERE a.jit_scid = c.jit_scid), 0) AS fee_taken_msat
  FROM channels c JOIN buys b USING (jit_scid)
  WHERE c.released_ms IS NULL AND c.sent_ms IS NOT NULL ORDER BY c.locked_ms"""


async def closable(
    rpc: Caller, sales: SalesLedger, floor: Floor, perkw: int, wall_ms: int, idle_days: int
) -> dict[str, Any]:
    """Return the channels that nothing binds any more, the longest unused first. Raises NodeError, ConfigError."""
    sold = await sales.ask(lambda db: rows(db, _SOLD))
    height = (await get_info(rpc)).blockheight
    now = {channel.channel_id: channel for channel in await list_peer_channels(rpc)}
    free = [
        (row, channel)
        for row in sold
        if (channel := now.get(row["channel_id"].hex())) is not None
        and channel.is_normal
        and channel.is_confirmed
        and channel.confirmations(height) >= row["min_lifetime_blocks"]
    ]
    closing_msat = 4 * floor.close_vbytes * perkw  # vbytes are 4 weight, so sat per 1000 weight are msat
    found = [await _look(rpc, row, channel, wall_ms, height) for row, channel in free[:MOST_CHANNELS]]
    idle = [each for each in found if each["idle_days"] >= idle_days]
    answer = {
        "feerate_perkw": perkw,
        "closing_msat": closing_msat,
        "channels": sorted(idle, key=lambda each: -each["idle_days"]),
    }
    if len(free) > MOST_CHANNELS:
        answer["not_looked_at"] = len(free) - MOST_CHANNELS
    return answer


async def _look(rpc: Caller, row: Row, channel: PeerChannel, wall_ms: int, height: int) -> dict[str, Any]:
    forwards = []
    for scid in map(format_scid, channel.scids):
        forwards += await list_forwards(rpc, out_channel=scid, status="settled")
        forwards += await list_forwards(rpc, in_channel=scid, status="settled")
    used_ms = max([row["locked_ms"], *(round(forward.resolved_time * 1000) for forward in forwards)])
    opening_msat = row["fee_taken_msat"]
    return {
        "channel_id": channel.channel_id,
        "short_channel_id": channel.short_channel_id,
        "peer_id": channel.peer_id,
        "jit_channel_scid": row["jit_scid"],
        **{name: row[name] for name in ("token", "band") if row[name] is not None},
        "capacity_msat": channel.total_msat,
        "to_us_msat": channel.to_us_msat,
        "opening_fee_msat": opening_msat,
        # To lightningd the opening fee is a routing fee, too (operator:O11).
        "routing_fees_msat": max(_fees_msat(forwards) - opening_msat, 0),
        "mining_msat": row["mining_msat"] or 0,
        "confirmations": channel.confirmations(height),
        "min_lifetime_blocks": row["min_lifetime_blocks"],
        "last_used_at": text_of(used_ms),
        "idle_days": (wall_ms - used_ms) // DAY_MS,
    }


def _fees_msat(forwards: Iterable[ForwardRow]) -> int:
    return sum(forward.in_msat - forward.out_msat for forward in forwards)
