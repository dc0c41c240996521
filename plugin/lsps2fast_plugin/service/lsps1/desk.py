"""What clients hear of `lsps1.*`: what is sold and at what price, orders taken, and how far an order has come."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from uuid import UUID

from lsps2fast.errors import StoreError
from lsps2fast.lsps import lsps1
from lsps2fast.lsps.buys import new_scid
from lsps2fast.lsps.lsps0 import client_rejected, try_later
from lsps2fast.lsps.lsps1 import Fact, Info, OrderAsk
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.lsps1.book import Order, OrderBook
from lsps2fast_plugin.service.lsps1.invoices import OrderInvoices
from lsps2fast_plugin.service.lsps1.terms import LABEL, OrderTerms
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.preflight import Facts, spendable_sat

log = logging.getLogger(__name__)

Method = Callable[[str, object], Awaitable[dict[str, Any]]]
FUNDED_WITHIN_BLOCKS: Final = 12  # what lightningd's `opening` feerate aims for
LEAST_MS: Final = 600_000  # so long an order waits for its payment before it may give way
FULL: Final = "as many orders wait for their payment as may, try again later"


class Means(Protocol):
    """What the node could provide: `Supply`."""

    async def facts(self, peer_id: str, *, fresh: bool) -> Facts:
        """Return the facts for one client. Raises NodeError."""


class OrderDesk:
    """Takes orders."""

    protocol = lsps1.PROTOCOL

    def __init__(
        self,
        *,
        sells: bool,
        terms: OrderTerms,
        policy: Policy,
        book: OrderBook,
        invoices: OrderInvoices,
        means: Means,
        clock: Clock,
        zero_reserve: bool,
        is_paused: Callable[[], bool],
        scid_taken: Callable[[int], bool],
        is_online: Callable[[str], bool],
    ) -> None:
        """`sells`: new orders are taken; else clients only hear of those they have."""
        self.sells = sells
        self._is_online = is_online
        self._terms = terms
        self._policy = policy
        self._book = book
        self._invoices = invoices
        self._means = means
        self._clock = clock
        self._zero_reserve = zero_reserve
        self._is_paused = is_paused
        self._scid_taken = scid_taken
        self._taking: Counter[str] = Counter()  # orders that are being made, by client
        self.random64: Callable[[], int]  # set before anything is sold
        self.methods: dict[str, Method] = {lsps1.GET_ORDER: self.get_order}
        if sells:
            self.methods |= {lsps1.GET_INFO: self.get_info, lsps1.CREATE_ORDER: self.create_order}

    def info(self) -> Info:
        """Return what is sold now."""
        most_sat = min(self._terms.max_sat, self._policy.rules.capacity.max_sat)
        least_sat = min(self._terms.min_sat, most_sat)
        return Info(
            min_required_channel_confirmations=0,
            min_funding_confirms_within_blocks=FUNDED_WITHIN_BLOCKS,
            supports_zero_channel_reserve=self._zero_reserve,
            max_channel_expiry_blocks=self._terms.max_blocks,
            min_initial_client_balance_sat=0,
            max_initial_client_balance_sat=0,
            min_initial_lsp_balance_sat=least_sat,
            max_initial_lsp_balance_sat=most_sat,
            min_channel_balance_sat=least_sat,
            max_channel_balance_sat=most_sat,
        )

    async def get_info(self, peer_id: str, params: object) -> dict[str, Any]:
        """Answer `lsps1.get_info` (E-02)."""
        lsps1.parse_get_info(params)
        self._check_served(peer_id)
        return self.info().to_json()

    async def create_order(self, peer_id: str, params: object) -> dict[str, Any]:
        """Answer `lsps1.create_order` (E-04 to E-10): the order is stored before its client hears of it."""
        ask = lsps1.parse_create_order(params, self.info())
        if ask.token:
            raise lsps1.wrong_token()  # orders are sold without
        self._check_served(peer_id)
        if self._is_paused():
            raise try_later("this node sells no channels at the moment")
        if self._book.unpaid_of(peer_id) + self._taking[peer_id] >= self._terms.most_per_peer:
            raise try_later(FULL)
        self._taking[peer_id] += 1
        try:
            return (await self._take(peer_id, ask)).status().to_json()
        finally:
            self._taking[peer_id] -= 1
            self._taking += Counter()  # drops those at 0

    async def get_order(self, peer_id: str, params: object) -> dict[str, Any]:
        """Answer `lsps1.get_order` (E-11): to the client who ordered, and to no other."""
        order = self._book.get(lsps1.parse_get_order(params))
        if order is None or order.peer_id != peer_id:
            raise lsps1.order_not_found()
        return order.status().to_json()

    def _check_served(self, peer_id: str) -> None:
        if not self._policy.is_served(peer_id):
            raise client_rejected("this node does not serve you")

    async def _make_room(self, fee_sat: int) -> None:
        """Bound what waits for a payment in all; what is worth little gives way (rule:24). Raises PeerError.

        So does first what was ordered a while ago by a client who has hung up: names cost nothing, links do.
        """
        if self._book.unpaid() + self._taking.total() <= self._terms.most:
            return
        before_ms = self._clock.wall_ms() - LEAST_MS
        waiting = [order for order in self._book.idle() if order.created_ms < before_ms]
        weakest = min(waiting, key=lambda order: (self._is_online(order.peer_id), order.fee_sat), default=None)
        if weakest is None or (self._is_online(weakest.peer_id) and weakest.fee_sat >= fee_sat):
            raise try_later(FULL)
        await self._book.move(weakest, Fact.LOST, why="too many orders were waiting, and it gave way")

    async def _take(self, peer_id: str, ask: OrderAsk) -> Order:
        facts = await self._means.facts(peer_id, fresh=True)
        if ask.capacity_sat > spendable_sat(facts):
            raise try_later("this node has no coins for such a channel at the moment")
        fee_sat = self._terms.fee_sat(ask, self._policy.rules.floor.least_fee_msat(facts.feerate_perkw))
        await self._make_room(fee_sat)
        preimage = b"".join(self.random64().to_bytes(8) for _ in range(4))
        order_id = str(UUID(int=self.random64() << 64 | self.random64(), version=4))
        text = f"a channel with {ask.lsp_balance_sat} sat to receive with, for {ask.channel_expiry_blocks} blocks"
        total_sat, valid_s = fee_sat + ask.client_balance_sat, self._terms.valid_s
        made = await self._invoices.make(LABEL + order_id, total_sat, text, valid_s, preimage)
        now_ms = self._clock.wall_ms()
        order = Order(
            id=order_id,
            key=new_scid(self.random64, self._scid_taken),
            peer_id=peer_id,
            ask=ask,
            fee_sat=fee_sat,
            payment_hash=made.payment_hash,
            preimage=preimage.hex(),
            bolt11=made.bolt11,
            created_ms=now_ms,
            expires_ms=now_ms + 1000 * valid_s,
        )
        try:
            await self._book.add(order)
        except StoreError:
            await self._invoices.take_back(order.label)
            raise
        log.info(f"order {order_id} of {peer_id}: {ask.capacity_sat} sat for {fee_sat} sat")
        return order
