"""Orders that open a channel: choose coins, reserve them, open; the result is fed to the machine.

No order decides about money: `Capital` is asked, and what lightningd or the client refuses is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from lsps2fast import actions as order
from lsps2fast.errors import Lsps2Error, NodeError
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.cln.channel_types import named
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.batch import LeftOut
from lsps2fast_plugin.service.coins import CoinTaken, NotEnoughCoins, NotReserved
from lsps2fast_plugin.service.funding import ChannelGone, ChannelTooLarge, Funder, NotForwardable
from lsps2fast_plugin.service.opening import Opener, RefusedByClient, TypeNotOpened
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks
from lsps2fast_plugin.service.reservations import Reservations

log = logging.getLogger(__name__)

SYNC_TIMEOUT_MS: Final = 60_000
SYNC_PAUSE_S: Final = 0.5
Withhold = Callable[[str, bool, str], None]


class Capital(Protocol):
    """Who judges what may be put into a channel, when the money moves (rule:18, rule:19)."""

    async def turn(self, buy: Buy) -> bool:
        """Return whether a channel for this buy may be thought of now."""

    async def may_open(self, buy: Buy, funding: order.Funding, free_sat: int | None = None) -> bool:
        """Return whether this very channel may be opened now; if so it counts from here on.

        `free_sat`: what is free, and what was chosen for it and counts for no other; by default as of the last look.
        """

    def free_sat(self) -> int:
        """Return what was free at the last look."""

    def too_large(self, buy: Buy, why: str) -> None:
        """Take note that the payment needs a channel that no rule allows."""


class Existing(Protocol):
    """Who knows the channels that clients have: `ExistingChannels`."""

    async def find(self, action: order.ReserveCoins) -> bool:
        """Have one of them carry this payment, if any can; False: a channel is to be opened."""


class Together(Protocol):
    """Who funds several channels in one transaction: `Batches`."""

    def join(self, buy: Buy, action: order.ReserveCoins) -> bool:
        """Have this one choose its coins with others, if it may; False: it is to have coins of its own."""

    def arrive(self, action: order.OpenChannel) -> bool:
        """Have this one be opened with the others whose coins it shares; False: they go on without it."""


class _Alone:
    """Batches are off."""

    def join(self, buy: Buy, action: order.ReserveCoins) -> bool:
        """Return False."""
        return False

    def arrive(self, action: order.OpenChannel) -> bool:
        """Return False."""
        return False


class OpeningOrders:
    """Opens channels, one at a time with a peer."""

    def __init__(
        self,
        *,
        tasks: OrderTasks,
        funder: Funder,
        opener: Opener,
        reservations: Reservations,
        clock: Clock,
        driver: Driver,
        capital: Capital,
        withheld: Withhold,
        existing: Existing,
    ) -> None:
        """`withheld(channel_id, yes, peer_id)` keeps other forwards out of a channel (rule:7); `capital` is asked
        before each open, `existing` before that.
        """
        self._existing = existing
        self._tasks = tasks
        self._funder = funder
        self._opener = opener
        self._reservations = reservations
        self._clock = clock
        self._driver = driver
        self._capital = capital
        self._withheld = withheld
        self.batches: Together = _Alone()
        self._needs: dict[int, order.ReserveCoins] = {}  # what the channel must carry, by jit scid
        self._begun: dict[int, asyncio.Task[str]] = {}  # by jit scid: proposals of opens that left their batch
        self._peers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while an open holds or awaits it

    async def reserve(self, action: order.ReserveCoins) -> None:
        """Choose coins for a channel, unless the client has one; they are reserved once the record names them."""
        buy = self._tasks.buy(action.jit_scid)
        if await self._existing.find(action):
            return
        if not await self._capital.turn(buy):
            self._tasks.open_failed(action, "limit", "a limit of the policy")
            return
        self._needs[action.jit_scid] = action
        if not self.batches.join(buy, action):
            for shared in self._funder.reserved_by(action.jit_scid):  # of a batch that has gone on without it
                await self.give_back(action.jit_scid, shared, buy.peer_id)
            await self.choose_alone(buy, action)

    async def choose_alone(self, buy: Buy, action: order.ReserveCoins) -> None:
        """Choose coins for a channel with a funding of its own."""
        await self._choose(action, lambda: self._funder.choose(buy, action.out_msat, action.parts))

    async def open(self, action: order.OpenChannel) -> None:
        """Reserve the coins that the record names, and open the channel."""
        buy = self._tasks.buy(action.jit_scid)
        peer_id, look = buy.peer_id, not buy.client_trusts_lsp
        if action.funding.batch:
            if not self.batches.arrive(action):  # it goes on without this one
                await self.give_back(action.jit_scid, action.funding, peer_id)
                await self.choose_again(action)
            return
        begun = self._begun.pop(action.jit_scid, None)
        async with self.alone_with(peer_id):
            try:
                address = None if begun is None else await begun
                # Only now: the record names these coins.
                reserved_late = partial(self._reservations.reserved_late, action.jit_scid, action.funding)
                reserving = self._funder.reserve(action.jit_scid, action.funding, reserved_late)
                late = partial(self.clear_late, peer_id, action.funding)
                opened = await self._opener.open(peer_id, action.funding, reserving, late, look=look, address=address)
            except Lsps2Error as error:
                await self.failed(action, error)
            else:
                self._withheld(opened.channel.channel_id, True, peer_id)
                self._tasks.feed(action.jit_scid, action.payment_hash, Input.FUNDED, opened)

    async def failed(self, action: order.OpenChannel, error: BaseException) -> None:
        """Do what follows an open that came to nothing: other coins, another type of channel, or its session's end."""
        match error:
            case CoinTaken():
                log.info(f"choosing other coins: {error}")
                await self.choose_again(action)
            case NotReserved():
                log.warning(f"coins cannot be reserved: {error}")
                self._tasks.open_failed(action, "no_coins", f"coins cannot be reserved: {error}")
            case RefusedByClient() if error.at_once:
                await self._ask_for_another_type(action, f"the client refused the channel: {error}", by_client=True)
            case RefusedByClient():
                why = f"the client refused to sign the funding: {error}"
                self._tasks.open_failed(action, "open_refused", why, by_client=True)
            case TypeNotOpened():
                await self._ask_for_another_type(action, f"no channel was opened: {error}", by_client=False)
            case ChannelGone():
                self._tasks.tell_given_up(self._tasks.buy(action.jit_scid).peer_id, error)
                self._tasks.open_failed(action, "given_up", error)
            case NodeError() | LeftOut():
                self._tasks.open_failed(action, "open_failed", f"opening the channel failed: {error}")
            case _:
                raise error

    async def go_on_alone(self, action: order.OpenChannel, begun: asyncio.Task[str]) -> None:
        """Choose other coins for a channel that is proposed to a client already, which has not answered yet."""
        self._begun[action.jit_scid] = begun
        await self.choose_again(action)

    async def choose_again(self, action: order.OpenChannel) -> None:
        """Choose other coins for the same channel."""
        await self._choose(action, lambda: self._funder.choose_again(action.jit_scid, action.funding))

    async def give_back(self, jit_scid: int, funding: order.Funding, peer_id: str) -> None:
        """Free the coins of this one, or leave them to those that share them."""
        await self._reservations.release_surely(jit_scid, funding, peer_id)
        self._funder.forget(jit_scid)

    def forget(self, jit_scid: int) -> None:
        """Forget a buy that has ended."""
        self._needs.pop(jit_scid, None)
        self.forget_proposal(jit_scid)

    def forget_proposal(self, jit_scid: int) -> None:
        """Forget what was proposed for a payment that is given up; `clear` ends it."""
        self._begun.pop(jit_scid, None)

    async def clear(self, peer_id: str, funding: order.Funding) -> None:
        """End the open of this channel, and close what a call whose answer was lost has made of these coins."""
        async with self.alone_with(peer_id):
            await self._opener.end(peer_id, funding)
            for channel in await self._opener.made_of(peer_id, funding):
                if not self._driver.owns(channel.channel_id):
                    await self._funder.close(peer_id, channel.channel_id)

    async def _choose(
        self, action: order.ReserveCoins | order.OpenChannel, choice: Callable[[], Awaitable[order.Funding]]
    ) -> None:
        """Feed the coins that are chosen, or that there are none."""
        try:
            funding = await self.when_synced(choice, self.sync_deadline_ms())
        except Lsps2Error as error:
            self.not_chosen(action, error)
            return
        if await self.may_open(action, funding):
            self._tasks.feed(action.jit_scid, action.payment_hash, Input.COINS_CHOSEN, funding)

    def free_sat(self) -> int:
        """Return what was free at the last look."""
        return self._capital.free_sat()

    async def may_open(
        self, action: order.ReserveCoins | order.OpenChannel, funding: order.Funding, free_sat: int | None = None
    ) -> bool:
        """Return whether this channel may be opened; if not, the coins are free again and the session knows.

        `free_sat`: as `Capital.may_open` has it.
        """
        if await self._capital.may_open(self._tasks.buy(action.jit_scid), funding, free_sat):
            return True
        self._funder.forget(action.jit_scid)
        self._tasks.open_failed(action, "limit", "a limit of the policy")
        return False

    def not_chosen(self, action: order.ReserveCoins | order.OpenChannel, error: BaseException) -> None:
        """Feed that there are no coins for a channel, or none that may be opened, and say why."""
        buy = self._tasks.buy(action.jit_scid)
        match error:
            case NotForwardable():  # a limit of this node, which its operator can lift
                why = f"lightningd would not forward it, for {error}"
                log.warning(f"no channel is made for {buy.peer_id}: {why}")
                self._tasks.open_failed(action, "not_forwardable", why)
            case ChannelTooLarge():
                self._capital.too_large(buy, str(error))
                self._tasks.open_failed(action, "channel_too_large", error)
            case NodeError() | NotEnoughCoins():
                self._tasks.alarm(f"no coins for a JIT channel to {buy.peer_id}: {error}")
                self._tasks.open_failed(action, "no_coins", error)
            case _:
                raise error

    def sync_deadline_ms(self) -> int:
        """Return until when coins that are chosen from now on may wait for lightningd to catch up."""
        return self._clock.now_ms() + SYNC_TIMEOUT_MS

    async def when_synced(self, choice: Callable[[], Awaitable[order.Funding]], deadline_ms: int) -> order.Funding:
        """Choose coins: after its start lightningd knows them only once it has caught up (cln:R5)."""
        while True:
            try:
                return await choice()
            except NotEnoughCoins as error:
                if not error.syncing or self._clock.now_ms() >= deadline_ms:
                    raise
            await self._clock.turned(SYNC_PAUSE_S)

    async def _ask_for_another_type(self, action: order.OpenChannel, why: str, *, by_client: bool) -> None:
        """Ask for the next type of channel in the same attempt; O-08 when the client has refused them all.

        The coins go back first: a channel of another type may need others. Nothing is open, and the record names them.
        """
        buy, needs = self._tasks.buy(action.jit_scid), self._needs[action.jit_scid]
        try:
            left = await self._funder.refused(buy.peer_id, action.funding.channel_type)
            log.info(f"{buy.peer_id}: no to {named(action.funding.channel_type)} ({why}); {left.sentence}")
            if left.other:
                await self._reservations.release(action.jit_scid, action.funding)
                self._funder.forget(action.jit_scid)
        except NodeError as problem:
            self._tasks.open_failed(action, "open_failed", f"{why}, and another cannot be asked for: {problem}")
            return
        if left.other:
            await self._choose(action, lambda: self._funder.choose(buy, needs.out_msat, needs.parts))
        else:
            self._tasks.open_failed(action, "open_refused" if by_client else "open_failed", why, by_client=by_client)

    def alone_with(self, peer_id: str) -> asyncio.Lock:
        """Allow one open or undo at a time with a peer (O-19): lightningd's calls mean "the" open of a peer."""
        return self._peers.setdefault(peer_id, asyncio.Lock())

    def clear_late(self, peer_id: str, funding: order.Funding) -> None:
        """Clear away what a step of an open made after it was given up (`late` of `Opener.open`)."""

        async def clear() -> None:
            await self.clear(peer_id, funding)
            # A channel that is closed frees its coins, even if another attempt has reserved them by now.
            self._reservations.released_late(funding)

        self._tasks.insist(f"clearing away what a late open to {peer_id} made", clear)
