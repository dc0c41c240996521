"""Payments that go over a channel the client has, in place of a new one: nothing is opened, so nothing is mined.

The operator's policy says whether, and for which fee (`policy.rules.Reuse`). Room is promised before the machine hears
of the channel, looked at once more when all is written, and free again when the payment is over. For that long the
channel takes no routing fee: the payer was told that the way over the jit scid costs none (rule:13).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol
from weakref import WeakValueDictionary

from lsps2fast.actions import (
    ChannelLimits,
    ExistingChannel,
    LeaveChannel,
    PrepareChannel,
    ReserveCoins,
    RestoreFees,
    SessionRecord,
)
from lsps2fast.errors import NodeError
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.forward_limits import ForwardLimits
from lsps2fast_plugin.service.order_tasks import OrderTasks
from lsps2fast_plugin.service.promised_room import Free, Key, Listing, Promise, PromisedRoom, Rates
from lsps2fast_plugin.service.routing_fees import RoutingFees

log = logging.getLogger(__name__)

TRIES: Final = 3  # then a channel is opened instead
LOOKS: Final = 10  # for a channel that would do to be reestablished, where its client has just come back
LOOK_S: Final = 0.5


class Sessions(Protocol):
    """The payments under way: `SessionDriver`."""

    def fee_msat(self, jit_scid: int) -> int:
        """Return the opening fee that the one on this scid brings."""

    def held_msats(self, jit_scid: int) -> list[int]:
        """Return the values of its parts that are held."""

    def uses_existing(self, jit_scid: int, payment_hash: bytes) -> bool:
        """Return whether this payment goes over a channel that its client has."""


class RoomFinder:
    """Looks for channels of a client that can carry a payment."""

    def __init__(
        self,
        rpc: Rpc,
        book: PromisedRoom,
        limits: ForwardLimits,
        is_shut: Callable[[str], bool],
        fee_msat: Callable[[int], int | None],
    ) -> None:
        """`is_shut(channel_id)`: it carries nothing but its own payment (rule:21). `fee_msat(opening_fee_msat)` is what
        the policy takes instead of that; None: every payment gets a channel of its own.
        """
        self._rpc = rpc
        self._book = book
        self._limits = limits
        self._is_shut = is_shut
        self.fee_msat = fee_msat

    async def most_msat(self, peer_id: str) -> int:
        """Return the largest payment of one part that would go over a channel of this client now. Raises NodeError."""
        if self.fee_msat(0) is None or not peer_id:
            return 0
        with self._book.listing() as listing:
            rows = await list_peer_channels(self._rpc, id=peer_id)
            key = (0, b"")
            most = [
                min(free.spendable_msat, free.in_flight_msat, _largest_htlc_msat(row), self._limits.htlc_maximum_msat)
                for row in rows
                if self.is_usable(row)
                and row.is_ready
                and (free := self._book.free(row, key, 1, self._limits.max_htlcs, listing)).htlcs > 0
            ]
        return max(most, default=0)

    def is_usable(self, row: PeerChannel) -> bool:
        """Return whether a payment may go over this channel at all, once it is ready.

        The whole network hears of the fees of a public channel, so those are never set to zero for one payment.
        """
        has_way = row.is_normal and row.peer_connected and (row.private or row.charges_nothing)
        return has_way and not row.is_withheld and not self._is_shut(row.channel_id)

    def why_not(self, row: PeerChannel, free: Free, values_msat: Sequence[int], out_msat: int) -> str | None:
        """Say why these parts, of which `out_msat` goes out, cannot go over this channel together, or return None."""
        if not self.is_usable(row):
            return f"it is {row.state}, or public, or its client is away"
        if out_msat > min(free.spendable_msat, free.in_flight_msat) or len(values_msat) > free.htlcs:
            return "it has no room"
        if max(values_msat, default=0) > _largest_htlc_msat(row):
            return "a part is above its largest HTLC"
        if min(values_msat, default=0) < row.minimum_htlc_out_msat:
            return "a part is below its smallest HTLC"
        others = [htlc.amount_msat for htlc in row.htlcs]
        return self._limits.set_refusal([*values_msat, *others], row.channel_type.bits, row.feerate.perkw)

    def free(self, row: PeerChannel, key: Key, parts: int, listing: Listing) -> Free:
        """Return what this channel can carry of a payment, as `PromisedRoom.free`."""
        return self._book.free(row, key, parts, self._limits.max_htlcs, listing)


def _largest_htlc_msat(row: PeerChannel) -> int:
    return row.total_msat if row.maximum_htlc_out_msat is None else row.maximum_htlc_out_msat


def rates_of(existing: ExistingChannel) -> Rates | None:
    """Return what a channel charged before; None for the operator's own fees."""
    if existing.fee_base_msat is None or existing.fee_ppm is None:
        return None
    return existing.fee_base_msat, existing.fee_ppm


class Found(NamedTuple):
    """A channel with room."""

    row: PeerChannel
    free: Free


def _rank(found: Found) -> tuple[bool, int, str]:
    return found.row.is_ready, found.free.spendable_msat, found.row.channel_id


