"""Rows of lightningd for tests: whole ones, so that a test names only what it is about."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.cln import models
from lsps2fast_plugin.cln.rows import read

CHANNEL: dict[str, Any] = {
    "peer_id": "02" + "11" * 32,
    "channel_id": "cc" * 32,
    "state": "CHANNELD_NORMAL",
    "peer_connected": True,
    "opener": "local",
    "private": True,
    "funding_txid": "ee" * 32,
    "funding_outnum": 0,
    "to_us_msat": 100_000_000,
    "total_msat": 100_000_000,
    "spendable_msat": 99_000_000,
    "receivable_msat": 0,
    "minimum_htlc_out_msat": 0,
    "their_max_htlc_value_in_flight_msat": 100_000_000,
    "our_to_self_delay": 144,
    "fee_base_msat": 1,
    "fee_proportional_millionths": 10,
}


def peer_channel(**facts: Any) -> models.PeerChannel:
    """An entry of listpeerchannels: an open channel of ours, without a block."""
    return read(models.PeerChannel, CHANNEL | facts, "listpeerchannels")
