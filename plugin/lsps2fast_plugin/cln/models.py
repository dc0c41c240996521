"""lightningd's rows as types: decoded here and nowhere else, trusted inside.

Members that are not read here are ignored. One that is missing or of another type is NodeUnreachable with a sentence
that names it: an answer that makes no sense is no answer, and is asked for again (rule:10).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv, NodeUnreachable
from lsps2fast_plugin.cln.rows import Row, read, read_all, rows_of

NORMAL: Final = frozenset({"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE"})  # K-13
OPENING: Final = frozenset({"OPENINGD", "CHANNELD_AWAITING_LOCKIN"})
CLOSING: Final = frozenset(
    {
        "CHANNELD_SHUTTING_DOWN",
        "CLOSINGD_SIGEXCHANGE",
        "CLOSINGD_COMPLETE",
        "AWAITING_UNILATERAL",
        "FUNDING_SPEND_SEEN",
        "ONCHAIN",
        "CLOSED",
    }
)
# The peers still settle an HTLC in a channel that is shutting down; in one of these the chain does, if it is at all.
LEFT: Final = CLOSING - {"CHANNELD_SHUTTING_DOWN"}
Json = dict[str, Any]


class Caller(Protocol):
    """The part of `rpc.Rpc` that is needed to ask."""

    async def call(self, method: str, params: Json | None = None, timeout_s: float | None = 60.0) -> Json:
        """Return the result. Raises NodeError."""


class Alias(msgspec.Struct, frozen=True):
    """Short channel ids that stand for a channel: `local` is our choice, `remote` is the peer's."""

    local: str | None = None
    remote: str | None = None


class Policy(msgspec.Struct, frozen=True):
    """The terms on which one end of a channel forwards through it."""

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    htlc_minimum_msat: int = 0
    htlc_maximum_msat: int = 2**64 - 1


class Updates(msgspec.Struct, frozen=True):
    """The `channel_update` of the peer, once it has sent one."""

    remote: Policy | None = None


class Funding(msgspec.Struct, frozen=True):
    """`withheld`: lightningd was never asked to send it."""

    withheld: bool = False
    psbt: str | None = None


class TypeOfChannel(msgspec.Struct, frozen=True):
    """The feature bits that make up the type of a channel."""

    bits: tuple[int, ...] = ()


class CommitmentFee(msgspec.Struct, frozen=True):
    """The fee rate of a channel's commitments, in sat per 1000 weight."""

    perkw: int = 0


class ChannelHtlc(msgspec.Struct, frozen=True):
    """An HTLC in a channel; `direction` is "in" or "out"."""

    direction: str
    id: int
    state: str
    payment_hash: str = ""
    expiry: int = 0  # block height; 0: not known
    amount_msat: int = 0

    @property
    def is_pending(self) -> bool:
        """Whether neither side has begun to remove it."""
        return "REMOVE" not in self.state


