"""What the wallet's pages and answers must name."""

from __future__ import annotations

from typing import Any


def is_part(shown: Any, real: Any) -> bool:
    """Whether what is shown is there: members of objects, entries of lists; texts may be cut short with …"""
    match shown:
        case dict():
            return all(key in real and is_part(value, real[key]) for key, value in shown.items())
        case list():
            return len(shown) == len(real) and all(map(is_part, shown, real))
        case str():
            return str(real).startswith(shown.rstrip("…"))
    return bool(shown == real)


FIELDS = {
    "payment_hash",
    "label",
    "lsp_id",
    "jit_channel_scid",
    "client_trusts_lsp",
    "payment_size_msat",
    "smallest_payment_msat",
    "largest_payment_msat",
    "opening_fee_msat",
    "opening_fee_params",
    "created_at",
    "state",
    "reason",
    "fee_taken_msat",
    "received_msat",
    "channel_id",
    "funding_txid",
    "funding_outnum",
    "capacity_msat",
    "funding",
    "times",
}
