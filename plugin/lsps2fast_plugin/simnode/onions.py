"""Onions, which carry a payment's instructions from hop to hop: real Sphinx packets, or plain ones for load runs.

Both have the same four methods, so the caller does not need to know which it is. A plain onion costs no
cryptography: its `next_onion` is a fixed stand-in of the right length and its failures travel in clear.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from . import tlv

Hop = tuple[bytes, bytes]  # node id (33 bytes), payload without length prefix


class Peeled(NamedTuple):
    """One hop's view: its payload with prefix, the rest (None at the end), what fills the hook's `next_onion`."""

    payload: bytes
    rest: Onion | None
    shared_secret: bytes
    next_packet: bytes


class Failed(NamedTuple):
    """A failure as the payer reads it: which hop (0 = first after the payer; -1 = unreadable) and its message."""

    hop: int
    message: bytes


class Onion(Protocol):
    """A packet on its way to one node."""

    @property
    def length(self) -> int:
        """How many hops it was built for."""
        ...

    def peel(self, private_key: bytes, payment_hash: bytes) -> Peeled: ...

    def originate(self, shared_secret: bytes, message: bytes) -> bytes:
        """Return the failure blob of the hop where it happens."""
        ...

    def relay(self, shared_secret: bytes, blob: bytes) -> bytes:
        """Return the same blob, one hop further back."""
        ...

    def unwrap(self, blob: bytes) -> Failed:
        """For the payer only: who failed, and how."""
        ...


@dataclass(slots=True)
class Sphinx:
    """A BOLT 4 packet; `secrets` are kept where it was built, so that the payer can read failures."""

    packet: bytes
    secrets: tuple[bytes, ...] = ()

    @property
    def length(self) -> int:
        return len(self.secrets)

    @classmethod
    def build(cls, session_key: bytes, hops: list[Hop], payment_hash: bytes) -> Sphinx:
        from lsps2fast import onion

        sealed = [(node_id, tlv.prefixed(payload)) for node_id, payload in hops]
        packet, secrets = onion.build(session_key, sealed, payment_hash)
        return cls(packet, tuple(secrets))

    def peel(self, private_key: bytes, payment_hash: bytes) -> Peeled:
        from lsps2fast import onion

        peeled = onion.peel(private_key, self.packet, payment_hash)
        rest = None if peeled.next_packet is None else Sphinx(peeled.next_packet, self.secrets)
        # lightningd fills next_onion for a final hop too (a_single_var, l1); it cannot be used
        packet = peeled.next_packet or b"\0" + stand_in(peeled.shared_secret, 1365)
        return Peeled(peeled.payload, rest, peeled.shared_secret, packet)

    def originate(self, shared_secret: bytes, message: bytes) -> bytes:
        from lsps2fast import onion

        return onion.wrap_failure(shared_secret, message)

    def relay(self, shared_secret: bytes, blob: bytes) -> bytes:
        from lsps2fast import onion

        return onion.relay_failure(shared_secret, blob)

    def unwrap(self, blob: bytes) -> Failed:
        from lsps2fast import onion

        try:
            hop, message = onion.unwrap_failure(list(self.secrets), blob)
        except ValueError:
            return Failed(-1, b"")
        return Failed(hop, message)


@dataclass(slots=True)
class Plain:
    """Payloads in clear; `place` counts the hops already taken."""

    hops: tuple[Hop, ...]
    filler: bytes
    place: int = 0

    @property
    def length(self) -> int:
        return len(self.hops)

    @classmethod
    def build(cls, session_key: bytes, hops: list[Hop], payment_hash: bytes) -> Plain:
        return cls(tuple(hops), b"\0\2" + stand_in(session_key, 1364))

    def peel(self, private_key: bytes, payment_hash: bytes) -> Peeled:
        _, payload = self.hops[self.place]
        last = self.place + 1 == len(self.hops)
        rest = None if last else Plain(self.hops, self.filler, self.place + 1)
        secret = self.filler[2:33] + bytes([self.place])
        return Peeled(tlv.prefixed(payload), rest, secret, self.filler)

    def originate(self, shared_secret: bytes, message: bytes) -> bytes:
        return shared_secret[-1:] + message

    def relay(self, shared_secret: bytes, blob: bytes) -> bytes:
        return blob

    def unwrap(self, blob: bytes) -> Failed:
        return Failed(blob[0], blob[1:])


def stand_in(seed: bytes, size: int) -> bytes:
    """Bytes that look random and cost little."""
    return hashlib.shake_128(seed).digest(size)
