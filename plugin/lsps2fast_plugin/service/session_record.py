"""What one record of the journal says, and how it is written: a pure codec between JSON and the machine's types.

A record is as CLN's built-in plugin writes it; our own facts stand beside its fields under "lsps2fast". The built-in
plugin ignores them, so an operator can switch either way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from lsps2fast.actions import (
    ABANDONED,
    REUSED,
    SUCCEEDED,
    TIMEOUT,
    UNDERPAID,
    Channel,
    ExistingChannel,
    Forward,
    Funding,
    SessionRecord,
)
from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams, format_datetime, format_scid, parse_datetime, parse_msat, parse_scid
from lsps2fast.lsps.promise import promised_token
from lsps2fast_plugin.cln.channel_types import PLAIN

VERSION = 3  # from 2 on a record of stage "channel" may name forwards, from 3 on a forward the id of its channel
OVER_EXISTING = 4  # of a record that names a channel the client had: a program that cannot read it leaves it alone
IN_A_BATCH = 5  # of a record whose coins pay for other channels, too: such a program would free or send them alone
VERSIONS = (1, 2, VERSION, OVER_EXISTING, IN_A_BATCH)
FRESH = SessionRecord("buy", None, 0, 0, None, None, (), None)
UNUSED: Final = (TIMEOUT, ABANDONED, REUSED)  # outcomes of a buy that brought no channel
OUTPOINT = re.compile(rb"[0-9a-f]{64}:\d+")
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
HtlcId = Annotated[int, msgspec.Meta(ge=0)]


class _FundingFacts(msgspec.Struct):
    """`funding` among our own facts."""

    psbt: str
    inputs: tuple[str, ...]
    reserved_to_block: Count
    capacity_sat: str
    channel_type: tuple[int, ...] = PLAIN
    batch: tuple[str, ...] = ()


class _ForwardFacts(msgspec.Struct, array_like=True):
    """One of `forwards` among our own facts: a list. From version 3 on it ends with the incoming channel's id."""

    in_scid: str
    htlc_id: HtlcId
    out_msat: str
    extra_fee_msat: str
    in_channel: str = ""


class _ExistingFacts(msgspec.Struct):
    """`existing` among our own facts; without fees: the operator's own are to be restored."""

    channel_id: str
    fee_base_msat: Count | None = None
    fee_ppm: Count | None = None


class _SisterFacts(msgspec.Struct):
    """`shared` among our own facts: the other channels of one funding, and this one's share of the miners' part."""

    channels: tuple[tuple[str, str], ...]
    mining_sat: str | None = None


class _OurFacts(msgspec.Struct):
    """What stands under "lsps2fast"; the defaults are what a record of the built-in plugin leaves unsaid."""

    version: int = VERSION
    stage: Literal["buy", "intent", "channel", "forwards", "paid"] | None = None
    attempts: Count = 0
    cltv_expiry_delta: Count | None = None
    client_trusts_lsp: bool = True  # it always withholds
    opening_fee_msat: str = "0"
    fee_paid_msat: str = "0"
    funding: _FundingFacts | None = None
    forwards: tuple[_ForwardFacts, ...] = ()
    existing: _ExistingFacts | None = None
    shared: _SisterFacts | None = None
    attempt: bool = False  # a final record of one payment: it says nothing of the buy


class StoredSession(NamedTuple):
    """One record that could be read: the buy, how far it came, and for a finished one how it ended."""

    buy: Buy
    journal: SessionRecord
    outcome: str | None
    finalized_ms: int | None = None  # UTC
    is_attempt: bool = False

    @property
    def keeps_promises(self) -> bool:
        """Whether the sale is over and its client paid, so that alias and lifetime are owed.

        Also where a share of the fee is missing that failed beside the whole payment (rule:22): stage `paid`.
        """
        whole = self.outcome == UNDERPAID and self.journal.stage == "paid" and not self.is_attempt
        return self.outcome == SUCCEEDED or whole

    @property
    def is_use(self) -> bool:
        """Whether this record counts against the quota of its token."""
        return self.outcome is None or not (self.is_attempt or self.outcome in UNUSED)


def count_use(record: StoredSession, sold: dict[bytes, set[int]]) -> None:
    """Add the jit scid of this record to those that count against the quota of its token, by the token's hash."""
    token_hash = promised_token(record.buy.params)
    if token_hash is not None and record.is_use:
        sold.setdefault(token_hash, set()).add(record.buy.jit_scid)


