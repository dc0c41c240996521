"""The lane: the thread that owns stdin, so that no forward of the node waits for what the loop is doing.

It cuts frames, answers every HTLC that cannot be ours at once, drops forward_events nobody here waits for (W15), and
hands on all else in order. This is the lane in plain Python; whatever replaces it has the same constructor, `start`
and `join`. It knows nothing of sessions, only the sets in `Interest`, which the loop changes: one look-up in a set is
atomic under the GIL.
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Callable, Container

from lsps2fast import _select
from lsps2fast.errors import MalformedFrame

hook = _select.load("_hook")

BLOCK = 64 * 1024  # bytes a read; larger blocks were slower


class Verdict(enum.Enum):
    """Whose HTLC it is, as far as can be told now."""

    FOREIGN = enum.auto()
    OURS = enum.auto()
    UNKNOWN = enum.auto()


class Interest:
    """What concerns this plugin. The owner fills the sets, on the loop.

    scids           next hops that are ours (64-bit numbers)
    channel_ids     channels no forward may enter unseen, lower-case hex (withheld ones, money rule 7)
    payment_hashes  payments to be seen wherever they go, 32 bytes; also the forward_events wanted
    channels_loaded the channel_ids are complete; until then a forward into a known channel waits, too
    loaded          all is complete; until then only what cannot be ours is foreign (W11)
    final_hops      the client's: an HTLC that ends here is looked up by payment hash; else it is foreign
    """

    __slots__ = ("channel_ids", "channels_loaded", "final_hops", "loaded", "payment_hashes", "scids")

    def __init__(self, *, final_hops: bool = False) -> None:
        self.scids: set[int] = set()
        self.channel_ids: set[str] = set()
        self.payment_hashes: Container[bytes] = set()
        self.final_hops = final_hops
        self.channels_loaded = False
        self.loaded = False

    def judge(self, scid: int, forward_to: str | None, payment_hash: bytes) -> Verdict:
        """Whose HTLC goes to `scid` (-1: none), into the channel `forward_to` (None: lightningd knows none)."""
        if scid < 0 and forward_to is None and not self.final_hops:
            return Verdict.FOREIGN
        if self.loaded:
            ours = scid in self.scids or forward_to in self.channel_ids or payment_hash in self.payment_hashes
            return Verdict.OURS if ours else Verdict.FOREIGN
        listed = scid in self.scids or forward_to in self.channel_ids or payment_hash in self.payment_hashes
        if forward_to is not None and self.channels_loaded and not listed:
            return Verdict.FOREIGN  # a jit scid leads to no channel that lightningd knows
        return Verdict.UNKNOWN


class PythonLane:
    """Reads `fd` until its end.

    `write` takes whole frames; `on_frames` takes frames in order and may block, which stops the reading; `on_end` is
    told once, behind the last frame: None at the end of the stream, else why nothing more can be read.
    """

    def __init__(
        self,
        fd: int,
        interest: Interest,
        write: Callable[[bytes], None],
        on_frames: Callable[[list[bytes]], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self._fd = fd
        self._interest = interest
        self._write = write
        self._on_frames = on_frames
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the stream; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

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

    def _read(self) -> None:
        frames = hook.FrameReader()
        while data := os.read(self._fd, BLOCK):
            self._sort(frames.feed(data))
            if frames.lost:
                frames.feed(b"")

    def _sort(self, frames: list[bytes]) -> None:
        answers: list[bytes] = []
        rest: list[bytes] = []
        for frame in frames:
            hop = hook.next_hop(frame)
            if hop is not None:
                id_raw, scid, forward_to, payment_hash = hop
                if self._interest.judge(scid, forward_to, payment_hash) is Verdict.FOREIGN:
                    answers.append(hook.answer_continue(id_raw))
                    continue
            elif self._interest.loaded:
                event = hook.event_hash(frame)
                if event is not None and event not in self._interest.payment_hashes:
                    continue
            rest.append(frame)
        if answers:
            self._write(b"".join(answers))
        if rest:
            self._on_frames(rest)
