"""Channels that are opened on trust within one window share a funding transaction (trap:60)."""

from __future__ import annotations

import pytest
from harness.batches import WINDOW, Crowd, batching, lost_at
from harness.service import CLIENT_TRUSTS, FEE_MSAT, SIZE_MSAT, TEMPORARY, Stage


async def test_channels_of_one_window_share_a_transaction_and_all_are_paid() -> None:
    """trap:60: one coin, one transaction, three channels; each client holds its payment less the fee."""
    async with batching() as stage:
        crowd = Crowd(stage)
        await crowd.come()
        await crowd.pay()
        assert await crowd.results() == [True] * 3
        assert len(crowd.fundings()) == 1
        assert len(stage.calls("sendpsbt")) == 1
        assert [client.received_msat() for client in crowd.clients] == [SIZE_MSAT - FEE_MSAT] * 3
        for invoice in crowd.invoices:
            await stage.over(invoice)


BEFORE_THE_SENDING = ("open_channel", "accept_channel", "funding_created", "funding_signed", "channel_ready")


@pytest.mark.parametrize("deed", ["error", "close", "disconnect", "flap", "silent"])
@pytest.mark.parametrize("message", BEFORE_THE_SENDING)
async def test_a_client_that_fails_costs_only_its_own_payment(message: str, deed: str) -> None:
    """trap:60, trap:52, rule:22, rule:23: the others are paid at once, and no output pays a channel that is lost."""
    async with batching() as stage:
        crowd = Crowd(stage)
        await crowd.come()
        crowd.clients[1].behaviour.script = {message: deed}
        await crowd.pay()
        await stage.world.advance(2)
        for _ in range(6):
            if crowd.payments[0].done and crowd.payments[2].done:
                break
            await stage.quiet()
            await stage.world.advance(11)
        assert [(await crowd.payments[place]).paid for place in (0, 2)] == [True, True]
        assert not stage.world.orphaned_sat()
        await crowd.forgive(1)


async def test_fifty_sales_within_the_window_take_three_transactions_at_most() -> None:
    """trap:60: fifty clients are paid at one time; the batches hold 25 channels each."""
    async with batching(wallet_sat=(5_000_000,) * 3, options={"lsps2-mining-budget-sat": 10**6}) as stage:
        crowd = Crowd(stage)
        await crowd.come(*(f"client {number}" for number in range(50)))
        await crowd.pay()
        assert await crowd.results() == [True] * 50
        assert len(crowd.fundings()) <= 3
        stats = await stage.stats()
        assert (stats["batches"], stats["batched_channels"], stats["batches_spoilt"]) == (2, 50, 0)


async def test_a_payment_that_is_alone_has_a_transaction_of_its_own() -> None:
    """What no other joins goes the usual way once the window is over: its record is of the usual version."""
    async with batching() as stage:
        crowd = Crowd(stage)
        await crowd.come("alice")
        await crowd.pay()
        assert stage.calls("utxopsbt") == []
        assert await crowd.results() == [True]
        await stage.over(crowd.invoices[0])
        record = stage.records("finalized")[crowd.invoices[0].scid]["lsps2fast"]
        assert record["version"] == 3
        assert "shared" not in record


async def test_a_client_that_trusts_us_is_never_in_a_batch() -> None:
    """rule:8: its funding waits for its own payment, and for no other."""
    options = WINDOW
    async with Stage(CLIENT_TRUSTS, options=options, wallet_sat=(2_000_000,) * 3) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        for invoice in crowd.invoices:
            crowd.payments.append(crowd.payer.pay(invoice, [SIZE_MSAT]))
        assert [(await payment).paid for payment in crowd.payments] == [True] * 3
        await stage.at_rest()
        assert len(crowd.fundings()) == 3


async def test_what_the_coins_do_not_suffice_for_is_left_out() -> None:
    """rule:18, O-09: coins for two channels; the last to come fails temporarily and may try again."""
    async with batching(wallet_sat=(300_000,)) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        await crowd.pay()
        assert await crowd.results() == [True, True, False]
        assert (await crowd.payments[2]).raw_messages == [TEMPORARY] * 2
        assert len(crowd.fundings()) == 1
        stage.world.mine()


async def test_the_journal_names_the_sisters_and_the_ledger_splits_the_fee() -> None:
    """rule:2, K-24: each record has the others' channels and its share; the shares are the fee to the sat."""
    async with batching() as stage:
        crowd = Crowd(stage)
        await crowd.come()
        await crowd.pay()
        assert await crowd.results() == [True] * 3
        for invoice in crowd.invoices:
            await stage.over(invoice)
        records = [stage.records("finalized")[invoice.scid] for invoice in crowd.invoices]
        ids = {record["channel_id"] for record in records}
        for record in records:
            ours = record["lsps2fast"]
            assert ours["version"] == 5
            assert {channel_id for _, channel_id in ours["shared"]["channels"]} == ids - {record["channel_id"]}
            assert len(ours["funding"]["batch"]) == 3
        (txid,) = crowd.fundings()
        fee_sat = stage.world.chain.transactions[txid].fee_sat
        assert sum(int(record["lsps2fast"]["shared"]["mining_sat"]) for record in records) == fee_sat
        await stage.quiet()
        sales = (await stage.lsp.call("lsps2-listsales"))["sales"]
        assert sum(sale["mining_msat"] for sale in sales) == fee_sat * 1000
        assert {sale["funding_txid"] for sale in sales} == {txid}
        told = await stage.lsp.call("lsps2-explain", {"about": crowd.invoices[0].scid})
        assert any("in one transaction with 2 others" in line for line in told["offers"][0]["story"])


async def test_a_channel_lost_as_the_funding_goes_out_takes_it_back_for_all() -> None:
    """rule:23, trap:60: no part has gone out by then; the others have transactions of their own, and are paid."""
    async with batching(wallet_sat=(2_000_000,) * 5) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come()
        lost_at(stage, crowd.clients[1], "sendpsbt")
        await crowd.pay()
        assert await crowd.results() == [True, False, True]
        assert not stage.world.orphaned_sat()
        assert stage.log_lines("takes its coins back")


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("stage_name", ["intent", "channel"])
async def test_a_batch_is_recovered_as_one(stage_name: str, power: bool) -> None:
    """trap:60, K-09, rule:9: killed before its funding is sent, it is sent for none; around that, for all."""
    async with batching() as stage:
        crowd = Crowd(stage)
        await crowd.come()
        if stage_name == "intent":
            fault = stage.lsp.faults.hang("fundchannel_complete", nth=3)
        else:
            fault = stage.lsp.faults.hang("sendpsbt")
        await crowd.pay()
        await stage.world.advance(2)
        await stage.until(lambda: fault.hits > 0, "the call that is not answered")
        if power:
            await stage.restart(power=True)
        else:
            await stage.kill()
            await stage.start()
        for client in crowd.clients:
            client.connect()
        await stage.at_rest()
        assert not stage.world.orphaned_sat()
        if stage_name == "channel" and not power:  # lightningd has sent it after all: for all of them
            assert len(crowd.fundings()) == 1
            assert not any(end.other.forgotten for client in crowd.clients for end in client.ends)
            assert (await stage.stats())["withheld_channels"] == 0
            return
        assert not crowd.fundings()
        assert not any(stage.lsp.wallet.is_reserved(point) for point in stage.lsp.wallet.outputs())
        assert not [end for client in crowd.clients for end in client.ends if not end.other.forgotten]
