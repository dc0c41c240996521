# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames from lightningd: where one ends, what an `htlc_accepted` call says, and the bytes of its answer.

Buffers in, buffers out; this module knows no file descriptor and no lock. The end of a frame is found by structure
from a known start, the way lightningd's own tokenizer (jsmn, strict) reads: a caller of our methods can put raw line
feeds into a string and quotes into a number, and lightningd passes both on as they are (host contract W9). Nothing
here searches for a line feed, and a stream that stops making sense is never picked up again.

`_hook_py.py` is the interpreted twin with the same names; a differential test holds the two equal.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.cpython.unicode import PyUnicode_DecodeASCII
from cython.cimports.libc.string import memchr, memcmp

from lsps2fast._answers import answer, answer_fail, answer_final, answer_forward, check_id
from lsps2fast.errors import MalformedFrame

__all__ = [
    "MAX_FRAME",
    "FrameReader",
    "Scan",
    "answer",
    "answer_continue",
    "answer_fail",
    "answer_final",
    "answer_forward",
    "event_hash",
    "method_of",
    "next_hop",
    "scan",
]

MAX_FRAME = 16 * 1024 * 1024  # bytes; the longest call lightningd sends is far below

Text = cython.typedef(cython.p_const_uchar)
Size = cython.typedef(cython.Py_ssize_t)

# What the next byte belongs to.
BETWEEN = cython.declare(cython.int, 0)  # tokens
STRING = cython.declare(cython.int, 1)
ESCAPED = cython.declare(cython.int, 2)  # a string, right behind a backslash
WORD = cython.declare(cython.int, 3)  # a number or literal: runs to white space, comma or a closing bracket

Place = cython.struct(depth=Size, mode=cython.int)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _is_space(byte: cython.uchar) -> cython.bint:
    return byte <= b" " and (byte == b" " or byte == b"\n" or byte == b"\t" or byte == b"\r")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _advance(text: Text, at: Size, end: Size, place: cython.pointer[Place]) -> Size:
    """Go on from `at` until the outermost bracket closes or the bytes end; the offset behind the last byte used.

    One pass: a run of backslashes is looked at once, for the quote behind it.
    """
    depth: Size = place.depth
    mode: cython.int = place.mode
    byte: cython.uchar
    found: Text
    stop: Size
    run: Size
    while at < end and depth > 0:
        if mode == BETWEEN:
            byte = text[at]
            at += 1
            if byte == b'"':
                mode = STRING
            elif byte == b"{" or byte == b"[":
                depth += 1
            elif byte == b"}" or byte == b"]":
                depth -= 1
            elif not (_is_space(byte) or byte == b"," or byte == b":"):
                mode = WORD
        elif mode == STRING:
            found = cython.cast(Text, memchr(text + at, b'"', end - at))
            stop = end if found == cython.NULL else found - text
            run = stop
            while run > at and text[run - 1] == b"\\":
                run -= 1
            if found == cython.NULL:
                mode = ESCAPED if (stop - run) & 1 else STRING
                at = end
            else:
                mode = STRING if (stop - run) & 1 else BETWEEN
                at = stop + 1
        elif mode == ESCAPED:
            at += 1
            mode = STRING
        else:
            byte = text[at]
            if _is_space(byte) or byte == b"," or byte == b"]" or byte == b"}":
                mode = BETWEEN
            else:
                at += 1
    place.depth = depth
    place.mode = mode
    return at


