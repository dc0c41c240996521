"""A channel that goes on chain while parts are in it: the client claims there, and what came of the fee came."""

from __future__ import annotations

from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage

from lsps2fast_plugin.simnode.payer import Payment

MOST_BLOCKS = 300


async def blocks_pass(stage: Stage, payment: Payment) -> None:
    """Mine until the payment is over."""
    for _ in range(MOST_BLOCKS):
        await stage.fence()
        if payment.done:
            break
        stage.world.mine()
    await stage.at_rest()


async def test_a_client_that_claims_on_chain_has_paid() -> None:
    """rule:20, rule:22, cln:A3: it fulfils one part, errs in the same breath and claims the other on chain."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        client.behaviour.script = {"update_fulfill_htlc": "error"}
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.state(invoice, "BROADCASTING")
        await blocks_pass(stage, payment)
        await stage.over(invoice)
        record = stage.records("finalized")[invoice.scid]["lsps2fast"]
        assert int(record["fee_paid_msat"]) == FEE_MSAT


async def test_a_client_that_lets_a_part_expire_on_chain_owes_its_fee() -> None:
    """rule:20, cln:A3, cln:H14: the part ends with its expiry, and with it the payment; it is not decided before."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.state(invoice, "AWAITING_SETTLEMENT")
        await stage.until(lambda: len(client.held()) == 2, "both parts at the client")
        client.fulfill(client.held()[0], invoice.preimage)
        await stage.state(invoice, "BROADCASTING")
        client.send_error()
        await stage.fence()
        assert stage.states(invoice)[-1] == "BROADCASTING"
        await blocks_pass(stage, payment)
        await stage.underpaid(invoice)
