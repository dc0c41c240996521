"""What strangers, payers and other clients do so that an honest wallet is not served: rows L of the catalogue.

The wallet of such a visit is honest, and must be served all the same.
"""

from __future__ import annotations

import asyncio
import contextlib

from lsps2fast_plugin.simnode import Client, LspsError
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.errors import NodeProblem

from .books import Sale
from .honest import Honest
from .scene import Scene, Visitor


class StrangerPays(Honest):
    """A stranger with the invoice pays over its scid with hashes of their own."""

    name = "stranger-pays"
    row = "L1"

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        for _ in range(me.some(1, 4)):
            await me.end(me.stranger_pays(sale, invoice, [invoice.amount_msat or 0]))
            me.did()
            await me.is_blameless(wallet)
            await me.rest(1, 60)


class DustSet(Honest):
    """A stranger with the invoice fills the set with parts of 1 msat of the invoice's own hash."""

    name = "dust-set"
    row = "L3"
    parts = (1, 4)

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        amounts = [me.some(1, 1_000) for _ in range(me.some(5, 35))]
        me.pay(sale, invoice, amounts, total_msat=invoice.amount_msat or 0)
        me.did()
        await me.rest(0.1, 40)


class TooManyParts(Honest):
    """A payer's wallet sends sixty parts at once, and then fewer."""

    name = "too-many-parts"
    row = "L7"

    def split(self, me: Scene, amount_msat: int) -> list[int]:
        """Break the first try."""
        count = 60 if me.maybe(0.3) else me.some(1, 6)
        if count == 60:
            me.did()
        return me.split(amount_msat, count)


class Crowd(Visitor):
    """Several names buy, and hold the node's HTLC slots with small parts that never make a payment."""

    name = "crowd"
    row = "L4"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(2, 3)):
            wallet = me.wallet()
            for _ in range(me.some(2, 6)):
                sale = await me.buy(wallet, me.sat(5_000, 100_000))
                for _ in range(me.some(1, 4) if sale is not None else 0):
                    assert sale is not None
                    least_msat = me.some(500, 2_000)
                    me.pay(sale, me.bill(sale), [least_msat] * me.some(5, 30), total_msat=sale.size_msat)
        await me.rest(6, 80)
        me.say("holds what it can")
        if me.town.lsp.htlcs.held:
            me.did()
        await me.rest(60, 200)
        await me.leave()


class AsksOn(Visitor):
    """Several names ask for the menu, far more often than they may, and some go away before they are answered."""

    name = "asks-on"
    row = "L4"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(2, 4)):
            wallet = me.wallet()
            asked = [me.town.background(self.ask(wallet)) for _ in range(me.some(20, 90))]
            if me.maybe(0.3):
                await me.rest(0, 0.01)
                wallet.go_offline()
            await asyncio.wait(asked)
            me.say("has asked for many menus")
            me.did()
            await me.rest(1, 90)
        await me.leave()

    async def ask(self, wallet: Client) -> None:
        """Ask once; what comes of it is no matter."""
        with contextlib.suppress(LspsError, NodeProblem):
            await wallet.request("lsps2.get_info", timeout_s=120)


class AliasFlood(Visitor):
    """A paid channel's client goes away, and many parts come over its alias."""

    name = "alias-flood"
    row = "S16"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        sale = await me.buy(wallet, me.sat(50_000, 400_000))
        if sale is None:
            return
        paid = await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
        wallet.go_offline()
        await me.rest(10, 4_000)
        payment = me.stranger_pays(sale, sale.invoices[0], [me.some(1, 2_000) for _ in range(me.some(30, 300))])
        await me.end(payment, 7_200)
        if paid is not None and paid.paid:
            me.did()
        wallet.connect()
        await me.blocks(me.some(1, 100))
        await me.leave()


class RefusesOddly(Visitor):
    """A client that fails parts with codes of a node's own trouble, then takes the payment after all."""

    name = "refuses-oddly"
    row = "L2"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="hold")
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        invoice = me.bill(sale)
        for _ in range(me.some(1, 4)):
            payment = me.pay(sale, invoice, me.split(sale.size_msat or 0, me.some(1, 3)))
            await me.rest(5, 60)
            for part in wallet.held():
                wallet.fail(part, bytes.fromhex(me.dice.choice(("2002", "0017", "400f", "1007", ""))))
                me.did()
            await me.end(payment)
        await me.leave()


class WantsLarge(Honest):
    """A wallet that takes no channel under 20,000 sat, paid a little."""

    name = "wants-large"
    row = "L5"

    def wallet(self, me: Scene) -> Client:
        return me.wallet(least_funding_sat=20_000)

    async def be_paid(self, me: Scene, wallet: Client, sale: Sale, amount_msat: int) -> bool:
        paid = await super().be_paid(me, wallet, sale, amount_msat)
        if paid:
            me.did()
        return paid


class Outgrows(Visitor):
    """A channel is left unpaid by a small payment; a larger one over the same offer does not fit into it."""

    name = "outgrows"
    row = "L9"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sale = await me.buy(wallet, None)
        if sale is None:
            return
        small_sat = max(me.sat(2_000, 20_000), sale.params.min_payment_size_msat // 1000 + 1)
        await me.end(me.pay(sale, me.bill(sale, small_sat), [small_sat * 1000]))
        wallet.behaviour.on_part = "settle"
        large = me.bill(sale, small_sat * me.some(10, 50))
        for _ in range(me.some(1, 4)):
            if wallet.ends and (large.amount_msat or 0) > wallet.ends[-1].channel.capacity_sat * 1000:
                me.did()
            await me.end(me.pay(sale, large, me.split(large.amount_msat or 0, me.some(1, 3))))
            await me.rest(60, 20_000)
        await me.leave()


LIVENESS: tuple[type[Visitor], ...] = (
    StrangerPays,
    DustSet,
    TooManyParts,
    Crowd,
    AsksOn,
    AliasFlood,
    RefusesOddly,
    WantsLarge,
    Outgrows,
)
