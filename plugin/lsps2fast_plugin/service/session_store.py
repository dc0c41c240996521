"""The journal in lightningd's datastore: what was promised, and how far each payment has come.

One record a jit scid, under ["lsps","lsps2","sessions","active"|"finalized",<jit scid>], as CLN's built-in plugin keeps
them. A buy outlives a payment that failed, so the record of such an attempt lies under "finalized" while the buy is
"active". A write either happened or raises StoreError. Records that cannot be read are kept, reported and left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from lsps2fast.actions import TIMEOUT, ExistingChannel, SessionRecord
from lsps2fast.errors import Lsps2Error, StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import format_scid, parse_scid
from lsps2fast_plugin.cln.datastore import DatastoreRow, KeyWriter, as_hex, list_datastore
from lsps2fast_plugin.cln.late_replies import Insist
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.session_record import (
    FRESH,
    UNUSED,
    StoredSession,
    Unread,
    final_record,
    read_record,
    record_of,
    unread_record,
)

log = logging.getLogger(__name__)

ROOT = ("lsps", "lsps2", "sessions")
OLD_ROOT = ("lsps", "lsps2")  # the built-in plugin of v26.06 keeps a buy right here, until it is paid
AT_ONCE = 250  # records read in one go: a few milliseconds


class SessionStore:
    """Reads all records once, then writes whole ones; writes for one jit scid keep their order."""

    def __init__(self, rpc: Rpc, insist: Insist, unused: Callable[[Buy], None] = lambda _: None) -> None:
        """`insist` as in `LateReplyGuard`. `unused(buy)`: its record is gone, and it brought no channel."""
        self._rpc = rpc
        self._insist = insist
        self._unused = unused
        self._writer = KeyWriter(rpc, insist)
        self._buys: dict[int, Buy] = {}
        self._peers: dict[str, str] = {}  # while they are read: the same text for all buys of a client
        self._old: set[int] = set()  # buys that also have a record of the built-in plugin of v26.06
        self._kept: set[tuple[str, ...]] = set()  # keys that nothing may be written to
        self._journals: dict[int, SessionRecord] = {}  # the last word of the payment under way
        self._tried: dict[int, tuple[bytes | None, str]] = {}  # of the attempt in the final record
        self._ended: dict[int, str] = {}  # outcome in the final record that is there, or being written
        self.unread: list[Unread] = []
        self.commits = 0

    async def load(self, default_delta_blocks: int) -> list[StoredSession]:
        """Return all records, active and finalized.

        What is not understood is reported, put in `unread`, left alone (K-08).
        """
        found: list[StoredSession] = []
        self.unread, self._kept = [], set()
        for folder in ("active", "finalized"):
            for number, entry in enumerate(await list_datastore(self._rpc, (*ROOT, folder)), 1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)  # a long journal must not keep lightningd's other questions waiting
                stored = self._decode(entry, default_delta_blocks)
                if stored is None:
                    continue
                if (stored.outcome is None) != (folder == "active"):
                    self._set_aside(entry, "it lies in the wrong folder")
                    continue
                if stored.is_attempt:
                    self._tried[stored.buy.jit_scid] = stored.journal.payment_hash, stored.outcome or ""
                    continue
                found.append(stored)
                if folder == "active":
                    self._buys[stored.buy.jit_scid] = stored.buy
                elif stored.buy.jit_scid in self._buys:
                    self._ended[stored.buy.jit_scid] = stored.outcome or ""
        found += await self._load_old(default_delta_blocks)
        self._peers.clear()
        return found

    async def _load_old(self, default_delta_blocks: int) -> list[StoredSession]:
        """Return buys that the built-in plugin of v26.06 sold. They stay where they are until paid or over."""
        found: list[StoredSession] = []
        for entry in await list_datastore(self._rpc, OLD_ROOT):
            stored = self._decode(entry, default_delta_blocks)
            if stored is None:
                continue
            self._old.add(stored.buy.jit_scid)
            if stored.buy.jit_scid not in self._buys:
                self._buys[stored.buy.jit_scid] = stored.buy
                found.append(stored)
        return found

    async def finished(self, default_delta_blocks: int) -> AsyncIterator[StoredSession]:
        """Yield all final records, in slices. Raises StoreError."""
        for number, entry in enumerate(await list_datastore(self._rpc, (*ROOT, "finalized")), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            stored = None if entry.key in self._kept else self._decode(entry, default_delta_blocks)
            if stored is not None and stored.outcome is not None:
                yield stored
        self._peers.clear()

    async def drop_final(self, jit_scid: int) -> None:
        """Delete a final record that is no longer binding (A-09). Raises StoreError."""
        await self._delete("finalized", jit_scid)

    def _decode(self, entry: DatastoreRow, default_delta_blocks: int) -> StoredSession | None:
        if entry.hex is None:
            return None  # a folder (cln:D4)
        try:
            record = msgspec.json.decode(bytes.fromhex(entry.hex))
            record["peer_id"] = self._peers.setdefault(record["peer_id"], record["peer_id"])
            return read_record(parse_scid(entry.key[-1]), record, default_delta_blocks)
        except (KeyError, TypeError, ValueError, AttributeError, Lsps2Error) as error:
            self._set_aside(entry, f"{type(error).__name__}: {error}")
            return None

    def _set_aside(self, entry: DatastoreRow, why: str) -> None:
        log.error(f"journal record {list(entry.key)} cannot be read ({why}); kept, not used")
        self.unread.append(unread_record(entry.key[-1], entry.hex or ""))
        self._kept.add(entry.key)

    def keep(self, jit_scid: int) -> None:
        """Leave this record as it is, whatever is ordered from now on: it is not understood after all."""
        self._kept.add((*ROOT, "active", format_scid(jit_scid)))
        self._buys.pop(jit_scid, None)

    def unread_names(self, hex_id: str) -> bool:
        """Return whether a record that is not understood speaks of this channel or peer."""
        return any(hex_id.encode() in record.raw for record in self.unread)

    async def add(self, buy: Buy) -> None:
        """Journal a new buy: one commit (B-10). Raises StoreError; the buy is then not sold, and leaves no record."""
        self._buys[buy.jit_scid] = buy
        try:
            await self._write("active", buy, record_of(buy, FRESH))
        except StoreError:
            # A write may have happened whatever was answered (K-13); the client was not told of this buy.
            self._insist(f"deleting unsold buy {format_scid(buy.jit_scid)}", lambda: self.forget(buy.jit_scid))
            raise

    async def put(self, jit_scid: int, journal: SessionRecord) -> None:
        """Journal how far the payment on this scid has come: one commit. Raises StoreError."""
        buy = self._buys[jit_scid]
        if journal.payment_hash is not None:
            self._journals[jit_scid] = journal
        await self._write("active", buy, record_of(buy, journal))

    async def note_fees(self, buy: Buy, existing: ExistingChannel) -> None:
        """Write which routing fees a channel of a finished buy has: one commit; `forget` ends it. Raises StoreError."""
        await self._write("active", buy, record_of(buy, msgspec.structs.replace(FRESH, existing=existing)))

    async def attempt_ended(
        self, jit_scid: int, payment_hash: bytes, outcome: str, wall_ms: int, fee_paid_msat: int = 0
    ) -> None:
        """Leave word of a payment that is over while its buy lives on: one commit, none for the same again.

        `fee_paid_msat`: what has come for this scid so far. Raises StoreError.
        """
        buy, word = self._buys.get(jit_scid), (payment_hash, outcome)
        if buy is None or jit_scid in self._ended or self._tried.get(jit_scid) == word:
            return
        before, self._tried[jit_scid] = self._tried.get(jit_scid), word
        kept = journal = self._journals.pop(jit_scid, None)
        if journal is None or journal.payment_hash != payment_hash:
            journal = msgspec.structs.replace(FRESH, payment_hash=payment_hash)
        if fee_paid_msat:
            journal = msgspec.structs.replace(journal, fee_paid_msat=fee_paid_msat)
        record = final_record(buy, journal, outcome, wall_ms)
        record["lsps2fast"]["attempt"] = True
        try:
            await self._write("finalized", buy, record)
        except StoreError:  # who tries again is to find it undone
            if self._tried.get(jit_scid) is word:
                del self._tried[jit_scid]
                if before is not None:
                    self._tried[jit_scid] = before
                if kept is not None:
                    self._journals.setdefault(jit_scid, kept)
            raise

    async def lapse(self, jit_scid: int, wall_ms: int) -> None:
        """Write the final record of a buy that nothing came of; `forget` then ends the active one.

        The record of an attempt says more, and stays. Raises StoreError.
        """
        if jit_scid in self._buys and jit_scid not in self._tried:
            await self.finalize(jit_scid, FRESH, TIMEOUT, wall_ms)

    async def finalize(self, jit_scid: int, journal: SessionRecord, outcome: str, wall_ms: int) -> None:
        """Write the final record: one commit, repeatable; `forget` then ends the active one (K-15).

        Raises StoreError.
        """
        buy = self._buys[jit_scid]
        self._ended[jit_scid] = outcome
        await self._write("finalized", buy, final_record(buy, journal, outcome, wall_ms))

    async def forget(self, jit_scid: int) -> None:
        """Delete the active record: one commit, repeatable. Raises StoreError."""
        await self._delete("active", jit_scid)
        buy, outcome = self._buys.pop(jit_scid, None), self._ended.pop(jit_scid, None)
        self._journals.pop(jit_scid, None)
        self._tried.pop(jit_scid, None)
        if buy is not None and (outcome is None or outcome in UNUSED):
            self._unused(buy)

    def knows(self, jit_scid: int) -> bool:
        """Return whether an active record exists."""
        return jit_scid in self._buys

    async def _write(self, folder: str, buy: Buy, record: dict[str, Any]) -> None:
        value = as_hex(record)
        await self._set((*ROOT, folder, format_scid(buy.jit_scid)), value)

    async def _delete(self, folder: str, jit_scid: int) -> None:
        await self._set((*ROOT, folder, format_scid(jit_scid)), None)
        if jit_scid in self._old:
            await self._set((*OLD_ROOT, format_scid(jit_scid)), None)
            self._old.discard(jit_scid)

    async def _set(self, key: tuple[str, ...], value: str | None) -> None:
        """Write or delete one record in its turn: a report that hangs keeps no payment waiting. Raises StoreError."""
        if key in self._kept:
            raise StoreError(f"journal record {list(key)} is not understood and stays as it is (K-08)")
        await self._writer.put(key, lambda: value)
        self.commits += 1
