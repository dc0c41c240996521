"""Which types of channel each client has refused, so that it is asked at once for one it takes (bLIP-52, section 5).

Kept in memory for the clients that refused last: after a restart a client is asked once more for what it refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CLIENTS: Final = 10_000
ChannelType = tuple[int, ...]


class RefusedTypes:
    """Refusals by client."""

    def __init__(self, clients: int = CLIENTS) -> None:
        """`clients`: the most that are remembered."""
        self._refused: dict[str, set[ChannelType]] = {}
        self._clients = clients

    def add(self, peer_id: str, channel_type: ChannelType) -> None:
        """Remember that this client has refused such a channel."""
        refused = self._refused.pop(peer_id, set())
        self._refused[peer_id] = refused | {channel_type}  # now the last one
        if len(self._refused) > self._clients:
            del self._refused[next(iter(self._refused))]

    def left(self, peer_id: str, types: Sequence[ChannelType]) -> ChannelType | None:
        """Return the first of these types that it has not refused; None when it has refused them all."""
        refused = self._refused.get(peer_id, ())
        return next((channel_type for channel_type in types if channel_type not in refused), None)

    def forget(self, peer_id: str) -> None:
        """Forget a client that has refused everything: the type is not what is wrong, the next attempt begins anew."""
        self._refused.pop(peer_id, None)
