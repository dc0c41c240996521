"""An invoice that is to be made: what was asked for, and what the answer and its warnings say."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.client import inbound
from lsps2fast_plugin.client.asking import digests
from lsps2fast_plugin.client.invoices import DUPLICATE_LABEL, Request
from lsps2fast_plugin.client.records import Approval, Purchase
from lsps2fast_plugin.client.rpc_errors import ForeignHash
from lsps2fast_plugin.cln.answers import InvoiceRow

Json = dict[str, Any]
PARAMETERS = {  # as the caller knows them, of those with another name here
    "largest": "max_payment_msat",
    "trusts": "client_trusts_lsp",
    "quoted_fee_msat": "opening_fee_msat",
    "quoted": "opening_fee_params",
    "headroom": "headroom_msat",
}


class Order(NamedTuple):
    """An invoice that is to be made, its parameters checked."""

    lsp_id: str
    address: str | None
    token: str | None
    payment_msat: int | None
    request: Request
    longest_s: int
    preimage: bytes | None
    wishes: Json

    @property
    def most_msat(self) -> int | None:
        """The payment, or the largest one that will come; None: any."""
        largest: int | None = self.wishes["largest"]
        return largest if self.payment_msat is None else self.payment_msat

    def digests(self) -> dict[str, str]:
        """Return what makes this call the same as another: all but how long to wait, and where the LSP is dialled."""
        request = self.request
        return digests(
            {
                "lsp_id": self.lsp_id,
                "token": self.token,
                "amount_msat": "any" if self.payment_msat is None else self.payment_msat,
                "description": request.description,
                "description_hash": None if request.description_hash is None else request.description_hash.hex(),
                "expiry": request.expiry_s,
                "preimage": None if self.preimage is None else hashlib.sha256(self.preimage).hexdigest(),
                **{PARAMETERS.get(name, name): value for name, value in self.wishes.items()},
            }
        )


FOREIGN_HASH = (
    "this node has no preimage for this payment hash: hold invoices and swaps are not served, because another program"
    " would have to claim the payment; make the invoice first, or give its preimage"
)


def check_ours(payment_hash: bytes, preimage: bytes | None) -> None:
    """Refuse a payment hash whose preimage is not ours. Raises ForeignHash, ConfigError."""
    if preimage is None:
        raise ForeignHash(FOREIGN_HASH)
    if hashlib.sha256(preimage).digest() != payment_hash:
        raise ConfigError("payment_hash is not the hash of this preimage; leave one of them out")


def described(description: Any, description_hash: Any) -> Any:
    """Return the description, which may be left out where its hash is given. Raises ConfigError."""
    return description if description_hash is not None else given(description, "description")


def duplicate(label: str, why: str) -> NodeError:
    """Return the error for a label that is taken."""
    return NodeError("lsps-lsps2-invoice", DUPLICATE_LABEL, f"Duplicate label '{label}': {why}")


def enough(have: inbound.Inbound) -> str:
    """Return the sentence that no new channel is needed."""
    return f"the channels there are can receive {have.receivable_msat} msat, so this payment needs no new one"


def inbound_warning(have: inbound.Inbound, payment_msat: int | None) -> Json:
    """Return the warning that goes with an invoice for which no channel was needed."""
    return {"warning_inbound": enough(have)} if have.is_enough(payment_msat) else {}


def given(value: Any, name: str, hint: str = "") -> Any:
    """Return a parameter that must be given. Raises ConfigError."""
    if value is None:
        raise ConfigError(hint or f"missing required parameter: {name}")
    return value


def invoice_result(row: InvoiceRow, words: str, approval: Approval) -> Json:
    """Return CLN's members, then ours."""
    buy = approval.buy
    secret = approval.payment_secret
    return {
        "bolt11": words,
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
    } | _range_warning(buy)


def _range_warning(buy: Purchase) -> Json:
    """Say for which amounts the LSP opens a channel and we would not take them: it cannot be told our limits."""
    sold = buy.params.min_payment_size_msat, buy.params.max_payment_size_msat
    taken = buy.smallest_payment_msat, buy.largest_payment_msat
    if buy.payment_size_msat is not None or sold == taken:
        return {}
    return {
        "warning_range": (
            f"your limits allow payments of {taken[0]} to {taken[1]} msat, the LSP sells channels for {sold[0]} to"
            f" {sold[1]}: tell the payer; any other payment goes back to him, without a fee"
        )
    }
