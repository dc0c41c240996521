"""Payments for clients that are away and can be called: held a while, then let go as they came.

lightningd fails at once what goes to a peer that is not connected. A part that opens a channel waits anyway
(`lsps2-offline-wait`); this is about payments over channels that are there. They are no sale: each is held for
`lsps2-wake-wait` at most and then goes on as lightningd will have it, in the channel once its client is back, or with
lightningd's own failure. Nothing about money is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import Any, Final, NamedTuple, Protocol

from lsps2fast._payment import CLTV_MARGIN_BLOCKS
from lsps2fast.actions import ChannelKey
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.held_shares import Claim, giving_way
from lsps2fast_plugin.service.held_together import HALF, NOT_SALES, HeldKinds
from lsps2fast_plugin.service.policy.limits import QUARTERS, Gate
from lsps2fast_plugin.service.shut_channels import ShutChannels

log = logging.getLogger(__name__)

MOST_OF_CLIENT: Final = 30  # HTLCs held for one client (rule:24)
LOOKS: Final = 60  # for its channels to be reestablished, once a client has connected
LOOK_S: Final = 0.5


class Host(Protocol):
    """What answers hook calls."""

    def let_go(self, id_raw: bytes) -> None:
        """Answer `continue`."""


class Room(Protocol):
    """Who promises the room of channels: `PromisedRoom`."""

    def hold(self, channel_id: str, name: bytes, payment_hash: bytes, out_msat: int) -> None:
        """Count a part that is held until this channel can be used."""

    def let_go(self, channel_id: str, name: bytes) -> bool:
        """Take note that such a part is held no longer, if it was."""


class _Held(NamedTuple):
    """A hook call that is held, until when, and which channel brought it (rule:25)."""

    call: Any
    until_ms: int
    in_channel: ChannelKey

    def claim(self) -> Claim:
        """Return what it takes of the room there is."""
        return Claim(self.in_channel, self.call.amount_msat, self.call.id_raw)


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
        kinds: HeldKinds,
        room: Room,
        ready: Callable[[str], None],
        most_msat_of_client: int,
        wait_ms: int,
    ) -> None:
        """`kinds`: what else is held. `wait_ms`: 0 holds nothing.

        `ready(channel_id)` hears which channels can be used again.
        """
        self._host = host
        self._shut = shut
        self._gate = gate
        self._clock = clock
        self._spawn = spawn
        self._channels_of = channels_of
        self._is_online = is_online
        self._pots = ((kinds.beside_sleepers, QUARTERS), (kinds.returning, HALF), (kinds.neither, NOT_SALES))
        self._room = room
        self._ready = ready
        self._most_msat_of_client = most_msat_of_client
        self.wait_ms = wait_ms
        self.may_hold = True  # not while no client can be called
        self._height = 0
        self._clients: dict[str, set[str]] = {}  # those that are away, with their channels
        self._owners: dict[str, str] = {}  # of these channels
        self._names: dict[int, str] = {}  # likewise, by their scids
        self._looks_left: dict[str, int] = {}  # of clients that have come back, whose channels are not yet
        self._held: dict[str, list[_Held]] = {}  # by client
        self._parts = self.held_msat = 0  # of all that is held
        self.woken = self.in_vain = 0  # HTLCs whose client came back in time, or did not
        self.gave_way = 0  # HTLCs in whose place those of other channels are held

    def __len__(self) -> int:
        return self._parts

    def waited_for(self) -> list[str]:
        """Return the clients for whom something is held."""
        return list(self._held)

    def nearest_expiry(self) -> int | None:
        """Return the height at which the first HTLC that is held expires."""
        return min((each.call.cltv_expiry for held in self._held.values() for each in held), default=None)

    def asleep(self, peer_id: str) -> bool:
        """Return whether this client is away, and payments over its channels are held."""
        return self.may_hold and peer_id in self._clients

    def client_of(self, channel_id: str | None) -> str | None:
        """Return whose channel this is, if its client is away."""
        return self._owners.get(channel_id) if self.may_hold and channel_id is not None else None

    def client_at(self, scid: int) -> str | None:
        """Return likewise, by a name of the channel."""
        return self._names.get(scid) if self.may_hold else None

    # Who sleeps ------------------------------------------------------------------------------------

    def away(self, peer_id: str, channels: Iterable[PeerChannel]) -> None:
        """Hold what goes to this client from now on."""
        if self.wait_ms == 0 or self._is_online(peer_id):
            return
        for channel in channels:
            if channel.peer_id == peer_id and channel.is_normal:
                self._clients.setdefault(peer_id, set()).add(channel.channel_id)
                self._owners[channel.channel_id] = peer_id
                self._names.update(dict.fromkeys(channel.scids, peer_id))
                self._shut.see(channel.channel_id, True)

    def back(self, peer_id: str) -> None:
        """Let go what is held once the channels of this client can carry it; one task looks, however often it comes."""
        if peer_id not in self._clients:
            return
        if peer_id not in self._looks_left:
            self._spawn(self._wait_for_channels(peer_id))
        self._looks_left[peer_id] = LOOKS

    def forget(self, peer_id: str) -> None:
        """Hold nothing for this client any more."""
        self._names = {scid: owner for scid, owner in self._names.items() if owner != peer_id}
        for channel_id in self._clients.pop(peer_id, ()):
            del self._owners[channel_id]
            self._shut.see(channel_id, False)
        for call in self._take((peer_id,), lambda _: True):
            self._host.let_go(call.id_raw)

    async def _wait_for_channels(self, peer_id: str) -> None:
        try:
            while self._looks_left[peer_id] > 0:
                self._looks_left[peer_id] -= 1
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
        finally:
            del self._looks_left[peer_id]
        self.woken += len(self._held.get(peer_id, ()))
        back = list(self._clients.get(peer_id, ()))
        self.forget(peer_id)
        for channel_id in back:
            self._ready(channel_id)

    # What is held ----------------------------------------------------------------------------------

    def hold(self, peer_id: str, call: Any, in_channel: ChannelKey) -> bool:
        """Hold this hook call for a client that is away; False where there is no room or no time: let it go."""
        new = _Held(call, self._clock.now_ms() + self.wait_ms, in_channel)
        mine = [each.claim() for each in self._held.get(peer_id, ())]
        gone = giving_way(mine, new.claim(), MOST_OF_CLIENT, self._most_msat_of_client)
        if gone is None or not self._has_time(call) or not self.make_room(new.claim(), gone):
            return False
        self._held.setdefault(peer_id, []).append(new)
        self._parts += 1
        self.held_msat += call.amount_msat
        self._room.hold(call.forward_to, call.id_raw, call.payment_hash, max(call.forward_msat, 0) or call.amount_msat)
        return True

    def make_room(self, new: Claim, gone: Collection[Claim] = ()) -> bool:
        """Return whether one more may be held, beside all else that is; `gone` and what else gives way goes."""
        pots = [self._gate.room_beside(len(pot), pot.held_msat, quarters) for pot, quarters in self._pots]
        most, most_msat = min(parts for parts, _ in pots), min(msat for _, msat in pots)
        rest = [claim for held in self._held.values() for each in held if (claim := each.claim()) not in gone]
        more = giving_way(rest, new, most, most_msat)
        if more is not None:
            self._let_go({claim.name for claim in (*gone, *more)})
        return all(
            self._gate.part(len(pot) + self._parts, pot.held_msat + self.held_msat, new.amount_msat, quarters)
            for pot, quarters in self._pots
        )

    def _let_go(self, names: Collection[bytes]) -> None:
        """Let go what gives way: lightningd fails it, for its client is not there."""
        for call in self._take(list(self._held), lambda each: each.call.id_raw in names) if names else ():
            self.gave_way += 1
            self._host.let_go(call.id_raw)

    def _has_time(self, call: Any) -> bool:
        """Return whether the payer's side is far from closing its channel for this HTLC (cln:H14)."""
        return bool(call.cltv_expiry > self._height + CLTV_MARGIN_BLOCKS)

    def block(self, height: int) -> None:
        """Let go what comes near its expiry (rule:5); lightningd fails it, for its client is not there."""
        self._height = max(height, self._height)
        self._give_up(lambda each: not self._has_time(each.call))

    def look(self) -> None:
        """Let go what has waited long enough, likewise."""
        now_ms = self._clock.now_ms()
        self._give_up(lambda each: each.until_ms <= now_ms)

    def _give_up(self, is_late: Callable[[_Held], bool]) -> None:
        for call in self._take(list(self._held), is_late):
            self.in_vain += 1
            self._host.let_go(call.id_raw)

    def drop(self, in_scids: Collection[int]) -> list[Any]:
        """Return what came over the channel of these names, and hold it no longer: it must be failed (rule:19)."""
        return self._take(list(self._held), lambda each: each.call.in_scid in in_scids)

    def _take(self, peer_ids: Iterable[str], which: Callable[[_Held], bool]) -> list[Any]:
        """Return the calls of these clients that `which` picks, no longer held."""
        taken = []
        for peer_id in peer_ids:
            mine = self._held.pop(peer_id, [])
            if rest := [each for each in mine if not which(each)]:
                self._held[peer_id] = rest
            taken += [each.call for each in mine if which(each)]
        for call in taken:
            self._room.let_go(call.forward_to, call.id_raw)
        self._parts -= len(taken)
        self.held_msat -= sum(call.amount_msat for call in taken)
        return taken

    def close(self) -> None:
        """Answer all that is held, and hold nothing more: the plugin ends (rule:17)."""
        self.wait_ms = 0
        for peer_id in list(self._clients):
            self.forget(peer_id)