@cython.final
@cython.cclass
class FrameReader:
    """Cuts a byte stream into JSON objects.

    `feed` takes the next bytes and returns the frames they complete, each from its `{` to its `}`. Where the stream
    makes no sense (a byte between frames that is neither white space nor `{`, an object closed by `]`, a frame above
    `max_frame` bytes) the frames before that place are still returned; from then on `lost` is true and every call
    raises MalformedFrame. How the stream was split into calls makes no difference.
    """

    _held: bytearray
    _place: Place
    _max: Size
    _passed: Size
    _error: object

    def __init__(self, max_frame: cython.Py_ssize_t = 16 * 1024 * 1024) -> None:
        self._held = bytearray()
        self._place.depth = 0
        self._place.mode = BETWEEN
        self._max = max_frame
        self._passed = 0
        self._error = None

    @property
    def pending(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._held)

    @property
    def lost(self) -> bool:
        """True once the stream made no sense."""
        return self._error is not None

    def feed(self, data: bytes) -> list:
        """The frames completed by `data`. Raises MalformedFrame when the stream is lost and no frame is left."""
        frames: list = []
        if self._error is None:
            self._cut(data, frames)
        if self._error is not None and not frames:
            raise self._error
        return frames

    @cython.cfunc
    def _cut(self, data: bytes, frames: list) -> cython.void:
        text: Text = data
        end: Size = len(data)
        at: Size = 0
        start: Size = 0
        while at < end:
            if self._place.depth == 0:
                if _is_space(text[at]):
                    at += 1
                    continue
                if text[at] != b"{":
                    self._lose("neither white space nor the start of an object", at)
                    return
                start = at
                at += 1
                self._place.depth = 1
                self._place.mode = BETWEEN
            at = _advance(text, at, end, cython.address(self._place))
            if len(self._held) + (at - start) > self._max:
                self._lose(f"a frame above {self._max} bytes", start)
                return
            if self._place.depth > 0:
                break
            if text[at - 1] != b"}":
                self._lose("an object closed by the wrong bracket", at - 1)
                return
            if self._held:
                self._held += data[start:at]
                frames.append(bytes(self._held))
                self._held = bytearray()
            else:
                frames.append(data[start:at])
            start = at
        if self._place.depth > 0:
            self._held += data[start:]
        self._passed += end

    @cython.cfunc
    def _lose(self, why: str, at: Size) -> cython.void:
        self._error = MalformedFrame(why, self._passed + at)


# ---- the strict reader of an htlc_accepted call

DEEPEST = cython.declare(cython.int, 32)  # nesting of values that are skipped; the real call has none

Span = cython.struct(at=Size, size=Size)
# A walk over one frame. `text[end]` must be readable and no JSON, as the zero behind a bytes object is.
# `key` is the last key read; `seen` has one bit for each field, so a second one is noticed.
Walk = cython.struct(
    text=Text,
    end=Size,
    at=Size,
    key=Span,
    seen=cython.uint,
    id=Span,
    method=Span,
    peer_id=Span,
    forward_to=Span,
    payload=Span,
    secret=Span,
    extra=Span,
    payment_hash=Span,
    next_scid=cython.ulonglong,
    in_scid=cython.ulonglong,
    htlc_id=cython.ulonglong,
    amount_msat=cython.ulonglong,
    cltv_expiry=cython.ulonglong,
    forward_msat=cython.ulonglong,
    outgoing_cltv_value=cython.ulonglong,
    total_msat=cython.ulonglong,
)
Walker = cython.typedef(cython.pointer[Walk])

