"""BigSize, tu64 and hop payloads, for the simulated peers.

Written apart from `lsps2fast._tlv` on purpose: what checks the plugin must not share its mistakes.
"""

from __future__ import annotations

EXTRA_FEE = 65537


class BadTlv(ValueError):
    """`record` is the type at fault, `offset` where its record begins (BOLT 4 invalid_onion_payload)."""

    def __init__(self, record: int, offset: int) -> None:
        super().__init__(f"bad record {record} at {offset}")
        self.record = record
        self.offset = offset


def bigsize(value: int) -> bytes:
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "big")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "big")
    return b"\xff" + value.to_bytes(8, "big")


def read_bigsize(data: bytes, at: int) -> tuple[int, int]:
    """Value and next offset; raises ValueError when the bytes end early or the form is not the shortest."""
    if at >= len(data):
        raise ValueError("bytes end")
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
    raw = data[at + 1 : at + 1 + width]
    value = int.from_bytes(raw, "big")
    if len(raw) < width or len(bigsize(value)) != width + 1:
        raise ValueError("bad BigSize")
    return value, at + 1 + width


def tu(value: int) -> bytes:
    """Encode a truncated integer: big-endian, no leading zero bytes, 0 is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def read_tu(data: bytes) -> int:
    if len(data) > 8 or data[:1] == b"\0":
        raise ValueError("not a minimal integer")
    return int.from_bytes(data, "big")


def read_records(data: bytes) -> dict[int, bytes]:
    """Return a whole TLV stream, types strictly rising; raises BadTlv."""
    records: dict[int, bytes] = {}
    at, last = 0, -1
    while at < len(data):
        begin, kind = at, -1
        try:
            kind, at = read_bigsize(data, at)
            size, at = read_bigsize(data, at)
        except ValueError:
            raise BadTlv(max(kind, 0), begin) from None
        if kind <= last or at + size > len(data):
            raise BadTlv(kind, begin)
        records[kind] = data[at : at + size]
        at, last = at + size, kind
    return records


def write_records(records: dict[int, bytes]) -> bytes:
    return b"".join(bigsize(kind) + bigsize(len(value)) + value for kind, value in sorted(records.items()))


def prefixed(payload: bytes) -> bytes:
    return bigsize(len(payload)) + payload


def unprefixed(payload: bytes) -> bytes:
    """Return a hop payload without its length; raises BadTlv when the length is not that of the rest."""
    try:
        size, at = read_bigsize(payload, 0)
    except ValueError:
        raise BadTlv(0, 0) from None
    if size != len(payload) - at:
        raise BadTlv(0, 0)
    return payload[at:]


def scid_to_int(scid: str) -> int:
    block, index, output = (int(part) for part in scid.split("x"))
    return block << 40 | index << 16 | output


def scid_to_str(scid: int) -> str:
    return f"{scid >> 40}x{scid >> 16 & 0xFFFFFF}x{scid & 0xFFFF}"


def hop_payload(
    forward_msat: int,
    outgoing_cltv_value: int,
    scid: str | None = None,
    payment_secret: bytes | None = None,
    total_msat: int | None = None,
    more: dict[int, bytes] | None = None,
) -> bytes:
    """Return a BOLT 4 hop payload, without length prefix; `more` adds or replaces records by type."""
    records = {2: tu(forward_msat), 4: tu(outgoing_cltv_value)}
    if scid is not None:
        records[6] = scid_to_int(scid).to_bytes(8, "big")
    if payment_secret is not None:
        records[8] = payment_secret + tu(total_msat or 0)
    records.update(more or {})
    return write_records(records)
