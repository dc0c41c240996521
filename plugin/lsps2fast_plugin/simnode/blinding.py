"""Blinded paths (BOLT 4, "Route Blinding"): made by who is paid, opened hop by hop; real cryptography.

Path keys go from hop to hop in record 0 of update_add_htlc; the first hop finds its own in the onion.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from . import tlv

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PATH_KEY = 0  # in update_add_htlc
ENCRYPTED_DATA, CURRENT_PATH_KEY, TOTAL_AMOUNT = 10, 12, 18  # in the payload of a hop
SCID, PATH_ID, PAYMENT_RELAY = 2, 6, 10  # in the encrypted data


class BlindedHop(NamedTuple):
    """A hop as the payer sees it."""

    node_id: bytes
    encrypted: bytes


@dataclass(frozen=True, slots=True)
class BlindedPath:
    """What an invoice says of a path: where it begins, and what the payer puts into the onion for each hop."""

    first_node_id: bytes
    path_key: bytes
    hops: tuple[BlindedHop, ...]


@dataclass(frozen=True, slots=True)
class Relay:
    """What the first hop may keep, and by how much the expiry shrinks there."""

    cltv_delta: int
    fee_ppm: int = 0
    fee_base_msat: int = 0

    def encode(self) -> bytes:
        """Return the record `payment_relay`."""
        return self.cltv_delta.to_bytes(2, "big") + self.fee_ppm.to_bytes(4, "big") + tlv.tu(self.fee_base_msat)

    @classmethod
    def decode(cls, record: bytes) -> Relay:
        """Read the record `payment_relay`."""
        delta, ppm = int.from_bytes(record[:2], "big"), int.from_bytes(record[2:6], "big")
        return cls(delta, ppm, tlv.read_tu(record[6:]))

    def forward_msat(self, amount_msat: int) -> int:
        """Return what lightningd forwards; it lets 64 bits overflow, and leaves the failure to what comes after."""
        product = (amount_msat - self.fee_base_msat) * 1_000_000 & 2**64 - 1
        by = 1_000_000 + self.fee_ppm
        return ((product + by - 1) & 2**64 - 1) // by

    def outgoing_cltv(self, cltv_expiry: int) -> int:
        """Return the expiry it forwards, in 32 bits."""
        return cltv_expiry - self.cltv_delta & 2**32 - 1


def onion_hops(path: BlindedPath, final: dict[int, bytes]) -> list[tuple[bytes, bytes]]:
    """Return node ids and payloads (without prefix) for the onion; `final` are the last hop's other records."""
    hops = [(hop.node_id, {ENCRYPTED_DATA: hop.encrypted}) for hop in path.hops]
    hops[0] = path.first_node_id, hops[0][1] | {CURRENT_PATH_KEY: path.path_key}
    hops[-1] = hops[-1][0], hops[-1][1] | final
    return [(node_id, tlv.write_records(records)) for node_id, records in hops]


class Opened(NamedTuple):
    """The encrypted data of a hop, and the path key for the next one."""

    records: dict[int, bytes]
    next_path_key: bytes


def make(session_key: bytes, hops: Sequence[tuple[bytes, bytes]]) -> BlindedPath:
    """Return the path over these nodes (real id, data in clear); `session_key`: 32 random bytes."""
    from coincurve import PrivateKey

    key = PrivateKey(session_key)
    first, blinded = key.public_key.format(), []
    for node_id, data in hops:
        secret = key.ecdh(node_id)
        blinded.append(BlindedHop(_blinded_id(secret, node_id), _cipher(secret).encrypt(bytes(12), data, None)))
        key = key.multiply(sha256(key.public_key.format() + secret).digest())
    return BlindedPath(hops[0][0], first, tuple(blinded))


def unblind(private_key: bytes, path_key: bytes, encrypted: bytes) -> Opened:
    """Open the data of one hop; raises ValueError when it is for another node."""
    from coincurve import PrivateKey, PublicKey
    from cryptography.exceptions import InvalidTag

    secret = PrivateKey(private_key).ecdh(path_key)
    try:
        data = _cipher(secret).decrypt(bytes(12), encrypted, None)
    except InvalidTag:
        raise ValueError("encrypted_recipient_data does not decrypt") from None
    following = PublicKey(path_key).multiply(sha256(path_key + secret).digest()).format()
    return Opened(tlv.read_records(data), following)


def onion_key(private_key: bytes, path_key: bytes | None) -> bytes:
    """Return the key that opens an onion which came with this path key; without one the node's own."""
    from coincurve import PrivateKey

    if path_key is None:
        return private_key
    own = PrivateKey(private_key)
    return own.multiply(_key(b"blinded_node_id", own.ecdh(path_key))).secret


def _blinded_id(secret: bytes, node_id: bytes) -> bytes:
    from coincurve import PublicKey

    return PublicKey(node_id).multiply(_key(b"blinded_node_id", secret)).format()


def _key(kind: bytes, secret: bytes) -> bytes:
    return hmac.digest(kind, secret, "sha256")


def _cipher(secret: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(_key(b"rho", secret))