def sold_under(stored: Iterable[StoredSession]) -> dict[bytes, set[int]]:
    """Return the jit scids that count against the quota of each token, by its hash."""
    sold: dict[bytes, set[int]] = {}
    for record in stored:
        count_use(record, sold)
    return sold


class Unread(NamedTuple):
    """A record that is not understood. It may be of a newer version: what it names is not ours to touch."""

    jit_scid: int | None
    raw: bytes

    def outpoints(self) -> list[str]:
        """Return the coins it speaks of, as far as that can be seen."""
        return [point.decode() for point in OUTPOINT.findall(self.raw)]


def record_of(buy: Buy, journal: SessionRecord) -> dict[str, Any]:
    """Return the whole JSON value of one jit scid; amounts are decimal strings (K-24)."""
    funding, channel = journal.funding, journal.channel
    record: dict[str, Any] = {
        "peer_id": buy.peer_id,
        "opening_fee_params": buy.params.to_json(),
        "channel_capacity_msat": str(buy.capacity_sat * 1000),
        "created_at": format_datetime(buy.created_at_ms),
    }
    if buy.payment_size_msat is not None:
        record["expected_payment_size"] = str(buy.payment_size_msat)
    if journal.payment_hash is not None:
        record["payment_hash"] = journal.payment_hash.hex()
    if channel is not None:
        record["channel_id"] = channel.channel_id
        record["funding_psbt"] = channel.signed_psbt
        record["funding_txid"] = channel.funding_txid
    if journal.preimage is not None:
        record["preimage"] = journal.preimage.hex()
    record["lsps2fast"] = {
        "version": VERSION,
        "stage": journal.stage,
        "attempts": journal.attempts,
        "cltv_expiry_delta": buy.cltv_expiry_delta_blocks,
        "client_trusts_lsp": buy.client_trusts_lsp,
        "opening_fee_msat": str(journal.opening_fee_msat),
        "fee_paid_msat": str(journal.fee_paid_msat),
        "funding": None
        if funding is None
        else {
            "psbt": funding.psbt,
            "inputs": list(funding.inputs),
            "reserved_to_block": funding.reserved_to_block,
            "capacity_sat": str(funding.capacity_sat),
            "channel_type": list(funding.channel_type),
        },
        "forwards": [
            [format_scid(part.in_scid), part.htlc_id, str(part.out_msat), str(part.extra_fee_msat)]
            + ([part.in_channel] if part.in_channel else [])
            for part in journal.forwards
        ],
    }
    if funding is not None and funding.batch:
        record["lsps2fast"]["version"] = IN_A_BATCH
        record["lsps2fast"]["funding"]["batch"] = [format_scid(jit_scid) for jit_scid in funding.batch]
    if channel is not None and channel.mining_sat is not None:
        record["lsps2fast"]["version"] = IN_A_BATCH
        record["lsps2fast"]["shared"] = {
            "channels": [list(sister) for sister in channel.sisters],
            "mining_sat": str(channel.mining_sat),
        }
    if (existing := journal.existing) is not None:
        record["lsps2fast"]["version"] = OVER_EXISTING
        record["lsps2fast"]["existing"] = {
            "channel_id": existing.channel_id,
            "fee_base_msat": existing.fee_base_msat,
            "fee_ppm": existing.fee_ppm,
        }
    return record


def final_record(buy: Buy, journal: SessionRecord, outcome: str, wall_ms: int) -> dict[str, Any]:
    """Return a final record."""
    return record_of(buy, journal) | {"outcome": outcome, "finalized_at": format_datetime(wall_ms)}


def read_record(jit_scid: int, record: dict[str, Any], default_delta_blocks: int) -> StoredSession:
    """Return what `record_of` has written. Raises KeyError, TypeError, ValueError or Lsps2Error."""
    facts = record.get("lsps2fast") or {}
    if facts.get("version", VERSION) not in VERSIONS:
        raise ValueError(f"version {facts['version']} is not one of this program")
    ours = msgspec.convert(facts, _OurFacts)
    size = record.get("expected_payment_size")
    created = record.get("created_at", 0)  # v26.06 does not say
    buy = Buy(
        jit_scid=jit_scid,
        peer_id=_hex(record["peer_id"], 33),
        params=FeeParams.from_json(record["opening_fee_params"]),
        payment_size_msat=None if size is None else parse_msat(str(size)),
        cltv_expiry_delta_blocks=default_delta_blocks if ours.cltv_expiry_delta is None else ours.cltv_expiry_delta,
        client_trusts_lsp=ours.client_trusts_lsp,
        created_at_ms=parse_datetime(created) if isinstance(created, str) else int(created) * 1000,
        capacity_sat=parse_msat(str(record.get("channel_capacity_msat", "0"))) // 1000,
    )
    outcome, end_ms = record.get("outcome"), _read_end(record.get("finalized_at"))
    return StoredSession(buy, _read_journal(record, ours), outcome, end_ms, ours.attempt)


