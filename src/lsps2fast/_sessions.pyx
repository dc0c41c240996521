# cython: language_level=3, binding=True
"""All buys and sessions of a node: routes each input to its session in O(1), and says what falls due.

The rules of one session are in `_fsm.pyx`, what is kept of all that are live in `_live.pyx`; here is which session a
part belongs to, when a buy lives and ends, and which time-out comes next. Numbers for time and height come in; nothing
is looked up.
"""

import heapq
from collections import OrderedDict
from hashlib import sha256

import cython

from lsps2fast.actions import (
    ABANDONED,
    ABOVE,
    FAILED,
    FORFEITED,
    REFUSED,
    REUSED,
    SUCCEEDED,
    TEMPORARY,
    TIMEOUT,
    UNDERPAID,
    UNKNOWN_NEXT_PEER,
    UNPAID,
    Alarm,
    FailParts,
    Finalize,
    ForgetBuy,
    Forward,
    ForwardParts,
    PartStatus,
    Reset,
    RestoreFees,
    SessionRecord,
)
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import TABLE, Input, State

if cython.compiled:
    from cython.cimports.lsps2fast._fsm import Session
    from cython.cimports.lsps2fast._live import Live
    from cython.cimports.lsps2fast._parts import IncomingHtlc, less, opening_fee_msat
    from cython.cimports.lsps2fast._payment import Client, JitChannel
else:
    from lsps2fast._fsm import Session
    from lsps2fast._live import Live
    from lsps2fast._parts import IncomingHtlc, less, opening_fee_msat
    from lsps2fast._payment import Client, JitChannel

from lsps2fast._payment import CLTV_MARGIN_BLOCKS

MAX_CLTV_AHEAD_BLOCKS = 2016  # C-04, as lightningd
NOTHING = cython.declare(tuple, ())
MOST_PARTS = 10_000  # of a payment
SCID_BITS = cython.declare(object, 64)  # objects: what is shifted has more bits than C
SCID_MASK = cython.declare(object, 0xFFFF_FFFF_FFFF_FFFF)
MOST_MSAT = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)
NEVER = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)  # a height
MISFITS = {
    TEMPORARY[:4]: "brings far more than it pays",
    "100b": "too small",
    "100c": "more in its onion than it brings",
    "100d": "too few blocks for us",
    "100e": "expires too soon",
    "0015": "expires too late",
}
MARGIN = cython.declare(cython.ulonglong, CLTV_MARGIN_BLOCKS)
SPARE = cython.declare(cython.ulonglong, 1_000_000)  # msat that a part may bring beside twice what it forwards
MILLION = cython.declare(object, 1_000_000)

HELD = cython.declare(cython.int, int(PartStatus.HELD))
LOST = cython.declare(cython.int, int(PartStatus.FAILED))
PART = cython.declare(cython.int, int(Input.PART))
BLOCK = cython.declare(cython.int, int(Input.BLOCK))
COLLECT_TIMEOUT = cython.declare(cython.int, int(Input.COLLECT_TIMEOUT))
OFFER_EXPIRED = cython.declare(cython.int, int(Input.OFFER_EXPIRED))
SCID_SETTLED = cython.declare(cython.int, int(Input.SCID_SETTLED))
SHUTDOWN = cython.declare(cython.int, int(Input.SHUTDOWN))
CLOSED = cython.declare(cython.int, int(Input.CLOSED))
MONEY_SEEN = cython.declare(cython.int, int(Input.MONEY_SEEN))
DROPPED = cython.declare(cython.int, int(Input.DROPPED))
PART_FULFILLED = cython.declare(cython.int, int(Input.PART_FULFILLED))
PART_FAILED = cython.declare(cython.int, int(Input.PART_FAILED))
S_COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
S_ABORTING = cython.declare(cython.int, int(State.ABORTING))
S_SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
S_ABANDONED = cython.declare(cython.int, int(State.ABANDONED))
S_UNDERPAID = cython.declare(cython.int, int(State.UNDERPAID))


