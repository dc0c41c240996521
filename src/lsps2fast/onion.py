"""BOLT 4 onions: Sphinx packets, what each hop sees of them, and the failures that travel back.

Payers and clients of the embedded node use this; the service itself never opens an onion, lightningd does. Curve
arithmetic is coincurve's, the cipher is ChaCha20 with a zero nonce, which is safe because no key is used twice.
Blinded paths are not handled here.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedOnion, MalformedTlv

PACKET_LENGTH: Final = 1366
_POINT_AT: Final = 1
_PAYLOADS_AT: Final = 34
_MAC_AT: Final = 1334
_PAYLOADS: Final = 1300
_MAC: Final = 32
_NO_MAC: Final = bytes(_MAC)  # marks the final hop
_NONCE: Final = bytes(16)  # cryptography wants the block counter in front of BOLT 4's 96-bit nonce
_FAILURE_AND_PAD: Final = 256


class Peeled(NamedTuple):
    """One hop's view: its payload with the length prefix, the packet to pass on (None at the final hop), and
    the secret it shares with the payer."""

    payload: bytes
    next_packet: bytes | None
    shared_secret: bytes


def hop_payload(
    amt_to_forward_msat: int,
    outgoing_cltv_value: int,
    short_channel_id: int | None = None,
    payment_secret: bytes | None = None,
    total_msat: int | None = None,
) -> bytes:
    """Return one hop's payload with its length prefix.

    A forwarding hop gets `short_channel_id`, the final one `payment_secret` and the payment's `total_msat` (its own
    amount when left out). Raises MalformedTlv for numbers outside u64 (the expiry: u32).
    """
    records = [(2, tlv.encode_tu(amt_to_forward_msat)), (4, tlv.encode_tu(outgoing_cltv_value, 4))]
    if short_channel_id is not None:
        records.append((6, tlv.encode_tu(short_channel_id).rjust(8, b"\x00")))
    if payment_secret is not None:
        total = amt_to_forward_msat if total_msat is None else total_msat
        records.append((8, payment_secret + tlv.encode_tu(total)))
    stream = tlv.write_stream(records)
    return tlv.encode_bigsize(len(stream)) + stream


# ---------------------------------------------------------------------------------------------- packets


def build(session_key: bytes, hops: Sequence[tuple[bytes, bytes]], payment_hash: bytes) -> tuple[bytes, list[bytes]]:
    """Return the packet for a route, and the secret shared with each hop (for `unwrap_failure`).

    `hops`: public key (33 bytes) and payload with its length prefix of each hop, first hop first. `session_key`: 32
    bytes, new for every packet. Raises MalformedOnion when a key is no point or the payloads do not fit.
    """
    if not hops:
        raise MalformedOnion("a route without hops", 0)
    for _, payload in hops:
        _check_payload(payload)
    if sum(len(payload) + _MAC for _, payload in hops) > _PAYLOADS:
        raise MalformedOnion("payloads longer than a packet", _PAYLOADS_AT)
    point, secrets = _agree(session_key, [key for key, _ in hops])
    payloads = _mask(b"pad", session_key, bytes(_PAYLOADS))
    filler = _filler(secrets, [len(payload) + _MAC for _, payload in hops])
    mac = _NO_MAC
    for secret, (_, payload) in zip(reversed(secrets), reversed(hops), strict=True):
        payloads = _mask(b"rho", secret, (payload + mac + payloads)[:_PAYLOADS])
        if mac == _NO_MAC:
            payloads = payloads[: _PAYLOADS - len(filler)] + filler
        mac = _mac(b"mu", secret, payloads + payment_hash)
    return b"\x00" + point + payloads + mac, secrets


def peel(private_key: bytes, packet: bytes, payment_hash: bytes) -> Peeled:
    """Take one layer off `packet` as the node with `private_key` (32 bytes).

    Raises MalformedOnion for a wrong length, version, point or HMAC, and for a payload that leaves its bounds; the
    order is the one of BOLT 4, and nothing is decrypted before the HMAC is right.
    """
    if len(packet) != PACKET_LENGTH:
        raise MalformedOnion(f"packet of {len(packet)} bytes", min(len(packet), PACKET_LENGTH))
    if packet[0] != 0:
        raise MalformedOnion(f"version {packet[0]}", 0)
    point = packet[_POINT_AT:_PAYLOADS_AT]
    payloads = packet[_PAYLOADS_AT:_MAC_AT]
    secret = _shared_secret(PrivateKey(private_key), point)
    if not hmac.compare_digest(_mac(b"mu", secret, payloads + payment_hash), packet[_MAC_AT:]):
        raise MalformedOnion("wrong HMAC", _MAC_AT)
    plain = _mask(b"rho", secret, payloads + bytes(_PAYLOADS))
    stop = _payload_end(plain)
    if stop + _MAC > _PAYLOADS:
        raise MalformedOnion(f"payload of {stop} bytes leaves no room for an HMAC", _PAYLOADS_AT)
    mac = plain[stop : stop + _MAC]
    if mac == _NO_MAC:
        return Peeled(plain[:stop], None, secret)
    next_point = PublicKey(point).multiply(sha256(point + secret).digest()).format()
    next_payloads = plain[stop + _MAC : stop + _MAC + _PAYLOADS]
    return Peeled(plain[:stop], b"\x00" + next_point + next_payloads + mac, secret)


def _agree(session_key: bytes, public_keys: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the point to start the packet with, and the secret shared with each hop.

    The ephemeral key is blinded from hop to hop, so that hops cannot be linked by the points they see.
    """
    ephemeral = PrivateKey(session_key)
    first = point = ephemeral.public_key.format()
    secrets: list[bytes] = []
    for public_key in public_keys:
        if secrets:
            ephemeral = ephemeral.multiply(sha256(point + secrets[-1]).digest())
            point = ephemeral.public_key.format()
        secrets.append(_shared_secret(ephemeral, public_key))
    return first, secrets


