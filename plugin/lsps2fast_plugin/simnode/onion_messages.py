"""Onion messages on their way through a node: forwarded, or dropped and told of (cln:N15); none is read."""

from __future__ import annotations

import asyncio
from typing import Any

from .errors import LIGHTNINGD, RpcError
from .party import Party

PER_S = 4  # so many lightningd takes of a peer; it drops the others


class OnionMessages:
    """Those that come through one node; `injected` are all that a plugin gave it."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._next: dict[bytes, Party] = {}
        self.injected: list[bytes] = []

    def arrived(self, source: Party, message: bytes, to: Party) -> None:
        """Forward a message of a peer; plugins hear of one whose next peer is not there."""
        self._next[message] = to
        if not self._forward(message, to):
            told = {"source": source.node_id, "incoming": message.hex(), "path_key": source.node_id}
            self._node.notify("onionmessage_forward_fail", {**told, "outgoing": "00", "next_node_id": to.node_id})

    def inject(self, message: bytes) -> None:
        """Forward a message that a plugin gives back. Raises RpcError. One that never came leads nowhere."""
        self.injected.append(message)
        to = self._next.get(message)
        if to is not None and not self._forward(message, to):
            raise RpcError(LIGHTNINGD, f"onion msg: unknown next peer {to.node_id}")

    def _forward(self, message: bytes, to: Party) -> bool:
        if to.node_id not in self._node.links:
            return False
        to.onion_message_arrived(message)
        return True


class OnionInbox:
    """What a wallet takes of one peer; nothing says what was lost on the way to it."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._times: list[float] = []
        self.messages: list[bytes] = []

    def take(self, message: bytes) -> None:
        """Take it, unless too many came within the last second."""
        now_s = asyncio.get_running_loop().time() + self._clock.time()
        self._times = [each for each in self._times if each > now_s - 1]
        if len(self._times) < PER_S:
            self._times.append(now_s)
            self.messages.append(message)
