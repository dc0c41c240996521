"""What dishonest people do, one class for each row of the catalogue of attacks, parameters by chance.

How to write one is told in docs/how-to/write-a-strategy.md. `row` names what the class is about.
"""

from __future__ import annotations

from lsps2fast_plugin.simnode.script import DEEDS, MESSAGES

from .liveness import LIVENESS
from .operators import OPERATORS
from .rooms import ROOMS
from .scene import Scene, Visitor
from .sleepers import SLEEPERS
from .spoilers import SPOILERS
from .waiting import FallsSilent, HoldsLong, Lapses, LateExpiry, WaitsForFees
from .wallet_rows import WALLET
from .wallet_words import WORDS


class SignsAndErrs(Visitor):
    """Takes the channel and gives it up at a message of the open or of the payment, before, while or after we send."""

    name = "signs-and-errs"
    row = "S0"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(script={me.dice.choice(MESSAGES): me.dice.choice(("error", "close", "disconnect"))})
        sale = await me.buy(wallet, me.sat(2_000, 400_000))
        if sale is None:
            return
        invoice = me.bill(sale)
        for _ in range(me.some(1, 3)):
            await me.end(me.pay(sale, invoice, me.split(sale.size_msat or 0, me.some(1, 4))))
            await me.rest(1, 600)
            wallet.connect()
        if wallet.script.done:
            me.did()
        if me.maybe(0.6):
            await me.leave()


class Overpays(Visitor):
    """A small buy, paid far above it, by a wallet that takes nothing."""

    name = "overpays"
    row = "S1"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sale = await me.buy(wallet, me.sat(1_500, 5_000))
        if sale is None:
            return
        result = await me.end(me.pay(sale, me.bill(sale), [me.sat(100_000, 20_000_000) * 1000]))
        if result is not None and not result.paid:
            me.did()
        if me.maybe(0.5):
            await me.leave()


class VariableRefusers(Visitor):
    """Several wallets buy any amount, are sent the largest and refuse it."""

    name = "variable-refusers"
    row = "S2"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(2, 5)):
            sale = await me.buy(me.wallet(on_part="fail"), None)
            if sale is not None:
                amount_sat = me.sat(400_000, 4_000_000)
                await me.end(me.pay(sale, me.bill(sale, amount_sat), me.split(amount_sat * 1000, me.some(1, 3))))
                me.did()
        await me.blocks(me.some(1, 30))
        await me.leave()


class Evades(Visitor):
    """Holds all parts, takes some of them and fails the others, so that the fee is on those that fail."""

    name = "evades"
    row = "S3"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="hold", check_fees=False)
        sale = await me.buy(wallet, me.sat(20_000, 900_000))
        if sale is None or sale.size_msat is None:
            return
        small_msat = min(sale.fee_msat(sale.size_msat) + me.some(1, 1_000), sale.size_msat // 2)
        payment = me.pay(sale, me.bill(sale), [small_msat, sale.size_msat - small_msat])
        await me.rest(5, 60)
        fates = set()
        for part in sorted(wallet.held(), key=lambda each: each.onion_msat):
            if part.onion_msat > small_msat or me.maybe(0.2):
                fates.add("takes")
                wallet.fulfill(part, sale.invoices[0].preimage)
            else:
                fates.add("fails")
                wallet.fail(part)
        if len(fates) > 1:
            me.did()
        await me.end(payment)
        await me.blocks(me.some(1, 200))
        await me.leave()


class ManyBuys(Visitor):
    """Buys all it may before the first payment, has each paid at once, and takes none."""

    name = "many-buys"
    row = "S4"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sales = [await me.buy(wallet, me.sat(5_000, 300_000)) for _ in range(me.some(3, 10))]
        payments = [me.pay(sale, me.bill(sale), [sale.size_msat or 0]) for sale in sales if sale is not None]
        for payment in payments:
            await me.end(payment)
        if len(payments) > 2:  # more than may be left unpaid
            me.did()
        await me.blocks(me.some(1, 50))
        await me.leave()


class FreeChannel(Visitor):
    """Leaves its public channel unpaid and has ordinary payments sent over it, in and out."""

    name = "free-channel"
    row = "S5"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="fail")
        sale = await me.buy(wallet, me.sat(20_000, 200_000))
        if sale is None:
            return
        await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
        wallet.behaviour.on_part = "settle"
        for _ in range(me.some(1, 4)):
            await me.rest(1, 3_600)
            if wallet.ends and not wallet.ends[-1].channel.dead:
                other = wallet.invoice(me.sat(1_000, 15_000) * 1000, wallet.ends[-1].other.scid_now())
                await me.payer.pay(other, final_delta=18, overpay_msat=1_000, cltv_delta=200).wait()
                me.say("tries to be paid over an unpaid channel")
                me.did()
        await me.leave()


class ManyIdentities(Visitor):
    """One name after the other takes a channel, does not pay, and closes it: miners are paid by us."""

    name = "many-identities"
    row = "S6"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(4, 12)):
            wallet = me.wallet(on_part="fail")
            sale = await me.buy(wallet, me.sat(5_000, 400_000))
            if sale is not None:
                await me.end(me.pay(sale, me.bill(sale), [sale.size_msat or 0]))
            for end in wallet.ends:
                wallet.send_shutdown(end)
                me.did()
            if me.maybe(0.3):
                await me.blocks(1)
        await me.leave()


