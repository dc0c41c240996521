# cython: language_level=3, binding=False
"""All buys and sessions of a node: routes each input to its session in O(1) and keeps what falls due.

The rules of one session are in `_fsm.pyx`; here is which session a part belongs to, when a buy lives and ends, and
which time-out comes next. Numbers for time and height come in; nothing is looked up.
"""

import hashlib
import heapq
from collections import deque

import cython

from lsps2fast._table import TABLE, Input, State
from lsps2fast.actions import (
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Alarm,
    FailParts,
    Finalize,
    ForgetBuy,
    ForwardParts,
    Journal,
    Reset,
    RestoreFees,
)
from lsps2fast.errors import ProtocolBug

if cython.compiled:
    from cython.cimports.lsps2fast._fsm import Buy, Part, Session
else:
    from lsps2fast._select import load_pure

    Buy, Part, Session = (getattr(load_pure("_fsm"), name) for name in ("Buy", "Part", "Session"))

CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
MAX_CLTV_AHEAD_BLOCKS = 2016  # C-04, as lightningd
NOTHING = ()
KEPT_CHANGES = 10_000
SWEEP_AT = 1000  # entries in the queues

PART = cython.declare(cython.int, int(Input.PART))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
FORWARDED = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
BROADCASTING = cython.declare(cython.int, int(State.BROADCASTING))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
ABANDONED = cython.declare(cython.int, int(State.ABANDONED))

HELD = cython.declare(cython.int, 0)  # as in `_fsm`
OUT = cython.declare(cython.int, 1)
DEAD = cython.declare(cython.int, 3)


