# C types of `Session`.

from lsps2fast._parts cimport IncomingHtlc
from lsps2fast._payment cimport Payment

cdef class Session(Payment):
    cpdef tuple apply(self, int kind, object arg=*)
    cdef revive(self, object record, bint sent, bint public)
    cdef tuple _complete(self)
    cdef _refusal(self)
    cdef bint refuses(self, unsigned long long value) except? -1
    cdef _own(self, object channel)
    cdef tuple _begin(self)
    cdef tuple _fail_for_its_size(self, IncomingHtlc part)
    cdef tuple _never_funded(self)
    cdef tuple _proceed(self)
    cdef tuple _proceed_over_existing(self)
    cdef tuple _open_instead(self)
    cdef tuple _finish(self)
    cdef tuple _keep_out(self, IncomingHtlc part, str why)
    cdef list _in_its_way(self, IncomingHtlc part)
    cdef bint _is_whole_with(self, IncomingHtlc part) except? -1
