"""What peers have done with channels that were opened on trust, and with our patience (B-15, C-26, rule:22).

Sans-IO: facts come in with the wall time, questions are answered from memory, changes come out as records to journal.
Only a client's own deeds are held against it; where a payer may have done it the doubt is counted once a buy, heals
within hours, and a paid sale clears it. What lies in unpaid channels is in `stakes`. Nothing a peer does for free makes
the memory grow beyond `max_peers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_datetime, format_scid, parse_msat, parse_node_id, parse_scid
from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.shared import Others
from lsps2fast_plugin.service.policy.stakes import DAY_MS, HOUR_MS, Fault, Stake, Stakes
from lsps2fast_plugin.service.policy.tokens import Record

ROOT: Final = ("lsps", "lsps2", "trust")
VERSION: Final = 1
MAX_PEERS: Final = 10_000
MOST_EVENTS: Final = 8  # remembered of one peer, to be shown
SENTENCES: Final = {
    "probe": "a payment for this buy failed behind us after a channel was made",
    "share": "the client took the whole payment; other parts failed, and a share of the opening fee with them",
    "unpaid": "its channel was left unpaid by the client itself",
    "underpaid": "the client took parts of a payment and failed those that carried the rest of the fee",
}

DOUBTS: Final = ("probe", "share")  # those of them that another party may have caused


@dataclass(slots=True)
class _Tally:
    """A count that falls by one for each `heal_ms` without a new event."""

    count: int = 0
    last_ms: int = 0

    def now(self, wall_ms: int, heal_ms: int) -> int:
        return max(self.count - max(wall_ms - self.last_ms, 0) // heal_ms, 0)

    def add(self, wall_ms: int, heal_ms: int, much: int = 1) -> None:
        self.count = max(self.now(wall_ms, heal_ms) + much, 0)
        self.last_ms = wall_ms


@dataclass(slots=True)
class _Peer:
    unpaid: _Tally = field(default_factory=_Tally)
    probes: _Tally = field(default_factory=_Tally)
    events: list[tuple[int, str, int]] = field(default_factory=list)  # when, which of `SENTENCES`, jit scid

    def saw(self, wall_ms: int, what: str, jit_scid: int) -> None:
        self.events = [*self.events[1 - MOST_EVENTS :], (wall_ms, what, jit_scid)]


class TrustLedger:
    """Facts about peers, and what follows from them."""

    def __init__(self, rule: TrustRule, max_peers: int = MAX_PEERS) -> None:
        self.rule = rule  # a reload of the policy may replace it
        self.others = Others()
        self.stakes = Stakes()
        self._max_peers = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()  # least recently heard of first
        self._probed: set[int] = set()  # live buys that count as a probe
        self._changed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def peers(self) -> list[str]:
        """Return every peer that something is known of."""
        return list(self._peers)

    # Facts, each with the wall time; those about a channel may be repeated, as a restart does -----------------------

    def reserved(
        self, peer_id: str, jit_scid: int, amount_msat: int, on_trust: bool, mining_msat: int, wall_ms: int
    ) -> Stake:
        """Coins are set aside for a channel; from here on they count."""
        self._touch(peer_id, wall_ms)
        return self.stakes.put(Stake(peer_id, jit_scid, amount_msat, wall_ms, on_trust, mining_msat))

    def sent(self, peer_id: str, jit_scid: int, channel_id: str, amount_msat: int, wall_ms: int) -> Stake:
        """Its funding is ordered on chain, so it is on trust from here on, whatever was agreed."""
        stake, now = self.stakes.of_channel(channel_id), self.stakes.now(jit_scid)
        if stake is None and now is not None and now.channel_id is None:
            stake = now
        if stake is None:
            stake = self.reserved(peer_id, jit_scid, amount_msat, True, 0, wall_ms)
        self.stakes.send(stake, wall_ms)
        self.stakes.name(stake, channel_id)
        self._changed[peer_id] = None
        return stake

    def again(self, jit_scid: int) -> None:
        """Another payment is under way for the channel of this buy."""
        if (stake := self.stakes.now(jit_scid)) is not None:
            stake.ended_ms = None

    def paid(self, peer_id: str, jit_scid: int, wall_ms: int, *, whole_fee: bool = True) -> None:
        """Book the opening fee: its channel is no stake any more, what led up to it is forgotten (rule:22).

        Not `whole_fee`: the client took the whole payment, and parts beside it failed that carried a share; who did
        that is not known, so nothing is forgotten and a doubt is counted.
        """
        peer = self._peers.get(peer_id)
        stake = self.stakes.now(jit_scid)
        if stake is not None:
            self.stakes.take(stake)
        if not whole_fee:
            self._doubt(peer_id, jit_scid, "share", wall_ms)
            return
        self._probed.discard(jit_scid)
        if peer is not None:
            if stake is not None and stake.fault is Fault.CLIENT:
                peer.unpaid.add(wall_ms, self._heal_ms, -1)
            peer.probes = _Tally()
            self._settle_doubts(peer_id)
            peer.events = [event for event in peer.events if event[1] not in DOUBTS and event[2] != jit_scid]
            self._touch(peer_id, wall_ms)

    def _settle_doubts(self, peer_id: str) -> None:
        """Count payments that failed behind us no more; the channels made for them stay stakes."""
        for stake in self.stakes.of_peer(peer_id):
            if stake.over and stake.fault is not Fault.CLIENT:
                stake.ended_ms = 0

    def let_go(self, peer_id: str, jit_scid: int, wall_ms: int, fault: Fault = Fault.CLIENT) -> None:
        """Book that the payment for this channel is over, unpaid (X-13). On chain it stays a stake."""
        stake = self.stakes.now(jit_scid)
        if stake is None:
            return
        if not stake.sent:
            self.stakes.take(stake)
            return
        stake.ended_ms = wall_ms
        if fault is Fault.CLIENT and stake.fault is not Fault.CLIENT:
            self.blame(peer_id, jit_scid, "unpaid", wall_ms)
        if stake.fault is Fault.NONE or fault is Fault.CLIENT:
            stake.fault = fault
        self._touch(peer_id, wall_ms)

    def underpaid(self, peer_id: str, jit_scid: int, wall_ms: int) -> None:
        """Book that the client took parts and failed others, so that less than the fee came: its own deed (rule:20)."""
        stake = self.stakes.now(jit_scid)
        if stake is None or stake.fault is not Fault.CLIENT:
            self.blame(peer_id, jit_scid, "underpaid", wall_ms)
        if stake is not None:
            stake.fault, stake.ended_ms = Fault.CLIENT, wall_ms
        self._touch(peer_id, wall_ms)

    def blame(self, peer_id: str, jit_scid: int, what: str, wall_ms: int) -> None:
        """Book a deed of the client's own; `what` is one of `SENTENCES`."""
        peer = self._touch(peer_id, wall_ms)
        peer.unpaid.add(wall_ms, self._heal_ms)
        peer.saw(wall_ms, what, jit_scid)

    def closing(self, channel_id: str, by_client: bool, wall_ms: int) -> None:
        """Note that the channel of a stake is being closed; its coins are not back yet."""
        stake = self.stakes.of_channel(channel_id)
        if stake is not None:
            stake.closing = True
        if stake is not None and by_client and stake.fault is not Fault.CLIENT:
            stake.fault, stake.ended_ms = Fault.CLIENT, stake.ended_ms or wall_ms
            self.blame(stake.peer_id, stake.jit_scid, "unpaid", wall_ms)

    def back(self, stake: Stake, wall_ms: int) -> None:
        """Its coins are ours again; mining fees are not, and what the peer did is not forgotten."""
        self.stakes.take(stake)
        if stake.mined:
            self.stakes.burnt.add(stake.channel_id, stake.since_ms, stake.mining_msat, wall_ms)
        self._touch(stake.peer_id, wall_ms)

    def probed(self, peer_id: str, jit_scid: int, wall_ms: int) -> None:
        """Count a payment that failed behind us after a channel was made for this buy (C-26): once a buy."""
        self._doubt(peer_id, jit_scid, "probe", wall_ms)

    def _doubt(self, peer_id: str, jit_scid: int, what: str, wall_ms: int) -> None:
        if jit_scid not in self._probed:
            self._probed.add(jit_scid)
            peer = self._touch(peer_id, wall_ms)
            peer.probes.add(wall_ms, self._probe_heal_ms)
            peer.saw(wall_ms, what, jit_scid)

    def buy_ended(self, jit_scid: int) -> None:
        """Forget a jit scid."""
        self._probed.discard(jit_scid)

    def forgive(self, peer_id: str, wall_ms: int) -> dict[str, int]:
        """Forget what is held against a peer, by the operator's word; return what it was."""
        told = {"unpaid_channels": self.unpaid_here(peer_id, wall_ms), "probes": self.probes_here(peer_id, wall_ms)}
        if peer_id in self._peers:
            self._peers[peer_id] = _Peer()
            self._touch(peer_id, wall_ms)
        for stake in self.stakes.of_peer(peer_id):
            stake.fault = Fault.NONE
            if stake.over:
                stake.ended_ms = 0
        return told

    # Questions ----------------------------------------------------------------------------------------------------

    def unpaid(self, peer_id: str, wall_ms: int) -> int:
        """Channels this peer left unpaid by its own deed at any node, not yet forgiven."""
        return self.unpaid_here(peer_id, wall_ms) + self.others.of(peer_id).unpaid

    def unpaid_here(self, peer_id: str, wall_ms: int) -> int:
        """Return those of this node. A debt that still stands does not heal."""
        peer = self._peers.get(peer_id)
        standing = sum(stake.fault is Fault.CLIENT for stake in self.stakes.of_peer(peer_id))
        return max(0 if peer is None else peer.unpaid.now(wall_ms, self._heal_ms), standing)

    def unsettled(self, peer_id: str, wall_ms: int) -> int:
        """Return its channels on chain that a payment should have paid for lately, whatever made it fail."""
        return self.unsettled_here(peer_id, wall_ms) + self.others.of(peer_id).unsettled

    def unsettled_here(self, peer_id: str, wall_ms: int) -> int:
        """Return those of this node."""
        return sum(
            stake.sent and stake.ended_ms is not None and wall_ms - stake.ended_ms < self._probe_heal_ms
            for stake in self.stakes.of_peer(peer_id)
        )

    def under_way(self, peer_id: str, *, but: int | None = None) -> int:
        """Return its channels on trust that a payment is under way for, that of the jit scid `but` aside."""
        return self.under_way_here(peer_id, but=but) + self.others.of(peer_id).under_way

    def under_way_here(self, peer_id: str, *, but: int | None = None) -> int:
        """Return those of this node."""
        return sum(
            stake.on_trust and not stake.over and stake.jit_scid != but for stake in self.stakes.of_peer(peer_id)
        )

    def probes(self, peer_id: str, wall_ms: int) -> int:
        """Probes by this peer that are not yet forgotten."""
        return self.probes_here(peer_id, wall_ms) + self.others.of(peer_id).probes

    def probes_here(self, peer_id: str, wall_ms: int) -> int:
        """Return those at this node."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else peer.probes.now(wall_ms, self._probe_heal_ms)

    def why_not_trusted(self, peer_id: str, wall_ms: int) -> str | None:
        """Return why this peer gets channels only in the safe mode, if it does."""
        if (unpaid := self.unpaid(peer_id, wall_ms)) >= self.rule.unpaid_limit:
            return f"{unpaid} channels of this peer went unpaid"
        if (probes := self.probes(peer_id, wall_ms)) >= self.rule.probe_limit:
            return f"payments for {probes} sales to this peer failed after a channel was made"
        if self.unsettled(peer_id, wall_ms) or self.under_way(peer_id):
            return "an open channel of this peer is not yet paid for"
        if self.others.is_unknown(peer_id):
            return "the fleet's database is away, and what this peer did at other nodes is not known here"
        return None

    def reasons(self, peer_id: str) -> list[str]:
        """Return what this peer's standing rests on, a sentence each, oldest first."""
        peer = self._peers.get(peer_id)
        events = [] if peer is None else peer.events
        return [f"{format_datetime(ms)}, {format_scid(scid)}: {SENTENCES[what]}" for ms, what, scid in events]

    def held_msat(self, peer_id: str) -> int:
        """Return what lies in channels of this peer that are not paid for, at all nodes."""
        return self.stakes.of_peer_msat(peer_id) + self.others.of(peer_id).unpaid_msat

    # Journal ------------------------------------------------------------------------------------------------------

    def load(self, records: Iterable[tuple[Sequence[str], Any]]) -> list[str]:
        """Take over (key, value) pairs from the journal; returns a sentence for each that cannot be read."""
        complaints: list[str] = []
        for key, value in records:
            try:
                parse_node_id(key[-1])
                peer, stakes = _read(key[-1], value)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, Lsps2Error) as error:
                complaints.append(f"journal record {list(key)} cannot be read ({error}); kept, not used")
                continue
            self._peers[key[-1]] = peer
            for stake in stakes:
                self.stakes.put(stake)
        return complaints

    def changes(self) -> list[Record]:
        """Return records to write, each peer once with its last state. Hand those not written to `unsaved`."""
        changed, self._changed = self._changed, {}
        return [self._record(peer_id) for peer_id in changed]

    def unsaved(self, records: Iterable[Record]) -> None:
        """Take back writes that failed; the next `changes` has them again, with the state of then."""
        self._changed.update(dict.fromkeys(record.key[-1] for record in records))

    def _record(self, peer_id: str) -> Record:
        """None for a peer of whom only live sessions tell: an honest one costs no write."""
        peer = self._peers.get(peer_id)
        stakes = [stake for stake in self.stakes.of_peer(peer_id) if stake.sent and stake.over]
        if peer is None or not (stakes or peer.unpaid.count or peer.probes.count):
            return Record((*ROOT, peer_id), None)
        return Record((*ROOT, peer_id), _write(peer, stakes))

    # Inside -------------------------------------------------------------------------------------------------------

    @property
    def _heal_ms(self) -> int:
        return self.rule.heal_days * DAY_MS

    @property
    def _probe_heal_ms(self) -> int:
        return self.rule.probe_heal_hours * HOUR_MS

    def _touch(self, peer_id: str, wall_ms: int) -> _Peer:
        peer = self._peers.setdefault(peer_id, _Peer())
        self._peers.move_to_end(peer_id)
        self._changed[peer_id] = None
        self._forget(wall_ms, keep=peer_id)
        return peer

    def _forget(self, wall_ms: int, keep: str) -> None:
        """Drop the longest unheard of who are healed, at most two for each one that may have come.

        Above the bound also one who is not healed goes; a peer with a stake never does, and each of those has cost it
        a payment.
        """
        gone = 0
        for peer_id in list(_first(self._peers, 8)):
            crowded = len(self._peers) > self._max_peers
            if self.stakes.of_peer(peer_id):
                self._peers.move_to_end(peer_id)
            elif peer_id != keep and gone < 2 and (crowded or self._is_healed(peer_id, wall_ms)):
                del self._peers[peer_id]
                self._changed[peer_id] = None
                gone += 1

    def _is_healed(self, peer_id: str, wall_ms: int) -> bool:
        return not self.unpaid(peer_id, wall_ms) and not self.probes(peer_id, wall_ms)


