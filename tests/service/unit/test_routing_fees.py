"""Routing fees are given back once more where an older call may have been carried out behind them, and only there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from harness.negotiator import StillClock

from lsps2fast.actions import RestoreFees
from lsps2fast_plugin.service.routing_fees import RoutingFees

CHANNEL = "aa" * 32
PEER = "02" + "bb" * 32
FEES = RestoreFees(CHANNEL, 0, (77, 7))


class Node:
    """A lightningd with one channel, whose first call hangs until it is let go, and is carried out then or before."""

    def __init__(self) -> None:
        self.rates = (77, 7)
        self.calls: list[tuple[int, int]] = []
        self.let_go = asyncio.Event()

    async def zero_fees(self, channel_id: str, late: Callable[[], None]) -> None:
        self.calls.append((0, 0))
        if len(self.calls) == 1:
            await self.let_go.wait()
        self.rates = (0, 0)

    async def set_fees(self, channel_id: str, fees: dict[str, int], grace_s: int, late: Callable[[], None]) -> None:
        self.rates = fees["feebase"], fees["feeppm"]
        self.calls.append(self.rates)

    async def find(self, peer_id: str, channel_id: str) -> Any:
        return (await self.channels())[0]

    async def channels(self) -> list[Any]:
        return [SimpleNamespace(channel_id=CHANNEL, rates=self.rates, charges_nothing=self.rates == (0, 0))]


class Bench:
    """The fees of that channel, and what goes on in the background."""

    def __init__(self) -> None:
        self.node = Node()
        self.work: list[Callable[[], Awaitable[Any]]] = []
        funder: Any = self.node
        clock: Any = StillClock()
        self.fees = RoutingFees(funder, clock, self.insist, self.until_done)

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        self.work.append(work)

    async def work_off(self) -> None:
        for work in self.work:
            await work()

    async def until_done(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()

    async def overtaken(self) -> asyncio.Task[None]:
        """A call that sets zero is not answered, and the fees are given back meanwhile."""
        self.fees.supersede(CHANNEL)
        zero = asyncio.create_task(self.fees.zero(PEER, CHANNEL))
        await asyncio.sleep(0)
        await self.fees.restore(FEES)
        assert self.node.rates == (77, 7)
        return zero


async def test_an_older_zero_that_is_carried_out_behind_the_fees_is_undone() -> None:
    """rule:13, K-13: its caller is still there, and knows that its order is over."""
    bench = Bench()
    zero = await bench.overtaken()
    bench.node.let_go.set()
    await zero
    assert bench.node.rates == (0, 0)
    assert bench.fees.owed(CHANNEL) == FEES, "who looks before that is done is told what the channel charges"
    await bench.work_off()
    assert bench.node.rates == (77, 7)
    assert not bench.fees.is_pending(CHANNEL)
    assert bench.fees.owed(CHANNEL) is None


async def test_fees_that_are_there_do_not_pass_zero_once_more() -> None:
    """K-15: no record tells of them any more, so a death on the way would leave the channel at zero."""
    bench = Bench()
    zero = await bench.overtaken()
    bench.node.let_go.set()
    await zero
    bench.node.rates = (77, 7)
    calls = len(bench.node.calls)
    await bench.work_off()
    assert len(bench.node.calls) == calls
    assert not bench.fees.is_pending(CHANNEL)
    assert bench.fees.owed(CHANNEL) is None


async def test_a_plugin_that_ends_begins_nothing() -> None:
    """rule:17: the next start looks."""
    bench = Bench()
    zero = await bench.overtaken()
    zero.cancel()
    with pytest.raises(asyncio.CancelledError):
        await zero
    assert bench.work == []
    assert not bench.fees.is_pending(CHANNEL)