class ExistingChannels:
    """Carries out the orders about channels that clients have."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        tasks: OrderTasks,
        fees: RoutingFees,
        clock: Clock,
        finder: RoomFinder,
        book: PromisedRoom,
        sessions: Sessions,
    ) -> None:
        self._rpc = rpc
        self._tasks = tasks
        self._fees = fees
        self._clock = clock
        self._finder = finder
        self._book = book
        self._sessions = sessions
        self._preparing: dict[Key, PrepareChannel] = {}  # what came of an older order is no news for a later payment
        self._restoring: WeakValueDictionary[str, asyncio.Task[None]] = WeakValueDictionary()  # the newest, by channel
        self._told: dict[str, set[Key]] = {}  # by channel: payments whose records tell of it, and of its fees
        self._news = asyncio.Event()  # one of these has changed; then another takes its place

    async def find(self, action: ReserveCoins) -> bool:
        """Promise this payment the room of a channel and feed that; False: a channel is to be opened."""
        if not action.may_reuse or (fee_msat := self._fee_msat(action)) is None:
            return False
        key = (action.jit_scid, action.payment_hash)
        try:
            found = await self._find(key, fee_msat)
        except NodeError as error:
            log.warning(f"looking for a channel that the client has: {error}; one is opened")
            return False
        if found is None:
            return False
        channel_id = found.row.channel_id
        rates = self._book.remember(channel_id, self._rates_of(found.row))
        existing = ExistingChannel(channel_id, fee_msat, *(rates or (None, None)))
        log.info(f"a payment goes over channel {channel_id}, which has {found.free.spendable_msat} msat of room")
        self._tasks.feed(*key, Input.CHANNEL_FOUND, existing)
        if not self._sessions.uses_existing(*key):  # given up while we looked
            self._leave(key, channel_id)
        return True

    def _fee_msat(self, action: ReserveCoins) -> int | None:
        return self._finder.fee_msat(self._sessions.fee_msat(action.jit_scid))

    async def _find(self, key: Key, fee_msat: int) -> Found | None:
        """Return a channel that can carry the payment, its room promised. Raises NodeError."""
        for _ in range(LOOKS):
            with self._book.listing() as listing:
                rows = await list_peer_channels(self._rpc, id=self._tasks.buy(key[0]).peer_id)
                found = self._best(rows, key, fee_msat, listing)
                if found is None:
                    return None
                if found.row.is_ready:
                    self._promise(found.row.channel_id, key, fee_msat)
                    return found
            await self._clock.turned(LOOK_S)
        return None

    def _best(self, rows: Sequence[PeerChannel], key: Key, fee_msat: int, listing: Listing) -> Found | None:
        """Return the channel with the most room of those that can carry the payment; those that are ready first."""
        values_msat = self._sessions.held_msats(key[0])
        out_msat = sum(values_msat) - fee_msat
        found = []
        for row in rows:
            free = self._finder.free(row, key, len(values_msat), listing)
            if self._finder.why_not(row, free, values_msat, out_msat) is None:
                found.append(Found(row, free))
        return max(found, key=_rank, default=None)

    def _promise(self, channel_id: str, key: Key, fee_msat: int) -> None:
        values_msat = self._sessions.held_msats(key[0])
        self._book.promise(channel_id, Promise(key, max(sum(values_msat) - fee_msat, 0), len(values_msat)))

    def _rates_of(self, row: PeerChannel) -> Rates | None:
        """Return what the channel charges; None: nothing for now, and the operator's own fees again."""
        if row.charges_nothing:
            if self._fees.is_pending(row.channel_id):
                owed = self._fees.owed(row.channel_id)
                return None if owed is None else owed.rates
            if (given := self._fees.given_back(row.channel_id)) is not None:  # a call of an earlier life came late
                return given.rates
        return row.rates

    async def prepare(self, action: PrepareChannel) -> None:
        """Take no routing fee, look at the room once more; the machine hears what the channel allows."""
        channel_id, key = action.existing.channel_id, (action.jit_scid, action.payment_hash)
        self._preparing[key] = action
        self._tells(channel_id, key)
        kind, limits = Input.READY_TIMEOUT, None
        try:
            kind, limits = await retry(
                f"taking no routing fee on channel {channel_id}",
                lambda: self._look(key, action),
                self._clock,
                errors=NodeError,
                tries=TRIES,
            )
        except NodeError as error:
            log.warning(f"channel {channel_id} is not used, one is opened: {error}")
        if self._preparing.get(key) is action:
            del self._preparing[key]
            self._tasks.feed(*key, kind, limits)

    async def _look(self, key: Key, action: PrepareChannel) -> tuple[Input, ChannelLimits | None]:
        """Return what the machine is told. What it is promised from here on is all that it may send. Raises NodeError.

        A payment that is over meanwhile is promised nothing more, nor are its channel's fees touched again.
        """
        existing = action.existing
        if self._preparing.get(key) is not action:
            return Input.READY_TIMEOUT, None
        with self._book.listing() as listing:
            row = await self._at_no_fee(self._tasks.buy(key[0]).peer_id, existing)
            if row is None or self._preparing.get(key) is not action:
                return Input.READY_TIMEOUT, None
            values_msat = self._sessions.held_msats(key[0])
            free = self._finder.free(row, key, len(values_msat), listing)
            why = self._finder.why_not(row, free, values_msat, sum(values_msat) - existing.fee_msat)
            if why is None and not row.is_ready:
                why = "it is not reestablished"
            if why is not None:
                log.info(f"a payment does not go over channel {existing.channel_id} after all, for {why}")
                return Input.READY_TIMEOUT, None
            self._promise(existing.channel_id, key, existing.fee_msat)
        return Input.READY, ChannelLimits(row.minimum_htlc_out_msat, free.spendable_msat, free.in_flight_msat, 0)

    async def _at_no_fee(self, peer_id: str, existing: ExistingChannel) -> PeerChannel | None:
        """Return the channel, which takes no routing fee from now on; None where that cannot be. Raises NodeError."""
        rates, looking = rates_of(existing), list_peer_channels(self._rpc, id=peer_id)
        charges = rates != (0, 0)
        if charges:  # both at once: neither needs the other's answer (P17)
            self._fees.supersede(existing.channel_id)
            rows, _ = await asyncio.gather(looking, self._fees.zero(peer_id, existing.channel_id))
        else:
            rows = await looking
        row = next((row for row in rows if row.channel_id == existing.channel_id), None)
        if row is not None and charges:  # it may have been set since it was chosen
            self._book.remember(existing.channel_id, row.rates)
        if row is not None and not charges and not row.charges_nothing:
            log.info(f"the routing fee of channel {existing.channel_id} was changed meanwhile, it is not used")
            return None
        return row

    def leave(self, action: LeaveChannel) -> asyncio.Task[None] | None:
        """Free the room at once. Return the task that its record waits for, if there is something to restore.

        Restoring the routing fees is left to the last payment; the record of this one tells of them until another does.
        """
        channel_id = action.existing.channel_id
        if self._leave((action.jit_scid, action.payment_hash), channel_id):
            task = self._restoring[channel_id] = self._tasks.spawn(self._restore(action), action)
            return task
        if self._told.get(channel_id) or not self._fees.is_pending(channel_id):
            return None
        return self._tasks.spawn(self._until_told(channel_id), action)

    def _leave(self, key: Key, channel_id: str) -> bool:
        self._preparing.pop(key, None)
        told = self._told.get(channel_id, set())
        told.discard(key)
        if not told:
            self._told.pop(channel_id, None)
        last = self._book.leave(channel_id, key)
        self._changed()
        if last and not self._fees.is_pending(channel_id):
            self._book.restored(channel_id)  # its fees were not touched
            return False
        return last

    def _tells(self, channel_id: str, key: Key) -> None:
        """Note that the record of this payment tells of the channel."""
        self._told.setdefault(channel_id, set()).add(key)
        self._changed()

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until_told(self, channel_id: str) -> None:
        """Wait until the record of another payment tells of this channel, or until that has left it, too."""
        while self._book.in_use(channel_id) and not self._told.get(channel_id):
            await self._news.wait()
        restoring = self._restoring.get(channel_id)
        if restoring is not None and not self._told.get(channel_id):
            await asyncio.wait([restoring])

    async def _restore(self, action: LeaveChannel) -> None:
        """Restore the routing fees, or wait until a later payment that has left the channel has done so.

        That one may have failed before a record told of it, so the record of this one does until then.
        """
        await self._restore_now(action)
        newest = self._restoring.get(action.existing.channel_id)
        if newest is not None and newest is not asyncio.current_task():
            await asyncio.wait([newest])

    async def _restore_now(self, action: LeaveChannel) -> None:
        existing = action.existing
        rates = self._book.rates(existing.channel_id, rates_of(existing))
        fees = RestoreFees(existing.channel_id, action.zero_until_ms, rates)
        await self._fees.restore(fees, again=action.zero_until_ms > 0)
        self._book.restored(existing.channel_id)

    def revive(self, jit_scid: int, journal: SessionRecord, row: PeerChannel | None) -> None:
        """After a start: promise what this payment has of its channel, and its fees to whom they are owed.

        Where `row` charges something that is the last word, be it of before the payment or of its operator since.
        """
        existing, payment_hash = journal.existing, journal.payment_hash
        if existing is None or payment_hash is None:
            return
        sent_msat = tuple(part.out_msat for part in journal.forwards)
        promise = Promise((jit_scid, payment_hash), sum(sent_msat), len(sent_msat), sent_msat)
        self._book.promise(existing.channel_id, promise)
        self._tells(existing.channel_id, promise.key)
        rates = rates_of(existing)
        if row is not None and not row.charges_nothing:
            rates = row.rates
        elif row is not None and rates != (0, 0):
            self._fees.found(row)
        self._book.remember(existing.channel_id, rates)
        self._fees.supersede(existing.channel_id)
