"""The checks of a wallet before it claims a payment through a JIT channel (I-20 … I-28), as pure logic.

The LSP takes its opening fee out of the parts and says in each how much (`extra_fee`). Here every part is judged when
it comes, and the parts of one payment are kept until they are complete and consistent; only then may any be claimed.
A part that is 1 msat short ends the set. No clock, no node: times and heights are numbers, answers to lightningd are
hex for the caller to write.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv, ProtocolBug
from lsps2fast.lsps.lsps2 import U64_MAX, FeeParams

MPP_TIMEOUT: Final = "0017"
MOST_PARTS: Final = 483  # HTLCs that one channel can carry (BOLT 2)
DEADLINE_BLOCKS: Final = 6  # K-06

Key = tuple[str, int]  # (channel_id, htlc id): a scid changes when its channel confirms (cln:H3)


class Reason(StrEnum):
    """Why a part is refused; the text goes to the log and to `lsps2-status`."""

    NOT_FROM_LSP = "it carries an opening fee, but did not come from the LSP that sold the channel"
    FEE_ELSEWHERE = "it carries an opening fee, but did not come over the channel that was opened for it"
    NO_SECRET = "it is no ordinary payment to one of our invoices"
    WRONG_SECRET = "its payment secret is not the invoice's"
    AMOUNT_MISMATCH = "amount and extra_fee together are not what the payer sent"
    FEE_SUM = "the extra fees together exceed the agreed opening fee"
    FEE_UNEXPECTED = "it carries an opening fee, but the fee is paid already"
    FEE_NEVER_AGREED = "it carries an opening fee, but no channel is being bought with this payment"
    FEE_OVERFLOW = "the opening fee for this amount overflows"
    FEE_ABOVE_LIMIT = "the opening fee for this amount is above its owner's limit"
    TOTAL_TOO_SMALL = "the payer wants to pay less than the invoice asks"
    TOTAL_TOO_LARGE = "the payer wants to pay more than twice what the invoice asks"
    NOT_SINGLE = "an invoice without an amount takes one single part"
    OUT_OF_RANGE = "the amount is outside what was agreed"
    OTHER_SET = "its total or secret differs from the other parts'"
    TOO_MANY = "there are too many parts"
    SUM_OVERFLOW = "the sum of the parts overflows"


# Only the LSP can cause these; the payer is told at once by failing every part. All else fails alone, so that a
# stranger who knows the payment hash cannot end an honest payment (K-27).
LSP_FAULTS: Final = frozenset({Reason.AMOUNT_MISMATCH, Reason.FEE_SUM})


class PaymentTerms(NamedTuple):
    """Terms agreed with the LSP (`params`, size) and with the wallet's owner (the rest).

    `payment_size_msat` None is variable mode; then `largest_payment_msat` caps the one part. `payment_secret` None:
    not known here, lightningd checks it.
    """

    lsp_id: str
    params: FeeParams
    payment_size_msat: int | None
    largest_payment_msat: int
    max_fee_msat: int
    max_fee_ppm: int
    payment_secret: bytes | None

    def fee_msat(self, payment_msat: int) -> int | Reason:
        """Return the opening fee for a payment, or why it must not be paid."""
        fee_msat = self.params.fee_msat(payment_msat)
        if fee_msat is None:
            return Reason.FEE_OVERFLOW
        if fee_msat >= payment_msat or fee_msat > self.fee_limit_msat(payment_msat):
            return Reason.FEE_ABOVE_LIMIT
        return fee_msat

    def fee_limit_msat(self, payment_msat: int) -> int:
        """Return the largest opening fee the owner accepts for a payment."""
        return min(self.max_fee_msat, payment_msat * self.max_fee_ppm // 1_000_000)


class Part(NamedTuple):
    """One HTLC of a payment to us. `onion_msat` is what the payer sent, `htlc_msat` what arrived."""

    key: Key
    peer_id: str | None
    htlc_msat: int
    onion_msat: int | None
    total_msat: int | None
    payment_secret: bytes | None
    extra_fee_msat: int
    cltv_expiry: int


class Claim(NamedTuple):
    """How to claim one part: its amount, and the sum of all (I-28)."""

    key: Key
    amount_msat: int
    total_msat: int


def read_part(scan: Any, key: Key, remembered_fee_msat: int | None) -> Part:
    """Return the part in a hook call (`_hook.Scan`). Raises MalformedTlv for a payload or TLV stream that breaks the
    BOLTs.

    `remembered_fee_msat` stands in for the TLV after a restart: lightningd does not keep it (I-32).
    """
    payload = tlv.read_payload(scan.payload_hex)
    extra_fee_msat = tlv.read_extra_fee(scan.extra_tlvs)
    if extra_fee_msat is None:
        extra_fee_msat = remembered_fee_msat or 0
    return Part(
        key=key,
        peer_id=scan.peer_id,
        htlc_msat=scan.amount_msat,
        onion_msat=payload.amt_to_forward_msat,
        total_msat=payload.total_msat,
        payment_secret=None if payload.blinded else payload.payment_secret,
        extra_fee_msat=extra_fee_msat,
        cltv_expiry=scan.cltv_expiry,
    )


def carries_fee(scan: Any) -> bool:
    """Return whether a hook call names an opening fee; a broken TLV stream counts as one (I-22)."""
    try:
        return bool(tlv.read_extra_fee(scan.extra_tlvs))
    except MalformedTlv:
        return True


def details_failure(htlc_msat: int, height: int) -> str:
    """incorrect_or_unknown_payment_details: the answer to everything that breaks I-20 … I-25 (I-26)."""
    return f"400f{htlc_msat:016x}{height:08x}"


class PaymentSet:
    """The parts of one payment that are held, none of them claimed."""

    def __init__(self, terms: PaymentTerms, collect_ms: int, fee_channel: str | None = None) -> None:
        """`collect_ms`: how long parts are held, from the first one, until all have come (I-27).

        `fee_channel`: the channel that was opened for this purchase, the only one over which a fee may be taken (rule
        27); "" while there is none, None when the caller sees to that himself.
        """
        self.terms = terms
        self.fee_channel = fee_channel
        self.reuse_fee_percent = 0  # most of the opening fee over a channel we have, while none was opened for this
        self._collect_ms = collect_ms
        self._first_ms = 0
        self.parts: dict[Key, Part] = {}

    @property
    def received_msat(self) -> int:
        """Sum of the parts that arrived so far."""
        return sum(part.htlc_msat for part in self.parts.values())

    @property
    def fees_msat(self) -> int:
        """Sum of the fees that the LSP took so far."""
        return sum(part.extra_fee_msat for part in self.parts.values())

    @property
    def sent_msat(self) -> int:
        """Sum of the amounts that the payer sent so far."""
        return sum(part.onion_msat or 0 for part in self.parts.values())

    @property
    def due_ms(self) -> int | None:
        """When to give up waiting for the rest; None when nothing is held."""
        return self._first_ms + self._collect_ms if self.parts else None

    def check(self, part: Part) -> Reason | None:
        """Return why this part must be failed, or None. Changes nothing."""
        if part.key in self.parts:
            return None  # lightningd asks again about a part it knows (K-07)
        onion_msat, total_msat = part.onion_msat, part.total_msat
        if part.payment_secret is None or onion_msat is None or total_msat is None:
            return Reason.NO_SECRET
        if self.terms.payment_secret not in (None, part.payment_secret):
            return Reason.WRONG_SECRET
        if part.extra_fee_msat and part.peer_id != self.terms.lsp_id:
            return Reason.NOT_FROM_LSP
        if part.htlc_msat + part.extra_fee_msat != onion_msat:
            return Reason.AMOUNT_MISMATCH
        if part.extra_fee_msat and self.fee_channel not in (None, part.key[0]) and not self._may_reuse(part):
            return Reason.FEE_ELSEWHERE
        if self.terms.payment_size_msat is None:
            return self._check_variable(part, onion_msat, total_msat)
        return self._check_fixed(part, onion_msat, total_msat, self.terms.payment_size_msat)

    def _may_reuse(self, part: Part) -> bool:
        """Return whether the owner lets the LSP take this fee over a channel that is not of this purchase."""
        if self.fee_channel or not self.reuse_fee_percent:
            return False
        fee_msat = self.terms.fee_msat(self.terms.payment_size_msat or part.onion_msat or 0)
        if isinstance(fee_msat, Reason):
            return False
        return self.fees_msat + part.extra_fee_msat <= fee_msat * self.reuse_fee_percent // 100

    def _check_variable(self, part: Part, onion_msat: int, total_msat: int) -> Reason | None:
        """One part of any agreed amount; the fee follows from what the payer sent (I-25)."""
        params = self.terms.params
        if self.parts or total_msat != onion_msat:
            return Reason.NOT_SINGLE
        most_msat = min(params.max_payment_size_msat, self.terms.largest_payment_msat)
        if not params.min_payment_size_msat <= onion_msat <= most_msat:
            return Reason.OUT_OF_RANGE
        fee_msat = self.terms.fee_msat(onion_msat)
        if isinstance(fee_msat, Reason):
            return fee_msat
        return Reason.FEE_SUM if part.extra_fee_msat > fee_msat else None

    def _check_fixed(self, part: Part, onion_msat: int, total_msat: int, size_msat: int) -> Reason | None:
        """Return a part of an agreed sum; the fees of all parts together are bounded (I-23)."""
        fee_msat = self.terms.fee_msat(size_msat)
        if isinstance(fee_msat, Reason):
            return fee_msat
        if total_msat < size_msat:
            return Reason.TOTAL_TOO_SMALL
        if total_msat > 2 * size_msat:  # BOLT 4; lightningd cannot see it once the total is rewritten (I-28)
            return Reason.TOTAL_TOO_LARGE
        for other in self.parts.values():
            if (other.total_msat, other.payment_secret) != (total_msat, part.payment_secret):
                return Reason.OTHER_SET
        if len(self.parts) >= MOST_PARTS:
            return Reason.TOO_MANY
        if self.sent_msat + onion_msat > U64_MAX:
            return Reason.SUM_OVERFLOW
        return Reason.FEE_SUM if self.fees_msat + part.extra_fee_msat > fee_msat else None

    def ends_set(self, part: Part, reason: Reason) -> bool:
        """Return whether all parts must be failed with this one: only the LSP can have done that,
        not a stranger (K-27).
        """
        over_it = self.fee_channel in (None, part.key[0])  # a payer decides what comes over the LSP's other channels
        return reason in LSP_FAULTS and part.peer_id == self.terms.lsp_id and over_it

    def is_agreed_fee(self, part: Part) -> bool:
        """Return whether a part's fee is the agreed one: all of it, or this part's share. A payer can put the TLV on a
        part himself, and nodes pass on what they do not know: any other fee says nothing about the LSP.
        """
        total_msat = part.total_msat or 0
        fee_msat = self.terms.fee_msat(self.terms.payment_size_msat or total_msat)
        if isinstance(fee_msat, Reason) or not total_msat:
            return False
        share_msat = fee_msat * (part.onion_msat or 0) // total_msat
        return part.extra_fee_msat == fee_msat or abs(part.extra_fee_msat - share_msat) <= MOST_PARTS

    def hold(self, part: Part, now_ms: int) -> None:
        """Keep a part that `check` passed; the first one starts the time-out."""
        if not self.parts:
            self._first_ms = now_ms
        self.parts.setdefault(part.key, part)

    def drop(self, keys: Iterable[Key]) -> None:
        """Drop parts that have been failed."""
        for key in keys:
            self.parts.pop(key, None)

    @property
    def complete(self) -> bool:
        """All that the payer announced is here, and the agreed sum is in it (I-24)."""
        if not self.parts:
            return False
        announced_msat = max(part.total_msat or 0 for part in self.parts.values())
        return self.sent_msat >= announced_msat and self._agreed()

    def _agreed(self) -> bool:
        size_msat = self.terms.payment_size_msat
        if size_msat is None:
            size_msat = self.sent_msat
        fee_msat = self.terms.fee_msat(size_msat)
        if isinstance(fee_msat, Reason):
            return False
        return self.fees_msat <= fee_msat and self.received_msat >= size_msat - fee_msat

    def claims(self) -> tuple[Claim, ...]:
        """Return how to claim every part. Raises ProtocolBug unless the payment is complete."""
        if not self.complete:
            raise ProtocolBug("a payment may be claimed only when all of it is here")
        total_msat = self.received_msat
        return tuple(Claim(key, part.htlc_msat, total_msat) for key, part in self.parts.items())

    def too_late(self, height: int, final_cltv_blocks: int) -> bool:
        """At this height the held parts must be failed: near expiry (K-06), or lightningd would refuse them."""
        soonest = min((part.cltv_expiry for part in self.parts.values()), default=None)
        if soonest is None:
            return False
        return height + DEADLINE_BLOCKS >= soonest or height + final_cltv_blocks > soonest
