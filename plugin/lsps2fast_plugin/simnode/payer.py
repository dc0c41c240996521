"""The payer: channels to the LSP, real onions, one result per part as waitsendpay gives it (cln:H7)."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from . import blinding, bolt11, failures, tlv
from .channels import End, Htlc
from .client import ClientInvoice
from .invoices import Invoice
from .onions import Failed, Hop, Plain, Sphinx
from .party import Party, Surroundings

FINAL_DELTA_BLOCKS = 12


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to pay and how; `scid` None: the payee is our peer itself."""

    node_id: str
    payment_hash: bytes
    payment_secret: bytes
    amount_msat: int | None
    scid: str | None
    cltv_delta: int
    path: blinding.BlindedPath | None = None


def target_of(invoice: ClientInvoice | Invoice | str) -> Target:
    """Read a light wallet's invoice, a node's invoice, or a bolt11 text (its first route hint counts)."""
    if isinstance(invoice, ClientInvoice):
        hop = invoice.scid or invoice.payee.ends[0].other.scid_now()
        node_id, secret = invoice.payee.node_id, invoice.payment_secret
        amount_msat, delta = invoice.amount_msat, invoice.cltv_delta
        return Target(node_id, invoice.payment_hash, secret, amount_msat, hop, delta, invoice.path)
    text = bolt11.decode(invoice if isinstance(invoice, str) else invoice.bolt11)
    hint = text.routes[0][0] if text.routes else bolt11.Hop("", "")
    scid = hint.scid or None
    return Target(text.payee, text.payment_hash, text.payment_secret, text.amount_msat, scid, hint.cltv_delta)


@dataclass(frozen=True, slots=True)
class PartResult:
    """`code` 0: paid. 202 unreadable, 203 the payee says no for good, 204 anything else."""

    code: int
    preimage: bytes | None = None
    failcode: int = 0
    raw_message: bytes = b""
    erring_index: int = 0

    @property
    def failcodename(self) -> str | None:
        return failures.NAMES.get(self.failcode)

    @property
    def message(self) -> str:
        """lightningd's error text."""
        if self.code == 202:
            return "Malformed error reply"
        name = self.failcodename or f"UNKNOWN {self.failcode if self.failcode >= 0 else -1}"
        return f"failed: {name} (reply from remote)"


@dataclass(eq=False)
class Part:
    """One HTLC of a payment."""

    amount_msat: int
    end: End
    htlc: Htlc
    result: asyncio.Future[PartResult]


@dataclass(frozen=True, slots=True)
class PaymentResult:
    """Outcome of all parts; `paid` when every part was fulfilled."""

    parts: tuple[PartResult, ...]

    @property
    def paid(self) -> bool:
        return all(part.code == 0 for part in self.parts)

    @property
    def preimage(self) -> bytes | None:
        return next((part.preimage for part in self.parts if part.preimage is not None), None)

    @property
    def raw_messages(self) -> list[str]:
        """Failure messages in hex, "" for paid parts."""
        return [part.raw_message.hex() for part in self.parts]

    @property
    def codes(self) -> list[int]:
        return [part.code for part in self.parts]


@dataclass(eq=False)
class Payment:
    """Parts under way; `await payment` gives a PaymentResult, within the world's time limit."""

    payer: Payer
    payment_hash: bytes
    parts: list[Part] = field(default_factory=list)
    _ended: int = 0  # so many of the first parts have

    def __await__(self) -> Generator[Any, None, PaymentResult]:
        return self.wait().__await__()

    async def wait(self, timeout_s: float | None = None) -> PaymentResult:
        """Bounded by real time; raises WaitTimeout with the last lines of the transcript."""
        futures = [part.result for part in self.parts]
        results = await self.payer.world.bounded(asyncio.gather(*futures), timeout_s, f"payment of {self.payer.name}")
        return PaymentResult(tuple(results))

    @property
    def done(self) -> bool:
        while self._ended < len(self.parts) and self.parts[self._ended].result.done():
            self._ended += 1
        return self._ended == len(self.parts)


