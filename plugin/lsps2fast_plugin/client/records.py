"""What the wallet remembers: buys, approvals, channels; and how each reads and writes its JSON (K-24).

Amounts are decimal strings, `opening_fee_params` keeps the LSP's own texts (B-03), unknown members are ignored. No
preimage is ever stored or shown (K-28): lightningd has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lsps2fast.lsps.lsps2 import FeeParams, format_scid, parse_blocks, parse_bool, parse_msat, parse_node_id, parse_scid
from lsps2fast.lsps.receiving import Key, PaymentTerms
from lsps2fast_plugin.cln.models import NORMAL, PeerChannel

VERSION = 1
OPENED_MS = 90_000  # how long a channel that was accepted in time is waited for at least, as for the parts of a payment
Json = dict[str, Any]


@dataclass(slots=True)
class Purchase:
    """A jit scid bought from an LSP, and what its owner agreed to.

    `opening_fee_msat` is the fee at `largest_payment_msat`, which in fixed mode is the payment. `consent`: the owner
    allows client-trusts-LSP for this buy.
    """

    lsp_id: str
    jit_scid: int
    params: FeeParams
    payment_size_msat: int | None
    cltv_expiry_delta_blocks: int
    client_trusts_lsp: bool
    opening_fee_msat: int
    largest_payment_msat: int
    max_fee_msat: int
    max_fee_ppm: int
    consent: bool
    created_ms: int
    smallest_payment_msat: int = 0
    headroom_msat: int = 0  # what the channel must have room for beside the payment

    @property
    def name(self) -> str:
        """Unique among buys; a scid alone is not: each LSP makes up its own."""
        return f"{self.lsp_id}/{format_scid(self.jit_scid)}"

    @property
    def ends_ms(self) -> int:
        """When the LSP stops serving it (UTC ms)."""
        return self.params.valid_until_ms

    def least_receive_msat(self) -> int:
        """Return what must at least fit into the channel for us: the payment, or the smallest one,
        less its fee (I-14).
        """
        payment_msat = self.payment_size_msat
        if payment_msat is None:
            payment_msat = max(self.params.min_payment_size_msat, self.smallest_payment_msat)
        return max(payment_msat - (self.params.fee_msat(payment_msat) or 0), 0) + self.headroom_msat

    def to_json(self) -> Json:
        record: Json = {
            "version": VERSION,
            "lsp_id": self.lsp_id,
            "jit_channel_scid": format_scid(self.jit_scid),
            "opening_fee_params": self.params.to_json(),
            "lsp_cltv_expiry_delta": self.cltv_expiry_delta_blocks,
            "client_trusts_lsp": self.client_trusts_lsp,
            "opening_fee_msat": str(self.opening_fee_msat),
            "largest_payment_msat": str(self.largest_payment_msat),
            "smallest_payment_msat": str(self.smallest_payment_msat),
            "headroom_msat": str(self.headroom_msat),
            "max_fee_msat": str(self.max_fee_msat),
            "max_fee_ppm": self.max_fee_ppm,
            "consent": self.consent,
            "created_ms": self.created_ms,
        }
        if self.payment_size_msat is not None:
            record["payment_size_msat"] = str(self.payment_size_msat)
        return record

    @classmethod
    def from_json(cls, record: Json) -> Purchase:
        """Read a record. Raises KeyError, TypeError, ValueError, AttributeError or Lsps2Error."""
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']} is not {VERSION}")
        size = record.get("payment_size_msat")
        return cls(
            lsp_id=parse_node_id(record["lsp_id"]).hex(),
            jit_scid=parse_scid(record["jit_channel_scid"]),
            params=FeeParams.from_json(record["opening_fee_params"]),
            payment_size_msat=None if size is None else parse_msat(size),
            cltv_expiry_delta_blocks=parse_blocks(record["lsp_cltv_expiry_delta"]),
            client_trusts_lsp=parse_bool(record["client_trusts_lsp"]),
            opening_fee_msat=parse_msat(record["opening_fee_msat"]),
            largest_payment_msat=parse_msat(record["largest_payment_msat"]),
            max_fee_msat=parse_msat(record["max_fee_msat"]),
            max_fee_ppm=int(record["max_fee_ppm"]),
            consent=parse_bool(record["consent"]),
            created_ms=int(record["created_ms"]),
            smallest_payment_msat=parse_msat(record.get("smallest_payment_msat", "0")),
            headroom_msat=parse_msat(record.get("headroom_msat", "0")),
        )


@dataclass(slots=True)
class Released:
    """Parts that lightningd was told to take: amounts by part, and what it was told of the whole (I-28, K-07)."""

    total_msat: int
    invoice_msat: int | None
    amounts_msat: dict[Key, int]
    at_ms: int = 0

    def to_json(self) -> Json:
        return {
            "total_msat": str(self.total_msat),
            "invoice_msat": None if self.invoice_msat is None else str(self.invoice_msat),
            "at_ms": self.at_ms,
            "parts": [[channel, number, str(amount)] for (channel, number), amount in self.amounts_msat.items()],
        }

    @classmethod
    def from_json(cls, record: Json) -> Released:
        invoice = record["invoice_msat"]
        parts = {(str(channel), int(number)): parse_msat(amount) for channel, number, amount in record["parts"]}
        return cls(
            parse_msat(record["total_msat"]),
            None if invoice is None else parse_msat(invoice),
            parts,
            int(record.get("at_ms", 0)),
        )


@dataclass(slots=True)
class Opening:
    """The opening that was accepted for a purchase, written before it is accepted (rule:27), and what became of it.

    lightningd names no channel in its hook. The new one is the LSP's channel of this size that is not among `others`,
    those it had with us before; `channel_id` once it was seen. `sequence` rises with each that is accepted, whatever
    the clock says; 0 in records of versions that did not count. `left`: by another purchase, which was paid without it.
    """

    capacity_msat: int
    accepted_ms: int
    others: frozenset[str] = frozenset()
    channel_id: str | None = None
    sequence: int = 0
    left: bool = False

    def to_json(self) -> Json:
        return {
            "capacity_msat": str(self.capacity_msat),
            "accepted_ms": self.accepted_ms,
            "others": sorted(self.others),
            "channel_id": self.channel_id,
            "sequence": self.sequence,
            **({"left": True} if self.left else {}),
        }

    @classmethod
    def from_json(cls, record: Json) -> Opening:
        others, channel_id = record["others"], record.get("channel_id")
        return cls(
            capacity_msat=parse_msat(record["capacity_msat"]),
            accepted_ms=int(record["accepted_ms"]),
            others=frozenset(str(each) for each in others),
            channel_id=None if channel_id is None else str(channel_id),
            sequence=int(record.get("sequence", 0)),
            left=bool(record.get("left", False)),
        )


@dataclass(slots=True)
class Approval:
    """A payment that may cost an opening fee, by payment hash (I-10).

    `label` is that of the invoice when we made it, `expires_ms` (UTC) when the invoice ends, if known. `fees_msat` are
    the extra fees of parts that were seen, because lightningd forgets them (I-32). `opening`: the channel that was
    opened for it, the only one over which its fee may be taken. `served` once the invoice is paid.
    """

    buy: Purchase
    payment_hash: bytes
    payment_secret: bytes | None
    label: str | None
    address: str | None
    expires_ms: int | None = None
    fees_msat: dict[Key, int] = field(default_factory=dict)
    released: Released | None = None
    served: bool = False
    opening: Opening | None = None
    openings: int = 0  # that were accepted for it
    nonce: str | None = None  # lightningd makes the preimage of an invoice of ours from it, whenever it is asked
    renewed: str | None = None  # the words of an invoice that takes the place of the one that expired
    asked: dict[str, str] = field(default_factory=dict)  # what the invoice was asked for: see `asking`
    description_hash: bytes | None = None  # the payer's invoice has it instead of the text
    old: bool = False  # written by a version that did not note openings

    @property
    def ends_ms(self) -> int:
        """When nothing more can come of it (UTC ms): the LSP's offer or the invoice is over (I-33).

        A channel that was accepted in time is waited for a little longer: its payment is on the way (trap:55).
        """
        ends_ms = self.buy.ends_ms if self.expires_ms is None else min(self.buy.ends_ms, self.expires_ms)
        if self.released is not None:
            ends_ms = max(ends_ms, self.released.at_ms + OPENED_MS)  # lightningd is about to take it
        if self.opening is None:
            return ends_ms
        return max(ends_ms, min(self.opening.accepted_ms, ends_ms) + OPENED_MS)  # however often it is opened

    @property
    def channel_id(self) -> str | None:
        """The channel that was opened for it, once there is one."""
        return None if self.opening is None else self.opening.channel_id

    @property
    def terms(self) -> PaymentTerms:
        buy = self.buy
        return PaymentTerms(
            lsp_id=buy.lsp_id,
            params=buy.params,
            payment_size_msat=buy.payment_size_msat,
            largest_payment_msat=buy.largest_payment_msat,
            max_fee_msat=buy.max_fee_msat,
            max_fee_ppm=buy.max_fee_ppm,
            payment_secret=self.payment_secret,
        )

    def to_json(self) -> Json:
        return self.buy.to_json() | {
            "payment_secret": None if self.payment_secret is None else self.payment_secret.hex(),
            "label": self.label,
            "address": self.address,
            "expires_ms": self.expires_ms,
            "fees": [[channel, number, str(fee)] for (channel, number), fee in self.fees_msat.items()],
            "released": None if self.released is None else self.released.to_json(),
            "opening": None if self.opening is None else self.opening.to_json(),
            "openings": self.openings,
            "nonce": self.nonce,
            "renewed": self.renewed,
            "asked": self.asked,
            "description_hash": None if self.description_hash is None else self.description_hash.hex(),
        }

    @classmethod
    def from_json(cls, payment_hash: bytes, record: Json) -> Approval:
        """Read a record. Raises like `Purchase.from_json`."""
        secret, released = record.get("payment_secret"), record.get("released")
        fees, expires_ms = record.get("fees", ()), record.get("expires_ms")
        opening, digest = record.get("opening"), record.get("description_hash")
        return cls(
            buy=Purchase.from_json(record),
            payment_hash=payment_hash,
            payment_secret=None if secret is None else bytes.fromhex(secret),
            label=record.get("label"),
            address=record.get("address"),
            expires_ms=None if expires_ms is None else int(expires_ms),
            fees_msat={(str(channel), int(number)): parse_msat(fee) for channel, number, fee in fees},
            released=None if released is None else Released.from_json(released),
            opening=None if opening is None else Opening.from_json(opening),
            openings=int(record.get("openings", 0)),
            nonce=record.get("nonce"),
            renewed=record.get("renewed"),
            asked={str(name): str(text) for name, text in record.get("asked", {}).items()},
            description_hash=None if digest is None else bytes.fromhex(digest),
            old="opening" not in record,
        )


@dataclass(slots=True)
class JitChannel:
    """A channel that a peer opened to us and whose funding is not settled in the chain yet.

    `payment_hash`: the purchase it was opened for, None for none. `paid_ms` (UTC) once we claimed money in it. `state`
    is lightningd's word for it, not stored. `seen_height`: the height at which its funding was first seen, `seen_ms`
    when it was last, `confirmed` while lightningd knows it deep enough in the chain. `missing`: it was paid for and
    its funding did not come, or not as agreed.
    """

    channel_id: str
    lsp_id: str
    funding_txid: str
    funding_outnum: int
    capacity_msat: int
    payment_hash: bytes | None = None
    paid_ms: int | None = None
    missing: bool = False
    state: str = ""
    seen_height: int | None = None
    seen_ms: int | None = None
    confirmed: bool = False
    unbound: bool = False  # written by a version that did not note what it was opened for

    @property
    def usable(self) -> bool:
        """In normal operation, as far as we know."""
        return self.state in NORMAL

    def to_json(self) -> Json:
        return {
            "version": VERSION,
            "lsp_id": self.lsp_id,
            "funding_txid": self.funding_txid,
            "funding_outnum": self.funding_outnum,
            "capacity_msat": str(self.capacity_msat),
            "payment_hash": None if self.payment_hash is None else self.payment_hash.hex(),
            "paid_ms": self.paid_ms,
            "missing": self.missing,
            "seen_height": self.seen_height,
            "seen_ms": self.seen_ms,
            "confirmed": self.confirmed,
        }

    @classmethod
    def from_json(cls, channel_id: str, record: Json) -> JitChannel:
        """Read a record. Raises like `Purchase.from_json`."""
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']} is not {VERSION}")
        payment_hash, paid_ms = record.get("payment_hash"), record.get("paid_ms")
        seen_height, seen_ms = record.get("seen_height"), record.get("seen_ms")
        return cls(
            channel_id=channel_id,
            lsp_id=parse_node_id(record["lsp_id"]).hex(),
            funding_txid=str(record["funding_txid"]),
            funding_outnum=int(record["funding_outnum"]),
            capacity_msat=parse_msat(record["capacity_msat"]),
            payment_hash=None if payment_hash is None else bytes.fromhex(payment_hash),
            paid_ms=None if paid_ms is None else int(paid_ms),
            missing=bool(record.get("missing", False)),
            seen_height=None if seen_height is None else int(seen_height),
            seen_ms=None if seen_ms is None else int(seen_ms),
            confirmed=bool(record.get("confirmed", False)),
            unbound=payment_hash is None and "confirmed" not in record,
        )

    @classmethod
    def from_row(cls, row: PeerChannel) -> JitChannel:
        """Return the record for an entry of listpeerchannels."""
        return cls(
            channel_id=row.channel_id,
            lsp_id=row.peer_id,
            funding_txid=row.funding_txid,
            funding_outnum=row.funding_outnum,
            capacity_msat=row.total_msat,
            state=row.state,
        )


@dataclass(slots=True)
class Distrust:
    """An LSP that broke its word."""

    lsp_id: str
    why: str
    since_ms: int

    def to_json(self) -> Json:
        return {"version": VERSION, "why": self.why, "since_ms": self.since_ms}

    @classmethod
    def from_json(cls, lsp_id: str, record: Json) -> Distrust:
        return cls(parse_node_id(lsp_id).hex(), str(record["why"]), int(record["since_ms"]))


@dataclass(slots=True)
class Lapse:
    """An LSP's last purchase that ended unpaid, so that a channel which comes too late can be explained."""

    lsp_id: str
    ended_ms: int

    def to_json(self) -> Json:
        return {"version": VERSION, "ended_ms": self.ended_ms}

    @classmethod
    def from_json(cls, lsp_id: str, record: Json) -> Lapse:
        return cls(parse_node_id(lsp_id).hex(), int(record["ended_ms"]))
