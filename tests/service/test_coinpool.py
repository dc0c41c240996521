"""`lsps2-coin-pool`: coins of one size are split off ahead of openings, once, and never what an opening counts on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, SIZE_MSAT, Stage
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.service.coin_pool import COIN_WEIGHT, SPLIT_WEIGHT, PoolSize, Split, plan
from lsps2fast_plugin.service.coin_table import TAPROOT_WEIGHT, Coin, Survey
from lsps2fast_plugin.simnode import PluginFailed, RpcError
from lsps2fast_plugin.simnode.chain import Chain

POOL = {"lsps2-coin-pool": "4x200000"}
SIZE = PoolSize(4, 200_000)
KEEP_SAT = 25_000
FEERATE = 2_500


def survey(free: tuple[int, ...], unconfirmed: tuple[int, ...] = ()) -> Survey:
    """A wallet of these amounts."""
    coins = [Coin(f"{place:064x}:0", amount, TAPROOT_WEIGHT) for place, amount in enumerate((*free, *unconfirmed))]
    return Survey(tuple(coins[: len(free)]), sum(free), 0, tuple(coins[len(free) :]), 0)


# The plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "unconfirmed", "pieces"),
    [
        ((2_000_000,), (), 4),
        ((2_000_000, 200_000, 200_000), (), 2),
        ((2_000_000, 200_000, 200_000, 200_000), (), 0),  # more than half is left
        ((2_000_000, 199_999, 199_999, 199_999), (), 4),  # too small to count
        ((2_000_000,), (200_000,) * 4, 0),  # they wait for their block
        ((700_000,), (), 3),  # as many as it pays for
        ((430_000,), (), 2),
        ((424_999,), (), 1),  # and the change is as large
        ((400_000,), (), 0),  # the rest of one were too small: nothing won
        ((200_000,) * 3, (), 0),
        ((), (), 0),
        ((), (2_000_000,), 0),
    ],
)
def test_a_split_fills_the_pool_and_wins_coins(
    free: tuple[int, ...], unconfirmed: tuple[int, ...], pieces: int
) -> None:
    """From the largest free coin; not before half the pool is used."""
    found = plan(survey(free, unconfirmed), SIZE, 253, KEEP_SAT)
    assert (0 if found is None else found.pieces) == pieces
    assert found is None or found.coin.amount_sat == max(free)


@given(
    st.lists(st.integers(1, 3_000_000), max_size=5),
    st.lists(st.integers(1, 400_000), max_size=3),
    st.integers(253, 50_000),
    st.integers(0, 100_000),
)
def test_a_split_pays_its_fee_and_leaves_the_reserve(
    free: list[int], unconfirmed: list[int], feerate: int, keep_sat: int
) -> None:
    """cln:O18: what is to be kept stays in the change; there are more usable coins afterwards than before."""
    found = plan(survey(tuple(free), tuple(unconfirmed)), SIZE, feerate, keep_sat)
    if found is not None:
        weight = SPLIT_WEIGHT + TAPROOT_WEIGHT + COIN_WEIGHT * (found.pieces + 1)
        change_sat = found.coin.amount_sat - found.pieces * SIZE.each_sat - weight * feerate // 1000
        assert change_sat >= keep_sat
        assert found.pieces + (change_sat >= SIZE.each_sat) >= 2


# The service ---------------------------------------------------------------------------------------------------


def amounts(stage: Stage) -> list[int]:
    """The wallet's coins that have the pool's size."""
    return [row["amount_msat"] // 1000 for row in stage.lsp.wallet.rows() if row["amount_msat"] == 200_000_000]


async def filled(stage: Stage, splits: int) -> None:
    """So many splits were asked for and the last one is out; it gets its block."""
    await stage.until(lambda: len(stage.calls("multiwithdraw")) == splits, f"split {splits}")
    await stage.until(lambda: bool(stage.world.chain.mempool), "a transaction")
    stage.world.mine()
    await stage.until(lambda: amounts(stage) == [200_000] * 4, "a full pool")
    await stage.quiet()


async def test_a_large_coin_is_split_once_and_several_channels_are_sold_at_once() -> None:
    """Without the pool the second of these would wait for the change of the first."""
    async with Stage(options=POOL, wallet_sat=(3_000_000,)) as stage:
        await filled(stage, 1)
        assert len(stage.calls("multiwithdraw")) == 1
        assert (await stage.stats())["coin_splits"] == 1
        assert (await stage.stats())["pool_coins"] == 5
        assert len(stage.log_lines("3000000 sat are being split into 4 coins of 200000 sat")) == 1
        payer = stage.payer()
        invoices = [await stage.invoice(stage.client(name)) for name in ("alice", "bertha", "clara")]
        await asyncio.gather(*(stage.paid(payer, invoice, [SIZE_MSAT]) for invoice in invoices))
        for invoice in invoices:
            await stage.over(invoice)
        spent = [call["psbt"] for call in stage.calls("sendpsbt")]
        assert len(spent) == 3


async def test_used_coins_are_replaced_from_half_on() -> None:
    """One transaction for several coins; the one before must have its block."""
    async with Stage(options=POOL, wallet_sat=(3_000_000,)) as stage:
        await filled(stage, 1)
        payer = stage.payer()
        for name in ("alice", "bertha"):
            invoice = await stage.invoice(stage.client(name))
            await stage.paid(payer, invoice, [SIZE_MSAT])
            await stage.over(invoice)
        assert len(stage.calls("multiwithdraw")) == 1
        stage.world.mine()
        await filled(stage, 2)
        assert [len(call["outputs"]) for call in stage.calls("multiwithdraw")] == [4, 2]


async def test_a_split_that_may_still_come_keeps_its_coin_from_everybody() -> None:
    """K-13: no answer is no outcome; no second split, and no opening takes the coin."""
    async with Stage(options=POOL, wallet_sat=(3_000_000, 400_000), ready=False) as stage:
        splitting = stage.lsp.faults.hang("multiwithdraw")
        await stage.selling()
        await splitting.reached.wait()
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 61, "calls": True})
        given_up = "the pool of coins cannot be filled now .*no answer within"
        await stage.until(lambda: bool(stage.log_lines(given_up)), "the answer is not waited for")
        stage.world.mine()
        await stage.fence()
        assert len(stage.calls("multiwithdraw")) == 1
        invoice = await stage.invoice(stage.client())
        await stage.paid(stage.payer(), invoice, [SIZE_MSAT])
        await stage.over(invoice)
        (large,) = stage.calls("multiwithdraw")[0]["utxos"]
        assert all(large not in call["utxos"] for call in stage.calls("utxopsbt"))
        splitting.release()
        await stage.quiet()
        stage.world.mine()
        await stage.quiet()
        assert amounts(stage) == [200_000] * 3  # beside the other coin's change
        assert len(stage.calls("multiwithdraw")) == 1


async def test_a_split_that_fails_is_tried_with_the_next_block_and_told() -> None:
    """rule:9: nothing stays promised; the operator hears of it the third time."""
    async with Stage(options=POOL, wallet_sat=(3_000_000,), ready=False) as stage:
        stage.lsp.faults.fail("multiwithdraw", times=3)
        await stage.selling()
        for times in (1, 2, 3):
            await stage.until(lambda times=times: len(stage.calls("multiwithdraw")) == times, "the next try")
            await stage.quiet()
            stage.world.mine()
        await filled(stage, 4)
        assert len(stage.log_lines("ALARM: the pool of coins could not be filled 3 times")) == 1


@pytest.mark.parametrize("kind", ["late", "hang"])
async def test_deaths_do_not_split_twice(kind: str) -> None:
    """K-02 for splits: carried out and not heard of, the coins are seen in the mempool; carried out after the next
    start has begun another, it finds its coin spent."""
    async with Stage(options=POOL, wallet_sat=(3_000_000,), ready=False) as stage:
        splitting = getattr(stage.lsp.faults, kind)("multiwithdraw")
        await stage.selling()
        await splitting.reached.wait()
        await stage.kill()
        await stage.start()
        splitting.release()
        await stage.until(lambda: bool(stage.world.chain.mempool), "a transaction")
        await stage.kill()
        await stage.start()
        await stage.quiet()
        stage.world.mine()
        await stage.quiet()
        assert amounts(stage) == [200_000] * 4
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())


async def test_nothing_is_split_unless_it_is_asked_for() -> None:
    """Off by default: an upgrade moves no coins."""
    async with Stage(CLIENT_TRUSTS, fresh=True, wallet_sat=(3_000_000,)) as stage:
        stage.world.mine()
        await stage.quiet()
        assert stage.calls("multiwithdraw") == []
        assert (await stage.stats())["pool_coins"] is None


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("ten", "lsps2-coin-pool='ten' is no pool; give NUMBERxSAT, such as 10x250000"),
        ("10", "give NUMBERxSAT"),
        ("10x-5", "give NUMBERxSAT"),
        ("10 x 250000", "give NUMBERxSAT"),
        ("0x250000", "asks for 0 coins; give 1 to 50"),
        ("51x250000", "asks for 51 coins; give 1 to 50"),
        ("10x9999", "asks for coins of 9999 sat; give 10000 to 10000000000 sat each"),
        ("10x10000000001", "give 10000 to 10000000000 sat each"),
    ],
)
async def test_a_pool_that_cannot_be_is_refused_with_a_remedy(value: str, remedy: str) -> None:
    """cln:M5: the sentence says what to give."""
    with pytest.raises(PluginFailed) as failed:
        async with Stage(options={"lsps2-coin-pool": value}, ready=False):
            raise AssertionError("the plugin started")
    assert remedy in str(failed.value)


async def test_the_embedded_node_gives_back_what_a_failed_withdrawal_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the plugin txprepare does (`txprepare_forward_error`)."""
    async with Stage(fresh=True, wallet_sat=(500_000,)) as stage:

        def refuse(self: Chain, tx: Any) -> str:
            raise RpcError(-1, "no")

        monkeypatch.setattr(Chain, "submit", refuse)
        address = (await stage.lsp.call("newaddr", {}))["p2tr"]
        with pytest.raises(RpcError):
            await stage.lsp.call("multiwithdraw", {"outputs": [{address: "100000sat"}]})
        assert [row["reserved"] for row in stage.lsp.wallet.rows()] == [False]


def test_a_split_is_named_by_what_it_spends() -> None:
    """The largest of two, whatever their order."""
    small, large = survey((500_000, 900_000)).free
    assert plan(survey((500_000, 900_000)), PoolSize(3, 200_000), 253, 0) == Split(large, 2)
    assert small.amount_sat < large.amount_sat
