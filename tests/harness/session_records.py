"""A record, and lightningd's word on it, as recovery meets them."""

from __future__ import annotations

from typing import Any

from harness.rows import peer_channel
from lsps2fast.actions import Channel, Forward, Funding, SessionRecord
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.reconcile import Row, Snapshot
from lsps2fast_plugin.service.session_record import StoredSession

CLIENT, STRANGER = "02" + "11" * 32, "02" + "22" * 32
JIT, ALIAS, REAL = 0x0C3500_000001_0001, 5 << 40 | 1, 6 << 40 | 1  # ALIAS and REAL are one incoming channel
ID, OTHER_ID, IN_ID = "cc" * 32, "dd" * 32, "ab" * 32
CHANNEL = Channel(ID, "signed", "ee" * 32)
FUNDING = Funding("psbt", ("aa" * 32 + ":0",), 181, 100_000)
TERMS = {
    "min_fee_msat": "1000",
    "proportional": 0,
    "valid_until": "2035-01-01T00:00:00.000Z",
    "min_lifetime": 1000,
    "max_client_to_self_delay": 2016,
    "min_payment_size_msat": "1",
    "max_payment_size_msat": "1000000000",
    "promise": "p",
}

PARTS = (Forward(ALIAS, 0, 400, 100), Forward(ALIAS, 1, 500, 0))
KEYS = ((ALIAS, 0), (ALIAS, 1))
HELD = ((IN_ID, 0), (IN_ID, 1))  # the same, by the id of their channel


def record(stage: str, channel: Channel | None = None, forwards: tuple[Forward, ...] = ()) -> StoredSession:
    """A record at this stage."""
    buy = Buy(JIT, CLIENT, FeeParams.from_json(TERMS), 1000, 144, True, 0, 100_000)
    return StoredSession(buy, SessionRecord(stage, b"\x07" * 32, 1, 100, FUNDING, channel, forwards, None), None)


def channel(channel_id: str = ID, **facts: Any) -> PeerChannel:
    """A row of listpeerchannels: withheld unless said."""
    return peer_channel(**{"channel_id": channel_id, "funding": {"withheld": True}, **facts})


def snapshot(*channels: PeerChannel, rows: tuple[Row, ...] = (), **more: Any) -> Snapshot:
    """What lightningd says; `rows` are of the channel ID."""
    said = Snapshot(channels={row.channel_id: row for row in channels}, rows={ID: list(rows)}, **more)
    said.names.learn(IN_ID, (REAL, ALIAS))
    return said


def row(htlc_id: int, status: str, name: int = ALIAS) -> Row:
    """A row of listforwards."""
    return Row((name, htlc_id), status, 500, 400)
