"""The orders of all clients: one record each under ["lsps","lsps1","orders",<order id>], written before it is acted on.

A record that cannot be read is kept and told; what its client asks about it is "not found".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from lsps2fast.actions import Channel, Funding
from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps1 import Fact, OrderAsk, OrderState, OrderStatus, state_after
from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.service.lsps1.order_parts import OrderParts
from lsps2fast_plugin.service.lsps1.terms import LABEL, ROOT

log = logging.getLogger(__name__)

BLOCK_MS: Final = 600_000
UNPAID_KEPT_MS: Final = 3_600_000  # a record that was never paid, after its end
MOST_ENDED: Final = 10_000  # records of orders that ended; beyond it those go that were never paid


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of one order. `key` stands for it where coins and budgets go by jit scids; no payer knows it.

    `held`: the parts of its payment, once they are all there: no others are let in, not even first after a start.
    `taken`: the parts that are answered with `preimage`, whenever lightningd asks about them; none where it took them.
    """

    id: str
    key: int
    peer_id: str
    ask: OrderAsk
    fee_sat: int
    payment_hash: str
    preimage: str
    bolt11: str
    created_ms: int
    expires_ms: int
    state: OrderState = OrderState.EXPECTED
    paid: bool = False
    held: tuple[tuple[str | int, int], ...] = ()
    taken: tuple[tuple[str | int, int], ...] = ()
    attempts: int = 0
    funding: Funding | None = None
    channel: Channel | None = None
    outnum: int = 0
    sent_ms: int = 0
    ended_ms: int = 0
    why: str = ""
    version: int = 1

    @property
    def label(self) -> str:
        """Return that of its invoice."""
        return LABEL + self.id

    @property
    def was_taken(self) -> bool:
        """Whether it has got a channel or money of its client: its record is kept as those of sales are."""
        return self.paid or self.sent_ms > 0

    def status(self) -> OrderStatus:
        """Return what its client is told."""
        outpoint = "" if self.channel is None else f"{self.channel.funding_txid}:{self.outnum}"
        return OrderStatus(
            order_id=self.id,
            ask=self.ask,
            state=self.state,
            paid=self.paid,
            created_ms=self.created_ms,
            expires_ms=self.expires_ms,
            fee_sat=self.fee_sat,
            invoice=self.bolt11,
            funded_ms=self.sent_ms,
            funding_outpoint=outpoint,
            lease_ends_ms=self.sent_ms + self.ask.channel_expiry_blocks * BLOCK_MS,
        )


