"""The last call counts, also when an older one is carried out after it.

Calls that set one thing are made one after the other: each waits until lightningd has answered the one before, or that
was given up. A call that was given up may still lie in lightningd and be carried out at any time: after the newer one
that undid it (K-13). Its answer comes when its caller is gone. `LateReplyGuard` listens for it and makes the newest
call again.

Not for what is no last word: a reservation is exclusive, is looked at before it is freed, and is mended by who stands
on the coins (`service/reservations.py`); a funding that was sent stays sent, and is taken back by spending it
(`service/broadcast.py`).
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
    """One thing that calls set: the newest of them, and who still needs to know."""

    newest: Work | None = None
    number: int = 0
    unanswered: set[int] = field(default_factory=set)
    users: int = 0  # calls that are made or wait for their turn, and repetitions that have not worked yet
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class LateReplyGuard:
    """Makes calls that set something under a key, each idempotent."""

    def __init__(self, insist: Insist) -> None:
        """`insist(what, work)` carries out `work` in the background until it works."""
        self._insist = insist
        self._matters: dict[Hashable, _Matter] = {}

    def __len__(self) -> int:
        return len(self._matters)

    async def ask(self, key: Hashable, what: str, work: Work) -> Any:
        """Return the result of `work(late)`, which calls lightningd once and gives it `late`, when its turn has come.

        Raises what `work` raises.
        """
        matter = self._matters.setdefault(key, _Matter())
        matter.users += 1
        try:
            async with matter.turn:
                return await self._call(key, matter, what, work)
        finally:
            self._leave(key, matter)

    def stands(self, key: Hashable, work: Work) -> None:
        """Note that what `work` sets is set already, by another: it is made where an older call comes late."""
        if (matter := self._matters.get(key)) is not None:
            matter.number += 1
            matter.newest = work

    async def _call(self, key: Hashable, matter: _Matter, what: str, work: Work) -> Any:
        matter.number += 1
        number, matter.newest = matter.number, work
        matter.unanswered.add(number)

        def late() -> None:
            if matter.number != number:
                self._repeat(key, matter, f"{what}, after an older call was carried out late,")
            matter.unanswered.discard(number)
            self._forget(key, matter)

        try:
            result = await work(late)
        except (AnswerPending, asyncio.CancelledError):
            raise
        except BaseException:
            matter.unanswered.discard(number)
            raise
        matter.unanswered.discard(number)
        return result

    def _repeat(self, key: Hashable, matter: _Matter, what: str) -> None:
        """Make the newest call again, unless a newer one has its turn before."""
        matter.users += 1
        number = matter.number

        async def again() -> None:
            nonlocal number
            async with matter.turn:
                if matter.newest is not None and matter.number == number:
                    number += 1  # its own; where it fails it is still the newest
                    await self._call(key, matter, what, matter.newest)
            self._leave(key, matter)

        self._insist(what, again)

    def _leave(self, key: Hashable, matter: _Matter) -> None:
        matter.users -= 1
        self._forget(key, matter)

    def _forget(self, key: Hashable, matter: _Matter) -> None:
        if not matter.users and not matter.unanswered and self._matters.get(key) is matter:
            del self._matters[key]