class CrumbsOut(Visitor):
    """One name after the other takes a crumb out of its withheld channel, fails the rest, and closes."""

    name = "crumbs-out"
    row = "S6"

    async def play(self, me: Scene) -> None:
        for _ in range(me.some(4, 12)):
            wallet = me.wallet(on_part="hold", check_fees=False)
            sale = await me.buy(wallet, me.sat(20_000, 400_000))
            if sale is None or sale.size_msat is None:
                continue
            crumb_msat = me.some(1_000, 20_000)
            payment = me.pay(sale, me.bill(sale), [crumb_msat, sale.size_msat - crumb_msat])
            await me.rest(3, 20)
            for part in wallet.held():
                if part.onion_msat <= crumb_msat:
                    wallet.fulfill(part, sale.invoices[0].preimage)
                    me.did()
                else:
                    wallet.fail(part)
            await me.end(payment)
            await me.rest(1, 5)
            for end in wallet.ends:
                wallet.send_shutdown(end)
        await me.leave()


class FulfilsAndErrs(Visitor):
    """Takes the money and, in the same breath, gives its channel up."""

    name = "fulfils-and-errs"
    row = "S7"

    async def play(self, me: Scene) -> None:
        deed = me.dice.choice(("error", "close", "disconnect", "silent"))
        wallet = me.wallet(script={me.dice.choice(("update_fulfill_htlc", "update_add_htlc", "normal")): deed})
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        payment = me.pay(sale, me.bill(sale), me.split(sale.size_msat or 0, me.some(1, 4)))
        await me.end(payment, 3_600)
        if wallet.script.done:
            me.did()
        await me.blocks(me.some(1, 20))
        await me.leave()


class SplicesUpstream(Visitor):
    """The payer's channel gets another name while its part is at the client."""

    name = "splices-upstream"
    row = "S9"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="hold")
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        payment = me.pay(sale, me.bill(sale), [sale.size_msat or 0])
        await me.rest(1, 30)
        if me.splice(payment.parts[0].end) and wallet.held():
            me.did()
        await me.blocks(me.some(2, 12))
        if me.maybe(0.7):
            wallet.settle_held()
        else:
            for part in wallet.held():
                wallet.fail(part)
        await me.end(payment)
        await me.blocks(me.some(1, 100))
        await me.leave()


class Fiddles(Visitor):
    """Parts of one payment hash come over days; the client takes, fails or holds each as it likes, late ones, too."""

    name = "fiddles"
    row = "S10"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(on_part="hold", check_fees=False)
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None or sale.size_msat is None:
            return
        invoice = me.bill(sale)
        payments, fates = [], set()
        for _ in range(me.some(1, 6)):
            amounts = me.split(sale.size_msat if me.maybe(0.6) else me.sat(1, sale.size_msat), me.some(1, 5))
            payments.append(me.pay(sale, invoice, amounts, total_msat=max(sale.size_msat, sum(amounts))))
            await me.rest(0.01, 200)
            for part in wallet.held():
                fate = me.dice.choice(("take", "fail", "hold"))
                fates.add(fate)
                if fate == "take":
                    wallet.fulfill(part, invoice.preimage)
                elif fate == "fail":
                    wallet.fail(part)
        if len(fates) > 1:
            me.did()
        await me.rest(1, 4_000)
        for part in wallet.held():
            wallet.fulfill(part, invoice.preimage)
        for payment in payments:
            await me.end(payment)
        await me.leave()


class Dusty(Visitor):
    """A payment in parts that are dust to the commitment of a client without anchors."""

    name = "dusty"
    row = "S19"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet(reject_types=frozenset({22}))
        count = me.some(8, 30)
        sale = await me.buy(wallet, count * me.some(400, 2_500))
        if sale is None or sale.size_msat is None:
            return
        each = sale.size_msat // count
        parts = [each] * (count - 1) + [sale.size_msat - each * (count - 1)]
        await me.end(me.pay(sale, me.bill(sale), parts))
        me.did()
        await me.leave()


class Chaos(Visitor):
    """Anything: a client with a script of several deeds, any parts, any number of tries."""

    name = "chaos"
    row = "all"

    async def play(self, me: Scene) -> None:
        script = {me.dice.choice(MESSAGES): me.dice.choice(DEEDS) for _ in range(me.some(0, 3))}
        how = me.dice.choice(("settle", "settle", "hold", "fail", "vanish"))
        wallet = me.wallet(script=script, on_part=how, check_fees=me.maybe(0.5))
        sale = await me.buy(wallet, me.dice.choice((None, me.sat(2_000, 2_000_000))))
        if sale is None:
            return
        invoice = me.bill(sale, None if sale.size_msat else me.sat(2_000, 2_000_000))
        amount_msat = invoice.amount_msat or 0
        for _ in range(me.some(1, 5)):
            sent = amount_msat if me.maybe(0.7) else me.sat(1, 2 * amount_msat)
            far = me.some(5, 60)
            payment = me.pay(sale, invoice, me.split(sent, me.some(1, 8)), final_delta=far)
            await me.rest(0.01, 30)
            if how == "hold" and me.maybe(0.5):
                wallet.settle_held()
            wallet.connect()
            if me.maybe(0.5):
                await me.end(payment)
            if me.maybe(0.2):
                wallet.send_error()
        me.did()
        wallet.speak()
        await me.blocks(me.some(1, 50))
        wallet.settle_held()
        await me.leave()


MONEY: tuple[type[Visitor], ...] = (
    SignsAndErrs,
    Overpays,
    VariableRefusers,
    Evades,
    ManyBuys,
    FreeChannel,
    ManyIdentities,
    CrumbsOut,
    Lapses,
    FulfilsAndErrs,
    SplicesUpstream,
    Fiddles,
    HoldsLong,
    WaitsForFees,
    FallsSilent,
    LateExpiry,
    Dusty,
    Chaos,
)
KINDS: dict[str, type[Visitor]] = {
    kind.name: kind for kind in (*MONEY, *ROOMS, *LIVENESS, *SLEEPERS, *SPOILERS, *OPERATORS, *WALLET, *WORDS)
}
