"""From an LSP's menu to a purchase: what is asked, what is refused, what is agreed (G-…, B-… for the client).

Nothing is bought that costs more than the owner allows, ends too soon, asks for more trust than he gave, or comes from
an answer that breaks the rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from lsps2fast.errors import Lsps2Error, NodeError, PeerError
from lsps2fast.lsps.lsps0 import FEATURE_BIT, LIST_PROTOCOLS, MalformedField, parse_protocols
from lsps2fast.lsps.lsps2 import (
    BUY,
    GET_INFO,
    VALIDITY_MARGIN_MS,
    Choice,
    FeeParams,
    Unacceptable,
    buy_params,
    check_menu_order,
    choose_entry,
    get_info_params,
    parse_buy_result,
    validate_menu,
)
from lsps2fast_plugin.client.lsps0_client import Lsps0Client, Unavailable
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Purchase
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import list_peers
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

INVALID_FEE_PARAMS = 201
Json = dict[str, Any]
Answer = TypeVar("Answer")


class Limits(NamedTuple):
    """What the owner pays at most, for this call."""

    max_fee_msat: int
    max_fee_ppm: int

    def at(self, payment_msat: int) -> int:
        """Return the largest fee for a payment."""
        return min(self.max_fee_msat, payment_msat * self.max_fee_ppm // 1_000_000)


class Wish(NamedTuple):
    """What is to be bought. `payment_msat` None: any amount, up to `largest_msat` if given. `needed_ms`: how long the
    offer must still be good, beyond the usual margin. `quoted_fee_msat`, `quoted`: the fee, or the very offer, that the
    caller was shown before, and gets or nothing (wallet:W17).
    """

    payment_msat: int | None
    largest_msat: int | None
    limits: Limits
    consent: bool
    needed_ms: int
    quoted_fee_msat: int | None = None
    quoted: FeeParams | None = None
    min_lifetime_blocks: int = 0
    headroom_msat: int = 0

    def smallest_msat(self, choice: Choice) -> int:
        """Return the smallest payment that will be taken (wallet:W12)."""
        if self.payment_msat is not None:
            return self.payment_msat
        return smallest_payment_msat(choice.entry, choice.largest_payment_msat, self.limits)


def choose(menu: list[FeeParams], wish: Wish, wall_ms: int, our_to_self_delay_blocks: int) -> Choice:
    """Return the cheapest entry that fits and costs no more than the owner allows (G-13, G-15). Raises Unacceptable."""
    limits, payment_msat = wish.limits, wish.payment_msat
    if not menu:
        raise Unacceptable("the LSP sells no channels now: its menu is empty")
    menu = [entry for entry in menu if entry.min_lifetime_blocks >= wish.min_lifetime_blocks]
    if not menu:
        raise Unacceptable(f"no offer keeps the channel for {wish.min_lifetime_blocks} blocks")
    if wish.headroom_msat:
        needed_msat = wish.headroom_msat + (payment_msat or 0)
        menu = [entry for entry in menu if entry.max_payment_size_msat >= needed_msat]
        if not menu:
            raise Unacceptable(f"no offer is for a channel that can receive {needed_msat} msat")
    # Below a share of the payment that every payment exceeds, no amount helps.
    entries = [entry for entry in menu if entry.proportional <= limits.max_fee_ppm]
    if not entries:
        raise Unacceptable(f"every offer costs more than the limit of {limits.max_fee_ppm} ppm")
    choice = choose_entry(
        entries,
        now_ms=wall_ms,
        our_to_self_delay_blocks=our_to_self_delay_blocks,
        payment_size_msat=payment_msat,
        largest_payment_msat=wish.largest_msat,
        max_fee_msat=limits.max_fee_msat if payment_msat is None else limits.at(payment_msat),
        needed_ms=VALIDITY_MARGIN_MS + wish.needed_ms,
    )
    if choice.opening_fee_msat > limits.at(choice.largest_payment_msat):
        raise Unacceptable(
            f"the fee of {choice.opening_fee_msat} msat for {choice.largest_payment_msat} msat is above the limit of"
            f" {limits.max_fee_ppm} ppm"
        )
    if wish.quoted_fee_msat is not None and choice.opening_fee_msat > wish.quoted_fee_msat:
        raise Unacceptable(
            f"the fee is {choice.opening_fee_msat} msat now, {wish.quoted_fee_msat} were quoted; ask for its menu again"
        )
    return choice


def smallest_payment_msat(entry: FeeParams, largest_msat: int, limits: Limits) -> int:
    """Return the smallest payment of any amount that menu and owner's limits agree on, at most `largest_msat`.

    Below it the LSP's least fee is more than the owner's share of the payment; from it on all amounts are agreed.
    """
    spare_ppm = max(limits.max_fee_ppm - entry.proportional, 1)  # the fee is rounded up, the limit down
    low, high = min(max(entry.min_payment_size_msat, -(-1_000_000 // spare_ppm)), largest_msat), largest_msat
    while low < high:
        middle = (low + high) // 2
        fee_msat = entry.fee_msat(middle)
        if fee_msat is not None and fee_msat < middle and fee_msat <= limits.at(middle):
            high = middle
        else:
            low = middle + 1
    return low


def amount_of_most(ranges: list[tuple[int, int]]) -> int:
    """Return an amount in as many of these ranges as can be: fees compare only at one amount (wallet:W11)."""

    def holding(amount_msat: int) -> int:
        return sum(least_msat <= amount_msat <= most_msat for least_msat, most_msat in ranges)

    return max(sorted(most_msat for _, most_msat in ranges), key=holding, default=0)


def _not_compared(least_msat: int, most_msat: int, payment_msat: int) -> str:
    return (
        f"its offer is for {least_msat} to {most_msat} msat, the others are compared at {payment_msat};"
        " name an amount to have it compared"
    )


async def within(clock: Clock, timeout_s: int, work: Coroutine[Any, Any, Answer], what: str) -> Answer:
    """Return what `work` returns, or raise Unavailable after a time (wallet:W14)."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep_until(clock.now_ms() + timeout_s * 1000))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        timer.cancel()
        task.cancel()
    raise Unavailable(f"{what} within {timeout_s} s")


