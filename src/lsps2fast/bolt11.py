"""BOLT 11 invoices as a JIT wallet needs them: written for lightningd to sign, and read back strictly.

The wallet composes the words, because only its own words can carry the LSP's hint without developer mode (host
cln:C6); lightningd ignores the signature it is given and signs again. What is written is exactly one field of each
kind, in the order lightningd itself uses, so that its answer can be compared with what was meant.

An own codec because none on PyPI fits: pyln-proto's cannot write `s`, `9`, `c` or a hint beside them and reads
leniently; `bolt11` wants Python below 3.13 and a second distribution of coincurve, which would overwrite the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from coincurve import PublicKey

from lsps2fast.errors import Malformed, ProtocolBug

CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
CURRENCIES: Final = {"bitcoin": "bc", "testnet": "tb", "testnet4": "tb", "signet": "tbs", "regtest": "bcrt"}
DESCRIPTION_MAX_BYTES: Final = 639  # 1023 words of five bits
DEFAULT_EXPIRY_S: Final = 3600
DEFAULT_FINAL_CLTV_BLOCKS: Final = 18

VAR_ONION, PAYMENT_SECRET, BASIC_MPP = 8, 14, 17  # feature bits; the first two are required of the payer
FIXED_FEATURES: Final = frozenset({VAR_ONION, PAYMENT_SECRET, BASIC_MPP})  # I-05
VARIABLE_FEATURES: Final = frozenset({VAR_ONION, PAYMENT_SECRET})

_REVERSE = {char: word for word, char in enumerate(CHARSET)}
_PREFIX = re.compile(r"ln(bcrt|bc|tbs|tb)(?:(0|[1-9][0-9]*)([munp]?))?")
_UNITS = (("", 10**12), ("m", 10**9), ("u", 10**6), ("n", 10**3), ("p", 1))  # in tenths of a msat
_U64_MAX = 2**64 - 1
_SIGNATURE_WORDS = 104
_TIMESTAMP_WORDS = 7
_HINT_BYTES = 51
_LENGTHS = {"p": 52, "s": 52, "h": 52, "n": 53}  # words; a field of another length is to be skipped
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class MalformedInvoice(Malformed):
    """A text that is not a BOLT 11 invoice; `offset` counts characters."""


class Hint(NamedTuple):
    """One hop of a route hint: the channel `scid` leaves `node_id` (33 bytes)."""

    node_id: bytes
    scid: int
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta_blocks: int


class Invoice(NamedTuple):
    """The fields of an invoice. `amount_msat` None: any. `features` are bit numbers. `payee` only after reading.

    `description_hash` stands in the place of the description where it is given.
    """

    currency: str
    amount_msat: int | None
    timestamp_s: int
    payment_hash: bytes
    payment_secret: bytes
    description: str | None
    expiry_s: int
    min_final_cltv_blocks: int
    features: frozenset[int]
    hints: tuple[tuple[Hint, ...], ...]
    payee: bytes | None = None
    other_fields: tuple[str, ...] = ()
    description_hash: bytes | None = None


# --- Bech32 and words -------------------------------------------------------------------------------------------------


def _checksum(prefix: str, words: Iterable[int]) -> int:
    """Return the polynomial of BIP 173 over the expanded prefix and the words."""
    total = 1
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    for word in (*expanded, *words):
        top = total >> 25
        total = (total & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                total ^= generator
    return total


def _to_text(prefix: str, words: Sequence[int]) -> str:
    check = _checksum(prefix, (*words, 0, 0, 0, 0, 0, 0)) ^ 1
    tail = [check >> 5 * place & 31 for place in range(5, -1, -1)]
    return f"{prefix}1{''.join(CHARSET[word] for word in (*words, *tail))}"


def _from_text(text: str) -> tuple[str, list[int]]:
    if not text.isascii() or text not in (text.lower(), text.upper()):
        raise MalformedInvoice("mixed case or not ASCII", 0)
    text = text.lower()
    at = text.rfind("1")
    if at < 1 or at + 7 > len(text):
        raise MalformedInvoice("the bech32 separator is missing", max(at, 0))
    words = []
    for place, char in enumerate(text[at + 1 :], at + 1):
        if char not in _REVERSE:
            raise MalformedInvoice(f"{char!r} is not a bech32 character", place)
        words.append(_REVERSE[char])
    if _checksum(text[:at], words) != 1:
        raise MalformedInvoice("wrong checksum", at)
    return text[:at], words[:-6]


def _number(words: Iterable[int]) -> int:
    total = 0
    for word in words:
        total = total << 5 | word
    return total


def _number_words(number: int, least: int = 1) -> list[int]:
    """Return big-endian words, as few as hold the number but at least `least`."""
    count = max(least, -(-number.bit_length() // 5))
    return [number >> 5 * place & 31 for place in range(count - 1, -1, -1)]


def _byte_words(data: bytes) -> list[int]:
    count = -(-8 * len(data) // 5)
    return _number_words(int.from_bytes(data, "big") << 5 * count - 8 * len(data), count)


def _bytes(words: Sequence[int]) -> bytes:
    """Return the whole bytes in the words; up to seven bits of padding are dropped."""
    spare = 5 * len(words) % 8
    return (_number(words) >> spare).to_bytes(5 * len(words) // 8, "big")


def _signed_bytes(prefix: str, words: Sequence[int]) -> bytes:
    """Return what the signature covers: the prefix, then the data padded with zeroes to whole bytes."""
    bits = 5 * len(words)
    count = -(-bits // 8)
    return prefix.encode() + (_number(words) << 8 * count - bits).to_bytes(count, "big")


# --- Writing ----------------------------------------------------------------------------------------------------------


def payment_secret_for(preimage: bytes) -> bytes:
    """Return the only payment secret lightningd accepts for this preimage: it derives it and stores none (I-07)."""
    return hashlib.sha256(bytes([preimage[0] ^ 1]) + preimage[1:]).digest()


def _prefix(invoice: Invoice) -> str:
    prefix = f"ln{invoice.currency}"
    if invoice.amount_msat is None:
        return prefix
    tenths = invoice.amount_msat * 10
    letter, unit = next((letter, unit) for letter, unit in _UNITS if tenths % unit == 0)
    return f"{prefix}{tenths // unit}{letter}"


def _field(tag: str, words: list[int]) -> list[int]:
    return [_REVERSE[tag], len(words) >> 5, len(words) & 31, *words]


def _hint_bytes(hint: Hint) -> bytes:
    return (
        hint.node_id
        + hint.scid.to_bytes(8, "big")
        + hint.fee_base_msat.to_bytes(4, "big")
        + hint.fee_proportional_millionths.to_bytes(4, "big")
        + hint.cltv_expiry_delta_blocks.to_bytes(2, "big")
    )


def _data_words(invoice: Invoice) -> list[int]:
    words = _number_words(invoice.timestamp_s, _TIMESTAMP_WORDS)
    words += _field("s", _byte_words(invoice.payment_secret))
    words += _field("p", _byte_words(invoice.payment_hash))
    if invoice.description_hash is None:
        words += _field("d", _byte_words((invoice.description or "").encode()))
    else:
        words += _field("h", _byte_words(invoice.description_hash))
    words += _field("x", _number_words(invoice.expiry_s))
    words += _field("c", _number_words(invoice.min_final_cltv_blocks))
    for path in invoice.hints:
        words += _field("r", _byte_words(b"".join(map(_hint_bytes, path))))
    if invoice.features:
        words += _field("9", _number_words(sum(1 << bit for bit in invoice.features)))
    return words


def _check_writable(invoice: Invoice) -> None:
    """Raise ProtocolBug for fields that no invoice can have; user input is checked before."""
    amount_msat = invoice.amount_msat
    faults = {
        "currency": invoice.currency not in CURRENCIES.values(),
        "amount": amount_msat is not None and not 0 < amount_msat <= _U64_MAX // 10,
        "timestamp": not 0 <= invoice.timestamp_s < 1 << 35,
        "hash or secret": (len(invoice.payment_hash), len(invoice.payment_secret)) != (32, 32),
        "description": _wrong_description(invoice.description, invoice.description_hash),
        "expiry": not 0 < invoice.expiry_s <= _U64_MAX,
        "min_final_cltv": not 0 < invoice.min_final_cltv_blocks <= _U64_MAX,
    }
    wrong = [name for name, is_wrong in faults.items() if is_wrong]
    if wrong:
        raise ProtocolBug(f"an invoice cannot have this {', '.join(wrong)}: {invoice}")


def _wrong_description(text: str | None, digest: bytes | None) -> bool:
    if digest is not None:
        return text is not None or len(digest) != 32
    return text is None or len(text.encode()) > DESCRIPTION_MAX_BYTES


def encode(invoice: Invoice, sign: Callable[[bytes], bytes] | None = None) -> str:
    """Return the invoice as text. `sign` makes 65 bytes (R, S, recovery id) from the 32 to sign; without it they are
    zero.

    `payee` and `other_fields` are not written. Raises ProtocolBug for values out of range.
    """
    _check_writable(invoice)
    prefix, words = _prefix(invoice), _data_words(invoice)
    digest = hashlib.sha256(_signed_bytes(prefix, words)).digest()
    signature = bytes(65) if sign is None else sign(digest)
    return _to_text(prefix, [*words, *_byte_words(signature)])


# --- Reading ----------------------------------------------------------------------------------------------------------


def _read_prefix(prefix: str) -> tuple[str, int | None]:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise MalformedInvoice(f"{prefix!r} is not the prefix of a known network with an amount", 0)
    currency, digits, letter = match.groups()
    if digits is None:
        return currency, None
    tenths = int(digits) * dict(_UNITS)[letter]
    if tenths % 10:
        raise MalformedInvoice("an amount below one millisatoshi", 0)
    if not 0 < tenths // 10 <= _U64_MAX:
        raise MalformedInvoice("an amount out of range", 0)
    return currency, tenths // 10


def _read_fields(words: Sequence[int], at: int) -> list[tuple[str, Sequence[int]]]:
    """Return all tagged fields; `at` is where `words` begin in the text, for the error."""
    fields: list[tuple[str, Sequence[int]]] = []
    place = 0
    while place < len(words):
        length = words[place + 1] << 5 | words[place + 2] if place + 3 <= len(words) else len(words)
        if place + 3 + length > len(words):
            raise MalformedInvoice("a field is cut short", at + place)
        fields.append((CHARSET[words[place]], words[place + 3 : place + 3 + length]))
        place += 3 + length
    return fields


def _read_hint(data: bytes) -> tuple[Hint, ...]:
    hops = []
    for at in range(0, len(data), _HINT_BYTES):
        hop = data[at : at + _HINT_BYTES]
        numbers = (int.from_bytes(hop[a:b], "big") for a, b in ((33, 41), (41, 45), (45, 49), (49, 51)))
        hops.append(Hint(hop[:33], *numbers))
    return tuple(hops)


def _first(fields: dict[str, Sequence[int]], tag: str) -> Sequence[int]:
    if tag not in fields:
        raise MalformedInvoice(f"no field {tag}", 0)
    return fields[tag]


def _features(words: Sequence[int]) -> frozenset[int]:
    bits = _number(words)
    return frozenset(bit for bit in range(bits.bit_length()) if bits >> bit & 1)


def _text(words: Sequence[int]) -> str:
    try:
        return _bytes(words).decode()
    except UnicodeDecodeError as error:
        raise MalformedInvoice("the description is not UTF-8", 0) from error


def _recover(message: bytes, signature: bytes, node_id: bytes | None) -> bytes:
    """Return who signed; with an `n` field it must have been that key."""
    try:
        key = PublicKey.from_signature_and_message(signature, message)
    except Exception as error:  # coincurve raises bare Exception and ValueError
        raise MalformedInvoice("the signature fits no key", 0) from error
    signer: bytes = key.format()
    if node_id is not None and node_id != signer:
        raise MalformedInvoice("signed by another key than it names", 0)
    return signer


def decode(text: str, *, signed: bool = True) -> Invoice:
    """Read an invoice; `payee` is who signed it. With `signed` false the signature is not looked at.

    The first field of a kind counts; hints are all kept. Raises MalformedInvoice, whatever the text is.
    """
    prefix, words = _from_text(text)
    currency, amount_msat = _read_prefix(prefix)
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_WORDS:
        raise MalformedInvoice("too short for a timestamp and a signature", len(text))
    data, signature = words[:-_SIGNATURE_WORDS], _bytes(words[-_SIGNATURE_WORDS:])
    fields: dict[str, Sequence[int]] = {}
    hints: list[tuple[Hint, ...]] = []
    others: list[str] = []
    for tag, value in _read_fields(data[_TIMESTAMP_WORDS:], len(prefix) + 1 + _TIMESTAMP_WORDS):
        if len(value) != _LENGTHS.get(tag, len(value)):
            others.append(tag)  # BOLT 11: skip a field of the wrong length
        elif tag == "r":
            hints.append(_read_hint(_whole_hops(_bytes(value))))
        elif tag in fields or tag not in "spdxc9nh":
            others.append(tag)
        else:
            fields[tag] = value
    if "d" not in fields and "h" not in fields:
        raise MalformedInvoice("no description", 0)
    node_id = _bytes(fields["n"]) if "n" in fields else None
    message = _signed_bytes(prefix, data)
    return Invoice(
        currency=currency,
        amount_msat=amount_msat,
        timestamp_s=_number(data[:_TIMESTAMP_WORDS]),
        payment_hash=_bytes(_first(fields, "p")),
        payment_secret=_bytes(_first(fields, "s")),
        description=_text(fields["d"]) if "d" in fields else None,
        expiry_s=_number(fields["x"]) if "x" in fields else DEFAULT_EXPIRY_S,
        min_final_cltv_blocks=_number(fields["c"]) if "c" in fields else DEFAULT_FINAL_CLTV_BLOCKS,
        features=_features(fields.get("9", ())),
        hints=tuple(hints),
        payee=_recover(message, signature, node_id) if signed else node_id,
        other_fields=tuple(others),
        description_hash=_bytes(fields["h"]) if "h" in fields else None,
    )


def _whole_hops(data: bytes) -> bytes:
    if not data or len(data) % _HINT_BYTES:
        raise MalformedInvoice(f"a route hint of {len(data)} bytes", 0)
    return data
