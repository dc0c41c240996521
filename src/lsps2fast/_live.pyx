# cython: language_level=3, binding=True
"""What is live: each part by its key, the shares of the pots (rule:24), heights and time-outs that sessions wait for.

`Sessions` (`_sessions.pyx`) decides what begins and ends; here is what is kept of it while it lasts.
"""

import heapq

import cython

from lsps2fast.table import Input, State

if cython.compiled:
    from cython.cimports.lsps2fast._fsm import Session
    from cython.cimports.lsps2fast._parts import IncomingHtlc, less, smallest
    from cython.cimports.lsps2fast._payment import Client, JitChannel, Payment, Registry
else:
    from lsps2fast._fsm import Session
    from lsps2fast._parts import IncomingHtlc, less, smallest
    from lsps2fast._payment import Client, JitChannel, Payment, Registry

FEW_HEIGHTS = 64
KEPT_CHANGES = 10_000
NOTHING = cython.declare(tuple, ())
NEVER = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)  # a height
POTS = cython.declare(tuple, (0, 1, 2))  # what is held for a buy, for its client, for all
GAVE_WAY = cython.declare(cython.int, int(Input.GAVE_WAY))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))


@cython.cclass
class Live(Registry):
    """The parts and sessions that are live. `Sessions` is one of these."""

    @cython.cfunc
    def conclude(self, session: Session, actions: tuple) -> tuple:
        """Forget a session that is over, free the lock, and add what becomes of the buy to `actions`."""

    # Held parts ----------------------------------------------------------------------------------

    @cython.cfunc
    def hold(self, buy: JitChannel, part: IncomingHtlc):
        """Count a part that is held from now on."""
        client: Client = buy.client
        msat: cython.ulonglong = part.amount_msat
        self.index[part.key] = part
        self.held_parts += 1
        self.held_msat += msat
        client.held_parts += 1
        client.held_msat += msat
        buy.held_parts += 1
        buy.held_msat += msat

    @cython.cfunc
    def let_go(self, buy: JitChannel, part: IncomingHtlc, status: cython.int):
        """Give a held part another status."""
        client: Client = buy.client
        msat: cython.ulonglong = part.amount_msat
        part.status = status
        self.held_parts -= 1
        self.held_msat -= msat
        client.held_parts -= 1
        client.held_msat -= msat
        buy.held_parts -= 1
        buy.held_msat -= msat

    # Channels ------------------------------------------------------------------------------------

    @cython.cfunc
    def own(self, buy: JitChannel, channel):
        """Find this buy by its channel, if there is one, from now on."""
        if channel is not None and channel.channel_id not in buy.channel_ids:
            buy.channel_ids += (channel.channel_id,)
            self._owners[channel.channel_id] = (*self._owners.get(channel.channel_id, NOTHING), buy)

    @cython.cfunc
    def disown(self, buy: JitChannel):
        """Find this buy by no channel any more."""
        for channel_id in buy.channel_ids:
            others = tuple([other for other in self._owners.pop(channel_id) if other is not buy])
            if others:
                self._owners[channel_id] = others

    @cython.cfunc
    def use(self, session: Payment):
        """Find this session by the channel of its client that it goes over, from now on."""
        channel_id = session.existing.channel_id
        self._over_existing[channel_id] = (*self._over_existing.get(channel_id, NOTHING), session)

    @cython.cfunc
    def use_no_more(self, session: Payment):
        """Find it by that channel no more."""
        channel_id = session.existing.channel_id
        others = tuple([other for other in self._over_existing.pop(channel_id) if other is not session])
        if others:
            self._over_existing[channel_id] = others

    # Shares of the pot (rule:24) -------------------------------------------------------------------

    def held_beside(self, parts, msat):
        """Take note of what is held for others than sales: it is in the pot of all."""
        self.beside_parts = parts
        self.beside_msat = msat

    @cython.cfunc
    def make_room(self, session: Payment, buy: JitChannel, newcomer: IncomingHtlc):
        """Return the actions after which `newcomer` can be held, None where larger parts fill a pot.

        A part counts in three pots, each inside the next: its buy's, its client's, the node's. In one that is full the
        smallest parts that still collect give way, if they are smaller. `session` is the newcomer's own.
        """
        part: IncomingHtlc
        other: Session
        pot: cython.int
        over_parts: cython.longlong
        over_msat: cython.ulonglong
        client: Client = buy.client
        msat: cython.ulonglong = newcomer.amount_msat
        if (
            buy.held_parts < self.max_held_parts_per_buy
            and client.held_parts < self.max_held_parts_per_peer
            and self.held_parts + self.beside_parts < self.max_held_parts
            and msat <= less(self.max_held_msat_per_peer, client.held_msat)
            and msat <= less(self.max_held_msat, self.held_msat + self.beside_msat)
        ):
            return NOTHING
        chosen = []
        for pot in POTS:
            if pot == 0:
                over_parts, over_msat = buy.held_parts + 1 - self.max_held_parts_per_buy, 0
            elif pot == 1:
                over_parts = client.held_parts + 1 - self.max_held_parts_per_peer
                over_msat = less(msat, less(self.max_held_msat_per_peer, client.held_msat))
            else:
                over_parts = self.held_parts + self.beside_parts + 1 - self.max_held_parts
                over_msat = less(msat, less(self.max_held_msat, self.held_msat + self.beside_msat))
            over_parts -= len(chosen)
            for part in chosen:
                over_msat = less(over_msat, part.amount_msat)
            if over_parts <= 0 and over_msat == 0:
                continue
            more = smallest(self._evictable(pot, buy, session), newcomer, chosen, over_parts, over_msat)
            if more is None:
                return None
            chosen += more
        actions = NOTHING
        for part in chosen:
            self.refused["gave way"] += 1
            other = part.session
            actions += self.conclude(other, other.apply(GAVE_WAY, part))
        return actions

    @cython.cfunc
    def _evictable(self, pot: cython.int, buy: JitChannel, besides: Payment) -> list:
        """Return the parts in this pot that may give way: those of sets that still collect."""
        session: Session
        sessions = [*self._collecting, *self._complete]
        if pot == 0:
            sessions = list(buy.sets.values())
        elif pot == 1:
            sessions = [session for bought in buy.client.buys.values() for session in bought.sets.values()]
        parts = []
        for session in sessions:
            if session is not besides and session.state == COLLECTING:
                parts += session.parts
        return parts

    # Heights -------------------------------------------------------------------------------------

    @cython.cfunc
    def watch(self, session: Payment, height: cython.ulonglong):
        """Tell this session BLOCK at `height`; NEVER: at none."""
        if height == session.watched:
            return
        self.watch_no_more(session)
        if height == NEVER:
            return
        there = self._at_height.get(height)
        if there is None:
            there = self._at_height[height] = {}
            heapq.heappush(self._heights, height)
        there[session] = None
        session.watched = height

    @cython.cfunc
    def watch_no_more(self, session: Payment):
        """Tell this session no block."""
        if session.watched == NEVER:
            return
        there = self._at_height[session.watched]
        del there[session]
        if not there:
            del self._at_height[session.watched]
            if len(self._heights) > 2 * len(self._at_height) + FEW_HEIGHTS:  # most are of sessions that are over
                self._heights = list(self._at_height)
                heapq.heapify(self._heights)
        session.watched = NEVER

    # Sessions --------------------------------------------------------------------------------------

    @cython.cfunc
    def changed(self, session: Payment, before: cython.int):
        """Note that a session has left the state `before` (-1: it begins)."""
        if before == COLLECTING:
            self._collecting.pop(session, None)
            self._complete.pop(session, None)
        old = None if before < 0 else before
        jit_scid, over_existing = session.buy.jit_scid, session.existing is not None
        came_msat = session.fee_paid()
        self._changes.append(
            (jit_scid, session.payment_hash, old, session.state, session.fee_msat, came_msat, over_existing)
        )
        if len(self._changes) > KEPT_CHANGES:
            del self._changes[: KEPT_CHANGES // 2]  # they are not read

    @cython.cfunc
    def wait_for_client(self, session: Payment):
        """Let a complete set whose client is away time out `offline_ms` from now (C-13)."""
        if session in self._collecting:
            del self._collecting[session]
            session.due_ms = self.now_ms + self.offline_ms
            self._complete[session] = None

    @cython.cfunc
    def wait_for_parts(self, session: Session):
        """Let a set that is complete no more collect again (C-05)."""
        if session in self._complete and session.sum_msat < session.buy.size_msat:
            del self._complete[session]
            session.due_ms = self.now_ms + self.collect_ms
            self._collecting[session] = None

    def take_changes(self):
        """Return every (jit scid, payment hash, old state or None, new state, opening fee agreed, and come so far,
        whether it goes over a channel that the client had) since the last time, in order.
        """
        changes = self._changes
        self._changes = []
        return changes

    @cython.cfunc
    def begun(self, session: Session):
        """Keep a session from now on."""
        payment_hash = session.payment_hash
        session.buy.sets[payment_hash] = session
        self.live += 1
        known = self.by_hash.get(payment_hash, 0)
        if not known and self.hashes is not None:
            self.hashes.add(payment_hash)
        self.by_hash[payment_hash] = known + 1
        self.changed(session, -1)

    @cython.cfunc
    def over(self, session: Session):
        """Forget a session and its parts."""
        part: IncomingHtlc
        payment_hash = session.payment_hash
        del session.buy.sets[payment_hash]
        if session.existing is not None:
            self.use_no_more(session)
        for part in session.parts:
            del self.index[part.key]
            part.session = None
        self.watch_no_more(session)
        self.live -= 1
        left = self.by_hash.pop(payment_hash) - 1
        if left:
            self.by_hash[payment_hash] = left
        elif self.hashes is not None:
            self.hashes.discard(payment_hash)
