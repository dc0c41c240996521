"""After a start: the journal against the node. Yields the same inputs and orders as live operation.

The journal says what was promised, lightningd says what is; where they differ lightningd is right about channels,
forwards and coins (K-09). `Snapshot` is what lightningd says, asked once; `judge` turns one record and the snapshot
into a `Verdict` without touching anything, so that every row of the table can be tested by itself; `Reconciler` asks
and carries it out. What lightningd's tables hide is in the host contract: no payment hash on forwards (cln:F5), rows
under the alias for ever (cln:F6), `offered` for ever after a close (cln:A3).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import Channel, Forward, PartKey, SessionRecord
from lsps2fast.lsps.lsps2 import format_scid, parse_scid
from lsps2fast_plugin.cln.models import (
    ClosedChannel,
    PeerChannel,
    list_closed_channels,
    list_forwards,
    list_peer_channels,
)
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.cln.scid_aliases import ScidAliases
from lsps2fast_plugin.service.funding import money_of_client_msat
from lsps2fast_plugin.service.opening import is_funded_by
from lsps2fast_plugin.service.session_record import StoredSession

SETTLED, LOST, OPEN = "settled", "lost", "open"
OVER = "over"  # lightningd has it no more, and no row says how it ended
FAILED_ROWS = ("failed", "local_failed")
FINAL_ROWS = ("settled", *FAILED_ROWS)
RowKey = tuple[int, int]  # incoming channel as lightningd called it then, htlc id


class Row(NamedTuple):
    """One row of listforwards into a channel of ours."""

    key: RowKey
    status: str
    in_msat: int
    out_msat: int


@dataclass
class Snapshot:
    """lightningd's tables at one moment."""

    channels: dict[str, PeerChannel] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)  # by channel id
    held: set[PartKey] = field(default_factory=set)  # incoming HTLCs without an answer yet
    incoming: set[PartKey] | None = None  # all that are still in their channel, answered or not; None: not known
    names: ScidAliases = field(default_factory=ScidAliases)
    replays: bool = True  # lightningd has just started: calls it holds come again (cln:R1)

    def same(self, key: PartKey) -> PartKey:
        """Return the key with the incoming channel as it is compared: by its id where that is known (rule:25)."""
        return self.names.one(key[0]), key[1]

    def is_alive(self, channel_id: str) -> bool:
        """Return whether this channel is there, and usable or about to be (K-13)."""
        channel = self.channels.get(channel_id)
        return channel is not None and channel.is_alive


class Verdict(NamedTuple):
    """What became of one record.

    `journal` is the record, completed by what was found; `sent` whether its funding is surely on chain; `public`
    whether it may be, so that it must get there; `ended` how each part ended, where it did; `gone` whether the channel
    is closed or closing; `free` whether it charges no routing fee.
    """

    journal: SessionRecord
    sent: bool
    public: bool
    ended: dict[PartKey, str]
    gone: bool
    free: bool


def judge(record: StoredSession, snapshot: Snapshot, owned: Container[str]) -> Verdict:
    """One row of K-09. A withheld channel to this client that is not `owned` by a record may be this one's."""
    journal = record.journal
    channel = None if journal.channel is None else snapshot.channels.get(journal.channel.channel_id)
    if journal.channel is None and journal.stage == "intent":
        orphan = _orphan(record, snapshot, owned)
        if orphan is not None:  # the crash fell between fundchannel_complete and the next write
            channel = orphan
            journal = replace(journal, channel=Channel(orphan.channel_id, "", orphan.funding_txid))
    journal = _as_gone_out(_with_rows(journal, snapshot), snapshot)
    alive = channel is not None and channel.is_alive
    # lightningd clears `withheld` before it asks bitcoind: only a confirmation is proof.
    public = channel is not None and not channel.is_withheld
    sent = public and channel is not None and channel.is_confirmed
    if journal.existing is not None:  # nothing of ours is at stake in it
        alive = snapshot.is_alive(journal.existing.channel_id)
    ended = _ends(journal, snapshot, alive)
    gone = out_channel_id(journal) is not None and not alive
    free = channel is not None and channel.is_alive and channel.charges_nothing
    return Verdict(journal, sent, public, ended, gone, free)


def out_channel_id(journal: SessionRecord) -> str | None:
    """Return the id of the channel that the parts of this record go into."""
    if journal.existing is not None:
        return journal.existing.channel_id
    return None if journal.channel is None else journal.channel.channel_id


