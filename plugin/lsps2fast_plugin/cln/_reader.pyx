# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The lane in C: a thread that reads stdin without the GIL, so that no forward of the node waits for Python.

What it does with a block of bytes is in `_stream.pyx`, the sets it looks things up in are in `_keyset.pyx`; here is
what Python sees of both. It decides as `lane.PythonReader` does, which a differential test holds.

Frames that are not answered go to the loop through a second thread, which waits for them without the GIL and takes it
to hand them on. So the reading thread asks for the GIL only when it starts and ends, and goes on while the loop
computes; what may lie between the two is bounded.
"""

import os
import signal
import threading
import time

import cython
import cython.cimports.lsps2fast_plugin.cln._keyset as k
import cython.cimports.lsps2fast_plugin.cln._stream as c
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memcpy

from lsps2fast.errors import MalformedFrame

__all__ = ["CHANNEL_ID", "PAYMENT_HASH", "PEER_ID", "SCID", "HookReader", "Keys", "Output", "Sets"]

SCID, CHANNEL_ID, PAYMENT_HASH, PEER_ID = range(4)
MOST_AT_ONCE = 256  # frames handed on in one call


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
        ):
            raise MemoryError

    def __dealloc__(self) -> None:
        k.table_close(cython.address(self._c.scids))
        k.table_close(cython.address(self._c.channels))
        k.table_close(cython.address(self._c.hashes))
        k.table_close(cython.address(self._c.peers))
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
        elif kind == 3:
            self._table = cython.address(sets._c.peers)
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
        size: cython.size_t = 33 if self._kind == 3 else 32
        if raw is None or len(raw) != size:
            raise ValueError(f"not {size} bytes: {item!r}")
        if self._kind == 3:  # the lane compares the text, and so need not read it
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
            raw = PyBytes_FromStringAndSize(place, k.PEER_SIZE if self._kind == 3 else 32)
            found.append(raw.decode() if self._kind == 3 else raw.hex() if self._kind == 1 else raw)
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
    _queue: c.Queue
    _sets: Sets
    _out: Output
    _on_frames: object
    _on_end: object
    _reader: object
    _porter: object

    def __cinit__(self) -> None:
        k.pthread_mutex_init(cython.address(self._queue.mutex), cython.NULL)
        k.pthread_cond_init(cython.address(self._queue.change), cython.NULL)
        k.pthread_mutex_init(cython.address(self._stream.gate), cython.NULL)
        if not c.stream_open(cython.address(self._stream)):
            raise MemoryError

    def __init__(self, fd: cython.int, sets: Sets, out: Output, on_frames: object, on_end: object) -> None:
        self._sets = sets
        self._out = out
        self._on_frames = on_frames
        self._on_end = on_end
        self._stream.fd = fd
        self._stream.place.mode = c.c.BETWEEN
        self._stream.sets = cython.address(sets._c)
        self._stream.out = cython.address(out._c)
        self._stream.queue = cython.address(self._queue)
        self._reader = threading.Thread(target=self._read, name="lane", daemon=True)
        self._porter = threading.Thread(target=self._carry, name="lane to loop", daemon=True)

    def __dealloc__(self) -> None:
        # Only once both threads are over: each holds a reference.
        c.chain_free(self._queue.head)
        c.stream_close(cython.address(self._stream))
        k.pthread_cond_destroy(cython.address(self._queue.change))
        k.pthread_mutex_destroy(cython.address(self._queue.mutex))
        k.pthread_mutex_destroy(cython.address(self._stream.gate))

    def start(self) -> None:
        """Begin to read."""
        # Blocked while the threads begin, so that they inherit it: signals are the main thread's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._porter.start()
            self._reader.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Read no further; the end is told. Waits up to a second for the threads."""
        c.queue_close(cython.address(self._queue))
        deadline = time.monotonic() + 1.0
        while c.stop_reading(cython.address(self._stream)) and time.monotonic() < deadline:
            self._reader.join(0.001)
        if self._reader.ident is not None:
            self.join(max(deadline - time.monotonic(), 0))

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came and was told."""
        deadline = time.monotonic() + timeout_s
        self._reader.join(timeout_s)
        self._porter.join(max(deadline - time.monotonic(), 0))
        return not (self._reader.is_alive() or self._porter.is_alive())

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
        c.queue_end(cython.address(self._queue), end)

    def _carry(self) -> None:
        """Hand frames on, in order; the end behind the last one."""
        head: cython.pointer[c.Node]
        end: cython.int = 0
        why: object = None
        try:
            while True:
                with cython.nogil:
                    head = c.queue_take(cython.address(self._queue), cython.address(end))
                if head == cython.NULL:
                    break
                self._hand_on(head)
            why = self._why(end)
        except Exception as error:  # a bug of ours must end the plugin, not leave every HTLC of the node unanswered
            why = f"the lane broke: {type(error).__name__}: {error}"
            c.queue_close(cython.address(self._queue))
        self._on_end(why)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _hand_on(self, head: cython.pointer[c.Node]) -> cython.void:
        after: cython.pointer[c.Node]
        try:
            while head != cython.NULL:
                frames: list = []
                while head != cython.NULL and len(frames) < MOST_AT_ONCE:
                    after = head.next
                    frames.append(PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, head + 1), head.size))
                    free(head)
                    head = after
                self._on_frames(frames)
        finally:
            c.chain_free(head)

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
