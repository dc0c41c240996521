# cython: language_level=3, binding=True
"""What the rules of the session machine are made of: buys, what is known of one payment, and the steps taken with it.

A `Payment` holds parts, lays the fee on them, writes down where they go, lets them out together, answers them, gives
back what was made. Which of these an input causes, and in which state, is in `_fsm.pyx`, whose `Session` is a
`Payment` with rules.
"""

import cython

from lsps2fast.actions import (
    TEMPORARY,
    UNKNOWN_NEXT_PEER,
    Broadcast,
    FailParts,
    ForwardParts,
    LeaveChannel,
    PartStatus,
    Persist,
    SessionRecord,
    Undo,
)
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import State

if cython.compiled:
    from cython.cimports.lsps2fast._parts import IncomingHtlc, carried, lay_fee, less
else:
    from lsps2fast._parts import IncomingHtlc, carried, lay_fee, less

    Payment = None  # annotations name it before it is there

CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
RENEW_MARGIN_BLOCKS = 12  # O-04: renew long before the 72 blocks of fundpsbt are over
NOTHING = cython.declare(tuple, ())
NO_CHANNELS = cython.declare(dict, {})
MOST_MSAT = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)
MARGIN = cython.declare(cython.ulonglong, CLTV_MARGIN_BLOCKS)
NEVER = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)  # a height

HELD = cython.declare(cython.int, int(PartStatus.HELD))
FORWARDED = cython.declare(cython.int, int(PartStatus.FORWARDED))
FULFILLED = cython.declare(cython.int, int(PartStatus.FULFILLED))
LOST = cython.declare(cython.int, int(PartStatus.FAILED))

COLLECTING = cython.declare(cython.int, int(State.COLLECTING))
WAITING = cython.declare(cython.int, int(State.AWAITING_CHANNEL_READY))
WITH_CLIENT = cython.declare(cython.int, int(State.AWAITING_SETTLEMENT))
ABORTING = cython.declare(cython.int, int(State.ABORTING))
FAILED = cython.declare(cython.int, int(State.FAILED))

# The step under way, whose result must come before anything is undone. Bits, as in `_fsm.pyx`.
IDLE = cython.declare(cython.int, 1)
STORING_FORWARDS = cython.declare(cython.int, 32)
UNDOING = cython.declare(cython.int, 64)
STEPS = (
    "no step",
    "choosing coins",
    "writing the intent",
    "opening",
    "writing the channel",
    "writing the forwards",
    "undoing",
)


@cython.final
@cython.cclass
class Client:
    """A peer that bought: its buys, whether it is connected, and what is held for it (rule:24)."""

    def __init__(self, peer_id: str):
        self.peer_id = peer_id
        self.online = False
        self.buys = {}  # jit scid -> JitChannel
        self.held_parts = 0
        self.held_msat = 0


