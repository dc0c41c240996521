"""Transactions and PSBTs of the simulated wallet, in the real formats (BIP 174 version 0, BIP 370 version 2)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

MAGIC = b"psbt\xff"
SEQUENCE = 0xFFFFFFFD


@dataclass(frozen=True, slots=True)
class Output:
    """An amount in sat and its script."""

    amount_sat: int
    script: bytes


Outpoint = tuple[str, int]


def varint(value: int) -> bytes:
    if value < 0xFD:
        return bytes([value])
    return b"\xfd" + value.to_bytes(2, "little") if value <= 0xFFFF else b"\xfe" + value.to_bytes(4, "little")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 0xFD:
        return data[at], at + 1
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[data[at]]
    return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width


@dataclass(frozen=True)
class Tx:
    """A transaction; `spent` are the outputs its inputs consume, `witnesses` is empty until it is signed."""

    inputs: tuple[Outpoint, ...]
    outputs: tuple[Output, ...]
    spent: tuple[Output, ...] = ()
    locktime: int = 0
    witnesses: tuple[bytes, ...] = ()

    @property
    def signed(self) -> bool:
        return len(self.witnesses) == len(self.inputs)

    @cached_property
    def txid(self) -> str:
        once = hashlib.sha256(self.serialize(witness=False)).digest()
        return hashlib.sha256(once).digest()[::-1].hex()

    @property
    def fee_sat(self) -> int:
        return sum(output.amount_sat for output in self.spent) - sum(output.amount_sat for output in self.outputs)

    def serialize(self, witness: bool = True) -> bytes:
        witness = witness and self.signed
        body = b"\x02\0\0\0" + (b"\0\x01" if witness else b"") + varint(len(self.inputs))
        for txid, vout in self.inputs:
            body += bytes.fromhex(txid)[::-1] + vout.to_bytes(4, "little") + b"\0" + SEQUENCE.to_bytes(4, "little")
        body += varint(len(self.outputs)) + b"".join(_output(output) for output in self.outputs)
        if witness:
            body += b"".join(b"\x01" + varint(len(item)) + item for item in self.witnesses)
        return body + self.locktime.to_bytes(4, "little")

    def with_output(self, output: Output) -> Tx:
        return replace(self, outputs=(*self.outputs, output), witnesses=())

    def sign(self, tag: bytes) -> Tx:
        """Return the same transaction with one stand-in signature of 64 bytes per input,
        derived from `tag` and txid.
        """
        seed = tag + bytes.fromhex(self.txid)
        half = [hashlib.sha256(seed + bytes([place])).digest() for place in range(len(self.inputs))]
        return replace(self, witnesses=tuple(item + hashlib.sha256(item).digest() for item in half))


def _output(output: Output) -> bytes:
    return output.amount_sat.to_bytes(8, "little") + varint(len(output.script)) + output.script


def _pair(key: bytes, value: bytes) -> bytes:
    return varint(len(key)) + key + varint(len(value)) + value


def encode(tx: Tx) -> str:
    """PSBT version 0, base64, as `fundpsbt`, `addpsbtoutput` and `signpsbt` give it."""
    data = MAGIC + _pair(b"\0", tx.serialize(witness=False)) + b"\0"
    for place, output in enumerate(tx.spent):
        data += _pair(b"\x01", _output(output))
        if tx.signed:
            data += _pair(b"\x08", b"\x01" + varint(len(tx.witnesses[place])) + tx.witnesses[place])
        data += b"\0"
    return base64.b64encode(data + b"\0" * len(tx.outputs)).decode()


def encode_v2(tx: Tx) -> str:
    """PSBT version 2, base64: the form in which `listpeerchannels` shows a withheld funding (cln:O2)."""
    head = _pair(b"\x02", b"\x02\0\0\0") + _pair(b"\x03", tx.locktime.to_bytes(4, "little"))
    head += _pair(b"\x04", varint(len(tx.inputs))) + _pair(b"\x05", varint(len(tx.outputs)))
    data = MAGIC + head + _pair(b"\x06", b"\x03") + _pair(b"\xfb", b"\x02\0\0\0") + b"\0"
    for (txid, vout), output in zip(tx.inputs, tx.spent, strict=True):
        data += _pair(b"\x01", _output(output)) + _pair(b"\x0e", bytes.fromhex(txid)[::-1])
        data += _pair(b"\x0f", vout.to_bytes(4, "little")) + _pair(b"\x10", SEQUENCE.to_bytes(4, "little")) + b"\0"
    for output in tx.outputs:
        data += _pair(b"\x03", output.amount_sat.to_bytes(8, "little")) + _pair(b"\x04", output.script) + b"\0"
    return base64.b64encode(data).decode()


def _read_map(data: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    pairs: dict[bytes, bytes] = {}
    while data[at]:
        size, at = _read_varint(data, at)
        key, at = data[at : at + size], at + size
        size, at = _read_varint(data, at)
        pairs[key], at = data[at : at + size], at + size
    return pairs, at + 1


def _read_output(data: bytes, at: int) -> tuple[Output, int]:
    amount = int.from_bytes(data[at : at + 8], "little")
    size, at = _read_varint(data, at + 8)
    return Output(amount, data[at : at + size]), at + size


def _read_tx(data: bytes) -> Tx:
    count, at = _read_varint(data, 4)
    inputs = []
    for _ in range(count):
        inputs.append((data[at : at + 32][::-1].hex(), int.from_bytes(data[at + 32 : at + 36], "little")))
        at += 41
    count, at = _read_varint(data, at)
    outputs = []
    for _ in range(count):
        output, at = _read_output(data, at)
        outputs.append(output)
    return Tx(tuple(inputs), tuple(outputs), locktime=int.from_bytes(data[at : at + 4], "little"))


def _witness(pairs: dict[bytes, bytes]) -> bytes:
    return pairs[b"\x08"][2:]


def decode(text: str) -> Tx:
    """Read version 0 or 2; raises ValueError for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
        if not data.startswith(MAGIC):
            raise ValueError("no psbt magic")
        head, at = _read_map(data, len(MAGIC))
        return _decode_v2(head, data, at) if b"\xfb" in head else _decode_v0(head, data, at)
    except (IndexError, KeyError) as error:
        raise ValueError(f"broken psbt: {error}") from None


def _decode_v0(head: dict[bytes, bytes], data: bytes, at: int) -> Tx:
    tx = _read_tx(head[b"\0"])
    spent, witnesses = [], []
    for _ in tx.inputs:
        pairs, at = _read_map(data, at)
        spent.append(_read_output(pairs[b"\x01"], 0)[0])
        if b"\x08" in pairs:
            witnesses.append(_witness(pairs))
    return replace(tx, spent=tuple(spent), witnesses=tuple(witnesses))


def _decode_v2(head: dict[bytes, bytes], data: bytes, at: int) -> Tx:
    inputs, spent, outputs = [], [], []
    for _ in range(head[b"\x04"][0]):
        pairs, at = _read_map(data, at)
        inputs.append((pairs[b"\x0e"][::-1].hex(), int.from_bytes(pairs[b"\x0f"], "little")))
        spent.append(_read_output(pairs[b"\x01"], 0)[0])
    for _ in range(head[b"\x05"][0]):
        pairs, at = _read_map(data, at)
        outputs.append(Output(int.from_bytes(pairs[b"\x03"], "little"), pairs[b"\x04"]))
    return Tx(tuple(inputs), tuple(outputs), tuple(spent), int.from_bytes(head[b"\x03"], "little"))
