"""Frames on their way from the lane to the loop, by kind, so that nothing a peer sends stops the lane.

    calls     hooks of parts, other hooks, methods, all notifications but those below: never shed, taken first. Only
              when 64 MiB of them wait does the lane stop reading
    messages  of peers (the hook `custommsg`): a share of 4,096 or 8 MiB. Beyond that they are shed, which is: answered
              `continue` unread. Anyone may fill half of the share; a peer who has none waiting three quarters; a known
              one, who has a buy or was asked something, all of it, while less than two of it wait. Those of
              peers who have none waiting are taken before the others, so a flood delays the flooders
    events    of other payments, while it is not known yet which are ours, and of onion messages: a share of 4,096.
              What they tell is found in lightningd's tables later

What is shed is counted, messages by peer: up to 256 peers between two looks, the others together.
The lane in C has the same in `_inbox.pyx`. There a peer's waiting messages are counted in four rows of hashed counters:
while those of 3,000 peers wait, one quiet peer of 900 is taken for another.
"""

from __future__ import annotations

import enum
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from lsps2fast import _hook as hook

MOST_MESSAGES: Final = 4_096
MOST_MESSAGE_BYTES: Final = 8 * 1024 * 1024
MOST_EVENTS: Final = 4_096
MOST_BYTES: Final = 64 * 1024 * 1024
KNOWN_WAITING: Final = 2
MOST_PEERS: Final = 256
ANSWER_BYTES: Final = 56  # of `continue`, its id aside; what is shorter than its answer is never shed
LOG_BURST = 200
LOG_LINES_A_SECOND = 20.0
SAY_EVERY_S: Final = 60.0
_ID = re.compile(rb'"[ !#-\[\]-~]*"|-?(?:0|[1-9][0-9]*)')
_PEER = re.compile(rb'"peer_id": ?"([0-9a-f]{66})"')


class Kind(enum.Enum):
    """Whether a frame may be shed, and out of whose share it waits."""

    CALL = enum.auto()
    MESSAGE = enum.auto()
    EVENT = enum.auto()


class Ended(NamedTuple):
    """Behind the last frame: None for the end of the stream, else why it cannot be read further."""

    why: str | None


class Shed(NamedTuple):
    """What was shed: ever, and messages by peer since the last look; "": of other peers, or of one not named."""

    messages: int
    events: int
    by_peer: dict[str, int]

    @classmethod
    def of(cls, messages: int, events: int, by_key: Mapping[bytes, int], others: int) -> Shed:
        """Read the names of peers; zeros are none."""
        by_peer = {key.decode(): count for key, count in by_key.items() if key.strip(b"\0")}
        rest = others + sum(count for key, count in by_key.items() if not key.strip(b"\0"))
        return cls(messages, events, by_peer | ({"": rest} if rest else {}))


def peer_of(frame: bytes) -> bytes:
    """Return the node id in the call for a peer's message; b"" when none is found."""
    found = _PEER.search(frame[:400]) or _PEER.search(frame, max(len(frame) - 200, 0))
    return b"" if found is None else found[1]


def message_id(frame: bytes) -> bytes | None:
    """Return the id of the call for a peer's message that can be answered unread, None for every other frame."""
    method, id_raw = hook.method_of(frame) if b'"custommsg"' in frame else (None, None)
    if method != "custommsg" or id_raw is None or not _ID.fullmatch(id_raw):
        return None
    return id_raw if len(frame) >= ANSWER_BYTES + len(id_raw) else None


def is_lost_onion(frame: bytes) -> bool:
    """Return whether lightningd tells of an onion message that went nowhere: peers decide how many."""
    name = "onionmessage_forward_fail"
    return name.encode() in frame and hook.method_of(frame) == (name, None)


