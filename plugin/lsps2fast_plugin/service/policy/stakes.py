"""What lies in channels that are not paid for yet: sats by pot and by client, and mining fees that were burnt.

Sans-IO. A stake counts from the moment its coins are reserved until they are back or the opening fee has come
(rule:18), whatever was promised at the buy. Two pots: channels that are on chain, or go there, before they are paid
for, and channels that are withheld. The miners' part of a stake that came to nothing counts for a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
KEPT_MS: Final = 7 * DAY_MS  # longer than a closed channel is listed, even where blocks are slow


class Fault(StrEnum):
    """What is known of why a channel went unpaid (rule:22)."""

    NONE = "none"  # our own node's doing, or nothing is known
    DOUBT = "doubt"  # a payment failed behind us: its client's doing, or that of a payer with a hash of their own
    CLIENT = "client"  # its client's own deed


@dataclass(slots=True, eq=False)
class Stake:
    """One channel that is not paid for. It is `over` once no payment for it is under way."""

    peer_id: str
    jit_scid: int
    amount_msat: int
    since_ms: int
    on_trust: bool  # on chain before it is paid for, or on its way there
    mining_msat: int = 0  # of its opening and its close
    sent: bool = False  # its funding was ordered on chain
    closing: bool = False  # a close has begun
    mined: bool = False  # and bitcoind has it: the miners' part cannot come back
    channel_id: str | None = None
    fault: Fault = Fault.NONE
    ended_ms: int | None = None  # when the last payment for it failed

    @property
    def over(self) -> bool:
        """Whether no payment for it is under way."""
        return self.ended_ms is not None


class Burnt:
    """Mining fees of stakes that came to nothing, by the hour in which they were put in; older than a day is gone.

    Each channel counts once: lightningd lists one that is closed for a hundred blocks more, so a start sees it anew.
    """

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        self._counted_ms: dict[str, int] = {}  # channel ids, and when they were counted; as many as a budget allows
        self.changed = False

    def add(self, channel_id: str | None, since_ms: int, mining_msat: int, wall_ms: int) -> None:
        """Write off a stake of `since_ms`, unless its channel was counted or its mining is not known (0)."""
        if not mining_msat or channel_id in self._counted_ms:
            return
        if channel_id is not None:
            self._counted_ms[channel_id] = wall_ms
        if wall_ms - since_ms < DAY_MS:
            hour = since_ms // HOUR_MS
            self._hours[hour] = self._hours.get(hour, 0) + mining_msat
        self.changed = True
        self._hours = {hour: msat for hour, msat in self._hours.items() if (wall_ms // HOUR_MS) - hour <= 24}
        self._counted_ms = {each: ms for each, ms in self._counted_ms.items() if wall_ms - ms < KEPT_MS}

    def msat(self, wall_ms: int) -> int:
        """Burnt within the last day, rounded up to whole hours."""
        return _young(self._hours, wall_ms)

    def write(self) -> dict[str, object]:
        """Return the journal's form (K-24)."""
        self.changed = False
        hours = [[hour, str(msat)] for hour, msat in sorted(self._hours.items())]
        return {"version": 1, "hours": hours, "counted": [[each, ms] for each, ms in self._counted_ms.items()]}

    def read(self, value: dict[str, object]) -> None:
        """Read what `write` has written. Raises KeyError, TypeError or ValueError."""
        if value["version"] != 1:
            raise ValueError(f"version {value['version']} is not 1")
        hours, counted = value["hours"], value.get("counted", [])
        if not isinstance(hours, list) or not isinstance(counted, list):
            raise TypeError("hours or counted is no list")
        self._hours = {int(hour): int(msat) for hour, msat in hours}
        self._counted_ms = {str(each): int(ms) for each, ms in counted}


