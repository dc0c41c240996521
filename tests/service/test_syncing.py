"""A node that has just started knows its coins only after it has caught up with the chain (seen on real nodes)."""

from __future__ import annotations

from lsps2fast_plugin.effects import STILL_SYNCING

from .stage import FEE_MSAT, SIZE_MSAT, Stage

WORDS = "Cannot afford: still syncing with bitcoin network..."


async def test_parts_wait_while_the_node_catches_up_with_the_chain() -> None:
    """R5, rule 10: held over a restart, the payment is not failed because fundpsbt cannot answer yet."""
    async with Stage(fresh=True) as stage:
        stage.lsp.faults.fail("fundpsbt", times=2, code=STILL_SYNCING, message=WORDS)
        invoice = await stage.invoice(stage.client())
        await stage.paid(stage.payer(), invoice)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert stage.order("fundpsbt") == ["fundpsbt"] * 3
        assert (await stage.stats())["alarms"] == 0


async def test_a_node_that_never_catches_up_fails_the_parts_in_the_end() -> None:
    """K-22: the wait is bounded, and the operator hears of it."""
    async with Stage(fresh=True) as stage:
        stage.lsp.faults.fail("fundpsbt", times=1000, code=STILL_SYNCING, message=WORDS)
        invoice = await stage.invoice(stage.client())
        payment = stage.payer().pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: stage.calls("fundpsbt"), "first attempt")
        await stage.world.advance(61)
        assert (await payment).raw_messages == ["10070000"]
        assert (await stage.stats())["alarms"] == 1
