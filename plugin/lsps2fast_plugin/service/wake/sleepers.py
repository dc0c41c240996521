"""Payments for clients that are away and can be called: held a while, then let go as they came.

lightningd fails at once what goes to a peer that is not connected. A part that opens a channel waits anyway
(`lsps2-offline-wait`); this is about payments over channels that are there. They are no sale: each is held for
`lsps2-wake-wait` at most and then goes on as lightningd will have it, in the channel once its client is back, or with
lightningd's own failure. Nothing about money is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.policy.limits import Gate
from lsps2fast_plugin.service.shut_channels import ShutChannels

log = logging.getLogger(__name__)

MOST_OF_CLIENT: Final = 30  # HTLCs held for one client (rule:24)
LOOKS: Final = 60  # for its channels to be reestablished, once a client has connected
LOOK_S: Final = 0.5


class Host(Protocol):
    """What answers hook calls."""

    def let_go(self, id_raw: bytes) -> None:
        """Answer `continue`."""


class Sleepers:
    """Clients that are away, their channels, and what is held for them."""

    def __init__(
        self,
        *,
        host: Host,
        shut: ShutChannels,
        gate: Gate,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        channels_of: Callable[[str], Awaitable[list[PeerChannel]]],
        is_online: Callable[[str], bool],
        held_elsewhere: Callable[[], tuple[int, int]],
        ready: Callable[[str], None],
        wait_ms: int,
    ) -> None:
        """`held_elsewhere()`: number and sum of HTLCs that other parts hold; `wait_ms`: 0 holds nothing.

        `ready(channel_id)` hears which channels can be used again.
        """
        self._host = host
        self._shut = shut
        self._gate = gate
        self._clock = clock
        self._spawn = spawn
        self._channels_of = channels_of
        self._is_online = is_online
        self._held_elsewhere = held_elsewhere
        self._ready = ready
        self.wait_ms = wait_ms
        self._channels: dict[str, str] = {}  # channels of clients that are away, with their clients
        self._held: dict[str, list[tuple[int, Any]]] = {}  # by client: until when, and the hook call
        self.woken = self.in_vain = 0  # HTLCs whose client came back in time, or did not

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def held_msat(self) -> int:
        """Return the sum of what is held."""
        return sum(call.amount_msat for calls in self._held.values() for _, call in calls)

    def waited_for(self) -> list[str]:
        """Return the clients for whom something is held."""
        return list(self._held)

    def asleep(self, peer_id: str) -> bool:
        """Return whether this client is away, and payments over its channels are held."""
        return peer_id in self._channels.values()

    def client_of(self, channel_id: str | None) -> str | None:
        """Return whose channel this is, if its client is away."""
        return None if channel_id is None else self._channels.get(channel_id)

    # Who sleeps ------------------------------------------------------------------------------------

    def away(self, peer_id: str, channels: Iterable[PeerChannel]) -> None:
        """Hold what goes to this client from now on."""
        if self.wait_ms == 0 or self._is_online(peer_id):
            return
        for channel in channels:
            if channel.peer_id == peer_id and channel.is_normal:
                self._channels[channel.channel_id] = peer_id
                self._shut.see(channel.channel_id, True)

    def back(self, peer_id: str) -> None:
        """Let go what is held once the channels of this client can carry it."""
        if self.asleep(peer_id):
            self._spawn(self._wait_for_channels(peer_id))

    def forget(self, peer_id: str) -> None:
        """Hold nothing for this client any more."""
        for channel_id in [each for each, owner in self._channels.items() if owner == peer_id]:
            del self._channels[channel_id]
            self._shut.see(channel_id, False)
        self._let_go(self._held.pop(peer_id, []))

    async def _wait_for_channels(self, peer_id: str) -> None:
        for _ in range(LOOKS):
            if not self._is_online(peer_id):
                return  # gone again: it sleeps on
            try:
                channels = [each for each in await self._channels_of(peer_id) if each.is_normal]
            except NodeError as error:
                log.warning(f"whether the channels of {peer_id} are back is not known: {error}")
                channels = []
            if channels and all(each.is_ready for each in channels):
                break
            await self._clock.turned(LOOK_S)
        self.woken += len(self._held.get(peer_id, ()))
        back = [channel_id for channel_id, owner in self._channels.items() if owner == peer_id]
        self.forget(peer_id)
        for channel_id in back:
            self._ready(channel_id)

    # What is held ----------------------------------------------------------------------------------

    def hold(self, peer_id: str, call: Any) -> bool:
        """Hold this hook call for a client that is away; False where there is no room: let it go."""
        mine = self._held.setdefault(peer_id, [])
        others, others_msat = self._held_elsewhere()
        room = len(mine) < MOST_OF_CLIENT and self._gate.part(
            others + len(self), others_msat + self.held_msat(), call.amount_msat
        )
        if room:
            mine.append((self._clock.now_ms() + self.wait_ms, call))
        elif not mine:
            del self._held[peer_id]
        return room

    def look(self) -> None:
        """Let go what has waited long enough: lightningd fails it, for its client is not there."""
        now_ms = self._clock.now_ms()
        for peer_id, calls in list(self._held.items()):
            late = [each for each in calls if each[0] <= now_ms]
            if late:
                rest = [each for each in calls if each[0] > now_ms]
                self._held[peer_id] = rest
                if not rest:
                    del self._held[peer_id]
                self.in_vain += len(late)
                self._let_go(late)

    def close(self) -> None:
        """Answer all that is held: the plugin ends (rule:17)."""
        held, self._held = self._held, {}
        for calls in held.values():
            self._let_go(calls)

    def _let_go(self, calls: Iterable[tuple[int, Any]]) -> None:
        for _, call in calls:
            self._host.let_go(call.id_raw)
