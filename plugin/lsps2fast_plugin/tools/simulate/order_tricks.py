"""What others than honest people do with orders (LSPS1): payers, clients, and the operator's own changes of mind."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import AsyncIterator

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.bolt11 import decode
from lsps2fast_plugin.simnode.closing import force_close
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.script import DEEDS

from .ordered import Order
from .ordering import Customer
from .scene import Scene

OPEN_MESSAGES = ("open_channel", "accept_channel", "funding_created", "funding_signed", "channel_ready", "normal")


class Trick(Customer):
    """Orders a channel, plays a trick with its payment, and leaves some blocks later."""

    most_blocks = 40

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        order = await self.order(me, wallet)
        if order is None:
            return
        await self.trick(me, wallet, order)
        await me.blocks(me.some(1, self.most_blocks))
        await self.leave(me)

    @abstractmethod
    async def trick(self, me: Scene, wallet: Client, order: Order) -> None:
        """Pay, or not."""


class PartsTooMany(Trick):
    """Sends parts beside a whole payment, while it is held and later: the same total, another, another secret."""

    name = "parts-too-many"

    async def trick(self, me: Scene, wallet: Client, order: Order) -> None:
        if me.maybe(0.7):
            wallet.go_offline()  # so that it is held
        payments = [self.pay(me, order, me.split(order.price_msat, me.some(1, 3)))]
        for _ in range(me.some(1, 4)):
            await me.rest(0, 20)
            payments.append(self._more(me, order))
        me.did()
        await me.rest(0, 300)
        wallet.connect()
        for payment in payments:
            await me.end(payment)
        await me.end(self._more(me, order))

    def _more(self, me: Scene, order: Order) -> Payment:
        price_msat = order.price_msat
        amount_msat = me.dice.choice((price_msat, 1, me.some(1, price_msat)))
        kind = me.dice.choice(("same", "more", "double", "secret"))
        if kind == "secret":
            other = decode(order.invoice)
            other.payment_secret = me.dice.randbytes(32)
            return self.pay(me, order, [amount_msat], invoice=other.sign(me.town.lsp.private_key))
        total = {"same": price_msat, "more": price_msat + 1, "double": 2 * price_msat}[kind]
        return self.pay(me, order, [amount_msat], total_msat=total)


class PaysTwice(Trick):
    """Pays the whole again: at the same time, while the plugin is stopped, once the channel is there."""

    name = "pays-twice"

    async def trick(self, me: Scene, wallet: Client, order: Order) -> None:
        payments = []
        for _ in range(me.some(2, 3)):
            payments.append(self.pay(me, order, me.split(order.price_msat, me.some(1, 3))))
            await me.rest(0, me.dice.choice((0, 1, 60)))
        if me.maybe(0.3):
            async with me.stopped():
                payments.append(self.pay(me, order, [order.price_msat]))
                await me.rest(0, 600)
        me.did()
        for payment in payments:
            await me.end(payment)
        await me.rest(0, 7_200)
        await me.end(self.pay(me, order, [order.price_msat]))


class PaysLate(Trick):
    """Pays about the moment in which the invoice ends, in parts before and after it."""

    name = "pays-late"
    most_blocks = 20

    async def trick(self, me: Scene, wallet: Client, order: Order) -> None:
        left_s = order.until_s - me.town.loop.time()
        await asyncio.sleep(max(0.0, left_s + me.dice.uniform(-200, 250)))
        if me.maybe(0.3):
            wallet.go_offline()
        payments = []
        for amount_msat in me.split(order.price_msat, me.some(1, 3)):
            payments.append(self.pay(me, order, [amount_msat]))
            await me.rest(0, 60)
        me.did()
        await me.rest(0, 900)
        wallet.connect()
        for payment in payments:
            await me.end(payment)


class RunsOut(Trick):
    """Pays with HTLCs that run out soon, for a client that is away while blocks come."""

    name = "runs-out"
    most_blocks = 20

    async def trick(self, me: Scene, wallet: Client, order: Order) -> None:
        if me.maybe(0.7):
            wallet.go_offline()
        parts = me.split(order.price_msat, me.some(1, 3))
        payments = [self.pay(me, order, [each], final_delta=me.some(15, 75)) for each in parts]
        me.did()
        if me.maybe(0.5):
            await me.blocks(me.some(1, 40))
        await me.rest(0, 700)
        wallet.connect()
        for payment in payments:
            await me.end(payment)


class Withdraws(Customer):
    """Pays a crumb over one channel and the rest over another, and closes one of them by force while both are held.

    Floods bitcoind's mempool meanwhile, or lets the open wait for its wallet.
    """

    name = "withdraws"
    messages: tuple[str, ...] = ("", "open_channel", "funding_created")  # at one its wallet falls silent
    flood = 0.6  # so often the mempool is full
    pauses_s: tuple[float, ...] = (0.05, 1, 60)  # at most one of them before it withdraws

    async def play(self, me: Scene) -> None:
        when = me.dice.choice(self.messages)
        wallet = me.wallet(script={when: "silent"} if when else {})
        order = await self.order(me, wallet)
        if order is None:
            return
        async with me.own_payer() as payer:
            await me.rest(1, 5)
            async with self.flooded(me, self.flood):
                crumb_msat = me.dice.choice((1, me.some(1, order.price_msat - 1)))
                sums = [crumb_msat, order.price_msat - crumb_msat]
                payment = self.pay(me, order, sums, payer=payer, channels=[0, 1])
                await me.rest(0, me.dice.choice(self.pauses_s))
                await self.withdraw(me, payment)
                await me.rest(0, 25)
                wallet.speak()
                wallet.connect()
                await me.rest(60, 7_200)
            await me.end(payment)
        await me.blocks(me.some(1, 40))
        await self.leave(me)

    async def withdraw(self, me: Scene, payment: Payment) -> None:
        """Take one of its parts back."""
        await self.close_one(me, payment)

    async def close_one(self, me: Scene, payment: Payment) -> None:
        """Close the channel of the crumb, mostly, by force."""
        end = payment.parts[0 if me.maybe(0.8) else 1].end
        if not end.channel.dead:
            force_close(end, "by the payer")
            me.say("the payer closes a channel by force")
            me.did()


class WithdrawsAtAStart(Withdraws):
    """Does so before, while or after the LSP starts again, or not at all; blocks come meanwhile."""

    name = "withdraws-at-a-start"
    messages = ("", "", "open_channel", "funding_created")
    flood = 0.8
    pauses_s = (0.05, 5, 60)

    async def withdraw(self, me: Scene, payment: Payment) -> None:
        """Restart, and close a channel about then."""
        how = me.dice.choice(("plugin stopped", "plugin killed", "node stopped", "power cut", "power cut"))
        when = me.dice.choice(("before", "meanwhile", "meanwhile", "after", "never"))
        blocks = me.some(0, 6)

        async def while_down() -> None:
            if when == "meanwhile":
                await self.close_one(me, payment)
            for _ in range(blocks):
                me.town.mine()

        async with me.trouble():
            if when == "before":
                await self.close_one(me, payment)
            me.say(f"{how} for {blocks} blocks")
            if await me.common.restart(how, while_down):
                me.did()
            if when == "after":
                await me.rest(0, 40)
                await self.close_one(me, payment)


class LeavesTheOpen(Customer):
    """Its wallet does something else at a message of the open, once or twice, and may come back."""

    name = "leaves-the-open"

    async def play(self, me: Scene) -> None:
        script = {
            me.dice.choice(OPEN_MESSAGES) + me.dice.choice(("", "#2", "#*")): me.dice.choice(DEEDS)
            for _ in range(me.some(1, 2))
        }
        wallet = me.wallet(script=script, zeroconf=me.maybe(0.8))
        for _ in range(me.some(1, 3)):
            order = await self.order(me, wallet)
            if order is None:
                return
            for _ in range(me.some(1, 3)):
                payment = self.pay(me, order, me.split(order.price_msat, me.some(1, 3)))
                await me.rest(0, 60)
                wallet.connect()
                await me.end(payment, 7_200)
                wallet.speak()
        if wallet.script.done:
            me.did()
        wallet.behaviour.script = {}
        await me.blocks(me.some(1, 40))
        await self.leave(me)


class OrdersMany(Customer):
    """Many names order all they may; none is paid, or with crumbs that wait for the rest."""

    name = "orders-many"

    async def play(self, me: Scene) -> None:
        payments = []
        for _ in range(me.some(3, 8)):
            wallet = me.wallet()
            for _ in range(me.some(3, 5)):
                order = await self.order(me, wallet)
                if order is None:
                    break
                me.did()
                if me.maybe(0.5):
                    payments.append(self.pay(me, order, [me.some(1, 1_000)] * me.some(1, 30)))
            if me.maybe(0.5):
                wallet.go_offline()
        for payment in payments:
            await me.end(payment)
        await me.rest(0, 14_400)


class ClosesMeanwhile(Customer):
    """Closes its channel, or errs, while the payment is held or just taken; over and over."""

    name = "closes-meanwhile"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        for _ in range(me.some(1, 3)):
            order = await self.order(me, wallet)
            if order is None:
                break
            async with self.flooded(me, 0.4):
                payment = self.pay(me, order, me.split(order.price_msat, me.some(1, 3)))
                await me.rest(0, me.dice.choice((0.01, 1, 30)))
                for _ in range(me.some(1, 3)):
                    deed = me.dice.choice((wallet.send_error, wallet.send_shutdown, wallet.disconnect))
                    deed()
                    me.did()
                    await me.rest(0, 5)
                await me.rest(0, 600)
            wallet.connect()
            await me.end(payment)
        await me.blocks(me.some(1, 40))
        await self.leave(me)


class SwitchesOff(Customer):
    """The operator takes no more orders for a while (`finish`), or none at all (`off`), while one is under way."""

    name = "switches-off"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        orders = [await self.order(me, wallet) for _ in range(me.some(1, 3))]
        taken = [order for order in orders if order is not None]
        if me.maybe(0.5):
            wallet.go_offline()
        payments = [self.pay(me, order, me.split(order.price_msat, me.some(1, 3))) for order in taken[1:]]
        await me.rest(0, 20)
        async with self.selling(me, me.dice.choice(("finish", "off"))):
            payments += [self.pay(me, order, me.split(order.price_msat, me.some(1, 3))) for order in taken[:1]]
            if taken:
                me.did()
            await me.rest(1, 700)
            wallet.connect()
            await me.rest(1, 7_200)
        for payment in payments:
            await me.end(payment)
        await me.blocks(me.some(1, 40))
        await self.leave(me)

    @contextlib.asynccontextmanager
    async def selling(self, me: Scene, choice: str) -> AsyncIterator[None]:
        """While this lasts the plugin, or its node, runs with this `lsps2-lsps1`."""
        how = me.dice.choice(("plugin stopped", "plugin killed", "node stopped", "power cut"))
        async with me.common.operator, me.trouble():
            try:
                await self._restart(me, how, choice)
                yield
            finally:
                await self._restart(me, how, "on")

    async def _restart(self, me: Scene, how: str, choice: str) -> None:
        me.say(f"{how}, and started with lsps2-lsps1={choice}")
        me.town.lsp.plugin_plans[0][1]["lsps2-lsps1"] = choice
        await me.common.restart(how)


ORDER_TRICKS: dict[str, type[Customer]] = {
    kind.name: kind
    for kind in (
        PartsTooMany,
        PaysTwice,
        PaysLate,
        RunsOut,
        Withdraws,
        WithdrawsAtAStart,
        LeavesTheOpen,
        OrdersMany,
        ClosesMeanwhile,
        SwitchesOff,
    )
}
