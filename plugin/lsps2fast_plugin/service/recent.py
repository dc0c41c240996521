"""The last of something that was told, numbered, so that a reader takes only what is new to it."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

KEPT: Final = 50


class Recent:
    """Rows as JSON has them."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.count = 0  # told since the start; the number of the last row

    def tell(self, row: dict[str, Any]) -> None:
        """Keep this row, and forget the oldest beyond `KEPT`."""
        self._rows.append(row)
        self.count += 1

    def after(self, number: int) -> list[dict[str, Any]]:
        """Return the rows told after that many, as far as they are kept; the oldest first."""
        new = min(self.count - number, len(self._rows))
        return list(self._rows)[len(self._rows) - new :]
