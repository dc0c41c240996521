"""A second, plain TLV reader, so that what the plugin sends is not judged by the plugin's own codec."""

from __future__ import annotations

AMOUNT = 2  # amt_to_forward in a hop payload
EXTRA_FEE = 65537


def read(stream: bytes) -> list[tuple[int, bytes]]:
    """The records of a stream. Raises ValueError where BOLT 1 would have it refused."""
    records: list[tuple[int, bytes]] = []
    at = 0
    while at < len(stream):
        kind, at = _bigsize(stream, at)
        length, at = _bigsize(stream, at)
        if at + length > len(stream) or (records and kind <= records[-1][0]):
            raise ValueError(f"not a TLV stream at byte {at}: {stream.hex()}")
        records.append((kind, stream[at : at + length]))
        at += length
    return records


def write(records: list[tuple[int, bytes]]) -> bytes:
    """A stream of records below type 253 and 253 bytes, as hop payloads for forwards are."""
    return b"".join(bytes([kind, len(value)]) + value for kind, value in records)


def _bigsize(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}.get(first, 0)
    value = int.from_bytes(data[at + 1 : at + 1 + width]) if width else first
    if width and (len(data) < at + 1 + width or value < {2: 0xFD, 4: 1 << 16, 8: 1 << 32}[width]):
        raise ValueError(f"not a minimal BigSize at byte {at}: {data.hex()}")
    return value, at + 1 + width


def forwarded_msat(payload_hex: str) -> int:
    """Record 2 of a payload without length prefix."""
    return int.from_bytes(dict(read(bytes.fromhex(payload_hex)))[AMOUNT])


def with_amount(prefixed_payload_hex: str, amount_msat: int) -> str:
    """The answer's payload: prefix off, record 2 replaced by the shortest form of the amount, the rest as it was."""
    payload = bytes.fromhex(prefixed_payload_hex)
    length, start = _bigsize(payload, 0)
    if length != len(payload) - start:
        raise ValueError(f"length prefix {length} is not that of the {len(payload) - start} bytes that follow")
    amount = amount_msat.to_bytes((amount_msat.bit_length() + 7) // 8)
    return write([(kind, amount if kind == AMOUNT else value) for kind, value in read(payload[start:])]).hex()


def extra_fee(fee_msat: int) -> str:
    """`extra_tlvs` of a part that paid this much (H-08, H-09)."""
    return f"fe0001000108{fee_msat:016x}" if fee_msat else ""
