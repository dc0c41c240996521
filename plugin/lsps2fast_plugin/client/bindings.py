"""Which channel was opened for which purchase: a fee buys a channel, one fee each (rule:27, I-16, I-22).

The purchase is chosen when the LSP asks to open, and written before we say yes. Which of lightningd's channels it
became is found afterwards, at once or after a restart: the one of that size that was not there before. An LSP with
several open purchases may have meant another one of them; the first part that carries a fee tells, and as long as no
fee was taken over either channel the two are exchanged. A purchase that is paid without its channel, as over one that
we had, leaves it to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lsps2fast.errors import StoreError
from lsps2fast_plugin.client import channel_terms
from lsps2fast_plugin.client.channel_terms import Decision, Limits, Wanted
from lsps2fast_plugin.client.records import Approval, JitChannel, Opening
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import CLOSING, PeerChannel

log = logging.getLogger(__name__)

Json = dict[str, Any]


def _is_paid_elsewhere(approval: Approval, channel_id: str | None) -> bool:
    """Return whether a payment was claimed, and none of it came over this channel; None: one that is not seen yet."""
    released = approval.released
    return released is not None and all(key[0] != channel_id for key in released.amounts_msat)


class ChannelBindings:
    """Gives channels to purchases."""

    def __init__(self, book: WalletRecords, clock: Clock, limits: Limits) -> None:
        self._book = book
        self._clock = clock
        self.limits = limits
        self.settled = asyncio.Lock()  # while it is decided, and written, what is for which purchase
        self.moved: Callable[[JitChannel], None] = lambda channel: None  # a channel is for another purchase than before
        self._linked: set[bytes] = set()  # purchases whose opening was accepted on a link that still stands

    # ---- before a channel

    def decide(self, openchannel: Json, rows: list[PeerChannel]) -> tuple[Decision, Approval | None]:
        """Judge an opening; `rows` are the LSP's channels now. With it the purchase it is for."""
        all_waiting = self._waiting(openchannel["id"])
        waiting = [each for each in all_waiting if each.openings < channel_terms.MOST_OPENINGS]
        if all_waiting and not waiting and channel_terms.is_zero_conf(openchannel):
            return channel_terms.refused(channel_terms.WORN_OUT), None
        in_use = [self._channel_in_use(each, rows) is not None for each in waiting]
        decision = self._judge(openchannel, waiting, in_use)
        if decision.why == channel_terms.TAKEN:  # what was left to a purchase may not have been meant for it
            left = [each.opening is not None and each.opening.left for each in waiting]
            in_use = [used and not was_left for used, was_left in zip(in_use, left, strict=True)]
            decision = self._judge(openchannel, waiting, in_use)
        return decision, None if decision.purchase is None else waiting[decision.purchase]

    def _judge(self, openchannel: Json, waiting: list[Approval], in_use: list[bool]) -> Decision:
        wanted = [
            Wanted(each.buy.least_receive_msat(), each.buy.params.max_client_to_self_delay_blocks, not used)
            for each, used in zip(waiting, in_use, strict=True)
        ]
        return channel_terms.decide(openchannel, wanted, self.limits)

    def _waiting(self, lsp_id: str) -> list[Approval]:
        wall_ms = self._clock.wall_ms()
        return [each for each in self._book.of_lsp(lsp_id) if each.ends_ms > wall_ms]

    def _channel_in_use(self, approval: Approval, rows: list[PeerChannel]) -> str | None:
        """Return the channel that this purchase has already: one at a time, whatever broke since (I-16).

        One that was not ready when the link broke may be forgotten on the other side: it does not count (O-16).
        """
        opening = approval.opening
        if opening is None:
            return None
        for row in rows:
            known = row.channel_id == opening.channel_id
            counts = row.is_normal or (not row.is_closing and approval.payment_hash in self._linked)
            if counts and (known or (opening.channel_id is None and self._became(approval.buy.lsp_id, opening, row))):
                return row.channel_id
        return None

    def disconnected(self, lsp_id: str) -> None:
        """Note that the link to this LSP broke."""
        self._linked -= {each.payment_hash for each in self._book.of_lsp(lsp_id)}

    def _became(self, lsp_id: str, opening: Opening, row: PeerChannel) -> bool:
        return (
            row.peer_id == lsp_id
            and not row.is_ours
            and row.private
            and row.total_msat == opening.capacity_msat
            and row.channel_id not in opening.others
            and self.purchase_of(row.channel_id) is None
        )

    async def accept(self, approval: Approval, openchannel: Json, rows: Iterable[PeerChannel]) -> bool:
        """Write that this opening is for this purchase; False when that ended meanwhile. Raises StoreError.

        Under the lock `settled`, as `decide` before it.
        """
        before = approval.opening
        others = frozenset(row.channel_id for row in rows)
        sequence = 1 + max((each.opening.sequence for each in self._book.approvals.values() if each.opening), default=0)
        approval.opening = Opening(openchannel["funding_msat"], self._clock.wall_ms(), others, sequence=sequence)
        approval.openings += 1
        try:
            await self._book.save(approval)
        except Exception:
            approval.opening = before
            approval.openings -= 1
            raise
        self._linked.add(approval.payment_hash)
        return self._book.is_open(approval)

    # ---- a channel is there

    def opening(self) -> set[str]:
        """LSPs that may have a channel with us by now which we have not seen yet."""
        return {
            each.buy.lsp_id
            for each in self._book.approvals.values()
            if each.opening is not None and each.opening.channel_id is None
        }

    def purchase_of(self, channel_id: str) -> Approval | None:
        """Return the purchase that a channel was opened for, paid or not."""
        return next((each for each in self._book.approvals.values() if each.channel_id == channel_id), None)

    async def adopt(self, channel: JitChannel, row: PeerChannel) -> None:
        """Find the purchase of a channel that is new to us. Raises StoreError."""
        async with self.settled:  # in the middle of an exchange an opening is for no purchase
            owner = self.meant_for(row)
            if owner is None or owner.opening is None:
                return
            channel.payment_hash = owner.payment_hash
            if owner.opening.channel_id is None:
                owner.opening.channel_id = channel.channel_id
                await self._book.save(owner)

    def meant_for(self, row: PeerChannel) -> Approval | None:
        """Return the purchase that this channel was, or seems to have been, opened for.

        Of several the one that was accepted last: a channel that was there before that one is left to the others.
        """
        waiting = [
            (each.opening.sequence, each.opening.accepted_ms, each)
            for each in self._book.of_lsp(row.peer_id)
            if each.opening is not None
            and each.opening.channel_id is None
            and self._became(each.buy.lsp_id, each.opening, row)
        ]
        latest = max(waiting, key=lambda each: each[:2], default=None)
        return self.purchase_of(row.channel_id) or (None if latest is None else latest[2])

    # ---- a fee is claimed over a channel

    async def settle_on(self, approval: Approval, channel_id: str) -> bool:
        """Return whether the fee of a purchase may be taken over this channel. Raises StoreError.

        When the channel was accepted for another purchase that is not paid yet, the LSP meant this one: exchange.
        """
        async with self.settled:
            return approval.channel_id == channel_id or await self._exchange(approval, channel_id)

    async def _exchange(self, approval: Approval, channel_id: str) -> bool:
        other = self.purchase_of(channel_id)
        if other is None or not self._may_exchange(approval, other, channel_id):
            return False
        ours, theirs = approval.opening, other.opening
        # A crash in between may leave a purchase without a channel, never a channel for two.
        other.opening = None
        await self._book.save(other)
        approval.opening = theirs
        await self._book.save(approval)
        other.opening = ours
        if ours is not None:
            await self._book.save(other)
        for each in (approval, other):
            if each.channel_id in self._book.channels:
                await self._move(self._book.channels[each.channel_id or ""], each)
        log.info(f"channel {channel_id} is for payment {approval.payment_hash.hex()}: its fee came first")
        return True

    async def leave(self, approval: Approval) -> None:
        """Leave the channel of a purchase that was paid without it to one that has none. Raises StoreError.

        The LSP opened it for another purchase than we took it for: so it is of the largest that it fits.
        """
        async with self.settled:
            opening = approval.opening
            if opening is None or not _is_paid_elsewhere(approval, opening.channel_id):
                return
            others = (each for each in self._waiting(approval.buy.lsp_id) if each is not approval)
            without = [each for each in others if each.opening is None and self._fits(each, opening)]
            heir = max(without, key=lambda each: each.buy.least_receive_msat(), default=None)
            if heir is None:
                return
            heir.opening = replace(opening, left=True)
            try:
                await self._book.save(heir)
            except StoreError:
                heir.opening = None
                raise
            approval.opening = (
                None  # its record goes next; a crash before that leaves a channel of two, one of them paid
            )
            if approval.payment_hash in self._linked:
                self._linked.add(heir.payment_hash)
            if opening.channel_id in self._book.channels:
                await self._move(self._book.channels[opening.channel_id], heir)

    async def _move(self, channel: JitChannel, owner: Approval) -> None:
        channel.payment_hash = owner.payment_hash
        await self._book.put_channel(channel)
        self.moved(channel)

    def _may_exchange(self, approval: Approval, other: Approval, channel_id: str) -> bool:
        taken = other.served or (other.released is not None and not _is_paid_elsewhere(other, channel_id))
        if other.buy.lsp_id != approval.buy.lsp_id or taken:
            return False
        if approval.released is not None or channel_id not in self._book.channels:
            return False
        if self._holds_fee(approval) or self._holds_fee(other):
            return False
        return self._fits(approval, other.opening) and (approval.opening is None or self._fits(other, approval.opening))

    def _holds_fee(self, approval: Approval) -> bool:
        """Return whether a fee was taken over its channel; one that is closing, or gone, carries nothing any more."""
        channel = self._book.channels.get(approval.channel_id or "")
        if channel is None or channel.state in CLOSING:
            return False
        return any(channel_id == channel.channel_id for channel_id, _ in approval.fees_msat)

    def waits_for_its_payment(self, channel_id: str) -> bool:
        """Return whether a channel was opened for a purchase that was not paid over it.

        Only its payer decides which invoice is paid through it: a fee there is no broken word of the LSP's.
        """
        channel, owner = self._book.channels.get(channel_id), self.purchase_of(channel_id)
        if channel is None or channel.payment_hash is None or channel.paid_ms is not None:
            return False
        is_paid = owner is not None and (owner.served or owner.released is not None)
        return owner is None or not is_paid or _is_paid_elsewhere(owner, channel_id)

    def _fits(self, approval: Approval, opening: Opening | None) -> bool:
        wanted = Wanted(approval.buy.least_receive_msat(), approval.buy.params.max_client_to_self_delay_blocks)
        return opening is not None and channel_terms.fits(wanted, opening.capacity_msat, self.limits)

    # ---- records of versions that did not write it

    async def mend_old(self, rows: list[PeerChannel]) -> None:
        """Give the channels that an older version accepted to the purchases they were for. Raises StoreError."""
        for row in rows:
            channel = self._book.channels.get(row.channel_id)
            if channel is None or not channel.unbound:
                continue
            channel.unbound = False
            for approval in self._book.of_lsp(channel.lsp_id):
                opening = Opening(channel.capacity_msat, self._clock.wall_ms(), channel_id=channel.channel_id)
                if approval.opening is None and approval.old and self._fits(approval, opening) and not row.is_closing:
                    approval.opening = opening
                    channel.payment_hash = approval.payment_hash
                    await self._book.save(approval)
                    break
            await self._book.put_channel(channel)
