# cython: language_level=3, binding=False
"""All buys and sessions of a node: routes each input to its session in O(1) and keeps what falls due.

The rules of one session are in `_fsm.pyx`; here is which session a part belongs to, when a buy lives and ends, and
which time-out comes next. Numbers for time and height come in; nothing is looked up.
"""

import hashlib
import heapq
from collections import deque

import cython

from lsps2fast._table import Input, State
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

PART = cython.declare(cython.int, int(Input.PART))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
FORWARDED = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
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
    _online = cython.declare(set)
    _by_peer = cython.declare(dict)
    _due = cython.declare(object)
    _expiry = cython.declare(list)
    _heights = cython.declare(list)
    _count = cython.declare(cython.ulonglong)

    def __init__(self, collect_ms=90_000, max_parts=30, max_sets=3, max_attempts=5):
        """`collect_ms`: C-05; `max_parts`, `max_sets`: C-10; `max_attempts` to open per buy: C-16."""
        self.buys = {}
        self.index = {}
        self.height = 0
        self.collect_ms = collect_ms
        self.max_parts = max_parts
        self.max_sets = max_sets
        self.max_attempts = max_attempts
        self.live = 0
        self._online = set()
        self._by_peer = {}
        self._due = deque()  # one constant: first in, first due
        self._expiry = []
        self._heights = []
        self._count = 0

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
        """Take a buy without a session out of the live set."""
        buy = self.buys.pop(jit_scid)
        scids = self._by_peer[buy.peer_id]
        scids.discard(jit_scid)
        if not scids:
            del self._by_peer[buy.peer_id]

    def is_online(self, peer_id):
        """Whether this client is connected, as far as we were told."""
        return peer_id in self._online

    # Inputs --------------------------------------------------------------------------------------

    def part(
        self, jit_scid: cython.ulonglong, payment_hash: bytes, in_scid: cython.ulonglong, htlc_id: cython.ulonglong,
        amount_msat: cython.ulonglong, value_msat: cython.ulonglong, cltv_expiry: cython.ulonglong,
        outgoing_cltv: cython.ulonglong, now_ms: object, wall_ms: object,
    ) -> tuple:
        """A part for a jit scid: () when it is held, else the orders.

        `amount_msat` came in, `value_msat` is the onion's amt_to_forward (H-01); `now_ms` is monotonic, `wall_ms` UTC.
        """
        known = self.index.get((in_scid, htlc_id))
        if known is not None:
            return self._again(known, jit_scid, payment_hash)
        buy: Buy = self.buys.get(jit_scid)
        if buy is None:
            return (FailParts(((in_scid, htlc_id),), UNKNOWN_NEXT_PEER),)  # C-12: it lapsed on the way here
        failure = self._misfit(buy, amount_msat, value_msat, cltv_expiry, outgoing_cltv)
        if failure is not None:
            return (FailParts(((in_scid, htlc_id),), failure),)
        part = Part(in_scid, htlc_id, amount_msat, value_msat, cltv_expiry)
        session: Session = buy.sets.get(payment_hash)
        if session is None:
            if buy.paid:  # A-03: an alias of the channel now
                return (ForwardParts(jit_scid, payment_hash, buy.channel.channel_id, (part.forward(),)),)
            failure = self._no_new_set(buy, wall_ms)
            if failure is not None:
                return (FailParts(((in_scid, htlc_id),), failure),)
            session = self._new_session(buy, payment_hash, now_ms)
        return self._conclude(session, session.apply(PART, part))

    @cython.cfunc
    def _misfit(
        self, buy: Buy, amount: cython.ulonglong, value: cython.ulonglong, cltv: cython.ulonglong,
        outgoing: cython.ulonglong,
    ) -> object:
        """The failure of a part that lightningd would refuse only after the channel is paid for (C-04), or None."""
        delta: cython.ulonglong = buy.terms.cltv_expiry_delta_blocks
        if value < buy.floor_msat:
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
    def _no_new_set(self, buy: Buy, wall_ms: object) -> object:
        """The failure of a part that would start a set where none may start, or None."""
        if buy.expired or wall_ms >= buy.terms.valid_until_ms:
            return UNKNOWN_NEXT_PEER  # C-12, X-06
        if buy.dead or buy.attempts >= self.max_attempts:
            return UNKNOWN_NEXT_PEER  # C-16
        if buy.holder is not None:
            return TEMPORARY  # C-14
        limit = self.max_sets if buy.terms.payment_size_msat is not None else 1  # C-10, C-24
        return TEMPORARY if len(buy.sets) >= limit else None

    @cython.cfunc
    def _new_session(self, buy: Buy, payment_hash: bytes, now_ms: object) -> Session:
        session = Session(self, buy, payment_hash)
        buy.sets[payment_hash] = session
        self.live += 1
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
        """The result of an order. Raises ProtocolBug if there is no such session."""
        buy = self.buys.get(jit_scid)
        session = None if buy is None else buy.sets.get(payment_hash)
        if session is None:
            raise ProtocolBug(f"{Input(kind).name} for no session: {jit_scid} {payment_hash.hex()}")
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

    def block(self, height):
        """A block at `height`; heights may run backwards after a start (R2), the highest counts."""
        if height <= self.height:
            return NOTHING
        self.height = height
        actions = NOTHING
        while self._heights and self._heights[0][0] <= height:
            session = heapq.heappop(self._heights)[2]
            if session.state < ABORTING:
                actions += self._conclude(session, session.apply(Input.BLOCK, height))
        return actions

    def tick(self, now_ms, wall_ms):
        """Time has passed: monotonic and UTC milliseconds (K-25). Feeds every collect time-out and expiry."""
        actions = NOTHING
        while self._expiry and self._expiry[0][0] <= wall_ms:  # before time-outs: 400a wins (C-07)
            valid_until_ms, jit_scid = heapq.heappop(self._expiry)
            buy = self.buys.get(jit_scid)
            if buy is not None and buy.terms.valid_until_ms == valid_until_ms:
                actions += self._expire(buy)
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

    def peer(self, peer_id, online):
        """The client has connected or is gone."""
        kind = Input.ONLINE if online else Input.OFFLINE
        if online:
            self._online.add(peer_id)
        else:
            self._online.discard(peer_id)
        actions = NOTHING
        for jit_scid in sorted(self._by_peer.get(peer_id, ())):
            for session in list(self.buys[jit_scid].sets.values()):
                actions += self._conclude(session, session.apply(kind))
        return actions

    def shutdown(self):
        """The plugin ends: every held part gets its answer (rule 17)."""
        actions = NOTHING
        for buy in list(self.buys.values()):
            for session in list(buy.sets.values()):
                actions += session.apply(Input.SHUTDOWN)
        return actions

    def restore(self, jit_scid, journal, sent):
        """After a start: rebuild the session that `journal` tells of; `sent`: lightningd has its funding on the way.

        A session with forwards is back in AWAITING_SETTLEMENT; one with less is in ABORTING, and `UNDONE` ends it.
        """
        buy: Buy = self.buys[jit_scid]
        session = Session(self, buy, journal.payment_hash)
        buy.sets[journal.payment_hash] = session
        buy.holder = session
        self.live += 1
        session.funding = journal.funding
        session.channel = journal.channel
        session.fee_msat = journal.opening_fee_msat
        session.sent = sent
        session.committed = sent
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
        session.state = FORWARDED if journal.forwards else ABORTING
        session._watch_reservation()
        return session

    # Ending --------------------------------------------------------------------------------------

    def _expire(self, buy):
        """valid_until has passed: sets in Collecting fail, the buy ends unless a channel is under way (K-16)."""
        buy.expired = True
        actions = NOTHING
        for session in list(buy.sets.values()):
            actions += self._conclude(session, session.apply(Input.EXPIRED))
        if not buy.sets and buy.jit_scid in self.buys:
            actions += self._forget(buy, self._outcome(buy))
        return actions

    def _outcome(self, buy):
        """How a buy without a session ends at valid_until."""
        if buy.paid:
            return "Succeeded"
        return "Timeout" if buy.channel is None else "Failed"

    def _forget(self, buy, outcome):
        self.forget_buy(buy.jit_scid)
        return (ForgetBuy(buy.jit_scid, outcome),)

    @cython.cfunc
    def _conclude(self, session: Session, actions: tuple) -> tuple:
        """If the session is over: forget its parts, free the lock, and say what becomes of the buy."""
        if session.state < SUCCEEDED:
            return actions
        return actions + self._end(session)

    def _end(self, session):
        buy = session.buy
        if buy.sets.get(session.payment_hash) is not session:  # K-04
            return NOTHING
        del buy.sets[session.payment_hash]
        self.live -= 1
        for part in session.parts:
            self.index.pop((part.in_scid, part.htlc_id), None)
        if buy.holder is not session:
            if buy.expired and not buy.sets:
                return self._forget(buy, self._outcome(buy))
            return NOTHING
        buy.holder = None
        if session.state == SUCCEEDED:
            return self._succeed(buy, session)
        if session.committed and session.channel is not None:
            buy.channel = session.channel  # O-13: public, unpaid; the next payment on this scid pays for it
        if buy.expired and not buy.sets:
            outcome = "Abandoned" if session.state == ABANDONED else "Failed"
            return (Finalize(buy.jit_scid, session.journal("paid"), outcome), *self._forget(buy, outcome))
        if session.funding is None and session.channel is None:
            return NOTHING  # nothing was journalled
        stage = "channel" if buy.channel is not None else "buy"
        kept = session.channel if buy.channel is not None else None
        journal = Journal(stage, None, buy.attempts, 0, None, kept, (), None)
        return (Reset(buy.jit_scid, journal),)

    def _succeed(self, buy, session):
        buy.paid = True
        buy.channel = session.channel
        buy.floor_msat = session.floor_msat
        actions = (
            Finalize(buy.jit_scid, session.journal("paid"), "Succeeded"),
            RestoreFees(session.channel.channel_id),
        )
        return (*actions, *self._forget(buy, "Succeeded")) if buy.expired else actions

    def watch_height(self, height, session):
        """Ask for BLOCK once `height` is reached."""
        self._count += 1
        heapq.heappush(self._heights, (height, self._count, session))
