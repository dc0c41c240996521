"""docs/reference/records.md: what is kept in lightningd's datastore and in the sales ledger, written by the codecs."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec

from lsps2fast.actions import Channel, Forward, Funding, SessionRecord
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps1 import OrderAsk, OrderState
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.client import built_in_records, history, records, reports, store
from lsps2fast_plugin.service import capital, fee_notes, sales_policy, session_record, session_store
from lsps2fast_plugin.service.closing import journal
from lsps2fast_plugin.service.lsps1 import book
from lsps2fast_plugin.service.lsps1.terms import ROOT as ORDERS
from lsps2fast_plugin.service.policy import stakes, tokens, trust
from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.routing_fees import LATE_BLOCKS
from lsps2fast_plugin.service.sales_ledger import schema
from lsps2fast_plugin.service.wake import webhooks

DAY_MS: Final = 1_800_000_000_000  # of the examples, in January 2027
PREIMAGE: Final = b"\x11" * 32
HASH: Final = hashlib.sha256(PREIMAGE).digest()
PEER: Final = "02" + "ab" * 32
CHANNEL: Final = "cd" * 32
TXID: Final = "ef" * 32
SCID: Final = 12_000_000 << 40 | 1 << 16 | 1
PARAMS: Final = FeeParams.build(
    min_fee_msat=1_000_000,
    proportional=10_000,
    valid_until_ms=DAY_MS + 86_400_000,
    min_lifetime_blocks=1_008,
    max_client_to_self_delay_blocks=2_016,
    min_payment_size_msat=1_500_000,
    max_payment_size_msat=4_000_000_000,
)


class Family(NamedTuple):
    """Records of one kind: where they lie, what they are for, one of them, and what its members mean."""

    head: str
    key: tuple[str, ...]
    words: str
    example: Any
    meanings: dict[str, str]


OFFER: Final = "the offer as the LSP signed it, with bLIP-52's members"
VERSION: Final = "of the form; a record of another version is kept, reported and left alone"
SCID_WORDS: Final = "the jit scid"
TIME: Final = "UTC, ms since 1970"

SESSION: Final = {
    "peer_id": "node id of the client",
    "opening_fee_params": OFFER,
    "channel_capacity_msat": "the channel that was judged when the buy was made, msat",
    "created_at": "when it was bought, UTC",
    "expected_payment_size": "the payment, msat; absent in variable mode",
    "payment_hash": "of the attempt under way, or of the last one",
    "channel_id": "of the channel that was made",
    "funding_psbt": "its funding, signed by both sides",
    "funding_txid": "and the transaction's id",
    "preimage": "once a part was fulfilled; the funding is owed to the chain from here on",
    "outcome": "how it ended: only in `finalized`",
    "finalized_at": "when, UTC: only in `finalized`",
    "lsps2fast": "our own facts; the built-in plugin ignores them",
    "lsps2fast.version": "of these facts: {versions} are read, {newest} is written",
    "lsps2fast.stage": "`buy`, `intent` (coins are about to be reserved), `channel`, `forwards` or `paid`",
    "lsps2fast.attempts": "payments that came to nothing before",
    "lsps2fast.cltv_expiry_delta": "the blocks between incoming and outgoing expiry that were sold",
    "lsps2fast.client_trusts_lsp": "the trust mode",
    "lsps2fast.opening_fee_msat": "the fee of this payment, msat",
    "lsps2fast.fee_paid_msat": "what came of it, msat",
    "lsps2fast.funding": "the coins that are set aside; none before the intent",
    "lsps2fast.funding.psbt": "the transaction before it was signed",
    "lsps2fast.funding.inputs": "the coins, `txid:vout`",
    "lsps2fast.funding.reserved_to_block": "at least to this block lightningd keeps them for us",
    "lsps2fast.funding.capacity_sat": "the channel, sat",
    "lsps2fast.funding.channel_type": "the feature bits that are asked for",
    "lsps2fast.funding.batch": "jit scids whose channels these coins pay for in one transaction (version 5)",
    "lsps2fast.shared": "where the funding pays several channels (version 5)",
    "lsps2fast.shared.channels": "the others: node id and channel id",
    "lsps2fast.shared.mining_sat": "this channel's share of what miners get, sat",
    "lsps2fast.existing": "a channel that the client had, which the parts go into; then none is made (version 4). "
    "Beside a final record: a start gives that channel its routing fees again",
    "lsps2fast.existing.channel_id": "its id",
    "lsps2fast.existing.fee_base_msat": "the routing fee it took before, in msat; null: the operator's own",
    "lsps2fast.existing.fee_ppm": "and in parts per million",
    "lsps2fast.attempt": "true in the final record of one payment while its buy goes on; else absent",
    "lsps2fast.forwards": "parts on their way to the client, each a list: incoming scid, HTLC id, msat sent, fee taken"
    " in msat, id of the incoming channel where it is known",
}
ORDER: Final = {
    "version": VERSION,
    "id": "the order id that its client knows",
    "key": "stands for the order where coins and budgets go by jit scid; no payer knows it",
    "peer_id": "node id of the client",
    "ask": "what was ordered, as in `lsps1.create_order`",
    "fee_sat": "what the client pays, sat",
    "payment_hash": "of the invoice",
    "bolt11": "the invoice; its label is `lsps2fast-order-` and the order id",
    "created_ms": TIME,
    "expires_ms": "the end of the invoice, UTC ms",
    "state": f"{', '.join(f'`{state}`' for state in OrderState)}",
    "preimage": "of the invoice, 32 bytes: a node on the way of its payment that knew it could take the payment",
    "paid": "the payment is taken",
    "held": "the parts of the payment, once they were all there: channel id (or scid) and HTLC id",
    "taken": "those that were answered with the preimage; none where lightningd took the payment itself",
    "ask.lsp_balance_sat": "sats that the LSP puts in",
    "ask.client_balance_sat": "sats of the client: always 0",
    "ask.required_channel_confirmations": "after so many blocks the channel is used; 0: at once",
    "ask.funding_confirms_within_blocks": "how soon a block should have the funding",
    "ask.channel_expiry_blocks": "how long the channel stays open",
    "ask.announce_channel": "others may know of the channel",
    "ask.token": "always empty, or null",
    "ask.refund_onchain_address": "what the client named; it is not used",
    "funding.psbt": "unsigned, without the channel's output",
    "funding.inputs": "the coins, each as `txid:output`",
    "funding.reserved_to_block": "so long they are ours at least",
    "funding.capacity_sat": "size of the channel",
    "funding.channel_type": "feature bits that were asked for",
    "funding.batch": "always empty: an ordered channel has a transaction of its own",
    "channel.channel_id": "its id",
    "channel.sisters": "always empty",
    "channel.mining_sat": "always null",
    "channel.signed_psbt": "the funding, which only needs to be sent",
    "channel.funding_txid": "its txid",
    "attempts": "opens, or sendings, that failed",
    "funding": "the coins of its channel, the intent of opening it, as in a sale",
    "channel": "the channel that both sides have signed, as in a sale",
    "outnum": "which output of its funding the channel is",
    "sent_ms": "when bitcoind got the funding, UTC ms; 0: not yet",
    "ended_ms": "when it came to its end, UTC ms; 0: not yet",
    "why": "why there is no channel, for people",
}
BUY: Final = {
    "version": VERSION,
    "lsp_id": "node id of the LSP",
    "jit_channel_scid": SCID_WORDS,
    "opening_fee_params": OFFER,
    "lsp_cltv_expiry_delta": "the blocks that the route hint asks for",
    "client_trusts_lsp": "the trust mode that the LSP named",
    "opening_fee_msat": "the fee at `largest_payment_msat`, msat",
    "largest_payment_msat": "the largest payment that may come, msat; in fixed mode the payment",
    "smallest_payment_msat": "the smallest one, msat",
    "headroom_msat": "what the channel must have room for beside the payment, msat",
    "max_fee_msat": "the owner's bound when it was bought, msat",
    "max_fee_ppm": "and in parts per million",
    "consent": "the owner allowed client-trusts-LSP for this buy",
    "created_ms": TIME,
    "payment_size_msat": "the payment, msat; absent in variable mode",
}
APPROVAL: Final = BUY | {
    "payment_secret": "of the invoice: a part without it is refused",
    "label": "of the invoice",
    "address": "where the LSP is reached, where the caller said it",
    "expires_ms": "when the invoice ends, UTC ms",
    "fees": "extra fees of parts that were seen: channel, HTLC id, msat",
    "released": "what lightningd was told to claim; written before it is told",
    "released.total_msat": "of all parts, msat",
    "released.invoice_msat": "what the invoice asks, msat; none for an invoice without an amount",
    "released.at_ms": "when, UTC ms",
    "released.parts": "each part: channel, HTLC id, msat",
    "opening": "the opening that was accepted; written before it is accepted",
    "opening.capacity_msat": "its size, msat",
    "opening.accepted_ms": "when, UTC ms",
    "opening.sequence": "its number among the openings that were accepted",
    "opening.others": "channels that the LSP had with us before",
    "opening.channel_id": "of the new one, once it was seen",
    "openings": "how many were accepted",
    "nonce": "the preimage is made from it by lightningd; it is not the preimage",
    "renewed": "the words of an invoice that takes the place of one that expired",
    "asked": "what the invoice was asked for",
    "description_hash": "where the payer's invoice has that instead of the text",
}
CHANNEL_WORDS: Final = {
    "version": VERSION,
    "lsp_id": "node id of the LSP",
    "funding_txid": "the funding",
    "funding_outnum": "and its output",
    "capacity_msat": "as agreed, msat",
    "payment_hash": "the purchase that it was opened for",
    "paid_ms": "when we claimed money in it, UTC ms",
    "missing": "it was paid for, and its funding did not come or is not as agreed",
    "seen_height": "the height at which the funding was first seen",
    "seen_ms": "when it was last seen, UTC ms",
    "confirmed": "the funding is as deep as `lsps2-funding-depth`",
}
PURCHASE: Final = {
    "version": VERSION,
    "payment_hash": "of the invoice",
    "label": "of the invoice",
    "lsp_id": "node id of the LSP",
    "jit_channel_scid": SCID_WORDS,
    "client_trusts_lsp": "the trust mode",
    "payment_size_msat": "msat; none in variable mode",
    "smallest_payment_msat": "msat",
    "largest_payment_msat": "msat",
    "opening_fee_msat": "the fee at the largest payment, msat",
    "opening_fee_params": OFFER,
    "created_ms": TIME,
    "state": ", ".join(f"`{state}`" for state in history.STATES),
    "reason": "why it ended, or why parts were given back",
    "fee_taken_msat": "msat",
    "received_msat": "msat",
    "channel_id": "of the channel that was opened for it",
    "funding_txid": "its funding",
    "funding_outnum": "and its output",
    "capacity_msat": "msat",
    "funding": "`none`, `opened`, `seen`, `confirmed`, `missing` or `closed`",
    "confirmed_height": "the block at which it was deep enough",
    "times": "when each step was, UTC ms",
}
TRUST: Final = {
    "version": VERSION,
    "unpaid": "channels it left unpaid, not yet forgiven, and when the last one was (UTC ms)",
    "probes": "payments that failed behind us after a channel was made, likewise",
    "open": "its channels on chain that are not paid for: jit scid, msat, since when (UTC ms), whether by its own deed",
    "channels": "the same channels in the same sequence, with what older versions did not write",
    "events": f"the last {trust.MOST_EVENTS} things it did: when (UTC ms), what, jit scid",
}
CLOSE: Final = {
    "version": VERSION,
    "channel_id": "of the channel",
    "peer_id": "node id of its client",
    "rule": "name of the rule",
    "decided_ms": "when, UTC ms",
    "feerate_perkw": "the estimate for closes, sat per 1000 weight",
    "closing_msat": "what the close was expected to cost, msat",
    "capacity_msat": "of the channel, msat",
    "ours_msat": "our side of it, msat",
    "opening_fee_msat": "the opening fees that its sale brought, msat",
    "routing_fees_msat": "the routing fees of later forwards, msat",
    "idle_days": "days since the last forward",
    "tries": "how often lightningd was asked, or was about to be",
    "tried_ms": "when it was last, UTC ms",
    "given_up": "why nothing more is tried for a month; else null",
}
FEE_NOTE: Final = {
    "version": VERSION,
    "channel_id": "of the channel",
    "fee_base_msat": "what it is to charge, msat",
    "fee_ppm": "and in parts per million",
    "zero_until_ms": "until then forwards over the jit scid were promised at no fee, UTC ms; 0: nothing was",
}
LEDGER: Final = {
    "buys": "One row a buy.",
    "attempts": "One row a payment attempt. What a buy has more than one of are attempts.",
    "channels": "One row a channel that was made for a sale.",
    "capital": "Sums by day, token and band, kept by triggers.",
    "closes": "One row a channel that a rule of the policy closed; amounts as they were when that was decided.",
}
COLUMNS: Final = {
    "amount_msat": "what the payer sent",
    "band": "the fee line, and its band",
    "began_ms": "when the first part came",
    "capacity_sat": "size of the channel",
    "channel_id": "the channel",
    "channel_ms": "when the channel could be used",
    "claimed_ms": "when the client claimed the first part",
    "client_msat": "what of the channel was the client's",
    "client_trusts_lsp": "0 or 1: the trust mode",
    "close_mining_msat": "what miners took for closing it, from our side",
    "code": "why it failed, in a word: [errors](errors.md#why-a-payment-failed)",
    "created_ms": "when it was bought",
    "day": "days since 1970",
    "decided_ms": "when a rule closed it",
    "ended_ms": "when it was over",
    "failed_by": "who made it fail: `payer`, `client`, `lsp` or `operator`; none where nothing says",
    "feerate_perkw": "the estimate for closes then, sat per 1000 weight",
    "fee_agreed_msat": "the opening fee of this payment",
    "fee_owed_msat": "what is missing of it",
    "fee_taken_msat": "what came of it",
    "forwarded_ms": "when the parts went to the client",
    "funding_txid": "the funding",
    "id": "number of the row",
    "idle_days": "days since the last forward",
    "jit_scid": "the jit scid of the buy",
    "life": "a number of the plugin's run: keeps attempts apart when the clock was set back",
    "locked_ms": "from when the coins were in it",
    "locked_sat": "what went into channels on this day",
    "min_fee_msat": "of the offer",
    "min_lifetime_blocks": "of the offer",
    "mining_msat": "what miners took for the funding",
    "opening_fee_msat": "the opening fees that came",
    "opening_ms": "when coins were chosen",
    "ours_msat": "what of the channel was ours",
    "outcome": "how it ended; none while it is under way",
    "parts": "HTLCs of the payment",
    "payment_hash": "the payment",
    "payment_size_msat": "of the buy; none in variable mode",
    "peer_id": "node id of the client",
    "proportional_ppm": "of the offer",
    "reason": "why it failed, in a sentence",
    "released_ms": "when the coins were ours again",
    "released_sat": "what came back on this day",
    "routing_fees_msat": "the fees of later forwards over it",
    "rule": "name of the rule that closed it",
    "sent_ms": "when the funding was sent",
    "token": "label of the token, if any",
    "valid_until_ms": "when the offer ends",
}


def _session() -> dict[str, Any]:
    buy = Buy(SCID, PEER, PARAMS, 100_000_000, 144, True, DAY_MS, 200_000)
    coins = Funding("cHNidP8B…", (f"{TXID}:0",), 900_000, 200_000)
    part = Forward(900_000 << 40 | 1 << 16, 7, 99_000_000, 1_000_000, "aa" * 32)
    journal = SessionRecord(
        "paid", HASH, 1, 1_000_000, coins, Channel(CHANNEL, "cHNidP8B…", TXID), (part,), PREIMAGE, 1_000_000
    )
    record = session_record.final_record(buy, journal, "Succeeded", DAY_MS)
    record["lsps2fast"]["attempt"] = False
    return record


def _approval() -> records.Approval:
    buy = records.Purchase(
        PEER, SCID, PARAMS, 100_000_000, 144, True, 1_000_000, 100_000_000, 5_000_000, 20_000, False, DAY_MS
    )
    key = (CHANNEL, 0)
    return records.Approval(
        buy,
        HASH,
        b"\x22" * 32,
        "coffee",
        None,
        DAY_MS + 3_600_000,
        fees_msat={key: 1_000_000},
        released=records.Released(100_000_000, 100_000_000, {key: 100_000_000}, DAY_MS),
        opening=records.Opening(200_000_000, DAY_MS, frozenset(), CHANNEL),
    )


def _trust() -> Any:
    ledger = trust.TrustLedger(TrustRule())
    ledger.sent(PEER, SCID, CHANNEL, 200_000_000, DAY_MS)
    ledger.let_go(PEER, SCID, DAY_MS)
    return ledger.changes()[0].value


def _token() -> tokens.Record:
    return tokens.TokenUses().leave({HASH: {SCID}})[0]


def _close() -> journal.Decision:
    return journal.Decision(
        channel_id=CHANNEL,
        peer_id=PEER,
        rule="spent and forgotten",
        decided_ms=DAY_MS,
        feerate_perkw=300,
        closing_msat=240_000,
        capacity_msat=200_000_000,
        ours_msat=195_000_000,
        opening_fee_msat=1_000_000,
        routing_fees_msat=0,
        idle_days=60,
    )


def _order() -> book.Order:
    ask = OrderAsk(
        lsp_balance_sat=200_000,
        client_balance_sat=0,
        required_channel_confirmations=0,
        funding_confirms_within_blocks=12,
        channel_expiry_blocks=4_320,
        announce_channel=False,
    )
    return book.Order(
        id="adbecbfd-efc5-4d2a-a02a-7963cd8cbfc0",
        key=SCID,
        peer_id=PEER,
        ask=ask,
        fee_sat=1_850,
        payment_hash=HASH.hex(),
        preimage="00" * 32,
        bolt11="lnbc18500n1…",
        created_ms=DAY_MS,
        expires_ms=DAY_MS + 3_600_000,
        state=OrderState.SENT,
        paid=True,
        taken=((CHANNEL, 17),),
        funding=Funding("cHNidP8B…", (f"{TXID}:0",), 900_000, 200_000),
        channel=Channel(CHANNEL, "cHNidP8B…", TXID),
        sent_ms=DAY_MS + 60_000,
    )


def families() -> tuple[Family, ...]:
    """Return all kinds of records."""
    approval, channel = _approval(), records.JitChannel(CHANNEL, PEER, TXID, 0, 200_000_000, HASH)
    return (
        Family(
            "A sale: active, and over",
            (*session_store.ROOT, "active|finalized", SCID_WORDS),
            "One record a jit scid; it moves from `active` to `finalized` when it is over. A final record is deleted"
            " after `lsps2-keep-records`, and not before the lifetime of its channel has passed. All members but"
            " `lsps2fast` are those of CLN's built-in plugin, which reads them, so that you can switch either way."
            f" A buy of the built-in plugin of v26.06 lies under `{json.dumps(session_store.OLD_ROOT)}` until its end.",
            _session(),
            SESSION,
        ),
        Family(
            "What a client did",
            (*trust.ROOT, "node id"),
            "One record a client with unpaid channels or failed payments in its past; `lsps2-forgive` deletes it.",
            _trust(),
            TRUST,
        ),
        Family(
            "Uses of a token",
            (*tokens.ROOT, "hash of the token"),
            "One record a token, from the day on which the first record of a buy under it is deleted: the uses of"
            " buys that the journal has are counted there. The token itself is nowhere.",
            _token().value,
            {
                "version": VERSION,
                "uses": "buys whose records are deleted, or about to be",
                "leaving": "numbers of the jit scids that were about to be: they count once, deleted or not",
            },
        ),
        Family(
            "Mining fees of sales that came to nothing",
            capital.BURNT,
            "Counted against `lsps2-mining-budget-sat`.",
            stakes.Burnt().write(),
            {
                "version": VERSION,
                "hours": "hours since 1970, and msat burnt in each",
                "counted": "channels that are counted there, and when that was, for a week: each counts once",
            },
        ),
        Family(
            "Selling is paused",
            sales_policy.PAUSED,
            "There while `lsps2-pause` is in force.",
            {"since_ms": DAY_MS},
            {"since_ms": TIME},
        ),
        Family(
            "A channel that a rule closes",
            (*journal.ROOT, "channel id"),
            "Written before lightningd is asked to close it (`lsps2-close-by-rule`); deleted when a block has the close"
            " and the sales ledger knows of it, or when the decision is withdrawn.",
            msgspec.to_builtins(_close()),
            CLOSE,
        ),
        Family(
            "Routing fees of a channel",
            (*fee_notes.ROOT, "channel id"),
            "There while a channel takes no routing fee for a payment whose record has no place for what you set; and"
            f" for {LATE_BLOCKS} blocks after a start that gave it fees which a call of before the start may take"
            " away again.",
            fee_notes.FeeNote(channel_id=CHANNEL, fee_base_msat=77, fee_ppm=7, zero_until_ms=DAY_MS),
            FEE_NOTE,
        ),
        Family(
            "Webhooks of a client",
            (*webhooks.ROOT, "node id"),
            "One record a client that registered any (`lsps2-webhooks`); deleted with the last of them, and when the"
            " client has had no channel for eight days. URLs may hold secrets of the client.",
            msgspec.to_builtins(webhooks.Client((webhooks.Webhook("app", "https://a.example/"),), DAY_MS)),
            {
                "webhooks": "each of them: `app_name`, `webhook` (the URL), and `told`: its server was told",
                "since_ms": "when the client registered last, or lost its last channel, UTC ms",
                "channel": "it had a channel at the last look",
            },
        ),
        Family(
            "A channel that was ordered",
            (*ORDERS, "order id"),
            "One record an order (`lsps2-lsps1`). It goes an hour after an end without payment, else"
            " `lsps2-keep-records` days after its end, and not before its channel is closed.",
            msgspec.to_builtins(_order()),
            ORDER,
        ),
        Family(
            "The wallet: a buy before its invoice",
            (*built_in_records.BUYS, "LSP/jit scid"),
            "Deleted when the invoice is made.",
            approval.buy.to_json(),
            BUY,
        ),
        Family(
            "The wallet: a payment that may cost a fee",
            (*built_in_records.APPROVALS, "payment hash"),
            "Without it no fee may be taken and no zero-conf channel is accepted. Deleted when the purchase is over.",
            approval.to_json(),
            APPROVAL,
        ),
        Family(
            "The wallet: a channel whose funding is not settled",
            (*store.CHANNELS, "channel id"),
            "Deleted when the funding is deep enough, or the channel is gone.",
            channel.to_json(),
            CHANNEL_WORDS,
        ),
        Family(
            "The wallet: an LSP that broke its word",
            (*store.DISTRUSTED, "node id"),
            "It is not trusted until `lsps2-trust` forgives it.",
            records.Distrust(PEER, "took 1 msat too much", DAY_MS).to_json(),
            {"version": VERSION, "why": "in a sentence", "since_ms": TIME},
        ),
        Family(
            "The wallet: the last purchase that ended unpaid",
            (*store.LAPSED, "node id"),
            "So that a channel which comes too late can be explained.",
            records.Lapse(PEER, DAY_MS).to_json(),
            {"version": VERSION, "ended_ms": TIME},
        ),
        Family(
            "The wallet: history of a purchase",
            (*history.FOLDER, "payment hash"),
            "Stays. No money depends on it; `lsps2-listpurchases` shows it.",
            dict(history.NOTHING_YET),
            PURCHASE,
        ),
        Family(
            "The wallet: reports",
            reports.KEY,
            f"One list: the last {reports.MOST_REPORTS} refusals and the last {reports.MOST_REPORTS} alarms.",
            [dict(reports.NOTHING_SAID)],
            {
                "time": "UTC",
                "lsp_id": "node id of the LSP",
                "report": "the sentence",
                "times": "how often it was said in a row",
            },
        ),
    )


def members(value: Any, before: str = "") -> Iterator[str]:
    """Yield the names of a record's members; those of an object inside it with a dot."""
    if isinstance(value, list):
        value = value[0] if value and isinstance(value[0], dict) and not before else {}
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield f"{before}{name}"
        if name not in ("opening_fee_params", "asked", "times"):
            yield from members(inner, f"{before}{name}.")