def _orphan(record: StoredSession, snapshot: Snapshot, owned: Container[str]) -> PeerChannel | None:
    """Return a withheld channel to this client that no record names and that spends the coins of this one (rule:26)."""
    funding = record.journal.funding
    for channel_id, channel in snapshot.channels.items():
        ours = channel.peer_id == record.buy.peer_id and channel.is_ours and channel.is_withheld
        if not ours or channel_id in owned or funding is None:
            continue
        if channel.funding.psbt is None or is_funded_by(channel, funding):
            return channel
    return None


def _with_rows(journal: SessionRecord, snapshot: Snapshot) -> SessionRecord:
    """Fill in the parts of a record of the built-in plugin: those that lightningd forwarded into the channel."""
    if journal.forwards or journal.channel is None or journal.stage != "forwards":
        return journal
    rows = snapshot.rows.get(journal.channel.channel_id, ())
    forwards = tuple(Forward(*row.key, row.out_msat, max(row.in_msat - row.out_msat, 0)) for row in rows)
    fees = (part.extra_fee_msat for part, row in zip(forwards, rows, strict=True) if row.status not in FAILED_ROWS)
    return replace(journal, forwards=forwards, opening_fee_msat=sum(fees))


def _as_gone_out(journal: SessionRecord, snapshot: Snapshot) -> SessionRecord:
    """Return where the parts of a channel's record will go (P16);
    they went if lightningd has a row for one of them.
    """
    if journal.stage != "channel" or not journal.forwards:
        return journal
    gone_out = any(_row_of(part, journal, snapshot) for part in journal.forwards)
    return journal if gone_out else replace(journal, forwards=())


def _ends(journal: SessionRecord, snapshot: Snapshot, alive: bool) -> dict[PartKey, str]:
    """Return how each forwarded part ended, or that it is still open."""
    ends = {part.key: _end_of(part, journal, snapshot, alive) for part in journal.forwards}
    channel = None if journal.existing is not None else _channel_of(journal, snapshot)  # there it may be of anything
    return _judged_by_money(journal, ends, 0 if channel is None else money_of_client_msat(channel))


def _judged_by_money(journal: SessionRecord, ends: dict[PartKey, str], money_msat: int) -> dict[PartKey, str]:
    """Decide about parts that are OVER: paid, as far as the client holds money that no other part explains."""
    left_msat = money_msat - sum(part.out_msat for part in journal.forwards if ends[part.key] == SETTLED)
    judged = dict(ends)
    for part in journal.forwards:
        if ends[part.key] == OVER:
            paid = part.out_msat <= left_msat
            judged[part.key] = SETTLED if paid else LOST
            left_msat -= part.out_msat if paid else 0
    return judged


def _end_of(part: Forward, journal: SessionRecord, snapshot: Snapshot, alive: bool) -> str:
    row = _row_of(part, journal, snapshot)
    if row is not None and row.status == "settled":
        return SETTLED
    if row is not None and row.status in FAILED_ROWS:
        return LOST
    if not alive:  # cln:A3: its row may say `offered` for ever, but the incoming HTLC ends with the part
        held = row is not None and snapshot.incoming is not None and snapshot.same(part.key) in snapshot.incoming
        return OPEN if held else LOST
    if row is not None:
        return OVER if _is_over(part, journal, snapshot) else OPEN
    # lightningd never took our answer. It asks again after its own start, and only then (cln:H12, cln:R1).
    return OPEN if snapshot.replays and snapshot.same(part.key) in snapshot.held else LOST


def _channel_of(journal: SessionRecord, snapshot: Snapshot) -> PeerChannel | None:
    channel_id = out_channel_id(journal)
    return None if channel_id is None else snapshot.channels.get(channel_id)


def _is_over(part: Forward, journal: SessionRecord, snapshot: Snapshot) -> bool:
    """Return whether this part is in no channel any more: neither where it came from nor where it went (rule:25).

    A row that says `offered` may be one that lightningd can no longer find, for it looks for it by scid (cln:N3).
    """
    channel = _channel_of(journal, snapshot)
    if channel is None or snapshot.incoming is None or snapshot.same(part.key) in snapshot.incoming:
        return False
    payment_hash = "" if journal.payment_hash is None else journal.payment_hash.hex()
    return not any(htlc.direction == "out" and htlc.payment_hash in ("", payment_hash) for htlc in channel.htlcs)


def _row_of(part: Forward, journal: SessionRecord, snapshot: Snapshot) -> Row | None:
    """Return the row that says most of this part: a rename leaves one `offered` behind and makes another (cln:N3)."""
    channel_id = out_channel_id(journal) or ""
    key, name = snapshot.same(part.key), (part.in_scid, part.htlc_id)
    found = [row for row in snapshot.rows.get(channel_id, ()) if row.key == name or snapshot.same(row.key) == key]
    return min(found, key=lambda row: (*FINAL_ROWS, row.status).index(row.status), default=None)


