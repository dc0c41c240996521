"""LSPS5 (bLIP-55), sans-I/O: webhooks that a client registers, and the signed notifications that are sent there.

Three readers in one module: the LSP, which answers `lsps5.*` and writes notifications; the client, which asks; and
the app developer's server, which gets the notifications and calls `verify_notification`: it needs no node. Keeping
webhooks, signing with the node's key and HTTP are the plugin's. Requirement ids such as N-07 are those of
docs/conformance.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from lsps2fast.errors import Malformed, PeerError, ProtocolBug
from lsps2fast.lsps.lsps0 import MalformedField, invalid_params, parse_json, read_params
from lsps2fast.lsps.lsps2 import U32_MAX, parse_bool, parse_datetime, parse_text

PROTOCOL: Final = 5
SET_WEBHOOK: Final = "lsps5.set_webhook"
LIST_WEBHOOKS: Final = "lsps5.list_webhooks"
REMOVE_WEBHOOK: Final = "lsps5.remove_webhook"

WEBHOOK_REGISTERED: Final = "lsps5.webhook_registered"
PAYMENT_INCOMING: Final = "lsps5.payment_incoming"
EXPIRY_SOON: Final = "lsps5.expiry_soon"
LIQUIDITY_MANAGEMENT_REQUEST: Final = "lsps5.liquidity_management_request"
ONION_MESSAGE_INCOMING: Final = "lsps5.onion_message_incoming"
NOTIFICATIONS: Final = (
    WEBHOOK_REGISTERED,
    PAYMENT_INCOMING,
    EXPIRY_SOON,
    LIQUIDITY_MANAGEMENT_REQUEST,
    ONION_MESSAGE_INCOMING,
)

TIMESTAMP_HEADER: Final = "x-lsps5-timestamp"
SIGNATURE_HEADER: Final = "x-lsps5-signature"
MOST_NAME_BYTES: Final = 64
MOST_URL_CHARACTERS: Final = 1024
HTTPS_PORT: Final = 443


class BadNotification(Malformed):
    """What came to a webhook is no notification of this LSP: answer it with an error, and wake nothing."""

    def __init__(self, why: str) -> None:
        super().__init__(why, 0)

    def __str__(self) -> str:
        return self.why


# --- Errors an LSP answers with ---------------------------------------------------------------------------------------


def too_long() -> PeerError:
    """500: `app_name` or `webhook` is too long."""
    return PeerError(500, "too_long")


def url_parse_error() -> PeerError:
    """501: `webhook` is no URL."""
    return PeerError(501, "url_parse_error")


def unsupported_protocol() -> PeerError:
    """502: a URL, but not of https."""
    return PeerError(502, "unsupported_protocol")


def too_many_webhooks(max_webhooks: int) -> PeerError:
    """503: the client has as many as it may; the bound is in `data`."""
    return PeerError(503, "too_many_webhooks", {"max_webhooks": max_webhooks})


def app_name_not_found() -> PeerError:
    """1010: there is no webhook of that name."""
    return PeerError(1010, "app_name_not_found")


# --- URLs -------------------------------------------------------------------------------------------------------------

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NUMBER = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PCHAR = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})"
_HTTPS = re.compile(
    rf"https://(?P<host>(?:{_NUMBER}\.){{3}}{_NUMBER}|(?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?)"
    rf"(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/{_PCHAR}*)?(?:\?(?P<query>(?:{_PCHAR}|\?)*))?",
    re.IGNORECASE,
)
_MOST_HOST = 253


class WebhookUrl(NamedTuple):
    """An https URL in its parts: `target` is what stands in the request line."""

    host: str
    port: int
    target: str


def parse_url(text: str) -> WebhookUrl:
    """Read a `webhook`: RFC 1738 with the characters of RFC 3986 (N-03). Raises PeerError 500, 501 or 502.

    Names are those of hosts: letters, digits and hyphens, and not numbers in another dress such as 0x7f000001. There
    is no user, no fragment and no IPv6 literal in RFC 1738's http.
    """
    if len(text) > MOST_URL_CHARACTERS:
        raise too_long()
    scheme = _SCHEME.match(text)
    if scheme is None or not text.isascii():
        raise url_parse_error()
    if scheme[1].lower() != "https":
        raise unsupported_protocol()
    found = _HTTPS.fullmatch(text)
    port = HTTPS_PORT if found is None or found["port"] is None else int(found["port"])
    if found is None or len(found["host"]) > _MOST_HOST or not 0 < port < 65536:
        raise url_parse_error()
    query = "" if found["query"] is None else "?" + found["query"]
    return WebhookUrl(found["host"].lower(), port, (found["path"] or "/") + query)


# --- The service's side -----------------------------------------------------------------------------------------------


class WebhookAsk(NamedTuple):
    """What a client asks with `lsps5.set_webhook`."""

    app_name: str
    webhook: str


def parse_set_webhook(params: object) -> WebhookAsk:
    """Read `lsps5.set_webhook`. Raises PeerError -32602, 500, 501 or 502 (N-02, N-03)."""
    known = read_params(params, ("app_name", "webhook"))
    app_name, webhook = _string(known, "app_name"), _string(known, "webhook")
    if name_bytes(app_name) > MOST_NAME_BYTES:
        raise too_long()
    parse_url(webhook)
    return WebhookAsk(app_name, webhook)


def parse_list_webhooks(params: object) -> None:
    """`lsps5.list_webhooks` knows no parameters. Raises PeerError -32602."""
    read_params(params, ())


def parse_remove_webhook(params: object) -> str:
    """Return the `app_name` of `lsps5.remove_webhook`. Raises PeerError -32602.

    A name that is too long is none that was registered.
    """
    return _string(read_params(params, ("app_name",)), "app_name")


def name_bytes(app_name: str) -> int:
    """Return how long a name is: its UTF-8, where what JSON must escape counts as it is written (N-02)."""
    return len(msgspec.json.encode(app_name)) - 2


def set_result(num_webhooks: int, max_webhooks: int, no_change: bool) -> dict[str, Any]:
    """Return what a service answers to `lsps5.set_webhook`."""
    return {"num_webhooks": num_webhooks, "max_webhooks": max_webhooks, "no_change": no_change}


def list_result(app_names: list[str], max_webhooks: int) -> dict[str, Any]:
    """Return what a service answers to `lsps5.list_webhooks`."""
    return {"app_names": app_names, "max_webhooks": max_webhooks}


def _string(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if type(value) is not str:
        raise invalid_params()
    return value


# --- The client's side ------------------------------------------------------------------------------------------------


class SetResult(NamedTuple):
    """What an LSP answered to `lsps5.set_webhook`."""

    num_webhooks: int
    max_webhooks: int
    no_change: bool


class ListResult(NamedTuple):
    """What an LSP answered to `lsps5.list_webhooks`."""

    app_names: tuple[str, ...]
    max_webhooks: int


def parse_set_result(result: Mapping[str, Any]) -> SetResult:
    """Read an answer; unknown members are ignored (T-25). Raises MalformedField."""
    return SetResult(
        _count(result, "num_webhooks"), _count(result, "max_webhooks"), parse_bool(result.get("no_change"), "no_change")
    )


def parse_list_result(result: Mapping[str, Any]) -> ListResult:
    """Read an answer; unknown members are ignored (T-25). Raises MalformedField."""
    names = result.get("app_names")
    if type(names) is not list:
        raise MalformedField("app_names", "not an array")
    return ListResult(tuple(parse_text(name, "app_names") for name in names), _count(result, "max_webhooks"))


def _count(result: Mapping[str, Any], name: str) -> int:
    value = result.get(name)
    if type(value) is not int or not 0 <= value <= U32_MAX:
        raise MalformedField(name, "not an integer from 0 to 2^32-1")
    return value


# --- Notifications ----------------------------------------------------------------------------------------------------

_ZBASE32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_ZBASE32_VALUE: Final = {letter: value for value, letter in enumerate(_ZBASE32)}
_SIGNATURE_BYTES: Final = 65
_SIGNATURE_LETTERS: Final = 104  # 65 bytes are 520 bits, five in a letter
_FIRST_BYTE: Final = 31  # of a signature, plus the recovery id (LSPS0.ln_signature)
_MAGIC: Final = b"Lightning Signed Message:"
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|\+00:00)")
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0  # of secp256k1


class WebhookNotification(NamedTuple):
    """A notification whose signature is the LSP's.

    `id` is the same for the same notification sent twice, also with the signature in another spelling: a receiver
    that remembers the last ones knows a replay. `known`: it is one of the five of bLIP-55; ignore any other (N-13).
    """

    method: str
    params: dict[str, Any]
    sent_ms: int
    id: str
    known: bool

    @property
    def timeout_block(self) -> int | None:
        """Of `lsps5.expiry_soon`: the height at which the LSP would have to close the channel; else None."""
        timeout = self.params.get("timeout")
        good = self.method == EXPIRY_SOON and type(timeout) is int and 0 <= timeout <= U32_MAX
        return timeout if good else None


def encode_notification(method: str, timeout: int | None = None) -> str:
    """Return the body of a notification, to the byte what is signed and sent (N-10).

    `timeout` is the block height of `lsps5.expiry_soon`. Raises ProtocolBug for what bLIP-55 does not know.
    """
    if method not in NOTIFICATIONS or (method == EXPIRY_SOON) != (timeout is not None):
        raise ProtocolBug(f"{method} with timeout {timeout} is no notification of bLIP-55")
    params = {} if timeout is None else {"timeout": timeout}
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params}).decode()


def signed_text(timestamp: str, body: str) -> str:
    """Return the text that the LSP's node signs: lightningd's `signmessage` takes it, its `zbase` is sent (N-11)."""
    return f"LSPS5: DO NOT SIGN THIS MESSAGE MANUALLY: LSP: At {timestamp} I notify {body}"


def verify_notification(
    lsp_id: bytes | str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_ms: int | None = None,
    most_age_ms: int = 600_000,
) -> WebhookNotification:
    """Return the notification that this LSP signed (N-12). Raises BadNotification, whatever came.

    `lsp_id` is the node id that your URL or its token stands for, `headers` are those of the request, in any case of
    letters. With `now_ms` (UTC since 1970) a notification is refused that was signed more than `most_age_ms` before
    or after. Signatures of lightningd, LND, eclair and LDK have the same form; a timestamp that ends in `+00:00` in
    place of `Z`, as LDK writes it, is taken, too, for the signature is over the text as it was sent.
    """
    timestamp, signature = _header(headers, TIMESTAMP_HEADER), _header(headers, SIGNATURE_HEADER)
    if _TIMESTAMP.fullmatch(timestamp) is None:
        raise BadNotification(f"{TIMESTAMP_HEADER} is no datetime in UTC")
    try:
        sent_ms = parse_datetime(timestamp.replace("+00:00", "Z"))
        content = parse_json(body)
        text = body.decode("utf-8")
    except Malformed as error:
        raise BadNotification(str(error)) from error
    method, params = content.get("method"), content.get("params", {})
    if content.get("jsonrpc") != "2.0" or type(method) is not str or type(params) is not dict or "id" in content:
        raise BadNotification("not a JSON-RPC 2.0 notification with parameters by name")
    message = _MAGIC + signed_text(timestamp, text).encode()
    if _signer(message, signature) != (bytes.fromhex(lsp_id) if isinstance(lsp_id, str) else lsp_id):
        raise BadNotification("not signed by this LSP")
    if now_ms is not None and abs(now_ms - sent_ms) > most_age_ms:
        raise BadNotification("too old, or from the future")
    digest = hashlib.sha256(message).hexdigest()
    return WebhookNotification(method, params, sent_ms, digest, method in NOTIFICATIONS)


def _header(headers: Mapping[str, str], name: str) -> str:
    found = [value for key, value in headers.items() if key.lower() == name]
    if len(found) != 1:
        raise BadNotification(f"{name} must be there once")
    return found[0]


def _signer(message: bytes, signature: str) -> bytes | None:
    """Return who signed a message, None where no key did: LSPS0.ln_signature, whose zbase32 has no padding."""
    if len(signature) != _SIGNATURE_LETTERS:
        return None
    number = 0
    for letter in signature:
        number = number << 5 | _ZBASE32_VALUE.get(letter, 1 << 600)
    if number >> 8 * _SIGNATURE_BYTES:
        return None
    raw = number.to_bytes(_SIGNATURE_BYTES, "big")
    recovery = raw[0] - _FIRST_BYTE
    if not 0 <= recovery < 4 or int.from_bytes(raw[33:], "big") > _HALF_ORDER:
        return None
    from coincurve import PublicKey  # a service that calls no webhooks needs no curve

    digest = hashlib.sha256(hashlib.sha256(message).digest()).digest()
    try:
        key = PublicKey.from_signature_and_message(raw[1:] + bytes([recovery]), digest, hasher=None)
    except Exception:  # coincurve raises bare Exception and ValueError
        return None
    signer: bytes = key.format()
    return signer
