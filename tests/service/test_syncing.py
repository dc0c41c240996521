"""A node that has just started knows its coins only after it has caught up with the chain (seen on real nodes)."""

from __future__ import annotations

from harness.batches import Crowd, batching
from harness.service import FEE_MSAT, SIZE_MSAT, TEMPORARY, Stage


async def _started_anew(stage: Stage) -> int:
    """Have the node catch up, and the plugin know nothing of its coins; how often that has asked `getinfo` by then."""
    await stage.stop()
    stage.lsp.syncing = True
    await stage.start()
    await stage.quiet()
    return len(stage.calls("getinfo"))


async def test_parts_wait_while_the_node_catches_up_with_the_chain() -> None:
    """cln:R5, rule:10: held over a restart, the payment is not failed because its coins are not known yet."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        asked = await _started_anew(stage)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(stage.calls("getinfo")) >= asked + 4, "it asks again and again")
        stage.lsp.syncing = False
        assert (await payment).paid
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert stage.log_lines("no coins") == []


async def test_a_node_that_never_catches_up_fails_the_parts_in_the_end() -> None:
    """K-22: the wait is bounded, and the operator hears of it."""
    async with Stage(fresh=True) as stage:
        invoice = await stage.invoice(stage.client())
        asked = await _started_anew(stage)
        payment = stage.payer().pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(stage.calls("getinfo")) > asked, "first attempt")
        await stage.world.advance(61)
        assert (await payment).raw_messages == [TEMPORARY]
        assert len(stage.log_lines("ALARM: no coins")) == 1


async def test_a_batch_waits_no_longer_than_one_payment_for_a_node_that_never_catches_up() -> None:
    """K-22, trap:60: the choice is made for fewer and fewer, and their waits do not add up."""
    async with batching(fresh=True) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        asked = await _started_anew(stage)
        await crowd.pay()
        await stage.world.advance(2)
        await stage.until(lambda: len(stage.calls("getinfo")) > asked, "first attempt")
        await stage.world.advance(61)
        alone = len(stage.calls("getinfo"))
        await stage.until(lambda: len(stage.calls("getinfo")) >= alone + 3, "each tries alone")
        await stage.world.advance(61)
        assert [(await payment).raw_messages for payment in crowd.payments] == [[TEMPORARY] * 2] * 3
