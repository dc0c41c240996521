"""A stranger with the invoice adds crumbs, a colluding payer adds them for its client: bounded, and told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice

CRUMB_MSAT = SIZE_MSAT // 10  # the most that may be paid on top by default


async def crumbed_sale(stage: Stage, client: Client, payer: Payer) -> tuple[ClientInvoice, int]:
    """A whole payment that its client takes, and a crumb beside it that it refuses; and the fee that came."""
    client.behaviour.on_part = "hold"
    invoice = await stage.invoice(client)
    crumb = stage.payer("stranger").pay(invoice, [CRUMB_MSAT], total_msat=SIZE_MSAT)
    await stage.held(1)
    payment = payer.pay(invoice, [SIZE_MSAT])
    await stage.until(lambda: len(client.held()) == 2, "all parts at the client")
    small, large = sorted(client.held(), key=lambda part: part.htlc.amount_msat)
    client.fail(small)
    await crumb
    client.fulfill(large, invoice.preimage)
    assert (await payment).paid
    await stage.state(invoice, "UNDERPAID")
    await stage.until(lambda: stage.outcome(invoice.scid) == "Underpaid", "the final record")
    client.behaviour.on_part = "settle"
    return invoice, large.extra_fee_msat


async def other_payments(stage: Stage, client: Client, payer: Payer, invoice: ClientInvoice) -> None:
    """The channel is the client's: the jit scid is its alias, and ordinary forwards pass."""
    over_alias = client.invoice(1_000_000, invoice.scid, cltv_delta=144)
    assert (await payer.pay(over_alias, [1_000_000], overpay_msat=10_000)).paid
    ordinary = client.invoice(1_000_000, client.ends[0].other.scid_now())
    assert (await payer.pay(ordinary, [1_000_000], overpay_msat=10_000)).paid


@pytest.mark.parametrize("then", ["nothing", "restart", "power"])
async def test_a_strangers_crumb_ends_no_promise(mode: str, then: str) -> None:
    """rule:22, rule:20, A-03, A-05: Underpaid by its share; alias, lifetime and standing stay, a doubt is booked."""
    async with Stage(mode, wallet_sat=(1_000_000,) * 8) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice, came_msat = await crumbed_sale(stage, client, payer)
        assert came_msat in (FEE_MSAT * 10 // 11, FEE_MSAT * 10 // 11 + 1)
        record = stage.records("finalized")[invoice.scid]["lsps2fast"]
        assert (record["stage"], record["opening_fee_msat"], record["fee_paid_msat"]) == (
            "paid",
            str(FEE_MSAT),
            str(came_msat),
        )
        stage.world.mine()
        if then != "nothing":
            await stage.restart(power=then == "power")
            client.connect()
        await other_payments(stage, client, payer, invoice)
        stats = await stage.stats()
        assert (stats["at_risk_msat"], stats["unpaid_channels"], stats["channels_to_keep_open"]) == (0, 0, 1)
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]
        assert (trust["mode"], trust["unpaid_channels"], trust["probes"]) == (mode, 0, 1)
        assert "took the whole payment" in trust["reasons"][0]
        with pytest.raises(Exception, match="to stay open"):
            await stage.lsp.call("close", {"id": client.ends[0].channel.channel_id})
        assert (await stage.buy(client))["client_trusts_lsp"] is (mode != LSP_TRUSTS)


async def test_a_colluding_payer_saves_its_client_a_share_at_the_most() -> None:
    """rule:20, rule:22, people:S3: p / (100 + p) of the fee with a tolerance of p percent; none with one of 0."""
    async with Stage(options={"lsps2-max-overpay-percent": 0}) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2, SIZE_MSAT // 2 + 1])
        await stage.held(1)
        await stage.world.advance(90)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        assert (await stage.stats())["refused_parts"]["above what was bought"] == 1
        client.behaviour.on_part = "settle"
        await stage.sale(client, payer)


async def test_a_part_that_lifts_the_sum_above_the_tolerance_fails_alone(mode: str) -> None:
    """rule:18, people:S1: a tenth on top by default; the payment goes on without what is beyond."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [SIZE_MSAT // 2], total_msat=SIZE_MSAT)
        await stage.held(1)
        over = await payer.pay(invoice, [SIZE_MSAT // 2 + CRUMB_MSAT + 1], total_msat=SIZE_MSAT)
        assert over.raw_messages == [TEMPORARY]
        second = payer.pay(invoice, [SIZE_MSAT // 2 + CRUMB_MSAT], total_msat=SIZE_MSAT)
        assert [(await payment).paid for payment in (first, second)] == [True, True]
        await stage.over(invoice)
        stage.world.mine()


async def test_a_part_below_the_least_is_refused_and_a_small_payment_in_one_part_is_not() -> None:
    """rule:24, C-04, people:L3: a sat at the least where there are several; payments of less are still sold."""
    options = {"lsps2-min-payment-msat": 100, "lsps2-min-fee-msat": 0, "lsps2-fee-ppm": 0}
    async with Stage(options=options) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [999], total_msat=SIZE_MSAT)).raw_messages == [f"100b{999:016x}0000"]
        assert (await stage.stats())["refused_parts"]["too small"] == 1
        for size_msat in (500, None):
            other = stage.client(f"for {size_msat}")
            small = await stage.invoice(other, size_msat)
            assert (await payer.pay(small, [500])).paid
            await stage.over(small)
        await stage.lsp.call("lsps2-cancel", {"jit_channel_scid": invoice.scid})
        stage.world.mine()


async def test_a_part_that_brings_far_more_than_it_pays_takes_no_room(mode: str) -> None:
    """rule:24, people:L4: what is held is bounded by what is bought; some routing fee on top is fine."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer(capacity_sat=60_000_000)
        invoice = await stage.invoice(client)
        fat = await payer.pay(invoice, [1_000], total_msat=SIZE_MSAT, overpay_msat=20_000_000_000)
        assert fat.raw_messages == [TEMPORARY]
        assert (await payer.pay(invoice, [SIZE_MSAT], overpay_msat=SIZE_MSAT)).paid
        await stage.over(invoice)
        stage.world.mine()


async def test_the_notification_of_a_change_names_the_fee(mode: str) -> None:
    """rule:20, operator:O5: agreed, come, and owed, at each change."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        _, came_msat = await crumbed_sale(stage, client, payer)
        notes: list[dict[str, Any]] = [
            entry["msg"]["params"]["lsps2_session"]
            for entry in stage.world.transcript.select("plugin>host", method="lsps2_session")
        ]
        fees = [(note["opening_fee_msat"], note["fee_paid_msat"], note["fee_owed_msat"]) for note in notes]
        assert fees[0] == (0, 0, 0)
        assert fees[1] == (FEE_MSAT, 0, FEE_MSAT)
        assert fees[-1] == (FEE_MSAT, came_msat, FEE_MSAT - came_msat), json.dumps(notes)
        stage.world.mine()
