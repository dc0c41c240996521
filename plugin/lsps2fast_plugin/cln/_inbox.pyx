# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Keep frames for the loop, by kind; shed what peers send beyond its share. The rules are told in `inbox.py`.

No function here knows Python; the lane's thread puts and admits, the loop takes.
"""

from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from lsps2fast_plugin.cln._keyset cimport (
    pthread_cond_broadcast,
    pthread_cond_wait,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t os_write "write"(int fd, const void* buffer, size_t size)


cdef void chain_add(Chain* chain, Node* node) noexcept nogil:
    node.next = NULL
    if chain.tail == NULL:
        chain.head = node
    else:
        chain.tail.next = node
    chain.tail = node


cdef void chain_free(Node* node) noexcept nogil:
    cdef Node* after
    while node != NULL:
        after = node.next
        free(node)
        node = after


cdef inline void count_shed(Inbox* box, const u64* peer, u64 hash) noexcept nogil:
    """By name as far as there is room."""
    cdef unsigned int slot = hash % PEER_SLOTS
    box.shed.messages += 1
    while box.shed.peers[slot].count != 0:
        if memcmp(box.shed.peers[slot].key, peer, PEER_WORDS * sizeof(u64)) == 0:
            box.shed.peers[slot].count += 1
            return
        slot = (slot + 1) % PEER_SLOTS
    if box.shed.peer_count == MOST_PEERS:
        box.shed.others += 1
        return
    memcpy(box.shed.peers[slot].key, peer, PEER_WORDS * sizeof(u64))
    box.shed.peers[slot].count = 1
    box.shed.peer_count += 1


cdef inline unsigned int waiting_of(Inbox* box, const Node* node) noexcept nogil:
    cdef int row
    cdef unsigned int least = MOST_MESSAGES
    for row in range(ROWS):
        if box.waiting[row][node.places[row]] < least:
            least = box.waiting[row][node.places[row]]
    return least


cdef inline void change_waiting(Inbox* box, const Node* node, int by) noexcept nogil:
    cdef int row
    for row in range(ROWS):
        box.waiting[row][node.places[row]] += by


cdef bint admit(Inbox* box, Node* node, const u64* peer, u64 hash, bint known) noexcept nogil:
    """Whether this message of a peer may wait for the loop. Then it has its line and is counted."""
    cdef unsigned int waiting
    cdef size_t frames, bytes, frame_room, byte_room
    cdef int row, quarters = 2  # of the room that its like may fill
    for row in range(ROWS):
        node.places[row] = (hash >> 16 * row) % PLACES
    pthread_mutex_lock(&box.mutex)
    waiting = waiting_of(box, node)
    if known and waiting < KNOWN_WAITING:
        quarters = 4
    elif waiting == 0:
        quarters = 3
    frames, bytes = box.frames[MESSAGE] + 1, box.bytes[MESSAGE] + node.size
    frame_room, byte_room = MOST_MESSAGES // 4 * quarters, MOST_MESSAGE_BYTES // 4 * quarters
    if frames > frame_room or bytes > byte_room:
        count_shed(box, peer, hash)
        pthread_mutex_unlock(&box.mutex)
        return False
    node.kind = MESSAGE
    node.line = QUIET if waiting == 0 else LOUD
    box.frames[MESSAGE] = frames
    box.bytes[MESSAGE] = bytes
    change_waiting(box, node, 1)
    pthread_mutex_unlock(&box.mutex)
    return True


cdef bint admit_event(Inbox* box, Node* node) noexcept nogil:
    cdef bint good
    node.kind = EVENT
    node.line = FIRST
    pthread_mutex_lock(&box.mutex)
    good = box.frames[EVENT] < MOST_EVENTS
    if good:
        box.frames[EVENT] += 1
    else:
        box.shed.events += 1
    pthread_mutex_unlock(&box.mutex)
    return good


cdef inline void wake(Inbox* box) noexcept nogil:
    """Write the byte the loop waits for. The caller holds the mutex; the pipe never holds more than one."""
    if box.asleep:
        box.asleep = False
        os_write(box.wake, b"x", 1)


cdef void inbox_put(Inbox* box, Chain* lines, size_t bytes, size_t frames) noexcept nogil:
    """Append chains, of which so much is never shed; waits while there is too much of that. Once it is closed no frame
    is wanted.
    """
    cdef int line
    pthread_mutex_lock(&box.mutex)
    while box.bytes[CALL] >= MOST_BYTES and not box.closed:
        pthread_cond_wait(&box.change, &box.mutex)
    box.bytes[CALL] += bytes
    box.frames[CALL] += frames
    for line in range(LINES):
        if lines[line].head == NULL:
            continue
        if box.closed:
            chain_free(lines[line].head)
        elif box.lines[line].tail == NULL:
            box.lines[line] = lines[line]
        else:
            box.lines[line].tail.next = lines[line].head
            box.lines[line].tail = lines[line].tail
        lines[line].head = NULL
        lines[line].tail = NULL
    wake(box)
    pthread_mutex_unlock(&box.mutex)


cdef void inbox_end(Inbox* box, int end) noexcept nogil:
    pthread_mutex_lock(&box.mutex)
    box.end = end
    wake(box)
    pthread_mutex_unlock(&box.mutex)


cdef void inbox_close(Inbox* box) noexcept nogil:
    """Let the lane go, whatever it brings. From any thread."""
    pthread_mutex_lock(&box.mutex)
    box.closed = True
    pthread_cond_broadcast(&box.change)
    pthread_mutex_unlock(&box.mutex)


cdef void inbox_look(Inbox* box, ShedCounts* shed) noexcept nogil:
    """Give a copy of what was shed, and begin to count peers anew."""
    pthread_mutex_lock(&box.mutex)
    shed[0] = box.shed
    memset(box.shed.peers, 0, sizeof(box.shed.peers))
    box.shed.peer_count = 0
    box.shed.others = 0
    pthread_mutex_unlock(&box.mutex)


cdef inline void let_out(Inbox* box, const Node* node) noexcept nogil:
    box.frames[node.kind] -= 1
    if node.kind != EVENT:
        box.bytes[node.kind] -= node.size
    if node.kind == MESSAGE:
        change_waiting(box, node, -1)


cdef Node* inbox_take(Inbox* box, int most, int* end) noexcept nogil:
    """The next frames, at most so many; NULL when there are none, with the end if that is behind them in `end`."""
    cdef Chain taken
    cdef Node* node
    cdef int line
    taken.head = taken.tail = NULL
    pthread_mutex_lock(&box.mutex)
    for line in range(LINES):
        while most > 0 and box.lines[line].head != NULL:
            node = box.lines[line].head
            box.lines[line].head = node.next
            if node.next == NULL:
                box.lines[line].tail = NULL
            let_out(box, node)
            chain_add(&taken, node)
            most -= 1
    end[0] = box.end
    box.asleep = taken.head == NULL
    pthread_cond_broadcast(&box.change)
    pthread_mutex_unlock(&box.mutex)
    return taken.head
