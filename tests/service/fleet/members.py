"""Nodes of the fleet's model that talk with a real database, and how they sell until nothing is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from harness.fleet import database
from harness.fleet_histories import QUOTA, RULES, SPRING
from harness.fleet_model import FleetMember
from harness.fleet_model import Server as Nothing

from lsps2fast.errors import PeerError
from lsps2fast_plugin.service.fleet.database import FleetAway
from lsps2fast_plugin.service.policy.shared import Place

MANY = 1_000


class Cut:
    """A node's talk with the database: the answer to `place_buy` may be lost, and something happen before it is."""

    def __init__(self, url: str, name: str) -> None:
        self.real = database(url, name)
        self.harm: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def place_buy(self, *what: Any) -> Any:
        placed = await self.real.place_buy(*what)
        if self.harm is not None:
            harm, self.harm = self.harm, None
            await harm()
            await self.real.leave()
            raise FleetAway("the answer is lost")
        return placed


class Member(FleetMember):
    """A node of the model, with a real database."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self.cut = Cut(url, name)
        super().__init__(Nothing(), name, RULES, MANY)

    def restart(self, server: Nothing | None = None) -> None:
        """A process of its own, with a connection of its own."""
        super().restart(server)
        self.cut = Cut(self._url, self.name)
        self.fleet._wire = self.cut


async def buy(node: Member, peer_id: str) -> bool:
    try:
        async with node.fleet.place(Place(peer_id, SPRING, 0, 0)):
            await node.sell(peer_id, SPRING)
    except PeerError:
        return False
    return True


async def sell_out(*nodes: Member) -> int:
    """All buy until none is left; how many were sold in all, ever."""
    for round_ in range(3 * QUOTA):
        for node in nodes:
            await buy(node, f"02{round_:064x}")
            await node.fleet.look()
    return sum(len(node.sold) for node in nodes)
