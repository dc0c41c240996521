# C types of `_payment.pyx`; what the fields mean stands there.

from lsps2fast._parts cimport IncomingHtlc

cdef class Client:
    cdef readonly str peer_id
    cdef readonly bint online
    cdef readonly dict buys
    cdef readonly int held_parts
    cdef readonly unsigned long long held_msat

cdef class JitChannel:
    cdef readonly object jit_scid
    cdef readonly object terms
    cdef readonly Client client
    cdef readonly bint fixed
    cdef readonly bint client_trusts_lsp
    cdef readonly unsigned long long size_msat
    cdef readonly unsigned long long most_msat
    cdef unsigned long long delta_blocks
    cdef unsigned long long valid_until_ms
    cdef readonly dict sets
    cdef readonly Payment holder
    cdef public object channel
    cdef tuple channel_ids
    cdef public dict closing
    cdef public object closed
    cdef public unsigned long long floor_msat
    cdef public unsigned long long owed_msat
    cdef public unsigned long long fee_paid_msat
    cdef public bint took_whole
    cdef public bint paid
    cdef public bint dead
    cdef public bint expired
    cdef public bint no_reuse
    cdef public int attempts
    cdef readonly int held_parts
    cdef readonly unsigned long long held_msat
    cdef dict oversized

    cdef bint used_up(self, int max_attempts) noexcept

cdef class Registry:
    cdef readonly dict index
    cdef readonly unsigned long long now_ms
    cdef readonly int max_parts
    cdef readonly int max_attempts
    cdef readonly int held_parts
    cdef readonly unsigned long long held_msat
    cdef readonly dict refused

    cdef hold(self, JitChannel buy, IncomingHtlc part)
    cdef let_go(self, JitChannel buy, IncomingHtlc part, int status)
    cdef own(self, JitChannel buy, object channel)
    cdef use(self, Payment session)
    cdef use_no_more(self, Payment session)
    cdef watch(self, Payment session, unsigned long long height)
    cdef changed(self, Payment session, int before)
    cdef wait_for_client(self, Payment session)
    cdef make_room(self, Payment session, JitChannel buy, IncomingHtlc newcomer)

cdef class Payment:
    cdef Registry registry
    cdef readonly JitChannel buy
    cdef readonly bytes payment_hash
    cdef readonly list parts
    cdef readonly int held
    cdef readonly unsigned long long sum_msat
    cdef readonly unsigned long long floor_msat
    cdef readonly unsigned long long due_ms
    cdef unsigned long long watched
    cdef readonly int state
    cdef readonly int step
    cdef readonly unsigned long long fee_msat
    cdef readonly int recorded
    cdef tuple forwards
    cdef readonly object funding
    cdef readonly object channel
    cdef readonly object limits
    cdef readonly object preimage
    cdef readonly bint committed
    cdef readonly bint sent
    cdef readonly bint gone
    cdef readonly bint never_sent
    cdef readonly bint money_back
    cdef readonly bint claimed
    cdef readonly bint reused
    cdef readonly object existing
    cdef readonly unsigned long long waived_msat
    cdef bint left_existing
    cdef bint counted
    cdef readonly int in_flight
    cdef readonly int fulfilled

    cdef unsigned long long next_height(self) except? 0
    cdef unsigned long long earliest(self) except? 0
    cdef unsigned long long fee_paid(self) except? 0
    cdef unsigned long long taken_msat(self) except? 0
    cdef bint took_whole(self) except? -1
    cdef _hold(self, IncomingHtlc part)
    cdef _let_go(self, IncomingHtlc part, int status)
    cdef int _done(self, int steps) except? -1
    cdef _fit(self, limits)
    cdef tuple _shed(self, unsigned long long most_msat)
    cdef tuple _note(self)
    cdef str out_channel_id(self)
    cdef leave_existing(self)
    cdef tuple _release(self)
    cdef tuple _outgoing(self, int until, bint only_held)
    cdef tuple _fail(self, object failure)
    cdef tuple _give_up(self, object failure)
    cdef tuple _give_up_for_others(self)
    cdef tuple _undo_or_wait(self)
    cdef tuple _answer_held(self, object failure, unsigned long long cltv=*)
    cdef tuple _broadcast_again(self)
    cdef _write_off(self)
    cdef _fail_alone(self, IncomingHtlc part)
    cdef unsigned long long _needed(self) noexcept
    cdef _persist(self, str stage)
    cdef _watch_reservation(self)
    cpdef object record(self, str stage)
