"""What an LSP that cheats does to the real wallet plugin: rows of wallet.md, each a class. See `evil_lsp.py`."""

from __future__ import annotations

from typing import Any, ClassVar

from lsps2fast_plugin.simnode import RpcError
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.errors import ChainReject, NodeProblem
from lsps2fast_plugin.simnode.party import connect, disconnect
from lsps2fast_plugin.simnode.payer import Payment, target_of
from lsps2fast_plugin.simnode.psbt import Output

from .evil_lsp import BITS, EvilLsp
from .purse import Purse
from .scene import Scene, Visitor

MOST_BLOCKS = 200  # that the wallet may hold a part
STRANGE = (900, 1, 200, -32603, 10**30)


class Deal:
    """One purchase of the wallet from an LSP, step by step."""

    def __init__(self, me: Scene, lsp: EvilLsp, purse: Purse) -> None:
        self.me, self.lsp, self.purse = me, lsp, purse
        self.amount_msat = 1000 * me.sat(20_000, 900_000)
        self.bolt11 = ""
        self.fee_msat = 0
        self.end: End | None = None

    async def bill(self, **ask: Any) -> bool:
        """Let the wallet buy; whether it did."""
        label = f"{self.me.name}-{self.me.some(0, 10**9)}"
        words = {"lsp_id": self.lsp.node_id, "amount_msat": self.amount_msat, "description": "town", "label": label}
        try:
            answer = await self.purse.node.call("lsps-lsps2-invoice", {**words, **ask}, 300)
        except (RpcError, NodeProblem) as error:
            self.me.say(f"the wallet does not buy: {str(error).splitlines()[0][:80]}")
            return False
        self.bolt11, self.fee_msat = answer["bolt11"], answer["opening_fee_msat"]
        self.lsp.agreed[target_of(self.bolt11).payment_hash] = (self.fee_msat, self.amount_msat)
        self.me.say(f"the wallet buys a channel for {self.amount_msat // 1000} sat, fee {self.fee_msat} msat")
        return True

    async def open(self, share: float = 1.3, bits: tuple[int, ...] = BITS, **terms: Any) -> bool:
        """Open a channel of this share of the payment; whether the wallet took it."""
        self.end = await self.lsp.open(self.purse.node, round(self.amount_msat * share) // 1000 + 20_000, bits, **terms)
        await self.me.rest(0.1, 3)
        self.me.say(f"opens a channel: {'taken' if self.end is not None else 'refused'}")
        return self.end is not None

    def parts(self, count: int, fee_msat: int | None = None) -> list[tuple[int, int]]:
        """Return the payment in parts, the fee on them in proportion."""
        left_msat = self.fee_msat if fee_msat is None else fee_msat
        found = []
        for part_msat in self.me.split(self.amount_msat, count):
            fee = min(left_msat, part_msat // 2)
            left_msat -= fee
            found.append((part_msat, fee))
        return found

    def send(self, parts: list[tuple[int, int]], end: End | None = None, **how: Any) -> Payment | None:
        """Send them, if the channel can carry anything now."""
        end = end or self.end
        if end is None or not end.can_add() or sum(part - fee for part, fee in parts) > end.spendable_msat():
            return None
        self.me.say(f"sends {len(parts)} parts")
        return self.lsp.send(end, self.bolt11, parts, **how)

    def broadcast(self) -> None:
        """Send the funding."""
        if self.end is not None and self.end.channel.withheld:
            self.lsp.broadcast(self.end)
            self.me.say("sends its funding")

    async def end_of(self, payment: Payment | None) -> None:
        """Wait for what comes of it, blocks included."""
        if payment is not None:
            result = await self.me.end(payment, 2 * 86_400)
            self.me.say(f"its parts {'were taken' if result is not None and result.paid else 'failed'}")


class Cheat(Visitor):
    """Sells as it should: the beginning of every way to cheat."""

    name = "sells-well"
    row = "W"
    fees_msat: ClassVar[tuple[int, ...]] = ()

    async def play(self, me: Scene) -> None:
        purse = me.common.purse
        await purse.ready()
        lsp = EvilLsp(me.town, f"{me.name}/lsp", purse)
        me.town.parties[lsp.name] = lsp
        me.common.present.add(lsp)
        lsp.fees_msat = list(self.fees_msat) or [me.some(100_000, 3_000_000)]
        connect(lsp, purse.node)
        deal = Deal(me, lsp, purse)
        if await deal.bill():
            await self.cheat(me, deal)
        await me.blocks(me.some(1, 12))
        for _ in range(MOST_BLOCKS):
            if not any(end.live for end in lsp.ends):
                break
            await me.blocks(1)
        purse.check()
        self.leave(lsp)
        await me.rest(90_000, 130_000)  # until its offer is over, so that the wallet does not call for it
        disconnect(lsp, purse.node)
        me.common.present.discard(lsp)

    async def cheat(self, me: Scene, deal: Deal) -> None:
        """Do with a purchase as this one does."""
        if await self.sell(me, deal):
            me.did()

    async def sell(self, me: Scene, deal: Deal) -> bool:
        """Sell as it should be; whether parts could be sent."""
        if not await deal.open():
            return False
        payment = deal.send(deal.parts(me.some(1, 4)))
        if me.maybe(0.8):
            await me.rest(0, 60)
            deal.broadcast()
        await deal.end_of(payment)
        return payment is not None

    @staticmethod
    def leave(lsp: EvilLsp) -> None:
        """Close what has a funding; what has none the wallet forgets in the end."""
        for end in list(lsp.ends):
            if not end.channel.withheld and not end.channel.dead:
                lsp.close_by_agreement(end)
            elif end.channel.withheld and not end.live and not end.other.live:
                lsp.forget(end)


class Withholds(Cheat):
    """Keeps the funding, whatever comes."""

    name = "withholds"
    row = "W4"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if await deal.open():
            payment = deal.send(deal.parts(me.some(1, 4)), far=me.some(10, 60))
            await deal.end_of(payment)
            if payment is not None:
                me.did()


class Drains(Cheat):
    """Routes through the wallet, in over a channel without a funding and out over the wallet's own."""

    name = "drains"
    row = "W0"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if not await deal.open():
            return
        purse = deal.purse
        if me.maybe(0.5):
            deal.send(deal.parts(me.some(1, 3)))
        end, amount_msat = deal.end, 1000 * me.sat(1_000, 10_000)
        invoice = purse.bob.invoice(amount_msat, purse.real.scid_now())
        if end is not None and end.can_add() and amount_msat + 2_000 <= end.spendable_msat():
            payment = deal.lsp.through(end, purse.real, purse.bob, invoice.payment_hash, amount_msat)
            me.say(f"routes {amount_msat} msat through the wallet")
            me.did()
            await deal.end_of(payment)


class Reuses(Cheat):
    """Sells twice and opens once: the second fee is taken over the first channel."""

    name = "reuses"
    row = "W1"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if not await deal.open(share=3):
            return
        payment = deal.send(deal.parts(1))
        deal.broadcast()
        await deal.end_of(payment)
        second = Deal(me, deal.lsp, deal.purse)
        second.amount_msat = deal.amount_msat
        if await second.bill():
            fee_msat = None if me.maybe(0.7) else 0  # wallet:W8: without a fee it is an ordinary payment
            again = second.send(second.parts(me.some(1, 3), fee_msat), end=deal.end)
            await second.end_of(again)
            if again is not None:
                me.did()


class FakesFunding(Cheat):
    """Shows an output of the right amount that is no funding."""

    name = "fakes-funding"
    row = "W2"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if not await deal.open() or deal.end is None:
            return
        channel, unspent = deal.end.channel, me.town.chain.unspent
        point = (channel.funding_txid, channel.funding_outnum)
        script = me.dice.choice((b"\0\x20", b"\x51\x20")) + me.dice.randbytes(32)
        unspent[point] = Output(channel.capacity_sat, script)
        try:
            payment = deal.send(deal.parts(me.some(1, 3)))
            await me.blocks(me.some(1, 12))
            deal.purse.check()
            await deal.end_of(payment)
            if payment is not None:
                me.did()
        finally:
            del unspent[point]


class Replaces(Cheat):
    """Shows its funding in the mempool, and spends its coin otherwise before it is in a block."""

    name = "replaces"
    row = "W3"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if not await deal.open() or deal.end is None:
            return
        payment = deal.send(deal.parts(me.some(1, 3)))
        deal.broadcast()
        await me.rest(0, 400)
        channel = deal.end.channel
        if channel.funding_txid in me.town.chain.mempool:
            try:
                me.town.chain.replace(channel.funding_txid, deal.lsp.wallet.new_script(), 4_000)
            except ChainReject:
                return
            channel.withheld = True
            me.say("replaces its funding")
            me.did()
        deal.purse.check()
        await deal.end_of(payment)


class Skims(Cheat):
    """Takes more than was agreed, in one part or over several."""

    name = "skims"
    row = "W17"
    fees_msat = (1_000_000, 10_000_000)

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if await deal.open():
            more_msat = deal.fee_msat + me.some(1, 5_000_000)
            payment = deal.send(deal.parts(me.some(1, 4), min(more_msat, deal.amount_msat // 2)))
            deal.broadcast()
            await deal.end_of(payment)
            if payment is not None:
                me.did()


class OddTerms(Cheat):
    """Opens a channel that is of little use: another size, type or limits."""

    name = "odd-terms"
    row = "W15"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        odd = me.dice.choice(
            (
                {"htlc_minimum_msat": deal.amount_msat},
                {"max_accepted_htlcs": 1},
                {"to_self_delay": me.some(2_017, 50_000)},
                {"max_in_flight_msat": deal.amount_msat // 3},
                {"share": 0.3},
                {"bits": (12, 22, 50)},
                {"bits": (12, 46, 50)},
            )
        )
        me.did()
        if await deal.open(**odd):
            payment = deal.send(deal.parts(me.some(1, 3)))
            deal.broadcast()
            await deal.end_of(payment)


class Floods(Cheat):
    """Sends the wallet words that it did not ask for, and strange numbers for errors."""

    name = "floods"
    row = "W5"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        for _ in range(me.some(5, 60)):
            text = "z" * me.some(1, 40_000)
            deal.lsp.say(deal.purse.node, f'{{"jsonrpc":"2.0","method":"x","params":{{"y":"{text}"}}}}'.encode())
        code = me.dice.choice(STRANGE)
        deal.lsp.errors = [{"code": code, "message": "no", "data": {}} for _ in range(me.some(1, 3))]
        await Deal(me, deal.lsp, deal.purse).bill()
        deal.lsp.errors.clear()
        me.did()
        await self.sell(me, deal)


class GoesSilent(Cheat):
    """Answers nothing more, or goes away in the middle of a payment."""

    name = "goes-silent"
    row = "W14"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        deal.lsp.silent = True
        await Deal(me, deal.lsp, deal.purse).bill(timeout_s=me.some(1, 30))
        me.did()
        if await deal.open():
            parts = deal.parts(me.some(2, 4))
            payment = deal.send(parts[:-1], total_msat=deal.amount_msat)
            disconnect(deal.lsp, deal.purse.node)
            await me.rest(1, 2_000)
            connect(deal.lsp, deal.purse.node)
            await deal.end_of(payment)


class RestartedWallet(Cheat):
    """The wallet's plugin dies amid a purchase, or its disk is full, and the next purchase follows."""

    name = "restarted-wallet"
    row = "W6"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        opened = me.maybe(0.5) and await deal.open()
        payment = deal.send(deal.parts(me.some(1, 3))) if opened else None
        node = deal.purse.node
        if me.maybe(0.7):
            me.say("the wallet's plugin is killed")
            await deal.purse.restart()
        else:
            fault = node.faults.fail("datastore", times=10**6, message="disk I/O error")
            await me.rest(1, 200)
            node.faults.remove(fault)
        me.did()
        connect(deal.lsp, node)
        if not opened and await deal.open():
            payment = deal.send(deal.parts(me.some(1, 3)))
        deal.broadcast()
        await deal.end_of(payment)


class AnyAmount(Cheat):
    """An invoice without an amount, paid anything between nothing and very much."""

    name = "any-to-wallet"
    row = "W12"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        other = Deal(me, deal.lsp, deal.purse)
        other.amount_msat = 1000 * me.sat(1_100, 2_000_000)
        if not await other.bill(amount_msat="any"):
            return
        other.fee_msat = max(deal.lsp.fees_msat[-1], other.amount_msat // 1_000)
        other.lsp.agreed[target_of(other.bolt11).payment_hash] = (other.fee_msat, other.amount_msat)
        if await other.open():
            payment = other.send(other.parts(me.some(1, 3)))
            other.broadcast()
            await other.end_of(payment)
            if payment is not None:
                me.did()


WALLET: tuple[type[Visitor], ...] = (
    Cheat,
    Withholds,
    Drains,
    Reuses,
    FakesFunding,
    Replaces,
    Skims,
    OddTerms,
    Floods,
    GoesSilent,
    RestartedWallet,
    AnyAmount,
)
