"""The RPC methods: CLN's five with their parameters and results, and three of ours.

Parameters stand in the order in which CLN's built-in client takes them by position; what is ours comes after.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, Lsps2Error
from lsps2fast.lsps.lsps2 import FeeParams, format_scid
from lsps2fast_plugin.client import checking, inbound, params
from lsps2fast_plugin.client.asking import differing
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.history import OVER, History
from lsps2fast_plugin.client.invoice_orders import (
    FOREIGN_HASH,
    Order,
    check_ours,
    described,
    duplicate,
    enough,
    given,
    inbound_warning,
    invoice_result,
)
from lsps2fast_plugin.client.invoices import (
    END_MARGIN_MS,
    LEAST_LIFE_S,
    Draft,
    Invoices,
    Request,
    check_description,
    check_request,
    compose,
)
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.client.options import BOTH, INBOUND_OPTION, REFUSE, Settings
from lsps2fast_plugin.client.purchase import Limits, LspBuyer, Wish, within
from lsps2fast_plugin.client.records import Approval, Purchase
from lsps2fast_plugin.client.rpc_errors import ForeignHash, HasInbound
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock

Json = dict[str, Any]
INVOICE_TIMEOUT_S, COMPARE_TIMEOUT_S = 120, 15
_NO_BUY = "no buy with this scid is known; give the opening_fee_params (and payment_size_msat) it was bought with"


class Methods:
    """One coroutine for each method; each may raise ConfigError or any other Lsps2Error."""

    def __init__(
        self,
        *,
        market: LspBuyer,
        book: WalletRecords,
        history: History,
        chain: Chain,
        watch: Watch,
        invoices: Invoices,
        clock: Clock,
        settings: Settings,
        changed: Callable[[], None],
        currency: str,
        final_cltv_blocks: int,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._market = market
        self._book = book
        self._history = history
        self._chain = chain
        self._watch = watch
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by label or hash, meanwhile
        self._invoices = invoices
        self._clock = clock
        self.settings = settings
        self._changed = changed
        self._currency = currency
        self._final_cltv_blocks = final_cltv_blocks
        self._random_bytes = random_bytes

    async def list_protocols(self, lsp_id: Any) -> Json:
        """Return what a peer speaks: {"protocols": [2]} for one that sells JIT channels."""
        lsp = params.node_id(lsp_id)
        checking.parameters_are_right()
        return {"protocols": list(await self._market.protocols(lsp))}

    async def get_info(self, lsp_id: Any, token: Any = None) -> Json:
        """Return the menu of an LSP, as it sent it."""
        lsp, coupon = params.node_id(lsp_id), params.text(token, "token")
        checking.parameters_are_right()
        menu = await self._market.menu(lsp, coupon)
        return {"opening_fee_params_menu": [entry.to_json() for entry in menu]}

    def _wish(
        self,
        lsp_id: str,
        payment_msat: int | None,
        *,
        largest: Any = None,
        max_fee_msat: Any = None,
        max_fee_ppm: Any = None,
        trusts: Any = None,
        needed_ms: int = 0,
        quoted_fee_msat: Any = None,
        quoted: Any = None,
        min_lifetime: Any = None,
        headroom: Any = None,
    ) -> Wish:
        limits = self._limits(max_fee_msat, max_fee_ppm)
        consent = self._market.consents(lsp_id, params.flag(trusts, "client_trusts_lsp"))
        largest_msat = params.optional_msat(largest, "max_payment_msat")
        fee_msat = params.optional_msat(quoted_fee_msat, "opening_fee_msat")
        offer = None if quoted is None else params.fee_params(quoted)
        lifetime_blocks = params.blocks(min_lifetime, "min_lifetime")
        headroom_msat = params.optional_msat(headroom, "headroom_msat") or 0
        return Wish(
            payment_msat, largest_msat, limits, consent, needed_ms, fee_msat, offer, lifetime_blocks, headroom_msat
        )

    def _limits(self, max_fee_msat: Any, max_fee_ppm: Any) -> Limits:
        return self._market.limits(
            params.optional_msat(max_fee_msat, "max_fee_msat"), params.ppm(max_fee_ppm, "max_fee_ppm")
        )

    async def buy(
        self,
        lsp_id: Any,
        payment_size_msat: Any = None,
        opening_fee_params: Any = None,
        client_trusts_lsp: Any = None,
        max_fee_msat: Any = None,
        max_fee_ppm: Any = None,
    ) -> Json:
        """Buy one entry of a menu."""
        lsp = params.node_id(lsp_id)
        size_msat = params.optional_msat(payment_size_msat, "payment_size_msat")
        entry = params.fee_params(given(opening_fee_params, "opening_fee_params"))
        wish = self._wish(lsp, size_msat, max_fee_msat=max_fee_msat, max_fee_ppm=max_fee_ppm, trusts=client_trusts_lsp)
        choice = self._market.choose([entry], wish)
        checking.parameters_are_right()
        buy = await self._market.buy(lsp, choice, wish)
        await self._book.add_buy(buy)
        self._changed()
        return {
            "jit_channel_scid": format_scid(buy.jit_scid),
            "lsp_cltv_expiry_delta": buy.cltv_expiry_delta_blocks,
            "client_trusts_lsp": buy.client_trusts_lsp,
        }

    async def approve(
        self,
        lsp_id: Any,
        jit_channel_scid: Any,
        payment_hash: Any,
        client_trusts_lsp: Any = None,
        opening_fee_params: Any = None,
        payment_size_msat: Any = None,
    ) -> Json:
        """Let a payment cost the opening fee of a buy, and its LSP open the channel for it."""
        lsp, scid = params.node_id(lsp_id), params.scid(jit_channel_scid, "jit_channel_scid")
        digest = params.payment_hash(payment_hash)
        trusts = params.flag(client_trusts_lsp, "client_trusts_lsp")
        size_msat = params.optional_msat(payment_size_msat, "payment_size_msat")
        checking.parameters_are_right()
        async with self._one_at_a_time(digest.hex()):
            return await self._approve(lsp, scid, digest, trusts, opening_fee_params, size_msat)

    async def _approve(
        self, lsp: str, scid: int, digest: bytes, trusts: bool | None, opening_fee_params: Any, size_msat: int | None
    ) -> Json:
        if digest in self._book.approvals:
            raise ConfigError("this payment hash is approved already")
        bought = self._book.buys.get(f"{lsp}/{format_scid(scid)}")
        if bought is None:
            entry = params.fee_params(given(opening_fee_params, "opening_fee_params", _NO_BUY))
            bought = self._foreign_buy(lsp, scid, entry, size_msat)
            bought.client_trusts_lsp = trusts or False
        if trusts is not None:
            bought.consent = self._market.consents(lsp, trusts)
        if bought.ends_ms <= self._clock.wall_ms():
            raise ConfigError(f"the LSP's offer ended at {bought.params.raw['valid_until']}")
        row = await self._invoices.by_hash(digest)
        if row is None:
            raise ForeignHash(FOREIGN_HASH)
        secret = bolt11.decode(row.bolt11).payment_secret if row.bolt11 else None
        expires_ms = row.expires_at * 1000
        approval = Approval(bought, digest, secret, None, await self._address(lsp), expires_ms)
        if approval.ends_ms <= self._clock.wall_ms():
            raise ConfigError("the invoice with this payment hash has expired")
        await self._book.approve(approval)
        self._history.bought(approval)
        await self._book.drop_buy(bought)
        self._changed()
        return {}

    async def _address(self, lsp_id: str) -> str | None:
        """Return where it can be dialled again; an approval is good without."""
        try:
            return await self._market.reach(lsp_id)
        except Unavailable:
            return None

    def _foreign_buy(self, lsp_id: str, scid: int, entry: FeeParams, size_msat: int | None) -> Purchase:
        """Return a buy made by other software: its terms are checked as if we bought it now."""
        wish = self._wish(lsp_id, size_msat)
        choice = self._market.choose([entry], wish)
        return Purchase(
            lsp_id=lsp_id,
            jit_scid=scid,
            params=entry,
            payment_size_msat=size_msat,
            cltv_expiry_delta_blocks=0,
            client_trusts_lsp=False,
            opening_fee_msat=choice.opening_fee_msat,
            largest_payment_msat=choice.largest_payment_msat,
            smallest_payment_msat=wish.smallest_msat(choice),
            max_fee_msat=wish.limits.max_fee_msat,
            max_fee_ppm=wish.limits.max_fee_ppm,
            consent=wish.consent,
            created_ms=self._clock.wall_ms(),
        )

    async def invoice(
        self,
        lsp_id: Any,
        token: Any = None,
        amount_msat: Any = None,
        description: Any = None,
        label: Any = None,
        max_fee_msat: Any = None,
        max_fee_ppm: Any = None,
        client_trusts_lsp: Any = None,
        expiry: Any = None,
        max_payment_msat: Any = None,
        opening_fee_msat: Any = None,
        opening_fee_params: Any = None,
        timeout_s: Any = None,
        min_lifetime: Any = None,
        preimage: Any = None,
        description_hash: Any = None,
        deschashonly: Any = None,
        payment_hash: Any = None,
        headroom_msat: Any = None,
    ) -> Json:
        """Buy a JIT channel and return the invoice whose payment opens it.

        `opening_fee_msat` or `opening_fee_params`: the fee or the offer that was quoted; that or nothing is bought.
        The same call again gives the same invoice, as long as it can be paid: the label is the key.
        """
        own_preimage = params.preimage(preimage)
        if payment_hash is not None:
            check_ours(params.payment_hash(payment_hash), own_preimage)
        text = check_description(described(description, description_hash), deschashonly, description_hash)
        request = check_request(text, given(label, "label"), expiry)
        wishes = {
            "largest": params.optional_msat(max_payment_msat, "max_payment_msat"),
            "max_fee_msat": params.optional_msat(max_fee_msat, "max_fee_msat"),
            "max_fee_ppm": params.ppm(max_fee_ppm, "max_fee_ppm"),
            "trusts": params.flag(client_trusts_lsp, "client_trusts_lsp"),
            "quoted_fee_msat": params.optional_msat(opening_fee_msat, "opening_fee_msat"),
            "quoted": None if opening_fee_params is None else params.fee_params(opening_fee_params).to_json(),
            "min_lifetime": None if min_lifetime is None else params.blocks(min_lifetime, "min_lifetime"),
            "headroom": params.optional_msat(headroom_msat, "headroom_msat"),
        }
        lsp, address = params.peer(lsp_id)
        order = Order(
            lsp,
            address,
            params.text(token, "token"),
            params.payment_msat(given(amount_msat, "amount_msat")),
            request,
            params.seconds(timeout_s, "timeout_s", INVOICE_TIMEOUT_S),
            own_preimage,
            wishes,
        )
        checking.parameters_are_right()
        async with self._one_at_a_time(f"label {request.label}"):
            return await self._first(order) or await self._invoice(order)

    @asynccontextmanager
    async def _one_at_a_time(self, name: str) -> AsyncIterator[None]:
        lock = self._making.setdefault(name, asyncio.Lock())
        async with lock:
            yield

    async def _first(self, order: Order) -> Json | None:
        """Return the invoice that this label has, if it was made by the same call and can be paid; None: there is none.

        Raises NodeError 900 for a label that is taken.
        """
        label = order.request.label
        row = await self._invoices.by_label(label)
        approvals = [each for each in self._book.approvals.values() if each.label == label]
        records = [each for each in self._history.find(label=label) if each["state"] != "never_made"]
        if row is None and not approvals and not records:
            return None
        approval = next((each for each in approvals if not each.served), None)
        if row is not None and approval is None and not records:
            raise duplicate(label, "an invoice without a purchase has it")
        if approval is None or row is None or row.status != "unpaid" or approval.ends_ms <= self._clock.wall_ms():
            state = records[-1]["state"] if records else "awaited"
            ended = state if state in OVER else "expired"
            raise duplicate(label, f"its purchase is over: {ended}; a new one needs a label of its own")
        if different := differing(approval.asked, order.digests()):
            raise duplicate(label, f"its purchase was made with another {', '.join(different)}")
        words = await self._invoices.for_payer(row, approval.description_hash)
        return invoice_result(row, words, approval)

    async def _invoice(self, order: Order) -> Json:
        lsp, request = order.lsp_id, order.request
        needed_ms = (request.expiry_s or LEAST_LIFE_S) * 1000 + END_MARGIN_MS
        wish = self._wish(lsp, order.payment_msat, needed_ms=needed_ms, **order.wishes)
        have = await self._inbound(order.most_msat)
        purchase = self._purchase(order, wish)
        address, buy = await within(self._clock, order.longest_s, purchase, f"{lsp} did not sell a channel")
        nonce = None if order.preimage is not None else self._random_bytes(16).hex()
        preimage = order.preimage or await self._invoices.preimage(nonce or "")
        draft = self._draft(buy, request, preimage, have.hints if self.settings.inbound == BOTH else ())
        approval = Approval(
            buy,
            draft.payment_hash,
            draft.payment_secret,
            request.label,
            address,
            draft.expires_s * 1000,
            nonce=nonce,
            asked=order.digests(),
            description_hash=request.description_hash,
        )
        await self._book.approve(approval)
        self._changed()
        try:
            row = await self._invoices.create(draft, request.label)
        except Lsps2Error:
            await self._book.drop(approval)
            raise
        self._history.bought(approval)
        words = await self._invoices.for_payer(row, request.description_hash)
        return invoice_result(row, words, approval) | inbound_warning(have, order.most_msat)

    async def _purchase(self, order: Order, wish: Wish) -> tuple[str | None, Purchase]:
        address = await self._market.reach(order.lsp_id, order.address)
        return address, await self._market.purchase(order.lsp_id, order.token, wish)

    async def _inbound(self, payment_msat: int | None) -> inbound.Inbound:
        """Return what can be received already. Raises HasInbound where the owner wants no channel then."""
        refuse = self.settings.inbound == REFUSE
        try:
            have = await inbound.look(self._chain, self._watch, payment_msat)
        except Lsps2Error:
            if refuse:
                raise
            return inbound.Inbound(0)
        if refuse and have.is_enough(payment_msat):
            raise HasInbound(
                f"{enough(have)}; nothing was bought: use `invoice`, or set {INBOUND_OPTION}", have.receivable_msat
            )
        return have

    def _draft(self, buy: Purchase, request: Request, preimage: bytes, others: tuple[bolt11.Hint, ...]) -> Draft:
        return compose(
            buy,
            request,
            currency=self._currency,
            final_cltv_blocks=self._final_cltv_blocks,
            wait_blocks=self._wait_blocks(buy),
            wall_ms=self._clock.wall_ms(),
            preimage=preimage,
            others=others,
        )

    def _wait_blocks(self, buy: Purchase) -> int:
        """Return the confirmations that will be waited for while the payer's HTLCs are held (I-04, I-30)."""
        trusted = self.settings.trusts(buy.lsp_id) and buy.lsp_id not in self._book.distrusted
        return 0 if buy.client_trusts_lsp or trusted else self.settings.funding_depth

    async def compare(
        self,
        amount_msat: Any,
        lsp_ids: Any = None,
        token: Any = None,
        max_fee_msat: Any = None,
        max_fee_ppm: Any = None,
        max_payment_msat: Any = None,
        timeout_s: Any = None,
        min_lifetime: Any = None,
    ) -> Json:
        """Return what several LSPs would take for an amount, cheapest first;
        by default all connected ones that sell.
        """
        payment_msat = params.payment_msat(amount_msat)
        wish = self._wish(
            "",
            payment_msat,
            largest=max_payment_msat,
            max_fee_msat=max_fee_msat,
            max_fee_ppm=max_fee_ppm,
            min_lifetime=min_lifetime,
        )
        longest_s = params.seconds(timeout_s, "timeout_s", COMPARE_TIMEOUT_S)
        coupon = params.text(token, "token")
        named = None if lsp_ids is None else params.node_ids(lsp_ids)
        checking.parameters_are_right()
        asked = await self._market.sellers() if named is None else named
        if not asked:
            raise ConfigError("no connected peer announces that it sells channels; name some with lsp_ids")
        return await self._market.compare(asked, coupon, wish, longest_s)

    async def trust(self, lsp_id: Any) -> Json:
        """Forgive an LSP that broke its word; the options say again how far it is trusted."""
        lsp = params.node_id(lsp_id)
        checking.parameters_are_right()
        return {"lsp_id": lsp, "was_distrusted": await self._book.forgive(lsp)}
