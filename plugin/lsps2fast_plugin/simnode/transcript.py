"""The record of everything said on a pipe or socket, in the format of the recordings.

One entry is `{"t": seconds, "dir": who to whom, "peer": NODE/WHO, "msg": the message}`; directions are
`host>plugin`, `plugin>host`, `rpc>host`, `host>rpc` and `mark`. `t` is real time for people to read; no
decision of the simulation looks at it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Entry = dict[str, Any]


class Transcript:
    """Keeps the last `limit` entries (None: all). Shared by every node of a world.

    Each of `listeners` is told of an entry as it is made, for those who want to watch.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.entries: deque[Entry] = deque(maxlen=limit)
        self.listeners: list[Callable[[Entry], None]] = []
        self._begin = time.monotonic()

    def add(self, direction: str, peer: str, message: Any) -> None:
        stamp = round(time.monotonic() - self._begin, 6)
        entry = {"t": stamp, "dir": direction, "peer": peer, "msg": message}
        self.entries.append(entry)
        for listener in self.listeners:
            listener(entry)

    def mark(self, peer: str, event: str, **facts: Any) -> None:
        self.add("mark", peer, {"event": event, **facts})

    def tail(self, lines: int = 25) -> str:
        """Return the last lines, shortened: what an error message shows."""
        last = list(self.entries)[-lines:]
        return "\n".join(
            f"  {entry['t']:9.3f} {entry['dir']:<11} {entry['peer']:<18} {json.dumps(entry['msg'])[:240]}"
            for entry in last
        )

    def select(self, direction: str | None = None, peer: str | None = None, method: str | None = None) -> list[Entry]:
        """Entries by direction, peer and JSON-RPC method."""
        return [
            entry
            for entry in self.entries
            if (direction is None or entry["dir"] == direction)
            and (peer is None or entry["peer"] == peer)
            and (method is None or entry["msg"].get("method") == method)
        ]

    def write(self, path: str) -> None:
        """One JSON object per line, as in the recordings."""
        with open(path, "w", encoding="utf-8") as file:
            for entry in self.entries:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
