"""Reads which coins a PSBT spends, of version 0 (BIP 174) or 2 (BIP 370). Nothing else of it is looked at."""

from __future__ import annotations

import base64
from typing import Final

MAGIC: Final = b"psbt\xff"
UNSIGNED_TX, INPUT_COUNT = b"\x00", b"\x04"  # global keys: the whole transaction (version 0), so many inputs (2)
PREVIOUS_TXID, OUTPUT_INDEX = b"\x0e", b"\x0f"  # input keys of version 2
SEQUENCE_BYTES: Final = 4


class _Bytes:
    """A cursor over bytes. IndexError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise IndexError("the data ends early")
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self) -> int:
        """Return the next CompactSize."""
        first = self.take(1)[0]
        return first if first < 0xFD else int.from_bytes(self.take({0xFD: 2, 0xFE: 4, 0xFF: 8}[first]), "little")

    def pairs(self) -> dict[bytes, bytes]:
        """Return the next key-value map."""
        found = {}
        while size := self.number():
            key = self.take(size)
            found[key] = self.take(self.number())
        return found


def _point(txid: bytes, index: bytes) -> str:
    return f"{txid[::-1].hex()}:{int.from_bytes(index, 'little')}"


def _inputs_of_tx(tx: _Bytes) -> tuple[str, ...]:
    """Return the inputs of a transaction without witnesses, as version 0 has it."""
    tx.take(4)
    points = []
    for _ in range(tx.number()):
        points.append(_point(tx.take(32), tx.take(4)))
        tx.take(tx.number())  # scriptSig
        tx.take(SEQUENCE_BYTES)
    return tuple(points)


def inputs_of(text: str) -> tuple[str, ...]:
    """Return what a base64 PSBT spends, each as "txid:vout". Raises ValueError if it cannot be read."""
    try:
        data = _Bytes(base64.b64decode(text, validate=True))
        if data.take(len(MAGIC)) != MAGIC:
            raise ValueError("this is no PSBT")
        head = data.pairs()
        if UNSIGNED_TX in head:
            return _inputs_of_tx(_Bytes(head[UNSIGNED_TX]))
        maps = [data.pairs() for _ in range(_Bytes(head[INPUT_COUNT]).number())]
        return tuple(_point(each[PREVIOUS_TXID], each[OUTPUT_INDEX]) for each in maps)
    except (IndexError, KeyError) as error:
        raise ValueError(f"the PSBT is broken: {error}") from error
