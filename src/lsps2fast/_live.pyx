# cython: language_level=3, binding=False
"""The live sessions, each in a slot: where every part is, and at which height each session wants to be told.

What is looked up for every part, or swept for every block, stands in columns of `_raw`, not in objects. From outside
it is a read-only mapping from (in_scid, htlc_id) to `actions.Part`.
"""

import cython

if cython.compiled:
    from cython.cimports.lsps2fast._raw import (
        Row,
        columns_add,
        columns_close,
        columns_drop,
        columns_due,
        columns_enter,
        columns_find,
        columns_open,
        columns_watch,
        columns_watched,
    )
else:
    from lsps2fast._raw_py import (
        Row,
        columns_add,
        columns_close,
        columns_drop,
        columns_due,
        columns_enter,
        columns_find,
        columns_open,
        columns_watch,
        columns_watched,
    )

NUMBER_BITS = cython.declare(cython.int, 10)  # as in `_raw`
NUMBER_MASK = cython.declare(cython.int, 1023)
MOST_SESSIONS = cython.declare(cython.int, (1 << 22) - 1)
NEVER = cython.declare(cython.uint, 0xFFFF_FFFF)


@cython.final
@cython.cclass
class Live:
    """All live sessions of a node."""

    def __init__(self):
        secret0, secret1 = (hash(b"lsps2fast %d" % n) & 0xFFFF_FFFF_FFFF_FFFF for n in range(2))
        self.columns = columns_open(secret0, secret1)
        self.sessions = []  # by slot; None where it is free
        self.free = []

    def __dealloc__(self):
        columns_close(self.columns)

    # For sessions --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, session: object, rows: cython.pointer(Row)) -> cython.int:
        """A session begins, its parts in `rows`: its slot. Raises OverflowError when there are four million."""
        if self.free:
            slot: cython.int = self.free.pop()
            self.sessions[slot] = session
        else:
            slot = len(self.sessions)
            if slot >= MOST_SESSIONS:
                raise OverflowError("too many sessions")
            self.sessions.append(session)
        columns_enter(self.columns, slot, rows)
        columns_watch(self.columns, slot, NEVER)
        return slot

    @cython.cfunc
    def leave(self, slot: cython.int, count: cython.int):
        """It is over; its first `count` parts were found till now."""
        number: cython.int
        for number in range(count):
            columns_drop(self.columns, slot, number)
        columns_watch(self.columns, slot, NEVER)
        self.sessions[slot] = None
        self.free.append(slot)

    @cython.cfunc
    def moved(self, slot: cython.int, rows: cython.pointer(Row)):
        """Its parts are in `rows` now."""
        columns_enter(self.columns, slot, rows)

    @cython.cfunc
    def add(self, slot: cython.int, number: cython.int):
        """This row holds a part from now on."""
        columns_add(self.columns, slot, number)

    @cython.cfunc
    def watch(self, slot: cython.int, height: cython.uint):
        """Its session wants to be told BLOCK at `height`, if not earlier."""
        if height < columns_watched(self.columns, slot):
            columns_watch(self.columns, slot, height)

    @cython.cfunc
    def rewatch(self, slot: cython.int, height: cython.uint):
        """Its session was told; next it wants to be told at `height`."""
        columns_watch(self.columns, slot, height)

    # For those who look for them -----------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def find(self, in_scid: cython.ulonglong, htlc_id: cython.ulonglong) -> cython.longlong:
        """The place of a part, -1 if it is not here."""
        return columns_find(self.columns, in_scid, htlc_id)

    @cython.cfunc
    def session(self, place: cython.longlong) -> object:
        """Whose part that is."""
        return self.sessions[place >> NUMBER_BITS]

    @cython.cfunc
    @cython.exceptval(check=False)
    def number(self, place: cython.longlong) -> cython.int:
        """Which of its session's parts that is."""
        return place & NUMBER_MASK

    @cython.cfunc
    def due(self, height: cython.uint) -> list:
        """The sessions that wait for this height or a lower one."""
        return [self.sessions[slot] for slot in columns_due(self.columns, len(self.sessions), height)]

    # As a mapping --------------------------------------------------------------------------------

    def __len__(self):
        return self.columns.count

    def __contains__(self, key):
        return columns_find(self.columns, key[0], key[1]) >= 0

    def get(self, key, default=None):
        """The part (in_scid, htlc_id) as `actions.Part`."""
        place: cython.longlong = columns_find(self.columns, key[0], key[1])
        return default if place < 0 else self.session(place).part(self.number(place))

    def __getitem__(self, key):
        part = self.get(key)
        if part is None:
            raise KeyError(key)
        return part

    def __iter__(self):
        return iter([part.key for session in self.sessions if session is not None for part in session.parts])

    def items(self):
        """Every part with its key."""
        return [(key, self[key]) for key in self]
