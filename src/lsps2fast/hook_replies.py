"""Answers to an htlc_accepted call, as whole frames, checked before they can be written (rule:1).

A wrong answer aborts lightningd, and again at each start, because the HTLC is replayed (cln:H9). So each
builder checks everything it is given and raises ValueError instead. One file for both runs of `_hook`; only
`answer_continue`, which every foreign HTLC of the node takes, is written in C there.
"""

from __future__ import annotations

import json
import re

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv

MOST_DIGITS = 2 * 65535  # of anything a Lightning message carries
PREIMAGE_SIZE = 32
FAILURE_DIGITS = 2 * 256  # BOLT 4: failure_len and pad_len make 256 bytes
_U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_HEX = frozenset("0123456789abcdef")
_ID = re.compile(rb'"[^"\\\x00-\x1f\x7f]*"|-?(?:0|[1-9][0-9]*)')


def check_id(id_raw: bytes) -> None:
    """Raise ValueError unless the token can be echoed: a string without escapes or control characters, or an integer
    (cln:W9).
    """
    id_raw.decode()  # UnicodeDecodeError is a ValueError
    if not _ID.fullmatch(id_raw):
        raise ValueError(f"not an id that can be echoed: {id_raw!r:.100}")


def _check_hex(what: str, digits: str, least: int, most: int) -> None:
    right = isinstance(digits, str) and least <= len(digits) <= most and len(digits) % 2 == 0
    if not right or not _HEX.issuperset(digits):
        raise ValueError(f"{what} must be {least} to {most} lower-case hex digits, whole bytes: {digits!r:.100}")


def _check_extra(extra_tlvs_hex: str) -> None:
    """Refuse a stream that lightningd aborts on: out of order, or an even type but 0 (blinded_path)."""
    _check_hex("extra_tlvs", extra_tlvs_hex, 0, MOST_DIGITS)
    try:
        records = tlv.read_stream(bytes.fromhex(extra_tlvs_hex))
    except MalformedTlv as error:
        raise ValueError(f"extra_tlvs is no TLV stream: {error}") from error
    if any(kind % 2 == 0 and kind != 0 for kind, _ in records):
        raise ValueError(f"extra_tlvs has an even type lightningd does not know: {extra_tlvs_hex:.100}")


def whole(id_raw: bytes, result_json: bytes) -> bytes:
    """Return a frame around a result that was checked. Raises ValueError for an id that cannot be echoed."""
    check_id(id_raw)
    return b'{"jsonrpc":"2.0","id":' + id_raw + b',"result":' + result_json + b"}\n\n"


def answer(id_raw: bytes, result_json: bytes) -> bytes:
    """Return a whole frame that answers `id_raw` with any JSON object.

    Raises ValueError for anything but one object on one line.
    """
    if b"\n" in result_json or b"\r" in result_json:
        raise ValueError("a result must be one line")
    if not isinstance(json.loads(result_json), dict):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"a result must be an object: {result_json!r:.100}")
    return whole(id_raw, result_json)


def answer_fail(id_raw: bytes, failure_hex: str) -> bytes:
    """Return a whole frame that fails the HTLC with a BOLT 4 failure message (hex, 2 to 256 bytes).

    Raises ValueError otherwise.
    """
    _check_hex("failure_message", failure_hex, 4, FAILURE_DIGITS)
    return whole(id_raw, f'{{"result":"fail","failure_message":"{failure_hex}"}}'.encode())


def answer_forward(id_raw: bytes, payload_hex: str, channel_id: str, extra_tlvs_hex: str) -> bytes:
    """Return a whole frame that sends the HTLC into `channel_id` with another onion payload (cln:H5).

    `payload_hex` has no length prefix; `extra_tlvs_hex` is the whole TLV stream of the new update_add_htlc, "" for
    none. Raises ValueError when lightningd would abort on it.
    """
    _check_hex("payload", payload_hex, 4, MOST_DIGITS)
    _check_hex("forward_to", channel_id, 64, 64)
    _check_extra(extra_tlvs_hex)
    where = f'"forward_to":"{channel_id}","extra_tlvs":"{extra_tlvs_hex}"'
    return whole(id_raw, f'{{"result":"continue","payload":"{payload_hex}",{where}}}'.encode())


def answer_final(id_raw: bytes, payload_hex: str, invoice_msat: int | None) -> bytes:
    """Return a whole frame that accepts the HTLC here with another onion payload, and the amount its invoice counts
    (cln:C2).

    `payload_hex` has no length prefix; `invoice_msat` is left out when None. Raises ValueError when it cannot be right.
    """
    _check_hex("payload", payload_hex, 4, MOST_DIGITS)
    if invoice_msat is None:
        return whole(id_raw, f'{{"result":"continue","payload":"{payload_hex}"}}'.encode())
    if type(invoice_msat) is not int or not 0 < invoice_msat <= _U64_MAX:
        raise ValueError(f"invoice_msat must be a positive 64-bit integer: {invoice_msat!r:.100}")
    return whole(id_raw, f'{{"result":"continue","payload":"{payload_hex}","invoice_msat":{invoice_msat}}}'.encode())


def answer_resolve(id_raw: bytes, preimage: bytes) -> bytes:
    """Return a whole frame that takes the HTLC with its preimage, whatever lightningd knows of its invoice.

    Raises ValueError when it is not 32 bytes.
    """
    if not isinstance(preimage, bytes) or len(preimage) != PREIMAGE_SIZE:
        raise ValueError(f"a preimage must be {PREIMAGE_SIZE} bytes")
    return whole(id_raw, f'{{"result":"resolve","payment_key":"{preimage.hex()}"}}'.encode())
