"""To which openings each coin is promised: to one jit scid, or to all that share a funding (a batch)."""

from __future__ import annotations

from collections.abc import Iterable


class CoinPromises:
    """Every promise, found by coin and by jit scid."""

    def __init__(self) -> None:
        self._holders: dict[str, set[int]] = {}
        self._coins: dict[int, set[str]] = {}

    def __contains__(self, point: object) -> bool:
        return point in self._holders

    def holders(self, points: Iterable[str]) -> set[int]:
        """Return all to whom any of these coins is promised."""
        return set().union(*(self._holders.get(point, ()) for point in points))

    def coins(self, jit_scid: int) -> set[str]:
        """Return what is promised to this scid."""
        return self._coins.get(jit_scid, set())

    def add(self, point: str, jit_scids: Iterable[int]) -> None:
        """Promise a coin to these, beside those that have it."""
        for jit_scid in jit_scids:
            self._holders.setdefault(point, set()).add(jit_scid)
            self._coins.setdefault(jit_scid, set()).add(point)

    def leave(self, jit_scid: int, points: Iterable[str]) -> list[str]:
        """Promise these coins to this scid no longer; return those that are promised to no one now."""
        free: list[str] = []
        for point in self.coins(jit_scid).intersection(points):
            self._coins[jit_scid].discard(point)
            self._holders[point].discard(jit_scid)
            if not self._holders[point]:
                del self._holders[point]
                free.append(point)
        if not self.coins(jit_scid):
            self._coins.pop(jit_scid, None)
        return free
