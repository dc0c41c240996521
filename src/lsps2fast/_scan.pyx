# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Read what an htlc_accepted call and a forward_event say, and find the end of a frame and its method.

In C without the GIL and without an allocation, for `_hook.pyx` and the plugin's reading thread; `_hook_py.py` is the
interpreted twin. The tokens are read by `_walk.pxd`. Frames end by structure, from a known start (cln:W9).
"""

from libc.string cimport memchr

from lsps2fast._bytes cimport take
from lsps2fast._walk cimport *

cdef enum Level:  # what the members of an object are
    ANY
    IN_CALL
    IN_PARAMS
    IN_ONION
    IN_HTLC
    IN_NOTE
    IN_NOTE_PARAMS
    IN_EVENT


# ---- the end of a frame


cdef Py_ssize_t advance(Text text, Py_ssize_t at, Py_ssize_t end, Place* place) noexcept nogil:
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


# ---- keys in any order


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


cdef bint member(Walk* w, Level level) noexcept nogil:
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


# ---- the short way: lightningd's own order of keys, without white space. Members that a later lightningd adds may lie
# anywhere (cln:N9) and cost what they are long. `all` is a constant at each place of call: whether the numbers are
# wanted, too, or only the way.


cdef bint other_member(Walk* w, Level level) noexcept nogil:
    """Read a member that stands elsewhere in lightningd's own order, or that no lightningd had yet."""
    return key(w) == 1 and member(w, level)


cdef bint far(Walk* w, const char* text, Py_ssize_t size, Level level) noexcept nogil:
    """Go behind this text, over other members."""
    while True:
        if not other_member(w, level):
            return False
        if take(w.text, &w.at, w.end, text, size):
            return True


cdef inline bint to_onion(Walk* w) noexcept nogil:
    """Go to the payload, behind a peer or the start of the parameters."""
    return take(w.text, &w.at, w.end, b',"onion":{"payload":', 20) or far_onion(w)


cdef bint far_onion(Walk* w) noexcept nogil:
    if not take(w.text, &w.at, w.end, b'"onion":{', 9) and not (take(w.text, &w.at, w.end, b',"onion":{', 10) or far(w, b',"onion":{', 10, IN_PARAMS)):
        return False
    return take(w.text, &w.at, w.end, b'"payload":', 10) or far(w, b',"payload":', 11, IN_ONION)


cdef inline bint to_htlc(Walk* w) noexcept nogil:
    return take(w.text, &w.at, w.end, b',"htlc":{"short_channel_id":', 28) or far_htlc(w)


cdef bint far_htlc(Walk* w) noexcept nogil:
    if not (take(w.text, &w.at, w.end, b',"htlc":{', 9) or far(w, b',"htlc":{', 9, IN_PARAMS)):
        return False
    return take(w.text, &w.at, w.end, b'"short_channel_id":', 19) or far(w, b',"short_channel_id":', 20, IN_HTLC)


cdef inline bint short_number(Walk* w, u64* value, bint all) noexcept nogil:
    return number(w, value) if all else pass_number(w)


cdef inline bint short_onion(Walk* w, bint all) noexcept nogil:
    cdef Span unused
    if not string(w, &w.payload):
        return False
    take(w.text, &w.at, w.end, b',"type":"tlv"', 13)
    if take(w.text, &w.at, w.end, b',"short_channel_id":', 20):
        if not once(w, NEXT_SCID) or not scid(w, &w.next_scid):
            return False
    if take(w.text, &w.at, w.end, b',"forward_msat":', 16):
        if not once(w, FORWARD_MSAT) or not short_number(w, &w.forward_msat, all):
            return False
        if not (take(w.text, &w.at, w.end, b',"outgoing_cltv_value":', 23) or far(w, b',"outgoing_cltv_value":', 23, IN_ONION)) or not once(w, OUTGOING_CLTV):
            return False
        if not short_number(w, &w.outgoing_cltv_value, all):
            return False
    if take(w.text, &w.at, w.end, b',"total_msat":', 14):
        if not once(w, TOTAL_MSAT) or not short_number(w, &w.total_msat, all):
            return False
        if not (take(w.text, &w.at, w.end, b',"payment_secret":', 18) or far(w, b',"payment_secret":', 18, IN_ONION)) or not once(w, SECRET) or not string(w, &w.secret):
            return False
    return (
        (take(w.text, &w.at, w.end, b',"next_onion":', 14) or far(w, b',"next_onion":', 14, IN_ONION))
        and string(w, &unused)
        and (take(w.text, &w.at, w.end, b',"shared_secret":', 17) or far(w, b',"shared_secret":', 17, IN_ONION))
        and string(w, &unused)
    )


