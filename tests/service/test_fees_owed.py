"""The routing fees of channels that clients have come back, whatever is written over the record that tells of them."""

from __future__ import annotations

import pytest
from harness.service import FEE_MSAT, Stage

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.errors import RpcError
from lsps2fast_plugin.simnode.faults import Fault

from .own_fees import CONFIGURED, FREE, MOST_MSAT, OWN, fees, set_fees, with_own_fees


async def fees_hang(stage: Stage, client: Client, payer: Payer, invoice: ClientInvoice, size_msat: int) -> Fault:
    """Pay over the first channel; lightningd does not hear that it is to charge again."""
    client.behaviour.on_part = "hold"
    payment = payer.pay(invoice, [size_msat])
    await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
    hung = stage.lsp.faults.hang("setchannel")
    client.settle_held()
    assert (await payment).codes == [0]
    await hung.reached.wait()
    client.behaviour.on_part = "settle"
    return hung


async def back_after_the_power_goes(stage: Stage, client: Client) -> None:
    """Some record has told of them."""
    for _ in range(8):  # all is done that does not wait for lightningd
        await stage.fence()
    assert fees(client) == (0, 0)
    await stage.restart(power=True)
    stage.lsp.faults.clear()
    client.connect()
    await stage.until(lambda: fees(client) == OWN, "the operator's fees are back")
    await stage.at_rest()
    assert fees(client) == OWN
    await set_fees(stage, client, *CONFIGURED)


async def test_a_next_payment_is_not_written_over_fees_that_are_not_back(mode: str) -> None:
    """rule:13, K-15: it needs a channel of its own, and waits with its record for `setchannel`."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        invoice = await stage.invoice(client, MOST_MSAT)
        await fees_hang(stage, client, payer, invoice, MOST_MSAT)
        second = client.invoice(MOST_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=invoice.cltv_delta)
        payment = payer.pay(second, [MOST_MSAT])
        await stage.state(second, "OPENING")
        await stage.fence()
        await back_after_the_power_goes(stage, client)
        await payment


async def test_a_payment_that_opens_a_channel_after_all_is_not_written_over_them(mode: str) -> None:
    """rule:13, K-15: the room has gone by the last look; then the channel that it opens waits for `setchannel`."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        invoice = await stage.invoice(client, MOST_MSAT)
        written = stage.lsp.faults.hang("datastore")
        payment = payer.pay(invoice, [MOST_MSAT])
        await written.reached.wait()
        end = client.ends[0].other
        end.htlc_maximum_msat, most_msat = 1_000, end.htlc_maximum_msat  # as where the room was spent
        hung = stage.lsp.faults.hang("setchannel", nth=2)  # the first sets them to zero
        written.release()
        await hung.reached.wait()
        await stage.fence()
        end.htlc_maximum_msat = most_msat
        await back_after_the_power_goes(stage, client)
        await payment


async def test_two_payments_that_leave_it_wait_for_each_other(mode: str) -> None:
    """rule:11, rule:13: the second one's record is never written, so that of the first tells until both are done."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        invoice, other = await stage.invoice(client, 40_000_000), await stage.invoice(client, 40_000_000)
        hung = await fees_hang(stage, client, payer, invoice, 40_000_000)
        hung.error = RpcError(-1, "not now")
        again = stage.lsp.faults.hang("setchannel")
        stage.lsp.faults.fail("datastore", times=4)
        payment = payer.pay(other, [40_000_000])
        for _ in range(6):
            await stage.fence()
            await stage.world.advance(5)
        assert (await payment).codes != [0]
        await again.reached.wait()
        hung.release()  # the call of the first payment has failed, and the second one's counts
        for _ in range(4):
            await stage.fence()
            await stage.world.advance(5)
        await back_after_the_power_goes(stage, client)


async def test_the_next_payment_goes_on_once_they_are_back(mode: str) -> None:
    """rule:13, C-14: it has waited with its record, and then it gets its channel."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        invoice = await stage.invoice(client, MOST_MSAT)
        await fees_hang(stage, client, payer, invoice, MOST_MSAT)
        second = client.invoice(MOST_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=invoice.cltv_delta)
        payment = payer.pay(second, [MOST_MSAT])
        await stage.state(second, "OPENING")
        await stage.fence()
        stage.lsp.faults.clear()
        assert (await payment).codes == [0]
        await stage.over(second)
        assert fees(client) == OWN
        assert len(client.ends) == 2
        await set_fees(stage, client, *CONFIGURED)


