"""lightningd's datastore in memory, with its modes, generations and error codes (cln:D1 to cln:D4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MUST_EXIST = {"must-replace", "must-append"}
MUST_NOT_EXIST = {"must-create"}
Key = tuple[str, ...]


class RpcError(Exception):
    """An RPC call that lightningd refuses."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(slots=True)
class _Value:
    data: bytes
    generation: int


class Datastore:
    """Keys are paths; only leaves have values."""

    def __init__(self) -> None:
        self._values: dict[Key, _Value] = {}

    def get(self, *key: str) -> Any:
        """The JSON at a key, or None."""
        value = self._values.get(key)
        return None if value is None else json.loads(value.data)

    def put(self, key: Key, value: Any) -> None:
        """Write JSON, as something before the replay did."""
        self.write({"key": list(key), "string": json.dumps(value, ensure_ascii=False), "mode": "create-or-replace"})

    def write(self, params: dict[str, Any]) -> dict[str, Any]:
        """`datastore`."""
        key, mode, old = _key(params), params.get("mode", "must-create"), self._values.get(_key(params))
        if ("string" in params) == ("hex" in params):
            raise RpcError(-32602, "must set either string or hex")
        if old is None and mode in MUST_EXIST:
            raise RpcError(1203, "Key does not exist")
        if old is not None and mode in MUST_NOT_EXIST:
            raise RpcError(1202, "Key already exists")
        if any(len(other) > len(key) and other[: len(key)] == key for other in self._values):
            raise RpcError(1205, "Key has children already")
        self._check_generation(params, old, 1204)
        data = params["string"].encode() if "string" in params else bytes.fromhex(params["hex"])
        before = old.data if old is not None and mode.endswith("append") else b""
        self._values[key] = _Value(before + data, 0 if old is None else old.generation + 1)
        return self._row(key)

    def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """`deldatastore`."""
        key = _key(params)
        if key not in self._values:
            raise RpcError(1200, "Key does not exist")
        self._check_generation(params, self._values[key], 1201)
        row = self._row(key)
        del self._values[key]
        return row

    def list(self, params: dict[str, Any]) -> dict[str, Any]:
        """`listdatastore`: the key itself, or its direct children."""
        key = _key(params)
        if key in self._values:
            return {"datastore": [self._row(key)]}
        children = dict.fromkeys(other[: len(key) + 1] for other in self._values if other[: len(key)] == key)
        return {"datastore": [self._row(child) for child in children]}

    @staticmethod
    def _check_generation(params: dict[str, Any], old: _Value | None, code: int) -> None:
        if "generation" in params and old is not None and params["generation"] != old.generation:
            raise RpcError(code, "generation is different")

    def _row(self, key: Key) -> dict[str, Any]:
        value = self._values.get(key)
        if value is None:
            return {"key": list(key)}
        row = {"key": list(key), "generation": value.generation, "hex": value.data.hex()}
        return row | {"string": value.data.decode()}


def decoded(params: dict[str, Any]) -> Any:
    """The JSON that a `datastore` call writes."""
    return json.loads(params["string"] if "string" in params else bytes.fromhex(params["hex"]))


def _key(params: dict[str, Any]) -> Key:
    key = params.get("key", [])
    return tuple(map(str, key)) if isinstance(key, list) else (str(key),)
