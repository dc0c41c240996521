"""A batch in which something breaks that no step expects: each of its payments comes to an end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from harness.negotiator import StillClock

from lsps2fast import actions as order
from lsps2fast_plugin.service.batch import Batch, Member
from lsps2fast_plugin.service.batch_opening import BatchOpening
from lsps2fast_plugin.service.batches import Batches
from lsps2fast_plugin.service.funding import Plan

SCIDS = (1 << 40, 2 << 40)
HASH = b"\x11" * 32
FREE_SAT = 1_000_000
OTHERS = ("funder", "opener", "opening", "reservations", "unfunded", "clock", "driver", "withheld", "spoiled")
FUNDING = order.Funding("psbt", ("aa:0",), 200, 100_000, batch=SCIDS)


class Node:
    """All that batches ask of others; `told`: sessions that have heard of their channel."""

    def __init__(self, told: int) -> None:
        self.told, self.heard = told, 0
        self.late: set[int] = set()
        self.free_sat: list[int] = []
        self.coins = asyncio.Semaphore(0)
        self.ended: list[int] = []
        self.alarms: list[str] = []
        self.work: list[asyncio.Task[None]] = []
        tasks: Any = SimpleNamespace(
            run=lambda work: self.work.append(asyncio.ensure_future(work)),
            feed=lambda *_: self.coins.release(),
            alarm=self.alarms.append,
            open_failed=lambda action, *_: self.ended.append(action.jit_scid),
        )
        driver: Any = SimpleNamespace(
            blocks_left=lambda _: 100, is_opening=lambda scid, _: scid not in SCIDS[: self.heard]
        )
        funder: Any = SimpleNamespace(
            plan=self._plan, choose_for_all=self._choose, reserved_by=lambda scid: [FUNDING] * (scid in self.late)
        )
        opening: Any = SimpleNamespace(
            may_open=self._may_open,
            when_synced=lambda choose, _: choose(),
            sync_deadline_ms=lambda: 0,
            free_sat=lambda: FREE_SAT,
        )
        self.batches = Batches(
            tasks=tasks,
            funder=funder,
            opening=opening,
            opens=lambda _: self,  # type: ignore[arg-type, return-value]
            sending=SimpleNamespace(),
            clock=StillClock(),
            driver=driver,
            window_ms=2_000,
            most=2,
        )

    async def _plan(self, *_: object) -> Plan:
        return Plan(100_000, (12,), 253)

    async def _choose(self, _: object) -> order.Funding:
        return FUNDING

    async def _may_open(self, _: object, __: object, free_sat: int) -> bool:
        self.free_sat.append(free_sat)
        return True

    async def open(self, batch: Batch) -> None:
        """The channels are signed; telling the sessions breaks."""
        batch.signed, self.heard = True, self.told
        raise RuntimeError("a bug")


def _join(node: Node, scid: int) -> bool:
    buy: Any = SimpleNamespace(jit_scid=scid, peer_id=f"peer {scid}", client_trusts_lsp=False)
    return node.batches.join(buy, order.ReserveCoins(scid, HASH, 50_000_000, 1))


async def _breaks(told: int) -> Node:
    node = Node(told)
    for scid in SCIDS:
        assert _join(node, scid)
    for _ in SCIDS:
        await node.coins.acquire()
    for scid in SCIDS:
        assert node.batches.arrive(order.OpenChannel(scid, HASH, FUNDING))
    await asyncio.gather(*node.work)
    return node


@pytest.mark.parametrize("told", [0, 1, 2])
def test_a_bug_after_the_channels_are_signed_ends_who_has_not_heard_of_one(told: int) -> None:
    """rule:5, trap:60: who waits for a channel hears that there is none; who has one goes on with it."""
    node = asyncio.run(_breaks(told))
    assert node.ended == list(SCIDS[told:])
    assert "broke" in node.alarms[0]


def test_what_is_free_to_one_is_less_what_counts_for_those_before() -> None:
    """rule:18: the coins of a batch count once, as channels that are not paid for, not as free ones besides."""
    assert asyncio.run(_breaks(0)).free_sat == [FREE_SAT, FREE_SAT - 100_000]


async def _comes_back() -> None:
    node = Node(0)
    node.late = {SCIDS[0]}
    assert not _join(node, SCIDS[0])
    assert _join(node, SCIDS[1])
    for work in node.work:
        await asyncio.sleep(0)
        work.cancel()


def test_one_that_holds_coins_of_a_batch_joins_no_other() -> None:
    """rule:9: it was too late for its own; these coins go back first, so it opens alone."""
    asyncio.run(_comes_back())


def test_a_funding_that_does_not_say_what_miners_get_stops_no_sale() -> None:
    """K-13: a remote signer may leave the amounts out; then the books have no share, as with one channel alone."""
    fed: list[Any] = []
    opening: Any = BatchOpening(
        tasks=SimpleNamespace(feed=lambda scid, _, __, fact: fed.append((scid, fact.channel.mining_sat))),  # type: ignore[arg-type]
        **dict.fromkeys(OTHERS),  # type: ignore[arg-type]
    )
    members = [Member(SimpleNamespace(peer_id=f"peer {scid}"), order.ReserveCoins(scid, HASH, 1, 1)) for scid in SCIDS]  # type: ignore[arg-type]
    signed = [SimpleNamespace(channel_id=f"{scid:064x}", limits=None) for scid in SCIDS]
    opening._funded(members, signed, "no PSBT", [0, 1])
    assert fed == [(scid, None) for scid in SCIDS]
