"""The last call counts, also when an older one is carried out after it.

A call that got no answer may still lie in lightningd and be carried out at any time: after the newer one that undid it
(K-13). Its answer comes when its caller is gone. `LateReplyGuard` listens for it and makes the newest call again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from lsps2fast.errors import AnswerPending

Late = Callable[[], None]
Work = Callable[[Late], Awaitable[Any]]
Insist = Callable[[str, Callable[[], Awaitable[Any]]], None]


@dataclass
class _Matter:
    """One thing that calls set: the newest of them, and how many have not been answered."""

    newest: Work
    number: int = 0
    unanswered: set[int] = field(default_factory=set)


class LateReplyGuard:
    """Makes calls that set something under a key, each idempotent."""

    def __init__(self, insist: Insist) -> None:
        """`insist(what, work)` carries out `work` in the background until it works."""
        self._insist = insist
        self._matters: dict[Hashable, _Matter] = {}

    def __len__(self) -> int:
        return len(self._matters)

    async def ask(self, key: Hashable, what: str, work: Work) -> Any:
        """Return the result of `work(late)`, which calls lightningd once and gives it `late`.

        Raises what `work` raises.
        """
        matter = self._matters.setdefault(key, _Matter(work))
        matter.newest = work
        matter.number += 1
        number = matter.number
        matter.unanswered.add(number)

        def answered() -> None:
            matter.unanswered.discard(number)
            if not matter.unanswered and self._matters.get(key) is matter:
                del self._matters[key]

        def late() -> None:
            outdone, newest = matter.number != number, matter.newest
            answered()
            if outdone:
                self._insist(f"{what}, after an older call was carried out late,", lambda: self.ask(key, what, newest))

        try:
            result = await work(late)
        except (AnswerPending, asyncio.CancelledError):
            raise
        except BaseException:
            answered()
            raise
        answered()
        return result
