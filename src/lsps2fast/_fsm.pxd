# C types of the machine's classes, for `_fsm.pyx` and `_sessions.pyx`; what the fields mean stands there.

from lsps2fast._live cimport Live
from lsps2fast._parts cimport Chain, Parts

cdef class Owner:
    cdef readonly Live index
    cdef readonly int max_parts
    cdef readonly int max_attempts

    cdef changed(self, Session session, int before)

cdef class Buy(Chain):
    cdef readonly object jit_scid
    cdef readonly str peer_id
    cdef readonly bint fixed
    cdef readonly bint client_trusts_lsp
    cdef unsigned long long size_msat
    cdef unsigned long long min_fee_msat
    cdef unsigned long long proportional
    cdef unsigned long long min_size_msat
    cdef unsigned long long max_size_msat
    cdef unsigned long long max_delay_blocks
    cdef unsigned long long delta_blocks
    cdef unsigned long long valid_until_ms
    cdef readonly Session holder
    cdef Buy neighbour
    cdef bint online
    cdef public object channel
    cdef public unsigned long long floor_msat
    cdef public bint paid
    cdef public bint dead
    cdef public bint expired
    cdef public int attempts

    cdef bint used_up(self, int max_attempts)
    cdef Session find(self, bytes payment_hash)

cdef class Session(Parts):
    cdef Owner owner
    cdef readonly Buy buy
    cdef readonly bytes payment_hash
    cdef Session sooner
    cdef Session later
    cdef unsigned long long due_ms
    cdef readonly int state
    cdef readonly unsigned long long fee_msat
    cdef readonly int under_way
    cdef readonly int covered
    cdef tuple forwards
    cdef readonly object funding
    cdef readonly object channel
    cdef readonly object limits
    cdef readonly object preimage
    cdef readonly bint committed
    cdef readonly bint sent
    cdef readonly int out
    cdef readonly int settled

    cdef start(self, Owner owner, Buy buy, bytes payment_hash)
    cpdef tuple apply(self, int kind, object arg=*, int number=*)
    cdef tuple enter(self, int kind, object arg, int number)
    cdef unsigned int next_height(self) except? 0xFFFFFFFF
    cdef _hold(self)
    cdef tuple _gather(self)
    cdef tuple _join(self)
    cdef int _done(self, int steps) except? -1
    cdef tuple _shed(self, unsigned long long most_msat)
    cdef tuple _note(self)
    cdef tuple _release(self)
    cdef tuple _late(self)
    cdef tuple _settle(self, int number, object preimage)
    cdef tuple _lose(self, int number)
    cdef tuple _finish(self)
    cdef tuple _reject(self)
    cdef tuple _rescue(self, int number, object preimage)
    cdef _write_off(self)
    cdef tuple _complete(self)
    cdef _refusal(self)
    cdef tuple _begin(self)
    cdef tuple _proceed(self)
    cdef _fit(self, limits)
    cdef tuple _fail(self, object failure)
    cdef tuple _give_up(self, object failure)
    cdef tuple _unmake(self)
    cdef tuple _answer_held(self, object failure, unsigned int cltv=*)
    cdef _persist(self, stage)
    cdef _broadcast(self)
    cdef _watch_reservation(self)
    cpdef tuple journal(self, str stage)
