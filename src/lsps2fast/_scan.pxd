# Frames from lightningd, read in C; the bodies are in `_scan.pyx`.

from lsps2fast._walk cimport Text, Walk

cdef enum Mode:  # what the next byte of a frame belongs to
    BETWEEN  # tokens
    STRING
    ESCAPED  # a string, right behind a backslash
    WORD  # a number or literal: runs to white space, comma or a closing bracket, whatever stands within

cdef struct Place:  # in a frame that is not complete
    Py_ssize_t depth
    int mode

cdef Py_ssize_t advance(Text text, Py_ssize_t at, Py_ssize_t end, Place* place) noexcept nogil
cdef bint call(Walk* w) noexcept nogil
cdef bint call_way(Walk* w) noexcept nogil
cdef bint usual_call(Walk* w) noexcept nogil
cdef bint forward_event(Walk* w) noexcept nogil
cdef bint top(Walk* w) noexcept nogil
