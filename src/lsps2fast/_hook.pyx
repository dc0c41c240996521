# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames from lightningd: where one ends, what an `htlc_accepted` call says, and the bytes of its answer.

Buffers in, buffers out; this module knows no file descriptor and no lock. The end of a frame is found by structure
from a known start, the way lightningd's own tokenizer (jsmn, strict) reads: a caller of our methods can put raw line
feeds into a string and quotes into a number, and lightningd passes both on as they are (cln:W9). Nothing
here searches for a line feed, and a stream that stops making sense is never picked up again.

The reading is in `_scan.pyx`, in C; here is what Python sees of it. `_hook_py.py` is the
interpreted twin with the same names; a differential test holds the two equal.
"""

import cython
import cython.cimports.lsps2fast._scan as c
import cython.cimports.lsps2fast._walk as t
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.string import memchr
from cython.cimports.lsps2fast._bytes import unhex

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

MAX_FRAME = 16 * 1024 * 1024  # bytes; the longest call lightningd sends is far below


@cython.final
@cython.cclass
class FrameReader:
    """Cuts a byte stream into JSON objects.

    `feed` takes the next bytes and returns the frames they complete, each from its `{` to its `}`. Where the stream
    makes no sense (a byte between frames that is neither white space nor `{`, an object closed by `]`, a frame above
    `max_frame` bytes) the frames before that place are still returned; from then on `lost` is true and every call
    raises MalformedFrame. How the stream was split into calls makes no difference.

    `on_call` is told of each call that `next_hop` can read, with what that returns, also when `feed` then raises; when
    it says True the frame is dealt with and not returned. Without it a frame above MAX_FRAME is a bytearray, uncopied.
    """

    _on_call: object
    _held: bytearray
    _place: c.Place
    _max: cython.Py_ssize_t
    _passed: cython.Py_ssize_t
    _error: object

    def __init__(self, max_frame: cython.Py_ssize_t = 16 * 1024 * 1024, on_call: object = None) -> None:
        self._on_call = on_call
        self._held = bytearray()
        self._place.depth = 0
        self._place.mode = c.BETWEEN
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
        """Return the frames completed by `data`. Raises MalformedFrame when the stream is lost and no frame is left."""
        frames: list = []
        if self._error is None:
            self._cut(data, frames)
        if self._error is not None and not frames:
            raise self._error
        return frames

    @cython.cfunc
    @cython.exceptval(check=True)
    def _cut(self, data: bytes, frames: list) -> cython.void:
        text: t.Text = data
        end: cython.Py_ssize_t = len(data)
        at: cython.Py_ssize_t = 0
        start: cython.Py_ssize_t = 0
        while at < end:
            if self._place.depth == 0:
                if t.is_space(text[at]):
                    at += 1
                    continue
                if text[at] != b"{":
                    self._lose("neither white space nor the start of an object", at)
                    return
                start = at
                at += 1
                self._place.depth = 1
                self._place.mode = c.BETWEEN
            at = c.advance(text, at, end, cython.address(self._place))
            if len(self._held) + (at - start) > self._max:
                self._lose(f"a frame above {self._max} bytes", start - len(self._held))
                return
            if self._place.depth > 0:
                break
            if text[at - 1] != b"}":
                self._lose("an object closed by the wrong bracket", at - 1)
                return
            if self._held:
                self._held += data[start:at]
                whole: object = self._held
                self._held = bytearray()
                if len(whole) > MAX_FRAME and self._on_call is None:
                    frames.append(whole)
                else:
                    self._add(bytes(whole), frames)
            else:
                self._add(data[start:at], frames)
            start = at
        if self._place.depth > 0:
            self._held += data[start:]
        self._passed += end

    @cython.cfunc
    @cython.exceptval(check=True)
    def _add(self, frame: bytes, frames: list) -> cython.void:
        hop: object = None if self._on_call is None else next_hop(frame)
        if hop is None or not self._on_call(*hop):
            frames.append(frame)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _lose(self, why: str, at: cython.Py_ssize_t) -> cython.void:
        self._error = MalformedFrame(why, self._passed + at)


@cython.cfunc
def _text(w: cython.pointer[t.Walk], span: t.Span) -> bytes:
    return PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, w.text + span.at), span.size)


@cython.cfunc
def _hash(w: cython.pointer[t.Walk]) -> bytes:
    """Return the payment hash as 32 bytes."""
    out = cython.declare(cython.uchar[32])
    unhex(w.text + w.payment_hash.at, 64, out)
    return PyBytes_FromStringAndSize(cython.cast(cython.p_const_char, out), 32)


@cython.cfunc
@cython.exceptval(check=False)
def _all_ascii(w: cython.pointer[t.Walk]) -> cython.bint:
    """Return whether the texts of a call are ASCII; reading lets other bytes pass."""
    return (
        t.is_ascii(w, w.payload)
        and (not w.seen & t.PEER_ID or t.is_ascii(w, w.peer_id))
        and (not w.seen & t.SECRET or t.is_ascii(w, w.secret))
        and (not w.seen & t.EXTRA or t.is_ascii(w, w.extra))
    )


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.cclass
class Scan:
    """What an htlc_accepted call says. Numbers that are absent read -1, texts that are absent None.

    `id_raw` is the JSON token as received; `next_scid` and `in_scid` are 64-bit numbers; `payment_hash` 32 bytes;
    `payload_hex` still has its length prefix (cln:H1); amounts in msat, cltv in blocks.
    """

    id_raw = cython.declare(bytes, visibility="readonly")
    forward_to = cython.declare(str, visibility="readonly")
    payment_hash = cython.declare(bytes, visibility="readonly")
    in_scid = cython.declare(cython.ulonglong, visibility="readonly")
    htlc_id = cython.declare(cython.ulonglong, visibility="readonly")
    amount_msat = cython.declare(cython.ulonglong, visibility="readonly")
    cltv_expiry = cython.declare(cython.ulonglong, visibility="readonly")
    payload_hex = cython.declare(str, visibility="readonly")
    payment_secret = cython.declare(str, visibility="readonly")
    extra_tlvs = cython.declare(str, visibility="readonly")
    peer_id = cython.declare(str, visibility="readonly")
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
        """Make a call that `scan` cannot read, from its numbers. Raises OverflowError for one outside 64 bits."""
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
            self._seen |= t.NEXT_SCID
        if forward_msat != -1:
            self._forward_msat = forward_msat
            self._seen |= t.FORWARD_MSAT
        if outgoing_cltv_value != -1:
            self._outgoing_cltv_value = outgoing_cltv_value
            self._seen |= t.OUTGOING_CLTV
        if total_msat != -1:
            self._total_msat = total_msat
            self._seen |= t.TOTAL_MSAT

    @property
    def next_scid(self) -> int:
        """The short channel id the onion names, -1 when it names none."""
        return self._next_scid if self._seen & t.NEXT_SCID else -1

    @property
    def forward_msat(self) -> int:
        """The amount the onion asks to forward, -1 when lightningd could not read it."""
        return self._forward_msat if self._seen & t.FORWARD_MSAT else -1

    @property
    def outgoing_cltv_value(self) -> int:
        """The expiry the onion asks for, -1 when lightningd could not read it."""
        return self._outgoing_cltv_value if self._seen & t.OUTGOING_CLTV else -1

    @property
    def total_msat(self) -> int:
        """The payment's total at a final hop, else -1."""
        return self._total_msat if self._seen & t.TOTAL_MSAT else -1

    def __repr__(self) -> str:
        return f"<Scan {self.id_raw!r} part {self.in_scid}/{self.htlc_id} {self.amount_msat} msat to {self.next_scid}>"


