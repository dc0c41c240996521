"""The interpreted twin of `_hook.pyx`: same names, same results, held equal by a differential test.

Read the module docstring there for what a frame is and why it is found by structure. Cursors are offsets into bytes;
whatever the strict reader does not expect raises `_Unusual` inside and becomes None outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from lsps2fast.errors import MalformedFrame
from lsps2fast.hook_replies import answer, answer_fail, answer_final, answer_forward, answer_resolve, check_id

__all__ = [
    "MAX_FRAME",
    "FrameReader",
    "Scan",
    "answer",
    "answer_continue",
    "answer_fail",
    "answer_final",
    "answer_forward",
    "answer_resolve",
    "event_hash",
    "method_of",
    "next_hop",
    "objects",
    "scan",
]

Bytes = bytes | bytearray
MAX_FRAME = 16 * 1024 * 1024  # bytes; the longest call lightningd sends is far below

_U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_DEEPEST = 32  # nesting of values that are skipped; the real call has none

_BETWEEN, _STRING, _ESCAPED, _WORD = range(4)
_SPACES = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb"[^ \t\r\n,:]")
# What needs no thought, in one go: separators, strings that end and hold no backslash, words that end.
# A long string is quicker to search for its end.
_PLAIN_RUN = re.compile(rb'(?:[ \t\r\n,:]++|"[^"\\]{0,80}+"|[-+.0-9A-Za-z]++(?=[ \t\r\n,\]}]))*+')
_WORD_END = re.compile(rb"[ \t\r\n,\]}]")


# A frame as lightningd writes it for a forward or a final hop, matched from a known start: its structure is in the
# pattern, so it ends where the match ends. Much quicker than token by token; what differs takes that way. The onion of
# 1,366 bytes (BOLT 4) is jumped over, and looked through afterwards, as is all of it for a backslash.
_ONION_DIGITS = 2732
_NUMBER = rb"(?:0|[1-9][0-9]{0,18}+)"  # always fits 64 bits
_SCID_TEXT = rb'"(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,4})"'
_SMALL_SCID = rb'"(?:0|[1-9][0-9]{0,6})x(?:0|[1-9][0-9]{0,6})x(?:0|[1-9][0-9]{0,3})"'  # in range whatever it is
_USUAL = re.compile(
    rb'\{"jsonrpc":"2\.0","id":("[ !#-\[\]-~]*+"),"method":"htlc_accepted","params":\{'
    rb'(?:"peer_id":"[^"]*+",)?"onion":\{"payload":"[^"]*+"(?:,"type":"tlv")?'
    rb'(?:,"short_channel_id":' + _SMALL_SCID.replace(b"(?:", b"(") + rb")?"
    rb'(?:,"forward_msat":' + _NUMBER + rb',"outgoing_cltv_value":' + _NUMBER + rb")?"
    rb'(?:,"total_msat":' + _NUMBER + rb',"payment_secret":"[^"]*+")?'
    rb',"next_onion":"((?s:.{%d}))","shared_secret":"[^"]*+"\},' % _ONION_DIGITS
    + rb'(?:"forward_to":"([0-9a-f]{64})",)?"htlc":\{"short_channel_id":' + _SMALL_SCID
    + rb',"id":' + _NUMBER + rb',"amount_msat":' + _NUMBER + rb',"cltv_expiry":' + _NUMBER
    + rb',"cltv_expiry_relative":-?' + _NUMBER + rb',"payment_hash":"([0-9a-f]{64})"'
    rb'(,"extra_tlvs":"[^"]*+")?\}\}\}'
)  # fmt: skip

Hop = tuple[bytes, int, str | None, bytes, bool]


def _usual(text: bytes, at: int) -> tuple[int, Hop] | None:
    """Where the call that starts at `at` ends, and its next hop, when it looks as usual and is there to its end."""
    match = _USUAL.match(text, at)
    if match is None:
        return None
    end = match.end()
    if text.find(b'"', *match.span(5)) >= 0 or text.find(b"\\", at, end) >= 0:
        return None
    id_raw, block, tx, out, _, forward_to, payment_hash, extra_tlvs = match.groups()
    scid = -1 if block is None else int(block) << 40 | int(tx) << 16 | int(out)
    way = None if forward_to is None else forward_to.decode()
    return end, (id_raw, scid, way, bytes.fromhex(payment_hash.decode()), extra_tlvs is not None)


def _advance(text: Bytes, at: int, depth: int, mode: int) -> tuple[int, int, int]:
    """Go on from `at` until the outermost bracket closes or the bytes end: (offset behind, depth, mode)."""
    end = len(text)
    while at < end and depth > 0:
        if mode == _BETWEEN:
            at = _end(_PLAIN_RUN, text, at)
            token = _TOKEN.search(text, at)
            if token is None:
                return end, depth, mode
            at = token.end()
            byte = token.group()
            if byte == b'"':
                mode = _STRING
            elif byte in b"{[":
                depth += 1
            elif byte in b"}]":
                depth -= 1
            else:
                mode = _WORD
        elif mode == _STRING:
            found = text.find(b'"', at)
            stop = end if found < 0 else found
            run = stop
            while run > at and text[run - 1] == 0x5C:
                run -= 1
            if found < 0:
                return end, depth, _ESCAPED if (stop - run) % 2 else _STRING
            mode = _STRING if (stop - run) % 2 else _BETWEEN
            at = stop + 1
        elif mode == _ESCAPED:
            at += 1
            mode = _STRING
        else:
            stop_at = _WORD_END.search(text, at)
            if stop_at is None:
                return end, depth, mode
            at = stop_at.start()
            mode = _BETWEEN
    return at, depth, mode


class FrameReader:
    """Cuts a byte stream into JSON objects.

    `feed` takes the next bytes and returns the frames they complete, each from its `{` to its `}`. Where the stream
    makes no sense (a byte between frames that is neither white space nor `{`, an object closed by `]`, a frame above
    `max_frame` bytes) the frames before that place are still returned; from then on `lost` is true and every call
    raises MalformedFrame. How the stream was split into calls makes no difference.

    `on_call` is told of each call that `next_hop` can read, with what that returns, also when `feed` then raises; when
    it says True the frame is dealt with and not returned. Without it a frame above MAX_FRAME is a bytearray, uncopied.
    """

    def __init__(self, max_frame: int = MAX_FRAME, on_call: Callable[..., bool] | None = None) -> None:
        self._on_call = on_call
        self._held = bytearray()
        self._depth = 0
        self._mode = _BETWEEN
        self._max = max_frame
        self._passed = 0
        self._error: MalformedFrame | None = None

    @property
    def pending(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._held)

    @property
    def lost(self) -> bool:
        """True once the stream made no sense."""
        return self._error is not None

    def feed(self, data: bytes) -> list[Bytes]:
        """Return the frames completed by `data`. Raises MalformedFrame when the stream is lost and no frame is left."""
        frames: list[Bytes] = []
        if self._error is None:
            self._cut(data, frames)
        if self._error is not None and not frames:
            raise self._error
        return frames

    def _cut(self, data: bytes, frames: list[Bytes]) -> None:
        at = start = 0
        end = len(data)
        while at < end:
            if self._depth == 0:
                at = _behind_space(data, at)
                if at == end:
                    break
                if data[at] != 0x7B:
                    return self._lose("neither white space nor the start of an object", at)
                start = at
                usual = _usual(data, at)
                if usual is not None and usual[0] - at <= self._max:
                    at, hop = usual
                    if self._on_call is None or not self._on_call(*hop):
                        frames.append(data[start:at])
                    start = at
                    continue
                at += 1
                self._depth, self._mode = 1, _BETWEEN
            at, self._depth, self._mode = _advance(data, at, self._depth, self._mode)
            if len(self._held) + at - start > self._max:
                return self._lose(f"a frame above {self._max} bytes", start - len(self._held))
            if self._depth > 0:
                break
            if data[at - 1] != 0x7D:
                return self._lose("an object closed by the wrong bracket", at - 1)
            whole, self._held = self._held + data[start:at], bytearray()
            if len(whole) > MAX_FRAME and self._on_call is None:
                frames.append(whole)
            else:
                self._add(bytes(whole), frames)
            start = at
        if self._depth > 0:
            self._held += data[start:]
        self._passed += end
        return None

    def _add(self, frame: bytes, frames: list[Bytes]) -> None:
        hop = None if self._on_call is None else next_hop(frame)
        if hop is None or self._on_call is None or not self._on_call(*hop):
            frames.append(frame)

    def _lose(self, why: str, at: int) -> None:
        self._error = MalformedFrame(why, self._passed + at)


def _end(pattern: re.Pattern[bytes], text: Bytes, at: int) -> int:
    """Behind what a pattern that also matches nothing matches at `at`."""
    match = pattern.match(text, at)
    assert match is not None
    return match.end()


def _behind_space(text: Bytes, at: int) -> int:
    return _end(_SPACES, text, at)


# ---- the strict reader of an htlc_accepted call


class _Unusual(Exception):
    """Not in the usual shape: a lenient reader must look."""


_PLAIN = re.compile(rb'"([^"]*)"')
_VALUE = re.compile(rb'"[^"]*"|true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9])')
_U64 = re.compile(rb"(?:0|[1-9][0-9]{0,19})(?![0-9])")
_SCID = re.compile(_SCID_TEXT)
_HEX_64 = re.compile(rb'"([0-9a-f]{64})"')
_ID = re.compile(rb'"[ !#-\[\]-~]*"|-?(?:0|[1-9][0-9]*)(?![0-9])')


def _scid(block_digits: bytes, tx_digits: bytes, out_digits: bytes) -> int:
    block, tx, out = int(block_digits), int(tx_digits), int(out_digits)
    if block > 0xFFFFFF or tx > 0xFFFFFF or out > 0xFFFF:
        raise _Unusual
    return block << 40 | tx << 16 | out


class _Walk:
    """A cursor over a frame without a backslash, with the fields found so far."""

    def __init__(self, text: bytes) -> None:
        if b"\\" in text:
            raise _Unusual
        self.text = text
        self.at = 0
        self.found: dict[str, bytes | int] = {}

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _Unusual
        self.at = match.end()
        return match

    def byte(self) -> bytes:
        """Take the next byte behind white space; b"" at the end."""
        self.at = _behind_space(self.text, self.at) + 1
        return self.text[self.at - 1 : self.at]

    def members(self) -> Iterator[bytes]:
        """Yield each key of an object; the caller takes the value before going on."""
        if self.text[self.at : self.at + 1] != b"{":
            raise _Unusual
        self.at += 1
        byte = self.byte()
        if byte == b"}":
            return
        self.at -= 1
        while True:
            self.at = _behind_space(self.text, self.at)
            key = self.take(_PLAIN).group(1)
            if self.byte() != b":":
                raise _Unusual
            self.at = _behind_space(self.text, self.at)
            yield key
            byte = self.byte()
            if byte == b"}":
                return
            if byte != b",":
                raise _Unusual

    def skip(self, room: int = _DEEPEST) -> None:
        """Go over one well-formed value; `room` is how much deeper it may nest."""
        if room <= 0:
            raise _Unusual
        byte = self.text[self.at : self.at + 1]
        if byte == b"{":
            for _ in self.members():
                self.skip(room - 1)
        elif byte == b"[":
            self.skip_list(room - 1)
        else:
            self.take(_VALUE)

    def skip_list(self, room: int) -> None:
        self.at += 1
        if self.byte() == b"]":
            return
        self.at -= 1
        while True:
            self.at = _behind_space(self.text, self.at)
            self.skip(room)
            byte = self.byte()
            if byte == b"]":
                return
            if byte != b",":
                raise _Unusual

    def note(self, name: str, value: bytes | int) -> None:
        if name in self.found:
            raise _Unusual
        self.found[name] = value

    def plain(self) -> bytes:
        return self.take(_PLAIN).group(1)

    def hex_64(self) -> bytes:
        return self.take(_HEX_64).group(1)

    def u64(self) -> int:
        value = int(self.take(_U64).group())
        if value > _U64_MAX:
            raise _Unusual
        return value

    def scid(self) -> int:
        return _scid(*self.take(_SCID).groups())


_Table = Mapping[bytes, tuple[str, Callable[[_Walk], bytes | int]]]

_ONION: _Table = {
    b"payload": ("payload_hex", _Walk.plain),
    b"short_channel_id": ("next_scid", _Walk.scid),
    b"forward_msat": ("forward_msat", _Walk.u64),
    b"outgoing_cltv_value": ("outgoing_cltv_value", _Walk.u64),
    b"total_msat": ("total_msat", _Walk.u64),
    b"payment_secret": ("payment_secret", _Walk.plain),
}
_HTLC: _Table = {
    b"short_channel_id": ("in_scid", _Walk.scid),
    b"id": ("htlc_id", _Walk.u64),
    b"amount_msat": ("amount_msat", _Walk.u64),
    b"cltv_expiry": ("cltv_expiry", _Walk.u64),
    b"payment_hash": ("payment_hash", _Walk.hex_64),
    b"extra_tlvs": ("extra_tlvs", _Walk.plain),
}
_NEEDED = frozenset(
    ("id_raw", "method", "payload_hex", "in_scid", "htlc_id", "amount_msat", "cltv_expiry", "payment_hash")
)


def _fields(walk: _Walk, table: _Table) -> None:
    for key in walk.members():
        field = table.get(key)
        if field is None:
            walk.skip()
        else:
            name, read = field
            walk.note(name, read(walk))


def _params(walk: _Walk) -> None:
    for key in walk.members():
        if key == b"onion":
            walk.note("onion", 1)
            _fields(walk, _ONION)
        elif key == b"htlc":
            walk.note("htlc", 1)
            _fields(walk, _HTLC)
        elif key == b"peer_id":
            walk.note("peer_id", walk.plain())
        elif key == b"forward_to":
            walk.note("forward_to", walk.hex_64())
        else:
            walk.skip()


def _call(frame: bytes) -> dict[str, bytes | int]:
    """Return the fields of a whole htlc_accepted request. Raises _Unusual."""
    walk = _Walk(frame)
    for key in walk.members():
        if key == b"params":
            walk.note("params", 1)
            _params(walk)
        elif key == b"id":
            walk.note("id_raw", walk.take(_ID).group())
        elif key == b"method":
            walk.note("method", walk.plain())
            if walk.found["method"] != b"htlc_accepted":
                raise _Unusual
        else:
            walk.skip()
    if walk.at != len(frame) or not walk.found.keys() >= _NEEDED:
        raise _Unusual
    return walk.found


class Scan(NamedTuple):
    """What an htlc_accepted call says. Numbers that are absent read -1, texts that are absent None.

    `id_raw` is the JSON token as received; `next_scid` and `in_scid` are 64-bit numbers; `payment_hash` 32 bytes;
    `payload_hex` still has its length prefix (cln:H1); amounts in msat, cltv in blocks.
    """

    id_raw: bytes
    next_scid: int
    forward_to: str | None
    payment_hash: bytes
    in_scid: int
    htlc_id: int
    amount_msat: int
    cltv_expiry: int
    forward_msat: int
    outgoing_cltv_value: int
    payload_hex: str
    total_msat: int
    payment_secret: str | None
    extra_tlvs: str | None
    peer_id: str | None


_SCAN_NUMBERS = ("next_scid", "forward_msat", "outgoing_cltv_value", "total_msat")
_SCAN_TEXTS = ("forward_to", "payload_hex", "payment_secret", "extra_tlvs", "peer_id")


def scan(frame: bytes) -> Scan | None:
    """Read an htlc_accepted request in the usual shape, keys in any order; None for everything else.

    None is no verdict: duplicate keys, escapes, other types, an unusual id, a missing field or bytes behind the
    object only mean that a lenient reader must look. What is returned is what any JSON reader would find.
    """
    try:
        found = _call(frame)
        texts = {name: _text(found.get(name)) for name in _SCAN_TEXTS}
    except _Unusual:
        return None
    return Scan(
        id_raw=_bytes(found["id_raw"]),
        next_scid=_number(found.get("next_scid", -1)),
        forward_to=texts["forward_to"],
        payment_hash=_unhex(found["payment_hash"]),
        in_scid=_number(found["in_scid"]),
        htlc_id=_number(found["htlc_id"]),
        amount_msat=_number(found["amount_msat"]),
        cltv_expiry=_number(found["cltv_expiry"]),
        forward_msat=_number(found.get("forward_msat", -1)),
        outgoing_cltv_value=_number(found.get("outgoing_cltv_value", -1)),
        payload_hex=texts["payload_hex"] or "",
        total_msat=_number(found.get("total_msat", -1)),
        payment_secret=texts["payment_secret"],
        extra_tlvs=texts["extra_tlvs"],
        peer_id=texts["peer_id"],
    )


def next_hop(frame: bytes) -> Hop | None:
    """Return where an htlc_accepted request goes: (id_raw, scid or -1, forward_to, payment_hash, has extra_tlvs).

    None under the same conditions as `scan`, except that the texts it leaves aside may be other than ASCII.
    """
    usual = _usual(frame, 0)
    if usual is not None and usual[0] == len(frame):
        return usual[1]
    try:
        found = _call(frame)
    except _Unusual:
        return None
    way = _text(found.get("forward_to"))
    scid = _number(found.get("next_scid", -1))
    return _bytes(found["id_raw"]), scid, way, _unhex(found["payment_hash"]), "extra_tlvs" in found


def _text(value: bytes | int | None) -> str | None:
    if value is None:
        return None
    try:
        return _bytes(value).decode("ascii")
    except UnicodeDecodeError:
        raise _Unusual from None


def _bytes(value: bytes | int) -> bytes:
    assert isinstance(value, bytes)
    return value


def _number(value: bytes | int) -> int:
    assert isinstance(value, int)
    return value


def _unhex(value: bytes | int) -> bytes:
    return bytes.fromhex(_bytes(value).decode())


# ---- other frames


def event_hash(frame: bytes) -> bytes | None:
    """Return the payment hash (32 bytes) of a forward_event in the usual shape, None for everything else."""
    try:
        return _event(_Walk(frame))
    except _Unusual:
        return None


def _event(walk: _Walk) -> bytes:
    for key in walk.members():
        if key == b"params":
            walk.note("params", 1)
            _event_params(walk)
        elif key == b"method":
            walk.note("method", walk.plain())
            if walk.found["method"] != b"forward_event":
                raise _Unusual
        elif key == b"id":
            raise _Unusual
        else:
            walk.skip()
    if walk.at != len(walk.text) or not {"method", "payment_hash"} <= walk.found.keys():
        raise _Unusual
    return _unhex(walk.found["payment_hash"])


def _event_params(walk: _Walk) -> None:
    for key in walk.members():
        if key == b"forward_event":
            walk.note("event", 1)
            _fields(walk, {b"payment_hash": ("payment_hash", _Walk.hex_64)})
        else:
            walk.skip()


_LOOSE_STRING = re.compile(rb'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_LOOSE_WORD = re.compile(rb"[^ \t\r\n,\]}]+")


def _loose_value(text: bytes, at: int) -> tuple[int, bytes]:
    """Go over any value the way FrameReader does: (offset behind, the token or b"" for a list or object)."""
    if text[at : at + 1] in (b"{", b"["):
        at, depth, _ = _advance(text, at + 1, 1, _BETWEEN)
        if depth > 0:
            raise _Unusual
        return at, b""
    match = (_LOOSE_STRING if text[at : at + 1] == b'"' else _LOOSE_WORD).match(text, at)
    if match is None:
        raise _Unusual
    return match.end(), match.group()


def _loose_members(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and token of each outermost member of a frame that may hold escapes."""
    if text[:1] != b"{":
        raise _Unusual
    at = _behind_space(text, 1)
    behind = text[at : at + 1]
    if behind != b"}":
        behind = b","
        at -= 1
    while behind == b",":
        match = _LOOSE_STRING.match(text, _behind_space(text, at + 1))
        if match is None:
            raise _Unusual
        at = _behind_space(text, match.end())
        if text[at : at + 1] != b":":
            raise _Unusual
        at, token = _loose_value(text, _behind_space(text, at + 1))
        yield match.group(1), token
        at = _behind_space(text, at)
        behind = text[at : at + 1]
    if behind != b"}" or at + 1 != len(text):
        raise _Unusual


