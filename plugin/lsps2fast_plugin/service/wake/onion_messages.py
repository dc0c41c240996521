"""Onion messages for clients that sleep: kept a while, and given to lightningd once more when the client is back.

lightningd drops what it cannot forward and tells plugins what that was. Such a message may ask for the invoice of a
BOLT 12 offer, so its client is called for it, and its sender still waits. It costs its sender nothing: what is kept,
and how often a client is called for it, has bounds of its own, and nothing of it is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

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


class Callers(Protocol):
    """What calls clients."""

    def may_wake(self, peer_id: str, method: str) -> bool:
        """Return whether a client can be called for this, is away, and was not called for it of late."""

    def wake(self, peer_id: str, method: str, expiry: int | None = None) -> bool:
        """Call all webhooks of a client."""


class _Kept(NamedTuple):
    """A message, and until when it is kept."""

    lost: OnionMessageLost
    until_ms: int
    claim: Claim


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
        self._calls = PeerBuckets(CALLS_AN_HOUR / 3_600, CALLS_AT_ONCE)
        self._number = 0
        self.given = self.dropped = 0  # so many messages reached lightningd again, or were lost

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._kept.values())

    def keep(self, peer_id: str, lost: OnionMessageLost) -> bool:
        """Keep a message for this client and call it; False: it sleeps not, or there is no room (rule:24)."""
        if not lost.incoming or len(lost.incoming) > MOST_HEX or not self._asleep(peer_id):
            return False
        self._number += 1
        new = Claim(lost.source, 0, b"%d" % self._number)
        mine = self._kept.get(peer_id, [])
        gone = giving_way([each.claim for each in mine], new, MOST_OF_CLIENT, 0)
        if gone is None or len(self) - len(gone) >= MOST:
            self.dropped += 1
            return False
        self.dropped += len(gone)
        rest = [each for each in mine if each.claim not in gone]
        self._kept[peer_id] = [*rest, _Kept(lost, self._clock.now_ms() + self._wait_ms, new)]
        if self._is_online(peer_id):
            self.back(peer_id)  # it came in this very moment
        else:
            self._call(peer_id)
        return True

    def _call(self, peer_id: str) -> None:
        """Call a client, seldom enough that it can still be called for payments, however many messages come."""
        what = lsps5.ONION_MESSAGE_INCOMING
        if self._caller.may_wake(peer_id, what) and self._calls.take(peer_id, self._clock.now_ms()):
            self._caller.wake(peer_id, what)

    def back(self, peer_id: str) -> None:
        """Give lightningd what is kept for this client, who is there."""
        if kept := self._kept.pop(peer_id, None):
            self._spawn(self._give(peer_id, kept))

    async def _give(self, peer_id: str, kept: list[_Kept]) -> None:
        for each in kept:
            try:
                ask = {"path_key": each.lost.path_key, "message": each.lost.incoming}
                await self._rpc.call("injectonionmessage", ask)
                self.given += 1
            except NodeError as error:
                self.dropped += 1
                log.info(f"an onion message for {peer_id} was lost: {error}")

    def look(self) -> None:
        """Drop what was kept long enough; call again for what is not."""
        now_ms = self._clock.now_ms()
        for peer_id, kept in list(self._kept.items()):
            rest = [each for each in kept if each.until_ms > now_ms]
            self.dropped += len(kept) - len(rest)
            if rest:
                self._kept[peer_id] = rest
                self._call(peer_id)
            else:
                del self._kept[peer_id]

    def state(self) -> dict[str, int]:
        """Return what `lsps2-stats` says of it."""
        return {"kept": len(self), "given": self.given, "dropped": self.dropped}
