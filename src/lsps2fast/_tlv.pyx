"""BigSize, truncated integers, TLV streams (BOLT 1), onion hop payloads (BOLT 4), extra_fee (bLIP-25), scid texts.

One `_Reader` stands between the bytes and everything else: each read is checked against the end before it happens,
so arbitrary input gives a value or `MalformedTlv(why, offset)` and nothing else. Offsets count bytes of the input
(for hex: the bytes it stands for; for a scid: characters). What a record means for a payment belongs elsewhere.

Cython's pure-Python syntax: this file runs compiled, and as Python under LSPS2FAST_PURE=1. Numbers are checked
against u64 before they become C integers, because C would wrap without a word.
"""

from __future__ import annotations

from binascii import unhexlify

import cython

from lsps2fast.errors import MalformedTlv

U64_MAX = 0xFFFF_FFFF_FFFF_FFFF

_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_EXTRA_FEE = 65537
_ADD_HTLC_RECORDS = {0: 33, _EXTRA_FEE: 8}  # update_add_htlc_tlvs: blinded path key, extra_fee (a full u64)
# By number of digits: what makes them whole bytes of a tu64, and the head of an amt_to_forward record.
_PADS = tuple("0" * (n % 2) for n in range(17))
_AMOUNT_HEADS = tuple(f"02{(n + 1) // 2:02x}{_PADS[n]}" for n in range(17))
_SCID_LIMITS = (0xFF_FFFF, 0xFF_FFFF, 0xFFFF)


@cython.final
@cython.freelist(8)
@cython.cclass
class _Reader:
    """A cursor over `data[at:end]`; never moves or looks past `end`.

    After `next_record` returned True the record of type `kind` spans `data[record_at:at]`, its value the last
    `length` bytes of that.
    """

    data: bytes
    at: cython.Py_ssize_t
    end: cython.Py_ssize_t
    kind: cython.ulonglong
    record_at: cython.Py_ssize_t
    length: cython.Py_ssize_t

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def left(self) -> cython.ulonglong:
        """Return the bytes from the cursor to the end."""
        return self.end - self.at

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    @cython.boundscheck(False)
    @cython.wraparound(False)
    def uint(self, width: cython.Py_ssize_t) -> cython.ulonglong:
        """Return the next `width` (at most 8) bytes as a big-endian number."""
        if width > self.end - self.at:
            raise MalformedTlv("cut short", self.at)
        number: cython.ulonglong = 0
        i: cython.Py_ssize_t
        for i in range(self.at, self.at + width):
            number = number << 8 | self.data[i]
        self.at += width
        return number

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def bigsize(self) -> cython.ulonglong:
        """Return the next BigSize; only its shortest form is one (BOLT 1)."""
        start: cython.Py_ssize_t = self.at
        number: cython.ulonglong = self.uint(1)
        if number < 0xFD:
            return number
        least: cython.ulonglong
        if number == 0xFD:
            number, least = self.uint(2), 0xFD
        elif number == 0xFE:
            number, least = self.uint(4), 0x1_0000
        else:
            number, least = self.uint(8), 0x1_0000_0000
        if number < least:
            raise MalformedTlv("BigSize not minimal", start)
        return number

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def next_record(self) -> cython.bint:
        """Step over the next record of a stream; False at the end. Types must rise strictly."""
        if self.at == self.end:
            return False
        first: cython.bint = self.length < 0
        previous: cython.ulonglong = self.kind
        self.record_at = self.at
        self.kind = self.bigsize()
        if not first and self.kind <= previous:
            raise MalformedTlv(f"type {self.kind} after type {previous}", self.record_at)
        length: cython.ulonglong = self.bigsize()
        if length > self.left():
            raise MalformedTlv(f"value of {length} bytes cut short", self.at)
        self.length = length
        self.at += self.length
        return True

    @cython.cfunc
    def value(self) -> bytes:
        """Return the value of the current record."""
        return self.data[self.at - self.length : self.at]

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    @cython.boundscheck(False)
    @cython.wraparound(False)
    def last_tu(self, length: cython.Py_ssize_t, width: cython.Py_ssize_t) -> cython.ulonglong:
        """Return the `length` bytes just passed as a truncated integer of at most `width` bytes."""
        self.at -= length
        if length > width:
            raise MalformedTlv(f"{length} bytes in a tu{8 * width}", self.at)
        if length == 0:
            return 0
        if self.data[self.at] == 0:
            raise MalformedTlv(f"tu{8 * width} with a leading zero", self.at)
        return self.uint(length)

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def need_length(self, length: cython.Py_ssize_t) -> cython.bint:
        """Refuse the current record unless its value has exactly `length` bytes."""
        if self.length != length:
            raise MalformedTlv(f"type {self.kind} with {self.length} bytes instead of {length}", self.record_at)
        return True

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def hop_number(self) -> cython.ulonglong:
        """Check the current record of a hop payload (BOLT 4 `payload`); return its number, 0 where it holds none."""
        kind: cython.ulonglong = self.kind
        if kind == 2 or kind == 18:  # amt_to_forward, total_amount_msat
            return self.last_tu(self.length, 8)
        if kind == 4:  # outgoing_cltv_value
            return self.last_tu(self.length, 4)
        if kind == 6:  # short_channel_id
            self.need_length(8)
            self.at -= 8
            return self.uint(8)
        if kind == 8:  # payment_data: secret, then total_msat
            if self.length < 32:
                raise MalformedTlv(f"payment_data of {self.length} bytes", self.record_at)
            return self.last_tu(self.length - 32, 8)
        if kind == 12:  # current_path_key
            self.need_length(33)
        elif kind % 2 == 0 and kind != 10 and kind != 16:  # encrypted_recipient_data, payment_metadata
            raise MalformedTlv(f"unknown even type {kind}", self.record_at)
        return 0


