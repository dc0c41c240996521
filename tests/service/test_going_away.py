"""`plugin stop`, kill -9 and coming back, with parts held or on their way: the node lives, nothing is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payer, Payment

HALF_MSAT = SIZE_MSAT // 2
Way = Callable[[Stage], Awaitable[None]]
Story = Callable[[Stage, Payer, ClientInvoice], Awaitable[Payment]]
WAYS = [(Stage.stop, TEMPORARY), (Stage.kill, UNKNOWN)]  # cln:W12, cln:H12


async def _collecting(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    payment = payer.pay(invoice, [2_000_000] * 2, total_msat=SIZE_MSAT)
    await stage.held(2)
    return payment


async def _writing_the_intent(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    return await _stuck_in("datastore", stage, payer, invoice)


async def _starting(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    return await _stuck_in("fundchannel_start", stage, payer, invoice)


async def _completing(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    return await _stuck_in("fundchannel_complete", stage, payer, invoice)


async def _stuck_in(method: str, stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    stuck = stage.lsp.faults.late(method)
    payment = payer.pay(invoice, [HALF_MSAT] * 2)
    await stuck.reached.wait()
    await stage.held(2)
    return payment


async def _awaiting_ready(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Payment:
    invoice.payee.behaviour.send_ready = False
    payment = payer.pay(invoice, [HALF_MSAT] * 2)
    await stage.state(invoice, "AWAITING_CHANNEL_READY")
    await stage.quiet()
    return payment


@pytest.mark.parametrize(("leave", "answer"), WAYS)
@pytest.mark.parametrize(
    ("mode", "story"),
    [
        (CLIENT_TRUSTS, _collecting),
        (LSP_TRUSTS, _writing_the_intent),
        (CLIENT_TRUSTS, _starting),
        (CLIENT_TRUSTS, _completing),
        (LSP_TRUSTS, _completing),
        (CLIENT_TRUSTS, _awaiting_ready),
        (LSP_TRUSTS, _awaiting_ready),
    ],
)
async def test_going_away_with_held_parts_and_coming_back(mode: str, story: Story, leave: Way, answer: str) -> None:
    """K-21, trap:13, cln:W12, cln:H12, rule:9, rule:17: the node lives; stop fails the parts for now; back, all is tidy
    and sold.
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        payment = await story(stage, payer, invoice)
        await leave(stage)
        stage.lsp.faults.clear()
        assert set((await payment).raw_messages) == {answer}
        assert stage.lsp.state == "running"
        client.release_ready()
        client.behaviour.send_ready = True
        await stage.start()
        await stage.at_rest()
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


@pytest.mark.parametrize(("leave", "answer"), WAYS)
@pytest.mark.parametrize("method", ["utxopsbt", "datastore", "reserveinputs"])
async def test_coins_chosen_or_reserved_by_a_call_whose_answer_was_lost_are_free(
    leave: Way, answer: str, method: str
) -> None:
    """trap:13, K-02, rule:9: gone before the intent names them, before they are reserved, right after."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        payment = await _stuck_in(method, stage, payer, invoice)
        await leave(stage)
        stage.lsp.faults.clear()
        assert set((await payment).raw_messages) == {answer}
        await stage.start()
        await stage.at_rest()
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


@pytest.mark.parametrize("leave", [Stage.stop, Stage.kill])
@pytest.mark.parametrize("claimed", ["while away", "afterwards"])
async def test_going_away_with_parts_at_the_client(mode: str, leave: Way, claimed: str) -> None:
    """trap:13, cln:F4, cln:R3, rule:8: the client claims without us; the funding is sent all the same."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        await leave(stage)
        if claimed == "while away":
            client.settle_held()
            assert (await payment).paid
        await stage.start()
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        assert client.ends[0].channel.withheld is False


@pytest.mark.parametrize("leave", [Stage.stop, Stage.kill])
async def test_going_away_while_the_funding_is_owed(leave: Way) -> None:
    """trap:13, trap:7, K-12: paid, not yet sent; sent after the start."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        away = stage.lsp.faults.fail("sendpsbt", times=100, message="bitcoind is away")
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).paid
        await away.reached.wait()
        await stage.state(invoice, "BROADCASTING")
        await leave(stage)
        stage.lsp.faults.clear()
        await stage.start()
        await stage.over(invoice)
        assert client.ends[0].channel.withheld is False


async def test_fifty_held_parts_all_fail_with_the_temporary_code_on_stop() -> None:
    """trap:50, cln:W12, rule:17: no held part is left to lightningd, which would fail it for good."""
    async with Stage(options={"lsps2-max-parts": 100}) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [100_000] * 50, total_msat=SIZE_MSAT)
        await stage.held(50)
        await stage.stop()
        assert (await payment).raw_messages == [TEMPORARY] * 50
        assert stage.lsp.state == "running"


async def test_parts_that_arrive_before_init_is_answered_wait_and_are_paid(mode: str) -> None:
    """trap:49, cln:W11, rule:15: `plugin start` with a slow journal; parts, forwards and own invoices come
    meanwhile.
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        stage.world.add_channel(stage.lsp, payer, 1_000_000)
        invoice = await stage.invoice(client)
        await stage.stop()
        slow = stage.lsp.faults.late("listdatastore")
        await stage.start(ready=False)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        own = await stage.lsp.call("invoice", {"amount_msat": 70_000, "label": "own", "description": "own"})
        assert (await payer.pay(own["bolt11"])).paid
        await slow.reached.wait()
        assert not payment.done
        slow.release()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_part_that_arrives_between_stop_and_end_is_failed_temporarily() -> None:
    """rule:17, K-05: whatever comes while the plugin says good-bye gets the same answer."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [1_000_000], total_msat=SIZE_MSAT)
        await stage.held(1)
        stage.lsp.plugin.notify("shutdown", {})
        late = stage.hook_call(stage.part_call(invoice, payer, 1_000_000))
        assert (await first).raw_messages == [TEMPORARY]
        assert (await late)["result"] == {"result": "fail", "failure_message": TEMPORARY}
        stage.plugin_lives = False
        process = stage.lsp.processes[0]
        await stage.world.bounded(process.gone.wait(), None, "the plugin ends by itself")
        assert process.exit_code == 0
