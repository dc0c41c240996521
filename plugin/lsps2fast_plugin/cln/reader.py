"""The lane: the thread that owns stdin, so that no forward of the node waits for what the loop is doing.

It cuts frames, answers each HTLC that cannot be ours at once, drops forward_events that no session waits for (cln:W15),
and hands on all else in order. It knows nothing of sessions, only the sets in `HtlcFilter`, which the loop changes.

There are two: `_lane.pyx` reads and answers without the GIL; `PythonReader`, below, serves where there is no C. An
`HtlcFilter` says which one its host gets, because the sets must lie where that lane can look: `make_lane`.
"""

from __future__ import annotations

import bisect
import enum
import importlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar

from lsps2fast import BACKEND
from lsps2fast import _hook as hook
from lsps2fast.errors import MalformedFrame

BLOCK = 64 * 1024  # bytes a read; larger blocks were slower
NODE_ID_DIGITS = 66
# Of the time from reading a block to answering the HTLCs in it that are not ours; `_stream.pxd` has the same.
LATENCY_BOUNDS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0)
Key = TypeVar("Key")


def _load() -> tuple[ModuleType | None, str]:
    """Return the lane in C, or why there is none."""
    try:
        return importlib.import_module("lsps2fast_plugin.cln._reader"), ""
    except ImportError as error:
        return None, str(error)


in_c, _why = _load()
why_not_in_c = _why if BACKEND == "compiled" else "the core runs interpreted"  # "": it is used


class Keys(Protocol[Key]):
    """What the sets of an `HtlcFilter` can do; a `set` can, too."""

    def add(self, key: Key, /) -> None:
        """Take a key in."""

    def discard(self, key: Key, /) -> None:
        """Take a key out, if it is there."""

    def __contains__(self, key: object, /) -> bool: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Key]: ...


class Verdict(enum.Enum):
    """Whose HTLC it is, as far as can be told now."""

    FOREIGN = enum.auto()
    OURS = enum.auto()
    UNKNOWN = enum.auto()


