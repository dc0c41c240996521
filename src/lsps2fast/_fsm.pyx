# cython: language_level=3, binding=True
"""The session machine: what each input does to one payment attempt on a buy.

Facts go in, a tuple of actions comes out (`actions.py`). There is no clock, no node and no chance in here.

How it works
------------
A buy is an accepted offer with its jit scid (`JitChannel`). HTLCs that name the scid are grouped by payment hash; each
group is a `Session`. What an input does to a session stands in `table.GRID`, one cell for each pair of input and state;
each rule named there is one method of `Session`, `_gather` for `gather`, made of steps that `Payment` has
(`_payment.pyx`). `apply` looks the cell up, runs the rule and refuses a change of state that the cell does not name. So
the grid is the whole machine, and the methods are its words.

The life of a session:

    COLLECTING
        Parts are held until they add up to what was bought and the client is connected (C-05 to C-08). Nothing is made
        yet: whatever fails here, `_fail` answers the parts and the buy stands (rule:6).
    OPENING
        The session holds its buy's lock (`buy.holder`): coins, the intent, the channel, one `step` after the other. The
        result of each is awaited before the next; what cannot be taken back is written down first (rule:11).
    AWAITING_CHANNEL_READY
        Both sides have signed. Where the LSP trusts the client the record is written, then the funding is ordered on
        chain (`committed`), then known to be there (`sent`); only then do parts go out (O-10).
    AWAITING_SETTLEMENT
        Parts are with the client, each with its share of the fee (H-04). A late part is written down and follows. Where
        the client trusts the LSP the funding is still withheld.
    BROADCASTING
        A preimage was seen: the funding is owed to the chain (rule:8). Ends when that is out and no part is open,
        SUCCEEDED when the fee came, UNDERPAID when the client took parts that carried less (rule:20).
    ABORTING
        Parts are answered. Ends when a step that was under way, a broadcast or an undo has answered.

Where a channel that the client has can carry the payment (`existing`), none is opened: OPENING goes to
AWAITING_CHANNEL_READY with nothing to fund, `committed` and `sent` from the start, so that nothing is ever broadcast,
undone or closed for it. It is no channel of the buy, which stands when the payment is over. If the room has gone before
the parts are out, the session opens a channel after all (`_open_instead`), once.

A funding may pay several channels. If one of them is given up before it is sent, it is sent for none (trap:60), and the
sessions of the others open another, from AWAITING_CHANNEL_READY back to OPENING (`_sister_gone`).

Four facts say what may still be done with the money in the channel. `committed`: its funding was ordered to be sent, so
it may be out and nothing is undone. `sent`: it is out. `gone`: lightningd says that the channel is closed or closing.
`never_sent`: the executor of `Broadcast`, which looks before it sends, has found it gone and sends nothing: such a
channel is not funded, whatever has happened (rule:23), and its coins come back by an `Undo`. Until that executor has
answered a committed session waits.

Words: a part is *held* until it is answered, *in flight* while it is with the client, *recorded* when its forward
stands in the last record. `_give_up` ends a session that has made something, `_fail` one that has not.
"""

import cython
from msgspec.structs import replace

from lsps2fast.actions import (
    ABOVE,
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Alarm,
    AwaitReady,
    Channel,
    CloseChannel,
    ConnectPeer,
    ExistingChannel,
    FailParts,
    Funding,
    OpenChannel,
    PartStatus,
    PrepareChannel,
    RenewInputs,
    ReserveCoins,
)
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import CODES, MASKS, RULES, Input, State

if cython.compiled:
    from cython.cimports.lsps2fast._parts import (
        IncomingHtlc,
        carried,
        fee_fits,
        lay_fee,
        less,
        opening_fee_msat,
        smallest,
    )
    from cython.cimports.lsps2fast._payment import JitChannel, Payment
else:
    from lsps2fast._parts import IncomingHtlc, carried, fee_fits, lay_fee, less, opening_fee_msat, smallest
    from lsps2fast._payment import JitChannel, Payment

from lsps2fast._payment import CLTV_MARGIN_BLOCKS, RENEW_MARGIN_BLOCKS

MAX_SESSION_PARTS = 483  # C-10: over its whole life, late ones included
RENEW_BLOCKS = 72
CRUMBS_ARE = 10  # one part in so many of what was bought
MOST_OVERSIZED = 8  # sets of one buy that are remembered as failed for their size
NOTHING = cython.declare(tuple, ())
MOST_MSAT = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)
MARGIN = cython.declare(cython.ulonglong, CLTV_MARGIN_BLOCKS)
NEVER = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)  # a height

