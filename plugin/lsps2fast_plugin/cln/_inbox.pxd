# Frames on their way from the lane to the loop, by kind, in C; the bodies are in `_inbox.pyx`, the rules and their
# interpreted twin in `inbox.py`.

from lsps2fast_plugin.cln._keyset cimport PEER_SIZE, PEER_WORDS, Table, pthread_cond_t, pthread_mutex_t, u64

cdef enum:  # kinds
    CALL  # and all else that is never shed
    MESSAGE  # of a peer
    EVENT  # of other payments
    KINDS

cdef enum:  # lines, in the sequence in which they are taken
    FIRST
    QUIET  # messages of peers who had none waiting
    LOUD
    LINES

cdef enum:
    MOST_MESSAGES = 4096
    MOST_MESSAGE_BYTES = 8388608
    MOST_EVENTS = 4096
    MOST_BYTES = 67108864  # of the first line: beyond that the lane stops reading
    KNOWN_WAITING = 2  # messages of a known peer while others are shed
    ROWS = 4
    PLACES = 16384  # counters of a row
    MOST_PEERS = 256  # that are counted by name
    PEER_SLOTS = 512

cdef struct Node:  # the frame's bytes stand behind it
    Node* next
    size_t size
    int kind
    int line
    unsigned short places[ROWS]  # of its peer

cdef struct Chain:
    Node* head
    Node* tail

cdef struct ShedPeer:
    u64 key[PEER_WORDS]
    u64 count

cdef struct ShedCounts:
    u64 messages  # ever
    u64 events
    ShedPeer peers[PEER_SLOTS]  # messages since the last look; 0: the slot is free
    int peer_count
    u64 others  # of peers beyond these

cdef struct Inbox:
    pthread_mutex_t mutex
    pthread_cond_t change
    Chain lines[LINES]
    size_t frames[KINDS]
    size_t bytes[KINDS]
    unsigned short waiting[ROWS][PLACES]  # messages, by peer; a peer has the smallest of its counts
    ShedCounts shed
    int end  # GOING_ON while frames may come
    bint closed
    bint asleep  # the loop waits for a byte
    int wake

cdef void chain_add(Chain* chain, Node* node) noexcept nogil
cdef void chain_free(Node* node) noexcept nogil
cdef bint admit(Inbox* box, Node* node, const u64* peer, u64 hash, bint known) noexcept nogil
cdef bint admit_event(Inbox* box, Node* node) noexcept nogil
cdef void inbox_put(Inbox* box, Chain* lines, size_t bytes, size_t frames) noexcept nogil
cdef void inbox_end(Inbox* box, int end) noexcept nogil
cdef void inbox_close(Inbox* box) noexcept nogil
cdef void inbox_look(Inbox* box, ShedCounts* shed) noexcept nogil
cdef Node* inbox_take(Inbox* box, int most, int* end) noexcept nogil
