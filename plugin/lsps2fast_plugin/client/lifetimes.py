"""Whether an LSP keeps a channel for as long as it was paid to (A-05, wallet:W13)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.history import History
from lsps2fast_plugin.client.records import Distrust
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import list_closed_channels
from lsps2fast_plugin.cln.notifications import ChannelStateChanged
from lsps2fast_plugin.cln.rpc import Rpc

BY_THE_LSP: Final = ("remote", "onchain")  # causes; a funding spent out of the blue was spent by the LSP's commitment
Json = dict[str, Any]


class Lifetimes:
    """Hears of closes, and finds those of the time when the plugin was away."""

    def __init__(
        self,
        rpc: Rpc,
        book: WalletRecords,
        history: History,
        chain: Chain,
        clock: Clock,
        report: Callable[[str, str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`report(lsp_id, sentence)` tells the owner; `spawn` runs a coroutine by itself."""
        self._spawn = spawn
        self._rpc = rpc
        self._book = book
        self._history = history
        self._chain = chain
        self._clock = clock
        self._report = report

    def closes(self, event: ChannelStateChanged) -> None:
        """Take the first channel_state_changed of a close."""
        self._closed(event.channel_id, event.cause in BY_THE_LSP)

    async def look_back(self) -> None:
        """Find channels that were closed while nothing was heard. Raises NodeError."""
        unheard = {each["channel_id"] for each in self._history.find("paid") if each["funding"] != "closed"} - {None}
        if not unheard:
            return
        rows = await self._chain.rows()
        closers = {row.channel_id: row.closer for row in rows if row.is_closing}
        if unheard - {row.channel_id for row in rows}:
            closers |= {row.channel_id: row.closer for row in await list_closed_channels(self._rpc)}
        for channel_id in unheard & closers.keys():
            self._closed(channel_id, closers[channel_id] == "remote")

    def _closed(self, channel_id: str, by_the_lsp: bool) -> None:
        closed = self._history.closed(channel_id, self._chain.height)
        if closed is None or not by_the_lsp or closed.depth >= closed.lifetime:
            return
        why = (
            f"channel {channel_id} is closed by the LSP after {closed.depth} blocks; it was paid to stay for"
            f" {closed.lifetime}"
        )
        self._report(closed.lsp_id, f"ALARM: {why}; the LSP is not trusted any more")
        self._spawn(self._book.distrust(Distrust(closed.lsp_id, why, self._clock.wall_ms())))
