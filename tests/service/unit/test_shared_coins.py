"""Coins that are promised to several openings at once: those of a batch. They are free when the last has let go."""

from __future__ import annotations

import asyncio

from lsps2fast.actions import Funding
from lsps2fast_plugin.service.coins import Coins, Need

from .test_coin_selection import FEERATE, HEIGHT, ONE, RESERVE_BLOCKS, TWO, WEIGHT, Wallet, make

BOTH = (ONE, TWO)


async def _shared(*amounts_sat: int) -> tuple[Wallet, Coins, Funding]:
    wallet, coins, _ = make(*amounts_sat)
    funding = await coins.choose(ONE, Need(40_000, WEIGHT, FEERATE), batch=BOTH)
    await coins.reserve(ONE, funding)
    return wallet, coins, funding


async def _the_last_one_frees_them() -> None:
    wallet, coins, funding = await _shared(50_000)
    (point,) = funding.inputs
    coins.part(ONE, funding)
    await coins.release(ONE, funding)
    assert wallet.reserved == {point: HEIGHT + RESERVE_BLOCKS}
    assert list(coins.standing(funding)) == [TWO]
    await coins.release(TWO, funding)
    coins.forget(TWO)
    assert wallet.reserved == {}
    assert coins.standing(funding) == {}


def test_coins_of_a_batch_are_free_when_the_last_lets_go() -> None:
    """trap:60: who leaves takes nothing from the others."""
    asyncio.run(_the_last_one_frees_them())


async def _freed_with_a_sister() -> None:
    wallet, coins, funding = await _shared(50_000)
    wallet.reserved.clear()  # as lightningd does with a withheld channel that it deletes
    coins.part(ONE, funding)
    await coins.keep(funding)
    assert wallet.reserved == dict.fromkeys(funding.inputs, HEIGHT + RESERVE_BLOCKS)
    await coins.keep(funding)  # they are: that is fine
    assert wallet.calls.count("unreserveinputs") == 0


def test_what_lightningd_frees_with_one_channel_is_reserved_again_for_the_others() -> None:
    """trap:60, cln:N4."""
    asyncio.run(_freed_with_a_sister())


async def _let_go_meanwhile() -> None:
    wallet, coins, funding = await _shared(50_000)
    wallet.reserved.clear()
    coins.part(ONE, funding)
    wallet.after["reserveinputs"] = [lambda: coins.forget(TWO)]  # the last one, while the call is under way
    await coins.keep(funding)
    assert wallet.reserved == {}
    await coins.keep(funding)
    assert wallet.calls.count("reserveinputs") == 2


def test_coins_are_not_kept_for_nobody() -> None:
    """trap:60, K-02: the last lets go while they are reserved again, so they are given back."""
    asyncio.run(_let_go_meanwhile())
