"""The selling side of the talk with a client: LSPS0 and LSPS2 requests in, one answer out or silence.

Nothing a peer sends can raise out of `answer`, and nothing is stored before a buy is accepted (P-07).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from lsps2fast import lsps0, lsps2
from lsps2fast.errors import Lsps2Error, PeerError
from lsps2fast.lsps2 import BuyAsk, FeeParams
from lsps2fast.offers import (
    Buy,
    InFlight,
    Lack,
    Offers,
    check_liquidity,
    check_supply,
    check_terms,
    new_scid,
    parse_error_buckets,
)
from lsps2fast.promise import Keyring
from lsps2fast_plugin.clock import Clock
from lsps2fast_plugin.policy import FeeLine


class Supply(NamedTuple):
    """What the node can do for a payment of this size right now."""

    incoming_liquidity_msat: int | None
    capacity: int | Lack


class Node(Protocol):
    """The questions a negotiation asks of the node."""

    async def supply(self, ask: BuyAsk) -> Supply:
        """Inbound liquidity and the channel we could open."""

    def scid_taken(self, scid: int) -> bool:
        """Whether a channel of ours has this scid or alias."""


class Terms(NamedTuple):
    """What the operator sells, as far as a buy must know it."""

    menu: tuple[FeeLine, ...]
    cltv_expiry_delta_blocks: int
    client_trusts_lsp: bool
    floor_msat: int


class Negotiator:
    """Answers LSPS messages of all peers."""

    def __init__(
        self,
        *,
        node: Node,
        offers: Offers,
        promises: Keyring,
        terms: Terms,
        clock: Clock,
        random64: Callable[[], int],
        accept: Callable[[Buy], Awaitable[None]],
        say: Callable[[str, str], None],
    ) -> None:
        """`accept` journals a buy and makes its scid live before the client hears of it (B-10)."""
        self._node = node
        self._offers = offers
        self._promises = promises
        self._terms = terms
        self._clock = clock
        self._random64 = random64
        self._accept = accept
        self._say = say
        self._in_flight = InFlight()
        self._rubbish = parse_error_buckets()
        self._methods = {
            "lsps0.list_protocols": self._list_protocols,
            lsps2.GET_INFO: self._get_info,
            lsps2.BUY: self._buy,
        }

    async def answer(self, peer_id: str, payload: bytes) -> bytes | None:
        """The reply to one message of this peer, None for silence."""
        try:
            request = lsps0.decode_request(payload)
        except PeerError as error:
            if not self._rubbish.take(peer_id, self._clock.now_ms()):
                return None  # T-12; and no log line either, or a peer could fill the log
            self._say(f"{peer_id} sent something that is no LSPS request: {error}", "warn")
            return lsps0.encode_error(None, error)
        if request is None:
            return None
        if not self._in_flight.enter(peer_id):
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-36
        try:
            return lsps0.encode_result(request.id, await self._run(peer_id, request))
        except PeerError as error:
            return lsps0.encode_error(request.id, error)
        except (Lsps2Error, OSError, ValueError, KeyError, TypeError) as error:
            self._say(f"{request.method} of {peer_id} failed: {type(error).__name__}: {error}", "error")
            return lsps0.encode_error(request.id, lsps0.internal_error())  # T-18
        finally:
            self._in_flight.leave(peer_id)

    async def _run(self, peer_id: str, request: lsps0.Request) -> dict[str, Any]:
        method = self._methods.get(request.method)
        if method is None:
            raise lsps0.method_not_found()
        return await method(peer_id, request.params)

    async def _list_protocols(self, peer_id: str, params: object) -> dict[str, Any]:
        lsps0.parse_list_protocols(params)
        return lsps0.protocols_result()

    async def _get_info(self, peer_id: str, params: object) -> dict[str, Any]:
        if lsps2.parse_get_info(params) is not None:
            raise lsps2.stale_token()  # G-03: no tokens are configured, and none is silently ignored
        wall_ms = self._clock.wall_ms()
        key = bytes.fromhex(peer_id)
        kept, dropped = lsps2.order_menu(line.params(wall_ms) for line in self._terms.menu)
        if dropped:
            self._say(f"{len(dropped)} menu entries cross others and are not offered (G-07)", "warn")
        return lsps2.menu_result([self._promises.sign(key, entry) for entry in kept])

    async def _buy(self, peer_id: str, params: object) -> dict[str, Any]:
        """Steps of B-06, the cheap ones first; then one commit."""
        ask = lsps2.parse_buy(params)
        self._offers.check_room(peer_id)
        check_terms(ask, self._clock.wall_ms(), self._proof(peer_id), self._terms.floor_msat)
        supply = await self._node.supply(ask)
        wall_ms = self._clock.wall_ms()
        if ask.params.valid_until_ms <= wall_ms:  # it lapsed while we asked the node
            raise lsps2.invalid_fee_params()
        check_liquidity(ask, supply.incoming_liquidity_msat)
        capacity_sat = check_supply(ask, supply.capacity)
        buy = Buy(
            jit_scid=new_scid(self._random64, self._taken),
            peer_id=peer_id,
            params=ask.params,
            payment_size_msat=ask.payment_size_msat,
            cltv_expiry_delta_blocks=self._terms.cltv_expiry_delta_blocks,
            client_trusts_lsp=self._terms.client_trusts_lsp,
            created_at_ms=wall_ms,
            capacity_sat=capacity_sat,
        )
        self._offers.add(buy)
        try:
            await self._accept(buy)
        except BaseException:  # also when the plugin ends here: what was not journalled was not sold
            self._offers.remove(buy.jit_scid)
            raise
        return lsps2.buy_result(buy.jit_scid, buy.cltv_expiry_delta_blocks, buy.client_trusts_lsp)

    def _proof(self, peer_id: str) -> Callable[[FeeParams], bool]:
        key = bytes.fromhex(peer_id)
        return lambda params: self._promises.verify(key, params)

    def _taken(self, scid: int) -> bool:
        return scid in self._offers or self._node.scid_taken(scid)
