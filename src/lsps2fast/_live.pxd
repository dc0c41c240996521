# C types of `Live`.

from lsps2fast._fsm cimport Session
from lsps2fast._parts cimport IncomingHtlc
from lsps2fast._payment cimport JitChannel, Payment, Registry

cdef class Live(Registry):
    cdef readonly unsigned long long offline_ms
    cdef readonly unsigned long long collect_ms
    cdef readonly int max_held_parts
    cdef readonly int max_held_parts_per_peer
    cdef readonly int max_held_parts_per_buy
    cdef readonly unsigned long long max_held_msat
    cdef readonly unsigned long long max_held_msat_per_peer
    cdef readonly int beside_parts
    cdef readonly unsigned long long beside_msat
    cdef readonly int live
    cdef readonly dict by_hash
    cdef readonly object hashes
    cdef list _changes
    cdef object _collecting
    cdef object _complete
    cdef dict _at_height
    cdef list _heights
    cdef dict _owners
    cdef dict _over_existing

    cdef tuple conclude(self, Session session, tuple actions)
    cdef watch_no_more(self, Payment session)
    cdef list _evictable(self, int pot, JitChannel buy, Payment besides)
    cdef begun(self, Session session)
    cdef wait_for_parts(self, Session session)
    cdef over(self, Session session)
    cdef disown(self, JitChannel buy)
