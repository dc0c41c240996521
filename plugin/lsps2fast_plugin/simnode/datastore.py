"""lightningd's key-value store with its modes, generations and errors (cln:D1 to cln:D4)."""

from __future__ import annotations

from typing import Any

from .errors import INVALID_PARAMS, RpcError

Key = tuple[str, ...]
MODES = ("must-create", "must-replace", "create-or-replace", "must-append", "create-or-append")


class Datastore:
    """Values are bytes; `rows` maps a key to value and generation and survives restarts of the node."""

    def __init__(self) -> None:
        self.rows: dict[Key, tuple[bytes, int]] = {}
        self._deepest = 0  # parts of a key that was ever put

    def put(self, key: Key, value: bytes, mode: str = "must-create", generation: int | None = None) -> dict[str, Any]:
        if mode not in MODES:
            listed = ", ".join(f"'{name}'" for name in MODES[:-1])
            raise RpcError(INVALID_PARAMS, f"mode: should be {listed}, or '{MODES[-1]}': invalid token '\"{mode}\"'")
        if generation is not None and mode not in ("must-replace", "must-append"):
            raise RpcError(INVALID_PARAMS, "generation only valid with must-replace or must-append")
        self._check_family(key)
        self._deepest = max(self._deepest, len(key))
        old = self.rows.get(key)
        if old is None and mode in ("must-replace", "must-append"):
            raise RpcError(1203, "Key does not exist")
        if old is not None and mode == "must-create":
            raise RpcError(1202, "Key already exists")
        if old is not None and generation is not None and generation != old[1]:
            raise RpcError(1204, "generation is different")
        if old is None:
            self.rows[key] = (value, 0)
        else:
            self.rows[key] = (old[0] + value if mode.endswith("append") else value, old[1] + 1)
        return self.row(key)

    def _check_family(self, key: Key) -> None:
        for size in range(1, len(key)):
            if key[:size] in self.rows:
                raise RpcError(1206, f"Parent key [{','.join(key[:size])}] exists")
        if key in self.rows or len(key) >= self._deepest:
            return
        if any(len(other) > len(key) and other[: len(key)] == key for other in self.rows):
            raise RpcError(1205, "Key has children already")

    def delete(self, key: Key, generation: int | None = None) -> dict[str, Any]:
        if key not in self.rows:
            raise RpcError(1200, "Key does not exist")
        if generation is not None and generation != self.rows[key][1]:
            raise RpcError(1201, "generation is different")
        row = self.row(key)
        del self.rows[key]
        return row

    def row(self, key: Key) -> dict[str, Any]:
        """One row as lightningd shows it: `string` only when the bytes are UTF-8 without a NUL."""
        value, generation = self.rows[key]
        row: dict[str, Any] = {"key": list(key), "generation": generation, "hex": value.hex()}
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return row
        if "\0" not in text:
            row["string"] = text
        return row

    def under(self, key: Key) -> list[dict[str, Any]]:
        """Return the key itself, or its direct children; a child that is only a folder
        has nothing but `key` (cln:D4).
        """
        if key in self.rows:
            return [self.row(key)]
        size = len(key) + 1
        children = sorted({other[:size] for other in self.rows if len(other) >= size and other[: len(key)] == key})
        return [self.row(child) if child in self.rows else {"key": list(child)} for child in children]
