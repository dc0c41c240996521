# Tokens of one frame, strictly: what Python's json would read the same, or nothing. They stay inlined: as calls they make
# a foreign hook 17 % dearer (`make count`: 3,216 instructions for 2,750). Every text given to a Walk must be followed by
# one readable byte that is no JSON, as the zero behind a bytes object is: reading stops there without counting.

from libc.string cimport memchr, memcpy

from lsps2fast._bytes cimport count_digits, is_hex_64, is_printable, leading_digits, same

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, unsigned int most)
    unsigned char* PyUnicode_1BYTE_DATA(str text)

ctypedef unsigned long long u64
ctypedef const unsigned char* Text

cdef enum:
    DEEPEST = 32  # nesting of values that are skipped; the real call has none

cdef enum:  # one bit a field
    ID = 0x1
    METHOD = 0x2
    PARAMS = 0x4
    PEER_ID = 0x8
    ONION = 0x10
    FORWARD_TO = 0x20
    HTLC = 0x40
    PAYLOAD = 0x80
    NEXT_SCID = 0x100
    FORWARD_MSAT = 0x200
    OUTGOING_CLTV = 0x400
    TOTAL_MSAT = 0x800
    SECRET = 0x1000
    IN_SCID = 0x2000
    HTLC_ID = 0x4000
    AMOUNT_MSAT = 0x8000
    CLTV_EXPIRY = 0x10000
    PAYMENT_HASH = 0x20000
    EXTRA = 0x40000
    EVENT = 0x80000
    IN_HTLC_NEEDED = IN_SCID | HTLC_ID | AMOUNT_MSAT | CLTV_EXPIRY | PAYMENT_HASH
    NEEDED = ID | METHOD | PARAMS | ONION | HTLC | PAYLOAD | IN_HTLC_NEEDED  # what every call has

cdef struct Span:
    Py_ssize_t at
    Py_ssize_t size

cdef struct Walk:  # over one frame
    Text text
    Py_ssize_t end
    Py_ssize_t at
    Span key  # the last one read
    unsigned int seen  # so that a second one is noticed
    int room  # how much deeper values that are skipped may nest
    Span id
    Span method
    Span peer_id
    Span forward_to
    Span payload
    Span secret
    Span extra
    Span payment_hash
    u64 next_scid
    u64 in_scid
    u64 htlc_id
    u64 amount_msat
    u64 cltv_expiry
    u64 forward_msat
    u64 outgoing_cltv_value
    u64 total_msat


cdef inline bint is_space(unsigned char byte) noexcept nogil:
    return byte <= b" " and (byte == b" " or byte == b"\n" or byte == b"\t" or byte == b"\r")


cdef inline bint ends_word(unsigned char byte) noexcept nogil:
    return is_space(byte) or byte == b"," or byte == b"]" or byte == b"}"


cdef inline void start(Walk* w, Text text, Py_ssize_t size) noexcept nogil:
    w.text = text
    w.end = size
    w.at = 0
    w.seen = 0
    w.room = DEEPEST


cdef inline void space(Walk* w) noexcept nogil:
    while is_space(w.text[w.at]):
        w.at += 1


cdef inline bint string(Walk* w, Span* span) noexcept nogil:
    """Read a string. The frame has no backslash (checked once), so the next quote ends it."""
    cdef Text found
    if w.text[w.at] != b'"':
        return False
    span.at = w.at + 1
    found = <Text> memchr(w.text + span.at, b'"', w.end - span.at)
    if found == NULL:
        return False
    span.size = found - w.text - span.at
    w.at = span.at + span.size + 1
    return True


cdef inline int before_key(Walk* w, bint first, bint bounded) noexcept nogil:
    """Go to the next key of the object: 1, or 0 behind its end, -1 when it is broken. `bounded`: text may run out."""
    space(w)
    if w.text[w.at] == b"}" and (not bounded or w.at < w.end):
        w.at += 1
        return 0
    if not first:
        if w.text[w.at] != b",":
            return -1
        w.at += 1
        space(w)
    return 1


cdef inline int behind_key(Walk* w) noexcept nogil:
    """Go to the value of the key that was read: 1, or -1 when it is broken."""
    space(w)
    if w.text[w.at] != b":":
        return -1
    w.at += 1
    space(w)
    return 1


cdef inline int key(Walk* w) noexcept nogil:
    """Go to the value of the next key of the object: 1 with `key` set, 0 behind its end, -1 when it is broken."""
    cdef int found = before_key(w, w.text[w.at - 1] == b"{", False)  # no value ends with one
    if found != 1:
        return found
    return behind_key(w) if string(w, &w.key) else -1


cdef inline bint is_key(Walk* w, const char* name, Py_ssize_t size) noexcept nogil:
    return w.key.size == size and same(w.text + w.key.at, name, size)


cdef inline bint once(Walk* w, unsigned int bit) noexcept nogil:
    """Note a field; False when it was there before."""
    cdef bint before = w.seen & bit != 0
    w.seen |= bit
    return not before


cdef inline bint is_digit(unsigned char byte) noexcept nogil:
    return b"0" <= byte <= b"9"


cdef inline Py_ssize_t digits(Walk* w) noexcept nogil:
    """Take digits; how many."""
    cdef Py_ssize_t begin = w.at
    while is_digit(w.text[w.at]):
        w.at += 1
    return w.at - begin


