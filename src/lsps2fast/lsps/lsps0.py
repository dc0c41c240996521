"""LSPS0 (bLIP-50): one JSON-RPC object per peer message, read strictly, written plainly, for both ends.

This module decides whether a payload is a JSON object, a request or a response, and which error answers it. The meaning
of the methods belongs to `lsps2`; how often a peer may ask to `buys`; sending and receiving to the plugin. Requirement
ids such as T-04 are those of docs/conformance.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, NoReturn

import msgspec

from lsps2fast.errors import Malformed, MalformedFrame, PeerError, ProtocolBug

MESSAGE_TYPE: Final = 37913
MESSAGE_TYPE_HEX: Final = "9419"
MAX_PAYLOAD: Final = 65533  # a BOLT 8 message of 65535 bytes less its type (T-30)
MOST_CONTAINERS: Final = 4096  # arrays and objects in a message: Python 3.14 reads 20,000 inside each other
FEATURE_BIT: Final = 729
FEATURE_BITS_HEX: Final = "02" + "00" * 91  # for `featurebits` in lightningd's manifest (T-33)

LIST_PROTOCOLS: Final = "lsps0.list_protocols"

PARSE_ERROR: Final = -32700
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CLIENT_REJECTED: Final = 1

MESSAGE_CAP: Final = 512  # characters of an LSP's error text that we keep (T-21)
REQUEST_TIMEOUT_MS: Final = 60_000  # T-09


class MalformedField(Malformed):
    """A member of a JSON object is missing or breaks its schema: `name`, and `why`."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}", 0)
        self.name = name

    def __str__(self) -> str:
        return self.why


# --- Errors a service answers with ------------------------------------------------------------------------------------


def parse_error() -> PeerError:
    """-32700: not a well-formed LSPS0 request; goes out with id null (T-11)."""
    return PeerError(PARSE_ERROR, "Parse error")


def method_not_found() -> PeerError:
    """-32601 (T-13)."""
    return PeerError(METHOD_NOT_FOUND, "Method not found")


def invalid_params(unrecognized: Iterable[str] = ()) -> PeerError:
    """-32602, which always carries the list of unknown names, empty for any other fault (T-14, T-15)."""
    return PeerError(INVALID_PARAMS, "Invalid params", {"unrecognized": sorted(set(unrecognized))})


def internal_error() -> PeerError:
    """-32603, which says nothing about us (T-18)."""
    return PeerError(INTERNAL_ERROR, "Internal error")


def try_later(text: str) -> PeerError:
    """-32603, for what passes by itself: no coins, a limit, a pause. `text` is for people.

    Without `data`, which LDK reads only when it is a string; code 1 would mean "never" to a wallet.
    """
    return PeerError(INTERNAL_ERROR, text)


def client_rejected(text: str = "Client rejected") -> PeerError:
    """1: we do not serve this client, now or ever; `text` is for people (S-10)."""
    return PeerError(CLIENT_REJECTED, "Client rejected", {"message": text})


# --- Reading JSON -----------------------------------------------------------------------------------------------------

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member name occurs twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    """Legal JSON such as 1e999 would become an infinity, which no encoder may write again."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


# msgspec keeps the last of two members with one name, so the standard decoder does the work.
_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)


def parse_json(payload: bytes) -> dict[str, Any]:
    """Return the one JSON object in `payload` (T-02 … T-04). Raises MalformedFrame, whatever the bytes are.

    Refused beside bad grammar: zero bytes, anything but UTF-8, a byte order mark, duplicate names, lone surrogates,
    NaN and infinities, numbers and nesting beyond what Python reads, more than `MOST_CONTAINERS` arrays and objects,
    more bytes than a peer message has.
    """
    if len(payload) > MAX_PAYLOAD:
        raise MalformedFrame("too long for a peer message", MAX_PAYLOAD)
    if b"\0" in payload:
        raise MalformedFrame("zero byte", payload.index(b"\0"))
    if payload.count(b"[") + payload.count(b"{") > MOST_CONTAINERS:
        raise MalformedFrame("too many arrays and objects", 0)
    try:
        text = payload.decode("utf-8")
        value = _DECODER.decode(text)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFrame("not UTF-8", error.start) from error
    except json.JSONDecodeError as error:
        raise MalformedFrame(error.msg, len(text[: error.pos].encode("utf-8"))) from error
    except UnicodeEncodeError as error:
        raise MalformedFrame("a string holds half a surrogate pair", 0) from error
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(f"unreadable JSON ({error})", 0) from error
    if type(value) is not dict:
        raise MalformedFrame("not a JSON object", 0)
    return value


# --- The service's side -----------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A well-formed request. `params` is as sent; only the method's own reader may look into it (`read_params`)."""

    id: str
    method: str
    params: object


