"""The service's book of promised room, which tells the town of each promise."""

from __future__ import annotations

from lsps2fast_plugin.service.promised_room import Promise, PromisedRoom

from .loop import simulated_loop


class WatchedRoom(PromisedRoom):
    """What the service keeps, and a word to the town."""

    def promise(self, channel_id: str, promise: Promise) -> None:
        """Promise it, and tell."""
        super().promise(channel_id, promise)
        simulated_loop().promised(channel_id, list(self._promises[channel_id].values()))