cdef inline bint integer(Walk* w) noexcept nogil:
    """Take an integer of any size, no zero in front of other digits."""
    if w.text[w.at] == b"-":
        w.at += 1
    cdef bint zero = w.text[w.at] == b"0"
    cdef Py_ssize_t size = digits(w)
    return size == 1 or (size > 1 and not zero)


cdef inline bint number(Walk* w, u64* value) noexcept nogil:
    """Read an integer 0 ≤ n < 2^64 without sign, fraction, exponent or leading zero."""
    cdef Text text = w.text
    cdef Py_ssize_t begin = w.at, at = w.at
    cdef u64 total = 0
    cdef unsigned int digit
    if w.end - at >= 8:
        at += leading_digits(text + at, &total)
    digit = text[at] - <unsigned int> b"0"
    while digit < 10 and at - begin < 19:  # 19 digits always fit
        total = total * 10 + digit
        at += 1
        digit = text[at] - <unsigned int> b"0"
    if digit < 10:
        if total > (~<u64> 0 - digit) // 10:
            return False
        total = total * 10 + digit
        at += 1
    w.at = at
    value[0] = total
    return at > begin and (text[begin] != b"0" or at - begin == 1) and not is_digit(text[at])


cdef inline bint piece(Walk* w, u64* value, u64 most, unsigned char behind) noexcept nogil:
    """Read a number up to `most` and the byte behind it."""
    if not number(w, value) or value[0] > most or w.text[w.at] != behind:
        return False
    w.at += 1
    return True


cdef inline bint scid(Walk* w, u64* value) noexcept nogil:
    """Read a string "BLOCKxTXxOUT": 24, 24 and 16 bits (BOLT 7)."""
    cdef u64 block = 0, tx = 0, out = 0
    if w.text[w.at] != b'"':
        return False
    w.at += 1
    if not (piece(w, &block, 0xFFFFFF, b"x") and piece(w, &tx, 0xFFFFFF, b"x") and piece(w, &out, 0xFFFF, b'"')):
        return False
    value[0] = block << 40 | tx << 16 | out
    return True


cdef inline bint is_ascii(Walk* w, Span span) noexcept nogil:
    cdef unsigned char all = 0
    cdef Text text = w.text + span.at
    cdef Py_ssize_t at
    for at in range(span.size):
        all |= text[at]
    return all < 128


cdef inline str ascii(Walk* w, Span span):
    """A string that is_ascii has seen."""
    cdef str text = PyUnicode_New(span.size, 127)
    memcpy(PyUnicode_1BYTE_DATA(text), w.text + span.at, span.size)
    return text


cdef inline bint pass_digits(Walk* w, int most) noexcept nogil:
    """Go over a number of at most so many digits, 1 to 7; others may be numbers, too."""
    cdef u64 unused
    cdef int count
    if w.end - w.at < 8:
        return False
    count = count_digits(w.text + w.at, &unused)
    if count == 0 or count > most or (w.text[w.at] == b"0" and count > 1):
        return False
    w.at += count
    return True


cdef inline bint pass_number(Walk* w) noexcept nogil:
    """Go over what `number` would read, if it has less than 16 digits; others may be numbers, too."""
    cdef u64 unused
    cdef int count
    if w.end - w.at < 16:
        return False
    count = count_digits(w.text + w.at, &unused)
    if count == 0 or (w.text[w.at] == b"0" and count > 1):
        return False
    w.at += count
    if count == 8:
        count = count_digits(w.text + w.at, &unused)
        w.at += count
    return count < 8


cdef inline bint pass_scid(Walk* w) noexcept nogil:
    """Go over what `scid` would read, if it is in range by the number of its digits alone; others may be scids, too."""
    if w.text[w.at] != b'"':
        return False
    w.at += 1
    if not pass_digits(w, 7) or w.text[w.at] != b"x":
        return False
    w.at += 1
    if not pass_digits(w, 7) or w.text[w.at] != b"x":
        return False
    w.at += 1
    if not pass_digits(w, 4) or w.text[w.at] != b'"':
        return False
    w.at += 1
    return True


cdef inline bint hex_64(Walk* w, Span* span) noexcept nogil:
    """Read a string of 64 lower-case hex digits."""
    span.at = w.at + 1
    span.size = 64
    if w.end - w.at < 66 or w.text[w.at] != b'"' or w.text[w.at + 65] != b'"' or not is_hex_64(w.text + span.at):
        return False
    w.at += 66
    return True


cdef inline bint request_id(Walk* w) noexcept nogil:
    """Read an id as the token it is: a string of printable ASCII, or an integer."""
    cdef Span text
    w.id.at = w.at
    if w.text[w.at] == b'"':
        if not string(w, &text) or not is_printable(w.text + text.at, text.size):
            return False
    elif not integer(w):
        return False
    w.id.size = w.at - w.id.at
    return True


cdef inline bint skip_number(Walk* w) noexcept nogil:
    if not integer(w):
        return False
    if w.text[w.at] == b".":
        w.at += 1
        if digits(w) == 0:
            return False
    if w.text[w.at] == b"e" or w.text[w.at] == b"E":
        w.at += 1
        if w.text[w.at] == b"+" or w.text[w.at] == b"-":
            w.at += 1
        return digits(w) > 0
    return True
