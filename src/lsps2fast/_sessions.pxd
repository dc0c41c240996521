# C types of `Sessions`; what the fields mean stands in `_sessions.pyx`.

from lsps2fast._fsm cimport Session
from lsps2fast._live cimport Live
from lsps2fast._parts cimport IncomingHtlc
from lsps2fast._payment cimport Client, JitChannel

cdef class Sessions(Live):
    cdef readonly dict buys
    cdef readonly unsigned long long height
    cdef readonly int max_sets
    cdef readonly unsigned long long overpay_ppm
    cdef readonly unsigned long long min_part_msat
    cdef readonly unsigned long long min_final_expiry_blocks
    cdef readonly unsigned long long max_hold_blocks
    cdef dict _clients
    cdef list _expiry
    cdef bint _closing

    cpdef JitChannel add_buy(self, object jit_scid, str peer_id, object terms, int attempts=*)
    cpdef tuple part(self, IncomingHtlc htlc, unsigned long long now_ms, unsigned long long wall_ms)
    cpdef tuple handle(self, object jit_scid, bytes payment_hash, int kind, object arg=*)
    cpdef tuple resolved(self, tuple key, bytes payment_hash, object preimage=*)
    cpdef tuple block(self, unsigned long long height)

    cdef Client _client(self, str peer_id)
    cdef str _misfit(self, JitChannel buy, IncomingHtlc htlc)
    cdef tuple _first(self, JitChannel buy, IncomingHtlc htlc)
    cdef tuple _refuse(self, IncomingHtlc htlc, str failure, str why)
    cdef tuple _again(self, IncomingHtlc part, IncomingHtlc htlc)
    cdef tuple _lapse(self, JitChannel buy, unsigned long long wall_ms)
    cdef tuple _end(self, Session session)
    cdef tuple _leave(self, JitChannel buy, Session session)
    cdef tuple _succeed(self, JitChannel buy, Session session)
    cdef tuple _free(self, JitChannel buy, Session session)
    cdef tuple _retire(self, JitChannel buy)
    cdef tuple _forget(self, JitChannel buy, str outcome)
    cdef tuple _forget_or_wait(self, JitChannel buy, str outcome)
    cdef object _waiting(self, JitChannel buy, object channel)
