# The C half of `_hook.pyx`: bytes lightningd wrote, read without the GIL and without an allocation. `_hook.pyx` and
# the lane inline it; `_hook_py.py` is its interpreted twin. Every text given to a Walk must be followed by one
# readable byte that is no JSON, as the zero behind a bytes object is: reading stops there without counting.

from libc.string cimport memchr, memcpy

cdef extern from *:
    """
    #include <string.h>
    #if defined(__GNUC__)
    #define LSPS2FAST_INLINE static inline __attribute__((always_inline))
    #else
    #define LSPS2FAST_INLINE static inline
    #endif
    /* In C, so that the size is always a constant where it is used: a few instructions instead of two calls. */
    LSPS2FAST_INLINE int lsps2fast_same(const unsigned char *text, const char *literal, size_t size) {
        return memcmp(text, literal, size) == 0;
    }
    LSPS2FAST_INLINE int lsps2fast_take(const unsigned char *text, Py_ssize_t *at, Py_ssize_t end,
                                        const char *literal, Py_ssize_t size) {
        if (end - *at < size || memcmp(text + *at, literal, (size_t)size) != 0) return 0;
        *at += size;
        return 1;
    }
    """
    bint same "lsps2fast_same"(const unsigned char* text, const char* literal, size_t size) noexcept nogil
    bint take "lsps2fast_take"(
        const unsigned char* text, Py_ssize_t* at, Py_ssize_t end, const char* literal, Py_ssize_t size
    ) noexcept nogil

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, unsigned int most)
    unsigned char* PyUnicode_1BYTE_DATA(str text)

ctypedef const unsigned char* Text
ctypedef unsigned long long u64


# ---- the end of a frame

cdef enum Mode:  # what the next byte belongs to
    BETWEEN  # tokens
    STRING
    ESCAPED  # a string, right behind a backslash
    WORD  # a number or literal: runs to white space, comma or a closing bracket, whatever stands within

cdef struct Place:
    Py_ssize_t depth
    int mode


cdef inline bint is_space(unsigned char byte) noexcept nogil:
    return byte <= b" " and (byte == b" " or byte == b"\n" or byte == b"\t" or byte == b"\r")


cdef inline bint ends_word(unsigned char byte) noexcept nogil:
    return is_space(byte) or byte == b"," or byte == b"]" or byte == b"}"


cdef inline Py_ssize_t advance(Text text, Py_ssize_t at, Py_ssize_t end, Place* place) noexcept nogil:
    """Go on from `at` until the outermost bracket closes or the bytes end; the offset behind the last byte used.

    Tokens end where they end for lightningd's tokenizer (jsmn, strict): it passes a parameter `1"{` on as one word.
    One pass: a run of backslashes is looked at once, for the quote behind it.
    """
    cdef Py_ssize_t depth = place.depth, stop, run
    cdef int mode = place.mode
    cdef unsigned char byte
    cdef Text found
    while at < end and depth > 0:
        if mode == BETWEEN:
            byte = text[at]
            at += 1
            if byte == b'"':
                mode = STRING
            elif byte == b"{" or byte == b"[":
                depth += 1
            elif byte == b"}" or byte == b"]":
                depth -= 1
            elif byte != b"," and byte != b":" and not is_space(byte):
                mode = WORD
        elif mode == STRING:
            found = <Text> memchr(text + at, b'"', end - at)
            stop = end if found == NULL else found - text
            run = stop
            while run > at and text[run - 1] == b"\\":
                run -= 1
            if found == NULL:
                mode = ESCAPED if (stop - run) & 1 else STRING
                at = end
            else:
                mode = STRING if (stop - run) & 1 else BETWEEN
                at = stop + 1
        elif mode == ESCAPED:
            at += 1
            mode = STRING
        elif ends_word(text[at]):
            mode = BETWEEN
        else:
            at += 1
    place.depth = depth
    place.mode = mode
    return at


# ---- the strict reader

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

cdef enum Level:  # what the members of an object are
    ANY
    IN_CALL
    IN_PARAMS
    IN_ONION
    IN_HTLC
    IN_NOTE
    IN_NOTE_PARAMS
    IN_EVENT

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


cdef inline int key(Walk* w) noexcept nogil:
    """Go to the value of the next key of the object: 1 with `key` set, 0 behind its end, -1 when it is broken."""
    cdef bint first = w.text[w.at - 1] == b"{"  # no value ends with one
    space(w)
    if w.text[w.at] == b"}":
        w.at += 1
        return 0
    if not first:
        if w.text[w.at] != b",":
            return -1
        w.at += 1
        space(w)
    if not string(w, &w.key):
        return -1
    space(w)
    if w.text[w.at] != b":":
        return -1
    w.at += 1
    space(w)
    return 1


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
    cdef unsigned int digit = text[at] - <unsigned int> b"0"
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


