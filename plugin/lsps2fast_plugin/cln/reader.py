"""The lane: the thread that owns stdin, so that no forward of the node waits for what the loop is doing.

It cuts frames, answers each HTLC that cannot be ours at once, drops forward_events that no session waits for (cln:W15),
and puts all else into the inbox (`inbox.py`), from which the loop takes it. It knows nothing of sessions, only the sets
in `HtlcFilter`, which the loop changes.

There are two: `_reader.pyx` reads and answers without the GIL; `PythonReader`, below, serves where there is no C. An
`HtlcFilter` says which one its host gets, because the sets must lie where that lane can look: `make_lane`.
"""

from __future__ import annotations

import bisect
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from lsps2fast import _hook as hook
from lsps2fast.errors import MalformedFrame
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter, Verdict, in_c
from lsps2fast_plugin.cln.inbox import Ended, Inbox, Kind, Shed, is_lost_onion, message_id, peer_of

BLOCK = 64 * 1024  # bytes a read; larger blocks were slower
# Of the time from reading a block to answering the HTLCs in it that are not ours; `_stream.pxd` has the same.
LATENCY_BOUNDS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0)


class Output(Protocol):
    """Stdout, shared by the lane and all other writers."""

    def write(self, whole_frames: bytes, /) -> None:
        """Write whole frames."""

    def move(self, fd: int, /) -> None:
        """Write to another descriptor from now on."""

    def mute(self) -> None:
        """Let nothing out any more."""


class HookReader(Protocol):
    """What reads stdin."""

    @property
    def wake_fd(self) -> int:
        """A descriptor that gets a byte when the loop is to `take` again; -1: `wake` is called."""

    def start(self) -> None:
        """Begin to read."""

    def stop(self) -> None:
        """Read no further; the end is told."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came."""

    def take(self, most: int) -> list[bytes | Ended]:
        """Return the next frames, on the loop, the end behind the last; none means that the loop will be woken."""

    @property
    def shed_count(self) -> int:
        """Messages and events that were shed, ever."""

    def take_shed(self) -> Shed:
        """Return what was shed: ever, and by peer since the last call."""

    @property
    def latencies(self) -> tuple[list[int], float]:
        """HTLCs answered, by the time from reading to answering (`LATENCY_BOUNDS_S`, and beyond); the sum in s."""


