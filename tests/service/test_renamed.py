"""Incoming channels that get another name while their parts are out: parts are known by channel id (rule:25)."""

from __future__ import annotations

from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Payer

HALF_MSAT = SIZE_MSAT // 2


def rename(payer: Payer, scid: str = "120x7x1") -> None:
    """Do what `splice_locked` does to the payer's channel: another scid, on both sides (cln:N3)."""
    end = payer.channels[0]
    for side in (end, end.other):
        side.rename(scid)


async def _parts_at_the_client(stage: Stage) -> tuple[Any, Payer, Any, Any]:
    client, payer = stage.client(on_part="hold"), stage.payer()
    invoice = await stage.invoice(client)
    payment = payer.pay(invoice, [HALF_MSAT] * 2)
    await stage.until(lambda: len(client.held()) == 2, "the parts are at the client")
    await stage.quiet()
    return client, payer, invoice, payment


@pytest.mark.parametrize("away", ["running", "stop", "kill", "power"])
async def test_parts_are_paid_after_their_channel_was_renamed(mode: str, away: str) -> None:
    """people:S9, trap:53, cln:N3: seen live, or found in the tables after a start; the funding is sent."""
    async with Stage(mode, fresh=True) as stage:
        client, payer, invoice, payment = await _parts_at_the_client(stage)
        rename(payer)
        if away == "running":
            client.settle_held()
        elif away == "power":
            await stage.restart(power=True)
            client.settle_held()
        else:
            await (stage.stop if away == "stop" else stage.kill)()
            client.settle_held()
            await payment
            await stage.start()
        assert (await payment).paid
        await stage.over(invoice)
        assert not client.ends[0].channel.withheld
        stage.world.mine()


@pytest.mark.parametrize("away", [False, True])
async def test_parts_that_fail_after_their_channel_was_renamed_give_the_coins_back(mode: str, away: bool) -> None:
    """people:S9, trap:53: `failed` under a name we had not heard; nothing stays locked or at risk for ever."""
    async with Stage(mode, fresh=True) as stage:
        client, payer, invoice, payment = await _parts_at_the_client(stage)
        rename(payer)
        if away:
            await stage.stop()
        for part in client.held():
            client.fail(part)
        assert not (await payment).paid
        if away:
            await stage.start()
        assert await stage.ended(invoice) in ("ABANDONED", "FAILED")
        await stage.at_rest()
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        stage.world.mine()


async def test_an_end_that_nobody_told_is_seen_by_its_money() -> None:
    """people:S9, rule:25: no event and no row says that the client was paid; its channel holds money."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, _, invoice, payment = await _parts_at_the_client(stage)
        await stage.stop()
        client.settle_held()
        assert (await payment).paid
        for row in stage.lsp.htlcs.forwards:
            row.status = "offered"
        await stage.start()
        for _ in range(4):
            stage.world.mine()
            await stage.quiet()
        await stage.until(lambda: not client.ends[0].channel.withheld, "the funding")
        await stage.over(invoice)


async def test_an_end_that_nobody_told_and_that_moved_no_money_is_a_failure() -> None:
    """rule:25: a part that is in no table and in no channel any more has ended; without its money it has failed."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer, invoice, payment = await _parts_at_the_client(stage)
        await stage.stop()
        for part in client.held():
            client.fail(part)
        assert not (await payment).paid
        for row in stage.lsp.htlcs.forwards:
            row.status = "offered"
        await stage.start()
        await stage.at_rest()
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_parts_over_a_channel_we_had_not_heard_of_cost_one_question() -> None:
    """rule:25: however many parts come over it at once."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client = stage.client()
        invoice = await stage.invoice(client)
        payer = stage.payer()
        asked = len(stage.calls("listpeerchannels"))
        payment = payer.pay(invoice, [1_000_000] * 4, total_msat=SIZE_MSAT)
        await stage.held(4)
        await stage.quiet()
        assert len(stage.calls("listpeerchannels")) == asked + 1
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 91})
        assert (await payment).raw_messages == [TEMPORARY] * 4


async def test_parts_that_wait_for_the_name_of_their_channel_are_answered_at_the_end() -> None:
    """rule:17, rule:25: `plugin stop` while lightningd has not said over which channel they came."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client = stage.client()
        invoice = await stage.invoice(client)
        payer = stage.payer()
        stuck = stage.lsp.faults.hang("listpeerchannels")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stuck.reached.wait()
        await stage.stop()
        stage.lsp.faults.clear()
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.start()
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
