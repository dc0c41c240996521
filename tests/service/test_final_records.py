"""Final records that a watcher of the built-in plugin reads: of payments that failed and of buys that ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, OFFER_S, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.service.session_store import ROOT
from lsps2fast_plugin.simnode import Payer
from lsps2fast_plugin.simnode.client import ClientInvoice

HALF_MSAT = SIZE_MSAT // 2


def final(stage: Stage, invoice: ClientInvoice) -> Any:
    """The final record of this jit scid, or None."""
    return stage.records("finalized").get(str(invoice.scid))


def final_writes(stage: Stage) -> int:
    """How many final records were written."""
    return sum("finalized" in call["key"] for call in stage.calls("datastore"))


async def time_out(stage: Stage, payer: Payer, invoice: ClientInvoice) -> None:
    """Half of the payment waits in vain for the rest."""
    payment = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
    await stage.held(1)
    await stage.world.advance(90)
    assert (await payment).raw_messages == [TEMPORARY]
    await stage.quiet()


async def test_a_payment_that_timed_out_leaves_a_record_and_its_buy_lives_on(mode: str) -> None:
    """others: `Failed` beside the live buy, once however often the payer tries; then `Succeeded`."""
    async with Stage(mode) as stage:
        invoice, payer = await stage.invoice(stage.client()), stage.payer()
        for _ in range(2):
            await time_out(stage, payer, invoice)
            record = final(stage, invoice)
            assert (record["outcome"], record["payment_hash"]) == ("Failed", invoice.payment_hash.hex())
            assert record["finalized_at"] >= record["created_at"]
            assert str(invoice.scid) in stage.records("active")
        assert final_writes(stage) == 1
        await stage.kill()
        await stage.start()
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert final(stage, invoice)["outcome"] == "Succeeded"
        assert str(invoice.scid) not in stage.records("active")


async def test_a_channel_that_was_given_up_is_named_in_the_record() -> None:
    """others: a probe ends `Abandoned`, with channel and funding; the payment after it is paid, also over a start."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        probe = client.invoice(SIZE_MSAT, invoice.scid, cltv_delta=144)
        del client.invoices[probe.payment_hash]
        await payer.pay(probe, [HALF_MSAT] * 2)
        await stage.state(probe, "ABANDONED")
        await stage.quiet()
        record = final(stage, invoice)
        assert (record["outcome"], record["payment_hash"]) == ("Abandoned", probe.payment_hash.hex())
        assert len(record["channel_id"]) == len(record["funding_txid"]) == 64
        assert "preimage" not in record
        await stage.kill()
        await stage.start()
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert final(stage, invoice)["channel_id"] != record["channel_id"]


@pytest.mark.parametrize("away", [False, True])
async def test_a_buy_that_nobody_paid_ends_as_timeout(away: bool) -> None:
    """others: at `valid_until`, or at the first start after it; the active record goes."""
    async with Stage() as stage:
        client = stage.client()
        invoice = await stage.invoice(client)
        if away:
            await stage.stop()
            rows, key = stage.lsp.datastore.rows, (*ROOT, "active", str(invoice.scid))
            value, generation = rows[key]
            record = json.loads(value)
            record["opening_fee_params"]["valid_until"] = "2025-01-01T00:00:00.000Z"
            rows[key] = json.dumps(record).encode(), generation
            await stage.start()
        else:
            await stage.world.advance(OFFER_S + 1)
        await stage.until(lambda: str(invoice.scid) not in stage.records("active"), "the active record gone")
        record = final(stage, invoice)
        assert (record["outcome"], record["peer_id"]) == ("Timeout", client.node_id)
        assert "payment_hash" not in record


async def test_the_record_of_an_attempt_stays_when_its_buy_lapses() -> None:
    """others: it says more than `Timeout`, and binds nothing at the next start."""
    async with Stage() as stage:
        invoice = await stage.invoice(stage.client())
        await time_out(stage, stage.payer(), invoice)
        await stage.kill()
        await stage.start()
        await stage.world.advance(OFFER_S)
        await stage.until(lambda: str(invoice.scid) not in stage.records("active"), "the active record gone")
        assert final(stage, invoice)["outcome"] == "Failed"
        await stage.kill()
        await stage.start()
        assert (await stage.stats())["live_buys"] == 0
        await stage.still_sells()
