"""BOLT 4 failure messages: built by the node, named as lightningd names them."""

from __future__ import annotations

NAMES = {
    0x2002: "WIRE_TEMPORARY_NODE_FAILURE",
    0x6002: "WIRE_PERMANENT_NODE_FAILURE",
    0x6003: "WIRE_REQUIRED_NODE_FEATURE_MISSING",
    0xC004: "WIRE_INVALID_ONION_VERSION",
    0xC005: "WIRE_INVALID_ONION_HMAC",
    0xC006: "WIRE_INVALID_ONION_KEY",
    0x1007: "WIRE_TEMPORARY_CHANNEL_FAILURE",
    0x4008: "WIRE_PERMANENT_CHANNEL_FAILURE",
    0x4009: "WIRE_REQUIRED_CHANNEL_FEATURE_MISSING",
    0x400A: "WIRE_UNKNOWN_NEXT_PEER",
    0x100B: "WIRE_AMOUNT_BELOW_MINIMUM",
    0x100C: "WIRE_FEE_INSUFFICIENT",
    0x100D: "WIRE_INCORRECT_CLTV_EXPIRY",
    0x100E: "WIRE_EXPIRY_TOO_SOON",
    0x400F: "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS",
    0x0012: "WIRE_FINAL_INCORRECT_CLTV_EXPIRY",
    0x0013: "WIRE_FINAL_INCORRECT_HTLC_AMOUNT",
    0x1014: "WIRE_CHANNEL_DISABLED",
    0x0015: "WIRE_EXPIRY_TOO_FAR",
    0x4016: "WIRE_INVALID_ONION_PAYLOAD",
    0x0017: "WIRE_MPP_TIMEOUT",
    0xC018: "WIRE_INVALID_ONION_BLINDING",
}
REASONS = {  # cln:N9: the words of a later lightningd for what it refuses itself
    0x1007: "insufficient_outgoing_liquidity",
    0x4008: "channel_failed_permanent",
    0x400A: "unknown_next_peer",
    0x100B: "htlc_below_minimum",
    0x100C: "fee_insufficient",
    0x100D: "cltv_incorrect",
    0x100E: "cltv_expiry_too_soon",
    0x0015: "cltv_expiry_too_far",
    0x4016: "invalid_onion",
}
UNKNOWN_NEXT_PEER = bytes.fromhex("400a")
TEMPORARY_CHANNEL_FAILURE = bytes.fromhex("10070000")
PERMANENT_CHANNEL_FAILURE = bytes.fromhex("4008")
MPP_TIMEOUT = bytes.fromhex("0017")
EXPIRY_TOO_SOON = bytes.fromhex("100e0000")
EXPIRY_TOO_FAR = bytes.fromhex("0015")
INVALID_ONION_BLINDING = bytes.fromhex("c018") + bytes(32)  # lightningd has the packet's hash in place of zeros
TEMPORARY_NODE_FAILURE = bytes.fromhex("2002")


def code_of(message: bytes) -> int:
    return int.from_bytes(message[:2], "big") if len(message) >= 2 else -1


def amount_below_minimum(amount_msat: int) -> bytes:
    return bytes.fromhex("100b") + amount_msat.to_bytes(8, "big") + b"\0\0"


def fee_insufficient(amount_msat: int) -> bytes:
    return bytes.fromhex("100c") + amount_msat.to_bytes(8, "big") + b"\0\0"


def incorrect_cltv_expiry(cltv_expiry: int) -> bytes:
    return bytes.fromhex("100d") + cltv_expiry.to_bytes(4, "big") + b"\0\0"


def unknown_details(amount_msat: int, height: int) -> bytes:
    return bytes.fromhex("400f") + amount_msat.to_bytes(8, "big") + height.to_bytes(4, "big")


def final_incorrect_amount(amount_msat: int) -> bytes:
    return bytes.fromhex("0013") + amount_msat.to_bytes(8, "big")


def final_incorrect_cltv(cltv_expiry: int) -> bytes:
    return bytes.fromhex("0012") + cltv_expiry.to_bytes(4, "big")


def invalid_payload(record: int, offset: int) -> bytes:
    from .tlv import bigsize

    return bytes.fromhex("4016") + bigsize(record) + offset.to_bytes(2, "big")
