"""The log handler that writes to lightningd's log.

Modules log as usual (`logging.getLogger(__name__)`); `Host` installs the handler while it runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

LEVELS: Final = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))
OURS: Final = ("lsps2fast", "lsps2fast_plugin")


class LightningdHandler(logging.Handler):
    """Passes records on; those of other packages with the name of their logger in front."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        """`write(text, level)` logs through lightningd."""
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record, a traceback included."""
        try:
            text = self.format(record)
            if record.name.partition(".")[0] not in OURS:
                text = f"{record.name}: {text}"
            self._write(text, level_of(record.levelno))
        except Exception:  # as every handler: the log must not break what is logged
            self.handleError(record)


def level_of(number: int) -> str:
    """Return lightningd's word for a level."""
    return next((word for least, word in LEVELS if number >= least), "debug")


@contextlib.contextmanager
def installed(handler: logging.Handler) -> Iterator[None]:
    """Have everything logged through `handler`, ours from debug on."""
    root, ours = logging.getLogger(), logging.getLogger("lsps2fast_plugin")
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