class LspBuyer:
    """Talks to LSPs about JIT channels."""

    def __init__(
        self,
        rpc: Rpc,
        talk: Lsps0Client,
        book: WalletRecords,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._rpc = rpc
        self._talk = talk
        self._book = book
        self._clock = clock
        self.settings = settings
        self.our_to_self_delay_blocks = 0

    def allow(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self.settings = settings

    def limits(self, max_fee_msat: int | None, max_fee_ppm: int | None) -> Limits:
        """Return the owner's limits, tightened for one call; a call cannot widen them."""
        ours = Limits(self.settings.max_fee_msat, self.settings.max_fee_ppm)
        return Limits(
            ours.max_fee_msat if max_fee_msat is None else min(ours.max_fee_msat, max_fee_msat),
            ours.max_fee_ppm if max_fee_ppm is None else min(ours.max_fee_ppm, max_fee_ppm),
        )

    def consents(self, lsp_id: str, asked: bool | None) -> bool:
        """Return whether this LSP may hold back the funding until it has the preimage (B-16);
        never if it broke its word.
        """
        if lsp_id in self._book.distrusted:
            return False
        return self.settings.trusts(lsp_id) if asked is None else asked

    async def reach(self, lsp_id: str, address: str | None = None) -> str | None:
        """Make sure that it is connected; where to dial it later. Raises Unavailable.

        That is the address given: of a link that the LSP made lightningd knows only the port it came from.
        """
        peers = await list_peers(self._rpc, id=lsp_id)
        if not peers or not peers[0].connected:
            try:
                await self._rpc.call("connect", {"id": lsp_id if address is None else f"{lsp_id}@{address}"})
            except NodeError as error:
                raise Unavailable(
                    f"Not connected to peer {lsp_id}, and it cannot be reached: {error.message};"
                    " connect to it first, with its address"
                ) from error
            peers = await list_peers(self._rpc, id=lsp_id)
        return address or (peers[0].netaddr[0] if peers and peers[0].netaddr else None)

    async def protocols(self, lsp_id: str) -> tuple[int, ...]:
        """Return what a peer speaks (T-34, T-35). Raises PeerError, Unavailable, Unacceptable."""
        await self.reach(lsp_id)
        return self._read(LIST_PROTOCOLS, await self._talk.call(lsp_id, LIST_PROTOCOLS, {}), parse_protocols)

    async def menu(self, lsp_id: str, token: str | None) -> list[FeeParams]:
        """Return everything an LSP offers; all of it or nothing (G-11). Raises PeerError, Unavailable, Unacceptable."""
        await self.reach(lsp_id)
        result = await self._talk.call(lsp_id, GET_INFO, get_info_params(token))
        menu = self._read(GET_INFO, result, validate_menu)
        if not check_menu_order(menu):
            log.warning(f"{lsp_id} offers a menu out of order; the cheapest entry is chosen by its fee")  # G-14
        return menu

    @staticmethod
    def _read(method: str, result: Json, read: Callable[[object], Answer]) -> Answer:
        try:
            return read(result)
        except MalformedField as error:
            raise Unacceptable(f"the LSP's answer to {method} breaks the rules: {error}") from error

    def choose(self, menu: list[FeeParams], wish: Wish) -> Choice:
        """See `choose`, for this node now."""
        return choose(menu, wish, self._clock.wall_ms(), self.our_to_self_delay_blocks)

    async def buy(self, lsp_id: str, choice: Choice, wish: Wish) -> Purchase:
        """Buy one entry. Raises PeerError, Unavailable, Unacceptable (B-16)."""
        await self.reach(lsp_id)
        result = await self._talk.call(lsp_id, BUY, buy_params(choice.entry, wish.payment_msat))
        got = self._read(BUY, result, lambda answer: parse_buy_result(answer, allow_client_trusts_lsp=True))
        if got.jit_scid == 0 or got.cltv_expiry_delta_blocks == 0:  # wallet:W15
            raise Unacceptable("the LSP's answer to the buy names a channel or a delay that no payer can use")
        if got.client_trusts_lsp and not wish.consent:
            raise Unacceptable(self._why_not_trusted(lsp_id))
        return Purchase(
            lsp_id=lsp_id,
            jit_scid=got.jit_scid,
            params=choice.entry,
            payment_size_msat=wish.payment_msat,
            cltv_expiry_delta_blocks=got.cltv_expiry_delta_blocks,
            client_trusts_lsp=got.client_trusts_lsp,
            opening_fee_msat=choice.opening_fee_msat,
            largest_payment_msat=choice.largest_payment_msat,
            smallest_payment_msat=wish.smallest_msat(choice),
            max_fee_msat=wish.limits.max_fee_msat,
            max_fee_ppm=wish.limits.max_fee_ppm,
            consent=wish.consent,
            created_ms=self._clock.wall_ms(),
            headroom_msat=wish.headroom_msat,
        )

    def _why_not_trusted(self, lsp_id: str) -> str:
        distrust = self._book.distrusted.get(lsp_id)
        if distrust is not None:
            return f"the LSP asks to be trusted and broke its word before ({distrust.why}); lsps2-trust forgives it"
        return (
            "the LSP asks to be trusted until it broadcasts the funding transaction; allow it with"
            " client_trusts_lsp=true, or for good with the option lsps2-trusted-lsp"
        )

    async def purchase(self, lsp_id: str, token: str | None, wish: Wish) -> Purchase:
        """Fetch the menu, choose, buy; once more with a new menu when the offer has just gone (I-34)."""
        if wish.quoted is not None:
            return await self.buy(lsp_id, self.choose([wish.quoted], wish), wish)
        choice = self.choose(await self.menu(lsp_id, token), wish)
        try:
            return await self.buy(lsp_id, choice, wish)
        except PeerError as error:
            if error.code != INVALID_FEE_PARAMS:
                raise
            log.info(f"{lsp_id} no longer stands by its offer; asking for a new menu")
        choice = self.choose(await self.menu(lsp_id, token), wish)
        return await self.buy(lsp_id, choice, wish)

    async def sellers(self) -> list[str]:
        """Return connected peers that say they sell (feature bit 729, which is no duty: T-33)."""
        peers = await list_peers(self._rpc)
        return [peer.id for peer in peers if peer.connected and _sells(peer.features or "")]

    async def compare(self, lsp_ids: list[str], token: str | None, wish: Wish, timeout_s: int) -> Json:
        """Return what each LSP would take for one and the same amount, cheapest first; and why the others are out."""
        answers = await asyncio.gather(*(self._quote(lsp_id, token, wish, timeout_s) for lsp_id in lsp_ids))
        choices = {lsp_id: each for lsp_id, each in zip(lsp_ids, answers, strict=True) if isinstance(each, Choice)}
        refused = [each for each in answers if not isinstance(each, Choice)]
        ranges = {
            lsp_id: (wish.smallest_msat(choice), choice.largest_payment_msat) for lsp_id, choice in choices.items()
        }
        payment_msat = amount_of_most(list(ranges.values()))
        offers = []
        for lsp_id, (least_msat, most_msat) in ranges.items():
            if least_msat <= payment_msat <= most_msat:
                offers.append(self._offer(lsp_id, choices[lsp_id], payment_msat, least_msat))
            else:
                refused.append({"lsp_id": lsp_id, "why": _not_compared(least_msat, most_msat, payment_msat)})
        offers.sort(key=lambda offer: (offer["opening_fee_msat"], -offer["min_lifetime"], offer["lsp_id"]))
        return {"offers": offers, "refused": refused}

    async def _quote(self, lsp_id: str, token: str | None, wish: Wish, timeout_s: int) -> Choice | Json:
        try:
            menu = await within(self._clock, timeout_s, self.menu(lsp_id, token), f"{lsp_id} did not answer")
            return self.choose(menu, wish)
        except PeerError as error:
            return {"lsp_id": lsp_id, "why": error.message, "code": error.code}
        except Lsps2Error as error:
            return {"lsp_id": lsp_id, "why": str(error)}

    def _offer(self, lsp_id: str, choice: Choice, payment_msat: int, smallest_msat: int) -> Json:
        entry = choice.entry
        fee_msat = entry.fee_msat(payment_msat) or 0
        return {
            "lsp_id": lsp_id,
            "opening_fee_msat": fee_msat,
            "payment_msat": payment_msat,
            "receive_msat": payment_msat - fee_msat,
            "valid_until": entry.raw["valid_until"],
            "min_lifetime": entry.to_json()["min_lifetime"],
            "smallest_payment_msat": smallest_msat,
            "largest_payment_msat": choice.largest_payment_msat,
            "trusted": lsp_id not in self._book.distrusted and self.settings.trusts(lsp_id),
            "broke_its_word": lsp_id in self._book.distrusted,
            "opening_fee_params": entry.to_json(),
        }


def _sells(features: str) -> bool:
    try:
        bits = int(features or "0", 16)
    except ValueError:
        return False
    return bool(bits >> FEATURE_BIT & 1 or bits >> (FEATURE_BIT - 1) & 1)
