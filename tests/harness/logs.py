"""What the plugin logs, as lightningd would hear it: each `Log` collects from its making to the end of its test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from lsps2fast_plugin.cln.log import LightningdHandler, installed

_HEARING: WeakValueDictionary[int, Log] = WeakValueDictionary()
_NUMBERS = itertools.count()


class Log(list[tuple[str, str]]):
    """Collects (text, level)."""

    def __init__(self) -> None:
        super().__init__()
        _HEARING[next(_NUMBERS)] = self

    def levels(self) -> list[str]:
        """The levels in order."""
        return [level for _, level in self]

    def text(self, level: str | None = None) -> str:
        """All sentences, or those of one level."""
        return "\n".join(text for text, each in self if level in (None, each))


@contextmanager
def heard() -> Iterator[None]:
    """Have every `Log` that is made meanwhile collect; around each test."""

    def hear(text: str, level: str) -> None:
        for log in list(_HEARING.values()):
            log.append((text, level))

    with installed(LightningdHandler(hear)):
        yield
    _HEARING.clear()
