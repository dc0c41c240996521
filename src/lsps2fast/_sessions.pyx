# cython: language_level=3, binding=False
"""All buys and sessions of a node: routes each input to its session in O(1) and keeps what falls due.

The rules of one session are in `_fsm.pyx`; here is which session a part belongs to, when a buy lives and ends, and
which time-out comes next. Numbers for time and height come in; nothing is looked up.
"""

import heapq
from hashlib import sha256

import cython

from lsps2fast.actions import (
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Alarm,
    FailParts,
    Finalize,
    ForgetBuy,
    Forward,
    ForwardParts,
    Journal,
    Reset,
    RestoreFees,
)
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import TABLE, Input, State

if cython.compiled:
    from cython.cimports.lsps2fast._fsm import Buy, Owner, Session
    from cython.cimports.lsps2fast._live import Live
    from cython.cimports.lsps2fast._raw import DEAD, HELD, make
else:
    from lsps2fast._fsm import Buy, Owner, Session
    from lsps2fast._live import Live
    from lsps2fast._raw_py import DEAD, HELD, make

CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
MAX_CLTV_AHEAD_BLOCKS = 2016  # C-04, as lightningd
NOTHING = cython.declare(tuple, ())
KEPT_CHANGES = 10_000
MOST_PARTS = 1000  # of a payment
SCID_BITS = cython.declare(object, 64)  # objects: what is shifted has more bits than C
SCID_MASK = cython.declare(object, 0xFFFF_FFFF_FFFF_FFFF)

MARGIN = cython.declare(cython.uint, CLTV_MARGIN_BLOCKS)
AHEAD = cython.declare(cython.uint, MAX_CLTV_AHEAD_BLOCKS)
LAST_HEIGHT = cython.declare(cython.uint, 0xFFFF_FFFE)
PART = cython.declare(cython.int, int(Input.PART))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
BLOCK = cython.declare(cython.int, int(Input.BLOCK))
DUE = cython.declare(cython.int, int(Input.DUE))
EXPIRED = cython.declare(cython.int, int(Input.EXPIRED))
PAID = cython.declare(cython.int, int(Input.PAID))
SHUTDOWN = cython.declare(cython.int, int(Input.SHUTDOWN))
SETTLED = cython.declare(cython.int, int(Input.SETTLED))
LOST = cython.declare(cython.int, int(Input.LOST))
FORWARDED = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
BROADCASTING = cython.declare(cython.int, int(State.BROADCASTING))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
ABANDONED = cython.declare(cython.int, int(State.ABANDONED))


