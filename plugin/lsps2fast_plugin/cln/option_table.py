"""Options that are whole numbers: a table of default, range and meaning, declared and read alike by both plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyln.client import Plugin

from lsps2fast.errors import ConfigError

NumberTable = Mapping[str, tuple[int, int, int, str]]  # option: default, least, most, meaning


def add_numbers(plugin: Plugin, table: NumberTable) -> None:
    """Declare these options in the manifest."""
    for name, (default, least, most, meaning) in table.items():
        plugin.add_option(name, default, f"{meaning} ({least} to {most})", opt_type="int")


def read_numbers(plugin: Plugin, table: NumberTable) -> dict[str, int]:
    """Return these options as given. Raises ConfigError with the sentence that lightningd shows."""
    return {name: _number(plugin.get_option(name), name, table) for name in table}


def _number(value: Any, name: str, table: NumberTable) -> int:
    _, least, most, _ = table[name]
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value!r} is not a whole number; give one from {least} to {most}") from None
    if not least <= number <= most:
        raise ConfigError(f"{name}={number} is out of range; give a number from {least} to {most}")
    return number


def several(value: Any) -> list[Any]:
    """Return the values of an option that may be repeated: lightningd gives none, one or a list."""
    return [] if value is None else value if isinstance(value, list) else [value]
