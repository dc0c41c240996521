"""After the storm: an hour in which nothing bad happens, and the service sells as if nothing ever had.

The other promises say what is never lost. This one says that nothing stays lost for good: whatever came before, once
it has been quiet for an hour an honest wallet is answered, may buy and is paid, and nothing waits without an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator

from lsps2fast_plugin.simnode.party import connect

from .books import Sale
from .common import Common
from .customers import OrdersAhead
from .order_promise import OrderPromise
from .scene import Scene
from .story import Violation

HOUR_S = 3_600.0
LOOK_EVERY_S = 600.0
VISIT_EVERY_S = 43_200.0  # at most: a visit is a whole sale
SIZE_SAT = 300_000
PAUSES_S = (10, 60, 300, 900)  # between its payer's tries; all end within the hour
TRY_S = 600.0
NUMBER = 1_000_000  # of the first visit: above those of people and weather
# What strategists may have used up is no fault of the service: half of each pot, by the books, must be left.
SHARE = 2
MOST_PERKW = 5_000
COINS_SAT = 2_000_000
OPEN_AND_CLOSE_WEIGHT = 1_800  # that a budget counts of a funding and its close


class QuietHours:
    """Looks every ten minutes. After a disturbance, once it has been quiet for an hour, an honest wallet comes."""

    def __init__(self, common: Common, orders: OrderPromise, capital_sat: int, mining_sat: int) -> None:
        """`capital_sat`, `mining_sat`: the bounds of the LSP's budgets."""
        self.common = common
        self._orders = orders
        self.town = common.town
        self.lsp = common.town.lsp
        self._capital_sat = capital_sat
        self._mining_sat = mining_sat
        self._visits = 0
        self._visited_s = -VISIT_EVERY_S
        self._since: dict[Hashable, float] = {}  # what waits, and since when it was seen

    async def run(self) -> None:
        """Look until the run is over."""
        while not self.common.over:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look_at_waits()
            if self._is_time() and self._is_calm() and self._has_room():
                self._visited_s = self.town.loop.time()
                await self._visit()

    def _is_time(self) -> bool:
        """Whether something has happened since the last visit, and that was not just now."""
        visited_s = self._visited_s
        return self.common.disturbed_s > visited_s and self.town.loop.time() >= visited_s + VISIT_EVERY_S

    def _is_calm(self) -> bool:
        """Whether for an hour there was neither bad weather nor a deed of a strategist, and the plugin runs."""
        lsp = self.lsp
        if self.common.harm or self.town.loop.time() < self.common.disturbed_s + HOUR_S:
            return False
        return lsp.state == "running" and bool(lsp.plugins) and lsp.plugins[0].ready

    def _has_room(self) -> bool:
        """Whether half of each budget is left, as the books have it, and coins are there and not too dear to send."""
        books, wallet, chain = self.common.books, self.lsp.wallet, self.town.chain
        debts = [each for each in books.live.values() if each.is_open_debt]
        perkw = self.lsp.feerates.opening
        next_sat = OPEN_AND_CLOSE_WEIGHT * perkw // 1000
        # A budget counts a channel whole until its whole fee has come.
        lately = [each for each in books.sent_lately if not (each.paid or each.is_whole)]
        burnt_sat = sum(each.risk.sat for each in {*lately, *debts})
        free_sat = sum(
            output.amount_sat
            for point, output in wallet.outputs().items()
            if chain.depth(point[0]) > 0 and not wallet.is_reserved(point)
        )
        return (
            perkw <= MOST_PERKW
            and free_sat >= COINS_SAT
            and SHARE * sum(each.capacity_sat for each in debts) <= self._capital_sat
            and SHARE * (burnt_sat + next_sat) <= self._mining_sat
        )

    # a sale

    async def _visit(self) -> None:
        """Let an honest wallet buy and be paid. What comes in between, a storm or a deed, excuses what fails."""
        self._visits += 1
        me = Scene(self.common, NUMBER + 2 * self._visits, "after-the-storm")
        me.honest = True
        wallet = me.wallet()
        try:
            sale = await me.buy(wallet, SIZE_SAT)
            if sale is None and self._is_calm():
                raise Violation("rule:24", f"after a quiet hour an honest wallet {me.last_refusal}")
            if sale is not None:
                await self._pay(me, sale)
                await me.blocks(2)
            if self.common.sells_ahead:
                await self._order(me)
            await me.leave()
        finally:
            self.common.present.difference_update(me.wallets)

    async def _pay(self, me: Scene, sale: Sale) -> None:
        invoice = me.bill(sale)
        for pause_s in (*PAUSES_S, None):
            result = await me.end(me.pay(sale, invoice, [sale.size_msat or 0]), TRY_S)
            if invoice.paid_msat is not None or (result is not None and result.paid):
                self.common.story.counts["sales after a storm"] += 1
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
                connect(sale.buyer, self.lsp)
        if self._is_calm():
            tries = len(PAUSES_S) + 1
            raise Violation("rule:6", f"after a quiet hour an honest sale over {sale.scid} failed {tries} times")

    async def _order(self, me: Scene) -> None:
        """Let another honest wallet order a channel, and pay it."""
        customer, wallet = OrdersAhead(), me.wallet()
        for tries, pause_s in enumerate((*PAUSES_S, None)):
            order = await customer.order(me, wallet, SIZE_SAT + tries)
            if order is None:
                if self._is_calm():
                    raise Violation("rule:24", f"after a quiet hour an honest wallet that orders {me.last_refusal}")
                return
            result = await me.end(customer.pay(me, order, [order.price_msat]), TRY_S)
            if result is not None and result.paid:
                self.common.story.counts["orders after a storm"] += 1
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
                connect(wallet, self.lsp)
        if self._is_calm():
            raise Violation("rule:6", f"after a quiet hour an honest order failed {len(PAUSES_S) + 1} times")

    # what waits

    def _look_at_waits(self) -> None:
        """Raise a Violation for what was there before the quiet hour began and has not ended in it."""
        now_s = self.town.loop.time()
        waits = dict(self._waits())
        self._since = {key: self._since.get(key, now_s) for key in waits}
        if not self._is_calm():
            return
        for key, (rule, sentence) in waits.items():
            if self._since[key] + HOUR_S <= now_s:
                raise Violation(rule, f"{sentence}, and a quiet hour has not ended it")
        self.common.story.counts["quiet hours without a leftover"] += 1

    def _waits(self) -> Iterator[tuple[Hashable, tuple[str, str]]]:
        """Yield what must not last: a name, the rule, and a sentence."""
        yield from self._orders.waits()
        for htlc, part in self.lsp.htlcs.held.items():
            yield htlc, ("rule:5", f"a part of {htlc.amount_msat} msat over {part.scid} is held")
        openings = self.lsp.openings
        for peer_id in (*openings.pending, *openings.starting):
            yield peer_id, ("rule:9", f"an open with {peer_id} is under way")
        for account in self.common.books.withheld():
            if not any(end.live for end in account.channel.ends) and not (account.order and account.order.is_held):
                yield account, ("rule:9", f"channel {account.channel.channel_id} is withheld for no payment")
