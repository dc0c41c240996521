"""A reorg takes the funding of a sold channel out of its block, and no mempool has it: it is sent again (rule:8)."""

from __future__ import annotations

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, Stage

from lsps2fast_plugin.simnode import Client

COINS = (1_000_000,) * 4


def lose(stage: Stage, client: Client, blocks: int = 1) -> str:
    """So many blocks are replaced; the transaction is nowhere any more. Its txid."""
    txid = client.ends[0].channel.funding_txid
    stage.world.reorg(blocks, without=(txid,))
    return txid


@pytest.mark.parametrize("buried", [1, 3, 5])
async def test_the_funding_of_a_paid_channel_that_a_reorg_loses_is_sent_again(mode: str, buried: int) -> None:
    """rule:8, rule:23: looked at, then sent; the client's money is on chain again."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        sent = len(stage.calls("sendpsbt"))
        for _ in range(buried - 1):
            stage.world.mine()
            await stage.quiet()
        txid = lose(stage, client, buried)
        await stage.until(lambda: stage.world.chain.knows(txid), "the funding is sent again")
        await stage.quiet()
        assert len(stage.calls("sendpsbt")) == sent + 1
        asked = stage.order("listpeerchannels", "sendpsbt")
        last = len(asked) - 1 - asked[::-1].index("sendpsbt")
        assert (asked[last - 1], asked[last + 1]) == ("listpeerchannels", "listpeerchannels")
        assert len(stage.log_lines("lost its block: sent again")) == 1
        for _ in range(8):
            stage.world.mine()
            await stage.quiet()
        assert stage.world.chain.depth(txid) == 8
        assert len(stage.calls("sendpsbt")) == sent + 1


@pytest.mark.parametrize("how", ["stop", "kill", "power"])
async def test_a_reorg_while_we_are_away_is_found(mode: str, how: str) -> None:
    """rule:8, rule:9: the start asks bitcoind for each young funding."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        await (stage.stop if how == "stop" else stage.kill)()
        txid = lose(stage, client)
        if how == "power":
            await stage.restart(power=True)
            client.connect()
        else:
            await stage.start()
        stage.world.mine()
        await stage.until(lambda: stage.world.chain.knows(txid), "the funding is sent again")
        stage.world.mine()
        await stage.quiet()
        assert stage.world.chain.depth(txid) >= 1


async def test_bitcoind_that_refuses_is_asked_again_with_the_next_block() -> None:
    """rule:8, rule:10."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        stage.lsp.faults.fail("sendpsbt", times=3)
        txid = lose(stage, client)
        for _ in range(3):
            await stage.quiet()
            stage.world.mine()
        await stage.until(lambda: stage.world.chain.knows(txid), "the funding is sent again")
        stage.world.mine()
        await stage.quiet()


async def test_a_reorg_that_bitcoind_heals_itself_sends_nothing() -> None:
    """rule:8: its mempool has the funding again."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        sent = len(stage.calls("sendpsbt"))
        stage.world.reorg(1)
        for _ in range(8):
            stage.world.mine()
            await stage.quiet()
        assert len(stage.calls("sendpsbt")) == sent


async def test_the_funding_of_an_unpaid_channel_that_a_reorg_loses_is_sent_again() -> None:
    """rule:8: the next payment over its scid would pay for it."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS, fresh=True) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        invoice = await stage.invoice(client)
        await payer.pay(invoice, [SIZE_MSAT])
        await stage.quiet()
        stage.world.mine()
        await stage.quiet()
        txid = lose(stage, client)
        await stage.until(lambda: stage.world.chain.knows(txid), "the funding is sent again")
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        stage.world.mine()


async def test_a_closed_channel_needs_no_funding_again() -> None:
    """rule:23: the client has closed it meanwhile; nothing is sent for it."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        client.send_shutdown()
        await stage.quiet()
        sent = len(stage.calls("sendpsbt"))
        stage.world.reorg(1)
        for _ in range(3):
            stage.world.mine()
            await stage.quiet()
        assert len(stage.calls("sendpsbt")) == sent
