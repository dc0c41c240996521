"""Segwit addresses (BIP 173, BIP 350): enough to give lightningd's methods real-looking, decodable addresses."""

from __future__ import annotations

from functools import lru_cache

CHARS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
BECH32 = 1
BECH32M = 0x2BC830A3


def _polymod(values: list[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, word in enumerate(GENERATOR):
            if top >> bit & 1:
                checksum ^= word
    return checksum


def _expand(prefix: str) -> list[int]:
    return [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]


def regroup(data: list[int] | bytes, width_in: int, width_out: int, pad: bool) -> list[int]:
    """Bits in groups of `width_in` to groups of `width_out`; without `pad`, left-over bits are dropped."""
    pool, bits, groups = 0, 0, []
    for value in data:
        pool = pool << width_in | value
        bits += width_in
        while bits >= width_out:
            bits -= width_out
            groups.append(pool >> bits & (1 << width_out) - 1)
        pool &= (1 << bits) - 1
    if pad and bits:
        groups.append(pool << width_out - bits & (1 << width_out) - 1)
    return groups


def bech32_encode(prefix: str, words: list[int], constant: int = BECH32) -> str:
    residue = _polymod([*_expand(prefix), *words, 0, 0, 0, 0, 0, 0]) ^ constant
    check = [residue >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1{''.join(CHARS[word] for word in [*words, *check])}"


def bech32_decode(text: str) -> tuple[str, list[int], int]:
    """Prefix, words without checksum, and the constant that fits; raises ValueError."""
    text = text.lower()
    prefix, separator, data = text.rpartition("1")
    if not separator or len(data) < 6 or any(char not in CHARS for char in data):
        raise ValueError("not bech32")
    words = [CHARS.index(char) for char in data]
    return prefix, words[:-6], _polymod(_expand(prefix) + words)


@lru_cache(maxsize=1_000)
def script_to_address(script: bytes, prefix: str = "bcrt") -> str:
    version = script[0] - 0x50 if script[0] else 0
    return bech32_encode(prefix, [version, *regroup(script[2:], 8, 5, True)], BECH32M if version else BECH32)


def address_to_script(text: str, prefix: str = "bcrt") -> bytes:
    """Output script of a segwit address; raises ValueError."""
    found, words, constant = bech32_decode(text)
    if found != prefix or not words or constant != (BECH32M if words[0] else BECH32):
        raise ValueError("not an address of this network")
    program = bytes(regroup(words[1:], 5, 8, False))
    return bytes([words[0] + 0x50 if words[0] else 0, len(program)]) + program
