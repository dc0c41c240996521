"""The selling side of the talk with a client: LSPS0 and LSPS2 requests in, one answer out or silence.

`admit` reads a message and decides at once, without waiting, whether it is worked on; `work` then answers it. Nothing
a peer sends can raise out of either, and nothing is stored before a buy is accepted (P-07).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from lsps2fast.errors import Lsps2Error, PeerError
from lsps2fast.lsps import lsps0, lsps2
from lsps2fast.lsps.buys import Buy, BuyRegistry, Lack, TokenBucket, check_terms, new_scid, parse_error_buckets
from lsps2fast.lsps.lsps2 import BuyAsk, FeeParams
from lsps2fast.lsps.promise import Keyring, promised_token
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.liquidity import Feerates, Liquidity
from lsps2fast_plugin.service.policy.limits import Admit, Refusal
from lsps2fast_plugin.service.policy.preflight import EXPECTED_PARTS, Facts, least_capacity_sat, preflight
from lsps2fast_plugin.service.policy.rules import Token
from lsps2fast_plugin.service.sales_policy import Desk

log = logging.getLogger(__name__)

NOT_SERVED = "this node does not serve you"
TOO_OFTEN = "too many requests, try again later"
NOT_NOW = "this node sells no channels at the moment"


class Node(Protocol):
    """The questions a negotiation asks of the node."""

    async def purse(self) -> Liquidity:
        """What can come in and what can be spent, or NodeError."""

    async def feerates(self) -> Feerates:
        """What lightningd would pay for its transactions now, or NodeError."""

    def scid_taken(self, scid: int) -> bool:
        """Whether a channel of ours has this scid or alias."""


class Live(Protocol):
    """What a negotiation must know of what is under way."""

    def is_online(self, peer_id: str) -> bool:
        """Whether this client is connected."""

    def committed_sat(self) -> int:
        """What payments under way will still reserve of the wallet."""

    def at_risk_msat(self) -> int:
        """Capital that is on chain unpaid, or about to be."""


class NodeTerms(NamedTuple):
    """What the node imposes on every buy."""

    cltv_expiry_delta_blocks: int
    max_parts: int = EXPECTED_PARTS
    floor_msat: int = 1  # H-03: the expectation before there is a channel


class Negotiator:
    """Answers LSPS messages of all peers."""

    def __init__(
        self,
        *,
        node: Node,
        live: Live,
        offers: BuyRegistry,
        promises: Keyring,
        desk: Desk,
        terms: NodeTerms,
        clock: Clock,
        random64: Callable[[], int],
        accept: Callable[[Buy], Awaitable[None]],
    ) -> None:
        """`accept` journals a buy and makes its scid live before the client hears of it (B-10)."""
        self._node = node
        self._live = live
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
        self._rubbish_total = TokenBucket(20, 200)  # an answer costs an RPC call, whoever it is for
        self._methods = {
            lsps0.LIST_PROTOCOLS: self._list_protocols,
            lsps2.GET_INFO: self._get_info,
            lsps2.BUY: self._buy,
        }

    # Which messages are worked on -----------------------------------------------------------------

    def admit(self, peer_id: str, payload: bytes) -> lsps0.Request | bytes | None:
        """A request to `work` on, an answer to send at once, or None for silence."""
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
        admitted = self._desk.gate.request(peer_id, request.method == lsps2.BUY, now_ms)
        if admitted is not Admit.YES:
            rejected = lsps0.encode_error(request.id, lsps0.client_rejected(TOO_OFTEN))
            return rejected if admitted is Admit.REFUSE else None
        return request

    def missed(self, count: int) -> None:
        """So many messages came before this negotiator, and there was no room to keep them."""
        self._refusals.count(Refusal.TOO_EARLY, count)

    async def work(self, peer_id: str, request: lsps0.Request) -> bytes:
        """The answer to an admitted request."""
        if not self._in_progress.enter(peer_id):
            self._refusals.count(Refusal.IN_PROGRESS)
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-36
        try:
            return lsps0.encode_result(request.id, await self._run(peer_id, request))
        except PeerError as error:
            return lsps0.encode_error(request.id, error)
        except (Lsps2Error, OSError, ValueError, KeyError, TypeError) as error:
            log.error(f"{request.method} of {peer_id} failed: {type(error).__name__}: {error}")
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-18
        finally:
            self._in_progress.leave(peer_id)

    async def _run(self, peer_id: str, request: lsps0.Request) -> dict[str, Any]:
        method = self._methods.get(request.method)
        if method is None:
            raise lsps0.method_not_found()
        return await method(peer_id, request.params)

    async def _list_protocols(self, peer_id: str, params: object) -> dict[str, Any]:
        lsps0.parse_list_protocols(params)
        return lsps0.protocols_result()

    # Menus ----------------------------------------------------------------------------------------

    async def _get_info(self, peer_id: str, params: object) -> dict[str, Any]:
        text = lsps2.parse_get_info(params)
        wall_ms = self._clock.wall_ms()
        if not self._policy.is_served(peer_id, wall_ms):
            raise lsps0.client_rejected(NOT_SERVED)
        theirs = await self._desk.external.menu(text, wall_ms)
        if theirs is not None:
            return self._signed(peer_id, theirs, None)
        token = None if text is None else self._policy.token(text, wall_ms)
        feerate_perkw = (await self._node.feerates()).opening_perkw
        wall_ms = self._clock.wall_ms()
        lines = self._policy.menu(peer_id, token, wall_ms, feerate_perkw)
        return self._signed(peer_id, [line.params(wall_ms) for line in lines], token)

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
        """Steps of B-06, the cheap ones first; then one commit."""
        ask = lsps2.parse_buy(params)
        self._check_welcome(peer_id)
        check_terms(ask, self._clock.wall_ms(), self._proof(peer_id), self._terms.floor_msat)
        facts = await self._facts(peer_id)
        capacity_sat = preflight(ask, facts, self._policy.capacity_sat, self._refusals)
        jit_scid = new_scid(self._random64, self._taken)
        capacity_sat = await self._as_the_plugin_wants(ask, jit_scid, facts, capacity_sat)
        wall_ms = self._clock.wall_ms()
        if ask.params.valid_until_ms <= wall_ms:  # it lapsed while we asked
            raise lsps2.invalid_fee_params()
        token = self._token_of(ask.params)  # others may have used it up meanwhile
        trusts = self._policy.trust_mode(peer_id, token, capacity_sat * 1000, self._live.at_risk_msat(), wall_ms)
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
        self._desk.buys += 1
        return lsps2.buy_result(buy.jit_scid, buy.cltv_expiry_delta_blocks, buy.client_trusts_lsp)

    def _check_welcome(self, peer_id: str) -> None:
        """Step 2 of B-06. Raises PeerError 1."""
        if not self._policy.is_served(peer_id, self._clock.wall_ms()):
            raise lsps0.client_rejected(NOT_SERVED)
        if self._desk.paused:
            self._refusals.count(Refusal.PAUSED)
            raise lsps0.client_rejected(NOT_NOW)
        self._check_room(peer_id)

    def _check_room(self, peer_id: str) -> None:
        try:
            self._offers.check_room(peer_id)
        except PeerError:
            self._refusals.count(Refusal.OFFER_LIMITS)
            raise

    def _token_of(self, params: FeeParams) -> Token | None:
        """The token under which this offer was promised. Raises PeerError 201 when that is over."""
        promised = promised_token(params)
        return None if promised is None else self._policy.token_of(promised, self._clock.wall_ms())

    async def _facts(self, peer_id: str) -> Facts:
        purse = await self._node.purse()
        rules = self._policy.rules
        return Facts(
            connected=self._live.is_online(peer_id),
            incoming_liquidity_msat=purse.incoming_liquidity_msat,
            confirmed_sat=purse.confirmed_sat,
            committed_sat=self._live.committed_sat(),
            keep_onchain_sat=rules.capacity.keep_onchain_sat,
            feerate_perkw=purse.feerates.opening_perkw,
            commitment_perkw=purse.feerates.commitment_perkw,
            anchors_perkw=purse.feerates.anchors_perkw,
            open_vbytes=rules.floor.open_vbytes,
            zero_reserve=self._desk.zero_reserve(peer_id),
            max_parts=self._terms.max_parts,
        )

    async def _as_the_plugin_wants(self, ask: BuyAsk, jit_scid: int, facts: Facts, capacity_sat: int) -> int:
        """The capacity that the operator's policy plugin names, within what can be funded; else our own."""
        least_sat = least_capacity_sat(ask, facts)
        most_sat = self._policy.rules.capacity.max_sat
        wanted = await self._desk.external.capacity_sat(
            ask.params, ask.payment_size_msat, jit_scid, least_sat, most_sat
        )
        if wanted is None:
            return capacity_sat
        named: int | Lack = wanted
        return preflight(ask, facts, lambda _: named, self._refusals)

    async def _store(self, buy: Buy, token: Token | None) -> None:
        """Reserve the place, count the token, write the buy; undo it all when it cannot be stored (T-18)."""
        self._check_room(buy.peer_id)
        self._offers.add(buy)
        try:
            if token is not None:
                await self._desk.take_token(token)
            await self._accept_or_give_back(buy, token)
        except BaseException:  # also when the plugin ends here: what was not journalled was not sold
            self._offers.remove(buy.jit_scid)
            raise

    async def _accept_or_give_back(self, buy: Buy, token: Token | None) -> None:
        try:
            await self._accept(buy)
        except Exception:
            await self._desk.give_back(None if token is None else token.hash)
            raise

    def _proof(self, peer_id: str) -> Callable[[FeeParams], bool]:
        """Step 3 of B-06: our promise to this client, under a token that still stands. May raise PeerError 201."""

        def proves(params: FeeParams) -> bool:
            promised = self._promises.verify(bytes.fromhex(peer_id), params)
            if promised:
                self._token_of(params)
            return promised

        return proves

    def _taken(self, scid: int) -> bool:
        return scid in self._offers or self._node.scid_taken(scid)


def token_of_buy(buy: Buy) -> bytes | None:
    """The hash of the token that this buy has used, if any."""
    return promised_token(buy.params)
