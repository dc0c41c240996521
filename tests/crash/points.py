"""Names for the points of a run: every message that passes between lightningd and the plugin, counted.

`2/reply datastore#3` is the third answer to a datastore call in the plugin's second life (after one death). A death
at a point comes before the message is delivered; at `rpc` the call is carried out, and the plugin never hears of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

Entry = dict[str, Any]
PLUGIN, POWER, STOP, PLUGIN_STOP = "plugin", "power", "stop", "plugin-stop"
DEATHS = {
    PLUGIN: "kill -9 of the plugin; lightningd lives on",
    POWER: "lightningd and the plugin are gone at once",
    STOP: "lightning-cli stop",
    PLUGIN_STOP: "lightning-cli plugin stop",
}
# Of the test itself, or without meaning for the plugin.
UNCOUNTED = {"lsps2-stats", "lsps2-dev-advance", "lsps2-listsessions", "lsps2-listsales", "warning", "custommsg"}
EACH_BLOCK, SOME_BLOCKS = 3, 20  # of many blocks in a row only some are points


class Labels:
    """Gives each message its name."""

    def __init__(self, node: str = "lsp", uncounted: Collection[str] = UNCOUNTED) -> None:
        """Of the messages of this node's plugin, but for these methods."""
        self._peers = (f"{node}/plugin", f"{node}/plugin-rpc")
        self._uncounted = uncounted
        self._counts: Counter[str] = Counter()
        self._methods: dict[str, str] = {}  # id of a request: its method

    def begin(self) -> None:
        """Count from here."""
        self._counts.clear()

    def of(self, entry: Entry) -> str | None:
        """The name of this message; None for what is no point."""
        direction, message = entry["dir"], entry["msg"]
        if entry["peer"] not in self._peers or direction == "mark":
            return None
        method = message.get("method")
        if direction == "plugin>host" and method is not None:
            return None  # log lines and our own notifications: no program acts on them
        if method is None:
            kind = "reply" if direction == "host>rpc" else "answer"
            method = self._methods.get(f"{direction[-3:]} {message.get('id')}", "?")
        else:
            kind = "rpc" if direction == "rpc>host" else "hook" if "id" in message else "note"
            if "id" in message:  # answers go the other way: plugin>host to host>plugin, host>rpc to rpc>host
                back = "rpc" if direction == "rpc>host" else "ost"
                self._methods[f"{back} {message['id']}"] = method
        if method in self._uncounted:
            return None
        name = f"{kind} {method}"
        self._counts[name] += 1
        if name == "note block_added" and self._counts[name] > EACH_BLOCK and self._counts[name] % SOME_BLOCKS:
            return None
        return f"{name}#{self._counts[name]}"


@dataclass(frozen=True)
class Death:
    """How and where one life of the plugin ends."""

    kind: str  # of DEATHS
    point: str

    def __str__(self) -> str:
        return f"{self.kind}@{self.point}"

    @classmethod
    def parse(cls, text: str) -> Death:
        """The opposite of str(); raises ValueError."""
        kind, at, point = text.partition("@")
        if not at or kind not in DEATHS:
            raise ValueError(f"{text!r} is no death: give KIND@POINT with one of {', '.join(DEATHS)}")
        return cls(kind, point)
