# C types of `_parts.pyx`; what the fields mean stands there.

from lsps2fast._live cimport Live
from lsps2fast._raw cimport Row

cpdef object opening_fee(
    unsigned long long payment_size_msat, unsigned long long min_fee_msat, unsigned long long proportional
)
cdef bint lay(Row* rows, int count, unsigned long long floor_msat, unsigned long long fee_msat) noexcept

cdef class Chain:
    cdef Parts first
    cdef int live

    cdef append(self, Parts link)
    cdef remove(self, Parts link)
    cdef list links(self)

cdef class Parts:
    cdef Parts next
    cdef Live index
    cdef Row* rows
    cdef int room
    cdef readonly int count
    cdef int slot
    cdef int small
    cdef readonly unsigned long long sum_msat
    cdef readonly unsigned int min_cltv
    cdef readonly unsigned long long floor_msat

    cdef clear(self)
    cdef begin(self, Live index)
    cdef end(self)
    cdef knock(
        self,
        unsigned long long in_scid,
        unsigned long long htlc_id,
        unsigned long long value_msat,
        unsigned long long cltv_expiry,
    )
    cdef hold(self)
    cdef int revive(self, object forward) except? -1
    cdef tuple key(self, int number)
    cdef object forward(self, int number)
    cdef bint carries(self, unsigned long long fee_msat) noexcept
    cdef unsigned int earliest(self) noexcept
    cdef tuple outgoing(self, int until, bint only_held)
    cdef int move(self, int until, int status, int to) noexcept
    cdef tuple take_held(self, unsigned int cltv)
    cdef unsigned long long carried(self) noexcept
