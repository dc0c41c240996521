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
LASTING_MS = 60_000  # a link that stood so long was a real one: the next is dialled at once


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
        self._dialling: dict[str, object] = {}  # the mark of the one task that dials
        self._pause_s: dict[str, float] = {}  # before an LSP that hangs up soon is dialled again
        self._linked_ms: dict[str, int] = {}  # since when
        self._back = asyncio.Event()

    def lost(self, lsp_id: str) -> None:
        """Try to reach an LSP again whose link is gone."""
        linked_ms = self._linked_ms.pop(lsp_id, None)
        wanted = self._wanted(lsp_id)
        if not wanted or linked_ms is None or self._clock.now_ms() - linked_ms >= LASTING_MS:
            self._pause_s.pop(lsp_id, None)
        if wanted and lsp_id not in self._dialling:
            mark = self._dialling[lsp_id] = object()
            self._spawn(self._dial(lsp_id, mark))

    def back(self, lsp_id: str) -> None:
        """Stop trying: the link is there again."""
        if self._wanted(lsp_id):
            self._linked_ms[lsp_id] = self._clock.now_ms()
        self._dialling.pop(lsp_id, None)
        self._back.set()
        self._back = asyncio.Event()

    async def _dial(self, lsp_id: str, mark: object) -> None:
        """Dial with growing pauses, which go on growing when the LSP answers only to hang up again (wallet:W9)."""

        def still() -> bool:
            return self._dialling.get(lsp_id) is mark and self._wanted(lsp_id)

        try:
            if lsp_id in self._pause_s:
                await self._rest(self._longer(lsp_id))
            while still():
                self._pause_s.setdefault(lsp_id, 0)
                if await self._try(lsp_id):
                    return
                await self._rest(self._longer(lsp_id))
        finally:
            if self._dialling.get(lsp_id) is mark:
                del self._dialling[lsp_id]
            if not self._wanted(lsp_id):
                self._pause_s.pop(lsp_id, None)

    def _longer(self, lsp_id: str) -> float:
        pause_s = self._pause_s.get(lsp_id, 0)
        self._pause_s[lsp_id] = min(2 * pause_s, LONGEST_PAUSE_S) if pause_s else FIRST_PAUSE_S
        return self._pause_s[lsp_id]

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
