"""RPC methods about invoices: made, decoded, listed, deleted."""

from __future__ import annotations

import hashlib
from typing import Any

from . import bolt11
from .bolt11 import Hop
from .errors import INVALID_PARAMS, RpcError
from .invoices import EXPIRY_S, checked_msat
from .lightningd import Node
from .methods import hex_bytes, method, number

Json = dict[str, Any]


@method(
    "invoice",
    "amount_msat label description [expiry] [fallbacks] [preimage] [exposeprivatechannels] [cltv]"
    " [deschashonly] [dev-routes]",
)
def invoice(node: Node, amount_msat: Any, label: Any, description: Any, preimage: Any = None, **more: Any) -> Json:
    amount = None if amount_msat == "any" else checked_msat(amount_msat, "amount_msat")
    key = hex_bytes(preimage, "preimage") if preimage is not None else None
    if more.get("exposeprivatechannels"):
        raise RpcError(902, "None of those hints were suitable local channels")
    expiry_s = number(more.get("expiry", EXPIRY_S), "expiry")
    routes = _routes(node, more.get("dev_routes"))
    made = node.invoices.add(str(label), amount, str(description), key, routes, expiry_s)
    return {
        "payment_hash": made.payment_hash.hex(),
        "expires_at": made.expires_at,
        "bolt11": made.bolt11,
        "payment_secret": made.payment_secret.hex(),
        "created_index": made.created_index,
    }


@method("bkpr-listaccountevents", "[account] [payment_id]")
def bkpr_listaccountevents(node: Node, account: Any = None, payment_id: Any = None) -> Json:
    """Of the bookkeeper only the payments to this node, which outlive their invoices."""
    taken = [htlc for htlc, way in node.htlc_log if way == "in" and htlc.preimage is not None]
    forwarded = {row.part.htlc for row in node.htlcs.forwards}
    return {
        "events": [
            {"account": htlc.channel.channel_id, "type": "channel", "tag": "invoice"}
            | {"payment_id": htlc.payment_hash.hex(), "credit_msat": htlc.amount_msat, "debit_msat": 0}
            for htlc in taken
            if htlc not in forwarded and payment_id in (None, htlc.payment_hash.hex())
        ]
    }


def _routes(node: Node, routes: Any) -> list[list[Hop]]:
    """`dev-routes` (cln:C6)."""
    if routes is None:
        return []
    if not node.developer:
        raise RpcError(INVALID_PARAMS, "dev-routes requires --developer")
    return [
        [
            Hop(
                hop["id"],
                hop["short_channel_id"],
                int(hop["fee_base_msat"]),
                int(hop["fee_proportional_millionths"]),
                int(hop["cltv_expiry_delta"]),
            )
            for hop in route
        ]
        for route in routes
    ]


def _bolt11(text: Any, name: str, check_signature: bool) -> bolt11.Bolt11:
    try:
        return bolt11.decode(str(text), check_signature)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"{name}: Invalid bolt11: {error}: invalid token '\"{text}\"'") from None


@method("createinvoice", "invstring label preimage")
def createinvoice(node: Node, invstring: Any, label: Any, preimage: Any) -> Json:
    """cln:C6: the text need not be signed; lightningd signs anew."""
    text, key = _bolt11(invstring, "invstring", check_signature=False), hex_bytes(preimage, "preimage")
    if hashlib.sha256(key).digest() != text.payment_hash:
        raise RpcError(INVALID_PARAMS, "Incorrect preimage")
    if text.description_hash:
        raise RpcError(INVALID_PARAMS, "Missing description in invoice")
    return node.invoices.store(str(label), text, key).row()


@method("signinvoice", "invstring")
def signinvoice(node: Node, invstring: Any) -> Json:
    """Sign any words, also with a hash of the description; nothing is kept."""
    return {"bolt11": _bolt11(invstring, "invstring", check_signature=False).sign(node.private_key)}


@method("decode", "string")
def decode(node: Node, string: Any) -> Json:
    text = _bolt11(string, "string", check_signature=True)
    row: Json = {"type": "bolt11 invoice", "currency": "bcrt", "created_at": text.created_at}
    row |= {"expiry": text.expiry_s, "payee": text.payee}
    if text.amount_msat is not None:
        row["amount_msat"] = text.amount_msat
    row |= {"description": text.description, "min_final_cltv_expiry": text.min_final_cltv}
    row |= {"payment_secret": text.payment_secret.hex(), "features": f"{text.features:06x}"}
    if text.routes:
        row["routes"] = [[_hop_row(hop) for hop in route] for route in text.routes]
    return row | {"payment_hash": text.payment_hash.hex(), "signature": "", "valid": True}


def _hop_row(hop: Hop) -> Json:
    return {
        "pubkey": hop.node_id,
        "short_channel_id": hop.scid,
        "fee_base_msat": hop.fee_base_msat,
        "fee_proportional_millionths": hop.fee_ppm,
        "cltv_expiry_delta": hop.cltv_delta,
    }


@method("delinvoice", "label status [desconly]")
def delinvoice(node: Node, label: Any, status: Any, desconly: Any = False) -> Json:
    return node.invoices.delete(str(label), str(status)).row()


@method("listinvoices", "[label] [invstring] [payment_hash] [offer_id] [index] [start] [limit]")
def listinvoices(node: Node, label: Any = None, payment_hash: Any = None, **more: Any) -> Json:
    rows = [
        each.row()
        for each in node.invoices.by_hash.values()
        if label in (None, each.label) and payment_hash in (None, each.payment_hash.hex())
    ]
    return {"invoices": rows}
