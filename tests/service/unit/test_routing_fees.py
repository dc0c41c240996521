"""Routing fees are given back behind the older calls about a channel, and in no other order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from harness.negotiator import StillClock

from lsps2fast.actions import RestoreFees
from lsps2fast_plugin.service.fee_notes import FeeNotes
from lsps2fast_plugin.service.routing_fees import RoutingFees

CHANNEL = "aa" * 32
PEER = "02" + "bb" * 32
FEES = RestoreFees(CHANNEL, 0, (77, 7))


class Node:
    """A lightningd with one channel, whose first call hangs until it is let go, and is carried out then or before."""

    def __init__(self) -> None:
        self.rates = (77, 7)
        self.calls: list[tuple[int, int]] = []
        self.late: list[Callable[[], None]] = []
        self.let_go = asyncio.Event()

    async def zero_fees(self, channel_id: str, late: Callable[[], None]) -> None:
        self.calls.append((0, 0))
        self.late.append(late)
        if len(self.calls) == 1:
            await self.let_go.wait()
        self.rates = (0, 0)

    async def set_fees(self, channel_id: str, fees: dict[str, int], grace_s: int, late: Callable[[], None]) -> None:
        self.rates = fees["feebase"], fees["feeppm"]
        self.calls.append(self.rates)

    async def find(self, peer_id: str, channel_id: str) -> Any:
        return SimpleNamespace(channel_id=CHANNEL, rates=self.rates, charges_nothing=self.rates == (0, 0))


class Bench:
    """The fees of that channel, and what goes on in the background."""

    def __init__(self) -> None:
        self.node = Node()
        self.work: list[Callable[[], Awaitable[Any]]] = []
        funder: Any = self.node
        notebook: Any = None  # nothing is noted
        clock: Any = StillClock()
        self.fees = RoutingFees(funder, FeeNotes(notebook), clock, self.insist, self.until_done)

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        self.work.append(work)

    async def until_done(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()

    async def give_back(self) -> list[asyncio.Task[None]]:
        """A call that sets zero is not answered, and the fees are to be given back meanwhile."""
        self.fees.supersede(CHANNEL)
        zero = asyncio.create_task(self.fees.zero(PEER, CHANNEL))
        await asyncio.sleep(0)
        fees = asyncio.create_task(self.fees.restore(FEES))
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.node.calls == [(0, 0)]
        assert self.fees.owed(CHANNEL) == FEES, "who looks before that is done is told what the channel charges"
        return [zero, fees]


async def test_fees_are_given_back_once_an_older_zero_is_answered() -> None:
    """rule:13, K-13: or that could be carried out behind them; they pass zero no second time (K-15)."""
    bench = Bench()
    tasks = await bench.give_back()
    bench.node.let_go.set()
    await asyncio.gather(*tasks)
    assert bench.node.rates == (77, 7)
    assert bench.node.calls == [(0, 0), (77, 7)]
    assert bench.work == []
    assert bench.fees._zero == {}
    assert not bench.fees.is_pending(CHANNEL)
    assert bench.fees.owed(CHANNEL) is None


async def test_fees_do_not_wait_for_a_zero_that_was_given_up() -> None:
    """rule:13, rule:17: nor is anything begun for it where the plugin ends."""
    bench = Bench()
    zero, fees = await bench.give_back()
    zero.cancel()
    await fees
    assert bench.node.rates == (77, 7)
    assert bench.work == []


async def test_what_the_operator_has_set_is_set_again_where_an_older_zero_comes_late() -> None:
    """rule:13, K-13: a payment ends, its first call for zero not answered; what was set meanwhile is left as it is."""
    bench = Bench()
    first = asyncio.create_task(bench.fees.zero(PEER, CHANNEL))
    await asyncio.sleep(0)
    first.cancel()  # it has waited too long; lightningd still has the call
    await asyncio.gather(first, return_exceptions=True)
    await bench.fees.zero(PEER, CHANNEL)
    bench.node.rates = (88, 8)
    await bench.fees.restore(FEES)
    assert bench.node.rates == (88, 8)
    bench.node.rates = (0, 0)  # the first call, carried out at last
    bench.node.late[0]()
    for work in bench.work:
        await work()
    assert bench.node.rates == (88, 8)


async def test_a_payment_that_needs_zero_has_it_behind_fees_that_are_slow() -> None:
    """rule:13: the other way round."""
    bench = Bench()
    tasks = await bench.give_back()
    bench.fees.supersede(CHANNEL)
    tasks.append(asyncio.create_task(bench.fees.zero(PEER, CHANNEL)))
    bench.node.let_go.set()
    await asyncio.gather(*tasks)
    assert bench.node.rates == (0, 0)
    assert bench.fees._zero == {CHANNEL: PEER}
