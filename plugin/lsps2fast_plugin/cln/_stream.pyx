# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Do the lane's work in C: read a block, cut frames by structure, answer what is foreign, keep the rest for the loop.

No function here knows Python; all run without the GIL, in the lane's thread unless said otherwise.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove

cimport lsps2fast._scan as c
cimport lsps2fast._walk as t
from lsps2fast._bytes cimport unhex
from lsps2fast_plugin.cln._keyset cimport (
    FOREIGN,
    has,
    is_watched,
    judge,
    may_be_watched,
    pthread_cond_broadcast,
    pthread_cond_wait,
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
    MOST_QUEUED = 1048576  # bytes between lane and loop; beyond that the lane stops reading


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


# ---- frames on their way to the loop


cdef void chain_free(Node* node) noexcept nogil:
    cdef Node* after
    while node != NULL:
        after = node.next
        free(node)
        node = after


cdef inline void queue_put(Queue* queue, Node* head, Node* tail, size_t bytes) noexcept nogil:
    """Append a chain; waits while the queue is full. Once it is closed no frame is wanted."""
    pthread_mutex_lock(&queue.mutex)
    while queue.bytes >= MOST_QUEUED and not queue.closed:
        pthread_cond_wait(&queue.change, &queue.mutex)
    if queue.closed:
        pthread_mutex_unlock(&queue.mutex)
        chain_free(head)
        return
    if queue.tail == NULL:
        queue.head = head
    else:
        queue.tail.next = head
    queue.tail = tail
    queue.bytes += bytes
    pthread_cond_broadcast(&queue.change)
    pthread_mutex_unlock(&queue.mutex)


cdef void queue_end(Queue* queue, int end) noexcept nogil:
    pthread_mutex_lock(&queue.mutex)
    queue.end = end
    pthread_cond_broadcast(&queue.change)
    pthread_mutex_unlock(&queue.mutex)


cdef void queue_close(Queue* queue) noexcept nogil:
    """Let the lane go, whatever it brings. From any thread."""
    pthread_mutex_lock(&queue.mutex)
    queue.closed = True
    pthread_cond_broadcast(&queue.change)
    pthread_mutex_unlock(&queue.mutex)


cdef Node* queue_take(Queue* queue, int* end) noexcept nogil:
    """Everything queued, waiting for it; NULL behind the last frame, with why it was the last in `end`."""
    cdef Node* head
    pthread_mutex_lock(&queue.mutex)
    while queue.head == NULL and queue.end == GOING_ON:
        pthread_cond_wait(&queue.change, &queue.mutex)
    head = queue.head
    end[0] = queue.end
    queue.head = NULL
    queue.tail = NULL
    queue.bytes = 0
    pthread_cond_broadcast(&queue.change)
    pthread_mutex_unlock(&queue.mutex)
    return head


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
    free(s.text)
    free(s.answers)
    chain_free(s.head)
    s.text = NULL
    s.answers = NULL
    s.head = NULL


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


cdef inline bint hand_over(Stream* s, const unsigned char* frame, Py_ssize_t size) noexcept nogil:
    """Keep a frame for the loop. False when there is no memory."""
    cdef Node* node = <Node*> malloc(sizeof(Node) + size)
    if node == NULL:
        return False
    node.next = NULL
    node.size = size
    memcpy(node + 1, frame, size)
    if s.tail == NULL:
        s.head = node
    else:
        s.tail.next = node
    s.tail = node
    s.bytes += sizeof(Node) + size
    s.handed += 1
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
    s.answers_size += 56 + call.id.size
    s.answered += 1


cdef inline bint is_unwanted_event(Stream* s, t.Walk* event) noexcept nogil:
    """Whether a forward_event belongs to no payment of interest (cln:W15)."""
    cdef u64 payment_hash[4]
    if not c.forward_event(event):
        return False
    unhex(event.text + event.payment_hash.at, 64, <unsigned char*> payment_hash)
    return s.sets.loaded and not s.sets.every_payment and not has(&s.sets.hashes, payment_hash)


cdef inline bint sort_call(Stream* s, t.Walk* call, Py_ssize_t size) noexcept nogil:
    if is_foreign(s, call):
        let_go(s, call)
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
        t.start(&walk, s.text + begin, end - begin)
        if is_unwanted_event(s, &walk):
            s.dropped += 1
        else:
            good = hand_over(s, s.text + begin, end - begin)
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
    if s.head != NULL:
        queue_put(s.queue, s.head, s.tail, s.bytes)
        s.head = NULL
        s.tail = NULL
        s.bytes = 0


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