@cython.final
@cython.cclass
class JitChannel:
    """JitChannel(jit_scid, client, terms, most_msat)
--

    An accepted offer: one jit scid, the sessions on it, and the channel it has bought, if any.

    `owed_msat` is what is still to pay for the channel, once that is known; `closing` the channels of this buy, by id,
    whose money is not back yet; `dead` says that no channel will ever be reached over this scid again.
    """  # fmt: skip

    def __init__(self, jit_scid, client: Client, terms, most_msat: cython.ulonglong):
        """`terms`: `actions.Terms`; `most_msat`: the largest sum that is accepted (rule:18)."""
        self.jit_scid = jit_scid
        self.client = client
        self.terms = terms
        self.fixed = terms.payment_size_msat is not None
        self.size_msat = terms.payment_size_msat if self.fixed else 0
        self.most_msat = most_msat
        self.delta_blocks = terms.cltv_expiry_delta_blocks
        self.valid_until_ms = terms.valid_until_ms
        self.client_trusts_lsp = terms.client_trusts_lsp
        self.sets = {}  # payment hash -> `Session`
        self.holder = None  # the session that makes or uses the channel (C-14)
        self.channel = None
        self.channel_ids = NOTHING  # of every channel that was made for it
        self.closing = NO_CHANNELS  # never changed, another takes its place
        self.closed = None  # the last one whose money came back
        self.floor_msat = 1
        self.owed_msat = self.fee_paid_msat = 0
        self.took_whole = False  # its last payment is underpaid, and the client took all that was bought
        self.paid = self.dead = self.expired = False
        self.no_reuse = False  # a part that went over a channel of the client failed: the next payment opens one
        self.attempts = 0
        self.held_parts = 0
        self.held_msat = 0
        self.oversized = None  # {payment hash: (until when, largest part)} of sets that failed for their size (C-10)

    @property
    def peer_id(self):
        """The client's node id."""
        return self.client.peer_id

    @cython.cfunc
    @cython.exceptval(check=False)
    def used_up(self, max_attempts: cython.int) -> cython.bint:
        """Return whether no channel may be opened for this buy any more (C-16), and there is none."""
        return self.dead or (self.channel is None and self.attempts >= max_attempts)


@cython.cclass
class Registry:
    """All that is live, as far as a payment needs it; the bodies are in `_live.pyx`."""

    @cython.cfunc
    def hold(self, buy: JitChannel, part: IncomingHtlc):
        """Count a part that is held from now on."""

    @cython.cfunc
    def let_go(self, buy: JitChannel, part: IncomingHtlc, status: cython.int):
        """Give a held part another status."""

    @cython.cfunc
    def own(self, buy: JitChannel, channel):
        """Find this buy by its channel, if there is one, from now on."""

    @cython.cfunc
    def use(self, session: Payment):
        """Find this session by the channel of its client that it goes over, from now on."""

    @cython.cfunc
    def use_no_more(self, session: Payment):
        """Find it by that channel no more."""

    @cython.cfunc
    def watch(self, session: Payment, height: cython.ulonglong):
        """Tell this session BLOCK at `height`; NEVER: at none."""

    @cython.cfunc
    def changed(self, session: Payment, before: cython.int):
        """Note that a session has left the state `before`."""

    @cython.cfunc
    def wait_for_client(self, session: Payment):
        """Let a complete set wait longer while its client is away (C-13)."""

    @cython.cfunc
    def make_room(self, session: Payment, buy: JitChannel, newcomer: IncomingHtlc):
        """Return the actions that make room for one more held part, None where there is no room (rule:24)."""


