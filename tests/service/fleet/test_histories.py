"""Random lives of a fleet, each from a seed, and a node that dies at every point of one."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from harness.fleet_histories import POT, SPRING, Life, crash_machine, history
from harness.policy import ALICE

from lsps2fast.errors import PeerError
from lsps2fast_plugin.service.policy.shared import Place

HISTORIES = 60


def test_no_history_breaks_a_sum() -> None:
    """rule:18, rule:2, K-13: never above quota or budget; all books are equal and nothing is lost in the end."""
    seen: Counter[str] = Counter()
    for seed in range(1, HISTORIES + 1):
        seen += history(seed)
    for what in ("sold", "opened", "refused", "killed at a point", "late", "after", "full", "blame"):
        assert seen[what] > 20, what  # or it was not tried


@pytest.mark.slow
def test_a_node_that_dies_at_any_point_of_a_life_leaves_every_sum_right() -> None:
    """rule:2, rule:18: before and after each commit of its own and of the database."""
    assert crash_machine() > 100


@pytest.mark.parametrize("how", ["before", "after", "late"])
@pytest.mark.parametrize("then", ["is refused", "dies"])
async def test_what_was_granted_and_not_sold_goes_back(how: str, then: str) -> None:
    """rule:18, B-14: the database has given a place and a use; the answer is lost, and perhaps the node."""
    life = Life(2)
    await life.begin()
    one = life.nodes[0]
    while one.holds.held(POT) > len(one.sold):
        await life.buy(one, ALICE)
    one.line.break_next = how
    with pytest.raises(PeerError):
        async with one.fleet.place(Place(ALICE, SPRING, 0, 0)):
            pass
    if then == "dies":
        await life.restart(one)
    await life.settle()
    life.check_books()
    await life.check_nothing_leaked()


async def test_a_place_of_a_buy_that_was_refused_afterwards_is_free_again() -> None:
    """B-14: the database counted it; what this node says next is what it has, also when that is as it was before."""
    life = Life(2)
    await life.begin()
    one = life.nodes[0]
    await life.buy(one, ALICE)
    await one.fleet.look()
    async with one.fleet.place(Place(ALICE, None, 0, 0)):
        pass  # refused, for another reason
    assert life.server.clients[ALICE][one.name].buys == 2
    await one.fleet.look()
    assert life.server.clients[ALICE][one.name].buys == 1


def test_a_crowd_buys_as_much_as_there_is() -> None:
    """rule:18: buys of one moment do not count twice against what is left, once judged and once being stored."""

    async def play() -> None:
        life = Life(1)
        await life.begin()
        one = life.nodes[0]
        await asyncio.gather(*(life.buy(one, f"02{number:064x}") for number in range(60)))
        for _ in range(3):
            await asyncio.gather(*(life.buy(one, f"03{number:064x}") for number in range(20)))
        assert len(one.sold) == 40

    asyncio.run(play())