ID = cython.declare(cython.uint, 1 << 0)
METHOD = cython.declare(cython.uint, 1 << 1)
PARAMS = cython.declare(cython.uint, 1 << 2)
PEER_ID = cython.declare(cython.uint, 1 << 3)
ONION = cython.declare(cython.uint, 1 << 4)
FORWARD_TO = cython.declare(cython.uint, 1 << 5)
HTLC = cython.declare(cython.uint, 1 << 6)
PAYLOAD = cython.declare(cython.uint, 1 << 7)
NEXT_SCID = cython.declare(cython.uint, 1 << 8)
FORWARD_MSAT = cython.declare(cython.uint, 1 << 9)
OUTGOING_CLTV = cython.declare(cython.uint, 1 << 10)
TOTAL_MSAT = cython.declare(cython.uint, 1 << 11)
SECRET = cython.declare(cython.uint, 1 << 12)
IN_SCID = cython.declare(cython.uint, 1 << 13)
HTLC_ID = cython.declare(cython.uint, 1 << 14)
AMOUNT_MSAT = cython.declare(cython.uint, 1 << 15)
CLTV_EXPIRY = cython.declare(cython.uint, 1 << 16)
PAYMENT_HASH = cython.declare(cython.uint, 1 << 17)
EXTRA = cython.declare(cython.uint, 1 << 18)
EVENT = cython.declare(cython.uint, 1 << 19)
NEEDED = cython.declare(
    cython.uint,
    (1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 17),
)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _space(w: Walker) -> cython.void:
    while w.at < w.end and _is_space(w.text[w.at]):
        w.at += 1


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _string(w: Walker, span: cython.pointer[Span]) -> cython.bint:
    """Read a string at the cursor. The frame has no backslash (checked once), so the next quote ends it."""
    found: Text
    if w.at >= w.end or w.text[w.at] != b'"':
        return False
    w.at += 1
    found = cython.cast(Text, memchr(w.text + w.at, b'"', w.end - w.at))
    if found == cython.NULL:
        return False
    span.at = w.at
    span.size = found - w.text - w.at
    w.at += span.size + 1
    return True


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _open(w: Walker) -> cython.bint:
    """Step into an object."""
    if w.at >= w.end or w.text[w.at] != b"{":
        return False
    w.at += 1
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _key(w: Walker) -> cython.int:
    """Go to the value of the next key of the object: 1 with `key` set, 0 behind its end, -1 when it is broken."""
    text: Text = w.text
    at: Size = w.at
    found: Text
    first: cython.bint = text[at - 1] == b"{"  # no value ends with one
    while _is_space(text[at]):
        at += 1
    if text[at] == b"}":
        w.at = at + 1
        return 0
    if not first:
        if text[at] != b",":
            return -1
        at += 1
        while _is_space(text[at]):
            at += 1
    if text[at] != b'"':
        return -1
    at += 1
    found = cython.cast(Text, memchr(text + at, b'"', w.end - at))
    if found == cython.NULL:
        return -1
    w.key.at = at
    w.key.size = found - text - at
    at += w.key.size + 1
    while _is_space(text[at]):
        at += 1
    if text[at] != b":":
        return -1
    at += 1
    while _is_space(text[at]):
        at += 1
    w.at = at
    return 1


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _is(w: Walker, name: cython.p_const_char, size: Size) -> cython.bint:
    return w.key.size == size and memcmp(w.text + w.key.at, name, size) == 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _once(w: Walker, bit: cython.uint) -> cython.bint:
    """Note a field; False when it was there before."""
    if w.seen & bit:
        return False
    w.seen |= bit
    return True


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _is_digit(byte: cython.uchar) -> cython.bint:
    return b"0" <= byte <= b"9"


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _u64(w: Walker, value: cython.pointer[cython.ulonglong]) -> cython.bint:
    """Read an integer 0 ≤ n < 2^64 without sign, fraction, exponent or leading zero."""
    text: Text = w.text
    start: Size = w.at
    at: Size = start
    total: cython.ulonglong = 0
    digit: cython.uint = text[at] - cython.cast(cython.uint, b"0")
    while digit < 10 and at - start < 19:  # 19 digits always fit
        total = total * 10 + digit
        at += 1
        digit = text[at] - cython.cast(cython.uint, b"0")
    if digit < 10:
        if total > (~cython.cast(cython.ulonglong, 0) - digit) // 10:
            return False
        total = total * 10 + digit
        at += 1
    w.at = at
    value[0] = total
    return at > start and (text[start] != b"0" or at - start == 1) and not _is_digit(text[at])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _scid_piece(w: Walker, most: cython.ulonglong, value: cython.pointer[cython.ulonglong]) -> cython.bint:
    return _u64(w, value) and value[0] <= most


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _scid(w: Walker, scid: cython.pointer[cython.ulonglong]) -> cython.bint:
    """Read a string "BLOCKxTXxOUT": 24, 24 and 16 bits (BOLT 7)."""
    block: cython.ulonglong = 0
    tx: cython.ulonglong = 0
    out: cython.ulonglong = 0
    if w.at >= w.end or w.text[w.at] != b'"':
        return False
    w.at += 1
    if not _scid_piece(w, 0xFFFFFF, cython.address(block)) or w.at >= w.end or w.text[w.at] != b"x":
        return False
    w.at += 1
    if not _scid_piece(w, 0xFFFFFF, cython.address(tx)) or w.at >= w.end or w.text[w.at] != b"x":
        return False
    w.at += 1
    if not _scid_piece(w, 0xFFFF, cython.address(out)) or w.at >= w.end or w.text[w.at] != b'"':
        return False
    w.at += 1
    scid[0] = block << 40 | tx << 16 | out
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _digits(w: Walker) -> cython.bint:
    start: Size = w.at
    while w.at < w.end and _is_digit(w.text[w.at]):
        w.at += 1
    return w.at > start


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _skip_number(w: Walker) -> cython.bint:
    start: Size
    if w.at < w.end and w.text[w.at] == b"-":
        w.at += 1
    start = w.at
    if not _digits(w) or (w.text[start] == b"0" and w.at - start > 1):
        return False
    if w.at < w.end and w.text[w.at] == b".":
        w.at += 1
        if not _digits(w):
            return False
    if w.at < w.end and (w.text[w.at] == b"e" or w.text[w.at] == b"E"):
        w.at += 1
        if w.at < w.end and (w.text[w.at] == b"+" or w.text[w.at] == b"-"):
            w.at += 1
        return _digits(w)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _skip_word(w: Walker, word: cython.p_const_char, size: Size) -> cython.bint:
    if w.end - w.at < size or memcmp(w.text + w.at, word, size) != 0:
        return False
    w.at += size
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _skip_list(w: Walker, room: cython.int) -> cython.bint:
    w.at += 1
    _space(w)
    if w.at < w.end and w.text[w.at] == b"]":
        w.at += 1
        return True
    while True:
        _space(w)
        if not _skip(w, room):
            return False
        _space(w)
        if w.at >= w.end:
            return False
        w.at += 1
        if w.text[w.at - 1] == b"]":
            return True
        if w.text[w.at - 1] != b",":
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _skip_object(w: Walker, room: cython.int) -> cython.bint:
    step: cython.int
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        if not _skip(w, room):
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _skip(w: Walker, room: cython.int) -> cython.bint:
    """Go over one well-formed value; `room` is how much deeper it may nest."""
    unused = cython.declare(Span)
    byte: cython.uchar
    if w.at >= w.end or room <= 0:
        return False
    byte = w.text[w.at]
    if byte == b'"':
        return _string(w, cython.address(unused))
    if byte == b"{":
        return _skip_object(w, room - 1)
    if byte == b"[":
        return _skip_list(w, room - 1)
    if byte == b"t":
        return _skip_word(w, b"true", 4)
    if byte == b"f":
        return _skip_word(w, b"false", 5)
    if byte == b"n":
        return _skip_word(w, b"null", 4)
    return _skip_number(w)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _id(w: Walker) -> cython.bint:
    """Read an id as the token it is: a string of printable ASCII, or an integer."""
    start: Size = w.at
    at: Size
    text = cython.declare(Span)
    odd: cython.uchar = 0
    if w.at < w.end and w.text[w.at] == b'"':
        if not _string(w, cython.address(text)):
            return False
        for at in range(text.at, text.at + text.size):
            odd |= cython.cast(cython.uchar, w.text[at] - 32) > 94
    else:
        if w.at < w.end and w.text[w.at] == b"-":
            w.at += 1
        at = w.at
        if not _digits(w) or (w.text[at] == b"0" and w.at - at > 1):
            return False
    w.id.at = start
    w.id.size = w.at - start
    return odd == 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _onion(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        if _is(w, b"payload", 7):
            good = _once(w, PAYLOAD) and _string(w, cython.address(w.payload))
        elif _is(w, b"short_channel_id", 16):
            good = _once(w, NEXT_SCID) and _scid(w, cython.address(w.next_scid))
        elif _is(w, b"forward_msat", 12):
            good = _once(w, FORWARD_MSAT) and _u64(w, cython.address(w.forward_msat))
        elif _is(w, b"outgoing_cltv_value", 19):
            good = _once(w, OUTGOING_CLTV) and _u64(w, cython.address(w.outgoing_cltv_value))
        elif _is(w, b"total_msat", 10):
            good = _once(w, TOTAL_MSAT) and _u64(w, cython.address(w.total_msat))
        elif _is(w, b"payment_secret", 14):
            good = _once(w, SECRET) and _string(w, cython.address(w.secret))
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _htlc(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        if _is(w, b"short_channel_id", 16):
            good = _once(w, IN_SCID) and _scid(w, cython.address(w.in_scid))
        elif _is(w, b"id", 2):
            good = _once(w, HTLC_ID) and _u64(w, cython.address(w.htlc_id))
        elif _is(w, b"amount_msat", 11):
            good = _once(w, AMOUNT_MSAT) and _u64(w, cython.address(w.amount_msat))
        elif _is(w, b"cltv_expiry", 11):
            good = _once(w, CLTV_EXPIRY) and _u64(w, cython.address(w.cltv_expiry))
        elif _is(w, b"payment_hash", 12):
            good = _once(w, PAYMENT_HASH) and _hex_64(w, cython.address(w.payment_hash))
        elif _is(w, b"extra_tlvs", 10):
            good = _once(w, EXTRA) and _string(w, cython.address(w.extra))
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _params(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        if _is(w, b"onion", 5):
            good = _once(w, ONION) and _onion(w)
        elif _is(w, b"htlc", 4):
            good = _once(w, HTLC) and _htlc(w)
        elif _is(w, b"peer_id", 7):
            good = _once(w, PEER_ID) and _string(w, cython.address(w.peer_id))
        elif _is(w, b"forward_to", 10):
            good = _once(w, FORWARD_TO) and _hex_64(w, cython.address(w.forward_to))
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _method(w: Walker, name: cython.p_const_char, size: Size) -> cython.bint:
    return (
        _once(w, METHOD)
        and _string(w, cython.address(w.method))
        and w.method.size == size
        and memcmp(w.text + w.method.at, name, size) == 0
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call(w: Walker) -> cython.bint:
    """Walk a whole htlc_accepted request; True when it is in the usual shape and complete."""
    step: cython.int
    good: cython.bint
    if memchr(w.text, b"\\", w.end) != cython.NULL or not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0 and w.at == w.end and (w.seen & NEEDED) == NEEDED
        if _is(w, b"params", 6):
            good = _once(w, PARAMS) and _params(w)
        elif _is(w, b"id", 2):
            good = _once(w, ID) and _id(w)
        elif _is(w, b"method", 6):
            good = _method(w, b"htlc_accepted", 13)
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _start(w: Walker, text: Text, size: Size) -> cython.void:
    w.text = text
    w.end = size
    w.at = 0
    w.seen = 0
    w.id.size = 0
    w.method.size = 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _is_hex(text: Text, size: Size) -> cython.bint:
    """Whether all are lower-case hex digits. No branch within: digits of a hash are dice to a predictor."""
    odd: cython.uchar = 0
    byte: cython.uchar
    at: Size
    for at in range(size):
        byte = text[at]
        odd |= (cython.cast(cython.uchar, byte - 48) > 9) & (cython.cast(cython.uchar, byte - 97) > 5)
    return odd == 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unhex(text: Text, size: Size, out: cython.p_uchar) -> cython.void:
    """`size` hex digits, which _is_hex has seen, into bytes."""
    at: Size
    high: cython.uchar
    low: cython.uchar
    for at in range(size >> 1):
        high = text[2 * at]
        low = text[2 * at + 1]
        out[at] = ((high & 15) + 9 * (high >> 6)) << 4 | ((low & 15) + 9 * (low >> 6))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hex_64(w: Walker, span: cython.pointer[Span]) -> cython.bint:
    """Read a string of 64 lower-case hex digits."""
    span.at = w.at + 1
    span.size = 64
    if w.end - w.at < 66 or w.text[w.at] != b'"' or w.text[w.at + 65] != b'"' or not _is_hex(w.text + span.at, 64):
        return False
    w.at += 66
    return True


@cython.cfunc
def _bytes(w: Walker, span: Span) -> bytes:
    return PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, w.text + span.at), span.size)


@cython.cfunc
def _text(w: Walker, span: Span) -> str:
    """Raises UnicodeDecodeError for anything but ASCII."""
    return PyUnicode_DecodeASCII(cython.cast(cython.p_const_char, w.text + span.at), span.size, cython.NULL)


@cython.cfunc
def _hash(w: Walker) -> bytes:
    """The payment hash as 32 bytes."""
    out = cython.declare(cython.uchar[32])
    _unhex(w.text + w.payment_hash.at, 64, out)
    return PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, out), 32)