@cython.cfunc
def _reader(data: bytes) -> _Reader:
    """Return a _Reader at the start of `data`."""
    reader: _Reader = _Reader.__new__(_Reader)
    reader.data = data
    reader.at = 0
    reader.end = len(data)
    reader.kind = 0
    reader.record_at = 0
    reader.length = -1  # no record seen yet
    return reader


@cython.cfunc
def _unhex(text: str) -> bytes:
    """Return the bytes that the hex digits `text` stand for, upper and lower case alike."""
    try:
        return unhexlify(text)
    except ValueError:
        raise MalformedTlv("not hex", _first_wrong_digit(text) // 2) from None


def _first_wrong_digit(text: str) -> int:
    """Return where `text` stops being hex: at the first strange character, else at its odd end."""
    return next((i for i, char in enumerate(text) if char not in _HEX_DIGITS), len(text))


@cython.cfunc
def _hop_reader(payload_hex: str, prefixed: cython.bint) -> _Reader:
    """Return a _Reader at the first record of a hop payload.

    A prefix is never guessed: `020100` parses with and without one (H-12).
    """
    reader: _Reader = _reader(_unhex(payload_hex))
    if prefixed:
        length: cython.ulonglong = reader.bigsize()
        if length != reader.left():
            raise MalformedTlv(f"length prefix {length} before {reader.end - reader.at} bytes", 0)
    if reader.at == reader.end:  # BOLT 4 reserves length 0; length 1 cannot hold a record
        raise MalformedTlv("empty hop payload", reader.at)
    return reader


@cython.cfunc
def _u64(number: object, what: str) -> cython.ulonglong:
    """Return `number` as u64, checked before it can wrap."""
    if number < 0 or number > U64_MAX:
        raise MalformedTlv(f"{what} {number} outside u64", 0)
    return number


@cython.cfunc
def _digits(number: object, what: str) -> str:
    """Return `number`, checked against u64, as hex digits without leading zeros; `_PADS` makes them bytes."""
    checked: cython.ulonglong = _u64(number, what)
    return f"{checked:x}" if checked else ""


def encode_bigsize(value: int) -> bytes:
    """Return `value` in its shortest BigSize form."""
    number: cython.ulonglong = _u64(value, "BigSize")
    if number < 0xFD:
        return bytes((number,))
    if number < 0x1_0000:
        return b"\xfd" + value.to_bytes(2, "big")
    if number < 0x1_0000_0000:
        return b"\xfe" + value.to_bytes(4, "big")
    return b"\xff" + value.to_bytes(8, "big")


def decode_bigsize(data: bytes, offset: int = 0) -> tuple:
    """Return the BigSize at `data[offset]` and the offset behind it."""
    if offset < 0 or offset > len(data):
        raise MalformedTlv("offset outside the data", offset)
    reader: _Reader = _reader(data)
    reader.at = offset
    value = reader.bigsize()
    return value, reader.at


def encode_tu(value: int, width: int = 8) -> bytes:
    """Return `value` as tu16, tu32 or tu64 (`width` 2, 4 or 8 bytes): big-endian without leading zero bytes."""
    width = min(width, 8)
    if value < 0 or value >> 8 * width:
        raise MalformedTlv(f"{value} outside u{8 * width}", 0)
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def decode_tu(data: bytes, width: int = 8) -> int:
    """Return all of `data` as tu16, tu32 or tu64 (`width` 2, 4 or 8 bytes)."""
    reader: _Reader = _reader(data)
    reader.at = reader.end
    return reader.last_tu(reader.end, min(width, 8))


def read_stream(data: bytes, known: dict | None = None) -> tuple:
    """Return the records `(type, value)` of a TLV stream that fills `data`: types rise, sizes are minimal.

    `known` maps the types of the stream's namespace to their length in bytes (None: any); with it a wrong length and
    an unknown even type are refused. Without it only the structure is checked.
    """
    reader: _Reader = _reader(data)
    records = []
    while reader.next_record():
        if known is not None:
            _check_known(reader, known)
        records.append((reader.kind, reader.value()))
    return tuple(records)


@cython.cfunc
def _check_known(reader: _Reader, known: dict) -> cython.bint:
    """Refuse the current record if it is even and not in `known`, or has not the length noted there."""
    length = known.get(reader.kind, -1)
    if length is None:
        return True
    if length >= 0:
        return reader.need_length(length)
    if reader.kind % 2 == 0:
        raise MalformedTlv(f"unknown even type {reader.kind}", reader.record_at)
    return True


def write_stream(records: object) -> bytes:
    """Return the TLV stream of `(type, value)` records; types must rise strictly (H-11)."""
    out: bytes = b""
    previous = -1
    for kind, value in records:
        if kind <= previous:
            raise MalformedTlv(f"type {kind} after type {previous}", len(out))
        out += encode_bigsize(kind) + encode_bigsize(len(value)) + value
        previous = kind
    return out


@cython.final
@cython.cclass
class HopPayload:
    """What a hop payload says; None where it has no such record.

    `total_msat` is taken from payment_data or, in a blinded payload, from total_amount_msat. `blinded`: it carries
    encrypted_recipient_data or current_path_key. `records` are all `(type, value)` in order.
    """

    amt_to_forward_msat = cython.declare(object, visibility="readonly")
    outgoing_cltv_value = cython.declare(object, visibility="readonly")
    short_channel_id = cython.declare(object, visibility="readonly")
    payment_secret = cython.declare(object, visibility="readonly")
    total_msat = cython.declare(object, visibility="readonly")
    blinded = cython.declare(cython.bint, visibility="readonly")
    records = cython.declare(tuple, visibility="readonly")


@cython.cfunc
def _note(payload: HopPayload, kind: cython.ulonglong, value: bytes, number: object) -> cython.bint:
    """Keep what record `kind` says."""
    if kind == 2:
        payload.amt_to_forward_msat = number
    elif kind == 4:
        payload.outgoing_cltv_value = number
    elif kind == 6:
        payload.short_channel_id = number
    elif kind == 8:
        payload.payment_secret = value[:32]
        payload.total_msat = number
    elif kind == 18 and payload.payment_secret is None:
        payload.total_msat = number
    elif kind == 10 or kind == 12:
        payload.blinded = True
    return True


def read_payload(payload_hex: str, prefixed: bool = True) -> HopPayload:
    """Return what the hop payload says; `prefixed`: its BigSize length comes first, as in the hook (cln:H1)."""
    reader: _Reader = _hop_reader(payload_hex, prefixed)
    payload: HopPayload = HopPayload.__new__(HopPayload)
    payload.blinded = False
    records = []
    while reader.next_record():
        number: cython.ulonglong = reader.hop_number()
        value: bytes = reader.value()
        _note(payload, reader.kind, value, number)
        records.append((reader.kind, value))
    payload.records = tuple(records)
    return payload


def forward_payload(payload_hex: str, amount_msat: int) -> str:
    """Return the hop payload with amt_to_forward := `amount_msat`, every other record as it was (H-12, H-13).

    In: hex with the length prefix, as the hook's request has it. Out: hex without, as the answer needs it (cln:H1).
    """
    amount: str = _digits(amount_msat, "amount")
    reader: _Reader = _hop_reader(payload_hex, True)
    body: cython.Py_ssize_t = reader.at
    start: cython.Py_ssize_t = 0
    stop: cython.Py_ssize_t = 0
    while reader.next_record():
        reader.hop_number()
        if reader.kind == 2:
            start, stop = reader.record_at, reader.at
    if stop == 0:
        raise MalformedTlv("no amt_to_forward", body)
    return f"{payload_hex[2 * body : 2 * start]}{_AMOUNT_HEADS[len(amount)]}{amount}{payload_hex[2 * stop :]}"


def final_payload(payload_hex: str, amount_msat: int, total_msat: int) -> str:
    """Return the final hop's payload with amt_to_forward and payment_data's total replaced (I-28).

    In: hex with the length prefix. Out: hex without.
    """
    amount: str = _digits(amount_msat, "amount")
    total: str = _digits(total_msat, "total")
    reader: _Reader = _hop_reader(payload_hex, True)
    body: cython.Py_ssize_t = reader.at
    start: cython.Py_ssize_t = 0
    stop: cython.Py_ssize_t = 0
    data_start: cython.Py_ssize_t = 0
    secret: cython.Py_ssize_t = 0
    data_stop: cython.Py_ssize_t = 0
    while reader.next_record():
        reader.hop_number()
        if reader.kind == 2:
            start, stop = reader.record_at, reader.at
        elif reader.kind == 8:
            data_start, secret, data_stop = reader.record_at, reader.at - reader.length, reader.at
    if stop == 0 or data_stop == 0:
        raise MalformedTlv("no amt_to_forward or no payment_data", body)
    return (
        f"{payload_hex[2 * body : 2 * start]}"
        f"{_AMOUNT_HEADS[len(amount)]}{amount}"
        f"{payload_hex[2 * stop : 2 * data_start]}"
        f"08{32 + (len(total) + 1) // 2:02x}{payload_hex[2 * secret : 2 * secret + 64]}{_PADS[len(total)]}{total}"
        f"{payload_hex[2 * data_stop :]}"
    )


def extra_fee_tlvs(extra_fee_msat: int) -> str:
    """Return the hex of the TLV stream of update_add_htlc for a part that paid `extra_fee_msat`.

    Empty for 0: a part that paid nothing carries no record (H-09). The value is a full u64, not truncated (H-08).
    """
    fee: cython.ulonglong = _u64(extra_fee_msat, "extra_fee")
    return f"fe0001000108{fee:016x}" if fee else ""


def read_extra_fee(extra_tlvs_hex: str | None) -> int | None:
    """Return the extra_fee in msat of an incoming HTLC's TLV stream; None when it carries none (I-21)."""
    if extra_tlvs_hex is None:
        return None
    reader: _Reader = _reader(_unhex(extra_tlvs_hex))
    fee = None
    while reader.next_record():
        _check_known(reader, _ADD_HTLC_RECORDS)
        if reader.kind == _EXTRA_FEE:
            reader.at -= 8
            fee = reader.uint(8)
    return fee


def scid_from_str(text: object) -> int:
    """Return the number of a short channel id `BLOCKxTXxOUT`: decimal, no leading zeros, 24, 24, 16 bits (S-08)."""
    if not isinstance(text, str):
        raise MalformedTlv("scid is no text", 0)
    fields = text.split("x")
    if len(fields) != 3:
        raise MalformedTlv(f"scid of {len(fields)} fields", 0)
    scid = 0
    at = 0
    for field, limit in zip(fields, _SCID_LIMITS, strict=True):
        scid = scid * (limit + 1) + _scid_field(field, limit, at)
        at += len(field) + 1
    return scid


def _scid_field(field: str, limit: int, at: int) -> int:
    """Return the number of a scid that starts at character `at`."""
    if not (field.isascii() and field.isdigit()) or len(field) > 8 or (field[0] == "0" and field != "0"):
        raise MalformedTlv("scid field is no plain number", at)
    number = int(field)
    if number > limit:
        raise MalformedTlv(f"scid field {number} above {limit}", at)
    return number


def scid_to_str(scid: int) -> str:
    """Return a short channel id as `BLOCKxTXxOUT`."""
    number: cython.ulonglong = _u64(scid, "scid")
    return f"{number >> 40}x{number >> 16 & 0xFFFFFF}x{number & 0xFFFF}"
