"""After a start: every journalled buy becomes live again, and each payment goes on where it stood.

What became of a payment is judged in `reconcile`; here the verdicts are carried into the running service.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from lsps2fast.actions import Channel, ExistingChannel, RestoreFees
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import State
from lsps2fast_plugin.cln.models import PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.retry import retry, until_answered
from lsps2fast_plugin.service.capital import BACK
from lsps2fast_plugin.service.coins import UNREAD
from lsps2fast_plugin.service.existing_channels import rates_of
from lsps2fast_plugin.service.funding import holds_money_of_client
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.reconcile import LOST, SETTLED, Snapshot, Verdict, first_orders, judge
from lsps2fast_plugin.service.session_record import StoredSession
from lsps2fast_plugin.service.session_store import AT_ONCE

log = logging.getLogger(__name__)

DROPPED_AT_ONCE: Final = 16


class Recovery:
    """Brings one service back to where its journal and its node say it was."""

    def __init__(self, parts: ServiceParts) -> None:
        self._parts = parts
        self._finished: set[int] = set()  # jit scids with a final record
        self._begun: set[int] = set()  # jit scids with an active record
        self._rows: dict[str, PeerChannel] = {}  # of `channels`, by channel id
        self._owned: set[str] = set()  # channels that some record names
        self._same_node = False  # lightningd ran on while the plugin was away: it may have calls of the last life
        self.channels: list[PeerChannel] = []  # all that lightningd lists

    async def load(self, delta: int) -> list[StoredSession]:
        """Every record of the journal, its coins kept; asks until lightningd gives them."""
        ask = self._parts.store.load
        stored = await until_answered("reading the journal", lambda: ask(delta), self._parts.clock)
        self._keep_coins(self.begun(stored))
        return stored

    @staticmethod
    def begun(stored: list[StoredSession]) -> list[StoredSession]:
        """Return the records that tell of a payment or an end: of all others only the offer is known."""
        finished = {record.buy.jit_scid for record in stored if record.outcome is not None}
        return [
            record
            for record in stored
            if record.outcome is not None or record.journal.stage != "buy" or record.buy.jit_scid in finished
        ]

    def _keep_coins(self, stored: list[StoredSession]) -> None:
        """Reserve the coins of channels for longer, whatever else lightningd has yet to say (O-04)."""
        self._promise_coins(stored)
        finished = {record.buy.jit_scid for record in stored if record.outcome is not None}
        for record in stored:
            funding, channel = record.journal.funding, record.journal.channel
            if record.buy.jit_scid not in finished and funding is not None and channel is not None:
                self._parts.effects.renew_found(record.buy, funding, channel.channel_id)

    async def remember(self, stored: list[StoredSession], begun: list[StoredSession]) -> None:
        """Load what the policy knows of tokens and peers, and the duties of earlier runs; ask until that works."""
        parts = self._parts
        uses = partial(parts.desk.load, stored, parts.store.unread)
        await until_answered("reading what was sold with tokens", uses, self._parts.clock)
        await until_answered("reading what peers did before", parts.exposure.load, self._parts.clock)
        await until_answered("reading routing fees", parts.fee_notes.load, self._parts.clock)
        channels = await until_answered("looking at the channels", parts.view.refresh, self._parts.clock)
        self.channels = channels
        ids = {channel.channel_id for channel in channels}
        parts.exposure.reconcile(begun, channels)
        parts.afterwards.load(begun, ids)
        parts.lookout.load(begun, channels, parts.sessions.height)

    async def look(self, stored: list[StoredSession]) -> Snapshot:
        """Return what lightningd says of the channels in the journal; ask until it answers."""
        ask = self._parts.reconciler.snapshot
        return await until_answered("looking what became of our channels", lambda: ask(stored), self._parts.clock)

    def revive_offers(self, stored: list[StoredSession], begun: list[StoredSession]) -> Iterator[None]:
        """Make the offers live again that no payment has come for, after `revive_begun`; yields now and then."""
        others = {id(record) for record in begun}
        lapsed: list[StoredSession] = []
        for number, record in enumerate(stored, 1):
            if number % AT_ONCE == 0:
                yield
            if id(record) in others:
                continue
            if record.buy.params.valid_until_ms > self._parts.clock.wall_ms():
                self._guarded(record, lambda record=record: self._revive_offer(record))  # type: ignore[misc]
            else:
                lapsed.append(record)
        if lapsed:
            self._parts.host.spawn(self._drop_all(lapsed))

    def revive_begun(self, stored: list[StoredSession], snapshot: Snapshot) -> None:
        """Go on with each payment where it stood (`begun`). Each record by itself (K-08)."""
        self._finished = {record.buy.jit_scid for record in stored if record.outcome is not None}
        self._rows = {row.channel_id: row for row in self.channels}
        self._begun = {record.buy.jit_scid for record in stored if record.outcome is None}
        self._owned = {record.journal.channel.channel_id for record in stored if record.journal.channel is not None}
        self._owned |= {channel_id for channel_id in snapshot.channels if self._spoken_for(channel_id, snapshot)}
        self._promise_coins(stored)
        self._same_node = not snapshot.replays
        for record in stored:
            self._guarded(record, lambda record=record: self._revive(record, snapshot))  # type: ignore[misc]
        for unread in self._parts.store.unread:
            if unread.jit_scid is not None:
                self._set_aside(unread.jit_scid)
        self._parts.effects.take_up_fees(self._rows, self._same_node)
        self._tell_strays(snapshot)

    def _guarded(self, record: StoredSession, revive: Callable[[], None]) -> None:
        """Whatever is wrong with one record must not keep the others from going on."""
        try:
            revive()
        except Exception:
            self._parts.store.keep(record.buy.jit_scid)
            self._set_aside(record.buy.jit_scid)
            what = f"record {format_scid(record.buy.jit_scid)} cannot be taken up; it is kept and its parts fail"
            self._parts.effects.alarm(f"{what}\n{traceback.format_exc()}")

    def _revive_offer(self, record: StoredSession) -> None:
        core = self._parts.driver.go_live(record.buy)
        core.attempts, core.fee_paid_msat = record.journal.attempts, record.journal.fee_paid_msat

    def _promise_coins(self, stored: list[StoredSession]) -> None:
        """Promise each coin to the record that names it; where two name a coin, the one with a channel spends it.

        The reservations of a record that cannot be read are not renewed, but we do not spend its coins.
        """
        live = [record for record in stored if record.outcome is None]
        for record in sorted(live, key=lambda record: record.journal.channel is None):
            if record.journal.funding is not None:
                funding = record.journal.funding
                self._parts.coins.promise(record.buy.jit_scid, funding.inputs, bool(funding.batch))
        for unread in self._parts.store.unread:
            owner = UNREAD if unread.jit_scid is None else unread.jit_scid
            self._parts.coins.promise(owner, unread.outpoints())

    def _spoken_for(self, channel_id: str, snapshot: Snapshot) -> bool:
        """Return whether a record we cannot read may own this channel: it names the channel, or its peer."""
        unread = self._parts.store.unread_names
        return unread(channel_id) or unread(snapshot.channels[channel_id].peer_id)

    def _set_aside(self, jit_scid: int) -> None:
        """No payment may go on over this scid, and none is told that the scid does not exist (rule:6)."""
        self._parts.driver.set_aside.add(jit_scid)
        self._parts.interest.scids.add(jit_scid)

    def _tell_strays(self, snapshot: Snapshot) -> None:
        """Alarm on withheld channels that no record claims. They may be of another tool, so we never close them."""
        orders = self._parts.orders
        for channel_id, channel in snapshot.channels.items():
            if orders is not None and orders.owns(channel):
                continue
            if channel.is_withheld and channel.is_ours and channel_id not in self._owned:
                self._parts.effects.alarm(f"withheld channel {channel_id} to {channel.peer_id} is in no record")

    def _revive(self, record: StoredSession, snapshot: Snapshot) -> None:
        parts, buy, journal = self._parts, record.buy, record.journal
        if record.outcome is not None:
            self._revive_alias(record)
        elif buy.jit_scid in self._finished:  # K-15: a crash fell between the final record and the deletion
            fees = self._fees_again(journal.channel or journal.existing, buy.params.valid_until_ms)
            if fees is not None:
                self._may_have_calls(fees.channel_id)
            parts.effects.finish(buy, fees)
        else:
            verdict = judge(record, snapshot, self._owned)
            if verdict.journal.channel is not None:
                self._owned.add(verdict.journal.channel.channel_id)
            self._revive_session(record, verdict, snapshot)

    def _not_ready(self, channel_id: str) -> None:
        """No part goes into this channel before it is reestablished (cln:R4)."""
        self._parts.effects.unready.add(channel_id)
        self._may_have_calls(channel_id)

    def _may_have_calls(self, channel_id: str) -> None:
        """Routing fees that the last life asked for may be set at any time, where lightningd has lived on."""
        if self._same_node:
            self._parts.effects.of_last_life.add(channel_id)

    def _revive_alias(self, record: StoredSession) -> None:
        """A-03: the jit scid of a channel that was paid forwards until valid_until, at the promised rate of zero."""
        lives = record.buy.params.valid_until_ms > self._parts.clock.wall_ms()
        if not record.keeps_promises or record.journal.channel is None or not lives:
            return
        core = self._parts.driver.go_live(record.buy)
        core.paid, core.channel = True, record.journal.channel
        self._parts.offers.mark_used(record.buy.jit_scid)
        self._not_ready(record.journal.channel.channel_id)
        fees = self._fees_again(record.journal.channel, record.buy.params.valid_until_ms)
        if fees is None or record.buy.jit_scid in self._begun:  # its active record says what they are
            return
        if self._same_node or fees.rates is not None:  # else it takes nothing at the word of its operator
            self._parts.effects.keep_alias(record.buy, fees)

    def _fees_again(self, channel: Channel | ExistingChannel | None, zero_until_ms: int) -> RestoreFees | None:
        """Return what a channel is to charge from now on: what it does, or its record says, or the configuration."""
        if channel is None:
            return None
        row = self._rows.get(channel.channel_id)
        rates = self._parts.fee_notes.rates(channel.channel_id)
        if isinstance(channel, ExistingChannel):
            rates = rates_of(channel) or rates
        if row is not None and not row.charges_nothing:
            rates = row.rates
        return RestoreFees(channel.channel_id, zero_until_ms, rates)

    def _revive_session(self, record: StoredSession, verdict: Verdict, snapshot: Snapshot) -> None:
        jit_scid, channel = record.buy.jit_scid, verdict.journal.channel
        parts = self._parts
        parts.driver.go_live(record.buy)
        session = parts.sessions.restore(jit_scid, verdict.journal, verdict.sent, verdict.public)
        state = None if session is None else State(session.state).name
        row = None if channel is None else snapshot.channels.get(channel.channel_id)
        back = row is None or row.state in BACK
        if (existing := verdict.journal.existing) is not None and session is not None:
            self._not_ready(existing.channel_id)
            parts.effects.revive_existing(jit_scid, verdict.journal, self._rows.get(existing.channel_id))
        if channel is not None:
            self._not_ready(channel.channel_id)
            if row is not None:
                parts.effects.found_fees(row)
            shuts_down = row is not None and row.is_withheld and not back  # and binds its coins until its parts end
            withheld = not verdict.sent and (shuts_down or not verdict.gone)
            parts.shut.withhold(channel.channel_id, withheld, record.buy.peer_id)
            if not verdict.gone and (verdict.sent or verdict.journal.forwards or verdict.journal.payment_hash is None):
                parts.offers.mark_used(jit_scid)
        spent = verdict.gone and row is not None and not row.is_withheld  # its mining was spent, whatever came of it
        if not verdict.gone or spent or not back:
            paying, public = session is not None, verdict.sent or verdict.public or spent
            parts.exposure.revive(record.buy, verdict.journal, row, public=public, under_way=paying)
        log.info(f"{format_scid(jit_scid)} goes on in {state or 'no session'}")
        parts.driver.carry_out(first_orders(verdict, jit_scid, state, session is not None and session.committed))
        if session is not None:
            self._tell_ends(verdict, row)
        if verdict.gone and existing is not None:
            parts.driver.carry_out(parts.sessions.channel_closed(existing.channel_id))
        if verdict.gone and channel is not None:  # told once, perhaps while we were away
            ended = parts.sessions.money_back if back else parts.sessions.channel_closed
            parts.driver.carry_out(ended(channel.channel_id))
            if spent and back:
                parts.exposure.money_back(channel.channel_id)

    def _tell_ends(self, verdict: Verdict, row: PeerChannel | None) -> None:
        """Say how each part ended, where it did, and what the client holds in its channel, `row`."""
        parts = self._parts
        for how in (SETTLED, LOST):  # what was paid comes first: it decides (K-11)
            for key in [key for key, end in verdict.ended.items() if end == how]:
                parts.driver.carry_out(parts.sessions.resolve_from_tables(key, how == SETTLED))
        if row is not None and row.is_withheld and holds_money_of_client(row):
            parts.driver.carry_out(parts.sessions.money_seen(row.channel_id))  # whatever the tables say (rule:25)

    async def _drop_all(self, records: list[StoredSession]) -> None:
        """Drop these a few at a time: lightningd has other things to write."""
        for start in range(0, len(records), DROPPED_AT_ONCE):
            await asyncio.gather(*(self._drop(record) for record in records[start : start + DROPPED_AT_ONCE]))

    async def _drop(self, record: StoredSession) -> None:
        """End the record of a buy that lapsed, unused, while we were away; a write that fails is tried again."""
        parts, jit_scid = self._parts, record.buy.jit_scid
        what = f"ending the record of {format_scid(jit_scid)}, a buy that lapsed,"
        ended_ms = parts.clock.wall_ms()
        await retry(what, lambda: parts.store.lapse(jit_scid, ended_ms), parts.clock, alarm=parts.effects.alarm)
        await retry(what, lambda: parts.store.forget(jit_scid), parts.clock, alarm=parts.effects.alarm)


async def reload_ledger(parts: ServiceParts, delta: int) -> None:
    """While running: the sales ledger could not be written for long; give it what the journal remembers."""
    parts.sales.bought_all(parts.offers)

    async def ask() -> list[StoredSession]:
        return [record async for record in parts.store.finished(delta)]

    stored = await until_answered("reading finished sales", ask, parts.clock)
    asked_ms = parts.clock.wall_ms()
    channels = await until_answered("looking at the channels", lambda: list_peer_channels(parts.rpc), parts.clock)
    parts.sales.load(stored, channels, asked_ms)