cdef inline bint is_hex(Text text, Py_ssize_t size) noexcept nogil:
    """Whether all are lower-case hex digits. No branch within: digits of a hash are dice to a predictor."""
    cdef unsigned char odd = 0, byte
    cdef Py_ssize_t at
    for at in range(size):
        byte = text[at]
        odd |= <unsigned char> (byte - 48) > 9 and <unsigned char> (byte - 97) > 5
    return odd == 0


cdef inline void unhex(Text text, Py_ssize_t size, unsigned char* out) noexcept nogil:
    """`size` hex digits, which is_hex has seen, into bytes."""
    cdef Py_ssize_t at
    cdef unsigned char high, low
    for at in range(size >> 1):
        high = text[2 * at]
        low = text[2 * at + 1]
        out[at] = ((high & 15) + 9 * (high >> 6)) << 4 | ((low & 15) + 9 * (low >> 6))


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


cdef inline bint hex_64(Walk* w, Span* span) noexcept nogil:
    """Read a string of 64 lower-case hex digits."""
    span.at = w.at + 1
    span.size = 64
    if w.end - w.at < 66 or w.text[w.at] != b'"' or w.text[w.at + 65] != b'"' or not is_hex(w.text + span.at, 64):
        return False
    w.at += 66
    return True


cdef inline bint request_id(Walk* w) noexcept nogil:
    """Read an id as the token it is: a string of printable ASCII, or an integer."""
    cdef Span text
    cdef Py_ssize_t at
    cdef unsigned char odd = 0
    w.id.at = w.at
    if w.text[w.at] == b'"':
        if not string(w, &text):
            return False
        for at in range(text.at, text.at + text.size):
            odd |= <unsigned char> (w.text[at] - 32) > 94
    elif not integer(w):
        return False
    w.id.size = w.at - w.id.at
    return odd == 0


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


cdef inline bint skip_list(Walk* w) noexcept nogil:
    w.at += 1
    space(w)
    if w.text[w.at] == b"]":
        w.at += 1
        return True
    while True:
        space(w)
        if not skip(w):
            return False
        space(w)
        w.at += 1
        if w.text[w.at - 1] != b",":
            return w.text[w.at - 1] == b"]"


cdef inline bint skip(Walk* w) noexcept nogil:
    """Go over one well-formed value."""
    cdef Span unused
    cdef bint good
    cdef unsigned char byte = w.text[w.at]
    if w.room <= 0:
        return False
    if byte == b'"':
        return string(w, &unused)
    if byte == b"{" or byte == b"[":
        w.room -= 1
        good = skip_list(w) if byte == b"[" else members(w, ANY)
        w.room += 1
        return good
    if byte == b"t":
        return take(w.text, &w.at, w.end, b"true", 4)
    if byte == b"f":
        return take(w.text, &w.at, w.end, b"false", 5)
    if byte == b"n":
        return take(w.text, &w.at, w.end, b"null", 4)
    return skip_number(w)


cdef inline bint onion_member(Walk* w) noexcept nogil:
    if is_key(w, b"payload", 7):
        return once(w, PAYLOAD) and string(w, &w.payload)
    if is_key(w, b"short_channel_id", 16):
        return once(w, NEXT_SCID) and scid(w, &w.next_scid)
    if is_key(w, b"forward_msat", 12):
        return once(w, FORWARD_MSAT) and number(w, &w.forward_msat)
    if is_key(w, b"outgoing_cltv_value", 19):
        return once(w, OUTGOING_CLTV) and number(w, &w.outgoing_cltv_value)
    if is_key(w, b"total_msat", 10):
        return once(w, TOTAL_MSAT) and number(w, &w.total_msat)
    if is_key(w, b"payment_secret", 14):
        return once(w, SECRET) and string(w, &w.secret)
    return skip(w)


cdef inline bint htlc_member(Walk* w) noexcept nogil:
    if is_key(w, b"short_channel_id", 16):
        return once(w, IN_SCID) and scid(w, &w.in_scid)
    if is_key(w, b"id", 2):
        return once(w, HTLC_ID) and number(w, &w.htlc_id)
    if is_key(w, b"amount_msat", 11):
        return once(w, AMOUNT_MSAT) and number(w, &w.amount_msat)
    if is_key(w, b"cltv_expiry", 11):
        return once(w, CLTV_EXPIRY) and number(w, &w.cltv_expiry)
    if is_key(w, b"payment_hash", 12):
        return once(w, PAYMENT_HASH) and hex_64(w, &w.payment_hash)
    if is_key(w, b"extra_tlvs", 10):
        return once(w, EXTRA) and string(w, &w.extra)
    return skip(w)


