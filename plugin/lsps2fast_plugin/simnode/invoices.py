"""Payments to a node itself: invoices, sets of parts, the 70 s timer, the invoice_payment hook (cln:C2 to cln:C5)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from . import failures
from .bolt11 import Bolt11, Hop
from .clock import Timer
from .errors import INVALID_PARAMS, RpcError
from .node_base import NodeBase
from .parts import HeldParts, Part
from .process import Plugin

SET_TIMEOUT_S = 70.0
EXPIRY_S = 604_800


@dataclass(eq=False)
class Invoice:
    """An invoice; `amount_msat` None means "any"."""

    label: str
    amount_msat: int | None
    description: str
    preimage: bytes
    payment_secret: bytes
    bolt11: str
    expires_at: int
    created_index: int
    status: str = "unpaid"
    paid_msat: int = 0
    paid_at: int = 0
    pay_index: int = 0
    updated_index: int = 0

    @property
    def payment_hash(self) -> bytes:
        return hashlib.sha256(self.preimage).digest()

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"label": self.label, "bolt11": self.bolt11, "payment_hash": self.payment_hash.hex()}
        if self.amount_msat is not None:
            row["amount_msat"] = self.amount_msat
        row["status"] = self.status
        if self.status == "paid":
            row |= {"pay_index": self.pay_index, "amount_received_msat": self.paid_msat, "paid_at": self.paid_at}
            row["payment_preimage"] = self.preimage.hex()
        row |= {"description": self.description, "expires_at": self.expires_at, "created_index": self.created_index}
        if self.updated_index:
            row["updated_index"] = self.updated_index
        return row


@dataclass(eq=False)
class Set:
    """The parts of one payment that have come so far."""

    total_msat: int
    parts: list[Part] = field(default_factory=list)
    timer: Timer | None = None


class Invoices:
    """Invoices and incomplete sets of one node; sets do not survive a restart, their parts are replayed."""

    def __init__(self, node: NodeBase, parts: HeldParts) -> None:
        self.node = node
        self.parts = parts
        self.by_hash: dict[bytes, Invoice] = {}
        self.sets: dict[bytes, Set] = {}
        self.created = 0
        self.paid = 0
        self.deleted = 0

    def add(
        self,
        label: str,
        amount_msat: int | None,
        description: str,
        preimage: bytes | None = None,
        routes: list[list[Hop]] | None = None,
        expiry_s: int = EXPIRY_S,
    ) -> Invoice:
        """Return a new invoice; raises 900/901 as lightningd does for a used label or preimage."""
        preimage = preimage if preimage is not None else self.node.rng.randbytes(32)
        # the secret follows from the preimage, so an invoice made anew for the same payment keeps it (cln:C2)
        secret = hashlib.sha256(self.node.private_key + b"payment secret" + preimage).digest()
        payment_hash = hashlib.sha256(preimage).digest()
        now = int(self.node.clock.time())
        text = Bolt11(payment_hash, secret, amount_msat, description, now, routes=routes or [], expiry_s=expiry_s)
        return self.store(label, text, preimage)

    def store(self, label: str, text: Bolt11, preimage: bytes) -> Invoice:
        """Sign and keep an invoice (createinvoice, cln:C6)."""
        if any(invoice.label == label for invoice in self.by_hash.values()):
            raise RpcError(900, f"Duplicate label '{label}'")
        if text.payment_hash in self.by_hash:
            raise RpcError(901, "preimage already used")
        self.created += 1
        invoice = Invoice(
            label,
            text.amount_msat,
            text.description,
            preimage,
            text.payment_secret,
            text.sign(self.node.private_key),
            text.created_at + text.expiry_s,
            self.created,
        )
        self.by_hash[invoice.payment_hash] = invoice
        left_s = max(0.0, invoice.expires_at - self.node.clock.time())
        self.node.clock.call_later(left_s, lambda: self._expire(invoice))
        event: dict[str, Any] = {} if text.amount_msat is None else {"msat": text.amount_msat}
        self.node.notify("invoice_creation", {**event, "preimage": preimage.hex(), "label": label})
        return invoice

    def _expire(self, invoice: Invoice) -> None:
        """Its time is over: nothing is taken for it any more; parts that wait in a set wait on (cln:C4)."""
        if invoice.status == "unpaid":
            invoice.status = "expired"

    def delete(self, label: str, status: str) -> Invoice:
        for invoice in self.by_hash.values():
            if invoice.label == label:
                if invoice.status != status:
                    raise RpcError(906, f"Invoice status is {invoice.status} not {status}")
                del self.by_hash[invoice.payment_hash]
                self.deleted += 1
                self.node.waiters.wake("invoices", "deleted", self.deleted, {"status": status, "label": label})
                return invoice
        raise RpcError(905, "Unknown invoice")

    # paying

    def final_hop(self, part: Part) -> None:
        """Take an HTLC for us, after the hook: the checks of BOLT 4, then the set it belongs to."""
        refusal = self._refusal(part)
        if refusal is not None:
            self.parts.fail(part, refusal)
            return
        self._join(part)

    def _refusal(self, part: Part) -> bytes | None:
        htlc, height = part.htlc, self.node.height
        if htlc.amount_msat < (part.forward_msat or 0):
            return failures.final_incorrect_amount(htlc.amount_msat)
        if htlc.cltv_expiry < (part.outgoing_cltv or 0):
            return failures.final_incorrect_cltv(htlc.cltv_expiry)
        unknown = failures.unknown_details(htlc.amount_msat, height)
        invoice = self.by_hash.get(htlc.payment_hash)
        if invoice is None or invoice.status != "unpaid" or part.payment_secret != invoice.payment_secret:
            return unknown
        if htlc.cltv_expiry < height + self.node.cltv_final:
            return unknown
        wanted_msat = part.invoice_msat if part.invoice_msat is not None else invoice.amount_msat
        total_msat = part.total_msat or 0
        if invoice.amount_msat is None or wanted_msat is None:
            return None
        return None if wanted_msat <= total_msat <= 2 * wanted_msat else unknown

    def _join(self, part: Part) -> None:
        key = part.htlc.payment_hash
        group = self.sets.get(key)
        if group is None:
            group = self.sets[key] = Set(part.total_msat or 0)
            group.timer = self.node.clock.call_later(SET_TIMEOUT_S, lambda: self._time_out(key, group))
        if group.total_msat != part.total_msat:
            self._drop(key, failures.final_incorrect_amount(part.htlc.amount_msat), part)
            return
        group.parts.append(part)
        if sum(each.htlc.amount_msat for each in group.parts) >= group.total_msat:
            self._complete(key, group)

    def _drop(self, key: bytes, message: bytes, *more: Part) -> None:
        group = self.sets.pop(key)
        if group.timer is not None:
            group.timer.cancel()
        for part in (*group.parts, *more):
            self.parts.fail(part, message)

    def _time_out(self, key: bytes, group: Set) -> None:
        if self.sets.get(key) is group:
            self._drop(key, failures.MPP_TIMEOUT)

    def _complete(self, key: bytes, group: Set) -> None:
        if group.timer is not None:
            group.timer.cancel()
        invoice = self.by_hash[key]
        received_msat = sum(each.htlc.amount_msat for each in group.parts)
        self._ask(invoice, received_msat, group, self.node.hook_chain("invoice_payment"))

    def _ask(self, invoice: Invoice, received_msat: int, group: Set, chain: list[Plugin]) -> None:
        """invoice_payment, once per invoice after the last part (cln:C5)."""
        if not chain:
            self._pay(invoice, received_msat, group)
            return
        generation = self.node.generation

        def answered(answer: dict[str, Any] | None) -> None:
            if self.node.generation != generation or self.sets.get(invoice.payment_hash) is not group:
                return  # lightningd has given the set up meanwhile, or is another one
            result = (answer or {}).get("result") or {"result": "continue"}
            if result.get("result") == "reject":
                message = bytes.fromhex(result["failure_message"]) if "failure_message" in result else None
                details = failures.unknown_details(group.parts[0].htlc.amount_msat, self.node.height)
                self._drop(invoice.payment_hash, message or details)
            else:
                self._ask(invoice, received_msat, group, chain[1:])

        payment = {"label": invoice.label, "preimage": invoice.preimage.hex(), "msat": received_msat, "extratlvs": []}
        chain[0].request("invoice_payment", {"payment": payment}, answered)

    def _pay(self, invoice: Invoice, received_msat: int, group: Set) -> None:
        if invoice.status != "unpaid" or self.by_hash.get(invoice.payment_hash) is not invoice:
            self._drop(invoice.payment_hash, failures.unknown_details(received_msat, self.node.height))
            return
        self.sets.pop(invoice.payment_hash, None)
        self.paid += 1
        invoice.status, invoice.paid_msat, invoice.paid_at = "paid", received_msat, int(self.node.clock.time())
        invoice.pay_index = invoice.updated_index = self.paid
        for part in group.parts:
            self.parts.fulfill(part, invoice.preimage)
        event = {"msat": received_msat, "preimage": invoice.preimage.hex(), "label": invoice.label}
        self.node.notify("invoice_payment", event)

    def forget_sets(self) -> None:
        """Forget incomplete sets, as a restart does."""
        for group in self.sets.values():
            if group.timer is not None:
                group.timer.cancel()
        self.sets.clear()


def checked_msat(value: Any, name: str) -> int:
    """Return an amount parameter: an integer or a text such as `1000msat`, `5sat`."""
    text = str(value)
    factor = 1 if text.endswith("msat") else 1000 if text.endswith("sat") else 1
    digits = text.removesuffix("msat").removesuffix("sat")
    if not digits.isdigit():
        raise RpcError(INVALID_PARAMS, f"{name}: should be a satoshi amount: invalid token '{value}'")
    return int(digits) * factor
