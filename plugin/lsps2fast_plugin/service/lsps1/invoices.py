"""The invoices of orders, at lightningd: made, asked about, taken back.

While this plugin lives no HTLC for them comes to lightningd (`order_parts`), and their preimages are in our records.
They are there for the time without it: then lightningd takes what is paid, and the channel is owed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import list_invoices, text
from lsps2fast_plugin.cln.models import get_info, list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.cln.scid_aliases import Key

FINAL_BLOCKS: Final = 144  # between the arrival of a payment and its expiry
HELD_S: Final = 172_800  # a payment is held at most as long as `FINAL_BLOCKS`, twice; until then lightningd may take it
UNKNOWN_LABEL: Final = 905
OTHER_STATUS: Final = 906


class Taken(Enum):
    """Whether lightningd took the payment of an invoice."""

    YES = auto()
    NO = auto()
    GONE = auto()  # there is no such invoice: it was deleted, paid or not, and no bookkeeper says which


class Made(NamedTuple):
    """A new invoice."""

    bolt11: str
    payment_hash: str


class OrderInvoices:
    """Asks lightningd."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def make(self, label: str, amount_sat: int, description: str, valid_s: int, preimage: bytes) -> Made:
        """Make an invoice that may be paid for so long, and held for `HELD_S` after that. Raises NodeError."""
        params = {
            "amount_msat": amount_sat * 1000,
            "label": label,
            "description": description,
            "expiry": valid_s + HELD_S,
            "fallbacks": [],  # what is paid on chain buys nothing
            "preimage": preimage.hex(),
            "cltv": FINAL_BLOCKS,
        }
        answer = await self._rpc.call("invoice", params)
        return Made(text(answer, "invoice", "bolt11"), text(answer, "invoice", "payment_hash"))

    async def is_taken(self, label: str, payment_hash: str) -> Taken:
        """Return whether lightningd took the payment. Raises NodeError."""
        rows = await list_invoices(self._rpc, label=label)
        if rows:
            return Taken.YES if any(row.is_paid for row in rows) else Taken.NO
        return await self._booked(payment_hash)

    async def _booked(self, payment_hash: str) -> Taken:
        """Ask the bookkeeper about an invoice that was deleted, paid or not (people clean up). Raises NodeError."""
        sum_msat = await self._income_msat(payment_hash)
        if sum_msat is None:
            return Taken.GONE
        return Taken.YES if sum_msat else Taken.NO

    async def _income_msat(self, payment_hash: str) -> int | None:
        """Return what this node has taken for a hash; None: the bookkeeper does not say. Raises NodeError."""
        try:
            answer = await self._rpc.call("bkpr-listaccountevents", {"payment_id": payment_hash})
        except NodeUnreachable:
            raise
        except NodeError:  # it is switched off
            return None
        events = answer.get("events")
        if not isinstance(events, list):
            return None
        ours = (each for each in events if isinstance(each, dict) and each.get("tag") == "invoice")
        return sum(sum_msat for each in ours if isinstance(sum_msat := each.get("credit_msat"), int))

    async def is_taken_beside(self, label: str, payment_hash: str) -> bool:
        """Return whether we took a payment beside the one that lightningd took; yes without a bookkeeper. NodeError."""
        rows = await list_invoices(self._rpc, label=label)
        sum_msat = await self._income_msat(payment_hash)
        return sum_msat is None or sum_msat > sum(row.amount_received_msat for row in rows)

    async def under_way(self, payment_hash: str, *, on_chain: bool = False) -> frozenset[Key]:
        """Return the parts of a payment to us that lightningd has, by every name of their channels. Raises NodeError.

        Those in a channel that has left for the chain only when asked for (`on_chain`): nothing certain comes of them
        (rule:19), but who has the preimage may claim them there.
        """
        found: set[Key] = set()
        for channel in await list_peer_channels(self._rpc):
            for htlc in channel.htlcs:
                ours = htlc.direction == "in" and htlc.payment_hash == payment_hash
                if ours and htlc.is_pending and (on_chain or not channel.has_left):
                    found.add((channel.channel_id, htlc.id))
                    found.update((scid, htlc.id) for scid in channel.scids)
        return frozenset(found)

    async def knows_the_chain(self, height: int) -> bool:
        """Return whether lightningd has read the latest blocks, and they are at this height. Raises NodeError."""
        info = await get_info(self._rpc)
        return not info.is_syncing and info.blockheight <= height

    async def take_back(self, label: str) -> Taken:
        """Delete an invoice, so that it is not paid any more; return whether it was. Raises NodeError."""
        for status in ("unpaid", "expired"):
            try:
                await self._rpc.call("delinvoice", {"label": label, "status": status})
            except NodeError as error:
                if error.code == UNKNOWN_LABEL:
                    return Taken.GONE
                if error.code != OTHER_STATUS:
                    raise
            else:
                return Taken.NO
        if any(row.is_paid for row in await list_invoices(self._rpc, label=label)):
            return Taken.YES
        raise NodeUnreachable("delinvoice", f"invoice {label} is neither unpaid nor expired nor paid")
