"""What the LSP's own operator and other tools do while channels are sold: rows of the catalogue that need no attacker.

A client of that time must lose nothing, and no coin of another tool may be touched.
"""

from __future__ import annotations

from lsps2fast_plugin.simnode.channels import U64_MAX

from .scene import Scene, Visitor
from .story import Violation


class OtherTool(Visitor):
    """Another tool makes a channel with a client and keeps its funding; the client then refuses a channel of ours."""

    name = "other-tool"
    row = "S8"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(zeroconf=False)
        made = await me.made_by_hand(wallet, me.sat(100_000, 400_000))
        if made is None:
            return
        end, send = made
        wallet.behaviour.zeroconf = True
        if me.maybe(0.5):
            wallet.behaviour.reject_open = "no"
        else:
            wallet.behaviour.refuse_funding = "no"
        for _ in range(me.some(1, 3)):
            sale = await me.buy(wallet, me.sat(5_000, 400_000))
            if sale is not None:
                await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
            wallet.connect()
        me.did()
        if end.forgotten and not me.common.died_since(me.begun_s):
            raise Violation("rule:26", f"the channel that another tool made with {wallet.name} is gone")
        if await send():
            await me.blocks(me.some(6, 30))
        await me.leave()


class FewCoins(Visitor):
    """Another tool sets most coins aside; meanwhile a wallet buys any amount and is paid all that the menu allows."""

    name = "few-coins"
    row = "L8"

    async def play(self, me: Scene) -> None:
        me.set_coins_aside(me.dice.uniform(0.5, 0.99), me.some(2, 40))
        wallet = me.wallet()
        sale = await me.buy(wallet, None)
        if sale is not None:
            most_sat = sale.params.max_payment_size_msat // 1000
            await me.end(me.pay(sale, me.bill(sale, most_sat), me.split(most_sat * 1000, me.some(1, 3))))
            me.did()
        await me.blocks(me.some(1, 60))
        await me.leave()


class SmallerHtlcs(Visitor):
    """The operator lowers the largest HTLC of the node between sale and payment, and raises it again."""

    name = "smaller-htlcs"
    row = "S14"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        sale = await me.buy(wallet, me.sat(50_000, 900_000))
        if sale is None:
            return
        amount_msat = sale.size_msat or 0
        async with me.node_set("htlc_maximum_msat", me.some(amount_msat // 4, amount_msat), U64_MAX):
            wallet.connect()
            for count in (1, me.some(2, 8)):
                await me.end(me.pay(sale, me.bill(sale), me.split(amount_msat, count)))
            me.did()
        await me.blocks(me.some(1, 50))
        await me.leave()


class LongerDelay(Visitor):
    """The operator raises `cltv-delta` between sale and payment, and lowers it again."""

    name = "longer-delay"
    row = "S15"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        usual = me.town.lsp.cltv_delta
        async with me.node_set("cltv_delta", usual + me.some(1, 80), usual):
            wallet.connect()
            await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
            me.did()
        await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
        await me.blocks(me.some(1, 50))
        await me.leave()


class StoppedMeanwhile(Visitor):
    """The client takes its money and gives its channel up while the plugin is stopped."""

    name = "stopped-meanwhile"
    row = "S20"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="hold")
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        payment = me.pay(sale, me.bill(sale), me.split(sale.size_msat or 0, me.some(1, 3)))
        await me.rest(2, 30)
        async with me.stopped():
            if me.maybe(0.7):
                wallet.settle_held()
            await me.rest(0, 5)
            wallet.send_error() if me.maybe(0.7) else wallet.send_shutdown()
            me.did()
            await me.rest(1, 300)
        await me.end(payment)
        await me.blocks(me.some(1, 50))
        await me.leave()


OPERATORS: tuple[type[Visitor], ...] = (OtherTool, FewCoins, SmallerHtlcs, LongerDelay, StoppedMeanwhile)