@cython.final
@cython.freelist(64)
@cython.cclass
class Scan:
    """What an htlc_accepted call says. Numbers that are absent read -1, texts that are absent None.

    `id_raw` is the JSON token as received; `next_scid` and `in_scid` are 64-bit numbers; `payment_hash` 32 bytes;
    `payload_hex` still has its length prefix (H1); amounts in msat, cltv in blocks.
    """

    id_raw = cython.declare(bytes, visibility="readonly")
    forward_to = cython.declare(object, visibility="readonly")
    payment_hash = cython.declare(bytes, visibility="readonly")
    in_scid = cython.declare(cython.ulonglong, visibility="readonly")
    htlc_id = cython.declare(cython.ulonglong, visibility="readonly")
    amount_msat = cython.declare(cython.ulonglong, visibility="readonly")
    cltv_expiry = cython.declare(cython.ulonglong, visibility="readonly")
    payload_hex = cython.declare(str, visibility="readonly")
    payment_secret = cython.declare(object, visibility="readonly")
    extra_tlvs = cython.declare(object, visibility="readonly")
    peer_id = cython.declare(object, visibility="readonly")
    _seen: cython.uint
    _next_scid: cython.ulonglong
    _forward_msat: cython.ulonglong
    _outgoing_cltv_value: cython.ulonglong
    _total_msat: cython.ulonglong

    def __init__(
        self,
        *,
        id_raw: bytes,
        next_scid: int,
        forward_to: str | None,
        payment_hash: bytes,
        in_scid: int,
        htlc_id: int,
        amount_msat: int,
        cltv_expiry: int,
        forward_msat: int,
        outgoing_cltv_value: int,
        payload_hex: str,
        total_msat: int,
        payment_secret: str | None,
        extra_tlvs: str | None,
        peer_id: str | None,
    ) -> None:
        """Raises OverflowError for a number outside 64 bits. For calls that `scan` cannot read."""
        self.id_raw = id_raw
        self.forward_to = forward_to
        self.payment_hash = payment_hash
        self.in_scid = in_scid
        self.htlc_id = htlc_id
        self.amount_msat = amount_msat
        self.cltv_expiry = cltv_expiry
        self.payload_hex = payload_hex
        self.payment_secret = payment_secret
        self.extra_tlvs = extra_tlvs
        self.peer_id = peer_id
        self._seen = 0
        if next_scid != -1:
            self._next_scid = next_scid
            self._seen |= NEXT_SCID
        if forward_msat != -1:
            self._forward_msat = forward_msat
            self._seen |= FORWARD_MSAT
        if outgoing_cltv_value != -1:
            self._outgoing_cltv_value = outgoing_cltv_value
            self._seen |= OUTGOING_CLTV
        if total_msat != -1:
            self._total_msat = total_msat
            self._seen |= TOTAL_MSAT

    @property
    def next_scid(self) -> int:
        """The short channel id the onion names, -1 when it names none."""
        return self._next_scid if self._seen & NEXT_SCID else -1

    @property
    def forward_msat(self) -> int:
        """The amount the onion asks to forward, -1 when lightningd could not read it."""
        return self._forward_msat if self._seen & FORWARD_MSAT else -1

    @property
    def outgoing_cltv_value(self) -> int:
        """The expiry the onion asks for, -1 when lightningd could not read it."""
        return self._outgoing_cltv_value if self._seen & OUTGOING_CLTV else -1

    @property
    def total_msat(self) -> int:
        """The payment's total at a final hop, else -1."""
        return self._total_msat if self._seen & TOTAL_MSAT else -1

    def __repr__(self) -> str:
        return f"<Scan {self.id_raw!r} part {self.in_scid}/{self.htlc_id} {self.amount_msat} msat to {self.next_scid}>"


