"""The traffic on the pipes of service and client, read into the rows of a report.

Written without the codecs of the plugins, so that these are not their own witnesses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from lsps2fast.lsps.lsps2 import BUY, FeeParams
from lsps2fast_plugin.tools.demo.timeline import Entry, extra_fee_msat


@dataclass
class PartRow:
    """One HTLC as lightningd and the service spoke of it; `outcome` is the last answer."""

    channel: str
    htlc_id: int
    amount_msat: int
    fee_msat: int = 0
    forward_msat: int = 0
    outcome: str = "unanswered"
    answers: int = 0


@dataclass
class ClaimRow:
    """One HTLC as the wallet's lightningd and the client spoke of it; `sent_msat` is what the onion says."""

    htlc_id: int
    amount_msat: int
    fee_msat: int
    sent_msat: int
    outcome: str = "unanswered"
    answers: int = 0


@dataclass
class Sale:
    """The outcome of one payment."""

    title: str
    jit_channel_scid: str
    payment_hash: str
    opening_fee_msat: int
    parts: list[PartRow] = field(default_factory=list)
    claims: list[ClaimRow] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    channel_id: str = ""
    capacity_sat: int = 0
    funding_txid: str = ""
    seconds: float = 0.0
    books_msat: dict[str, int] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)


@dataclass
class Refusal:
    """An attempt of the LSP and its outcome."""

    vice: str
    what: str
    payment_hash: str
    sentence: str = ""
    payer_failures: list[str] = field(default_factory=list)
    parts: list[PartRow] = field(default_factory=list)
    claims: list[ClaimRow] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    seconds: float = 0.0
    books_msat: dict[str, int] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)


def agreed_fee_msat(evidence: list[Entry], size_msat: int) -> int:
    """Return the opening fee for this payment, by the terms in the `lsps2.buy` that went over the wire."""
    for entry in evidence:
        message = entry["msg"]
        if entry["dir"] == "host>plugin" and message.get("method") == "custommsg" and "id" in message:
            request = json.loads(bytes.fromhex(message["params"]["payload"][4:]))
            if request.get("method") == BUY:
                return FeeParams.from_json(request["params"]["opening_fee_params"]).fee_msat(size_msat) or 0
    return 0


def is_forward(entry: Entry) -> bool:
    """Return whether this is the service's answer that lets a part out."""
    result = entry["msg"].get("result")
    return entry["dir"] == "plugin>host" and isinstance(result, dict) and "forward_to" in result


def is_claim(entry: Entry) -> bool:
    """Return whether this is the client's answer that has its node claim a part."""
    result = entry["msg"].get("result")
    return entry["dir"] == "plugin>host" and isinstance(result, dict) and "payload" in result


def accepted(evidence: list[Entry]) -> int:
    """Return the openings that the client took, zero-conf."""
    answers = [entry["msg"].get("result") for entry in evidence if entry["dir"] == "plugin>host"]
    return sum(isinstance(answer, dict) and answer.get("mindepth") == 0 for answer in answers)


def first(evidence: list[Entry], direction: str, method: str) -> int:
    """Return where it was said first; -1: never."""
    places = [n for n, e in enumerate(evidence) if e["dir"] == direction and e["msg"].get("method") == method]
    return places[0] if places else -1


def count(evidence: list[Entry], direction: str, method: str) -> int:
    """Return how often it was said."""
    return sum(entry["dir"] == direction and entry["msg"].get("method") == method for entry in evidence)


def collect(sale: Sale, evidence: list[Entry]) -> None:
    """Fill the sale from what went over the pipes."""
    rows: dict[str, PartRow] = {}
    for entry in evidence:
        message, direction = entry["msg"], entry["dir"]
        if direction == "host>plugin" and message.get("method") == "htlc_accepted":
            htlc = message["params"]["htlc"]
            rows[str(message["id"])] = PartRow(htlc["short_channel_id"], htlc["id"], htlc["amount_msat"])
        elif direction == "plugin>host" and str(message.get("id")) in rows:
            _note_answer(rows[str(message["id"])], sale, message["result"])
        elif direction == "plugin>host" and message.get("method") == "lsps2_session":
            change = message["params"]["lsps2_session"]
            if change["payment_hash"] == sale.payment_hash:
                sale.states.append(change["new_state"])
        elif direction == "host>rpc" and "txid" in (message.get("result") or {}):
            sale.funding_txid = message["result"]["txid"]
        elif direction == "rpc>host" and message.get("method") == "fundchannel_start":
            sale.capacity_sat = message["params"]["amount"]
    sale.parts = list(rows.values())


def collect_claims(evidence: list[Entry], payment_hash: str) -> list[ClaimRow]:
    """Return what the client was asked about this payment and said, from what went over the wallet's pipes."""
    rows: dict[str, ClaimRow] = {}
    for entry in evidence:
        message, direction = entry["msg"], entry["dir"]
        if direction == "host>plugin" and message.get("method") == "htlc_accepted":
            htlc, onion = message["params"]["htlc"], message["params"]["onion"]
            if htlc["payment_hash"] == payment_hash:
                fee_msat = extra_fee_msat(htlc.get("extra_tlvs"))
                row = ClaimRow(htlc["id"], htlc["amount_msat"], fee_msat, onion["forward_msat"])
                rows[str(message["id"])] = row
        elif direction == "plugin>host" and str(message.get("id")) in rows:
            row, result = rows[str(message["id"])], message["result"]
            row.answers += 1
            taken = result["result"] == "continue" and _amount_of(result["payload"]) == row.amount_msat
            row.outcome = "taken" if taken else f"failed {result.get('failure_message', '')[:4]}"
    return list(rows.values())


def _note_answer(row: PartRow, sale: Sale, result: dict[str, Any]) -> None:
    row.answers += 1
    if result["result"] == "fail":
        row.outcome = f"failed {result['failure_message'][:4]}"
        return
    row.outcome = "forwarded" if "forward_to" in result else "let go"
    row.fee_msat = extra_fee_msat(result.get("extra_tlvs"))
    row.forward_msat = _amount_of(result["payload"]) if "payload" in result else row.amount_msat
    sale.channel_id = result.get("forward_to", sale.channel_id)


def _amount_of(payload_hex: str) -> int:
    """Record 2 of an unprefixed hop payload, read here on its own so that the codec is not its own witness."""
    payload = bytes.fromhex(payload_hex)
    assert payload[0] == 2, "amt_to_forward is the first record"
    return int.from_bytes(payload[2 : 2 + payload[1]], "big")