@cython.final
@cython.cclass
class Sessions:
    """All buys and sessions of a node: routes each input to its session and keeps what falls due."""

    buys = cython.declare(dict, visibility="readonly")
    index = cython.declare(dict, visibility="readonly")  # (in_scid, htlc_id) -> Part, every live part
    height = cython.declare(cython.ulonglong, visibility="readonly")
    collect_ms = cython.declare(cython.ulonglong, visibility="readonly")
    max_parts = cython.declare(cython.int, visibility="readonly")
    max_sets = cython.declare(cython.int, visibility="readonly")
    max_attempts = cython.declare(cython.int, visibility="readonly")
    live = cython.declare(cython.int, visibility="readonly")
    by_hash = cython.declare(dict, visibility="readonly")  # payment hash -> number of live sessions
    hashes = cython.declare(object, visibility="readonly")  # the keys of by_hash, where the reader of hooks sees them
    changes = cython.declare(object, visibility="readonly")  # (jit scid, payment hash, old state or None, new)
    _online = cython.declare(set)
    _by_peer = cython.declare(dict)
    _due = cython.declare(object)
    _expiry = cython.declare(list)
    _heights = cython.declare(list)
    _count = cython.declare(cython.ulonglong)
    _sweep_at = cython.declare(cython.Py_ssize_t)
    _closing = cython.declare(cython.bint)

    def __init__(self, collect_ms=90_000, max_parts=30, max_sets=3, max_attempts=5, hashes=None):
        """`collect_ms`: C-05; `max_parts`, `max_sets`: C-10; `max_attempts` to open per buy: C-16.

        `hashes`, a set or what has its `add` and `discard`, is kept equal to the payment hashes of live sessions.
        """
        self.buys = {}
        self.index = {}
        self.height = 0
        self.collect_ms = collect_ms
        self.max_parts = max_parts
        self.max_sets = max_sets
        self.max_attempts = max_attempts
        self.live = 0
        self.by_hash = {}
        self.hashes = set() if hashes is None else hashes
        self.changes = deque(maxlen=KEPT_CHANGES)  # for whoever wants to tell; drained or overwritten
        self._online = set()
        self._by_peer = {}
        self._due = deque()  # one constant: first in, first due
        self._expiry = []
        self._heights = []
        self._count = 0
        self._sweep_at = SWEEP_AT
        self._closing = False

    # Buys ----------------------------------------------------------------------------------------

    def add_buy(self, jit_scid, peer_id, terms, attempts=0):
        """Make a jit scid live. `terms`: see `Buy`. Raises ProtocolBug if it is live already."""
        if jit_scid in self.buys:
            raise ProtocolBug(f"jit scid {jit_scid} is live already")
        buy = Buy(jit_scid, peer_id, terms)
        buy.attempts = attempts
        self.buys[jit_scid] = buy
        self._by_peer.setdefault(peer_id, set()).add(jit_scid)
        heapq.heappush(self._expiry, (terms.valid_until_ms, jit_scid))
        return buy

    def forget_buy(self, jit_scid):
        """Take a buy out of the live set. Raises ProtocolBug if there is none, or if it has a session."""
        buy = self.buys.get(jit_scid)
        if buy is None or buy.sets:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'has a payment under way'}")
        del self.buys[jit_scid]
        scids = self._by_peer[buy.peer_id]
        scids.discard(jit_scid)
        if not scids:
            del self._by_peer[buy.peer_id]

    def cancel(self, jit_scid):
        """The operator takes an offer back: as if its valid_until had come. A payment being served goes on (K-16).

        Raises ProtocolBug if the buy is not live, or paid: the alias was promised until valid_until (A-03).
        """
        buy: Buy = self.buys.get(jit_scid)
        if buy is None or buy.paid:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'is an alias of its channel'}")
        return self._lapse(buy, buy.terms.valid_until_ms)

    def is_online(self, peer_id):
        """Whether this client is connected, as far as we were told."""
        return peer_id in self._online

    def used_up(self, buy):
        """Whether no channel may be opened for this buy any more: one has died (rule 2), or C-16."""
        return buy.dead or (buy.channel is None and buy.attempts >= self.max_attempts)

    # Inputs --------------------------------------------------------------------------------------

    def part(
        self,
        jit_scid: cython.ulonglong,
        payment_hash: bytes,
        in_scid: cython.ulonglong,
        htlc_id: cython.ulonglong,
        amount_msat: cython.ulonglong,
        value_msat: cython.ulonglong,
        cltv_expiry: cython.ulonglong,
        outgoing_cltv: cython.ulonglong,
        now_ms: object,
        wall_ms: object,
    ) -> tuple:
        """A part for a jit scid: () when it is held, else the orders.

        `amount_msat` came in, `value_msat` is the onion's amt_to_forward (H-01); `now_ms` is monotonic, `wall_ms` UTC.
        """
        known = self.index.get((in_scid, htlc_id))
        if known is not None:
            return self._again(known, jit_scid, payment_hash)
        if self._closing:
            return (FailParts(((in_scid, htlc_id),), TEMPORARY),)  # rule 17: nobody would be there to answer it later
        buy: Buy = self.buys.get(jit_scid)
        if buy is None:
            return (FailParts(((in_scid, htlc_id),), UNKNOWN_NEXT_PEER),)  # C-12: it lapsed on the way here
        lapsed = self._lapse(buy, wall_ms)
        session: Session = buy.sets.get(payment_hash)
        failure = self._misfit(buy, amount_msat, value_msat, cltv_expiry, outgoing_cltv)
        if failure is None and session is None:
            failure = self._no_new_set(buy)
        if failure is not None:
            return (*lapsed, FailParts(((in_scid, htlc_id),), failure))
        part = Part(in_scid, htlc_id, amount_msat, value_msat, cltv_expiry)
        if session is None:
            if buy.paid:  # A-03: an alias of the channel now
                return (ForwardParts(jit_scid, payment_hash, buy.channel.channel_id, (part.forward(),)),)
            session = self._new_session(buy, payment_hash, now_ms)
        return lapsed + self._conclude(session, session.apply(PART, part))

    @cython.cfunc
    def _misfit(
        self,
        buy: Buy,
        amount: cython.ulonglong,
        value: cython.ulonglong,
        cltv: cython.ulonglong,
        outgoing: cython.ulonglong,
    ) -> object:
        """The failure of a part that lightningd would refuse only after the channel is paid for (C-04), or None."""
        delta: cython.ulonglong = buy.terms.cltv_expiry_delta_blocks
        if value < buy.floor_msat or value == 0:
            return f"100b{value:016x}0000"
        if amount < value:
            return f"100c{amount:016x}0000"
        if cltv <= delta or cltv - delta < outgoing:
            return f"100d{cltv & 0xFFFFFFFF:08x}0000"
        if outgoing <= self.height or cltv <= self.height + CLTV_MARGIN_BLOCKS:
            return "100e0000"
        if outgoing - self.height > MAX_CLTV_AHEAD_BLOCKS:
            return "0015"
        return None

    @cython.cfunc
    def _no_new_set(self, buy: Buy) -> object:
        """The failure of a part that would start a set where none may start, or None."""
        if buy.expired or self.used_up(buy):
            return UNKNOWN_NEXT_PEER  # C-12, C-16
        if buy.paid:
            return None
        if buy.holder is not None:
            return TEMPORARY  # C-14
        limit = self.max_sets if buy.terms.payment_size_msat is not None else 1  # C-10, C-24
        return TEMPORARY if len(buy.sets) >= limit else None

    @cython.cfunc
    def _new_session(self, buy: Buy, payment_hash: bytes, now_ms: object) -> Session:
        session = Session(self, buy, payment_hash)
        buy.sets[payment_hash] = session
        self._begun(session)
        self._due.append((now_ms + self.collect_ms, session))
        return session

    @cython.cfunc
    def _again(self, part: Part, jit_scid: object, payment_hash: object) -> tuple:
        """The same HTLC once more (K-07): held stays held, forwarded gets its stored answer (H-16)."""
        session: Session = part.session
        if session.buy.jit_scid != jit_scid or session.payment_hash != payment_hash:
            raise ProtocolBug(f"part {part.key} came back under another jit scid or payment hash")
        if part.status == HELD:
            return NOTHING
        if part.status == DEAD:
            return (FailParts((part.key,), TEMPORARY),)
        return (ForwardParts(jit_scid, payment_hash, session.channel.channel_id, (part.forward(),)),)

    def take(self, jit_scid, payment_hash, kind, arg=None):
        """The result of an order. Raises ProtocolBug if it cannot come, to this session or to one that is over."""
        buy = self.buys.get(jit_scid)
        session = None if buy is None else buy.sets.get(payment_hash)
        if session is None:
            if TABLE[State.FAILED, Input(kind)].rule == "bug":
                raise ProtocolBug(f"{Input(kind).name} for no session: {jit_scid} {payment_hash.hex()}")
            return NOTHING  # an order may outlive its session: SENT after UNREADY
        return self._conclude(session, session.apply(kind, arg))

    def resolved(self, in_scid, htlc_id, payment_hash, preimage=None):
        """A forwarded part was fulfilled (`preimage`) or failed (None). Matched by part and hash (K-18, rule 12)."""
        part: Part = self.index.get((in_scid, htlc_id))
        if part is None:
            return NOTHING
        session: Session = part.session
        if session.payment_hash != payment_hash:
            return NOTHING
        if preimage is None:
            return self._conclude(session, session.apply(Input.LOST, part))
        if hashlib.sha256(preimage).digest() != payment_hash:
            return (Alarm(f"a preimage that does not fit {payment_hash.hex()} was reported and ignored"),)  # rule 16
        return self._conclude(session, session.apply(Input.SETTLED, (part, preimage)))

    def told(self, in_scid, htlc_id, settled):
        """lightningd's own tables, which hold no preimage, say how a forwarded part ended (after a start, F5)."""
        part: Part = self.index.get((in_scid, htlc_id))
        if part is None:
            return NOTHING
        session: Session = part.session
        if settled:
            return self._conclude(session, session.apply(Input.SETTLED, (part, session.preimage)))
        return self._conclude(session, session.apply(Input.LOST, part))

    def block(self, height):
        """A block at `height`; heights may run backwards after a start (R2), the highest counts."""
        if height <= self.height:
            return NOTHING
        self.height = height
        session: Session
        actions = NOTHING
        while self._heights and self._heights[0][0] <= height:
            session = heapq.heappop(self._heights)[2]
            if session.state < ABORTING:
                actions += self._conclude(session, session.apply(Input.BLOCK, height))
        return actions

    def tick(self, now_ms, wall_ms):
        """Time has passed: monotonic and UTC milliseconds (K-25). Feeds every collect time-out and expiry."""
        session: Session
        actions = NOTHING
        while self._expiry and self._expiry[0][0] <= wall_ms:  # before time-outs: 400a wins (C-07)
            buy = self.buys.get(heapq.heappop(self._expiry)[1])
            if buy is not None:
                actions += self._lapse(buy, wall_ms)
        while self._due and self._due[0][0] <= now_ms:
            session = self._due.popleft()[1]
            if session.state == COLLECTING:
                actions += self._conclude(session, session.apply(Input.DUE))
        return actions

    def next_due(self):
        """(monotonic ms, UTC ms) of the next thing that falls due; None where there is nothing."""
        while self._due and self._due[0][1].state != COLLECTING:
            self._due.popleft()
        return (
            self._due[0][0] if self._due else None,
            self._expiry[0][0] if self._expiry else None,
        )

    def peer(self, peer_id, online, wall_ms=0):
        """The client has connected or is gone. `wall_ms`, UTC: what has lapsed by now is not opened any more (C-08)."""
        session: Session
        kind = Input.ONLINE if online else Input.OFFLINE
        if online:
            self._online.add(peer_id)
        else:
            self._online.discard(peer_id)
        actions = NOTHING
        for jit_scid in sorted(self._by_peer.get(peer_id, ())):
            buy = self.buys[jit_scid]
            actions += self._lapse(buy, wall_ms)
            for session in list(buy.sets.values()):
                actions += self._conclude(session, session.apply(kind))
        return actions

    def shutdown(self):
        """The plugin ends: every held part gets its answer, and so does every later one (rule 17)."""
        self._closing = True
        actions = NOTHING
        for buy in list(self.buys.values()):
            for session in list(buy.sets.values()):
                actions += session.apply(Input.SHUTDOWN)
        return actions

    def restore(self, jit_scid, journal, sent, public=False):
        """After a start: rebuild the session that `journal` tells of.

        `sent`: its funding is surely on chain; `public`: it may be, so that nothing may be undone and a `Broadcast` is
        owed. The state says what else (K-09): AWAITING_SETTLEMENT what became of each part (`SETTLED`, `LOST`, or its
        hook call again), BROADCASTING a `Broadcast`, ABORTING an `Undo`. None: no payment was under way; a channel
        that is public and unpaid waits for the next one (O-13). Raises ProtocolBug if the buy is not live or has a
        payment under way.
        """
        buy: Buy = self.buys.get(jit_scid)
        if buy is None or buy.holder is not None:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'has a payment under way'}")
        buy.attempts = max(buy.attempts, journal.attempts)
        public = public or sent
        unpaid = journal.channel is not None and public
        if journal.preimage is None and not journal.forwards and (unpaid or journal.payment_hash is None):
            buy.channel = journal.channel
            return None
        session = Session(self, buy, journal.payment_hash)
        buy.sets[journal.payment_hash] = session
        buy.holder = session
        session.funding = journal.funding
        session.channel = journal.channel
        session.fee_msat = journal.opening_fee_msat
        session.sent = sent
        session.preimage = journal.preimage
        # Where the client does not trust us nothing was forwarded before its funding was ordered on chain (O-10).
        before = bool(journal.forwards) and not buy.terms.client_trusts_lsp
        session.committed = public or before or journal.preimage is not None
        for forward in journal.forwards:
            value = forward.forward_msat + forward.extra_fee_msat
            part = Part(forward.in_scid, forward.htlc_id, value, value, 0)
            part.taken_msat = forward.extra_fee_msat
            part.status = OUT
            part.session = session
            session.parts.append(part)
            session.sum_msat += value
            session.out += 1
            self.index[part.in_scid, part.htlc_id] = part
        session.covered = len(session.parts)
        session.state = FORWARDED if journal.forwards else ABORTING
        if journal.preimage is not None:
            session.state = BROADCASTING
        self._begun(session)
        session._watch_reservation()
        return session

    # Ending --------------------------------------------------------------------------------------

    @cython.cfunc
    def _lapse(self, buy: Buy, wall_ms: object) -> tuple:
        """Once valid_until has passed: sets in Collecting fail, the buy ends unless a channel is under way (K-16)."""
        if buy.expired or wall_ms < buy.terms.valid_until_ms:
            return NOTHING
        buy.expired = True
        actions = NOTHING
        for session in list(buy.sets.values()):
            actions += self._conclude(session, session.apply(Input.EXPIRED))
        if not buy.sets and buy.jit_scid in self.buys:
            actions += self._retire(buy)
        return actions

    def _retire(self, buy: Buy):
        """A buy without a session ends at valid_until."""
        if buy.paid:
            return self._forget(buy, "Succeeded")
        if buy.channel is None:
            return self._forget(buy, "Timeout")
        final = Journal("channel", None, buy.attempts, 0, None, buy.channel, (), None)
        return (Finalize(buy.jit_scid, final, "Failed"), *self._forget(buy, "Failed"))  # O-13: public, never paid

    def _forget(self, buy: Buy, outcome):
        self.forget_buy(buy.jit_scid)
        return (ForgetBuy(buy.jit_scid, outcome),)

    @cython.cfunc
    def _conclude(self, session: Session, actions: tuple) -> tuple:
        """If the session is over: forget its parts, free the lock, and say what becomes of the buy."""
        if session.state < SUCCEEDED:
            return actions
        return actions + self._end(session)

    def _end(self, session: Session):
        buy: Buy = session.buy
        part: Part
        if buy.sets.get(session.payment_hash) is not session:  # K-04
            return NOTHING
        del buy.sets[session.payment_hash]
        for part in session.parts:
            self.index.pop((part.in_scid, part.htlc_id), None)
        self._over(session)
        self._sweep()
        if buy.holder is session:
            buy.holder = None
            return self._succeed(buy, session) if session.state == SUCCEEDED else self._free(buy, session)
        if buy.expired and not buy.sets:
            return self._retire(buy)
        return NOTHING

    def _succeed(self, buy: Buy, session: Session):
        """Paid: the jit scid is an alias of the channel until valid_until, also for sets that wait (A-03)."""
        buy.paid = True
        buy.channel = session.channel
        actions = (Finalize(buy.jit_scid, session.journal("paid"), "Succeeded"),)
        if not buy.dead:
            actions += (RestoreFees(buy.channel.channel_id, 0 if buy.expired else buy.terms.valid_until_ms),)
        for other in list(buy.sets.values()):
            actions += self._conclude(other, other.apply(Input.PAID))
        return actions + self._forget(buy, "Succeeded") if buy.expired else actions

    def _free(self, buy: Buy, session: Session):
        """Not paid: the lock is free again, the record that of a plain buy."""
        actions = NOTHING
        if session.committed and session.channel is not None:
            buy.channel = session.channel  # O-13: public, unpaid; the next payment on this scid pays for it
            actions = NOTHING if buy.dead else (RestoreFees(buy.channel.channel_id),)
        if buy.expired:
            outcome = "Abandoned" if session.state == ABANDONED else "Failed"
            final = Finalize(buy.jit_scid, session.journal("forwards"), outcome)
            return (*actions, final, *self._forget(buy, outcome))
        if session.funding is None and session.channel is None:
            return NOTHING  # nothing was journalled
        stage = "buy" if buy.channel is None else "channel"
        journal = Journal(stage, None, buy.attempts, 0, None, buy.channel, (), None)
        if buy.channel is not None and not session.sent:
            journal = session.journal(stage)  # if we crash before it is sent it can still be undone (rule 9)
        return (*actions, Reset(buy.jit_scid, journal))

    def _sweep(self):
        """Drop what ended sessions left in the queues: a far height must not keep them (rule 14). Amortised O(1)."""
        if len(self._heights) + len(self._due) < self._sweep_at:
            return
        self._due = deque([entry for entry in self._due if entry[1].state == COLLECTING])
        self._heights = [entry for entry in self._heights if entry[2].state < SUCCEEDED]
        heapq.heapify(self._heights)
        self._sweep_at = SWEEP_AT + 2 * (len(self._heights) + len(self._due))

    def changed(self, session, before):
        """A session has left the state `before` (None: it begins)."""
        state = session.state
        self.changes.append((session.buy.jit_scid, session.payment_hash, before, state))

    def _begun(self, session):
        self.live += 1
        known = self.by_hash.get(session.payment_hash, 0)
        if not known:
            self.hashes.add(session.payment_hash)
        self.by_hash[session.payment_hash] = known + 1
        self.changed(session, None)

    def _over(self, session):
        self.live -= 1
        left = self.by_hash[session.payment_hash] - 1
        if left:
            self.by_hash[session.payment_hash] = left
        else:
            del self.by_hash[session.payment_hash]
            self.hashes.discard(session.payment_hash)

    def watch_height(self, height, session):
        """Ask for BLOCK once `height` is reached."""
        self._count += 1
        heapq.heappush(self._heights, (height, self._count, session))
