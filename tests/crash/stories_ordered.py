"""Channels that are ordered and paid ahead (bLIP-51)."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.closing import force_close
from lsps2fast_plugin.simnode.errors import RpcError

from .case import CLIENT_TRUSTS, LSP_TRUSTS
from .stage import SIZE_MSAT, Stage
from .stories_batch import BATCH, WINDOW_S
from .story import LONGEST_PAUSE_S, scenario

TRIES = 12  # of a client that orders a channel
ORDERS = {"lsps2-lsps1": "on", "lsps2-max-orders-per-peer": 100}


async def _ordered(stage: Stage, client: Client, parts: int = 1) -> None:
    """Order and pay; an order that failed is made again, as people do."""
    for _ in range(TRIES):
        stage.mend()
        if await stage.pay_order(stage.payers[0], order := await stage.order(client), parts):
            await stage.has_its_channel(order)
            return
        await stage.calm()
        await stage.turn(LONGEST_PAUSE_S)
        stage.world.mine()
    stage.problems.append(f"{client.name} never got the channel that it ordered")


@scenario(CLIENT_TRUSTS, options=ORDERS)
async def ordered(stage: Stage) -> None:
    """A channel is ordered and paid in two parts (bLIP-51)."""
    client, _ = stage.client(), stage.payer(channels=2)
    await stage.begin()
    await _ordered(stage, client, parts=2)


@scenario(CLIENT_TRUSTS, options=ORDERS)
async def ordered_refused(stage: Stage) -> None:
    """The client refuses the channel that it has paid for: the payment goes back; then it takes one."""
    client, payer = stage.client(reject_open="not now"), stage.payer()
    await stage.begin()
    order = await stage.order(client)
    payment = await stage.send_order(payer, order)
    await stage.quiet()
    await stage.turn(1)
    client.behaviour.reject_open = None
    await stage.result(payment)
    if order.paid_msat:
        await stage.has_its_channel(order)
    else:
        await _ordered(stage, client)


@scenario(CLIENT_TRUSTS, options=ORDERS)
async def ordered_beside_a_sale(stage: Stage) -> None:
    """One client orders a channel, and is paid over a jit scid at the same time; nothing is shared but the coins."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    order = await stage.order(client)
    await stage.begin()
    payment = await stage.send(payer, sale, [SIZE_MSAT])
    got = await stage.pay_order(payer, order)
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale)
    if got:
        await stage.has_its_channel(order)
    else:
        await _ordered(stage, client)


@scenario(LSP_TRUSTS, options=ORDERS | BATCH)
async def ordered_beside_a_batch(stage: Stage) -> None:
    """One of those whose channels share a transaction orders another within the same window; two coins, no more."""
    client, other, payer = stage.client("alice"), stage.client("bertha"), stage.payer(channels=2)
    sales = [await stage.sale(each) for each in (client, other)]
    order = await stage.order(client)
    await stage.begin()
    payments = [await stage.send(payer, sale, [SIZE_MSAT]) for sale in sales]
    await stage.quiet()
    ordered = await stage.send_order(payer, order)
    await stage.quiet()
    await stage.turn(WINDOW_S)
    await stage.result(*payments, ordered)
    for sale in sales:
        await stage.pay_unpaid(payer, sale)
    if order.paid_msat:
        await stage.has_its_channel(order)
    else:
        await _ordered(stage, client)


class _Refusal:
    """bitcoind refuses every funding that lightningd has begun to send, until it is `over`."""

    def __init__(self, stage: Stage) -> None:
        self.tries, self.over = 0, False
        self._send, stage.lsp.wallet.send = stage.lsp.wallet.send, self._take  # type: ignore[method-assign]

    def _take(self, tx: Any) -> Any:
        self.tries += 1
        if not self.over:
            raise RpcError(-1, "Error broadcasting transaction: mempool min fee not met")
        return self._send(tx)


@scenario(CLIENT_TRUSTS, options=ORDERS)
async def ordered_part_on_chain(stage: Stage) -> None:
    """bitcoind refuses the funding, and one of the channels that bring the payment goes to the chain meanwhile."""
    client, _, payer = stage.client(), stage.payer(), stage.payer("leaver", channels=2)
    refusal = _Refusal(stage)
    (end,) = payer.ends[:1]

    async def leave() -> None:
        if refusal.tries and not end.channel.dead:
            force_close(end, "by the payer")
            stage.payers_spent_msat += end.channel.commitment_fee_sat() * 1000

    stage.while_down = leave
    await stage.begin()
    order = await stage.order(client)
    payment = await stage.send_order(payer, order, parts=2)
    await stage.until(lambda: refusal.tries or payment.done, "the funding is sent")
    await stage.turn(1)
    await stage.quiet()
    await leave()
    await stage.quiet()
    refusal.over = True
    await stage.result(payment)
    if order.paid_msat:
        await stage.has_its_channel(order)
    else:
        await _ordered(stage, client)
