"""Where one JSON object ends and the next begins on a byte stream: by structure, as lightningd finds it (cln:W9)."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

# whole strings and brackets; a lone quote is a string whose end has not come yet
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]"]', re.DOTALL)
_OPEN = frozenset(b"{[")
_WHITE = b" \t\r\n"


class BadFrame(ValueError):
    """The stream is no sequence of JSON objects; lightningd closes it or kills the plugin."""


class Splitter:
    """`feed()` gives back the whole objects that are complete now; linear in what comes in."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # everything before is already tokenised
        self._depth = 0

    def feed(self, data: bytes) -> list[bytes]:
        if not self._buffer and _is_one_object(data):
            return [data.strip(_WHITE)]
        self._buffer += data
        buffer = self._buffer
        frames: list[bytes] = []
        begin, at, depth = 0, self._at, self._depth
        for token in _TOKEN.finditer(buffer, at):
            first = buffer[token.start()]
            if first == 0x22:
                if token.end() - token.start() == 1:  # unfinished string: look again with more data
                    break
                at = token.end()
                continue
            at = token.end()
            depth += 1 if first in _OPEN else -1
            if depth < 0:
                raise BadFrame("a closing bracket without an opening one")
            if depth == 0:
                frames.append(bytes(buffer[begin:at]).lstrip(_WHITE))
                if frames[-1][:1] != b"{":
                    raise BadFrame("not a JSON object")
                begin = at
        del buffer[:begin]
        self._at, self._depth = at - begin, depth
        if depth == 0 and buffer.strip(_WHITE):
            raise BadFrame("bytes between objects")
        return frames


def _is_one_object(data: bytes) -> bool:
    """Return whether it is a whole object and nothing else, as it mostly is: read in C, and kept by nothing."""
    if data[:1] != b"{":
        return False
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def parse(frame: bytes) -> dict[str, Any]:
    """Decode one frame; raw control characters inside strings are allowed (cln:W9). Raises BadFrame."""
    try:
        value = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            value = json.loads(frame.decode("utf-8", "surrogateescape"), strict=False)
        except (ValueError, RecursionError) as error:
            raise BadFrame(str(error)) from None
    if not isinstance(value, dict):
        raise BadFrame("not a JSON object")
    return value


def raw_member(frame: bytes, name: str) -> bytes | None:
    """Return the bytes of a top-level member exactly as they came: what is passed on verbatim (cln:W9)."""
    depth, key, begin = 0, b"", -1
    last_string = b""
    wanted = name.encode()
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', frame, re.DOTALL):
        sign = token.group()
        if sign[:1] == b'"':
            last_string = sign[1:-1]
        elif sign in (b"{", b"["):
            depth += 1
        elif sign in (b"}", b"]"):
            depth -= 1
            if depth == 0 and begin >= 0 and key == wanted:
                return frame[begin : token.start()].strip()
        elif depth == 1 and sign == b":":
            key, begin = last_string, token.end()
        elif depth == 1 and sign == b",":
            if begin >= 0 and key == wanted:
                return frame[begin : token.start()].strip()
            begin = -1
    return None


class Kept(dict[str, Any]):
    """A row that is listed again as long as nothing of it has changed; who got it may not change it."""

    __slots__ = ("raw",)

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.raw = msgspec.Raw(msgspec.json.encode(row))

    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError(f"{name} of a row that is listed again")


def encode_answer(body: dict[str, Any]) -> bytes:
    """One frame with the answer to a call; rows of a table that are kept are bytes already."""
    result = body.get("result")
    if isinstance(result, dict):
        body = body | {"result": {name: _packed(member) for name, member in result.items()}}
    return encode(body)


def _packed(member: Any) -> Any:
    return [row.raw if type(row) is Kept else row for row in member] if type(member) is list else member


def encode(message: dict[str, Any]) -> bytes:
    """One frame as lightningd writes it: compact, ended by an empty line."""
    return msgspec.json.encode(message) + b"\n\n"