cdef inline bint params_member(Walk* w) noexcept nogil:
    if is_key(w, b"onion", 5):
        return once(w, ONION) and members(w, IN_ONION)
    if is_key(w, b"htlc", 4):
        return once(w, HTLC) and members(w, IN_HTLC)
    if is_key(w, b"peer_id", 7):
        return once(w, PEER_ID) and string(w, &w.peer_id)
    if is_key(w, b"forward_to", 10):
        return once(w, FORWARD_TO) and hex_64(w, &w.forward_to)
    return skip(w)


cdef inline bint method(Walk* w, const char* name, Py_ssize_t size) noexcept nogil:
    if not once(w, METHOD) or not string(w, &w.method) or w.method.size != size:
        return False
    return same(w.text + w.method.at, name, size)


cdef inline bint call_member(Walk* w) noexcept nogil:
    if is_key(w, b"params", 6):
        return once(w, PARAMS) and members(w, IN_PARAMS)
    if is_key(w, b"id", 2):
        return once(w, ID) and request_id(w)
    if is_key(w, b"method", 6):
        return method(w, b"htlc_accepted", 13)
    return skip(w)


cdef inline bint note_member(Walk* w) noexcept nogil:
    if is_key(w, b"params", 6):
        return once(w, PARAMS) and members(w, IN_NOTE_PARAMS)
    if is_key(w, b"method", 6):
        return method(w, b"forward_event", 13)
    return not is_key(w, b"id", 2) and skip(w)


cdef inline bint member(Walk* w, Level level) noexcept nogil:
    """Read or skip the value of the key just read."""
    if level == IN_HTLC:
        return htlc_member(w)
    if level == IN_ONION:
        return onion_member(w)
    if level == IN_PARAMS:
        return params_member(w)
    if level == IN_CALL:
        return call_member(w)
    if level == IN_NOTE:
        return note_member(w)
    if level == IN_NOTE_PARAMS and is_key(w, b"forward_event", 13):
        return once(w, EVENT) and members(w, IN_EVENT)
    if level == IN_EVENT and is_key(w, b"payment_hash", 12):
        return once(w, PAYMENT_HASH) and hex_64(w, &w.payment_hash)
    return skip(w)


cdef inline bint members(Walk* w, Level level) noexcept nogil:
    """Go over an object, reading the members that `level` knows."""
    cdef int step
    if w.text[w.at] != b"{":
        return False
    w.at += 1
    while True:
        step = key(w)
        if step <= 0:
            return step == 0
        if not member(w, level):
            return False


# ---- the short way: lightningd's own order of keys, without white space


cdef inline bint short_onion(Walk* w) noexcept nogil:
    cdef Span unused
    if not (take(w.text, &w.at, w.end, b'"onion":{"payload":', 19) and string(w, &w.payload)):
        return False
    take(w.text, &w.at, w.end, b',"type":"tlv"', 13)
    if take(w.text, &w.at, w.end, b',"short_channel_id":', 20):
        w.seen |= NEXT_SCID
        if not scid(w, &w.next_scid):
            return False
    if take(w.text, &w.at, w.end, b',"forward_msat":', 16):
        w.seen |= FORWARD_MSAT | OUTGOING_CLTV
        if not number(w, &w.forward_msat) or not take(w.text, &w.at, w.end, b',"outgoing_cltv_value":', 23):
            return False
        if not number(w, &w.outgoing_cltv_value):
            return False
    if take(w.text, &w.at, w.end, b',"total_msat":', 14):
        w.seen |= TOTAL_MSAT | SECRET
        if not number(w, &w.total_msat) or not take(w.text, &w.at, w.end, b',"payment_secret":', 18):
            return False
        if not string(w, &w.secret):
            return False
    return (
        take(w.text, &w.at, w.end, b',"next_onion":', 14)
        and string(w, &unused)
        and take(w.text, &w.at, w.end, b',"shared_secret":', 17)
        and string(w, &unused)
        and take(w.text, &w.at, w.end, b"},", 2)
    )


cdef inline bint short_htlc(Walk* w) noexcept nogil:
    cdef u64 unused
    if not (
        take(w.text, &w.at, w.end, b'"htlc":{"short_channel_id":', 27)
        and scid(w, &w.in_scid)
        and take(w.text, &w.at, w.end, b',"id":', 6)
        and number(w, &w.htlc_id)
        and take(w.text, &w.at, w.end, b',"amount_msat":', 15)
        and number(w, &w.amount_msat)
        and take(w.text, &w.at, w.end, b',"cltv_expiry":', 15)
        and number(w, &w.cltv_expiry)
        and take(w.text, &w.at, w.end, b',"cltv_expiry_relative":', 24)
        and number(w, &unused)
        and take(w.text, &w.at, w.end, b',"payment_hash":', 16)
        and hex_64(w, &w.payment_hash)
    ):
        return False
    if take(w.text, &w.at, w.end, b',"extra_tlvs":', 14):
        w.seen |= EXTRA
        if not string(w, &w.extra):
            return False
    return take(w.text, &w.at, w.end, b"}}}", 3)


