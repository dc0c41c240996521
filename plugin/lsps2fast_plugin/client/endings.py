"""How purchases end: paid, given up, deleted, or no longer covered by the LSP's offer or the invoice (I-33)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from lsps2fast.errors import Lsps2Error
from lsps2fast_plugin.client.bindings import ChannelBindings
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.history import History
from lsps2fast_plugin.client.incoming_payments import Incoming
from lsps2fast_plugin.client.invoices import Invoices
from lsps2fast_plugin.client.records import Approval, Lapse
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock

log = logging.getLogger(__name__)

LONGEST_PAUSE_MS: Final = 60_000
DELETED: Final = "its invoice was deleted"


class PurchaseEndings:
    """Ends purchases; an ending that cannot be stored is put off, with growing pauses (wallet:W9)."""

    def __init__(
        self,
        *,
        book: WalletRecords,
        watch: Watch,
        bindings: ChannelBindings,
        history: History,
        incoming: Incoming,
        invoices: Invoices,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        """Call `changed()` whenever the next time-out may have moved."""
        self._book = book
        self._watch = watch
        self._bindings = bindings
        self._history = history
        self._incoming = incoming
        self._invoices = invoices
        self._clock = clock
        self._changed = changed
        self._put_off = 0  # works that failed and are to be done later
        self._sweep_at_ms = self._sweep_pause_ms = 0  # growing pauses while they do (wallet:W9)

    async def settle(self, approval: Approval) -> None:
        """End a purchase that is paid: from now on the funding is owed, and no further fee (I-33).

        Raises StoreError: the next start does it.
        """
        await self._watch.settled(approval)
        await self._bindings.leave(approval)
        await self._book.settle(approval)
        self._history.ended(approval.payment_hash, "paid")
        self._incoming.settled(approval.payment_hash)
        self._changed()

    async def end(self, approval: Approval, state: str = "expired", why: str | None = None) -> None:
        """End a purchase: paid some time ago, not paid in time, or not payable."""
        await self._book.drop(approval)
        self._incoming.forget(approval.payment_hash)
        self._history.ended(approval.payment_hash, state, why)

    async def end_deleted(self, lsp_id: str) -> None:
        """End purchases at an LSP whose invoice the owner has deleted. Raises NodeError, StoreError."""
        for approval in [each for each in self._book.of_lsp(lsp_id) if each.label is not None]:
            made = approval.payment_hash.hex() in self._history.purchases
            if not made or approval.renewed is not None or approval.released is not None:
                continue  # it is not there yet, or is being renewed or claimed
            if await self._invoices.by_hash(approval.payment_hash) is not None:
                continue
            if await self._incoming.give_back(approval, DELETED):
                await self.end(approval, "cancelled", DELETED)

    async def end_all_deleted(self) -> None:
        """Do so at every LSP. Raises NodeError, StoreError."""
        for lsp_id in self._book.lsps():
            await self.end_deleted(lsp_id)

    async def check_loaded(self, approval: Approval, made: bool) -> None:
        """End a purchase that was paid while we were away, or whose invoice was deleted or, unless `made`, never came
        to be. Raises Lsps2Error.
        """
        row = await self._invoices.by_hash(approval.payment_hash)
        if row is None and approval.renewed is not None and approval.nonce is not None:
            row = await self._invoices.renew(approval.label or "", approval.renewed, approval.nonce)
        if row is not None and row.is_paid:
            await self.settle(approval)
        elif row is None and approval.label is not None and made:
            await self.end(approval, "cancelled", DELETED)
        elif row is None and approval.label is not None:
            log.info(f"the invoice {approval.label!r} was never made; its purchase is forgotten")
            await self.end(approval, "never_made")

    # HTLCs and channels ----------------------------------------------------------------------------

    async def sweep(self) -> None:
        """End what the LSPs' offers or the invoices no longer cover (I-33)."""
        wall_ms = self._clock.wall_ms()
        if self._clock.now_ms() < self._sweep_at_ms:
            return
        failed = self._put_off
        for buy in [each for each in self._book.buys.values() if each.ends_ms <= wall_ms]:
            await self.guarded(partial(self._book.drop_buy, buy))
        for approval in [each for each in self._book.approvals.values() if each.ends_ms <= wall_ms]:
            if not self._incoming.holds(approval.payment_hash):
                await self.guarded(partial(self._sweep_one, approval))
        if self._put_off == failed:
            self._sweep_pause_ms = 0
            return
        self._sweep_pause_ms = min(max(2 * self._sweep_pause_ms, 1_000), LONGEST_PAUSE_MS)
        self._sweep_at_ms = self._clock.now_ms() + self._sweep_pause_ms

    async def guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work whose failure is logged and made good later: at the next block, deadline or start."""
        try:
            await work()
        except Lsps2Error as error:
            self._put_off += 1
            log.warning(f"put off: {error}")

    async def _sweep_one(self, approval: Approval) -> None:
        row = await self._invoices.by_hash(approval.payment_hash) if approval.released and not approval.served else None
        if row is not None and row.is_paid:
            await self.settle(approval)
        if not approval.served:
            await self._book.lapse(Lapse(approval.buy.lsp_id, approval.ends_ms))
        await self.end(approval)

    def next_ms(self) -> int | None:
        """Return in how many milliseconds `sweep` has something to do."""
        held = [each for each in self._book.approvals.values() if not self._incoming.holds(each.payment_hash)]
        ends = [each.ends_ms for each in self._book.buys.values()] + [each.ends_ms for each in held]
        not_before_ms = self._sweep_at_ms - self._clock.now_ms()
        return max(min(ends) - self._clock.wall_ms(), not_before_ms) if ends else None
