"""Honest people: wallets that want a channel, and those who pay them. Each class is one way to be honest."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.party import connect

from .books import Sale
from .scene import Scene, Visitor

PAUSES_S = (10, 30, 120, 600, 1_800, 3_600)  # between a payer's tries; then as the last
BUYS = 4  # that a wallet makes for one payment
STAY_BLOCKS = (20, 400)


class Honest(Visitor):
    """A wallet that buys, is paid by a payer who tries again, lives for a while and closes its channel."""

    honest = True
    name = "plain"
    parts: ClassVar[tuple[int, int]] = (1, 1)
    pauses_s: ClassVar[tuple[int, ...]] = PAUSES_S
    is_fixed: ClassVar[bool] = True

    async def play(self, me: Scene) -> None:
        """Come, be paid, stay, leave."""
        wallet = self.wallet(me)
        size_sat = me.sat(2_000, 900_000)
        begun_s = me.town.loop.time()
        for _ in range(BUYS):
            sale = await me.buy(wallet, size_sat if self.is_fixed else None, size_sat)
            if sale is not None and await self.be_paid(me, wallet, sale, size_sat * 1000):
                me.served()
                break
            await me.rest(600, 7_200)
            connect(wallet, me.town.lsp)
        else:
            me.unserved(begun_s)
        await me.blocks(me.some(*STAY_BLOCKS))
        await me.leave()

    def wallet(self, me: Scene) -> Client:
        """Return the wallet of this person."""
        return me.wallet()

    async def be_paid(self, me: Scene, wallet: Client, sale: Sale, amount_msat: int) -> bool:
        """Whether the money came before the offer ended; the payer tries again and again."""
        invoice = me.bill(sale, amount_msat // 1000)
        await self.before_paying(me, wallet, sale, invoice)
        sale.wanted_s = me.town.loop.time()
        tries = 0
        while me.town.loop.time() < sale.until_s - 120:
            payment = me.pay(sale, invoice, self.split(me, amount_msat))
            await self.while_paying(me, wallet)
            result = await me.end(payment)
            if result is not None and result.paid:
                return True
            if invoice.paid_msat is not None or result is None:
                return invoice.paid_msat is not None
            await asyncio.sleep(self.pauses_s[min(tries, len(self.pauses_s) - 1)])
            connect(wallet, me.town.lsp)
            tries += 1
        return False

    def split(self, me: Scene, amount_msat: int) -> list[int]:
        """Return the parts of one try."""
        return me.split(amount_msat, me.some(*self.parts))

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        """Do what comes between the invoice and the payment."""
        await me.rest(2, 300)

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        """Do what comes between the payment and its end."""


class Mpp(Honest):
    """A payer who splits as wallets do."""

    name = "mpp"
    parts = (2, 6)


class XpayLike(Honest):
    """A payer whose parts are many and unequal, as xpay's are."""

    name = "xpay"
    parts = (7, 20)


class AnyAmount(Honest):
    """An invoice without an amount."""

    name = "any-amount"
    is_fixed = False
    parts = (1, 3)


class ProbesFirst(Honest):
    """A payer who probes the way with a random hash before paying."""

    name = "probes-first"

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        await me.rest(2, 60)
        await me.end(me.stranger_pays(sale, invoice, [invoice.amount_msat or 10_000_000]))
        await me.rest(2, 30)


class Late(Honest):
    """A payer who pays in the last hour of the offer."""

    name = "late"

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        left_s = sale.until_s - me.town.loop.time()
        await asyncio.sleep(max(0.0, left_s - me.some(300, 3_600)))


class Impatient(Honest):
    """A payer who tries again every second."""

    name = "impatient"
    pauses_s = (1, 1, 1, 2, 5, 5, 60, 600)


class PaidAgain(Honest):
    """A wallet that is paid over its new channel again and again."""

    name = "paid-again"

    async def be_paid(self, me: Scene, wallet: Client, sale: Sale, amount_msat: int) -> bool:
        if not await super().be_paid(me, wallet, sale, amount_msat):
            return False
        for _ in range(me.some(1, 4)):
            await me.rest(600, 7_200)
            more = wallet.invoice(me.sat(1_000, 20_000) * 1000, sale.scid, cltv_delta=sale.cltv_delta)
            if me.town.loop.time() < sale.until_s - 60:
                await me.payer.pay(more).wait(86_400)
                me.say(f"{wallet.name} is paid again over {sale.scid}")
        return True


class Asleep(Honest):
    """A phone: away when the payment comes, woken up by it."""

    name = "asleep"

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        await me.rest(2, 60)
        wallet.go_offline()

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        await me.rest(2, 500)
        wallet.connect()


class Reconnecting(Honest):
    """A wallet on a bad line: comes and goes while it is paid."""

    name = "reconnecting"
    parts = (1, 4)

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        for _ in range(me.some(1, 4)):
            await me.rest(0.0, 0.4)
            wallet.disconnect()
            await me.rest(0.1, 20)
            connect(wallet, me.town.lsp)


class Holding(Honest):
    """A hold invoice: the wallet takes the parts at once and the money later."""

    name = "holding"

    def wallet(self, me: Scene) -> Client:
        return me.wallet(on_part="hold")

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        await me.rest(30, 7_200)
        if wallet.held():
            wallet.settle_held()


class Blinded(Honest):
    """An invoice that hides its jit scid in a blinded path, as those of BOLT 12 do."""

    name = "blinded"
    parts = (1, 4)

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        wallet.blind(invoice)
        await me.rest(2, 300)


KINDS: dict[str, type[Honest]] = {
    kind.name: kind
    for kind in (
        Honest,
        Mpp,
        XpayLike,
        AnyAmount,
        ProbesFirst,
        Late,
        Impatient,
        PaidAgain,
        Asleep,
        Reconnecting,
        Holding,
        Blinded,
    )
}
