"""The LSP's coins: no two channels share one, none stays reserved, and want of them is told early and clearly."""

from __future__ import annotations

import asyncio

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.service.coin_table import TAPROOT_WEIGHT
from lsps2fast_plugin.service.funding import OUTPUT_WEIGHT
from lsps2fast_plugin.simnode import LspsError, psbt
from lsps2fast_plugin.simnode.wallet import CHANGE_MIN_SAT

COIN_SAT = 400_000
OPENING_PERKW = 2_500
CHANGE_WEIGHT = 172
REJECTED = 1


def _fundings(stage: Stage) -> list[psbt.Tx]:
    """The fundings that went out."""
    return [psbt.decode(call["psbt"]) for call in stage.calls("sendpsbt")]


@pytest.mark.parametrize("size_msat", [SIZE_MSAT, 250_000_000, 700_000_000])
async def test_the_sums_of_a_funding_are_exact(mode: str, size_msat: int) -> None:
    """O-03: as many coins as needed, inputs are outputs and fee to the sat, change is no dust."""
    async with Stage(mode, wallet_sat=(COIN_SAT,) * 3) as stage:
        invoice = await stage.invoice(stage.client(), size_msat)
        await stage.paid(stage.payer(), invoice, [size_msat])
        await stage.over(invoice)
        (tx,) = _fundings(stage)
        capacity_sat = stage.calls("fundchannel_start")[0]["amount"]
        assert len(tx.inputs) == -(-capacity_sat // COIN_SAT)
        assert sum(coin.amount_sat for coin in tx.spent) == COIN_SAT * len(tx.inputs)
        assert [output.amount_sat for output in tx.outputs].count(capacity_sat) == 1
        assert min(output.amount_sat for output in tx.outputs) >= CHANGE_MIN_SAT
        weight = OUTPUT_WEIGHT + len(tx.inputs) * TAPROOT_WEIGHT + CHANGE_WEIGHT
        assert tx.fee_sat == weight * OPENING_PERKW // 1000


async def test_two_channels_opened_at_once_share_no_coin(mode: str) -> None:
    """rule:2, K-02: each of two coins pays for one of two channels."""
    async with Stage(mode, wallet_sat=(COIN_SAT,) * 2) as stage:
        invoices = [await stage.invoice(stage.client(name)) for name in ("alice", "bertha")]
        payer = stage.payer()
        slow = stage.lsp.faults.late("utxopsbt", times=2)
        both = asyncio.gather(*(stage.paid(payer, invoice, [SIZE_MSAT]) for invoice in invoices))
        await stage.until(lambda: slow.hits == 2, "both have chosen")
        slow.release()
        await both
        for invoice in invoices:
            await stage.over(invoice)
        assert len({coin for tx in _fundings(stage) for coin in tx.inputs}) == 2


async def test_the_second_of_two_channels_waits_for_change(mode: str) -> None:
    """O-09, trap:27: one coin, two payments: one is paid, one fails at once and temporarily; change counts with its
    block.

    Unconfirmed change is not spent, and the log says where the money is.
    """
    async with Stage(mode, wallet_sat=(COIN_SAT,)) as stage:
        first, second = [await stage.invoice(stage.client(name)) for name in ("alice", "bertha")]
        payer = stage.payer()
        await stage.paid(payer, first, [SIZE_MSAT])
        assert (await payer.pay(second)).raw_messages == [TEMPORARY]
        assert stage.log_lines("ALARM: no coins for a JIT channel to .* 0 free coins; .* sat wait for a block")
        await stage.over(first)
        stage.world.mine()
        await stage.paid(payer, second)
        await stage.over(second)


async def test_what_is_promised_to_an_opening_is_not_sold_again() -> None:
    """B-06 step 11: chosen, not reserved yet, and not counted as money for another buy."""
    async with Stage(wallet_sat=(COIN_SAT,)) as stage:
        invoice = await stage.invoice(stage.client())
        other = stage.client("bertha")
        offer = await stage.offer(other)
        writing = stage.lsp.faults.late("datastore")
        payment = stage.payer().pay(invoice, [SIZE_MSAT])
        await writing.reached.wait()
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        with pytest.raises(LspsError) as refused:
            await other.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})
        assert refused.value.code == -32603
        assert (await stage.stats())["refusals"]["onchain_funds"] == 1
        writing.release()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_coin_taken_between_the_choice_and_the_reservation_is_replaced(mode: str) -> None:
    """K-02: the record names the other coin before that is reserved; who took the first keeps it."""
    async with Stage(mode, wallet_sat=(COIN_SAT,) * 2) as stage:
        invoice = await stage.invoice(stage.client())
        writing = stage.lsp.faults.late("datastore")
        payment = stage.payer().pay(invoice, [SIZE_MSAT])
        await writing.reached.wait()
        (chosen,) = stage.calls("utxopsbt")[0]["utxos"]
        ask = {"satoshi": 1000, "feerate": "normal", "startweight": 0, "utxos": [chosen]}
        theirs = await stage.lsp.call("utxopsbt", ask)
        writing.release()
        assert (await payment).paid
        await stage.over(invoice)
        steps = ["datastore", "reserveinputs", "fundchannel_start"] * 2
        assert stage.order("datastore", "reserveinputs", "fundchannel_start")[1:7] == steps
        assert len(stage.calls("fundchannel_cancel")) == 1
        (tx,) = _fundings(stage)
        assert chosen not in {f"{txid}:{vout}" for txid, vout in tx.inputs}
        assert [row["reserved"] for row in stage.lsp.wallet.rows() if row["txid"] in chosen] == [True]
        await stage.lsp.call("unreserveinputs", {"psbt": theirs["psbt"]})