async def test_what_was_set_between_two_payments_comes_back_whichever_ends_last(mode: str) -> None:
    """rule:13: the first payment remembers older fees, and its end is the last one."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        client.behaviour.on_part = "hold"
        invoices = [await stage.invoice(client, 20_000_000) for _ in range(2)]
        payments = [payer.pay(invoices[0], [20_000_000])]
        await stage.until(lambda: len(client.held()) == 1, "the first part is with the client")
        await set_fees(stage, client, 88, 8)
        payments.append(payer.pay(invoices[1], [20_000_000]))
        await stage.until(lambda: len(client.held()) == 2, "the second part is with the client")
        (second,) = [part for part in client.held() if part.htlc.payment_hash == invoices[1].payment_hash]
        client.fulfill(second, invoices[1].preimage)
        assert (await payments[1]).codes == [0]
        await stage.quiet()
        assert fees(client) == (0, 0)
        client.settle_held()
        assert (await payments[0]).codes == [0]
        await stage.at_rest()
        assert fees(client) == (88, 8)
        await set_fees(stage, client, *CONFIGURED)


async def pays_nothing_over_the_alias(client: Client, payer: Payer) -> None:
    """A-03: the way over the jit scid of a paid channel was promised at no fee until valid_until."""
    first = next(iter(client.invoices.values()))
    alias = client.invoice(1_000_000, first.scid, cltv_delta=first.cltv_delta)
    assert (await payer.pay(alias, [1_000_000])).codes == [0]


@pytest.mark.parametrize("own", [OWN, (0, 0)])
async def test_a_start_of_the_node_leaves_a_channel_the_fees_that_its_operator_has_set(
    mode: str, own: tuple[int, int]
) -> None:
    """A-03, rule:13: not those of the configuration, also where a live alias takes a pass by way of zero."""
    async with Stage(mode) as stage:
        client, payer = await with_own_fees(stage)
        await set_fees(stage, client, *own)
        await stage.restart(power=True)
        client.connect()
        await stage.quiet()
        assert fees(client) == own
        await pays_nothing_over_the_alias(client, payer)
        assert [*stage.records("active")] == []
        await set_fees(stage, client, *CONFIGURED)


async def test_a_start_of_the_plugin_leaves_them_too(mode: str) -> None:
    """A-03, rule:13: and the alias is given its zero again, for whether lightningd knows of it is not known."""
    async with Stage(mode) as stage:
        client, payer = await with_own_fees(stage)
        await stage.kill()
        await stage.start()
        await stage.quiet()
        assert fees(client) == OWN
        await pays_nothing_over_the_alias(client, payer)
        await set_fees(stage, client, *CONFIGURED)


async def test_a_start_of_the_node_that_dies_with_the_plugin_only_leaves_the_alias_its_zero(mode: str) -> None:
    """A-03, K-15: the plugin died before it had given the alias its zero, and lightningd, which forgot it, lives on."""
    async with Stage(mode) as stage:
        client, payer = await with_own_fees(stage)
        hung = stage.lsp.faults.hang("datastore")
        await stage.restart(power=True)
        await hung.reached.wait()
        await stage.kill()
        stage.lsp.faults.clear()
        await stage.start()
        client.connect()
        await stage.quiet()
        assert fees(client) == OWN
        await pays_nothing_over_the_alias(client, payer)
        assert [*stage.records("active")] == []
        await set_fees(stage, client, *CONFIGURED)


async def test_a_start_that_dies_while_an_alias_passes_zero_loses_no_fees(mode: str) -> None:
    """K-15, rule:13, A-03: the next start finds them in a record."""
    async with Stage(mode) as stage:
        client, payer = await with_own_fees(stage)
        hung = stage.lsp.faults.hang("setchannel", nth=2)
        await stage.restart(power=True)
        await hung.reached.wait()
        assert fees(client) == (0, 0)
        await stage.restart(power=True)
        stage.lsp.faults.clear()
        client.connect()
        await stage.until(lambda: fees(client) == OWN, "the operator's fees are back")
        await stage.quiet()
        await pays_nothing_over_the_alias(client, payer)
        assert [*stage.records("active")] == []
        await set_fees(stage, client, *CONFIGURED)


async def test_the_first_to_leave_keeps_its_record_until_that_of_the_next_is_written(mode: str) -> None:
    """rule:13, rule:11: two payments share a channel, and the one that stays is not on record yet."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await with_own_fees(stage)
        client.behaviour.on_part = "hold"
        invoice, other = await stage.invoice(client, 40_000_000), await stage.invoice(client, 40_000_000)
        first = payer.pay(invoice, [40_000_000])
        await stage.until(lambda: len(client.held()) == 1, "the first part is with the client")
        await stage.quiet()
        written = stage.lsp.faults.hang("datastore")
        second = payer.pay(other, [40_000_000])
        await stage.until(lambda: written.hits > 0, "the record of the second")
        client.settle_held()
        assert (await first).codes == [0]
        client.behaviour.on_part = "settle"
        await back_after_the_power_goes(stage, client)
        await second
