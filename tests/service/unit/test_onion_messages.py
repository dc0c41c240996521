"""Onion messages kept for clients that sleep: how many, how long, and how often a client is called for them."""

from __future__ import annotations

import asyncio
from typing import Any

from harness.negotiator import ALICE, BOB, StillClock

from lsps2fast.errors import NodeUnreachable
from lsps2fast.lsps import lsps5
from lsps2fast_plugin.cln.notifications import OnionMessageLost
from lsps2fast_plugin.service.wake.caller import COOLDOWN_MS
from lsps2fast_plugin.service.wake.onion_messages import MOST, MOST_HEX, MOST_OF_CLIENT, OnionMessages

WAIT_MS = 120_000


class Desk:
    """Clients that sleep, and a lightningd that takes messages."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.awake: set[str] = set()
        self.online: set[str] = set()
        self.called: list[tuple[str, str]] = []
        self.next_ms: dict[str, int] = {}
        self.injected: list[str] = []
        self.is_down = False
        self.tasks: list[asyncio.Task[None]] = []
        self.onions = OnionMessages(
            rpc=self,
            clock=self.clock,
            caller=self,
            spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)),
            asleep=lambda peer_id: peer_id not in self.awake,
            is_online=self.online.__contains__,
            wait_ms=WAIT_MS,
        )

    async def call(self, method: str, params: Any = None, timeout_s: float | None = None) -> dict[str, Any]:
        if self.is_down:
            raise NodeUnreachable(method, "no answer")
        self.injected.append(params["message"])
        return {}

    def may_wake(self, peer_id: str, method: str) -> bool:
        return self.clock.now_ms() >= self.next_ms.get(peer_id, 0)

    def wake(self, peer_id: str, method: str, expiry: int | None = None) -> bool:
        self.called.append((peer_id, method))
        self.next_ms[peer_id] = self.clock.now_ms() + COOLDOWN_MS
        return True

    def keep(self, incoming: str = "00", peer_id: str = ALICE, source: str = "s") -> bool:
        return self.onions.keep(peer_id, OnionMessageLost(source, incoming, "02"))

    async def back(self, peer_id: str = ALICE) -> None:
        self.onions.back(peer_id)
        self.next_ms.clear()
        await asyncio.gather(*self.tasks)


async def test_what_is_kept_has_bounds_for_each_client_and_in_all() -> None:
    """rule:24: one who sends many gives way to one who sends few; nothing too long, nothing for others."""
    desk = Desk()
    desk.awake.add(BOB)
    assert [desk.keep(f"{number:02x}") for number in range(MOST_OF_CLIENT + 1)] == [True] * MOST_OF_CLIENT + [False]
    assert desk.keep("ff", source="other")
    assert not desk.keep("00" * MOST_HEX)
    assert not desk.keep("")
    assert not desk.keep(peer_id=BOB)
    assert desk.onions.state() == {"kept": MOST_OF_CLIENT, "given": 0, "dropped": 2}
    assert [desk.keep(peer_id=f"{number}") for number in range(MOST)] == [True] * (MOST - 8) + [False] * 8
    await desk.back()
    assert desk.injected == [*(f"{number:02x}" for number in range(MOST_OF_CLIENT - 1)), "ff"]


async def test_each_is_given_once_or_dropped_in_time() -> None:
    """N-14, rule:10: an error costs that message; what waited too long is gone."""
    desk = Desk()
    desk.keep("01")
    desk.clock.pass_ms(WAIT_MS - 1)
    desk.keep("02")
    desk.onions.look()
    assert len(desk.onions) == 2
    desk.clock.pass_ms(1)
    desk.onions.look()
    await desk.back()
    await desk.back()
    assert desk.injected == ["02"]
    desk.is_down = True
    desk.keep("03")
    await desk.back()
    assert desk.onions.state() == {"kept": 0, "given": 1, "dropped": 2}


async def test_one_that_is_lost_as_its_client_comes_is_given_at_once() -> None:
    """N-14: lightningd told of both at nearly one time."""
    desk = Desk()
    desk.online.add(ALICE)
    assert desk.keep("01")
    await asyncio.gather(*desk.tasks)
    assert (desk.injected, desk.called) == (["01"], [])


async def test_a_stranger_calls_no_client_for_nothing_all_day() -> None:
    """trap:47, rule:24: messages are free; who comes for each, or never, is called twice, then six times an hour."""
    for comes in (True, False):
        desk = Desk()
        for _ in range(360):
            desk.keep()
            if comes:
                await desk.back()
            desk.clock.pass_ms(10_000)
            desk.onions.look()
        assert set(desk.called) == {(ALICE, lsps5.ONION_MESSAGE_INCOMING)}
        assert 7 <= len(desk.called) <= 8