HELD = cython.declare(cython.int, int(PartStatus.HELD))
FORWARDED = cython.declare(cython.int, int(PartStatus.FORWARDED))
FULFILLED = cython.declare(cython.int, int(PartStatus.FULFILLED))
LOST = cython.declare(cython.int, int(PartStatus.FAILED))

COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
OPENING = cython.declare(cython.int, int(State.OPENING))
WAITING = cython.declare(cython.int, int(State.AWAITING_CHANNEL_READY))
WITH_CLIENT = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
BROADCASTING = cython.declare(cython.int, int(State.BROADCASTING))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
SUCCEEDED = cython.declare(cython.int, int(State.SUCCEEDED))
FAILED = cython.declare(cython.int, int(State.FAILED))
ABANDONED = cython.declare(cython.int, int(State.ABANDONED))
UNDERPAID = cython.declare(cython.int, int(State.UNDERPAID))

# The step under way, whose result must come before anything is undone. Bits: a rule says which ones it expects.
IDLE = cython.declare(cython.int, 1)
CHOOSING = cython.declare(cython.int, 2)
STORING_INTENT = cython.declare(cython.int, 4)
AT_OPEN = cython.declare(cython.int, 8)
STORING_CHANNEL = cython.declare(cython.int, 16)
STORING_FORWARDS = cython.declare(cython.int, 32)
UNDOING = cython.declare(cython.int, 64)

# The table packed for C: a byte a cell (the rule), a byte a cell and state (whether it may lead there).
_WIDTH = cython.declare(cython.int, len(Input))
_STATES = cython.declare(cython.int, len(State))
_CODES = cython.declare(bytes, CODES)
_ALLOWED = cython.declare(bytes, bytes(mask >> state & 1 for mask in MASKS for state in range(len(State))))
_BUG = cython.declare(cython.int, RULES.index("bug"))
_SKIP = cython.declare(cython.int, RULES.index("skip"))
_HANDLERS = cython.declare(tuple, ())