def scan(frame: bytes) -> Scan | None:
    """Read an htlc_accepted request in the usual shape, keys in any order; None for everything else.

    None is no verdict: duplicate keys, escapes, other types, an unusual id, a missing field or bytes behind the
    object only mean that a lenient reader must look. What is returned is what any JSON reader would find.
    """
    w = cython.declare(Walk)
    result: Scan
    _start(cython.address(w), frame, len(frame))
    if not _call(cython.address(w)):
        return None
    result = Scan.__new__(Scan)
    try:
        result.payload_hex = _text(cython.address(w), w.payload)
        result.peer_id = _text(cython.address(w), w.peer_id) if w.seen & PEER_ID else None
        result.payment_secret = _text(cython.address(w), w.secret) if w.seen & SECRET else None
        result.extra_tlvs = _text(cython.address(w), w.extra) if w.seen & EXTRA else None
    except UnicodeDecodeError:
        return None
    result.forward_to = _text(cython.address(w), w.forward_to) if w.seen & FORWARD_TO else None
    result.id_raw = _bytes(cython.address(w), w.id)
    result.payment_hash = _hash(cython.address(w))
    result.in_scid = w.in_scid
    result.htlc_id = w.htlc_id
    result.amount_msat = w.amount_msat
    result.cltv_expiry = w.cltv_expiry
    result._seen = w.seen
    result._next_scid = w.next_scid
    result._forward_msat = w.forward_msat
    result._outgoing_cltv_value = w.outgoing_cltv_value
    result._total_msat = w.total_msat
    return result


