"""Orders about a channel that is open: send its funding, close it, or undo it and free its coins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from lsps2fast import actions as order
from lsps2fast.errors import NodeError
from lsps2fast.table import Input
from lsps2fast_plugin.service.batch import Member, Outcome
from lsps2fast_plugin.service.broadcast import Broadcaster, SisterGone
from lsps2fast_plugin.service.funding import ChannelGone, Funder, FundingTakenBack, MustNotClose, OwedToClient
from lsps2fast_plugin.service.opening_orders import OpeningOrders, Withhold
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks
from lsps2fast_plugin.service.reservations import Reservations
from lsps2fast_plugin.service.routing_fees import RoutingFees
from lsps2fast_plugin.service.unfunded import UnfundedChannels
from lsps2fast_plugin.service.waiting_orders import WaitingOrders

log = logging.getLogger(__name__)
Sent = Callable[[str, order.Channel], None]
UNDO_ENDS: Final = (ChannelGone, MustNotClose)
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 600.0  # a change of the channel ends the wait at once


class Together(Protocol):
    """Who has several channels funded by one transaction: `Batches`."""

    def send(self, action: order.Broadcast) -> bool:
        """Have the funding of this one be sent once all that share it are ready for that; False: it is on its own."""

    def leave(self, jit_scid: int, payment_hash: bytes) -> None:
        """Go on without this payment: it is given up."""


class _Alone:
    """Batches are off."""

    def send(self, action: order.Broadcast) -> bool:
        """Return False."""
        return False

    def leave(self, jit_scid: int, payment_hash: bytes) -> None:
        """Do nothing."""


def _broadcast_of(member: Member) -> order.Broadcast:
    assert member.broadcast is not None
    return member.broadcast


class FundingOrders:
    """Puts channels on chain, or takes them back."""

    def __init__(
        self,
        *,
        tasks: OrderTasks,
        funder: Funder,
        broadcaster: Broadcaster,
        opening: OpeningOrders,
        waiting: WaitingOrders,
        reservations: Reservations,
        unfunded: UnfundedChannels,
        fees: RoutingFees,
        driver: Driver,
        withheld: Withhold,
        sent: Sent,
    ) -> None:
        """`withheld` as in `OpeningOrders`; `sent(peer_id, channel)` hears of each funding that bitcoind has."""
        self._tasks = tasks
        self._funder = funder
        self._broadcaster = broadcaster
        self._opening = opening
        self._waiting = waiting
        self._reservations = reservations
        self._unfunded = unfunded
        self._fees = fees
        self._driver = driver
        self._withheld = withheld
        self._sent = sent
        self._closed_here: set[str] = set()  # channels that share their funding with one that was given up
        self.batches: Together = _Alone()

    def announce(self, action: order.Persist) -> None:
        """Look up a channel whose funding is sent as soon as this record is written; asked after the write."""
        channel, buy = action.record.channel, self._tasks.buy(action.jit_scid)
        alone = channel is not None and not channel.sisters
        if action.record.stage == "channel" and channel is not None and alone and not buy.client_trusts_lsp:
            self._broadcaster.look_ahead(buy.peer_id, channel.channel_id)

    async def broadcast(self, action: order.Broadcast) -> None:
        """Send the funding until bitcoind has it (rule:8), together with those that it pays besides."""
        if not self.batches.send(action):
            await self.broadcast_alone(action)

    async def broadcast_alone(self, action: order.Broadcast) -> None:
        """Send the funding until bitcoind has it. Others that it pays must be there."""
        peer_id, channel = self._tasks.buy(action.jit_scid).peer_id, action.channel
        what = f"sending the funding {channel.funding_txid} of channel {channel.channel_id}"
        try:
            txid = await self._tasks.until_done(what, lambda: self._broadcaster.send(peer_id, channel))
        except ChannelGone as gone:
            await self._do_not_fund(peer_id, action, gone)
            return
        self._is_out(peer_id, action, txid)

    def _is_out(self, peer_id: str, action: order.Broadcast, txid: str) -> None:
        channel = action.channel
        self._funder.spent(action.jit_scid)
        self._withheld(channel.channel_id, False, peer_id)
        self._sent(peer_id, channel)
        log.info(f"funding {txid} of channel {channel.channel_id} is on its way to the chain")
        self._tasks.feed(action.jit_scid, action.payment_hash, Input.FUNDING_BROADCAST, None)

    # Several channels with one funding -------------------------------------------------------------

    async def send_all(self, members: list[Member]) -> Outcome:
        """Send their funding, unless one of them is gone: then close the channels of the others."""
        orders = [_broadcast_of(member) for member in members]
        first, taken_back = members[0], False
        what = f"sending the funding {orders[0].channel.funding_txid} of {len(members)} channels"
        try:
            txid = await self._tasks.until_done(what, lambda: self._broadcaster.send(first.peer_id, orders[0].channel))
        except ChannelGone as gone:
            taken_back = isinstance(gone, FundingTakenBack)
            log.warning(f"{what} is given up: {gone}")
        else:
            for member, action in zip(members, orders, strict=True):
                self._is_out(member.peer_id, action, txid)
            return Outcome(True)
        alive: list[Member] = []
        for member, action in zip(members, orders, strict=True):
            channel_id = action.channel.channel_id
            looking = f"looking at channel {channel_id}"
            try:
                await self._tasks.until_done(looking, partial(self._broadcaster.look, member.peer_id, channel_id))
                alive.append(member)
            except ChannelGone as lost:
                lost = FundingTakenBack(str(lost)) if taken_back else lost
                self._tasks.run(self._do_not_fund(member.peer_id, action, lost))
        return await self._open_others(alive, taken_back)

    async def send_none(self, members: list[Member]) -> Outcome:
        """Close their channels: one that they share their funding with is gone."""
        return await self._open_others(members, False)

    async def _open_others(self, members: list[Member], taken_back: bool) -> Outcome:
        """Tell sessions to open another channel, and close the one that is not funded.

        One that was given up meanwhile orders that itself (`Undo`).
        """
        for member in members:  # one that was left out may be about to send it
            self._broadcaster.give_up(_broadcast_of(member).channel.funding_txid)
        for member in members:
            channel = _broadcast_of(member).channel
            channel_id = channel.channel_id
            self._waiting.stop(channel_id)
            self._fees.drop(channel_id)
            self._waiting.watch.forget(channel_id)
            self._tasks.feed(*member.key, Input.SISTER_GONE, None)
            if taken_back:
                self._driver.taken_back(channel)
            self._driver.never_funded(channel_id)
        opening = [member for member in members if self._driver.is_opening(*member.key)]
        closing = {
            member.key: self._unfunded.close(member.peer_id, _broadcast_of(member).channel.channel_id, member.funding)
            for member in opening
        }
        await self._unfunded.wait(closing.values())
        late = {key: close for key, close in closing.items() if not close.done()}
        return Outcome(False, tuple(member for member in opening if member.key not in late), taken_back, late)

    async def undo(self, action: order.Undo) -> None:
        """End an attempt: its channel or open, then its reservation."""
        self.batches.leave(action.jit_scid, action.payment_hash)
        self._opening.forget_proposal(action.jit_scid)
        peer_id = self._tasks.buy(action.jit_scid).peer_id
        if action.channel is not None:
            self._waiting.stop(action.channel.channel_id)
            self._fees.drop(action.channel.channel_id)
            self._waiting.watch.forget(action.channel.channel_id)
        kept, taken_back = None, False
        try:
            kept = await self._drop_once_free(peer_id, action)
        except FundingTakenBack:
            taken_back = True
        if kept is not None:
            self._funder.spent(action.jit_scid)
            self._withheld(kept.channel_id, False, peer_id)
            self._sent(peer_id, kept)
            self._tasks.feed(action.jit_scid, action.payment_hash, Input.FUNDING_BROADCAST, kept)
            return
        if action.funding is not None:
            self._reservations.stop_renewing(action.jit_scid)
            if not taken_back:  # else these coins are spent
                await self._reservations.release_surely(action.jit_scid, action.funding, peer_id)
                if action.funding.batch:  # lightningd has freed them with the channel, and others need them
                    self._reservations.released_late(action.funding)
        self._funder.forget(action.jit_scid)
        if action.channel is not None:
            self._closed_here.discard(action.channel.channel_id)
            self._waiting.watch.forget(action.channel.channel_id)
            self._withheld(action.channel.channel_id, False, peer_id)
            if taken_back:
                self._driver.taken_back(action.channel)
                self._driver.never_funded(action.channel.channel_id)
        self._tasks.feed(action.jit_scid, action.payment_hash, Input.UNDONE, None)

    async def close_channel(self, action: order.CloseChannel) -> None:
        """Close a channel that cannot carry its payment."""
        peer_id = self._tasks.buy(action.jit_scid).peer_id
        what = f"closing unpaid channel {action.channel_id}, which cannot carry its payment"
        await self._tasks.until_done(what, lambda: self._funder.close_unpaid(peer_id, action.channel_id))

    async def connect(self, action: order.ConnectPeer) -> None:
        """Reach for a client that is away; once."""
        try:
            await self._funder.connect(action.peer_id)
        except NodeError as error:
            log.info(f"{action.peer_id} is not connected and cannot be reached: {error}")

    async def _do_not_fund(self, peer_id: str, action: order.Broadcast, gone: ChannelGone) -> None:
        """Send nothing and free the coins: the client gave its channel up before its funding was sent.

        The session undoes what else there is; where there is none this is all.
        """
        channel_id, taken_back = action.channel.channel_id, isinstance(gone, FundingTakenBack)
        if isinstance(gone, SisterGone):
            self._tasks.alarm(
                f"channel {channel_id} is not funded, for it shares that with one given up before: {gone}"
            )
            if self._driver.owns(channel_id):
                self._closed_here.add(channel_id)  # until it is undone
        elif not taken_back:  # else that has been said
            self._tasks.tell_given_up(peer_id, gone)
        self._reservations.stop_renewing(action.jit_scid)
        reserved = self._funder.reserved_by(action.jit_scid)
        if taken_back or isinstance(gone, SisterGone):  # where it is there it will never be funded, withheld or not
            await self._unfunded.wait([self._unfunded.close(peer_id, channel_id, next(iter(reserved), None))])
        else:
            await self._drop_withheld(peer_id, channel_id)
            self._withheld(channel_id, False, peer_id)
        for funding in [] if taken_back else self._funder.reserved_by(action.jit_scid):
            await self._reservations.release_surely(action.jit_scid, funding, peer_id)
            if funding.batch:
                self._reservations.released_late(funding)
        self._funder.forget(action.jit_scid)
        if taken_back:
            self._driver.taken_back(action.channel)
        self._tasks.feed(action.jit_scid, action.payment_hash, Input.CLOSED, True)
        self._driver.never_funded(channel_id)

    async def _drop_withheld(self, peer_id: str, channel_id: str) -> None:
        """Finish the close of a channel whose client began it; gone already is fine."""

        async def close() -> None:
            with suppress(OwedToClient, MustNotClose):  # then it lives, and so does its session
                await self._funder.close(peer_id, channel_id)

        await self._tasks.until_done(f"closing channel {channel_id}", close)

    async def _drop_once_free(self, peer_id: str, action: order.Undo) -> order.Channel | None:
        """Do as `_drop` once the client holds no part any more: that may take days, and is no alarm."""
        what, watch, pause_s = f"undoing the open to {peer_id}", self._waiting.watch, FIRST_PAUSE_S
        key = what if action.channel is None else action.channel.channel_id  # one may be found that no record names
        kept: order.Channel | None = None
        while True:
            try:
                kept = await self._tasks.until_done(what, lambda: self._drop(peer_id, action), UNDO_ENDS)
                break
            except MustNotClose as held:
                if pause_s == FIRST_PAUSE_S:
                    log.info(f"{what} waits: {held}")
                await watch.wait(key, pause_s)
                watch.look(key)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return kept

    async def _drop(self, peer_id: str, action: order.Undo) -> order.Channel | None:
        """Cancel what is half made; close what was made, also by a call whose answer never came.

        A channel that turns out to be owed to the client is put on chain instead, and returned (K-11). Raises
        FundingTakenBack if its funding went out though it was gone.
        """
        try:
            if (channel := action.channel) is not None:
                if not await self._funder.close(peer_id, channel.channel_id):
                    if await self._broadcaster.take_back(peer_id, channel):
                        raise FundingTakenBack(f"channel {channel.channel_id} was given up; its funding had been sent")
                    if channel.channel_id not in self._closed_here:
                        self._tasks.tell_given_up(peer_id, channel.channel_id)
            elif action.funding is not None:
                await self._opening.clear(peer_id, action.funding)
        except OwedToClient as owed:
            self._tasks.alarm(str(owed))
            try:
                return await self._broadcaster.send_as_found(peer_id, owed.found, action.channel)
            except FundingTakenBack:  # for one of its sisters
                await self._funder.close_unpaid(peer_id, owed.found.channel_id)
                raise
            except SisterGone as gone:
                self._tasks.alarm(f"channel {owed.found.channel_id} is closed: {gone}")
                await self._funder.close_unpaid(peer_id, owed.found.channel_id)
            except ChannelGone as gone:
                self._tasks.tell_given_up(peer_id, gone)
        return None
