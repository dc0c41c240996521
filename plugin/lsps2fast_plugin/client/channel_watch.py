"""Channels an LSP opened for us: what they are for, whether their funding appears, and what to do when it does not.

In client-trusts-LSP mode we claim before the funding is broadcast. From then on it is owed: it must come into sight
within a time, as the right output. If not, the owner is warned and the LSP is not trusted again (trap:46). Until it is
as deep as the owner asks, or in sight when he has trusted the LSP for the purchase, nothing else is received over the
channel. Channels that an LSP gave up before anything was paid are cleaned away (cln:A4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.funding_status import Chain, FundingStatus
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Approval, Distrust, JitChannel
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

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
LOCKIN = "CHANNELD_AWAITING_LOCKIN"
Json = dict[str, Any]


def _is_empty(row: Json) -> bool:
    """Whether nothing of ours ever was in a channel that is not on chain."""
    return row.get("max_to_us_msat", row.get("to_us_msat", 0)) == 0 and not row.get("short_channel_id")


class Opening(NamedTuple):
    """An opening that was accepted, or the channel it became, before it is in the book."""

    lsp_id: str
    capacity_msat: int


class Watch:
    """Keeps the book's channels true."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        book: WalletRecords,
        chain: Chain,
        clock: Clock,
        settings: Settings,
        report: Callable[[str, str], None],
        closing: Callable[[str], None],
        guarding: Callable[[set[str]], None],
    ) -> None:
        """`closing(channel_id)`: parts in it must be failed. `guarding(peers)`: those with a channel that is
        not safe to be paid over.
        """
        self._rpc = rpc
        self._book = book
        self._chain = chain
        self._clock = clock
        self._settings = settings
        self._report = report
        self._closing = closing
        self._guarding = guarding
        self._expected: dict[str, Opening] = {}  # by LSP; lightningd lets it open one channel at a time
        self._adopting: dict[str, Opening] = {}
        self._states: dict[str, str] = {}  # of channels being adopted
        self._coming: set[str] = set()  # channels that will be in normal operation unless the link breaks first
        self._sound: set[str] = set()  # channels whose funding was seen as the owner wants it
        self._cleaned: set[str] = set()
        self.given_up: dict[str, JitChannel] = {}  # what lightningd goes on listing, closed and never funded

    # ---- openings

    def expect(self, lsp_id: str, capacity_msat: int) -> None:
        """An opening of this LSP was accepted: the next new channel from it is a JIT channel."""
        self._expected[lsp_id] = Opening(lsp_id, capacity_msat)

    def in_use_msat(self, lsp_id: str) -> list[int]:
        """Sizes of the LSP's JIT channels that serve purchases not paid yet, or are about to (I-16)."""
        live = {approval.payment_hash for approval in self._book.of_lsp(lsp_id)}
        adopting = [opening.capacity_msat for opening in self._adopting.values() if opening.lsp_id == lsp_id]
        return adopting + [
            channel.capacity_msat
            for channel in self._book.channels.values()
            if channel.lsp_id == lsp_id
            and (channel.usable or channel.channel_id in self._coming)
            and (channel.payment_hash is None or channel.payment_hash in live)
        ]

    def disconnected(self, lsp_id: str) -> None:
        """A channel that was not ready yet may be forgotten on the other side: the LSP may open it again (O-16)."""
        self._expected.pop(lsp_id, None)
        self._coming -= {each.channel_id for each in self._book.channels.values() if each.lsp_id == lsp_id}

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
            self._states[channel_id] = state
        elif channel is not None:
            channel.state = state
            self._coming.discard(channel_id)
            if state in CLOSING:
                self._closing(channel_id)
                await self.look(channel)
        elif event["peer_id"] in self._expected and "old_state" not in event:
            self._adopting[channel_id] = self._expected.pop(event["peer_id"])
            self._states[channel_id] = state
            await self._adopt(channel_id)

    async def _adopt(self, channel_id: str) -> None:
        """The channel we awaited is there; its state may change while we look."""
        try:
            row = await self._chain.row(channel_id)
        except NodeError as error:
            log.warning(f"the new channel {channel_id} cannot be looked at: {error}")
            row = None
        state = self._states.pop(channel_id)
        del self._adopting[channel_id]
        if row is None:
            return
        channel = JitChannel.from_row(row)
        channel.state = state
        if state == LOCKIN:
            self._coming.add(channel_id)
        await self._book.put_channel(channel)
        log.info(f"JIT channel {channel_id} of {channel.lsp_id}: {channel.capacity_msat} msat")

    async def find(self) -> None:
        """After a start: channels that came while we were away belong to the purchases that await them (I-16).

        And those that were given up are known again. Or NodeError, StoreError.
        """
        awaited = self._book.lsps()
        for row in await self._chain.rows():
            if row.get("opener") != "remote" or row.get("channel_id") in self._book.channels:
                continue
            if row["peer_id"] in awaited and row.get("private") and "short_channel_id" not in row:
                await self._book.put_channel(JitChannel.from_row(row))
                log.info(f"JIT channel {row['channel_id']} of {row['peer_id']} came while we were away")
            elif row["state"] in CLOSING and _is_empty(row):
                channel = JitChannel.from_row(row)
                if await self._is_nowhere(channel, row):
                    self.given_up[channel.channel_id] = channel

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

    def guard(self) -> None:
        """Tell whose channels are not safe to be paid over, as far as is known without asking."""
        self._guarding({channel.lsp_id for channel in self._book.channels.values() if not self._is_safe(channel)})

    def _is_safe(self, channel: JitChannel) -> bool:
        if channel.missing:
            return False
        return channel.channel_id in self._sound or self._trusts(channel.lsp_id)

    def _trusts(self, lsp_id: str) -> bool:
        return self._settings.trusts(lsp_id) and lsp_id not in self._book.distrusted

    async def unsafe(self, channel_id: str | None) -> str | None:
        """Why nothing may be received over a channel but its purchase, or None. Or NodeError."""
        channel = self._book.channels.get(channel_id or "")
        if channel is None or self._is_safe(channel):
            return None
        if channel.missing:
            return "it was never funded"
        # Paid for means trusted for this purchase, or deep enough then: to see it is enough now.
        depth = 0 if channel.paid_ms is not None else self._settings.funding_depth
        lacking = await self._chain.lacking(channel.channel_id, depth)
        if lacking is not None:
            return f"its funding transaction is {lacking.value}"
        self._sound.add(channel.channel_id)
        self.guard()
        return None

    async def all_unsafe(self) -> set[str]:
        """The channels over which nothing may be received. Or NodeError."""
        return {channel_id for channel_id in list(self._book.channels) if await self.unsafe(channel_id) is not None}

    async def look_all(self) -> None:
        """Look at every channel. Or NodeError, StoreError."""
        for channel in list(self._book.channels.values()):
            await self.look(channel)
        if self.given_up:
            listed = {row.get("channel_id"): row["state"] for row in await self._chain.rows()}
            self.given_up = {name: channel for name, channel in self.given_up.items() if name in listed}
            for name, channel in self.given_up.items():
                channel.state = listed[name]

    async def look_at(self, lsp_id: str) -> None:
        """Look at every channel of an LSP. Or StoreError."""
        for channel in [each for each in self._book.channels.values() if each.lsp_id == lsp_id]:
            await self.look(channel)

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
            log.warning(f"channel {channel.channel_id} cannot be looked at: {error}")

    async def _look_paid(self, channel: JitChannel, row: Json | None) -> None:
        funding = await self._chain.funding(channel, row)
        sight = funding.sight
        if sight is FundingStatus.NOWHERE and row is None and await self._was_confirmed(channel):
            sight = FundingStatus.CONFIRMED
        if sight is FundingStatus.CONFIRMED:
            log.info(f"the funding of channel {channel.channel_id} is confirmed")
            await self._drop(channel)
        elif sight is FundingStatus.MEMPOOL:
            await self._appeared(channel)
        elif sight is FundingStatus.WRONG:
            await self._broken(channel, "its funding transaction is not the output that was agreed")
        elif sight is FundingStatus.NOWHERE and channel.missing and row is None:
            await self._drop(channel)  # lightningd forgot it; the distrust stays
        elif sight is FundingStatus.NOWHERE and self._too_long(channel):
            seconds = self._settings.funding_timeout_ms // 1000
            await self._broken(channel, f"its funding transaction was not seen within {seconds} s after we paid")

    async def _drop(self, channel: JitChannel) -> None:
        """It needs no watching any more."""
        self._sound.discard(channel.channel_id)
        self._coming.discard(channel.channel_id)
        await self._book.drop_channel(channel.channel_id)

    async def _appeared(self, channel: JitChannel) -> None:
        """A funding that was paid for is in the mempool: the channel is as good as its LSP, unless he lied before."""
        self._sound.add(channel.channel_id)
        if channel.missing:
            log.info(f"the funding of channel {channel.channel_id} has come into sight after all")
            channel.missing = False
            await self._book.put_channel(channel)
        self.guard()

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
        channel.missing = True
        await self._book.distrust(distrust)
        await self._book.put_channel(channel)

    async def _was_confirmed(self, channel: JitChannel) -> bool:
        """Whether a channel that is gone had its funding in the chain: then it was closed in the ordinary way."""
        closed = (await self._rpc.call("listclosedchannels", {"id": channel.lsp_id}))["closedchannels"]
        return any(row.get("channel_id") == channel.channel_id and row.get("short_channel_id") for row in closed)

    # ---- what an LSP gave up

    async def _look_unpaid(self, channel: JitChannel, row: Json | None) -> None:
        """Before anything was paid: an LSP may give the channel up; our side does not learn of it (cln:A4)."""
        if row is None:
            await self._drop(channel)
            return
        served = channel.payment_hash is None or channel.payment_hash not in self._book.approvals
        if row.get("short_channel_id") and served and channel.lsp_id not in self._book.lsps():
            await self._drop(channel)  # an ordinary channel now
        elif row["state"] in CLOSING and channel.channel_id not in self._cleaned:
            await self._clean(channel, row)

    async def _clean(self, channel: JitChannel, row: Json) -> None:
        if not _is_empty(row):
            return  # lightningd's business
        # Marked before we ask: two looks at once would forget it twice, and lightningd dies of the second.
        self._cleaned.add(channel.channel_id)
        if not await self._is_nowhere(channel, row):
            self._cleaned.discard(channel.channel_id)
            return
        log.info(f"{channel.lsp_id} gave up the unfunded channel {channel.channel_id}; cleaning up")
        if row["state"] == "CHANNELD_SHUTTING_DOWN":
            await self._try("close", {"id": channel.channel_id, "unilateraltimeout": 1})
        if await self._try("dev-forget-channel", {"id": channel.lsp_id, "channel_id": channel.channel_id}):
            await self._drop(channel)
            return
        log.info(
            f"channel {channel.channel_id} stays listed until lightningd forgets it (2016 blocks): it was never funded,"
            " holds nothing of ours and is not offered to payers"
        )
        self.given_up[channel.channel_id] = channel
        await self._drop(channel)

    async def _is_nowhere(self, channel: JitChannel, row: Json) -> bool:
        """Whether neither chain nor mempool knows the funding; an error of the node is no answer (K-13)."""
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
