# cython: language_level=3, binding=False
"""The parts of one payment in packed rows, what is kept running over them, and the fee laid on them.

Nothing here decides anything: the rules are in `_fsm.pyx`. Sums are checked before they are made: no u64 wraps.
"""

import cython

from lsps2fast.actions import Forward, Part
from lsps2fast.errors import ProtocolBug

if cython.compiled:
    from cython.cimports.lsps2fast._live import Live
    from cython.cimports.lsps2fast._raw import DEAD, HELD, OUT, Row, free_rows, make, more_rows, no_rows
else:
    from lsps2fast._live import Live
    from lsps2fast._raw_py import DEAD, HELD, OUT, Row, free_rows, make, more_rows, no_rows

    Parts = None  # annotations name it before it is there

CLTV_MARGIN_BLOCKS = 6  # K-06: failing at or after expiry is too late
MARGIN = cython.declare(cython.uint, CLTV_MARGIN_BLOCKS)
MOST_MSAT = cython.declare(cython.ulonglong, 0xFFFF_FFFF_FFFF_FFFF)
NEVER = cython.declare(cython.uint, 0xFFFF_FFFF)  # a height
FIRST_ROOM = cython.declare(cython.int, 4)  # rows of a new session
MOST_ROWS = cython.declare(cython.int, 1023)  # what a place in `Live` can name