async def test_without_another_coin_the_payment_fails_and_the_other_keeps_its_reservation(mode: str) -> None:
    """rule:9, O-09: nothing of ours to release; afterwards the offer is paid."""
    async with Stage(mode, wallet_sat=(COIN_SAT,)) as stage:
        invoice, payer = await stage.invoice(stage.client()), stage.payer()
        writing = stage.lsp.faults.late("datastore")
        payment = payer.pay(invoice, [SIZE_MSAT])
        await writing.reached.wait()
        theirs = await stage.lsp.call("fundpsbt", {"satoshi": 1000, "feerate": "normal", "startweight": 0})
        writing.release()
        assert (await payment).raw_messages == [TEMPORARY]
        await stage.ended(invoice)
        await stage.quiet()
        assert [row["reserved"] for row in stage.lsp.wallet.rows()] == [True]
        await stage.lsp.call("unreserveinputs", {"psbt": theirs["psbt"]})
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_what_somebody_else_reserved_while_we_were_dead_stays_reserved() -> None:
    """K-09, K-13: the record names a coin that we never came to reserve; recovery leaves it to who has it now."""
    async with Stage(wallet_sat=(COIN_SAT,) * 2) as stage:
        invoice, payer = await stage.invoice(stage.client()), stage.payer()
        writing = stage.lsp.faults.late("datastore")
        payment = payer.pay(invoice, [SIZE_MSAT])
        await writing.reached.wait()
        (chosen,) = stage.calls("utxopsbt")[0]["utxos"]
        await stage.kill()
        stage.lsp.faults.clear()
        await payment
        ask = {"satoshi": 1000, "feerate": "normal", "startweight": 0, "utxos": [chosen]}
        theirs = await stage.lsp.call("utxopsbt", ask)
        await stage.start()
        await stage.quiet()
        assert [row["reserved"] for row in stage.lsp.wallet.rows() if row["txid"] in chosen] == [True]
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        await stage.lsp.call("unreserveinputs", {"psbt": theirs["psbt"]})


async def test_coins_that_run_out_are_told_once() -> None:
    """One alarm when the mark is passed, none at each further look; `lsps2-stats` says what is left."""
    options = {"lsps2-coin-low-water-sat": 700_000}
    async with Stage(CLIENT_TRUSTS, wallet_sat=(COIN_SAT,) * 2, options=options) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        assert stage.log_lines("free coins .* run out") == []
        assert (await stage.stats())["free_coins_sat"] == 2 * COIN_SAT
        for _ in range(3):
            await stage.buy(client)
        spent_sat = stage.calls("fundchannel_start")[0]["amount"]
        (tx,) = _fundings(stage)
        assert (await stage.stats())["free_coins_sat"] == 2 * COIN_SAT - spent_sat - tx.fee_sat
        assert len(stage.log_lines("ALARM: free coins .* run out", "warn")) == 1


async def test_the_final_record_waits_until_the_funding_is_sent() -> None:
    """rule:9, O-13: found by the model. The offer is over, the channel never got ready, bitcoind is away all the while.

    Had the plugin died with the final record written, no record would have told of the withheld channel and its coin.
    """
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        away = stage.lsp.faults.fail("sendpsbt", times=1000, message="bitcoind is away")
        payment = payer.pay(invoice)
        await away.reached.wait()
        await stage.quiet()
        await stage.world.advance(3_600)
        assert (await payment).raw_messages == [TEMPORARY]
        await stage.quiet()
        assert stage.states(invoice)[-1] == "ABORTING"  # until the broadcast has answered
        assert stage.records("finalized") == {}
        assert str(invoice.scid) in stage.records("active")
        stage.lsp.faults.clear()
        await stage.world.advance(60)
        await stage.state(invoice, "FAILED")
        await stage.quiet()
        assert not client.ends[0].channel.withheld
        assert stage.records("finalized")[str(invoice.scid)]["lsps2fast"]["attempt"]  # the payment's, not the buy's
        assert str(invoice.scid) in stage.records("active")  # people:S17: it stays until its money is back
        stage.world.mine()
        await stage.quiet()
        close = {"id": client.ends[0].channel.channel_id, "unilateraltimeout": 1, "force_lease_closed": True}
        await stage.lsp.call("close", close)
        stage.world.mine()
        await stage.until(lambda: stage.outcome(invoice.scid) == "Unpaid", "the final record")


async def test_an_unpaid_channel_that_is_forgotten_without_a_word_ends_its_record() -> None:
    """people:S17, rule:9: lightningd announces no close after `dev-forget-channel`; blocks show that it is gone."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice)
        await stage.until(lambda: stage.calls("sendpsbt"), "the funding is sent")
        await stage.quiet()
        stage.world.mine()
        await stage.world.advance(3_600)
        assert (await payment).raw_messages == [TEMPORARY]
        assert str(invoice.scid) in stage.records("active")
        channel_id = client.ends[0].channel.channel_id
        await stage.lsp.call("dev-forget-channel", {"id": client.node_id, "channel_id": channel_id, "force": True})
        for _ in range(3):
            await stage.quiet()
            stage.world.mine()
        await stage.until(lambda: stage.outcome(invoice.scid) == "Unpaid", "the final record")
        await stage.until(lambda: not stage.records("active"), "the active record is gone")
