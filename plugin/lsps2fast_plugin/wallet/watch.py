"""Channels an LSP opened for us: what they are for, whether their funding appears, and what to do when it does not.

In client-trusts-LSP mode we claim before the funding is broadcast. From then on it is owed: it must come into sight
within a time, as the right output. If not, the owner is warned, the LSP is not trusted again, and nothing more is
received over the channel (T46). Channels that an LSP gave up before anything was paid are cleaned away (A4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lsps2fast.errors import NodeError
from lsps2fast_plugin.clock import Clock
from lsps2fast_plugin.rpc import Rpc
from lsps2fast_plugin.wallet.book import Book
from lsps2fast_plugin.wallet.chain import Chain, Sight
from lsps2fast_plugin.wallet.options import Settings
from lsps2fast_plugin.wallet.records import Approval, Distrust, JitChannel

CLOSING = frozenset(
    {
        "CHANNELD_SHUTTING_DOWN",
        "CLOSINGD_SIGEXCHANGE",
        "CLOSINGD_COMPLETE",
        "AWAITING_UNILATERAL",
        "FUNDING_SPEND_SEEN",
        "ONCHAIN",
        "CLOSED",
    }
)
Json = dict[str, Any]


class Watch:
    """Keeps the book's channels true."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        book: Book,
        chain: Chain,
        clock: Clock,
        settings: Settings,
        report: Callable[[str, str], None],
        say: Callable[[str, str], None],
        closing: Callable[[str], None],
        missing: Callable[[bool], None],
    ) -> None:
        """`closing(channel_id)`: parts in it must be failed. `missing(yes)`: whether the funding of any is missing."""
        self._rpc = rpc
        self._book = book
        self._chain = chain
        self._clock = clock
        self._settings = settings
        self._report = report
        self._say = say
        self._closing = closing
        self._missing = missing
        self._expected: set[str] = set()
        self._adopting: dict[str, str] = {}
        self._cleaned: set[str] = set()

    # ---- openings

    def expect(self, lsp_id: str) -> None:
        """An opening of this LSP was accepted: the next new channel from it is a JIT channel."""
        self._expected.add(lsp_id)

    def in_use_msat(self, lsp_id: str) -> list[int]:
        """Sizes of the LSP's JIT channels that serve purchases not paid yet (I-16)."""
        live = {approval.payment_hash for approval in self._book.of_lsp(lsp_id)}
        return [
            channel.capacity_msat
            for channel in self._book.channels.values()
            if channel.lsp_id == lsp_id
            and channel.usable
            and (channel.payment_hash is None or channel.payment_hash in live)
        ]

    def over(self, approval: Approval) -> None:
        """A purchase ended unpaid: the channel that was opened for it no longer counts for others."""
        fitting = [
            channel
            for channel in self._book.channels.values()
            if channel.lsp_id == approval.buy.lsp_id and channel.payment_hash is None and channel.usable
        ]
        if fitting:
            min(fitting, key=lambda channel: channel.capacity_msat).payment_hash = approval.payment_hash

    async def changed(self, event: Json) -> None:
        """channel_state_changed. Or StoreError."""
        channel_id, state = event["channel_id"], event["new_state"]
        channel = self._book.channels.get(channel_id)
        if channel_id in self._adopting:
            self._adopting[channel_id] = state
        elif channel is not None:
            channel.state = state
            if state in CLOSING:
                self._closing(channel_id)
                await self.look(channel)
        elif event["peer_id"] in self._expected and "old_state" not in event:
            self._expected.discard(event["peer_id"])
            self._adopting[channel_id] = state
            await self._adopt(channel_id)

    async def _adopt(self, channel_id: str) -> None:
        """The channel we awaited is there; its state may change while we look."""
        try:
            row = await self._chain.row(channel_id)
        except NodeError as error:
            self._say(f"the new channel {channel_id} cannot be looked at: {error}", "warn")
            row = None
        state = self._adopting.pop(channel_id)
        if row is None:
            return
        channel = JitChannel.from_row(row)
        channel.state = state
        await self._book.put_channel(channel)
        self._say(f"JIT channel {channel_id} of {channel.lsp_id}: {channel.capacity_msat} msat", "info")

    # ---- payments

    async def claimed(self, approval: Approval, channel_ids: set[str]) -> None:
        """A payment is about to be claimed through these channels: remember which, before it happens. Or StoreError."""
        for channel_id in sorted(channel_ids):
            channel = self._book.channels.get(channel_id)
            if channel is None:
                row = await self._chain.row(channel_id)
                if row is None or "short_channel_id" in row:
                    continue  # long confirmed: nothing is owed
                channel = JitChannel.from_row(row)
            channel.payment_hash = approval.payment_hash
            await self._book.put_channel(channel)

    async def settled(self, approval: Approval) -> None:
        """The payment is made: from now on the funding is owed. Or StoreError."""
        for channel in list(self._book.channels.values()):
            if channel.payment_hash == approval.payment_hash and channel.paid_ms is None:
                channel.paid_ms = self._clock.wall_ms()
                await self._book.put_channel(channel)
                await self.look(channel)

    # ---- looking

    @property
    def owed(self) -> list[JitChannel]:
        """Channels that were paid for and whose funding is not confirmed."""
        return [channel for channel in self._book.channels.values() if channel.paid_ms is not None]

    def names_missing(self) -> set[str]:
        """Channels whose funding did not appear in time."""
        return {channel.channel_id for channel in self._book.channels.values() if channel.missing}

    async def look_all(self) -> None:
        """Look at every channel. Or StoreError."""
        for channel in list(self._book.channels.values()):
            await self.look(channel)
        self._missing(bool(self.names_missing()))

    async def look(self, channel: JitChannel) -> None:
        """Look at one channel; an error of the node is no answer (K-13). Or StoreError."""
        try:
            row = await self._chain.row(channel.channel_id)
            if row is not None:
                channel.state = row["state"]
            if channel.paid_ms is not None:
                await self._look_paid(channel, row)
            else:
                await self._look_unpaid(channel, row)
        except NodeError as error:
            self._say(f"channel {channel.channel_id} cannot be looked at: {error}", "warn")

    async def _look_paid(self, channel: JitChannel, row: Json | None) -> None:
        funding = await self._chain.funding(channel, row)
        sight = funding.sight
        if sight is Sight.NOWHERE and row is None and await self._was_confirmed(channel):
            sight = Sight.CONFIRMED
        if sight is Sight.CONFIRMED:
            self._say(f"the funding of channel {channel.channel_id} is confirmed", "info")
            await self._book.drop_channel(channel.channel_id)
            self._missing(bool(self.names_missing()))
        elif sight is Sight.MEMPOOL and channel.missing:
            self._say(f"the funding of channel {channel.channel_id} has come into sight after all", "info")
            await self._set_missing(channel, False)
        elif sight is Sight.WRONG:
            await self._broken(channel, "its funding transaction is not the output that was agreed")
        elif sight is Sight.NOWHERE and channel.missing and row is None:
            await self._book.drop_channel(channel.channel_id)  # lightningd forgot it; the distrust stays
            self._missing(bool(self.names_missing()))
        elif sight is Sight.NOWHERE and self._too_long(channel):
            seconds = self._settings.funding_timeout_ms // 1000
            await self._broken(channel, f"its funding transaction was not seen within {seconds} s after we paid")

    def _too_long(self, channel: JitChannel) -> bool:
        return self._clock.wall_ms() - (channel.paid_ms or 0) >= self._settings.funding_timeout_ms

    async def _broken(self, channel: JitChannel, why: str) -> None:
        """The LSP has our payment and we have no channel: warn once, trust it no more, receive nothing more there."""
        if channel.missing:
            return
        self._report(
            channel.lsp_id,
            f"ALARM: channel {channel.channel_id} of {channel.capacity_msat} msat: {why}; the LSP is not trusted any"
            " more and nothing is received over this channel",
        )
        distrust = Distrust(channel.lsp_id, f"channel {channel.channel_id}: {why}", self._clock.wall_ms())
        await self._set_missing(channel, True)
        await self._book.distrust(distrust)

    async def _set_missing(self, channel: JitChannel, yes: bool) -> None:
        channel.missing = yes
        self._missing(bool(self.names_missing()))
        await self._book.put_channel(channel)

    async def _was_confirmed(self, channel: JitChannel) -> bool:
        """Whether a channel that is gone had its funding in the chain: then it was closed in the ordinary way."""
        closed = (await self._rpc.call("listclosedchannels", {"id": channel.lsp_id}))["closedchannels"]
        return any(row.get("channel_id") == channel.channel_id and row.get("short_channel_id") for row in closed)

    # ---- what an LSP gave up

    async def _look_unpaid(self, channel: JitChannel, row: Json | None) -> None:
        """Before anything was paid: an LSP may give the channel up; our side does not learn of it (A4)."""
        if row is None:
            await self._book.drop_channel(channel.channel_id)
            return
        served = channel.payment_hash is None or channel.payment_hash not in self._book.approvals
        if row.get("short_channel_id") and served and channel.lsp_id not in self._book.lsps():
            await self._book.drop_channel(channel.channel_id)  # an ordinary channel now
        elif row["state"] in CLOSING and channel.channel_id not in self._cleaned:
            await self._clean(channel, row)

    async def _clean(self, channel: JitChannel, row: Json) -> None:
        if row.get("max_to_us_msat", row.get("to_us_msat", 0)) != 0 or row.get("short_channel_id"):
            return  # money of ours was in it, or it is on chain: lightningd's business
        # Marked before we ask: two looks at once would forget it twice, and lightningd dies of the second.
        self._cleaned.add(channel.channel_id)
        if not await self._is_nowhere(channel, row):
            self._cleaned.discard(channel.channel_id)
            return
        self._say(f"{channel.lsp_id} gave up the unfunded channel {channel.channel_id}; cleaning up", "info")
        if row["state"] == "CHANNELD_SHUTTING_DOWN":
            await self._try("close", {"id": channel.channel_id, "unilateraltimeout": 1})
        if await self._try("dev-forget-channel", {"id": channel.lsp_id, "channel_id": channel.channel_id}):
            await self._book.drop_channel(channel.channel_id)
            return
        self._say(
            f"channel {channel.channel_id} stays listed until lightningd forgets it (2016 blocks): it was never funded,"
            " holds nothing of ours and is not offered to payers",
            "info",
        )
        await self._book.drop_channel(channel.channel_id)

    async def _is_nowhere(self, channel: JitChannel, row: Json) -> bool:
        """Whether neither chain nor mempool knows the funding; an error of the node is no answer (K-13)."""
        try:
            funding = await self._chain.funding(channel, row)
        except NodeError as error:
            self._say(f"the funding of channel {channel.channel_id} cannot be looked at: {error}", "warn")
            return False
        return funding.sight is Sight.NOWHERE

    async def _try(self, method: str, params: Json) -> bool:
        try:
            await self._rpc.call(method, params)
        except NodeError as error:  # dev-forget-channel needs developer mode
            self._say(f"{method} of {params}: {error.message}", "debug")
            return False
        return True
