"""What a buy must know of the node: its channels' names, what it can receive, what it can fund."""

from __future__ import annotations

from typing import Any

from lsps2fast.errors import MalformedTlv
from lsps2fast.lsps0 import MalformedField
from lsps2fast.lsps2 import BuyAsk, min_capacity_sat, parse_scid
from lsps2fast.offers import Lack
from lsps2fast_plugin.funding import commitment_feerate
from lsps2fast_plugin.negotiation import Supply
from lsps2fast_plugin.rpc import Rpc

EXPECTED_PARTS = 10  # a payer may split; each part costs commitment weight (O-03)
DUST_SAT = 546
OPEN_COST_VBYTES = 250  # one input, change and the funding output, rounded up


def _scid(text: object) -> int | None:
    try:
        return parse_scid(text)
    except (MalformedField, MalformedTlv):
        return None


class NodeView:
    """Asks lightningd; keeps only the names of its channels between two questions."""

    def __init__(self, rpc: Rpc, headroom_sat: int, max_capacity_sat: int) -> None:
        """`headroom_sat`: inbound room that a client gets beyond its first payment."""
        self._rpc = rpc
        self._headroom_sat = headroom_sat
        self._max_capacity_sat = max_capacity_sat
        self._scids: set[int] = set()

    def scid_taken(self, scid: int) -> bool:
        """Whether a channel of ours had this scid or alias when last asked (B-11)."""
        return scid in self._scids

    async def refresh(self) -> list[dict[str, Any]]:
        """All channels; remembers every name they go by. Or NodeError."""
        channels: list[dict[str, Any]] = (await self._rpc.call("listpeerchannels", {}))["channels"]
        names: set[int] = set()
        for channel in channels:
            alias = channel.get("alias", {})
            for text in (channel.get("short_channel_id"), alias.get("local"), alias.get("remote")):
                if (scid := _scid(text)) is not None:
                    names.add(scid)
        self._scids = names
        return channels

    async def supply(self, ask: BuyAsk) -> Supply:
        """Inbound liquidity of public channels (B-08) and the capacity we would open. Or NodeError."""
        channels = await self.refresh()
        public = [c for c in channels if c["state"] == "CHANNELD_NORMAL" and not c.get("private", False)]
        incoming = sum(channel["receivable_msat"] for channel in public) if public else None
        feerate = (await self._rpc.call("feerates", {"style": "perkw"}))["perkw"]
        return Supply(incoming, await self._provide(ask, commitment_feerate(feerate)))

    async def _provide(self, ask: BuyAsk, perkw: int) -> int | Lack:
        payment_msat = ask.payment_size_msat
        if payment_msat is None:
            payment_msat = ask.params.min_payment_size_msat
        fee_msat = ask.params.fee_msat(payment_msat) or 0
        forward_msat = max(payment_msat - fee_msat, 0)
        capacity_sat = (
            min_capacity_sat(forward_msat, EXPECTED_PARTS, perkw, False, False, DUST_SAT) + self._headroom_sat
        )
        if capacity_sat > self._max_capacity_sat:
            return Lack.SIZE
        funds_msat = 0
        for output in (await self._rpc.call("listfunds", {}))["outputs"]:
            if output["status"] == "confirmed" and not output["reserved"]:
                funds_msat += output["amount_msat"]
        cost_sat = OPEN_COST_VBYTES * 4 * perkw // 1000
        if funds_msat // 1000 < capacity_sat + cost_sat:
            return Lack.SIZE if ask.payment_size_msat is not None and funds_msat > 0 else Lack.FUNDS
        return capacity_sat
