"""Onion messages kept for clients that sleep: how many, how long, and how often a client is called for them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, StillClock

from lsps2fast.errors import NodeUnreachable
from lsps2fast.lsps import lsps5
from lsps2fast_plugin.cln.notifications import OnionMessageLost
from lsps2fast_plugin.service.wake.caller import COOLDOWN_MS
from lsps2fast_plugin.service.wake.onion_messages import (
    APART_MS,
    MOST,
    MOST_HEX,
    MOST_OF_CLIENT,
    OnionMessages,
)

WAIT_MS = 120_000


class Desk:
    """Clients that sleep, and a lightningd that takes messages."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.clock.turned = self.turned  # type: ignore[method-assign]
        self.awake: set[str] = set()
        self.online: set[str] = set()
        self.called: list[tuple[str, str]] = []
        self.next_ms: dict[str, int] = {}
        self.injected: list[str] = []
        self.injected_ms: list[int] = []
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
        self.injected_ms.append(self.clock.now_ms())
        return {}

    async def turned(self, seconds: float) -> None:
        self.clock.pass_ms(round(seconds * 1000))
        await asyncio.sleep(0)

    def may_wake(self, peer_id: str, method: str) -> bool:
        return self.clock.now_ms() >= self.next_ms.get(peer_id, 0)

    def wake(self, peer_id: str, method: str, expiry: int | None = None) -> bool:
        self.called.append((peer_id, method))
        self.next_ms[peer_id] = self.clock.now_ms() + COOLDOWN_MS
        return True

    def keep(self, incoming: str = "00", peer_id: str = ALICE, source: str = "s") -> bool:
        return self.onions.keep(peer_id, OnionMessageLost(source, incoming, "02"))

    def state(self) -> tuple[int, ...]:
        """Kept, given, given again, dropped."""
        return tuple(self.onions.state().values())

    async def back(self, peer_id: str = ALICE) -> None:
        self.online.add(peer_id)
        self.onions.back(peer_id)
        self.next_ms.clear()
        await asyncio.gather(*self.tasks)

    async def pass_s(self, seconds: int) -> None:
        """So much time, with the looks of every five seconds."""
        for _ in range(seconds // 5):
            self.clock.pass_ms(5_000)
            self.onions.look()
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
    assert desk.state() == (MOST_OF_CLIENT, 0, 0, 2)
    assert [desk.keep(peer_id=f"{number}") for number in range(MOST)] == [True] * (MOST - 8) + [False] * 8
    await desk.back()
    assert desk.injected == [*(f"{number:02x}" for number in range(MOST_OF_CLIENT - 1)), "ff"]


async def test_who_sends_to_many_clients_fills_no_room_of_all() -> None:
    """rule:24, trap:47: a hundred messages of one peer; another's are kept, down to a half for each."""
    desk = Desk()
    for number in range(MOST):
        assert desk.keep(peer_id=f"{number // 8}")
    assert [desk.keep(peer_id=f"b{number // 8}", source="other") for number in range(51)] == [True] * 50 + [False]
    assert desk.state() == (MOST, 0, 0, 51)


async def test_each_is_given_or_dropped_in_time() -> None:
    """N-14: what waited too long is gone."""
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


async def test_each_is_given_three_times_with_growing_pauses() -> None:
    """N-14, cln:N15: the connection may be replaced, the wallet may not be able to answer yet, and no one says so."""
    desk = Desk()
    desk.keep("01")
    begun_ms = desk.clock.now_ms()
    await desk.back()
    for _ in range(10):
        await desk.back()  # comes and goes: no more for that
    await desk.pass_s(110)
    assert desk.injected == ["01"] * 3
    assert [ms - begun_ms for ms in desk.injected_ms] == pytest.approx([0, 5_000, 25_000], abs=5_000)
    assert desk.state() == (0, 1, 2, 0)


async def test_one_that_is_away_again_gets_it_when_it_is_back() -> None:
    """N-14: nothing is given meanwhile, and it is called for nothing that was given."""
    desk = Desk()
    desk.keep("01")
    await desk.back()
    desk.online.clear()
    desk.called.clear()
    await desk.pass_s(60)
    assert (desk.injected, desk.called) == (["01"], [])
    await desk.back()
    assert desk.injected == ["01"] * 2


async def test_an_error_is_not_the_end_of_a_message() -> None:
    """rule:10: lightningd does not answer, or the client was gone again; three tries, as of others."""
    desk = Desk()
    desk.is_down = True
    desk.keep("03")
    await desk.back()
    desk.is_down = False
    await desk.pass_s(30)
    assert desk.injected == ["03", "03"]
    assert desk.state() == (0, 1, 1, 0)
    desk.is_down = True
    desk.keep("04")
    await desk.back()
    await desk.pass_s(30)
    assert desk.state() == (0, 1, 1, 1)


async def test_no_wallet_gets_more_at_once_than_it_takes() -> None:
    """cln:N15: lightningd takes four a second of a peer, and drops the rest without a word."""
    desk = Desk()
    for number in range(MOST_OF_CLIENT):
        desk.keep(f"{number:02x}")
    await desk.back()
    pauses_ms = [later - ms for ms, later in itertools.pairwise(desk.injected_ms)]
    assert pauses_ms == [APART_MS] * (MOST_OF_CLIENT - 1)
    assert APART_MS > 250


async def test_what_was_given_goes_first() -> None:
    """rule:24: a message that may yet be given again takes no room from one that never was."""
    desk = Desk()
    for number in range(MOST_OF_CLIENT):
        desk.keep(f"{number:02x}")
    await desk.back()
    desk.online.clear()
    assert [desk.keep("ff") for _ in range(MOST_OF_CLIENT + 1)] == [True] * MOST_OF_CLIENT + [False]
    assert desk.state() == (MOST_OF_CLIENT, MOST_OF_CLIENT, 0, 1)


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
                desk.online.clear()
            desk.clock.pass_ms(10_000)
            desk.onions.look()
        assert set(desk.called) == {(ALICE, lsps5.ONION_MESSAGE_INCOMING)}
        assert 7 <= len(desk.called) <= 8
