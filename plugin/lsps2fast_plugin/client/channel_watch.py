"""Channels that peers opened to us, until their funding is settled in the chain (rule:27, trap:46, wallet:W3).

A channel is sound when lightningd, which knows the funding script, has given it its scid and it is as deep as the owner
asks; or when the owner trusts its LSP by name. Over any other nothing comes in but the payment it was bought with.
What was sound is looked at again with every block, for as long as a block may be reorganised away.

Once we have claimed money over a channel its funding is owed: it must come into sight within a time, as the right
output, and into a block within a number of blocks. If not, the owner is warned and the LSP is not trusted again.
Channels that an LSP gave up before anything was paid are cleaned away (cln:A4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from lsps2fast.errors import NodeError, StoreError
from lsps2fast_plugin.client.bindings import ChannelBindings
from lsps2fast_plugin.client.funding_status import SETTLED_BLOCKS, Chain, Funding, FundingStatus
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Approval, Distrust, JitChannel
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import CLOSING, PeerChannel, find_closed_channel
from lsps2fast_plugin.cln.notifications import ChannelStateChanged
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

Json = dict[str, Any]


def _is_empty(row: PeerChannel) -> bool:
    """Return whether nothing of ours ever was in a channel that is not on chain."""
    return row.most_to_us_msat == 0 and not row.is_confirmed


class Watch:
    """Keeps the book's channels true."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        book: WalletRecords,
        chain: Chain,
        bindings: ChannelBindings,
        clock: Clock,
        settings: Settings,
        report: Callable[[str, str], None],
        closing: Callable[[str], None],
        guarding: Callable[[set[str]], None],
        happened: Callable[[str, JitChannel, int], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`closing(channel_id)`: parts in it must be failed. `guarding(peers)`: those with a channel that is not sound.
        `happened(step, channel, depth)`: "opened", "seen", "confirmed" (so many blocks deep) or "missing", each time
        it comes to be so. `spawn` runs a coroutine by itself.
        """
        self._spawn = spawn
        self._rpc = rpc
        self._book = book
        self._chain = chain
        self._bindings = bindings
        self._clock = clock
        self.settings = settings
        self._report = report
        self._closing = closing
        self._guarding = guarding
        self._happened = happened
        self._blocks = 0  # that came: a look that began before the last of them says nothing of it
        self._sound: set[str] = set()  # channels whose funding was found as the owner wants it, and not lost since
        self._ordinary: set[str] = set()  # channels that were looked at and need no watching
        self._cleaned: set[str] = set()
        self._surveying = asyncio.Lock()
        self.given_up: dict[str, JitChannel] = {}  # what lightningd goes on listing, closed and never funded

    def allow(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self.settings = settings

    # ---- channels that are new to us

    async def changed(self, event: ChannelStateChanged) -> None:
        """Take a channel_state_changed. Raises NodeError, StoreError."""
        channel = self._book.channels.get(event.channel_id)
        if channel is None:
            await self.survey(id=event.peer_id)
            return
        channel.state = event.new_state
        if channel.state in CLOSING:
            self._closing(channel.channel_id)
        await self.look(channel)

    async def survey(self, **which: str) -> None:
        """Take note of every channel that was opened to us and is not settled in the chain.

        Raises NodeError, StoreError.
        """
        async with self._surveying:
            for row in await self._chain.rows(**which):
                if row.channel_id in self._book.channels or row.channel_id in self._ordinary:
                    continue
                unbound = self._bindings.meant_for(row) is None
                if row.is_ours or (unbound and row.confirmations(self._chain.height) >= self._settled_blocks):
                    self._ordinary.add(row.channel_id)
                elif not row.is_closing:
                    await self._adopt(row)

    async def _adopt(self, row: PeerChannel) -> None:
        channel = JitChannel.from_row(row)
        self._book.channels[channel.channel_id] = channel  # from now on, not only when it is written
        self.guard()
        await self._bindings.adopt(channel, row)
        await self._book.put_channel(channel)
        what = "young" if channel.payment_hash is None else "a JIT channel"
        log.info(f"channel {channel.channel_id} of {channel.lsp_id}: {channel.capacity_msat} msat, {what}")
        self._happened("opened", channel, 0)

    async def find(self) -> None:
        """Find what came while we were away, and what was given up, after a start. Raises NodeError, StoreError."""
        rows = await self._chain.rows()
        await self._bindings.mend_old(rows)
        await self.survey()
        for row in rows:
            lost = row.channel_id not in self._book.channels and not row.is_ours
            if lost and row.is_closing and _is_empty(row):
                channel = JitChannel.from_row(row)
                if await self._is_nowhere(channel, row):
                    self.given_up[channel.channel_id] = channel
        await self.look_all()

    # ---- payments

    async def settled(self, approval: Approval) -> None:
        """Note that a payment is made: the fundings of the channels it came over are owed. Raises StoreError."""
        over = {channel_id for channel_id, _ in approval.released.amounts_msat} if approval.released else set()
        for channel in list(self._book.channels.values()):
            if channel.channel_id in over and channel.paid_ms is None:
                channel.paid_ms = self._clock.wall_ms()
                await self._book.save_channel(channel)
                await self.look(channel)

    # ---- what may come in

    @property
    def owed(self) -> list[JitChannel]:
        """Channels that were paid for and whose funding is not confirmed."""
        return [each for each in self._book.channels.values() if each.paid_ms is not None and not self.is_sound(each)]

    def next_deadline_ms(self, after_ms: int) -> int | None:
        """Return when the next funding that is owed must have come into sight, after this moment of the wall clock."""
        deadlines = (self._seen_by_ms(channel) for channel in self.owed)
        return min((each for each in deadlines if each > after_ms), default=None)

    def is_sound(self, channel: JitChannel) -> bool:
        """Return whether its funding is as the owner wants it, as far as is known without asking."""
        return channel.channel_id in self._sound

    def guard(self) -> None:
        """Tell who has, or is about to have, channels over which nothing may come in."""
        opening = self._bindings.opening()
        unsafe = {channel.lsp_id for channel in self._book.channels.values() if not self._is_safe(channel)}
        self._guarding(unsafe | {lsp_id for lsp_id in opening if not self._trusts(lsp_id)})

    def _is_safe(self, channel: JitChannel) -> bool:
        if channel.missing:
            return False
        return self.is_sound(channel) or self._trusts(channel.lsp_id)

    def _trusts(self, lsp_id: str) -> bool:
        return self.settings.trusts(lsp_id) and lsp_id not in self._book.distrusted

    @property
    def _depth_blocks(self) -> int:
        """How deep a funding must be for all but its purchase: only lightningd knows its script (wallet:W2)."""
        return max(self.settings.funding_depth, 1)

    @property
    def _settled_blocks(self) -> int:
        """How deep a funding must be to need no more watching: a block with it may be reorganised away (wallet:W3)."""
        return max(self._depth_blocks, SETTLED_BLOCKS)

    def is_surely_safe(self, channel_id: str | None) -> bool:
        """Return whether an HTLC may come in over this channel, without asking;
        None is a channel of an unknown name.
        """
        channel = self._book.channels.get(channel_id or "")
        return channel_id in self._ordinary if channel is None else self._is_safe(channel)

    async def unsafe(self, channel_id: str, row: PeerChannel | None = None) -> str | None:
        """Return why nothing may come in over a channel but its purchase, or None. Raises NodeError, StoreError.

        `row`: it as lightningd lists it after the last block, where the caller has asked.
        """
        if channel_id not in self._book.channels and channel_id not in self._ordinary:
            await self.survey()
        if self.is_surely_safe(channel_id):
            return None
        channel = self._book.channels.get(channel_id)
        if channel is None:
            return "lightningd does not list it as one in use"
        if channel.missing:
            return "it was never funded"
        _, funding = await self._as_of_now(channel, row)
        await self._note(channel, funding)
        lacking = funding.lacks(self._depth_blocks)
        return None if lacking is None else f"its funding transaction is {lacking.value}"

    async def lacking(self, channel_id: str) -> FundingStatus | None:
        """Return what keeps a payment from being claimed over the channel it was bought with.

        Raises NodeError, StoreError.
        """
        row = await self._chain.row(channel_id)
        if row is None:
            return FundingStatus.NOWHERE
        channel = self._book.channels.get(channel_id) or JitChannel.from_row(row)
        row, funding = await self._as_of_now(channel)
        if row is None:
            return FundingStatus.NOWHERE
        await self._note(channel, funding)
        return funding.lacks(self.settings.funding_depth)

    async def all_unsafe(self) -> set[str]:
        """Return the channels over which nothing may be received. Raises NodeError, StoreError."""
        blocks = self._blocks
        rows = {row.channel_id: row for row in await self._chain.rows()}
        unsafe = set()
        for name in list(self._book.channels):
            if await self.unsafe(name, rows.get(name) if blocks == self._blocks else None) is not None:
                unsafe.add(name)
        return unsafe

    async def _as_of_now(
        self, channel: JitChannel, row: PeerChannel | None = None
    ) -> tuple[PeerChannel | None, Funding]:
        """Return a channel's row and funding, both from after the last block (wallet:W3). Raises NodeError."""
        while True:
            blocks = self._blocks
            row = row or await self._chain.row(channel.channel_id)
            funding = await self._funding(channel, row)
            if blocks == self._blocks:
                return row, funding
            row = None

    # ---- looking

    def block(self) -> None:
        """Look, at a block, at what it may have undone, before that counts again."""
        self._blocks += 1
        if self._sound:
            self._sound.clear()
            self.guard()

    async def look_all(self) -> None:
        """Look at every channel: one table for all, for strangers decide how many there are (rule:14).

        Raises NodeError, StoreError.
        """
        channels, blocks = list(self._book.channels.values()), self._blocks  # of before the table was asked for
        rows = {row.channel_id: row for row in await self._chain.rows()}
        for channel in channels:
            await self._guarded_look(channel, rows.get(channel.channel_id), blocks)
        self.given_up = {name: channel for name, channel in self.given_up.items() if name in rows}
        for name, channel in self.given_up.items():
            channel.state = rows[name].state

    async def look_at(self, lsp_id: str) -> None:
        """Look at every channel of an LSP. Raises StoreError."""
        for channel in [each for each in self._book.channels.values() if each.lsp_id == lsp_id]:
            await self.look(channel)

    async def look(self, channel: JitChannel) -> None:
        """Look at one channel; an error of the node is no answer (K-13). Raises StoreError."""
        blocks = self._blocks
        try:
            row = await self._chain.row(channel.channel_id)
        except NodeError as error:
            log.warning(f"channel {channel.channel_id} cannot be looked at: {error}")
            return
        await self._guarded_look(channel, row, blocks)

    async def _guarded_look(self, channel: JitChannel, row: PeerChannel | None, blocks: int) -> None:
        """Look at one channel, of which this was the row in lightningd's table after so many blocks, None for none."""
        try:
            if row is None and channel.paid_ms is None:
                await self._drop(channel)
                return
            if row is not None:
                channel.state = row.state
            funding = await self._funding(channel, row)
            if blocks != self._blocks:
                return  # the block that came meanwhile has a look of its own
            await self._note(channel, funding)
            if row is not None and funding.depth >= self._settled_blocks and self.is_sound(channel):
                await self._drop(channel)
                self._ordinary.add(channel.channel_id)
            elif channel.paid_ms is not None:
                await self._look_paid(channel, row, funding)
            elif row is not None and row.is_closing and channel.channel_id not in self._cleaned:
                await self._clean(channel, row)
        except NodeError as error:
            log.warning(f"channel {channel.channel_id} cannot be looked at: {error}")

    async def _funding(self, channel: JitChannel, row: PeerChannel | None) -> Funding:
        """As it stands now; by the outpoint that lightningd names, which a splice changes. Raises NodeError."""
        if row is not None and row.funding_txid != channel.funding_txid:
            channel.funding_txid, channel.funding_outnum = row.funding_txid, row.funding_outnum
            channel.capacity_msat, channel.seen_height = row.total_msat, None
        return await self._chain.funding(channel, row)

    async def _note(self, channel: JitChannel, funding: Funding) -> None:
        """Remember how far it has come, and tell of it."""
        known = self._book.channels.get(channel.channel_id) is channel
        sound = funding.lacks(self._depth_blocks) is None
        if sound:
            self._sound.add(channel.channel_id)
        else:
            self._sound.discard(channel.channel_id)
        if funding.there and funding.sight is not FundingStatus.WRONG:
            first, channel.seen_ms = channel.seen_height is None, self._clock.wall_ms()
            channel.seen_height = self._chain.height if first else channel.seen_height
            if known and first:
                await self._keep(channel)
                self._happened("seen", channel, 0)
        if known and channel.confirmed != sound:
            channel.confirmed = sound
            self._tell_depth(channel, funding)
            await self._keep(channel)
        self.guard()

    async def _keep(self, channel: JitChannel) -> None:
        """Write down what can be found out again; a payment does not wait for it."""
        try:
            await self._book.save_channel(channel)
        except StoreError as error:
            log.warning(f"channel {channel.channel_id} could not be written ({error}); it is looked at again")

    def _tell_depth(self, channel: JitChannel, funding: Funding) -> None:
        if channel.confirmed:
            log.info(f"the funding of channel {channel.channel_id} is confirmed")
            if channel.missing:
                log.info(f"the funding of channel {channel.channel_id} has come into sight after all")
                channel.missing = False
            self._happened("confirmed", channel, funding.depth)
            return
        what = f"the funding of channel {channel.channel_id} was confirmed and is now {funding.sight.value}"
        self._report(channel.lsp_id, f"{what}; nothing comes in over it until it is confirmed again")

    async def _look_paid(self, channel: JitChannel, row: PeerChannel | None, funding: Funding) -> None:
        """Judge a funding that is owed: every state but confirmed has an end."""
        if self.is_sound(channel):
            return
        sight = funding.sight
        if row is None and await self._was_confirmed(channel):
            await self._drop(channel)
        elif row is None and channel.missing:
            await self._drop(channel)  # lightningd forgot it; the distrust stays
        elif sight is FundingStatus.WRONG:
            await self._broken(channel, "its funding transaction is not the output that was agreed")
        elif row is not None and row.is_closing and not funding.depth:
            await self._broken(channel, "it was closed before its funding was confirmed")
        elif sight is FundingStatus.NOWHERE and self._too_long(channel):
            seconds = self.settings.funding_timeout_ms // 1000
            what = "was not seen within" if channel.seen_height is None else "has gone, and not come back within"
            await self._broken(channel, f"its funding transaction {what} {seconds} s after we paid")
        elif sight is FundingStatus.MEMPOOL and self._too_many_blocks(channel):
            blocks = self.settings.confirm_timeout_blocks
            await self._broken(channel, f"its funding transaction was seen, but not confirmed within {blocks} blocks")

    async def _drop(self, channel: JitChannel) -> None:
        """Stop watching a channel."""
        self._sound.discard(channel.channel_id)
        await self._book.drop_channel(channel.channel_id)

    def _too_long(self, channel: JitChannel) -> bool:
        return self._clock.wall_ms() >= self._seen_by_ms(channel)

    def _seen_by_ms(self, channel: JitChannel) -> int:
        return max(channel.paid_ms or 0, channel.seen_ms or 0) + self.settings.funding_timeout_ms

    def _too_many_blocks(self, channel: JitChannel) -> bool:
        since = self._chain.height if channel.seen_height is None else channel.seen_height
        return self._chain.height - since >= self.settings.confirm_timeout_blocks

    async def _broken(self, channel: JitChannel, why: str) -> None:
        """Warn once of an LSP that has our payment while we have no channel; trust it no more, take nothing there."""
        if channel.missing:
            return
        self._report(
            channel.lsp_id,
            f"ALARM: channel {channel.channel_id} of {channel.capacity_msat} msat: {why}; the LSP is not trusted any"
            " more and nothing is received over this channel",
        )
        distrust = Distrust(channel.lsp_id, f"channel {channel.channel_id}: {why}", self._clock.wall_ms())
        channel.missing = True
        self._happened("missing", channel, 0)
        self._spawn(self._book.distrust(distrust))
        await self._book.save_channel(channel)

    async def _was_confirmed(self, channel: JitChannel) -> bool:
        """Return whether a channel that is gone had its funding in the chain:
        then it was closed in the ordinary way.
        """
        closed = await find_closed_channel(self._rpc, channel.channel_id, id=channel.lsp_id)
        return closed is not None and closed.is_confirmed

    # ---- what an LSP gave up

    async def _clean(self, channel: JitChannel, row: PeerChannel) -> None:
        """Before anything was paid an LSP may give the channel up; our side does not learn of it (cln:A4)."""
        if not _is_empty(row):
            return  # lightningd's business
        # Marked before we ask: two looks at once would forget it twice, and lightningd dies of the second.
        self._cleaned.add(channel.channel_id)
        if not await self._is_nowhere(channel, row):
            self._cleaned.discard(channel.channel_id)
            return
        log.info(f"{channel.lsp_id} gave up the unfunded channel {channel.channel_id}; cleaning up")
        if row.state == "CHANNELD_SHUTTING_DOWN":
            await self._try("close", {"id": channel.channel_id, "unilateraltimeout": 1})
        if await self._try("dev-forget-channel", {"id": channel.lsp_id, "channel_id": channel.channel_id}):
            await self._drop(channel)
            return
        log.info(
            f"channel {channel.channel_id} stays listed until lightningd forgets it (2016 blocks): it was never funded,"
            " holds no money and is not offered to payers"
        )
        self.given_up[channel.channel_id] = channel
        await self._drop(channel)

    async def _is_nowhere(self, channel: JitChannel, row: PeerChannel) -> bool:
        """Return whether neither chain nor mempool knows the funding; an error of the node is no answer (K-13)."""
        try:
            funding = await self._chain.funding(channel, row)
        except NodeError as error:
            log.warning(f"the funding of channel {channel.channel_id} cannot be looked at: {error}")
            return False
        return funding.sight is FundingStatus.NOWHERE

    async def _try(self, method: str, params: Json) -> bool:
        try:
            await self._rpc.call(method, params)
        except NodeError as error:  # dev-forget-channel needs developer mode
            log.debug(f"{method} of {params}: {error.message}")
            return False
        return True
