"""A real database, answers that are lost, nodes and a server that die at chosen moments: what there is, is sold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness.fleet import FleetServer, database
from harness.fleet_histories import BUDGETS, CLIENTS, POT, QUOTA, RULES, SPRING
from harness.fleet_model import FleetMember
from harness.fleet_model import Server as Nothing

from lsps2fast.errors import PeerError
from lsps2fast_plugin.service.fleet.database import FleetAway
from lsps2fast_plugin.service.policy.shared import CAPITAL, Place

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

    def restart(self) -> None:
        """A process of its own, with a connection of its own."""
        super().restart()
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


@pytest.mark.parametrize("dies", ["neither", "the node", "the database", "both"])
async def test_a_grant_whose_answer_was_lost_is_sold_in_the_end(server: FleetServer, url: str, dies: str) -> None:
    """rule:18, rule:2, K-13: the database has granted the last uses; no client heard of it; all forty are sold."""
    one, two = Member(url, "one"), Member(url, "two")
    for _ in range(2):
        for node in (one, two):
            await node.start()
    while one.holds.held(POT) > len(one.sold):
        assert await buy(one, CLIENTS[0])

    async def harm() -> None:
        if dies in ("the database", "both"):
            server.crash()

    one.cut.harm = harm
    before = len(one.sold)
    assert not await buy(one, CLIENTS[1])
    assert one.cut.harm is None, "the database was not asked"
    if dies in ("the node", "both"):
        old = one.cut.real
        one.restart()
        await one.start()
        await old.leave()
    if dies in ("the database", "both"):
        assert not one.holds.joined
        assert not await buy(one, CLIENTS[2])
        server.start()
    assert len(one.sold) == before
    for _ in range(2):
        for node in (one, two):
            await node.fleet.look()
    assert await sell_out(one, two) == QUOTA
    await one.cut.leave()
    await two.cut.leave()


async def test_a_database_that_answers_after_half_a_minute_while_three_hundred_buy(
    server: FleetServer, url: str
) -> None:
    """P19, rule:18: one waits two seconds, the rest are judged at once; the node's part is sold, and no more."""
    schema = url.rpartition("=")[2]
    one, two = Member(url, "one"), Member(url, "two")
    for node in (one, two, one, two):
        await node.start()
    part = one.holds.held(POT)
    assert 0 < part < QUOTA
    slow = "CREATE OR REPLACE FUNCTION enter(p_node text, p_epoch bigint) RETURNS void LANGUAGE sql AS"
    server.value(schema, f"{slow} 'SELECT pg_sleep(30)'")
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asyncio.gather(*(buy(one, f"02{number:064x}") for number in range(300)))
    assert loop.time() - began < 25
    assert sum(answers) == len(one.sold) == part
    assert len(one.alarms) == 1
    assert "did not answer within 2 s; this node sells alone" in one.alarms[0]
    await one.cut.leave()
    await two.cut.leave()


async def test_places_and_budgets_are_whole_after_a_node_died_over_a_grant(server: FleetServer, url: str) -> None:
    """B-14, rule:18: the sums of a pot are those of its rows, and a client has the places that no journal names."""
    schema = url.rpartition("=")[2]
    one, two = Member(url, "one"), Member(url, "two")
    for node in (one, two, one, two):
        await node.start()
    assert await buy(one, CLIENTS[0])
    assert one.open_channel(CLIENTS[0], 20_000_000)

    async def harm() -> None:
        pass

    one.cut.harm = harm
    async with one.fleet.place(Place(CLIENTS[1], SPRING, 60_000_000, 0)):
        pass  # and then it dies
    old = one.cut.real
    one.restart()
    await one.start()
    await old.leave()
    for node in (one, two, one, two):
        await node.fleet.look()
    assert server.value(schema, "SELECT sum(buys) FROM client") == "1"
    rows = "SELECT sum(held), sum(used) FROM hold WHERE hold.pot = pot.pot"
    sums = f"SELECT pot, held, used FROM pot WHERE (held, used) <> ({rows})"
    assert server.value(schema, sums) == ""
    held = int(server.value(schema, f"SELECT held FROM pot WHERE pot = '{CAPITAL}'"))
    assert 20_000_000 <= held <= BUDGETS.most_on_trust_msat
    await one.cut.leave()
    await two.cut.leave()
