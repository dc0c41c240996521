"""Calls of `wait` that are not over, and the indices they wait for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Waiter:
    """A `wait` call that is not over."""

    subsystem: str
    kind: str
    index: int
    future: asyncio.Future[dict[str, Any]]


class Waiters(list[Waiter]):
    """Those of one node, oldest first."""

    def wake(self, subsystem: str, kind: str, index: int, details: dict[str, Any]) -> None:
        """Answer the calls that waited for an index of a subsystem, which has moved on."""
        for waiter in list(self):
            if (waiter.subsystem, waiter.kind) != (subsystem, kind) or index < waiter.index or waiter.future.done():
                continue
            waiter.future.set_result({"subsystem": subsystem, kind: index, subsystem: details})
            self.remove(waiter)
