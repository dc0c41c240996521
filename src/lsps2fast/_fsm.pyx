# cython: language_level=3, binding=False
"""The session machine: which session a part belongs to, what each input does, how the fee is laid on the parts.

Facts go in as plain numbers and the NamedTuples of `actions`; orders come out as a tuple of actions. There is no
clock, no node and no chance in here. `_table.GRID` is the theory; each rule named there is one small method of
`Session`. C types of the attributes stand in `_fsm.pxd`. The same source runs compiled and interpreted; u64
arithmetic is therefore checked before it happens.
"""

import cython

from lsps2fast._table import CODES, MASKS, RULES, Input, State
from lsps2fast.actions import (
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Alarm,
    AwaitReady,
    Broadcast,
    Channel,
    ConnectPeer,
    FailParts,
    Forward,
    ForwardParts,
    Funding,
    Journal,
    OpenChannel,
    Persist,
    RenewInputs,
    ReserveCoins,
    Undo,
)
from lsps2fast.errors import ProtocolBug

U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
MILLION = 1_000_000
CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
MAX_SESSION_PARTS = 483  # C-10: over its whole life, late ones included
RENEW_MARGIN_BLOCKS = 12  # O-04: renew long before the 72 blocks of fundpsbt are over
RENEW_BLOCKS = 72
NOTHING = ()

WIDTH = cython.declare(cython.int, len(Input))
COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
OPENING = cython.declare(cython.int, int(State.OPENING))
WAITING = cython.declare(cython.int, int(State.AWAITING_CHANNEL_READY))
FORWARDED = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
BROADCASTING = cython.declare(cython.int, int(State.BROADCASTING))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
FAILED = cython.declare(cython.int, int(State.FAILED))
ABANDONED = cython.declare(cython.int, int(State.ABANDONED))

# What a part has come to.
HELD = cython.declare(cython.int, 0)
OUT = cython.declare(cython.int, 1)  # forwarded, not resolved
PAID = cython.declare(cython.int, 2)
DEAD = cython.declare(cython.int, 3)

# What effect is under way for a session, as far as a clean-up must wait for it.
IDLE = cython.declare(cython.int, 0)
RESERVING = cython.declare(cython.int, 1)
STORING_INTENT = cython.declare(cython.int, 2)
AT_OPEN = cython.declare(cython.int, 3)
STORING_CHANNEL = cython.declare(cython.int, 4)
STORING_FORWARDS = cython.declare(cython.int, 5)
STEPS = ("nothing", "reserving", "writing the intent", "opening", "writing the channel", "writing the forwards")

_GATHER = cython.declare(cython.int, RULES.index("gather"))
_JOIN = cython.declare(cython.int, RULES.index("join"))
_LATE = cython.declare(cython.int, RULES.index("late"))
_BUG = cython.declare(cython.int, RULES.index("bug"))
_SKIP = cython.declare(cython.int, RULES.index("skip"))