def resolved_rows(journal: SessionRecord, snapshot: Snapshot) -> dict[PartKey, str]:
    """Return the parts that have ended, while all runs. The others may be anywhere."""
    channel = _channel_of(journal, snapshot)
    alive = channel is not None and channel.is_alive
    ends = _ends(journal, snapshot, alive)
    found = {}
    for part in journal.forwards:
        row = _row_of(part, journal, snapshot)
        if row is not None and ends[part.key] != OPEN:
            found[part.key] = ends[part.key]
    return found


class Reconciler:
    """Asks lightningd and says what each record has come to."""

    def __init__(self, rpc: Rpc, replays: bool, names: ScidAliases | None = None) -> None:
        """`replays`: lightningd itself has just started, so held calls come again; `names` are kept up to date."""
        self._rpc = rpc
        self._replays = replays
        self._names = ScidAliases() if names is None else names

    async def snapshot(self, records: Iterable[StoredSession]) -> Snapshot:
        """Return everything that judging these records needs; nothing is asked when nothing is to be judged.

        Raises NodeError.
        """
        wanted = [record for record in records if record.outcome is None and record.journal.stage != "buy"]
        snapshot = Snapshot(replays=self._replays, names=self._names)
        if not wanted:
            return snapshot
        present: set[PartKey] = set()
        for channel in await list_peer_channels(self._rpc):
            snapshot.channels[channel.channel_id] = channel
            snapshot.names.learn(channel.channel_id, channel.scids)
            incoming = [htlc for htlc in channel.htlcs if htlc.direction == "in"]
            present.update((channel.channel_id, htlc.id) for htlc in incoming)
            snapshot.held.update((channel.channel_id, htlc.id) for htlc in incoming if htlc.is_pending)
        snapshot.incoming = present
        await self._learn_old_names(wanted)
        ids = {channel_id for record in wanted if (channel_id := out_channel_id(record.journal)) is not None}
        places: dict[str, PeerChannel | ClosedChannel] = dict(snapshot.channels)
        if ids - places.keys():
            for closed in await list_closed_channels(self._rpc):
                places.setdefault(closed.channel_id, closed)
        for channel_id in sorted(ids):
            snapshot.rows[channel_id] = await self._rows(places[channel_id]) if channel_id in places else []
        return snapshot

    async def _learn_old_names(self, records: Iterable[StoredSession]) -> None:
        """Ask for the channels of parts whose record names only a scid that no listing shows any more (cln:N3)."""
        parts = (part for record in records for part in record.journal.forwards)
        unknown = {part.in_scid for part in parts if not part.in_channel and not self._names.channel_id(part.in_scid)}
        for scid in sorted(unknown):
            for channel in await list_peer_channels(self._rpc, short_channel_id=format_scid(scid)):
                self._names.learn(channel.channel_id, (scid, *channel.scids))

    async def _rows(self, channel: PeerChannel | ClosedChannel) -> list[Row]:
        """Return the forwards into this channel, under each of its names (cln:F6)."""
        rows: dict[RowKey, Row] = {}
        for scid in channel.scids:
            for row in await list_forwards(self._rpc, out_channel=format_scid(scid)):
                if row.in_htlc_id is not None:  # of a version long gone, and so not ours
                    key = (parse_scid(row.in_channel), row.in_htlc_id)
                    rows[key] = Row(key, row.status, row.in_msat, row.out_msat)
        return list(rows.values())


def first_orders(
    verdict: Verdict, jit_scid: int, state: str | None, committed: bool = False
) -> tuple[order.Action, ...]:
    """Return what is owed at once to a record whose session was restored in `state` (`Sessions.restore`; None: none).

    `committed`: of the session.
    """
    journal, channel = verdict.journal, verdict.journal.channel
    payment_hash = journal.payment_hash or b""
    if state == "ABORTING":
        return (order.Undo(jit_scid, payment_hash, channel, journal.funding),)
    orders: list[order.Action] = []
    if channel is None:
        return ()
    needed = not verdict.sent and not verdict.gone  # what is gone has freed its coins (rule:23)
    if state is not None and journal.funding is not None and needed:
        # Its 72 blocks may be over, or be over with the next block (trap:8).
        orders.append(order.RenewInputs(jit_scid, payment_hash, journal.funding))
    if not verdict.sent and (verdict.public or committed or state == "BROADCASTING"):
        orders.append(order.Broadcast(jit_scid, payment_hash, channel))
    if state is None and verdict.public and verdict.free:
        orders.append(order.RestoreFees(channel.channel_id))  # rule:13: no payment is under way on it
    return tuple(orders)
