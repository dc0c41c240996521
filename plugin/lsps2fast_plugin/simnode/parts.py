"""An incoming HTLC with what its onion says, and a row of the table of forwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import failures, tlv
from .channels import End, Htlc
from .onions import Onion


@dataclass(slots=True, eq=False)
class Part:
    """One incoming HTLC and what its onion says; `forward_to` is the channel chosen before the hook (cln:H15)."""

    htlc: Htlc
    payload: bytes  # with length prefix
    onion_rest: Onion | None
    next_packet: bytes
    shared_secret: bytes
    received_s: float
    forward_msat: int | None = None
    outgoing_cltv: int | None = None
    scid: str | None = None
    payment_secret: bytes | None = None
    total_msat: int | None = None
    bad: tlv.BadTlv | None = None
    forward_to: End | None = None
    invoice_msat: int | None = None
    extra_tlvs: bytes = b""  # of the outgoing HTLC: those that came in, unless the hook said otherwise
    path_key: bytes | None = None  # that came with the HTLC: we are inside a blinded path, not at its beginning
    next_path_key: bytes | None = None  # for the next hop, whatever payload the hook gives (cln:N7)
    is_blinded: bool = False  # its payload is
    is_final_word: bool = False  # the hook let it pass: from now on lightningd hides what fails inside a blinded path

    @property
    def end(self) -> End:
        return self.htlc.taker

    @property
    def hides_failures(self) -> bool:
        """Whether the payer is told nothing but invalid_onion_blinding."""
        begins_here = self.is_final_word and self.is_blinded and self.onion_rest is not None
        return self.path_key is not None or begins_here


@dataclass(slots=True, eq=False)
class Forward:
    """A row of listforwards (cln:F1, cln:F5)."""

    created_index: int
    part: Part
    in_channel: str
    out_channel: str
    out_htlc: Htlc | None
    out_msat: int | None
    status: str
    received_s: float
    updated_index: int = 0
    resolved_s: float | None = None
    failcode: int | None = None
    failure_reason: str | None = None  # of a lightningd that says so (cln:N9)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"created_index": self.created_index}
        if self.updated_index:
            row["updated_index"] = self.updated_index
        row |= {"in_channel": self.in_channel, "in_htlc_id": self.part.htlc.id, "out_channel": self.out_channel}
        if self.out_htlc is not None:
            row["out_htlc_id"] = self.out_htlc.id
        row["in_msat"] = self.part.htlc.amount_msat
        row |= self._amounts() | {"status": self.status} | self._failure()
        row |= {"style": "tlv", "received_time": self.received_s}
        if self.resolved_s is not None:
            row["resolved_time"] = self.resolved_s
        return row

    def event(self) -> dict[str, Any]:
        """Return the forward_event (cln:F1): `updated_index` takes the place of `created_index` once resolved."""
        index = "updated_index" if self.updated_index else "created_index"
        row: dict[str, Any] = {
            index: self.updated_index or self.created_index,
            "payment_hash": self.part.htlc.payment_hash.hex(),
            "in_channel": self.in_channel,
            "in_htlc_id": self.part.htlc.id,
            "out_channel": self.out_channel_now(),
            "in_msat": self.part.htlc.amount_msat,
        }
        row |= self._amounts() | {"status": self.status} | self._failure()
        row |= {"style": "tlv", "received_time": self.received_s}
        if self.resolved_s is not None:
            row["resolved_time"] = self.resolved_s
        if self.status == "settled" and self.out_htlc is not None and self.out_htlc.preimage is not None:
            row["preimage"] = self.out_htlc.preimage.hex()
        return row

    def out_channel_now(self) -> str:
        """Return the outgoing name; a confirmation between offered and settled changes it (cln:O7)."""
        return self.out_htlc.offerer.scid_now() if self.out_htlc is not None else self.out_channel

    def _amounts(self) -> dict[str, Any]:
        if self.out_msat is None:
            return {}
        return {"out_msat": self.out_msat, "fee_msat": self.part.htlc.amount_msat - self.out_msat}

    def _failure(self) -> dict[str, Any]:
        reason = {} if self.failure_reason is None else {"failure_reason": self.failure_reason}
        if self.failcode is None:
            return reason
        return {"failcode": self.failcode, "failreason": failures.NAMES.get(self.failcode, "UNKNOWN")} | reason


class HeldParts:
    """Incoming HTLCs whose hook call is open, which are what a restart replays; and the ways to resolve one."""

    def __init__(self) -> None:
        self.held: dict[Htlc, Part] = {}
        self.resolved = 0

    def fail(self, part: Part, message: bytes) -> None:
        """Fail upstream with our own message; the bytes reach the payer verbatim (cln:H7)."""
        self.fail_blob(part, part.htlc.onion.originate(part.shared_secret, message))

    def fail_blob(self, part: Part, blob: bytes) -> None:
        """Fail upstream with an answer that is wrapped already."""
        if part.hides_failures:
            blob = part.htlc.onion.originate(part.shared_secret, failures.INVALID_ONION_BLINDING)
        self.resolved += 1
        self.held.pop(part.htlc, None)
        part.htlc.channel.fail(part.htlc, blob)

    def fulfill(self, part: Part, preimage: bytes) -> None:
        """Fulfil upstream."""
        self.resolved += 1
        self.held.pop(part.htlc, None)
        part.htlc.channel.fulfill(part.htlc, preimage)
