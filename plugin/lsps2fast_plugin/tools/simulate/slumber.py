"""Wallets that sleep while they are paid over a channel that they have, and strangers who fill the room there is.

Such a payment waits in the hook for its client (LSPS5). They come from a stream of their own.
"""

from __future__ import annotations

from abc import abstractmethod

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.payer import Payment

from .honest import Honest
from .scene import Scene, Visitor
from .sleepers import set_webhook
from .story import Violation

FAR, FINAL = 200, 18  # blocks that an ordinary payment leaves to the LSP, and to its payee
DEAR_MSAT = 1_000  # that it pays for its way


class Sleeper(Honest):
    """Buys a channel and leaves a webhook; sleeps, is paid over the channel, comes back."""

    row = "L10"

    async def play(self, me: Scene) -> None:
        wallet, host = me.wallet(), f"app.v{me.number}.example"
        if not await set_webhook(me, wallet, host):
            return
        sale = await me.buy(wallet, me.sat(20_000, 300_000))
        if sale is not None and await self.be_paid(me, wallet, sale, sale.size_msat or 0):
            for _ in range(me.some(1, 4)):
                await me.rest(600, 7_200)
                if wallet.ends[-1].channel.dead:
                    break
                wallet.go_offline()
                await me.rest(1, 300)
                await self.nap(me, wallet, host)
                wallet.connect()
        me.town.apps.wakes.pop(host, None)
        await me.blocks(me.some(1, 60))
        await me.leave()

    @abstractmethod
    async def nap(self, me: Scene, wallet: Client, host: str) -> None:
        """Be paid."""

    def paid(self, me: Scene, wallet: Client, parts_msat: list[int], payer: Payer | None = None) -> Payment:
        """Send an ordinary payment over the channel of this wallet."""
        invoice = wallet.invoice(sum(parts_msat), wallet.ends[-1].other.scid_now())
        me.say(f"{wallet.name}, who sleeps, is sent {len(parts_msat)} parts of {sum(parts_msat)} msat")
        return (payer or me.payer).pay(
            invoice, parts_msat, final_delta=FINAL, overpay_msat=DEAR_MSAT, cltv_delta=FAR + me.some(0, 20)
        )

    def small(self, me: Scene) -> list[int]:
        """Return the parts of a payment that fits into most channels."""
        return me.split(me.sat(500, 5_000) * 1000, me.some(1, 4))

    def split(self, me: Scene, amount_msat: int) -> list[int]:
        """Pay the opening fee in one part."""
        return [amount_msat]

    def is_held(self, me: Scene, wallet: Client) -> bool:
        """Return whether a payment waits for this wallet."""
        return any(each.forward_to is wallet.ends[-1].other for each in me.town.lsp.htlcs.held.values())


class Woken(Sleeper):
    """Is called, and there within some seconds."""

    name = "woken"

    async def nap(self, me: Scene, wallet: Client, host: str) -> None:
        me.town.apps.wakes[host] = lambda: self._wake(me, wallet)
        payments = [self.paid(me, wallet, self.small(me)) for _ in range(me.some(1, 3))]
        for payment in payments:
            result = await me.end(payment, 7_200)
            if result is not None and result.paid:
                me.did()

    def _wake(self, me: Scene, wallet: Client) -> None:
        me.town.loop.call_later(me.dice.uniform(0.1, 20), wallet.connect)
        me.books.totals["woken for a payment"] += 1


class BackLate(Sleeper):
    """Is called, and comes about when nothing waits any more, or much later; is paid again and again meanwhile."""

    name = "back-late"

    async def nap(self, me: Scene, wallet: Client, host: str) -> None:
        payments = []
        for _ in range(me.some(1, 8)):
            payments.append(self.paid(me, wallet, self.small(me)))
            await me.rest(0, 60)
        if self.is_held(me, wallet):
            me.did()
        await me.rest(0, me.dice.choice((200, 900, 14_400)))
        wallet.connect()
        for payment in payments:
            await me.end(payment, 7_200)


class ComesAndGoes(Sleeper):
    """Comes and goes for an hour or so while payments wait for it, so that each is a new reason to be called."""

    name = "comes-and-goes"

    async def nap(self, me: Scene, wallet: Client, host: str) -> None:
        slow_s, payments = me.dice.choice((2, 30, 60)), []
        for _ in range(me.some(20, 100)):
            wallet.go_offline()
            await me.rest(0.01, 2)
            if me.maybe(0.7):
                payments.append(self.paid(me, wallet, [me.some(1_000, 9_000)]))
            await me.rest(0.05, slow_s)
            if self.is_held(me, wallet):
                me.did()
            wallet.connect()
            await me.rest(0.05, 2)
        for payment in payments:
            await me.end(payment, 7_200)


class FillsThePot(Sleeper):
    """A stranger fills the room there is for a wallet that sleeps; one who pays it finds room all the same."""

    name = "fills-the-pot"

    async def nap(self, me: Scene, wallet: Client, host: str) -> None:
        async with me.own_payer() as stranger:
            whole_msat = 10_000_000
            crumbs = [me.some(1_000, me.dice.choice((2_000, 400_000))) for _ in range(me.some(20, 60))]
            invoice = wallet.invoice(whole_msat, wallet.ends[-1].other.scid_now())
            me.say(f"a stranger sends {len(crumbs)} crumbs to {wallet.name}, who sleeps")
            only = me.dice.choice(([0], [0, 1]))
            dust = stranger.pay(
                invoice,
                crumbs,
                channels=[only[each % len(only)] for each in range(len(crumbs))],
                total_msat=whole_msat,
                final_delta=FINAL,
                overpay_msat=DEAR_MSAT,
                cltv_delta=FAR,
            )
            await me.rest(0.5, 60)
            if self.is_held(me, wallet):
                me.did()
            lives, harm = me.common.lives, me.common.harm
            payment = self.paid(me, wallet, self.small(me))
            fits = wallet.ends[-1].other.spendable_msat() > 30_000_000
            await me.rest(0.5, 40)
            wallet.connect()
            result = await me.end(payment, 7_200)
            is_calm = not (harm or me.common.harm) and lives == me.common.lives
            if is_calm and fits and result is not None and not result.paid:
                raise Violation("rule:24", f"{wallet.name} was not paid, for a stranger's crumbs had its room")
            await me.end(dust, 7_200)


KINDS: dict[str, type[Visitor]] = {kind.name: kind for kind in (Woken, BackLate, ComesAndGoes, FillsThePot)}
