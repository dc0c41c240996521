"""What a sale costs beside many others: as much as beside a few (P24). Counted in lines of Python, not in time."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.service.coin_table import Need
from lsps2fast_plugin.service.coins import Coins, LowWater
from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.trust import TrustLedger
from lsps2fast_plugin.service.shut_channels import ShutChannels

FEW, MANY = 50, 2_000
WALL_MS = 1_700_000_000_000
SCRIPT = "5120" + "00" * 32


def lines(work: Callable[[], Any]) -> int:
    """How many lines of Python this runs, each turn of a loop inside an expression among them."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.collect()  # what others have left behind is not counted here
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


class Wallet:
    """A node with so many coins, that answers at once."""

    def __init__(self, coins: int) -> None:
        row = {"amount_msat": 400_000_000, "status": "confirmed", "scriptpubkey": SCRIPT, "reserved": False}
        self.rows = [{"txid": f"{number:064x}", "output": 0, **row} for number in range(coins)]

    async def call(self, method: str, *_: Any, **__: Any) -> dict[str, Any]:
        return {"outputs": self.rows} if method == "listfunds" else {"psbt": "a PSBT"}


async def _a_sale_among(openings: int) -> int:
    wallet: Any = Wallet(2 * openings)
    coins = Coins(wallet, lambda: 100, lambda: 0, LowWater(0, lambda _: None))
    need = Need(200_000, 214, 253)
    for scid in range(openings):
        await coins.choose(scid, need)

    def sale() -> None:
        choosing = coins.choose(-9, need)
        with pytest.raises(StopIteration):
            choosing.send(None)
        coins.spent(0)

    return lines(sale)


def test_a_choice_of_coins_costs_as_much_among_many_as_among_few() -> None:
    """P24: neither all coins nor all promises are gone through again for one of them."""
    few, many = (asyncio.run(_a_sale_among(openings)) for openings in (FEW, MANY))
    assert many <= few + 5


def _a_stake_among(stakes: int) -> int:
    ledger = TrustLedger(TrustRule())

    def sell(scid: int) -> None:
        ledger.reserved(f"02{scid:064x}", scid, 1_000, True, 500, WALL_MS)
        ledger.sent(f"02{scid:064x}", scid, f"{scid:064x}", 1_000, WALL_MS)

    for scid in range(stakes):
        sell(scid)

    def sale() -> None:
        sell(stakes)
        assert ledger.stakes.mining_msat(WALL_MS) == 500 * (stakes + 1)
        assert not ledger.stakes.unpriced
        ledger.paid("02" + "0" * 64, 0, WALL_MS)

    return lines(sale)


def test_a_stake_is_counted_at_the_same_cost_among_many() -> None:
    """P24, rule:18: sums are kept."""
    assert _a_stake_among(MANY) <= _a_stake_among(FEW) + 5


class Peer(str):
    """A node id that is seen when it is compared."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


def _shut_among(channels: int) -> int:
    shut = ShutChannels(HtlcFilter(), lambda _: False, lambda _: asyncio.sleep(0, []))
    for number in range(channels):
        shut.withhold(f"{number:064x}", True, Peer(f"02{number:064x}"))

    def sale() -> None:
        shut.withhold("ff" * 32, True, Peer("03" + "ff" * 32))
        shut.withhold("ff" * 32, False, Peer("03" + "ff" * 32))

    return lines(sale)


def test_a_channel_is_shut_and_opened_at_the_same_cost_among_many() -> None:
    """P24, rule:21."""
    assert _shut_among(MANY) <= _shut_among(FEW) + 5