def _first(peers: OrderedDict[str, _Peer], number: int) -> Iterable[str]:
    return (peer_id for peer_id, _ in zip(peers, range(number), strict=False))


def _write(peer: _Peer, stakes: Iterable[Stake]) -> dict[str, Any]:
    """Return the journal's form: versioned, amounts as decimal strings (K-24)."""
    return {
        "version": VERSION,
        "unpaid": [peer.unpaid.count, peer.unpaid.last_ms],
        "probes": [peer.probes.count, peer.probes.last_ms],
        "open": [
            [format_scid(stake.jit_scid), str(stake.amount_msat), stake.since_ms, stake.fault is Fault.CLIENT]
            for stake in stakes
        ],
        "channels": [
            {
                "channel_id": stake.channel_id,
                "mining_msat": str(stake.mining_msat),
                "fault": stake.fault.value,
                "ended_ms": stake.ended_ms,
            }
            for stake in stakes
        ],
        "events": [[wall_ms, what, format_scid(jit_scid)] for wall_ms, what, jit_scid in peer.events],
    }


def _read(peer_id: str, value: Any) -> tuple[_Peer, list[Stake]]:
    """Return the opposite of `_write`. Raises KeyError, TypeError, ValueError, AttributeError or Lsps2Error."""
    if value["version"] != VERSION:
        raise ValueError(f"version {value['version']} is not {VERSION}")
    events = [(_whole(ms), what, parse_scid(scid)) for ms, what, scid in value.get("events", ())]
    peer = _Peer(
        unpaid=_read_tally(value["unpaid"]),
        probes=_read_tally(value["probes"]),
        events=[event for event in events if event[1] in SENTENCES],
    )
    more = value.get("channels") or [{}] * len(value["open"])  # records of earlier versions say less
    stakes = []
    for (scid, amount, since_ms, defaulted), facts in zip(value["open"], more, strict=True):
        stake = Stake(peer_id, parse_scid(scid), parse_msat(amount), _whole(since_ms), on_trust=True, sent=True)
        stake.mined = True
        stake.mining_msat = parse_msat(facts.get("mining_msat", "0"))
        stake.channel_id = facts.get("channel_id")
        stake.fault = Fault(facts.get("fault", Fault.CLIENT if defaulted else Fault.NONE))
        stake.ended_ms = _whole(facts.get("ended_ms", since_ms))
        stakes.append(stake)
    return peer, stakes


def _read_tally(value: Any) -> _Tally:
    count, last_ms = value
    return _Tally(_whole(count), _whole(last_ms))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value
