"""After the sale: how long a paid channel must stay open, and how long its record is kept.

The final record of a sale is the durable form of that duty (channel id, min_lifetime, paid): it is never deleted while
the duty lasts (A-06). lightningd asks before it carries out a `close` (hook `rpc_command`); an early one is refused, or
only reported, as the operator chose. `force_lease_closed=true` closes all the same, lightningd's own word for closing
a channel whose room was sold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import Caller, PeerChannel, list_peer_channels
from lsps2fast_plugin.service.session_record import StoredSession
from lsps2fast_plugin.service.session_store import SessionStore

log = logging.getLogger(__name__)

CONTINUE: Final = {"result": "continue"}
FORCE: Final = "force_lease_closed"
FORCE_PLACE: Final = 5  # among the positional parameters of `close`
PATIENCE_S: Final = 5.0  # a node that does not answer us must not keep its operator from closing
TRUTHS: Final = (True, "true", "1", 1)


class Duty(NamedTuple):
    """A channel that was paid for. `order_id`: it was ordered, and its jit scid means nothing to its client."""

    jit_scid: int
    peer_id: str
    min_lifetime_blocks: int
    order_id: str = ""

    @property
    def name(self) -> str:
        """Return what it was sold as."""
        return f"order {self.order_id}" if self.order_id else f"jit scid {format_scid(self.jit_scid)}"


class Sold(NamedTuple):
    """What `close` would end."""

    channel_id: str
    duty: Duty
    confirmations: int


class Records(Protocol):
    """The part of `SessionStore` that is needed."""

    def finished(self, default_delta_blocks: int) -> AsyncIterator[StoredSession]:
        """Yield every final record."""

    async def drop_final(self, jit_scid: int) -> None:
        """Delete a final record."""


class ChannelLeaseGuard:
    """The channels that must stay open because their clients have paid."""

    def __init__(
        self,
        *,
        rpc: Caller,
        store: SessionStore | Records,
        clock: Clock,
        height: Callable[[], int],
        guard: str,
        keep_ms: int,
        leave: Callable[[list[StoredSession]], Awaitable[None]],
    ) -> None:
        """`guard`: refuse, warn or off. `keep_ms`: how long a record is kept after its end (A-09).

        `leave(records)` takes note of what only they say, before they are deleted. Raises StoreError.
        """
        self._leave = leave
        self._rpc = rpc
        self._store = store
        self._clock = clock
        self._height = height
        self._guard = guard
        self._keep_ms = keep_ms
        self._duties: dict[str, Duty] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._duties)

    # What is owed ---------------------------------------------------------------------------------

    def owe(self, channel_id: str, buy: Buy) -> None:
        """Keep this channel open from now on: its opening fee was paid (A-05)."""
        if buy.params.min_lifetime_blocks > 0:
            self._duties[channel_id] = Duty(buy.jit_scid, buy.peer_id, buy.params.min_lifetime_blocks)

    def owe_order(self, channel_id: str, duty: Duty) -> None:
        """Keep a channel open that was ordered."""
        self._duties[channel_id] = duty

    def load(self, stored: Iterable[StoredSession], open_channels: Iterable[str]) -> None:
        """Take up the duties of earlier runs, for channels that are still there."""
        alive = set(open_channels)
        for record in stored:
            channel = record.journal.channel
            if record.keeps_promises and channel is not None and channel.channel_id in alive:
                self.owe(channel.channel_id, record.buy)

    def promised_blocks(self, channel_id: str) -> int:
        """Return for how many confirmations this channel must stay open; 0: no duty is known."""
        duty = self._duties.get(channel_id)
        return 0 if duty is None else duty.min_lifetime_blocks

    def keeps(self, order_id: str) -> bool:
        """Return whether the channel of this order is still open."""
        return any(duty.order_id == order_id for duty in self._duties.values())

    def sold(self) -> dict[str, str]:
        """Return every channel that something is owed for, with its jit scid."""
        return {channel_id: format_scid(duty.jit_scid) for channel_id, duty in self._duties.items()}

    def closed(self, channel_id: str) -> None:
        """Forget a channel that is closing: it can be kept open no longer."""
        self._duties.pop(channel_id, None)

    # The hook -------------------------------------------------------------------------------------

    async def judge(self, rpc_command: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to lightningd before it runs a `close`."""
        if self._guard == "off" or not self._duties:
            return CONTINUE
        which, forced = asked_to_close(rpc_command.get("params"))
        try:
            async with asyncio.timeout(PATIENCE_S):
                early = await self._too_early(which)
        except (NodeError, TimeoutError) as error:
            log.warning(f"close of {which}: the node does not say which channel that is ({error}); let through")
            return CONTINUE
        if not early:
            return CONTINUE
        text = "; ".join(_sentence(sold) for sold in early)
        if forced or self._guard == "warn":
            log.warning(f"closing early: {text}")
            return CONTINUE
        self.refused += 1
        log.info(f"close refused: {text}")
        return {"return": {"error": {"code": -1, "message": f"{text}. To close it all the same add {FORCE}=true"}}}

    async def _too_early(self, which: str) -> list[Sold]:
        found: list[Sold] = []
        for channel in await list_peer_channels(self._rpc):
            duty = self._duties.get(channel.channel_id)
            if duty is not None and which in names_of(channel):
                confirmations = channel.confirmations(self._height())
                if confirmations < duty.min_lifetime_blocks:
                    found.append(Sold(channel.channel_id, duty, confirmations))
        return found

    # Records --------------------------------------------------------------------------------------

    async def prune(self, default_delta_blocks: int) -> int:
        """Delete records that ended long ago and bind no one any more. Return how many (A-09)."""
        try:
            return await self._prune(default_delta_blocks)
        except (NodeError, StoreError) as error:
            log.warning(f"old records could not be looked through, tomorrow again: {error}")
            return 0

    async def _prune(self, default_delta_blocks: int) -> int:
        before_ms = self._clock.wall_ms() - self._keep_ms
        old = [
            record
            async for record in self._store.finished(default_delta_blocks)
            if record.finalized_ms is not None
            and max(record.finalized_ms, record.buy.params.valid_until_ms) < before_ms
        ]
        if not old:
            return 0
        channels = await list_peer_channels(self._rpc)
        ages = {channel.channel_id: channel.confirmations(self._height()) for channel in channels}
        gone = [record for record in old if not _binds(record, ages)]
        await self._leave(gone)
        for record in gone:
            await self._store.drop_final(record.buy.jit_scid)
            if record.journal.channel is not None:
                self._duties.pop(record.journal.channel.channel_id, None)
        if gone:
            log.info(f"{len(gone)} records of sales that ended long ago are deleted")
        return len(gone)


def _binds(record: StoredSession, ages: dict[str, int]) -> bool:
    """Return whether this record is the memory of a duty that lasts: its channel is open, paid and young."""
    channel = record.journal.channel
    if not record.keeps_promises or channel is None or channel.channel_id not in ages:
        return False
    return ages[channel.channel_id] < record.buy.params.min_lifetime_blocks


def asked_to_close(params: Any) -> tuple[str, bool]:
    """Return which channel or peer a `close` names, and whether it is meant in any case."""
    if isinstance(params, dict):
        return str(params.get("id", "")).lower(), params.get(FORCE) in TRUTHS
    given = params if isinstance(params, list) else []
    forced = len(given) > FORCE_PLACE and given[FORCE_PLACE] in TRUTHS
    return (str(given[0]).lower() if given else ""), forced


def names_of(channel: PeerChannel) -> set[str]:
    """Return everything by which `close` may mean this channel."""
    return {channel.peer_id, channel.channel_id, *map(format_scid, channel.scids)}


def _sentence(sold: Sold) -> str:
    return (
        f"channel {sold.channel_id} was sold to {sold.duty.peer_id} ({sold.duty.name})"
        f" to stay open for {sold.duty.min_lifetime_blocks} confirmations and has {sold.confirmations}"
    )