def decode_request(payload: bytes) -> Request | None:
    """Return the request in a peer's message; None means: stay silent.

    Silence is for responses, else two services would answer each other's errors for ever (T-12). Raises PeerError
    -32700 for all that is neither, to be answered with id null (T-11).
    """
    try:
        message = parse_json(payload)
    except MalformedFrame as error:
        raise parse_error() from error
    if "method" not in message and ("result" in message or "error" in message):
        return None
    request_id, method = message.get("id"), message.get("method")
    if message.get("jsonrpc") != "2.0" or type(request_id) is not str or type(method) is not str:
        raise parse_error()
    return Request(request_id, method, message.get("params", {}))


def read_params(params: object, known: Collection[str]) -> dict[str, Any]:
    """`params` as an object whose names are all in `known`. Raises PeerError -32602 (T-14, T-15)."""
    if type(params) is not dict:
        raise invalid_params()
    unknown = params.keys() - known
    if unknown:
        raise invalid_params(unknown)
    return params


def encode_result(request_id: str, result: dict[str, Any]) -> bytes:
    """Return the answer to a request; one that no peer message can hold becomes -32603 (T-10, T-30)."""
    payload = _encode({"jsonrpc": "2.0", "id": request_id, "result": result})
    return payload if len(payload) <= MAX_PAYLOAD else encode_error(request_id, internal_error())


def encode_error(request_id: str | None, error: PeerError) -> bytes:
    """Return the answer to a request that failed, `data` only when the error has any (T-20).

    An error too large for a peer message becomes -32603, and one whose id alone fills it -32700 with id null.
    """
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    payload = _encode({"jsonrpc": "2.0", "id": request_id, "error": body})
    if len(payload) <= MAX_PAYLOAD:
        return payload
    if error.code == INTERNAL_ERROR:
        return encode_error(None, parse_error())
    return encode_error(request_id, internal_error())


def parse_list_protocols(params: object) -> None:
    """`lsps0.list_protocols` knows no parameters. Raises PeerError -32602 (T-14)."""
    read_params(params, ())


def protocols_result(protocols: Sequence[int] = (2,)) -> dict[str, Any]:
    """Return what a service answers to `lsps0.list_protocols` (T-34)."""
    return {"protocols": list(protocols)}


def _encode(message: dict[str, Any]) -> bytes:
    """UTF-8 without needless escapes (T-31). Raises ProtocolBug for what JSON cannot say."""
    try:
        return msgspec.json.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolBug(f"not to be written as JSON: {error}") from error


# --- The client's side ------------------------------------------------------------------------------------------------

ErrorName = Literal[
    "parse_error",
    "invalid_request",
    "method_not_found",
    "invalid_params",
    "internal_error",
    "client_rejected",
    "unrecognized_or_stale_token",
    "invalid_opening_fee_params",
    "payment_size_too_small",
    "payment_size_too_large",
    "too_long",
    "url_parse_error",
    "unsupported_protocol",
    "too_many_webhooks",
    "app_name_not_found",
    "unrecognized",
]

_ERROR_NAMES: Final[dict[int, ErrorName]] = {
    PARSE_ERROR: "parse_error",
    -32600: "invalid_request",
    METHOD_NOT_FOUND: "method_not_found",
    INVALID_PARAMS: "invalid_params",
    INTERNAL_ERROR: "internal_error",
    CLIENT_REJECTED: "client_rejected",
    200: "unrecognized_or_stale_token",
    201: "invalid_opening_fee_params",
    202: "payment_size_too_small",
    203: "payment_size_too_large",
    500: "too_long",
    501: "url_parse_error",
    502: "unsupported_protocol",
    503: "too_many_webhooks",
    1010: "app_name_not_found",
}

# Characters that must not reach a log or a terminal: `<`, both blocks of control characters, the two line ends (T-21).
_UNSHOWN = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), ord("<"), 0x2028, 0x2029])


class RemoteError(NamedTuple):
    """An error the LSP answered with. `name` is what the code means to us; `message` is clean enough for a log."""

    code: int
    name: ErrorName
    message: str
    data: Any


class Reply(NamedTuple):
    """A well-formed response: exactly one of `result` and `error`. Only a -32700 may come without an id."""

    id: str | None
    result: dict[str, Any] | None
    error: RemoteError | None


class Notice(NamedTuple):
    """A notification. LSPS0 and LSPS2 define none: ignore it, and log it (T-26)."""

    method: str


def clean_message(text: str) -> str:
    """Return an LSP's text without control characters, line ends and `<`, at most 512 characters (T-21)."""
    return text[: 8 * MESSAGE_CAP].translate(_UNSHOWN)[:MESSAGE_CAP]


def encode_request(request_id: str, method: str, params: dict[str, Any]) -> bytes:
    """Return a request by name (T-05, T-06). `request_id` must be fresh and hard to guess (T-07).

    Raises ProtocolBug when it does not fit a peer message.
    """
    payload = _encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolBug(f"a request of {len(payload)} bytes does not fit a peer message")
    return payload