@cython.final
@cython.cclass
class Sessions(Live):
    """Sessions(*, collect_ms=90000, offline_ms=600000, max_parts=30, max_sets=3, max_attempts=5, overpay_ppm=1000000, min_part_msat=1, min_final_expiry_blocks=7, max_hold_blocks=2016, max_held_parts=2000, max_held_parts_per_peer=200, max_held_parts_per_buy=60, max_held_msat=1000000000000, max_held_msat_per_peer=250000000000, hashes=None)
--

    All buys and sessions of a node: the way in of every input.

    Every method returns a tuple of actions, to be carried out in order.

    Of one payment: `collect_ms` its parts may take (C-05), `offline_ms` it waits for its client once it is complete
    (C-13), `max_parts` and at most `max_sets` of them on one buy (C-10), `max_attempts` to open a channel for a buy
    (C-16); `overpay_ppm` of what was bought may be paid beyond it, and never more than the offer's largest payment
    (H-06, rule:18). Of one part: `min_part_msat` at the least (rule:24), `min_final_expiry_blocks` left on the outgoing
    side (C-04, people:S18), at most `max_hold_blocks` of them (people:S11). Of all that is held (rule:24): parts and msat in all, for
    one client and for one buy; where a pot is full the smallest part gives way to a larger one. A pot is never smaller
    than one payment.

    `hashes`, a set or what has its `add` and `discard`, is kept equal to the payment hashes of live sessions. Raises
    ValueError for more parts than a session may ever have.
    """  # fmt: skip  # noqa: E501

    def __init__(
        self,
        *,
        collect_ms=90_000,
        offline_ms=600_000,
        max_parts=30,
        max_sets=3,
        max_attempts=5,
        overpay_ppm=1_000_000,
        min_part_msat=1,
        min_final_expiry_blocks=7,
        max_hold_blocks=MAX_CLTV_AHEAD_BLOCKS,
        max_held_parts=2_000,
        max_held_parts_per_peer=200,
        max_held_parts_per_buy=60,
        max_held_msat=1_000_000_000_000,
        max_held_msat_per_peer=250_000_000_000,
        hashes=None,
    ):
        if not 0 < max_parts <= MOST_PARTS:
            raise ValueError(f"max_parts must be 1 to {MOST_PARTS}: {max_parts}")
        self.index = {}  # key -> IncomingHtlc, every part of a live session
        self.now_ms = 0  # as last told
        self.held_parts = 0
        self.held_msat = 0
        self.beside_parts = 0
        self.beside_msat = 0
        self._at_height = {}  # height -> the sessions that wait for it
        self._heights = []  # a heap of those heights
        self._owners = {}  # channel id -> the buys, one as a rule, for which it was made
        self._over_existing = {}  # channel id -> the sessions that go over it, although it was not made for their buy
        self.buys = {}  # jit scid -> JitChannel
        self.height = 0
        self.collect_ms = collect_ms
        self.offline_ms = max(offline_ms, collect_ms)
        self.max_parts = max_parts
        self.max_sets = max_sets
        self.max_attempts = max_attempts
        self.overpay_ppm = overpay_ppm
        self.min_part_msat = min_part_msat
        self.min_final_expiry_blocks = max(1, min_final_expiry_blocks)
        self.max_hold_blocks = min(max_hold_blocks, MAX_CLTV_AHEAD_BLOCKS)
        self.max_held_parts_per_buy = max(max_held_parts_per_buy, max_parts)
        self.max_held_parts_per_peer = max(max_held_parts_per_peer, max_parts)
        self.max_held_parts = max(max_held_parts, max_parts)
        self.max_held_msat_per_peer = max_held_msat_per_peer
        self.max_held_msat = max_held_msat
        self.live = 0
        self.by_hash = {}  # payment hash -> number of live sessions
        self.hashes = hashes
        self.refused = dict.fromkeys(REFUSED, 0)  # how many parts were not let in, and why
        self._changes = []
        self._clients = {}  # node id -> Client: who is connected or has a buy
        self._expiry = []  # valid_until and scid of each buy in one number, the next one first
        self._collecting = OrderedDict()  # sessions; one constant, so first in is first due
        self._complete = OrderedDict()  # those of them that wait for their client: another constant
        self._closing = False

    # Buys ----------------------------------------------------------------------------------------

    @cython.ccall
    def add_buy(self, jit_scid: object, peer_id: str, terms: object, attempts: cython.int = 0) -> JitChannel:
        """Make a jit scid live. `terms`: `actions.Terms`. Raises ProtocolBug if it is live already."""
        if jit_scid in self.buys:
            raise ProtocolBug(f"jit scid {jit_scid} is live already")
        most: object = terms.max_payment_size_msat
        if terms.payment_size_msat is not None:  # rule:18: what was bought, and so much more
            size: object = terms.payment_size_msat
            most = max(size, min(most, size + size * int(self.overpay_ppm) // MILLION))
        client = self._client(peer_id)
        buy = JitChannel(jit_scid, client, terms, min(most, int(MOST_MSAT)))
        buy.attempts = attempts
        self.buys[jit_scid] = client.buys[jit_scid] = buy
        heapq.heappush(self._expiry, terms.valid_until_ms << SCID_BITS | jit_scid)
        return buy

    def forget_buy(self, jit_scid):
        """Take a buy out of the live set. Raises ProtocolBug if there is none, or if it has a session."""
        buy: JitChannel = self.buys.get(jit_scid)
        if buy is None or buy.sets:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'has a payment under way'}")
        del self.buys[jit_scid]
        del buy.client.buys[jit_scid]
        self.disown(buy)
        if not buy.client.buys and not buy.client.online:
            del self._clients[buy.client.peer_id]

    def cancel(self, jit_scid):
        """Take a buy back for the operator, as if its valid_until had come. A payment being served goes on (K-16).

        Raises ProtocolBug if the buy is not live, or paid: the alias was promised until valid_until (A-03).
        """
        buy: JitChannel = self.buys.get(jit_scid)
        if buy is None or buy.paid:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'is an alias of its channel'}")
        return self._lapse(buy, buy.valid_until_ms)

    def is_online(self, peer_id):
        """Return whether this client is connected, as far as we were told."""
        client: Client = self._clients.get(peer_id)
        return client is not None and client.online

    @cython.cfunc
    def _client(self, peer_id: str) -> Client:
        client: Client = self._clients.get(peer_id)
        if client is None:
            client = self._clients[peer_id] = Client(peer_id)
        return client

    # Parts ---------------------------------------------------------------------------------------

    @cython.ccall
    def part(self, htlc: IncomingHtlc, now_ms: cython.ulonglong, wall_ms: cython.ulonglong) -> tuple:
        """Handle an HTLC for a jit scid. Return the actions to carry out; an empty tuple means: hold it.

        `now_ms` is monotonic, `wall_ms` UTC (K-25).
        """
        known = self.index.get(htlc.key)
        if known is None and htlc.in_channel:
            known = self.index.get((htlc.in_scid, htlc.htlc_id))  # from a record that did not know its channel's id
        if known is not None:
            return self._again(known, htlc)
        if self._closing:
            return self._refuse(htlc, TEMPORARY, "")  # rule:17: it would never be answered later
        buy: JitChannel = self.buys.get(htlc.jit_scid)
        if buy is None:
            return self._refuse(htlc, UNKNOWN_NEXT_PEER, "")  # C-12: it lapsed on the way here
        if now_ms > self.now_ms:
            self.now_ms = now_ms
        lapsed = self._lapse(buy, wall_ms) if wall_ms >= buy.valid_until_ms else NOTHING
        failure = self._misfit(buy, htlc)
        if failure is not None:
            return lapsed + self._refuse(htlc, failure, MISFITS[failure[:4]])
        session: Session = buy.sets.get(htlc.payment_hash)
        if session is None:
            return lapsed + self._first(buy, htlc)
        actions = self.conclude(session, session.apply(PART, htlc))
        return lapsed + actions if lapsed else actions

    @cython.cfunc
    def _misfit(self, buy: JitChannel, htlc: IncomingHtlc) -> str:
        """Return the failure of a part that would be refused once a channel is made (C-04), or None.

        Over the alias of a paid channel nothing is made, and only what lightningd itself asks counts.
        """
        value: cython.ulonglong = htlc.amt_to_forward_msat
        outgoing: cython.ulonglong = htlc.outgoing_cltv_value
        cltv: cython.ulonglong = htlc.cltv_expiry
        least: cython.ulonglong = 1 if buy.paid else self.min_final_expiry_blocks
        most: cython.ulonglong = MAX_CLTV_AHEAD_BLOCKS if buy.paid else self.max_hold_blocks
        crumb: cython.bint = buy.fixed and value < self.min_part_msat and value < buy.size_msat and not buy.paid
        if value < buy.floor_msat or value == 0 or crumb:
            return f"100b{value:016x}0000"
        if htlc.amount_msat < value:
            return f"100c{htlc.amount_msat:016x}0000"  # trap:51
        if less(less(htlc.amount_msat, value), SPARE) > value and not buy.paid:
            return TEMPORARY  # rule:24: it would take room for what it does not pay
        if cltv <= buy.delta_blocks or cltv - buy.delta_blocks < outgoing:
            return f"100d{cltv & 0xFFFFFFFF:08x}0000"
        if less(outgoing, self.height) < least or less(cltv, self.height) <= MARGIN:
            return "100e0000"
        if less(outgoing, self.height) > most:
            return "0015"
        return None

    @cython.cfunc
    def _first(self, buy: JitChannel, htlc: IncomingHtlc) -> tuple:
        """Begin a set with this part, or refuse it."""
        other: Session
        least: Session = None
        if buy.expired or buy.used_up(self.max_attempts):
            return self._refuse(htlc, UNKNOWN_NEXT_PEER, "")  # C-12, C-16
        if buy.paid:  # A-03: an alias of the channel now
            forward = Forward(htlc.in_scid, htlc.htlc_id, htlc.amt_to_forward_msat, 0, htlc.in_channel)
            return (ForwardParts(buy.jit_scid, htlc.payment_hash, buy.channel.channel_id, (forward,)),)
        if buy.holder is not None:
            return self._refuse(htlc, TEMPORARY, "")  # C-14
        if buy.fixed and htlc.amt_to_forward_msat > buy.most_msat:
            return self._refuse(htlc, TEMPORARY, ABOVE)  # rule:18
        if buy.oversized is not None and htlc.payment_hash in buy.oversized:
            until_ms, most = buy.oversized[htlc.payment_hash]
            if self.now_ms < until_ms and htlc.amt_to_forward_msat <= most:
                return self._refuse(htlc, TEMPORARY, "of a set with too many parts")  # C-10, people:L7
        gives_way = NOTHING
        if len(buy.sets) >= (self.max_sets if buy.fixed else 1):  # C-10, C-24
            for other in buy.sets.values():
                if least is None or other.sum_msat < least.sum_msat:
                    least = other
            if not buy.fixed or least.sum_msat >= htlc.amt_to_forward_msat:
                return self._refuse(htlc, TEMPORARY, "too many sets")
        session: Session = Session(self, buy, htlc.payment_hash)
        if not buy.fixed and session.refuses(htlc.amt_to_forward_msat):
            return self._refuse(htlc, UNKNOWN_NEXT_PEER, "")  # C-21 to C-23
        room = self.make_room(session, buy, htlc)
        if room is None:
            return self._refuse(htlc, TEMPORARY, "no room")
        if least is not None and least.state == S_COLLECTING:
            gives_way = self.conclude(least, least.apply(COLLECT_TIMEOUT))
        session.due_ms = self.now_ms + self.collect_ms
        self._collecting[session] = None
        self.begun(session)
        actions = self.conclude(session, session.apply(PART, htlc))
        return room + gives_way + actions if room or gives_way else actions

    @cython.cfunc
    def _refuse(self, htlc: IncomingHtlc, failure: str, why: str) -> tuple:
        if why:
            self.refused[why] += 1
        return (FailParts((htlc.key,), failure),)

    @cython.cfunc
    def _again(self, part: IncomingHtlc, htlc: IncomingHtlc) -> tuple:
        """Answer the same HTLC once more (K-07): held stays held, forwarded gets its stored answer (H-16)."""
        if part.jit_scid != htlc.jit_scid or part.payment_hash != htlc.payment_hash:
            raise ProtocolBug(f"part {part.key} came back under another jit scid or payment hash")
        if part.status == HELD:
            return NOTHING
        if part.status == LOST:
            return (FailParts((htlc.key,), TEMPORARY),)
        session: Session = part.session
        forward = part.forward()
        if htlc.key != part.key:
            forward = Forward(htlc.in_scid, htlc.htlc_id, forward.out_msat, forward.extra_fee_msat, htlc.in_channel)
        return (ForwardParts(part.jit_scid, part.payment_hash, session.out_channel_id(), (forward,)),)

    # Inputs --------------------------------------------------------------------------------------

    @cython.ccall
    def handle(self, jit_scid: object, payment_hash: bytes, kind: cython.int, arg: object = None) -> tuple:
        """Take the result of an action.

        Raises ProtocolBug if it cannot come, to this session or to one that is over.
        """
        buy: JitChannel = self.buys.get(jit_scid)
        session: Session = None if buy is None else buy.sets.get(payment_hash)
        if session is None:
            if TABLE[State.FAILED, Input(kind)].rule == "bug":
                raise ProtocolBug(f"{Input(kind).name} for no session: {jit_scid} {payment_hash.hex()}")
            return NOTHING  # an action may outlive its session: FUNDING_BROADCAST after READY_TIMEOUT
        return self.conclude(session, session.apply(kind, arg))

    @cython.ccall
    def resolved(self, key: tuple, payment_hash: bytes, preimage: object = None) -> tuple:
        """Take the end of a forwarded part: fulfilled (`preimage`) or failed (None).

        Matched by part and payment hash (K-18, rule:12). A preimage that does not fit is an Alarm (rule:16).
        """
        part: IncomingHtlc = self.index.get(key)
        if part is None or part.payment_hash != payment_hash:
            return NOTHING
        session: Session = part.session
        if preimage is None:
            return self.conclude(session, session.apply(PART_FAILED, part))
        if preimage != session.preimage and sha256(preimage).digest() != payment_hash:
            return (Alarm(f"a preimage that does not fit {payment_hash.hex()} was reported and ignored"),)  # rule:16
        return self.conclude(session, session.apply(PART_FULFILLED, (part, preimage)))

    def resolve_from_tables(self, key, fulfilled):
        """Take from lightningd's tables, which hold no preimage, how a forwarded part ended (after a start, cln:F5).

        A part that is in no table and no channel any more has ended, too (people:S9): `fulfilled` False, unless the
        client is known to hold its money.
        """
        part: IncomingHtlc = self.index.get(key)
        if part is None:
            return NOTHING
        session: Session = part.session
        arg: object = (part, session.preimage) if fulfilled else part
        return self.conclude(session, session.apply(PART_FULFILLED if fulfilled else PART_FAILED, arg))

    def held_over(self, channel_id, in_scids=()):
        """Return the keys of held parts that came over this channel; by one of its names where its id was not known."""
        part: IncomingHtlc
        keys = []
        for part in self.index.values():
            if part.in_channel == channel_id or (not part.in_channel and part.in_scid in in_scids):
                keys += [part.key] if part.status == HELD else []
        return keys

    def drop(self, keys, why):
        """Fail those of these parts that are still held: they can go no further (rule:19). `why`: one of REFUSED.

        The payment goes on where the others are whole without them; parts that are out are not touched.
        """
        part: IncomingHtlc
        session: Session
        actions = NOTHING
        for key in keys:
            part = self.index.get(key)
            if part is None or part.status != HELD:
                continue
            self.refused[why] += 1
            session = part.session
            actions += self.conclude(session, session.apply(DROPPED, part))
            if session.state == S_COLLECTING:
                self.wait_for_parts(session)
        return actions

    def channel_closed(self, channel_id, never_sent=False):
        """Note that lightningd says positively that this channel is closed, closing or forgotten (K-13, rule:23).

        `never_sent`: its funding was not sent, and will not be. Its buy may open another (people:L9).
        """
        buy: JitChannel
        session: Session
        actions = NOTHING
        for session in self._over_existing.get(channel_id, NOTHING):
            actions += self.conclude(session, session.apply(CLOSED, False))
        for buy in self._owners.get(channel_id, NOTHING):
            for session in list(buy.sets.values()):
                if session.channel is not None and session.channel.channel_id == channel_id:
                    actions += self.conclude(session, session.apply(CLOSED, never_sent))
            if buy.channel is None or buy.channel.channel_id != channel_id or buy.jit_scid not in self.buys:
                continue
            if buy.paid:
                buy.dead = True  # A-03 has come to its end
            else:
                buy.closing = {**buy.closing, channel_id: buy.channel}
                buy.channel = None
        return actions

    def money_back(self, channel_id):
        """Count our funds as back: a block has the close of this channel, or it is forgotten (people:S17).

        It is told once, and a payment that is under way over the channel may end after it.
        """
        buy: JitChannel
        session: Session
        owners = self._owners.get(channel_id, NOTHING)
        for buy in owners:
            for session in buy.sets.values():
                if session.channel is not None and session.channel.channel_id == channel_id:
                    session.money_back = True
        actions = self.channel_closed(channel_id)
        for buy in owners:
            closed = buy.closing.pop(channel_id, None) if self.buys.get(buy.jit_scid) is buy else None
            if closed is not None:
                buy.closed = closed
                actions += self._retire(buy) if buy.expired and not buy.sets else NOTHING
        return actions

    def money_seen(self, channel_id):
        """Owe this channel's funding: lightningd shows money of the client in it, whatever the tables say (rule:25)."""
        buy: JitChannel
        session: Session
        actions = NOTHING
        for buy in self._owners.get(channel_id, NOTHING):
            session = buy.holder
            if session is not None and session.channel is not None and session.channel.channel_id == channel_id:
                actions += self.conclude(session, session.apply(MONEY_SEEN))
        return actions

    @cython.ccall
    def block(self, height: cython.ulonglong) -> tuple:
        """Take a block at `height`; heights may run backwards after a start (cln:R2), the highest counts."""
        session: Session
        actions = NOTHING
        if height <= self.height:
            return NOTHING
        self.height = height
        while self._heights and self._heights[0] <= height:
            there = self._at_height.pop(heapq.heappop(self._heights), None)
            if there is None:
                continue
            for session in there:
                session.watched = NEVER
            for session in there:
                if session.state < S_ABORTING:
                    actions += self.conclude(session, session.apply(BLOCK, height))
                if session.state < S_ABORTING:
                    self.watch(session, session.next_height())
        return actions

    def tick(self, now_ms, wall_ms):
        """Feed every time-out and expiry up to now: monotonic and UTC milliseconds (K-25)."""
        session: Session
        actions = NOTHING
        if now_ms > self.now_ms:
            self.now_ms = now_ms
        while self._expiry and self._expiry[0] >> SCID_BITS <= wall_ms:  # before time-outs: 400a wins (C-07)
            buy = self.buys.get(heapq.heappop(self._expiry) & SCID_MASK)
            if buy is not None:
                actions += self._lapse(buy, wall_ms)
        for queue in (self._collecting, self._complete):
            while queue:
                session = next(iter(queue))
                if session.due_ms > now_ms:
                    break
                actions += self.conclude(session, session.apply(COLLECT_TIMEOUT))
        return actions

    def next_due(self):
        """Return (monotonic ms, UTC ms) of the next thing that falls due; None where there is nothing."""
        dues = [next(iter(queue)).due_ms for queue in (self._collecting, self._complete) if queue]
        return min(dues, default=None), self._expiry[0] >> SCID_BITS if self._expiry else None

    def peer(self, peer_id, online, wall_ms=0):
        """Note that a client has connected or is gone. `wall_ms`, UTC: nothing is opened for a lapsed offer (C-08)."""
        buy: JitChannel
        session: Session
        client: Client = self._client(peer_id)
        client.online = online
        kind: cython.int = Input.ONLINE if online else Input.OFFLINE
        actions = NOTHING
        for buy in list(client.buys.values()):
            actions += self._lapse(buy, wall_ms)
            for session in list(buy.sets.values()):
                actions += self.conclude(session, session.apply(kind))
        if not client.buys and not client.online:
            self._clients.pop(peer_id, None)
        return actions

    def shutdown(self):
        """Answer every held part, and from now on every later one: the plugin ends (rule:17)."""
        buy: JitChannel
        session: Session
        self._closing = True
        actions = NOTHING
        for buy in list(self.buys.values()):
            for session in list(buy.sets.values()):
                actions += session.apply(SHUTDOWN)
        return actions

    def restore(self, jit_scid, record, sent, public=False):
        """Rebuild the session that `record` tells of, after a start; return it, or None where no payment was under way.

        `sent`: its funding is surely on chain; `public`: it may be, so that nothing may be undone and a `Broadcast` is
        owed. The state says what else (K-09): AWAITING_SETTLEMENT what became of each part (`resolve_from_tables`, or
        its hook call again), BROADCASTING a `Broadcast`, ABORTING an `Undo`; a `Broadcast` wherever it is `committed`
        and not `sent`. Without a session a channel that is public and unpaid waits for the next payment (O-13). Raises
        ProtocolBug if the buy is not live or has a payment under way.
        """
        buy: JitChannel = self.buys.get(jit_scid)
        if buy is None or buy.holder is not None:
            raise ProtocolBug(f"jit scid {jit_scid} {'is not live' if buy is None else 'has a payment under way'}")
        buy.attempts = max(buy.attempts, record.attempts)
        buy.fee_paid_msat = record.fee_paid_msat
        if record.existing is None and buy.fixed:  # else nothing is owed: what came before, came over another channel
            whole = opening_fee_msat(buy.size_msat, buy.terms.min_fee_msat, buy.terms.proportional)
            rest: cython.bint = record.fee_paid_msat and record.opening_fee_msat != whole
            buy.owed_msat = record.opening_fee_msat if rest or record.payment_hash is None else 0
        public = public or sent
        if record.existing is not None and not record.forwards:
            return None
        unpaid = record.channel is not None and public
        if record.preimage is None and not record.forwards and (unpaid or record.payment_hash is None):
            buy.channel = record.channel
            self.own(buy, record.channel)
            return None
        session: Session = Session(self, buy, record.payment_hash)
        buy.holder = session
        self.begun(session)
        session.revive(record, sent, public)
        return session

    # Ending --------------------------------------------------------------------------------------

    @cython.cfunc
    def _lapse(self, buy: JitChannel, wall_ms: cython.ulonglong) -> tuple:
        """End a buy whose valid_until has passed: its sets in COLLECTING fail; a channel under way goes on (K-16)."""
        session: Session
        if buy.expired or wall_ms < buy.valid_until_ms:
            return NOTHING
        actions = NOTHING
        for session in list(buy.sets.values()):
            actions += self.conclude(session, session.apply(OFFER_EXPIRED))
        buy.expired = True
        return actions if buy.sets else actions + self._retire(buy)

    @cython.cfunc
    def _retire(self, buy: JitChannel) -> tuple:
        """End a buy without a session at valid_until, with an unpaid channel when its funds are back (people:S17)."""
        if buy.paid:
            return self._forget(buy, SUCCEEDED)
        if buy.channel is not None:
            text = f"the offer of {_name(buy.jit_scid)} has lapsed; its channel {buy.channel.channel_id} stays on chain"
            return (Alarm(f"{text}, {'paid in part' if buy.fee_paid_msat else 'unpaid'}, until it is closed"),)
        if buy.closing:
            return NOTHING
        if buy.closed is None:
            return self._forget(buy, TIMEOUT)
        outcome = UNDERPAID if buy.owed_msat else UNPAID  # a part without a share of the fee may have been taken
        return (Finalize(buy.jit_scid, self._waiting(buy, buy.closed), outcome), *self._forget(buy, outcome))

    @cython.cfunc
    def _waiting(self, buy: JitChannel, channel: object) -> object:
        """Return the record of a buy without a payment under way, and with this channel, if any."""
        stage = "buy" if channel is None else "channel"
        return SessionRecord(
            stage, None, buy.attempts, buy.owed_msat, None, channel, NOTHING, None, buy.fee_paid_msat
        )  # fmt: skip

    @cython.cfunc
    def _forget(self, buy: JitChannel, outcome: str) -> tuple:
        self.forget_buy(buy.jit_scid)
        return (ForgetBuy(buy.jit_scid, outcome),)

    @cython.cfunc
    def conclude(self, session: Session, actions: tuple) -> tuple:
        """Forget a session that is over, free the lock, and add what becomes of the buy to `actions`."""
        if session.state < S_SUCCEEDED:
            return actions
        return actions + self._end(session)

    @cython.cfunc
    def _end(self, session: Session) -> tuple:
        buy: JitChannel = session.buy
        if buy.sets.get(session.payment_hash) is not session:  # K-04: it has ended before
            return NOTHING
        self.over(session)
        if buy.holder is session:
            buy.holder = None
            if session.existing is not None:
                return self._leave(buy, session)
            buy.took_whole = session.state == S_UNDERPAID and session.took_whole()
            if session.state == S_SUCCEEDED or buy.took_whole:
                return self._succeed(buy, session)
            return self._free(buy, session)
        return self._retire(buy) if buy.expired and not buy.sets else NOTHING

    @cython.cfunc
    def _leave(self, buy: JitChannel, session: Session) -> tuple:
        """Free the lock of a buy whose payment went over a channel that the client had: the buy stands, as sold."""
        paid = session.state == S_SUCCEEDED or session.state == S_UNDERPAID
        outcome = REUSED if paid else FAILED
        left = session.leave_existing()
        buy.fee_paid_msat += min(session.fee_paid(), MOST_MSAT - buy.fee_paid_msat)
        if buy.expired and buy.channel is None and not buy.closing:
            final = Finalize(buy.jit_scid, session.record("forwards"), outcome)
            return (left, final, *self._forget_or_wait(buy, outcome))
        actions = (left, Reset(buy.jit_scid, self._waiting(buy, None), outcome))
        return actions + self._retire(buy) if buy.expired and not buy.sets else actions

    @cython.cfunc
    def _succeed(self, buy: JitChannel, session: Session) -> tuple:
        """Make the jit scid of a paid buy an alias of its channel until valid_until, also for sets that wait (A-03).

        Also where the client took the whole payment and parts beside it failed that carried a share of the fee: that
        may be a stranger's deed, so the promises hold, and what is missing is written (rule:22).
        """
        other: Session
        outcome = UNDERPAID if buy.took_whole else SUCCEEDED
        record = session.record("paid")
        buy.paid = True
        buy.dead = buy.dead or session.gone
        buy.channel = session.channel
        buy.fee_paid_msat = record.fee_paid_msat
        buy.owed_msat = less(session.fee_msat, session.fee_paid())
        actions = (Finalize(buy.jit_scid, record, outcome),)
        if not buy.dead:
            actions += (RestoreFees(buy.channel.channel_id, 0 if buy.expired else buy.valid_until_ms),)
        for other in list(buy.sets.values()):
            actions += self.conclude(other, other.apply(SCID_SETTLED))
        return actions + self._forget(buy, outcome) if buy.expired else actions

    @cython.cfunc
    def _free(self, buy: JitChannel, session: Session) -> tuple:
        """Free the lock of a buy that was not paid, or not in full; its record is that of a buy without a payment."""
        outcome = ABANDONED if session.state == S_ABANDONED else FAILED
        actions = NOTHING
        if session.claimed and not session.sent:  # rule:23: the client gave up the channel that it was paid in
            buy.dead = True
            final = Finalize(buy.jit_scid, session.record("paid"), FORFEITED)
            return (final, *self._forget_or_wait(buy, FORFEITED))
        if session.state == S_UNDERPAID:  # rule:20: the rest is owed, by the next payment on this scid
            outcome = UNDERPAID
            buy.fee_paid_msat += min(session.fee_paid(), MOST_MSAT - buy.fee_paid_msat)
            buy.owed_msat = less(session.fee_msat, session.fee_paid())
        if session.sent and session.gone:
            buy.channel = None
            if session.money_back:
                buy.closed = session.channel
                if buy.expired and not buy.closing:
                    return self._retire(buy)
            else:
                buy.closing = {**buy.closing, session.channel.channel_id: session.channel}
        elif session.sent:  # O-13: public; the next payment on this scid pays for it
            buy.channel = session.channel
            actions = (RestoreFees(buy.channel.channel_id),)
        if buy.expired and buy.channel is None and not buy.closing:
            final = Finalize(buy.jit_scid, session.record("forwards"), outcome)
            return (*actions, final, *self._forget_or_wait(buy, outcome))
        if session.funding is not None or session.channel is not None or session.left_existing:  # else none was written
            actions += (Reset(buy.jit_scid, self._waiting(buy, session.channel if session.sent else None), outcome),)
        return actions + self._retire(buy) if buy.expired and not buy.sets else actions

    @cython.cfunc
    def _forget_or_wait(self, buy: JitChannel, outcome: str) -> tuple:
        """Fail the sets that still collect on a buy, and forget it."""
        session: Session
        actions = NOTHING
        for session in list(buy.sets.values()):
            actions += self.conclude(session, session.apply(OFFER_EXPIRED))
        return actions + self._forget(buy, outcome)


def _name(jit_scid):
    """Return the scid as `BLOCKxTXxOUT`."""
    return f"{jit_scid >> 40}x{jit_scid >> 16 & 0xFFFFFF}x{jit_scid & 0xFFFF}"