class PythonOutput:
    """Where whole frames go, from any thread, one writer at a time.

    `on_broken` is told once, by the writer who met it, when nothing more can be written.
    """

    def __init__(self, fd: int, on_broken: Callable[[OSError], None]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._lock = threading.Lock()
        self._mute = False

    def write(self, whole_frames: bytes) -> None:
        """Write whole frames; blocks while the pipe is full, which is enough (cln:W10)."""
        try:
            with self._lock:
                self._write_all(whole_frames)
        except OSError as error:
            self._on_broken(error)

    def _write_all(self, whole_frames: bytes) -> None:
        rest = memoryview(b"" if self._mute else whole_frames)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError:
            self._mute = True  # half a frame may be out: nothing may follow it
            raise

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            select.select([], [self._fd], [])
            return 0

    def move(self, fd: int) -> None:
        """Write to another descriptor from now on."""
        with self._lock:
            self._fd = fd

    def mute(self) -> None:
        """Let nothing out any more."""
        with self._lock:
            self._mute = True


class FrameSorter:
    """What a lane does with the bytes it reads, in Python: answers what is foreign, drops, sheds, puts into the inbox.

    Answers go to `out`.
    """

    def __init__(self, interest: HtlcFilter, out: Output, inbox: Inbox) -> None:
        self._interest = interest
        self._out = out
        self._inbox = inbox
        self._answers: list[bytes] = []
        self._late = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._late_s = 0.0
        self._frames = hook.FrameReader(on_call=self._is_foreign)

    @property
    def latencies(self) -> tuple[list[int], float]:
        """As `HookReader.latencies`."""
        return list(self._late), self._late_s

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream. Raises MalformedFrame when nothing more can be read."""
        read_s = time.perf_counter()
        try:
            rest = self._frames.feed(data)
        finally:
            self._answer(read_s)
        kept = [item for frame in rest if (item := self._sort(frame)) is not None]
        if self._answers:  # to what was shed
            self._out.write(b"".join(self._answers))
            self._answers = []
        if kept:
            self._inbox.put(kept)
        if self._frames.lost:
            self._frames.feed(b"")

    def _is_foreign(self, id_raw: bytes, *hop: Any) -> bool:
        """While any peer is watched all goes to the loop, which knows who sent it."""
        if self._interest.judge(*hop) is not Verdict.FOREIGN:
            return False
        self._answers.append(hook.answer_continue(id_raw))
        return True

    def _sort(self, frame: bytes) -> tuple[int, Kind, bytes, bytes] | None:
        """Return a frame with its line, its kind and its peer; None when it is dropped or shed."""
        event = hook.event_hash(frame) if b"forward_event" in frame else None
        if event is not None and not self._interest.wants(event):
            if self._interest.loaded or not self._inbox.admit_event():
                return None  # the first: no session waits for it (cln:W15)
            return 0, Kind.EVENT, frame, b""
        id_raw = None if event is not None else message_id(frame)
        if id_raw is not None:
            peer = peer_of(frame)
            line = self._inbox.admit(frame, peer, peer.decode() in self._interest.known)
            if line == 0:
                self._answers.append(hook.answer_continue(id_raw))
            return (line, Kind.MESSAGE, frame, peer) if line else None
        if event is None and is_lost_onion(frame):
            return (0, Kind.EVENT, frame, b"") if self._inbox.admit_event() else None
        return 0, Kind.CALL, frame, b""

    def _answer(self, read_s: float) -> None:
        """Answers go out before anything of the same block reaches the loop."""
        answers, self._answers = self._answers, []
        if answers:
            self._out.write(b"".join(answers))
            seconds = time.perf_counter() - read_s
            self._late[bisect.bisect_left(LATENCY_BOUNDS_S, seconds)] += len(answers)
            self._late_s += seconds * len(answers)


class PythonReader:
    """Reads `fd` until its end, in a thread; `wake()` is called from it when the loop is to take frames."""

    wake_fd = -1

    def __init__(self, fd: int, interest: HtlcFilter, out: Output, wake: Callable[[], None]) -> None:
        self._fd = fd
        self._inbox = Inbox(wake)
        self._sorter = FrameSorter(interest, out, self._inbox)
        self.take = self._inbox.take
        self.take_shed = self._inbox.take_shed
        self._stopped, self._stop = os.pipe()
        self._poll = select.poll()
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)

    @property
    def shed_count(self) -> int:
        """Messages and events that were shed, ever."""
        return self._inbox.shed_count

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further; the end is told. Waits up to a second for the thread."""
        self._inbox.close()
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
        if self._thread.ident is not None:
            self.join(1.0)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def latencies(self) -> tuple[list[int], float]:
        """HTLCs answered, by the time from reading to answering (`LATENCY_BOUNDS_S`, and beyond); the sum in s."""
        return self._sorter.latencies

    def _run(self) -> None:
        why: str | None = None
        try:
            self._read()
        except MalformedFrame as error:
            why = f"lightningd's stream makes no sense: {error}"
        except OSError as error:
            why = f"stdin cannot be read: {error}"
        except Exception as error:  # a bug of ours must end the plugin, not leave every HTLC of the node unanswered
            why = f"the lane broke: {type(error).__name__}: {error}"
        self._inbox.end(why)
        os.close(self._stopped)

    def _next(self) -> bytes:
        """Bytes, waiting for them; b"" at the end of the stream or when stopped."""
        ready = self._poll.poll()
        return b"" if any(fd == self._stopped for fd, _ in ready) else os.read(self._fd, BLOCK)

    def _read(self) -> None:
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._stopped, select.POLLIN)
        while data := self._next():
            self._sorter.feed(data)


def make_output(interest: HtlcFilter, fd: int, on_broken: Callable[[OSError], None]) -> Output:
    """Return the stdout that the lane of `interest` can share."""
    if interest.sets is None:
        return PythonOutput(fd, on_broken)
    assert in_c is not None
    output: Output = in_c.Output(fd, on_broken)
    return output


def make_lane(fd: int, interest: HtlcFilter, out: Output, wake: Callable[[], None]) -> HookReader:
    """Return the lane for `interest`; the arguments are those of `PythonReader`, `out` is from `make_output`."""
    if interest.sets is None:
        return PythonReader(fd, interest, out, wake)
    assert in_c is not None
    lane: HookReader = in_c.HookReader(fd, interest.sets, out)
    return lane
