"""What lightningd and its chain backend say about a channel and its funding (I-30, trap:46).

lightningd shows plugins neither the funding script nor the mempool, so an unconfirmed funding is judged by its
outpoint: it must exist, have the channel's amount and be a P2WSH. Once confirmed lightningd, which knows the script,
gives the channel its real scid.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from lsps2fast_plugin.client.records import JitChannel
from lsps2fast_plugin.cln.models import PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc

_P2WSH = re.compile(r"0020[0-9a-f]{64}")
SPLICING = "CHANNELD_AWAITING_SPLICE"
SETTLED_BLOCKS: Final = 6  # deeper than any reorganisation that is reckoned with
_AMOUNT = re.compile(r"([0-9]+)(msat|sat|)")


class FundingStatus(enum.Enum):
    """Where a funding transaction was seen."""

    NOWHERE = "not seen"
    MEMPOOL = "in the mempool"
    CONFIRMED = "confirmed"
    SHALLOW = "not deep enough in the chain"
    WRONG = "not the output that was agreed"


class Funding(NamedTuple):
    """How far a funding has come; `depth` is its confirmations, `there` whether our backend shows the output now."""

    sight: FundingStatus
    depth: int
    there: bool = True

    def lacks(self, depth: int) -> FundingStatus | None:
        """Return what it lacks to be this deep (0: in sight), None for nothing."""
        if self.depth >= depth and self.sight in (FundingStatus.MEMPOOL, FundingStatus.CONFIRMED):
            return None
        return FundingStatus.SHALLOW if self.sight is FundingStatus.CONFIRMED else self.sight


def amount_sat(value: object) -> int | None:
    """Return the satoshis of an amount as `getutxout` writes it ("200000sat", also a number), else None."""
    if type(value) is int:
        return value
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return int(match[1]) // 1000 if match[2] == "msat" else int(match[1])


class Chain:
    """Asks lightningd; keeps which channel goes by which name."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._names: dict[int, str] = {}
        self.height = 0

    def block(self, height: int) -> None:
        """Take note of a block; after a restart old ones come again (cln:R2)."""
        self.height = max(self.height, height)

    async def rows(self, **which: str) -> list[PeerChannel]:
        """Return all channels, or those of the peer `id`. Raises NodeError."""
        rows = await list_peer_channels(self._rpc, **which)
        for row in rows:
            self._names.update(dict.fromkeys(row.scids, row.channel_id))
        return rows

    async def row(self, channel_id: str) -> PeerChannel | None:
        """Return one channel, None when lightningd no longer knows it. Raises NodeError."""
        return next((row for row in await self.rows() if row.channel_id == channel_id), None)

    async def channel_of(self, scid: int) -> str | None:
        """Return the channel that goes, or ever went, by this scid or alias; None when there is none.

        Raises NodeError.
        """
        if scid not in self._names:
            await self.rows()
        return self._names.get(scid)

    def name_of(self, scid: int) -> str | None:
        """Return the channel of this name, without asking; None when it was not heard of yet."""
        return self._names.get(scid)

    async def funding(self, channel: JitChannel, row: PeerChannel | None) -> Funding:
        """Return how far the funding of a channel has come. Raises NodeError: unknown.

        An output that is not there may be spent, by a close or a splice: then lightningd's word counts. Or it went, by
        a block that was reorganised away or a transaction that took its place (wallet:W3). lightningd may list its scid
        all the same, so its word alone is enough only for what is deep and was not seen before.
        """
        depth = 0 if row is None else row.confirmations(self.height)
        answer = await self._rpc.call("getutxout", {"txid": channel.funding_txid, "vout": channel.funding_outnum})
        script = answer.get("script")
        spent = row is not None and (row.state == SPLICING or row.is_closing)
        if script is None:
            known = depth > 0 and (spent or (channel.seen_height is None and depth >= SETTLED_BLOCKS))
            return Funding(FundingStatus.CONFIRMED if known else FundingStatus.NOWHERE, depth if known else 0, False)
        right = amount_sat(answer.get("amount")) == channel.capacity_msat // 1000
        if not right or not isinstance(script, str) or _P2WSH.fullmatch(script) is None:
            return Funding(FundingStatus.WRONG, depth)
        return Funding(FundingStatus.CONFIRMED, depth) if depth else Funding(FundingStatus.MEMPOOL, 0)
