"""Both plugins, each a process of its own, on the embedded node: a sale, and an LSP that keeps the funding back.

The embedded node has no `getutxout` and takes only numbers as hook filters; the fixture adds what is missing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.two_processes import (
    CLIENT_TRUSTS,
    FEE_MSAT,
    LSP_TRUSTS,
    SIZE_MSAT,
    Opening,
)

from lsps2fast_plugin.simnode import bolt11, tlv
from lsps2fast_plugin.simnode.errors import RpcError
from lsps2fast_plugin.simnode.party import connect

pytestmark = pytest.mark.slow


async def test_a_developer_at_the_socket(opened: Opening) -> None:
    """wallet:W13: check, setconfig, the same label, a deleted invoice, over pipes."""
    async with opened(CLIENT_TRUSTS) as pair:
        given = {"lsp_id": pair.world.lsp.node_id, "amount_msat": SIZE_MSAT, "description": "d", "label": "l"}
        trust = {"client_trusts_lsp": True}
        checked = {"command_to_check": "lsps-lsps2-invoice"}
        assert await pair.wallet.call("check", checked | given) == checked
        for wrong in ({"amount_msat": 0}, {"amount": 1}, {"timeout_s": 0}):
            with pytest.raises(RpcError) as failed:
                await pair.wallet.call("check", checked | given | wrong)
            assert (failed.value.code, "Traceback" in str(failed.value)) == (-32602, False)
        assert not (await pair.status())["approvals"]

        with pytest.raises(RpcError, match="lsps2-inbound='maybe' is unknown"):
            await pair.wallet.call("setconfig", {"config": "lsps2-inbound", "val": "maybe"})
        await pair.wallet.call("setconfig", {"config": "lsps2-max-fee-msat", "val": 1})
        with pytest.raises(RpcError, match="above the limit"):
            await pair.invoice(**trust)
        await pair.wallet.call("setconfig", {"config": "lsps2-max-fee-msat", "val": 100_000_000})
        made = await pair.invoice(deschashonly=True, **trust)
        assert await pair.invoice(deschashonly=True, **trust) == made
        assert len((await pair.status())["approvals"]) == 1
        await pair.wallet.call("delinvoice", {"label": "l", "status": "unpaid"})
        await pair.until(lambda told: not told["approvals"], "the end of the purchase")
        while (state := (await pair.wallet.call("lsps2-purchase", {"label": "l"}))["state"]) == "awaited":
            pass  # the history is written a moment later
        assert state == "cancelled"


async def test_a_sale_on_trust(opened: Opening) -> None:
    """I-29, I-33: settled before anything is on chain; the watch ends with the confirmation; books to the msat."""
    async with opened(CLIENT_TRUSTS) as pair:
        pair.world.open_books()
        invoice = await pair.invoice(client_trusts_lsp=True)
        result = await pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000])
        assert result.codes == [0, 0]
        assert pair.wallet.ends[0].to_us_msat == SIZE_MSAT - FEE_MSAT
        await pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")
        await pair.world.until(lambda: pair.world.chain.mempool, "the broadcast")
        pair.world.mine()
        pair.world.mine()
        await pair.until(lambda status: not status["channels"], "the confirmation")
        for _ in range(6):
            pair.world.mine()
        kept = ("purchase", "reports")
        rows = pair.wallet.datastore.rows
        await pair.world.until(lambda: all(row[2:3] and row[2] in kept for row in rows), "the end of the watch")
        assert pair.world.books()["wallet"] == SIZE_MSAT - FEE_MSAT


@pytest.mark.parametrize("dies", [False, True])
async def test_two_complete_sets_before_lightningd_has_settled_one_are_one_payment(opened: Opening, dies: bool) -> None:
    """I-22, rule:27: both are released; lightningd pays an invoice once, over its death too; one goes back."""
    async with opened(CLIENT_TRUSTS) as pair:
        world, wallet = pair.world, pair.wallet
        ordinary = world.add_channel(world.lsp, wallet)
        world.open_books()
        invoice = await pair.invoice(client_trusts_lsp=True)

        def deaf(entry: dict[str, Any]) -> None:
            call = entry["dir"], entry["peer"], entry["msg"].get("method")
            if call == ("host>plugin", "wallet/plugin", "htlc_accepted"):
                wallet.plugin.listen(False)  # what it answers waits in the pipe

        def releases() -> int:
            records = [row for key, (row, _) in wallet.datastore.rows.items() if invoice["payment_hash"] in key]
            return sum(b'"released":{' in row for row in records)

        def written() -> int:
            wrote = world.transcript.select("rpc>host", method="datastore")
            return sum(invoice["payment_hash"] in e["msg"]["params"]["key"] and "released" in text(e) for e in wrote)

        def text(entry: dict[str, Any]) -> str:
            return bytes.fromhex(entry["msg"]["params"].get("hex", "")).decode().replace('"released":null', "")

        world.transcript.listeners.append(deaf)
        first = pair.payer.pay(invoice["bolt11"], [SIZE_MSAT])
        await world.until(releases, "the first set released")
        once = written()
        decoded, height = bolt11.decode(invoice["bolt11"]), world.chain.height
        final_cltv = height + decoded.min_final_cltv + 1
        last = tlv.hop_payload(SIZE_MSAT, final_cltv, payment_secret=decoded.payment_secret, total_msat=SIZE_MSAT)
        on = tlv.hop_payload(SIZE_MSAT, final_cltv, ordinary.scid_now())
        hops = [(bytes.fromhex(world.lsp.node_id), on), (bytes.fromhex(wallet.node_id), last)]
        second = pair.payer.send_along(decoded.payment_hash, hops, SIZE_MSAT + 2_000, final_cltv + 40)
        await world.until(lambda: written() > once, "the second set released")
        world.transcript.listeners.clear()
        if dies:
            wallet.sigkill()
            await wallet.start()
            connect(wallet, world.lsp)
        else:
            wallet.plugin.listen(True)
        codes = sorted((await first).codes + (await second).codes)
        assert codes == [0, 203]
        await pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")
        assert world.books()["wallet"] in (SIZE_MSAT - FEE_MSAT, SIZE_MSAT)
        (row,) = wallet.invoices.by_hash.values()
        assert (row.status, row.paid_msat) == ("paid", world.books()["wallet"])


async def test_a_sale_without_trust(opened: Opening) -> None:
    """I-30, I-04: the parts wait for a block, and the invoice has left room for it."""
    async with opened(LSP_TRUSTS) as pair:
        invoice = await pair.invoice()
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        assert not payment.done
        pair.world.mine()
        assert (await payment).codes == [0, 0]


async def test_a_wallet_that_died_with_parts_in_its_hands_is_paid(opened: Opening) -> None:
    """I-32, K-07: SIGKILL of its lightningd; replayed without the TLVs."""
    async with opened(LSP_TRUSTS) as pair:
        invoice = await pair.invoice()
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        pair.wallet.sigkill()
        await pair.wallet.start()
        await pair.until(lambda status: status["held_parts"] == 2, "both parts held again")
        pair.world.mine()
        assert (await payment).codes == [0, 0]
        assert pair.wallet.ends[0].to_us_msat == SIZE_MSAT - FEE_MSAT


async def test_an_lsp_that_keeps_the_funding_back(opened: Opening) -> None:
    """trap:46: it has the preimage and cannot, or will not, broadcast: an alarm after ten minutes, and no more
    trust.
    """
    async with opened(CLIENT_TRUSTS) as pair:
        pair.world.lsp.faults.fail("sendpsbt", times=1000)
        invoice = await pair.invoice(client_trusts_lsp=True)
        assert (await pair.payer.pay(invoice["bolt11"], [SIZE_MSAT])).codes == [0]
        await pair.until(lambda status: status["channels"][0]["funding"] == "owed", "the debt")
        await pair.wallet.call("lsps2-dev-advance", {"seconds": 601})
        await pair.until(lambda status: status["channels"][0]["funding"] == "missing", "the alarm")
        status = await pair.status()
        assert "was not seen within 600 s" in status["lsps"][0]["broke_its_word"]
        assert "ALARM" in status["reports"][-1]["report"]
        refused = await asyncio.gather(pair.invoice(client_trusts_lsp=True, label="2"), return_exceptions=True)
        assert "asks to be trusted" in str(refused[0])


async def test_a_wallet_that_asks_for_consent_is_heard(opened: Opening) -> None:
    """B-16: an LSP that wants to be trusted sells nothing to who does not."""
    async with opened(CLIENT_TRUSTS) as pair:
        refused = await asyncio.gather(pair.invoice(), return_exceptions=True)
        assert "asks to be trusted" in str(refused[0])
        assert not pair.wallet.datastore.rows


async def test_w4_an_invoice_that_ends_while_its_payment_waits(opened: Opening) -> None:
    """wallet:W4, trap:55: both plugins; 300 s of invoice, paid in its first second, the block ten minutes later."""
    async with opened(LSP_TRUSTS) as pair:
        invoice = await pair.invoice(expiry=300)
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        await pair.world.advance(301)
        await pair.wallet.call("lsps2-dev-advance", {"seconds": 301})
        for row in pair.wallet.invoices.by_hash.values():
            row.status = "expired"
        await pair.until(lambda status: status["held_parts"] == 2, "both parts still held")
        pair.world.mine()
        assert (await payment).codes == [0, 0]
        (row,) = pair.wallet.invoices.by_hash.values()
        assert row.status == "paid"
