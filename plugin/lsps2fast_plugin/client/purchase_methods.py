"""The RPC methods about purchases: list them, look at one, cancel one (wallet:W13)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lsps2fast.errors import ConfigError, Lsps2Error, NodeError
from lsps2fast_plugin.client import checking, params
from lsps2fast_plugin.client.history import STATES, History, page, shown
from lsps2fast_plugin.client.incoming_payments import Incoming
from lsps2fast_plugin.client.invoices import Invoices
from lsps2fast_plugin.client.records import Approval
from lsps2fast_plugin.client.store import WalletRecords

Json = dict[str, Any]
MOST_A_PAGE = 1000


class PurchaseMethods:
    """One coroutine for each method; each may raise ConfigError or any other Lsps2Error."""

    def __init__(
        self,
        history: History,
        book: WalletRecords,
        incoming: Incoming,
        invoices: Invoices,
        end: Callable[[Approval, str, str | None], Awaitable[None]],
    ) -> None:
        """`end(approval, state, why)` ends a purchase."""
        self._history = history
        self._book = book
        self._incoming = incoming
        self._invoices = invoices
        self._end = end

    async def list_purchases(
        self, state: Any = None, label: Any = None, payment_hash: Any = None, start: Any = None, limit: Any = None
    ) -> Json:
        """Return every purchase that was made, oldest first, a page at a time."""
        if state is not None and state not in STATES:
            raise ConfigError(f"state={params.shown(state)} is none; give one of {', '.join(STATES)}")
        return page(
            self._history.find(
                state,
                None if label is None else str(label),
                None if payment_hash is None else params.payment_hash(payment_hash).hex(),
            ),
            _number(start, "start", 0, 0, 2**63),
            _number(limit, "limit", 100, 1, MOST_A_PAGE),
        )

    async def purchase(self, payment_hash: Any = None, label: Any = None) -> Json:
        """One purchase, by its payment hash or its label; of several with one label the latest."""
        return shown(self._one(payment_hash, label))

    async def cancel_purchase(self, payment_hash: Any = None, label: Any = None) -> Json:
        """End a purchase that was not paid: its invoice is deleted, no channel is let in for it, its parts go back."""
        record = self._one(payment_hash, label)
        checking.parameters_are_right()
        approval = self._book.approvals.get(bytes.fromhex(record["payment_hash"]))
        if approval is None or approval.served:
            raise Lsps2Error(f"this purchase is over: {record['state']}")
        if not await self._incoming.give_back(approval, "its owner cancelled the purchase"):
            raise Lsps2Error("its payment is being claimed right now")
        if approval.label is not None:
            await self._delete(approval.label)
        await self._end(approval, "cancelled", "its owner cancelled it")
        return shown(self._one(record["payment_hash"], None))

    async def _delete(self, label: str) -> None:
        for status in ("unpaid", "expired"):
            try:
                await self._invoices.delete(label, status)
                return
            except NodeError:
                continue  # it has another status, or is gone already

    def _one(self, payment_hash: Any, label: Any) -> Json:
        if (payment_hash is None) == (label is None):
            raise ConfigError("give either payment_hash or label")
        wanted = None if payment_hash is None else params.payment_hash(payment_hash).hex()
        found = self._history.find(None, None if label is None else str(label), wanted)
        if not found:
            raise ConfigError("there is no such purchase; lsps2-listpurchases shows all")
        return found[-1]


def _number(value: Any, name: str, default: int, least: int, most: int) -> int:
    if value is None:
        return default
    number = params.whole(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name}={params.shown(value)} must be a whole number from {least} to {most}")
    return number
