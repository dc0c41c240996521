"""The words of those who order channels and pay them ahead (LSPS1)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from lsps2fast_plugin.simnode import Client, LspsError, Payer
from lsps2fast_plugin.simnode.bolt11 import decode
from lsps2fast_plugin.simnode.errors import NodeProblem
from lsps2fast_plugin.simnode.party import connect
from lsps2fast_plugin.simnode.payer import Payment

from .ordered import Order, check_told
from .scene import Scene, Visitor
from .story import Violation

LEAST_SAT, MOST_SAT = 100_000, 3_000_000
BASE_SAT, LEASE_PPM, LEASE_BLOCKS = 1_000, 2_000, 4_320  # what the options say
FAR = 150  # blocks to the expiry of a payment; the invoice asks for 144
HELD_S = 172_800.0  # that an invoice lives longer than its order


class Customer(Visitor):
    """Someone who orders."""

    row = "all"

    async def order(self, me: Scene, wallet: Client, size_sat: int = 0) -> Order | None:
        """Order a channel, by default of any size that this wallet has not ordered; None when no order is taken."""
        sizes = {0, *(each.capacity_sat for each in me.books.orders.all if each.buyer is wallet)}
        while size_sat in sizes:
            size_sat = me.sat(LEAST_SAT, MOST_SAT)
        blocks = me.sat(1, 12_960)
        ask = {
            "lsp_balance_sat": str(size_sat),
            "client_balance_sat": "0",
            "required_channel_confirmations": me.dice.choice((0, 0, 1, 3)),
            "funding_confirms_within_blocks": 12,
            "channel_expiry_blocks": blocks,
            "announce_channel": me.maybe(0.3),
        }
        try:
            told = await wallet.request("lsps1.create_order", ask, timeout_s=120)
        except (LspsError, NodeProblem) as error:
            me.books.totals["orders refused"] += 1
            me.last_refusal = f"is refused: {type(error).__name__}: {str(error).splitlines()[0]}"
            me.say(me.last_refusal)
            return None
        price_sat = int(told["payment"]["bolt11"]["order_total_sat"])
        lease_sat = -(-size_sat * LEASE_PPM * blocks // (10**6 * LEASE_BLOCKS))
        if price_sat < BASE_SAT + lease_sat:
            raise Violation("rule:18", f"a channel of {size_sat} sat is sold for {price_sat} sat")
        now_s = me.town.loop.time()
        valid_s = float(decode(told["payment"]["bolt11"]["invoice"]).expiry_s) - HELD_S
        order = Order(
            wallet,
            me.honest,
            told["order_id"],
            price_sat * 1000,
            size_sat,
            told["payment"]["bolt11"]["invoice"],
            now_s,
            now_s + valid_s,
            me.common.lives,
        )
        me.books.orders.all.append(order)
        me.books.totals["orders"] += 1
        me.say(f"{wallet.name} orders {size_sat} sat for {price_sat} sat")
        return order

    def pay(
        self,
        me: Scene,
        order: Order,
        parts_msat: list[int],
        *,
        payer: Payer | None = None,
        total_msat: int | None = None,
        **how: Any,
    ) -> Payment:
        """Send parts; those that name another total are no payment of the whole price."""
        total = order.price_msat if total_msat is None else total_msat
        invoice = how.pop("invoice", order.invoice)
        payment = (payer or me.payer).pay(
            invoice, parts_msat, total_msat=total, **{"final_delta": FAR + me.some(0, 40), **how}
        )
        order.payments.append((payment, total))
        me.say(f"{len(parts_msat)} parts of {sum(parts_msat)} msat are sent for {order.id[:8]}")
        return payment

    async def told(self, me: Scene, order: Order) -> tuple[str, str]:
        """Ask how far the order is; ("", "") without an answer."""
        try:
            told = await order.buyer.request("lsps1.get_order", {"order_id": order.id}, timeout_s=120)
        except (LspsError, NodeProblem):
            return "", ""
        me.books.look()
        check_told(order, told)
        return told["order_state"], told["payment"]["bolt11"]["state"]

    async def leave(self, me: Scene) -> None:
        """Ask a last time about each order, and close all channels."""
        for order in [each for each in me.books.orders.all if each.buyer in me.wallets]:
            connect(order.buyer, me.town.lsp)
            await self.told(me, order)
        await me.leave()

    @contextlib.asynccontextmanager
    async def flooded(self, me: Scene, probability: float) -> AsyncIterator[None]:
        """While this lasts, mostly, bitcoind's mempool is full: lightningd counts a funding as sent that it refuses."""
        if not me.maybe(probability):
            yield
            return
        wallet = me.town.lsp.wallet
        async with me.trouble():
            me.say("the mempool is full")
            wallet.too_cheap += 1
            try:
                yield
            finally:
                wallet.too_cheap -= 1
                me.say("there is room in the mempool")
