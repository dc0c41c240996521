"""Parameters of RPC methods, as people and programs type them; each error says what would be right."""

from __future__ import annotations

import re
from typing import Any

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import U64_MAX, FeeParams, parse_node_id, parse_scid

_AMOUNT = re.compile(r"([0-9]{1,20})(msat|sat|)")
_BTC = re.compile(r"([0-9]{1,8})\.([0-9]{1,11})btc")
_ADDRESS = re.compile(r"[\w.:\[\]-]{1,255}")
_WHOLE = re.compile(r"[0-9]{1,20}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_MOST_BYTES = 60_000  # of a text that an LSP is sent: the whole message has 65,533 (T-30)
_MOST_SHOWN = 60


def shown(value: Any) -> str:
    """Return a value as an error repeats it: not more of it than helps."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def whole(value: Any) -> int | None:
    """Return a number from 0 on, also as text; None for everything else."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if _WHOLE.fullmatch(text) else None


def node_id(value: Any, name: str = "lsp_id") -> str:
    """Return a node id in lower case. Raises ConfigError."""
    try:
        return parse_node_id(value, name).hex()
    except MalformedField as error:
        raise ConfigError(str(error)) from None


def peer(value: Any, name: str = "lsp_id") -> tuple[str, str | None]:
    """Return a node id, and its address when it is given as id@host:port. Raises ConfigError."""
    lsp_id, _, address = value.partition("@") if isinstance(value, str) else (value, "", "")
    if address and _ADDRESS.fullmatch(address) is None:
        raise ConfigError(f"{name}={shown(value)} has no address behind the @; give host or host:port")
    return node_id(lsp_id, name), address or None


def blocks(value: Any, name: str) -> int:
    """Return a number of blocks, 0 when left out. Raises ConfigError."""
    number = 0 if value is None else whole(value)
    if number is None or number >= 2**32:
        raise ConfigError(f"{name}={shown(value)} must be a number of blocks")
    return number


def preimage(value: Any) -> bytes | None:
    """Read 32 bytes in hex, None when left out. Raises ConfigError, which does not repeat it."""
    if value is None:
        return None
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ConfigError("preimage must be 64 hex digits")
    return bytes.fromhex(value)


def seconds(value: Any, name: str, default: int) -> int:
    """Return a time-out, 1 to 600 s. Raises ConfigError."""
    number = default if value is None else whole(value)
    if number is None or not 1 <= number <= 600:
        raise ConfigError(f"{name}={shown(value)} is out of range; give seconds from 1 to 600")
    return number


def node_ids(value: Any, name: str = "lsp_ids") -> list[str]:
    """Return a list of node ids, each once; also one alone, or several in one text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{name} must be a list of node ids")
    return list(dict.fromkeys(node_id(each, name) for each in given))


def msat(value: Any, name: str) -> int:
    """Return an amount: a number of msat, "…msat", "…sat" or "0.…btc" as lightningd takes them. Raises ConfigError."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    amount = -1
    if match := _AMOUNT.fullmatch(text):
        amount = int(match[1]) * (1000 if match[2] == "sat" else 1)
    elif match := _BTC.fullmatch(text):
        amount = int(match[1] + match[2].ljust(11, "0"))
    if not 0 <= amount <= U64_MAX:
        raise ConfigError(f"{name}={shown(value)} is no amount; give msat as a number, or a text such as 1000sat")
    return amount


def optional_msat(value: Any, name: str) -> int | None:
    """Return an amount, or None when it was left out."""
    return None if value is None else msat(value, name)


def payment_msat(value: Any, name: str = "amount_msat") -> int | None:
    """Return a payment's amount, None for "any". Raises ConfigError also for 0 and when it was left out."""
    if value == "any":
        return None
    amount = msat(value, name)
    if amount == 0:
        raise ConfigError(f"{name} must be positive, or 'any'")
    return amount


def ppm(value: Any, name: str) -> int | None:
    """Read parts per million from 0 to 1000000, or None when left out. Raises ConfigError."""
    if value is None:
        return None
    number = whole(value)
    if number is None or number > 1_000_000:
        raise ConfigError(f"{name}={shown(value)} is out of range; give a number from 0 to 1000000")
    return number


def flag(value: Any, name: str) -> bool | None:
    """Read true or false, None when left out. Raises ConfigError."""
    truth = {None: None, True: True, False: False, "true": True, "false": False}
    if (value is not None and not isinstance(value, bool | str)) or value not in truth:
        raise ConfigError(f"{name}={shown(value)} must be true or false")
    return truth[value]


def text(value: Any, name: str) -> str | None:
    """Return a text, None when left out. Raises ConfigError."""
    if value is None:
        return None
    if not isinstance(value, str) or not is_unicode(value):
        raise ConfigError(f"{name} must be a text")
    if len(value.encode()) > _MOST_BYTES:
        raise ConfigError(f"{name} must be a text of at most {_MOST_BYTES} bytes")
    return value


def is_unicode(value: str) -> bool:
    """Return whether a text can be written as UTF-8: JSON escapes may name half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def scid(value: Any, name: str) -> int:
    """Return a short channel id. Raises ConfigError."""
    try:
        return parse_scid(value, name)
    except MalformedField as error:
        raise ConfigError(str(error)) from None


def payment_hash(value: Any) -> bytes:
    """Read 32 bytes in hex. Raises ConfigError."""
    return _digest(value, "payment_hash")


def description_hash(value: Any) -> bytes:
    """Read 32 bytes in hex. Raises ConfigError."""
    return _digest(value, "description_hash")


def _digest(value: Any, name: str) -> bytes:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ConfigError(f"{name} must be 64 hex digits")
    return bytes.fromhex(value)


def fee_params(value: Any) -> FeeParams:
    """Read one entry of a menu. Raises ConfigError."""
    if not isinstance(value, dict):
        raise ConfigError("opening_fee_params must be an entry of the LSP's menu, as lsps-lsps2-getinfo shows it")
    try:
        return FeeParams.from_json(value)
    except MalformedField as error:
        raise ConfigError(f"opening_fee_params: {error}") from None
