# The little that the core wants of C: parts in packed rows, what is looked up or swept over all sessions at once in
# columns, orders made without a call. `_raw_py.py` is its twin for the interpreted run.
#
# Peers choose incoming scids and htlc ids, so the look-up is by a keyed hash: SipHash-1-3, under a secret that CPython
# drew for its own hashes. Open addressing with linear probing, at most two thirds full; eight bytes an entry, because the
# keys stand in the rows.

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_INCREF, Py_REFCNT

cdef extern from "Python.h":
    void Py_SET_TYPE(object thing, type kind)

ctypedef unsigned long long u64
ctypedef unsigned int u32

cdef enum:
    NUMBER_BITS = 10  # of a part within its session
    LEAST_ENTRIES = 64
    LEAST_SLOTS = 16
    SWEPT = 1024  # heights at once

cdef enum:  # what a part has come to
    HELD
    OUT  # forwarded, not resolved
    PAID
    DEAD

cdef struct Row:  # one part
    u64 in_scid
    u64 htlc_id
    u64 value_msat
    u64 taken_msat
    u32 cltv_expiry
    unsigned char status

cdef struct Columns:  # of all live sessions, by slot
    Row** rows
    u32* heights  # at which the session wants to be told BLOCK
    u32 soonest  # no height above is lower
    u32 slots
    u64* entries  # hash, slot and number + 1 of a part: 32, 22 and 10 bits; 0: free
    u64 mask
    u64 count
    u64 secret0
    u64 secret1
    u64 last_scid  # of the part that was hashed last: who looks for it in vain puts it in next
    u64 last_id
    u64 last_hash


cdef inline tuple make(type kind, tuple fields):
    """`kind(*fields)` for a NamedTuple, made of the very tuple `fields`, which must be new and nobody else's.

    A NamedTuple is laid out as a tuple is; its own constructor is a Python function, eight times as slow.
    """
    if Py_REFCNT(fields) != 1:
        raise ValueError("these fields belong to somebody")
    Py_INCREF(kind)  # objects of classes made in Python own a reference to them
    Py_SET_TYPE(fields, kind)
    return fields


# ---- rows of one session

cdef inline Row* no_rows() noexcept:
    return NULL


cdef inline Row* more_rows(Row* rows, int room) except NULL:
    """Space for `room` parts, the old ones kept."""
    cdef Row* wide = <Row*> PyMem_Realloc(rows, room * sizeof(Row))
    if wide == NULL:
        raise MemoryError()
    return wide


cdef inline void free_rows(Row* rows) noexcept:
    PyMem_Free(rows)


# ---- columns

cdef inline Columns* columns_open(u64 secret0, u64 secret1) except NULL:
    cdef Columns* c = <Columns*> PyMem_Calloc(1, sizeof(Columns))
    if c == NULL:
        raise MemoryError()
    c.secret0, c.secret1 = secret0, secret1
    c.soonest = 0xFFFFFFFF
    c.mask = LEAST_ENTRIES - 1
    c.last_hash = siphash(secret0, secret1, 0, 0) >> 32
    c.entries = <u64*> PyMem_Calloc(LEAST_ENTRIES, sizeof(u64))
    if c.entries == NULL:
        PyMem_Free(c)
        raise MemoryError()
    return c


cdef inline void columns_close(Columns* c) noexcept:
    if c != NULL:
        PyMem_Free(c.rows)
        PyMem_Free(c.heights)
        PyMem_Free(c.entries)
        PyMem_Free(c)


