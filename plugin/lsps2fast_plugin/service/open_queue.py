"""Who opens a channel next, when more are waiting than lightningd works on at one time.

lightningd works on a crowd of opens breadth-first: each waits for all, and every payer waits as long as the last. So it
is given few at once, and the others wait with nothing written down and nothing reserved. An open gives its slot back
when its parts go out or it has failed. What a peer takes its time for costs nobody else any: after `PATIENCE_MS` an
open that waits for its peer counts no more until it goes on. One that has not come a step further for `HANGS_MS` has
lost its slot.

A peer has one slot at most, since its opens wait for each other anyway (O-19). Who is next: the peer that was served
least since it joined the queue, and among those the one that has waited longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from lsps2fast_plugin.cln.clock import Clock

HANGS_MS: Final = 2_000  # a step of an open takes lightningd a tenth of that
PATIENCE_MS: Final = 250  # a peer near by answers in a tenth of that
Spawn = Callable[[Coroutine[Any, Any, None]], object]


@dataclass(slots=True, eq=False)
class _Peer:
    """A peer with opens that wait or have begun."""

    present: int = 0
    served: int = 0
    has_slot: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    """One open that has not begun."""

    jit_scid: int
    peer_id: str
    is_wanted: Callable[[], bool]
    may_begin: asyncio.Future[bool]


@dataclass(slots=True, eq=False)
class _Slot:
    """One open that has begun, and when it is taken to hang."""

    peer_id: str
    until_ms: int
    patience_ms: int | None = None  # so long it counts though its peer is awaited; None while lightningd works on it

    def counts(self, now_ms: int) -> bool:
        """Return whether no other open may begin in its place."""
        return self.patience_ms is None or now_ms < self.patience_ms


class OpenQueue:
    """Lets opens begin while lightningd works on fewer than so many."""

    def __init__(self, clock: Clock, most: int, spawn: Spawn) -> None:
        """`spawn` runs a coroutine by itself."""
        self._clock = clock
        self._most = most
        self._spawn = spawn
        self._waiting: dict[int, _Waiting] = {}  # by jit scid, in the order of their coming
        self._slots: dict[int, _Slot] = {}  # by jit scid
        self._peers: dict[str, _Peer] = {}
        self._is_watched = False

    def __len__(self) -> int:
        """How many opens wait."""
        return len(self._waiting)

    async def enter(self, jit_scid: int, peer_id: str, is_wanted: Callable[[], bool]) -> bool:
        """Return once this open may begin; False as soon as it is seen that it is wanted no more.

        Who gets True must `leave`. One open of a scid at a time: the session machine has it so.
        """
        may_begin: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        mine = self._waiting[jit_scid] = _Waiting(jit_scid, peer_id, is_wanted, may_begin)
        self._peers.setdefault(peer_id, _Peer()).present += 1
        self._admit()
        if self._waiting and not self._is_watched:
            self._is_watched = True
            self._spawn(self._watch())
        try:
            return await may_begin
        except asyncio.CancelledError:
            if self._waiting.get(jit_scid) is mine:
                self._send_away(mine)
            else:
                self.leave(jit_scid)
            raise

    def goes_on(self, jit_scid: int) -> None:
        """Take note that an open has come a step further, and lightningd works on it."""
        if slot := self._slots.get(jit_scid):
            slot.until_ms = self._clock.now_ms() + HANGS_MS
            slot.patience_ms = None

    def awaits_peer(self, jit_scid: int) -> None:
        """Take note that an open waits for its peer: soon another may begin."""
        if slot := self._slots.get(jit_scid):
            now_ms = self._clock.now_ms()
            slot.until_ms, slot.patience_ms = now_ms + HANGS_MS, now_ms + PATIENCE_MS

    def leave(self, jit_scid: int) -> None:
        """Give the slot of this open to the next; may be repeated."""
        if slot := self._slots.pop(jit_scid, None):
            self._peers[slot.peer_id].has_slot = False
            self._gone(slot.peer_id)
            self._admit()

    def _admit(self) -> None:
        """Let those begin for whom there is room, in their order."""
        while self._has_room() and (first := self._first()) is not None:
            if not first.is_wanted():
                self._send_away(first)
                continue
            del self._waiting[first.jit_scid]
            peer = self._peers[first.peer_id]
            peer.served += 1
            peer.has_slot = True
            self._slots[first.jit_scid] = _Slot(first.peer_id, self._clock.now_ms() + HANGS_MS)
            first.may_begin.set_result(True)

    def _has_room(self) -> bool:
        now_ms = self._clock.now_ms()
        return sum(slot.counts(now_ms) for slot in self._slots.values()) < self._most

    def _first(self) -> _Waiting | None:
        """Return who begins next, None where all that wait have a slot already."""
        best, least = None, 0
        for waiting in self._waiting.values():
            peer = self._peers[waiting.peer_id]
            if peer.has_slot or (best is not None and peer.served >= least):
                continue
            best, least = waiting, peer.served
            if not least:
                break
        return best

    def _send_away(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.jit_scid]
        self._gone(waiting.peer_id)
        if not waiting.may_begin.done():
            waiting.may_begin.set_result(False)

    def _gone(self, peer_id: str) -> None:
        peer = self._peers[peer_id]
        peer.present -= 1
        if not peer.present:
            del self._peers[peer_id]

    async def _watch(self) -> None:
        """While some wait: take slots from opens that hang, and send those away that are wanted no more."""
        try:
            while self._waiting:
                now_ms = self._clock.now_ms()
                for jit_scid in [each for each, slot in self._slots.items() if slot.until_ms <= now_ms]:
                    self.leave(jit_scid)
                for waiting in [each for each in self._waiting.values() if not each.is_wanted()]:
                    self._send_away(waiting)
                self._admit()
                await self._clock.turned(PATIENCE_MS / 1000)
        finally:
            self._is_watched = False