class Inbox:
    """The interpreted lane's: `admit` and `put` by its thread, `take` by the loop; see the module."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake()` is called once when the loop, which found nothing, is to take again."""
        self._lines: tuple[deque[tuple[Kind, bytes, bytes]], ...] = (deque(), deque(), deque())
        self._frames: Counter[Kind] = Counter()
        self._bytes: Counter[Kind] = Counter()
        self._waiting: Counter[bytes] = Counter()
        self._shed: Counter[Kind] = Counter()
        self._by_peer: dict[bytes, int] = {}
        self._others = 0
        self._end: Ended | None = None
        self._wake = wake
        self._asleep = True
        self._closed = False
        self._change = threading.Condition()

    def admit(self, frame: bytes, peer: bytes, known: bool) -> int:
        """Return the line in which this message of a peer may wait, and count it; 0: it is shed."""
        with self._change:
            waiting = self._waiting[peer]
            quarters = 4 if known and waiting < KNOWN_WAITING else 3 if waiting == 0 else 2
            frames, size = self._frames[Kind.MESSAGE] + 1, self._bytes[Kind.MESSAGE] + len(frame)
            if frames > MOST_MESSAGES // 4 * quarters or size > MOST_MESSAGE_BYTES // 4 * quarters:
                if not waiting:
                    del self._waiting[peer]
                self._count_shed(peer)
                return 0
            self._frames[Kind.MESSAGE], self._bytes[Kind.MESSAGE] = frames, size
            self._waiting[peer] += 1
            return 2 if waiting else 1

    def _count_shed(self, peer: bytes) -> None:
        self._shed[Kind.MESSAGE] += 1
        if peer in self._by_peer or len(self._by_peer) < MOST_PEERS:
            self._by_peer[peer] = self._by_peer.get(peer, 0) + 1
        else:
            self._others += 1

    def admit_event(self) -> bool:
        """Return whether this event may wait, and count it."""
        with self._change:
            good = self._frames[Kind.EVENT] < MOST_EVENTS
            (self._frames if good else self._shed)[Kind.EVENT] += 1
            return good

    def put(self, items: list[tuple[int, Kind, bytes, bytes]]) -> None:
        """Append frames, each with its line, its kind and its peer; wait while too many calls wait."""
        with self._change:
            self._change.wait_for(lambda: self._bytes[Kind.CALL] < MOST_BYTES or self._closed)
            if self._closed:
                return
            for line, kind, frame, peer in items:
                self._lines[line].append((kind, frame, peer))
                if kind is Kind.CALL:
                    self._frames[kind] += 1
                    self._bytes[kind] += len(frame)
            self._rouse()

    def end(self, why: str | None) -> None:
        """Tell the end behind the last frame."""
        with self._change:
            self._end = Ended(why)
            self._rouse()

    def _rouse(self) -> None:
        if self._asleep:
            self._asleep = False
            self._wake()

    def take(self, most: int) -> list[bytes | Ended]:
        """Return the next frames, on the loop, the end behind the last; none means that the loop will be woken."""
        found: list[bytes | Ended] = []
        with self._change:
            for line in self._lines:
                while line and len(found) < most:
                    kind, frame, peer = line.popleft()
                    self._let_out(kind, len(frame), peer)
                    found.append(frame)
            if not found and self._end is not None:
                found, self._end = [self._end], None
            self._asleep = not found
            self._change.notify_all()
        return found

    def _let_out(self, kind: Kind, size: int, peer: bytes) -> None:
        self._frames[kind] -= 1
        if kind is not Kind.EVENT:
            self._bytes[kind] -= size
        if kind is Kind.MESSAGE:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]

    def close(self) -> None:
        """Let the lane go, whatever it brings."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def shed_count(self) -> int:
        """Messages and events that were shed, ever."""
        return self._shed.total()

    def take_shed(self) -> Shed:
        """Return what was shed: ever, and by peer since the last call."""
        with self._change:
            by_peer, self._by_peer = self._by_peer, {}
            others, self._others = self._others, 0
            return Shed.of(self._shed[Kind.MESSAGE], self._shed[Kind.EVENT], by_peer, others)


class ShedBook:
    """What was shed since the start, for the operator: totals, the peers who sent most, and now and then a line."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said = 0
        self._say_at_s = now()
        self.messages = 0
        self.events = 0
        self.by_peer: Counter[str] = Counter()

    def look(self, shed: Shed) -> None:
        """Take what the lane has counted."""
        self.messages, self.events = shed.messages, shed.events
        self.by_peer.update(shed.by_peer)
        if len(self.by_peer) > 2 * MOST_PEERS:
            self.by_peer = Counter(dict(self.by_peer.most_common(MOST_PEERS)))

    def as_dict(self) -> dict[str, int]:
        """Return the totals."""
        return {"messages": self.messages, "events": self.events}

    def worst(self, most: int) -> list[dict[str, Any]]:
        """Return the peers whose messages were shed most."""
        return [{"peer_id": peer, "messages": n} for peer, n in self.by_peer.most_common(most + 1) if peer][:most]

    def is_due(self, count: int) -> bool:
        """Return whether there is news, of so many shed in all, and the last line is old enough."""
        return count > self._said and self._now() >= self._say_at_s

    def line(self) -> str:
        """Return what is said now: how many, of whom, and what to do."""
        fresh, self._said = self.messages + self.events - self._said, self.messages + self.events
        self._say_at_s = self._now() + SAY_EVERY_S
        worst = self.worst(1)
        text = (
            f"{fresh} messages of peers and events of other payments were let go unread: more came than could be read,"
            " or the plugin was busy; HTLCs, methods and messages of known peers went on"
        )
        if not worst:
            return text
        peer_id, count = worst[0]["peer_id"], worst[0]["messages"]
        return (
            f"{text}. Most were from {peer_id} ({count} in all): if that goes on, `lightning-cli disconnect"
            f" {peer_id} true` ends the connection, and lsps2-stats has the next ones under `unread_by_peer`"
        )


class LogLimit:
    """How many log lines may pass: a burst, then a steady rate; what was dropped is said."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._at = now()
        self._room = float(LOG_BURST)
        self._dropped = 0
        self._lock = threading.Lock()

    def pass_or_drop(self) -> int | None:
        """Return None to drop this line, else the number of lines dropped before it."""
        with self._lock:
            at = self._now()
            self._room = min(LOG_BURST, self._room + (at - self._at) * LOG_LINES_A_SECOND)
            self._at = at
            if self._room < 1:
                self._dropped += 1
                return None
            self._room -= 1
            dropped, self._dropped = self._dropped, 0
            return dropped
