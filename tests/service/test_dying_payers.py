"""A payer's channel goes to the chain while its parts are held: they fail before anything is let out (rule:19)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Payer
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.closing import close_from_afar, force_close

HALF_MSAT = SIZE_MSAT // 2
DUST_MSAT = 330_000


def error(stage: Stage, payer: Payer, end: End) -> None:
    """The payer sends `error`: our node goes to the chain."""
    stage.lsp.error_arrived(payer, end.other, "bye")


def alone(stage: Stage, payer: Payer, end: End) -> None:
    """The payer puts its commitment on chain."""
    force_close(end, "by the payer")


WAYS: list[Callable[[Stage, Payer, End], None]] = [error, alone]


@pytest.mark.parametrize("die", WAYS)
async def test_dust_of_a_channel_that_dies_is_not_paid_to_the_client(mode: str, die: Callable[..., None]) -> None:
    """rule:19: what the payer gives to the miners the client does not get from us; the sale goes on later."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        stage.world.open_books()
        dust = payer.pay(invoice, [DUST_MSAT] * 29, channels=[0] * 29, total_msat=SIZE_MSAT)
        await stage.held(29)
        die(stage, payer, payer.channels[0])
        await stage.held(0)
        rest = payer.pay(invoice, [SIZE_MSAT - 29 * DUST_MSAT], channels=[1], total_msat=SIZE_MSAT)
        await stage.held(1)
        assert not stage.calls("fundchannel_start")
        await stage.world.advance(90)
        assert (await rest).raw_messages == [TEMPORARY]
        assert (await stage.stats())["refused_parts"]["its channel leaves"] == 29
        assert len(stage.log_lines("29 parts of payments fail")) == 1
        await stage.paid(payer, invoice, [SIZE_MSAT], channels=[1])
        await stage.over(invoice)
        stage.world.mine(200)
        await stage.quiet()
        assert not dust.done or not (await dust).paid
        assert stage.world.books()["lsp"] > -DUST_MSAT * 29 // 4  # mining of the funding, less the fee


@pytest.mark.parametrize("die", WAYS)
@pytest.mark.parametrize("when", ["client away", "opening", "not ready"])
async def test_nothing_is_let_out_when_the_set_is_complete(mode: str, when: str, die: Callable[..., None]) -> None:
    """rule:19, rule:6: also while a channel is being made; what it made is undone, the offer stays."""
    async with Stage(mode, wallet_sat=(1_000_000,) * 4) as stage:
        client, payer = stage.client(send_ready=when != "not ready"), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        if when == "client away":
            client.go_offline()
        complete = stage.lsp.faults.hang("fundchannel_complete") if when == "opening" else None
        parts = payer.pay(invoice, [HALF_MSAT] * 2, channels=[0, 1])
        await stage.held(2)
        if when == "opening":
            await stage.until(lambda: stage.calls("fundchannel_complete"), "the open is under way")
        else:
            await stage.quiet()
        die(stage, payer, payer.channels[0])
        await stage.held(0 if when != "client away" else 1)
        if when == "client away":
            client.connect()
            await stage.world.advance(90)
        if complete is not None:
            complete.release()
        if when == "not ready":
            client.release_ready()
        await stage.held(0)
        await stage.quiet()
        assert not invoice.paid_msat
        assert not client.held()
        client.behaviour.send_ready = True
        await stage.paid(payer, invoice, [SIZE_MSAT], channels=[1])
        await stage.over(invoice)
        assert parts.done is False or not (await parts).paid
        stage.world.mine(200)
        await stage.quiet()


async def test_parts_that_are_out_are_not_touched(mode: str) -> None:
    """rule:5, rule:19: the client may have them; lightningd claims them on chain."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payer.pay(invoice, [HALF_MSAT] * 2, channels=[0, 1])
        await stage.until(lambda: len(client.held()) == 2, "the parts at the client")
        error(stage, payer, payer.channels[0])
        await stage.quiet()
        assert len(client.held()) == 2
        client.settle_held()
        await stage.over(invoice)
        assert invoice.paid_msat == SIZE_MSAT - FEE_MSAT
        stage.world.mine(200)
        await stage.quiet()


async def test_parts_of_a_channel_that_closes_by_agreement_go_on(mode: str) -> None:
    """rule:10: both sides still settle what is in it, and sign the close when it is empty."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [HALF_MSAT], channels=[0], total_msat=SIZE_MSAT)
        await stage.held(1)
        close_from_afar(payer.channels[0].other)
        await stage.quiet()
        second = payer.pay(invoice, [HALF_MSAT], channels=[1], total_msat=SIZE_MSAT)
        assert [(await payment).paid for payment in (first, second)] == [True, True]
        await stage.over(invoice)
        stage.world.mine()