def decode_response(payload: bytes) -> Reply | Notice | None:
    """Return what an LSP sent us; None is a request, which concerns the service of this node, if it has one (T-39).

    Raises MalformedFrame for anything else: ignore it and leave the peer alone until it reconnects (T-24).
    """
    message = parse_json(payload)
    if message.get("jsonrpc") != "2.0":
        raise MalformedFrame("jsonrpc is not 2.0", 0)
    if "method" in message:
        if type(message["method"]) is not str:
            raise MalformedFrame("method is not a string", 0)
        return None if "id" in message else Notice(message["method"])
    reply_id = message.get("id", 0)
    if reply_id is not None and type(reply_id) is not str:
        raise MalformedFrame("id is neither a string nor null", 0)
    if ("result" in message) == ("error" in message):
        raise MalformedFrame("not exactly one of result and error", 0)
    if "error" in message:
        return Reply(reply_id, None, _read_error(message["error"]))
    if type(message["result"]) is not dict:
        raise MalformedFrame("result is not an object", 0)
    return Reply(reply_id, message["result"], None)


def _read_error(error: object) -> RemoteError:
    code = error.get("code") if type(error) is dict else None
    message = error.get("message") if type(error) is dict else None
    if type(error) is not dict or type(code) is not int or type(message) is not str:
        raise MalformedFrame("error is not an object of code and message", 0)
    data = error.get("data")
    return RemoteError(code, error_name(code, data), clean_message(message), data)


def error_name(code: int, data: object = None) -> ErrorName:
    """Return what an error code means; "unrecognized" when we do not know, or its promised data is missing (T-19,
    T-23).
    """
    name = _ERROR_NAMES.get(code)
    if name is None:
        return "internal_error" if -32099 <= code <= -32000 else "unrecognized"
    if code == INVALID_PARAMS and not (type(data) is dict and type(data.get("unrecognized")) is list):
        return "unrecognized"
    if code == CLIENT_REJECTED and not (type(data) is dict and type(data.get("message")) is str):
        return "unrecognized"
    return name


def parse_protocols(result: object) -> tuple[int, ...]:
    """Return the protocols an LSP speaks: integers from 1, of any size (T-35). Raises MalformedField."""
    protocols = result.get("protocols") if type(result) is dict else None
    if type(protocols) is not list or not all(type(number) is int and number >= 1 for number in protocols):
        raise MalformedField("protocols", "not an array of positive integers")
    return tuple(protocols)


class Dropped(NamedTuple):
    """A message that answers nothing we asked: `why`, for the log. `muted`: leave the peer alone until it returns."""

    why: str
    muted: bool


class OpenRequests:
    """Which requests wait for an answer, by peer and id, and which peers are muted.

    An answer counts only from the peer that was asked (T-08) and once. Memory is that of the caller's own requests;
    a muted peer costs one entry until it leaves or reconnects.
    """

    def __init__(self, timeout_ms: int = REQUEST_TIMEOUT_MS) -> None:
        self._timeout_ms = timeout_ms
        self._due_ms: dict[tuple[str, str], int] = {}
        self._muted: set[str] = set()

    def __len__(self) -> int:
        return len(self._due_ms)

    def is_muted(self, peer_id: str) -> bool:
        """Return true after the peer sent something that is no LSPS0 message (T-24)."""
        return peer_id in self._muted

    def open(self, peer_id: str, request_id: str, now_ms: int) -> None:
        """Await an answer. Raises ProtocolBug for an id in use, or a muted peer: ask `is_muted` first."""
        if peer_id in self._muted:
            raise ProtocolBug("the peer is muted until it reconnects")
        if (peer_id, request_id) in self._due_ms:
            raise ProtocolBug("request ids must be fresh")
        self._due_ms[peer_id, request_id] = now_ms + self._timeout_ms

    def receive(self, peer_id: str, payload: bytes) -> Reply | Dropped | None:
        """Return a message of type 37913.

        A Reply has an id and answers an open request; None is not ours to judge (T-39).
        """
        try:
            message = decode_response(payload)
        except MalformedFrame as error:
            self._muted.add(peer_id)
            return Dropped(str(error), True)
        if message is None:
            return None
        if isinstance(message, Notice):
            return Dropped(f"unknown notification {clean_message(message.method)}", False)
        if message.id is None:
            return Dropped(f"a response to no request: {message.error}", False)
        if self._due_ms.pop((peer_id, message.id), None) is None:
            return Dropped("a response to a request that is not open", False)
        return message

    def close(self, peer_id: str, request_id: str) -> bool:
        """Forget a request (the caller gave up). False when it was not open."""
        return self._due_ms.pop((peer_id, request_id), None) is not None

    def expired(self, now_ms: int) -> list[tuple[str, str]]:
        """Forget and return the requests that waited too long, as (peer_id, request id) (T-09)."""
        late = [key for key, due_ms in self._due_ms.items() if due_ms <= now_ms]
        for key in late:
            del self._due_ms[key]
        return late

    def mute(self, peer_id: str) -> None:
        """Leave a peer alone until it reconnects: it sent more than can be an answer."""
        self._muted.add(peer_id)

    def unmute(self, peer_id: str) -> None:
        """Note that the peer connected or went away: it may be spoken to when it is there again (T-24)."""
        self._muted.discard(peer_id)
