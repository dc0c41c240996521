"""The journal fails once or always, at each write: nothing irreversible happens without it, nothing is forgotten."""

from __future__ import annotations

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import LspsError

HALF_MSAT = SIZE_MSAT // 2
WRITES = {LSP_TRUSTS: ("intent", "channel"), CLIENT_TRUSTS: ("intent", "forwards")}
PAUSES_S = (0.5, 1, 2)


async def test_a_buy_that_cannot_be_stored_is_not_sold() -> None:
    """B-10, rule:11: -32603 to the client, no live scid, one line in the log; the next buy is sold."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        offer = await stage.offer(client)
        stage.lsp.faults.fail("datastore", message="disk is full")
        with pytest.raises(LspsError) as refused:
            await client.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})
        assert refused.value.code == -32603
        assert (await stage.stats())["live_buys"] == 0
        assert len(stage.log_lines("disk is full")) == 1
        stage.errors_expected = True
        await stage.sale(client, payer)


async def test_a_buy_is_stored_with_its_terms_as_they_were_sent_before_it_is_answered() -> None:
    """B-10, K-24, B-05: one commit, amounts as decimal strings, the texts of the offer untouched."""
    async with Stage() as stage:
        client = stage.client()
        offer = await stage.offer(client)
        ask = {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)}
        bought = await client.request("lsps2.buy", ask)
        record = stage.records("active")[bought["jit_channel_scid"]]
        assert record["peer_id"] == client.node_id
        assert record["opening_fee_params"] == offer
        assert record["expected_payment_size"] == str(SIZE_MSAT)
        assert record["lsps2fast"]["cltv_expiry_delta"] == bought["lsp_cltv_expiry_delta"]
        assert record["lsps2fast"]["client_trusts_lsp"] is True
        assert record["channel_capacity_msat"].isdecimal()
        steps = stage.order("datastore", "sendcustommsg")
        assert steps[-2:] == ["datastore", "sendcustommsg"]


async def test_a_scid_that_was_sold_works_after_the_plugin_was_killed(mode: str) -> None:
    """B-10: kill -9 the moment the answer is there; the buy stands, its terms too."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.kill()
        await stage.start()
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT


@pytest.mark.parametrize(("mode", "nth"), [(mode, nth + 1) for mode in WRITES for nth in range(len(WRITES[mode]))])
async def test_a_write_that_fails_once_costs_nothing(mode: str, nth: int) -> None:
    """trap:32, K-23: tried again; nothing went ahead of it; paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        fault = stage.lsp.faults.fail("datastore", nth=nth)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await fault.reached.wait()
        await stage.quiet()
        before = {"intent": "fundchannel_start", "channel": "sendpsbt", "forwards": "forward"}[WRITES[mode][nth - 1]]
        assert before not in stage.order()
        await stage.world.advance(PAUSES_S[0])
        assert (await payment).paid
        await stage.over(invoice)


@pytest.mark.parametrize(("mode", "nth"), [(mode, nth + 1) for mode in WRITES for nth in range(len(WRITES[mode]))])
async def test_a_write_that_keeps_failing_fails_the_payment_and_leaves_the_offer(mode: str, nth: int) -> None:
    """trap:32, K-23, rule:11: temporary, no forward, nothing on chain too early, an alarm; then a retry is paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        fault = stage.lsp.faults.fail("datastore", nth=nth, times=4, message="disk is full")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await fault.reached.wait()
        for pause_s in PAUSES_S:
            await stage.quiet()
            await stage.world.advance(pause_s)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.ended(invoice)
        assert "forward" not in stage.order()
        assert stage.calls("sendpsbt") == []
        assert stage.log_lines("ALARM: writing the journal has failed.*disk is full")
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT


@pytest.mark.parametrize("method", ["datastore", "deldatastore"])
@pytest.mark.parametrize("times", [1, 5])
async def test_the_final_record_is_written_however_long_it_takes(mode: str, method: str, times: int) -> None:
    """trap:32, K-15: the payment is done; the record follows when the journal works again."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        writes = len(WRITES[mode]) if method == "datastore" else 0
        fault = stage.lsp.faults.fail(method, nth=writes + 1, times=times)
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await fault.reached.wait()
        for _ in range(times):
            await stage.quiet()
            assert stage.outcome(invoice.scid) is None
            await stage.world.advance(60)
        await stage.over(invoice)


async def test_a_late_part_that_cannot_be_journalled_fails_and_the_others_go_on() -> None:
    """trap:32, C-18, rule:11: only the late part; the payment is settled."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "two parts with the client")
        stage.lsp.faults.fail("datastore", times=4)
        late = payer.pay(invoice, [1_000_000], total_msat=SIZE_MSAT + 1_000_000)
        for pause_s in PAUSES_S:
            await stage.quiet()
            await stage.world.advance(pause_s)
        assert (await late).raw_messages == [TEMPORARY]
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_write_that_happened_but_was_answered_with_an_error_is_repeated(mode: str) -> None:
    """K-13, K-15: the outcome of the first write is unknown; writing it again is harmless."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("datastore", after=True)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.quiet()
        await stage.world.advance(PAUSES_S[0])
        assert (await payment).paid
        await stage.over(invoice)


async def test_an_offer_that_ends_unused_leaves_only_its_end() -> None:
    """B-14: forgotten by a timer, also when the first delete fails; the final record says `Timeout`."""
    async with Stage() as stage:
        await stage.buy(stage.client())
        stage.lsp.faults.fail("deldatastore")
        await stage.world.advance(3600)
        await stage.quiet()
        await stage.world.advance(1)
        await stage.until(lambda: not stage.records("active"), "the record is gone")
        assert [record["outcome"] for record in stage.records("finalized").values()] == ["Timeout"]


async def test_the_final_record_tells_what_an_operator_needs(mode: str) -> None:
    """Section 5 of the plan, K-24: CLN's fields are true; ours stand beside them."""
    async with Stage(mode) as stage:
        invoice = await stage.sale(stage.client(), stage.payer())
        record = stage.records("finalized")[str(invoice.scid)]
        end = invoice.payee.ends[0]
        assert record["outcome"] == "Succeeded"
        assert record["payment_hash"] == invoice.payment_hash.hex()
        assert record["preimage"] == invoice.preimage.hex()
        assert record["channel_id"] == end.channel.channel_id
        assert record["funding_txid"] == end.channel.funding_txid
        forwards = record["lsps2fast"]["forwards"]
        assert sum(int(fee) for _, _, _, fee, _ in forwards) == int(record["lsps2fast"]["opening_fee_msat"]) == FEE_MSAT
        assert record["lsps2fast"]["fee_paid_msat"] == str(FEE_MSAT)  # rule:20: what came
        assert sum(int(out) for _, _, out, _, _ in forwards) == SIZE_MSAT - FEE_MSAT
        assert all(len(bytes.fromhex(channel)) == 32 for *_, channel in forwards)  # rule:25
