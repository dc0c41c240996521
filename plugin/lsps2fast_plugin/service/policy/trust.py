"""The ledger of trust: how peers treated channels that were opened on trust (B-15, C-26).

Sans-IO: facts come in with the wall time, questions are answered from memory, changes come out as records to journal.
A peer is remembered while one of its channels is open and unpaid or while it has something to heal from; nothing a
peer does for free makes the memory grow beyond `max_peers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_scid, parse_msat, parse_node_id, parse_scid
from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.tokens import Record

ROOT: Final = ("lsps", "lsps2", "trust")
VERSION: Final = 1
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
MAX_PEERS: Final = 10_000


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
class _Exposure:
    """A channel that is open and not yet paid for. `defaulted`: its client had its chance and let it pass."""

    amount_msat: int
    since_ms: int
    defaulted: bool = False


@dataclass(slots=True)
class _Peer:
    unpaid: _Tally = field(default_factory=_Tally)
    probes: _Tally = field(default_factory=_Tally)
    open: dict[int, _Exposure] = field(default_factory=dict)


class TrustLedger:
    """Facts about peers, and what follows from them."""

    def __init__(self, rule: TrustRule, max_peers: int = MAX_PEERS) -> None:
        self.rule = rule  # a reload of the policy may replace it
        self._max_peers = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()  # least recently heard of first
        self._at_risk_msat = 0
        self._changed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._peers)

    # Facts, each with the wall time; those about a channel may be repeated, as a restart does -----------------------

    def opened(self, peer_id: str, jit_scid: int, amount_msat: int, wall_ms: int) -> None:
        """A channel of this capacity was put on chain before it was paid for."""
        peer = self._touch(peer_id, wall_ms)
        if jit_scid not in peer.open:
            peer.open[jit_scid] = _Exposure(amount_msat, wall_ms)
            self._at_risk_msat += amount_msat

    def paid(self, peer_id: str, jit_scid: int, wall_ms: int) -> None:
        """The opening fee of this channel arrived; one that had been given up is forgiven."""
        exposure = self._close(peer_id, jit_scid, wall_ms)
        if exposure is not None and exposure.defaulted:
            self._peers[peer_id].unpaid.add(wall_ms, self._heal_ms, -1)

    def let_go(self, peer_id: str, jit_scid: int, wall_ms: int) -> None:
        """The client did not claim the payment that should have paid for this open channel (X-13): counts once."""
        peer = self._peers.get(peer_id)
        exposure = None if peer is None else peer.open.get(jit_scid)
        if peer is not None and exposure is not None and not exposure.defaulted:
            exposure.defaulted = True
            peer.unpaid.add(wall_ms, self._heal_ms)
            self._touch(peer_id, wall_ms)

    def closed(self, peer_id: str, jit_scid: int, wall_ms: int) -> None:
        """The channel is gone and its capital free again; what the peer did is not forgotten."""
        self._close(peer_id, jit_scid, wall_ms)

    def probed(self, peer_id: str, wall_ms: int) -> None:
        """The client failed the parts of a payment as unknown after we had opened a channel for it (C-26)."""
        self._touch(peer_id, wall_ms).probes.add(wall_ms, self._probe_heal_ms)

    # Questions ----------------------------------------------------------------------------------------------------

    def at_risk_msat(self) -> int:
        """Capital in channels that are open and unpaid."""
        return self._at_risk_msat

    def exposures(self) -> list[tuple[str, int]]:
        """Peer and jit scid of every channel that is open and unpaid."""
        return [(peer_id, jit_scid) for peer_id, peer in self._peers.items() for jit_scid in peer.open]

    def unpaid(self, peer_id: str, wall_ms: int) -> int:
        """Unpaid channels of this peer that are not yet forgiven. A debt that still stands does not heal."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return 0
        standing = sum(exposure.defaulted for exposure in peer.open.values())
        return max(peer.unpaid.now(wall_ms, self._heal_ms), standing)

    def awaiting(self, peer_id: str) -> int:
        """Channels of this peer that are open and unpaid, given up or not."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else len(peer.open)

    def probes(self, peer_id: str, wall_ms: int) -> int:
        """Probes by this peer that are not yet forgotten."""
        peer = self._peers.get(peer_id)
        return 0 if peer is None else peer.probes.now(wall_ms, self._probe_heal_ms)

    def is_suspect(self, peer_id: str, wall_ms: int) -> bool:
        """Return whether this peer gets channels only in the safe mode."""
        return self.unpaid(peer_id, wall_ms) >= self.rule.unpaid_limit

    def is_prober(self, peer_id: str, wall_ms: int) -> bool:
        """Return whether this peer is not served for now."""
        return self.probes(peer_id, wall_ms) >= self.rule.probe_limit

    # Journal ------------------------------------------------------------------------------------------------------

    def load(self, records: Iterable[tuple[Sequence[str], Any]]) -> list[str]:
        """Take over (key, value) pairs from the journal; returns a sentence for each that cannot be read."""
        complaints: list[str] = []
        for key, value in records:
            try:
                parse_node_id(key[-1])
                peer = _read(value)
            except (KeyError, TypeError, ValueError, IndexError, Lsps2Error) as error:
                complaints.append(f"journal record {list(key)} cannot be read ({error}); kept, not used")
                continue
            self._peers[key[-1]] = peer
            self._at_risk_msat += sum(exposure.amount_msat for exposure in peer.open.values())
        return complaints

    def changes(self) -> list[Record]:
        """Records to write, each peer once with its last state. Hand those that could not be written to `unsaved`."""
        changed, self._changed = self._changed, {}
        return [self._record(peer_id) for peer_id in changed]

    def unsaved(self, records: Iterable[Record]) -> None:
        """These writes failed; the next `changes` has them again, with the state of then."""
        self._changed.update(dict.fromkeys(record.key[-1] for record in records))

    def _record(self, peer_id: str) -> Record:
        peer = self._peers.get(peer_id)
        return Record((*ROOT, peer_id), None if peer is None else _write(peer))

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

    def _close(self, peer_id: str, jit_scid: int, wall_ms: int) -> _Exposure | None:
        peer = self._peers.get(peer_id)
        exposure = None if peer is None else peer.open.pop(jit_scid, None)
        if exposure is not None:
            self._at_risk_msat -= exposure.amount_msat
            self._touch(peer_id, wall_ms)
        return exposure

    def _forget(self, wall_ms: int, keep: str) -> None:
        """Drop the longest unheard of who are healed, at most two for each one that may have come.

        Above the bound also one who is not healed goes; a peer with an open unpaid channel never does, and each of
        those has cost it a channel.
        """
        gone = 0
        for peer_id, peer in list(_first(self._peers, 8)):
            crowded = len(self._peers) > self._max_peers
            if peer.open:
                self._peers.move_to_end(peer_id)
            elif peer_id != keep and gone < 2 and (crowded or self._is_healed(peer_id, wall_ms)):
                del self._peers[peer_id]
                self._changed[peer_id] = None
                gone += 1

    def _is_healed(self, peer_id: str, wall_ms: int) -> bool:
        return not self.unpaid(peer_id, wall_ms) and not self.probes(peer_id, wall_ms)


def _first(peers: OrderedDict[str, _Peer], number: int) -> Iterable[tuple[str, _Peer]]:
    return (pair for pair, _ in zip(peers.items(), range(number), strict=False))


def _write(peer: _Peer) -> dict[str, Any]:
    """Return the journal's form: versioned, amounts as decimal strings (K-24)."""
    return {
        "version": VERSION,
        "unpaid": [peer.unpaid.count, peer.unpaid.last_ms],
        "probes": [peer.probes.count, peer.probes.last_ms],
        "open": [
            [format_scid(scid), str(exposure.amount_msat), exposure.since_ms, exposure.defaulted]
            for scid, exposure in peer.open.items()
        ],
    }


def _read(value: Any) -> _Peer:
    """Return the opposite of `_write`. Raises KeyError, TypeError, ValueError or Lsps2Error."""
    if value["version"] != VERSION:
        raise ValueError(f"version {value['version']} is not {VERSION}")
    return _Peer(
        unpaid=_read_tally(value["unpaid"]),
        probes=_read_tally(value["probes"]),
        open={
            parse_scid(scid): _Exposure(parse_msat(amount), _whole(since), bool(defaulted))
            for scid, amount, since, defaulted in value["open"]
        },
    )


def _read_tally(value: Any) -> _Tally:
    count, last_ms = value
    return _Tally(_whole(count), _whole(last_ms))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value
