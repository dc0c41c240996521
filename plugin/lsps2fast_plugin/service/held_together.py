"""HTLCs of several kinds that are held, counted together: sales, orders and sleeping clients share a pot (rule:24).

Those that are held for sleeping clients, over their channels or over the aliases of these, may fill half of it, orders
may fill half, and both together three quarters: each of the three has a quarter that no other takes.
"""

from __future__ import annotations

from typing import Final, Protocol

from lsps2fast_plugin.service.policy.limits import QUARTERS, Gate

HALF: Final = 2  # quarters
NOT_SALES: Final = 3


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
        self.returning = HeldTogether()  # of those of sales: over the alias of a paid channel whose client is away
        self.beside_sales = HeldTogether(self.returning)
        self.beside_sleepers = HeldTogether(sales)
        self.neither = HeldTogether(self.returning)  # of sales nor held by `Sleepers`

    def sleepers(self, sleepers: Held) -> None:
        """Count what is held for clients that sleep."""
        self.all.add(sleepers)
        self.beside_sales.add(sleepers)

    def orders(self, parts: Held) -> None:
        """Count what is held for orders."""
        for together in (self.all, self.beside_sales, self.beside_sleepers, self.neither):
            together.add(parts)

    def has_room(self, own: Held, amount_msat: int, gate: Gate) -> bool:
        """Return whether one more of these may be held, which are not of sales."""
        pots = ((self.all, QUARTERS), (own, HALF), (self.beside_sales, NOT_SALES))
        return all(gate.part(len(pot), pot.held_msat, amount_msat, quarters) for pot, quarters in pots)
