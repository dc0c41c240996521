"""A plugin dies while lightningd has a call of it: the call sets routing fees when the next life has set them."""

from __future__ import annotations

import pytest
from harness.service import LSP_TRUSTS, OFFER_S, Stage

from lsps2fast_plugin.service.fee_notes import ROOT
from lsps2fast_plugin.service.routing_fees import LATE_BLOCKS
from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.channels import End

FREE = {"lsps2-reuse": "free"}
SPARE_MSAT = 50_000_000
FEES = (1_000, 10)  # of the configuration
OWN = (77, 7)  # what the operator has set for the channel


def fees(end: End) -> tuple[int, int]:
    """What this channel takes."""
    return end.fee_base_msat, end.fee_ppm


async def next_life(stage: Stage) -> tuple[Client, Payer, End]:
    """A client whose channel has been given its fees again after a death of the plugin alone."""
    client, payer = stage.client(), stage.payer()
    await stage.sale(client, payer)
    end = client.ends[0].other
    assert fees(end) == FEES
    set_before = len(stage.calls("setchannel"))
    await stage.kill()
    await stage.start()
    await stage.until(lambda: len(stage.calls("setchannel")) == set_before + 2, "the fees are given back")
    await stage.quiet()
    assert fees(end) == FEES
    return client, payer, end


async def zero(stage: Stage, end: End) -> None:
    """What the dead life had asked for, carried out now: lightningd does not say who asked."""
    await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 0, "feeppm": 0, "enforcedelay": 0})
    assert fees(end) == (0, 0)


async def set_fees(stage: Stage, end: End, base_msat: int, ppm: int) -> None:
    """What the operator types."""
    params = {"id": end.channel.channel_id, "feebase": base_msat, "feeppm": ppm, "enforcedelay": 0}
    await stage.lsp.call("setchannel", params)


async def block(stage: Stage) -> None:
    """One more block, and what follows."""
    stage.world.mine()
    await stage.quiet()


async def test_a_zero_that_comes_late_is_undone_with_the_next_block() -> None:
    """rule:13, K-13: the channel would forward for nothing for good; the alias stays at no fee (A-03)."""
    async with Stage(LSP_TRUSTS, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        client, payer, end = await next_life(stage)
        await zero(stage, end)
        await block(stage)
        assert fees(end) == FEES
        assert stage.log_lines("by a call of before the start that came late")
        first = next(iter(client.invoices.values()))
        alias = client.invoice(1_000_000, first.scid, cltv_delta=first.cltv_delta)
        assert (await payer.pay(alias, [1_000_000])).codes == [0]


async def test_a_payment_over_the_channel_takes_it_for_no_word_of_the_operator() -> None:
    """rule:13: what the channel took when its fees were given back comes back after the payment."""
    async with Stage(LSP_TRUSTS, options=FREE, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        client, payer, end = await next_life(stage)
        await zero(stage, end)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await stage.state(invoice, "SUCCEEDED")
        await stage.at_rest()
        assert len(client.ends) == 1
        assert fees(end) == FEES


async def note_of(stage: Stage, end: End) -> bool:
    """Whether a record says what this channel is to charge."""
    listed = await stage.lsp.call("listdatastore", {"key": [*ROOT, end.channel.channel_id]})
    return bool(listed["datastore"])


@pytest.mark.parametrize("power", [False, True])
async def test_a_zero_that_comes_before_a_life_begins_is_undone_by_it(power: bool) -> None:
    """rule:13, K-13: the life that gave the fees back has ended before the next block; its note is there."""
    async with Stage(LSP_TRUSTS, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        client, payer, end = await next_life(stage)
        await set_fees(stage, end, *OWN)
        await stage.kill()
        await stage.start()
        await stage.quiet()
        assert fees(end) == OWN
        assert await note_of(stage, end)
        await zero(stage, end)
        if power:
            await stage.restart(power=True)
            client.connect()
        else:
            await stage.kill()
            await stage.start()
        await stage.until(lambda: fees(end) == OWN, "the operator's fees are back")
        await stage.quiet()
        assert fees(end) == OWN
        assert stage.log_lines("by a call of before the start that came late")
        assert await note_of(stage, end) is not power, "after a start of lightningd no call of before may come"
        first = next(iter(client.invoices.values()))
        alias = client.invoice(1_000_000, first.scid, cltv_delta=first.cltv_delta)
        assert (await payer.pay(alias, [1_000_000])).codes == [0]
        await set_fees(stage, end, *FEES)


async def test_a_zero_that_comes_two_lives_later_is_undone_with_the_next_block() -> None:
    """rule:13, K-13: what gave them back is over, and no record tells of it, when the life begins that sees it."""
    async with Stage(LSP_TRUSTS, options=FREE, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        end = client.ends[0].other
        invoice = await stage.invoice(client, SPARE_MSAT)
        hung = stage.lsp.faults.hang("setchannel", nth=2)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await hung.reached.wait()
        await stage.kill()
        stage.lsp.faults.clear()
        await stage.start()
        await stage.until(lambda: fees(end) == FEES, "the fees are back")
        await stage.quiet()
        await stage.world.advance(OFFER_S)  # or the alias would be given its zero, and the channel its fees, by a start
        await stage.kill()
        await stage.start()
        await stage.quiet()
        assert await note_of(stage, end)
        await zero(stage, end)
        await block(stage)
        assert fees(end) == FEES
        for _ in range(LATE_BLOCKS):
            await block(stage)
        assert not await note_of(stage, end)


async def test_a_zero_of_the_operator_is_undone_once_at_most() -> None:
    """rule:13: it cannot be told from one that came late; the log says what to do, and then it holds."""
    async with Stage(LSP_TRUSTS, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        _, _, end = await next_life(stage)
        await zero(stage, end)
        await block(stage)
        assert fees(end) == FEES
        await zero(stage, end)
        for _ in range(LATE_BLOCKS):
            await block(stage)
        assert fees(end) == (0, 0)
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": FEES[0], "feeppm": FEES[1]})


async def test_a_zero_that_the_operator_sets_later_holds() -> None:
    """rule:13: some blocks after a start nothing of before it comes any more, and nothing is asked for."""
    async with Stage(LSP_TRUSTS, options=FREE, fee_base_msat=FEES[0], fee_ppm=FEES[1]) as stage:
        client, payer, end = await next_life(stage)
        for _ in range(LATE_BLOCKS):
            await block(stage)
        looks = len(stage.calls("listpeerchannels"))
        await zero(stage, end)
        await block(stage)
        assert {} not in stage.calls("listpeerchannels")[looks:]
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await stage.state(invoice, "SUCCEEDED")
        await stage.at_rest()
        assert fees(end) == (0, 0)
        assert len(client.ends) == 1
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": FEES[0], "feeppm": FEES[1]})