@cython.ccall
def opening_fee(
    payment_size_msat: cython.ulonglong, min_fee_msat: cython.ulonglong, proportional: cython.ulonglong
) -> object:
    """The opening fee in msat, or None when the computation leaves u64 (F-01 to F-03)."""
    if proportional != 0 and payment_size_msat > MOST_MSAT // proportional:
        return None
    product: cython.ulonglong = payment_size_msat * proportional
    if product > MOST_MSAT - 999_999:
        return None
    return max((product + 999_999) // 1_000_000, min_fee_msat)


@cython.cfunc
@cython.exceptval(check=False)
def lay(
    rows: cython.pointer(Row), count: cython.int, floor_msat: cython.ulonglong, fee_msat: cython.ulonglong
) -> cython.bint:
    """Lay the fee on the held ones of these parts, in order (H-04). False when it cannot be laid: see `allocate`."""
    number: cython.int
    value: cython.ulonglong
    share: cython.ulonglong
    room: cython.ulonglong = MOST_MSAT  # of the sum
    rest: cython.ulonglong = fee_msat
    for number in range(count):
        if rows[number].status == HELD:
            value = rows[number].value_msat
            if value < floor_msat or value > room:
                return False
            room -= value
            share = min(rest, value - floor_msat)
            rest -= share
            rows[number].taken_msat = share
    return rest == 0


def allocate(values_msat, floor_msat, fee_msat):
    """Lay `fee_msat` on parts worth `values_msat`, in order; the list of what is taken from each (H-04).

    None when it cannot be taken: a part lies below the floor (never below 1 msat, H-03), the sum leaves u64 (H-07)
    or the parts above the floor do not carry the fee (H-05). The taken sum is the fee to the msat (H-06).
    """
    number: cython.int
    parts: Parts = Parts()
    for value in values_msat:
        number = parts.count
        parts.knock(0, number, value, 0)
        parts.count += 1
    if not lay(parts.rows, parts.count, max(1, floor_msat), fee_msat):
        return None
    return [parts.rows[number].taken_msat for number in range(parts.count)]


@cython.cclass
class Chain:
    """Sets of parts in order of arrival, each naming the `next`: `first`, and how many (`live`)."""

    def __init__(self):
        self.first, self.live = None, 0

    @cython.cfunc
    def links(self) -> list:
        """All of them, a copy: inputs end sessions."""
        link: Parts = self.first
        found = []
        while link is not None:
            found.append(link)
            link = link.next
        return found

    @cython.cfunc
    def append(self, link: Parts):
        """Put one at the end."""
        last: Parts = self.first
        self.live += 1
        if last is None:
            self.first = link
            return
        while last.next is not None:
            last = last.next
        last.next = link

    @cython.cfunc
    def remove(self, link: Parts):
        """Take one out; it must be there."""
        before: Parts = self.first
        self.live -= 1
        if before is link:
            self.first = link.next
        else:
            while before.next is not link:
                before = before.next
            before.next = link.next
        link.next = None


@cython.cclass
class Parts:
    """The parts of one payment, in order of arrival. `rows[count]` is the one at the door."""

    def __init__(self):
        self.clear()

    @cython.cfunc
    def clear(self):
        """None yet."""
        self.index = None  # where all parts are found, once the session is live
        self.rows = no_rows()
        self.room = 0
        self.count = 0
        self.slot = -1  # in the index
        self.small = 0  # parts below the floor, kept running
        self.sum_msat = 0  # of the values, kept running by the rules
        self.min_cltv = NEVER  # earliest expiry, kept running
        self.floor_msat = 1  # no part goes out with less (H-03)

    def __dealloc__(self):
        free_rows(self.rows)

    @cython.cfunc
    def begin(self, index: Live):
        """The session is live: its parts are found from now on."""
        self.index = index
        self.slot = index.enter(self, self.rows)

    @cython.cfunc
    def end(self):
        """It is over: they are found no more, but can still be looked at."""
        self.index.leave(self.slot, self.count)
        self.slot = -1

    @cython.cfunc
    def knock(
        self,
        in_scid: cython.ulonglong,
        htlc_id: cython.ulonglong,
        value_msat: cython.ulonglong,
        cltv_expiry: cython.ulonglong,
    ):
        """A part is at the door. It counts as one of ours only once it is held."""
        at: cython.int = self.count
        if at == self.room:
            if at >= MOST_ROWS:
                raise ProtocolBug(f"more than {MOST_ROWS} parts")
            self.room = min(at + max(2, at // 4), MOST_ROWS) if at else FIRST_ROOM
            self.rows = more_rows(self.rows, self.room)
            if self.slot >= 0:
                self.index.moved(self.slot, self.rows)
        self.rows[at].in_scid = in_scid
        self.rows[at].htlc_id = htlc_id
        self.rows[at].value_msat = value_msat
        self.rows[at].taken_msat = 0
        self.rows[at].cltv_expiry = min(cltv_expiry, NEVER)
        self.rows[at].status = HELD

    @cython.cfunc
    def hold(self):
        """The part at the door is one of ours from now on."""
        at: cython.int = self.count
        cltv: cython.uint = self.rows[at].cltv_expiry
        self.count += 1
        self.index.add(self.slot, at)
        self.index.watch(self.slot, cltv - MARGIN if cltv > MARGIN else 0)
        if cltv < self.min_cltv:
            self.min_cltv = cltv
        if self.rows[at].value_msat < self.floor_msat:
            self.small += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def revive(self, forward: object) -> cython.int:
        """After a start: a part that went out before (`actions.Forward`). 0."""
        at: cython.int = self.count
        value: cython.ulonglong = forward.forward_msat + forward.extra_fee_msat
        self.knock(forward.in_scid, forward.htlc_id, value, 0)
        self.rows[at].taken_msat = forward.extra_fee_msat
        self.rows[at].status = OUT
        self.count += 1
        self.sum_msat += value
        self.index.add(self.slot, at)
        return 0

    # One part ------------------------------------------------------------------------------------

    @cython.cfunc
    def key(self, number: cython.int) -> tuple:
        """What lightningd calls it (C-03, rule:3)."""
        return (self.rows[number].in_scid, self.rows[number].htlc_id)

    @cython.cfunc
    def forward(self, number: cython.int) -> object:
        """It as it goes out."""
        taken: cython.ulonglong = self.rows[number].taken_msat
        value: cython.ulonglong = self.rows[number].value_msat
        return make(Forward, (self.rows[number].in_scid, self.rows[number].htlc_id, value - taken, taken))

    def part(self, number: cython.int):
        """It as `actions.Part`."""
        return Part(
            self.rows[number].in_scid,
            self.rows[number].htlc_id,
            self.rows[number].value_msat,
            self.rows[number].cltv_expiry,
            self.rows[number].taken_msat,
            self.rows[number].status,
        )

    # All parts -----------------------------------------------------------------------------------

    @property
    def parts(self):
        """All of them, as `actions.Part`."""
        return tuple([self.part(number) for number in range(self.count)])

    @cython.cfunc
    @cython.exceptval(check=False)
    def carries(self, fee_msat: cython.ulonglong) -> cython.bint:
        """Whether `lay` would lay this fee while all are held: without looking at each (H-05)."""
        count: cython.ulonglong = self.count
        return self.small == 0 and self.sum_msat - count * self.floor_msat >= fee_msat

    @cython.cfunc
    @cython.exceptval(check=False)
    def earliest(self) -> cython.uint:
        """The earliest expiry of those that are still held."""
        number: cython.int
        earliest: cython.uint = NEVER
        for number in range(self.count):
            if self.rows[number].status == HELD:
                earliest = min(earliest, self.rows[number].cltv_expiry)
        return earliest

    @cython.cfunc
    def outgoing(self, until: cython.int, only_held: cython.bint) -> tuple:
        """`Forward` of those before number `until` that are held, or of all that are not dead."""
        number: cython.int
        found = []
        for number in range(until):
            if self.rows[number].status == HELD or (not only_held and self.rows[number].status != DEAD):
                found.append(self.forward(number))
        return tuple(found)

    @cython.cfunc
    @cython.exceptval(check=False)
    def move(self, until: cython.int, status: cython.int, to: cython.int) -> cython.int:
        """Those before number `until` that have this status get another: so many."""
        number: cython.int
        moved: cython.int = 0
        for number in range(until):
            if self.rows[number].status == status:
                self.rows[number].status = to
                moved += 1
        return moved

    @cython.cfunc
    def take_held(self, cltv: cython.uint) -> tuple:
        """The keys of the held ones that expire at `cltv` or before; they are dead now."""
        number: cython.int
        keys = []
        for number in range(self.count):
            if self.rows[number].status == HELD and self.rows[number].cltv_expiry <= cltv:
                self.rows[number].status = DEAD
                keys.append(self.key(number))
        return tuple(keys)

    @cython.cfunc
    @cython.exceptval(check=False)
    def carried(self) -> cython.ulonglong:
        """What is taken, in sum, from those that are not dead."""
        number: cython.int
        taken: cython.ulonglong = 0
        for number in range(self.count):
            if self.rows[number].status != DEAD:
                taken += self.rows[number].taken_msat
        return taken
