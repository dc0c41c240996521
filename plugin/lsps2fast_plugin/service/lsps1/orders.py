"""The life of every order: its payment is held while its channel is opened, then taken, or goes back.

lightningd asks about each HTLC (hook `htlc_accepted`), and waits for our answer. Steps are taken by state (`steps`), so
whatever a start finds is gone on with; here is what makes an order take its next one, and how each hold ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from lsps2fast.errors import StoreError
from lsps2fast.lsps.lsps1 import OrderState
from lsps2fast.lsps.receiving import MPP_TIMEOUT, details_failure
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.cln.scid_aliases import Key
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.lsps1.book import Order, OrderBook
from lsps2fast_plugin.service.lsps1.channels import OrderChannels, is_of
from lsps2fast_plugin.service.lsps1.desk import OrderDesk
from lsps2fast_plugin.service.lsps1.invoices import FINAL_BLOCKS
from lsps2fast_plugin.service.lsps1.order_parts import TEMPORARY_NODE_FAILURE, Host, OrderParts
from lsps2fast_plugin.service.lsps1.steps import EXPIRED_MS, OrderSteps
from lsps2fast_plugin.service.policy.limits import Gate

log = logging.getLogger(__name__)

LEAST_BLOCKS: Final = FINAL_BLOCKS - 24  # to its expiry, of a part that is held at all: some came on its way
LAST_BLOCKS: Final = 20  # here nothing is held any more
NODE_BLOCKS: Final = 18  # lightningd takes nothing within its cltv-final
CHAIN_BLOCKS: Final = 6  # nothing is taken here: its channel may have to go to the chain for it


class Orders:
    """Goes on with each order."""

    def __init__(
        self,
        *,
        book: OrderBook,
        parts: OrderParts,
        steps: OrderSteps,
        channels: OrderChannels,
        leases: ChannelLeaseGuard,
        host: Host,
        gate: Gate,
        held: HeldKinds,
        clock: Clock,
        height: Callable[[], int],
        alarm: Callable[[str], None],
        keep_ms: int,
        desk: OrderDesk,
    ) -> None:
        """`keep_ms`: a record is kept so long after its end."""
        self.desk = desk
        self.book = book
        self.parts = parts
        self._steps = steps
        self._channels = channels
        self._leases = leases
        self._host = host
        self._gate = gate
        self._held = held
        self._clock = clock
        self._height = height
        self._alarm = alarm
        self._keep_ms = keep_ms
        self._running: dict[str, asyncio.Task[None]] = {}
        self._has_begun = False
        self._ending = False

    async def load(self) -> None:
        """Read the records, and know their coins and channels, before anything is sold.

        Raises StoreError or NodeError.
        """
        await self.book.load()
        for order in self.book.live():
            await self._channels.take_up(order)
        for order_id in self.book.unreadable:
            await self._steps.withdraw(order_id)

    def begin(self, channels: list[PeerChannel]) -> None:
        """Go on with every order; `channels` are what lightningd lists."""
        self._steps.begin()
        listed = {channel.channel_id for channel in channels}
        for order in self.book:
            if order.sent_ms and order.channel is not None and order.channel.channel_id in listed:
                self._steps.owe(order)
        self._has_begun = True
        for order in self.book.live():
            self._go_on(order)

    def owns(self, channel: PeerChannel) -> bool:
        """Return whether a withheld channel may be one of ours."""
        return any(is_of(order, channel) for order in self.book.live())

    def waited_for(self) -> set[str]:
        """Return the clients whose orders are paid and not opened yet: they must be there for it."""
        return {order.peer_id for order in self.book.live() if order.state is OrderState.HELD}

    def sold(self) -> dict[str, str]:
        """Return the channel of every order that is not over, with its name for the operator."""
        live = self.book.live()
        return {order.channel.channel_id: _name(order) for order in live if order.channel is not None}

    def opening(self) -> dict[str, str]:
        """Return the clients to whom a channel is being opened, whose id is not known yet; likewise."""
        return {order.peer_id: _name(order) for order in self.book.live() if order.state is OrderState.OPENING}

    # Parts of payments -----------------------------------------------------------------------------

    def known(self, order_id: str) -> set[Key]:
        """Return the parts of this order that have a name already."""
        order = self.book.get(order_id)
        return {*self.parts.keys(order_id), *(() if order is None else (*order.held, *order.taken))}

    def on_part(self, order_id: str, call: Any, key: Key) -> None:
        """Hold a part, or answer it: once."""
        order, height = self.book.get(order_id), self._height()
        if order is not None and key in order.taken:  # asked again (cln:R1)
            self._host.settle((call.id_raw,), bytes.fromhex(order.preimage))
            return
        failure = self._why_not(order, call, key)
        if failure is None:
            failure = self.parts.hold(call, key, self._clock.now_ms(), height)
        if failure is not None:
            log.info(f"{call.amount_msat} msat for order {order_id} are refused ({failure[:4]})")
            self._host.fail(call.id_raw, failure)
        elif order is not None and self.parts.whole(order_id) is not None:
            self._go_on(order)

    def _why_not(self, order: Order | None, call: Any, key: Key) -> str | None:
        """Return the failure of a part that is not held; None: its payment may have it."""
        height = self._height()
        failure = details_failure(call.amount_msat, height)
        if order is None or order.paid or order.state in _TAKES_NOTHING or self._ending:
            return failure
        if key in self.parts.keys(order.id):
            return None
        if order.state is not OrderState.EXPECTED:  # only what was held in an earlier life
            least = CHAIN_BLOCKS if order.state is OrderState.FUNDED else LAST_BLOCKS
            return self.parts.why_not(call, height, least + 1) if key in order.held else failure
        if order.expires_ms + EXPIRED_MS < self._clock.wall_ms():
            return failure
        no = self.parts.why_not(call, height, LEAST_BLOCKS)
        if no is not None:
            return no
        has_room = self._held.has_room(self.parts, call.amount_msat, self._gate)
        return None if has_room else TEMPORARY_NODE_FAILURE

    def channel_left(self, channel_id: str, names: tuple[int, ...]) -> None:
        """Give back what this channel has brought: it goes to the chain (rule:19).

        Not once a funding may be on its way: then what can be had on chain is had there.
        """
        for order_id in self.parts.brought_by(channel_id, names):
            order = self.book.get(order_id)
            if order is not None and order.state in _UNSENT and not order.paid:
                log.warning(
                    f"the payment of order {order_id} goes back: channel {channel_id}, which brought it, closes"
                )
                self.parts.give_back(order_id, self._height(), TEMPORARY_NODE_FAILURE)

    # Time ------------------------------------------------------------------------------------------

    def block(self) -> None:
        """Look after fundings, with each block; and let no payment run out, whatever an order waits for (rule:5)."""
        height = self._height()
        for order_id in self.parts.orders():
            if self._runs_out(order_id, height):
                log.warning(f"the payment of order {order_id} runs out and is held no longer")
                self._part_with(order_id)
        for order in self.book.live():
            if order.state is OrderState.SENT:
                self._go_on(order)

    def _runs_out(self, order_id: str, height: int) -> bool:
        """Return whether nothing may be held for this order any more.

        A funding may be on its way at a start that comes too late for lightningd to take its payment: we still may.
        """
        left, order = self.parts.blocks_left(order_id, height), self.book.get(order_id)
        if left is None or left > LAST_BLOCKS:
            return False
        ours = order is not None and order.state is OrderState.FUNDED and not order.paid
        return not (ours and CHAIN_BLOCKS < left < NODE_BLOCKS)

    async def look(self) -> None:
        """End orders whose invoice was not paid in time, and sets that wait too long; forget what ended long ago."""
        for order_id in self.parts.overdue(self._clock.now_ms()):
            order = self.book.get(order_id)
            if order is None or order.state is not OrderState.FUNDED:  # there its step decides on what has come back
                self.parts.give_back(order_id, self._height(), MPP_TIMEOUT)
        before_ms = self._clock.wall_ms() - EXPIRED_MS
        for order in self.book.live():
            is_late = order.state is OrderState.EXPECTED and order.expires_ms < before_ms
            is_open = order.state is OrderState.SENT and not self._steps.is_closed(order)
            if is_late or is_open or order.state is OrderState.REFUNDING:  # one may have had to give way
                self._go_on(order)
        try:
            await self.book.prune(self._keep_ms, lambda order: self._leases.keeps(order.id))
        except StoreError as error:
            log.info(f"old orders cannot be forgotten now: {error}")

    # The end ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End: what is held is answered; the records tell the next start what was going on."""
        self._ending = True
        for task in self._running.values():
            task.cancel()
        for order_id in self.parts.orders():
            self._part_with(order_id)

    def _part_with(self, order_id: str) -> None:
        """Answer what can be held no longer: nothing is taken for a channel that may still come to nothing.

        A channel that is signed may be on chain in a moment: lightningd takes its payment, as it does when we die.
        """
        order, height = self.book.get(order_id), self._height()
        if order is not None and order.state is OrderState.FUNDED and not order.paid:
            self.parts.let_go(order_id)
        elif order is None or order.state is OrderState.EXPECTED:
            self.parts.give_back(order_id, height, TEMPORARY_NODE_FAILURE)
        else:
            self.parts.give_back(order_id, height)

    # Going on --------------------------------------------------------------------------------------

    def _go_on(self, order: Order) -> None:
        if order.id in self._running or order.state.is_over or self._ending or not self._has_begun:
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
            self._part_with(order_id)
            return
        order = self.book.get(order_id)
        came = order is not None and order.state is OrderState.EXPECTED and self.parts.whole(order_id) is not None
        if order is not None and (order.state not in _RESTING or came):  # it came while this ended
            self._go_on(order)

    async def _run(self, order_id: str) -> None:
        order = self.book.get(order_id)
        while order is not None and not order.state.is_over:
            order = await self._steps.take(order)
        if order is not None:
            self.parts.give_back(order_id, self._height())


def _name(order: Order) -> str:
    return f"order {order.id}"


_TAKES_NOTHING: Final = (OrderState.SENT, OrderState.DONE, OrderState.REFUNDING, OrderState.FAILED)
_UNSENT: Final = (OrderState.EXPECTED, OrderState.HELD, OrderState.OPENING)
_RESTING: Final = (OrderState.EXPECTED, OrderState.SENT, OrderState.DONE, OrderState.FAILED)
