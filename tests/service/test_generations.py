"""One attempt on a jit scid is over and the next under way: what is late of the first must not touch the second."""

from __future__ import annotations

from typing import Any

from harness.service import CLIENT_TRUSTS, SIZE_MSAT, UNKNOWN, Stage

from lsps2fast_plugin.cln.retry import LONGEST_PAUSE_MS
from lsps2fast_plugin.service.coins import RESERVE_BLOCKS
from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payment

ONE_COIN = {"wallet_sat": (400_000,)}
ANSWER_S = 61  # longer than an RPC call may take


def _reserved(stage: Stage) -> list[dict[str, Any]]:
    return [row for row in stage.lsp.wallet.rows() if row["reserved"]]


async def _turn(stage: Stage, seconds: float) -> None:
    """Time that passes for RPC calls, too."""
    await stage.lsp.call("lsps2-dev-advance", {"seconds": seconds, "calls": True})


async def _refused_once(stage: Stage, hanging: str) -> tuple[Client, Payer, ClientInvoice, Any]:
    """A first attempt that the client refused, whose clean-up had to ask twice: the first call lies in lightningd."""
    client, payer = stage.client(reject_open="not now"), stage.payer()
    client.lacks.add(23)  # there is one type to ask for
    invoice = await stage.invoice(client)
    stuck = stage.lsp.faults.hang(hanging)
    refused = payer.pay(invoice, [SIZE_MSAT])
    await stuck.reached.wait()
    await _turn(stage, ANSWER_S)
    await stage.fence()
    await _turn(stage, 1)
    assert (await refused).raw_messages == [UNKNOWN]
    await stage.ended(invoice)
    client.behaviour.reject_open = None
    return client, payer, invoice, stuck


async def _second_attempt(stage: Stage, client: Client, payer: Payer, invoice: ClientInvoice) -> Payment:
    client.behaviour.on_part = "hold"
    payment = payer.pay(invoice, [SIZE_MSAT])
    await stage.until(lambda: len(client.held()) == 1, "the part with the client")
    return payment


async def test_a_late_clean_up_of_the_first_attempt_leaves_the_second_its_coin() -> None:
    """K-13, rule:2, rule:7: carried out when the same coin pays for the next channel, which is withheld and used."""
    async with Stage(CLIENT_TRUSTS, **ONE_COIN) as stage:
        client, payer, invoice, stuck = await _refused_once(stage, "unreserveinputs")
        payment = await _second_attempt(stage, client, payer, invoice)
        (coin,) = _reserved(stage)
        stuck.release()
        await stage.quiet()
        assert [row["txid"] for row in _reserved(stage)] == [coin["txid"]]
        assert [end.state for end in client.ends if not end.channel.dead] == ["CHANNELD_NORMAL"]
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_renewal_that_could_not_be_made_is_not_made_after_the_release() -> None:
    """O-04, rule:9: refused until the payment had failed and its coins were free; tried later it would keep them."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT], final_delta=2 * RESERVE_BLOCKS)
        await stage.until(lambda: len(client.held()) == 1, "the part with the client")
        refusal = stage.lsp.faults.fail("reserveinputs", times=1_000)
        stage.world.mine(RESERVE_BLOCKS - 2)
        await stage.quiet()
        assert refusal.hits
        client.fail(client.held()[0])
        assert not (await payment).paid
        assert await stage.ended(invoice) == "ABANDONED"
        stage.lsp.faults.clear()
        await stage.world.advance(LONGEST_PAUSE_MS / 1000)
        await stage.quiet()
        assert _reserved(stage) == []


async def test_a_renewal_that_finds_nobody_is_tried_again_with_pauses() -> None:
    """O-04, rule:10: lightningd takes no calls for a while; each try is told once, and after it the coins are ours."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT], final_delta=2 * RESERVE_BLOCKS)
        await stage.until(lambda: len(client.held()) == 1, "the part with the client")
        (coin,) = _reserved(stage)
        stage.lsp.server.stop()
        stage.forget_calls()
        stage.world.mine(RESERVE_BLOCKS - 2)
        await stage.until(lambda: stage.log_lines("renewing a reservation failed"), "a first try")
        for _ in range(20):
            await stage.fence()
        assert len(stage.log_lines("renewing a reservation failed")) <= 2  # one for each order to renew, at once
        await stage.lsp.server.start(stage.lsp.rpc_path)
        await stage.world.advance(LONGEST_PAUSE_MS / 1000)
        await stage.until(lambda: _reserved(stage)[0]["reserved_to_block"] > coin["reserved_to_block"], "the renewal")
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
