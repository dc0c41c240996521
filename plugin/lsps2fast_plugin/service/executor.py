"""Carries out what the session machine orders, and tells it what came of it.

Answers to hooks are given at once, everything that asks lightningd runs as a task of its own; its result comes back as
an input through `feed`. A failed journal write or clean-up is tried again with growing pauses: giving up is the
machine's decision, made by its own deadlines. Nothing here decides about money.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

from lsps2fast import actions as order
from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.cln.channel_types import named
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.channel_changes import Watch
from lsps2fast_plugin.service.coins import CoinTaken, NotEnoughCoins
from lsps2fast_plugin.service.funding import (
    ChannelGone,
    ChannelTooLarge,
    Funder,
    MustNotClose,
    NotForwardable,
    OwedToClient,
)
from lsps2fast_plugin.service.opening import Opener, RefusedByClient
from lsps2fast_plugin.service.routing_fees import RoutingFees
from lsps2fast_plugin.service.session_store import SessionStore

log = logging.getLogger(__name__)

RETURN_TIMEOUT_MS = 60_000  # for a client to come back after our restart
SYNC_TIMEOUT_MS, SYNC_PAUSE_S = 60_000, 0.5
READY_TIMEOUT_MS = 120_000  # O-13, K-22
POLL_MS = 5_000  # K-17: beside the notifications
STORE_TRIES = 4  # then UNSTORED: the parts are failed rather than held on hope


class Answers(Protocol):
    """Where held hook calls are answered."""

    def forward(self, parts: Iterable[order.Forward], channel_id: str) -> None:
        """Let these parts go out into the channel."""

    def fail(self, keys: Iterable[order.PartKey], failure: str) -> None:
        """Fail these parts."""


class Capital(Protocol):
    """Who judges what may be put into a channel, when the money moves (rule:18, rule:19)."""

    async def turn(self, buy: Buy) -> bool:
        """Return whether a channel for this buy may be thought of now."""

    async def may_open(self, buy: Buy, funding: order.Funding) -> bool:
        """Return whether this very channel may be opened now; if so it counts from here on."""

    def too_large(self, buy: Buy, why: str) -> None:
        """The payment needs a channel that no rule allows."""


class Driver(Protocol):
    """The session machine of the service, as far as it is told and asked here."""

    def buy_of(self, jit_scid: int) -> Buy | None:
        """Return the buy of a live jit scid."""

    def feed(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        """Give one session a fact."""

    def forget(self, jit_scid: int) -> None:
        """Take note that a buy has ended."""

    def owns(self, channel_id: str) -> bool:
        """Whether a payment under way or a buy has this channel."""

    def channel_of(self, jit_scid: int) -> order.Channel | None:
        """Return the channel of the payment under way on this scid."""

    def never_funded(self, channel_id: str) -> None:
        """Take note that lightningd has a channel no more, and that nothing was put into it."""


class ActionExecutor:
    """Executor of actions."""

    def __init__(
        self,
        *,
        funder: Funder,
        opener: Opener,
        broadcaster: Broadcaster,
        store: SessionStore,
        answers: Answers,
        clock: Clock,
        driver: Driver,
        withheld: Callable[[str, bool, str], None],
        capital: Capital,
        sent: Callable[[str, order.Channel], None],
    ) -> None:
        """`withheld(channel_id, yes, peer_id)` keeps other forwards out of a channel (rule:7); `capital` is asked
        before each open; `sent(peer_id, channel)` hears of each funding that bitcoind has.
        """
        self._funder = funder
        self._opener = opener
        self._broadcaster = broadcaster
        self._store = store
        self._answers = answers
        self._clock = clock
        self._driver = driver
        self._feed = driver.feed
        self._withheld = withheld
        self._capital = capital
        self._sent = sent
        self._needs: dict[int, order.ReserveCoins] = {}  # what the channel must carry, by jit scid
        self._returning: dict[str, list[order.ForwardParts]] = {}  # by channel: parts that wait for its client
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}  # AwaitReady by channel; ends with its session
        self._sending: WeakValueDictionary[str, asyncio.Task[None]] = WeakValueDictionary()  # Broadcast by channel
        self._renewing: WeakValueDictionary[int, asyncio.Task[None]] = WeakValueDictionary()  # RenewInputs by scid
        self._peers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while somebody holds or waits
        self._newest: dict[int, int] = {}  # number of the last order about the record of a jit scid
        self._orders = itertools.count(1)
        self._fees = RoutingFees(funder, clock, self.insist, self._until_done)
        self.watch = Watch(clock)
        self.unready: set[str] = set()  # channels of an earlier run: no part before they are reestablished (cln:R4)
        self.alarms = 0

    def carry_out(self, actions: Iterable[order.Action]) -> None:
        """Carry out these orders; those that take time go on in the background."""
        actions = tuple(actions)
        fees = next((action for action in actions if isinstance(action, order.RestoreFees)), None)
        for action in actions:
            match action:
                case order.ForwardParts() if action.channel_id in self.unready:
                    self._forward_once_back(action)
                case order.ForwardParts():
                    self._answers.forward(action.parts, action.channel_id)
                case order.FailParts():
                    self._answers.fail(action.parts, action.failure)
                case order.Alarm():
                    self.alarm(action.text)
                case order.ForgetBuy():
                    self._needs.pop(action.jit_scid, None)
                    self._driver.forget(action.jit_scid)
                    self._spawn(self._forget(action), action)
                case order.Finalize():
                    self._spawn(self._finalize(action, fees), action)
                case order.RestoreFees() if any(isinstance(other, order.Finalize) for other in actions):
                    self._stop_waiting(action.channel_id)  # the rest with its Finalize: then the record goes
                case order.RestoreFees():
                    self._stop_waiting(action.channel_id)
                    self._spawn(self._fees.restore(action), action)
                case order.Broadcast():
                    task = self._spawn(self._broadcast(action), action)
                    self._sending[action.channel.channel_id] = task
                case order.AwaitReady():
                    self._stop_waiting(action.channel_id)
                    self._fees.supersede(action.channel_id)
                    self._waiting[action.channel_id] = self._spawn(self._await_ready(action), action)
                case _:
                    self._spawn(self._HANDLERS[type(action)](self, action), action)

    def alarm(self, text: str) -> None:
        """Tell the operator."""
        self.alarms += 1
        log.warning(f"ALARM: {text}")

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
        self._keep(self._until_done(what, work))

    # Running -------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], action: order.Action) -> asyncio.Task[None]:
        task = self._keep(self._guarded(work, action))
        task.add_done_callback(lambda _: work.close())  # of a task that was cancelled before it began
        return task

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], action: order.Action) -> None:
        """A step that breaks in a way nobody foresaw must still have an outcome: the one that ends it safely."""
        try:
            await work
        except Exception:
            self.alarm(f"{type(action).__name__} broke\n{traceback.format_exc()}")
            match action:
                case order.ReserveCoins() | order.OpenChannel():
                    self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
                case order.AwaitReady():
                    self._feed(action.jit_scid, action.payment_hash, Input.READY_TIMEOUT, None)
                case order.Persist():
                    self._feed(action.jit_scid, action.payment_hash, Input.STORE_FAILED, None)

    async def _until_done(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Try until it works, over any error: whatever it was, the money still waits for this step (rule:8, rule:9)."""
        return await retry(what, work, self._clock, errors=Exception, final=ChannelGone, alarm=self.alarm)

    def _buy(self, jit_scid: int) -> Buy:
        buy = self._driver.buy_of(jit_scid)
        if buy is None:
            raise StoreError(f"no buy for jit scid {jit_scid}")
        return buy

    # One coroutine for each order -------------------------------------------------------------------

    def _supersede(self, jit_scid: int) -> Callable[[], bool]:
        """From here on this order counts; the function says whether it still does. An older one is never retried."""
        mine = self._newest[jit_scid] = next(self._orders)
        return lambda: self._newest.get(jit_scid) == mine

    async def _persist(self, action: order.Persist) -> None:
        self._supersede(action.jit_scid)
        put = partial(self._store.put, action.jit_scid, action.record)
        try:
            await retry(
                "writing the journal",
                put,
                self._clock,
                errors=StoreError,
                tries=STORE_TRIES,
                alarm=self.alarm,
                alarm_after=1,
            )
        except StoreError:
            self._feed(action.jit_scid, action.payment_hash, Input.STORE_FAILED, None)
        else:
            self._feed(action.jit_scid, action.payment_hash, Input.STORED, None)

    async def _reserve(self, action: order.ReserveCoins) -> None:
        buy = self._buy(action.jit_scid)
        if not await self._capital.turn(buy):
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        self._needs[action.jit_scid] = action
        await self._choose(action, lambda: self._funder.choose(buy, action.out_msat, action.parts))

    async def _choose(
        self, action: order.ReserveCoins | order.OpenChannel, choice: Callable[[], Awaitable[order.Funding]]
    ) -> None:
        """Feed the coins that are chosen, or that there are none."""
        buy = self._buy(action.jit_scid)
        try:
            funding = await self._when_synced(choice)
        except NotForwardable as error:
            log.warning(f"no channel is made for {buy.peer_id}: lightningd would not forward its payment, for {error}")
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        except ChannelTooLarge as error:
            self._capital.too_large(buy, str(error))
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        except (NodeError, NotEnoughCoins) as error:
            self.alarm(f"no coins for a JIT channel to {buy.peer_id}: {error}")
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        if not await self._capital.may_open(buy, funding):
            self._funder.forget(action.jit_scid)
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        self._feed(action.jit_scid, action.payment_hash, Input.COINS_CHOSEN, funding)

    async def _when_synced(self, choice: Callable[[], Awaitable[order.Funding]]) -> order.Funding:
        """After its start lightningd knows its coins only once it has caught up with the chain (cln:R5)."""
        deadline_ms = self._clock.now_ms() + SYNC_TIMEOUT_MS
        while True:
            try:
                return await choice()
            except NotEnoughCoins as error:
                if not error.syncing or self._clock.now_ms() >= deadline_ms:
                    raise
            await self._clock.turned(SYNC_PAUSE_S)

    async def _open(self, action: order.OpenChannel) -> None:
        try:
            # Only now: the record names these coins.
            late = partial(self._reserved_late, action.jit_scid, action.funding)
            await self._funder.reserve(action.jit_scid, action.funding, late)
        except CoinTaken as error:
            log.info(f"choosing other coins: {error}")
            await self._choose(action, lambda: self._funder.choose_again(action.jit_scid, action.funding))
            return
        except NodeError as error:
            log.warning(f"coins cannot be reserved: {error}")
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        buy = self._buy(action.jit_scid)
        peer_id, look = buy.peer_id, not buy.client_trusts_lsp
        async with self._alone_with(peer_id):
            try:
                late = partial(self._clear_late, peer_id, action.funding)
                opened = await self._opener.open(peer_id, action.funding, late, look=look)
            except RefusedByClient as error:
                if error.at_once:
                    await self._ask_for_another_type(action, error)
                else:
                    log.info(f"{peer_id} refused to sign the funding: {error}")
                    self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, True)
            except ChannelGone as gone:
                self._tell_given_up(peer_id, gone)
                self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            except NodeError as error:
                log.warning(f"opening a channel to {peer_id} failed: {error}")
                self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            else:
                self._withheld(opened.channel.channel_id, True, peer_id)
                self._feed(action.jit_scid, action.payment_hash, Input.FUNDED, opened)

    async def _ask_for_another_type(self, action: order.OpenChannel, error: RefusedByClient) -> None:
        """Ask for the next type of channel in the same attempt; O-08 when the client has refused them all.

        The coins go back first: a channel of another type may need others. Nothing is open, and the record names them.
        """
        buy, needs = self._buy(action.jit_scid), self._needs[action.jit_scid]
        try:
            left = await self._funder.refused(buy.peer_id, action.funding.channel_type)
            log.info(f"{buy.peer_id} refused {named(action.funding.channel_type)} ({error}); {left.sentence}")
            if left.other:
                late = partial(self._released_late, action.funding)
                await self._funder.release(action.jit_scid, action.funding, late)
        except NodeError as problem:
            log.warning(f"{buy.peer_id} refused the channel and cannot be asked for another: {problem}")
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, False)
            return
        if left.other:
            await self._choose(action, lambda: self._funder.choose(buy, needs.out_msat, needs.parts))
        else:
            self._feed(action.jit_scid, action.payment_hash, Input.OPEN_FAILED, True)

    def _reserved_late(self, jit_scid: int, funding: order.Funding) -> None:
        """A reservation that was given up was made after all: whoever ended the open meanwhile did not find it."""
        if not self._funder.is_promised(funding):
            what = "releasing coins that were reserved late"
            self.insist(what, lambda: self._funder.release(jit_scid, funding))

    def _released_late(self, funding: order.Funding) -> None:
        """A release that was given up was made after all, perhaps behind the reservation of who has the coins now."""
        for holder, theirs in self._funder.standing(funding).items():
            renewal = order.RenewInputs(holder, b"", theirs)
            self._spawn(self._renew(renewal), renewal)

    def _alone_with(self, peer_id: str) -> asyncio.Lock:
        """One open or undo at a time with a peer (O-19): both speak of "the" open of the peer, whosever it is."""
        return self._peers.setdefault(peer_id, asyncio.Lock())

    async def _await_ready(self, action: order.AwaitReady) -> None:
        peer_id = self._buy(action.jit_scid).peer_id
        deadline_ms = self._clock.now_ms() + READY_TIMEOUT_MS
        kind, fact = Input.READY_TIMEOUT, None
        zero = False
        while self._clock.now_ms() < deadline_ms:
            self.watch.look(action.channel_id)
            try:
                looking = self._funder.limits(peer_id, action.channel_id)
                if zero:
                    limits = await looking
                else:  # both at once: neither needs the other's answer (P17)
                    limits, _ = await asyncio.gather(looking, self._fees.zero(action.channel_id))
                    zero = True
                if limits is not None:
                    kind, fact = Input.READY, limits
                    break
            except ChannelGone as error:
                log.warning(str(error))
                kind = Input.CLOSED
                break
            except NodeError as error:  # one error is not an outcome (rule:10)
                log.warning(f"waiting for channel {action.channel_id}: {error}")
            left_ms = deadline_ms - self._clock.now_ms()
            await self.watch.wait(action.channel_id, min(POLL_MS, max(left_ms, 1)) / 1000)
        self.watch.forget(action.channel_id)
        self._waiting.pop(action.channel_id, None)
        self._feed(action.jit_scid, action.payment_hash, kind, fact)

    def _stop_waiting(self, channel_id: str) -> None:
        """What an earlier payment waited for on this channel is no news for a later one."""
        if waiting := self._waiting.pop(channel_id, None):
            waiting.cancel()

    def _forward_once_back(self, action: order.ForwardParts) -> None:
        """Let these parts wait for their client; however many do, one task looks for it (people:S16)."""
        waiting = self._returning.setdefault(action.channel_id, [])
        waiting.append(action)
        if len(waiting) == 1:
            self._spawn(self._await_return(action), action)

    async def _await_return(self, action: order.ForwardParts) -> None:
        """After a start: wait for the client, for lightningd fails what comes before it is back (cln:R4, cln:H10)."""
        peer_id = self._buy(action.jit_scid).peer_id
        deadline_ms = self._clock.now_ms() + RETURN_TIMEOUT_MS
        while self._clock.now_ms() < deadline_ms:
            self.watch.look(action.channel_id)
            try:
                if await self._funder.limits(peer_id, action.channel_id) is not None:
                    self.unready.discard(action.channel_id)
                    break
            except ChannelGone:
                break
            except NodeError as error:
                log.warning(f"waiting for {peer_id}: {error}")
            left_ms = deadline_ms - self._clock.now_ms()
            await self.watch.wait(action.channel_id, min(POLL_MS, max(left_ms, 1)) / 1000)
        # Also when it did not come back: lightningd then fails the part and says so, which the machine must hear
        # (cln:F2).
        for each in self._returning.pop(action.channel_id, ()):
            self._answers.forward(each.parts, each.channel_id)

    async def _broadcast(self, action: order.Broadcast) -> None:
        peer_id, channel = self._buy(action.jit_scid).peer_id, action.channel
        what = f"sending the funding {channel.funding_txid} of channel {channel.channel_id}"
        try:
            txid = await self._until_done(what, lambda: self._broadcaster.send(peer_id, channel))
        except ChannelGone as gone:
            await self._do_not_fund(peer_id, action, gone)
            return
        self._funder.forget(action.jit_scid)
        self._withheld(channel.channel_id, False, peer_id)
        self._sent(peer_id, channel)
        log.info(f"funding {txid} of channel {channel.channel_id} is on its way to the chain")
        self._feed(action.jit_scid, action.payment_hash, Input.FUNDING_BROADCAST, None)

    async def _do_not_fund(self, peer_id: str, action: order.Broadcast, gone: ChannelGone) -> None:
        """The client gave its channel up before its funding was sent: nothing is sent, the coins are free.

        The session undoes what else there is; where there is none this is all.
        """
        channel_id = action.channel.channel_id
        self._tell_given_up(peer_id, gone)
        self._stop_renewing(action.jit_scid)
        await self._drop_withheld(peer_id, channel_id)
        for funding in self._funder.reserved_by(action.jit_scid):
            release = partial(self._funder.release, action.jit_scid, funding, partial(self._released_late, funding))
            await self._until_done(f"releasing the coins of {peer_id}", release)
        self._funder.forget(action.jit_scid)
        self._withheld(channel_id, False, peer_id)
        self._feed(action.jit_scid, action.payment_hash, Input.CLOSED, True)
        self._driver.never_funded(channel_id)

    def _tell_given_up(self, peer_id: str, what: object) -> None:
        self.alarm(f"{peer_id} gave its channel up before the funding was sent ({what}): nothing is sent")

    async def _drop_withheld(self, peer_id: str, channel_id: str) -> None:
        """Finish the close of a channel whose client began it; gone already is fine."""

        async def close() -> None:
            with suppress(OwedToClient, MustNotClose):  # then it lives, and so does its session
                await self._funder.close(peer_id, channel_id)

        await self._until_done(f"closing channel {channel_id}", close)

    async def _undo(self, action: order.Undo) -> None:
        peer_id = self._buy(action.jit_scid).peer_id
        if action.channel is not None:
            self._stop_waiting(action.channel.channel_id)
            self._fees.drop(action.channel.channel_id)
            self.watch.forget(action.channel.channel_id)
        kept = await self._until_done(f"undoing the open to {peer_id}", lambda: self._drop(peer_id, action))
        if kept is not None:
            self._funder.forget(action.jit_scid)
            self._withheld(kept.channel_id, False, peer_id)
            self._sent(peer_id, kept)
            self._feed(action.jit_scid, action.payment_hash, Input.FUNDING_BROADCAST, kept)
            return
        if action.funding is not None:
            self._stop_renewing(action.jit_scid)
            late = partial(self._released_late, action.funding)
            release = partial(self._funder.release, action.jit_scid, action.funding, late)
            await self._until_done(f"releasing the coins of {peer_id}", release)
        self._funder.forget(action.jit_scid)
        if action.channel is not None:
            self._withheld(action.channel.channel_id, False, peer_id)
        self._feed(action.jit_scid, action.payment_hash, Input.UNDONE, None)

    async def _drop(self, peer_id: str, action: order.Undo) -> order.Channel | None:
        """Cancel what is half made; close what was made, also by a call whose answer never came.

        A channel that turns out to be owed to the client is put on chain instead, and returned (K-11).
        """
        try:
            if action.channel is not None:
                if not await self._funder.close(peer_id, action.channel.channel_id):
                    self._tell_given_up(peer_id, action.channel.channel_id)
            elif action.funding is not None:
                await self._clear(peer_id, action.funding)
        except OwedToClient as owed:
            self.alarm(str(owed))
            try:
                return await self._broadcaster.send_as_found(peer_id, owed.found)
            except ChannelGone as gone:
                self._tell_given_up(peer_id, gone)
        return None

    async def _clear(self, peer_id: str, funding: order.Funding) -> None:
        """End the open of this channel, and close what a call whose answer was lost has made of these coins."""
        async with self._alone_with(peer_id):
            await self._opener.end(peer_id, funding)
            for channel in await self._opener.made_of(peer_id, funding):
                if not self._driver.owns(channel.channel_id):
                    await self._funder.close(peer_id, channel.channel_id)

    def _clear_late(self, peer_id: str, funding: order.Funding) -> None:
        """A step of an open that was given up has been carried out after all."""

        async def clear() -> None:
            await self._clear(peer_id, funding)
            self._released_late(funding)  # a channel that is closed frees its coins, whoever has them by now

        self.insist(f"clearing away what a late open to {peer_id} made", clear)

    async def _renew(self, action: order.RenewInputs) -> None:
        self._stop_renewing(action.jit_scid)
        this = asyncio.current_task()
        assert this is not None
        self._renewing[action.jit_scid] = this
        late = partial(self._reserved_late, action.jit_scid, action.funding)
        peer_id = self._buy(action.jit_scid).peer_id

        async def renew() -> None:
            channel = self._driver.channel_of(action.jit_scid)
            channel_id = None if channel is None else channel.channel_id
            await self._broadcaster.renew(action.jit_scid, action.funding, peer_id, channel_id, late)

        with suppress(ChannelGone):  # its coins are free, and who sends its funding will say so
            await self._until_done("renewing a reservation", renew)

    def _stop_renewing(self, jit_scid: int) -> None:
        """What could not be renewed yet is given up, or renewed anew: a late try would reserve for nobody."""
        if renewing := self._renewing.pop(jit_scid, None):
            renewing.cancel()

    async def _close_channel(self, action: order.CloseChannel) -> None:
        peer_id = self._buy(action.jit_scid).peer_id
        what = f"closing unpaid channel {action.channel_id}, which cannot carry its payment"
        await self._until_done(what, lambda: self._funder.close_unpaid(peer_id, action.channel_id))

    async def _connect(self, action: order.ConnectPeer) -> None:
        try:
            await self._funder.connect(action.peer_id)
        except NodeError as error:
            log.info(f"{action.peer_id} is not connected and cannot be reached: {error}")

    async def _finalize(self, action: order.Finalize, fees: order.RestoreFees | None) -> None:
        """Final record, routing fees, then the active record goes: a crash between finds it and does the rest."""
        self._supersede(action.jit_scid)
        sending = None if action.record.channel is None else self._sending.get(action.record.channel.channel_id)
        if sending is not None:
            await asyncio.wait([sending])  # until it is sent only the active record knows of the channel (rule:9)
        await self._until_done(
            "writing the final record",
            lambda: self._store.finalize(action.jit_scid, action.record, action.outcome, self._clock.wall_ms()),
        )
        if fees is None and action.outcome == order.FAILED and action.record.channel is not None:
            fees = order.RestoreFees(action.record.channel.channel_id)  # public and unpaid: a look at the end
        await self._end_record(action.jit_scid, fees)

    async def _end_record(self, jit_scid: int, fees: order.RestoreFees | None, again: bool = False) -> None:
        if fees is not None:
            await self._fees.restore(fees, again=again)
        await self._until_done("deleting the active record", lambda: self._store.forget(jit_scid))
        self._newest.pop(jit_scid, None)

    def finish(self, jit_scid: int, fees: order.RestoreFees | None) -> None:
        """After a start: the final record is there; do what should have followed it (K-15)."""
        forgotten = order.ForgetBuy(jit_scid, "Succeeded")
        self._spawn(self._end_record(jit_scid, fees, again=True), forgotten)

    def keep_alias(self, fees: order.RestoreFees) -> None:
        """After a start: lightningd has forgotten which rate forwards over the jit scid were promised (A-03)."""
        self._spawn(self._fees.restore(fees, again=True), fees)

    async def _reset(self, action: order.Reset) -> None:
        counts = self._supersede(action.jit_scid)

        async def put() -> None:
            if counts():  # else the next payment has journalled its own record since
                await self._store.put(action.jit_scid, action.record)

        await self._until_done("resetting a record", put)

    async def _forget(self, action: order.ForgetBuy) -> None:
        if action.outcome == "Timeout" and self._store.knows(action.jit_scid):
            await self._until_done("deleting a record", lambda: self._store.forget(action.jit_scid))
            self._newest.pop(action.jit_scid, None)

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any], Coroutine[Any, Any, None]]]] = {
        order.Persist: _persist,
        order.ReserveCoins: _reserve,
        order.OpenChannel: _open,
        order.Undo: _undo,
        order.RenewInputs: _renew,
        order.ConnectPeer: _connect,
        order.CloseChannel: _close_channel,
        order.Reset: _reset,
    }
