"""What a person in town can do. A strategy is written with these words; see `honest.py` and `strategies.py`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.simnode import Client, LspsError, Payer, PaymentResult, RpcError
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.closing import close_from_afar
from lsps2fast_plugin.simnode.errors import NodeProblem
from lsps2fast_plugin.simnode.party import connect
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.psbt import Outpoint, decode

from .books import Sale
from .common import Common
from .story import Violation

CALM_S = 3_600.0  # after a harm, before things count as quiet again
FINAL_DELTA = 18  # what an invoice promises, mostly
PAYERS = 3


class Scene:
    """One visit: `me.dice` is its chance, `me.say` a step of the story."""

    def __init__(self, common: Common, number: int, name: str) -> None:
        self.common = common
        self.town = common.town
        self.books = common.books
        self.number = number
        self.name, self.kind = f"{name}-{number}", name
        self.dice = self.town.chance.once(f"visit {number}")
        self.honest = False
        self.disturbs = False  # the visit of a strategist, even where the wallet is honest
        self.last_refusal = ""
        self.begun_s = self.town.loop.time()
        self.wallets: list[Client] = []
        self._payers = 0

    # chance and time

    def sat(self, low: int, high: int) -> int:
        """Return an amount between these, small ones as likely as large ones by order of magnitude."""
        return round(low * math.exp(math.log(high / low) * self.dice.random()))

    def some(self, low: int, high: int) -> int:
        """Return a number between these, both included."""
        return self.dice.randint(low, high)

    def maybe(self, probability: float) -> bool:
        """Return True so often."""
        return self.dice.random() < probability

    async def rest(self, low_s: float, high_s: float) -> None:
        """Let time pass."""
        await asyncio.sleep(self.dice.uniform(low_s, high_s))

    async def blocks(self, count: int) -> None:
        """Wait for so many blocks."""
        await self.common.height(self.town.chain.height + count)

    def say(self, what: str) -> None:
        """Count a step."""
        if self.disturbs:
            self.common.disturb()
        self.common.story.tell(self.name, what)

    def did(self) -> None:
        """Note that a strategist could do what it came for."""
        self.common.deeds[self.kind] += 1
        self.common.disturb()

    # wallets and payers

    def wallet(self, **behaviour: Any) -> Client:
        """Return a light wallet, connected to the LSP."""
        client = self.town.client(f"{self.name}/w{len(self.wallets) + 1}", **behaviour)
        self.wallets.append(client)
        self.common.present.add(client)
        return client

    @property
    def payer(self) -> Payer:
        """One of the town's payers, who has channels to the LSP."""
        return self.common.payers[self.number // 2 % PAYERS]

    # buying

    async def buy(self, wallet: Client, size_sat: int | None, worth_sat: int | None = None) -> Sale | None:
        """Buy a channel for a payment of this size (None: any), on the first offer that fits; None when refused.

        `worth_sat`: what will be paid; an offer that takes more than half of it is too dear.
        """
        size_msat = None if size_sat is None else size_sat * 1000
        try:
            menu = await wallet.request("lsps2.get_info", timeout_s=120)
            offers = [FeeParams.from_json(raw) for raw in menu["opening_fee_params_menu"]]
            fitting = [each for each in offers if size_msat is None or _fits(each, size_msat)]
            if worth_sat is not None:
                cheap = [each for each in fitting if 2 * (each.fee_msat(worth_sat * 1000) or 0) <= worth_sat * 1000]
                self.books.totals["too dear"] += len(cheap) < len(fitting)
                fitting = cheap
            if not fitting:
                self.refused("nothing on the menu")
                return None
            ask: dict[str, Any] = {"opening_fee_params": fitting[0].raw}
            if size_msat is not None:
                ask["payment_size_msat"] = str(size_msat)
            bought = await wallet.request("lsps2.buy", ask, timeout_s=120)
        except (LspsError, NodeProblem) as error:
            self.refused(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            return None
        params, now_s = fitting[0], self.town.loop.time()
        until_s = now_s + (params.valid_until_ms / 1000 - self.town.clock.time())
        sale = Sale(
            wallet,
            self.honest,
            bought["jit_channel_scid"],
            params,
            size_msat,
            bought["lsp_cltv_expiry_delta"],
            bool(bought.get("client_trusts_lsp")),
            now_s,
            until_s,
        )
        self.books.sold(sale)
        self.say(f"{wallet.name} buys {'any amount' if size_sat is None else f'{size_sat} sat'} over {sale.scid}")
        return sale

    def refused(self, why: str) -> None:
        """Note that the LSP would not sell."""
        self.books.totals["refused"] += 1
        self.last_refusal = f"is refused: {why}"
        self.say(self.last_refusal)

    def bill(self, sale: Sale, amount_sat: int | None = None) -> ClientInvoice:
        """Return the wallet's invoice over a sale; `amount_sat` for one whose size is open."""
        assert isinstance(sale.buyer, Client)
        amount_msat = sale.size_msat if amount_sat is None else amount_sat * 1000
        preimage = self.dice.randbytes(32)
        invoice = sale.buyer.invoice(
            amount_msat,
            sale.scid,
            opening_fee_msat=sale.fee_msat,
            cltv_delta=sale.cltv_delta,
            preimage=preimage,
            expiry_s=max(0.0, sale.until_s - self.town.loop.time()),
        )
        sale.invoices.append(invoice)
        return invoice

    # paying

    def pay(
        self,
        sale: Sale,
        invoice: ClientInvoice,
        parts_msat: Sequence[int],
        *,
        total_msat: int | None = None,
        final_delta: int = FINAL_DELTA,
        **how: Any,
    ) -> Payment:
        """Send the parts of a payment; those of another total are part of a larger one."""
        total = sum(parts_msat) if total_msat is None else total_msat
        payer = self.payer
        payment = payer.pay(invoice, list(parts_msat), total_msat=total, final_delta=final_delta, **how)
        self.books.sent(sale, payment, total)
        self.books.totals["payments"] += 1
        self.say(f"{payer.name} sends {len(parts_msat)} parts of {sum(parts_msat) // 1000} sat over {sale.scid}")
        return payment

    @contextlib.asynccontextmanager
    async def own_payer(self) -> AsyncIterator[Payer]:
        """Return a payer of one's own, with two channels, which may be closed."""
        self._payers += 1
        payer = self.town.payer(f"{self.name}/p{self._payers}", 2, 10_000_000)
        self.common.present.add(payer)
        try:
            yield payer
        finally:
            self.common.present.discard(payer)
            for end in list(payer.ends):
                if not end.channel.dead:
                    end.channel.post(end.peer, lambda end=end: close_from_afar(end.other))  # type: ignore[misc]

    async def end(self, payment: Payment, limit_s: float = 7 * 86_400.0) -> PaymentResult | None:
        """Wait for what comes of a payment; None when it is still under way after so long."""
        futures = [part.result for part in payment.parts]
        _, late = await asyncio.wait(futures, timeout=limit_s)
        if late:
            return None
        result = PaymentResult(tuple(future.result() for future in futures))
        if result.paid:
            self.say("the payment arrived")
        else:
            said = sorted({each.failcodename or f"code {each.code}" for each in result.parts if each.code})
            self.say(f"the payment failed: {', '.join(said)}")
        return result

    def stranger_pays(self, sale: Sale, invoice: ClientInvoice, parts_msat: Sequence[int], **how: Any) -> Payment:
        """Pay over this sale with a hash of one's own, as one who only knows the invoice."""
        secret = self.dice.randbytes(32)
        false = ClientInvoice(
            sale.buyer,
            hashlib.sha256(secret).digest(),
            invoice.payment_secret,
            secret,
            invoice.amount_msat,
            sale.scid,
            sale.cltv_delta,
        )
        return self.pay(sale, false, parts_msat, **how)

    def split(self, amount_msat: int, count: int) -> list[int]:
        """Return an amount in so many unequal parts."""
        if count < 2 or amount_msat < 2 * count:
            return [amount_msat]
        cuts = sorted(self.dice.sample(range(1, amount_msat), count - 1))
        return [after - before for before, after in zip([0, *cuts], [*cuts, amount_msat], strict=True)]

    def splice(self, end: End) -> bool:
        """Let the payer make a channel of its own larger; whether it could."""
        could = self.common.splice(end, self.some(1_000, 100_000))
        if could:
            self.say(f"{end.owner.name} splices its channel")
        return could

    async def is_blameless(self, wallet: Client) -> None:
        """rule:22: this wallet did nothing, so nothing is held against it but doubts, which heal within hours."""
        try:
            quote = await self.town.lsp.call("lsps2-quote", {"peer_id": wallet.node_id})
        except (RpcError, NodeProblem):
            return
        unpaid = quote["trust"]["unpaid_channels"] if quote["served"] else 0
        if unpaid or not quote["served"]:
            held = f"{unpaid} unpaid channels, served: {quote['served']}"
            raise Violation("rule:22", f"what others did is held against {wallet.name}: {held}")

    # what the LSP's operator does

    async def made_by_hand(self, wallet: Client, amount_sat: int) -> tuple[End, Callable[[], Awaitable[bool]]] | None:
        """Let another tool make a channel with this wallet. Return our end, and what sends its funding; or None."""
        lsp = self.town.lsp
        try:
            start = {"id": wallet.node_id, "amount": amount_sat, "announce": False}
            started = await lsp.call("fundchannel_start", start)
            ask = {"satoshi": amount_sat, "feerate": "normal", "startweight": 1000, "excess_as_change": True}
            funded = await lsp.call("fundpsbt", ask)
            self.set_aside(decode(funded["psbt"]).inputs, 72)
            address = started["funding_address"]
            output = {"satoshi": amount_sat, "initialpsbt": funded["psbt"], "destination": address}
            psbt = (await lsp.call("addpsbtoutput", output))["psbt"]
            await lsp.call("fundchannel_complete", {"id": wallet.node_id, "psbt": psbt, "withhold": False})
        except (RpcError, NodeProblem) as error:
            self.say(f"another tool makes no channel: {error}")
            return None
        self.say(f"another tool makes a channel of {amount_sat} sat with {wallet.name}")

        async def send() -> bool:
            try:
                signed = (await lsp.call("signpsbt", {"psbt": psbt}))["signed_psbt"]
                await lsp.call("sendpsbt", {"psbt": signed})
            except (RpcError, NodeProblem) as error:
                self.say(f"another tool does not send its funding: {error}")
                return False
            return True

        return wallet.ends[-1].other, send

    def set_aside(self, points: Iterable[Outpoint], blocks: int) -> None:
        """Take note of coins that another tool has reserved for so many blocks."""
        for point in points:
            self.common.others[point] = self.town.chain.height + blocks

    def set_coins_aside(self, share: float, blocks: int) -> None:
        """Another tool reserves this share of the free coins."""
        wallet = self.town.lsp.wallet
        free = [point for point in wallet.outputs() if not wallet.is_reserved(point)]
        taken = free[: int(len(free) * share)]
        for point in taken:
            wallet.reserved[point] = self.town.chain.height + blocks
        self.set_aside(taken, blocks)
        self.say(f"another tool sets {len(taken)} of {len(free)} coins aside")

    @contextlib.asynccontextmanager
    async def node_set(self, option: str, value: int, usual: int) -> AsyncIterator[None]:
        """Restart the node with this option, and again without it."""
        async with self.common.operator, self.trouble():
            try:
                await self._restarted(option, value)
                yield
            finally:
                await self._restarted(option, usual)

    async def _restarted(self, option: str, value: int) -> None:
        async def change() -> None:
            setattr(self.town.lsp, option, value)

        self.say(f"the operator restarts the node with {option} {value}")
        await self.common.restart("node stopped", change)
        setattr(self.town.lsp, option, value)  # also when it was down already

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """While this lasts the LSP's plugin is stopped."""
        begun, over = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await over.wait()

        async with self.trouble():
            self.say("the operator stops the plugin")
            task = asyncio.ensure_future(self.common.restart("plugin stopped", wait))
            await asyncio.wait({task, asyncio.ensure_future(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)
            try:
                yield
            finally:
                over.set()
                await task

    @contextlib.asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """While this lasts, and some minutes more, nothing is quiet."""
        self.common.harm += 1
        try:
            yield
        finally:
            self.town.loop.call_later(CALM_S, self._calm)

    def _calm(self) -> None:
        self.common.harm -= 1

    # what it came to

    def served(self) -> None:
        """Note that this honest wallet has its money."""
        self.books.totals["served"] += 1

    def unserved(self, begun_s: float) -> None:
        """Note that it never got it, though it asked again and again."""
        self.books.totals["unserved"] += 1
        self.say(f"gave up after {(self.town.loop.time() - begun_s) / 3600:.1f} hours")

    # leaving

    async def leave(self) -> None:
        """Close all channels of our wallets by agreement, as far as there are any."""
        for wallet in self.wallets:
            wallet.online = True
            wallet.speak()
            connect(wallet, self.town.lsp)
            await asyncio.sleep(5)
            for end in list(wallet.ends):
                wallet.send_shutdown(end)
        self.say("leaves town")


class Visitor(ABC):
    """A kind of person. A class with a `row` (of people.md or wallet.md) is a strategist."""

    name: ClassVar[str] = ""
    row: ClassVar[str] = ""
    honest: ClassVar[bool] = False

    @abstractmethod
    async def play(self, me: Scene) -> None:
        """Do what such a person does, from coming to leaving."""


def _fits(offer: FeeParams, size_msat: int) -> bool:
    return offer.min_payment_size_msat <= size_msat <= offer.max_payment_size_msat


Maker = Callable[[random.Random], Visitor]
