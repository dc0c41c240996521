"""Finds out over which channel a part came before the part is let in: its key is the channel's id (rule:25).

Also which channels have left for the chain: what they brought, and is not out yet, is worth nothing certain (rule:19).

Nearly always that is known. A channel made since we last looked is asked for once, however many parts come over it;
they wait for the answer, and when lightningd gives none they are known by the scid they came with. One that is alone is
asked for by its name, for a node may have thousands; several at a time share a listing of all.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.models import Caller, PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.scid_aliases import ScidAliases

log = logging.getLogger(__name__)


class IncomingNames:
    """Parts that wait for the name of their channel."""

    def __init__(
        self, names: ScidAliases, spawn: Callable[[Coroutine[Any, Any, None]], Any], fail: Callable[[Any], None]
    ) -> None:
        """`fail(call)` answers a hook call that cannot be taken."""
        self._names = names
        self._spawn = spawn
        self._fail = fail
        self._waiting: list[tuple[Any, Callable[[], None]]] = []
        self._is_asking = False
        self._left: set[str] = set()  # channels that are closed or on their way to the chain

    def __len__(self) -> int:
        return len(self._waiting)

    def once_known(self, rpc: Caller, call: Any, take: Callable[[], None]) -> None:
        """Call `take()` when the channel of this hook call is known: at once, or after one question."""
        if self._names.channel_id(call.in_scid):
            take()
            return
        self._waiting.append((call, take))
        if not self._is_asking:
            self._is_asking = True
            self._spawn(self._ask_all(rpc))

    async def _ask_all(self, rpc: Caller) -> None:
        while names := {call.in_scid for call, _ in self._waiting}:
            await self._ask(rpc, names)
        self._is_asking = False

    async def _ask(self, rpc: Caller, names: set[int]) -> None:
        which = {"short_channel_id": format_scid(*names)} if len(names) == 1 else {}
        try:
            for channel in await list_peer_channels(rpc, **which):
                self.learn(channel)
        except Lsps2Error as error:
            log.warning(f"over which channel parts came cannot be asked ({error}); they are known by its scid")
        asked = [each for each in self._waiting if each[0].in_scid in names]
        self._waiting = [each for each in self._waiting if each[0].in_scid not in names]
        for call, take in asked:
            try:
                take()
            except Exception:  # as in the hook itself: one that cannot be taken stops no other
                log.error(f"a part could not be taken\n{traceback.format_exc()}")
                self._fail(call)

    def learn(self, channel: PeerChannel) -> None:
        """Remember what this channel is called, and whether it has left."""
        self._names.learn(channel.channel_id, channel.scids)
        if channel.has_left:
            self._left.add(channel.channel_id)

    def leaves(self, channel_id: str) -> None:
        """Take note that this channel goes to the chain."""
        self._left.add(channel_id)

    def has_left(self, in_channel: str) -> bool:
        """Return whether nothing that came over this channel may be let in any more."""
        return in_channel in self._left

    def give_up(self) -> None:
        """Answer those that still wait: the plugin is about to end (rule:17)."""
        waiting, self._waiting = self._waiting, []
        for call, _ in waiting:
            self._fail(call)
