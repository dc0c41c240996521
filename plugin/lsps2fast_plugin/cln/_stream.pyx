# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Do the lane's work in C: read a block, cut frames by structure, answer what is foreign, keep the rest for the loop.

No function here knows Python; all run without the GIL, in the lane's thread unless said otherwise.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

cimport lsps2fast._scan as c
cimport lsps2fast._walk as t
from lsps2fast._bytes cimport unhex
from lsps2fast_plugin.cln._inbox cimport CALL, FIRST, LINES, Node, admit, admit_event, chain_add, chain_free, inbox_put
from lsps2fast_plugin.cln._keyset cimport (
    FOREIGN,
    PEER_SIZE,
    PEER_WORDS,
    has,
    hash_of,
    is_watched,
    judge,
    may_be_watched,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t os_read "read"(int fd, void* buffer, size_t size)
    Py_ssize_t os_write "write"(int fd, const void* buffer, size_t size)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int os_poll "poll"(pollfd* fds, unsigned long count, int timeout_ms)
    int POLLIN
    int POLLOUT

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int CLOCK_MONOTONIC

cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>
    #define LSPS2FAST_NUDGE SIGURG  /* ignored by default, so a stray one does no harm */
    static void lsps2fast_nudged(int number) { (void)number; }
    /* Let the signal end a blocking read of this thread with EINTR, instead of a poll before every read. */
    static void lsps2fast_be_nudged(void) {
        struct sigaction act;
        sigset_t set;
        memset(&act, 0, sizeof act);
        act.sa_handler = lsps2fast_nudged;
        sigemptyset(&act.sa_mask);
        sigaction(LSPS2FAST_NUDGE, &act, NULL);
        sigemptyset(&set);
        sigaddset(&set, LSPS2FAST_NUDGE);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
    static void lsps2fast_nudge(pthread_t thread) { pthread_kill(thread, LSPS2FAST_NUDGE); }
    """
    pthread_t pthread_self() nogil
    void be_nudged "lsps2fast_be_nudged"() nogil
    void nudge "lsps2fast_nudge"(pthread_t thread) nogil

cdef enum:
    BLOCK = 65536  # bytes a read; larger blocks were slower
    HEAD = 400  # bytes of a message's call in which its peer is named
    TAIL = 200  # or in its last bytes
    ANSWER = 56  # bytes of an answer, its id aside


# ---- stdout: whole frames, one writer at a time


cdef int pipe_write(Pipe* pipe, const unsigned char* data, size_t size) noexcept nogil:
    """Write whole frames, from any thread; 0, or the errno that ended all writing. Blocks while the pipe is full
    (cln:W10).
    """
    cdef pollfd wait
    cdef Py_ssize_t done
    cdef int failed = 0
    pthread_mutex_lock(&pipe.mutex)
    while size > 0 and not pipe.mute:
        done = os_write(pipe.fd, data, size)
        if done >= 0:
            data += done
            size -= done
        elif errno == EAGAIN:
            wait.fd = pipe.fd
            wait.events = POLLOUT
            os_poll(&wait, 1, -1)
        elif errno != EINTR:
            failed = errno
            pipe.mute = True  # half a frame may be out: nothing may follow it
    pthread_mutex_unlock(&pipe.mutex)
    return failed


# ---- stdin


cdef inline u64 now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <u64> now.tv_sec * 1000000000 + <u64> now.tv_nsec


cdef inline void count_latency(Stream* s, u64 hooks, u64 ns) noexcept nogil:
    """So many hooks of one block were answered this long after it was read."""
    cdef u64* bounds = [
        10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 100000000, 1000000000
    ]
    cdef int place = 0
    while place < BUCKETS - 1 and ns > bounds[place]:
        place += 1
    s.late[place] += hooks
    s.late_ns += ns * hooks


cdef bint stream_open(Stream* s) noexcept nogil:
    s.room = 2 * BLOCK
    s.text = <unsigned char*> malloc(s.room + 1)
    s.answers = <unsigned char*> malloc(s.room + 1)
    return s.text != NULL and s.answers != NULL


cdef void stream_close(Stream* s) noexcept nogil:
    cdef int line
    free(s.text)
    free(s.answers)
    for line in range(LINES):
        chain_free(s.lines[line].head)
    s.text = NULL
    s.answers = NULL


cdef inline bint resize(Stream* s, Py_ssize_t room) noexcept nogil:
    cdef unsigned char* text = <unsigned char*> realloc(s.text, room + 1)
    if text == NULL:
        return False
    s.text = text
    text = <unsigned char*> realloc(s.answers, room + 1)
    if text == NULL:
        return False
    s.answers = text
    s.room = room
    return True


cdef inline bint make_room(Stream* s) noexcept nogil:
    """Room for one more block behind what is not complete yet. False when there is no memory."""
    cdef Py_ssize_t keep = s.begin if s.place.depth > 0 else s.at
    if keep > 0:
        memmove(s.text, s.text + keep, s.end - keep)
        s.passed += keep
        s.end -= keep
        s.at -= keep
        s.begin = 0
    if s.room - s.end < BLOCK:
        return resize(s, 2 * s.room)
    if s.room > 8 * BLOCK and s.end < BLOCK:
        return resize(s, 2 * BLOCK)
    return True


cdef inline bint asked_to_stop(Stream* s) noexcept nogil:
    cdef bint stop
    pthread_mutex_lock(&s.gate)
    stop = s.stop
    pthread_mutex_unlock(&s.gate)
    return stop


cdef bint stop_reading(Stream* s) noexcept nogil:
    """From any thread: ask for the end; whether run() is still to be nudged again, as a nudge right before a read is
    lost.
    """
    cdef bint running
    pthread_mutex_lock(&s.gate)
    s.stop = True
    running = s.running
    if running:
        nudge(s.thread)
    pthread_mutex_unlock(&s.gate)
    return running


cdef inline void run_or_not(Stream* s, bint running) noexcept nogil:
    pthread_mutex_lock(&s.gate)
    s.running = running
    s.thread = pthread_self()
    pthread_mutex_unlock(&s.gate)


cdef inline End fill(Stream* s) noexcept nogil:
    """Wait for bytes and read them."""
    cdef pollfd wait
    cdef Py_ssize_t size
    if not make_room(s):
        return NO_MEMORY
    while not asked_to_stop(s):
        size = os_read(s.fd, s.text + s.end, BLOCK)
        if size > 0:
            s.end += size
            s.text[s.end] = 0
            return GOING_ON
        if size == 0:
            return STREAM_END
        if errno == EAGAIN:
            wait.fd = s.fd
            wait.events = POLLIN
            os_poll(&wait, 1, -1)
        elif errno != EINTR:
            s.failed = errno
            return READ_FAILED
    return STOPPED


cdef inline Node* copy_of(const unsigned char* frame, Py_ssize_t size) noexcept nogil:
    """NULL when there is no memory."""
    cdef Node* node = <Node*> malloc(sizeof(Node) + size)
    if node != NULL:
        node.size = size
        memcpy(node + 1, frame, size)
    return node


cdef inline void keep(Stream* s, Node* node) noexcept nogil:
    chain_add(&s.lines[node.line], node)
    s.full = True
    s.handed += 1


cdef inline bint hand_over(Stream* s, const unsigned char* frame, Py_ssize_t size) noexcept nogil:
    """Keep a frame for the loop that is never shed. False when there is no memory."""
    cdef Node* node = copy_of(frame, size)
    if node == NULL:
        return False
    node.kind = CALL
    node.line = FIRST
    s.frames += 1
    s.bytes += size
    keep(s, node)
    return True


cdef inline bint is_from_watched(Stream* s, t.Walk* call) noexcept nogil:
    """Whether it comes from a peer that is watched: then it is of interest wherever it goes, to us, too."""
    cdef const unsigned char* peer = call.text + call.peer_id.at if call.seen & t.PEER_ID else NULL
    return may_be_watched(s.sets, peer, call.peer_id.size) and is_watched(s.sets, peer, call.peer_id.size)


cdef inline bint is_foreign(Stream* s, t.Walk* call) noexcept nogil:
    cdef u64 channel[4]
    cdef u64 payment_hash[4]
    cdef bint known_channel = call.seen & t.FORWARD_TO != 0
    if is_from_watched(s, call):
        return False
    if known_channel and s.sets.channels.count > 0:  # an empty set looks at no key
        unhex(call.text + call.forward_to.at, 64, <unsigned char*> channel)
    if s.sets.hashes.count > 0:
        unhex(call.text + call.payment_hash.at, 64, <unsigned char*> payment_hash)
    return FOREIGN == judge(
        s.sets,
        &call.next_scid if call.seen & t.NEXT_SCID else NULL,
        channel if known_channel else NULL,
        payment_hash,
        call.seen & t.EXTRA != 0,
    )


cdef inline void let_go(Stream* s, t.Walk* call) noexcept nogil:
    """Answer `continue`. Always shorter than the call it answers, so there is room."""
    cdef unsigned char* to = s.answers + s.answers_size
    memcpy(to, b'{"jsonrpc":"2.0","id":', 22)
    memcpy(to + 22, call.text + call.id.at, call.id.size)
    memcpy(to + 22 + call.id.size, b',"result":{"result":"continue"}}\n\n', 34)
    s.answers_size += ANSWER + call.id.size


# ---- what may be shed


cdef inline bint find_peer(t.Text text, Py_ssize_t at, Py_ssize_t end, u64* peer) noexcept nogil:
    """Find `"peer_id":` and the text of a node id."""
    cdef t.Text found
    cdef Py_ssize_t digit, place
    cdef unsigned char byte
    while at < end:
        found = <t.Text> memchr(text + at, b'"', end - at)
        if found == NULL:
            return False
        at = found - text + 1
        place = at + 9
        if end - place < 1 or memcmp(found, b'"peer_id":', 10) != 0:
            continue
        if text[place] == b" ":
            place += 1
        if end - place < PEER_SIZE + 2 or text[place] != b'"' or text[place + PEER_SIZE + 1] != b'"':
            continue
        for digit in range(PEER_SIZE):
            byte = text[place + 1 + digit]
            if not (b"0" <= byte <= b"9" or b"a" <= byte <= b"f"):
                break
        else:
            peer[PEER_WORDS - 1] = 0
            memcpy(peer, text + place + 1, PEER_SIZE)
            return True
    return False


cdef inline bint is_method(t.Walk* w, const char* name, Py_ssize_t size) noexcept nogil:
    return w.method.size == size and memcmp(w.text + w.method.at, name, size) == 0


cdef inline bint usual_id(t.Walk* w) noexcept nogil:
    """Whether it can be answered here; others the loop answers, or refuses."""
    cdef t.Walk token
    if w.id.size == 0:
        return False
    t.start(&token, w.text + w.id.at, w.id.size)
    return t.request_id(&token) and token.at == token.end and memchr(token.text, b"\\", token.end) == NULL


cdef inline bint sort_message(Stream* s, t.Walk* call) noexcept nogil:
    """Keep a peer's message, or answer it unread when its share is full. False when there is no memory."""
    cdef u64 peer[PEER_WORDS]
    cdef Node* node = copy_of(call.text, call.end)
    cdef Py_ssize_t n
    cdef bint named = find_peer(call.text, 0, min(call.end, HEAD), peer) or find_peer(call.text, max(call.end - TAIL, 0), call.end, peer)
    if node == NULL:
        return False
    if not named:
        for n in range(PEER_WORDS):
            peer[n] = 0
    if admit(s.box, node, peer, hash_of(&s.sets.known, peer), has(&s.sets.known, peer)):
        keep(s, node)
    else:
        free(node)
        let_go(s, call)
    return True


cdef inline bint sort_event(Stream* s, const unsigned char* frame, Py_ssize_t size) noexcept nogil:
    """Keep a notification, or drop it when its share is full. False when there is no memory."""
    cdef Node* node = copy_of(frame, size)
    if node == NULL:
        return False
    if admit_event(s.box, node):
        keep(s, node)
    else:
        free(node)
    return True


cdef inline bint sort_other(Stream* s, const unsigned char* frame, Py_ssize_t size) noexcept nogil:
    """Keep or shed what is no htlc_accepted call in the usual shape. False when there is no memory."""
    cdef t.Walk walk
    cdef u64 payment_hash[4]
    t.start(&walk, frame, size)
    if c.forward_event(&walk):
        unhex(walk.text + walk.payment_hash.at, 64, <unsigned char*> payment_hash)
        if s.sets.every_payment or has(&s.sets.hashes, payment_hash):
            return hand_over(s, frame, size)
        if s.sets.loaded:  # it belongs to no payment of interest (cln:W15)
            s.dropped += 1
            return True
        return sort_event(s, frame, size)
    t.start(&walk, frame, size)
    if c.top(&walk):
        if is_method(&walk, b'"custommsg"', 11) and usual_id(&walk) and size >= ANSWER + walk.id.size:
            return sort_message(s, &walk)
        if is_method(&walk, b'"onionmessage_forward_fail"', 27) and walk.id.size == 0:
            return sort_event(s, frame, size)
    return hand_over(s, frame, size)


cdef inline bint sort_call(Stream* s, t.Walk* call, Py_ssize_t size) noexcept nogil:
    if is_foreign(s, call):
        let_go(s, call)
        s.answered += 1
        return True
    return hand_over(s, call.text, size)


cdef inline bint sort_frame(Stream* s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Answer, drop or keep one whole frame that was found by structure. False when there is no memory."""
    cdef t.Walk walk
    cdef unsigned char behind = s.text[end]
    cdef bint good = True
    s.text[end] = 0  # the reader stops there
    t.start(&walk, s.text + begin, end - begin)
    if c.call_way(&walk):
        good = sort_call(s, &walk, end - begin)
    else:
        good = sort_other(s, s.text + begin, end - begin)
    s.text[end] = behind
    return good


cdef inline End cut(Stream* s) noexcept nogil:
    """Go through what was read. The caller holds the mutex of the sets."""
    cdef t.Walk walk
    while s.at < s.end:
        if s.place.depth == 0:
            if t.is_space(s.text[s.at]):
                s.at += 1
                continue
            if s.text[s.at] != b"{":
                s.lost_at = s.passed + s.at
                return NO_OBJECT
            s.begin = s.at
            t.start(&walk, s.text + s.at, s.end - s.at)
            if c.usual_call(&walk):
                s.at += walk.at
                if not sort_call(s, &walk, walk.at):
                    return NO_MEMORY
                continue
            s.at += 1
            s.place.depth = 1
            s.place.mode = c.BETWEEN
        s.at = c.advance(s.text, s.at, s.end, &s.place)
        if s.at - s.begin > MOST_FRAME:
            s.lost_at = s.passed + s.begin
            return LONG_FRAME
        if s.place.depth > 0:
            return GOING_ON
        if s.text[s.at - 1] != b"}":
            s.lost_at = s.passed + s.at - 1
            return WRONG_BRACKET
        if not sort_frame(s, s.begin, s.at):
            return NO_MEMORY
    return GOING_ON


cdef inline void answer(Stream* s) noexcept nogil:
    """One write for all answers of a batch."""
    if s.answers_size > 0:
        s.out_failed = pipe_write(s.out, s.answers, s.answers_size)
        s.answers_size = 0


cdef inline void hand_on(Stream* s) noexcept nogil:
    """The rest of a batch to the loop."""
    if s.full:
        inbox_put(s.box, s.lines, s.bytes, s.frames)
        s.bytes = s.frames = 0
        s.full = False


cdef End run(Stream* s) noexcept nogil:
    """Read until the end, or until stdout broke (`out_failed`), which the caller reports before going on."""
    cdef End end = GOING_ON
    cdef u64 read_ns, before
    be_nudged()
    run_or_not(s, True)
    while end == GOING_ON and s.out_failed == 0:
        end = fill(s)
        if end == GOING_ON:
            read_ns, before = now_ns(), s.answered
            pthread_mutex_lock(&s.sets.mutex)
            end = cut(s)
            pthread_mutex_unlock(&s.sets.mutex)
            answer(s)
            if s.answered != before:
                count_latency(s, s.answered - before, now_ns() - read_ns)
            hand_on(s)
    run_or_not(s, False)
    return end
