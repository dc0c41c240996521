"""The page of a running service: a sale is watched from its first part to the money in the books."""

from __future__ import annotations

import socket

from harness.browser import Browser
from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage


async def test_a_sale_is_watched(browser: Browser) -> None:
    """operator:O12, operator:O2: lane, end, money as in the ledger; lightningd is asked nothing for the picture."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Stage(LSP_TRUSTS, options={"lsps2-page-listen": port}) as stage:
        tab = await browser.open(f"http://127.0.0.1:{port}/")
        await tab.says("selling", "live", "no payment is under way")
        invoice = await stage.invoice(stage.client())
        payer = stage.payer()
        first = payer.pay(invoice, [SIZE_MSAT // 2], total_msat=SIZE_MSAT)
        await stage.held(1)
        asked = len(stage.world.transcript.select("rpc>host", "lsp/plugin-rpc"))
        await tab.says(str(invoice.scid), "parts come in (1 of 5, 1 part)", "5,000", where="#rows")
        assert len(stage.world.transcript.select("rpc>host", "lsp/plugin-rpc")) == asked
        second = payer.pay(invoice, [SIZE_MSAT // 2], total_msat=SIZE_MSAT)
        await first
        await second
        await stage.ended(invoice)
        await tab.says("paid", "fee 1,000 sat", where="#ended")
        report = (await stage.lsp.call("lsps2-report"))["total"]
        assert report["earned_msat"] == FEE_MSAT
        net = f"{report['net_msat'] / 1000:,.0f}"
        await tab.says("1,000 sat", f"1 sold, 0 failed, net {net} sat", where="#now")
        await tab.value("document.querySelector('#ended button').click()")
        await tab.says("It is paid: 1,000 sat of an opening fee of 1,000 sat came.", where="#story")
        await tab.value("document.querySelector('#ask-closable').click()")
        await tab.says("none may be closed now", where="#closable-note")
        assert tab.faults == []
    await tab.says("what is shown is old")
