"""HTLCs of approved payments: from the hook call to its one answer (I-20 … I-32).

`lsps2fast.lsps.receiving` judges the parts. Here they are kept as open hook calls, the LSP's fee of each is stored at
once, and nothing is released to lightningd before the set is complete, the funding is as safe as the owner asked, the
invoice is the one that was agreed to, and the release itself is stored (K-23). The part that makes a set complete is
stored with the release, where that waits for nothing.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from lsps2fast import _tlv as tlv
from lsps2fast.errors import Lsps2Error, MalformedTlv, StoreError
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.lsps.receiving import (
    MPP_TIMEOUT,
    Claim,
    Key,
    Part,
    Reason,
    carries_fee,
    details_failure,
    read_part,
)
from lsps2fast_plugin.client.bindings import ChannelBindings
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.held_payment import Call, HeldPayment
from lsps2fast_plugin.client.history import History
from lsps2fast_plugin.client.invoices import Invoices, renewed, wrong_invoice
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Approval, Distrust, Released
from lsps2fast_plugin.client.release_ground import ReleaseGround
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.answers import InvoiceRow
from lsps2fast_plugin.cln.clock import Clock

log = logging.getLogger(__name__)

TEMPORARY_NODE_FAILURE = "2002"


class Host(Protocol):
    """What is used of the host."""

    def final(self, id_raw: bytes, payload_hex: str, invoice_msat: int | None = None) -> None:
        """Answer `continue` with another payload."""

    def fail(self, id_raw: bytes, failure_hex: str) -> None:
        """Answer `fail`."""

    def let_go(self, id_raw: bytes) -> None:
        """Answer `continue`."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        """Run by itself."""


class Incoming:
    """All payments with parts held."""

    def __init__(
        self,
        *,
        host: Host,
        book: WalletRecords,
        chain: Chain,
        invoices: Invoices,
        clock: Clock,
        settings: Settings,
        report: Callable[[str, str], None],
        changed: Callable[[], None],
        bindings: ChannelBindings,
        watch: Watch,
        history: History,
    ) -> None:
        """`report(lsp_id, sentence)` tells the owner why something was refused; `changed()` that the next time-out
        may have moved.
        """
        self._host = host
        self._book = book
        self._chain = chain
        self._invoices = invoices
        self._clock = clock
        self.settings = settings
        self._report = report
        self._changed = changed
        self._bindings = bindings
        self._watch = watch
        self._history = history
        self._payments: dict[bytes, HeldPayment] = {}
        self._grounds = ReleaseGround(book, chain, watch, clock, settings)
        self.final_cltv_blocks = 0

    def allow(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self.settings = settings
        self._grounds.allow(settings)

    # ---- from the host

    def take(self, scan: Any) -> None:
        """Take a part of an approved payment, which ends here; it is answered now or later, once."""
        approval = self._book.approvals[scan.payment_hash]
        payment = self._payments.get(approval.payment_hash)
        if payment is not None and payment.approval is not approval:
            self.forget(approval.payment_hash)
            payment = None
        if payment is None:
            payment = self._payments[approval.payment_hash] = HeldPayment(approval, self.settings.hold_ms)
        self._host.spawn(self._answer(payment, scan))

    def refuse_fee(self, scan: Any) -> None:
        """Refuse a part with an opening fee for a payment that buys no channel (I-22); replays have no TLV (I-32)."""
        self._report(
            scan.peer_id or "",
            f"payment {scan.payment_hash.hex()}: refused a part of {scan.amount_msat} msat: {Reason.FEE_NEVER_AGREED};"
            " nothing of it was claimed",
        )
        self._host.fail(scan.id_raw, self._details(scan.amount_msat))

    def holds(self, payment_hash: bytes) -> bool:
        """Return whether parts of this payment are held."""
        payment = self._payments.get(payment_hash)
        return payment is not None and bool(payment.collected.parts or payment.lock.locked())

    def awaits(self, payment_hash: bytes) -> tuple[str, int] | None:
        """Return how far the funding has come that the parts held wait for, and as of which block; None: for none."""
        payment = self._payments.get(payment_hash)
        if payment is None or not payment.releasing or payment.awaits is None:
            return None
        return payment.awaits.value, payment.awaits_height

    def held_parts(self) -> int:
        """Return the number of parts held, of all payments; each is known again after a death of this plugin."""
        return sum(payment.stored for payment in self._payments.values())

    def settled(self, payment_hash: bytes) -> None:
        """Fail what came on top of a payment that is made (I-22)."""
        payment = self._payments.get(payment_hash)
        if payment is not None and payment.collected.parts:
            self._fail_set(payment, None, "the invoice is paid already")

    async def give_back(self, approval: Approval, why: str) -> bool:
        """Fail what is held of a payment; False when it is being claimed."""
        payment = self._payments.get(approval.payment_hash)
        if payment is None:
            return approval.released is None
        async with payment.lock:
            if approval.released is not None:
                return False
            if payment.collected.parts:
                self._fail_set(payment, TEMPORARY_NODE_FAILURE, why)
        return True

    def forget(self, payment_hash: bytes) -> None:
        """Forget a payment whose approval is gone; a part that came while it ended goes back (K-20)."""
        payment = self._payments.pop(payment_hash, None)
        if payment is not None and payment.collected.parts:
            self._fail_set(payment, TEMPORARY_NODE_FAILURE, "its purchase has ended")

    # ---- time, blocks, channels

    def next_due_ms(self) -> int | None:
        """Return when `tick` has something to do, by the monotonic clock."""
        due_ms = (payment.collected.due_ms for payment in self._payments.values() if not payment.releasing)
        return min((each for each in due_ms if each is not None), default=None)

    def tick(self) -> None:
        """Fail sets that did not become complete in time (I-27)."""
        for payment in list(self._payments.values()):
            due_ms = payment.collected.due_ms
            if due_ms is not None and due_ms <= self._clock.now_ms() and not payment.releasing:
                self._fail_set(payment, MPP_TIMEOUT, "the rest of the payment did not come in time")

    def block(self) -> None:
        """Fail sets that come too near their expiry (K-06), and look at fundings again."""
        for payment in list(self._payments.values()):
            if payment.collected.too_late(self._chain.height, self.final_cltv_blocks):
                sight = payment.awaits
                waited = "" if sight is None else f"the funding transaction is {sight.value}, and "
                self._fail_set(payment, MPP_TIMEOUT, f"{waited}its HTLCs would soon expire")
        self.look()

    def look(self) -> None:
        """Look at fundings again: a channel may have changed."""
        self._grounds.look()

    def channel_closes(self, channel_id: str) -> None:
        """Fail parts in a channel that is closing; the payer may try again."""
        for payment in list(self._payments.values()):
            keys = [key for key in payment.collected.parts if key[0] == channel_id]
            if keys:
                self._report(payment.approval.buy.lsp_id, f"{payment} failed: its channel is being closed")
                self._fail(payment, keys, TEMPORARY_NODE_FAILURE)

    def stop(self) -> None:
        """Fail what is held, for the plugin ends: the payer may try again.

        What we know of the parts stays in their record: when lightningd itself stops it ignores these answers and
        asks again at its next start, without the TLVs (cln:W12, I-32).
        """
        for payment in list(self._payments.values()):
            for call in payment.take_calls(list(payment.calls)):
                self._host.fail(call.id_raw, TEMPORARY_NODE_FAILURE)

    # ---- one part

    async def _answer(self, payment: HeldPayment, scan: Any) -> None:
        """Take a part; whatever goes wrong, its call is answered (K-20)."""
        try:
            async with payment.lock:
                fee_of = await self._take(payment, scan)
            if fee_of is not None:
                await self._remember_fee(payment, fee_of)
        except Lsps2Error as error:
            log.error(f"{payment}: a part is failed for now: {error}")
        except Exception:  # an HTLC without an answer blocks its channel
            log.error(f"{payment}: a part is failed because of a bug\n{traceback.format_exc()}")
        else:
            return
        payment.discard(scan.id_raw)
        self._host.fail(scan.id_raw, TEMPORARY_NODE_FAILURE)

    async def _take(self, payment: HeldPayment, scan: Any) -> Key | None:
        """Return the part whose fee is to be stored; None for none, or where its release is about to."""
        approval = payment.approval
        if approval.served:
            self._late(payment, scan)
            return None
        key = await self._key(scan)
        call = Call(scan.id_raw, scan.payload_hex, scan.amount_msat)
        if approval.released is not None and key in approval.released.amounts_msat:
            self._release_one(call, key, approval.released)  # K-07: asked again, the same answer
            return None
        try:
            part = read_part(scan, key, approval.fees_msat.get(key))
        except MalformedTlv as error:
            log.warning(f"{payment}: a part is malformed: {error}")
            self._host.fail(scan.id_raw, self._details(scan.amount_msat))
            return None
        reason = await self._check(payment, part)
        if reason is not None:
            await self._refuse(payment, part, call, reason)
            return None
        if key[0] != approval.channel_id and (why := await self._watch.unsafe(key[0])) is not None:
            self._report(part.peer_id or "", f"{payment}: refused a part over channel {key[0]}: {why}")
            self._host.fail(scan.id_raw, TEMPORARY_NODE_FAILURE)
            return None
        if approval.served or self._book.approvals.get(approval.payment_hash) is not approval:
            self._host.fail(scan.id_raw, self._details(scan.amount_msat))
            return None
        fee_is_new = bool(part.extra_fee_msat) and key not in approval.fees_msat
        if fee_is_new:
            approval.fees_msat[key] = part.extra_fee_msat
            payment.storing.add(key)
        payment.collected.hold(part, self._clock.now_ms())
        payment.calls.setdefault(key, []).append(call)
        self._changed()
        if payment.collected.complete and not payment.releasing:
            payment.releasing = True
            self._history.held(approval.payment_hash, keep=False)
            self._host.spawn(self._release(payment))
            return None
        self._history.held(approval.payment_hash)
        return key if fee_is_new else None

    async def _check(self, payment: HeldPayment, part: Part) -> Reason | None:
        """Judge a part; a fee only over the channel that was opened for this purchase (rule:27)."""
        approval = payment.approval
        if part.extra_fee_msat and part.peer_id == approval.buy.lsp_id and part.key[0] != approval.channel_id:
            if part.key[0] not in self._book.channels:
                await self._watch.survey(id=approval.buy.lsp_id)
            await self._bindings.settle_on(approval, part.key[0])
        payment.collected.fee_channel = approval.channel_id or ""
        payment.collected.reuse_fee_percent = self.settings.reuse_fee_percent
        return payment.collected.check(part)

    async def _key(self, scan: Any) -> Key:
        """Return a part's lasting name: a scid changes when its channel confirms (cln:H3)."""
        channel_id = await self._chain.channel_of(scan.in_scid)
        return (channel_id or format_scid(scan.in_scid), scan.htlc_id)

    async def _remember_fee(self, payment: HeldPayment, key: Key) -> None:
        """Store the fee of a part at once: lightningd does not keep the TLV over a restart (I-32).

        Raises StoreError: then the part is not held.
        """
        try:
            await self._book.save(payment.approval)
        except StoreError:
            if payment.approval.released is None:  # else it stands in the record of the release
                payment.approval.fees_msat.pop(key, None)
                raise
        finally:
            payment.storing.discard(key)
            self._changed()

    async def _store_held(self, payment: HeldPayment) -> None:
        """Store what is known of the parts: their release must wait. Raises StoreError."""
        if storing := payment.storing & payment.collected.parts.keys():
            await self._book.save(payment.approval)
            payment.storing -= storing
            self._changed()
        self._history.keep(payment.approval.payment_hash)

    def _late(self, payment: HeldPayment, scan: Any) -> None:
        """Refuse a second fee for a payment that is made; lightningd refuses other parts of it (I-22)."""
        if not carries_fee(scan):
            self._host.let_go(scan.id_raw)
            return
        self._report(payment.approval.buy.lsp_id, f"{payment}: refused a part: {Reason.FEE_UNEXPECTED}")
        self._host.fail(scan.id_raw, self._details(scan.amount_msat))

    async def _refuse(self, payment: HeldPayment, part: Part, call: Call, reason: Reason) -> None:
        """Fail a part that breaks the agreement, and with it the set when only the LSP can have done that."""
        buy = payment.approval.buy
        self._report(
            buy.lsp_id,
            f"{payment}: refused a part of {part.onion_msat} msat ({part.htlc_msat} arrived,"
            f" {part.extra_fee_msat} are called fee, {buy.opening_fee_msat} were agreed for all parts): {reason};"
            " nothing of it was claimed",
        )
        self._host.fail(call.id_raw, self._details(call.amount_msat))
        if payment.collected.ends_set(part, reason):
            self._fail(payment, list(payment.collected.parts), None)
        elsewhere = reason is Reason.FEE_ELSEWHERE and payment.collected.is_agreed_fee(part)
        broken = elsewhere and not self._bindings.waits_for_its_payment(part.key[0])
        if broken and buy.lsp_id not in self._book.distrusted:
            why = f"it took a fee for payment {payment.approval.payment_hash.hex()} without opening a channel for it"
            self._report(buy.lsp_id, f"ALARM: {why}; the LSP is not trusted any more")
            self._host.spawn(self._book.distrust(Distrust(buy.lsp_id, why, self._clock.wall_ms())))

    # ---- the whole

    async def _release(self, payment: HeldPayment) -> None:
        """Claim a complete payment, or fail it."""
        try:
            while payment.collected.complete:
                ground = await self._grounds.of(payment, partial(self._store_held, payment))
                async with payment.lock:
                    if not payment.stands_on(ground):
                        continue  # parts over other channels came while we looked
                    if payment.collected.complete:
                        await self._claim(payment, ground.why)
                    break
            if payment.approval.released is None:
                await self._store_held(payment)
        except Lsps2Error as error:
            log.error(f"{payment} is failed for now: {error}")
            self._fail(payment, list(payment.collected.parts), TEMPORARY_NODE_FAILURE)
        except Exception:  # held HTLCs must not wait for their expiry
            log.error(f"{payment} is failed because of a bug\n{traceback.format_exc()}")
            self._fail(payment, list(payment.collected.parts), TEMPORARY_NODE_FAILURE)
        finally:
            payment.releasing = False
            self._changed()

    async def _claim(self, payment: HeldPayment, why: str | None) -> None:
        approval, collected = payment.approval, payment.collected
        row = await self._invoices.by_hash(approval.payment_hash)
        if why is None and row is not None and row.is_expired and approval.nonce is not None:
            row = await self._renew(approval, row, approval.nonce)
        why = why or wrong_invoice(row, approval.buy.payment_size_msat)
        if why is not None:
            expired = row is not None and row.is_expired
            self._fail_set(payment, MPP_TIMEOUT if expired else None, why)
            return
        if not collected.complete:
            return  # failed while we asked
        claims = collected.claims()
        total_msat = claims[0].total_msat
        invoice_msat = None if row is None or row.amount_msat is None else total_msat
        before = approval.released
        approval.released = Released(
            total_msat, invoice_msat, {claim.key: claim.amount_msat for claim in claims}, self._clock.wall_ms()
        )
        try:
            await self._book.save(approval)
        except StoreError:
            approval.released = before
            raise
        payment.storing.difference_update(claim.key for claim in claims)
        if collected.complete and collected.claims() == claims:
            self._release_all(payment, claims, approval.released)

    async def _renew(self, approval: Approval, row: InvoiceRow, nonce: str) -> InvoiceRow:
        """Renew the invoice of a payment that came in time and whose funding is sound (wallet:W4)."""
        approval.renewed = renewed(row, self._clock.wall_ms())
        await self._book.save(approval)
        log.info(f"the invoice {row.label!r} ended while its payment waited for the funding; it is renewed")
        return await self._invoices.renew(row.label, approval.renewed, nonce)

    def _release_all(self, payment: HeldPayment, claims: tuple[Claim, ...], released: Released) -> None:
        self._history.claimed(payment.approval.payment_hash, released.total_msat, payment.collected.fees_msat)
        for claim in claims:
            for call in payment.take_calls((claim.key,)):
                self._release_one(call, claim.key, released)
        payment.collected.drop([claim.key for claim in claims])
        log.info(f"{payment}: {len(claims)} parts, {released.total_msat} msat are claimed")

    def _release_one(self, call: Call, key: Key, released: Released) -> None:
        """Release a part; lightningd then checks secret, expiry, and that its own set is complete (I-28)."""
        try:
            payload = tlv.final_payload(call.payload_hex, released.amounts_msat[key], released.total_msat)
        except MalformedTlv as error:
            log.error(f"a part of a complete payment cannot be rewritten: {error}")
            self._host.fail(call.id_raw, self._details(call.amount_msat))
            return
        self._host.final(call.id_raw, payload, released.invoice_msat)

    # ---- failing

    def _fail_set(self, payment: HeldPayment, failure: str | None, why: str) -> None:
        """Fail everything held of a payment and say why; `failure` None: incorrect_or_unknown_payment_details."""
        collected = payment.collected
        self._report(
            payment.approval.buy.lsp_id,
            f"{payment}: its {len(collected.parts)} parts of {collected.received_msat} msat go back to the payer:"
            f" {why}; nothing of it was claimed",
        )
        self._fail(payment, list(collected.parts), failure, why)

    def _fail(
        self, payment: HeldPayment, keys: list[Key], failure: str | None, why: str = "its parts went back to the payer"
    ) -> None:
        for call in payment.take_calls(keys):
            self._host.fail(call.id_raw, failure or self._details(call.amount_msat))
        payment.collected.drop(keys)
        if not payment.collected.parts:
            self._history.given_back(payment.approval.payment_hash, why)
        self._changed()
        fees = payment.approval.fees_msat
        if any(fees.pop(key, None) is not None for key in list(keys)):
            self._host.spawn(self._save(payment.approval))

    async def _save(self, approval: Approval) -> None:
        try:
            await self._book.save(approval)
        except StoreError as error:  # it only says more than is true: fees of parts that are gone
            log.warning(f"an approval could not be written: {error}")

    def _details(self, htlc_msat: int) -> str:
        return details_failure(htlc_msat, self._chain.height)
