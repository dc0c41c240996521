"""A purchase that was paid over a channel the LSP had: its own is left to the next (rule:27, I-16)."""

from __future__ import annotations

import pytest
from harness.client import CHANNEL, FEE, Json, Stage, Staging, channel_row, claimed
from harness.purchases import OVER_OLD, OVER_SECOND, SECOND, another, approval, second

from lsps2fast.errors import NodeError


async def with_old_channel(stage: Stage, reuse_fee_percent: int = 0) -> tuple[Json, Json]:
    """Two purchases of one size at an LSP that has a sound channel with us."""
    stage.lsp.trust = True
    stage.node.channels.append(channel_row(channel_id="0a" * 32, short_channel_id="500x1x1", alias={"local": "9x9x9"}))
    stage.settings = stage.settings._replace(reuse_fee_percent=reuse_fee_percent)
    await stage.restart()
    return await stage.invoice(client_trusts_lsp=True), await another(stage)


async def opened(stage: Stage) -> Json:
    """The wallet's answer to an opening whose channel is not seen yet."""
    total_msat = channel_row()["total_msat"]
    return await stage.opening(funding_msat=total_msat, channel_reserve_msat=total_msat // 100)


async def paid_over_old(stage: Stage, invoice: Json, fee_msat: int | None = None) -> None:
    """The LSP uses the channel that is there, for little or nothing."""
    part = stage.part(invoice, 20_000_000, fee_msat, **OVER_OLD)
    await stage.calm()
    assert claimed(stage.answer(part))[0] == 20_000_000 - (fee_msat or 0)


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("seen", ["before", "claimed", "settled"])
async def test_a_channel_for_the_other_of_two_purchases_at_once_is_found(
    staged: Staging, seen: str, restarts: int
) -> None:
    """rule:27, trap:36: the LSP uses our old channel for the first and opens one for the second, at the same time. We
    took the opening for the first, which is paid before, or after, the channel is there.
    """
    async with staged() as stage:
        one, two = await with_old_channel(stage)
        assert (await opened(stage)).get("mindepth") == 0
        assert approval(stage, one).opening is not None
        steps = {"before": 0, "claimed": 1, "settled": 2}
        for step in range(3):
            if steps[seen] == step:
                stage.node.channels.append(channel_row())
                await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
            if step == 0:
                await paid_over_old(stage, one)
            if step == 1:
                await stage.paid(one)
                for _ in range(restarts):
                    await stage.restart()
        part = stage.part(two, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        assert not stage.client.book.distrusted


async def test_a_part_of_the_fee_over_an_old_channel_buys_no_other(staged: Staging) -> None:
    """rule:22: the owner allows it, so the first purchase brought a fee; the channel is still the second one's."""
    async with staged() as stage:
        one, two = await with_old_channel(stage, reuse_fee_percent=20)
        assert (await opened(stage)).get("mindepth") == 0
        await paid_over_old(stage, one, FEE // 5)
        stage.node.channels.append(channel_row())
        await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
        assert approval(stage, one).channel_id == CHANNEL
        await stage.paid(one)
        part = stage.part(two, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        assert not stage.client.book.distrusted


async def test_a_channel_that_was_left_to_a_purchase_keeps_its_own_out_no_more(staged: Staging) -> None:
    """I-16, wallet:W8: the first was paid another way, its channel really was its own; the second gets one, too."""
    async with staged() as stage:
        one, two = await with_old_channel(stage)
        await stage.channel()
        await paid_over_old(stage, one)
        await stage.paid(one)
        assert approval(stage, two).channel_id == CHANNEL
        await second(stage)
        assert approval(stage, two).channel_id == SECOND
        part = stage.part(two, 20_000_000, FEE, **OVER_SECOND)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        assert (await stage.opening())["result"] == "reject"


async def test_a_channel_is_left_in_the_end_where_that_could_not_be_written(staged: Staging) -> None:
    """rule:11: the disk is full when the first is paid, so the next start leaves the channel to the second."""
    async with staged() as stage:
        one, two = await with_old_channel(stage)
        await stage.channel()
        await paid_over_old(stage, one)
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "disk full")] * 100
        await stage.paid(one)
        while "put off" not in stage.host.said("warn") and len(stage.node.faults["datastore"]) > 90:
            await stage.pass_time(1)
        assert approval(stage, two).channel_id is None
        stage.node.faults.clear()
        await stage.restart()
        assert approval(stage, two).channel_id == CHANNEL
        part = stage.part(two, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
