"""Who opens next when more wait than are opened at one time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.open_queue import HANGS_MS, PATIENCE_MS, OpenQueue


class StillClock(Clock):
    """Goes on only when it is turned, however slow the machine is."""

    def now_ms(self) -> int:
        return self._offset_ms


class Counter:
    """A queue and those who have asked."""

    def __init__(self, most: int) -> None:
        self.clock = StillClock()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.queue = OpenQueue(self.clock, most, self.spawn)
        self.begun: list[int] = []  # jit scids, in order
        self.sent_away: list[int] = []
        self.unwanted: set[int] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it; dropped when it is over."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def ask(self, *asks: tuple[int, str]) -> list[asyncio.Task[None]]:
        """Ask for each (jit scid, peer), in order."""
        tasks = [self.spawn(self._ask(*each)) for each in asks]
        await self.settle()
        return tasks

    async def _ask(self, jit_scid: int, peer_id: str) -> None:
        wanted = await self.queue.enter(jit_scid, peer_id, lambda: jit_scid not in self.unwanted)
        (self.begun if wanted else self.sent_away).append(jit_scid)

    async def leave(self, *jit_scids: int) -> None:
        """Give these slots back, one after the other."""
        for jit_scid in jit_scids:
            self.queue.leave(jit_scid)
            await self.settle()

    async def turn(self, ms: int) -> None:
        """Let time pass."""
        self.clock.advance(ms / 1000)
        await self.settle()

    async def settle(self) -> None:
        """Let every task go as far as it can without time."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End what still waits."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_so_many_open_at_a_time_and_those_who_came_first_come_first() -> None:
    """P24: who waits longest is next; a place is given back once, however often it is said."""
    counter = Counter(2)
    await counter.ask((1, "a"), (2, "b"), (3, "c"), (4, "d"))
    assert counter.begun == [1, 2]
    assert len(counter.queue) == 2
    await counter.leave(2, 2)
    assert counter.begun == [1, 2, 3]
    await counter.leave(1, 3, 4)
    assert counter.begun == [1, 2, 3, 4]
    await counter.close()


async def test_a_peer_with_many_opens_leaves_room_for_the_others() -> None:
    """rule:24: one at a time for each peer, and each peer's first before the second of any."""
    counter = Counter(2)
    await counter.ask((1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c"), (6, "b"))
    assert counter.begun == [1, 4]  # not 2, though it came before
    await counter.leave(1)
    assert counter.begun == [1, 4, 5]
    await counter.leave(5)
    assert counter.begun == [1, 4, 5, 2]  # b has a slot still
    await counter.leave(4, 2)
    assert counter.begun == [1, 4, 5, 2, 6, 3]
    await counter.close()


async def test_a_slot_comes_back_from_a_peer_that_hangs() -> None:
    """P19, P24: after two seconds without a step; one that goes on keeps it."""
    counter = Counter(2)
    await counter.ask((1, "a"), (2, "b"), (3, "c"), (4, "d"))
    await counter.turn(HANGS_MS - 100)
    counter.queue.goes_on(2)
    assert counter.begun == [1, 2]
    await counter.turn(200)
    assert counter.begun == [1, 2, 3]  # in the place of 1
    await counter.leave(1)  # late, and nothing is given back twice
    assert counter.begun == [1, 2, 3]
    await counter.turn(HANGS_MS)
    assert counter.begun == [1, 2, 3, 4]
    await counter.close()


async def test_while_a_peer_is_awaited_another_begins() -> None:
    """P19, P24: what a peer takes its time for costs others a moment; its own next open waits for two seconds."""
    counter = Counter(1)
    await counter.ask((1, "a"), (2, "b"), (3, "a"), (4, "c"))
    counter.queue.awaits_peer(1)
    await counter.turn(PATIENCE_MS - 1)
    assert counter.begun == [1]
    await counter.turn(1)
    assert counter.begun == [1, 2]
    counter.queue.goes_on(1)  # two count now: no more begin until both are over
    await counter.leave(2)
    assert counter.begun == [1, 2]
    counter.queue.awaits_peer(1)
    await counter.turn(PATIENCE_MS)
    assert counter.begun == [1, 2, 4]  # not 3: its peer is awaited
    await counter.leave(4)
    await counter.turn(HANGS_MS)
    assert counter.begun == [1, 2, 4, 3]
    await counter.close()


async def test_what_is_wanted_no_more_is_sent_away_unopened() -> None:
    """C-07, K-06: a payment that ended while it waited takes no place, and is told within the time of a hanging one."""
    counter = Counter(1)
    await counter.ask((1, "a"), (2, "b"), (3, "c"))
    counter.unwanted.add(2)
    await counter.turn(HANGS_MS - 100)
    await counter.leave(1)
    assert (counter.begun, counter.sent_away) == ([1, 3], [2])
    await counter.ask((4, "d"))
    counter.unwanted.add(4)
    counter.queue.goes_on(3)
    await counter.turn(HANGS_MS)
    assert counter.sent_away == [2, 4]
    await counter.close()


async def test_a_cancelled_wait_takes_no_place() -> None:
    """rule:17: neither one that waits, nor one whose turn came in the moment it was cancelled."""
    counter = Counter(1)
    first, second, third = await counter.ask((1, "a"), (2, "b"), (3, "c"))
    second.cancel()
    await counter.settle()
    counter.queue.leave(1)  # 3 has the slot from here, and has not run since
    third.cancel()
    await counter.settle()
    assert first.done()
    assert counter.begun == [1]
    await counter.ask((4, "d"))
    assert counter.begun == [1, 4]
    assert len(counter.queue) == 0
    await counter.close()


async def test_nothing_is_remembered_of_peers_that_have_left() -> None:
    """rule:14: a crowd leaves nothing behind, and no task waits where nobody does."""
    counter = Counter(4)
    await counter.ask(*((number, f"peer {number % 50}") for number in range(200)))
    while len(counter.begun) < 200:
        await counter.leave(*counter.begun)
    await counter.leave(*counter.begun)
    await counter.turn(HANGS_MS)
    assert not counter.queue._peers
    assert not counter.queue._slots
    assert not counter.tasks
