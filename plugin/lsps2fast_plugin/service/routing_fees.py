"""The routing fees of JIT channels: none while a payment needs that, then the operator's (rule:13, A-02, A-03).

lightningd lets forwards pass at the rate *before* the last `setchannel` for a while, and the jit scid was promised at
zero. So giving fees back twice is not giving them back once: a repetition goes through zero.

A call of an earlier life of the plugin has no caller any more and may still be carried out: a channel then takes no fee
although its fees were given back. For some blocks after a start the channels of that life are looked at; where one was
given fees and takes none, it is given them once more. A zero that the operator sets in these blocks is undone once, and
told. Notes in the datastore say the same to a life that begins within these blocks.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from lsps2fast.actions import RestoreFees
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.late_replies import Insist, Late, LateReplyGuard
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.fee_notes import FeeNotes
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.promised_room import Rates

log = logging.getLogger(__name__)

LATE_BLOCKS: Final = 6  # so long after a start a call of the life before may come
UntilDone = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class RoutingFees:
    """Sets fees, one last word for each channel: an older order is never repeated over a newer one."""

    def __init__(self, funder: Funder, notes: FeeNotes, clock: Clock, insist: Insist, until_done: UntilDone) -> None:
        """`insist` as in `LateReplyGuard`; `until_done(what, work)` tries until it works."""
        self._funder = funder
        self._notes = notes
        self._clock = clock
        self._until_done = until_done
        self._insist = insist
        self._last = LateReplyGuard(insist)
        self._newest: dict[str, int] = {}  # number of the last order, by channel
        self._orders = itertools.count(1)
        self._owed: dict[str, RestoreFees] = {}  # those that are to be given back
        self._zero: dict[str, str] = {}  # channels that lightningd set to zero for us, not set by us since; their peers
        self._before: dict[str, Rates] = {}  # what channels charged before that, to be given back
        self.of_last_life: set[str] = set()  # channels about which lightningd may still have a call of that
        self._given: dict[str, RestoreFees] = {}  # of those, the ones that have their fees again
        self._blocks = 0  # since the start

    def supersede(self, channel_id: str) -> Callable[[], bool]:
        """Make older orders about this channel void. The function says whether this one still counts."""
        mine = self._newest[channel_id] = next(self._orders)
        return lambda: self._newest.get(channel_id) == mine

    def is_pending(self, channel_id: str) -> bool:
        """Return whether this channel is to get its fees back."""
        return channel_id in self._newest

    def given_back(self, channel_id: str) -> RestoreFees | None:
        """Return which fees this channel was given back, where a call of an earlier life may have undone that."""
        return self._given.get(channel_id)

    def owed(self, channel_id: str) -> RestoreFees | None:
        """Return which fees this channel was last to get back, while it has not got them."""
        return self._owed.get(channel_id)

    def has_them(self, fees: RestoreFees) -> None:
        """Note after a start that this channel has its fees: a call of an earlier life may still undo that."""
        if fees.channel_id in self.of_last_life:
            self._given[fees.channel_id] = fees

    def found(self, row: PeerChannel) -> None:
        """Note what a channel charges that was there: nothing, by our word of before, or its operator's fees."""
        if row.charges_nothing:
            self._zero[row.channel_id] = row.peer_id
        else:
            self.charged(row)

    def take_up(self, rows: dict[str, PeerChannel], same_node: bool) -> None:
        """After a start, when all payments go on: do what the notes of earlier lives ask for.

        `rows` are all channels; `same_node`: lightningd may still have a call of an earlier life.
        """
        for fees in self._notes:
            channel_id, row = fees.channel_id, rows.get(fees.channel_id)
            if row is None or not row.is_alive:
                self._drop_note(channel_id)
            elif self.is_pending(channel_id) or channel_id in self._zero or channel_id in self._before:
                continue  # a payment goes on over it, whose end gives it its fees
            elif row.charges_nothing:
                if same_node:
                    self.of_last_life.add(channel_id)
                self._undo(fees)
            elif same_node:
                self.of_last_life.add(channel_id)
                self.has_them(replace(fees, rates=row.rates))
            else:
                self._drop_note(channel_id)

    def charged(self, row: PeerChannel) -> None:
        """Note what a channel charges that is set to zero: it gets that back, where no record says otherwise."""
        if not row.charges_nothing:
            self._before[row.channel_id] = row.rates

    def drop(self, channel_id: str) -> None:
        """Forget this channel; what was ordered for it does not count any more."""
        self._newest.pop(channel_id, None)
        self._given.pop(channel_id, None)
        self._owed.pop(channel_id, None)
        self._zero.pop(channel_id, None)
        self._before.pop(channel_id, None)
        self._drop_note(channel_id)

    def _drop_note(self, channel_id: str) -> None:
        if channel_id in self._notes:
            self._insist(f"deleting the note of the routing fees of {channel_id}", lambda: self._notes.drop(channel_id))

    async def keep(self, row: PeerChannel) -> None:
        """Note what a channel charges that is about to be set to zero, also for a later life where none would know.

        Raises NodeError or StoreError.
        """
        self.charged(row)
        own = await self._funder.own_fees()
        if not row.charges_nothing and row.rates != (own["feebase"], own["feeppm"]):
            await self._notes.write(row.channel_id, row.rates)

    async def operator_charges(self) -> bool:
        """Return whether channels are born with a routing fee. Raises NodeError."""
        return any((await self._funder.own_fees()).values())

    async def _set_meanwhile(self, channel_id: str) -> Rates | None:
        """Return what a channel takes that lightningd had set to zero for us, if anything: its operator's word."""
        if (peer_id := self._zero.get(channel_id)) is None:
            return None
        try:
            row = await self._funder.find(peer_id, channel_id)
        except NodeError:
            return None
        return None if row is None or row.charges_nothing else row.rates

    async def zero(self, peer_id: str, channel_id: str) -> None:
        """Take no routing fee on this channel. Raises NodeError."""

        async def work(late: Late) -> None:
            await self._funder.zero_fees(channel_id, late)

        self._zero.pop(channel_id, None)
        await self._last.ask(channel_id, f"setting the routing fees of {channel_id} to zero", work)
        self._zero[channel_id] = peer_id

    def restore(self, action: RestoreFees, *, again: bool = False) -> Coroutine[Any, Any, None]:
        """Give the channel the operator's fees; older orders are void from now on.

        `again`: it may have been done before, and then zero would not be the rate before.
        """
        self._owed[action.channel_id] = action
        return self._restore(action, self.supersede(action.channel_id), again)

    async def rates_of(self, action: RestoreFees) -> tuple[int, int]:
        """Return base fee in msat and ppm that the channel is to get. Raises NodeError."""
        fees = await self._fees_of(action)
        return fees["feebase"], fees["feeppm"]

    async def _fees_of(self, action: RestoreFees) -> dict[str, int]:
        """Return the fees to restore, as `setchannel` takes them. Raises NodeError."""
        channel_id = action.channel_id
        rates = action.rates or self._before.get(channel_id) or self._notes.rates(channel_id)
        if rates is None:
            return await self._funder.own_fees()
        return {"feebase": rates[0], "feeppm": rates[1]}

    async def _restore(self, action: RestoreFees, counts: Callable[[], bool], again: bool) -> None:
        what, attempts = f"restoring the routing fees of {action.channel_id}", itertools.count(1 if again else 0)

        async def restore() -> None:
            fees, zero_first = await self._fees_of(action), next(attempts) > 0
            if not any(fees.values()):
                return  # it takes none as it is
            grace_s = max(0, action.zero_until_ms - self._clock.wall_ms()) // 1000
            if not counts():
                return  # the next payment waits for this channel and wants it at zero

            async def work(late: Late) -> None:
                if zero_first and grace_s:
                    await self._funder.zero_fees(action.channel_id, late)
                await self._funder.set_fees(action.channel_id, fees, grace_s, late)

            try:
                await self._last.ask(action.channel_id, what, work)
            except NodeUnreachable:
                raise
            except NodeError:
                if await self._funder.is_open(action.channel_id):
                    raise
                # closed meanwhile: nothing is left to charge for

        rates = await self._set_meanwhile(action.channel_id)
        if rates is None:
            await self._until_done(what, restore)
        elif counts():
            log.info(f"the routing fee of channel {action.channel_id} was set meanwhile, it stays as it is")
            action = replace(action, rates=rates)
            self._last.stands(action.channel_id, partial(self._set, action.channel_id, rates))
        if counts():
            await self._until_done(f"noting the routing fees of {action.channel_id}", lambda: self._note(action))
        if counts():
            del self._newest[action.channel_id]
            self._owed.pop(action.channel_id, None)
            self._zero.pop(action.channel_id, None)
            self._before.pop(action.channel_id, None)
            self.has_them(action)

    async def _set(self, channel_id: str, rates: Rates, late: Late) -> None:
        await self._funder.set_fees(channel_id, {"feebase": rates[0], "feeppm": rates[1]}, 0, late)

    async def _note(self, action: RestoreFees) -> None:
        """Write what a channel was given, where that may be undone; else nothing needs to be known. Raises an error."""
        channel_id, rates = action.channel_id, (0, 0)
        if channel_id in self.of_last_life:
            rates = await self.rates_of(action)
        if any(rates):
            await self._notes.write(channel_id, rates, action.zero_until_ms)
        else:
            await self._notes.drop(channel_id)

    async def block(self) -> None:
        """See whether a call of an earlier life has come late. Raises NodeError."""
        if not self.of_last_life:
            return
        self._blocks += 1
        late = [row.channel_id for row in await self._funder.channels() if row.charges_nothing] if self._given else []
        for channel_id in late:
            if self.is_pending(channel_id) or (action := self._given.pop(channel_id, None)) is None:
                continue
            if any(await self.rates_of(action)) and not self.is_pending(channel_id):
                self.of_last_life.discard(channel_id)
                self._undo(action)
        if self._blocks >= LATE_BLOCKS:
            for channel_id in self._given:
                self._drop_note(channel_id)
            self.of_last_life.clear()
            self._given.clear()

    def _undo(self, action: RestoreFees) -> None:
        """Give a channel its fees once more; a payment that needs it at zero by now does so itself."""
        channel_id = action.channel_id
        log.warning(
            f"channel {channel_id} takes no routing fee, by a call of before the start that came late: it is given its"
            " fees again; if you have set it to zero, set it once more"
        )
        self._insist(f"giving channel {channel_id} its routing fees again", lambda: self._give_again(action))

    async def _give_again(self, action: RestoreFees) -> None:
        if not self.is_pending(action.channel_id):
            await self.restore(action, again=True)
