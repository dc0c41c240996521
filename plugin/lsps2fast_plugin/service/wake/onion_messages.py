"""Onion messages for clients that sleep: kept a while, and given to lightningd when the client is back.

lightningd drops what it cannot forward and tells plugins what that was. Such a message may ask for the invoice of a
BOLT 12 offer, so its client is called for it, and its sender still waits. It costs its sender nothing: what is kept,
and how often a client is called for it, has bounds of its own, and nothing of it is stored.

No one acknowledges a message (cln:N15): it is lost with a connection that is replaced, or at a client that knows no way
for its answer yet. So it is given three times, with growing pauses. One that arrives twice does no harm: BOLT 12
expects requests to come twice, and lightningd answers with the same invoice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lsps2fast.errors import NodeError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.buys import PeerBuckets
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import Caller as Rpc
from lsps2fast_plugin.cln.notifications import OnionMessageLost
from lsps2fast_plugin.service.held_shares import Claim, giving_way

log = logging.getLogger(__name__)

MOST_OF_CLIENT: Final = 8
MOST: Final = 100  # of all clients
MOST_HEX: Final = 2 * 33_000  # characters of one; an onion has 1,366 bytes or 32,834
CALLS_AN_HOUR: Final = 6  # of each client, out of those that it may have for all
CALLS_AT_ONCE: Final = 2
APART_MS: Final = 300  # from one to the next for a client: its lightningd takes four a second, and drops the rest
MOST_TRIES: Final = 3  # of one message
FIRST_PAUSE_MS: Final = 5_000  # before the second; the next is four times as long


class Callers(Protocol):
    """What calls clients."""

    def may_wake(self, peer_id: str, method: str) -> bool:
        """Return whether a client can be called for this, is away, and was not called for it of late."""

    def wake(self, peer_id: str, method: str, expiry: int | None = None) -> bool:
        """Call all webhooks of a client."""


@dataclass(eq=False, slots=True)
class _Kept:
    """A message, until when it is kept, and how often it was tried to give it. `given`: lightningd took it once."""

    lost: OnionMessageLost
    until_ms: int
    claim: Claim
    next_ms: int = 0
    tries: int = 0
    given: bool = False

    def is_due(self, now_ms: int) -> bool:
        """Return whether it may be given now."""
        return self.next_ms <= now_ms < self.until_ms


class OnionMessages:
    """What is kept, by client."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        clock: Clock,
        caller: Callers,
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        asleep: Callable[[str], bool],
        is_online: Callable[[str], bool],
        wait_ms: int,
    ) -> None:
        """`asleep(client)`: it was away, has a channel, and can be called; `wait_ms`: so long each is kept."""
        self._rpc = rpc
        self._clock = clock
        self._caller = caller
        self._spawn = spawn
        self._asleep = asleep
        self._is_online = is_online
        self._wait_ms = wait_ms
        self._kept: dict[str, list[_Kept]] = {}
        self._giving: set[str] = set()  # clients for whom a task gives
        self._calls = PeerBuckets(CALLS_AN_HOUR / 3_600, CALLS_AT_ONCE)
        self._number = 0
        self.given = self.again = self.dropped = 0  # messages that lightningd took, took once more, or never took

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._kept.values())

    # What comes and goes ---------------------------------------------------------------------------

    def keep(self, peer_id: str, lost: OnionMessageLost) -> bool:
        """Keep a message for this client and call it; False: it sleeps not, or there is no room (rule:24)."""
        if not lost.incoming or len(lost.incoming) > MOST_HEX or not self._asleep(peer_id):
            return False
        self._number += 1
        new = Claim(lost.source, 0, b"%d" % self._number)
        if not self._has_room(peer_id, new):
            self.dropped += 1
            return False
        kept = _Kept(lost, self._clock.now_ms() + self._wait_ms, new)
        self._kept.setdefault(peer_id, []).append(kept)
        if self._is_online(peer_id):
            self.back(peer_id)  # it came in this very moment
        else:
            self._call(peer_id)
        return True

    def _has_room(self, peer_id: str, new: Claim) -> bool:
        """Make room: what was given goes first, then the peer who sent most, to this client or to all, has a share."""
        mine, everyones = self._kept.get(peer_id, []), [each for kept in self._kept.values() for each in kept]
        gone: set[Claim] = set()
        for kept, most in ((mine, MOST_OF_CLIENT), (everyones, MOST)):
            if len(kept) >= most:
                gone.update(each.claim for each in kept if each.given)
            more = giving_way([each.claim for each in kept if each.claim not in gone], new, most, 0)
            if more is None:
                return False
            gone.update(more)
        for client in list(self._kept) if gone else ():
            self._drop(client, lambda each: each.claim in gone)
        return True

    def _drop(self, peer_id: str, which: Callable[[_Kept], bool]) -> None:
        """Keep no more what `which` picks of this client's."""
        mine = self._kept.pop(peer_id, [])
        self.dropped += sum(not each.given for each in mine if which(each))
        if rest := [each for each in mine if not which(each)]:
            self._kept[peer_id] = rest

    def look(self) -> None:
        """Drop what was kept long enough; give again what is due, call again for what was never given."""
        now_ms = self._clock.now_ms()
        for peer_id in list(self._kept):
            self._drop(peer_id, lambda each: each.until_ms <= now_ms)
            if self._is_online(peer_id):
                self.back(peer_id)
            elif any(not each.given for each in self._kept.get(peer_id, ())):
                self._call(peer_id)

    def _call(self, peer_id: str) -> None:
        """Call a client, seldom enough that it can still be called for payments, however many messages come."""
        what = lsps5.ONION_MESSAGE_INCOMING
        if self._caller.may_wake(peer_id, what) and self._calls.take(peer_id, self._clock.now_ms()):
            self._caller.wake(peer_id, what)

    # What lightningd is given ----------------------------------------------------------------------

    def back(self, peer_id: str) -> None:
        """Give lightningd what is due for this client, who is there; in one task, often as it comes (trap:47)."""
        if peer_id not in self._giving and self._due(peer_id) is not None:
            self._giving.add(peer_id)
            self._spawn(self._give(peer_id))

    def _due(self, peer_id: str) -> _Kept | None:
        now_ms = self._clock.now_ms()
        return next((each for each in self._kept.get(peer_id, ()) if each.is_due(now_ms)), None)

    async def _give(self, peer_id: str) -> None:
        try:
            while self._is_online(peer_id) and (due := self._due(peer_id)) is not None:
                await self._give_one(peer_id, due)
                await self._clock.sleep_until(self._clock.now_ms() + APART_MS)
        finally:
            self._giving.discard(peer_id)

    async def _give_one(self, peer_id: str, kept: _Kept) -> None:
        kept.next_ms = self._clock.now_ms() + (FIRST_PAUSE_MS << 2 * kept.tries)
        kept.tries += 1
        try:
            ask = {"path_key": kept.lost.path_key, "message": kept.lost.incoming}
            await self._rpc.call("injectonionmessage", ask)
            self.again += kept.given
            self.given += not kept.given
            kept.given = True
        except NodeError as error:
            log.info(f"an onion message for {peer_id} was not forwarded: {error}")
        if kept.tries >= MOST_TRIES:
            self._drop(peer_id, lambda each: each is kept)

    def state(self) -> dict[str, int]:
        """Return what `lsps2-stats` says of it."""
        return {"kept": len(self), "given": self.given, "again": self.again, "dropped": self.dropped}