def _shared_secret(private_key: PrivateKey, point: bytes) -> bytes:
    """Return SHA-256 of the ECDH point."""
    try:
        if len(point) != _PAYLOADS_AT - _POINT_AT:  # coincurve reads the 65-byte form too
            raise ValueError(f"point of {len(point)} bytes")
        return private_key.ecdh(point)
    except ValueError as error:
        raise MalformedOnion(f"not a point: {error}", _POINT_AT) from error


def _filler(secrets: Sequence[bytes], sizes: Sequence[int]) -> bytes:
    """Return the tail that the packet of the last hop has after all hops before it shifted theirs out.

    The payer must know it, because the HMACs cover it. Each hop appends as many zeros as it takes out and masks them
    with what its key stream holds beyond the payloads.
    """
    filler = b""
    for secret, size in zip(secrets[:-1], sizes[:-1], strict=True):
        start = _PAYLOADS - len(filler)
        filler = _mask(b"rho", secret, bytes(start) + filler + bytes(size))[start:]
    return filler


def _payload_end(plain: bytes) -> int:
    """Return where the payload at the start of `plain` ends, by its length prefix."""
    try:
        length, at = tlv.decode_bigsize(plain)
    except MalformedTlv as error:
        raise MalformedOnion(error.why, _PAYLOADS_AT + error.offset) from error
    if length < 2:  # 0 was the legacy format, 1 is reserved
        raise MalformedOnion(f"payload length {length} is reserved", _PAYLOADS_AT)
    return at + length


def _check_payload(payload: bytes) -> None:
    """Refuse a payload whose prefix is not the length of the rest: no hop could read past it."""
    if _payload_end(payload) != len(payload):
        raise MalformedOnion(f"length prefix does not fit a payload of {len(payload)} bytes", _PAYLOADS_AT)


# --------------------------------------------------------------------------------------------- failures


def wrap_failure(shared_secret: bytes, failure: bytes) -> bytes:
    """Return the failure onion of the hop that fails: `failure` is code and data,
    padded so that its length says little.
    """
    if len(failure) > 0xFFFF:
        raise MalformedOnion(f"failure of {len(failure)} bytes", _MAC)
    pad = max(0, _FAILURE_AND_PAD - len(failure))
    body = len(failure).to_bytes(2, "big") + failure + pad.to_bytes(2, "big") + bytes(pad)
    return relay_failure(shared_secret, _mac(b"um", shared_secret, body) + body)


def relay_failure(shared_secret: bytes, blob: bytes) -> bytes:
    """Return the failure onion as the next hop towards the payer must see it: one more layer on `blob`."""
    return _mask(b"ammag", shared_secret, blob)


def unwrap_failure(shared_secrets: Sequence[bytes], blob: bytes) -> tuple[int, bytes]:
    """Return which hop failed (index into `shared_secrets`, the payer's first hop is 0) and its failure: code and data.

    Raises MalformedOnion when no hop of the route wrote `blob`. It stops at the hop it found and so takes longer for
    a farther one; a wallet that wants to hide its distance goes on with dummy rounds (BOLT 4 asks for 27).
    """
    for index, secret in enumerate(shared_secrets):
        blob = relay_failure(secret, blob)  # masking twice is unmasking
        mac, body = blob[:_MAC], blob[_MAC:]
        if hmac.compare_digest(_mac(b"um", secret, body), mac):
            return index, _failure_in(body)
    raise MalformedOnion("failure from no hop of this route", 0)


def _failure_in(body: bytes) -> bytes:
    """Return the failure in an authenticated body: u16 length, failure, u16 length of the pad, pad."""
    stop = 2 + int.from_bytes(body[:2], "big")
    if stop > len(body) or len(body) < 2:
        raise MalformedOnion(f"failure of {stop - 2} bytes cut short", _MAC)
    return body[2:stop]


# ------------------------------------------------------------------------------------------ key streams


def _key(kind: bytes, secret: bytes) -> bytes:
    """Return the 32-byte key for one purpose (`rho`, `mu`, `um`, `pad`, `ammag`)."""
    return hmac.digest(kind, secret, "sha256")


def _mac(kind: bytes, secret: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA256 of `data` under the key for `kind`."""
    return hmac.digest(_key(kind, secret), data, "sha256")


def _mask(kind: bytes, secret: bytes, data: bytes) -> bytes:
    """Return `data` XOR the key stream for `kind`."""
    return Cipher(ChaCha20(_key(kind, secret), _NONCE), None).encryptor().update(data)
