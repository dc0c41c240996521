# cython: language_level=3, binding=False
"""The session machine: what each input does to a session.

Facts go in as plain numbers and the NamedTuples of `actions`; orders come out as a tuple of actions. There is no
clock, no node and no chance in here. `_table.GRID` is the theory; each rule named there is one small method of
`Session`. Its parts, and the sums over them, are in `_parts.pyx`. C types of the attributes stand in `_fsm.pxd`. The
same source runs compiled and interpreted; u64 arithmetic is therefore checked before it happens.
"""

import cython

from lsps2fast.actions import (
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Alarm,
    AwaitReady,
    Broadcast,
    Channel,
    ConnectPeer,
    FailParts,
    ForwardParts,
    Funding,
    Journal,
    OpenChannel,
    Persist,
    RenewInputs,
    ReserveCoins,
    Terms,
    Undo,
)
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import CODES, MASKS, RULES, Input, State

if cython.compiled:
    from cython.cimports.lsps2fast._parts import Chain, Parts, lay, opening_fee
    from cython.cimports.lsps2fast._raw import DEAD, HELD, OUT, PAID, make
else:
    from lsps2fast._parts import Chain, Parts, lay, opening_fee
    from lsps2fast._raw_py import DEAD, HELD, OUT, PAID, make

    Session = None  # annotations name it before it is there

CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
MAX_SESSION_PARTS = 483  # C-10: over its whole life, late ones included
RENEW_MARGIN_BLOCKS = 12  # O-04: renew long before the 72 blocks of fundpsbt are over
RENEW_BLOCKS = 72
NOTHING = cython.declare(tuple, ())
U64_MAX = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)
NEVER = cython.declare(cython.uint, 0xFFFF_FFFF)  # a height

WIDTH = cython.declare(cython.int, len(Input))
STATES = cython.declare(cython.int, len(State))
PART = cython.declare(cython.int, int(Input.PART))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
OPENING = cython.declare(cython.int, int(State.OPENING))
WAITING = cython.declare(cython.int, int(State.AWAITING_CHANNEL_READY))
FORWARDED = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
BROADCASTING = cython.declare(cython.int, int(State.BROADCASTING))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
FAILED = cython.declare(cython.int, int(State.FAILED))
ABANDONED = cython.declare(cython.int, int(State.ABANDONED))

# What effect is under way for a session, as far as a clean-up must wait for it. Bits: a rule says which it expects.
IDLE = cython.declare(cython.int, 1)
RESERVING = cython.declare(cython.int, 2)
STORING_INTENT = cython.declare(cython.int, 4)
AT_OPEN = cython.declare(cython.int, 8)
STORING_CHANNEL = cython.declare(cython.int, 16)
STORING_FORWARDS = cython.declare(cython.int, 32)
STEPS = ("nothing", "reserving", "writing the intent", "opening", "writing the channel", "writing the forwards")

# The table packed for C: a byte a cell (the rule), a byte a cell and state (whether it may lead there).
_CODES = cython.declare(bytes, CODES)
_ALLOWED = cython.declare(bytes, bytes(mask >> state & 1 for mask in MASKS for state in range(len(State))))
_BUG = cython.declare(cython.int, RULES.index("bug"))
_SKIP = cython.declare(cython.int, RULES.index("skip"))
# Rules about one part are called with its number, the others by HANDLERS.
_GATHER = cython.declare(cython.int, RULES.index("gather"))
_JOIN = cython.declare(cython.int, RULES.index("join"))
_LATE = cython.declare(cython.int, RULES.index("late"))
_REJECT = cython.declare(cython.int, RULES.index("reject"))
_SETTLE = cython.declare(cython.int, RULES.index("settle"))
_LOSE = cython.declare(cython.int, RULES.index("lose"))
_RESCUE = cython.declare(cython.int, RULES.index("rescue"))


@cython.cclass
class Owner:
    """What a session knows of the `Sessions` it belongs to."""

    @cython.cfunc
    def changed(self, session: Session, before: cython.int):
        """It has left the state `before`."""


