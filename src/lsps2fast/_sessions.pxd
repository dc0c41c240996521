# C types of `Sessions`: the machine as C sees it. What the fields mean stands in `_sessions.pyx`.

from lsps2fast._fsm cimport Buy, Owner, Session

cdef class Sessions(Owner):
    cdef readonly dict buys
    cdef readonly unsigned long long height
    cdef readonly unsigned long long collect_ms
    cdef readonly int max_sets
    cdef readonly int live
    cdef readonly dict by_hash
    cdef readonly object hashes
    cdef list _changes
    cdef set _online
    cdef dict _by_peer
    cdef list _expiry
    cdef Session _first_due
    cdef Session _last_due
    cdef bint _closing

    cpdef Buy add_buy(self, object jit_scid, str peer_id, object terms, int attempts=*)
    cpdef tuple part(
        self,
        object jit_scid,
        bytes payment_hash,
        unsigned long long in_scid,
        unsigned long long htlc_id,
        unsigned long long amount_msat,
        unsigned long long value_msat,
        unsigned long long cltv_expiry,
        unsigned long long outgoing_cltv,
        unsigned long long now_ms,
        unsigned long long wall_ms,
    )
    cpdef tuple take(self, object jit_scid, bytes payment_hash, int kind, object arg=*)
    cpdef tuple resolved(
        self, unsigned long long in_scid, unsigned long long htlc_id, bytes payment_hash, object preimage=*
    )
    cpdef tuple block(self, unsigned long long height)

    cdef str _misfit(
        self,
        Buy buy,
        unsigned long long amount,
        unsigned long long value,
        unsigned long long cltv,
        unsigned long long outgoing,
    )
    cdef str _no_new_set(self, Buy buy)
    cdef Session _new_session(self, Buy buy, bytes payment_hash, unsigned long long now_ms)
    cdef tuple _again(self, long long place, object jit_scid, bytes payment_hash)
    cdef tuple _lapse(self, Buy buy, unsigned long long wall_ms)
    cdef tuple _conclude(self, Session session, tuple actions)
    cdef _wait(self, Session session, unsigned long long due_ms)
    cdef _wait_no_more(self, Session session)
    cdef _begun(self, Session session)
    cdef _over(self, Session session)
    cdef tuple _forget(self, Buy buy, str outcome)
    cdef tuple _retire(self, Buy buy)
    cdef tuple _end(self, Session session)
    cdef tuple _succeed(self, Buy buy, Session session)
    cdef tuple _free(self, Buy buy, Session session)