@cython.cclass
class Payment:
    """One payment attempt: the parts with one payment hash on one jit scid.

    `sum_msat` is the value of the parts that were held together, `fee_msat` the opening fee that they are to bring.
    """

    def __init__(self, registry: Registry, buy: JitChannel, payment_hash: bytes):
        self.registry = registry
        self.buy = buy
        self.payment_hash = payment_hash
        self.parts = []  # in order of arrival
        self.held = 0  # how many of them are held
        self.sum_msat = 0  # of those that were held together when it began
        self.floor_msat = max(1, buy.floor_msat)  # no part goes out with less (H-03)
        self.due_ms = 0
        self.watched = NEVER
        self.state = COLLECTING
        self.step = IDLE
        self.fee_msat = 0
        self.recorded = 0  # so many of the first parts stand in the last record, written or being written
        self.forwards = None  # of the last record, while nothing has changed since
        self.funding = None  # actions.Funding once coins are chosen
        self.channel = None  # actions.Channel once signed by both sides
        self.limits = None  # actions.ChannelLimits once usable
        self.preimage = None
        self.committed = False  # its funding was ordered on chain
        self.sent = False  # lightningd has it in the mempool or a block
        self.gone = False  # lightningd says that the channel is closed, closing or no more
        self.never_sent = False  # the executor has looked: it is no more, and its funding was not sent
        self.money_back = False  # gone, and a block has its close
        self.claimed = False  # the client has money in the channel
        self.reused = False  # the channel was public before this payment (O-13)
        self.existing = None  # actions.ExistingChannel: the parts go into a channel that the client had, none is opened
        self.waived_msat = 0  # of the opening fee, for that
        self.left_existing = False  # a channel is opened after all, and the record tells of the other
        self.counted = False  # it is one of its buy's attempts to open a channel (C-16)
        self.in_flight = 0
        self.fulfilled = 0

    # Parts --------------------------------------------------------------------------------------

    @cython.cfunc
    def _hold(self, part: IncomingHtlc):
        """Hold a part from now on."""
        part.session = self
        self.parts.append(part)
        self.held += 1
        self.forwards = None
        self.registry.hold(self.buy, part)
        height: cython.ulonglong = less(part.cltv_expiry, MARGIN)
        if height < self.watched:
            self.registry.watch(self, height)

    @cython.cfunc
    def _let_go(self, part: IncomingHtlc, status: cython.int):
        """Count a held part as answered."""
        self.held -= 1
        self.registry.let_go(self.buy, part, status)

    @cython.cfunc
    def _answer_held(self, failure: object, cltv: cython.ulonglong = NEVER) -> tuple:
        """Fail the held parts that expire at `cltv` or before."""
        part: IncomingHtlc
        if not self.held:
            return NOTHING
        keys = []
        for part in self.parts:
            if part.status == HELD and part.cltv_expiry <= cltv:
                self._let_go(part, LOST)
                keys.append(part.key)
        if not keys:
            return NOTHING
        self.forwards = None
        return (FailParts(tuple(keys), failure),)

    @cython.cfunc
    def _fail_alone(self, part: IncomingHtlc):
        """Count a held part as failed; the others go on without it."""
        self._let_go(part, LOST)
        self.sum_msat = less(self.sum_msat, part.amt_to_forward_msat)
        self.forwards = None

    @cython.cfunc
    @cython.exceptval(check=False)
    def _needed(self) -> cython.ulonglong:
        """Return the least sum that this payment is whole with."""
        return max(self.buy.size_msat, self.fee_msat + 1 if self.fee_msat < MOST_MSAT else MOST_MSAT)

    @cython.cfunc
    def _write_off(self):
        """Count the parts in a closed channel as failed: no event comes for them (cln:A3)."""
        part: IncomingHtlc
        for part in self.parts:
            if part.status == FORWARDED:
                part.status = LOST
        self.forwards = None
        self.in_flight = 0

    # The fee ------------------------------------------------------------------------------------

    @cython.cfunc
    def _fit(self, limits):
        """Lay the fee on the parts as this channel allows (H-04).

        Return the failure that all parts get where it does not, or None; and the actions for parts that fail alone.
        """
        if limits.to_self_delay_blocks > self.buy.terms.max_client_to_self_delay_blocks:
            return UNKNOWN_NEXT_PEER, NOTHING  # O-05
        self.floor_msat = self.buy.floor_msat = max(1, limits.htlc_minimum_msat)  # from now on on arrival (C-04)
        most: cython.ulonglong = min(limits.spendable_msat, limits.max_in_flight_msat)
        shed = self._shed(most)
        self.forwards = None
        if not lay_fee(self.parts, self.floor_msat, self.fee_msat) or less(self.sum_msat, self.fee_msat) > most:
            return TEMPORARY, shed  # O-06
        return None, shed

    @cython.cfunc
    def _shed(self, most_msat: cython.ulonglong) -> tuple:
        """Fail alone, last one first, what does not fit and what the payment is complete without (trap:26)."""
        part: IncomingHtlc
        unfit: cython.bint
        need: cython.ulonglong = self._needed()
        keys = []
        for part in reversed(self.parts):
            unfit = part.amt_to_forward_msat < self.floor_msat or less(self.sum_msat, self.fee_msat) > most_msat
            if unfit and part.status == HELD and less(self.sum_msat, part.amt_to_forward_msat) >= need:
                self._fail_alone(part)
                keys.append(part.key)
        return (FailParts(tuple(keys), TEMPORARY),) if keys else NOTHING

    @cython.cfunc
    @cython.exceptval(0, check=True)
    def fee_paid(self) -> cython.ulonglong:
        """Return what the parts that the client took have carried (rule:20)."""
        return carried(self.parts, FULFILLED)

    @cython.cfunc
    @cython.exceptval(0, check=True)
    def taken_msat(self) -> cython.ulonglong:
        """Return the value of the parts that the client took."""
        part: IncomingHtlc
        taken: cython.ulonglong = 0
        for part in self.parts:
            if part.status == FULFILLED:
                taken += min(part.amt_to_forward_msat, MOST_MSAT - taken)
        return taken

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def took_whole(self) -> cython.bint:
        """Whether the client took all that was bought, so that what failed beside it may be a stranger's (rule:22).

        Then no more of the fee may be missing than parts beyond the size can carry in proportion, and a msat a part for
        the rounding: a client whose smallest HTLC pushes the fee onto few parts evades it itself (people:S3).
        """
        buy: JitChannel = self.buy
        if not buy.fixed or self.taken_msat() < buy.size_msat:
            return False
        size: object = buy.size_msat  # objects: the products leave u64
        paid: object = self.fee_paid()
        return (paid + self.fulfilled) * buy.most_msat >= self.fee_msat * size

    @property
    def fee_paid_msat(self):
        """What this payment has brought of the opening fee so far."""
        return self.fee_paid()

    # Out to the client --------------------------------------------------------------------------

    @cython.cfunc
    def out_channel_id(self) -> str:
        """Return the id of the channel that the parts go into."""
        return self.channel.channel_id if self.existing is None else self.existing.channel_id

    @cython.cfunc
    def leave_existing(self):
        """Return the order that ends the use of a channel of the client; forwards may be promised at no fee (A-03)."""
        buy: JitChannel
        until_ms: cython.ulonglong = 0
        for buy in self.buy.client.buys.values():
            if buy.paid and buy.channel is not None and buy.channel.channel_id == self.existing.channel_id:
                until_ms = max(until_ms, buy.valid_until_ms)
        return LeaveChannel(self.buy.jit_scid, self.payment_hash, self.existing, until_ms)

    @cython.cfunc
    def _note(self) -> tuple:
        """Journal where each part goes before it goes (rule:2, H-16); one write at a time."""
        if self.step != IDLE:
            return NOTHING
        self.step = STORING_FORWARDS
        self.recorded = len(self.parts)
        return (self._persist("forwards"),)

    @cython.cfunc
    def _release(self) -> tuple:
        """Send every held part of the record together (H-15); journal next those that came during the write."""
        part: IncomingHtlc
        number: cython.int
        if self.state == WAITING:
            self.state = WITH_CLIENT
        forwards = self.forwards  # those of the record: the same, unless some went out before
        if forwards is None or self.in_flight or self.fulfilled:
            forwards = self._outgoing(self.recorded, True)
        for number in range(self.recorded):
            part = self.parts[number]
            if part.status == HELD:
                self._let_go(part, FORWARDED)
                self.in_flight += 1
        out = ForwardParts(self.buy.jit_scid, self.payment_hash, self.out_channel_id(), forwards)
        actions = (out,) if forwards else NOTHING
        return actions + self._note() if len(self.parts) > self.recorded else actions

    @cython.cfunc
    def _outgoing(self, until: cython.int, only_held: cython.bint) -> tuple:
        """Return `Forward` of the first `until` parts that are held, or of all that have not failed."""
        part: IncomingHtlc
        number: cython.int
        found = []
        for number in range(until):
            part = self.parts[number]
            if part.status == HELD or (not only_held and part.status != LOST):
                found.append(part.forward())
        return tuple(found)

    @cython.cfunc
    def _broadcast_again(self) -> tuple:
        return (Broadcast(self.buy.jit_scid, self.payment_hash, self.channel),)

    # Ending -------------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def _done(self, steps: cython.int) -> cython.int:
        """Return which of these steps is done. Raises ProtocolBug if none of them was under way."""
        step: cython.int = self.step
        if not step & steps:
            raise ProtocolBug(f"the result of a step that is not under way: {STEPS[int(step).bit_length() - 1]} is")
        self.step = IDLE
        return step

    @cython.cfunc
    def _fail(self, failure: object) -> tuple:
        """End a session that has made nothing yet."""
        self.state = FAILED
        return self._answer_held(failure)

    @cython.cfunc
    def _give_up_for_others(self) -> tuple:
        """As `_give_up`, where a stranger may have done it: the buy keeps its attempts (rule:22, people:L1)."""
        if self.counted:
            self.counted = False
            self.buy.attempts -= 1
        return self._give_up(TEMPORARY)

    @cython.cfunc
    def _give_up(self, failure: object) -> tuple:
        """End a session in any state before a preimage: answer what is held, then undo what was made."""
        failed = self._answer_held(failure)
        return failed + self._undo_or_wait()

    @cython.cfunc
    def _undo_or_wait(self) -> tuple:
        """Give back what was made, once no result is awaited any more.

        A public channel stays, its fee unpaid (O-13).
        """
        self.state = ABORTING
        if self.step != IDLE:
            return NOTHING  # its result comes; `undo_late_result` goes on from there
        if self.sent or (self.funding is None and self.channel is None):
            self.state = FAILED
            return NOTHING
        if self.committed:
            return NOTHING  # the broadcast under way will tell: FUNDING_BROADCAST or CLOSED
        self.step = UNDOING
        return (Undo(self.buy.jit_scid, self.payment_hash, self.channel, self.funding),)

    # Heights and records ------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(0, check=True)
    def earliest(self) -> cython.ulonglong:
        """Return the earliest expiry of the parts that are still held, NEVER if there is none."""
        part: IncomingHtlc
        earliest: cython.ulonglong = NEVER
        if self.held:
            for part in self.parts:
                if part.status == HELD:
                    earliest = min(earliest, part.cltv_expiry)
        return earliest

    @cython.cfunc
    @cython.exceptval(0, check=True)
    def next_height(self) -> cython.ulonglong:
        """Return the height at which this session has something to do, NEVER if there is none (K-06, O-04)."""
        height: cython.ulonglong = self.earliest()
        if self.state >= ABORTING:
            return NEVER
        if height != NEVER:
            height = less(height, MARGIN)
        if self.funding is not None and not self.sent:
            height = min(height, max(0, self.funding.reserved_to_block - RENEW_MARGIN_BLOCKS))
        return height

    @cython.cfunc
    def _watch_reservation(self):
        self.registry.watch(self, self.next_height())

    @cython.cfunc
    def _persist(self, stage: str):
        return Persist(self.buy.jit_scid, self.payment_hash, self.record(stage))

    @cython.ccall
    def record(self, stage: str) -> object:
        """Return this session as its record must have it at `stage` (see `actions.SessionRecord`)."""
        forwards = NOTHING
        if stage in ("forwards", "paid") or (self.state == WAITING and self.recorded):
            if self.forwards is None:
                self.forwards = self._outgoing(len(self.parts), False)
            forwards = self.forwards
        buy: JitChannel = self.buy
        paid: cython.ulonglong = buy.fee_paid_msat
        if stage == "paid":
            paid += min(self.fee_paid(), MOST_MSAT - paid)
        return SessionRecord(
            stage,
            self.payment_hash,
            buy.attempts,
            self.fee_msat,
            self.funding,
            self.channel,
            forwards,
            self.preimage,
            paid,
            self.existing,
        )