def scan(frame: bytes) -> Scan | None:
    """Read an htlc_accepted request in the usual shape, keys in any order; None for everything else.

    None is no verdict: duplicate keys, escapes, other types, an unusual id, a missing field or bytes behind the
    object only mean that a lenient reader must look. What is returned is what any JSON reader would find.
    """
    w = cython.declare(t.Walk)
    result: Scan
    t.start(cython.address(w), frame, len(frame))
    if not c.call(cython.address(w)):
        return None
    if not _all_ascii(cython.address(w)):
        return None
    result = Scan.__new__(Scan)
    result.payload_hex = t.ascii(cython.address(w), w.payload)
    if w.seen & t.PEER_ID:
        result.peer_id = t.ascii(cython.address(w), w.peer_id)
    if w.seen & t.SECRET:
        result.payment_secret = t.ascii(cython.address(w), w.secret)
    if w.seen & t.EXTRA:
        result.extra_tlvs = t.ascii(cython.address(w), w.extra)
    if w.seen & t.FORWARD_TO:
        result.forward_to = t.ascii(cython.address(w), w.forward_to)
    result.id_raw = _text(cython.address(w), w.id)
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


def next_hop(frame: bytes) -> tuple[bytes, int, str | None, bytes, bool] | None:
    """Return where an htlc_accepted request goes: (id_raw, scid or -1, forward_to, payment_hash, has extra_tlvs).

    None under the same conditions as `scan`, except that the texts it leaves aside may be other than ASCII.
    """
    w = cython.declare(t.Walk)
    t.start(cython.address(w), frame, len(frame))
    if not c.call_way(cython.address(w)):
        return None
    return (
        _text(cython.address(w), w.id),
        w.next_scid if w.seen & t.NEXT_SCID else -1,
        t.ascii(cython.address(w), w.forward_to) if w.seen & t.FORWARD_TO else None,
        _hash(cython.address(w)),
        w.seen & t.EXTRA != 0,
    )


