"""Strategists whose weapon is time: they wait, hold, fall silent or come late. `MONEY` in `strategies.py` has them."""

from __future__ import annotations

from lsps2fast_plugin.simnode.script import MESSAGES

from .scene import Scene, Visitor


class Lapses(Visitor):
    """Takes a public channel, is paid nothing for it until its offer has ended, and keeps it for a while."""

    name = "lapses"
    row = "S17"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
        await me.rest(90_000, 250_000)
        if wallet.ends and me.town.loop.time() > sale.until_s:
            me.did()
        await me.leave()


class HoldsLong(Visitor):
    """Parts that expire far ahead, held by the client until one side closes."""

    name = "holds-long"
    row = "S11"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(1, 5)):
            wallet = me.wallet(on_part="hold")
            sale = await me.buy(wallet, me.sat(5_000, 900_000))
            if sale is None:
                continue
            far = me.some(30, 1_800)
            payment = me.pay(sale, me.bill(sale), [sale.size_msat or 0], final_delta=far)
            if me.maybe(0.5):
                await me.blocks(me.some(1, 200))
                if wallet.held():
                    me.did()
                wallet.settle_held()
                await me.end(payment)
        await me.blocks(me.some(1, 200))
        await me.leave()


class WaitsForFees(Visitor):
    """Buys while miners are cheap and pays when they are dear."""

    name = "waits-for-fees"
    row = "S12"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        sales = [await me.buy(wallet, me.sat(2_000, 20_000)) for _ in range(me.some(1, 6))]
        bought_at = me.town.lsp.feerates.opening
        for _ in range(130):
            await me.blocks(1)
            if me.town.lsp.feerates.opening > me.dice.uniform(1.3, 6) * bought_at:
                break
        for sale in sales:
            if sale is not None and me.town.loop.time() < sale.until_s - 60:
                if me.town.lsp.feerates.opening > bought_at:
                    me.did()
                await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
        await me.blocks(me.some(1, 50))
        await me.leave()


class FallsSilent(Visitor):
    """Connected, and never says a word from one message on; sometimes it speaks again."""

    name = "falls-silent"
    row = "S13"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(script={me.dice.choice(MESSAGES): "silent"})
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        payment = me.pay(sale, me.bill(sale), me.split(sale.size_msat or 0, me.some(1, 3)))
        if me.maybe(0.7):
            await me.rest(10, 40_000)
            wallet.speak()
        await me.end(payment)
        if wallet.script.done:
            me.did()
        await me.leave()


class LateExpiry(Visitor):
    """Parts whose outgoing expiry is so near that any honest client must refuse them."""

    name = "late-expiry"
    row = "S18"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part=me.dice.choice(("hold", "fail", "settle")))
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        near = me.some(1, 9)
        await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0], final_delta=near))
        me.did()
        await me.blocks(me.some(1, 30))
        await me.leave()