def opening_fee(payment_size_msat, min_fee_msat, proportional):
    """The opening fee in msat, or None when the computation leaves u64 (F-01 to F-03)."""
    if proportional != 0 and payment_size_msat > U64_MAX // proportional:
        return None
    product = payment_size_msat * proportional
    if product > U64_MAX - (MILLION - 1):
        return None
    return max((product + MILLION - 1) // MILLION, min_fee_msat)


def allocate(values_msat, floor_msat, fee_msat):
    """Lay `fee_msat` on parts worth `values_msat`, in order; the list of what is taken from each (H-04).

    None when it cannot be taken: a part lies below the floor (never below 1 msat, H-03), the sum leaves u64 (H-07)
    or the parts above the floor do not carry the fee (H-05). The taken sum is the fee to the msat (H-06).
    """
    floor = max(1, floor_msat)
    rest = fee_msat
    total = 0
    taken = []
    for value in values_msat:
        if value < floor or value > U64_MAX - total:
            return None
        total += value
        share = min(rest, value - floor)
        rest -= share
        taken.append(share)
    return taken if rest == 0 else None


@cython.final
@cython.freelist(256)
@cython.cclass
class Part:
    """One HTLC of a payment, named by (in_scid, htlc_id) and by nothing less (C-03, rule 3)."""

    def __init__(self, in_scid, htlc_id, amount_msat, value_msat, cltv_expiry):
        """`amount_msat` is what came in, `value_msat` what the onion says to forward (H-01)."""
        self.in_scid = in_scid
        self.htlc_id = htlc_id
        self.amount_msat = amount_msat
        self.value_msat = value_msat
        self.cltv_expiry = cltv_expiry
        self.taken_msat = 0
        self.status = HELD
        self.session = None

    @property
    def key(self):
        """(in_scid, htlc_id)."""
        return (self.in_scid, self.htlc_id)

    def forward(self):
        """This part as it goes out."""
        return Forward(self.in_scid, self.htlc_id, self.value_msat - self.taken_msat, self.taken_msat)


@cython.final
@cython.cclass
class Buy:
    """An accepted offer: one jit scid, the sets collecting on it, and the channel it has bought, if any."""

    def __init__(self, jit_scid, peer_id, terms):
        """`terms`: `actions.Terms`."""
        self.jit_scid = jit_scid
        self.peer_id = peer_id
        self.terms = terms
        self.sets = {}
        self.holder = None
        self.channel = None
        self.floor_msat = 1
        self.paid = False
        self.dead = False
        self.expired = False
        self.attempts = 0


@cython.final
@cython.cclass
class Session:
    """One payment attempt: the parts with one payment hash on one jit scid."""

    def __init__(self, owner, buy, payment_hash):
        self.owner = owner  # the Sessions it belongs to: limits, part index, heights
        self.buy = buy
        self.payment_hash = payment_hash
        self.parts = []  # in order of arrival
        self.state = COLLECTING
        self.sum_msat = 0  # of the parts' values, kept running
        self.min_cltv = U64_MAX  # earliest expiry among the parts
        self.fee_msat = 0
        self.floor_msat = max(1, buy.floor_msat)  # H-03
        self.under_way = IDLE
        self.covered = 0  # parts[:covered] stand in the last record that was written or is being written
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
    def apply(self, kind: cython.int, arg: object = None) -> tuple:
        """Take one input; return the orders, in sequence. Raises ProtocolBug where the grid says `bug`."""
        if kind < 0 or kind >= WIDTH:
            raise ProtocolBug(f"no such input: {kind}")
        before: cython.int = self.state
        cell: cython.int = before * WIDTH + kind
        code: cython.int = CODES[cell]
        if code == _SKIP:
            return NOTHING
        if code == _BUG:
            raise ProtocolBug(f"{Input(kind).name} cannot come in {State(before).name}")
        if code == _GATHER:
            actions = self._gather(arg)
        elif code == _JOIN:
            actions = self._join(arg)
        elif code == _LATE:
            actions = self._late(arg)
        else:
            actions = HANDLERS[code](self, arg)
        if not (MASKS[cell] >> self.state) & 1:
            raise ProtocolBug(f"{RULES[code]} may not lead from {State(before).name} to {State(self.state).name}")
        if self.state != before:
            self.owner.changed(self, before)
        return actions

    # Collecting ----------------------------------------------------------------------------------

    @cython.cfunc
    def _hold(self, part: Part):
        part.session = self
        self.parts.append(part)
        self.owner.index[part.in_scid, part.htlc_id] = part
        if part.cltv_expiry < self.min_cltv or self.state >= FORWARDED:
            self.min_cltv = min(self.min_cltv, part.cltv_expiry)
            self.owner.watch_height(part.cltv_expiry - CLTV_MARGIN_BLOCKS, self)

    @cython.cfunc
    def _gather(self, part: Part) -> tuple:
        size = self.buy.terms.payment_size_msat
        if size is None and self.parts:
            return self._reject(part)  # C-24: the first one alone decides, also while the client is away
        self._hold(part)
        if part.value_msat > U64_MAX - self.sum_msat:
            return self._fail(TEMPORARY)  # H-07: a sum beyond u64 fails the set
        self.sum_msat += part.value_msat
        if len(self.parts) > self.owner.max_parts:
            return self._fail(TEMPORARY)  # C-10: the payer can come back with fewer parts
        if size is not None and self.sum_msat < size:
            return NOTHING
        return self._complete()

    def _complete(self):
        """The parts add up: begin, wait for the client, or fail (C-08)."""
        refusal = self._refusal()
        if refusal is not None:
            return self._fail(refusal)
        if not self.owner.is_online(self.buy.peer_id):
            return (ConnectPeer(self.buy.peer_id),)  # C-13
        return self._begin()

    def _refusal(self):
        """The failure this complete set must get, or None. Sets the opening fee."""
        terms = self.buy.terms
        fixed = terms.payment_size_msat is not None
        base = terms.payment_size_msat if fixed else self.sum_msat  # F-04
        fee = opening_fee(base, terms.min_fee_msat, terms.proportional)
        if fee is None:
            return UNKNOWN_NEXT_PEER  # F-03
        if not fixed and not terms.min_payment_size_msat <= base <= terms.max_payment_size_msat:
            return UNKNOWN_NEXT_PEER  # C-23
        if not fixed and fee + self.floor_msat > base:
            return UNKNOWN_NEXT_PEER  # C-22
        if self.owner.used_up(self.buy):
            return UNKNOWN_NEXT_PEER  # C-16
        self.fee_msat = fee
        if allocate([part.value_msat for part in self.parts], self.floor_msat, fee) is None:
            return TEMPORARY  # H-05, C-10
        if self.buy.holder is not None:
            return TEMPORARY  # C-14: one channel a scid
        return None

    def _begin(self):
        buy = self.buy
        buy.holder = self
        if buy.channel is None:
            self.state = OPENING
            self.under_way = RESERVING
            return (ReserveCoins(buy.jit_scid, self.payment_hash, self.sum_msat - self.fee_msat, len(self.parts)),)
        self.state = WAITING  # O-13: opened and put on chain before, its fee not paid yet
        self.channel = buy.channel
        self.committed = True
        return (
            Broadcast(buy.jit_scid, self.payment_hash, self.channel),  # idempotent; was it ever seen? (O-10)
            AwaitReady(buy.jit_scid, self.payment_hash, self.channel.channel_id),
        )

    def _resume(self, arg):
        size = self.buy.terms.payment_size_msat
        if not self.parts or (size is not None and self.sum_msat < size):
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
        self.covered = len(self.parts)
        return self._release()

    # Opening -------------------------------------------------------------------------------------

    def _done(self, *steps):
        """One of these steps is done: which one. Raises ProtocolBug if none of them was under way."""
        step = self.under_way
        if step not in steps:
            raise ProtocolBug(f"the result of a step that is not under way: {STEPS[step]} is")
        self.under_way = IDLE
        return step

    @cython.cfunc
    def _join(self, part: Part) -> tuple:
        """A part of this payment while its channel is being made (C-18); too many fail alone (T26)."""
        variable = self.buy.terms.payment_size_msat is None
        if variable or len(self.parts) >= self.owner.max_parts or part.value_msat > U64_MAX - self.sum_msat:
            return (FailParts((part.key,), TEMPORARY),)  # C-24, C-10
        self._hold(part)
        self.sum_msat += part.value_msat
        return NOTHING

    def _intend(self, arg):
        if self._done(RESERVING, AT_OPEN) == RESERVING:  # AT_OPEN: other coins, for somebody took one of the first
            self.buy.attempts += 1  # C-16: counted from here; having no coins is our trouble alone (O-09)
        self.funding = arg
        self.under_way = STORING_INTENT
        return (self._persist("intent"),)

    def _open(self, arg):
        self._done(STORING_INTENT)
        self.under_way = AT_OPEN
        return (OpenChannel(self.buy.jit_scid, self.payment_hash, self.funding),)

    def _await(self, arg):
        self._done(AT_OPEN)
        self.channel = arg._replace(limits=None)
        self.state = WAITING
        self._watch_reservation()
        misfit, shed = (None, NOTHING) if arg.limits is None else self._fit(arg.limits)
        if misfit is not None:
            return shed + self._give_up(misfit)  # O-05, O-06: while nothing is public yet
        ready = AwaitReady(self.buy.jit_scid, self.payment_hash, arg.channel_id)
        if self.buy.terms.client_trusts_lsp:
            return (*shed, ready)
        self.under_way = STORING_CHANNEL  # the next step puts it on chain: journal first
        return (*shed, self._persist("channel"), ready)

    def _refuse(self, arg):
        self._done(RESERVING, AT_OPEN)
        return self._give_up(UNKNOWN_NEXT_PEER if arg else TEMPORARY)  # O-08, O-09

    def _unstore(self, arg):
        """The record could not be written: nothing irreversible happens (rule 11, K-23)."""
        self._done(STORING_INTENT, STORING_CHANNEL, STORING_FORWARDS)
        return self._give_up(TEMPORARY)

    # Awaiting channel ready -----------------------------------------------------------------------

    def _stored(self, arg):
        if self._done(STORING_CHANNEL, STORING_FORWARDS) == STORING_CHANNEL:
            self.committed = True
            return (Broadcast(self.buy.jit_scid, self.payment_hash, self.channel),)
        if self.state == WAITING:
            self.state = FORWARDED
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

    def _proceed(self):
        """Allocate and journal the forwards once the channel is usable and, where promised, on its way (O-10)."""
        if self.limits is None or self.under_way != IDLE:
            return NOTHING
        if not self.buy.terms.client_trusts_lsp and not self.sent:
            return NOTHING
        misfit, shed = self._fit(self.limits)
        return shed + (self._note() if misfit is None else self._give_up(misfit))

    def _fit(self, limits):
        """Lay the fee on the parts as this channel allows (H-04): the failure all get where it does not, or None.

        Beside it the orders for parts that fail alone.
        """
        if limits.to_self_delay_blocks > self.buy.terms.max_client_to_self_delay_blocks:
            return UNKNOWN_NEXT_PEER, NOTHING  # O-05
        self.floor_msat = self.buy.floor_msat = max(1, limits.htlc_minimum_msat)  # from now on on arrival (C-04)
        most = min(limits.spendable_msat, limits.max_in_flight_msat)
        shed = self._shed(most)
        part: Part
        held = [part for part in self.parts if part.status == HELD]
        taken = allocate([part.value_msat for part in held], self.floor_msat, self.fee_msat)
        if taken is None or self.sum_msat - self.fee_msat > most:
            return TEMPORARY, shed  # O-06
        for part, share in zip(held, taken, strict=True):
            part.taken_msat = share
        return None, shed

    def _shed(self, most_msat):
        """Fail alone, last one first, what does not fit and what the payment is complete without (T26)."""
        part: Part
        need = max(self.buy.terms.payment_size_msat or 0, self.fee_msat + 1)
        keys = []
        for part in reversed(self.parts):
            unfit = part.value_msat < self.floor_msat or self.sum_msat > most_msat + self.fee_msat
            if part.status == HELD and unfit and self.sum_msat >= part.value_msat + need:
                part.status = DEAD
                self.sum_msat -= part.value_msat
                keys.append(part.key)
        return (FailParts(tuple(keys), TEMPORARY),) if keys else NOTHING

    def _note(self):
        """Journal where each part goes before it goes (rule 2, H-16); one write at a time."""
        if self.under_way != IDLE:
            return NOTHING
        self.under_way = STORING_FORWARDS
        self.covered = len(self.parts)
        return (self._persist("forwards"),)

    def _release(self):
        """Every held part in the record goes out together (H-15); one that came during the write is written next."""
        part: Part
        forwards = []
        for part in self.parts[: self.covered]:
            if part.status == HELD:
                part.status = OUT
                self.out += 1
                forwards.append(part.forward())
        out = ForwardParts(self.buy.jit_scid, self.payment_hash, self.channel.channel_id, tuple(forwards))
        actions = (out,) if forwards else NOTHING
        return actions + self._note() if len(self.parts) > self.covered else actions

    def _unready(self, arg):
        return self._give_up(TEMPORARY)

    def _guard(self, arg):
        """A part comes near its expiry (K-06, rule 5); otherwise the height is only about a reservation."""
        if arg < self.min_cltv - CLTV_MARGIN_BLOCKS:
            return self._tend(arg)
        return self._give_up(TEMPORARY)

    def _leave(self, arg):
        """The plugin ends: answer politely, journal and channel stay for the next start (W12)."""
        failed = self._answer_held(TEMPORARY)
        if self.state < FORWARDED:
            self.state = FAILED if self.state == COLLECTING or self.committed else ABORTING
        return failed

    def _gone(self, arg):
        """lightningd says the channel is gone: what is held fails, coins are released (T5, A3)."""
        if self.committed:
            self.buy.dead = True  # rule 2: there will not be a second one
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
    def _late(self, part: Part) -> tuple:
        """A part after the others went out: journalled, then out, with what fee a failed part left (C-18, H-17)."""
        buy = self.buy
        alone = buy.terms.payment_size_msat is None or buy.dead  # C-24
        if alone or part.value_msat < self.floor_msat or len(self.parts) >= MAX_SESSION_PARTS:
            return self._reject(part)
        self._hold(part)
        part.taken_msat = min(self._unpaid_fee(), part.value_msat - self.floor_msat)
        return self._note()

    def _unsaid(self, arg):
        """Late parts could not be journalled: they fail, the others go on (rule 11)."""
        self._done(STORING_FORWARDS)
        failed = self._answer_held(TEMPORARY)
        return failed + self._finish() if self.state == BROADCASTING else failed

    def _unpaid_fee(self):
        part: Part
        carried = 0
        for part in self.parts:
            if part.status != DEAD:
                carried += part.taken_msat
        return self.fee_msat - carried

    def _settle(self, arg):
        part: Part = arg[0]
        if part.status == OUT:
            self.out -= 1
        elif part.status != DEAD:  # a preimage counts even for a part that was reported lost before (K-11)
            return NOTHING
        part.status = PAID
        self.settled += 1
        self.preimage = arg[1]
        if self.state == BROADCASTING:
            return self._finish()
        self.state = BROADCASTING
        self.committed = True
        if self.sent:
            return self._finish()
        return (Broadcast(self.buy.jit_scid, self.payment_hash, self.channel),)

    def _lose(self, arg):
        """Only this part is lost (K-10); the session ends when none is left that could still be paid."""
        part: Part = arg
        if part.status != OUT:
            return NOTHING
        part.status = DEAD
        self.out -= 1
        if self.state == BROADCASTING:
            return self._finish()
        if self.out:
            return NOTHING
        return self._give_up(TEMPORARY)

    def _finish(self):
        """Paid, on chain, and no part open any more: over."""
        if self.sent and not self.out and self.under_way == IDLE:
            self.state = SUCCEEDED
        return NOTHING

    def _tend(self, arg):
        """Fail late parts whose record takes too long (K-06); renew a reservation before it runs out (O-04, rule 7)."""
        failed = self._answer_held(TEMPORARY, arg + CLTV_MARGIN_BLOCKS)
        if self.funding is None or self.sent or arg < self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS:
            return failed
        self.funding = self.funding._replace(reserved_to_block=arg + RENEW_BLOCKS)
        self._watch_reservation()
        return (*failed, RenewInputs(self.buy.jit_scid, self.payment_hash, self.funding))

    # Ending --------------------------------------------------------------------------------------

    def _reject(self, arg):
        return (FailParts((arg.key,), TEMPORARY),)

    def _tidy(self, arg):
        """The result of a step that was under way when the session was given up: undo what it made (K-19)."""
        self._done(RESERVING, STORING_INTENT, AT_OPEN, STORING_CHANNEL, STORING_FORWARDS)
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

    def _rescue(self, arg):
        """A preimage after we gave up: the client is owed its channel whatever else (K-11)."""
        part: Part = arg[0]
        if self.channel is None:
            return NOTHING
        self._write_off()
        self.buy.dead = True  # closed, or about to be: nothing more goes through it
        part.status = PAID
        self.preimage = arg[1]
        self.settled += 1
        self.committed = True
        self.state = BROADCASTING
        self._watch_reservation()
        return (
            Alarm(f"a part of {self.payment_hash.hex()} was paid after its channel was given up: broadcasting"),
            Broadcast(self.buy.jit_scid, self.payment_hash, self.channel),
        )

    def _fail(self, failure):
        """End a session that has made nothing yet."""
        self.state = FAILED
        return self._answer_held(failure)

    def _give_up(self, failure):
        """End a session in any state before a preimage: answer what is held, then undo what was made."""
        failed = self._answer_held(failure)
        if self.under_way == IDLE:
            return failed + self._unmake()
        self.state = ABORTING  # the result of that step comes; `tidy` goes on from there
        return failed

    def _unmake(self):
        """Give back what was made. A public channel stays, its fee unpaid (O-13)."""
        if self.committed or (self.funding is None and self.channel is None):
            self.state = FAILED
            return NOTHING
        self.state = ABORTING
        return (Undo(self.buy.jit_scid, self.payment_hash, self.channel, self.funding),)

    def _write_off(self):
        """The channel is closed: no event comes for the parts that were in it (A3)."""
        part: Part
        for part in self.parts:
            if part.status == OUT:
                part.status = DEAD
        self.out = 0

    def _answer_held(self, failure, cltv=U64_MAX):
        """Fail the held parts that expire at `cltv` or before."""
        part: Part
        keys = []
        for part in self.parts:
            if part.status == HELD and part.cltv_expiry <= cltv:
                part.status = DEAD
                keys.append((part.in_scid, part.htlc_id))
        return (FailParts(tuple(keys), failure),) if keys else NOTHING

    def _persist(self, stage):
        return Persist(self.buy.jit_scid, self.payment_hash, self.journal(stage))

    def _watch_reservation(self):
        if self.funding is not None:
            self.owner.watch_height(self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS, self)

    def journal(self, stage):
        """This session as its record must have it at `stage` (see `actions.Journal`)."""
        forwards = ()
        if stage in ("forwards", "paid"):
            forwards = tuple([part.forward() for part in self.parts if part.status != DEAD])
        return Journal(
            stage,
            self.payment_hash,
            self.buy.attempts,
            self.fee_msat,
            self.funding,
            self.channel,
            forwards,
            self.preimage,
        )


HANDLERS = tuple(
    None if name in ("bug", "skip", "gather", "join", "late") else getattr(Session, f"_{name}") for name in RULES
)
