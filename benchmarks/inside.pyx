# cython: language_level=3
"""The core from inside C: what `test_core.py` times without a call from Python for each step; and its yardstick."""

import cython
from cython.cimports.lsps2fast._fsm import Session
from cython.cimports.lsps2fast._parts import Parts, lay
from cython.cimports.lsps2fast._sessions import Sessions

EXPECTED = cython.declare(cython.ulonglong, 100_000)


@cython.cclass
class Empty:
    """An empty method, called from Python: the unit of P8 and P9."""

    def call(self):
        return None


def mark():
    """For `count.py`: callgrind dumps its counters when it gets here."""


def more_parts(
    sessions: Sessions, scid: object, payment_hash: bytes, in_scid: cython.ulonglong, first: cython.int,
    count: cython.int, cltv: cython.ulonglong, outgoing: cython.ulonglong, wall_ms: cython.ulonglong,
):  # fmt: skip
    """So many parts of one payment, numbered from `first`."""
    n: cython.int
    for n in range(first, first + count):
        sessions.part(scid, payment_hash, in_scid, n, EXPECTED, EXPECTED, cltv, outgoing, 5_000, wall_ms)


def story(sessions: Sessions, calls: object):
    """One whole session (`work.Calls`)."""
    number: cython.int
    scid = calls.scid
    payment_hash: bytes = calls.payment_hash
    preimage: bytes = calls.preimage
    in_scid: cython.ulonglong = scid
    parts: list = calls.parts
    cltv: cython.ulonglong = parts[0][6]
    outgoing: cython.ulonglong = parts[0][7]
    wall_ms: cython.ulonglong = parts[0][9]
    for number in range(len(parts)):
        sessions.part(scid, payment_hash, in_scid, number, EXPECTED, EXPECTED, cltv, outgoing, 5_000, wall_ms)
    for _, _, kind, fact in calls.steps:
        sessions.take(scid, payment_hash, kind, fact)
    sessions.resolved(in_scid, 0, payment_hash, preimage)
    sessions.take(scid, payment_hash, calls.sent, None)
    for number in range(1, len(parts)):
        sessions.resolved(in_scid, number, payment_hash, preimage)


@cython.cclass
class Fee:
    """Parts on which a fee can be laid, over and over."""

    parts: Parts

    def __init__(self, count: cython.int):
        n: cython.int
        self.parts = Parts()
        for n in range(count):
            self.parts.knock(1, n, EXPECTED, 0)
            self.parts.count += 1

    def lay(self, times: cython.int, fee_msat: cython.ulonglong):
        """Whether it was laid, so many times."""
        laid: cython.bint = True
        n: cython.int
        for n in range(times):
            laid = laid and lay(self.parts.rows, self.parts.count, 1, fee_msat + n % 2)
        return laid


@cython.cclass
class Timers:
    """The timers of live sessions: the time-out of each set and the height of its earliest part."""

    sessions: Sessions
    live: list

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.live = [session for buy in sessions.buys.values() for session in buy.sets.values()]

    def add(self):
        """A time-out for each session."""
        session: Session
        for session in self.live:
            self.sessions._wait(session, 95_000)

    def cancel(self):
        """No time-out for any, in the order in which they began."""
        session: Session
        for session in self.live:
            self.sessions._wait_no_more(session)

    def watch(self):
        """An earlier height for each session."""
        session: Session
        for session in self.live:
            self.sessions.index.rewatch(session.slot, 900_000)
            self.sessions.index.watch(session.slot, 800_394)
