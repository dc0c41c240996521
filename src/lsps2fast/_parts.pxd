# C types of `_parts.pyx`; what the fields mean stands there.

cdef class IncomingHtlc:
    cdef readonly object jit_scid
    cdef readonly bytes payment_hash
    cdef readonly unsigned long long in_scid
    cdef readonly unsigned long long htlc_id
    cdef readonly unsigned long long amount_msat
    cdef readonly unsigned long long amt_to_forward_msat
    cdef readonly unsigned long long cltv_expiry
    cdef readonly unsigned long long outgoing_cltv_value
    cdef readonly str in_channel
    cdef readonly tuple key
    cdef readonly int status
    cdef readonly unsigned long long extra_fee_msat
    cdef object session

    cdef object forward(self)

cdef unsigned long long less(unsigned long long amount, unsigned long long by) noexcept
cpdef object opening_fee_msat(
    unsigned long long payment_size_msat, unsigned long long min_fee_msat, unsigned long long proportional
)
cdef bint fee_fits(list parts, unsigned long long floor_msat, unsigned long long fee_msat) except? -1
cdef bint lay_fee(list parts, unsigned long long floor_msat, unsigned long long fee_msat) except? -1
cdef unsigned long long carried(list parts, int status) except? 0
cdef list smallest(
    list parts, IncomingHtlc newcomer, list besides, long long over_parts, unsigned long long over_msat
)
