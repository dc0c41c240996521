"""Feeds the session machine, and has its orders carried out.

Every fact about a sale comes in here; the machine answers with orders, which go to those who keep
books and then to the executor. Here is also which scids and channels are ours at this moment. No rule about money is
decided in this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from lsps2fast._parts import IncomingHtlc
from lsps2fast._sessions import Sessions
from lsps2fast.actions import Action, Channel, ForwardParts, PartKey, PartStatus
from lsps2fast.actions import Terms as BuyTerms
from lsps2fast.errors import ProtocolBug
from lsps2fast.lsps.buys import Buy, BuyRegistry
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import Input, State
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.host import HtlcFilter
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.events import SessionEvents
from lsps2fast_plugin.service.executor import ActionExecutor
from lsps2fast_plugin.service.forward_limits import ForwardLimits, Room
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.missed_events import MissedEventPoller
from lsps2fast_plugin.service.outgoing_room import WOULD_NOT_BE_FORWARDED, OutgoingRooms, Verdict
from lsps2fast_plugin.service.policy.budgets import No
from lsps2fast_plugin.service.sales_ledger.evidence import Blame
from lsps2fast_plugin.service.session_record import StoredSession
from lsps2fast_plugin.service.shut_channels import ShutChannels


def buy_terms(buy: Buy) -> BuyTerms:
    """Return the agreed terms as the machine needs them."""
    params = buy.params
    return BuyTerms(
        payment_size_msat=buy.payment_size_msat,
        min_fee_msat=params.min_fee_msat,
        proportional=params.proportional,
        min_payment_size_msat=params.min_payment_size_msat,
        max_payment_size_msat=params.max_payment_size_msat,
        max_client_to_self_delay_blocks=params.max_client_to_self_delay_blocks,
        cltv_expiry_delta_blocks=buy.cltv_expiry_delta_blocks,
        valid_until_ms=params.valid_until_ms,
        client_trusts_lsp=buy.client_trusts_lsp,
    )


class SessionDriver:
    """The machine of one service. `attach` it before the first fact."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        offers: BuyRegistry,
        interest: HtlcFilter,
        clock: Clock,
        forward_limits: ForwardLimits,
    ) -> None:
        self.sessions = sessions
        self.offers = offers
        self.interest = interest
        self.clock = clock
        self.set_aside: set[int] = set()  # scids of records that cannot be taken up
        self._rooms = OutgoingRooms(sessions, forward_limits)
        self._rearm = asyncio.Event()
        self._due: tuple[int | None, int | None] | None = None  # what `run` waits for

    def attach(
        self,
        *,
        books: SessionEvents,
        executor: ActionExecutor,
        capital: CapitalAtRisk,
        leases: ChannelLeaseGuard,
        shut: ShutChannels,
        lookout: MissedEventPoller,
    ) -> None:
        """Say who hears of orders, who carries them out, and who knows what is unpaid and what was paid."""
        self.books = books
        self.effects = executor
        self.exposure = capital
        self.leases = leases
        self.shut = shut
        self.lookout = lookout

    def height(self) -> int:
        """Return the highest block known."""
        return int(self.sessions.height)

    def alarm(self, text: str) -> None:
        """Tell the operator."""
        self.effects.alarm(text)

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done that must be done in the end."""
        self.effects.insist(what, work)

    # Facts and orders ----------------------------------------------------------------------------

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        """Have these orders carried out, once those who keep books have heard of them."""
        self.books.take(actions)
        self.effects.carry_out(actions)
        if self.sessions.next_due() != self._due:
            self._rearm.set()

    def because(self, jit_scid: int, payment_hash: bytes, blame: Blame) -> None:
        """Take note why the payment that is about to fail does."""
        self.books.because(jit_scid, payment_hash, blame)

    def feed(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        """Give one session a fact."""
        self.books.failing(jit_scid, payment_hash, kind, fact)
        try:
            self.carry_out(self.sessions.handle(jit_scid, payment_hash, kind, fact))
        except ProtocolBug as error:
            self.effects.alarm(f"session {format_scid(jit_scid)}: {error}")

    def told(self, part: PartKey, settled: bool) -> None:
        """Take note how a part ended, as lightningd's tables have it."""
        self.carry_out(self.sessions.resolve_from_tables(part, settled))

    def closed(self, channel_id: str, state: str = "CLOSED", cause: str = "") -> None:
        """Tell all who are concerned that this channel is closing or gone."""
        self.exposure.channel_state(channel_id, state, cause)
        if state == "CLOSED":
            self.shut.gone(channel_id)
        self.leases.closed(channel_id)
        self.channel_closed(channel_id)

    def taken_back(self, channel: Channel) -> None:
        """Take note that the funding of a channel was sent and taken back: what miners got for both is spent."""
        self.exposure.taken_back(channel)

    def never_funded(self, channel_id: str) -> None:
        """End a channel that is gone with nothing of ours in it."""
        self.closed(channel_id)
        self.money_back(channel_id)

    def funding_sent(self, peer_id: str, channel: Channel) -> None:
        """Take note that bitcoind has this funding."""
        self.lookout.funding(peer_id, channel)
        self.exposure.mined(channel.channel_id)
        self.books.funding_sent(channel)

    def money_seen(self, channel_id: str) -> None:
        """Take note that the client holds money in this channel, whatever the tables say."""
        self.carry_out(self.sessions.money_seen(channel_id))

    def money_back(self, channel_id: str) -> None:
        """Take note that nothing of ours is in this channel any more."""
        self.books.money_back(channel_id)
        self.carry_out(self.sessions.money_back(channel_id))

    def channel_closed(self, channel_id: str) -> None:
        """Tell the sessions and buys that it belongs to."""
        self.carry_out(self.sessions.channel_closed(channel_id))

    async def run(self) -> None:
        """Feed every time-out at its moment; sleeps until the next one."""
        while True:
            self._rearm.clear()
            self.carry_out(self.sessions.tick(self.clock.now_ms(), self.clock.wall_ms()))
            self._rearm.clear()
            due_ms, expiry_ms = self._due = self.sessions.next_due()
            waits = [] if due_ms is None else [due_ms - self.clock.now_ms()]
            waits += [] if expiry_ms is None else [expiry_ms - self.clock.wall_ms()]
            timeout_s = max(min(waits), 0) / 1000 if waits else None
            waiters = {asyncio.ensure_future(self.clock.turned(timeout_s)), asyncio.ensure_future(self._rearm.wait())}
            _, rest = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            for waiter in rest:
                waiter.cancel()

    def clients_waited_for(self, held: Iterable[PartKey]) -> set[str]:
        """Return the clients for whom these parts are held, and those for whom parts wait that are let out."""
        found = self.effects.clients_waited_for()
        for key in held:
            part = self.sessions.index.get(key)
            core = None if part is None else self.sessions.buys.get(part.jit_scid)
            if core is not None:
                found.add(core.peer_id)
        return found

    # What is ours --------------------------------------------------------------------------------

    def go_live(self, buy: Buy) -> Any:
        """Take parts of this buy from now on. Return the machine's buy."""
        if self.offers.get(buy.jit_scid) is None:
            self.offers.restore(buy)
        core = self.sessions.add_buy(buy.jit_scid, buy.peer_id, buy_terms(buy))
        self.interest.scids.add(buy.jit_scid)
        self.interest.know(buy.peer_id, True)
        self._rearm.set()
        return core

    def forget(self, jit_scid: int) -> None:
        """Take no more parts of a buy that has ended."""
        self.interest.scids.discard(jit_scid)
        buy = self.offers.remove(jit_scid)
        if buy is not None and not self.offers.of_peer(buy.peer_id):
            self.interest.know(buy.peer_id, False)
        self._rooms.forget(jit_scid)

    def is_live(self, jit_scid: int) -> bool:
        """Return whether the channel of this offer can still be paid for."""
        buy = self.offers.get(jit_scid)
        return buy is not None and buy.params.valid_until_ms > self.clock.wall_ms()

    def unused(self) -> list[Buy]:
        """Return the offers that have no channel yet."""
        cores = ((buy, self.sessions.buys.get(buy.jit_scid)) for buy in self.offers)
        return [buy for buy, core in cores if core is not None and core.channel is None and core.holder is None]

    def buy_of(self, jit_scid: int) -> Buy | None:
        """Return the buy of a live jit scid."""
        return self.offers.get(jit_scid)

    def owns(self, channel_id: str) -> bool:
        """Return whether a payment under way or a buy has this channel."""
        buys = self.sessions.buys.values()
        held = (s.channel for buy in buys for s in buy.sets.values())
        known = (*(buy.channel for buy in buys), *held)
        return any(c is not None and c.channel_id == channel_id for c in known) or any(
            channel_id in buy.closing for buy in buys
        )

    def sold(self) -> dict[str, str]:
        """Return every channel of a payment under way or a live buy, and those that were paid, with its jit scid."""
        found = self.leases.sold()
        for buy in self.sessions.buys.values():
            for channel in (buy.channel, *(session.channel for session in buy.sets.values())):
                if channel is not None:
                    found[channel.channel_id] = format_scid(buy.jit_scid)
        return found

    def opening(self) -> dict[str, str]:
        """Return every client for whose payment a channel is wanted, and not there yet, with the jit scid."""
        buys = self.sessions.buys.values()
        return {
            buy.peer_id: format_scid(buy.jit_scid)
            for buy in buys
            if buy.holder is not None and buy.holder.channel is None
        }

    def channel_of(self, jit_scid: int) -> Channel | None:
        """Return the channel of the payment under way on this scid."""
        core = self.sessions.buys.get(jit_scid)
        return None if core is None or core.holder is None else core.holder.channel

    def is_full(self, jit_scid: int, of_buy: int, of_peer: int) -> bool:
        """Return whether no more parts than these may wait over the alias of a paid channel (rule:24)."""
        core = self.sessions.buys.get(jit_scid)
        if core is None or not core.paid or core.sets:  # a payment under way must hear what becomes of its parts
            return False
        limits = self.sessions
        return bool(of_buy >= limits.max_held_parts_per_buy or of_peer >= limits.max_held_parts_per_peer)

    def is_of_payment(self, action: ForwardParts) -> bool:
        """Return whether these are parts of a payment, not one over the alias of a channel that is paid for."""
        return len(action.parts) != 1 or action.parts[0].key in self.sessions.index

    def fee_msat(self, jit_scid: int) -> int:
        """Return the opening fee that the payment under way brings."""
        core = self.sessions.buys.get(jit_scid)
        return 0 if core is None or core.holder is None else int(core.holder.fee_msat)

    def is_opening(self, jit_scid: int, payment_hash: bytes) -> bool:
        """Return whether this payment still waits for its channel to be opened."""
        core = self.sessions.buys.get(jit_scid)
        session = None if core is None else core.sets.get(payment_hash)
        return session is not None and session.state == State.OPENING

    def blocks_left(self, jit_scid: int) -> int:
        """Return in how many blocks the first part expires that is held for the payment under way on this scid."""
        core = self.sessions.buys.get(jit_scid)
        parts = [] if core is None or core.holder is None else core.holder.parts
        expiries = [part.cltv_expiry for part in parts if part.status == PartStatus.HELD]
        return min(expiries, default=0) - self.height()

    def held_msats(self, jit_scid: int) -> list[int]:
        """Return the values of the parts that are held for the payment under way on this scid."""
        core = self.sessions.buys.get(jit_scid)
        parts = [] if core is None or core.holder is None else core.holder.parts
        return [part.amt_to_forward_msat for part in parts if part.status == PartStatus.HELD]

    def uses_existing(self, jit_scid: int, payment_hash: bytes) -> bool:
        """Return whether a payment goes over a channel that its client has."""
        core = self.sessions.buys.get(jit_scid)
        session = None if core is None else core.sets.get(payment_hash)
        return session is not None and session.existing is not None

    def unpaid_changed(self, channel_id: str, peer_id: str) -> None:
        """Shut this channel, or open it to other payments (rule:21)."""
        self.shut.look(channel_id, peer_id)

    def not_opened(self, jit_scid: int, no: No) -> None:
        """Take note why no channel is opened for the payment under way."""
        self.books.not_opened(jit_scid, no)

    def unpaid(self) -> dict[str, str]:
        """Channels of buys without a payment under way whose money is not back, with their peers (people:S17)."""
        found: dict[str, str] = {}
        for core in self.sessions.buys.values():
            found.update(dict.fromkeys(core.closing, core.peer_id))
            if core.channel is not None and not core.paid and core.holder is None:
                found[core.channel.channel_id] = core.peer_id
        return found

    def waiting(self) -> dict[tuple[int, bytes], StoredSession]:
        """Return the sessions with parts at their client, as records."""
        found = {}
        for jit_scid, core in self.sessions.buys.items():
            session, buy = core.holder, self.offers.get(jit_scid)
            if session is not None and session.in_flight and buy is not None:
                found[jit_scid, session.payment_hash] = StoredSession(buy, session.record("forwards"), None)
        return found

    def room(self, jit_scid: int) -> Room | None:
        """Return what is known of the channel that the payment under way goes out into."""
        return self._rooms.get(jit_scid)

    def unforwardable(self, jit_scid: int, room: Room) -> str | None:
        """Say why lightningd would not forward the payment under way on this scid into such a channel, or None.

        Crumbs that are in its way are failed. What joins that payment later is asked about the same channel.
        """
        self._rooms.learn(jit_scid, room)
        verdict = self._rooms.judge(jit_scid)
        self.drop(verdict.drop, WOULD_NOT_BE_FORWARDED)
        return verdict.why

    def judge_joiner(self, part: IncomingHtlc) -> Verdict:
        """Say whether this part could go out beside those of its payment whose channel is being made.

        Those to drop for it are dropped once it is held.
        """
        return self._rooms.judge_joiner(part)

    def drop(self, parts: Iterable[PartKey], why: str) -> None:
        """Fail these held parts alone. `why`: a key of `Sessions.refused`."""
        self.carry_out(self.sessions.drop(parts, why))
