# Method and id of any frame, whatever else is in it. Inlined by `_hook.pyx`.

from lsps2fast._frame cimport BETWEEN, Place, advance, ends_word
from lsps2fast._walk cimport ID, METHOD, Span, Walk, is_key, once, space

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