class Payer(Party):
    """Pays over its channels to the LSP. `channels` are its ends of them, in the order they were made."""

    def __init__(self, world: Surroundings, name: str) -> None:
        super().__init__(world, name)
        self.payments: dict[bytes, list[Part]] = {}
        self.by_htlc: dict[Htlc, Part] = {}
        self.paid_msat = 0
        self._session = 0

    @property
    def channels(self) -> list[End]:
        return self.ends

    def pay(
        self,
        invoice: ClientInvoice | Invoice | str,
        amounts_msat: list[int] | None = None,
        *,
        channels: list[int] | None = None,
        scid: str | None = None,
        total_msat: int | None = None,
        overpay_msat: int = 0,
        cltv_delta: int | None = None,
        final_delta: int = FINAL_DELTA_BLOCKS,
        extra_tlvs: bytes = b"",
        more: dict[int, bytes] | None = None,
    ) -> Payment:
        """Send the parts; part k goes over channel `channels[k]` (default: in turn).

        `scid` replaces the hop hint, `overpay_msat` is put on the first hop of each part, `more` adds records to
        the payload of the LSP's hop.
        """
        target = target_of(invoice)
        amounts_msat = amounts_msat or [target.amount_msat or 0]
        total = total_msat if total_msat is not None else sum(amounts_msat)
        payment = Payment(self, target.payment_hash)
        final_cltv = self.chain.height + final_delta
        for place, amount_msat in enumerate(amounts_msat):
            end = self.ends[channels[place] if channels else place % len(self.ends)]
            if target.path is not None:
                hops, extra_tlvs = self._blinded_hops(target.path, amount_msat, total, final_cltv, extra_tlvs)
            else:
                hops = self._hops(target, end, amount_msat, total, final_cltv, scid or target.scid, more)
            delta = 0 if len(hops) == 1 else target.cltv_delta if cltv_delta is None else cltv_delta
            first_msat = amount_msat + overpay_msat
            payment.parts.append(self._send(payment, end, first_msat, final_cltv + delta, hops, extra_tlvs))
        return payment

    @staticmethod
    def _hops(
        target: Target,
        end: End,
        amount_msat: int,
        total_msat: int,
        final_cltv: int,
        scid: str | None,
        more: dict[int, bytes] | None,
    ) -> list[Hop]:
        secret = target.payment_secret
        final = tlv.hop_payload(amount_msat, final_cltv, payment_secret=secret, total_msat=total_msat)
        if scid is None:
            return [(bytes.fromhex(end.peer.node_id), final)]
        middle = tlv.hop_payload(amount_msat, final_cltv, scid, more=more)
        return [(bytes.fromhex(end.peer.node_id), middle), (bytes.fromhex(target.node_id), final)]

    def _blinded_hops(
        self, path: blinding.BlindedPath, amount_msat: int, total_msat: int, final_cltv: int, extra_tlvs: bytes
    ) -> tuple[list[Hop], bytes]:
        """Return hops and TLVs; where the path begins at the payer it takes the first hop itself."""
        total = tlv.tu(total_msat)
        hops = blinding.onion_hops(path, {2: tlv.tu(amount_msat), 4: tlv.tu(final_cltv), blinding.TOTAL_AMOUNT: total})
        if path.first_node_id != self.public_key:
            return hops, extra_tlvs
        opened = blinding.unblind(self.private_key, path.path_key, path.hops[0].encrypted)
        beside = {blinding.PATH_KEY: opened.next_path_key} | tlv.read_records(extra_tlvs)
        return hops[1:], tlv.write_records(beside)

    def send_along(
        self, payment_hash: bytes, hops: list[Hop], amount_msat: int, cltv_expiry: int, extra_tlvs: bytes = b""
    ) -> Payment:
        """Send one part along a way of the caller's own making, over the first channel."""
        payment = Payment(self, payment_hash)
        payment.parts.append(self._send(payment, self.ends[0], amount_msat, cltv_expiry, hops, extra_tlvs))
        return payment

    def _send(
        self, payment: Payment, end: End, amount_msat: int, cltv_expiry: int, hops: list[Hop], extra_tlvs: bytes
    ) -> Part:
        self._session += 1
        kind = Sphinx if self.world.sphinx else Plain
        onion = kind.build(self.rng.randbytes(32), hops, payment.payment_hash)
        future: asyncio.Future[PartResult] = asyncio.get_running_loop().create_future()
        htlc = end.channel.offer(end, amount_msat, cltv_expiry, payment.payment_hash, onion, extra_tlvs)
        part = Part(amount_msat, end, htlc, future)
        self.by_htlc[htlc] = part
        return part

    def htlc_resolved(self, htlc: Htlc) -> None:
        part = self.by_htlc.pop(htlc, None)
        if part is None or part.result.done():
            return
        if htlc.preimage is not None:
            self.paid_msat += htlc.amount_msat
            part.result.set_result(PartResult(0, htlc.preimage))
            return
        if htlc.lost_on_chain:
            part.result.set_result(PartResult(204, None, 0x4008, failures.PERMANENT_CHANNEL_FAILURE))
            return
        part.result.set_result(self._failure(htlc, htlc.onion.unwrap(htlc.failure or b"")))

    @staticmethod
    def _failure(htlc: Htlc, failed: Failed) -> PartResult:
        if failed.hop < 0 or not failed.message:
            return PartResult(202)
        code = failures.code_of(failed.message)
        permanent = code > 0 and bool(code & 0x4000)
        refused_for_good = permanent and _is_final(htlc, failed.hop)
        return PartResult(203 if refused_for_good else 204, None, code, failed.message, failed.hop + 1)


def _is_final(htlc: Htlc, hop: int) -> bool:
    return hop + 1 == htlc.onion.length


def upstream(node: Party) -> list[End]:
    """Return the ends of a node over which payers reach it."""
    return [end for end in node.ends if isinstance(end.peer, Payer)]