@cython.final
@cython.cclass
class Buy(Chain):
    """An accepted offer: one jit scid, the sets collecting on it, and the channel it has bought, if any."""

    def __init__(self, jit_scid, peer_id, terms):
        """`terms`: `actions.Terms`."""
        self.jit_scid = jit_scid
        self.peer_id = peer_id
        self.fixed = terms.payment_size_msat is not None
        self.size_msat = terms.payment_size_msat if self.fixed else 0
        self.min_fee_msat = terms.min_fee_msat
        self.proportional = terms.proportional
        self.min_size_msat = terms.min_payment_size_msat
        self.max_size_msat = terms.max_payment_size_msat
        self.max_delay_blocks = terms.max_client_to_self_delay_blocks
        self.delta_blocks = terms.cltv_expiry_delta_blocks
        self.valid_until_ms = terms.valid_until_ms
        self.client_trusts_lsp = terms.client_trusts_lsp
        self.first, self.live = None, 0  # of its live sessions
        self.neighbour = None  # the next buy of this client
        self.holder = None
        self.online = False  # whether the client is connected, as far as we were told
        self.channel = None
        self.floor_msat = 1
        self.paid = self.dead = self.expired = False
        self.attempts = 0

    @property
    def terms(self):
        """What was agreed, as `actions.Terms`."""
        payment_size_msat = self.size_msat if self.fixed else None
        sizes = (self.min_size_msat, self.max_size_msat)
        blocks = (self.max_delay_blocks, self.delta_blocks)
        fees = (self.min_fee_msat, self.proportional)
        return Terms(payment_size_msat, *fees, *sizes, *blocks, self.valid_until_ms, self.client_trusts_lsp)

    @property
    def sets(self):
        """Payment hash -> session, a copy."""
        return {session.payment_hash: session for session in self.links()}

    @cython.cfunc
    def used_up(self, max_attempts: cython.int) -> cython.bint:
        """Whether no channel may be opened for this buy any more: one has died (rule:2), or C-16."""
        return self.dead or (self.channel is None and self.attempts >= max_attempts)

    @cython.cfunc
    def find(self, payment_hash: bytes) -> Session:
        """The session of this payment, or None. They are few: a loop is shorter than a look-up."""
        session: Session = self.first
        while session is not None and session.payment_hash != payment_hash:
            session = session.next
        return session


