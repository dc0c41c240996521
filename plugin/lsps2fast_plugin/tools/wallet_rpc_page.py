"""docs/reference/wallet-rpc.md, made from the code by `make pages`.

Methods, parameters, error codes and notifications come from the code; the sentences about parameters and fields are
here, and a test holds that none is missing. It also runs the examples, one after the other, on a pretended node.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.client.app import METHODS, PURCHASE_METHODS, WEBHOOK_METHODS, Client
from lsps2fast_plugin.client.history import STATES, STEPS, topic_of
from lsps2fast_plugin.client.methods import Methods
from lsps2fast_plugin.client.purchase_methods import PurchaseMethods
from lsps2fast_plugin.client.rpc_errors import CODES
from lsps2fast_plugin.client.webhooks import WebhookMethods

Json = dict[str, Any]
LSP_ID: Final = "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"
REQUIRED: Final = {"amount_msat", "description", "label"}  # optional by position only, as in CLN's own client


class Example(NamedTuple):
    """A call, and members of its answer; texts may be cut short with …"""

    given: Json
    shown: Json


PARAMETERS: Final = {
    "lsp_id": "node id of the LSP, which is dialled when it is not connected and its address is known",
    "token": "a coupon that the LSP gave you",
    "payment_size_msat": "amount of the payment; left out: any amount, in one part",
    "opening_fee_params": "an entry of the LSP's menu as it was shown",
    "opening_fee_msat": "the fee you were quoted: no more is agreed to",
    "client_trusts_lsp": "true: the LSP may fund the channel after it was paid; default: as `lsps2-trusted-lsp` says",
    "max_fee_msat": "largest fee; tightens `lsps2-max-fee-msat` for this call",
    "max_fee_ppm": "largest share of the payment; tightens `lsps2-max-fee-ppm`",
    "jit_channel_scid": "from the buy",
    "payment_hash": "payment hash of the invoice, 64 hex digits",
    "amount_msat": 'amount as lightningd takes it (20000000, "20000sat"), or "any"',
    "description": "text of the invoice, at most 639 bytes",
    "label": "label of the invoice, unique on this node",
    "expiry": "seconds until the invoice ends, at least 60; default: as long as the LSP's offer, at most 7 days",
    "max_payment_msat": 'for "any": the largest payment you will take, at which the fee is judged',
    "lsp_ids": "a list of node ids; default: all connected peers that announce that they sell",
    "timeout_s": "seconds to wait, 1 to 600; default 120",
    "min_lifetime": "blocks that the LSP must promise to keep the channel",
    "preimage": "64 hex digits of your own, instead of one that this node makes; such an invoice cannot be renewed",
    "description_hash": "SHA-256 of the description, which the invoice has instead of the text (64 hex digits)",
    "deschashonly": "true: the invoice has only the hash of the description, which may then be longer",
    "headroom_msat": "what the channel must have room for beside the payment; one without is refused",
    "state": f"only those in this state: {', '.join(STATES)}",
    "start": "number of the first entry, from 0: the `next` of the page before",
    "limit": "entries a page, 1 to 1000, default 100",
    "app_name": "name of the webhook at this LSP, at most 64 bytes",
    "webhook": "URL of https that the LSP calls when it needs this wallet and the wallet is away",
    "timestamp": "the header `x-lsps5-timestamp`, as it came",
    "signature": "the header `x-lsps5-signature`, as it came",
    "body": "the body of the request, as it came: one blank more is another text",
}

IN_A_METHOD: Final = {  # where a parameter means something more
    ("lsps-lsps2-invoice", "lsp_id"): "node id of the LSP, or `id@host:port` for one that was never met",
    ("lsps-lsps2-invoice", "payment_hash"): "the hash of `preimage`, where you want it checked; alone it is error 3107",
    ("lsps-lsps2-invoice", "opening_fee_params"): "the offer as it was shown: that one is bought, or nothing",
    ("lsps2-compare", "timeout_s"): "seconds to wait for each LSP, 1 to 600; default 15",
    ("lsps2-trust", "lsp_id"): "node id of the LSP",
    ("lsps-lsps5-verify", "lsp_id"): "node id of the LSP that the webhook was given to; it is not asked",
}
ONE_OF: Final = {"lsps2-purchase": ("payment_hash", "label"), "lsps2-cancel-purchase": ("payment_hash", "label")}
PURCHASE: Final = (
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
)
ANSWERS: Final[dict[str, tuple[str, ...]]] = {
    "lsps-listprotocols": ("protocols",),
    "lsps-lsps2-getinfo": ("opening_fee_params_menu",),
    "lsps2-compare": ("offers", "refused"),
    "lsps-lsps2-invoice": (
        "bolt11",
        "payment_hash",
        "payment_secret",
        "expires_at",
        "created_index",
        "lsp_id",
        "jit_channel_scid",
        "opening_fee_msat",
        "smallest_payment_msat",
        "largest_payment_msat",
        "min_fee_msat",
        "proportional",
        "client_trusts_lsp",
    ),
    "lsps2-purchase": PURCHASE,
    "lsps2-listpurchases": ("purchases", "total", "next"),
    "lsps2-cancel-purchase": PURCHASE,
    "lsps2-trust": ("lsp_id", "was_distrusted"),
    "lsps-lsps5-setwebhook": ("num_webhooks", "max_webhooks", "no_change"),
    "lsps-lsps5-listwebhooks": ("app_names", "max_webhooks"),
    "lsps-lsps5-removewebhook": (),
    "lsps-lsps5-verify": ("verified", "method", "params", "sent_at", "id", "known"),
    "lsps-lsps2-buy": ("jit_channel_scid", "lsp_cltv_expiry_delta", "client_trusts_lsp"),
    "lsps-lsps2-approve": (),
}
WARNINGS: Final = {"lsps-lsps2-invoice": ("warning_inbound", "warning_range")}
NOTIFIED_BY: Final = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
BUY: Final = "what was bought, as in a purchase: `lsp_id`, scid, amounts, fee, trust mode, and `valid_until`"
STATUS: Final = {  # members of `lsps2-status`, and of their entries
    "buys": "bought with `lsps-lsps2-buy` and not approved yet",
    "buys[]": BUY,
    "approvals": "payments that will be taken",
    "approvals[]": BUY + ", and:",
    "approvals[].payment_hash": "of its invoice",
    "approvals[].label": "of its invoice, null when it was approved by hash",
    "approvals[].state": "awaited; receiving (parts are held); released (to lightningd, which settles it); paid",
    "approvals[].awaits": "how far the funding is that parts held wait for: not seen, in the mempool, not deep enough"
    " in the chain; null: they wait for none",
    "approvals[].awaits_height": "as of this block, null likewise",
    "channels": "channels whose funding is not confirmed",
    "channels[].channel_id": "",
    "channels[].lsp_id": "who opened it",
    "channels[].capacity_msat": "",
    "channels[].funding_txid": "",
    "channels[].funding_outnum": "",
    "channels[].state": "lightningd's word",
    "channels[].funding": "not paid yet; owed (it was paid for); missing (it did not come: an alarm was raised)",
    "channels[].payment_hash": "the purchase it was opened for, null: none",
    "given_up": "channels that an LSP gave up before anything was paid; lightningd forgets them by itself",
    "given_up[].channel_id": "",
    "given_up[].lsp_id": "",
    "given_up[].state": "lightningd's word",
    "given_up[].note": "a sentence for people",
    "lsps": "LSPs with any of these, or that did something to remember",
    "lsps[].lsp_id": "",
    "lsps[].trusted": "named in `lsps2-trusted-lsp`, and has not broken its word",
    "lsps[].broke_its_word": "what it did, or null; `lsps2-trust` forgives it",
    "lsps[].last_lapse": "when its last purchase ended unpaid, or null",
    "lsps[].muted": "whether it sent rubbish and is not heard until it reconnects",
    "held_parts": "number of parts held, of all payments",
    "open_requests": "number of requests to LSPs that wait for an answer",
    "reports": "why something was refused, and alarms; the last 100 of each, over restarts",
    "reports[].time": "when, the last time",
    "reports[].lsp_id": "of whom, empty where it is not known",
    "reports[].report": "the sentence; an alarm begins with ALARM",
    "reports[].times": "how often it was said in a row",
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
    "refused": "LSPs that are out, each with `lsp_id`, `why` and, from the LSP itself, `code`",
    "payment_msat": "the one amount at which all are compared",
    "receive_msat": "what is left of it",
    "valid_until": "when the LSP's offer ends",
    "min_lifetime": "blocks that the LSP will keep the channel",
    "trusted": "named in `lsps2-trusted-lsp`, and has not broken its word",
    "broke_its_word": "whether it did something for which it is not trusted; `lsps2-status` says what",
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
    "num_webhooks": "how many the LSP has for this node now",
    "max_webhooks": "how many it takes",
    "no_change": "true: it had just this one already, and calls nothing",
    "app_names": "their names",
    "verified": "true: the LSP signed it; false: see `reason`, and wake nothing",
    "method": "what the LSP notifies",
    "params": "its parameters, such as `timeout`",
    "sent_at": "when it was signed, by the LSP's clock",
    "id": "the same for a notification that comes twice",
    "known": "whether bLIP-55 has it; ignore others",
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
    "lsps-lsps5-setwebhook": Example(
        {"lsp_id": LSP_ID, "app_name": "phone", "webhook": "https://push.example/call?app=1"},
        {"num_webhooks": 1, "max_webhooks": 3, "no_change": False},
    ),
    "lsps-lsps5-listwebhooks": Example({"lsp_id": LSP_ID}, {"app_names": ["phone"], "max_webhooks": 3}),
    "lsps-lsps5-removewebhook": Example({"lsp_id": LSP_ID, "app_name": "phone"}, {}),
    "lsps-lsps5-verify": Example(
        {
            "lsp_id": NOTIFIED_BY,
            "timestamp": "2026-11-29T16:37:00.001Z",
            "signature": "rdp5s7or597gqigoi9jnt1ic49un4igp3ft364dgmb1n49fyw11x"
            "eote88qgz1g9578mg5dw1u7a778zpsi9ptrazkw1xyruj3rgj1d3",
            "body": '{"jsonrpc":"2.0","method":"lsps5.payment_incoming","params":{}}',
        },
        {"verified": True, "method": "lsps5.payment_incoming", "known": True},
    ),
}
NOTIFICATION: Final[Json] = {
    "lsps2_purchase_bought": {"step": "bought", "label": "first", "state": "awaited", "opening_fee_msat": 1_000_000}
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
    found |= {name: getattr(WebhookMethods, method) for name, method in WEBHOOK_METHODS.items()}
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
        word = "yes" if needed else "one of them" if parameter in ONE_OF.get(name, ()) else ""
        meaning = IN_A_METHOD.get((name, parameter), PARAMETERS[parameter])
        rows.append(f"| `{parameter}` | {word} | {meaning} |\n")
    return "| parameter | required | meaning |\n|---|---|---|\n" + "".join(rows) + "\n" if rows else ""


def _example(name: str) -> str:
    example = EXAMPLES.get(name)
    if example is None:
        return WITHOUT_EXAMPLE[name] + "\n"
    given = json.dumps(example.given)
    return f"```json\n{name} {given}\n{json.dumps(example.shown, ensure_ascii=False)}\n```\n"


def _answer(name: str) -> str:
    if name == "lsps2-status":
        return "Answer: [below](#lsps2-status-in-full).\n\n"
    if not ANSWERS[name]:
        return "Answer: an empty object.\n\n"
    if ANSWERS[name] == PURCHASE:
        return "Answer: [a purchase](#a-purchase).\n\n"
    told = ", ".join(f"`{field}`" for field in ANSWERS[name])
    warned = " and ".join(f"`{field}`" for field in WARNINGS.get(name, ()))
    return f"Answer: {told}{f'; {warned} where they apply' if warned else ''}.\n\n"


def _section(name: str, method: Any) -> str:
    text = inspect.getdoc(method) or ""
    return f"### {name}\n\n{text}\n\n{_parameters(name, method)}{_answer(name)}{_example(name)}\n"


def reference() -> str:
    """Return docs/reference/wallet-rpc.md, from the code."""
    fields = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in FIELDS.items())
    status = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in STATUS.items() if meaning)
    codes = "".join(f"| {code.number} | {code.meaning} |\n" for code in CODES)
    steps = "".join(f"| `{topic_of(step)}` | {meaning} |\n" for step, meaning in STEPS.items())
    return (
        "# The wallet's methods\n\n"
        "Generated by `make pages`; do not edit.\n"
        "Answers in the examples show some of their members; texts are cut short with …. A test runs every example.\n"
        "\n"
        "Parameters go by name, or by position in the order of the tables. `lightning-cli check METHOD …` says\n"
        "whether they would be taken, and does nothing.\n\n"
        "## Methods\n\n" + "".join(_section(name, method) for name, method in methods().items()) + "## Fields\n\n"
        "Amounts are numbers of millisatoshi; times are UTC.\n\n"
        f"| field | meaning |\n|---|---|\n{fields}\n"
        "### A purchase\n\n"
        f"{', '.join(f'`{field}`' for field in PURCHASE)}.\n\n"
        f"`times` has the steps that came, each with its time: {', '.join(f'`{step}`' for step in STEPS)}.\n\n"
        f"### lsps2-status in full\n\n| field | meaning |\n|---|---|\n{status}\n"
        f"## Errors\n\n| code | meaning |\n|---|---|\n{codes}\n"
        "## Notifications\n\n"
        "Subscribe to them as to lightningd's own, in a plugin's manifest. Each carries one object under its own\n"
        "name, with the fields of [a purchase](#a-purchase) and `step`, the topic's last words:\n\n"
        f"```json\n{json.dumps(NOTIFICATION)}\n```\n\n"
        f"| topic | when |\n|---|---|\n{steps}"
    )
