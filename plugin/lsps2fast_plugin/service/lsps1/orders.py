"""The life of every order: its payment is held while its channel is opened, then taken, or goes back.

lightningd asks, in its hook `invoice_payment`, once the whole payment of an invoice is with it, and holds it until we
answer (cln:N10). The money rules here are few. Each step is written before it is taken. A funding is sent only while
the payment is in our hands, or taken. The payment is taken only once bitcoind has the funding. It goes back only once
no funding can be sent any more, and by deleting the invoice: what lightningd does after our death cannot undo that. A
plugin that dies lets lightningd take the payment: then the channel is owed, and opened however often that fails.

Steps are taken by state: whatever a start finds is gone on with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.lsps1 import Fact, OrderState
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.cln.retry import ALARM_AFTER, is_doubled, retry
from lsps2fast_plugin.service.funding import ChannelGone
from lsps2fast_plugin.service.leases import ChannelLeaseGuard, Duty
from lsps2fast_plugin.service.lsps1.book import Order, OrderBook
from lsps2fast_plugin.service.lsps1.channels import NoChannel, OrderChannels, is_of
from lsps2fast_plugin.service.lsps1.desk import OrderDesk
from lsps2fast_plugin.service.lsps1.invoices import OrderInvoices
from lsps2fast_plugin.service.lsps1.terms import LABEL

log = logging.getLogger(__name__)

Json = dict[str, Any]
CONTINUE: Final[Json] = {"result": "continue"}
REJECT: Final[Json] = {"result": "reject"}
LEAST_BLOCKS: Final = 60  # to its expiry, of a payment that is held at all
OPEN_BLOCKS: Final = 36  # before its expiry nothing is opened any more
SEND_BLOCKS: Final = 24  # and here it is taken or goes back, whatever bitcoind says
LAST_BLOCKS: Final = 12  # and here at the latest, were it that nothing can be written
REPLAY_MS: Final = 30_000  # after its start lightningd asks again within this time (cln:R1)
EXPIRED_MS: Final = 120_000  # after the end of an invoice: parts that came in time may wait 70 s for others
FIRST_LOOK_S, LOOK_S = 0.05, 1.0
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5_000, 600_000  # between opens that are owed


@dataclass
class _Call:
    """A hook that waits for our answer: one payment that is held."""

    answer: asyncio.Future[Json]
    since_ms: int
    expiry: int


class Orders:
    """Goes on with each order."""

    def __init__(
        self,
        *,
        book: OrderBook,
        invoices: OrderInvoices,
        channels: OrderChannels,
        leases: ChannelLeaseGuard,
        clock: Clock,
        height: Callable[[], int],
        is_online: Callable[[str], bool],
        alarm: Callable[[str], None],
        hold_ms: int,
        keep_ms: int,
        replays: bool,
        desk: OrderDesk | None,
    ) -> None:
        """`hold_ms`: so long a payment is held for a client that is away; `keep_ms`: a record after its end.

        `desk` takes new orders; without it those there are come to their end.
        """
        self.desk = desk
        self.book = book
        self._invoices = invoices
        self._channels = channels
        self._leases = leases
        self._clock = clock
        self._height = height
        self._is_online = is_online
        self._alarm = alarm
        self._hold_ms = hold_ms
        self._keep_ms = keep_ms
        self._replay_ms = REPLAY_MS if replays else 0
        self._begun_ms = clock.now_ms()
        self._calls: dict[str, _Call] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._chosen: set[str] = set()  # orders whose open was not begun in an earlier life
        self._loaded = asyncio.Event()
        self._ending = False

    # What comes in ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the records, and know their coins and channels, before anything is sold. Raises StoreError."""
        await self.book.load()
        for order in self.book.live():
            self._channels.take_up(order)

    def begin(self, channels: list[PeerChannel]) -> None:
        """Go on with every order; `channels` are what lightningd lists."""
        self._begun_ms = self._clock.now_ms()
        listed = {channel.channel_id for channel in channels}
        for order in self.book:
            if order.sent_ms and order.channel is not None and order.channel.channel_id in listed:
                self._owe(order)
        self._loaded.set()
        for order in self.book.live():
            self._go_on(order)

    def owns(self, channel: PeerChannel) -> bool:
        """Return whether a withheld channel may be one of ours."""
        return any(is_of(order, channel) for order in self.book.live())

    async def on_payment(self, label: str) -> Json:
        """Answer the hook: once, when the order has come to its channel or to its end."""
        order_id = label.removeprefix(LABEL)
        try:
            await self._loaded.wait()
            return await self._hold(order_id)
        except asyncio.CancelledError:  # the plugin ends
            return self._parting(order_id)
        except Exception as error:
            log.exception(f"the payment of order {order_id} cannot be held ({error!r})")
            return self._parting(order_id)

    async def _hold(self, order_id: str) -> Json:
        order = self.book.get(order_id)
        if order is None or order.state in (OrderState.REFUNDING, OrderState.FAILED) or self._ending:
            return REJECT
        if order.state in (OrderState.SENT, OrderState.DONE) and order_id not in self._calls:
            self._go_on(order)
            return CONTINUE
        call = self._calls.get(order_id)
        if call is None:
            expiry = await self._expiry(order)
            if order.state is OrderState.EXPECTED and expiry - self._height() < LEAST_BLOCKS:
                log.warning(f"a payment of order {order_id} runs out at height {expiry}, too soon to be held")
                return REJECT
            answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
            call = self._calls[order_id] = _Call(answer, self._clock.now_ms(), expiry)
            self._go_on(self.book.get(order_id) or order)
        return await asyncio.shield(call.answer)

    async def _expiry(self, order: Order) -> int:
        """Return when a payment that is held runs out; what lightningd does not list any more has done so."""
        what = f"asking when the payment of order {order.id} runs out"
        found = await retry(what, lambda: self._invoices.earliest_expiry(order.payment_hash), self._clock, tries=3)
        return self._height() if found is None else found

    def block(self) -> None:
        """Look after fundings, with each block; and let no payment run out, whatever an order waits for (rule:5)."""
        for order_id, call in list(self._calls.items()):
            if self._height() >= call.expiry - LAST_BLOCKS:
                log.warning(f"the payment of order {order_id} runs out and is held no longer")
                self._answer(order_id, self._parting(order_id))
        for order in self.book.live():
            if order.state is OrderState.SENT:
                self._go_on(order)

    async def look(self) -> None:
        """End orders whose invoice was not paid in time; forget what ended long ago."""
        before_ms = self._clock.wall_ms() - EXPIRED_MS
        for order in self.book.live():
            if order.state is OrderState.EXPECTED and order.expires_ms < before_ms:
                self._go_on(order)
        try:
            await self.book.prune(self._keep_ms, lambda order: self._leases.keeps(order.id))
        except StoreError as error:
            log.info(f"old orders cannot be forgotten now: {error}")

    def stop(self) -> None:
        """End: what is held is answered; the records tell the next start what was going on."""
        self._ending = True
        for task in self._running.values():
            task.cancel()
        for order_id in list(self._calls):
            self._answer(order_id, self._parting(order_id))

    def _parting(self, order_id: str) -> Json:
        """Return the answer of a plugin that ends: nothing is taken for a channel that may still come to nothing.

        One that has not read its records yet cannot know: what is taken then is owed, as any payment that is taken.
        """
        if not self._loaded.is_set():
            return CONTINUE
        order = self.book.get(order_id)
        owed = order is not None and order.state in (OrderState.FUNDED, OrderState.SENT, OrderState.DONE)
        return CONTINUE if owed or (order is not None and order.paid) else REJECT

    def _answer(self, order_id: str, result: Json) -> None:
        call = self._calls.pop(order_id, None)
        if call is not None and not call.answer.done():
            call.answer.set_result(result)

    # Going on --------------------------------------------------------------------------------------

    def _go_on(self, order: Order) -> None:
        if order.id in self._running or order.state.is_over or self._ending:
            return
        task = asyncio.get_running_loop().create_task(self._run(order.id))
        self._running[order.id] = task
        task.add_done_callback(lambda done: self._ran(order.id, done))

    def _ran(self, order_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(order_id, None)
        if task.cancelled():  # the plugin ends
            return
        if (error := task.exception()) is not None:
            log.error(f"order {order_id}", exc_info=error)
            self._alarm(f"going on with order {order_id} broke: {error!r}; it goes on with the next start")
            self._answer(order_id, self._parting(order_id))
            return
        order = self.book.get(order_id)
        if order is not None and (order.state not in _RESTING or order_id in self._calls):  # it came while this ended
            self._go_on(order)

    async def _run(self, order_id: str) -> None:
        steps: dict[OrderState, Callable[[Order], Coroutine[Any, Any, Order | None]]] = {
            OrderState.EXPECTED: self._end_unpaid,
            OrderState.HELD: self._choose,
            OrderState.OPENING: self._open,
            OrderState.FUNDED: self._send,
            OrderState.SENT: self._settle,
            OrderState.REFUNDING: self._refund,
        }
        order = self.book.get(order_id)
        while order is not None and not order.state.is_over:
            order = await steps[order.state](order)
        if order is not None:
            self._answer(order_id, self._parting(order_id))

    async def _has_payment(self, order: Order) -> bool:
        """Return whether the payment is held or taken; waits for one that lightningd will tell of after its start."""
        pause_s = FIRST_LOOK_S  # what was just let go is taken in a moment
        while True:
            now = self.book.get(order.id) or order
            if now.paid or order.id in self._calls:
                return True
            try:
                if await self._invoices.is_paid(order.label):
                    await self.book.move(now, Fact.PAID)
                    continue
                under_way = await self._invoices.earliest_expiry(order.payment_hash) is not None
            except NodeError as error:
                log.info(f"whether order {order.id} is paid is not known: {error}")
                under_way = True
            if order.id in self._calls:
                return True
            if not under_way and self._clock.now_ms() >= self._begun_ms + self._replay_ms:
                return False
            await self._clock.turned(pause_s)
            pause_s = min(2 * pause_s, LOOK_S)

    def _is_late(self, order: Order, blocks: int) -> bool:
        call = self._calls.get(order.id)
        return call is not None and not order.paid and self._height() >= call.expiry - blocks

    def _was_held_long(self, order: Order) -> bool:
        call = self._calls.get(order.id)
        long = call is not None and self._clock.now_ms() - call.since_ms >= self._hold_ms
        return not order.paid and (long or self._is_late(order, OPEN_BLOCKS))

    async def _end_unpaid(self, order: Order) -> Order | None:
        """Of EXPECTED: take note of a payment; once the invoice has ended, end."""
        if order.id in self._calls:
            return await self.book.move(order, Fact.HOLD)
        if await self._paid_without_us(order):
            return await self.book.move(order, Fact.PAID)
        if order.id in self._calls or order.expires_ms + EXPIRED_MS >= self._clock.wall_ms():
            return None  # a payment that has come meanwhile is told by `_ran`
        if await self._invoices_say_nothing(order):
            return await self.book.move(order, Fact.LOST, why="it was not paid in time")
        return None

    async def _paid_without_us(self, order: Order) -> bool:
        """Return whether lightningd took the payment while no plugin ran; asked until it says."""
        what = f"asking whether order {order.id} is paid"
        paid: bool = await retry(what, lambda: self._invoices.is_paid(order.label), self._clock, alarm=self._alarm)
        return paid

    async def _invoices_say_nothing(self, order: Order) -> bool:
        try:
            return await self._invoices.earliest_expiry(order.payment_hash) is None
        except NodeError:
            return False

    async def _choose(self, order: Order) -> Order:
        """Of HELD: wait for the client, and choose coins."""
        if not await self._has_payment(order):
            return await self.book.move(order, Fact.LOST, why="its payment went back")
        order = self.book.get(order.id) or order
        if order.attempts and order.paid:  # the last one failed, and this one is owed
            pause_ms = min(FIRST_PAUSE_MS << min(order.attempts - 1, 10), LONGEST_PAUSE_MS)
            await self._clock.sleep_until(self._clock.now_ms() + pause_ms)
        while not self._is_online(order.peer_id):
            if self._was_held_long(order):
                return await self.book.move(order, Fact.LATE, why="the client was away")
            await self._clock.turned(LOOK_S)
        if self._was_held_long(order):
            return await self.book.move(order, Fact.LATE, why="its payment runs out soon")
        try:
            funding = await self._channels.choose(order)
        except NoChannel as error:
            return await self._no_channel(order, error)
        self._chosen.add(order.id)
        return await self.book.move(order, Fact.COINS, funding=funding)

    async def _open(self, order: Order) -> Order:
        """Of OPENING: reserve the coins that are written down, and open; clear away what an earlier life began."""
        if order.id not in self._chosen:
            await self._clear(order)
            return await self.book.move(order, Fact.CLEARED)
        self._chosen.discard(order.id)
        try:
            opened = await self._channels.open(order)
            if opened is not None:
                changes = {"channel": opened.channel, "outnum": opened.outnum}
                return await self.book.move(order, Fact.FUNDED, **changes)
            funding = await self._channels.choose(order)
        except NoChannel as error:
            if order.paid:
                await self._clear(order)
            return await self._no_channel(order, error)
        self._chosen.add(order.id)
        return await self.book.move(order, Fact.COINS, funding=funding)

    async def _no_channel(self, order: Order, error: NoChannel) -> Order:
        attempts = order.attempts + 1
        log.warning(f"no channel for order {order.id} of {order.peer_id}: {error}")
        if order.paid and is_doubled(attempts, ALARM_AFTER):
            self._alarm(f"the channel of order {order.id}, which is paid, has failed {attempts} times: {error}")
        return await self.book.move(order, Fact.NO_CHANNEL, attempts=attempts, why=str(error))

    async def _send(self, order: Order) -> Order:
        """Of FUNDED: send the funding while the payment is ours; drop a channel that is not paid for."""
        if not await self._has_payment(order):
            if await self._dropped(order):
                return await self.book.move(order, Fact.GONE, why="its payment went back")
            log.warning(f"the funding of order {order.id} was sent, and its payment went back")
        order = self.book.get(order.id) or order
        try:
            await self._channels.send(order)
        except ChannelGone as gone:
            why = f"the channel was given up before its funding was sent ({gone})"
            if order.paid:
                await self._clear(order)
            return await self.book.move(order, Fact.GONE, attempts=order.attempts + 1, why=why)
        except NodeError as error:
            return await self._not_sent(order, error)
        order = await self.book.move(order, Fact.SENT, sent_ms=self._clock.wall_ms())
        self._owe(order)
        ask, channel_id = order.ask, "" if order.channel is None else order.channel.channel_id
        log.info(
            f"sold order {order.id} to {order.peer_id}: channel {channel_id} of {ask.capacity_sat} sat for "
            f"{order.fee_sat} sat and {ask.channel_expiry_blocks} blocks"
        )
        return order

    async def _not_sent(self, order: Order, error: NodeError) -> Order:
        """Go on trying; where the payment can wait no longer it goes back, or is taken for a funding that is owed."""
        attempts = order.attempts + 1
        log.warning(f"the funding of order {order.id} is not sent yet: {error}")
        if is_doubled(attempts, ALARM_AFTER):
            self._alarm(f"sending the funding of order {order.id} has failed {attempts} times: {error}")
        if self._is_late(order, SEND_BLOCKS):
            if await self._dropped(order):
                return await self.book.move(order, Fact.GONE, why=f"its funding could not be sent: {error}")
            self._answer(order.id, CONTINUE)
        pause_ms = min(1_000 << min(attempts, 6), 60_000)
        await self._clock.sleep_until(self._clock.now_ms() + pause_ms)
        return await self.book.move(order, Fact.LATE, attempts=attempts)  # in this state a note and no more

    async def _dropped(self, order: Order) -> bool:
        what = f"dropping the channel of order {order.id}"
        gone: bool = await retry(what, lambda: self._channels.drop(order), self._clock, alarm=self._alarm)
        return gone

    async def _settle(self, order: Order) -> Order | None:
        """Of SENT: have the payment taken, then look after the funding until it has blocks enough."""
        self._answer(order.id, CONTINUE)
        if not order.paid:
            if await self._has_payment(order):
                now = self.book.get(order.id) or order
                if not now.paid:
                    return now  # a hook came meanwhile: it is answered in the next round
                order = now
                self._channels.paid(order)
            elif order.why != _GIVEN_AWAY:
                self._channels.given_away(order)
                self._alarm(f"order {order.id} has its channel on chain, and its payment went back: it stays on chain")
                order = await self.book.move(order, Fact.SENT, why=_GIVEN_AWAY)
        else:
            self._channels.paid(order)
        try:
            if not await self._channels.is_buried(order, self._height()):
                return None  # the next block looks again
        except ChannelGone as gone:
            self._alarm(f"the channel of order {order.id} was given up before a block had its funding: {gone}")
        except NodeError as error:
            log.info(f"the funding of order {order.id} cannot be looked up, the next block looks again: {error}")
            return None
        return await self.book.move(order, Fact.BURIED)

    async def _refund(self, order: Order) -> Order:
        """Of REFUNDING: take the invoice away, and with it the payment; then what is left of an open."""
        if not order.paid:
            what = f"taking the invoice of order {order.id} back"
            taken_back = await retry(
                what, lambda: self._invoices.take_back(order.label), self._clock, alarm=self._alarm
            )
            if taken_back:
                self._answer(order.id, REJECT)
            else:
                order = await self.book.move(order, Fact.PAID)
        await self._clear(order)
        return await self.book.move(order, Fact.CLEARED)

    async def _clear(self, order: Order) -> None:
        what = f"clearing away what order {order.id} has opened"
        await retry(what, lambda: self._channels.clear(order), self._clock, errors=Exception, alarm=self._alarm)

    def _owe(self, order: Order) -> None:
        """Keep the channel open as long as it is leased."""
        if order.channel is not None:
            duty = Duty(order.key, order.peer_id, order.ask.channel_expiry_blocks, order.id)
            self._leases.owe_order(order.channel.channel_id, duty)


_RESTING: Final = (OrderState.EXPECTED, OrderState.SENT, OrderState.DONE, OrderState.FAILED)
_GIVEN_AWAY: Final = "it was not paid for"