cdef inline int columns_enter(Columns* c, u32 slot, Row* rows) except -1:
    """The session in this slot keeps its parts in `rows`; also after they have moved."""
    cdef u32 slots
    cdef void* wide
    if slot >= c.slots:
        slots = max(<u32> LEAST_SLOTS, c.slots + c.slots // 2)
        wide = PyMem_Realloc(c.rows, slots * sizeof(Row*))
        if wide == NULL:
            raise MemoryError()
        c.rows = <Row**> wide
        wide = PyMem_Realloc(c.heights, slots * sizeof(u32))
        if wide == NULL:
            raise MemoryError()
        c.heights = <u32*> wide
        c.slots = slots
    c.rows[slot] = rows
    return 0


# ---- heights

cdef inline void columns_watch(Columns* c, u32 slot, u32 height) noexcept:
    c.heights[slot] = height
    if height < c.soonest:
        c.soonest = height


cdef inline u32 columns_watched(Columns* c, u32 slot) noexcept:
    return c.heights[slot]


cdef inline u32 least_of(u32* heights, u32 count) noexcept nogil:
    """No branch within, so that a compiler can take several at once."""
    cdef u32 n, least = 0xFFFFFFFF
    for n in range(count):
        least = min(least, heights[n])
    return least


cdef inline list columns_due(Columns* c, u32 slots, u32 height):
    """The slots among the first `slots` that wait for this height or a lower one."""
    cdef u32 first = 0, slot, end, least, soonest = 0xFFFFFFFF
    cdef list due = []
    if height < c.soonest:
        return due
    while first < slots:
        end = min(first + SWEPT, slots)
        least = least_of(c.heights + first, end - first)
        if least > height:
            soonest = min(soonest, least)
        else:
            for slot in range(first, end):
                if c.heights[slot] <= height:
                    due.append(slot)
                else:
                    soonest = min(soonest, c.heights[slot])
        first = end
    c.soonest = soonest
    return due


# ---- which part is where

cdef inline u64 turn(u64 x, int by) noexcept nogil:
    return x << by | x >> (64 - by)


cdef inline u64 siphash(u64 secret0, u64 secret1, u64 first, u64 second) noexcept nogil:
    """SipHash-1-3 of two little-endian words (Aumasson and Bernstein, with one and three rounds)."""
    cdef u64[3] words = [first, second, <u64> 16 << 56]
    cdef u64 a = secret0 ^ 0x736F6D6570736575ULL
    cdef u64 b = secret1 ^ 0x646F72616E646F6DULL
    cdef u64 c = secret0 ^ 0x6C7967656E657261ULL
    cdef u64 d = secret1 ^ 0x7465646279746573ULL
    cdef int n
    for n in range(6):
        if n < 3:
            d ^= words[n]
        a += b
        b = turn(b, 13) ^ a
        a = turn(a, 32)
        c += d
        d = turn(d, 16) ^ c
        a += d
        d = turn(d, 21) ^ a
        c += b
        b = turn(b, 17) ^ c
        c = turn(c, 32)
        if n < 3:
            a ^= words[n]
        if n == 2:
            c ^= 0xFF
    return a ^ b ^ c ^ d


cdef inline u64 hash_of(Columns* c, u64 in_scid, u64 htlc_id) noexcept nogil:
    if in_scid != c.last_scid or htlc_id != c.last_id:
        c.last_hash = siphash(c.secret0, c.secret1, in_scid, htlc_id) >> 32
        c.last_scid, c.last_id = in_scid, htlc_id
    return c.last_hash


cdef inline Row* row_of(Columns* c, u64 entry) noexcept nogil:
    cdef u32 place = <u32> entry - 1
    return &c.rows[place >> NUMBER_BITS][place & ((1 << NUMBER_BITS) - 1)]


cdef inline long long columns_find(Columns* c, u64 in_scid, u64 htlc_id) noexcept nogil:
    """slot << NUMBER_BITS | number of this part, -1 if there is none."""
    cdef u64 hash = hash_of(c, in_scid, htlc_id), at = hash & c.mask
    cdef Row* row
    while c.entries[at] != 0:
        if c.entries[at] >> 32 == hash:
            row = row_of(c, c.entries[at])
            if row.in_scid == in_scid and row.htlc_id == htlc_id:
                return <u32> c.entries[at] - 1
        at = (at + 1) & c.mask
    return -1


cdef inline void put_entry(u64* entries, u64 mask, u64 entry) noexcept nogil:
    cdef u64 at = (entry >> 32) & mask
    while entries[at] != 0:
        at = (at + 1) & mask
    entries[at] = entry


cdef inline int columns_add(Columns* c, u32 slot, u32 number) except -1:
    """From now on this part, which must not be there yet, is found."""
    cdef Row* row = &c.rows[slot][number]
    cdef u64 at, mask
    cdef u64* wide
    if c.count * 3 >= c.mask * 2:
        mask = c.mask * 2 + 1
        wide = <u64*> PyMem_Calloc(mask + 1, sizeof(u64))
        if wide == NULL:
            raise MemoryError()
        for at in range(c.mask + 1):
            if c.entries[at] != 0:
                put_entry(wide, mask, c.entries[at])
        PyMem_Free(c.entries)
        c.entries, c.mask = wide, mask
    at = hash_of(c, row.in_scid, row.htlc_id) << 32
    put_entry(c.entries, c.mask, at | ((slot << NUMBER_BITS | number) + 1))
    c.count += 1
    return 0


cdef inline void columns_drop(Columns* c, u32 slot, u32 number) noexcept nogil:
    """This part, which must be there, is found no more. What was pushed on by it moves back."""
    cdef Row* row = &c.rows[slot][number]
    cdef u64 entry = hash_of(c, row.in_scid, row.htlc_id) << 32 | ((slot << NUMBER_BITS | number) + 1)
    cdef u64 gap = (entry >> 32) & c.mask, at
    while c.entries[gap] != entry:
        gap = (gap + 1) & c.mask
    at = gap
    while True:
        at = (at + 1) & c.mask
        if c.entries[at] == 0:
            break
        if ((at - (c.entries[at] >> 32)) & c.mask) >= ((at - gap) & c.mask):
            c.entries[gap] = c.entries[at]
            gap = at
    c.entries[gap] = 0
    c.count -= 1
