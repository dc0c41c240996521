"""Reading the answer to `htlc_accepted` as lightningd does: what it takes, and what it dies of (cln:H5 to cln:H9)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .tlv import BadTlv, read_records

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*\Z")


class Fatal(Exception):
    """lightningd aborts with this text in its log (exit -6)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A checked answer; None means "as it was"."""

    result: str = "continue"
    payload: bytes | None = None
    forward_to: str | None = None
    extra_tlvs: bytes | None = None
    invoice_msat: int | None = None
    failure_message: bytes | None = None
    failure_onion: bytes | None = None
    payment_key: bytes | None = None


CONTINUE = Decision()


def _bytes(value: Any, complaint: str) -> bytes:
    if not isinstance(value, str) or not _HEX.match(value):
        shown = value if isinstance(value, str) else json.dumps(value)
        raise Fatal(f"{complaint}{shown}")
    return bytes.fromhex(value)


def _extra_tlvs(value: Any) -> bytes:
    data = _bytes(value, "Bad custom_tlvs for htlc_accepted hook: ")
    try:
        records = read_records(data)
    except BadTlv:
        raise Fatal(f"htlc_accepted_hook returned bad extra_tlvs {value}") from None
    # the only even type update_add_htlc knows is 0, a point
    if any(kind % 2 == 0 and (kind != 0 or len(item) != 33) for kind, item in records.items()):
        raise Fatal(f"htlc_accepted_hook returned bad extra_tlvs {value}")
    return data


def read_answer(answer: dict[str, Any]) -> Decision:
    """`answer` is the whole JSON-RPC answer. Raises Fatal for what kills lightningd (cln:H9)."""
    if "error" in answer:
        raise Fatal(f"Plugin returned error in response to htlc_accepted hook: {json.dumps(answer['error'])}")
    body = answer.get("result")
    if not isinstance(body, dict) or "result" not in body:
        raise Fatal(f"Plugin return value does not contain 'result' key {json.dumps(body)}")
    payload = forward_to = extra_tlvs = invoice_msat = None
    if "payload" in body:
        payload = _bytes(body["payload"], "Bad payload for htlc_accepted hook: ")
    if "forward_to" in body:
        forward_to = _bytes(body["forward_to"], "Bad forward_to for htlc_accepted hook: ")
        if len(forward_to) != 32:
            raise Fatal(f"Bad forward_to for htlc_accepted hook: {body['forward_to']}")
    if "extra_tlvs" in body:
        extra_tlvs = _extra_tlvs(body["extra_tlvs"])
    if "invoice_msat" in body:
        invoice_msat = body["invoice_msat"]
        if not isinstance(invoice_msat, int) or isinstance(invoice_msat, bool) or not 0 <= invoice_msat < 2**64:
            raise Fatal(f"Bad invoice_msat for htlc_accepted hook: {invoice_msat}")
    result = body["result"]
    if result == "continue":
        target = forward_to.hex() if forward_to is not None else None
        return Decision(result, payload, target, extra_tlvs, invoice_msat)
    if result == "fail":
        return _read_fail(body)
    if result == "resolve":
        return _read_resolve(body)
    raise Fatal(f"Plugin responded with an unknown result to the htlc_accepted hook: {result}")


def _read_fail(body: dict[str, Any]) -> Decision:
    if "failure_onion" in body:
        onion = _bytes(body["failure_onion"], "Bad failure_onion for htlc_accepted hook: ")
        return Decision("fail", failure_onion=onion)
    if "failure_message" not in body:
        raise Fatal("Missing both failure_onion and failure_message for htlc_accepted hook fail: fail")
    message = _bytes(body["failure_message"], "Bad failure_message for htlc_accepted hook: ")
    return Decision("fail", failure_message=message)


def _read_resolve(body: dict[str, Any]) -> Decision:
    if "payment_key" not in body:
        raise Fatal("Plugin did not specify a 'payment_key' in return value to the htlc_accepted hook: resolve")
    key = _bytes(body["payment_key"], "Plugin specified an invalid 'payment_key': ")
    if len(key) != 32:
        raise Fatal(f"Plugin specified an invalid 'payment_key': {body['payment_key']}")
    return Decision("resolve", payment_key=key)