cdef inline bint short_call(Walk* w) noexcept nogil:
    """A subset of what members(w, IN_CALL) reads, with the same outcome, in half the time."""
    w.seen = NEEDED
    if not (
        take(w.text, &w.at, w.end, b'{"jsonrpc":"2.0","id":', 22)
        and request_id(w)
        and take(w.text, &w.at, w.end, b',"method":"htlc_accepted","params":{', 36)
    ):
        return False
    if take(w.text, &w.at, w.end, b'"peer_id":', 10):
        w.seen |= PEER_ID
        if not string(w, &w.peer_id) or not take(w.text, &w.at, w.end, b",", 1):
            return False
    if not short_onion(w):
        return False
    if take(w.text, &w.at, w.end, b'"forward_to":', 13):
        w.seen |= FORWARD_TO
        if not hex_64(w, &w.forward_to) or not take(w.text, &w.at, w.end, b",", 1):
            return False
    return short_htlc(w)


# ---- whole frames


cdef inline bint call(Walk* w) noexcept nogil:
    """Walk a whole htlc_accepted request; True when it is in the usual shape and complete."""
    if memchr(w.text, b"\\", w.end) != NULL:
        return False
    if short_call(w) and w.at == w.end:
        return True
    start(w, w.text, w.end)
    return members(w, IN_CALL) and w.at == w.end and (w.seen & NEEDED) == NEEDED


cdef inline bint all_ascii(Walk* w) noexcept nogil:
    """Whether the texts of a call are ASCII; the walk lets other bytes pass."""
    return (
        is_ascii(w, w.payload)
        and (not w.seen & PEER_ID or is_ascii(w, w.peer_id))
        and (not w.seen & SECRET or is_ascii(w, w.secret))
        and (not w.seen & EXTRA or is_ascii(w, w.extra))
    )


cdef inline bint forward_event(Walk* w) noexcept nogil:
    """Walk a whole forward_event notification; True when it is in the usual shape and complete."""
    if memchr(w.text, b"\\", w.end) != NULL or not members(w, IN_NOTE) or w.at != w.end:
        return False
    return w.seen == METHOD | PARAMS | EVENT | PAYMENT_HASH


# ---- the loose reader: method and id of any frame


cdef inline bint loose_string(Walk* w, Span* span) noexcept nogil:
    """Read a string that may hold escapes."""
    if w.at >= w.end or w.text[w.at] != b'"':
        return False
    w.at += 1
    span.at = w.at
    while w.at < w.end and w.text[w.at] != b'"':
        w.at += 2 if w.text[w.at] == b"\\" else 1
    span.size = w.at - span.at
    w.at += 1
    return w.at <= w.end


cdef inline bint loose_value(Walk* w, Span* token) noexcept nogil:
    """Go over any value the way `advance` does; `token` gets it, quotes included, size 0 for a list or object."""
    cdef Place place
    cdef Span inner
    token.at = w.at
    token.size = 0
    if w.at >= w.end:
        return False
    if w.text[w.at] == b"{" or w.text[w.at] == b"[":
        place.depth = 1
        place.mode = BETWEEN
        w.at = advance(w.text, w.at + 1, w.end, &place)
        return place.depth == 0
    if w.text[w.at] == b'"':
        if not loose_string(w, &inner):
            return False
    else:
        while w.at < w.end and not ends_word(w.text[w.at]):
            w.at += 1
    token.size = w.at - token.at
    return token.size > 0


cdef inline int loose_key(Walk* w) noexcept nogil:
    """Like `key`, for the outermost object of a frame that may hold escapes."""
    cdef bint first = w.at == 1
    space(w)
    if w.text[w.at] == b"}" and w.at < w.end:
        w.at += 1
        return 0
    if not first:
        if w.text[w.at] != b",":
            return -1
        w.at += 1
        space(w)
    if not loose_string(w, &w.key):
        return -1
    space(w)
    if w.text[w.at] != b":":
        return -1
    w.at += 1
    space(w)
    return 1


cdef inline bint top(Walk* w) noexcept nogil:
    """Find method and id among the outermost keys."""
    cdef Span token
    cdef int step
    w.method.size = w.id.size = 0
    if w.text[w.at] != b"{":
        return False
    w.at += 1
    while True:
        step = loose_key(w)
        if step <= 0:
            return step == 0 and w.at == w.end
        if not loose_value(w, &token):
            return False
        if is_key(w, b"method", 6):
            if not once(w, METHOD):
                return False
            w.method = token
        elif is_key(w, b"id", 2):
            if not once(w, ID):
                return False
            w.id = token
