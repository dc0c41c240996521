"""The steps of an order, one for each state: each is written before it is taken, and may be taken again after a death.

The money rules are few. A funding is sent only while all parts of the payment are in our hands, or were taken; each
time lightningd is asked whether it still has them. The payment is taken only once bitcoind has the funding, with our
own preimage: what lightningd thinks of its invoice by then is no matter. It goes back only once no funding can be sent
any more, and after its invoice was deleted: so lightningd cannot take it when we die in between. What lightningd took
while no plugin ran is owed, and its channel is opened however often that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from lsps2fast.errors import NodeError
from lsps2fast.lsps.lsps1 import Fact, OrderState
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.retry import ALARM_AFTER, is_doubled, retry
from lsps2fast_plugin.cln.scid_aliases import Key
from lsps2fast_plugin.service.funding import ChannelGone
from lsps2fast_plugin.service.leases import ChannelLeaseGuard, Duty
from lsps2fast_plugin.service.lsps1.book import Order, OrderBook
from lsps2fast_plugin.service.lsps1.channels import NoChannel, OrderChannels
from lsps2fast_plugin.service.lsps1.invoices import OrderInvoices, Taken
from lsps2fast_plugin.service.lsps1.order_parts import TEMPORARY_NODE_FAILURE, OrderParts
from lsps2fast_plugin.service.lsps1.terms import LABEL

log = logging.getLogger(__name__)

OPEN_BLOCKS: Final = 36  # before the expiry of a payment nothing is opened for it any more
SEND_BLOCKS: Final = 24  # and here it is taken or goes back, whatever bitcoind says
REPLAY_MS: Final = 30_000  # after its start lightningd asks again within this time (cln:R1)
SET_MS: Final = 100_000  # so long it may have parts of a payment that came without us (cln:C4: 70 s)
CHAIN_MS: Final = 30_000  # so long a payment waits for what is known of the chain
EXPIRED_MS: Final = 120_000  # after the end of an invoice: parts that came in time may wait for others
FIRST_LOOK_S, LOOK_S = 0.05, 1.0
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5_000, 600_000  # between opens that are owed
WENT_BACK: Final = "its payment went back"
GIVEN_AWAY: Final = "it was not paid for"
_SIGNED: Final = (OrderState.FUNDED, OrderState.SENT)  # their fundings may be on their way


class OrderSteps:
    """Takes them."""

    def __init__(
        self,
        *,
        book: OrderBook,
        parts: OrderParts,
        invoices: OrderInvoices,
        channels: OrderChannels,
        leases: ChannelLeaseGuard,
        clock: Clock,
        height: Callable[[], int],
        is_online: Callable[[str], bool],
        alarm: Callable[[str], None],
        hold_ms: int,
        replays: bool,
    ) -> None:
        """`hold_ms`: so long a payment is held for a client that is away; `replays`: lightningd has just started."""
        self._book = book
        self._parts = parts
        self._invoices = invoices
        self._channels = channels
        self._leases = leases
        self._clock = clock
        self._height = height
        self._is_online = is_online
        self._alarm = alarm
        self._hold_ms = hold_ms
        self._replay_ms = REPLAY_MS if replays else 0
        self._begun_ms = clock.now_ms()
        self._is_caught_up = False  # with the chain, in this life
        self._chosen: set[str] = set()  # orders whose open was not begun in an earlier life
        self._seen: set[str] = set()  # orders whose payment was whole in this life
        self._answered: set[str] = set()  # orders whose payment was taken in this life
        self._closed: set[str] = set()  # orders whose invoice was taken back once their payment was ours
        self._take: dict[OrderState, Callable[[Order], Coroutine[Any, Any, Order | None]]] = {
            OrderState.EXPECTED: self._expect,
            OrderState.HELD: self._choose,
            OrderState.OPENING: self._open,
            OrderState.FUNDED: self._send,
            OrderState.SENT: self._settle,
            OrderState.REFUNDING: self._refund,
        }

    def begin(self) -> None:
        """Count the time in which lightningd asks again from now."""
        self._begun_ms = self._clock.now_ms()

    @property
    def may_replay(self) -> bool:
        """Whether lightningd may still ask about parts that it asked about in an earlier life."""
        return self._clock.now_ms() < self._begun_ms + self._replay_ms

    def is_closed(self, order: Order) -> bool:
        """Return whether nothing is left to be done about the payment of an order that is sent."""
        return (order.paid and not order.taken) or order.id in self._closed

    async def take(self, order: Order) -> Order | None:
        """Take the next step and return the order as it then is; None: it rests until something happens."""
        return await self._take[order.state](order)

    # The payment -----------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Ask until lightningd and we know the latest blocks: a payment may have run out unseen (cln:O12).

        The first payment may come long after the start.
        """
        until_ms = max(self._begun_ms + self._hold_ms, self._clock.now_ms() + CHAIN_MS)
        while not self._is_caught_up and self._clock.now_ms() < until_ms:
            try:
                self._is_caught_up = await self._invoices.knows_the_chain(self._height())
            except NodeError as error:
                log.info(f"whether lightningd knows the latest blocks is not known: {error}")
            if not self._is_caught_up:
                await self._clock.turned(LOOK_S)

    async def _has_payment(self, order: Order) -> bool:
        """Return whether the payment is held whole, or taken; waits for parts that lightningd will tell of."""
        if not order.paid:
            await self._catch_up()
        pause_s = FIRST_LOOK_S  # what was just let go is taken in a moment
        while True:
            now, whole = self._book.get(order.id) or order, self._parts.whole(order.id)
            if now.paid:
                return True
            if whole is not None:
                self._seen.add(order.id)
            try:
                if await self._invoices.is_taken(order.label, order.payment_hash) is Taken.YES:
                    await self._book.move(now, Fact.PAID)
                    self._parts.give_back(order.id, self._height())  # one payment is enough
                    return True
                under_way = await self._invoices.under_way(order.payment_hash)
            except NodeError as error:
                log.info(f"whether order {order.id} is paid is not known: {error}")
            else:
                if whole is not None and self._parts.whole(order.id) is whole:
                    if under_way.issuperset(whole.calls):
                        return True
                    if now.state not in _SIGNED:
                        log.warning(f"parts of the payment of order {order.id} are lost, so the others go back")
                        self._parts.give_back(order.id, self._height(), TEMPORARY_NODE_FAILURE)
                    return False
                is_set_over = not under_way or self._clock.now_ms() >= self._begun_ms + SET_MS
                may_come = self.may_replay and order.id not in self._seen
                if self._parts.whole(order.id) is None and not may_come and is_set_over:
                    return False
            await self._clock.turned(pause_s)
            pause_s = min(2 * pause_s, LOOK_S)

    def _taking(self, order: Order) -> dict[str, Any]:
        """Return what is written before the payment is taken."""
        keys = () if order.paid else self._parts.keys(order.id)
        return {"taken": keys} if keys else {}

    async def _is_lost(self, order: Order, keys: tuple[Key, ...]) -> bool:
        """Return whether lightningd has none of these parts any more; where it does not say, it has them.

        One on chain counts: with the preimage lightningd tries to claim it there.
        """
        try:
            return (await self._invoices.under_way(order.payment_hash, on_chain=True)).isdisjoint(keys)
        except NodeError:
            return False

    def _answer(self, order: Order) -> None:
        """Take a payment whose record says so."""
        if order.taken and set(order.taken).issuperset(self._parts.keys(order.id)):
            if self._parts.keys(order.id):
                self._answered.add(order.id)
            self._parts.settle(order.id, bytes.fromhex(order.preimage))
        elif order.paid:
            self._parts.give_back(order.id, self._height())

    def _is_late(self, order: Order, blocks: int) -> bool:
        left = self._parts.blocks_left(order.id, self._height())
        return left is not None and not order.paid and (left <= blocks or not self._is_caught_up)

    def _was_held_long(self, order: Order) -> bool:
        whole = self._parts.whole(order.id)
        long = whole is not None and self._clock.now_ms() - whole.since_ms >= self._hold_ms
        return not order.paid and (long or self._is_late(order, OPEN_BLOCKS))

    # The steps -------------------------------------------------------------------------------------

    async def _expect(self, order: Order) -> Order | None:
        """Of EXPECTED: take note of a payment; once the invoice has ended, end."""
        if self._parts.whole(order.id) is not None:
            self._seen.add(order.id)
            return await self._book.move(order, Fact.HOLD, held=self._parts.keys(order.id))
        what = f"asking whether order {order.id} is paid"
        taken = await retry(
            what,
            lambda: self._invoices.is_taken(order.label, order.payment_hash),
            self._clock,
            alarm=self._alarm,
        )
        if taken is Taken.YES:
            return await self._book.move(order, Fact.PAID)
        if self._parts.keys(order.id) or order.expires_ms + EXPIRED_MS >= self._clock.wall_ms():
            return None  # a payment that has become whole meanwhile is gone on with
        try:
            if await self._invoices.under_way(order.payment_hash):
                return None
        except NodeError:
            return None
        return await self._book.move(order, Fact.LOST, why="it was not paid in time")

    async def _choose(self, order: Order) -> Order:
        """Of HELD: wait for the client, and choose coins."""
        if not await self._has_payment(order):
            return await self._book.move(order, Fact.LOST, why=WENT_BACK)
        order = self._book.get(order.id) or order
        if order.attempts and order.paid:  # the last one failed, and this one is owed
            pause_ms = min(FIRST_PAUSE_MS << min(order.attempts - 1, 10), LONGEST_PAUSE_MS)
            await self._clock.sleep_until(self._clock.now_ms() + pause_ms)
        while not self._is_online(order.peer_id):
            if not order.paid and self._parts.whole(order.id) is None:  # it ran out
                return await self._book.move(order, Fact.LOST, why=WENT_BACK)
            if self._was_held_long(order):
                return await self._book.move(order, Fact.LATE, why="the client was away")
            await self._clock.turned(LOOK_S)
        if self._was_held_long(order):
            return await self._book.move(order, Fact.LATE, why="its payment runs out soon")
        try:
            funding = await self._channels.choose(order)
        except NoChannel as error:
            return await self._no_channel(order, error)
        self._chosen.add(order.id)
        return await self._book.move(order, Fact.COINS, funding=funding)

    async def _open(self, order: Order) -> Order:
        """Of OPENING: reserve the coins that are written down, and open; clear away what an earlier life began."""
        if order.id not in self._chosen:
            await self._clear(order)
            return await self._book.move(order, Fact.CLEARED)
        self._chosen.discard(order.id)
        try:
            opened = await self._channels.open(order)
            if opened is not None:
                changes = {"channel": opened.channel, "outnum": opened.outnum}
                return await self._book.move(order, Fact.FUNDED, **changes)
            funding = await self._channels.choose(order)
        except NoChannel as error:
            if order.paid:
                await self._clear(order)
            return await self._no_channel(order, error)
        self._chosen.add(order.id)
        return await self._book.move(order, Fact.COINS, funding=funding)

    async def _no_channel(self, order: Order, error: NoChannel) -> Order:
        attempts = order.attempts + 1
        log.warning(f"no channel for order {order.id} of {order.peer_id}: {error}")
        if order.paid and is_doubled(attempts, ALARM_AFTER):
            self._alarm(f"the channel of order {order.id}, which is paid, has failed {attempts} times: {error}")
        return await self._book.move(order, Fact.NO_CHANNEL, attempts=attempts, why=str(error))

    async def _send(self, order: Order) -> Order:
        """Of FUNDED: send the funding while the payment is ours; drop a channel that is not paid for."""
        await self._channels.renew(order, self._height())
        if not await self._has_payment(order):
            if await self._dropped(order):
                self._parts.give_back(order.id, self._height(), TEMPORARY_NODE_FAILURE)
                return await self._book.move(order, Fact.GONE, why=WENT_BACK)
            log.warning(f"the funding of order {order.id} may be on its way, and parts of its payment are lost")
            order = await self._take_what_is_left(order)
        order = self._book.get(order.id) or order
        if self._is_late(order, SEND_BLOCKS):  # after a start: nothing is sent for it that has not begun to go out
            order = await self._drop_or_take(order, "its payment runs out soon")
            if order.state is not OrderState.FUNDED:
                return order
        try:
            await self._channels.send(order)
        except ChannelGone as gone:
            why = f"the channel was given up before its funding was sent ({gone})"
            if order.paid:
                await self._clear(order)
            return await self._book.move(order, Fact.GONE, attempts=order.attempts + 1, why=why)
        except NodeError as error:
            return await self._not_sent(order, error)
        taking = await self._sure(order)
        order = await self._book.move(order, Fact.SENT, sent_ms=self._clock.wall_ms(), **taking)
        self._answer(order)
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
            order = await self._drop_or_take(order, f"its funding could not be sent: {error}")
            if order.state is not OrderState.FUNDED:
                return order
        pause_ms = min(1_000 << min(attempts, 6), 60_000)
        await self._clock.sleep_until(self._clock.now_ms() + pause_ms)
        return await self._book.move(order, Fact.LATE, attempts=attempts)  # in this state a note and no more

    async def _drop_or_take(self, order: Order, why: str) -> Order:
        """Drop a channel whose payment can wait no longer; if its funding is owed, take what is held for it."""
        if await self._dropped(order):
            return await self._book.move(order, Fact.GONE, why=why)
        return await self._take_what_is_left(order)

    async def _take_what_is_left(self, order: Order) -> Order:
        """Take what is held for a funding that may be on its way: its channel is owed."""
        if taking := await self._sure(order):
            order = await self._book.move(order, Fact.PAID, **taking)
            self._answer(order)
        return order

    async def _sure(self, order: Order) -> dict[str, Any]:
        """Return what is written before the payment is taken; nothing of one that is lost."""
        taking = self._taking(order)
        if taking and await self._is_lost(order, taking["taken"]):
            self._parts.settle(order.id, bytes.fromhex(order.preimage))
            return {}
        return taking

    async def _dropped(self, order: Order) -> bool:
        what = f"dropping the channel of order {order.id}"
        gone: bool = await retry(what, lambda: self._channels.drop(order), self._clock, alarm=self._alarm)
        return gone

    async def _settle(self, order: Order) -> Order | None:
        """Of SENT: see the payment home, then look after the funding until it has blocks enough."""
        if not order.paid:
            await self._has_payment(order)
            order = self._book.get(order.id) or order
            if taking := self._taking(order):
                order = await self._book.move(order, Fact.PAID, **taking)
        if order.paid:
            self._answer(order)
            self.owe(order)
            self._channels.paid(order)
        elif order.why != GIVEN_AWAY:
            self._channels.given_away(order)
            self._alarm(f"order {order.id} has its channel on chain, and {WENT_BACK}: it stays on chain")
            order = await self._book.move(order, Fact.SENT, why=GIVEN_AWAY)
        try:
            if await self._close(order):
                return await self._book.move(order, Fact.PAID, why="")
            if not await self._channels.is_buried(order, self._height()):
                return None  # the next block looks again
        except ChannelGone as gone:
            self._alarm(f"the channel of order {order.id} was given up before a block had its funding: {gone}")
        except NodeError as error:
            log.info(f"the funding of order {order.id} cannot be looked up, the next block looks again: {error}")
            return None
        return await self._book.move(order, Fact.BURIED) if self.is_closed(order) else None

    async def _close(self, order: Order) -> bool:
        """Delete the invoice of a payment that is ours to the last part, or that will not come: no one pays it now.

        Return whether lightningd took the payment of one that we hold for not paid. Raises NodeError.
        """
        if self.is_closed(order) or (self.may_replay and order.id not in self._answered):
            return False
        if not order.paid:
            if not await self._is_unpaid(order):
                return True
        elif not (await self._invoices.under_way(order.payment_hash)).isdisjoint(order.taken):
            return False
        elif await self._invoices.take_back(order.label) is Taken.YES and await self._is_double(order):
            self._alarm(
                f"order {order.id} of {order.peer_id} was paid twice, so its invoice records: pay {order.fee_sat} sat"
                " back"
            )
        self._closed.add(order.id)
        return False

    async def _is_double(self, order: Order) -> bool:
        """Return whether lightningd took a payment beside ours; it takes the only one when we die before we answer."""
        return order.id in self._answered or await self._invoices.is_taken_beside(order.label, order.payment_hash)

    async def withdraw(self, order_id: str) -> None:
        """Take nothing for an order whose record cannot be read. Raises NodeError."""
        await self._invoices.take_back(LABEL + order_id)

    async def _refund(self, order: Order) -> Order:
        """Of REFUNDING: take the invoice away, then give the payment back; then what is left of an open."""
        if not order.paid:
            what = f"taking the invoice of order {order.id} back"
            if await retry(what, lambda: self._is_unpaid(order), self._clock, alarm=self._alarm):
                self._parts.give_back(order.id, self._height())
            else:
                order = await self._book.move(order, Fact.PAID)
                self._answer(order)
        await self._clear(order)
        return await self._book.move(order, Fact.CLEARED)

    async def _is_unpaid(self, order: Order) -> bool:
        """Delete the invoice of an order, and return whether it was never paid, as far as anyone can say.

        Raises NodeError.
        """
        taken = await self._invoices.take_back(order.label)
        if taken is Taken.GONE:
            taken = await self._invoices.is_taken(order.label, order.payment_hash)
        if taken is Taken.GONE and not self._parts.keys(order.id):  # what is held here it has not taken
            self._alarm(
                f"the invoice of order {order.id} of {order.peer_id} was deleted, and no bookkeeper has a record of it:"
                f" if it was paid (payment hash {order.payment_hash}), pay {order.fee_sat} sat back"
            )
        return taken is not Taken.YES

    async def _clear(self, order: Order) -> None:
        what = f"clearing away what order {order.id} has opened"
        await retry(what, lambda: self._channels.clear(order), self._clock, errors=Exception, alarm=self._alarm)

    def owe(self, order: Order) -> None:
        """Keep the channel open as long as it is leased; nothing is owed for one that was never paid."""
        if order.channel is not None and order.paid:
            duty = Duty(order.key, order.peer_id, order.ask.channel_expiry_blocks, order.id)
            self._leases.owe_order(order.channel.channel_id, duty)
