"""Honest people who order channels and pay them ahead (LSPS1). They come to towns that sell so."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.party import connect

from .ordered import Order
from .ordering import Customer
from .scene import Scene

PAUSES_S = (10, 60, 600)


class OrdersAhead(Customer):
    """Orders a channel, has it paid, and uses it."""

    honest = True
    row = ""
    name = "orders-ahead"
    parts: ClassVar[tuple[int, int]] = (1, 1)

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        for _ in range(3):
            order = await self.order(me, wallet)
            if order is not None and await self.be_served(me, wallet, order):
                me.books.totals["orders served"] += 1
                await self.use(me, wallet)
                break
            await me.rest(600, 7_200)
            connect(wallet, me.town.lsp)
        else:
            me.books.totals["orders unserved"] += 1
            me.say("gave up ordering")
        await me.blocks(me.some(20, 200))
        await self.leave(me)

    async def be_served(self, me: Scene, wallet: Client, order: Order) -> bool:
        """Whether the order came to a channel; the payer tries again until the invoice has ended."""
        await self.before_paying(me, wallet)
        tries = 0
        while me.town.loop.time() < order.until_s - 60:
            parts = me.split(order.price_msat, me.some(*self.parts))
            payment = self.pay(me, order, parts)
            await self.while_paying(me, wallet)
            await me.end(payment)
            if order.taken_msat:
                return await self.get_it(me, wallet, order)
            await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            connect(wallet, me.town.lsp)
            tries += 1
            if (await self.told(me, order))[0] == "FAILED":
                return False
        return False

    async def get_it(self, me: Scene, wallet: Client, order: Order) -> bool:
        """Whether its channel comes; it is asked about, as a wallet does, until the LSP says that it is there."""
        for _ in range(200):
            if await self.told(me, order) == ("COMPLETED", "PAID") and order.on_chain:
                return True
            await me.rest(60, 600)
            connect(wallet, me.town.lsp)
        return bool(order.on_chain)

    async def before_paying(self, me: Scene, wallet: Client) -> None:
        """Before the payment."""
        await me.rest(1, 1_200)

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        """While it is under way."""

    async def use(self, me: Scene, wallet: Client) -> None:
        """Be paid over the channel, or buy another just in time, for which the room in this one may be used."""
        for _ in range(me.some(0, 3)):
            await me.rest(600, 7_200)
            if me.maybe(0.5) and wallet.ends and not wallet.ends[-1].channel.dead:
                invoice = wallet.invoice(me.sat(1_000, 20_000) * 1000, wallet.ends[-1].other.scid_now())
                await me.payer.pay(invoice, final_delta=18, overpay_msat=1_000, cltv_delta=200).wait(86_400)
                me.say(f"{wallet.name} is paid over the channel that it ordered")
                continue
            size_sat = me.sat(5_000, 200_000)
            sale = await me.buy(wallet, size_sat, size_sat)
            if sale is not None:
                await me.end(me.pay(sale, me.bill(sale), me.split(size_sat * 1000, me.some(1, 3))))


class OrdersInParts(OrdersAhead):
    """Pays in several parts."""

    name = "orders-in-parts"
    parts = (2, 8)


class OrdersAsleep(OrdersAhead):
    """Orders, goes away, and is back within some minutes of the payment."""

    name = "orders-asleep"
    parts = (1, 4)

    async def before_paying(self, me: Scene, wallet: Client) -> None:
        await me.rest(1, 600)
        wallet.go_offline()

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        await me.rest(2, 500)
        wallet.connect()


HONEST: dict[str, type[Customer]] = {kind.name: kind for kind in (OrdersAhead, OrdersInParts, OrdersAsleep)}
