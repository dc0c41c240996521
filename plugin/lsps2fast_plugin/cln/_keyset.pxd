# Sets of fixed-size keys, which the lane looks up without the GIL; the bodies are in `_keyset.pyx`.

from libc.string cimport memcpy

ctypedef unsigned long long u64
ctypedef const unsigned char* p_text

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_cond_init(pthread_cond_t* cond, void* attributes)
    int pthread_cond_wait(pthread_cond_t* cond, pthread_mutex_t* mutex)
    int pthread_cond_broadcast(pthread_cond_t* cond)
    int pthread_cond_destroy(pthread_cond_t* cond)

cdef enum:
    PEER_SIZE = 66  # hex digits of a node id
    PEER_WORDS = 9

cdef struct Table:
    u64* keys  # `words` of them a slot
    unsigned char* used
    size_t mask  # slots - 1, a power of two less one
    size_t count
    int words
    u64 secret0
    u64 secret1

cdef bint table_open(Table* t, int words, u64 secret0, u64 secret1) noexcept nogil
cdef void table_close(Table* t) noexcept nogil
cdef u64 hash_of(const Table* t, const u64* key) noexcept nogil
cdef bint has(const Table* t, const u64* key) noexcept nogil
cdef bint put(Table* t, const u64* key) noexcept nogil
cdef void drop(Table* t, const u64* key) noexcept nogil

# ---- whose HTLC it is

cdef enum Verdict:
    FOREIGN
    OURS
    UNKNOWN

cdef struct Sets:  # what lane.Interest says, in C
    pthread_mutex_t mutex  # held for one block of bytes or one change, never over a system call
    Table scids
    Table channels
    Table hashes
    Table peers  # node ids as text, filled up with zeros
    Table known  # node ids likewise: peers whose messages are shed last
    u64 peer_marks  # which `mark` values the peers have
    bint final_hops
    bint channels_loaded
    bint loaded
    bint every_payment

cdef inline u64 mark(const unsigned char* peer) noexcept nogil:
    """One bit for the last digits of a node id: almost every peer that is not in the set is told from it by this."""
    cdef u64 tail
    memcpy(&tail, peer + PEER_SIZE - 8, 8)
    return <u64> 1 << (tail * 0x9E3779B97F4A7C15ULL >> 58)


cdef inline bint may_be_watched(const Sets* sets, const unsigned char* peer, Py_ssize_t size) noexcept nogil:
    """Ask `is_watched` or not. In the header, for other people's HTLCs cost 2.1 % more with a call and 1 % without."""
    return sets.peers.count != 0 and (peer == NULL or size != PEER_SIZE or sets.peer_marks & mark(peer) != 0)


cdef bint is_watched(Sets* sets, const unsigned char* peer, Py_ssize_t size) noexcept nogil
cdef Verdict judge(
    Sets* sets, const u64* scid, const u64* channel, const u64* payment_hash, bint has_extra
) noexcept nogil
