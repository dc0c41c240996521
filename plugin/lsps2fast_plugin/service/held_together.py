"""HTLCs of several kinds that are held, counted together: sales, orders and sleeping clients share a pot (rule:24)."""

from __future__ import annotations

from typing import Protocol


class Held(Protocol):
    """HTLCs of one kind, or of several."""

    def __len__(self) -> int: ...
    @property
    def held_msat(self) -> int: ...


class HeldTogether:
    """The kinds that it was told of."""

    def __init__(self, *kinds: Held) -> None:
        self._kinds = list(kinds)

    def add(self, kind: Held) -> None:
        """Count this kind, too."""
        self._kinds.append(kind)

    def __len__(self) -> int:
        return sum(len(kind) for kind in self._kinds)

    @property
    def held_msat(self) -> int:
        """Return their sum."""
        return sum(kind.held_msat for kind in self._kinds)


class HeldKinds:
    """What is held, as each kind has to see it."""

    def __init__(self, sales: Held) -> None:
        self.all = HeldTogether(sales)
        self.beside_sales = HeldTogether()
        self.beside_sleepers = HeldTogether(sales)

    def sleepers(self, sleepers: Held) -> None:
        """Count what is held for clients that sleep."""
        self.all.add(sleepers)
        self.beside_sales.add(sleepers)

    def orders(self, parts: Held) -> None:
        """Count what is held for orders."""
        for together in (self.all, self.beside_sales, self.beside_sleepers):
            together.add(parts)
