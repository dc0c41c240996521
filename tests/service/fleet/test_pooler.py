"""Nodes that reach the database through PgBouncer in transaction mode: eight nodes, two connections to the server.

`test_database` tries both doors where a story depends on locks, processes or what is given up.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from harness.fleet import Pooler, database

from lsps2fast_plugin.service.fleet.database import Client
from lsps2fast_plugin.service.fleet.holds import Ask


@pytest.fixture
def pooled(pooler: Pooler, url: str) -> str:
    """The URL of an empty fleet, by way of the pooler."""
    return pooler.in_front(url)


async def test_different_questions_share_connections(pooled: str) -> None:
    """A statement that one node prepared is never run with what another one asks."""
    nodes = [database(pooled, f"n{number}") for number in range(4 * Pooler.CONNECTIONS)]
    for node in nodes:
        await node.join("p1")

    async def work(number: int) -> None:
        node, dice = nodes[number], random.Random(number)
        client = f"02{number:064x}"
        for buys in range(1, 60):
            match dice.randrange(3):
                case 0:
                    assert (await node.place_buy(client, buys, 100, [Ask(f"token:{number}", 0, buys, 100)])).room
                case 1:
                    told = [Client(client, buys, 0, 0, 0, 0, 0)]
                    news = await node.tell_and_hear("p1", [Ask(f"capital {number}", 0, buys, 100)], [], told)
                    assert [granted.held for granted in news.holds] == [buys]
                case _:
                    assert len(await node.list_nodes()) == len(nodes)

    await asyncio.gather(*map(work, range(len(nodes))))
    for node in nodes:
        await node.leave()
