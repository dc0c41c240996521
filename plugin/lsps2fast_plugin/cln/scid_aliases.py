"""The names of incoming channels: a zero-conf one is called by its alias until it confirms, then by its scid (cln:H3).

A part keeps the name it came under. What lightningd says of it later, in an event, a table or a replay, may use the
other one; here is who is who.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

PartKey = tuple[int, int]


class ScidAliases:
    """Which scids and aliases are one channel. Knows what it was told; an unknown name stands for itself."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[int, ...]] = {}

    def learn(self, names: Iterable[int]) -> None:
        """These are names of one channel, in an order that does not change."""
        group = tuple(names)
        self._groups.update(dict.fromkeys(group, group))

    def one(self, name: int) -> int:
        """One name for all names of that channel, for comparing."""
        return self._groups.get(name, (name,))[0]

    def known(self, name: int) -> bool:
        """Return whether this name was learned."""
        return name in self._groups

    def key(self, name: int, htlc_id: int, parts: Container[Any]) -> PartKey:
        """Return the key under which `parts` has this HTLC; the one given if it has none."""
        for other in self._groups.get(name, ()):
            if (other, htlc_id) in parts:
                return other, htlc_id
        return name, htlc_id