class Stakes:
    """All stakes. A jit scid has one that counts now; channels it had before stay until their coins are back."""

    def __init__(self) -> None:
        self._now: dict[int, Stake] = {}
        self._by_peer: dict[str, list[Stake]] = {}
        self._by_channel: dict[str, Stake] = {}
        self._pots = {True: 0, False: 0}  # msat on trust and withheld
        self._mining: dict[int, int] = {}  # msat of those on trust, by the hour since which they count
        self.unpriced: dict[Stake, None] = {}  # on trust, and what their mining costs is not known yet
        self.burnt = Burnt()

    def __iter__(self) -> Iterator[Stake]:
        return (stake for stakes in self._by_peer.values() for stake in stakes)

    def of_peer(self, peer_id: str) -> list[Stake]:
        """Return those of one client, oldest first."""
        return list(self._by_peer.get(peer_id, ()))

    def now(self, jit_scid: int) -> Stake | None:
        """Return the stake that a payment on this jit scid would pay for."""
        return self._now.get(jit_scid)

    def of_channel(self, channel_id: str) -> Stake | None:
        """Return the stake in this channel."""
        return self._by_channel.get(channel_id)

    def put(self, stake: Stake) -> Stake:
        """Coins are reserved. What the jit scid has now is replaced unless it is on chain: then both count."""
        before = self._now.get(stake.jit_scid)
        if before is not None and not before.sent:
            self.take(before)
        self._now[stake.jit_scid] = stake
        self._by_peer.setdefault(stake.peer_id, []).append(stake)
        self._count(stake, 1)
        if stake.channel_id is not None:
            self._by_channel[stake.channel_id] = stake
        return stake

    def name(self, stake: Stake, channel_id: str) -> None:
        """Name the channel that the coins went into."""
        stake.channel_id = channel_id
        self._by_channel[channel_id] = stake

    def send(self, stake: Stake, wall_ms: int) -> None:
        """Its funding goes on chain: from here on it lies in the pot of what is there unpaid."""
        self._count(stake, -1)
        if not stake.on_trust:
            stake.since_ms = wall_ms  # its mining fee is spent now, however long it was withheld (people:S6)
        stake.sent = stake.on_trust = True
        self._count(stake, 1)

    def price(self, stake: Stake, mining_msat: int) -> None:
        """Take note what its opening and its close cost."""
        self._count(stake, -1)
        stake.mining_msat = mining_msat
        self._count(stake, 1)

    def _count(self, stake: Stake, sign: int) -> None:
        """Add what it counts to the sums, or take it off them."""
        self._pots[stake.on_trust] += sign * stake.amount_msat
        if not stake.on_trust:
            return
        hour = stake.since_ms // HOUR_MS
        self._mining[hour] = self._mining.get(hour, 0) + sign * stake.mining_msat
        if not self._mining[hour]:
            del self._mining[hour]
        if sign > 0 and not stake.mining_msat:
            self.unpriced[stake] = None
        else:
            self.unpriced.pop(stake, None)

    def take(self, stake: Stake) -> None:
        """Stop counting it."""
        if self._now.get(stake.jit_scid) is stake:
            del self._now[stake.jit_scid]
        mine = self._by_peer.get(stake.peer_id, [])
        if stake in mine:
            mine.remove(stake)
            self._count(stake, -1)
        if not mine:
            self._by_peer.pop(stake.peer_id, None)
        if stake.channel_id is not None and self._by_channel.get(stake.channel_id) is stake:
            del self._by_channel[stake.channel_id]

    # Sums -----------------------------------------------------------------------------------------

    def msat(self, *, on_trust: bool) -> int:
        """Return what lies in one of the two pots."""
        return self._pots[on_trust]

    def of_peer_msat(self, peer_id: str) -> int:
        """Return what lies in channels of one client, in both pots."""
        return _sum(self._by_peer.get(peer_id, ()))

    def largest_of_a_peer_msat(self) -> int:
        """Return the most that one client holds now."""
        return max(map(_sum, self._by_peer.values()), default=0)

    def mining_msat(self, wall_ms: int) -> int:
        """Return the mining fees put in within the last day, in whole hours, that are not paid for."""
        return _young(self._mining, wall_ms) + self.burnt.msat(wall_ms)


def _young(hours: dict[int, int], wall_ms: int) -> int:
    """Return what was put in within the last day, rounded up to whole hours."""
    return sum(msat for hour, msat in hours.items() if wall_ms // HOUR_MS - hour <= 24)


def _sum(stakes: Iterable[Stake]) -> int:
    return sum(stake.amount_msat for stake in stakes)
