"""Hears of invoices that their owner deletes, and of those that lightningd's `autoclean` does, as soon as they are.

lightningd has no notification for it; its `wait` answers when the number of deletions has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from lsps2fast.errors import Lsps2Error, NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

LEAST_PAUSE_S: Final = 1.0
MOST_PAUSE_S: Final = 60.0
METHOD_NOT_FOUND: Final = -32601


async def watch(rpc: Rpc, clock: Clock, deleted: Callable[[], Awaitable[None]]) -> None:
    """Call `deleted()` after every deletion; growing pauses while lightningd does not answer."""
    pause_s, seen = LEAST_PAUSE_S, -1
    while True:
        try:
            after = await _number(rpc, seen + 1)
            if seen >= 0:
                await deleted()
            pause_s, seen = LEAST_PAUSE_S, after
        except Lsps2Error as error:
            if isinstance(error, NodeError) and error.code == METHOD_NOT_FOUND:
                log.warning("this lightningd has no `wait`: a deleted invoice ends its purchase at the next opening")
                return
            log.debug(f"deletions of invoices are not heard of for {pause_s} s: {error}")
            await clock.turned(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)


async def _number(rpc: Rpc, least: int) -> int:
    """Return how many invoices were deleted, once it is at least `least`. Raises NodeError."""
    wanted = {"subsystem": "invoices", "indexname": "deleted", "nextvalue": least}
    return int((await rpc.call("wait", wanted, timeout_s=None)).get("deleted", least))
