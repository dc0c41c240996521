"""What the operator sets by `setchannel` on a JIT channel during its own payment is the last word (rule:13)."""

from __future__ import annotations

from harness.service import FEE_MSAT, SIZE_MSAT, Stage

from lsps2fast_plugin.simnode import Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payment

from .own_fees import CONFIGURED, FREE, MOST_MSAT, OWN, fees, set_fees, with_own_fees


class Held:
    """The payment for a JIT channel, whose part its client holds."""

    def __init__(self, stage: Stage, payer: Payer, invoice: ClientInvoice, payment: Payment) -> None:
        self.stage, self.payer, self.invoice, self.payment = stage, payer, invoice, payment
        self.client = invoice.payee

    async def ends(self) -> None:
        """The client takes its part."""
        self.client.settle_held()
        assert (await self.payment).paid

    async def is_over(self, rates: tuple[int, int]) -> None:
        """The channel takes this; then what the stage expects at its end."""
        await self.stage.over(self.invoice)
        assert fees(self.client) == rates
        if rates != CONFIGURED:
            await set_fees(self.stage, self.client, *CONFIGURED)


async def held(stage: Stage) -> Held:
    """One part, with the client."""
    client, payer = stage.client(), stage.payer()
    client.behaviour.on_part = "hold"
    invoice = await stage.invoice(client)
    payment = payer.pay(invoice, [SIZE_MSAT])
    await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
    return Held(stage, payer, invoice, payment)


async def unpaid(stage: Stage) -> tuple[Payer, ClientInvoice]:
    """A channel whose payment has failed and whose operator has then set fees; an invoice that pays for it."""
    client, payer = stage.client(), stage.payer()
    client.behaviour.on_part = "fail"
    invoice = await stage.invoice(client)
    assert not (await payer.pay(invoice, [SIZE_MSAT])).paid
    await stage.quiet()
    assert fees(client) == CONFIGURED
    await set_fees(stage, client, *OWN)
    return payer, client.invoice(SIZE_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=invoice.cltv_delta)


async def test_what_is_set_during_its_payment_stays(mode: str) -> None:
    """rule:13: the channel took nothing at our word, and takes what its operator says now."""
    async with Stage(mode) as stage:
        sale = await held(stage)
        assert fees(sale.client) == (0, 0)
        await set_fees(stage, sale.client, *OWN)
        await sale.ends()
        await sale.is_over(OWN)
        assert [*stage.records("active")] == []
        assert stage.log_lines("was set meanwhile, it stays as it is")


async def test_what_is_set_during_a_look_that_fails_is_not_waited_for(mode: str) -> None:
    """rule:10: where lightningd does not say what the channel takes it is given the configured fees."""
    async with Stage(mode) as stage:
        sale = await held(stage)
        await stage.quiet()
        stage.lsp.faults.fail("listpeerchannels", times=1)
        await sale.ends()
        await sale.is_over(CONFIGURED)


async def test_what_is_set_after_a_death_during_its_payment_stays(mode: str) -> None:
    """rule:13, K-09: the next life finds the channel at zero, by the word of the last one."""
    async with Stage(mode) as stage:
        sale = await held(stage)
        await stage.kill()
        await stage.start()
        await stage.quiet()
        assert fees(sale.client) == (0, 0)
        await set_fees(stage, sale.client, *OWN)
        await sale.ends()
        await sale.is_over(OWN)


async def test_what_is_set_while_the_plugin_is_dead_stays(mode: str) -> None:
    """rule:13, K-09: the next life finds what the operator has set."""
    async with Stage(mode) as stage:
        sale = await held(stage)
        await stage.kill()
        await set_fees(stage, sale.client, *OWN)
        await stage.start()
        await stage.quiet()
        await sale.ends()
        await sale.is_over(OWN)


async def test_what_is_set_between_two_payments_for_it_comes_back() -> None:
    """rule:13, O-13: the first has failed; the second, which pays for the channel, needs it at zero once more."""
    async with Stage("lsp-trusts-client") as stage:
        payer, again = await unpaid(stage)
        client = again.payee
        client.behaviour.on_part = "settle"
        assert (await payer.pay(again, [SIZE_MSAT])).paid
        await stage.over(again)
        assert fees(client) == OWN
        await set_fees(stage, client, *CONFIGURED)


async def test_what_is_set_between_two_payments_for_it_outlives_a_power_cut_in_the_second() -> None:
    """rule:13, O-13, K-09: its record has no place for two rates, so a note of its own tells of them."""
    async with Stage("lsp-trusts-client") as stage:
        payer, again = await unpaid(stage)
        client = again.payee
        client.behaviour.on_part = "hold"
        payment = payer.pay(again, [SIZE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
        await stage.fence()
        assert fees(client) == (0, 0)
        client.behaviour.on_part = "settle"
        await stage.restart(power=True)
        client.connect()
        client.settle_held()
        await payment
        await stage.until(lambda: fees(client) == OWN, "the operator's fees are back")
        await stage.at_rest()
        assert fees(client) == OWN
        listed = await stage.lsp.call("listdatastore", {"key": ["lsps", "lsps2", "fees"]})
        assert listed["datastore"] == []
        await set_fees(stage, client, *CONFIGURED)


async def test_a_second_call_for_its_fees_is_no_word_of_the_operator(mode: str) -> None:
    """A-03, K-13: the first was not answered; the alias is promised at zero, which both must leave behind."""
    async with Stage(mode) as stage:
        sale = await held(stage)
        await stage.quiet()
        stage.lsp.faults.fail("setchannel", times=1)
        await sale.ends()
        for _ in range(3):
            await stage.fence()
            await stage.world.advance(2)
        await sale.is_over(CONFIGURED)
        sale.client.behaviour.on_part = "settle"
        alias = sale.client.invoice(1_000_000, sale.invoice.scid, cltv_delta=sale.invoice.cltv_delta)
        assert (await sale.payer.pay(alias, [1_000_000])).codes == [0]


async def test_what_is_set_while_a_channel_is_being_chosen_comes_back(mode: str) -> None:
    """rule:13: a payment goes over a channel of its client, whose fees are set as the record of that is written."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        invoice = await stage.invoice(client, MOST_MSAT)
        written = stage.lsp.faults.hang("datastore")
        payment = payer.pay(invoice, [MOST_MSAT])
        await stage.until(lambda: written.hits > 0, "the record is being written")
        await set_fees(stage, client, 88, 8)
        written.release()
        assert (await payment).paid
        await stage.at_rest()
        assert len(client.ends) == 1
        assert fees(client) == (88, 8)
        await set_fees(stage, client, *CONFIGURED)
