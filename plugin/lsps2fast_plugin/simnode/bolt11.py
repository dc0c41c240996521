"""BOLT 11 invoices: written and signed, read and checked. Only the fields a JIT payment needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from decimal import Decimal

from coincurve import PrivateKey, PublicKey

from . import tlv
from .address import bech32_decode, bech32_encode, regroup

PREFIX = "lnbcrt"
TAGS = {"p": 1, "s": 16, "d": 13, "h": 23, "r": 3, "x": 6, "c": 24, "9": 5, "n": 19}
LETTERS = {number: letter for letter, number in TAGS.items()}
MULTIPLIERS = {"": Decimal(10**11), "m": Decimal(10**8), "u": Decimal(10**5), "n": Decimal(100), "p": Decimal("0.1")}
FEATURES = 0x024100  # var_onion_optin, payment_secret, basic_mpp


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop of a route hint."""

    node_id: str
    scid: str
    fee_base_msat: int = 0
    fee_ppm: int = 0
    cltv_delta: int = 0


@dataclass(slots=True)
class Bolt11:
    """The fields of an invoice; `amount_msat` None means "any"."""

    payment_hash: bytes
    payment_secret: bytes
    amount_msat: int | None
    description: str
    created_at: int
    payee: str = ""
    expiry_s: int = 604_800
    min_final_cltv: int = 10
    features: int = FEATURES
    routes: list[list[Hop]] = field(default_factory=list)
    description_hash: bytes = b""

    def sign(self, private_key: bytes) -> str:
        """Return the invoice text, signed by the payee."""
        prefix = PREFIX + _amount_text(self.amount_msat)
        words = _number(self.created_at, 7) + self._fields()
        key = PrivateKey(private_key)
        digest = _digest(prefix, words)
        signature = key.sign_recoverable(digest, hasher=None)
        return bech32_encode(prefix, words + regroup(signature, 8, 5, True))

    def _fields(self) -> list[int]:
        words = _field("s", self.payment_secret) + _field("p", self.payment_hash)
        words += _field("h", self.description_hash) if self.description_hash else _field("d", self.description.encode())
        words += _field_number("x", self.expiry_s)
        words += _field_number("c", self.min_final_cltv)
        for route in self.routes:
            words += _field("r", b"".join(_hop_bytes(hop) for hop in route))
        return words + _field_number("9", self.features)


def _digest(prefix: str, words: list[int]) -> bytes:
    return hashlib.sha256(prefix.encode() + bytes(regroup(words, 5, 8, True))).digest()


def _number(value: int, size: int) -> list[int]:
    return [value >> 5 * (size - 1 - place) & 31 for place in range(size)]


def _field(letter: str, data: bytes) -> list[int]:
    words = regroup(data, 8, 5, True)
    return [TAGS[letter], *_number(len(words), 2), *words]


def _field_number(letter: str, value: int) -> list[int]:
    size = max(1, (value.bit_length() + 4) // 5)
    return [TAGS[letter], *_number(size, 2), *_number(value, size)]


def _hop_bytes(hop: Hop) -> bytes:
    scid = tlv.scid_to_int(hop.scid).to_bytes(8, "big")
    fees = hop.fee_base_msat.to_bytes(4, "big") + hop.fee_ppm.to_bytes(4, "big")
    return bytes.fromhex(hop.node_id) + scid + fees + hop.cltv_delta.to_bytes(2, "big")


def _amount_text(amount_msat: int | None) -> str:
    if amount_msat is None:
        return ""
    for letter, factor in (("m", 10**8), ("u", 10**5), ("n", 100)):
        if amount_msat % factor == 0:
            return f"{amount_msat // factor}{letter}"
    return f"{amount_msat * 10}p"


def _amount_msat(text: str) -> int | None:
    if not text:
        return None
    letter = text[-1] if text[-1].isalpha() else ""
    digits = text.removesuffix(letter)
    if letter not in MULTIPLIERS or not digits.isdigit():
        raise ValueError(f"bad amount {text}")
    return int(Decimal(digits) * MULTIPLIERS[letter])


def decode(text: str, check_signature: bool = True) -> Bolt11:
    """Read an invoice; raises ValueError. The payee is recovered from the signature."""
    prefix, words, constant = bech32_decode(text)
    if not prefix.startswith(PREFIX) or constant != 1 or len(words) < 7 + 104:
        raise ValueError("not a regtest invoice")
    body, signature = words[:-104], bytes(regroup(words[-104:], 5, 8, False))
    invoice = Bolt11(b"", b"", _amount_msat(prefix.removeprefix(PREFIX)), "", _value(body[:7]))
    at = 7
    while at + 3 <= len(body):
        size = _value(body[at + 1 : at + 3])
        _read_field(invoice, LETTERS.get(body[at], ""), body[at + 3 : at + 3 + size])
        at += 3 + size
    if check_signature:
        invoice.payee = _recover(signature, _digest(prefix, body))
    return invoice


def _value(words: list[int]) -> int:
    value = 0
    for word in words:
        value = value << 5 | word
    return value


def _recover(signature: bytes, digest: bytes) -> str:
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format().hex()
    except Exception as error:
        raise ValueError(f"bad signature: {error}") from None


def _read_field(invoice: Bolt11, letter: str, words: list[int]) -> None:
    data = bytes(regroup(words, 5, 8, False))
    if letter == "p":
        invoice.payment_hash = data
    elif letter == "s":
        invoice.payment_secret = data
    elif letter == "d":
        invoice.description = data.decode("utf-8", "replace")
    elif letter == "h":
        invoice.description_hash = data
    elif letter == "x":
        invoice.expiry_s = _value(words)
    elif letter == "c":
        invoice.min_final_cltv = _value(words)
    elif letter == "9":
        invoice.features = _value(words)
    elif letter == "r":
        invoice.routes.append([_read_hop(data[at : at + 51]) for at in range(0, len(data), 51)])


def _read_hop(data: bytes) -> Hop:
    scid = tlv.scid_to_str(int.from_bytes(data[33:41], "big"))
    base, ppm = int.from_bytes(data[41:45], "big"), int.from_bytes(data[45:49], "big")
    return Hop(data[:33].hex(), scid, base, ppm, int.from_bytes(data[49:51], "big"))
