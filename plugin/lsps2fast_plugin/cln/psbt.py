"""Reads which coins a PSBT spends and what it leaves to miners, of version 0 (BIP 174) or 2 (BIP 370)."""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

MAGIC: Final = b"psbt\xff"
UNSIGNED_TX, INPUT_COUNT = b"\x00", b"\x04"  # global keys: the whole transaction (version 0), so many inputs (2)
OUTPUT_COUNT = b"\x05"  # and so many outputs (2)
NON_WITNESS_UTXO, WITNESS_UTXO = b"\x00", b"\x01"  # input keys: the whole transaction before, or its output alone
PREVIOUS_TXID, OUTPUT_INDEX = b"\x0e", b"\x0f"  # input keys of version 2
AMOUNT = b"\x03"  # output key of version 2
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


class _Tx(NamedTuple):
    """What is read of a transaction: where its coins come from, and the amount of each output."""

    inputs: tuple[str, ...]
    amounts_sat: tuple[int, ...]


def _read_tx(tx: _Bytes) -> _Tx:
    """Return a transaction, with or without witnesses; what follows its outputs is not looked at."""
    tx.take(4)
    count = tx.number()
    if count == 0:  # the marker of a transaction with witnesses, and its flag
        tx.take(1)
        count = tx.number()
    points = []
    for _ in range(count):
        points.append(_point(tx.take(32), tx.take(4)))
        tx.take(tx.number())  # scriptSig
        tx.take(SEQUENCE_BYTES)
    amounts_sat = []
    for _ in range(tx.number()):
        amounts_sat.append(int.from_bytes(tx.take(8), "little"))
        tx.take(tx.number())  # script
    return _Tx(tuple(points), tuple(amounts_sat))


def _read(text: str) -> tuple[_Tx, list[dict[bytes, bytes]]]:
    """Return the transaction of a base64 PSBT and its input maps."""
    data = _Bytes(base64.b64decode(text, validate=True))
    if data.take(len(MAGIC)) != MAGIC:
        raise ValueError("this is no PSBT")
    head = data.pairs()
    if UNSIGNED_TX in head:
        tx = _read_tx(_Bytes(head[UNSIGNED_TX]))
        return tx, [data.pairs() for _ in tx.inputs]
    inputs = [data.pairs() for _ in range(_Bytes(head[INPUT_COUNT]).number())]
    outputs = [data.pairs() for _ in range(_Bytes(head[OUTPUT_COUNT]).number())]
    points = tuple(_point(each[PREVIOUS_TXID], each[OUTPUT_INDEX]) for each in inputs)
    return _Tx(points, tuple(int.from_bytes(each[AMOUNT], "little") for each in outputs)), inputs


def _spent_sat(facts: dict[bytes, bytes], point: str) -> int:
    """Return the amount of the coin that an input spends."""
    if WITNESS_UTXO in facts:
        return int.from_bytes(facts[WITNESS_UTXO][:8], "little")
    return _read_tx(_Bytes(facts[NON_WITNESS_UTXO])).amounts_sat[int(point.partition(":")[2])]


def inputs_of(text: str) -> tuple[str, ...]:
    """Return what a base64 PSBT spends, each as "txid:vout". Raises ValueError if it cannot be read."""
    try:
        return _read(text)[0].inputs
    except (IndexError, KeyError) as error:
        raise ValueError(f"the PSBT is broken: {error}") from error


def fee_sat(text: str) -> int:
    """Return what a base64 PSBT leaves to miners. Raises ValueError if it does not say."""
    try:
        tx, inputs = _read(text)
        spent_sat = sum(_spent_sat(facts, point) for facts, point in zip(inputs, tx.inputs, strict=True))
    except (IndexError, KeyError) as error:
        raise ValueError(f"the PSBT is broken: {error}") from error
    left_sat = spent_sat - sum(tx.amounts_sat)
    if left_sat < 0:
        raise ValueError("the PSBT spends more than it has")
    return left_sat
