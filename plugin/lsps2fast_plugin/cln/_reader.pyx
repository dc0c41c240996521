# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The lane in C: a thread that reads stdin without the GIL, so that no forward of the node waits for Python.

What it does with a block of bytes is in `_stream.pyx`, the sets it looks things up in are in `_keyset.pyx`; here is
what Python sees of both. It decides as `lane.PythonReader` does, which a differential test holds.

Frames that are not answered wait in an inbox in C (`_inbox.pyx`), from which the loop takes them; a byte in a pipe
wakes it. So the reading thread asks for the GIL only when it starts and ends, and goes on while the loop computes.
"""

import os
import signal
import threading
import time

import cython
import cython.cimports.lsps2fast_plugin.cln._inbox as b
import cython.cimports.lsps2fast_plugin.cln._keyset as k
import cython.cimports.lsps2fast_plugin.cln._stream as c
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import close

from lsps2fast.errors import MalformedFrame
from lsps2fast_plugin.cln.inbox import Ended, Shed

__all__ = ["CHANNEL_ID", "KNOWN_ID", "PAYMENT_HASH", "PEER_ID", "SCID", "HookReader", "Keys", "Output", "Sets"]

SCID, CHANNEL_ID, PAYMENT_HASH, PEER_ID, KNOWN_ID = range(5)


@cython.final
@cython.cclass
class Sets:
    """The sets and switches of `lane.HtlcFilter` where the lane sees them; a change counts once the call returns."""

    _c: k.Sets

    def __cinit__(self) -> None:
        secret = cython.declare(cython.ulonglong[2])
        seed: bytes = os.urandom(16)
        memcpy(secret, cython.cast(cython.p_const_char, seed), 16)
        k.pthread_mutex_init(cython.address(self._c.mutex), cython.NULL)
        if not (
            k.table_open(cython.address(self._c.scids), 1, secret[0], secret[1])
            and k.table_open(cython.address(self._c.channels), 4, secret[0], secret[1])
            and k.table_open(cython.address(self._c.hashes), 4, secret[0], secret[1])
            and k.table_open(cython.address(self._c.peers), k.PEER_WORDS, secret[0], secret[1])
            and k.table_open(cython.address(self._c.known), k.PEER_WORDS, secret[0], secret[1])
        ):
            raise MemoryError

    def __dealloc__(self) -> None:
        k.table_close(cython.address(self._c.scids))
        k.table_close(cython.address(self._c.channels))
        k.table_close(cython.address(self._c.hashes))
        k.table_close(cython.address(self._c.peers))
        k.table_close(cython.address(self._c.known))
        k.pthread_mutex_destroy(cython.address(self._c.mutex))

    def switch(self, *, final_hops: bool, channels_loaded: bool, loaded: bool, every_payment: bool) -> None:
        """Set all switches."""
        k.pthread_mutex_lock(cython.address(self._c.mutex))
        self._c.final_hops = final_hops
        self._c.channels_loaded = channels_loaded
        self._c.loaded = loaded
        self._c.every_payment = every_payment
        k.pthread_mutex_unlock(cython.address(self._c.mutex))


@cython.final
@cython.cclass
class Keys:
    """One of the sets of `Sets`: numbers of 64 bits, channel ids (64) or node ids (66 hex digits), or 32 bytes.

    Adding anything else raises ValueError or OverflowError; `in` and `discard` are silent about it, as a set is.
    """

    _sets: Sets
    _table: cython.pointer[k.Table]
    _kind: cython.int

    def __init__(self, sets: Sets, kind: cython.int) -> None:
        self._sets = sets
        self._kind = kind
        if kind == 0:
            self._table = cython.address(sets._c.scids)
        elif kind >= 3:
            self._table = cython.address(sets._c.peers) if kind == 3 else cython.address(sets._c.known)
        else:
            self._table = cython.address(sets._c.channels) if kind == 1 else cython.address(sets._c.hashes)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _read(self, item: object, key: cython.pointer[cython.ulonglong]) -> cython.void:
        raw: bytes
        if self._kind == 0:
            key[0] = item
            return
        if self._kind == 2:
            raw = item
        else:
            raw = bytes.fromhex(item)
            if raw.hex() != item:
                raise ValueError(f"not lower-case hex: {item!r}")
        size: cython.size_t = 33 if self._kind >= 3 else 32
        if raw is None or len(raw) != size:
            raise ValueError(f"not {size} bytes: {item!r}")
        if self._kind >= 3:  # the lane compares the text, and so need not read it
            raw = item.encode()
            size = k.PEER_SIZE
            key[k.PEER_WORDS - 1] = 0
        memcpy(key, cython.cast(cython.p_const_char, raw), size)

    def add(self, item: object) -> None:
        """Take a key in. MemoryError when there is none left: then it is not in."""
        key = cython.declare(cython.ulonglong[9])
        self._read(item, key)
        k.pthread_mutex_lock(cython.address(self._sets._c.mutex))
        good: cython.bint = k.put(self._table, key)
        if self._kind == 3:
            self._mark_all()
        k.pthread_mutex_unlock(cython.address(self._sets._c.mutex))
        if not good:
            raise MemoryError

    def discard(self, item: object) -> None:
        """Take a key out, if it is there."""
        key = cython.declare(cython.ulonglong[9])
        try:
            self._read(item, key)
        except (ValueError, TypeError, OverflowError):
            return
        k.pthread_mutex_lock(cython.address(self._sets._c.mutex))
        k.drop(self._table, key)
        if self._kind == 3:
            self._mark_all()
        k.pthread_mutex_unlock(cython.address(self._sets._c.mutex))

    @cython.cfunc
    def _mark_all(self):
        """Set the marks of all peers anew. The caller holds the mutex."""
        slot: cython.size_t
        marks: cython.ulonglong = 0
        for slot in range(self._table.mask + 1):
            if self._table.used[slot]:
                marks |= k.mark(cython.cast(k.p_text, self._table.keys + k.PEER_WORDS * slot))
        self._sets._c.peer_marks = marks

    def __contains__(self, item: object) -> bool:
        key = cython.declare(cython.ulonglong[9])
        try:
            self._read(item, key)
        except (ValueError, TypeError, OverflowError):
            return False
        return k.has(self._table, key)  # only this thread, with the GIL, changes it

    def __len__(self) -> int:
        return self._table.count

    def __iter__(self):
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return set(self._all()) == set(other)

    def __repr__(self) -> str:
        return f"Keys({set(self._all())!r})"

    @cython.cfunc
    def _all(self) -> list:
        found: list = []
        slot: cython.size_t
        raw: bytes
        for slot in range(self._table.mask + 1):
            if not self._table.used[slot]:
                continue
            if self._kind == 0:
                found.append(self._table.keys[slot])
                continue
            place = cython.cast(cython.p_const_char, self._table.keys + self._table.words * slot)
            raw = PyBytes_FromStringAndSize(place, k.PEER_SIZE if self._kind >= 3 else 32)
            found.append(raw.decode() if self._kind >= 3 else raw.hex() if self._kind == 1 else raw)
        return found


@cython.final
@cython.cclass
class Output:
    """Where whole frames go, from Python and from the lane, one writer at a time; as `lane.PythonOutput`."""

    _c: c.Pipe
    _on_broken: object

    def __init__(self, fd: cython.int, on_broken: object) -> None:
        k.pthread_mutex_init(cython.address(self._c.mutex), cython.NULL)
        self._c.fd = fd
        self._c.mute = False
        self._on_broken = on_broken

    def __dealloc__(self) -> None:
        k.pthread_mutex_destroy(cython.address(self._c.mutex))

    def write(self, whole_frames: bytes) -> None:
        """Write whole frames; blocks while the pipe is full (cln:W10)."""
        data: cython.p_const_uchar = whole_frames
        size: cython.size_t = len(whole_frames)
        failed: cython.int
        with cython.nogil:
            failed = c.pipe_write(cython.address(self._c), data, size)
        if failed:
            self._on_broken(OSError(failed, os.strerror(failed)))

    def move(self, fd: cython.int) -> None:
        """Write to another descriptor from now on."""
        with cython.nogil:
            k.pthread_mutex_lock(cython.address(self._c.mutex))
            self._c.fd = fd
            k.pthread_mutex_unlock(cython.address(self._c.mutex))

    def mute(self) -> None:
        """Let nothing out any more."""
        with cython.nogil:
            k.pthread_mutex_lock(cython.address(self._c.mutex))
            self._c.mute = True
            k.pthread_mutex_unlock(cython.address(self._c.mutex))


@cython.final
@cython.cclass
class HookReader:
    """Reads `fd` until its end; as `lane.PythonReader`."""

    _stream: c.Stream
    _box: b.Inbox
    _sets: Sets
    _out: Output
    _reader: object
    _told: cython.bint
    wake_fd = cython.declare(cython.int, visibility="readonly")

    def __cinit__(self) -> None:
        self._box.wake = self.wake_fd = -1
        k.pthread_mutex_init(cython.address(self._box.mutex), cython.NULL)
        k.pthread_cond_init(cython.address(self._box.change), cython.NULL)
        k.pthread_mutex_init(cython.address(self._stream.gate), cython.NULL)
        if not c.stream_open(cython.address(self._stream)):
            raise MemoryError

    def __init__(self, fd: cython.int, sets: Sets, out: Output) -> None:
        self._sets = sets
        self._out = out
        self._stream.fd = fd
        self._stream.place.mode = c.c.BETWEEN
        self._stream.sets = cython.address(sets._c)
        self._stream.out = cython.address(out._c)
        self._stream.box = cython.address(self._box)
        self.wake_fd, self._box.wake = os.pipe()
        self._box.asleep = True
        self._reader = threading.Thread(target=self._read, name="lane", daemon=True)

    def __dealloc__(self) -> None:
        # Only once the thread is over: it holds a reference.
        line: cython.int
        for line in range(b.LINES):
            b.chain_free(self._box.lines[line].head)
        c.stream_close(cython.address(self._stream))
        k.pthread_cond_destroy(cython.address(self._box.change))
        k.pthread_mutex_destroy(cython.address(self._box.mutex))
        k.pthread_mutex_destroy(cython.address(self._stream.gate))
        if self.wake_fd >= 0:
            close(self.wake_fd)
            close(self._box.wake)

    def start(self) -> None:
        """Begin to read."""
        # Blocked while the thread begins, so that it inherits it: signals are the main thread's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._reader.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Read no further; the end is told. Waits up to a second for the thread."""
        b.inbox_close(cython.address(self._box))
        deadline = time.monotonic() + 1.0
        while c.stop_reading(cython.address(self._stream)) and time.monotonic() < deadline:
            self._reader.join(0.001)
        if self._reader.ident is not None:
            self.join(max(deadline - time.monotonic(), 0))

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came."""
        self._reader.join(timeout_s)
        return not self._reader.is_alive()

    def take(self, most: cython.int) -> list:
        """Return the next frames for the loop, the end behind the last; none: `wake_fd` will have a byte to read."""
        end: cython.int = 0
        after: cython.pointer[b.Node]
        frames: list = []
        with cython.nogil:
            head = b.inbox_take(cython.address(self._box), most, cython.address(end))
        try:
            while head != cython.NULL:
                frames.append(PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, head + 1), head.size))
                after = head.next
                free(head)
                head = after
        finally:
            b.chain_free(head)
        if not frames and end != c.GOING_ON and not self._told:
            self._told = True
            frames.append(Ended(self._why(end)))
        return frames

    @property
    def shed_count(self) -> int:
        """Messages and events that were shed, ever."""
        return self._box.shed.messages + self._box.shed.events

    def take_shed(self) -> Shed:
        """Return what was shed: ever, and by peer since the last call."""
        peers: dict = {}
        slot: cython.int
        shed = cython.cast(cython.pointer[b.ShedCounts], malloc(cython.sizeof(b.ShedCounts)))
        if shed == cython.NULL:
            raise MemoryError
        with cython.nogil:
            b.inbox_look(cython.address(self._box), shed)
        for slot in range(b.PEER_SLOTS):
            if shed.peers[slot].count != 0:
                key = PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, shed.peers[slot].key), k.PEER_SIZE)
                peers[key] = shed.peers[slot].count
        messages, events, others = shed.messages, shed.events, shed.others
        free(shed)
        return Shed.of(messages, events, peers, others)

    @property
    def counts(self) -> dict[str, int]:
        """HTLCs answered, forward_events dropped, frames handed to the loop."""
        s = cython.declare(cython.pointer[c.Stream], cython.address(self._stream))
        return {"answered": s.answered, "dropped": s.dropped, "handed": s.handed}

    @property
    def latencies(self) -> tuple[list[int], float]:
        """HTLCs answered, by the time from reading to answering (`LATENCY_BOUNDS_S`, and beyond); the sum in s."""
        return [self._stream.late[place] for place in range(c.BUCKETS)], self._stream.late_ns / 1e9

    def _read(self) -> None:
        end = cython.declare(c.End, c.GOING_ON)
        while end == c.GOING_ON:
            with cython.nogil:
                end = c.run(cython.address(self._stream))
            if self._stream.out_failed:
                failed = OSError(self._stream.out_failed, os.strerror(self._stream.out_failed))
                self._stream.out_failed = 0
                self._out._on_broken(failed)
        b.inbox_end(cython.address(self._box), end)

    @cython.cfunc
    def _why(self, end: cython.int) -> object:
        """Return the reason of the end: None for the stream's own, else a sentence."""
        if end == c.STREAM_END or end == c.STOPPED:
            return None
        if end == c.READ_FAILED:
            failed = OSError(self._stream.failed, os.strerror(self._stream.failed))
            return f"stdin cannot be read: {failed}"
        if end == c.NO_MEMORY:
            return "the lane broke: no memory"
        if end == c.NO_OBJECT:
            what = "neither white space nor the start of an object"
        elif end == c.WRONG_BRACKET:
            what = "an object closed by the wrong bracket"
        else:
            what = f"a frame above {c.MOST_FRAME} bytes"
        return f"lightningd's stream makes no sense: {MalformedFrame(what, self._stream.lost_at)}"
