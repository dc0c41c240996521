"""Orders about the record of a payment: written, made final, reset, deleted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.errors import StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.service.order_tasks import OrderTasks
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.routing_fees import RoutingFees
from lsps2fast_plugin.service.session_store import SessionStore

STORE_TRIES: Final = 4  # then STORE_FAILED: the parts are failed rather than held on hope


class RecordOrders:
    """Carries out orders about records; an older order about a record is never repeated over a newer one."""

    def __init__(
        self, tasks: OrderTasks, store: SessionStore, clock: Clock, fees: RoutingFees, room: PromisedRoom
    ) -> None:
        self._tasks = tasks
        self._store = store
        self._clock = clock
        self._fees = fees
        self._room = room
        self._newest: dict[int, int] = {}  # number of the last order about the record of a jit scid
        self._orders = itertools.count(1)
        self.sending: WeakValueDictionary[str, asyncio.Task[None]] = WeakValueDictionary()  # Broadcast by channel
        self.resetting: WeakValueDictionary[int, asyncio.Task[None]] = WeakValueDictionary()  # Reset by jit scid
        # LeaveChannel by jit scid and channel: until its fees are back the active record tells of them, and stays
        self.leaving: WeakValueDictionary[tuple[int, str], asyncio.Task[None]] = WeakValueDictionary()

    async def persist(self, action: order.Persist) -> None:
        """Write a record; the machine hears whether that worked (rule:11)."""
        self._supersede(action.jit_scid)
        existing = action.record.existing
        await self._until_left(action.jit_scid, besides="" if existing is None else existing.channel_id)
        put = partial(self._store.put, action.jit_scid, action.record)
        try:
            await retry(
                "writing the journal",
                put,
                self._clock,
                errors=StoreError,
                tries=STORE_TRIES,
                alarm=self._tasks.alarm,
                alarm_after=1,
            )
        except StoreError:
            self._tasks.feed(action.jit_scid, action.payment_hash, Input.STORE_FAILED, None)
        else:
            self._tasks.feed(action.jit_scid, action.payment_hash, Input.STORED, None)

    async def finalize(self, action: order.Finalize, fees: order.RestoreFees | None) -> None:
        """Write the final record, give back routing fees, delete the active record: a crash between finds it (K-15)."""
        self._supersede(action.jit_scid)
        await self._until_left(action.jit_scid)
        await self._until_reset(action.jit_scid)
        sending = None if action.record.channel is None else self.sending.get(action.record.channel.channel_id)
        if sending is not None:
            await asyncio.wait([sending])  # until it is sent only the active record knows of the channel (rule:9)
        await self._tasks.until_done(
            "writing the final record",
            lambda: self._store.finalize(action.jit_scid, action.record, action.outcome, self._clock.wall_ms()),
        )
        if fees is None and action.outcome == order.FAILED and action.record.channel is not None:
            fees = order.RestoreFees(action.record.channel.channel_id)  # public and unpaid: a look at the end
        await self._end_record(action.jit_scid, fees)

    async def reset(self, action: order.Reset, left: order.LeaveChannel | None = None) -> None:
        """Write that nothing is under way any more.

        `left`: the payment went over a channel that its client had, and is to be on record before the buy is as new.
        """
        counts = self._supersede(action.jit_scid)
        await self._until_left(action.jit_scid)
        if left is not None and action.outcome == order.REUSED:
            told = partial(self._store.attempt_ended, action.jit_scid, left.payment_hash, order.REUSED)
            paid_msat = action.record.fee_paid_msat
            await self._tasks.until_done("writing how a payment ended", lambda: told(self._clock.wall_ms(), paid_msat))

        async def put() -> None:
            if counts():  # else the next payment has journalled its own record since
                await self._store.put(action.jit_scid, action.record)

        await self._tasks.until_done("resetting a record", put)

    async def forget(self, action: order.ForgetBuy) -> None:
        """End the record of an offer that lapsed; others end with their final record."""
        await self._until_reset(action.jit_scid)
        if action.outcome == order.TIMEOUT and self._store.knows(action.jit_scid):
            lapse = partial(self._store.lapse, action.jit_scid, self._clock.wall_ms())
            await self._tasks.until_done("writing the final record", lapse)
            await self._tasks.until_done("deleting a record", lambda: self._store.forget(action.jit_scid))
            self._newest.pop(action.jit_scid, None)

    def finish(self, buy: Buy, fees: order.RestoreFees | None) -> None:
        """After a start: the final record is there; do what should have followed it (K-15)."""
        self._tasks.spawn(self._end_again(buy, fees), order.ForgetBuy(buy.jit_scid, "Succeeded"))

    def keep_alias(self, buy: Buy, fees: order.RestoreFees) -> None:
        """After a start: lightningd has forgotten which rate forwards over the jit scid were promised (A-03)."""
        self._tasks.spawn(self._end_again(buy, fees), fees)

    async def _end_again(self, buy: Buy, fees: order.RestoreFees | None) -> None:
        """Give a channel its fees once more, by way of zero; meanwhile an active record says which they are.

        A payment that is under way over it gives them back when it ends, or is about to, and its record tells of them.
        """
        if fees is not None and (self._room.in_use(fees.channel_id) or self._fees.is_pending(fees.channel_id)):
            fees = None
        if fees is not None:
            asked = partial(self._fees.rates_of, fees)
            fees = replace(fees, rates=await self._tasks.until_done("asking which routing fees channels have", asked))
        if fees is not None and fees.rates is not None and any(fees.rates):
            note = partial(self._store.note_fees, buy, order.ExistingChannel(fees.channel_id, 0, *fees.rates))
            await self._tasks.until_done("writing which routing fees a channel has", note)
        await self._end_record(buy.jit_scid, fees, again=True)

    async def _end_record(self, jit_scid: int, fees: order.RestoreFees | None, again: bool = False) -> None:
        if fees is not None:
            await self._fees.restore(fees, again=again)
        await self._tasks.until_done("deleting the active record", lambda: self._store.forget(jit_scid))
        self._newest.pop(jit_scid, None)

    async def _until_reset(self, jit_scid: int) -> None:
        """Wait until the last payment on this scid is on record, and fees that the active record tells of are back."""
        if (resetting := self.resetting.get(jit_scid)) is not None:
            await asyncio.wait([resetting])

    async def _until_left(self, jit_scid: int, besides: str = "") -> None:
        """Wait until the channels of its client that this scid's record tells of, all `besides` one, charge again."""
        left = [task for (scid, id_), task in self.leaving.items() if scid == jit_scid and id_ != besides]
        if left:
            await asyncio.wait(left)

    def _supersede(self, jit_scid: int) -> Callable[[], bool]:
        """Make older orders about this record void. The function says whether this one still counts."""
        mine = self._newest[jit_scid] = next(self._orders)
        return lambda: self._newest.get(jit_scid) == mine
