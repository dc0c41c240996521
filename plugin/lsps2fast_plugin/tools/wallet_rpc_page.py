"""docs/reference/wallet-rpc.md: `python -m lsps2fast_plugin.tools.wallet_rpc_page > docs/reference/wallet-rpc.md`.

Methods, parameters, error codes and notifications come from the code; the sentences about parameters and fields are
here, and a test holds that none is missing. It also runs the examples, one after the other, on a pretended node.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.client.app import METHODS, PURCHASE_METHODS, Client
from lsps2fast_plugin.client.history import STATES, STEPS, topic_of
from lsps2fast_plugin.client.methods import Methods
from lsps2fast_plugin.client.purchase_methods import PurchaseMethods
from lsps2fast_plugin.client.rpc_errors import CODES

Json = dict[str, Any]
LSP_ID: Final = "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"
REQUIRED: Final = {"amount_msat", "description", "label"}  # optional by position only, as in CLN's own client


class Example(NamedTuple):
    """A call, and members of its answer; texts may be cut short with …"""

    given: Json
    shown: Json


PARAMETERS: Final = {
    "lsp_id": "node id of the LSP; for an invoice also `id@host:port`, which is dialled when it is not connected",
    "token": "a coupon that the LSP gave you",
    "payment_size_msat": "amount of the payment; left out: any amount, in one part",
    "opening_fee_params": "an entry of the LSP's menu as it was shown; for an invoice: that offer or nothing",
    "opening_fee_msat": "the fee you were quoted: no more is agreed to",
    "client_trusts_lsp": "true: the LSP may fund the channel after it was paid; default: as `lsps2-trusted-lsp` says",
    "max_fee_msat": "largest fee; tightens `lsps2-max-fee-msat` for this call",
    "max_fee_ppm": "largest share of the payment; tightens `lsps2-max-fee-ppm`",
    "jit_channel_scid": "from the buy",
    "payment_hash": "payment hash of the invoice, 64 hex digits; for `lsps-lsps2-invoice` only with its `preimage`",
    "amount_msat": 'amount as lightningd takes it (20000000, "20000sat"), or "any"',
    "description": "text of the invoice, at most 639 bytes",
    "label": "label of the invoice, unique on this node",
    "expiry": "seconds until the invoice ends, at least 60; default: as long as the LSP's offer, at most 7 days",
    "max_payment_msat": 'for "any": the largest payment you will take, at which the fee is judged',
    "lsp_ids": "a list of node ids; default: all connected peers that announce that they sell",
    "timeout_s": "seconds to wait, 1 to 600; `lsps2-compare` 15 for each LSP, an invoice 120 in all",
    "min_lifetime": "blocks that the LSP must promise to keep the channel",
    "preimage": "64 hex digits of your own, instead of one that this node makes; such an invoice cannot be renewed",
    "description_hash": "SHA-256 of the description, which the invoice has instead of the text (64 hex digits)",
    "deschashonly": "true: the invoice has only the hash of the description, which may then be longer",
    "headroom_msat": "what the channel must have room for beside the payment; one without is refused",
    "state": f"one of {', '.join(STATES)}",
    "start": "number of the first entry, from 0: the `next` of the page before",
    "limit": "entries a page, 1 to 1000, default 100",
}

FIELDS: Final = {
    "protocols": "LSPS protocols the peer speaks",
    "opening_fee_params_menu": "its offers, each with its own texts",
    "jit_channel_scid": "the made-up channel that the invoice names",
    "lsp_cltv_expiry_delta": "blocks that the invoice's hint asks for",
    "client_trusts_lsp": "whether the LSP funds the channel only after it has been paid",
    "bolt11": "the invoice",
    "payment_hash": "its payment hash",
    "payment_secret": "its payment secret",
    "expires_at": "when it ends, seconds since 1970",
    "created_index": "lightningd's number of the invoice",
    "lsp_id": "the LSP",
    "opening_fee_msat": "the fee agreed; for any amount: at `largest_payment_msat`, in a comparison at `payment_msat`",
    "smallest_payment_msat": "the smallest payment that will be taken: for any amount, less costs more than you allow",
    "largest_payment_msat": "the largest payment that will be taken",
    "warning_range": "for any amount: the LSP opens a channel for payments that your limits do not allow; they go back",
    "warning_inbound": "the channels there are would do; `lsps2-inbound` decides what then happens",
    "min_fee_msat": "the fee is at least this",
    "proportional": "and at least this many parts per million of the payment",
    "offers": "those that can be bought, cheapest first, then the longest lifetime",
    "refused": "LSPs that are out, each with `why`",
    "payment_msat": "the one amount at which all are compared",
    "receive_msat": "what is left of it",
    "valid_until": "when the LSP's offer ends",
    "min_lifetime": "blocks that the LSP will keep the channel",
    "trusted": "named in `lsps2-trusted-lsp`, and has not broken its word",
    "broke_its_word": "what it did, or false; trust it again with `lsps2-trust`",
    "opening_fee_params": "the offer itself",
    "was_distrusted": "whether there was anything to forgive",
    "purchases": "one object each, as `lsps2-purchase` shows it",
    "total": "how many match",
    "next": "where the next page begins, null: there is none",
    "label": "label of the invoice, null when it was approved by hash",
    "payment_size_msat": "amount of the payment, null for any",
    "created_at": "when it was bought",
    "state": f"{', '.join(STATES)}",
    "reason": "why the last parts went back, or why it ended",
    "fee_taken_msat": "the fee that was taken",
    "received_msat": "what arrived",
    "channel_id": "the channel that was opened for it",
    "funding_txid": "its funding transaction",
    "funding_outnum": "and the output in it",
    "capacity_msat": "size of the channel",
    "funding": "none, opened, seen, confirmed, missing or closed",
    "times": "when each step came, the last time",
}

EXAMPLES: Final[dict[str, Example]] = {
    "lsps-listprotocols": Example({"lsp_id": LSP_ID}, {"protocols": [2]}),
    "lsps-lsps2-getinfo": Example(
        {"lsp_id": LSP_ID}, {"opening_fee_params_menu": [{"min_fee_msat": "1000000", "proportional": 10000}]}
    ),
    "lsps2-compare": Example(
        {"amount_msat": 20_000_000, "lsp_ids": [LSP_ID]},
        {"offers": [{"opening_fee_msat": 1_000_000, "receive_msat": 19_000_000, "min_lifetime": 1008}], "refused": []},
    ),
    "lsps-lsps2-invoice": Example(
        {
            "lsp_id": LSP_ID,
            "amount_msat": 20_000_000,
            "description": "coffee",
            "label": "first",
            "opening_fee_msat": 1_000_000,
        },
        {"bolt11": "lnbcrt200u1p…", "opening_fee_msat": 1_000_000, "client_trusts_lsp": False},
    ),
    "lsps2-purchase": Example(
        {"label": "first"}, {"state": "awaited", "opening_fee_msat": 1_000_000, "funding": "none"}
    ),
    "lsps2-listpurchases": Example(
        {"state": "awaited", "limit": 10}, {"purchases": [{"label": "first"}], "total": 1, "next": None}
    ),
    "lsps2-status": Example({}, {"approvals": [{"label": "first", "state": "awaited"}], "channels": [], "reports": []}),
    "lsps2-cancel-purchase": Example({"label": "first"}, {"state": "cancelled", "reason": "its owner cancelled it"}),
    "lsps2-trust": Example({"lsp_id": LSP_ID}, {"lsp_id": LSP_ID, "was_distrusted": False}),
}
WITHOUT_EXAMPLE: Final = {
    "lsps-lsps2-buy": (
        "Buys without making an invoice; `lsps-lsps2-approve` then ties it to one. Most wallets want"
        " `lsps-lsps2-invoice`."
    ),
    "lsps-lsps2-approve": (
        "The invoice must name the jit scid in its only route hint; `lsps-lsps2-invoice` does it all."
    ),
}


def methods() -> dict[str, Any]:
    """RPC names and the functions behind them, those with an example first."""
    found: dict[str, Any] = {name: getattr(Methods, method) for name, method in METHODS.items()}
    found |= {name: getattr(PurchaseMethods, method) for name, method in PURCHASE_METHODS.items()}
    found["lsps2-status"] = Client._status
    return {name: found[name] for name in (*EXAMPLES, *WITHOUT_EXAMPLE)}


def parameters(method: Any) -> dict[str, bool]:
    """Parameter names, and whether each must be given."""
    given = list(inspect.signature(method).parameters.values())[1:]
    return {each.name: each.default is inspect.Parameter.empty for each in given}


def _parameters(name: str, method: Any) -> str:
    rows = []
    for parameter, must in parameters(method).items():
        needed = must or (name == "lsps-lsps2-invoice" and parameter in REQUIRED)
        rows.append(f"| `{parameter}` | {'yes' if needed else ''} | {PARAMETERS[parameter]} |\n")
    return "| parameter | required | meaning |\n|---|---|---|\n" + "".join(rows) + "\n" if rows else ""


def _example(name: str) -> str:
    example = EXAMPLES.get(name)
    if example is None:
        return WITHOUT_EXAMPLE[name] + "\n"
    given = json.dumps(example.given)
    return f"```json\n{name} {given}\n{json.dumps(example.shown, ensure_ascii=False)}\n```\n"


def _section(name: str, method: Any) -> str:
    text = inspect.getdoc(method) or ""
    return f"### {name}\n\n{text}\n\n{_parameters(name, method)}{_example(name)}\n"


def reference() -> str:
    """Return docs/reference/wallet-rpc.md, from the code."""
    fields = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in FIELDS.items())
    codes = "".join(f"| {code.number} | {code.meaning} |\n" for code in CODES)
    steps = "".join(f"| `{topic_of(step)}` | {meaning} |\n" for step, meaning in STEPS.items())
    return (
        "# The wallet's methods\n\n"
        "Generated by `python -m lsps2fast_plugin.tools.wallet_rpc_page`; do not edit.\n"
        "Answers in the examples show some of their members; texts are cut short with …. A test runs every example.\n\n"
        "## Methods\n\n" + "".join(_section(name, method) for name, method in methods().items()) + "## Fields\n\n"
        "Amounts are numbers of millisatoshi; times are UTC.\n\n"
        f"| field | meaning |\n|---|---|\n{fields}\n"
        f"## Errors\n\n| code | meaning |\n|---|---|\n{codes}\n"
        "## Notifications\n\n"
        "Subscribe to them as to lightningd's own. Each carries one object under its own name, with the fields of\n"
        "`lsps2-purchase` and `step`.\n\n"
        f"| topic | when |\n|---|---|\n{steps}"
    )


if __name__ == "__main__":
    print(reference(), end="")
