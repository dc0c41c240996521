"""lightningd's answers that are no tables of channels, coins or peers, as types: invoices, fee rates, single members.

Like `models`: members that are not read here are ignored; one that is missing or of another type is NodeUnreachable
with a sentence that names it.
"""

from __future__ import annotations

import msgspec

from lsps2fast.errors import NodeUnreachable
from lsps2fast_plugin.cln.models import Caller, Json, read_rows
from lsps2fast_plugin.cln.rows import read


class InvoiceRow(msgspec.Struct, frozen=True):
    """One entry of listinvoices, or the answer to createinvoice. No `amount_msat`: any amount may be paid."""

    payment_hash: str
    status: str
    label: str
    expires_at: int
    bolt11: str | None = None
    amount_msat: int | None = None
    amount_received_msat: int = 0
    created_index: int = 0

    @property
    def is_unpaid(self) -> bool:
        """Whether it still may be paid."""
        return self.status == "unpaid"

    @property
    def is_paid(self) -> bool:
        """Whether the payment was taken."""
        return self.status == "paid"

    @property
    def is_expired(self) -> bool:
        """Whether it ended unpaid."""
        return self.status == "expired"

    @property
    def words(self) -> str:
        """Return the BOLT 11 text. Raises NodeUnreachable for a BOLT 12 invoice, which has none."""
        if self.bolt11 is None:
            raise NodeUnreachable("listinvoices", f"invoice {self.label!r} has no bolt11")
        return self.bolt11


class PerKw(msgspec.Struct, frozen=True):
    """`perkw` in the answer to feerates, in sat per 1000 weight; an estimate is missing while bitcoind has none."""

    min_acceptable: int
    opening: int | None = None
    mutual_close: int | None = None
    unilateral_close: int | None = None
    unilateral_anchor_close: int | None = None

    @property
    def funding(self) -> int:
        """Return what a funding transaction pays; without an estimate the least that is accepted."""
        return self.opening or self.min_acceptable

    @property
    def closing(self) -> int:
        """Return what lightningd aims for when a channel closes by agreement; without an estimate as a funding."""
        return self.mutual_close or self.funding


def text(answer: Json, method: str, member: str) -> str:
    """Return one member of an answer. Raises NodeUnreachable when it is missing or no text."""
    value = answer.get(member)
    if not isinstance(value, str):
        raise NodeUnreachable(method, f"an answer without `{member}`")
    return value


def number(answer: Json, method: str, member: str) -> int:
    """Return one member of an answer. Raises NodeUnreachable when it is missing or no whole number."""
    value = answer.get(member)
    if type(value) is not int:
        raise NodeUnreachable(method, f"an answer without the number `{member}`")
    return value


async def list_invoices(rpc: Caller, **which: str) -> list[InvoiceRow]:
    """Ask for the invoices with this `payment_hash` or `label`. Raises NodeError."""
    return await read_rows(rpc, InvoiceRow, "listinvoices", "invoices", dict(which))


async def feerates(rpc: Caller) -> PerKw:
    """Ask what transactions pay now. Raises NodeError."""
    return read(PerKw, (await rpc.call("feerates", {"style": "perkw"})).get("perkw"), "feerates")


async def derived_secret(rpc: Caller, purpose: str) -> bytes:
    """Ask for 32 bytes that only this node can derive, the same at any time for one purpose. Raises NodeError."""
    secret = text(await rpc.call("makesecret", {"string": purpose}), "makesecret", "secret")
    try:
        return bytes.fromhex(secret)
    except ValueError as error:
        raise NodeUnreachable("makesecret", "an answer whose `secret` is not hex") from error
