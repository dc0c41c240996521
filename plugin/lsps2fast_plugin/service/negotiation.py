"""The selling side of the talk with a client: LSPS0 and LSPS2 requests in, one answer out or silence.

`admit` reads a message and decides at once, without waiting, whether it is worked on; `work` then answers it. Nothing
a peer sends can raise out of either, and nothing is stored before a buy is accepted (P-07).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from lsps2fast.errors import Lsps2Error, NodeError, PeerError
from lsps2fast.lsps import lsps0, lsps2
from lsps2fast.lsps.buys import (
    Buy,
    BuyRegistry,
    Lack,
    TokenBucket,
    check_supply,
    check_terms,
    new_scid,
    parse_error_buckets,
)
from lsps2fast.lsps.lsps2 import BuyAsk, FeeParams
from lsps2fast.lsps.promise import Keyring, promised_token
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.policy.limits import Admit, Refusal
from lsps2fast_plugin.service.policy.preflight import Facts, least_capacity_sat, preflight
from lsps2fast_plugin.service.policy.rules import Token
from lsps2fast_plugin.service.policy.shared import Buying, NoFleet, Place
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.supply import NodeTerms, Supply

if TYPE_CHECKING:
    from lsps2fast_plugin.service.lsps1.desk import OrderDesk
    from lsps2fast_plugin.service.wake.waker import Waker

log = logging.getLogger(__name__)

EXISTING_CHANNEL = "existing_channel"  # member of the answer to `lsps2.get_info`, beside the menu
BUYS = (lsps2.BUY, "lsps1.create_order")  # which cost us a commit
NOT_SERVED = "this node does not serve you"
TOO_OFTEN = "too many requests, try again later"
NOT_NOW = "this node sells no channels at the moment"
_WRONG_TERMS = {202: Refusal.PAYMENT_TOO_SMALL, 203: Refusal.PAYMENT_TOO_LARGE}


class Negotiator:
    """Answers LSPS messages of all peers."""

    def __init__(
        self,
        *,
        supply: Supply,
        scid_taken: Callable[[int], bool],
        offers: BuyRegistry,
        promises: Keyring,
        desk: Desk,
        terms: NodeTerms,
        clock: Clock,
        random64: Callable[[], int],
        accept: Callable[[Buy], Awaitable[None]],
        buying: Buying | None = None,
        waker: Waker | None = None,
        orders: OrderDesk | None = None,
        existing: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        """`scid_taken(scid)`: a channel of ours has this scid or alias.

        `accept` journals a buy and makes its scid live before the client hears of it (B-10). `buying` asks the other
        nodes of the operator, if there are any; `existing(peer_id)` is the largest payment that would go over a
        channel which this client has. `waker`: LSPS5, `orders`: LSPS1, if this service has it.
        """
        self._existing = existing
        self._buying = buying or NoFleet()
        self._scid_taken = scid_taken
        self._supply = supply
        self._offers = offers
        self._promises = promises
        self._desk = desk
        self._policy = desk.policy
        self._refusals = desk.refusals
        self._terms = terms
        self._clock = clock
        self._random64 = random64
        self._accept = accept
        self._in_progress = desk.gate.in_progress
        self._rubbish = parse_error_buckets()
        self._rubbish_total = TokenBucket(20, 200)  # each answer costs an RPC call
        self._waker = waker
        self._orders = orders
        self._methods: dict[str, Callable[[str, object], Awaitable[dict[str, Any]]]] = {
            lsps0.LIST_PROTOCOLS: self._list_protocols,
            lsps2.GET_INFO: self._get_info,
            lsps2.BUY: self._buy,
            **({} if orders is None else orders.methods),
        }

    # Which messages are worked on -----------------------------------------------------------------

    def admit(self, peer_id: str, payload: bytes) -> lsps0.Request | bytes | None:
        """Return a request to `work` on, an answer to send at once, or None for silence."""
        now_ms = self._clock.now_ms()
        if not self._desk.gate.message(peer_id, len(payload), now_ms):
            return None
        try:
            request = lsps0.decode_request(payload)
        except PeerError as error:
            self._refusals.count(Refusal.NO_REQUEST)
            if not (self._rubbish.take(peer_id, now_ms) and self._rubbish_total.take(now_ms)):
                return None  # T-12; and no log line either, or a peer could fill the log
            log.warning(f"{peer_id} sent something that is no LSPS request: {error}")
            return lsps0.encode_error(None, error)
        if request is None:
            return None
        admitted = self._desk.gate.request(peer_id, request.method in BUYS, now_ms)
        if admitted is not Admit.YES:
            rejected = lsps0.encode_error(request.id, lsps0.try_later(TOO_OFTEN))
            return rejected if admitted is Admit.REFUSE else None
        return request

    def missed(self, count: int) -> None:
        """Take note that so many messages came before this negotiator, and there was no room to keep them."""
        self._refusals.count(Refusal.TOO_EARLY, count)

    async def work(self, peer_id: str, request: lsps0.Request) -> bytes:
        """Return the answer to an admitted request."""
        if not self._in_progress.enter(peer_id):
            self._refusals.count(Refusal.IN_PROGRESS)
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-36
        try:
            return lsps0.encode_result(request.id, await self._run(peer_id, request))
        except PeerError as error:
            self._desk.errors[error.code] = self._desk.errors.get(error.code, 0) + 1
            return lsps0.encode_error(request.id, error)
        except (Lsps2Error, OSError, ValueError, KeyError, TypeError) as error:
            log.error(f"{request.method} of {peer_id} failed: {type(error).__name__}: {error}")
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-18
        finally:
            self._in_progress.leave(peer_id)

    async def _run(self, peer_id: str, request: lsps0.Request) -> dict[str, Any]:
        method = self._methods.get(request.method)
        if method is None and self._waker is not None and request.method in self._waker.methods:
            method = self._waker.methods[request.method] if await self._waker.knows() else None
        if method is None:
            raise lsps0.method_not_found()
        return await method(peer_id, request.params)

    async def _list_protocols(self, peer_id: str, params: object) -> dict[str, Any]:
        lsps0.parse_list_protocols(params)
        protocols = [lsps2.PROTOCOL]
        if self._orders is not None and self._orders.sells:
            protocols.insert(0, self._orders.protocol)
        if self._waker is not None and await self._waker.knows():
            protocols.append(self._waker.protocol)
        return lsps0.protocols_result(protocols)

    # Menus ----------------------------------------------------------------------------------------

    async def _get_info(self, peer_id: str, params: object) -> dict[str, Any]:
        text = lsps2.parse_get_info(params)
        wall_ms = self._clock.wall_ms()
        if not self._policy.is_served(peer_id):
            raise lsps0.client_rejected(NOT_SERVED)
        theirs = await self._desk.external.menu(text, wall_ms)
        if theirs is not None:
            facts = await self._supply.facts(peer_id, fresh=False)
            sold = [entry for entry in theirs if self._would_open(entry, facts)]
            entries = self._policy.cap(sold, peer_id, self._clock.wall_ms(), facts)
            return self._signed(peer_id, entries, None) | await self._existing_room(peer_id)
        token = None if text is None else self._policy.token(text, wall_ms)
        facts = await self._supply.facts(peer_id, fresh=False)
        wall_ms = self._clock.wall_ms()
        lines = self._policy.menu(peer_id, token, wall_ms, facts)
        entries = [line.params(wall_ms) for line in lines]
        return self._signed(peer_id, entries, token) | await self._existing_room(peer_id)

    async def _existing_room(self, peer_id: str) -> dict[str, Any]:
        """Return the member that says what a payment over a channel of this client costs, if it has one with room.

        A client that does not know it ignores it (T-25).
        """
        try:
            most_msat = 0 if self._existing is None or self._desk.paused else await self._existing(peer_id)
        except NodeError as error:
            log.warning(f"what room {peer_id} has in its channels is not known: {error}")
            return {}
        return {EXISTING_CHANNEL: self._policy.rules.reuse.explain(most_msat)} if most_msat else {}

    def _would_open(self, entry: FeeParams, facts: Facts) -> bool:
        """Return whether any payment of a policy plugin's entry would be opened at this feerate (people:S12)."""
        floor, most_msat = self._policy.rules.floor, entry.fee_msat(entry.max_payment_size_msat)
        if floor.loss_msat(facts.feerate_perkw, most_msat or 0) <= floor.max_loss_sat * 1000:
            return True
        self._refusals.count(Refusal.SOLD_AT_A_LOSS)
        return False

    def _signed(self, peer_id: str, entries: list[FeeParams], token: Token | None) -> dict[str, Any]:
        key = bytes.fromhex(peer_id)
        bound_to = None if token is None else token.hash
        if self._desk.paused:
            self._refusals.count(Refusal.PAUSED)
            entries = []  # G-04: no JIT channels for now; who or what token is refused hears that first
        self._desk.menus += 1
        return lsps2.menu_result([self._promises.sign(key, entry, bound_to) for entry in entries])

    # Buys -----------------------------------------------------------------------------------------

    async def _buy(self, peer_id: str, params: object) -> dict[str, Any]:
        """Take the steps of B-06, the cheap ones first; then one commit."""
        ask = lsps2.parse_buy(params)
        self._check_welcome(peer_id)
        token = self._check_terms(peer_id, ask)
        facts = await self._supply.facts(peer_id, fresh=True)
        facts = self._policy.within_budgets(facts, peer_id, token, self._clock.wall_ms())
        capacity_sat = preflight(ask, facts, self._policy.rules.capacity, self._refusals)
        jit_scid = new_scid(self._random64, self._taken)
        capacity_sat = await self._as_the_plugin_wants(ask, jit_scid, facts, capacity_sat)
        token = self._token_of(ask.params)  # others may have used it up meanwhile
        most_msat = self._policy.most_capacity_sat(ask, capacity_sat, facts) * 1000
        mining_msat = self._policy.rules.floor.mining_msat(facts.feerate_perkw)
        async with self._buying.place(Place(peer_id, token, most_msat, mining_msat)):
            buy = await self._sell(peer_id, ask, jit_scid, capacity_sat, facts)
        self._desk.buys += 1
        return lsps2.buy_result(buy.jit_scid, buy.cltv_expiry_delta_blocks, buy.client_trusts_lsp)

    async def _sell(self, peer_id: str, ask: BuyAsk, jit_scid: int, capacity_sat: int, facts: Facts) -> Buy:
        """Store the buy. Raises PeerError or StoreError: it was not sold."""
        wall_ms = self._clock.wall_ms()
        if ask.params.valid_until_ms <= wall_ms:  # it lapsed while we asked
            raise lsps2.invalid_fee_params()
        token = self._token_of(ask.params)  # as above
        trusts = self._policy.trust_of(ask, peer_id, token, capacity_sat, facts, wall_ms)
        buy = Buy(
            jit_scid=jit_scid,
            peer_id=peer_id,
            params=ask.params,
            payment_size_msat=ask.payment_size_msat,
            cltv_expiry_delta_blocks=self._terms.cltv_expiry_delta_blocks,
            client_trusts_lsp=trusts,
            created_at_ms=wall_ms,
            capacity_sat=capacity_sat,
        )
        await self._store(buy, token)
        return buy

    def _check_welcome(self, peer_id: str) -> None:
        """Step 2 of B-06. Raises PeerError 1, or -32603 for what passes."""
        if not self._policy.is_served(peer_id):
            raise lsps0.client_rejected(NOT_SERVED)
        if self._desk.paused:
            self._refusals.count(Refusal.PAUSED)
            raise lsps0.try_later(NOT_NOW)
        self._check_room(peer_id)

    def _check_room(self, peer_id: str) -> None:
        try:
            self._offers.check_room(peer_id)
        except PeerError:
            self._refusals.count(Refusal.OFFER_LIMITS)
            raise

    def _token_of(self, params: FeeParams) -> Token | None:
        """Return the token under which this offer was promised. Raises PeerError 201 when that is over."""
        promised = promised_token(params)
        return None if promised is None else self._policy.token_of(promised, self._clock.wall_ms())

    async def _as_the_plugin_wants(self, ask: BuyAsk, jit_scid: int, facts: Facts, capacity_sat: int) -> int:
        """Return the capacity that the operator's policy plugin names, within what can be funded; else our own."""
        least_sat = least_capacity_sat(ask, facts)
        most_sat = self._policy.rules.capacity.max_sat
        wanted = await self._desk.external.capacity_sat(
            ask.params, ask.payment_size_msat, jit_scid, least_sat, most_sat
        )
        if wanted is None:
            return capacity_sat
        if isinstance(wanted, Lack):
            return check_supply(ask, wanted)
        named = self._policy.rules.capacity._replace(headroom_sat=max(wanted - least_sat, 0), factor_percent=100)
        return preflight(ask, facts, named, self._refusals)

    async def _store(self, buy: Buy, token: Token | None) -> None:
        """Reserve the place, count the token, write the buy; undo it all when it cannot be stored (T-18).

        The use of the token comes back with the record that is deleted then.
        """
        self._check_room(buy.peer_id)
        self._offers.add(buy)
        try:
            if token is not None:
                self._policy.uses.take(token)
            await self._accept(buy)
        except BaseException:  # also when the plugin ends here: what was not journalled was not sold
            self._offers.remove(buy.jit_scid)
            raise

    def _check_terms(self, peer_id: str, ask: BuyAsk) -> Token | None:
        """Take steps 3 to 9 of B-06, each refusal counted once; return the token of the promise. Raises PeerError."""
        token: Token | None = None
        known_why = False

        def proves(params: FeeParams) -> bool:
            nonlocal token, known_why
            if not self._promises.verify(bytes.fromhex(peer_id), params):
                return False
            known_why = True  # a token that is no more counts under its own name
            token = self._token_of(params)
            known_why = False
            return True

        try:
            check_terms(ask, self._clock.wall_ms(), proves, self._terms.floor_msat)
        except PeerError as error:
            if not known_why:
                self._refusals.count(_WRONG_TERMS.get(error.code, Refusal.OFFER_INVALID))
            raise
        return token

    def _taken(self, scid: int) -> bool:
        return scid in self._offers or self._scid_taken(scid)
