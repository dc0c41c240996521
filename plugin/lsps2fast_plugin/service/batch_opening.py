"""Opens the channels of one batch at lightningd: each is proposed, one PSBT has an output for each, each is signed.

Nothing is sent here. A client that does not answer, or answers with an error, costs only its own payment: before the
outputs are fixed the others go on without it; after that their channels are closed, and the same coins are tried once
more without it. A channel is withheld from the moment it is signed (rule:7).

The others wait for a client as long as a message takes to a wallet that is far away, on a phone, behind Tor. One that
takes longer to accept its channel goes on by itself from there, as long as any open may last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

from lsps2fast import actions as order
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.psbt import fee_sat
from lsps2fast_plugin.service.batch import TOGETHER, Batch, Key, LeftOut, Member, shares
from lsps2fast_plugin.service.funding import ChannelGone, Funder
from lsps2fast_plugin.service.opening import Opener, funding_txid
from lsps2fast_plugin.service.opening_orders import OpeningOrders, Withhold
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks
from lsps2fast_plugin.service.reservations import Reservations
from lsps2fast_plugin.service.unfunded import UnfundedChannels

log = logging.getLogger(__name__)

SILENCE_S: Final = 3.0  # for one answer of a client: the others wait for it


class _Signed(NamedTuple):
    """A channel of the batch that both sides have signed."""

    channel_id: str
    limits: order.ChannelLimits | None


class BatchOpening:
    """Opens batches."""

    def __init__(
        self,
        *,
        tasks: OrderTasks,
        funder: Funder,
        opener: Opener,
        opening: OpeningOrders,
        reservations: Reservations,
        unfunded: UnfundedChannels,
        clock: Clock,
        driver: Driver,
        withheld: Withhold,
        spoiled: Callable[[str], None],
    ) -> None:
        """`spoiled(peer_id)` hears of each client that failed in a batch."""
        self._tasks = tasks
        self._funder = funder
        self._opener = opener
        self._opening = opening
        self._reservations = reservations
        self._unfunded = unfunded
        self._clock = clock
        self._driver = driver
        self._withheld = withheld
        self._spoiled = spoiled

    async def open(self, batch: Batch) -> None:
        """Open the channels; at the end `batch.members` are those whose session has been told `FUNDED`."""
        while batch.members and batch.tries < TOGETHER:
            async with AsyncExitStack() as locks:
                await self._enter(batch, locks)
                if not batch.members or await self._try(batch):
                    return
            batch.tries += 1
        await self.each_alone(batch)

    async def each_alone(self, batch: Batch) -> None:
        """Have each open its channel for itself: no other client can spoil that."""
        for member in list(batch.members.values()):
            await self._on_its_own(batch, member)

    async def _on_its_own(self, batch: Batch, member: Member, begun: asyncio.Task[str] | None = None) -> None:
        """Go on without this one, and have it open with coins of its own. `begun`: its proposal, not answered yet."""
        batch.members.pop(member.key, None)
        assert member.open is not None
        await self._opening.give_back(member.buy.jit_scid, _funding(member), member.peer_id)
        if begun is None:
            self._tasks.spawn(self._opening.choose_again(member.open), member.open)
        else:
            self._tasks.spawn(self._opening.go_on_alone(member.open, begun), member.open)

    async def _enter(self, batch: Batch, locks: AsyncExitStack) -> None:
        """Let no other open with these clients begin (O-19); one that has another under way goes on alone, at once.

        That takes as long as its client likes, and the others would wait for it (rule:24).
        """
        for member in list(batch.members.values()):
            if not self._driver.is_opening(*member.key):
                self._out(batch, member, LeftOut("its payment was given up meanwhile"), spoiled=False)
                continue
            lock = self._opening.alone_with(member.peer_id)
            if lock.locked():
                await self._on_its_own(batch, member)
                continue
            try:
                await asyncio.wait_for(lock.acquire(), SILENCE_S)
            except TimeoutError:
                await self._on_its_own(batch, member)
            else:
                locks.callback(lock.release)

    async def _try(self, batch: Batch) -> bool:
        """Try one transaction; return whether all who are left in the batch have signed."""
        addresses = await self._start(batch)
        if not batch.members:
            return True
        try:
            psbt, outnums = await self._build(batch, addresses)
        except NodeError as error:  # these coins may not carry it any more, at the feerate of now
            log.info(f"batch {batch.name}: each opens alone, for one transaction cannot be made: {error}")
            for member in list(batch.members.values()):
                await self._quietly(self._opener.end(member.peer_id, _funding(member)))
            await self.each_alone(batch)
            return True
        members = list(batch.members.values())
        signing = asyncio.gather(self._opener.sign(psbt), return_exceptions=True)
        results = await asyncio.gather(*(self._sign(member, psbt) for member in members), return_exceptions=True)
        (ours,) = await signing
        if isinstance(ours, BaseException) and not _may_sign_again(ours):
            await self._end_all(batch, ours)
            return True
        done: dict[Key, _Signed] = {}
        for member, result in zip(members, results, strict=True):
            if isinstance(result, _Signed):
                done[member.key] = result
            else:
                self._out(batch, member, result)
        if len(done) < len(members):
            await self._drop(batch, [(member, done[member.key]) for member in members if member.key in done])
            return not batch.members
        if isinstance(ours, BaseException):
            try:
                ours = await self._sign_again(batch, psbt, ours)
            except NodeError as error:
                await self._unsigned(batch, list(zip(members, done.values(), strict=True)), error)
                return True
        batch.signed = True
        self._funded(members, list(done.values()), ours, outnums)
        return True

    async def _sign_again(self, batch: Batch, psbt: str, error: BaseException) -> str:
        """Sign what lightningd did not at first, now that all clients have signed; once. Raises NodeError."""
        log.warning(f"batch {batch.name}: lightningd did not sign the funding ({error}), it is asked once more")
        return await self._opener.sign(psbt)

    async def _unsigned(self, batch: Batch, signed: list[tuple[Member, _Signed]], error: NodeError) -> None:
        """Have each open alone: lightningd does not sign this transaction, so these channels are never funded."""
        log.info(f"batch {batch.name}: each opens alone, for lightningd does not sign its funding: {error}")
        await self._drop(batch, signed)
        for member in list(batch.members.values()):
            if not self._driver.is_opening(*member.key):
                self._out(batch, member, LeftOut("its payment was given up meanwhile"), spoiled=False)
        await self.each_alone(batch)

    async def _start(self, batch: Batch) -> dict[Key, str]:
        """Reserve the coins and propose the channels; return the address of each that was accepted."""
        members = list(batch.members.values())
        first = members[0]
        assert first.funding is not None
        late = partial(self._reservations.reserved_late, first.buy.jit_scid, first.funding)
        reserving = asyncio.gather(
            self._funder.reserve(first.buy.jit_scid, first.funding, late), return_exceptions=True
        )
        proposals = [self._tasks.begin(self._propose(member)) for member in members]
        await self._clock.all_done(proposals, round(SILENCE_S * 1000))
        (reserved,) = await reserving
        addresses: dict[Key, str] = {}
        for member, proposal in zip(members, proposals, strict=True):
            if not proposal.done():
                self._spoiled(member.peer_id)
                log.info(
                    f"batch {batch.name} goes on without {member.peer_id}: silent for {SILENCE_S:g} s, it opens alone"
                )
                await self._on_its_own(batch, member, proposal)
                continue
            result = proposal.exception() or proposal.result()
            if isinstance(result, str) and self._driver.is_opening(*member.key):
                addresses[member.key] = result
            elif isinstance(result, str):
                await self._quietly(self._opener.end(member.peer_id, _funding(member)))
                self._out(batch, member, LeftOut("its payment was given up meanwhile"), spoiled=False)
            else:
                self._out(batch, member, result)
        if isinstance(reserved, BaseException):
            await self._end_all(batch, reserved)
        return addresses

    async def _propose(self, member: Member) -> str:
        late = partial(self._opening.clear_late, member.peer_id, _funding(member))
        return await self._opener.start(member.peer_id, _funding(member), late)

    async def _build(self, batch: Batch, addresses: dict[Key, str]) -> tuple[str, list[int]]:
        """Return one PSBT with an output for each, and the places of these. Raises NodeError."""
        members = list(batch.members.values())
        scids = tuple(member.buy.jit_scid for member in members)
        plans = [member.plan for member in members if member.plan is not None]
        psbt, outnums = _funding(members[0]).psbt, []
        if batch.tries or scids != _funding(members[0]).batch:  # else the PSBT of the journal is the right one
            psbt = await self._funder.psbt_again(scids, batch.inputs, plans)
        for member in members:
            psbt, outnum = await self._opener.add_output(psbt, _funding(member).capacity_sat, addresses[member.key])
            outnums.append(outnum)
        return psbt, outnums

    async def _sign(self, member: Member, psbt: str) -> _Signed:
        """Have the client sign; keep other forwards out of the channel from then on. Raises as `Opener.complete`."""
        funding = _funding(member)
        late = partial(self._opening.clear_late, member.peer_id, funding)
        channel_id = await self._opener.complete(member.peer_id, funding, psbt, late, SILENCE_S)
        self._withheld(channel_id, True, member.peer_id)
        try:
            return _Signed(channel_id, await self._opener.first_limits(member.peer_id, channel_id))
        except ChannelGone:
            self._withheld(channel_id, False, member.peer_id)
            raise

    def _funded(self, members: list[Member], signed: list[_Signed], psbt: str, outnums: list[int]) -> None:
        """Tell each session of its channel, which knows its sisters and its share of the miners' part."""
        ids = [(member.peer_id, each.channel_id) for member, each in zip(members, signed, strict=True)]
        mining_sat = _mining_sat(psbt, len(members))
        for place, (member, each) in enumerate(zip(members, signed, strict=True)):
            txid = funding_txid(each.channel_id, outnums[place])
            sisters = tuple(sister for sister in ids if sister != ids[place])
            channel = order.Channel(each.channel_id, psbt, txid, sisters, mining_sat[place])
            self._tasks.feed(*member.key, Input.FUNDED, order.Opened(channel, each.limits))

    # Failing -------------------------------------------------------------------------------------

    def _out(self, batch: Batch, member: Member, error: BaseException, *, spoiled: bool = True) -> None:
        """Go on without this one; its own session hears why, as if it had opened alone."""
        del batch.members[member.key]
        if spoiled:
            self._spoiled(member.peer_id)
        log.info(f"batch {batch.name} goes on without {member.peer_id}: {error}")
        assert member.open is not None
        self._funder.part(member.buy.jit_scid, _funding(member))
        self._tasks.spawn(self._opening.failed(member.open, error), member.open)

    async def _end_all(self, batch: Batch, error: BaseException) -> None:
        """End all opens: lightningd or another program is in the way. Each goes on as if it had opened alone."""
        for member in list(batch.members.values()):
            await self._quietly(self._opener.end(member.peer_id, _funding(member)))
            self._out(batch, member, error, spoiled=False)

    async def _drop(self, batch: Batch, signed: list[tuple[Member, _Signed]]) -> None:
        """Close channels whose transaction is never sent. For one that takes long its own payment alone waits."""
        closing = [self._unfunded.close(each.peer_id, its.channel_id, _funding(each)) for each, its in signed]
        await self._unfunded.wait(closing)
        for (member, _), close in zip(signed, closing, strict=True):
            if not close.done() and member.open is not None:
                batch.members.pop(member.key, None)
                self._tasks.spawn(self._once_closed(member, member.open, close), member.open)

    async def _once_closed(self, member: Member, action: order.OpenChannel, close: asyncio.Task[None]) -> None:
        await close
        await self._opening.give_back(member.buy.jit_scid, _funding(member), member.peer_id)
        await self._opening.choose_again(action)

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except NodeError as error:
            log.warning(f"ending an open: {error}")  # its session undoes it until that works


def _mining_sat(psbt: str, count: int) -> list[int] | list[None]:
    """Return the share of each channel in what the miners get; None where the PSBT does not say: that stops no sale."""
    try:
        return shares(fee_sat(psbt), count)
    except ValueError:
        return [None] * count


def _may_sign_again(error: BaseException) -> bool:
    """Return whether lightningd has refused to sign: one that is silent, or away, has had all the time there is."""
    return isinstance(error, NodeError) and not isinstance(error, NodeUnreachable)


def _funding(member: Member) -> order.Funding:
    assert member.funding is not None
    return member.funding
