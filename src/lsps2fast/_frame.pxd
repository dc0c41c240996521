# The end of a frame, found by structure from a known start (cln:W9). Inlined by `_hook.pyx` and the lane.

from libc.string cimport memchr

ctypedef const unsigned char* Text

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