def _hex(text: str, size_bytes: int) -> str:
    """Return the text, when it is so many bytes in hex; else TypeError or ValueError."""
    if len(bytes.fromhex(text)) != size_bytes or len(text) != 2 * size_bytes:
        raise ValueError(f"{text!r} is not {size_bytes} bytes in hex")
    return text


def _read_end(value: Any) -> int | None:
    """Return when a record was finalized: our own text, or the seconds of the built-in plugin."""
    if value is None:
        return None
    return parse_datetime(value) if isinstance(value, str) else int(value) * 1000


def unread_record(name: str, value_hex: str) -> Unread:
    """Return a record that is not understood, with as much of it as can be kept."""
    try:
        raw = bytes.fromhex(value_hex)
    except ValueError:
        raw = b""
    try:
        return Unread(parse_scid(name), raw)
    except Lsps2Error:
        return Unread(None, raw)


def _read_journal(record: dict[str, Any], ours: _OurFacts) -> SessionRecord:
    channel_id, payment_hash, preimage = (record.get(name) for name in ("channel_id", "payment_hash", "preimage"))
    channel = None
    if channel_id is not None:
        psbt, txid = record.get("funding_psbt") or "", record.get("funding_txid") or ""
        channel = Channel(_hex(channel_id, 32), psbt, txid, *_read_shared(ours.shared))
    journal = SessionRecord(
        stage=ours.stage or ("buy" if channel is None else "forwards"),
        payment_hash=None if payment_hash is None else bytes.fromhex(_hex(payment_hash, 32)),
        attempts=ours.attempts,
        opening_fee_msat=parse_msat(ours.opening_fee_msat),
        funding=None if ours.funding is None else _read_funding(ours.funding),
        channel=channel,
        forwards=tuple(
            Forward(
                parse_scid(part.in_scid),
                part.htlc_id,
                parse_msat(part.out_msat),
                parse_msat(part.extra_fee_msat),
                part.in_channel,
            )
            for part in ours.forwards
        ),
        preimage=None if preimage is None else bytes.fromhex(_hex(preimage, 32)),
        fee_paid_msat=parse_msat(ours.fee_paid_msat),
        existing=None if ours.existing is None else _read_existing(ours.existing, parse_msat(ours.opening_fee_msat)),
    )
    _check(journal)
    return journal


def _read_funding(facts: _FundingFacts) -> Funding:
    capacity_sat = parse_msat(facts.capacity_sat)
    batch = tuple(parse_scid(text) for text in facts.batch)
    return Funding(facts.psbt, facts.inputs, facts.reserved_to_block, capacity_sat, facts.channel_type, batch)


def _read_shared(facts: _SisterFacts | None) -> tuple[tuple[tuple[str, str], ...], int | None]:
    """Return the sisters of a channel, and its share of the miners' part."""
    if facts is None:
        return (), None
    sisters = tuple((_hex(peer_id, 33), _hex(channel_id, 32)) for peer_id, channel_id in facts.channels)
    return sisters, None if facts.mining_sat is None else parse_msat(facts.mining_sat)


def _read_existing(facts: _ExistingFacts, fee_msat: int) -> ExistingChannel:
    return ExistingChannel(_hex(facts.channel_id, 32), fee_msat, facts.fee_base_msat, facts.fee_ppm)


def _check(journal: SessionRecord) -> None:
    """Reject records that break an invariant of all that we write. Raises ValueError."""
    for wrong, sentence in (
        (journal.stage == "intent" and None in (journal.payment_hash, journal.funding), "an intent without its facts"),
        (journal.stage == "forwards" and journal.payment_hash is None, "forwards of no payment"),
        (journal.forwards and journal.channel is None and journal.existing is None, "forwards into no channel"),
        (journal.channel is not None and journal.existing is not None, "forwards into two channels"),
        (journal.preimage is not None and journal.channel is None, "paid, and no channel"),
        (
            journal.preimage is not None and hashlib.sha256(journal.preimage).digest() != journal.payment_hash,
            "a preimage of another payment",
        ),
    ):
        if wrong:
            raise ValueError(sentence)