@cython.final
@cython.cclass
class Sessions(Owner):
    """All buys and sessions of a node: routes each input to its session and keeps what falls due."""

    def __init__(self, collect_ms=90_000, max_parts=30, max_sets=3, max_attempts=5, hashes=None):
        """`collect_ms`: C-05; `max_parts`, `max_sets`: C-10; `max_attempts` to open per buy: C-16.

        `hashes`, a set or what has its `add` and `discard`, is kept equal to the payment hashes of live sessions.
        Raises ValueError for more parts than a session may ever have.
        """
        if not 0 < max_parts <= MOST_PARTS:
            raise ValueError(f"max_parts must be 1 to {MOST_PARTS}: {max_parts}")
        self.index = Live()  # (in_scid, htlc_id) -> Part, every live part
        self.buys = {}
        self.height = 0
        self.collect_ms = collect_ms
        self.max_parts = max_parts
        self.max_sets = max_sets
        self.max_attempts = max_attempts
        self.live = 0
        self.by_hash = {}  # payment hash -> number of live sessions
        self.hashes = hashes
        self._changes = []
        self._online = set()
        self._by_peer = {}  # client -> the first of its buys, which are in a chain
        self._expiry = []  # valid_until and scid of each buy in one number, the next one first
        self._first_due = None  # the sessions that collect, in a chain: one constant, so first in is first due
        self._last_due = None
        self._closing = False

    # Buys ----------------------------------------------------------------------------------------

    @cython.ccall
    def add_buy(self, jit_scid: object, peer_id: str, terms: object, attempts: cython.int = 0) -> Buy:
        """Make a jit scid live. `terms`: see `Buy`. Raises ProtocolBug if it is live already."""
        if jit_scid in self.buys:
            raise ProtocolBug(f"jit scid {jit_scid} is live already")
        buy = Buy(jit_scid, peer_id, terms)
        buy.attempts = attempts
        buy.online = peer_id in self._online
        self.buys[jit_scid] = buy
        last: Buy = self._by_peer.setdefault(peer_id, buy)
        while last.neighbour is not None:
            last = last.neighbour
        if last is not buy:
            last.neighbour = buy
        heapq.heappush(self._expiry, terms.valid_until_ms << SCID_BITS | jit_scid)
        return buy

    def forget_buy(self, jit_scid):
        """Take a buy out of the live set. Raises ProtocolBug if there is none, or if it has a session."""
        buy: Buy = self.buys.get(jit_scid)
        if buy is None or buy.live:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'has a payment under way'}")
        del self.buys[jit_scid]
        before: Buy = self._by_peer[buy.peer_id]
        if before is not buy:
            while before.neighbour is not buy:
                before = before.neighbour
            before.neighbour = buy.neighbour
        elif buy.neighbour is not None:
            self._by_peer[buy.peer_id] = buy.neighbour
        else:
            del self._by_peer[buy.peer_id]
        buy.neighbour = None

    def cancel(self, jit_scid):
        """The operator takes an offer back: as if its valid_until had come. A payment being served goes on (K-16).

        Raises ProtocolBug if the buy is not live, or paid: the alias was promised until valid_until (A-03).
        """
        buy: Buy = self.buys.get(jit_scid)
        if buy is None or buy.paid:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'is an alias of its channel'}")
        return self._lapse(buy, buy.valid_until_ms)

    def is_online(self, peer_id):
        """Whether this client is connected, as far as we were told."""
        return peer_id in self._online

    # Inputs --------------------------------------------------------------------------------------

    @cython.ccall
    def part(
        self,
        jit_scid: object,
        payment_hash: bytes,
        in_scid: cython.ulonglong,
        htlc_id: cython.ulonglong,
        amount_msat: cython.ulonglong,
        value_msat: cython.ulonglong,
        cltv_expiry: cython.ulonglong,
        outgoing_cltv: cython.ulonglong,
        now_ms: cython.ulonglong,
        wall_ms: cython.ulonglong,
    ) -> tuple:
        """A part for a jit scid: () when it is held, else the orders.

        `amount_msat` came in, `value_msat` is the onion's amt_to_forward (H-01); `now_ms` is monotonic, `wall_ms` UTC.
        """
        place: cython.longlong = self.index.find(in_scid, htlc_id)
        if place >= 0:
            return self._again(place, jit_scid, payment_hash)
        if self._closing:
            return (FailParts(((in_scid, htlc_id),), TEMPORARY),)  # rule:17: nobody would be there to answer it later
        buy: Buy = self.buys.get(jit_scid)
        if buy is None:
            return (FailParts(((in_scid, htlc_id),), UNKNOWN_NEXT_PEER),)  # C-12: it lapsed on the way here
        lapsed = self._lapse(buy, wall_ms) if wall_ms >= buy.valid_until_ms else NOTHING
        session: Session = buy.find(payment_hash)
        failure = self._misfit(buy, amount_msat, value_msat, cltv_expiry, outgoing_cltv)
        if failure is None and session is None:
            failure = self._no_new_set(buy)
        if failure is not None:
            return (*lapsed, FailParts(((in_scid, htlc_id),), failure))
        if session is None:
            if buy.paid:  # A-03: an alias of the channel now
                forward = make(Forward, (in_scid, htlc_id, value_msat, 0))
                return (ForwardParts(jit_scid, payment_hash, buy.channel.channel_id, (forward,)),)
            session = self._new_session(buy, payment_hash, now_ms)
        session.knock(in_scid, htlc_id, value_msat, cltv_expiry)
        actions = self._conclude(session, session.enter(PART, None, session.count))
        return lapsed + actions if lapsed else actions

    @cython.cfunc
    def _misfit(
        self,
        buy: Buy,
        amount: cython.ulonglong,
        value: cython.ulonglong,
        cltv: cython.ulonglong,
        outgoing: cython.ulonglong,
    ) -> str:
        """The failure of a part that lightningd would refuse only after the channel is paid for (C-04), or None."""
        if value < buy.floor_msat or value == 0:
            return f"100b{value:016x}0000"
        if amount < value:
            return f"100c{amount:016x}0000"
        if cltv <= buy.delta_blocks or cltv - buy.delta_blocks < outgoing:
            return f"100d{cltv & 0xFFFFFFFF:08x}0000"
        if outgoing <= self.height or cltv <= self.height + MARGIN:
            return "100e0000"
        if outgoing - self.height > AHEAD:
            return "0015"
        return None

    @cython.cfunc
    def _no_new_set(self, buy: Buy) -> str:
        """The failure of a part that would start a set where none may start, or None."""
        if buy.expired or buy.used_up(self.max_attempts):
            return UNKNOWN_NEXT_PEER  # C-12, C-16
        if buy.paid:
            return None
        if buy.holder is not None:
            return TEMPORARY  # C-14
        limit: cython.int = self.max_sets if buy.fixed else 1  # C-10, C-24
        return TEMPORARY if buy.live >= limit else None

    @cython.cfunc
    def _new_session(self, buy: Buy, payment_hash: bytes, now_ms: cython.ulonglong) -> Session:
        session: Session = Session.__new__(Session)
        session.start(self, buy, payment_hash)
        self._begun(session)
        self._wait(session, now_ms + self.collect_ms)
        return session

    @cython.cfunc
    def _again(self, place: cython.longlong, jit_scid: object, payment_hash: bytes) -> tuple:
        """The same HTLC once more (K-07): held stays held, forwarded gets its stored answer (H-16)."""
        session: Session = self.index.session(place)
        number: cython.int = self.index.number(place)
        status: cython.int = session.rows[number].status
        if session.buy.jit_scid != jit_scid or session.payment_hash != payment_hash:
            raise ProtocolBug(f"part {session.key(number)} came back under another jit scid or payment hash")
        if status == HELD:
            return NOTHING
        if status == DEAD:
            return (FailParts((session.key(number),), TEMPORARY),)
        return (ForwardParts(jit_scid, payment_hash, session.channel.channel_id, (session.forward(number),)),)

    @cython.ccall
    def take(self, jit_scid: object, payment_hash: bytes, kind: cython.int, arg: object = None) -> tuple:
        """The result of an order. Raises ProtocolBug if it cannot come, to this session or to one that is over."""
        buy: Buy = self.buys.get(jit_scid)
        session: Session = None if buy is None else buy.find(payment_hash)
        if session is None:
            if TABLE[State.FAILED, Input(kind)].rule == "bug":
                raise ProtocolBug(f"{Input(kind).name} for no session: {jit_scid} {payment_hash.hex()}")
            return NOTHING  # an order may outlive its session: SENT after UNREADY
        return self._conclude(session, session.enter(kind, arg, 0))

    @cython.ccall
    def resolved(
        self, in_scid: cython.ulonglong, htlc_id: cython.ulonglong, payment_hash: bytes, preimage: object = None
    ) -> tuple:
        """A forwarded part was fulfilled (`preimage`) or failed (None). Matched by part and hash (K-18, rule:12)."""
        place: cython.longlong = self.index.find(in_scid, htlc_id)
        if place < 0:
            return NOTHING
        session: Session = self.index.session(place)
        number: cython.int = self.index.number(place)
        if session.payment_hash != payment_hash:
            return NOTHING
        if preimage is None:
            return self._conclude(session, session.enter(LOST, None, number))
        if preimage != session.preimage and sha256(preimage).digest() != payment_hash:
            return (Alarm(f"a preimage that does not fit {payment_hash.hex()} was reported and ignored"),)  # rule:16
        return self._conclude(session, session.enter(SETTLED, preimage, number))

    def told(self, in_scid, htlc_id, settled):
        """lightningd's own tables, which hold no preimage, say how a forwarded part ended (after a start, cln:F5)."""
        place: cython.longlong = self.index.find(in_scid, htlc_id)
        if place < 0:
            return NOTHING
        session: Session = self.index.session(place)
        number: cython.int = self.index.number(place)
        kind: cython.int = SETTLED if settled else LOST
        return self._conclude(session, session.enter(kind, session.preimage, number))

    @cython.ccall
    def block(self, height: cython.ulonglong) -> tuple:
        """A block at `height`; heights may run backwards after a start (cln:R2), the highest counts."""
        if height <= self.height:
            return NOTHING
        self.height = height
        session: Session
        actions = NOTHING
        for session in self.index.due(min(height, LAST_HEIGHT)):
            if session.state < ABORTING:
                actions += self._conclude(session, session.enter(BLOCK, height, 0))
            if session.slot >= 0:
                self.index.rewatch(session.slot, session.next_height())
        return actions

    def tick(self, now_ms, wall_ms):
        """Time has passed: monotonic and UTC milliseconds (K-25). Feeds every collect time-out and expiry."""
        session: Session
        actions = NOTHING
        while self._expiry and self._expiry[0] >> SCID_BITS <= wall_ms:  # before time-outs: 400a wins (C-07)
            buy = self.buys.get(heapq.heappop(self._expiry) & SCID_MASK)
            if buy is not None:
                actions += self._lapse(buy, wall_ms)
        while self._first_due is not None and self._first_due.due_ms <= now_ms:
            session = self._first_due
            actions += self._conclude(session, session.enter(DUE, None, 0))
        return actions

    def next_due(self):
        """(monotonic ms, UTC ms) of the next thing that falls due; None where there is nothing."""
        return (
            None if self._first_due is None else self._first_due.due_ms,
            self._expiry[0] >> SCID_BITS if self._expiry else None,
        )

    def peer(self, peer_id, online, wall_ms=0):
        """The client has connected or is gone. `wall_ms`, UTC: what has lapsed by now is not opened any more (C-08)."""
        buy: Buy
        session: Session
        kind: cython.int = Input.ONLINE if online else Input.OFFLINE
        if online:
            self._online.add(peer_id)
        else:
            self._online.discard(peer_id)
        actions = NOTHING
        ahead: Buy = self._by_peer.get(peer_id)
        while ahead is not None:
            buy = ahead
            ahead = buy.neighbour  # before the buy is forgotten
            buy.online = online
            actions += self._lapse(buy, wall_ms)
            for session in buy.links():
                actions += self._conclude(session, session.enter(kind, None, 0))
        return actions

    def shutdown(self):
        """The plugin ends: every held part gets its answer, and so does every later one (rule:17)."""
        buy: Buy
        session: Session
        self._closing = True
        actions = NOTHING
        for buy in list(self.buys.values()):
            for session in buy.links():
                actions += session.enter(SHUTDOWN, None, 0)
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
        session: Session = Session(self, buy, journal.payment_hash)
        buy.holder = session
        session.funding = journal.funding
        session.channel = journal.channel
        session.fee_msat = journal.opening_fee_msat
        session.sent = sent
        session.preimage = journal.preimage
        # Where the client does not trust us nothing was forwarded before its funding was ordered on chain (O-10).
        before = bool(journal.forwards) and not buy.client_trusts_lsp
        session.committed = public or before or journal.preimage is not None
        session.state = FORWARDED if journal.forwards else ABORTING
        if journal.preimage is not None:
            session.state = BROADCASTING
        self._begun(session)
        for forward in journal.forwards:
            session.revive(forward)
        session.covered = session.out = session.count
        session._watch_reservation()
        return session

    # Ending --------------------------------------------------------------------------------------

    @cython.cfunc
    def _lapse(self, buy: Buy, wall_ms: cython.ulonglong) -> tuple:
        """Once valid_until has passed: sets in Collecting fail, the buy ends unless a channel is under way (K-16)."""
        if buy.expired or wall_ms < buy.valid_until_ms:
            return NOTHING
        session: Session
        buy.expired = True
        actions = NOTHING
        for session in buy.links():
            actions += self._conclude(session, session.enter(EXPIRED, None, 0))
        if not buy.live and buy.jit_scid in self.buys:
            actions += self._retire(buy)
        return actions

    @cython.cfunc
    def _retire(self, buy: Buy) -> tuple:
        """A buy without a session ends at valid_until."""
        if buy.paid:
            return self._forget(buy, "Succeeded")
        if buy.channel is None:
            return self._forget(buy, "Timeout")
        final = Journal("channel", None, buy.attempts, 0, None, buy.channel, (), None)
        return (Finalize(buy.jit_scid, final, "Failed"), *self._forget(buy, "Failed"))  # O-13: public, never paid

    @cython.cfunc
    def _forget(self, buy: Buy, outcome: str) -> tuple:
        self.forget_buy(buy.jit_scid)
        return (ForgetBuy(buy.jit_scid, outcome),)

    @cython.cfunc
    def _conclude(self, session: Session, actions: tuple) -> tuple:
        """If the session is over: forget its parts, free the lock, and say what becomes of the buy."""
        if session.state < SUCCEEDED:
            return actions
        return actions + self._end(session)

    @cython.cfunc
    def _end(self, session: Session) -> tuple:
        buy: Buy = session.buy
        if session.slot < 0:  # K-04: it has ended before
            return NOTHING
        self._over(session)
        if buy.holder is session:
            buy.holder = None
            return self._succeed(buy, session) if session.state == SUCCEEDED else self._free(buy, session)
        if buy.expired and not buy.live:
            return self._retire(buy)
        return NOTHING

    @cython.cfunc
    def _succeed(self, buy: Buy, session: Session) -> tuple:
        """Paid: the jit scid is an alias of the channel until valid_until, also for sets that wait (A-03)."""
        other: Session
        buy.paid = True
        buy.channel = session.channel
        actions = (make(Finalize, (buy.jit_scid, session.journal("paid"), "Succeeded")),)
        if not buy.dead:
            actions += (make(RestoreFees, (buy.channel.channel_id, 0 if buy.expired else buy.valid_until_ms)),)
        for other in buy.links():
            actions += self._conclude(other, other.enter(PAID, None, 0))
        return actions + self._forget(buy, "Succeeded") if buy.expired else actions

    @cython.cfunc
    def _free(self, buy: Buy, session: Session) -> tuple:
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
            journal = session.journal(stage)  # if we crash before it is sent it can still be undone (rule:9)
        return (*actions, Reset(buy.jit_scid, journal))

    # What is kept of sessions ----------------------------------------------------------------------

    @cython.cfunc
    def changed(self, session: Session, before: cython.int):
        """A session has left the state `before` (-1: it begins)."""
        if before == COLLECTING:
            self._wait_no_more(session)
        old = None if before < 0 else before
        self._changes.append((session.buy.jit_scid, session.payment_hash, old, session.state))
        if len(self._changes) > KEPT_CHANGES:
            del self._changes[: KEPT_CHANGES // 2]  # nobody wants to know

    def take_changes(self):
        """Every (jit scid, payment hash, old state or None, new state) since the last time, the first ones first."""
        changes = self._changes
        self._changes = []
        return changes

    @cython.cfunc
    def _begun(self, session: Session):
        payment_hash = session.payment_hash
        session.buy.append(session)
        session.begin(self.index)
        self.live += 1
        known = self.by_hash.get(payment_hash, 0)
        if not known and self.hashes is not None:
            self.hashes.add(payment_hash)
        self.by_hash[payment_hash] = known + 1
        self.changed(session, -1)

    @cython.cfunc
    def _over(self, session: Session):
        payment_hash = session.payment_hash
        session.buy.remove(session)
        session.end()
        self.live -= 1
        left = self.by_hash.pop(payment_hash) - 1
        if left:
            self.by_hash[payment_hash] = left
        elif self.hashes is not None:
            self.hashes.discard(payment_hash)

    @cython.cfunc
    def _wait(self, session: Session, due_ms: cython.ulonglong):
        """The collect time-out begins."""
        session.due_ms = due_ms
        session.sooner = self._last_due
        if self._last_due is None:
            self._first_due = session
        else:
            self._last_due.later = session
        self._last_due = session

    @cython.cfunc
    def _wait_no_more(self, session: Session):
        """It collects no more."""
        if session.sooner is not None:
            session.sooner.later = session.later
        elif self._first_due is session:
            self._first_due = session.later
        if session.later is not None:
            session.later.sooner = session.sooner
        elif self._last_due is session:
            self._last_due = session.sooner
        session.sooner = session.later = None