def next_hop(frame: bytes) -> tuple[bytes, int, str | None, bytes] | None:
    """Where an htlc_accepted request wants to go: (id_raw, scid or -1, forward_to, payment_hash).

    None under the same conditions as `scan`, except that the texts it leaves aside may be other than ASCII.
    """
    w = cython.declare(Walk)
    _start(cython.address(w), frame, len(frame))
    if not _call(cython.address(w)):
        return None
    return (
        _bytes(cython.address(w), w.id),
        w.next_scid if w.seen & NEXT_SCID else -1,
        _text(cython.address(w), w.forward_to) if w.seen & FORWARD_TO else None,
        _hash(cython.address(w)),
    )


# ---- other frames


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _event_body(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        if _is(w, b"payment_hash", 12):
            good = _once(w, PAYMENT_HASH) and _hex_64(w, cython.address(w.payment_hash))
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _event_params(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    if not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0
        good = _once(w, EVENT) and _event_body(w) if _is(w, b"forward_event", 13) else _skip(w, DEEPEST)
        if not good:
            return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _event(w: Walker) -> cython.bint:
    step: cython.int
    good: cython.bint
    wanted: cython.uint = METHOD | PARAMS | EVENT | PAYMENT_HASH
    if memchr(w.text, b"\\", w.end) != cython.NULL or not _open(w):
        return False
    while True:
        step = _key(w)
        if step <= 0:
            return step == 0 and w.at == w.end and w.seen == wanted
        if _is(w, b"params", 6):
            good = _once(w, PARAMS) and _event_params(w)
        elif _is(w, b"method", 6):
            good = _method(w, b"forward_event", 13)
        elif _is(w, b"id", 2):
            good = False
        else:
            good = _skip(w, DEEPEST)
        if not good:
            return False


def event_hash(frame: bytes) -> bytes | None:
    """The payment hash (32 bytes) of a forward_event notification in the usual shape, None for everything else."""
    w = cython.declare(Walk)
    _start(cython.address(w), frame, len(frame))
    return _hash(cython.address(w)) if _event(cython.address(w)) else None


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _loose_string(w: Walker, span: cython.pointer[Span]) -> cython.bint:
    """Read a string that may hold escapes."""
    if w.at >= w.end or w.text[w.at] != b'"':
        return False
    w.at += 1
    span.at = w.at
    while w.at < w.end and w.text[w.at] != b'"':
        w.at += 2 if w.text[w.at] == b"\\" else 1
    span.size = w.at - span.at
    w.at += 1
    return w.at <= w.end


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _loose_value(w: Walker, token: cython.pointer[Span]) -> cython.bint:
    """Go over any value the way FrameReader does; `token` gets it, quotes included, size 0 for a list or object."""
    place = cython.declare(Place)
    inner = cython.declare(Span)
    token.at = w.at
    token.size = 0
    if w.at >= w.end:
        return False
    if w.text[w.at] == b"{" or w.text[w.at] == b"[":
        place.depth = 1
        place.mode = BETWEEN
        w.at = _advance(w.text, w.at + 1, w.end, cython.address(place))
        return place.depth == 0
    if w.text[w.at] == b'"':
        if not _loose_string(w, cython.address(inner)):
            return False
    else:
        while w.at < w.end and not (
            _is_space(w.text[w.at]) or w.text[w.at] == b"," or w.text[w.at] == b"]" or w.text[w.at] == b"}"
        ):
            w.at += 1
    token.size = w.at - token.at
    return token.size > 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _loose_key(w: Walker) -> cython.int:
    """Like _key, for a frame that may hold escapes."""
    first: cython.bint = w.at == 1
    _space(w)
    if w.at < w.end and w.text[w.at] == b"}":
        w.at += 1
        return 0
    if not first:
        if w.at >= w.end or w.text[w.at] != b",":
            return -1
        w.at += 1
        _space(w)
    if not _loose_string(w, cython.address(w.key)):
        return -1
    _space(w)
    if w.at >= w.end or w.text[w.at] != b":":
        return -1
    w.at += 1
    _space(w)
    return 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _top(w: Walker) -> cython.bint:
    """Find method and id among the outermost keys."""
    token = cython.declare(Span)
    step: cython.int
    if not _open(w):
        return False
    while True:
        step = _loose_key(w)
        if step <= 0:
            return step == 0 and w.at == w.end
        if not _loose_value(w, cython.address(token)):
            return False
        if _is(w, b"method", 6):
            if not _once(w, METHOD):
                return False
            w.method = token
        elif _is(w, b"id", 2):
            if not _once(w, ID):
                return False
            w.id = token


def method_of(frame: bytes) -> tuple[str | None, bytes | None]:
    """The outermost method and the id token of any frame, whatever else is in it.

    (None, None) when the frame is no object or has one of them twice; the method is None when it is no plain
    string; the id is the raw token, None when there is none or it is a list or object.
    """
    w = cython.declare(Walk)
    method: object = None
    _start(cython.address(w), frame, len(frame))
    if not _top(cython.address(w)):
        return None, None
    if w.seen & METHOD and w.method.size >= 2:
        token = _bytes(cython.address(w), w.method)
        if token[:1] == b'"' and b"\\" not in token:
            method = token[1 : len(token) - 1].decode(errors="replace")
    return method, _bytes(cython.address(w), w.id) if w.seen & ID and w.id.size > 0 else None


# ---- the answer every foreign HTLC takes; the others are in _answers


def answer_continue(id_raw: bytes) -> bytes:
    """A whole frame that lets the HTLC go its way. ValueError for an id that cannot be echoed."""
    w = cython.declare(Walk)
    _start(cython.address(w), id_raw, len(id_raw))
    if not _id(cython.address(w)) or w.at != w.end or memchr(w.text, b"\\", w.end) != cython.NULL:
        check_id(id_raw)  # it knows more kinds and says what is wrong
    return b'{"jsonrpc":"2.0","id":' + id_raw + b',"result":{"result":"continue"}}\n\n'