class OrderBook:
    """All records, and every change of one."""

    def __init__(
        self, notebook: DatastoreRecords, clock: Clock, alarm: Callable[[str], None], parts: OrderParts
    ) -> None:
        """`parts` sees the HTLCs of all that are not over."""
        self._parts = parts
        self._notebook = notebook
        self._clock = clock
        self._alarm = alarm
        self._orders: dict[str, Order] = {}
        self.unreadable: set[str] = set()  # ids of orders whose records cannot be read
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """Read all records. Raises StoreError."""
        for key, value in await self._notebook.read(ROOT):
            try:
                order = msgspec.convert(value, Order)
                if order.version != 1:
                    raise ValueError(f"version {order.version} is not 1")
                self._see(order)
            except (msgspec.ValidationError, Lsps2Error, TypeError, ValueError) as error:
                self.unreadable.add(key[-1])
                self._alarm(
                    f"the record of order {key[-1]} cannot be read and is kept; its client may be owed: {error}"
                )
            else:
                self._orders[order.id] = order

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[Order]:
        return iter(list(self._orders.values()))

    def get(self, order_id: str) -> Order | None:
        """Return an order as it is now."""
        return self._orders.get(order_id)

    def live(self) -> list[Order]:
        """Return those to which something may still happen."""
        return [order for order in self if not order.state.is_over]

    def unpaid_of(self, peer_id: str) -> int:
        """Return how many orders of this client are not paid for: none came for them yet, or it is held (rule:24)."""
        return sum(order.peer_id == peer_id and not order.was_taken and not order.state.is_over for order in self)

    def unpaid(self) -> int:
        """Return how many orders wait for their payment, or for the end of what was never paid."""
        return sum(not order.was_taken and order.state in _WAITING for order in self)

    def idle(self) -> list[Order]:
        """Return the orders for which nothing has come yet."""
        return [each for each in self if each.state is OrderState.EXPECTED and not self._parts.keys(each.id)]

    def describe(self, order_id: str | None) -> list[dict[str, Any]]:
        """Return what the operator is told of one order, or of all, the newest first."""
        found = sorted((each for each in self if order_id in (None, each.id)), key=lambda each: -each.created_ms)
        return [_describe(order) for order in found]

    async def add(self, order: Order) -> None:
        """Store a new order. Raises StoreError: there is none."""
        async with self._lock(order.id):
            await self._notebook.write((*ROOT, order.id), lambda: msgspec.to_builtins(order))
            self._orders[order.id] = order
            self._see(order)

    async def move(self, order: Order, fact: Fact, **changes: Any) -> Order:
        """Have something happen to an order and return it as it then is: written first, whatever that takes (rule:11).

        Nothing happens where another task has moved it meanwhile.
        """
        async with self._lock(order.id):
            now = self._orders.get(order.id, order)
            if now.state is not order.state:
                return now
            paid = now.paid or fact is Fact.PAID or bool(changes.get("taken"))
            state = state_after(now.state, paid, fact)
            if state in (OrderState.HELD, OrderState.FAILED) and state is not now.state:
                changes = {"funding": None, "channel": None, **changes}
            if state.is_over:
                changes = {"ended_ms": self._clock.wall_ms(), **changes}
            new = replace(now, state=state, paid=paid, **changes)
            if new != now:
                what = f"writing that order {order.id} is {state}"
                value = msgspec.to_builtins(new)
                await retry(
                    what,
                    lambda: self._notebook.write((*ROOT, order.id), lambda: value),
                    self._clock,
                    alarm=self._alarm,
                )
                self._orders[order.id] = new
                self._see(new)
            if state is not now.state:
                log.info(f"order {order.id} of {order.peer_id}: {fact}, so it is {state}{_because(new)}")
            return new

    async def prune(self, keep_ms: int, binds: Callable[[Order], bool]) -> None:
        """Forget what ended long ago, unless its channel is still leased (`binds`). Raises StoreError."""
        now_ms = self._clock.wall_ms()
        ended = sorted((order for order in self if order.state.is_over), key=lambda order: -order.ended_ms)
        for place, order in enumerate(ended):
            kept_ms = keep_ms if order.was_taken else UNPAID_KEPT_MS
            crowds = not order.was_taken and place >= MOST_ENDED
            if (crowds or order.ended_ms + kept_ms < now_ms) and not binds(order):
                await self._notebook.write((*ROOT, order.id), lambda: None)
                self._orders.pop(order.id, None)

    def _see(self, order: Order) -> None:
        if order.state.is_over:
            self._parts.forget(order.payment_hash)
        else:
            self._parts.watch(order.id, order.payment_hash, order.bolt11)

    def _lock(self, order_id: str) -> asyncio.Lock:
        return self._locks.setdefault(order_id, asyncio.Lock())


def _describe(order: Order) -> dict[str, Any]:
    """Return what the operator is told of an order."""
    return {
        "order_id": order.id,
        "peer_id": order.peer_id,
        "state": order.state.value,
        "paid": order.paid,
        "capacity_sat": order.ask.capacity_sat,
        "lease_blocks": order.ask.channel_expiry_blocks,
        "fee_sat": order.fee_sat,
        "channel_id": None if order.channel is None else order.channel.channel_id,
        "created_at": format_datetime(order.created_ms),
        "funded_at": format_datetime(order.sent_ms) if order.sent_ms else None,
        "ended_at": format_datetime(order.ended_ms) if order.ended_ms else None,
        "attempts": order.attempts,
        "why": order.why or None,
    }


_WAITING: Final = (OrderState.EXPECTED, OrderState.REFUNDING)


def _because(order: Order) -> str:
    return f" ({order.why})" if order.why and order.state in (OrderState.REFUNDING, OrderState.FAILED) else ""
