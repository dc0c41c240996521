"""The tasks that carry out orders, and who hears what came of them.

Each order that takes time runs as a task of its own; its result goes back to the machine through `feed`. A failed
clean-up is tried again with growing pauses: giving up is the machine's decision, made by its own deadlines.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from lsps2fast import actions as order
from lsps2fast.errors import StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.retry import Errors, retry
from lsps2fast_plugin.service.forward_limits import Room
from lsps2fast_plugin.service.funding import ChannelGone
from lsps2fast_plugin.service.sales_ledger.evidence import CLIENT, LSP, Blame

T = TypeVar("T")
Opening = order.ReserveCoins | order.OpenChannel


class Driver(Protocol):
    """The session machine of the service, as far as it is told and asked here."""

    def buy_of(self, jit_scid: int) -> Buy | None:
        """Return the buy of a live jit scid."""

    def feed(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        """Give one session a fact."""

    def forget(self, jit_scid: int) -> None:
        """Take note that a buy has ended."""

    def because(self, jit_scid: int, payment_hash: bytes, blame: Blame) -> None:
        """Take note why the payment that is about to fail does."""

    def owns(self, channel_id: str) -> bool:
        """Return whether a payment under way or a buy has this channel."""

    def is_full(self, jit_scid: int, of_buy: int, of_peer: int) -> bool:
        """Return whether no more parts than these may wait over the alias of a paid channel (rule:24)."""

    def is_of_payment(self, action: order.ForwardParts) -> bool:
        """Return whether these are parts of a payment, not one over the alias of a channel that is paid for."""

    def channel_of(self, jit_scid: int) -> order.Channel | None:
        """Return the channel of the payment under way on this scid."""

    def room(self, jit_scid: int) -> Room | None:
        """Return what is known of the channel that the payment under way goes out into."""

    def unforwardable(self, jit_scid: int, room: Room) -> str | None:
        """Say why lightningd would not forward the payment under way into such a channel, or None."""

    def is_opening(self, jit_scid: int, payment_hash: bytes) -> bool:
        """Return whether this payment still waits for its channel to be opened."""

    def blocks_left(self, jit_scid: int) -> int:
        """Return in how many blocks the first part expires that is held for the payment under way on this scid."""

    def held_msats(self, jit_scid: int) -> list[int]:
        """Return the values of the parts that are held for the payment under way on this scid."""

    def fee_msat(self, jit_scid: int) -> int:
        """Return the opening fee that it brings."""

    def uses_existing(self, jit_scid: int, payment_hash: bytes) -> bool:
        """Return whether a payment goes over a channel that its client has."""

    def taken_back(self, channel: order.Channel) -> None:
        """Take note that the funding of a channel was sent and taken back: what miners got for both is spent."""

    def never_funded(self, channel_id: str) -> None:
        """Take note that lightningd has a channel no more, and that nothing was put into it, or was taken back."""


class OrderTasks:
    """Runs orders in the background."""

    def __init__(self, clock: Clock, driver: Driver, alarm: Callable[[str], None]) -> None:
        """`alarm(text)` tells the operator."""
        self.feed = driver.feed
        self.is_full = driver.is_full
        self.is_of_payment = driver.is_of_payment
        self.alarm = alarm
        self.room = driver.room
        self.unforwardable = driver.unforwardable
        self._clock = clock
        self._driver = driver
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their beginning

    def tell_given_up(self, peer_id: str, what: object) -> None:
        """Tell the operator that a client gave up its channel, and that nothing is lost."""
        self.alarm(f"{peer_id} gave its channel up before the funding was sent ({what}): none of our coins go into it")

    async def idle(self) -> None:
        """Return when no effect is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """End every effect where it stands; the journal tells the next start what was going on."""
        for task in self._tasks:
            task.cancel()

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done that must be done in the end, in the background."""
        self._keep(self.until_done(what, work))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that tells its own outcomes."""
        self._keep(work)

    def spawn(self, work: Coroutine[Any, Any, None], action: order.Action) -> asyncio.Task[None]:
        """Begin to carry out an order; if that breaks, the session gets the outcome that ends it safely."""
        task = self._keep(self._guarded(work, action))
        task.add_done_callback(lambda _: work.close())  # of a task that was cancelled before it began
        return task

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something whose outcome is looked at."""
        task = self._keep(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps by no one
        return task

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], action: order.Action) -> None:
        """Turn an error that no step expects into the outcome that ends the session safely."""
        try:
            await work
        except Exception:
            self.alarm(f"{type(action).__name__} broke\n{traceback.format_exc()}")
            match action:
                case order.ReserveCoins() | order.OpenChannel():
                    self.open_failed(action, "bug", "a fault of this program, see the log")
                case order.AwaitReady() | order.PrepareChannel():
                    self.feed(action.jit_scid, action.payment_hash, Input.READY_TIMEOUT, None)
                case order.Persist():
                    self.feed(action.jit_scid, action.payment_hash, Input.STORE_FAILED, None)

    async def until_done(self, what: str, work: Callable[[], Awaitable[Any]], final: Errors = ChannelGone) -> Any:
        """Try until it works, over any error: the money waits for this step (rule:8, rule:9).

        Raises those that are `final`.
        """
        return await retry(what, work, self._clock, errors=Exception, final=final, alarm=self.alarm)

    def open_failed(self, action: Opening, code: str, reason: object, *, by_client: bool = False) -> None:
        """Feed that no channel is opened for a payment, and say why."""
        blame = Blame(CLIENT if by_client else LSP, code, str(reason))
        self._driver.because(action.jit_scid, action.payment_hash, blame)
        self.feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, by_client)

    def peer_of(self, jit_scid: int) -> str:
        """Return whose buy this is, "" when it has ended."""
        buy = self._driver.buy_of(jit_scid)
        return "" if buy is None else buy.peer_id

    def buy(self, jit_scid: int) -> Buy:
        """Return the buy that an order is about. Raises StoreError."""
        buy = self._driver.buy_of(jit_scid)
        if buy is None:
            raise StoreError(f"no buy for jit scid {jit_scid}")
        return buy
