"""Channels whose funding is never sent are closed, and whatever keeps one keeps no other payment waiting (trap:60)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from harness.rows import CHANNEL
from msgspec import convert

from lsps2fast.actions import Funding
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.alarms import kind_of
from lsps2fast_plugin.service.funding import MustNotClose, OwedToClient
from lsps2fast_plugin.service.order_tasks import OrderTasks
from lsps2fast_plugin.service.unfunded import PATIENCE_MS, UnfundedChannels

PEER, ID = "02" + "aa" * 32, "cc" * 32
FUNDING = Funding("psbt", ("aa:0",), 200, 100_000, batch=(1, 2))
OURS = {"direction": "out", "id": 0, "state": "SENT_ADD_HTLC", "amount_msat": 1, "expiry": 9, "payment_hash": "0" * 64}


def _row(**more: Any) -> PeerChannel:
    return convert(CHANNEL | {"channel_id": ID, "total_msat": 100, "to_us_msat": 100} | more, PeerChannel)


class Node:
    """What is in the way of a close, one after the other; `closed`: how it was closed."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.begun = asyncio.Event()
        self.closed: list[str] = []
        self.freed: list[Funding] = []
        self.alarms: list[str] = []
        self.open_to_all: list[str] = []
        self.clock = Clock()
        driver: Any = SimpleNamespace(feed=None, is_full=None, is_of_payment=None, room=None, unforwardable=None)
        self.tasks = OrderTasks(self.clock, driver, self.alarms.append)
        self.channels = UnfundedChannels(
            tasks=self.tasks,
            funder=self,  # type: ignore[arg-type]
            reservations=SimpleNamespace(released_late=self.freed.append),  # type: ignore[arg-type]
            clock=self.clock,
            withheld=lambda channel_id, *_: self.open_to_all.append(channel_id),
        )

    async def close(self, *_: str) -> bool:
        """As `Funder.close`."""
        self.begun.set()
        if self.errors:
            raise self.errors.pop(0)
        self.closed.append("dropped")
        return True

    async def close_unpaid(self, *_: str) -> None:
        """As `Funder.close_unpaid`."""
        self.closed.append("unpaid")


async def _closed(node: Node) -> None:
    await node.channels.wait([node.channels.close(PEER, ID, FUNDING)])


def test_one_that_is_empty_is_dropped_and_its_coins_need_no_second_reservation() -> None:
    """trap:60: the others go on once it is gone; then they reserve the coins themselves."""
    node = Node()
    asyncio.run(_closed(node))
    assert (node.closed, node.freed, node.open_to_all) == (["dropped"], [], [ID])


async def _waits(node: Node) -> None:
    closing = asyncio.ensure_future(_closed(node))
    await node.begun.wait()
    node.clock.advance(PATIENCE_MS / 1000)  # also the first pause: the second try fails, too
    await asyncio.wait_for(closing, 5)
    assert (node.closed, node.open_to_all) == ([], [])
    for _ in range(5):
        node.clock.advance(60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.wait_for(node.tasks.idle(), 5)


def test_an_htlc_of_our_own_node_keeps_no_other_waiting() -> None:
    """rule:24, K-11: no payment waits longer than for a message; closed later, its coins are kept."""
    node = Node(*(MustNotClose("HTLCs") for _ in range(3)))
    asyncio.run(_waits(node))
    assert (node.closed, node.freed, node.open_to_all) == (["dropped"], [FUNDING], [ID])
    assert node.alarms


def test_money_of_the_client_in_it_is_told() -> None:
    """rule:23: no transaction may pay for it, so a person must know whom the node owes something."""
    node = Node(OwedToClient(_row(to_us_msat=58)))
    asyncio.run(_closed(node))
    assert node.closed == ["unpaid"]
    (alarm,) = node.alarms
    assert f"{PEER} holds 42 msat" in alarm
    assert kind_of(alarm) == "stray-funding"


def test_one_that_is_public_and_empty_is_closed_without_a_word() -> None:
    """rule:9: its funding was taken back."""
    node = Node(OwedToClient(_row()))
    asyncio.run(_closed(node))
    assert (node.closed, node.alarms) == (["unpaid"], [])


def test_an_htlc_in_one_that_is_public_is_waited_for() -> None:
    """K-11: it may still be paid, here or upstream."""
    node = Node(*(OwedToClient(_row(htlcs=[OURS])) for _ in range(3)))
    asyncio.run(_waits(node))
    assert node.closed == ["dropped"]
