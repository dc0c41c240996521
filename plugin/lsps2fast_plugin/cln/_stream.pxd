# The lane's work in C: read a block, cut frames by structure, answer what is foreign, keep the rest for the loop. The
# bodies are in `_stream.pyx`.

cimport lsps2fast._scan as c
from lsps2fast_plugin.cln._inbox cimport LINES, Chain, Inbox
from lsps2fast_plugin.cln._keyset cimport Sets, pthread_mutex_t, u64

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass

cdef enum:
    MOST_FRAME = 16777216  # bytes, as _hook.MAX_FRAME
    BUCKETS = 13  # of the time from reading to answering, as reader.LATENCY_BOUNDS_S and one beyond

cdef enum End:  # why the lane stopped
    GOING_ON
    STREAM_END
    STOPPED
    READ_FAILED
    NO_MEMORY
    NO_OBJECT  # the stream makes no sense
    WRONG_BRACKET
    LONG_FRAME

# ---- stdout: whole frames, one writer at a time

cdef struct Pipe:
    pthread_mutex_t mutex
    int fd
    bint mute

cdef int pipe_write(Pipe* pipe, const unsigned char* data, size_t size) noexcept nogil

# ---- stdin

cdef struct Stream:
    int fd
    pthread_mutex_t gate  # of the next three
    pthread_t thread  # the one in run()
    bint running
    bint stop
    Sets* sets
    Pipe* out
    Inbox* box
    unsigned char* text  # room for `room` bytes and a zero behind the last one read
    Py_ssize_t room
    Py_ssize_t end  # bytes in text
    Py_ssize_t at  # looked at up to here
    Py_ssize_t begin  # of the frame that is not complete, when place.depth > 0
    c.Place place
    u64 passed  # bytes of the stream before text
    u64 lost_at
    unsigned char* answers
    Py_ssize_t answers_size
    Chain lines[LINES]  # the frames of this batch for the loop
    size_t frames  # of them that are never shed
    size_t bytes
    bint full  # there is something in the lines
    u64 answered
    u64 late_ns  # from reading a block to answering its hooks, summed over these
    u64 late[BUCKETS]
    u64 dropped
    u64 handed
    int failed  # errno of reading
    int out_failed  # errno of writing

cdef bint stream_open(Stream* s) noexcept nogil
cdef void stream_close(Stream* s) noexcept nogil
cdef bint stop_reading(Stream* s) noexcept nogil
cdef End run(Stream* s) noexcept nogil
