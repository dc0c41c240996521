"""Proof that an offer is ours: an HMAC over its terms and the client it was made to (bLIP-52 `promise`).

Nothing is stored per offer (P-07): a promise is checked with the key that signed it. Two forms exist. The plain one is
64 hex digits. The other binds a token too, and carries the token's hash after the MAC, because `lsps2.buy` does not
name the token: so a revoked token or a used-up quota also ends the offers made under it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Final

from lsps2fast.errors import ConfigError, ProtocolBug
from lsps2fast.lsps.lsps2 import U32_MAX, U64_MAX, FeeParams

KEY_BYTES: Final = 32
NODE_ID_BYTES: Final = 33
TOKEN_HASH_BYTES: Final = 32

_PLAIN: Final = b"\x01"
_WITH_TOKEN: Final = b"\x02"
_TOKEN_DOMAIN: Final = b"lsps2fast token\x00"
_PROMISE = re.compile("[0-9a-f]{64}(?:[0-9a-f]{64})?")
_KEY = re.compile("[0-9a-fA-F]{64}")


def key_from_hex(text: str) -> bytes:
    """Return the key an operator configured. Raises ConfigError, which never repeats the text (P-05)."""
    if _KEY.fullmatch(text) is None:
        raise ConfigError("the promise secret must be 64 hex digits (32 bytes)")
    return bytes.fromhex(text)


def token_hash(token: str) -> bytes:
    """32 bytes that stand for a token in offers made under it."""
    return hashlib.sha256(_TOKEN_DOMAIN + token.encode("utf-8")).digest()


def canonical(peer_id: bytes, params: FeeParams, token: bytes | None = None) -> bytes:
    """Return what is signed (P-03): version, the client's node id, seven terms in fixed width, and `token_hash` in
    version 2.

    No part has a variable length, so no two offers share these bytes. `peer_id` is the compressed key (33 bytes).
    Raises ProtocolBug for arguments that have no canonical form.
    """
    if len(peer_id) != NODE_ID_BYTES or (token is not None and len(token) != TOKEN_HASH_BYTES):
        raise ProtocolBug("a node id has 33 bytes and a token hash 32")
    if not _has_form(params):
        raise ProtocolBug("these terms do not fit the canonical form")
    terms = (
        (params.min_fee_msat, 8),
        (params.proportional, 8),
        (params.valid_until_ms, 8),
        (params.min_lifetime_blocks, 4),
        (params.max_client_to_self_delay_blocks, 4),
        (params.min_payment_size_msat, 8),
        (params.max_payment_size_msat, 8),
    )
    body = peer_id + b"".join(value.to_bytes(width, "big") for value, width in terms)
    return _PLAIN + body if token is None else _WITH_TOKEN + body + token


def _has_form(params: FeeParams) -> bool:
    """Return the signed bytes of the terms. Raises where a value has none, such as a datetime before 1970."""
    longs = (
        params.min_fee_msat,
        params.proportional,
        params.valid_until_ms,
        params.min_payment_size_msat,
        params.max_payment_size_msat,
    )
    blocks = (params.min_lifetime_blocks, params.max_client_to_self_delay_blocks)
    return all(0 <= value <= U64_MAX for value in longs) and all(0 <= value <= U32_MAX for value in blocks)


def sign(key: bytes, peer_id: bytes, params: FeeParams, token: bytes | None = None) -> str:
    """Return the promise for these terms: 64 hex digits, or 128 when bound to a `token_hash` (P-01 … P-03)."""
    if len(key) != KEY_BYTES:
        raise ProtocolBug("a promise key has 32 bytes")
    mac = hmac.new(key, canonical(peer_id, params, token), hashlib.sha256).hexdigest()
    return mac if token is None else mac + token.hex()


def promised_token(params: FeeParams) -> bytes | None:
    """Return the `token_hash` an offer names, None for a plain one. Believe it only after `verify`."""
    if _PROMISE.fullmatch(params.promise) is None or len(params.promise) == 64:
        return None
    return bytes.fromhex(params.promise[64:])


def verify(keys: Sequence[bytes], peer_id: bytes, params: FeeParams) -> bool:
    """Return true when one of `keys` promised exactly these terms to this client (P-01).

    The time taken depends on the number of keys, not on the promise (P-04): all keys are tried, and texts compared,
    not numbers, so that a promise has one spelling only.
    """
    if _PROMISE.fullmatch(params.promise) is None or not _has_form(params):
        return False
    token = promised_token(params)
    given = params.promise.encode("ascii")
    matches = [hmac.compare_digest(sign(key, peer_id, params, token).encode("ascii"), given) for key in keys]
    return any(matches)


class Keyring:
    """The key that signs, and retired ones that still verify what was issued under them (P-05).

    `retired` pairs a key with the last `valid_until` issued under it, in ms: who stole a retired key cannot promise
    anything beyond that, and once it has passed the key is good for nothing. Not printable on purpose (K-28).
    """

    __slots__ = ("_current", "_retired")

    def __init__(self, current: bytes, retired: Iterable[tuple[bytes, int]] = ()) -> None:
        """Check that every key has 32 bytes. Raises ConfigError."""
        self._current = current
        self._retired = tuple(retired)
        if any(len(key) != KEY_BYTES for key in (current, *(key for key, _ in self._retired))):
            raise ConfigError("a promise key must have 32 bytes")

    def sign(self, peer_id: bytes, params: FeeParams, token: bytes | None = None) -> FeeParams:
        """Return the entry with its promise under the current key."""
        return params.with_promise(sign(self._current, peer_id, params, token))

    def verify(self, peer_id: bytes, params: FeeParams) -> bool:
        """`verify` with the current key and those retired keys that may have issued such a `valid_until`."""
        keys = [key for key, last_ms in self._retired if params.valid_until_ms <= last_ms]
        return verify([self._current, *keys], peer_id, params)
