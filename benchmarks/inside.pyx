# cython: language_level=3
"""The core from inside C: what `test_core.py` times without a call from Python for each step; and its yardstick."""

import cython
from cython.cimports.lsps2fast._parts import IncomingHtlc, lay_fee
from cython.cimports.lsps2fast._sessions import Sessions

EXPECTED = cython.declare(cython.ulonglong, 100_000)


@cython.cclass
class Empty:
    """An empty method, called from Python: the unit of P8 and P9."""

    def call(self):
        return None


def mark():
    """For `count.py`: callgrind dumps its counters when it gets here."""


def _htlc(scid: object, payment_hash: bytes, in_scid: object, number: object, cltv: object, outgoing: object):
    return IncomingHtlc(
        jit_scid=scid, payment_hash=payment_hash, in_scid=in_scid, htlc_id=number, amount_msat=EXPECTED,
        amt_to_forward_msat=EXPECTED, cltv_expiry=cltv, outgoing_cltv_value=outgoing,
    )  # fmt: skip


def more_parts(
    sessions: Sessions, scid: object, payment_hash: bytes, in_scid: object, first: cython.int, count: cython.int,
    cltv: object, outgoing: object, wall_ms: cython.ulonglong,
):  # fmt: skip
    """So many parts of one payment, numbered from `first`, each made here."""
    n: cython.int
    for n in range(first, first + count):
        sessions.part(_htlc(scid, payment_hash, in_scid, n, cltv, outgoing), 5_000, wall_ms)


def story(sessions: Sessions, calls: object):
    """One whole session (`work.Calls`), its parts made here."""
    number: cython.int
    scid = calls.scid
    payment_hash: bytes = calls.payment_hash
    preimage: bytes = calls.preimage
    first: IncomingHtlc = calls.parts[0][0]
    wall_ms: cython.ulonglong = calls.parts[0][2]
    for number in range(len(calls.parts)):
        part = _htlc(scid, payment_hash, scid, number, first.cltv_expiry, first.outgoing_cltv_value)
        sessions.part(part, 5_000, wall_ms)
    for _, _, kind, fact in calls.steps:
        sessions.handle(scid, payment_hash, kind, fact)
    sessions.resolved((scid, 0), payment_hash, preimage)
    sessions.handle(scid, payment_hash, calls.sent, None)
    for number in range(1, len(calls.parts)):
        sessions.resolved((scid, number), payment_hash, preimage)


@cython.cclass
class Fee:
    """Parts on which a fee can be laid, over and over."""

    parts: list

    def __init__(self, count: cython.int):
        self.parts = [_htlc(0, b"", 1, n, 0, 0) for n in range(count)]

    def lay(self, times: cython.int, fee_msat: cython.ulonglong):
        """Whether it was laid, so many times."""
        laid: cython.bint = True
        n: cython.int
        for n in range(times):
            laid = laid and lay_fee(self.parts, 1, fee_msat + n % 2)
        return laid
