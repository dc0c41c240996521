"""LSPS0.ln_signature written from its text with integers alone: no library that the product uses takes part.

`python -m harness.ln_signature` (in tests/) writes data/webhook-vectors.json.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "data" / "webhook-vectors.json"
P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
Point = tuple[int, int] | None
SPECIFIED = ("2023-05-04T10:52:58.395Z", '{"jsonrpc":"2.0","method":"lsps5.goodbye","params":{}}')  # bLIP-55's example
BODIES = (
    SPECIFIED,
    ("2026-11-29T16:37:00.000Z", '{"jsonrpc":"2.0","method":"lsps5.webhook_registered","params":{}}'),
    ("2026-11-29T16:37:00.001Z", '{"jsonrpc":"2.0","method":"lsps5.payment_incoming","params":{}}'),
    ("2026-11-29T16:37:00.999Z", '{"jsonrpc":"2.0","method":"lsps5.expiry_soon","params":{"timeout":925000}}'),
    ("2026-11-29T16:37:01.000Z", '{"jsonrpc":"2.0","method":"lsps5.liquidity_management_request","params":{}}'),
    ("2026-11-29T16:37:01.010Z", '{"jsonrpc":"2.0","method":"lsps5.onion_message_incoming","params":{}}'),
    ("2026-11-29T16:37:02.000+00:00", '{"jsonrpc":"2.0","method":"lsps5.payment_incoming","params":{}}'),
    ("2026-11-29T16:37:03.123Z", '{ "params": {"x": "\\u00e9\u20ac"}, "method": "lsps9.other", "jsonrpc": "2.0" }'),
)
SECRETS = (1, 2, 0x1111111111111111111111111111111111111111111111111111111111111111, N - 1)


def add(a: Point, b: Point) -> Point:
    """The sum of two points."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    top, bottom = (3 * a[0] * a[0], 2 * a[1]) if a == b else (b[1] - a[1], b[0] - a[0])
    slope = top * pow(bottom, -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k: int, point: Point = G) -> Point:
    """A multiple of a point."""
    total: Point = None
    while k:
        if k & 1:
            total = add(total, point)
        point, k = add(point, point), k >> 1
    return total


def node_id(secret: int) -> bytes:
    """The public key, compressed."""
    point = times(secret)
    assert point is not None
    return bytes([2 + (point[1] & 1)]) + point[0].to_bytes(32, "big")


def _nonce(secret: int, digest: bytes) -> int:
    """RFC 6979 with SHA-256; its first candidate is in range but for one digest in 2^128."""
    seed = secret.to_bytes(32, "big") + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    key, value = b"\0" * 32, b"\1" * 32
    for mark in (b"\0", b"\1"):
        key = hmac.digest(key, value + mark + seed, "sha256")
        value = hmac.digest(key, value, "sha256")
    return int.from_bytes(hmac.digest(key, value, "sha256"), "big")


def digest_of(message: bytes) -> bytes:
    """What is signed for a message."""
    return hashlib.sha256(hashlib.sha256(b"Lightning Signed Message:" + message).digest()).digest()


def sign(secret: int, message: bytes, *, low: bool = True) -> str:
    """The signature of a node as text. `low` false: the other one of the two that fit."""
    digest = digest_of(message)
    nonce = _nonce(secret, digest)
    point = times(nonce)
    assert point is not None
    r = point[0] % N
    s = pow(nonce, -1, N) * (int.from_bytes(digest, "big") + r * secret) % N
    recovery = (point[1] & 1) | (2 if point[0] >= N else 0)
    if (s > N // 2) == low:
        s, recovery = N - s, recovery ^ 1
    return zbase32(bytes([31 + recovery]) + r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def zbase32(data: bytes) -> str:
    """Five bits a letter; the lengths used here need no padding."""
    bits = "".join(f"{byte:08b}" for byte in data)
    return "".join(ALPHABET[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


def text_of(timestamp: str, body: str) -> bytes:
    """The message of bLIP-55."""
    return f"LSPS5: DO NOT SIGN THIS MESSAGE MANUALLY: LSP: At {timestamp} I notify {body}".encode()


def vectors() -> dict[str, Any]:
    """All of the file."""
    made = [
        {
            "node_id": node_id(secret).hex(),
            "timestamp": timestamp,
            "body": body,
            "signature": sign(secret, text_of(timestamp, body)),
        }
        for secret in SECRETS
        for timestamp, body in BODIES
    ]
    return {
        "about": "Notifications of bLIP-55 with their signatures: the first timestamp and body are the specification's "
        "example; made by tests/harness/ln_signature.py, which shares no code with the product. `published` are "
        "signatures of lightningd's and LDK's own tests: message, signature, node id.",
        "signed": made,
        "published": [
            [
                "test message",
                "d9tibmnic9t5y41hg7hkakdcra94akas9ku3rmmj4ag9mritc8ok4p5qzefs78c9pqfhpuftqqzhydbdwfg7u6w6wdxcqpqn4sj4e73e",
                node_id(1).hex(),
            ],
            [
                "is this compatible?",
                "rbgfioj114mh48d8egqx8o9qxqw4fmhe8jbeeabdioxnjk8z3t1ma1hu1fiswpakgucwwzwo6ofycffbsqusqdimugbh41n1g698hr9t",
                "02b80cabdf82638aac86948e4c06e82064f547768dcef977677b9ea931ea75bab5",
            ],
            [
                "hi",
                "rnrphcjswusbacjnmmmrynh9pqip7sy5cx695h6mfu64iac6qmcmsd8xnsyczwmpqp9shqkth3h4jmkgyqu5z47jfn1q7gpxtaqpx4xg",
                "02de60d194e1ca5947b59fe8e2efd6aadeabfb67f2e89e13ae1a799c1e08e4a43b",
            ],
        ],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
