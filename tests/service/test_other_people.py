"""People against the LSP's money, with tricks of their own: a crumb of the payment is taken, the rest is not."""

from __future__ import annotations

import os

import pytest
from harness.service import CHANNEL_SAT, CLIENT_TRUSTS, COINS, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage, refused

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payment

CRUMB_MSAT = 1_000
MINING_SAT = 4_500  # of one channel at the feerate of these stories


async def with_the_client(stage: Stage, client: Client, payer: Payer) -> tuple[ClientInvoice, Payment]:
    """A sale whose payment, a crumb and the rest, the client holds, if its channel is opened."""
    invoice = await stage.invoice(client)
    payment = payer.pay(invoice, [CRUMB_MSAT, SIZE_MSAT - CRUMB_MSAT])
    await stage.until(lambda: len(client.held()) == 2 or payment.done, "both parts at the client")
    return invoice, payment


async def take_the_crumb(stage: Stage, client: Client, invoice: ClientInvoice, payment: Payment) -> None:
    """The client takes a sat and fails the rest: the funding is owed, hardly any fee came."""
    crumb, rest = sorted(client.held(), key=lambda part: part.htlc.amount_msat)
    client.fail(rest)
    client.fulfill(crumb, invoice.preimage)
    await payment
    await stage.at_rest()
    assert stage.states(invoice)[-1] == "UNDERPAID"


async def close(stage: Stage, client: Client) -> None:
    """The client asks to close, and a block has it."""
    client.send_shutdown()
    await stage.quiet()
    stage.world.mine()
    await stage.quiet()


