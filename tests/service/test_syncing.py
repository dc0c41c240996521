"""A node that has just started knows its coins only after it has caught up with the chain (seen on real nodes)."""

from __future__ import annotations

from harness.service import FEE_MSAT, SIZE_MSAT, TEMPORARY, Stage


async def test_parts_wait_while_the_node_catches_up_with_the_chain() -> None:
    """cln:R5, rule:10: held over a restart, the payment is not failed because its coins are not known yet."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.syncing = True
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(stage.calls("listfunds")) >= 4, "it looks again and again")
        stage.lsp.syncing = False
        assert (await payment).paid
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert stage.log_lines("no coins") == []


async def test_a_node_that_never_catches_up_fails_the_parts_in_the_end() -> None:
    """K-22: the wait is bounded, and the operator hears of it."""
    async with Stage(fresh=True) as stage:
        invoice = await stage.invoice(stage.client())
        stage.lsp.syncing = True
        looks = len(stage.calls("listfunds"))
        payment = stage.payer().pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(stage.calls("listfunds")) > looks, "first attempt")
        await stage.world.advance(61)
        assert (await payment).raw_messages == [TEMPORARY]
        assert len(stage.log_lines("ALARM: no coins")) == 1