@cython.final
@cython.cclass
class Session(Parts):
    """One payment attempt: the parts with one payment hash on one jit scid."""

    def __init__(self, owner: Owner, buy: Buy, payment_hash: bytes):
        self.start(owner, buy, payment_hash)

    @cython.cfunc
    def start(self, owner: Owner, buy: Buy, payment_hash: bytes):
        """What `__init__` does; from C there is no call of Python in it."""
        self.clear()
        self.floor_msat = max(1, buy.floor_msat)  # H-03
        self.owner = owner
        self.buy = buy
        self.payment_hash = payment_hash
        self.next = None  # of its buy
        self.sooner = None  # in the queue of those that collect
        self.later = None
        self.due_ms = 0
        self.state = COLLECTING
        self.fee_msat = 0
        self.under_way = IDLE
        self.covered = 0  # the first ones stand in the last record that was written or is being written
        self.forwards = None  # of the last record, while nothing has changed since
        self.funding = None  # actions.Funding once coins are reserved
        self.channel = None  # actions.Channel once signed by both sides
        self.limits = None  # actions.Limits once usable
        self.preimage = None
        self.committed = False  # its funding was ordered on chain: no way back
        self.sent = False  # lightningd has it in the mempool or a block
        self.out = 0  # forwarded parts not resolved yet
        self.settled = 0

    # The engine ----------------------------------------------------------------------------------

    @cython.ccall
    def apply(self, kind: cython.int, arg: object = None, number: cython.int = 0) -> tuple:
        """Take one input; return the orders, in sequence. Raises ProtocolBug where the grid says `bug`.

        `number`: of the part that SETTLED (`arg`: its preimage) or LOST is about.
        """
        return self.enter(kind, arg, number)

    def offer(self, in_scid, htlc_id, value_msat, cltv_expiry):
        """PART, for who has a session in hand; `Sessions.part` is the way in."""
        self.knock(in_scid, htlc_id, value_msat, cltv_expiry)
        return self.enter(PART, None, self.count)

    @cython.cfunc
    def enter(self, kind: cython.int, arg: object, number: cython.int) -> tuple:
        """`apply`, in C."""
        if kind < 0 or kind >= WIDTH:
            raise ProtocolBug(f"no such input: {kind}")
        before: cython.int = self.state
        cell: cython.int = before * WIDTH + kind
        code: cython.int = _CODES[cell]
        if code == _SKIP:
            return NOTHING
        if code == _BUG:
            raise ProtocolBug(f"{Input(kind).name} cannot come in {State(before).name}")
        if code == _GATHER:
            actions = self._gather()
        elif code == _JOIN:
            actions = self._join()
        elif code == _LATE:
            actions = self._late()
        elif code == _REJECT:
            actions = self._reject()
        elif code == _SETTLE:
            actions = self._settle(number, arg)
        elif code == _LOSE:
            actions = self._lose(number)
        elif code == _RESCUE:
            actions = self._rescue(number, arg)
        else:
            actions = HANDLERS[code](self, arg)
        if not _ALLOWED[cell * STATES + self.state]:
            raise ProtocolBug(f"{RULES[code]} may not lead from {State(before).name} to {State(self.state).name}")
        if self.state != before:
            self.owner.changed(self, before)
        return actions

    # Collecting ----------------------------------------------------------------------------------

    @cython.cfunc
    def _hold(self):
        self.forwards = None
        self.hold()

    @cython.cfunc
    def _gather(self) -> tuple:
        buy: Buy = self.buy
        value_msat: cython.ulonglong = self.rows[self.count].value_msat
        if not buy.fixed and self.count:
            return self._reject()  # C-24: the first one alone decides, also while the client is away
        self._hold()
        if value_msat > U64_MAX - self.sum_msat:
            return self._fail(TEMPORARY)  # H-07: a sum beyond u64 fails the set
        self.sum_msat += value_msat
        if self.count > self.owner.max_parts:
            return self._fail(TEMPORARY)  # C-10: the payer can come back with fewer parts
        if buy.fixed and self.sum_msat < buy.size_msat:
            return NOTHING
        return self._complete()

    @cython.cfunc
    def _complete(self) -> tuple:
        """The parts add up: begin, wait for the client, or fail (C-08)."""
        refusal = self._refusal()
        if refusal is not None:
            return self._fail(refusal)
        if not self.buy.online:
            return (ConnectPeer(self.buy.peer_id),)  # C-13
        return self._begin()

    @cython.cfunc
    def _refusal(self):
        """The failure this complete set must get, or None. Sets the opening fee."""
        buy = self.buy
        base: cython.ulonglong = buy.size_msat if buy.fixed else self.sum_msat  # F-04
        found = opening_fee(base, buy.min_fee_msat, buy.proportional)
        if found is None:
            return UNKNOWN_NEXT_PEER  # F-03
        fee: cython.ulonglong = found
        if not buy.fixed and not buy.min_size_msat <= base <= buy.max_size_msat:
            return UNKNOWN_NEXT_PEER  # C-23
        if not buy.fixed and (fee > base or base - fee < self.floor_msat):
            return UNKNOWN_NEXT_PEER  # C-22
        if buy.used_up(self.owner.max_attempts):
            return UNKNOWN_NEXT_PEER  # C-16
        self.fee_msat = fee
        if not self.carries(fee):
            return TEMPORARY  # H-05, C-10
        if buy.holder is not None:
            return TEMPORARY  # C-14: one channel a scid
        return None

    @cython.cfunc
    def _begin(self) -> tuple:
        buy = self.buy
        buy.holder = self
        if buy.channel is None:
            self.state = OPENING
            self.under_way = RESERVING
            return (make(ReserveCoins, (buy.jit_scid, self.payment_hash, self.sum_msat - self.fee_msat, self.count)),)
        self.state = WAITING  # O-13: opened and put on chain before, its fee not paid yet
        self.channel = buy.channel
        self.committed = True
        ready = AwaitReady(buy.jit_scid, self.payment_hash, self.channel.channel_id)
        return self._broadcast(), ready  # idempotent; was it ever seen? (O-10)

    def _resume(self, arg):
        if not self.count or (self.buy.fixed and self.sum_msat < self.buy.size_msat):
            return NOTHING
        return self._complete()

    def _time_out(self, arg):
        return self._fail(TEMPORARY)  # C-06: the offer stays

    def _lapse(self, arg):
        return self._fail(UNKNOWN_NEXT_PEER)  # C-07

    def _alias(self, arg):
        """Another payment has paid for the channel: these parts are plain forwards now (A-03)."""
        if self.buy.dead:
            return self._fail(UNKNOWN_NEXT_PEER)
        self.state = SUCCEEDED
        self.channel = self.buy.channel
        self.covered = self.count
        return self._release()

    # Opening -------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _done(self, steps: cython.int) -> cython.int:
        """One of these steps is done: which one. Raises ProtocolBug if none of them was under way."""
        step: cython.int = self.under_way
        if not step & steps:
            raise ProtocolBug(f"the result of a step that is not under way: {STEPS[int(step).bit_length() - 1]} is")
        self.under_way = IDLE
        return step

    @cython.cfunc
    def _join(self) -> tuple:
        """A part of this payment while its channel is being made (C-18); too many fail alone (trap:26)."""
        value_msat: cython.ulonglong = self.rows[self.count].value_msat
        if not self.buy.fixed or self.count >= self.owner.max_parts or value_msat > U64_MAX - self.sum_msat:
            return self._reject()  # C-24, C-10
        self._hold()
        self.sum_msat += value_msat
        return NOTHING

    def _intend(self, arg):
        if self._done(RESERVING | AT_OPEN) == RESERVING:  # AT_OPEN: other coins, for somebody took one of the first
            self.buy.attempts += 1  # C-16: counted from here; having no coins is our trouble alone (O-09)
        self.funding = arg
        self.under_way = STORING_INTENT
        return (self._persist("intent"),)

    def _open(self, arg):
        self._done(STORING_INTENT)
        self.under_way = AT_OPEN
        return (make(OpenChannel, (self.buy.jit_scid, self.payment_hash, self.funding)),)

    def _await(self, arg):
        self._done(AT_OPEN)
        self.channel = arg if arg.limits is None else arg._replace(limits=None)
        self.state = WAITING
        self._watch_reservation()
        misfit, shed = (None, NOTHING) if arg.limits is None else self._fit(arg.limits)
        if misfit is not None:
            return shed + self._give_up(misfit)  # O-05, O-06: while nothing is public yet
        ready = make(AwaitReady, (self.buy.jit_scid, self.payment_hash, arg.channel_id))
        if self.buy.client_trusts_lsp:
            return (*shed, ready) if shed else (ready,)
        self.under_way = STORING_CHANNEL  # the next step puts it on chain: journal first
        self.covered = 0 if arg.limits is None else self.count  # P16: where each part goes stands in that record, too
        return (*shed, self._persist("channel"), ready)

    def _refuse(self, arg):
        self._done(RESERVING | AT_OPEN)
        return self._give_up(UNKNOWN_NEXT_PEER if arg else TEMPORARY)  # O-08, O-09

    def _unstore(self, arg):
        """The record could not be written: nothing irreversible happens (rule:11, K-23)."""
        self._done(STORING_INTENT | STORING_CHANNEL | STORING_FORWARDS)
        return self._give_up(TEMPORARY)

    # Awaiting channel ready -----------------------------------------------------------------------

    def _stored(self, arg):
        if self._done(STORING_CHANNEL | STORING_FORWARDS) == STORING_CHANNEL:
            self.committed = True
            return (self._broadcast(),)
        actions = self._release()
        return actions + self._finish() if self.state == BROADCASTING else actions

    def _ready(self, arg):
        self.limits = arg
        return self._proceed()

    def _sent(self, arg):
        if not self.committed:
            raise ProtocolBug("SENT for a funding that was not ordered to be sent")
        self.sent = True
        if self.state == WAITING:
            return self._proceed()
        return self._finish() if self.state == BROADCASTING else NOTHING

    @cython.cfunc
    def _proceed(self) -> tuple:
        """Allocate and journal the forwards once the channel is usable and, where promised, on its way (O-10)."""
        if self.limits is None or self.under_way != IDLE or not (self.buy.client_trusts_lsp or self.sent):
            return NOTHING
        told = self.forwards  # as the channel's record has them; None when something has changed since
        misfit, shed = self._fit(self.limits)
        if misfit is None and told is not None and told == self.outgoing(self.count, False):
            self.forwards = told
            return self._release()
        return shed + (self._note() if misfit is None else self._give_up(misfit))

    @cython.cfunc
    def _fit(self, limits):
        """Lay the fee on the parts as this channel allows (H-04): the failure all get where it does not, or None.

        Beside it the orders for parts that fail alone.
        """
        if limits.to_self_delay_blocks > self.buy.max_delay_blocks:
            return UNKNOWN_NEXT_PEER, NOTHING  # O-05
        self.floor_msat = self.buy.floor_msat = max(1, limits.htlc_minimum_msat)  # from now on on arrival (C-04)
        most: cython.ulonglong = min(limits.spendable_msat, limits.max_in_flight_msat)
        shed = self._shed(most)
        self.forwards = None
        if not lay(self.rows, self.count, self.floor_msat, self.fee_msat) or self.sum_msat - self.fee_msat > most:
            return TEMPORARY, shed  # O-06
        return None, shed

    @cython.cfunc
    def _shed(self, most_msat: cython.ulonglong) -> tuple:
        """Fail alone, last one first, what does not fit and what the payment is complete without (trap:26)."""
        number: cython.int
        value: cython.ulonglong
        need: cython.ulonglong = max(self.buy.size_msat, self.fee_msat + 1)
        keys = []
        for number in range(self.count - 1, -1, -1):
            value = self.rows[number].value_msat
            unfit: cython.bint = value < self.floor_msat or self.sum_msat - self.fee_msat > most_msat
            if unfit and self.rows[number].status == HELD and self.sum_msat - value >= need:
                self.rows[number].status = DEAD
                self.sum_msat -= value
                keys.append(self.key(number))
        return (FailParts(tuple(keys), TEMPORARY),) if keys else NOTHING

    @cython.cfunc
    def _note(self) -> tuple:
        """Journal where each part goes before it goes (rule:2, H-16); one write at a time."""
        if self.under_way != IDLE:
            return NOTHING
        self.under_way = STORING_FORWARDS
        self.covered = self.count
        return (self._persist("forwards"),)

    @cython.cfunc
    def _release(self) -> tuple:
        """Every held part in the record goes out together (H-15); one that came during the write is written next."""
        if self.state == WAITING:
            self.state = FORWARDED
        forwards = self.forwards  # those of the record: the same, unless some went out before
        if forwards is None or self.out or self.settled:
            forwards = self.outgoing(self.covered, True)
        self.out += self.move(self.covered, HELD, OUT)
        out = make(ForwardParts, (self.buy.jit_scid, self.payment_hash, self.channel.channel_id, forwards))
        actions = (out,) if forwards else NOTHING
        return actions + self._note() if self.count > self.covered else actions

    def _unready(self, arg):
        return self._give_up(TEMPORARY)

    def _guard(self, arg):
        """A part comes near its expiry (K-06, rule:5); otherwise the height is only about a reservation."""
        if arg + CLTV_MARGIN_BLOCKS < self.min_cltv:
            return self._tend(arg)
        return self._give_up(TEMPORARY)

    def _leave(self, arg):
        """The plugin ends: answer politely, journal and channel stay for the next start (cln:W12)."""
        failed = self._answer_held(TEMPORARY)
        if self.state < FORWARDED:
            self.state = FAILED if self.state == COLLECTING or self.committed else ABORTING
        return failed

    def _gone(self, arg):
        """lightningd says the channel is gone: what is held fails, coins are released (trap:5, cln:A3)."""
        if self.committed:
            self.buy.dead = True  # rule:2: there will not be a second one
        if self.state == WAITING or not self.committed:
            return self._give_up(TEMPORARY)
        failed = self._answer_held(TEMPORARY)
        if self.state == FORWARDED:
            return failed  # on chain now: lightningd resolves each part and tells us
        self._write_off()
        if self.sent:
            return failed + self._finish()
        alarm = f"channel {self.channel.channel_id} closed before its funding was sent; still trying"
        return (*failed, Alarm(alarm))

    # Forwarded and after --------------------------------------------------------------------------

    @cython.cfunc
    def _late(self) -> tuple:
        """A part after the others went out: journalled, then out, with what fee a failed part left (C-18, H-17)."""
        at: cython.int = self.count
        value_msat: cython.ulonglong = self.rows[at].value_msat
        alone: cython.bint = not self.buy.fixed or self.buy.dead  # C-24
        if alone or value_msat < self.floor_msat or at >= MAX_SESSION_PARTS:
            return self._reject()
        self.rows[at].taken_msat = min(self.fee_msat - self.carried(), value_msat - self.floor_msat)
        self._hold()
        return self._note()

    def _unsaid(self, arg):
        """Late parts could not be journalled: they fail, the others go on (rule:11)."""
        self._done(STORING_FORWARDS)
        failed = self._answer_held(TEMPORARY)
        return failed + self._finish() if self.state == BROADCASTING else failed

    @cython.cfunc
    def _settle(self, number: cython.int, preimage: object) -> tuple:
        status: cython.int = self.rows[number].status
        if status == OUT:
            self.out -= 1
        elif status == DEAD:  # a preimage counts even for a part that was reported lost before (K-11)
            self.forwards = None
        else:
            return NOTHING
        self.rows[number].status = PAID
        self.settled += 1
        self.preimage = preimage
        if self.state == BROADCASTING:
            return self._finish()
        self.state = BROADCASTING
        self.committed = True
        if self.sent:
            return self._finish()
        return (self._broadcast(),)

    @cython.cfunc
    def _lose(self, number: cython.int) -> tuple:
        """Only this part is lost (K-10); the session ends when none is left that could still be paid."""
        if self.rows[number].status != OUT:
            return NOTHING
        self.rows[number].status = DEAD
        self.forwards = None
        self.out -= 1
        if self.state == BROADCASTING:
            return self._finish()
        if self.out:
            return NOTHING
        return self._give_up(TEMPORARY)

    @cython.cfunc
    def _finish(self) -> tuple:
        """Paid, on chain, and no part open any more: over."""
        if self.sent and not self.out and self.under_way == IDLE:
            self.state = SUCCEEDED
        return NOTHING

    def _tend(self, arg):
        """Fail late parts whose record takes too long (K-06); renew a reservation before it runs out (O-04, rule:7)."""
        failed = self._answer_held(TEMPORARY, arg + CLTV_MARGIN_BLOCKS)
        if self.funding is None or self.sent or arg < self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS:
            return failed
        self.funding = self.funding._replace(reserved_to_block=arg + RENEW_BLOCKS)
        self._watch_reservation()
        return (*failed, RenewInputs(self.buy.jit_scid, self.payment_hash, self.funding))

    # Ending --------------------------------------------------------------------------------------

    @cython.cfunc
    def _reject(self) -> tuple:
        """The part at the door is not let in; what is written of the others still holds."""
        return (FailParts((self.key(self.count),), TEMPORARY),)

    def _tidy(self, arg):
        """The result of a step that was under way when the session was given up: undo what it made (K-19)."""
        self._done(RESERVING | STORING_INTENT | AT_OPEN | STORING_CHANNEL | STORING_FORWARDS)
        if isinstance(arg, Funding):
            self.funding = arg
        if isinstance(arg, Channel):
            self.channel = arg._replace(limits=None)
        return self._unmake()

    def _undone(self, arg):
        self._done(IDLE)
        self.state = FAILED if self.channel is None else ABANDONED
        return NOTHING

    def _keep(self, arg):
        """The funding is on its way. With a channel: the undo found money of the client in it and sent it (K-11)."""
        self.sent = True
        if arg is not None:
            self._done(IDLE)
            self.committed = True
            self.channel = arg
            self.state = FAILED  # public, and its fee not paid (O-13)
        return NOTHING

    @cython.cfunc
    def _rescue(self, number: cython.int, preimage: object) -> tuple:
        """A preimage after we gave up: the client is owed its channel whatever else (K-11)."""
        if self.channel is None:
            return NOTHING
        self._write_off()
        self.buy.dead = True  # closed, or about to be: nothing more goes through it
        self.rows[number].status = PAID
        self.preimage = preimage
        self.settled += 1
        self.committed = True
        self.state = BROADCASTING
        self._watch_reservation()
        return (
            Alarm(f"a part of {self.payment_hash.hex()} was paid after its channel was given up: broadcasting"),
            self._broadcast(),
        )

    @cython.cfunc
    def _fail(self, failure: object) -> tuple:
        """End a session that has made nothing yet."""
        self.state = FAILED
        return self._answer_held(failure)

    @cython.cfunc
    def _give_up(self, failure: object) -> tuple:
        """End a session in any state before a preimage: answer what is held, then undo what was made."""
        failed = self._answer_held(failure)
        if self.under_way == IDLE:
            return failed + self._unmake()
        self.state = ABORTING  # the result of that step comes; `tidy` goes on from there
        return failed

    @cython.cfunc
    def _unmake(self) -> tuple:
        """Give back what was made. A public channel stays, its fee unpaid (O-13)."""
        if self.committed or (self.funding is None and self.channel is None):
            self.state = FAILED
            return NOTHING
        self.state = ABORTING
        return (Undo(self.buy.jit_scid, self.payment_hash, self.channel, self.funding),)

    @cython.cfunc
    def _write_off(self):
        """The channel is closed: no event comes for the parts that were in it (cln:A3)."""
        self.move(self.count, OUT, DEAD)
        self.forwards = None
        self.out = 0

    @cython.cfunc
    def _answer_held(self, failure: object, cltv: cython.uint = NEVER) -> tuple:
        """Fail the held parts that expire at `cltv` or before."""
        keys = self.take_held(cltv)
        if not keys:
            return NOTHING
        self.forwards = None
        return (FailParts(keys, failure),)

    @cython.cfunc
    def _broadcast(self):
        return make(Broadcast, (self.buy.jit_scid, self.payment_hash, self.channel))

    @cython.cfunc
    def _persist(self, stage):
        return make(Persist, (self.buy.jit_scid, self.payment_hash, self.journal(stage)))

    @cython.cfunc
    def _watch_reservation(self):
        if self.funding is not None:
            self.index.watch(self.slot, max(0, self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS))

    @cython.cfunc
    @cython.exceptval(0xFFFF_FFFF)
    def next_height(self) -> cython.uint:
        """The height at which this session has something to do, NEVER if there is none (K-06, O-04)."""
        if self.state >= ABORTING:
            return NEVER
        expiry: cython.uint = self.earliest()
        height: cython.uint = expiry - CLTV_MARGIN_BLOCKS if CLTV_MARGIN_BLOCKS < expiry < NEVER else NEVER
        if self.funding is not None and not self.sent:
            height = min(height, max(0, self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS))
        return height

    @cython.ccall
    def journal(self, stage: str) -> tuple:
        """This session as its record must have it at `stage` (see `actions.Journal`)."""
        forwards = NOTHING
        if stage in ("forwards", "paid") or (self.state == WAITING and self.covered):
            if self.forwards is None:
                self.forwards = self.outgoing(self.count, False)
            forwards = self.forwards
        attempts, fee, funding, channel = self.buy.attempts, self.fee_msat, self.funding, self.channel
        return make(Journal, (stage, self.payment_hash, attempts, fee, funding, channel, forwards, self.preimage))


ONE_PART = ("gather", "join", "late", "reject", "settle", "lose", "rescue")
HANDLERS = tuple(None if name in ("bug", "skip", *ONE_PART) else getattr(Session, f"_{name}") for name in RULES)
