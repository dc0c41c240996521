"""Reservations of coins: renewed while they are needed, mended when a call that was given up takes effect late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary

from lsps2fast import actions as order
from lsps2fast.lsps.buys import Buy
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.funding import ChannelGone, Funder
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks


class Reservations:
    """Keeps and frees the coins of attempts."""

    def __init__(self, tasks: OrderTasks, funder: Funder, broadcaster: Broadcaster, driver: Driver) -> None:
        self._tasks = tasks
        self._funder = funder
        self._broadcaster = broadcaster
        self._driver = driver
        self._renewing: WeakValueDictionary[int, asyncio.Task[None]] = WeakValueDictionary()  # RenewInputs by scid
        self._found: dict[int, order.Funding] = {}  # by scid: what a start is renewing, or has renewed

    def renew_found(self, buy: Buy, funding: order.Funding, channel_id: str) -> None:
        """After a start: reserve the coins of this channel for longer, before its session is made anew (O-04)."""
        if self._found.get(buy.jit_scid) != funding:
            self._found[buy.jit_scid] = funding
            action = order.RenewInputs(buy.jit_scid, b"", funding)
            self._tasks.spawn(self._renew(action, buy.peer_id, lambda: channel_id), action)

    async def renew(self, action: order.RenewInputs) -> None:
        """Reserve these coins for longer, unless their channel is gone (O-04)."""
        if self._found.pop(action.jit_scid, None) == action.funding:
            return

        def channel_id() -> str | None:
            channel = self._driver.channel_of(action.jit_scid)
            return None if channel is None else channel.channel_id

        await self._renew(action, self._tasks.buy(action.jit_scid).peer_id, channel_id)

    async def _renew(self, action: order.RenewInputs, peer_id: str, channel_id: Callable[[], str | None]) -> None:
        self.stop_renewing(action.jit_scid)
        this = asyncio.current_task()
        assert this is not None
        self._renewing[action.jit_scid] = this
        late = partial(self.reserved_late, action.jit_scid, action.funding)

        async def renew() -> None:
            await self._broadcaster.renew(action.jit_scid, action.funding, peer_id, channel_id(), late)

        with suppress(ChannelGone):  # its coins are free, and who sends its funding will say so
            await self._tasks.until_done("renewing a reservation", renew)

    def stop_renewing(self, jit_scid: int) -> None:
        """Give up a renewal that has not worked yet: the coins are freed, or renewed anew."""
        if renewing := self._renewing.pop(jit_scid, None):
            renewing.cancel()

    async def release(self, jit_scid: int, funding: order.Funding) -> None:
        """Free these coins. Raises NodeError."""
        await self._funder.release(jit_scid, funding, partial(self.released_late, funding))

    async def release_surely(self, jit_scid: int, funding: order.Funding, peer_id: str) -> None:
        """Free these coins; tried until it works."""
        await self._tasks.until_done(f"releasing the coins of {peer_id}", partial(self.release, jit_scid, funding))

    async def _renew_ordered(self, key: int, funding: order.Funding) -> None:
        """Reserve the coins of an order again, if it still has them. Raises NodeError."""
        if funding in self._funder.reserved_by(key):
            await self._broadcaster.renew(key, funding, "", None)

    def reserved_late(self, jit_scid: int, funding: order.Funding) -> None:
        """Free coins that lightningd reserved after the call was given up, if no attempt has them any more."""
        if not self._funder.is_promised(funding):
            what = "releasing coins that were reserved late"
            self._tasks.insist(what, lambda: self._funder.release(jit_scid, funding))

    def released_late(self, funding: order.Funding) -> None:
        """Reserve coins again that lightningd freed after the call was given up, if another attempt has them by now."""
        if funding.batch:
            self._tasks.insist("keeping the coins of a batch", lambda: self._funder.keep(funding))
            return
        for holder, theirs in self._funder.standing(funding).items():
            if self._driver.buy_of(holder) is None:  # a channel that was ordered
                self._tasks.insist("renewing a reservation", partial(self._renew_ordered, holder, theirs))
                continue
            renewal = order.RenewInputs(holder, b"", theirs)
            self._tasks.spawn(self.renew(renewal), renewal)