cdef inline bint short_htlc(Walk* w, bint all) noexcept nogil:
    cdef u64 unused
    if not (
        (scid(w, &w.in_scid) if all else pass_scid(w))
        and (take(w.text, &w.at, w.end, b',"id":', 6) or far(w, b',"id":', 6, IN_HTLC))
        and short_number(w, &w.htlc_id, all)
        and (take(w.text, &w.at, w.end, b',"amount_msat":', 15) or far(w, b',"amount_msat":', 15, IN_HTLC))
        and short_number(w, &w.amount_msat, all)
        and (take(w.text, &w.at, w.end, b',"cltv_expiry":', 15) or far(w, b',"cltv_expiry":', 15, IN_HTLC))
        and short_number(w, &w.cltv_expiry, all)
        and (take(w.text, &w.at, w.end, b',"cltv_expiry_relative":', 24) or far(w, b',"cltv_expiry_relative":', 24, IN_HTLC))
        and short_number(w, &unused, False)
        and (take(w.text, &w.at, w.end, b',"payment_hash":', 16) or far(w, b',"payment_hash":', 16, IN_HTLC))
        and hex_64(w, &w.payment_hash)
    ):
        return False
    if take(w.text, &w.at, w.end, b',"extra_tlvs":', 14):
        return once(w, EXTRA) and string(w, &w.extra)
    return True


cdef inline bint short_call(Walk* w, bint all) noexcept nogil:
    """A subset of what members(w, IN_CALL) reads, with the same outcome, in half the time."""
    w.seen = NEEDED
    if not (
        take(w.text, &w.at, w.end, b'{"jsonrpc":"2.0","id":', 22)
        and request_id(w)
        and (take(w.text, &w.at, w.end, b',"method":"htlc_accepted","params":{', 36) or far(w, b',"method":"htlc_accepted","params":{', 36, IN_CALL))
    ):
        return False
    if take(w.text, &w.at, w.end, b'"peer_id":', 10):
        w.seen |= PEER_ID
        if not string(w, &w.peer_id):
            return False
    if not (to_onion(w) and short_onion(w, all) and (take(w.text, &w.at, w.end, b"}", 1) or far(w, b"}", 1, IN_ONION))):
        return False
    if take(w.text, &w.at, w.end, b',"forward_to":', 14):
        if not once(w, FORWARD_TO) or not hex_64(w, &w.forward_to):
            return False
    if not (to_htlc(w) and short_htlc(w, all)):
        return False
    return take(w.text, &w.at, w.end, b"}}}", 3) or (
        (take(w.text, &w.at, w.end, b"}", 1) or far(w, b"}", 1, IN_HTLC)) and (take(w.text, &w.at, w.end, b"}", 1) or far(w, b"}", 1, IN_PARAMS)) and (take(w.text, &w.at, w.end, b"}", 1) or far(w, b"}", 1, IN_CALL))
    )


# ---- whole frames


cdef inline bint read_call(Walk* w, bint all) noexcept nogil:
    """Walk a whole htlc_accepted request; True when it is in the usual shape and complete.

    Numbers that neither next_scid nor the way of the HTLC hang on are only set with `all`.
    """
    if memchr(w.text, b"\\", w.end) != NULL:
        return False
    if short_call(w, all) and w.at == w.end:
        return True
    start(w, w.text, w.end)
    return members(w, IN_CALL) and w.at == w.end and (w.seen & NEEDED) == NEEDED


cdef bint call(Walk* w) noexcept nogil:
    return read_call(w, True)


cdef bint call_way(Walk* w) noexcept nogil:
    return read_call(w, False)


cdef bint usual_call(Walk* w) noexcept nogil:
    """Whether lightningd's own wording of a call starts here and is there to its end, which is then `at`.

    Its structure is in the wording, so no other pass has to find the end. What has a backslash is left to that pass.
    """
    return short_call(w, False) and memchr(w.text, b"\\", w.at) == NULL


cdef bint forward_event(Walk* w) noexcept nogil:
    """Walk a whole forward_event notification; True when it is in the usual shape and complete."""
    if memchr(w.text, b"\\", w.end) != NULL or not members(w, IN_NOTE) or w.at != w.end:
        return False
    return w.seen == METHOD | PARAMS | EVENT | PAYMENT_HASH


# ---- method and id of any frame, whatever else is in it


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
    cdef int found = before_key(w, w.at == 1, True)
    if found != 1:
        return found
    return behind_key(w) if loose_string(w, &w.key) else -1


cdef bint top(Walk* w) noexcept nogil:
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
