"""The invoices of orders, at lightningd: made, asked about, taken back.

lightningd makes the preimage and keeps it. An invoice that is deleted can be paid no more, not even by a payment whose
hook is unanswered: so a refund is sure once `take_back` has returned, whatever becomes of the plugin afterwards.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import list_invoices, text
from lsps2fast_plugin.cln.models import list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc

FINAL_BLOCKS: Final = 144  # between the arrival of a payment and its expiry
UNKNOWN_LABEL: Final = 905
OTHER_STATUS: Final = 906


class Made(NamedTuple):
    """A new invoice."""

    bolt11: str
    payment_hash: str


class OrderInvoices:
    """Asks lightningd."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def make(self, label: str, amount_sat: int, description: str, valid_s: int) -> Made:
        """Make an invoice. Raises NodeError."""
        params = {
            "amount_msat": amount_sat * 1000,
            "label": label,
            "description": description,
            "expiry": valid_s,
            "cltv": FINAL_BLOCKS,
        }
        answer = await self._rpc.call("invoice", params)
        return Made(text(answer, "invoice", "bolt11"), text(answer, "invoice", "payment_hash"))

    async def is_paid(self, label: str) -> bool:
        """Return whether the payment was taken. Raises NodeError."""
        return any(row.is_paid for row in await list_invoices(self._rpc, label=label))

    async def earliest_expiry(self, payment_hash: str) -> int | None:
        """Return the height at which the first part of a payment to us runs out, None without one. Raises NodeError."""
        heights = [
            htlc.expiry
            for channel in await list_peer_channels(self._rpc)
            for htlc in channel.htlcs
            if htlc.direction == "in" and htlc.payment_hash == payment_hash
        ]
        return min(heights, default=None)

    async def take_back(self, label: str) -> bool:
        """Delete an invoice, so that it is not paid any more; False: it is paid. Raises NodeError."""
        for status in ("unpaid", "expired"):
            try:
                await self._rpc.call("delinvoice", {"label": label, "status": status})
            except NodeError as error:
                if error.code == UNKNOWN_LABEL:
                    return True
                if error.code != OTHER_STATUS:
                    raise
            else:
                return True
        if await self.is_paid(label):
            return False
        raise NodeUnreachable("delinvoice", f"invoice {label} is neither unpaid nor expired nor paid")
