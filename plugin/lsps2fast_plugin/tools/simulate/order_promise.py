"""What is promised of orders (LSPS1): each ends as one channel, for its price, or as a refund, and is told so."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from typing import Any

from lsps2fast_plugin.service.lsps1.terms import ROOT

from .common import Common
from .ordered import Order, is_more_than_one, short
from .story import Violation

ANSWER_S = 60.0  # within which a payment is taken once its channel is sent, where nothing is slow
EXPIRED_S = 3_600.0  # after its invoice an order that was not paid is over
BURIED = 12  # blocks: after six an order needs no more care
MOST_PERKW = 5_000  # up to which an open is cheap enough for every operator
UNDER_WAY = ("held", "opening", "funded", "refunding")


class OrderPromise:
    """Sees that an order ends as one channel for its price, or as a refund."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._books = common.books
        self._orders = common.books.orders
        self._town = common.town
        self._lsp = common.town.lsp
        self._twice: set[str] = set()  # orders of which the operator is told that they were paid twice

    def hear(self, text: str) -> None:
        """Take note of what the service logs."""
        if "was paid twice" in text:
            self._twice.update(each.id for each in self._orders.all if each.id in text)

    # after every step

    def step(self) -> None:
        """Check what must hold all the time."""
        for order in self._orders.all:
            if len([each for each in order.accounts if each.is_on_chain]) > 1:
                raise Violation("rule:2", f"{short(order)} has {len(order.on_chain)} channels on chain")
            if order.payments:
                self._one_payment(order)
                self._price(order)

    def _one_payment(self, order: Order) -> None:
        """Check that no more is taken than one payment: what comes beside a whole one goes back."""
        if self._common.lives == order.lives and is_more_than_one(order):
            raise Violation("rule:3", f"{order.taken_msat} msat were taken for {short(order)}: more than one payment")

    def _price(self, order: Order) -> None:
        """Check that a channel on chain is paid for. Only what its payer's closing channels held may be missing."""
        if order.is_paid:
            for account in order.accounts:
                account.paid = True
        if order.is_paid or order.given_away or not order.on_chain:
            return
        taken_msat, lost_msat, now_s = order.taken_msat, order.lost_msat, self._town.loop.time()
        if taken_msat + lost_msat >= order.price_msat:
            order.given_away = True
            for account in order.on_chain:
                account.is_whole = True
            self._common.story.counts["orders in part unpaid"] += 1
        elif order.is_still and any(each.is_on_chain and each.sent_s + ANSWER_S < now_s for each in order.on_chain):
            cost = f"{short(order)} has its channel for {taken_msat} msat"
            raise Violation("rule:20", f"{cost}; {order.price_msat} were asked, {lost_msat} lost with a channel")

    # when nothing is under way

    def told(self, rows: list[dict[str, Any]]) -> str | None:
        """Return what the operator is told otherwise than it was, None when all is told well."""
        by_id = {row["order_id"]: row for row in rows}
        for order in self._orders.all:
            if not order.is_still:
                continue
            row = by_id.get(order.id)
            wrong = self._missing(order) if row is None else self._wrong(order, row)
            if wrong is not None:
                return f"lsps2-listorders {wrong}; {order.taken_msat} of {order.price_msat} msat came"
            if is_more_than_one(order) and order.id not in self._twice and row is not None and row["state"] == "done":
                return f"nothing tells that {short(order)} was paid twice"
            self._common.story.counts["orders compared"] += 1
        return None

    def _missing(self, order: Order) -> str | None:
        return f"lacks {short(order)}" if order.taken_msat or order.on_chain else None

    def _wrong(self, order: Order, row: dict[str, Any]) -> str | None:
        ours = [account.channel.channel_id for account in order.on_chain]
        if row["fee_sat"] * 1000 != order.price_msat:
            return f"says that {short(order)} costs {row['fee_sat']} sat"
        if row["paid"] != (order.taken_msat > 0):
            return f"says that {short(order)} is {'paid' if row['paid'] else 'not paid'} ({row['state']})"
        if row["state"] == "failed" and (order.taken_msat or any(each.is_on_chain for each in order.on_chain)):
            return f"says that {short(order)} failed"
        if row["state"] == "done" and row["channel_id"] not in ours:
            return f"says that {short(order)} has channel {row['channel_id']}, and it has {ours}"
        return None

    # what waits

    def waits(self) -> Iterator[tuple[Hashable, tuple[str, str]]]:
        """Yield what must not last: a name, the rule, and a sentence."""
        now_s = self._town.loop.time()
        for order in self._orders.all:
            if not order.is_still:
                continue
            state, is_owed = self._state(order), order.taken_msat and not order.on_chain
            is_there = order.buyer.node_id in self._lsp.links
            is_cheap = self._lsp.feerates.opening <= MOST_PERKW  # dearer, an open may cost more than an operator allows
            if order.honest and is_there and is_owed and is_cheap:
                yield (order, "owed"), ("rule:8", f"{short(order)} is paid, and has no channel")
            if state in UNDER_WAY and not is_owed:
                yield (order, state), ("rule:5", f"{short(order)} is {state}, and nothing is under way for it")
            if state == "expected" and order.until_s + EXPIRED_S < now_s:
                yield (order, state), ("rule:24", f"{short(order)} waits for a payment, and its invoice has ended")
            depths = (self._town.chain.depth(each.channel.funding_txid) for each in order.on_chain)
            if state == "sent" and any(depth > BURIED for depth in depths):
                yield (order, state), ("rule:9", f"{short(order)} is {state}, and its funding is deep")

    def _state(self, order: Order) -> str:
        value, _ = self._lsp.datastore.rows.get((*ROOT, order.id), (None, 0))
        return "" if value is None else str(json.loads(value)["state"])
