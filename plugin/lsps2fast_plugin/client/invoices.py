"""The invoice that makes a payer find the JIT channel: composed here, signed and kept by lightningd (I-01 … I-09).

One invoice for the full amount, never deleted and made again (I-08); what the LSP takes is settled part by part in the
htlc_accepted hook. lightningd gets the finished words through `createinvoice`, which works without developer mode.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any, NamedTuple

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, Lsps2Error, NodeError, NodeUnreachable
from lsps2fast_plugin.client import params
from lsps2fast_plugin.client.records import Purchase
from lsps2fast_plugin.cln.answers import InvoiceRow, derived_secret, list_invoices
from lsps2fast_plugin.cln.rows import read
from lsps2fast_plugin.cln.rpc import Rpc

CLTV_SLACK_BLOCKS = 2  # I-04: blocks that may come between paying and receiving
END_MARGIN_MS = 10_000  # I-02: the invoice ends this much before the LSP's offer
LEAST_LIFE_S = 60
LONGEST_LIFE_S = 7 * 86_400
RENEWED_S = 3_600  # an invoice that expired while its payment waited is good for so long again
DUPLICATE_LABEL = 900


class Request(NamedTuple):
    """What the owner wants on the invoice. `expiry_s` None: as long as the offer lives.

    `description_hash`: what the payer's invoice has in the place of the description, which only this node keeps.
    """

    description: str
    label: str
    expiry_s: int | None
    description_hash: bytes | None = None


class Draft(NamedTuple):
    """An invoice before lightningd has it, good until `expires_s` (UTC). Only lightningd gets the preimage (K-28)."""

    text: str
    preimage: bytes
    payment_hash: bytes
    payment_secret: bytes
    expires_s: int


def check_description(description: Any, hash_only: Any, digest: Any) -> tuple[str, bytes | None]:
    """Return the text that this node keeps, and the hash that the payer gets in its place. Raises ConfigError."""
    hashed = params.flag(hash_only, "deschashonly") or digest is not None
    if not hashed:
        if not isinstance(description, str) or not params.is_unicode(description) or _is_long(description):
            raise ConfigError(
                f"description must be a text of at most {bolt11.DESCRIPTION_MAX_BYTES} bytes; a longer one can be"
                " given as its hash, with deschashonly=true"
            )
        return description, None
    given = None if digest is None else params.description_hash(digest)
    text = params.text(description, "description")
    if text is None and given is None:
        raise ConfigError("deschashonly needs the description that is hashed")
    if text is None:
        return f"description hash {digest}", given
    made = hashlib.sha256(text.encode()).digest()
    if given not in (None, made):
        raise ConfigError("description_hash is not the hash of this description; leave one of them out")
    return text.encode()[: bolt11.DESCRIPTION_MAX_BYTES].decode(errors="ignore"), made


def check_request(description: tuple[str, bytes | None], label: object, expiry: object) -> Request:
    """Return what the owner typed; `description` as `check_description` returned it. Raises ConfigError."""
    text, digest = description
    if not isinstance(label, str | int) or isinstance(label, bool) or not params.is_unicode(str(label)) or label == "":
        raise ConfigError("label must be a text or a number that no other invoice has")
    if expiry is None:
        return Request(text, str(label), None, digest)
    expiry_s = params.whole(expiry)
    if expiry_s is None:
        raise ConfigError("expiry must be a whole number of seconds")
    if expiry_s < LEAST_LIFE_S:
        raise ConfigError(f"expiry must be at least {LEAST_LIFE_S} seconds")
    return Request(text, str(label), expiry_s, digest)


def _is_long(description: str) -> bool:
    return len(description.encode()) > bolt11.DESCRIPTION_MAX_BYTES


def life_s(ends_ms: int, timestamp_s: int, wanted_s: int | None) -> int:
    """Return how long the invoice is good, in seconds from its timestamp (I-02).

    Raises Lsps2Error when that is too short.
    """
    left_s = (ends_ms - END_MARGIN_MS) // 1000 - timestamp_s
    if left_s < LEAST_LIFE_S:
        raise Lsps2Error(f"the LSP's offer ends in {left_s} s, too soon for an invoice; fetch its menu again")
    return min(left_s, LONGEST_LIFE_S if wanted_s is None else wanted_s)


def compose(
    buy: Purchase,
    request: Request,
    *,
    currency: str,
    final_cltv_blocks: int,
    wait_blocks: int,
    wall_ms: int,
    preimage: bytes,
    others: tuple[bolt11.Hint, ...] = (),
) -> Draft:
    """Return the words of the invoice.

    `wait_blocks`: confirmations we mean to wait for before giving the preimage (I-04). `others`: hints that lead
    to channels there are already; an invoice that serves both ways is paid in one part, because parts that went another
    way would be missing at the LSP.
    """
    timestamp_s = wall_ms // 1000
    payment_hash = hashlib.sha256(preimage).digest()
    payment_secret = bolt11.payment_secret_for(preimage)
    fixed = buy.payment_size_msat is not None
    hint = bolt11.Hint(bytes.fromhex(buy.lsp_id), buy.jit_scid, 0, 0, buy.cltv_expiry_delta_blocks)
    invoice = bolt11.Invoice(
        currency=currency,
        amount_msat=buy.payment_size_msat,
        timestamp_s=timestamp_s,
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        description=request.description,
        expiry_s=life_s(buy.ends_ms, timestamp_s, request.expiry_s),
        min_final_cltv_blocks=final_cltv_blocks + CLTV_SLACK_BLOCKS + wait_blocks,
        features=bolt11.FIXED_FEATURES if fixed and not others else bolt11.VARIABLE_FEATURES,
        hints=(*((other,) for other in others), (hint,)),
    )
    return Draft(bolt11.encode(invoice), preimage, payment_hash, payment_secret, timestamp_s + invoice.expiry_s)


class Invoices:
    """lightningd's invoices, as far as JIT payments need them."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def by_hash(self, payment_hash: bytes) -> InvoiceRow | None:
        """Return the invoice with this payment hash, None when there is none. Raises NodeError."""
        rows = await list_invoices(self._rpc, payment_hash=payment_hash.hex())
        return rows[0] if rows else None

    async def by_label(self, label: str) -> InvoiceRow | None:
        """Return the invoice with this label, None when there is none. Raises NodeError."""
        rows = await list_invoices(self._rpc, label=label)
        return rows[0] if rows else None

    async def for_payer(self, row: InvoiceRow, description_hash: bytes | None) -> str:
        """Return the words that a payer gets: lightningd's, or the same with a hash in the place of the description.

        lightningd keeps no invoice with a hash that it has not made itself, but signs one. Raises NodeError.
        """
        if description_hash is None:
            return row.words
        kept = bolt11.decode(row.words)
        meant = kept._replace(payee=None, description=None, description_hash=description_hash)
        answer = await self._rpc.call("signinvoice", {"invstring": bolt11.encode(meant)})
        words = str(answer.get("bolt11"))
        made = bolt11.decode(words)
        if made._replace(payee=None) != meant or made.payee != kept.payee:
            raise Lsps2Error(f"lightningd signed another invoice than it was given: {words}")
        return words

    async def delete(self, label: str, status: str) -> None:
        """Delete the invoice with this label while it has this status. Raises NodeError."""
        await self._rpc.call("delinvoice", {"label": label, "status": status})

    async def preimage(self, nonce: str) -> bytes:
        """Return the preimage that belongs to a nonce: only this node can make it, at any time. Raises NodeError."""
        return await derived_secret(self._rpc, f"lsps2fast preimage {nonce}")

    async def renew(self, label: str, text: str, nonce: str) -> InvoiceRow:
        """Put `text`, the same invoice with a later end, in the place of one that expired; its row. Raises NodeError.

        A payment that came in time and waits for its funding is claimed with it; lightningd takes none that is expired.
        """
        with contextlib.suppress(NodeError):  # it went in an earlier try
            await self._rpc.call("delinvoice", {"label": label, "status": "expired"})
        return await self.create(_draft_of(text, await self.preimage(nonce)), label)

    async def create(self, draft: Draft, label: str) -> InvoiceRow:
        """Have lightningd sign and keep it; its row. Raises NodeError: then it does not exist."""
        params = {"invstring": draft.text, "label": label, "preimage": draft.preimage.hex()}
        try:
            row = read(InvoiceRow, await self._rpc.call("createinvoice", params), "createinvoice")
        except NodeUnreachable:
            found = await self.by_hash(draft.payment_hash)  # it may have been made all the same
            if found is None:
                raise
            row = found
        _check_signed(draft, row)
        return row