async def test_a_payment_that_is_whole_without_the_lost_part_goes_on(mode: str) -> None:
    """rule:19, rule:20: a crumb came over the dying channel; the others bear the whole fee."""
    async with Stage(mode) as stage:
        client, payer = stage.client(send_ready=False), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        crumb = stage.payer("stranger")
        crumb.pay(invoice, [SIZE_MSAT // 20], total_msat=SIZE_MSAT)
        await stage.held(1)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.held(3)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        error(stage, crumb, crumb.channels[0])
        await stage.held(2)
        client.release_ready()
        assert (await payment).paid
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        stage.world.mine(200)
        await stage.quiet()


async def test_parts_that_lightningd_asks_about_again_after_its_start_are_refused(mode: str) -> None:
    """rule:19, cln:R1: it replays what it held, also of a channel that went to the chain while it was held."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payer.pay(invoice, [HALF_MSAT], channels=[0], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.kill()
        error(stage, payer, payer.channels[0])
        await stage.restart(power=True)
        client.connect()
        await stage.quiet()
        second = payer.pay(invoice, [HALF_MSAT], channels=[1], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(90)
        assert (await second).raw_messages == [TEMPORARY]
        assert not invoice.paid_msat
        await stage.paid(payer, invoice, [SIZE_MSAT], channels=[1])
        await stage.over(invoice)
        stage.world.mine(200)
        await stage.quiet()


@pytest.mark.parametrize("then", ["running", "stop"])
async def test_a_part_that_is_asked_about_after_its_channel_has_left_is_refused(mode: str, then: str) -> None:
    """rule:19, cln:R1: lightningd asks again for what it held; a plugin that has just started knows it, too."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        error(stage, payer, payer.channels[0])
        await stage.quiet()
        if then == "stop":
            await stage.stop()
            await stage.start()
        answer = await stage.hook_call(stage.part_call(invoice, payer))
        assert answer["result"] == {"result": "fail", "failure_message": TEMPORARY}
        assert not stage.calls("fundchannel_start")
        await stage.paid(payer, invoice, [SIZE_MSAT], channels=[1])
        await stage.over(invoice)
        stage.world.mine(200)
        await stage.quiet()


async def test_nobody_but_the_payer_is_blamed() -> None:
    """rule:22, operator:O1: the log names the payer, and the client keeps its standing."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(send_ready=False), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payer.pay(invoice, [HALF_MSAT] * 2, channels=[0, 1])
        await stage.until(lambda: stage.calls("sendpsbt"), "the funding is out")
        await stage.quiet()
        error(stage, payer, payer.channels[0])
        await stage.until(lambda: stage.log_lines("failed by the payer"), "the line of the log")
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]
        assert (trust["unpaid_channels"], trust["probes"]) == (0, 0)
        client.release_ready()
        stage.world.mine(200)
        await stage.quiet()


@pytest.mark.parametrize("channels", [[0, 0], [0, 1]])
async def test_a_splice_of_the_payers_channel_fails_nothing(channels: list[int]) -> None:
    """rule:10, rule:25: another scid is no close."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [HALF_MSAT], channels=channels[:1], total_msat=SIZE_MSAT)
        await stage.held(1)
        stage.world.splice(payer.channels[0].other, 10_000)
        stage.world.mine(8)
        await stage.quiet()
        second = payer.pay(invoice, [HALF_MSAT], channels=channels[1:], total_msat=SIZE_MSAT)
        assert [(await payment).paid for payment in (first, second)] == [True, True]
        await stage.over(invoice)
        stage.world.mine()


@pytest.mark.parametrize("die", WAYS)
async def test_a_part_for_a_paid_channel_whose_client_is_away_is_not_let_out(
    mode: str, die: Callable[..., None]
) -> None:
    """rule:19, people:S16: after a start it waits under the alias; the channel it came over goes to the chain."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.sale(client, payer)
        await stage.restart()
        client.go_offline()
        other = client.invoice(2 * HALF_MSAT, invoice.scid, cltv_delta=144)
        payment = payer.pay(other, [HALF_MSAT] * 2, channels=[0, 1])
        await stage.held(2)
        die(stage, payer, payer.channels[0])
        await stage.held(1)
        assert len(stage.log_lines("1 parts that wait for a client fail")) == 1
        client.connect()
        await stage.held(0)
        await stage.world.advance(71)  # the client has half of it
        assert not other.paid_msat
        stage.world.mine(200)
        await stage.quiet()
        assert not (await payment).paid
        await stage.paid(payer, other, [2 * HALF_MSAT], channels=[1])


@pytest.mark.parametrize("die", WAYS)
@pytest.mark.parametrize("asked", ["before it dies", "after that"])
async def test_a_part_that_waits_for_its_client_after_a_start_is_not_let_out(
    asked: str, die: Callable[..., None]
) -> None:
    """rule:19, cln:R1: the journal said that it goes out, and nothing was answered; the payment comes to nothing."""
    async with Stage(CLIENT_TRUSTS, fresh=True, wallet_sat=(1_000_000,) * 4) as stage:
        client, payer = stage.client(send_ready=False), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2, channels=[0, 1])
        await stage.held(2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        written = stage.lsp.faults.hang("datastore", after=True)
        client.release_ready()
        await stage.until(written.reached.is_set, "the journal says that the parts go out")
        client.go_offline()
        if asked == "after that":
            die(stage, payer, payer.channels[0])
        await stage.restart(power=True)
        if asked == "before it dies":
            await stage.held(2)
            die(stage, payer, payer.channels[0])
        await stage.held(1)
        client.connect()
        await stage.held(0)
        await stage.world.advance(71)
        assert not client.held()
        assert not invoice.paid_msat
        await stage.quiet()
        client.behaviour.send_ready = True
        await stage.paid(payer, invoice, [SIZE_MSAT], channels=[1])
        await stage.over(invoice)
        stage.world.mine(200)
        await stage.quiet()
        assert not (await payment).paid
