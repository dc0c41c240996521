"""Channels that are opened on trust at about the same time share one funding transaction (`lsps2-batch-window-ms`).

A session knows nothing of that: it orders coins, an open, a broadcast, and hears what came of each. Here its orders
wait for those of others. Only channels that are put on chain before they are paid for are batched: a funding that waits
for a preimage would make one client wait for the payment of another.

The rule that all else follows from: a transaction is sent only while lightningd has every channel that it pays for
(rule:23). One that is given up before makes it worthless for the others, too: their channels are closed, the coins stay
promised to them, and they are tried once more together, then each alone. Nothing goes into a channel before that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast._payment import CLTV_MARGIN_BLOCKS
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast.lsps.buys import Buy
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.batch import TOGETHER, Batch, Key, Member, Outcome
from lsps2fast_plugin.service.batch_opening import BatchOpening
from lsps2fast_plugin.service.channel_changes import Watch
from lsps2fast_plugin.service.coins import NotEnoughCoins
from lsps2fast_plugin.service.funding import Funder, Plan
from lsps2fast_plugin.service.opening_orders import OpeningOrders
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks

log = logging.getLogger(__name__)

ARRIVAL_MS: Final = 5_000  # so long the others wait for one whose record is being written
LAST_MS: Final = 10_000  # and so long for that of its channel: then the transaction is worthless
NEAR_BLOCKS: Final = CLTV_MARGIN_BLOCKS + 6  # a part that expires sooner is not made to wait
SPOILERS: Final = 10_000  # clients that are remembered
ALONE_MS: Final = 3_600_000  # so long: a day of load would end all batches else


class BatchSending(Protocol):
    """Who sends what a batch has signed: `FundingOrders`."""

    async def send_all(self, members: list[Member]) -> Outcome:
        """Send their funding, unless one of them is gone: then close the channels of the others."""

    async def send_none(self, members: list[Member]) -> Outcome:
        """Close their channels: one that they share their funding with is gone."""

    async def broadcast_alone(self, action: order.Broadcast) -> None:
        """Send the funding of one, looking at the others."""


@dataclass
class Counts:
    """What batches have come to since the start."""

    transactions: int = 0
    channels: int = 0
    spoilt: int = 0


class Batches:
    """All batches of one service."""

    def __init__(
        self,
        *,
        tasks: OrderTasks,
        funder: Funder,
        opening: OpeningOrders,
        opens: Callable[[Callable[[str], None]], BatchOpening],
        sending: BatchSending,
        clock: Clock,
        driver: Driver,
        window_ms: int,
        most: int,
    ) -> None:
        """`opens(spoiled)` makes what opens a batch. `window_ms` 0: batches are off; `most` channels in one."""
        self._tasks = tasks
        self._funder = funder
        self._opening = opening
        self._opens = opens(self._spoiled)
        self._sending = sending
        self._clock = clock
        self._driver = driver
        self._window_ms = window_ms
        self._most = most
        self._numbers = itertools.count(1)
        self._of: dict[Key, Batch] = {}
        self._gathering: Batch | None = None
        self._spoilers: dict[str, int] = {}  # clients that failed in a batch of late, until when they open alone
        self._watch = Watch(clock)
        self.counts = Counts()

    # What sessions order -------------------------------------------------------------------------

    def join(self, buy: Buy, action: order.ReserveCoins) -> bool:
        """Have this one choose its coins with others, if it may; False: it is to have coins of its own."""
        key = action.jit_scid, action.payment_hash
        if (member := self._member(action)) is not None:  # of one that was spoilt
            member.reserve, member.is_back = action, True
            return True
        if not self._may_join(buy, key):
            return False
        batch = self._gathering
        if batch is None or batch.has_peer(buy.peer_id):
            if batch is not None:
                return False  # one open at a time with a client (O-19)
            number = next(self._numbers)
            batch = self._gathering = Batch(str(number), self._clock.now_ms() + self._window_ms)
            self._tasks.run(self._guarded(batch, self._gather_and_open(batch)))
        batch.members[key] = Member(buy, action)
        self._of[key] = batch
        if len(batch.members) >= self._most:
            self._gathering = None
        self._watch.changed(batch.name)
        return True

    def arrive(self, action: order.OpenChannel) -> bool:
        """Have this one be opened with the others whose coins it shares; False: they go on without it."""
        if (member := self._member(action)) is None:
            return False
        member.open, member.funding = action, action.funding
        return True

    def send(self, action: order.Broadcast) -> bool:
        """Have the funding of this one be sent once all that share it are ready for that; False: it is on its own."""
        if (member := self._member(action)) is None:
            return False
        member.broadcast = action
        return True

    def leave(self, jit_scid: int, payment_hash: bytes) -> None:
        """Go on without this payment: it is given up. What it shared and was not sent is sent for none."""
        batch = self._of.pop((jit_scid, payment_hash), None)
        if batch is None:
            return
        if (member := batch.members.pop((jit_scid, payment_hash), None)) is not None:
            if batch.signed:  # whatever it was: it opens alone from now on
                batch.spoilt = True
                self._spoiled(member.peer_id)
            self._watch.changed(batch.name)

    def _member(self, action: order.ReserveCoins | order.OpenChannel | order.Broadcast) -> Member | None:
        """Return the one that an order is about, whose batch is about to go on."""
        batch = self._of.get((action.jit_scid, action.payment_hash))
        if batch is None:
            return None
        self._watch.changed(batch.name)
        return batch.members.get((action.jit_scid, action.payment_hash))

    # What becomes of a batch ---------------------------------------------------------------------

    async def _gather_and_open(self, batch: Batch) -> None:
        while self._gathering is batch and (left_ms := batch.until_ms - self._clock.now_ms()) > 0:
            self._watch.look(batch.name)
            await self._watch.wait(batch.name, left_ms / 1000)
        if self._gathering is batch:
            self._gathering = None
        if len(batch.members) == 1:
            await self._each_alone(batch)
            return
        await self._plan(batch)
        await self._choose(batch)
        await self._open_and_send(batch)

    async def _open_and_send(self, batch: Batch) -> None:
        """From the intents, which name the same coins, to the transaction, or to the next one."""
        while batch.members:
            await self._arrivals(batch, lambda member: member.open is not None)
            batch.signed = batch.spoilt = False
            await self._open(batch)
            if not batch.members:
                return
            await self._arrivals(batch, lambda member: member.broadcast is not None, LAST_MS)
            members = list(batch.members.values())
            if not batch.spoilt:
                outcome = await self._sending.send_all(members)
            else:
                outcome = await self._sending.send_none(members)
            for member in members:
                if member in outcome.again:
                    continue
                is_left = self._leave_out(batch, member)
                if (close := outcome.closing.get(member.key)) is not None:
                    if is_left:
                        self._alone_once_closed(member, close)
                elif not outcome.sent:
                    self._spoiled(member.peer_id)
            if outcome.sent:
                self.counts.transactions += 1
                self.counts.channels += len(members)
                log.info(f"batch {batch.name} is on its way to the chain: channels {len(members)}")
                return
            self.counts.spoilt += 1
            log.info(f"batch {batch.name} is not sent, one of its channels is gone; {len(batch.members)} open others")
            batch.tries += 1
            batch.inputs = () if outcome.spent else batch.inputs
            await self._open_another(batch)

    async def _open(self, batch: Batch) -> None:
        before = dict(batch.members)
        await self._opens.open(batch)
        for key in before.keys() - batch.members.keys():
            if self._of.get(key) is batch:
                del self._of[key]

    async def _arrivals(self, batch: Batch, has_come: Callable[[Member], bool], most_ms: int = ARRIVAL_MS) -> None:
        """Wait for the next order of all; those that take longer are left out."""
        deadline_ms = self._clock.now_ms() + most_ms
        while not all(has_come(member) for member in batch.members.values()):
            self._watch.look(batch.name)
            left_ms = deadline_ms - self._clock.now_ms()
            if left_ms <= 0:
                for key, member in list(batch.members.items()):
                    if not has_come(member):
                        del batch.members[key], self._of[key]
                        batch.spoilt = batch.spoilt or batch.signed
                return
            await self._watch.wait(batch.name, left_ms / 1000)

    async def _plan(self, batch: Batch) -> None:
        """Work out what channel each needs, now that the window is over: by the feerates of now."""
        for member in list(batch.members.values()):
            if not self._driver.is_opening(*member.key) and self._leave_out(batch, member):
                self._tasks.open_failed(member.reserve, "given_up", "the payment was given up meanwhile")
        members = list(batch.members.values())
        plans = await asyncio.gather(
            *(self._funder.plan(each.buy, each.reserve.out_msat, each.reserve.parts) for each in members),
            return_exceptions=True,
        )
        for member, plan in zip(members, plans, strict=True):
            if isinstance(plan, Plan):
                member.plan = plan
            elif not isinstance(plan, Exception):
                raise plan
            elif self._leave_out(batch, member):
                self._opening.not_chosen(member.reserve, plan)

    async def _choose(self, batch: Batch) -> None:
        """Choose coins for as many as they suffice for, in order of arrival; the others have none, or their own."""
        left_over: list[Member] = []
        deadline_ms = self._opening.sync_deadline_ms()  # one for all choices: each may be one too many
        while batch.members:
            plans = batch.plans
            if len(plans) == 1:
                left_over += batch.members.values()
                break
            try:
                funding = await self._opening.when_synced(partial(self._funder.choose_for_all, plans), deadline_ms)
            except NodeUnreachable as error:
                for member in list(batch.members.values()):
                    if self._leave_out(batch, member):
                        self._opening.not_chosen(member.reserve, error)
                break
            except (NotEnoughCoins, NodeError):
                last = list(batch.members.values())[-1]
                if self._leave_out(batch, last):
                    left_over.insert(0, last)
                continue
            batch.inputs, batch.free_sat = funding.inputs, self._opening.free_sat()
            await self._intend(batch, funding, plans)
            break
        for member in left_over:
            self._leave_out(batch, member)
            self._tasks.spawn(self._opening.choose_alone(member.buy, member.reserve), member.reserve)

    async def _intend(self, batch: Batch, funding: order.Funding, plans: dict[int, Plan]) -> None:
        """Ask the limits about each channel, and tell each session of the coins: it journals them."""
        counted: list[Member] = []
        for key, member in list(batch.members.items()):
            plan = plans[member.buy.jit_scid]
            own = replace(funding, capacity_sat=plan.capacity_sat, channel_type=plan.channel_type)
            if not await self._opening.may_open(member.reserve, own, batch.free_sat_for(member, counted)):
                self._leave_out(batch, member)
            elif self._of.get(key) is batch:
                member.funding = own
                counted.append(member)
        for member in list(batch.members.values()):
            assert member.funding is not None
            self._tasks.feed(*member.key, Input.COINS_CHOSEN, member.funding)

    async def _open_another(self, batch: Batch) -> None:
        """Let those whose transaction is worthless try another with the same coins, or each on its own."""
        for member in batch.members.values():
            member.open = member.broadcast = None
        await self._arrivals(batch, lambda member: member.is_back)
        for member in batch.members.values():
            member.is_back = False
        if batch.tries >= TOGETHER or not batch.inputs:
            await self._each_alone(batch)
            return
        for member in list(batch.members.values()):
            assert member.funding is not None
            free_sat = batch.free_sat_for(member, batch.members.values())
            if not await self._opening.may_open(member.reserve, member.funding, free_sat):
                self._leave_out(batch, member)
        for member in list(batch.members.values()):
            self._tasks.feed(*member.key, Input.COINS_CHOSEN, member.funding)

    def _alone_once_closed(self, member: Member, close: asyncio.Task[None]) -> None:
        """Have this one, whose old channel takes long to close, open another by itself."""
        batch = Batch(f"of {member.peer_id}", self._clock.now_ms(), {member.key: member})
        self._of[member.key] = batch
        member.open = member.broadcast = None

        async def go_on() -> None:
            await close
            await self._arrivals(batch, lambda member: member.is_back)
            await self._each_alone(batch)

        self._tasks.run(self._guarded(batch, go_on()))

    async def _each_alone(self, batch: Batch) -> None:
        for member in list(batch.members.values()):
            if not self._leave_out(batch, member):
                continue
            if member.funding is not None:
                await self._opening.give_back(member.reserve.jit_scid, member.funding, member.peer_id)
            self._tasks.spawn(self._opening.choose_alone(member.buy, member.reserve), member.reserve)

    # Who takes part ------------------------------------------------------------------------------

    def _may_join(self, buy: Buy, key: Key) -> bool:
        if self._window_ms == 0 or buy.client_trusts_lsp:
            return False
        if self._spoilers.get(buy.peer_id, 0) > self._clock.now_ms():
            return False
        if self._funder.reserved_by(buy.jit_scid):  # of a batch that it comes back to too late
            return False
        return self._driver.blocks_left(key[0]) > NEAR_BLOCKS

    def _spoiled(self, peer_id: str) -> None:
        self._spoilers.pop(peer_id, None)
        self._spoilers[peer_id] = self._clock.now_ms() + ALONE_MS
        if len(self._spoilers) > SPOILERS:
            del self._spoilers[next(iter(self._spoilers))]

    def _leave_out(self, batch: Batch, member: Member) -> bool:
        """Go on without this one; False: it has left by itself."""
        if self._of.get(member.key) is not batch:
            return False
        del self._of[member.key]
        del batch.members[member.key]
        return True

    async def _guarded(self, batch: Batch, work: Coroutine[Any, Any, None]) -> None:
        """Turn an error that no step expects into the outcomes that end the sessions safely."""
        try:
            await work
        except Exception:
            self._tasks.alarm(f"batch {batch.name} broke\n{traceback.format_exc()}")
            for member in list(batch.members.values()):
                if not self._leave_out(batch, member):
                    continue
                if member.broadcast is not None:
                    self._tasks.spawn(self._sending.broadcast_alone(member.broadcast), member.broadcast)
                elif self._driver.is_opening(*member.key):
                    action = member.open or member.reserve
                    self._tasks.open_failed(action, "bug", "a fault of this program, see the log")
        finally:
            for member in list(batch.members.values()):
                self._leave_out(batch, member)
            if self._gathering is batch:
                self._gathering = None
            self._watch.forget(batch.name)
