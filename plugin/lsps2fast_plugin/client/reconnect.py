"""Staying with an LSP that owes us a channel: it can only open one to a wallet that is connected (I-19)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


class Reconnect:
    """Dials LSPs again, with growing pauses, for as long as `wanted(lsp_id)`."""

    def __init__(
        self,
        rpc: Rpc,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        wanted: Callable[[str], bool],
        address: Callable[[str], str | None],
    ) -> None:
        self._rpc = rpc
        self._clock = clock
        self._spawn = spawn
        self._wanted = wanted
        self._address = address
        self._dialling: set[str] = set()
        self._back = asyncio.Event()

    def lost(self, lsp_id: str) -> None:
        """Try to reach an LSP again whose link is gone."""
        if self._wanted(lsp_id) and lsp_id not in self._dialling:
            self._dialling.add(lsp_id)
            self._spawn(self._dial(lsp_id))

    def back(self, lsp_id: str) -> None:
        """Stop trying: the link is there again."""
        self._dialling.discard(lsp_id)
        self._back.set()
        self._back = asyncio.Event()

    async def _dial(self, lsp_id: str) -> None:
        pause_s = FIRST_PAUSE_S
        try:
            while lsp_id in self._dialling and self._wanted(lsp_id):
                if await self._try(lsp_id):
                    return
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._dialling.discard(lsp_id)

    async def _try(self, lsp_id: str) -> bool:
        """By node id, which uses what gossip knows; else by the address it had when we bought."""
        address = self._address(lsp_id)
        for target in (lsp_id, *((f"{lsp_id}@{address}",) if address else ())):
            try:
                await self._rpc.call("connect", {"id": target})
            except NodeError as error:
                log.debug(f"LSP {lsp_id} cannot be reached again yet: {error.message}")
            else:
                return True
        return False

    async def _rest(self, pause_s: float) -> None:
        back = asyncio.ensure_future(self._back.wait())
        rest = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ms() + round(pause_s * 1000)))
        await asyncio.wait((back, rest), return_when=asyncio.FIRST_COMPLETED)
        back.cancel()
        rest.cancel()