class HtlcFilter:
    """What concerns this plugin. The owner fills the sets, on the loop; a change counts once the call returns.

    scids           next hops that are ours (64-bit numbers)
    channel_ids     channels no forward may enter unseen, lower-case hex (withheld ones, rule:7)
    payment_hashes  payments to be seen wherever they go, 32 bytes; also the forward_events wanted
    peers           node ids of peers whose HTLCs are all to be seen, wherever they go (rule:27): a channel has
                    several names, which change, its peer has one
    every_payment   as if payment_hashes held all there are
    channels_loaded the channel_ids are complete; until then a forward into a known channel waits, too
    loaded          all is complete; until then only what cannot be ours is foreign (cln:W11)
    final_hops      the client's: an HTLC that ends here is looked up by payment hash, and is ours if its message had
                    extra TLVs: a fee may be in them (I-22). Else it is foreign
    """

    __slots__ = (
        "_channels_loaded",
        "_every_payment",
        "_loaded",
        "channel_ids",
        "final_hops",
        "payment_hashes",
        "peers",
        "scids",
        "sets",
    )

    def __init__(self, *, final_hops: bool = False, compiled: bool | None = None) -> None:
        """`compiled`: for the lane in C or the one in Python; by default C where it is there.

        Raises ValueError if not.
        """
        self.final_hops = final_hops
        self._channels_loaded = False
        self._loaded = False
        self._every_payment = False
        self.sets: Any = None
        self.scids: Keys[int] = set()
        self.channel_ids: Keys[str] = set()
        self.payment_hashes: Keys[bytes] = set()
        self.peers: Keys[str] = set()
        if compiled is None:
            compiled = not why_not_in_c
        if compiled:
            self._move_to_c()

    def _move_to_c(self) -> None:
        if in_c is None:
            raise ValueError(f"there is no lane in C: {_why}")
        self.sets = in_c.Sets()
        self.scids = in_c.Keys(self.sets, in_c.SCID)
        self.channel_ids = in_c.Keys(self.sets, in_c.CHANNEL_ID)
        self.payment_hashes = in_c.Keys(self.sets, in_c.PAYMENT_HASH)
        self.peers = in_c.Keys(self.sets, in_c.PEER_ID)
        self._switch()

    def _switch(self) -> None:
        if self.sets is not None:
            self.sets.switch(
                final_hops=self.final_hops,
                channels_loaded=self._channels_loaded,
                loaded=self._loaded,
                every_payment=self._every_payment,
            )

    @property
    def channels_loaded(self) -> bool:
        """The channel_ids are complete."""
        return self._channels_loaded

    @channels_loaded.setter
    def channels_loaded(self, yes: bool) -> None:
        self._channels_loaded = yes
        self._switch()

    @property
    def loaded(self) -> bool:
        """All is complete."""
        return self._loaded

    @loaded.setter
    def loaded(self, yes: bool) -> None:
        self._loaded = yes
        self._switch()

    @property
    def every_payment(self) -> bool:
        """Every payment is of interest."""
        return self._every_payment

    @every_payment.setter
    def every_payment(self, yes: bool) -> None:
        self._every_payment = yes
        self._switch()

    def wants(self, payment_hash: bytes) -> bool:
        """Return whether this payment is to be seen."""
        return self._every_payment or payment_hash in self.payment_hashes

    def watches(self, peer_id: str | None) -> bool:
        """Return whether all that comes from this peer is to be seen; None: it is not known whose HTLC it is."""
        return len(self.peers) > 0 and (peer_id is None or len(peer_id) != NODE_ID_DIGITS or peer_id in self.peers)

    def judge(
        self, scid: int, forward_to: str | None, payment_hash: bytes, has_extra: bool, peer_id: str | None = None
    ) -> Verdict:
        """Whose HTLC goes to `scid` (-1: none), into the channel `forward_to` (None: lightningd knows none).

        `has_extra`: its call has `extra_tlvs`. `peer_id`: who sent it, None when that is not known here.
        """
        ends_here = scid < 0 and forward_to is None
        watched = self.watches(peer_id)
        if ends_here and not self.final_hops and not watched:
            return Verdict.FOREIGN
        listed = scid in self.scids or forward_to in self.channel_ids or self.wants(payment_hash)
        listed = listed or (ends_here and has_extra) or watched
        if self._loaded:
            return Verdict.OURS if listed else Verdict.FOREIGN
        if forward_to is not None and self._channels_loaded and not listed:
            return Verdict.FOREIGN  # a jit scid leads to no channel that lightningd knows
        return Verdict.UNKNOWN


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

    def start(self) -> None:
        """Begin to read."""

    def stop(self) -> None:
        """Read no further; the end is told."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came."""

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
    """What a lane does with the bytes it reads, in Python: answers what is foreign, drops, hands on.

    Answers go to `out`; `on_frames` takes frames in order and may block.
    """

    def __init__(self, interest: HtlcFilter, out: Output, on_frames: Callable[[list[bytes]], None]) -> None:
        self._interest = interest
        self._out = out
        self._on_frames = on_frames
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
        self._hand_on(rest)
        if self._frames.lost:
            self._frames.feed(b"")

    def _is_foreign(self, id_raw: bytes, *hop: Any) -> bool:
        """While any peer is watched all goes to the loop, which knows who sent it."""
        if self._interest.judge(*hop) is not Verdict.FOREIGN:
            return False
        self._answers.append(hook.answer_continue(id_raw))
        return True

    def _is_unwanted(self, frame: bytes) -> bool:
        """Return whether it is a forward_event that is not waited for here (cln:W15)."""
        event = hook.event_hash(frame) if self._interest.loaded else None
        return event is not None and not self._interest.wants(event)

    def _answer(self, read_s: float) -> None:
        """Answers go out before anything of the same block reaches the loop."""
        answers, self._answers = self._answers, []
        if answers:
            self._out.write(b"".join(answers))
            seconds = time.perf_counter() - read_s
            self._late[bisect.bisect_left(LATENCY_BOUNDS_S, seconds)] += len(answers)
            self._late_s += seconds * len(answers)

    def _hand_on(self, frames: list[bytes]) -> None:
        rest = [frame for frame in frames if not self._is_unwanted(frame)]
        if rest:
            self._on_frames(rest)


class PythonReader:
    """Reads `fd` until its end, in a thread.

    `on_frames` may block, which stops the reading; `on_end` is told once, behind the last frame: None at the end of the
    stream, else why nothing more can be read.
    """

    def __init__(
        self,
        fd: int,
        interest: HtlcFilter,
        out: Output,
        on_frames: Callable[[list[bytes]], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self._fd = fd
        self._sorter = FrameSorter(interest, out, on_frames)
        self._on_end = on_end
        self._stopped, self._stop = os.pipe()
        self._poll = select.poll()
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further; the end is told. Waits up to a second for the thread."""
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
        self._on_end(why)
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


def make_lane(
    fd: int,
    interest: HtlcFilter,
    out: Output,
    on_frames: Callable[[list[bytes]], None],
    on_end: Callable[[str | None], None],
) -> HookReader:
    """Return the lane for `interest`; the arguments are those of `PythonReader`, `out` is from `make_output`."""
    if interest.sets is None:
        return PythonReader(fd, interest, out, on_frames, on_end)
    assert in_c is not None
    lane: HookReader = in_c.HookReader(fd, interest.sets, out, on_frames, on_end)
    return lane
