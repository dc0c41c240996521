"""Buys and what bounds them: which jit scids are live, which requests are refused, how fast a peer may ask.

Every number a peer can drive up has its limit here. Time, random numbers and facts about the node come in as
arguments; journalling a buy, and all that happens once a payment arrives, is done elsewhere. Requirement ids such as
B-06 are those of docs/conformance.md.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from lsps2fast.errors import ConfigError, ProtocolBug
from lsps2fast.lsps.lsps0 import try_later
from lsps2fast.lsps.lsps2 import BuyAsk, FeeParams, invalid_fee_params, too_large, too_small

# Block heights of our scids. No chain gets there soon: main net needs 170 years for the first, test net 3 has passed
# 4.5 million. lnd keeps heights from 16,000,000 for the aliases of its own channels. Six million heights times 2^40 are
# 2^62.5 scids, more than the 60 bits we ask for, so a live one cannot be guessed (B-11, K-27).
SCID_FIRST_BLOCK: Final = 10_000_000
SCID_END_BLOCK: Final = 16_000_000
_SCID_DRAWS: Final = 1000  # 36 of 100 draws fit: without a broken generator the 1000th is never reached


def new_scid(random64: Callable[[], int], taken: Callable[[int], bool]) -> int:
    """Return a fresh jit scid (B-11, B-13).

    `random64` gives 64 bits from the operating system's CSPRNG; `taken` is true for every scid and alias of the node's
    channels and for every live buy. Raises ProtocolBug when the generator yields nothing usable.
    """
    for _ in range(_SCID_DRAWS):
        scid = random64()
        if SCID_FIRST_BLOCK <= scid >> 40 < SCID_END_BLOCK and not taken(scid):
            return scid
    raise ProtocolBug(f"no usable scid in {_SCID_DRAWS} draws: the random numbers repeat")


class Buy(msgspec.Struct, frozen=True, gc=False):
    """An accepted offer: payments to `jit_scid` go to `peer_id` over a channel that is still to be opened."""

    jit_scid: int
    peer_id: str
    params: FeeParams
    payment_size_msat: int | None
    cltv_expiry_delta_blocks: int
    client_trusts_lsp: bool
    created_at_ms: int
    capacity_sat: int


class Lack(Enum):
    """Why no channel can be provided: only a payment of this `SIZE` is beyond us, or any (`FUNDS`)."""

    SIZE = auto()
    FUNDS = auto()


class BuyQuota(NamedTuple):
    """How many unused buys may be open: by one peer, and in all (B-14)."""

    buys_per_peer: int = 10
    buys_total: int = 10_000


# --- Validation of a buy (B-06) ---------------------------------------------------------------------------------------


def check_terms(ask: BuyAsk, now_ms: int, proves: Callable[[FeeParams], bool], floor_msat: int) -> None:
    """Take steps 3 to 9 of B-06, which need nothing from the node. Raises PeerError 201, 202 or 203.

    `proves` tells whether the promise is ours for this client; `floor_msat` is the smallest HTLC we may forward (H-03).
    """
    if not proves(ask.params) or ask.params.valid_until_ms <= now_ms:
        raise invalid_fee_params()
    if ask.payment_size_msat is not None:
        _check_size(ask.params, ask.payment_size_msat, floor_msat)


def _check_size(params: FeeParams, size_msat: int, floor_msat: int) -> None:
    if size_msat < params.min_payment_size_msat:
        raise too_small()
    if size_msat > params.max_payment_size_msat:
        raise too_large()
    fee_msat = params.fee_msat(size_msat)
    if fee_msat is None:
        raise too_large()
    if size_msat - fee_msat < max(floor_msat, 1):  # a fee at or above the size leaves less than any floor
        raise too_small()


def check_liquidity(ask: BuyAsk, incoming_liquidity_msat: int | None) -> None:
    """Step 10 of B-06: can such a payment reach us at all? Raises PeerError 203.

    `incoming_liquidity_msat` is what our public channels can receive (B-08), None when that is unknown.
    """
    size_msat = ask.payment_size_msat
    if size_msat is not None and incoming_liquidity_msat is not None and size_msat > incoming_liquidity_msat:
        raise too_large()


def check_supply(ask: BuyAsk, provided: int | Lack) -> int:
    """Step 11 of B-06: the capacity in sat that policy and funds provide. Raises PeerError 203 or -32603 for a lack."""
    if isinstance(provided, int):
        return provided
    if provided is Lack.SIZE and ask.payment_size_msat is not None:
        raise too_large()
    raise try_later("no channel available at this time")


# --- The book of buys -------------------------------------------------------------------------------------------------


class BuyRegistry:
    """Live buys by jit scid and by peer.

    A buy is *open* until a payment used it (`mark_used`); only open ones count against the limits. When a buy ends is
    decided where its payments are (`Sessions`), then `remove` takes it out. Every operation takes constant time.
    """

    def __init__(self, limits: BuyQuota | None = None) -> None:
        self._limits = limits or BuyQuota()
        self._buys: dict[int, Buy] = {}
        self._by_peer: dict[str, set[int]] = {}
        self._used: set[int] = set()  # of them
        self._open: Counter[str] = Counter()  # those that are not, by peer

    def __len__(self) -> int:
        return len(self._buys)

    def __contains__(self, jit_scid: int) -> bool:
        return jit_scid in self._buys

    def __iter__(self) -> Iterator[Buy]:
        return iter(self._buys.values())

    def get(self, jit_scid: int) -> Buy | None:
        """Return the buy of a live jit scid."""
        return self._buys.get(jit_scid)

    def of_peer(self, peer_id: str) -> list[Buy]:
        """Return all live buys of one peer, oldest first."""
        buys = [self._buys[scid] for scid in self._by_peer.get(peer_id, ())]
        return sorted(buys, key=lambda buy: (buy.created_at_ms, buy.jit_scid))

    def open_count(self, peer_id: str | None = None) -> int:
        """Unused buys of one peer, or of all."""
        return len(self._buys) - len(self._used) if peer_id is None else self._open[peer_id]

    def check_room(self, peer_id: str) -> None:
        """Raise PeerError -32603 when this peer may not open another buy (B-06 step 2, B-14).

        The last fifth of all places is for peers that hold none: a crowd that fills its quota cannot lock them out.
        """
        mine, total = self.open_count(peer_id), self.open_count()
        crowded = total >= self._limits.buys_total * 4 // 5
        if mine >= self._limits.buys_per_peer:
            raise try_later("you have too many unused buys; use one, or wait until one ends")
        if total >= self._limits.buys_total or (crowded and mine > 0):
            raise try_later("this node has too many unused buys; try again later")

    def add(self, buy: Buy) -> None:
        """Enter a new buy, which reserves its place and its scid while the journal is written; on failure `remove` it.

        Raises PeerError -32603 when the limits are reached by now, ProtocolBug for a scid in use.
        """
        self.check_room(buy.peer_id)
        self.restore(buy)

    def restore(self, buy: Buy) -> None:
        """Enter a buy from the journal: limits do not apply to what was sold. Raises ProtocolBug for a scid in use."""
        scid = buy.jit_scid
        if scid in self._buys:
            raise ProtocolBug(f"jit scid {scid} is in use")
        self._buys[scid] = buy
        self._by_peer.setdefault(buy.peer_id, set()).add(scid)
        self._open[buy.peer_id] += 1

    def mark_used(self, jit_scid: int) -> None:
        """Note that the buy got its channel: it no longer counts against the limits, its scid stays until the end."""
        buy = self._buys.get(jit_scid)
        if buy is not None and jit_scid not in self._used:
            self._used.add(jit_scid)
            self._open[buy.peer_id] -= 1
            if not self._open[buy.peer_id]:
                del self._open[buy.peer_id]

    def remove(self, jit_scid: int) -> Buy | None:
        """Take a buy out; None when it is not live."""
        buy = self._buys.get(jit_scid)
        if buy is None:
            return None
        self.mark_used(jit_scid)
        self._used.discard(jit_scid)
        del self._buys[jit_scid]
        self._by_peer[buy.peer_id].discard(jit_scid)
        if not self._by_peer[buy.peer_id]:
            del self._by_peer[buy.peer_id]
        return buy


# --- Rates ------------------------------------------------------------------------------------------------------------


class TokenBucket:
    """At most `burst` at once and `rate_per_s` in the long run. `now_ms` is a monotonic clock (K-25)."""

    __slots__ = ("_full_at_us", "_slack_us", "_step_us")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        """Check that both are positive. Raises ConfigError."""
        if not 0 < rate_per_s <= 1_000_000 or burst < 1:
            raise ConfigError("a rate must be above 0 (and at most a million per second), its burst at least 1")
        self._step_us = max(1, round(1_000_000 / rate_per_s))
        self._slack_us = self._step_us * (burst - 1)
        self._full_at_us = 0  # one number is enough: when the bucket will be full again

    def take(self, now_ms: int) -> bool:
        """Return true when one more is allowed now; it then counts. A refusal costs nothing."""
        now_us = now_ms * 1000
        base_us = max(self._full_at_us, now_us)
        if base_us - now_us > self._slack_us:
            return False
        self._full_at_us = base_us + self._step_us
        return True

    def is_full(self, now_ms: int) -> bool:
        """Return true when it is as good as a new one and may be forgotten."""
        return self._full_at_us <= now_ms * 1000


class PeerBuckets:
    """One TokenBucket for each peer, in bounded memory.

    A bucket that is full again is forgotten. Above `max_peers` the one unused for longest goes although its peer then
    starts afresh: an attacker with that many node ids is stopped by a TokenBucket over all, not here.
    """

    def __init__(self, rate_per_s: float, burst: int, max_peers: int = 10_000) -> None:
        """Check that all are positive. Raises ConfigError."""
        TokenBucket(rate_per_s, burst)
        if max_peers < 1:
            raise ConfigError("at least one peer must be remembered")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_peers = max_peers
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, peer_id: str, now_ms: int) -> bool:
        """Return true when this peer may do one more now."""
        bucket = self._buckets.pop(peer_id, None) or TokenBucket(self._rate_per_s, self._burst)
        self._buckets[peer_id] = bucket
        allowed = bucket.take(now_ms)
        self._evict(now_ms)
        return allowed

    def _evict(self, now_ms: int) -> None:
        """At most two leave for each one that may have come."""
        for _ in range(2):
            oldest = next(iter(self._buckets.values()))
            if len(self._buckets) <= self._max_peers and not oldest.is_full(now_ms):
                return
            self._buckets.popitem(last=False)


def parse_error_buckets() -> PeerBuckets:
    """Return how often a peer is told that it sent rubbish: ten times a minute (T-12)."""
    return PeerBuckets(rate_per_s=10 / 60, burst=10)


class InFlight:
    """How many requests are being worked on, for each peer and in all (T-36)."""

    def __init__(self, per_peer: int = 10, total: int = 1000) -> None:
        self._per_peer = per_peer
        self._total = total
        self._counts: dict[str, int] = {}
        self._sum = 0

    def __len__(self) -> int:
        return self._sum

    def enter(self, peer_id: str) -> bool:
        """Return true when work may begin; `leave` is then owed."""
        count = self._counts.get(peer_id, 0)
        if count >= self._per_peer or self._sum >= self._total:
            return False
        self._counts[peer_id] = count + 1
        self._sum += 1
        return True

    def leave(self, peer_id: str) -> None:
        """End a piece of work. Raises ProtocolBug without an `enter`."""
        count = self._counts.pop(peer_id, 0)
        if count == 0:
            raise ProtocolBug("left more often than entered")
        if count > 1:
            self._counts[peer_id] = count - 1
        self._sum -= 1