async def test_crumbs_taken_out_of_withheld_channels_burn_no_more_than_is_allowed() -> None:
    """people:S3, people:S6, rule:18: identities whose channels are withheld take a sat each, then close."""
    async with Stage(CLIENT_TRUSTS, wallet_sat=COINS, options={"lsps2-mining-budget-sat": 2 * MINING_SAT}) as stage:
        payer = stage.payer(channels=3)
        late = stage.client("late", on_part="hold")
        sold = await stage.invoice(late)
        for number in range(4):
            client = stage.client(f"taker {number}", on_part="hold")
            await take_the_crumb(stage, client, *await with_the_client(stage, client, payer))
            await close(stage, client)
        assert (await stage.stats())["limits"]["mining_budget"]["used_msat"] == 4 * MINING_SAT * 1000
        menu = await stage.client("next").request("lsps2.get_info")
        assert menu["opening_fee_params_menu"] == []  # nothing is offered that would not be opened
        assert (await payer.pay(sold, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        assert (await refused(stage))["mining_budget"] == 1
        await stage.world.advance(25 * 3_600)
        await stage.still_sells()
        stage.leaves = ("active", "record", "no")


async def test_crumbs_taken_out_of_withheld_channels_bind_no_more_than_both_pots() -> None:
    """people:S3, people:S11, rule:18: they do not close; what went on chain unpaid leaves less room for the next."""
    options = {"lsps2-capital-budget-sat": CHANNEL_SAT, "lsps2-withheld-budget-sat": CHANNEL_SAT}
    async with Stage(CLIENT_TRUSTS, wallet_sat=COINS, options=options) as stage:
        payer = stage.payer(channels=3)
        offers = [await stage.invoice(stage.client(f"taker {n}", on_part="hold")) for n in range(4)]
        for invoice in offers:
            client = invoice.payee
            assert isinstance(client, Client)
            payment = payer.pay(invoice, [CRUMB_MSAT, SIZE_MSAT - CRUMB_MSAT])
            await stage.until(lambda c=client, p=payment: len(c.held()) == 2 or p.done, "the parts at the client")
            if client.held():
                await take_the_crumb(stage, client, invoice, payment)
            assert (await stage.stats())["at_risk_msat"] <= 2 * CHANNEL_SAT * 1000
        assert len([end for end in stage.lsp.ends if end.opener]) == 2
        assert (await refused(stage))["withheld_budget"] == 2
        stage.world.mine()
        stage.leaves = ("active", "record", "channel", "no")


async def test_a_crumb_taken_after_a_day_is_burnt_today() -> None:
    """people:S6, rule:18: held for two days, then a sat is taken: the funding is paid for when it is sent."""
    async with Stage(CLIENT_TRUSTS, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [CRUMB_MSAT, SIZE_MSAT - CRUMB_MSAT], final_delta=1_000)
        await stage.until(lambda: len(client.held()) == 2, "both parts at the client")
        await stage.world.advance(48 * 3_600)
        await take_the_crumb(stage, client, invoice, payment)
        assert (await stage.stats())["limits"]["mining_budget"]["used_msat"] == MINING_SAT * 1000
        await close(stage, client)
        assert (await stage.stats())["limits"]["mining_budget"]["used_msat"] == MINING_SAT * 1000
        stage.leaves = ("active", "record", "no")


@pytest.mark.parametrize("mode", [LSP_TRUSTS, CLIENT_TRUSTS])
@pytest.mark.parametrize("deep", [False, True])
async def test_mining_of_a_channel_that_closes_while_we_are_away_is_counted(mode: str, deep: bool) -> None:
    """people:S6, rule:18: a crumb taken and the channel closed while the plugin is down, its block before or after."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice, payment = await with_the_client(stage, client, payer)
        if mode == CLIENT_TRUSTS:
            await take_the_crumb(stage, client, invoice, payment)
        await stage.kill()
        if mode == LSP_TRUSTS:
            crumb, rest = sorted(client.held(), key=lambda part: part.htlc.amount_msat)
            client.fail(rest)
            client.fulfill(crumb, invoice.preimage)
            await payment
        client.send_shutdown()
        if deep:
            stage.world.mine(3)
        await stage.start()
        await stage.quiet()
        stage.world.mine(3)
        await stage.quiet()
        await stage.world.advance(60)
        await stage.quiet()
        stats = await stage.stats()
        assert stats["at_risk_msat"] == 0
        used_msat = stats["limits"]["mining_budget"]["used_msat"]  # by its funding, where only its record knew it
        assert MINING_SAT * 950 <= used_msat <= MINING_SAT * 1000
        stage.leaves = ("active", "record", "channel", "no")


async def fail_with_a_hash_of_his_own(stage: Stage, victim: Client, invoice: ClientInvoice, who: Payer) -> None:
    """A stranger who knows the scid pays over it; the client can only refuse."""
    fake = victim.invoice(SIZE_MSAT, invoice.scid, preimage=os.urandom(32), cltv_delta=144)
    del victim.invoices[fake.payment_hash]
    assert not (await who.pay(fake, [SIZE_MSAT])).paid
    await stage.quiet()


@pytest.mark.parametrize("then", ["nothing", "restart", "power"])
async def test_one_payment_of_a_stranger_keeps_no_other_invoice_waiting(then: str) -> None:
    """people:L1, rule:22: those sold on trust before go on at once, several of them, also after a restart."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS) as stage:
        victim, payer, stranger = stage.client("victim"), stage.payer(channels=2), stage.payer("stranger")
        first, *others = [await stage.invoice(victim) for _ in range(4)]
        await fail_with_a_hash_of_his_own(stage, victim, first, stranger)
        if then != "nothing":
            await stage.restart(power=then == "power")
            victim.connect()
        payments = [payer.pay(invoice, [SIZE_MSAT]) for invoice in others[:2]]
        assert [(await payment).raw_messages for payment in payments] == [[""], [""]]
        await stage.paid(payer, others[2], [SIZE_MSAT])
        assert (await stage.buy(victim))["client_trusts_lsp"] is False  # a paid sale clears what was before it
        await stage.paid(payer, first, [SIZE_MSAT])
        for invoice in (first, *others):
            await stage.over(invoice)
        assert (await stage.stats())["refusals"]["peer_unpaid"] == 0
        stage.world.mine()


async def test_two_payments_of_strangers_keep_other_invoices_waiting_for_a_day() -> None:
    """people:L1, people:S4, rule:22: no longer than `probe_heal_hours`, and not a moment once one is paid."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS, options={"lsps2-offer-validity": 2 * 86_400}) as stage:
        victim, payer, stranger = stage.client("victim"), stage.payer(), stage.payer("stranger")
        first, second, third, fourth = [await stage.invoice(victim) for _ in range(4)]
        for invoice in (first, second):
            await fail_with_a_hash_of_his_own(stage, victim, invoice, stranger)
        assert (await payer.pay(third, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        await stage.world.advance(86_400)
        await stage.paid(payer, third, [SIZE_MSAT])
        await stage.over(third)
        for invoice in (first, fourth, second):
            await stage.paid(payer, invoice, [SIZE_MSAT])
            await stage.over(invoice)
        stage.world.mine()
