"""Sales that meet: in one window some share a funding, some go over a channel that is there, some wake their wallet.

They come to towns whose LSP does all three, from a stream of their own.
"""

from __future__ import annotations

import asyncio

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.script import DEEDS

from .books import Sale
from .honest import Honest
from .scene import Scene, Visitor
from .sleepers import set_webhook
from .spoilers import BEFORE_THE_SENDING

WINDOW_S = 25.0  # within which all are paid: a batch gathers for half a minute


class PaidTogether(Honest):
    """A wallet with room and some without any are paid within one window; several sleep until they are called.

    For the first there are more sales than its room can take, so some go over its channel and some into the batch.
    """

    name = "paid-together"
    row = "all"
    parts = (1, 3)

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        """All payers come within the window."""
        await me.rest(0, WINDOW_S)

    async def play(self, me: Scene) -> None:
        rich = me.wallet()
        first = await me.buy(rich, me.sat(20_000, 200_000))
        if first is None or not await self.be_paid(me, rich, first, first.size_msat or 0):
            return
        for _ in range(me.some(1, 3)):
            await me.rest(600, 7_200)
            await self._meet(me, rich)
        await me.blocks(me.some(1, 60))
        await me.leave()
        for wallet in me.wallets:
            me.town.apps.wakes.pop(self._host(me, wallet), None)

    async def _meet(self, me: Scene, rich: Client) -> None:
        wallets = [rich, *(me.wallet() for _ in range(me.some(2, 4)))]
        sleepers = [wallet for wallet in wallets if me.maybe(0.5)]
        for wallet in sleepers:
            await self._sleep_lightly(me, wallet)
        buyers = [rich] * me.some(1, 3) + wallets[1:]
        bought = [await me.buy(wallet, me.sat(10_000, 150_000)) for wallet in buyers]
        sales = [(wallet, sale) for wallet, sale in zip(buyers, bought, strict=True) if sale is not None]
        if me.maybe(0.3):
            spoiler = me.dice.choice(wallets)
            spoiler.behaviour.script = {me.dice.choice(BEFORE_THE_SENDING): me.dice.choice(DEEDS)}
        for wallet in sleepers:
            wallet.go_offline()
        me.dice.shuffle(sales)
        await asyncio.gather(*(self._paid(me, wallet, sale) for wallet, sale in sales))
        if len({wallet.node_id for wallet, _ in sales}) > 1:
            me.did()
        for wallet in wallets:
            wallet.behaviour.script = {}
            wallet.speak()
            wallet.connect()

    async def _paid(self, me: Scene, wallet: Client, sale: Sale) -> None:
        if await self.be_paid(me, wallet, sale, sale.size_msat or 0):
            me.books.totals["paid together"] += 1

    def _host(self, me: Scene, wallet: Client) -> str:
        return f"app.v{me.number}-{me.wallets.index(wallet)}.example"

    async def _sleep_lightly(self, me: Scene, wallet: Client) -> None:
        """Register a webhook whose app wakes this wallet; it needs a moment to be there."""
        host = self._host(me, wallet)
        loop = me.town.loop

        def wake() -> None:
            loop.call_later(me.dice.uniform(0.1, 20), wallet.connect)
            me.books.totals["woken"] += 1

        if await set_webhook(me, wallet, host):
            me.town.apps.wakes[host] = wake


KINDS: dict[str, type[Visitor]] = {kind.name: kind for kind in (PaidTogether,)}
