"""A real database, answers that are lost, nodes and a server that die at chosen moments: what there is, is sold."""

from __future__ import annotations

import asyncio

import pytest
from harness.fleet import FleetServer
from harness.fleet_histories import BUDGETS, CLIENTS, POT, QUOTA, SPRING

from lsps2fast_plugin.service.fleet import database as fleet_database
from lsps2fast_plugin.service.policy.shared import CAPITAL, Place

from .members import Member, buy, sell_out


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
    server: FleetServer, url: str, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(fleet_database, "PATIENCE_S", 2.0)
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