@cython.final
@cython.cclass
class Session(Payment):
    """Session(registry, buy, payment_hash)
--

    One payment attempt: the parts with one payment hash on one jit scid.

    `sum_msat` is the value of the parts that were held together, `fee_msat` the opening fee that they are to bring.
    """  # fmt: skip

    # The engine ----------------------------------------------------------------------------------

    @cython.ccall
    def apply(self, kind: cython.int, arg: object = None) -> tuple:
        """Take one input, `arg` its fact; return the actions, in sequence.

        Raises ProtocolBug where the grid says so.
        """
        if kind < 0 or kind >= _WIDTH:
            raise ProtocolBug(f"no such input: {kind}")
        before: cython.int = self.state
        cell: cython.int = before * _WIDTH + kind
        code: cython.int = _CODES[cell]
        if code == _SKIP:
            return NOTHING
        if code == _BUG:
            raise ProtocolBug(f"{Input(kind).name} cannot come in {State(before).name}")
        actions = _HANDLERS[code](self, arg)
        if not _ALLOWED[cell * _STATES + self.state]:
            raise ProtocolBug(f"{RULES[code]} may not lead from {State(before).name} to {State(self.state).name}")
        if self.state != before:
            self.registry.changed(self, before)
        return actions

    @cython.cfunc
    def revive(self, record, sent: cython.bint, public: cython.bint):
        """Take the state that `record` tells of, after a start (see `Sessions.restore`)."""
        part: IncomingHtlc
        self.funding = record.funding
        self.counted = record.funding is not None and record.attempts > 0
        self._own(record.channel)
        self.fee_msat = record.opening_fee_msat
        self.preimage = record.preimage
        self.claimed = record.preimage is not None
        self.existing = record.existing
        if self.existing is not None:
            self.registry.use(self)
        self.sent = sent or self.existing is not None
        public = public or self.existing is not None
        # Where the client does not trust us nothing was forwarded before its funding was ordered on chain (O-10).
        self.committed = public or self.claimed or (bool(record.forwards) and not self.buy.client_trusts_lsp)
        self.state = WITH_CLIENT if record.forwards else ABORTING
        if self.claimed:
            self.state = BROADCASTING
        if self.state == ABORTING:
            self.step = UNDOING
        for forward in record.forwards:
            value = forward.out_msat + forward.extra_fee_msat
            part = IncomingHtlc(
                jit_scid=self.buy.jit_scid, payment_hash=self.payment_hash, in_scid=forward.in_scid,
                htlc_id=forward.htlc_id, amount_msat=value, amt_to_forward_msat=value, cltv_expiry=0,
                outgoing_cltv_value=0, in_channel=forward.in_channel,
            )  # fmt: skip
            part.extra_fee_msat = forward.extra_fee_msat
            part.status = FORWARDED
            part.session = self
            self.parts.append(part)
            self.sum_msat += value
            self.registry.index[part.key] = part
        self.recorded = self.in_flight = len(self.parts)
        self._watch_reservation()

    # Collecting ----------------------------------------------------------------------------------

    def _gather(self, part: IncomingHtlc):
        buy: JitChannel = self.buy
        value: cython.ulonglong = part.amt_to_forward_msat
        gives_way = NOTHING
        if not buy.fixed and self.held:
            return self._keep_out(part, "a second part")  # C-24: the first alone decides, also while the client is away
        if buy.fixed and (value > less(buy.most_msat, self.sum_msat) or self.held >= self.registry.max_parts):
            smaller = self._in_its_way(part)
            if smaller is None:
                if value > less(buy.most_msat, self.sum_msat):
                    return self._keep_out(part, ABOVE)  # rule:18: what lifts the sum fails alone
                if self._cannot_add_up(value):
                    return self._fail_for_its_size(part)
                return self._keep_out(part, "too many parts")  # C-10
            for other in smaller:
                gives_way += self._give_way(other)
                self.registry.refused["gave way"] += 1
            self.state = COLLECTING
        room = self.registry.make_room(self, buy, part)
        if room is None:
            return gives_way + self._keep_out(part, "no room")
        self._hold(part)
        self.sum_msat += value
        if room or gives_way:
            gives_way += room
        if buy.fixed and self.sum_msat < buy.size_msat:
            return gives_way
        actions = self._complete()
        return gives_way + actions if gives_way else actions

    @cython.cfunc
    def _in_its_way(self, part: IncomingHtlc) -> list:
        """Return the held parts, smaller ones all, that give way to this one (rule:24); None: it is kept out.

        For the sum (rule:18) only crumbs give way, and whatever a payment can do without that this part makes whole.
        """
        value: cython.ulonglong = part.amt_to_forward_msat
        over_msat: cython.ulonglong = less(value, less(self.buy.most_msat, self.sum_msat))
        if value > self.buy.most_msat:
            return None
        smaller = smallest(self.parts, part, [], self.held + 1 - self.registry.max_parts, over_msat)
        if smaller is None or over_msat == 0 or self._are_crumbs(smaller) or self._is_whole_with(part):
            return smaller
        return None

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def _is_whole_with(self, part: IncomingHtlc) -> cython.bint:
        """Return whether this part and the held ones that are as large are a whole payment."""
        other: IncomingHtlc
        sum_msat: cython.ulonglong = part.amt_to_forward_msat
        for other in self.parts:
            if other.status == HELD and other.amt_to_forward_msat >= part.amt_to_forward_msat:
                sum_msat += min(other.amt_to_forward_msat, MOST_MSAT - sum_msat)
        return sum_msat >= self._needed()

    def _are_crumbs(self, parts: list) -> cython.bint:
        """Whether these parts are so little of what was bought that the payment can do without them (people:L3)."""
        part: IncomingHtlc
        sum_msat: object = 0
        for part in parts:
            sum_msat += part.amt_to_forward_msat
        return sum_msat * CRUMBS_ARE <= self.buy.size_msat

    def _cannot_add_up(self, value: cython.ulonglong) -> cython.bint:
        """Return whether a full set of parts like the largest would still be too little."""
        part: IncomingHtlc
        most: cython.ulonglong = value
        for part in self.parts:
            most = max(most, part.amt_to_forward_msat)
        return most <= (self.buy.size_msat - 1) // self.registry.max_parts

    @cython.cfunc
    def _fail_for_its_size(self, part: IncomingHtlc) -> tuple:
        """Fail a set of too many parts (C-10); the payer can come back with fewer.

        Parts of it that are still under way fail, too, and start no new set.
        """
        other: IncomingHtlc
        buy: JitChannel = self.buy
        most: cython.ulonglong = part.amt_to_forward_msat
        for other in self.parts:
            most = max(most, other.amt_to_forward_msat)
        if buy.oversized is None:
            buy.oversized = {}
        buy.oversized.pop(self.payment_hash, None)
        buy.oversized[self.payment_hash] = (self.due_ms, most)
        if len(buy.oversized) > MOST_OVERSIZED:
            del buy.oversized[next(iter(buy.oversized))]
        self.state = FAILED
        part.status = LOST
        self.registry.refused["too many parts"] += 1
        keys = [other.key for other in self.parts]
        self._answer_held(TEMPORARY)
        return (FailParts((*keys, part.key), TEMPORARY),)

    def _give_way(self, part: IncomingHtlc):
        """Fail this part: a larger one needs its place (rule:24)."""
        self._let_go(part, LOST)
        self.parts.remove(part)
        del self.registry.index[part.key]
        self.sum_msat = less(self.sum_msat, part.amt_to_forward_msat)
        if not self.held:
            self.state = FAILED
        return (FailParts((part.key,), TEMPORARY),)

    @cython.cfunc
    def _complete(self) -> tuple:
        """Begin, wait for the client, or fail, now that the parts add up (C-08)."""
        refusal = self._refusal()
        if refusal is not None:
            return self._fail(refusal)
        if not self.buy.client.online:
            self.registry.wait_for_client(self)
            return (ConnectPeer(self.buy.client.peer_id),)  # C-13
        return self._begin()

    @cython.cfunc
    def _refusal(self):
        """Return the failure this complete set must get, or None. Sets the opening fee."""
        buy: JitChannel = self.buy
        terms = buy.terms
        base: cython.ulonglong = buy.size_msat if buy.fixed else self.sum_msat  # F-04
        found = opening_fee_msat(base, terms.min_fee_msat, terms.proportional)
        if found is None:
            return UNKNOWN_NEXT_PEER  # F-03
        fee: cython.ulonglong = buy.owed_msat if buy.owed_msat else found  # a part of it may have come before (rule:20)
        if not buy.fixed and not terms.min_payment_size_msat <= base <= buy.most_msat:
            return UNKNOWN_NEXT_PEER  # C-23
        if not buy.fixed and (fee > base or base - fee < self.floor_msat):
            return UNKNOWN_NEXT_PEER  # C-22
        if buy.used_up(self.registry.max_attempts):
            return UNKNOWN_NEXT_PEER  # C-16
        self.fee_msat = fee
        if not fee_fits(self.parts, self.floor_msat, fee):
            return TEMPORARY  # H-05, C-10
        if buy.holder is not None:
            return TEMPORARY  # C-14: one channel a scid
        return None

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def refuses(self, value: cython.ulonglong) -> cython.bint:
        """Return whether a first part of this value fails for good: alone it decides where no size is set (C-20)."""
        self.sum_msat = value
        refusal = self._refusal()
        self.sum_msat = 0
        return refusal == UNKNOWN_NEXT_PEER

    @cython.cfunc
    def _own(self, channel):
        """Have this channel, which no payment on this buy had before."""
        self.channel = channel
        self.registry.own(self.buy, channel)

    @cython.cfunc
    def _begin(self) -> tuple:
        buy: JitChannel = self.buy
        buy.holder = self
        if buy.channel is None:
            self.state = OPENING
            self.step = CHOOSING
            out_msat: cython.ulonglong = less(self.sum_msat, self.fee_msat)
            may_reuse = not buy.no_reuse and buy.owed_msat == 0
            return (ReserveCoins(buy.jit_scid, self.payment_hash, out_msat, self.held, may_reuse),)
        self.state = WAITING  # O-13: opened and put on chain before, its fee not paid yet
        self.channel = buy.channel
        self.committed = self.reused = True
        ready = AwaitReady(buy.jit_scid, self.payment_hash, self.channel.channel_id, True)
        return (*self._broadcast_again(), ready)  # idempotent; was it ever seen? (O-10)

    def _resume(self, arg):
        if not self.held or (self.buy.fixed and self.sum_msat < self.buy.size_msat):
            return NOTHING
        return self._complete()

    def _time_out(self, arg):
        return self._fail(TEMPORARY)  # C-06, C-13: the buy stays

    def _lapse(self, arg):
        return self._fail(UNKNOWN_NEXT_PEER)  # C-07

    def _become_alias(self, arg):
        """Forward these parts plainly: another payment has paid for the channel (A-03)."""
        if self.buy.dead:
            return self._fail(UNKNOWN_NEXT_PEER)
        self.state = SUCCEEDED
        self.channel = self.buy.channel
        self.recorded = len(self.parts)
        return self._release()

    # Opening -------------------------------------------------------------------------------------

    def _join(self, part: IncomingHtlc):
        """Hold a part that comes while the channel is made (C-18).

        One too many, or too much, fails alone (trap:26), or smaller ones do that the payment is whole without.
        """
        other: IncomingHtlc
        buy: JitChannel = self.buy
        value: cython.ulonglong = part.amt_to_forward_msat
        rest_msat: cython.ulonglong = self.sum_msat
        above: cython.bint = value > less(buy.most_msat, self.sum_msat)
        if not buy.fixed:
            return self._keep_out(part, "a second part")  # C-24
        if self.existing is not None and self.limits is not None:
            return self._keep_out(part, "too late")  # no room was promised to it
        smaller = NOTHING
        if above or self.held >= self.registry.max_parts:
            smaller = self._in_its_way(part)
            for other in smaller or NOTHING:
                rest_msat = less(rest_msat, other.amt_to_forward_msat)
            if smaller is None or rest_msat + value < self._needed() or len(self.parts) >= MAX_SESSION_PARTS:
                return self._keep_out(part, ABOVE if above else "too many parts")  # rule:18, C-10
        room = self.registry.make_room(self, buy, part)
        if room is None:
            return self._keep_out(part, "no room")
        for other in smaller:
            self._fail_alone(other)
            room += (FailParts((other.key,), TEMPORARY),)
            self.registry.refused["gave way"] += 1
        self._hold(part)
        self.sum_msat += value
        return room

    def _drop(self, part: IncomingHtlc):
        """Fail a part that can go no further, and all where the others are no whole payment without it (rule:19)."""
        if part.status != HELD:
            return NOTHING
        self._fail_alone(part)
        failed = (FailParts((part.key,), TEMPORARY),)
        return failed if self.sum_msat >= self._needed() else failed + self._give_up_for_others()

    def _intend(self, funding):
        # AT_OPEN: other coins, one of the first was taken; counted: another channel, through no fault of its client
        if self._done(CHOOSING | AT_OPEN) == CHOOSING and not self.counted:
            self.buy.attempts += 1  # C-16: counted from here; having no coins is our trouble alone (O-09)
            self.counted = True
        self.funding = funding
        self.step = STORING_INTENT
        return (self._persist("intent"),)

    def _take_existing(self, existing):
        """Use a channel that the client has: nothing is opened, and the fee is what the operator takes for that."""
        self._done(CHOOSING)
        fee_msat: cython.ulonglong = min(self.fee_msat, existing.fee_msat)
        self.existing = existing
        self.registry.use(self)
        self.waived_msat = self.fee_msat - fee_msat
        self.fee_msat = fee_msat
        self.committed = self.sent = True  # nothing of ours goes on chain for it
        self.state = WAITING
        lay_fee(self.parts, self.floor_msat, fee_msat)  # a larger one fitted
        return self._note()

    @cython.cfunc
    def _proceed_over_existing(self) -> tuple:
        """Let the parts out while the channel has room for them all; else open one (rule:18)."""
        limits = self.limits
        floor: cython.ulonglong = max(1, limits.htlc_minimum_msat)
        most: cython.ulonglong = min(limits.spendable_msat, limits.max_in_flight_msat)
        told = self.forwards
        self.forwards = None
        if self.gone or not lay_fee(self.parts, floor, self.fee_msat) or less(self.sum_msat, self.fee_msat) > most:
            return self._open_instead()
        self.floor_msat = floor
        if told is not None and told == self._outgoing(len(self.parts), False):
            self.forwards = told
            return self._release()
        return self._note()

    @cython.cfunc
    def _open_instead(self) -> tuple:
        """Open a channel after all, for the whole fee: the one that the client has cannot carry it any more."""
        buy: JitChannel = self.buy
        leave = self.leave_existing()
        self.registry.use_no_more(self)
        self.existing = self.limits = self.forwards = None
        self.left_existing = True
        self.committed = self.sent = self.gone = False
        self.recorded = 0
        self.fee_msat += self.waived_msat
        self.waived_msat = 0
        self.floor_msat = max(1, buy.floor_msat)
        self.state = OPENING
        self.step = CHOOSING
        out_msat: cython.ulonglong = less(self.sum_msat, self.fee_msat)
        return (leave, ReserveCoins(buy.jit_scid, self.payment_hash, out_msat, self.held, False))

    def _open(self, arg):
        self._done(STORING_INTENT)
        self.step = AT_OPEN
        return (OpenChannel(self.buy.jit_scid, self.payment_hash, self.funding),)

    def _await_ready(self, opened):
        self._done(AT_OPEN)
        self._own(opened.channel)
        self.state = WAITING
        self._watch_reservation()
        misfit, shed = (None, NOTHING) if opened.limits is None else self._fit(opened.limits)
        if misfit is not None:
            return shed + self._give_up(misfit)  # O-05, O-06: while nothing is public yet
        ready = AwaitReady(self.buy.jit_scid, self.payment_hash, self.channel.channel_id)
        if self.buy.client_trusts_lsp:
            return (*shed, ready) if shed else (ready,)
        self.step = STORING_CHANNEL  # the next step puts it on chain: journal first
        # P16: that record says where each part goes, too
        self.recorded = 0 if opened.limits is None else len(self.parts)
        return (*shed, self._persist("channel"), ready)

    def _open_failed(self, by_client):
        self._done(CHOOSING | AT_OPEN)
        return self._give_up(UNKNOWN_NEXT_PEER if by_client else TEMPORARY)  # O-08, O-09

    def _store_failed(self, arg):
        """Give up without doing anything irreversible: the record could not be written (rule:11, K-23)."""
        self._done(STORING_INTENT | STORING_CHANNEL | STORING_FORWARDS)
        return self._give_up(TEMPORARY)

    # Awaiting channel ready -----------------------------------------------------------------------

    def _stored(self, arg):
        if self._done(STORING_CHANNEL | STORING_FORWARDS) == STORING_CHANNEL:
            self.committed = True
            return self._broadcast_again()
        if self.existing is not None and self.gone and self.state == WAITING:
            return self._open_instead()
        if self.existing is not None and self.limits is None and self.state == WAITING:
            return (PrepareChannel(self.buy.jit_scid, self.payment_hash, self.existing),)
        if self.state == WAITING and carried(self.parts, -1) < self.fee_msat:
            return self._proceed()  # a part that bore a share was dropped during the write: laid anew
        actions = self._release()
        return actions + self._finish() if self.state == BROADCASTING else actions

    def _ready(self, limits):
        self.limits = limits
        return self._proceed()

    def _broadcast(self, arg):
        if not self.committed:
            raise ProtocolBug("FUNDING_BROADCAST for a funding that was not ordered to be sent")
        self.sent = True
        if self.state == WAITING:
            return self._proceed()
        return self._finish() if self.state == BROADCASTING else NOTHING

    @cython.cfunc
    def _proceed(self) -> tuple:
        """Lay the fee and journal the forwards once the channel is usable and, where promised, on its way (O-10)."""
        if self.limits is None or self.step != IDLE or not (self.buy.client_trusts_lsp or self.sent):
            return NOTHING
        if self.existing is not None:
            return self._proceed_over_existing()
        told = self.forwards  # as the channel's record has them; None when something has changed since
        misfit, shed = self._fit(self.limits)
        if misfit is None and told is not None and told == self._outgoing(len(self.parts), False):
            self.forwards = told
            return self._release()
        if misfit is None:
            return shed + self._note()
        given_up = shed + self._give_up(misfit)
        if self.reused:  # it will never carry this payment, and it is not paid for: another may (A-07, people:L9)
            given_up += (CloseChannel(self.buy.jit_scid, self.channel.channel_id),)
        return given_up

    def _ready_timeout(self, arg):
        if self.existing is not None and self.step == IDLE:
            return self._open_instead()
        return self._give_up(TEMPORARY)

    def _guard(self, height):
        """Give up when a part comes near its expiry (K-06, rule:5); any other height is about a reservation."""
        if height + MARGIN < self.earliest():
            return self._on_block(height)
        return self._give_up(TEMPORARY)

    def _shut_down(self, arg):
        """Answer what is held before the plugin ends; record and channel stay for the next start (cln:W12)."""
        failed = self._answer_held(TEMPORARY)
        if self.state < WITH_CLIENT:
            self.state = FAILED if self.state == COLLECTING or self.committed else ABORTING
        return failed

    def _channel_closed(self, never_sent):
        """Fail what is held, and put nothing more into a channel that lightningd says is gone (rule:23).

        `never_sent`: the executor of `Broadcast` has looked, and its funding is not and will not be sent.
        """
        known: cython.bint = self.gone
        self.gone = True
        if self.existing is not None and self.state == WAITING:
            return NOTHING  # what is under way, a write or `PrepareChannel`, ends first, and then another is opened
        self.never_sent = self.never_sent or bool(never_sent)
        failed = self._answer_held(TEMPORARY)
        if self.sent:  # it was ours, and its close brings our coins back
            if self.state == WAITING:
                return failed + self._undo_or_wait()  # of a write under way, lest its result reach the next payment
            return failed  # parts that are out are resolved on chain, each with its own fee (rule:20)
        name = "a channel that is being opened" if self.channel is None else f"channel {self.channel.channel_id}"
        if self.committed and not self.never_sent:  # the Broadcast under way will tell
            if self.state == WAITING:
                self.state = ABORTING
            if known:
                return failed
            return (*failed, Alarm(f"{name} was closed; whether its funding was sent is being looked up"))
        if self.state != ABORTING or self.step == IDLE:
            failed += (Alarm(f"{name} was given up before its funding was sent: none of our coins go into it"),)
        return failed + self._never_funded()

    @cython.cfunc
    def _never_funded(self) -> tuple:
        """Undo a channel whose funding is sent by no one."""
        self.committed = False
        self._write_off()
        return self._undo_or_wait()

    def _sister_gone(self, arg):
        """Open another channel: the funding of this one is not sent, for it would pay one that is gone (trap:60)."""
        if self.sent or not self.committed:
            raise ProtocolBug("SISTER_GONE for a funding that is out, or was not ordered to be sent")
        if self.state != WAITING:  # given up, or the client holds money in it: the `Undo` tells of that
            self.gone = self.never_sent = True
            return self._answer_held(TEMPORARY) + self._never_funded()
        self.channel = self.limits = self.forwards = None
        self.committed = self.gone = False
        self.recorded = 0
        self.state = OPENING
        self.step = CHOOSING
        out_msat: cython.ulonglong = less(self.sum_msat, self.fee_msat)
        return (ReserveCoins(self.buy.jit_scid, self.payment_hash, out_msat, self.held, False),)

    # Forwarded and after --------------------------------------------------------------------------

    def _late(self, part: IncomingHtlc):
        """Let a part follow the others: journal it, then send it, with the fee that is still owed (C-18, H-17)."""
        other: IncomingHtlc
        buy: JitChannel = self.buy
        value: cython.ulonglong = part.amt_to_forward_msat
        alive: cython.ulonglong = 0
        for other in self.parts:
            if other.status != LOST:
                alive += min(other.amt_to_forward_msat, MOST_MSAT - alive)
        alone: cython.bint = not buy.fixed or buy.dead or self.gone or self.existing is not None  # C-24
        if (
            alone
            or value < self.floor_msat
            or len(self.parts) >= MAX_SESSION_PARTS
            or value > less(buy.most_msat, alive)
        ):
            return self._keep_out(part, "too late")
        room = self.registry.make_room(self, buy, part)
        if room is None:
            return self._keep_out(part, "no room")
        part.extra_fee_msat = min(less(self.fee_msat, carried(self.parts, -1)), value - self.floor_msat)
        self._hold(part)
        return room + self._note()

    def _drop_late(self, part: IncomingHtlc):
        """Fail a late part that can go no further; what is out already is not touched."""
        if part.status != HELD:
            return NOTHING
        self._let_go(part, LOST)
        self.forwards = None
        return (FailParts((part.key,), TEMPORARY),)

    def _late_store_failed(self, arg):
        """Fail late parts that could not be journalled; the others go on (rule:11)."""
        self._done(STORING_FORWARDS)
        failed = self._answer_held(TEMPORARY)
        return failed + self._finish() if self.state == BROADCASTING else failed

    def _claim(self, arg):
        """Note that the client fulfilled a part: from here on the channel is owed to it (rule:8)."""
        part: IncomingHtlc = arg[0]
        if part.status == FORWARDED:
            self.in_flight -= 1
        elif part.status == LOST:  # a preimage counts even for a part that was reported lost before (K-11)
            self.forwards = None
        else:
            return NOTHING
        part.status = FULFILLED
        self.fulfilled += 1
        self.claimed = True
        if arg[1] is not None:
            self.preimage = arg[1]
        if self.state == BROADCASTING:
            return self._finish()
        self.state = BROADCASTING
        self.committed = True
        if self.sent:
            return self._finish()
        return self._broadcast_again()

    def _lose(self, part: IncomingHtlc):
        """Lose this part alone (K-10); the session ends when none is left that could still be paid."""
        if part.status != FORWARDED:
            return NOTHING
        part.status = LOST
        self.forwards = None
        self.in_flight -= 1
        if self.existing is not None:
            self.buy.no_reuse = True  # the client may want it over a channel of its own purchase only
        if self.state == BROADCASTING:
            return self._finish()
        if self.in_flight:
            return NOTHING
        return self._give_up_for_others()

    @cython.cfunc
    def _finish(self) -> tuple:
        """End a session that is claimed, on chain and without open parts: paid if the fee came (rule:20)."""
        if self.sent and not self.in_flight and self.step == IDLE:
            self.state = SUCCEEDED if self.fee_paid() >= self.fee_msat else UNDERPAID
        return NOTHING

    def _money_seen(self, arg):
        """Put the channel on chain: it holds money of the client, whatever is known of its parts (rule:25)."""
        if self.sent or self.channel is None or self.never_sent:
            return NOTHING
        if self.state == ABORTING:
            self._write_off()
        return (
            Alarm(f"channel {self.channel.channel_id} holds money of the client, and no part is known as paid"),
            *self._owe_broadcast(),
        )

    def _owe_broadcast(self):
        """Owe the funding to the chain from now on; an undo under way decides nothing any more."""
        self.claimed = self.committed = True
        self.state = BROADCASTING
        if self.step == UNDOING:
            self.step = IDLE
        self._watch_reservation()
        return self._broadcast_again()

    def _on_block(self, height):
        """Fail late parts whose record takes too long (K-06); renew a reservation before it runs out (O-04, rule:7)."""
        failed = self._answer_held(TEMPORARY, height + MARGIN)
        if self.funding is None or self.sent or height < self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS:
            return failed
        self.funding = replace(self.funding, reserved_to_block=height + RENEW_BLOCKS)
        return (*failed, RenewInputs(self.buy.jit_scid, self.payment_hash, self.funding))

    # Ending --------------------------------------------------------------------------------------

    def _reject(self, part: IncomingHtlc):
        """Fail the newcomer; the record of the others still holds."""
        return self._keep_out(part, "too late")

    @cython.cfunc
    def _keep_out(self, part: IncomingHtlc, why: str) -> tuple:
        """Fail a newcomer for now, counted by its reason."""
        part.status = LOST
        self.registry.refused[why] += 1
        return (FailParts((part.key,), TEMPORARY),)

    def _undo_late_result(self, arg):
        """Undo what was made by a step that was under way when the session was given up (K-19)."""
        self._done(CHOOSING | STORING_INTENT | AT_OPEN | STORING_CHANNEL | STORING_FORWARDS)
        if isinstance(arg, Funding):
            self.funding = arg
        elif arg is not None and not isinstance(arg, (bool, ExistingChannel)):
            self._own(arg.channel)
        return self._undo_or_wait()

    def _undone(self, arg):
        self._done(UNDOING)
        self.state = FAILED if self.channel is None else ABANDONED
        return NOTHING

    def _already_broadcast(self, channel):
        """Note that the funding is on its way; with a channel, the undo found money of the client in it (K-11)."""
        if isinstance(channel, Channel):
            self._done(UNDOING)
            self.committed = True
            self._own(channel)
        elif not self.committed:
            raise ProtocolBug("FUNDING_BROADCAST for a funding that was not ordered to be sent")
        self.sent = True
        if self.step == IDLE:
            self.state = FAILED  # public, and its fee not paid (O-13)
        return NOTHING

    def _claim_after_abort(self, arg):
        """Owe the client its channel, if there is one: a preimage came after we gave up (K-11, rule:23)."""
        part: IncomingHtlc = arg[0]
        if self.channel is None or part.status == FULFILLED:
            return NOTHING
        part.status = FULFILLED
        self.fulfilled += 1
        self.claimed = True
        if arg[1] is not None:
            self.preimage = arg[1]
        self._write_off()
        what = f"a part of {self.payment_hash.hex()} was paid after its channel was given up"
        if self.never_sent:
            return (Alarm(f"{what}; lightningd has no such channel any more, so nothing is sent"),)
        self.buy.dead = True  # closed, or about to be: nothing more goes through it
        if self.sent:
            self.state = BROADCASTING
            return (Alarm(f"{what}: it is on chain"), *self._finish())
        return (Alarm(f"{what}: broadcasting"), *self._owe_broadcast())


_HANDLERS = tuple([None if name in ("bug", "skip") else getattr(Session, f"_{name}") for name in RULES])
