"""The lenient look at a frame: for what the strict reader in `_hook` does not recognise, and for pyln-client.

Lenient means raw control characters in strings, escapes, any UTF-8, numbers as text. It does not mean guessing: an
HTLC whose call has a key twice is not understood. Everything raises ValueError or RecursionError for what cannot be.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from lsps2fast import _hook, _tlv
from lsps2fast.errors import MalformedTlv
from lsps2fast.hook_replies import check_id
from lsps2fast_plugin.cln.rows import decode

_HASH = re.compile(r"[0-9a-f]{64}")
_MSAT = re.compile(r"(0|[1-9][0-9]{0,19})(?:msat)?")


class Hop(NamedTuple):
    """Where an HTLC wants to go: `scid` -1 for none, `payment_hash` 32 bytes; whether the call has `extra_tlvs`."""

    scid: int
    forward_to: str | None
    payment_hash: bytes
    has_extra: bool
    peer_id: str | None = None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key comes twice")
    return members


def parse(frame: bytes, *, unique: bool = False) -> dict[str, Any]:
    """Return the object in a frame.

    Raises ValueError when it is none, or has a key twice where that matters (`unique`).
    """
    value = (
        json.loads(frame.decode(errors="replace"), strict=False, object_pairs_hook=_unique) if unique else decode(frame)
    )
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def for_pyln(call: dict[str, Any]) -> bytes:
    """Return the object as pyln-client wants it: one line, control characters escaped, so that no string can end it
    (cln:W9).
    """
    return json.dumps(call).encode() + b"\n\n"


def survives_pyln(call: dict[str, Any], id_raw: bytes) -> bool:
    """Return whether pyln-client, which reads the id and writes it again,
    will echo the very bytes lightningd waits for.
    """
    return json.dumps(call.get("id"), ensure_ascii=False).encode(errors="replace") == id_raw


def error_frame(id_raw: bytes, code: int, message: str) -> bytes:
    """Return a whole frame that refuses a method call. Raises ValueError for an id that cannot be echoed."""
    check_id(id_raw)
    error = json.dumps({"code": code, "message": message}).encode()
    return b'{"jsonrpc":"2.0","id":' + id_raw + b',"error":' + error + b"}\n\n"


def answer(request_id: Any, result: Any) -> bytes:
    """Return a whole frame that answers a call whose id pyln-client has read. Raises TypeError for what is no JSON."""
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}, ensure_ascii=False)
    return body.encode(errors="replace") + b"\n\n"


def refusal(request_id: Any, code: int, message: str, data: dict[str, Any] | None) -> bytes:
    """Return a whole frame that refuses a method call whose id pyln-client has read."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}, ensure_ascii=False)
    return body.encode(errors="replace") + b"\n\n"


def notification(method: str, params: dict[str, Any]) -> bytes:
    """Return a whole frame that notifies lightningd."""
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params}, ensure_ascii=False)
    return body.encode(errors="replace") + b"\n\n"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {value!r:.100}")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a string: {value!r:.100}")
    return value


def _string_or_none(value: Any) -> str | None:
    return None if value is None else _string(value)


def _hash(value: Any) -> str:
    digits = _string(value).lower()
    if not _HASH.fullmatch(digits):
        raise ValueError(f"not 32 bytes in hex: {value!r:.100}")
    return digits


def _number(value: Any) -> int:
    """Return a 64-bit number, also as text and with the unit lightningd once wrote."""
    match = _MSAT.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if match is None or int(match.group(1)) > _tlv.U64_MAX:
        raise ValueError(f"not a 64-bit number: {value!r:.100}")
    return int(match.group(1))


def _number_or_none(value: Any) -> int:
    return -1 if value is None else _number(value)


def hop_of(call: dict[str, Any]) -> Hop:
    """Return where an htlc_accepted call wants to go. Raises ValueError when that cannot be told for sure."""
    params = _object(call.get("params"))
    onion, htlc = _object(params.get("onion")), _object(params.get("htlc"))
    scid = _string_or_none(onion.get("short_channel_id"))
    forward_to = params.get("forward_to")
    return Hop(
        scid=-1 if scid is None else _scid(scid),
        forward_to=None if forward_to is None else _hash(forward_to),
        payment_hash=bytes.fromhex(_hash(htlc.get("payment_hash"))),
        has_extra=htlc.get("extra_tlvs") is not None,
        peer_id=_string_or_none(params.get("peer_id")),
    )


def _scid(text: Any) -> int:
    try:
        return int(_tlv.scid_from_str(_string(text)))
    except MalformedTlv as error:
        raise ValueError(str(error)) from error


def scan(call: dict[str, Any], id_raw: bytes) -> Any:
    """Return the `Scan` of an htlc_accepted call that the strict reader left.

    ValueError when a field it needs is missing.
    """
    hop = hop_of(call)
    params = call["params"]
    onion, htlc = params["onion"], params["htlc"]
    return _hook.Scan(
        id_raw=id_raw,
        next_scid=hop.scid,
        forward_to=hop.forward_to,
        payment_hash=hop.payment_hash,
        in_scid=_scid(htlc.get("short_channel_id")),
        htlc_id=_number(htlc.get("id")),
        amount_msat=_number(htlc.get("amount_msat")),
        cltv_expiry=_number(htlc.get("cltv_expiry")),
        forward_msat=_number_or_none(onion.get("forward_msat")),
        outgoing_cltv_value=_number_or_none(onion.get("outgoing_cltv_value")),
        payload_hex=_string(onion.get("payload")),
        total_msat=_number_or_none(onion.get("total_msat")),
        payment_secret=_string_or_none(onion.get("payment_secret")),
        extra_tlvs=_string_or_none(htlc.get("extra_tlvs")),
        peer_id=_string_or_none(params.get("peer_id")),
    )