class PeerChannel(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of listpeerchannels that has a funding. Delays are in blocks."""

    peer_id: str
    channel_id: str
    state: str
    peer_connected: bool
    opener: str
    funding_txid: str
    funding_outnum: int
    to_us_msat: int
    total_msat: int
    spendable_msat: int
    receivable_msat: int
    minimum_htlc_out_msat: int
    their_max_htlc_value_in_flight_msat: int
    our_to_self_delay: int
    fee_base_msat: int
    fee_proportional_millionths: int
    private: bool
    reestablished: bool = True
    short_channel_id: str | None = None
    max_to_us_msat: int | None = None
    maximum_htlc_out_msat: int | None = None
    last_tx_fee_msat: int | None = None
    closer: str | None = None
    alias: Alias = Alias()
    channel_type: TypeOfChannel = TypeOfChannel()
    feerate: CommitmentFee = CommitmentFee()
    funding: Funding = Funding()
    updates: Updates = Updates()
    htlcs: tuple[ChannelHtlc, ...] = ()

    @property
    def scids(self) -> tuple[int, ...]:
        """Return the scids by which lightningd calls this channel in hooks, events and tables (cln:H3, cln:F6).

        The peer's alias is not among them: the peer chose it and could take the name of another channel.
        """
        return _scids(self.short_channel_id, self.alias.local)

    @property
    def scids_and_theirs(self) -> tuple[int, ...]:
        """Return `scids` and the peer's alias, by which payers reach us: for what must differ from all of them."""
        return _scids(self.short_channel_id, self.alias.local, self.alias.remote)

    @property
    def is_ours(self) -> bool:
        """Whether we opened it."""
        return self.opener == "local"

    @property
    def is_confirmed(self) -> bool:
        """Whether a block has its funding: only then it has a scid that is no alias."""
        return self.short_channel_id is not None

    @property
    def is_withheld(self) -> bool:
        """Whether lightningd was never asked to send its funding."""
        return self.funding.withheld

    @property
    def is_normal(self) -> bool:
        """Whether it is past its opening and not closing; a splice under way does not end that (K-13)."""
        return self.state in NORMAL

    @property
    def is_alive(self) -> bool:
        """Whether it is usable, or about to be."""
        return self.state in NORMAL or self.state in OPENING

    @property
    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self.state in CLOSING

    @property
    def has_left(self) -> bool:
        """Whether what comes over it can only be had on chain, if at all."""
        return self.state in LEFT

    @property
    def is_ready(self) -> bool:
        """Whether it can carry an HTLC now: the peer is there and the channel reestablished."""
        return self.is_normal and self.peer_connected and self.reestablished

    @property
    def most_to_us_msat(self) -> int:
        """Return the most that ever was ours in it."""
        return self.to_us_msat if self.max_to_us_msat is None else self.max_to_us_msat

    @property
    def was_spliced(self) -> bool:
        """Whether its funding is another than the one it was opened with, whose outpoint its id is made of (BOLT 2).

        The scids of before are in no listing, and forwards over them are listed under no name of now (cln:N3).
        """
        return bytes.fromhex(self.funding_txid)[:1:-1].hex() != self.channel_id[:60]

    @property
    def rates(self) -> tuple[int, int]:
        """What forwards into it pay: base in msat, ppm."""
        return self.fee_base_msat, self.fee_proportional_millionths

    @property
    def charges_nothing(self) -> bool:
        """Whether forwards into it pay no fee."""
        return self.rates == (0, 0)

    def confirmations(self, height: int) -> int:
        """Return how many blocks bury the funding; 0 without a block. A splice begins anew."""
        if self.short_channel_id is None:
            return 0
        return max(height - (_scids(self.short_channel_id)[0] >> 40) + 1, 1)


class OpenAttempt(msgspec.Struct, frozen=True):
    """One entry of listpeerchannels that is being negotiated and has no funding yet."""

    peer_id: str
    state: str
    opener: str
    total_msat: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether we open it."""
        return self.opener == "local"


class ClosedChannel(msgspec.Struct, frozen=True):
    """One entry of listclosedchannels."""

    channel_id: str
    short_channel_id: str | None = None
    closer: str | None = None
    alias: Alias = Alias()
    funding_withheld: bool | None = None

    @property
    def scids(self) -> tuple[int, ...]:
        """Return the scids by which lightningd called this channel."""
        return _scids(self.short_channel_id, self.alias.local)

    @property
    def is_confirmed(self) -> bool:
        """Whether a block had its funding."""
        return self.short_channel_id is not None


class ForwardRow(msgspec.Struct, frozen=True):
    """One entry of listforwards. `in_htlc_id` is missing in rows of versions long gone, `out_msat` in failed ones."""

    in_channel: str
    status: str
    in_msat: int
    in_htlc_id: int | None = None
    out_msat: int = 0
    resolved_time: float = 0.0  # seconds since 1970


class WalletOutput(msgspec.Struct, frozen=True):
    """One entry of `outputs` in listfunds."""

    txid: str
    output: int
    amount_msat: int
    scriptpubkey: str
    status: str
    reserved: bool
    reserved_to_block: int = 0
    spendable_at: int = 0

    @property
    def point(self) -> str:
        """Return "txid:vout"."""
        return f"{self.txid}:{self.output}"

    @property
    def amount_sat(self) -> int:
        """Return the whole satoshis."""
        return self.amount_msat // 1000

    def is_spendable(self, height: int) -> bool:
        """Return whether it has a block, and is old enough when it is a coinbase or a timelocked output."""
        return self.status == "confirmed" and self.spendable_at <= height


class PeerRow(msgspec.Struct, frozen=True):
    """One entry of listpeers; `features` (hex) is what it said when it connected."""

    id: str
    connected: bool
    features: str | None = None
    netaddr: tuple[str, ...] = ()


class NodeFeatures(msgspec.Struct, frozen=True):
    """Our own features (hex), by where they are announced."""

    init: str = ""


class NodeInfo(msgspec.Struct, frozen=True):
    """The answer to getinfo."""

    blockheight: int
    id: str = ""
    alias: str = ""
    network: str = "bitcoin"
    our_features: NodeFeatures = NodeFeatures()
    warning_bitcoind_sync: str | None = None
    warning_lightningd_sync: str | None = None

    @property
    def is_syncing(self) -> bool:
        """Whether lightningd has not seen all blocks yet, as right after its start (cln:R5)."""
        return self.warning_bitcoind_sync is not None or self.warning_lightningd_sync is not None


class ConfigValue(msgspec.Struct, frozen=True):
    """One entry of listconfigs; only numbers and amounts are read."""

    value_int: int | None = None
    value_msat: int | None = None


class Configs(msgspec.Struct, frozen=True):
    """The answer to listconfigs."""

    configs: dict[str, ConfigValue] = {}

    def number(self, name: str, default: int) -> int:
        """Return an option's number; `default` when lightningd names none."""
        value = self.configs.get(name)
        return default if value is None or value.value_int is None else value.value_int

    def msat(self, name: str, default: int) -> int:
        """Return an option's amount; `default` when lightningd names none."""
        value = self.configs.get(name)
        return default if value is None or value.value_msat is None else value.value_msat


@functools.lru_cache(maxsize=4096)  # a listing of all channels names the same ones as the one before
def _scids(*texts: str | None) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(tlv.scid_from_str(text) for text in texts if text))
    except MalformedTlv as error:
        raise NodeUnreachable("listpeerchannels", f"not a scid: {texts}: {error}") from error


