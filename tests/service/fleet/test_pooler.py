"""Nodes that reach the database through PgBouncer in transaction mode: eight nodes, two connections to the server."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fleet import FleetServer, Pooler, database

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet.database import Client
from lsps2fast_plugin.service.fleet.holds import Ask

from . import test_database as direct


@pytest.fixture(scope="module")
def pooler(server: FleetServer) -> Iterator[Pooler]:
    """Skip with the reason where there is none."""
    try:
        running = Pooler(server, Path(tempfile.mkdtemp(prefix="l2p-", dir="/tmp")))
    except ConfigError as error:
        pytest.skip(f"a pooler is tried with PgBouncer: {error}")
    running.start()
    yield running
    running.remove()


@pytest.fixture
def pooled(pooler: Pooler, url: str) -> str:
    """The URL of an empty fleet, by way of the pooler."""
    return pooler.in_front(url)


async def test_sums_are_kept_through_a_pooler(pooled: str) -> None:
    """rule:18, B-14: no session state is needed: locks live as long as a transaction, statements have no name."""
    await direct.test_many_at_once_take_exactly_what_there_is(pooled)


async def test_places_are_kept_through_a_pooler(pooled: str) -> None:
    """B-14: one client at eight nodes at once."""
    await direct.test_a_client_who_asks_everywhere_at_once_gets_ten_places(pooled)


async def test_a_node_that_joins_waits_through_a_pooler(server: FleetServer, pooled: str) -> None:
    """K-13: what was given up is over in the server before the node goes on, over whichever connection."""
    await direct.test_a_call_that_is_still_under_way_is_over_before_the_node_goes_on(server, pooled)


async def test_an_earlier_process_is_refused_through_a_pooler(pooled: str) -> None:
    """cln:N6: the epoch lies in the database, not in a connection."""
    await direct.test_an_earlier_process_of_a_node_is_refused(pooled)


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
