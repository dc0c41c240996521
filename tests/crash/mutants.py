"""Faults put into the plugin on purpose, to see whether the crash machine notices."""

from __future__ import annotations

VARIABLE = "LSPS2FAST_TEST_MUTANT"


def apply(name: str) -> None:
    """Change the loaded plugin; "" changes nothing."""