def _section(family: Family) -> str:
    words = {"versions": ", ".join(map(str, session_record.VERSIONS)), "newest": str(session_record.VERSION)}
    rows = "".join(f"| `{name}` | {family.meanings[name].format(**words)} |\n" for name in members(family.example))
    head = f"### {family.head}\n\n`{json.dumps(family.key)}`\n\n{family.words}\n\n"
    return f"{head}| member | meaning |\n|---|---|\n{rows}\n"


def columns() -> dict[str, list[str]]:
    """Return the columns of each table of the ledger, from a fresh one."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.migrate(db)
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
        return {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


def _table(name: str, parts: list[str]) -> str:
    rows = "".join(f"| `{part}` | {COLUMNS[part]} |\n" for part in parts)
    return f"### {name}\n\n{LEDGER[name]}\n\n| column | meaning |\n|---|---|\n{rows}\n"


def reference() -> str:
    """Return the page."""
    return (
        "# Records\n\n"
        "Generated by `make pages`; do not edit.\n"
        "What is kept, where, and in which units. Everything that money depends on is in lightningd's datastore; the\n"
        "sales ledger is an account beside it. Where a record and the node disagree:\n"
        "[crash safety](../crash-safety.md).\n\n"
        "## In lightningd's datastore\n\n"
        'JSON, as hex. `lightning-cli listdatastore \'["lsps","lsps2","sessions"]\'` shows the sales. Amounts are\n'
        "decimal strings. Do not write there: a record that does not fit is kept and reported, and its payment\n"
        "fails.\n\n" + "".join(map(_section, families())) + "## The sales ledger\n\n"
        f"SQLite, version {schema.VERSION} (`PRAGMA user_version`); `lsps2-ledger` says where. Hashes and ids are\n"
        "bytes: `hex()` shows them. Columns that end with `_ms` are UTC, ms since 1970. No row is deleted, and none\n"
        "that is over is changed: triggers refuse it. [Read the books](../how-to/read-the-books.md) has queries.\n\n"
        + "".join(_table(name, parts) for name, parts in columns().items()).rstrip("\n")
        + "\n"
    )
