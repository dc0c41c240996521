"""Options that are whole numbers: a table of default, range and meaning, declared and read alike by both plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.cln.pyln_client import Plugin

NumberTable = Mapping[str, tuple[int, int, int, str]]  # option: default, least, most, meaning
Changed = Callable[[Plugin, str, Any], None]  # plugin, option, text: hears of `setconfig`, and may refuse


def add_numbers(plugin: Plugin, table: NumberTable, changed: Changed | None = None) -> None:
    """Declare these options in the manifest; with `changed` they can be changed with `setconfig`."""
    for name, (default, least, most, meaning) in table.items():
        said = f"{meaning} ({least} to {most})"
        plugin.add_option(name, default, said, opt_type="int", dynamic=changed is not None, on_change=changed)


def read_numbers(plugin: Plugin, table: NumberTable, changes: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return these options as given, and with `changes`. Raises ConfigError with the sentence that lightningd shows."""
    given = {name: plugin.get_option(name) for name in table} | dict(changes or {})
    return {name: _number(given[name], name, table) for name in table}


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
