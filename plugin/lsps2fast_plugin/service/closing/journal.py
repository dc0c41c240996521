"""Closes that were decided, in lightningd's datastore: written before lightningd is asked, deleted when it is over.

So no channel is closed without a record, and a start knows what was decided before. What a record says for good stands
in the sales ledger before it is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import msgspec

from lsps2fast_plugin.cln.datastore import DatastoreRecords, read_as

log = logging.getLogger(__name__)

ROOT: Final = ("lsps", "lsps2", "closes")
VERSION: Final = 1


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A rule closes a channel. Amounts are those of the moment; `tries`: written before each question to lightningd."""

    version: int = VERSION
    channel_id: str
    peer_id: str
    rule: str
    decided_ms: int
    feerate_perkw: int
    closing_msat: int
    capacity_msat: int
    ours_msat: int
    opening_fee_msat: int
    routing_fees_msat: int
    idle_days: int
    tries: int = 0
    tried_ms: int = 0
    given_up: str | None = None

    def tried(self, wall_ms: int) -> Decision:
        """Return it with one more try."""
        return msgspec.structs.replace(self, tries=self.tries + 1, tried_ms=wall_ms)

    def hopeless(self, why: str) -> Decision:
        """Return it given up."""
        return msgspec.structs.replace(self, given_up=why)


class CloseJournal:
    """All decisions that are not over, by channel id."""

    def __init__(self, notebook: DatastoreRecords) -> None:
        self._notebook = notebook
        self._decisions: dict[str, Decision] = {}
        self._unread: set[str] = set()  # channels of records that are not understood: not ours to touch
        self.is_loaded = False  # until then nothing may be decided

    async def load(self) -> None:
        """Read what was decided before the start. Raises StoreError."""
        for key, value in await self._notebook.read(ROOT):
            decision = read_as(Decision, value, VERSION)
            if decision is None or decision.channel_id != key[-1]:
                self._unread.add(key[-1])
                log.error(f"the record of a close of channel {key[-1]} cannot be read; the channel is left alone")
            else:
                self._decisions[decision.channel_id] = decision
        self.is_loaded = True

    def __iter__(self) -> Iterator[Decision]:
        return iter(list(self._decisions.values()))

    def __len__(self) -> int:
        return len(self._decisions)

    def __contains__(self, channel_id: str) -> bool:
        """Whether something was decided about this channel, as far as can be known."""
        return channel_id in self._decisions or channel_id in self._unread

    def of(self, channel_id: str) -> Decision | None:
        """Return what was decided about a channel."""
        return self._decisions.get(channel_id)

    async def write(self, decision: Decision) -> None:
        """Write it: only then it may be acted upon. Raises StoreError."""
        value = msgspec.to_builtins(decision)
        await self._notebook.write((*ROOT, decision.channel_id), lambda: value)
        self._decisions[decision.channel_id] = decision

    async def drop(self, decision: Decision) -> None:
        """Delete it: the channel is closed and in the books, or nothing came of it. Raises StoreError."""
        await self._notebook.write((*ROOT, decision.channel_id), lambda: None)
        self._decisions.pop(decision.channel_id, None)
