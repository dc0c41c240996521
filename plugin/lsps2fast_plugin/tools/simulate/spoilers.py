"""Strategists who share a funding transaction with others, and spoil it."""

from __future__ import annotations

from lsps2fast_plugin.simnode.script import DEEDS

from .scene import Scene, Visitor

BEFORE_THE_SENDING = ("open_channel", "accept_channel", "funding_created", "funding_signed", "channel_ready")


class SpoilsBatches(Visitor):
    """Several names are paid at one time; one or two of them fail at a message of the open, a second time perhaps."""

    name = "spoils-batches"
    row = "S0"

    async def play(self, me: Scene) -> None:
        count = me.some(3, 7)
        spoilers = me.some(1, 2)
        sales = []
        for number in range(count):
            script = {self._when(me): me.dice.choice(DEEDS)} if number < spoilers else {}
            sale = await me.buy(me.wallet(script=script), me.sat(5_000, 200_000))
            if sale is not None:
                sales.append(sale)
        me.dice.shuffle(sales)
        payments = []
        for sale in sales:
            payments.append(me.pay(sale, me.bill(sale), me.split(sale.size_msat or 0, me.some(1, 3))))
            await me.rest(0, 3)
        for payment in payments:
            await me.end(payment, 3_600)
        if len(payments) > 1 and any(wallet.script.done for wallet in me.wallets):
            me.did()
        for wallet in me.wallets:
            wallet.speak()
        await me.blocks(me.some(1, 30))
        await me.leave()

    def _when(self, me: Scene) -> str:
        again = "#2" if me.maybe(0.3) else ""
        return me.dice.choice(BEFORE_THE_SENDING) + again


SPOILERS: tuple[type[Visitor], ...] = (SpoilsBatches,)
