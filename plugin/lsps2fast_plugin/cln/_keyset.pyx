# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Keep sets of fixed-size keys, looked up by the lane without the GIL while the loop changes them.

Peers choose the keys (payment hashes, channel ids), so the hash is keyed: SipHash-1-3. Open addressing, at most half full.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    LEAST_SLOTS = 64

cdef struct Sip:
    u64 a
    u64 b
    u64 c
    u64 d


cdef inline u64 turn(u64 x, int by) noexcept nogil:
    return x << by | x >> (64 - by)


cdef inline void sip_round(Sip* s) noexcept nogil:
    s.a += s.b
    s.b = turn(s.b, 13) ^ s.a
    s.a = turn(s.a, 32)
    s.c += s.d
    s.d = turn(s.d, 16) ^ s.c
    s.a += s.d
    s.d = turn(s.d, 21) ^ s.a
    s.c += s.b
    s.b = turn(s.b, 17) ^ s.c
    s.c = turn(s.c, 32)


cdef inline u64 siphash(u64 secret0, u64 secret1, const u64* key, int words) noexcept nogil:
    """SipHash-1-3 of whole little-endian words (Aumasson and Bernstein, with one and three rounds)."""
    cdef Sip s
    cdef int n
    cdef u64 tail = <u64> (words * 8) << 56
    s.a = secret0 ^ 0x736F6D6570736575ULL
    s.b = secret1 ^ 0x646F72616E646F6DULL
    s.c = secret0 ^ 0x6C7967656E657261ULL
    s.d = secret1 ^ 0x7465646279746573ULL
    for n in range(words):
        s.d ^= key[n]
        sip_round(&s)
        s.a ^= key[n]
    s.d ^= tail
    sip_round(&s)
    s.a ^= tail
    s.c ^= 0xFF
    for n in range(3):
        sip_round(&s)
    return s.a ^ s.b ^ s.c ^ s.d


cdef bint table_open(Table* t, int words, u64 secret0, u64 secret1) noexcept nogil:
    """False when there is no memory."""
    memset(t, 0, sizeof(Table))
    t.words = words
    t.secret0 = secret0
    t.secret1 = secret1
    t.mask = LEAST_SLOTS - 1
    t.keys = <u64*> calloc(LEAST_SLOTS * words, sizeof(u64))
    t.used = <unsigned char*> calloc(LEAST_SLOTS, 1)
    return t.keys != NULL and t.used != NULL


cdef void table_close(Table* t) noexcept nogil:
    free(t.keys)
    free(t.used)
    t.keys = NULL
    t.used = NULL


cdef inline size_t home(const Table* t, const u64* key) noexcept nogil:
    return siphash(t.secret0, t.secret1, key, t.words) & t.mask


cdef inline size_t slot_of(const Table* t, const u64* key) noexcept nogil:
    """Where `key` is, or the free slot where it would go."""
    cdef size_t slot = home(t, key)
    while t.used[slot] and memcmp(t.keys + slot * t.words, key, t.words * sizeof(u64)) != 0:
        slot = (slot + 1) & t.mask
    return slot


cdef u64 hash_of(const Table* t, const u64* key) noexcept nogil:
    """A number that peers cannot foresee."""
    return siphash(t.secret0, t.secret1, key, t.words)


cdef bint has(const Table* t, const u64* key) noexcept nogil:
    return t.count != 0 and t.used[slot_of(t, key)]


cdef inline bint grow(Table* t) noexcept nogil:
    """Twice the slots; False, and nothing changed, when there is no memory."""
    cdef Table wide = t[0]
    cdef size_t slot, size = (t.mask + 1) * 2
    wide.mask = size - 1
    wide.keys = <u64*> calloc(size * t.words, sizeof(u64))
    wide.used = <unsigned char*> calloc(size, 1)
    if wide.keys == NULL or wide.used == NULL:
        table_close(&wide)
        return False
    for slot in range(t.mask + 1):
        if t.used[slot]:
            place_key(&wide, t.keys + slot * t.words)
    table_close(t)
    t[0] = wide
    return True


cdef inline void place_key(Table* t, const u64* key) noexcept nogil:
    cdef size_t slot = slot_of(t, key)
    memcpy(t.keys + slot * t.words, key, t.words * sizeof(u64))
    t.used[slot] = 1


cdef bint put(Table* t, const u64* key) noexcept nogil:
    """Add a key, which may be there already. False when there is no memory."""
    if has(t, key):
        return True
    if t.count * 2 > t.mask and not grow(t):
        return False
    place_key(t, key)
    t.count += 1
    return True


cdef void drop(Table* t, const u64* key) noexcept nogil:
    """Take a key out, if it is there, and close the gap: what was pushed on by it moves back."""
    cdef size_t gap = slot_of(t, key), slot, wanted
    if not t.used[gap]:
        return
    t.count -= 1
    slot = gap
    while True:
        slot = (slot + 1) & t.mask
        if not t.used[slot]:
            break
        wanted = home(t, t.keys + slot * t.words)
        if (slot - wanted) & t.mask >= (slot - gap) & t.mask:
            memcpy(t.keys + gap * t.words, t.keys + slot * t.words, t.words * sizeof(u64))
            gap = slot
    t.used[gap] = 0


# ---- whose HTLC it is


cdef bint is_watched(Sets* sets, const unsigned char* peer, Py_ssize_t size) noexcept nogil:
    """Whether everything that comes from this peer, who may be watched, is to be seen. Without a node id it is."""
    cdef u64 key[PEER_WORDS]
    if peer == NULL or size != PEER_SIZE:
        return True
    key[PEER_WORDS - 1] = 0
    memcpy(key, peer, PEER_SIZE)
    return has(&sets.peers, key)


cdef Verdict judge(
    Sets* sets, const u64* scid, const u64* channel, const u64* payment_hash, bint has_extra
) noexcept nogil:
    """As lane.Interest.judge; NULL for what the call does not name. The caller holds the mutex."""
    cdef bint listed, ends_here = scid == NULL and channel == NULL
    if ends_here and not sets.final_hops:
        return FOREIGN
    listed = (
        (ends_here and has_extra)
        or (scid != NULL and has(&sets.scids, scid))
        or (channel != NULL and has(&sets.channels, channel))
        or sets.every_payment
        or has(&sets.hashes, payment_hash)
    )
    if sets.loaded:
        return OURS if listed else FOREIGN
    if channel != NULL and sets.channels_loaded and not listed:
        return FOREIGN
    return UNKNOWN
