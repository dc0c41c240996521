"""Records of CLN's built-in client: told by label, and its standing approvals ended when nothing needs them.

It keeps the node id of the LSP under ["lsps","invoice",<payment hash>], without the agreed fee, so such an invoice
cannot be paid while this plugin runs. Under ["lsps","client",<node id>] it keeps an approval without an end: back in
charge, it would accept the next zero-conf channel of that LSP, of any size.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.answers import InvoiceRow
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import NO_SUCH_KEY, Key, list_datastore
from lsps2fast_plugin.cln.models import Caller
from lsps2fast_plugin.cln.retry import until_answered

log = logging.getLogger(__name__)

BUYS: Final = ("lsps", "client")
APPROVALS: Final = ("lsps", "invoice")
NODE_ID: Final = re.compile(r"0[23][0-9a-f]{64}")
HASH: Final = re.compile(r"[0-9a-f]{64}")
LONGEST_WAIT_MS: Final = 3_600_000
PAGE: Final = "docs/how-to/replace-the-built-in.md"
ByHash = Callable[[bytes], Awaitable[InvoiceRow | None]]


def is_built_in(key: Key, value: bytes) -> bool:
    """Return whether the built-in client has written this record."""
    if key[:-1] == BUYS:
        return NODE_ID.fullmatch(key[-1]) is not None
    return key[:-1] == APPROVALS and HASH.fullmatch(key[-1]) is not None and _node_id(value) is not None


def _node_id(value: bytes) -> str | None:
    text = value.decode(errors="replace")
    return text if NODE_ID.fullmatch(text) else None


class BuiltInRecords:
    """Looks at them once at the start, and again whenever one of their invoices ends."""

    def __init__(self, rpc: Caller, by_hash: ByHash, clock: Clock) -> None:
        """`by_hash(payment_hash)` returns lightningd's row of an invoice."""
        self._rpc = rpc
        self._by_hash = by_hash
        self._clock = clock
        self._told: set[str] = set()

    async def watch(self) -> None:
        """Return when none of their invoices is open any more."""
        while (wait_ms := await until_answered("looking at the built-in client's records", self.look, self._clock)) > 0:
            await self._clock.sleep_until(self._clock.now_ms() + min(wait_ms, LONGEST_WAIT_MS))

    async def look(self) -> int:
        """Tell of invoices, end approvals; how many ms until the first of the invoices ends, 0 without any.

        Raises NodeError, StoreError.
        """
        waiting: dict[str, list[InvoiceRow]] = {}
        for key, value in await self._records(APPROVALS):
            row = await self._by_hash(bytes.fromhex(key))
            if row is not None and row.is_unpaid:
                waiting.setdefault(value.decode(), []).append(row)
        open_rows = [row for rows in waiting.values() for row in rows]
        self._tell([row.label for row in open_rows])
        for lsp_id, _ in await self._records(BUYS):
            if lsp_id not in waiting:
                await self._end(lsp_id)
        ends_ms = [row.expires_at * 1000 - self._clock.wall_ms() for row in open_rows]
        return max(min(ends_ms), 1000) if ends_ms else 0

    async def _records(self, folder: tuple[str, ...]) -> list[tuple[str, bytes]]:
        rows = await list_datastore(self._rpc, folder)
        found = [(row.key, bytes.fromhex(row.hex)) for row in rows if row.hex is not None]
        return [(key[-1], value) for key, value in found if is_built_in(key, value)]

    def _tell(self, labels: list[str]) -> None:
        new = [label for label in labels if label not in self._told]
        self._told.update(new)
        if new:
            log.warning(
                "these invoices were made by CLN's built-in client, which notes no fee, and cannot be paid now:"
                f" {', '.join(map(repr, new))}; make new ones ({PAGE})"
            )

    async def _end(self, lsp_id: str) -> None:
        try:
            await self._rpc.call("deldatastore", {"key": [*BUYS, lsp_id]})
        except NodeError as error:
            if error.code != NO_SUCH_KEY:
                raise
        log.info(f"a standing approval of the built-in client, for any zero-conf channel of {lsp_id}, is deleted")
