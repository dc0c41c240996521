"""What the node can receive and spend: coins anew for each sale, once for all of a crowd; channels now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.channel_types import OurNode
from lsps2fast_plugin.service.coins import Coins, LowWater
from lsps2fast_plugin.service.known_node import KnownFeerates
from lsps2fast_plugin.service.liquidity import LIQUIDITY_FRESH_MS, NodeLiquidity


class Node:
    """Its wallet holds one coin, worth the number of the listing in sat; a listing waits until it is let go."""

    def __init__(self) -> None:
        self.asked = self.listed = 0
        self.on_listing: Callable[[], None] = lambda: None
        self.fails: set[int] = set()
        self.began = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def call(self, method: str, params: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        if method == "feerates":
            return {"perkw": {"min_acceptable": 253, "opening": 1_000}}
        if method == "listpeerchannels":
            self.listed += 1
            self.on_listing()
            return {"channels": []}
        self.asked += 1
        self.began.set()
        await self.may_answer.wait()
        if self.asked in self.fails:
            raise NodeError(method, -1, "busy")
        coin = {"txid": "ab" * 32, "output": 0, "amount_msat": self.asked * 1000, "scriptpubkey": "0014" + "00" * 20}
        return {"outputs": [{**coin, "status": "confirmed", "reserved": False}]}


def view_of(node: Any) -> NodeLiquidity:
    coins = Coins(node, lambda: 100, lambda: 0, LowWater(0, print))
    return NodeLiquidity(node, coins, KnownFeerates(node, lambda: 0), lambda: 0, OurNode())


async def asking(view: NodeLiquidity, count: int) -> list[asyncio.Task[Any]]:
    """So many who ask, and wait."""
    tasks = [asyncio.create_task(view.purse()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_those_who_come_during_a_question_share_the_next() -> None:
    """P24, rule:18: none gets an answer to a question that began before it asked."""
    node = Node()
    view = view_of(node)
    first = await asking(view, 1)
    await node.began.wait()
    others = await asking(view, 30)
    node.may_answer.set()
    assert [each.confirmed_sat for each in await asyncio.gather(*first)] == [1]
    assert {each.confirmed_sat for each in await asyncio.gather(*others)} == {2}
    assert (await view.purse()).confirmed_sat == 3


async def test_a_question_without_an_answer_is_asked_again_by_the_next() -> None:
    """rule:10: one error is one caller's."""
    node = Node()
    node.fails = {1, 2}
    view = view_of(node)
    tasks = await asking(view, 4)
    node.may_answer.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, NodeError) for each in found] == [True, True, False, False]
    assert [each.confirmed_sat for each in found[2:] if not isinstance(each, BaseException)] == [3, 3]


@pytest.mark.parametrize("who", [0, 1])
async def test_one_that_is_cancelled_takes_no_other_with_it(who: int) -> None:
    """rule:17: neither the one that asks nor one that waits for it."""
    node = Node()
    view = view_of(node)
    tasks = await asking(view, 3)
    tasks[who].cancel()
    await asyncio.sleep(0)
    node.may_answer.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [each == who for each in range(3)]


def at(node: Node, now_ms: list[int]) -> tuple[NodeLiquidity, Coins]:
    """A view with a clock."""
    coins = Coins(node, lambda: 100, lambda: now_ms[0], LowWater(0, print))  # type: ignore[arg-type]
    known = KnownFeerates(node, lambda: now_ms[0])  # type: ignore[arg-type]
    return NodeLiquidity(node, coins, known, lambda: now_ms[0], OurNode()), coins  # type: ignore[arg-type]


async def test_menus_ask_every_five_seconds_and_know_what_is_promised_since() -> None:
    """P24, rule:18: coins that an opening was promised are not offered to the next, without a question."""
    node, now_ms = Node(), [0]
    node.may_answer.set()
    view, coins = at(node, now_ms)
    assert (await view.recent()).confirmed_sat == 1
    coins.promise(7, [f"{'ab' * 32}:0"])
    assert (await view.recent()).confirmed_sat == 0
    assert (node.asked, node.listed) == (1, 1)
    coins.forget(7)
    assert (await view.recent()).confirmed_sat == node.asked  # it is worth as many sat
    assert node.listed == 1
    now_ms[0] = LIQUIDITY_FRESH_MS
    await view.recent()
    assert node.listed == 2


async def test_buys_ask_for_coins_each_and_for_channels_every_five_seconds() -> None:
    """P24, B-08: listing thousands of channels is dear, and what they can receive is no promise."""
    node, now_ms = Node(), [0]
    node.may_answer.set()
    view, _ = at(node, now_ms)
    assert [(await view.purse()).confirmed_sat for _ in range(3)] == [1, 2, 3]
    assert node.listed == 1
    now_ms[0] = LIQUIDITY_FRESH_MS
    await view.purse()
    assert node.listed == 2


@pytest.mark.parametrize(("takes_ms", "again_ms"), [(100, 5_000), (1_000, 20_000), (30_000, 60_000)])
async def test_listing_takes_a_twentieth_of_the_time_at_most(takes_ms: int, again_ms: int) -> None:
    """P24: the more channels a node has, the less often they are listed, but once a minute."""
    node, now_ms = Node(), [0]
    node.may_answer.set()

    def list_slowly() -> None:
        now_ms[0] += takes_ms

    node.on_listing = list_slowly
    view, _ = at(node, now_ms)
    await view.purse()
    now_ms[0] = max(now_ms[0], again_ms - 1)
    await view.purse()
    assert node.listed == 1
    now_ms[0] += 1
    await view.purse()
    assert node.listed == 2