def renewed(row: InvoiceRow, wall_ms: int) -> str:
    """Return the words of an invoice that says the same and ends later."""
    invoice = bolt11.decode(row.words)
    return bolt11.encode(invoice._replace(payee=None, timestamp_s=wall_ms // 1000, expiry_s=RENEWED_S))


def _draft_of(text: str, preimage: bytes) -> Draft:
    meant = bolt11.decode(text, signed=False)
    return Draft(text, preimage, meant.payment_hash, meant.payment_secret, meant.timestamp_s + meant.expiry_s)


def _check_signed(draft: Draft, row: InvoiceRow) -> None:
    """Check that the signed invoice says what was drafted. Raises Lsps2Error."""
    meant = bolt11.decode(draft.text, signed=False)
    made = bolt11.decode(row.words)
    if made._replace(payee=None) != meant:
        raise Lsps2Error(f"lightningd made another invoice than it was given: {row.words}")


def wrong_invoice(row: InvoiceRow | None, payment_size_msat: int | None) -> str | None:
    """Return why an invoice must not be settled with what was agreed, or None.

    We tell lightningd what sum to expect, so it can no longer see that an invoice asks for more than was bought.
    """
    if row is None:
        return "there is no invoice for it"
    if not row.is_unpaid:
        return f"its invoice is {row.status}"
    if row.amount_msat is not None and (payment_size_msat is None or row.amount_msat > payment_size_msat):
        return (
            f"its invoice asks for {row.amount_msat} msat, but the channel was bought for {payment_size_msat or 'any'}"
        )
    return None
