"""What the operator orders while a sale is under way: closes, and the end of the node."""

from __future__ import annotations

import asyncio

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, Stage

from lsps2fast_plugin.simnode.errors import RpcError


async def test_a_close_of_the_withheld_channel_is_refused_and_the_payment_goes_on() -> None:
    """rule:7, cln:N3: the part is with the client when the operator closes; our own close of a failed sale works."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice)
        await stage.until(lambda: len(client.held()) == 1, "the part with the client")
        with pytest.raises(RpcError, match="its funding is not sent yet"):
            await stage.lsp.call("close", {"id": client.node_id})
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        stage.world.mine()


@pytest.mark.parametrize("command", ["close", "splicein"])
async def test_nothing_breaks_the_channel_before_its_first_block(command: str) -> None:
    """cln:N3: paid and public, in no block yet; a lifetime of no blocks promises nothing else.

    A splice would make lightningd close it by force.
    """
    async with Stage(LSP_TRUSTS, options={"lsps2-min-lifetime": 0}) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        (end,) = client.ends
        ask = {"close": {"id": client.node_id}, "splicein": {"channel": end.channel.channel_id, "amount": 10_000}}
        with pytest.raises(RpcError, match="its funding is in no block yet"):
            await stage.lsp.call(command, ask[command])
        assert end.state == "CHANNELD_NORMAL"
        stage.world.mine()
        await stage.quiet()
        await stage.lsp.call(command, ask[command])


async def test_a_cancel_of_another_tool_does_not_take_the_channel_that_waits_to_be_ready() -> None:
    """cln:N1, rule:26: lightningd would take our withheld channel; the client is slow, and is paid all the same."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice)
        await stage.until(lambda: bool(client.ends), "the channel")
        with pytest.raises(RpcError, match="no other open is under way with its peer"):
            await stage.lsp.call("fundchannel_cancel", {"id": client.node_id})
        client.release_ready()
        assert (await payment).paid
        await stage.over(invoice)
        stage.world.mine()


async def test_a_node_that_is_to_end_sells_nothing_more() -> None:
    """cln:N8: `stop` and `graceful` are heard of before they are carried out; `lsps2-resume` takes it back."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        planned = len(stage.world.clock._timers)
        ending = asyncio.ensure_future(stage.lsp.call("graceful", {"timeout": 1}))
        await stage.until(lambda: len(stage.world.clock._timers) > planned, "the time-out of `graceful`")
        assert stage.log_lines("nothing is sold until")
        await stage.world.advance(1)
        await ending
        assert (await stage.stats())["paused"]
        assert (await client.request("lsps2.get_info"))["opening_fee_params_menu"] == []
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        await stage.lsp.call("lsps2-resume", {})
        await stage.sale(client, payer)
