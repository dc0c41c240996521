"""Looks for what lightningd may never tell: a funding that no block took, or that a reorg lost, a part whose end was
never announced, an unpaid channel that is gone.

bitcoind forgets transactions, a reorg can lose them, a notification can be lost. So what is waited for is looked at as
blocks come: fundings every few blocks until so many have buried them that no reorg is to be feared, parts and closes
after 1, 2, 4, 8 … blocks. The questions are about our own channels only and come one after the other, however many
there are. What is found goes the way of the notification that did not come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from lsps2fast.actions import Channel, PartKey
from lsps2fast.errors import Lsps2Error
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.capital import BACK
from lsps2fast_plugin.service.funding import ChannelGone, Funder, holds_money_of_client
from lsps2fast_plugin.service.reconcile import SETTLED, Snapshot, out_channel_id, resolved_rows
from lsps2fast_plugin.service.session_record import StoredSession

log = logging.getLogger(__name__)

FUNDING_EVERY_BLOCKS: Final = 6
BURIED_BLOCKS: Final = 6  # a funding with so many confirmations needs to be looked at no more
ALARM_AFTER_BLOCKS: Final = 144
MOST_BLOCKS: Final = 2016  # bitcoind itself keeps a transaction for two weeks
SessionKey = tuple[int, bytes]  # jit scid, payment hash


@dataclass
class _Funding:
    peer_id: str
    channel: Channel
    since: int
    due: int
    alarmed: bool = False
    may_be_lost: bool = False  # blocks were replaced since we looked


@dataclass
class _Waited:
    due: int
    pause_blocks: int = 1


class Tables(Protocol):
    """What lightningd lists: `Reconciler`."""

    async def snapshot(self, records: Iterable[StoredSession]) -> Snapshot:
        """Return it for these sessions. Raises NodeError."""


class WaitingSessions(Protocol):
    """What waits, and hears what was found: `SessionDriver`."""

    def waiting(self) -> dict[SessionKey, StoredSession]:
        """Return the sessions with parts at their client, as records that say where the parts went."""

    def unpaid(self) -> dict[str, str]:
        """Return the channels without a payment under way whose money is waited for, with their peers."""

    def told(self, part: PartKey, settled: bool) -> None:
        """Take note how a part ended."""

    def channel_closed(self, channel_id: str) -> None:
        """Take note that a channel is closing or gone."""

    def money_seen(self, channel_id: str) -> None:
        """Take note that the client holds money in a withheld channel."""

    def never_funded(self, channel_id: str) -> None:
        """Take note that an unpaid channel is gone, and our money is back."""

    def alarm(self, text: str) -> None:
        """Tell the operator."""


class MissedEventPoller:
    """Everything that is waited for, and when it is looked at next. Heights are those of the node."""

    def __init__(
        self,
        *,
        funder: Funder,
        broadcaster: Broadcaster,
        tables: Tables,
        sessions: WaitingSessions,
    ) -> None:
        self._funder = funder
        self._broadcaster = broadcaster
        self._tables = tables
        self._sessions = sessions
        self._height = 0
        self._fundings: dict[str, _Funding] = {}
        self._parts: dict[SessionKey, _Waited] = {}
        self._closes: dict[str, _Waited] = {}  # by channel id
        self._looking = asyncio.Lock()

    def __len__(self) -> int:
        """Return the number of fundings that are not buried yet."""
        return len(self._fundings)

    def funding(self, peer_id: str, channel: Channel) -> None:
        """Watch a funding that was sent until it is buried."""
        self._fundings[channel.channel_id] = _Funding(peer_id, channel, self._height, self._height + 1)

    def load(self, stored: Iterable[StoredSession], channels: Iterable[PeerChannel], height: int) -> None:
        """Take up fundings of finished sales that are not buried, after a start."""
        self._height = max(self._height, height)
        open_now = {row.channel_id: row for row in channels}
        for record in stored:
            channel = record.journal.channel
            row = None if channel is None or record.outcome is None else open_now.get(channel.channel_id)
            deep = row is not None and row.confirmations(self._height) >= BURIED_BLOCKS
            if channel is not None and row is not None and not row.is_withheld and not deep:
                self.funding(record.buy.peer_id, channel)
                self._fundings[channel.channel_id].may_be_lost = row.is_confirmed

    async def block(self, height: int) -> None:
        """Look at what is due after a block.

        Old heights come after lightningd's start (cln:R2), and where others take the place of blocks: lightningd goes
        on naming the block that a funding had, so bitcoind is asked for each with the next block.
        """
        if height <= self._height:
            for funding in self._fundings.values():
                funding.may_be_lost, funding.due = True, self._height
            return
        self._height = height
        async with self._looking:
            for funding in [each for each in self._fundings.values() if each.due <= self._height]:
                await self._look_at_funding(funding)
            await self._look_at_parts()
            await self._look_at_closes()

    async def _look_at_funding(self, funding: _Funding) -> None:
        channel_id, age = funding.channel.channel_id, self._height - funding.since
        funding.due = self._height + FUNDING_EVERY_BLOCKS
        try:
            found = await self._funder.find(funding.peer_id, channel_id)
            if found is None or age > MOST_BLOCKS:
                self._fundings.pop(channel_id, None)
            elif found.is_confirmed:
                await self._look_whether_buried(funding, found)
            else:
                funding.may_be_lost = False
                await self._broadcaster.send(funding.peer_id, funding.channel)
        except ChannelGone as gone:
            self._fundings.pop(channel_id, None)
            self._sessions.alarm(f"funding {funding.channel.funding_txid} is not sent again: {gone}")
        except Lsps2Error as error:
            log.warning(f"sending the funding of channel {channel_id} again: {error}")
            funding.due = self._height + 1 if funding.may_be_lost else funding.due
        if age >= ALARM_AFTER_BLOCKS and channel_id in self._fundings and not funding.alarmed:
            funding.alarmed = True
            self._sessions.alarm(
                f"funding {funding.channel.funding_txid} of channel {channel_id} is in no block after {age}"
            )

    async def _look_whether_buried(self, funding: _Funding, found: PeerChannel) -> None:
        """Send a funding that had a block again where bitcoind has it no more. ChannelGone or NodeError."""
        channel = funding.channel
        if not found.is_normal or found.funding_txid != channel.funding_txid:  # closed or spliced: it was spent
            self._fundings.pop(channel.channel_id, None)
            return
        deep = found.confirmations(self._height)
        funding.due = self._height + max(BURIED_BLOCKS - deep, 1)
        if not funding.may_be_lost and deep < BURIED_BLOCKS:
            return
        if await self._broadcaster.send_if_lost(funding.peer_id, channel):
            log.warning(f"funding {channel.funding_txid} of channel {channel.channel_id} lost its block: sent again")
            funding.since = self._height
        elif deep >= BURIED_BLOCKS and self._height - funding.since >= BURIED_BLOCKS:
            self._fundings.pop(channel.channel_id, None)
        funding.may_be_lost = False

    async def _look_at_parts(self) -> None:
        waiting = self._sessions.waiting()
        self._parts = {key: self._parts.get(key) or _Waited(self._height + 1) for key in waiting}
        due = {key: record for key, record in waiting.items() if self._parts[key].due <= self._height}
        if not due:
            return
        for key in due:
            parts = self._parts[key]
            parts.pause_blocks *= 2
            parts.due = self._height + parts.pause_blocks
        try:
            snapshot = await self._tables.snapshot(due.values())
        except Lsps2Error as error:
            log.warning(f"looking what became of parts: {error}")
            return
        for record in due.values():
            self._judge(record, snapshot)

    async def _look_at_closes(self) -> None:
        """Find unpaid channels that went without a word, as after `dev-forget-channel` (rule:9)."""
        unpaid = self._sessions.unpaid()
        self._closes = {key: self._closes.get(key) or _Waited(self._height + 1) for key in unpaid}
        for channel_id, waited in self._closes.items():
            if waited.due > self._height:
                continue
            waited.pause_blocks *= 2
            waited.due = self._height + waited.pause_blocks
            try:
                row = await self._funder.find(unpaid[channel_id], channel_id)
            except Lsps2Error as error:
                log.warning(f"looking whether channel {channel_id} is closed: {error}")
                continue
            if row is None or row.state in BACK:
                self._sessions.never_funded(channel_id)
            elif row.is_closing:
                self._sessions.channel_closed(channel_id)

    def _judge(self, record: StoredSession, snapshot: Snapshot) -> None:
        """Tell what the tables say and no notification said; what was paid comes first: it decides (K-11)."""
        ends = resolved_rows(record.journal, snapshot)
        for part in sorted(ends, key=lambda part: ends[part] != SETTLED):
            self._sessions.told(part, ends[part] == SETTLED)
        channel, channel_id = record.journal.channel, out_channel_id(record.journal)
        row = None if channel is None else snapshot.channels.get(channel.channel_id)
        if channel_id is not None and not snapshot.is_alive(channel_id):
            self._sessions.channel_closed(channel_id)  # the session may have another by now
        elif row is not None and row.is_withheld and holds_money_of_client(row):
            self._sessions.money_seen(row.channel_id)  # whatever the tables say (rule:25)