async def read_rows(rpc: Caller, kind: type[Row], method: str, member: str, which: Json) -> list[Row]:
    """Ask for a table. Raises NodeError."""
    return await read_all(kind, rows_of(await rpc.call(method, which), method, member), method)


def peer_channels(answer: Json) -> list[PeerChannel]:
    """Return the channels in an answer of listpeerchannels; what has no funding yet is no channel."""
    return [read(PeerChannel, row, "listpeerchannels") for row in _channel_rows(answer) if _is_funded(row)]


def open_attempts(answer: Json) -> list[OpenAttempt]:
    """Return what is being opened, from an answer of listpeerchannels."""
    return [read(OpenAttempt, row, "listpeerchannels") for row in _channel_rows(answer) if not _is_funded(row)]


def _channel_rows(answer: Json) -> Iterator[object]:
    return rows_of(answer, "listpeerchannels", "channels")


def _is_funded(row: object) -> bool:
    """Return whether a row is a channel; also for one that is no object, which cannot be read as one."""
    if isinstance(row, bytes | bytearray):
        return b'"funding_txid"' in row
    return not isinstance(row, dict) or "funding_txid" in row


async def list_peer_channels(rpc: Caller, **which: str) -> list[PeerChannel]:
    """Ask for all channels, or those of the peer `id`. Raises NodeError."""
    rows = _channel_rows(await rpc.call("listpeerchannels", dict(which)))
    return await read_all(PeerChannel, filter(_is_funded, rows), "listpeerchannels")


async def find_channel(rpc: Caller, channel_id: str, **which: str) -> PeerChannel | None:
    """Ask for one channel; None when lightningd says there is none. Raises NodeError."""
    channels = await list_peer_channels(rpc, **which)
    return next((channel for channel in channels if channel.channel_id == channel_id), None)


async def find_closed_channel(rpc: Caller, channel_id: str, **which: str) -> ClosedChannel | None:
    """Ask for one closed channel; None when lightningd knows none. Raises NodeError."""
    channels = await list_closed_channels(rpc, **which)
    return next((channel for channel in channels if channel.channel_id == channel_id), None)


async def list_closed_channels(rpc: Caller, **which: str) -> list[ClosedChannel]:
    """Ask for closed channels, or those of the peer `id`. Raises NodeError."""
    return await read_rows(rpc, ClosedChannel, "listclosedchannels", "closedchannels", dict(which))


async def list_forwards(rpc: Caller, **which: str) -> list[ForwardRow]:
    """Ask for forwards, as into `out_channel`. Raises NodeError."""
    return await read_rows(rpc, ForwardRow, "listforwards", "forwards", dict(which))


async def list_outputs(rpc: Caller) -> list[WalletOutput]:
    """Ask for the wallet's outputs. Raises NodeError."""
    return await read_rows(rpc, WalletOutput, "listfunds", "outputs", {})


async def list_peers(rpc: Caller, **which: str) -> list[PeerRow]:
    """Ask for the peers, or the one with this `id`. Raises NodeError."""
    return await read_rows(rpc, PeerRow, "listpeers", "peers", dict(which))


async def get_info(rpc: Caller) -> NodeInfo:
    """Ask what the node is. Raises NodeError."""
    return read(NodeInfo, await rpc.call("getinfo", {}), "getinfo")


async def list_configs(rpc: Caller) -> Configs:
    """Ask for the configuration. Raises NodeError."""
    return read(Configs, await rpc.call("listconfigs", {}), "listconfigs")
