"""Closes channels whose funding is never sent, for it would pay a channel besides that was given up (trap:60).

Nothing goes into such a channel by our doing. An HTLC of our own node may all the same, for no hook is asked about it:
then the close waits until that is resolved, and none of the other payments waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from lsps2fast.actions import Funding
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.funding import Funder, MustNotClose, OwedToClient, money_of_client_msat
from lsps2fast_plugin.service.order_tasks import OrderTasks
from lsps2fast_plugin.service.reservations import Reservations

PATIENCE_MS: Final = 3_000  # so long others wait for a close


class UnfundedChannels:
    """Closes them."""

    def __init__(
        self,
        *,
        tasks: OrderTasks,
        funder: Funder,
        reservations: Reservations,
        clock: Clock,
        withheld: Callable[[str, bool, str], None],
    ) -> None:
        """`withheld(channel_id, yes, peer_id)` keeps other forwards out of a channel (rule:7)."""
        self._tasks = tasks
        self._funder = funder
        self._reservations = reservations
        self._clock = clock
        self._withheld = withheld

    def close(self, peer_id: str, channel_id: str, funding: Funding | None) -> asyncio.Task[None]:
        """Begin to close this one. Its payment opens no other before that is done: its record names this one.

        lightningd frees the coins of a withheld channel with it. Where others have gone on with `funding` by then it is
        kept.
        """
        until_ms = self._clock.now_ms() + PATIENCE_MS

        async def close() -> None:
            what = f"closing channel {channel_id}, whose funding is not sent,"
            await self._tasks.until_done(what, lambda: self._close(peer_id, channel_id))
            self._withheld(channel_id, False, peer_id)
            if funding is not None and self._clock.now_ms() >= until_ms:
                self._reservations.released_late(funding)

        return self._tasks.begin(close())

    async def wait(self, closing: Collection[asyncio.Task[None]]) -> None:
        """Return once these are closed, or soon: the rest goes on in the background."""
        await self._clock.all_done(closing, PATIENCE_MS)

    async def _close(self, peer_id: str, channel_id: str) -> None:
        """Raise MustNotClose while HTLCs are in it, or NodeError."""
        try:
            await self._funder.close(peer_id, channel_id)
        except OwedToClient as owed:
            if any(htlc.direction == "out" for htlc in owed.found.htlcs):
                raise MustNotClose(f"channel {channel_id} has HTLCs that are not resolved") from owed
            await self._funder.close_unpaid(peer_id, channel_id)
            if held_msat := money_of_client_msat(owed.found):
                self._tasks.alarm(
                    f"channel {channel_id} is closed: {peer_id} holds {held_msat} msat in it, and its funding cannot "
                    "be sent, for it would pay a channel besides that is gone"
                )