# ---- other frames


def event_hash(frame: bytes) -> bytes | None:
    """Return the payment hash (32 bytes) of a forward_event in the usual shape, None for everything else."""
    w = cython.declare(t.Walk)
    t.start(cython.address(w), frame, len(frame))
    return _hash(cython.address(w)) if c.forward_event(cython.address(w)) else None


def method_of(frame: bytes) -> tuple[str | None, bytes | None]:
    """Return the outermost method and the id token of any frame, whatever else is in it.

    (None, None) when the frame is no object or has one of them twice; the method is None when it is no plain
    string; the id is the raw token, None when there is none or it is a list or object.
    """
    w = cython.declare(t.Walk)
    method: object = None
    t.start(cython.address(w), frame, len(frame))
    if not c.top(cython.address(w)):
        return None, None
    if w.seen & t.METHOD and w.method.size >= 2:
        token = _text(cython.address(w), w.method)
        if token[:1] == b'"' and b"\\" not in token:
            method = token[1 : len(token) - 1].decode(errors="replace")
    return method, _text(cython.address(w), w.id) if w.seen & t.ID and w.id.size > 0 else None


def objects(frame: bytes | bytearray, at: cython.Py_ssize_t) -> object:
    """Yield the bytes of each object of a list whose `[` is right before `at`, one at a time: a long one in pieces.

    Raises MalformedFrame where something else stands in the list, or its end is missing.
    """
    place = cython.declare(c.Place)
    text: t.Text = frame
    end: cython.Py_ssize_t = len(frame)
    start: cython.Py_ssize_t
    first: cython.bint = True
    while True:
        while at < end and t.is_space(text[at]):
            at += 1
        if at < end and text[at] == b"]" and first:
            return
        start = at
        if at == end or text[at] != b"{":
            break
        place.depth = 1
        place.mode = c.BETWEEN
        at = c.advance(text, at + 1, end, cython.address(place))
        if place.depth > 0 or text[at - 1] != b"}":
            break
        yield frame[start:at]
        first = False
        while at < end and t.is_space(text[at]):
            at += 1
        if at < end and text[at] == b"]":
            return
        if at == end or text[at] != b",":
            break
        at += 1
    raise MalformedFrame("a list of something else than objects", at)


# ---- the answer every foreign HTLC takes; the others are in _answers


def answer_continue(id_raw: bytes) -> bytes:
    """Return a frame that lets the HTLC go its way. Raises ValueError for an id that cannot be echoed."""
    w = cython.declare(t.Walk)
    t.start(cython.address(w), id_raw, len(id_raw))
    if not t.request_id(cython.address(w)) or w.at != w.end or memchr(w.text, b"\\", w.end) != cython.NULL:
        check_id(id_raw)  # it knows more kinds and says what is wrong
    return b'{"jsonrpc":"2.0","id":' + id_raw + b',"result":{"result":"continue"}}\n\n'
