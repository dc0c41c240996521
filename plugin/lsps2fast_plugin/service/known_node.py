"""What the node said of late: fee rates, and what clients can do. Kept so that a sale need not ask (P17).

Neither decides about money alone: lightningd itself says no to a rate or a type of channel that will not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.answers import PerKw, feerates
from lsps2fast_plugin.cln.models import list_peers
from lsps2fast_plugin.cln.rpc import Rpc

FRESH_MS: Final = 90_000  # for a sale: lightningd itself looks at what miners want every half minute
RENEW_MS: Final = 60_000  # so old they are asked for again while something may be sold
USABLE_MS: Final = 600_000  # when lightningd does not answer, the last ones are good for so long


class KnownFeerates:
    """lightningd's fee rates; a crowd asks once."""

    def __init__(self, rpc: Rpc, now_ms: Callable[[], int]) -> None:
        """`now_ms` is the monotonic clock."""
        self._rpc = rpc
        self._now_ms = now_ms
        self._asking = asyncio.Lock()
        self._last: PerKw | None = None
        self._asked_ms = 0

    async def perkw(self, fresh_ms: int = FRESH_MS) -> PerKw:
        """Return them, at most so old while lightningd answers. Raises NodeError."""
        async with self._asking:
            age_ms = self._now_ms() - self._asked_ms
            if self._last is not None and age_ms < fresh_ms:
                return self._last
            try:
                found = await feerates(self._rpc)
            except NodeError:
                if self._last is None or age_ms >= USABLE_MS:
                    raise
                return self._last
            self._last, self._asked_ms = found, self._now_ms()
            return found


class ClientFeatures:
    """What clients said when they connected that they can do, asked once a connection."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._known: dict[str, str] = {}
        self._asked: dict[str, object] = {}  # the last question about a peer, until it comes or goes

    def link_changed(self, peer_id: str) -> None:
        """Take note that this peer has come, or gone: it may be able to do something else now."""
        self._known.pop(peer_id, None)
        self._asked.pop(peer_id, None)

    async def of(self, peer_id: str) -> str | None:
        """Return the features of a peer; None when lightningd does not say. Raises NodeError."""
        if (known := self._known.get(peer_id)) is not None:
            return known
        question = self._asked[peer_id] = object()
        try:
            peers = await list_peers(self._rpc, id=peer_id)
            is_of_now = self._asked.get(peer_id) is question
        finally:
            if self._asked.get(peer_id) is question:
                del self._asked[peer_id]
        features = peers[0].features if peers else None
        if features is not None and peers[0].connected and is_of_now:
            self._known[peer_id] = features
        return features
