"""The RPC methods: CLN's five with their parameters and results, and three of ours.

Parameters stand in the order in which CLN's built-in client takes them by position; what is ours comes after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, Lsps2Error, NodeError
from lsps2fast.lsps.lsps2 import FeeParams, format_scid
from lsps2fast_plugin.client import params
from lsps2fast_plugin.client.history import History
from lsps2fast_plugin.client.invoices import (
    DUPLICATE_LABEL,
    END_MARGIN_MS,
    LEAST_LIFE_S,
    Draft,
    Invoices,
    Request,
    check_request,
    compose,
)
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.purchase import Limits, LspBuyer, Wish, within
from lsps2fast_plugin.client.records import Approval, Purchase
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.answers import InvoiceRow
from lsps2fast_plugin.cln.clock import Clock

Json = dict[str, Any]
INVOICE_TIMEOUT_S, COMPARE_TIMEOUT_S = 120, 15


class Methods:
    """One coroutine for each method; each may raise ConfigError or any other Lsps2Error."""

    def __init__(
        self,
        *,
        market: LspBuyer,
        book: WalletRecords,
        history: History,
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
        self._making: set[str] = set()  # labels of invoices that are being made
        self._invoices = invoices
        self._clock = clock
        self._settings = settings
        self._changed = changed
        self._currency = currency
        self._final_cltv_blocks = final_cltv_blocks
        self._random_bytes = random_bytes

    async def list_protocols(self, lsp_id: Any) -> Json:
        """Return what a peer speaks: {"protocols": [2]} for one that sells JIT channels."""
        return {"protocols": list(await self._market.protocols(params.node_id(lsp_id)))}

    async def get_info(self, lsp_id: Any, token: Any = None) -> Json:
        """Return the menu of an LSP, as it sent it."""
        menu = await self._market.menu(params.node_id(lsp_id), params.text(token, "token"))
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
    ) -> Wish:
        limits = self._limits(max_fee_msat, max_fee_ppm)
        consent = self._market.consents(lsp_id, params.flag(trusts, "client_trusts_lsp"))
        largest_msat = params.optional_msat(largest, "max_payment_msat")
        fee_msat = params.optional_msat(quoted_fee_msat, "opening_fee_msat")
        offer = None if quoted is None else params.fee_params(quoted)
        lifetime_blocks = params.blocks(min_lifetime, "min_lifetime")
        return Wish(payment_msat, largest_msat, limits, consent, needed_ms, fee_msat, offer, lifetime_blocks)

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
        entry = params.fee_params(_given(opening_fee_params, "opening_fee_params"))
        wish = self._wish(lsp, size_msat, max_fee_msat=max_fee_msat, max_fee_ppm=max_fee_ppm, trusts=client_trusts_lsp)
        buy = await self._market.buy(lsp, self._market.choose([entry], wish), wish)
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
        if digest in self._book.approvals:
            raise ConfigError("this payment hash is approved already")
        bought = self._book.buys.get(f"{lsp}/{format_scid(scid)}")
        if bought is None:
            entry = params.fee_params(_given(opening_fee_params, "opening_fee_params", _NO_BUY))
            bought = self._foreign_buy(lsp, scid, entry, params.optional_msat(payment_size_msat, "payment_size_msat"))
            bought.client_trusts_lsp = trusts or False
        if trusts is not None:
            bought.consent = self._market.consents(lsp, trusts)
        if bought.ends_ms <= self._clock.wall_ms():
            raise ConfigError(f"the LSP's offer ended at {bought.params.raw['valid_until']}")
        row = await self._invoices.by_hash(digest)
        secret = bolt11.decode(row.bolt11).payment_secret if row and row.bolt11 else None
        expires_ms = row.expires_at * 1000 if row else None
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
    ) -> Json:
        """Buy a JIT channel and return the invoice whose payment opens it (I-01).

        `opening_fee_msat` or `opening_fee_params`: the fee or the offer that was quoted; that or nothing is bought.
        """
        name = str(label)
        if name in self._making:
            raise NodeError("lsps-lsps2-invoice", DUPLICATE_LABEL, f"Duplicate label '{name}': it is being made")
        self._making.add(name)
        try:
            return await self._invoice(
                lsp_id,
                token,
                amount_msat,
                check_request(_given(description, "description"), _given(label, "label"), expiry),
                params.seconds(timeout_s, "timeout_s", INVOICE_TIMEOUT_S),
                params.preimage(preimage),
                largest=max_payment_msat,
                max_fee_msat=max_fee_msat,
                max_fee_ppm=max_fee_ppm,
                trusts=client_trusts_lsp,
                quoted_fee_msat=opening_fee_msat,
                quoted=opening_fee_params,
                min_lifetime=min_lifetime,
            )
        finally:
            self._making.discard(name)

    async def _invoice(
        self,
        lsp_id: Any,
        token: Any,
        amount_msat: Any,
        request: Request,
        longest_s: int,
        own_preimage: bytes | None,
        **wishes: Any,
    ) -> Json:
        lsp, at = params.peer(lsp_id)
        payment_msat = params.payment_msat(_given(amount_msat, "amount_msat"))
        needed_ms = (request.expiry_s or LEAST_LIFE_S) * 1000 + END_MARGIN_MS
        wish = self._wish(lsp, payment_msat, needed_ms=needed_ms, **wishes)
        await self._invoices.check_label(request.label)
        address = await self._market.reach(lsp, at)
        purchase = self._market.purchase(lsp, params.text(token, "token"), wish)
        buy = await within(self._clock, longest_s, purchase, f"{lsp} did not sell a channel")
        nonce = None if own_preimage is not None else self._random_bytes(16).hex()
        draft = self._draft(buy, request, own_preimage or await self._invoices.preimage(nonce or ""))
        expires_ms = draft.expires_s * 1000
        approval = Approval(
            buy, draft.payment_hash, draft.payment_secret, request.label, address, expires_ms, nonce=nonce
        )
        await self._book.approve(approval)
        self._changed()
        try:
            row = await self._invoices.create(draft, request.label)
        except Lsps2Error:
            await self._book.drop(approval)
            raise
        self._history.bought(approval)
        return _invoice_result(row, approval)

    def _draft(self, buy: Purchase, request: Request, preimage: bytes) -> Draft:
        return compose(
            buy,
            request,
            currency=self._currency,
            final_cltv_blocks=self._final_cltv_blocks,
            wait_blocks=self._wait_blocks(buy),
            wall_ms=self._clock.wall_ms(),
            preimage=preimage,
        )

    def _wait_blocks(self, buy: Purchase) -> int:
        """Confirmations that will be waited for while the payer's HTLCs are held (I-04, I-30)."""
        trusted = self._settings.trusts(buy.lsp_id) and buy.lsp_id not in self._book.distrusted
        return 0 if buy.client_trusts_lsp or trusted else self._settings.funding_depth

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
        asked = await self._market.sellers() if lsp_ids is None else params.node_ids(lsp_ids)
        if not asked:
            raise ConfigError("no connected peer announces that it sells channels; name some with lsp_ids")
        longest_s = params.seconds(timeout_s, "timeout_s", COMPARE_TIMEOUT_S)
        return await self._market.compare(asked, params.text(token, "token"), wish, longest_s)

    async def trust(self, lsp_id: Any) -> Json:
        """Forgive an LSP that broke its word; the options say again how far it is trusted."""
        lsp = params.node_id(lsp_id)
        return {"lsp_id": lsp, "was_distrusted": await self._book.forgive(lsp)}


_NO_BUY = "no buy with this scid is known; give the opening_fee_params (and payment_size_msat) it was bought with"


def _given(value: Any, name: str, hint: str = "") -> Any:
    if value is None:
        raise ConfigError(hint or f"missing required parameter: {name}")
    return value


def _invoice_result(row: InvoiceRow, approval: Approval) -> Json:
    """CLN's members, then ours."""
    buy = approval.buy
    secret = approval.payment_secret
    return {
        "bolt11": row.words,
        "payment_hash": row.payment_hash,
        "payment_secret": None if secret is None else secret.hex(),
        "expires_at": row.expires_at,
        "created_index": row.created_index,
        "lsp_id": buy.lsp_id,
        "jit_channel_scid": format_scid(buy.jit_scid),
        "opening_fee_msat": buy.opening_fee_msat,
        "smallest_payment_msat": buy.smallest_payment_msat,
        "largest_payment_msat": buy.largest_payment_msat,
        "min_fee_msat": buy.params.min_fee_msat,
        "proportional": buy.params.proportional,
        "client_trusts_lsp": buy.client_trusts_lsp,
    }
