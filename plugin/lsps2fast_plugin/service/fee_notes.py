"""Routing fees that only memory would know otherwise, in lightningd's datastore, by channel.

Of two kinds: what an operator has set for a channel that is about to take none, where the record of its payment has no
place for it; and what a channel was given back while a call of an earlier life of the plugin may take that away again.
A note is written before it is needed, and deleted when nothing can make it needed any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import msgspec

from lsps2fast.actions import RestoreFees
from lsps2fast_plugin.cln.datastore import DatastoreRecords, read_as

log = logging.getLogger(__name__)

ROOT: Final = ("lsps", "lsps2", "fees")
VERSION: Final = 1


class FeeNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel is to charge."""

    version: int = VERSION
    channel_id: str
    fee_base_msat: int
    fee_ppm: int
    zero_until_ms: int


class FeeNotes:
    """All notes, by channel id."""

    def __init__(self, notebook: DatastoreRecords) -> None:
        self._notebook = notebook
        self._notes: dict[str, RestoreFees] = {}

    async def load(self) -> None:
        """Read the notes of earlier lives; one that is not understood is told and left alone. Raises StoreError."""
        for key, value in await self._notebook.read(ROOT):
            note = read_as(FeeNote, value, VERSION)
            if note is None or note.channel_id != key[-1]:
                log.error(f"the record of the routing fees of channel {key[-1]} cannot be read; it is left alone")
            else:
                rates = note.fee_base_msat, note.fee_ppm
                self._notes[note.channel_id] = RestoreFees(note.channel_id, note.zero_until_ms, rates)

    def __iter__(self) -> Iterator[RestoreFees]:
        return iter(list(self._notes.values()))

    def __contains__(self, channel_id: str) -> bool:
        return channel_id in self._notes

    def rates(self, channel_id: str) -> tuple[int, int] | None:
        """Return base fee in msat and ppm that this channel is to get, where a note says it."""
        note = self._notes.get(channel_id)
        return None if note is None else note.rates

    async def write(self, channel_id: str, rates: tuple[int, int], zero_until_ms: int = 0) -> None:
        """Write what a channel is to charge: one commit, none for the same again. Raises StoreError."""
        fees = RestoreFees(channel_id, zero_until_ms, rates)
        if self._notes.get(channel_id) == fees:
            return
        note = FeeNote(channel_id=channel_id, fee_base_msat=rates[0], fee_ppm=rates[1], zero_until_ms=zero_until_ms)
        await self._notebook.write((*ROOT, channel_id), lambda: msgspec.to_builtins(note))
        self._notes[channel_id] = fees

    async def drop(self, channel_id: str) -> None:
        """Delete the note about a channel, if there is one. Raises StoreError."""
        if channel_id in self._notes:
            await self._notebook.write((*ROOT, channel_id), lambda: None)
            self._notes.pop(channel_id, None)
