# C types of `_live.pyx`; what the fields mean stands there.

from lsps2fast._raw cimport Columns, Row

cdef class Live:
    cdef Columns* columns
    cdef list sessions
    cdef list free

    cdef int enter(self, object session, Row* rows) except? -1
    cdef leave(self, int slot, int count)
    cdef moved(self, int slot, Row* rows)
    cdef add(self, int slot, int number)
    cdef long long find(self, unsigned long long in_scid, unsigned long long htlc_id) noexcept
    cdef object session(self, long long place)
    cdef int number(self, long long place) noexcept
    cdef watch(self, int slot, unsigned int height)
    cdef rewatch(self, int slot, unsigned int height)
    cdef list due(self, unsigned int height)
