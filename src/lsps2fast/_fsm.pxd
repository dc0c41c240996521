# C types of the machine's classes, for `_fsm.pyx` and `_sessions.pyx`; what the fields mean stands there.

cdef class Part:
    cdef readonly unsigned long long in_scid
    cdef readonly unsigned long long htlc_id
    cdef readonly unsigned long long amount_msat
    cdef readonly unsigned long long value_msat
    cdef readonly unsigned long long cltv_expiry
    cdef readonly unsigned long long taken_msat
    cdef readonly int status
    cdef readonly Session session

cdef class Buy:
    cdef readonly unsigned long long jit_scid
    cdef readonly str peer_id
    cdef readonly object terms
    cdef readonly dict sets
    cdef readonly Session holder
    cdef public object channel
    cdef public unsigned long long floor_msat
    cdef public bint paid
    cdef public bint dead
    cdef public bint expired
    cdef public int attempts

cdef class Session:
    cdef object owner
    cdef readonly Buy buy
    cdef readonly bytes payment_hash
    cdef readonly list parts
    cdef readonly int state
    cdef readonly unsigned long long sum_msat
    cdef readonly unsigned long long min_cltv
    cdef readonly unsigned long long fee_msat
    cdef readonly unsigned long long floor_msat
    cdef readonly int under_way
    cdef readonly int covered
    cdef readonly object funding
    cdef readonly object channel
    cdef readonly object limits
    cdef readonly object preimage
    cdef readonly bint committed
    cdef readonly bint sent
    cdef readonly int out
    cdef readonly int settled

    cpdef tuple apply(self, int kind, object arg=*)
    cdef _hold(self, Part part)
    cdef tuple _gather(self, Part part)
    cdef tuple _join(self, Part part)
    cdef tuple _late(self, Part part)
