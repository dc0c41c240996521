"""Clients that order a channel (LSPS1) and buy one just in time (LSPS2) at the same moment.

Both wait for the same coins, budgets and held parts. They come from a stream of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.party import connect

from .books import Sale
from .customers import OrdersAhead
from .honest import Honest
from .ordered import Order
from .ordering import Customer
from .pots import check_pots
from .scene import Scene, Visitor

DELAYS_S = (0.0, 0.001, 0.5, 20)
ENDS = ("plugin stopped", "plugin killed", "node stopped", "power cut")
AMID_S = (0.01, 0.5, 10)  # after the first payment the LSP starts again within so long
Before = Callable[[], Awaitable[None]]


class _Order(OrdersAhead):
    """Pays an order in some parts once the moment has come."""

    parts = (1, 4)

    def __init__(self, before: Before) -> None:
        self._before = before

    async def before_paying(self, me: Scene, wallet: Client) -> None:
        await self._before()


class _Buy(Honest):
    """Pays a sale likewise."""

    parts = (1, 4)

    def __init__(self, before: Before) -> None:
        self._before = before

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        await self._before()


class BothWays(Customer):
    """Orders a channel and buys another; both are paid at one moment, in any order, also while the LSP starts again."""

    name = "both-ways"
    honest = True

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        for _ in range(me.some(1, 3)):
            await self._both(me, wallet)
            await me.rest(600, 7_200)
            connect(wallet, me.town.lsp)
        await me.blocks(me.some(1, 60))
        await self.leave(me)

    async def _both(self, me: Scene, wallet: Client) -> None:
        size_sat = me.sat(5_000, 200_000)
        asked: list[Awaitable[Order | Sale | None]] = [self.order(me, wallet), me.buy(wallet, size_sat, size_sat)]
        order, sale = await asyncio.gather(*asked)
        if not isinstance(order, Order) or not isinstance(sale, Sale):
            return
        if me.maybe(0.6):  # so that both are held
            wallet.go_offline()
            me.town.loop.call_later(me.dice.uniform(2, 300), wallet.connect)
        moment = asyncio.Event()
        delays_s = [0.0, me.dice.choice(DELAYS_S)]
        me.dice.shuffle(delays_s)

        def after(delay_s: float) -> Before:
            async def before() -> None:
                await moment.wait()
                if delay_s:
                    await asyncio.sleep(delay_s)

            return before

        works = [
            _Order(after(delays_s[0])).be_served(me, wallet, order),
            _Buy(after(delays_s[1])).be_paid(me, wallet, sale, size_sat * 1000),
            self._amid(me, moment),
        ]
        me.dice.shuffle(works)  # in one turn any of them may be the first
        asyncio.get_running_loop().call_soon(moment.set)
        await asyncio.gather(*works)
        if order.on_chain and sale.paid_s is not None:
            me.books.totals["served both ways"] += 1
            me.did()

    async def _amid(self, me: Scene, moment: asyncio.Event) -> bool:
        """Let the LSP start again between the payments, now and then."""
        await moment.wait()
        if not me.maybe(0.3):
            await me.rest(6, 60)
            await check_pots(me.common)
            return False
        how = me.dice.choice(ENDS)
        async with me.trouble():
            await me.rest(0, me.dice.choice(AMID_S))
            me.say(how)
            return await me.common.restart(how)


KINDS: dict[str, type[Visitor]] = {BothWays.name: BothWays}
