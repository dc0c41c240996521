"""What must be true of channels that rules close: each once, recorded, in the books, none by force."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from .stage import Stage

RECORDS = ("lsps", "lsps2", "closes")
PROMISED_BLOCKS = 3


class CloseWatch:
    """Sees each `close` that lightningd is asked for by the plugin, at the moment it is."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.asked: list[str] = []
        stage.world.transcript.listeners.append(self._see)

    def _see(self, entry: dict[str, Any]) -> None:
        message = entry["msg"]
        if entry["dir"] != "rpc>host" or entry["peer"] != "lsp/plugin-rpc" or message.get("method") != "close":
            return
        params = message["params"]
        channel_id = params["id"]
        self.asked.append(channel_id)
        say = self._stage.problems.append
        if (*RECORDS, channel_id) not in self._stage.lsp.datastore.rows:
            say(f"channel {channel_id[:8]} is closed without a record")
        if params.get("unilateraltimeout") != 0:
            say(f"channel {channel_id[:8]} may be closed by force")
        for channel in self._stage.world.channels:
            if channel.channel_id != channel_id:
                continue
            depth = self._stage.world.chain.depth(channel.funding_txid)
            if depth < PROMISED_BLOCKS:
                say(f"channel {channel_id[:8]} is closed with {depth} confirmations")
            if any(end.live for end in channel.ends):
                say(f"channel {channel_id[:8]} is closed with HTLCs in flight")

    def records(self) -> list[str]:
        """What is decided and not over."""
        rows = self._stage.lsp.datastore.rows.items()
        return [value.decode() for key, (value, _) in rows if key[:-1] == RECORDS]

    def problems(self) -> Iterator[str]:
        """What is wrong when all is over."""
        if not self.asked:
            yield "no close was asked for"
        for record in self.records():
            yield f"the record of a close is left: {record}"
        db = sqlite3.connect(self._stage.ledger)
        try:
            booked = {row[0] for row in db.execute("SELECT lower(hex(channel_id)) FROM closes")}
        finally:
            db.close()
        closed = {channel.channel_id for channel in self._stage.world.channels if channel.on_chain is not None}
        if booked != closed:
            yield f"closes in the ledger {booked}, on chain {closed}"
