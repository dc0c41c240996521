"""Waiting for a channel: until it can carry its payment, and after a start until its client is back."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.errors import NodeError, StoreError
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.channel_changes import Watch
from lsps2fast_plugin.service.funding import ChannelGone, Funder, limits_of
from lsps2fast_plugin.service.held_shares import Claim, giving_way
from lsps2fast_plugin.service.order_tasks import OrderTasks
from lsps2fast_plugin.service.promised_room import Promise, PromisedRoom
from lsps2fast_plugin.service.routing_fees import RoutingFees

log = logging.getLogger(__name__)

RETURN_TIMEOUT_MS: Final = 60_000  # for a client to come back after our restart
READY_TIMEOUT_MS: Final = 120_000  # O-13, K-22
POLL_MS: Final = 5_000  # K-17: beside the notifications


class Answers(Protocol):
    """Where held hook calls are answered."""

    def forward(self, parts: Iterable[order.Forward], channel_id: str) -> None:
        """Let these parts go out into the channel."""

    def fail(self, keys: Iterable[order.PartKey], failure: str) -> None:
        """Fail these parts."""


def _awake(jit_scid: int) -> int:
    """Return for how many ms parts of this paid buy wait for a client that was called."""
    return 0


def _claim(action: order.ForwardParts) -> Claim:
    """Return the place of a part over the alias of a paid channel: such a part comes alone."""
    (part,) = action.parts
    return Claim(part.key[0], part.out_msat, part.htlc_id.to_bytes(8))


def _name(part: order.Forward) -> bytes:
    return repr(part.key).encode()


@dataclass(slots=True)
class Returning:
    """What waits for one client to come back, over one channel."""

    peer_id: str
    orders: list[order.ForwardParts] = field(default_factory=list)


class ReturningParts:
    """What waits for clients to come back, counted as HTLCs that are held."""

    def __init__(self) -> None:
        self.by_channel: dict[str, Returning] = {}

    def __len__(self) -> int:
        return sum(1 for _ in self._parts())

    @property
    def held_msat(self) -> int:
        """Return what they bring."""
        return sum(part.out_msat for part in self._parts())

    def _parts(self) -> Iterator[order.Forward]:
        return (part for each in self.by_channel.values() for action in each.orders for part in action.parts)


class WaitingOrders:
    """Waits for channels and lets parts go once they are ready."""

    def __init__(
        self,
        tasks: OrderTasks,
        funder: Funder,
        fees: RoutingFees,
        answers: Answers,
        clock: Clock,
        promised: PromisedRoom,
    ) -> None:
        self._promised = promised
        self._tasks = tasks
        self._funder = funder
        self._fees = fees
        self._answers = answers
        self._clock = clock
        self._waiting: dict[str, asyncio.Task[None]] = {}  # AwaitReady by channel; ends with its session
        self.returning = ReturningParts()
        self._returning = self.returning.by_channel  # parts that wait for its client
        self.watch = Watch(clock)
        self.asleep: Callable[[int], int] = _awake
        self.unready: set[str] = set()  # channels of an earlier run: no part before they are reestablished (cln:R4)

    def forward(self, action: order.ForwardParts) -> None:
        """Let parts go out, at once where the channel is ready; all that wait share one task (people:S16)."""
        if not self.waits(action.channel_id, action.jit_scid):
            self._let_out(action)
            return
        peer_id = self._tasks.peer_of(action.jit_scid)
        waiting = self._returning.get(action.channel_id) or Returning(peer_id)
        of_peer = sum(len(each.orders) for each in self._returning.values() if each.peer_id == peer_id)
        if self._tasks.is_full(action.jit_scid, len(waiting.orders), of_peer) and not self._make_room(waiting, action):
            self._answers.fail([part.key for part in action.parts], order.TEMPORARY)
            return
        waiting.orders.append(action)
        self._wait(action)
        if action.channel_id not in self._returning:
            self._returning[action.channel_id] = waiting
            self._tasks.spawn(self._await_return(action), action)

    def _make_room(self, waiting: Returning, new: order.ForwardParts) -> bool:
        """Return whether one of these, over the alias of a paid channel, gave way to a new one (rule:24)."""
        claims = {_claim(each): each for each in waiting.orders if not self._tasks.is_of_payment(each)}
        gone = giving_way(claims, _claim(new), len(claims), sys.maxsize)
        for claim in gone or ():
            waiting.orders.remove(claims[claim])
            self._wait_no_more(claims[claim], claims[claim].parts)
            self._answers.fail([part.key for part in claims[claim].parts], order.TEMPORARY)
        return bool(gone)

    def _let_out(self, action: order.ForwardParts) -> None:
        """Let parts go out; those over the alias of a paid channel had no room promised, and take it now (A-03)."""
        key = (action.jit_scid, action.payment_hash)
        sent_msat = tuple(part.out_msat for part in action.parts)
        waited = self._wait_no_more(action, action.parts)
        if not self._promised.goes_out(action.channel_id, key, sent_msat) and not waited:
            self._promised.spent(action.channel_id, Promise(key, sum(sent_msat), len(sent_msat), sent_msat))
        self._answers.forward(action.parts, action.channel_id)

    def _wait(self, action: order.ForwardParts) -> None:
        """Keep room for parts that wait, where none was promised to them: they go in when their client is back."""
        if self._promised.of(action.channel_id, (action.jit_scid, action.payment_hash)) is None:
            for part in action.parts:
                self._promised.hold(action.channel_id, _name(part), action.payment_hash, part.out_msat)

    def _wait_no_more(self, action: order.ForwardParts, parts: Iterable[order.Forward]) -> bool:
        """Keep no room for these any more; return whether any was kept."""
        kept = [self._promised.let_go(action.channel_id, _name(part)) for part in parts]
        return any(kept)

    def waits(self, channel_id: str, jit_scid: int) -> bool:
        """Return whether parts of this buy, for this channel, wait until its client is back."""
        return channel_id in self.unready or self.asleep(jit_scid) > 0

    def clients(self) -> set[str]:
        """Return the clients that are waited for."""
        return {each.peer_id for each in self._returning.values()}

    def drop(self, in_channel: str, in_scids: Iterable[int]) -> list[tuple[order.PartKey, bytes]]:
        """Fail what came over this channel and still waits for its client; return the keys, with their payment hashes.

        lightningd asks after a start about what is not out, and about nothing else: so these are not (cln:R1).
        """
        names = {in_channel, *in_scids}
        lost: list[tuple[order.PartKey, bytes]] = []
        for returning in self._returning.values():
            for place, each in enumerate(returning.orders):
                stay = tuple(part for part in each.parts if part.key[0] not in names)
                self._wait_no_more(each, set(each.parts).difference(stay))
                lost += [(part.key, each.payment_hash) for part in each.parts if part not in stay]
                returning.orders[place] = replace(each, parts=stay)
            returning.orders = [each for each in returning.orders if each.parts]
        self._answers.fail([key for key, _ in lost], order.TEMPORARY)
        return lost

    def await_ready(self, action: order.AwaitReady) -> None:
        """Wait until a channel is ready; the machine hears when, or that it took too long."""
        self.stop(action.channel_id)
        self._fees.supersede(action.channel_id)
        self._waiting[action.channel_id] = self._tasks.spawn(self._await_ready(action), action)

    def stop(self, channel_id: str) -> None:
        """Stop waiting for a channel: what an earlier payment waited for is no news for a later one."""
        if waiting := self._waiting.pop(channel_id, None):
            waiting.cancel()

    async def _await_ready(self, action: order.AwaitReady) -> None:
        peer_id = self._tasks.buy(action.jit_scid).peer_id
        deadline_ms = self._clock.now_ms() + READY_TIMEOUT_MS
        kind: Input = Input.READY_TIMEOUT
        fact: order.ChannelLimits | None = None
        zero = False
        while self._clock.now_ms() < deadline_ms:
            self.watch.look(action.channel_id)
            try:
                channel, zero = await self._look(peer_id, action, zero)
                if channel is not None:
                    kind, fact = await self._ready(action, channel)
                    break
            except ChannelGone as error:
                log.warning(str(error))
                kind = Input.CLOSED
                break
            except (NodeError, StoreError) as error:  # one error is not an outcome (rule:10)
                log.warning(f"waiting for channel {action.channel_id}: {error}")
            left_ms = deadline_ms - self._clock.now_ms()
            await self.watch.wait(action.channel_id, min(POLL_MS, max(left_ms, 1)) / 1000)
        self.watch.forget(action.channel_id)
        self._waiting.pop(action.channel_id, None)
        self._tasks.feed(action.jit_scid, action.payment_hash, kind, fact)

    async def _look(self, peer_id: str, action: order.AwaitReady, zero: bool) -> tuple[PeerChannel | None, bool]:
        """Return the channel once it is usable and free, and whether its routing fee was set to zero.

        `zero`: it was before. Raises ChannelGone, NodeError or StoreError.
        """
        channel_id = action.channel_id
        look = partial(self._funder.living, peer_id, channel_id)
        if not (zero or action.was_there) and await self._fees.operator_charges():
            # both at once: neither needs the other's answer (P17)
            channel, _ = await asyncio.gather(look(), self._fees.zero(peer_id, channel_id))
            self._fees.charged(channel)
            return channel if channel.is_ready else None, True
        channel = await look()
        if not channel.is_ready or zero or channel.charges_nothing:
            if action.was_there and not zero:
                self._fees.found(channel)
            return channel if channel.is_ready else None, zero
        await self._fees.keep(channel)
        await self._fees.zero(peer_id, channel_id)
        return channel, True

    async def _ready(self, action: order.AwaitReady, channel: PeerChannel) -> tuple[Input, order.ChannelLimits | None]:
        """Return what the machine is told of a channel that is ready: time is up where it cannot carry the payment.

        Asked by what the channel is now: it may be that of an earlier payment, and of an earlier run. Raises NodeError.
        """
        room = await self._funder.room(channel, self._tasks.room(action.jit_scid))
        why = self._tasks.unforwardable(action.jit_scid, room)
        if why is None:
            return Input.READY, limits_of(channel)
        log.warning(f"a payment over channel {action.channel_id} is failed: lightningd would not forward it, for {why}")
        return Input.READY_TIMEOUT, None

    async def _await_return(self, action: order.ForwardParts) -> None:
        """Wait for the client after a start, for lightningd fails what comes before it is back (cln:R4, cln:H10)."""
        peer_id = self._tasks.buy(action.jit_scid).peer_id
        deadline_ms = self._clock.now_ms() + max(RETURN_TIMEOUT_MS, self.asleep(action.jit_scid))
        while self._clock.now_ms() < deadline_ms:
            self.watch.look(action.channel_id)
            try:
                if (await self._funder.living(peer_id, action.channel_id)).is_ready:
                    if self._promised.in_use(action.channel_id):  # an end may have come before its fees were zero
                        self._fees.supersede(action.channel_id)
                        await self._fees.zero(peer_id, action.channel_id)
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
        for each in self._returning.pop(action.channel_id, Returning("")).orders:
            self._let_out(each)