def method_of(frame: bytes) -> tuple[str | None, bytes | None]:
    """Return the outermost method and the id token of any frame, whatever else is in it.

    (None, None) when the frame is no object or has one of them twice; the method is None when it is no plain
    string; the id is the raw token, None when there is none or it is a list or object.
    """
    found: dict[bytes, bytes] = {}
    try:
        for key, token in _loose_members(frame):
            if key in (b"method", b"id"):
                if key in found:
                    return None, None
                found[key] = token
    except _Unusual:
        return None, None
    token = found.get(b"method", b"")
    plain = token[:1] == b'"' and b"\\" not in token
    return token[1:-1].decode(errors="replace") if plain else None, found.get(b"id") or None


# ---- the answer every foreign HTLC takes; the others are in _answers


def objects(frame: Bytes, at: int) -> Iterator[Bytes]:
    """Yield the bytes of each object of a list whose `[` is right before `at`, one at a time: a long one in pieces.

    Raises MalformedFrame where something else stands in the list, or its end is missing.
    """
    at = _behind_space(frame, at)
    more = frame[at : at + 1] != b"]"
    while more:
        start = at
        if frame[at : at + 1] != b"{":
            break
        at, depth, _ = _advance(frame, at + 1, 1, _BETWEEN)
        if depth > 0 or frame[at - 1 : at] != b"}":
            break
        yield frame[start:at]
        at = _behind_space(frame, at)
        if frame[at : at + 1] == b"]":
            return
        if frame[at : at + 1] != b",":
            break
        at = _behind_space(frame, at + 1)
    if more:
        raise MalformedFrame("a list of something else than objects", at)


def answer_continue(id_raw: bytes) -> bytes:
    """Return a frame that lets the HTLC go its way. Raises ValueError for an id that cannot be echoed."""
    if not _ID.fullmatch(id_raw):
        check_id(id_raw)  # it knows more kinds and says what is wrong
    return b'{"jsonrpc":"2.0","id":' + id_raw + b',"result":{"result":"continue"}}\n\n'
