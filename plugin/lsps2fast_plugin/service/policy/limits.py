"""Limits for clients: request rates, held parts, sats at risk; and a count for every refusal.

Nothing here grows with what peers send: counters have fixed names, rates are remembered for a bounded number of peers.
Time comes in as monotonic milliseconds (K-25).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from lsps2fast.lsps.buys import InFlight, PeerBuckets, TokenBucket
from lsps2fast_plugin.cln.option_table import NumberTable


class Refusal(StrEnum):
    """Why something was refused; the names under which `lsps2-stats` counts."""

    PEER_DENIED = "peer_denied"
    PEER_NOT_ALLOWED = "peer_not_allowed"
    PEER_PROBED = "peer_probed"  # served, but only in the safe mode
    TOKEN_UNKNOWN = "token_unknown"
    TOKEN_REVOKED = "token_revoked"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_USED_UP = "token_used_up"
    LINE_LEFT_OUT = "line_left_out"
    MENU_EMPTY = "menu_empty"
    POLICY_FILE = "policy_file"
    EXTERNAL_SLOW = "external_slow"
    EXTERNAL_ERROR = "external_error"
    EXTERNAL_GARBAGE = "external_garbage"
    EXTERNAL_BUSY = "external_busy"
    EXTERNAL_MISSING = "external_missing"
    EXTERNAL_REJECTED = "external_rejected"
    EXTERNAL_CAPACITY = "external_capacity"
    NOT_CONNECTED = "not_connected"
    INBOUND_LIQUIDITY = "inbound_liquidity"
    CHANNEL_TOO_LARGE = "channel_too_large"
    HTLC_MAXIMUM = "htlc_maximum"  # of our own node: in as many parts as are accepted it would not be forwarded
    ONCHAIN_FUNDS = "onchain_funds"
    CAPITAL_BUDGET = "capital_budget"
    WITHHELD_BUDGET = "withheld_budget"
    MINING_BUDGET = "mining_budget"
    CLIENT_SHARE = "client_share"
    PEER_UNPAID = "peer_unpaid"
    SOLD_AT_A_LOSS = "sold_at_a_loss"
    OFFER_INVALID = "offer_invalid"
    PAYMENT_TOO_SMALL = "payment_too_small"
    PAYMENT_TOO_LARGE = "payment_too_large"
    OFFER_LIMITS = "offer_limits"
    RATE_PEER = "rate_peer"
    RATE_TOTAL = "rate_total"
    HOLD_TOO_LONG = "hold_too_long"
    NOT_FORWARDABLE = "not_forwardable"  # lightningd would refuse it, or with it others of its payment
    HELD_PARTS = "held_parts"
    HELD_SATS = "held_sats"
    IN_PROGRESS = "in_progress"
    TOO_EARLY = "too_early"
    NO_REQUEST = "no_request"
    LARGE_MESSAGE = "large_message"
    PAUSED = "paused"


class Refusals:
    """A count for each name in `Refusal`."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Refusal, 0)

    def count(self, name: Refusal, times: int = 1) -> None:
        """One more, or `times` more."""
        self._counts[name] += times

    def __getitem__(self, name: Refusal) -> int:
        return self._counts[name]

    def as_dict(self) -> dict[str, int]:
        """Return all names with their counts, zeros too: a metric that appears late is not watched."""
        return {name.value: count for name, count in self._counts.items()}


class GateLimits(NamedTuple):
    """Each is an option of the service (`LIMIT_OPTIONS`), in this order; rates are per minute."""

    info_per_peer: int = 60
    info_total: int = 30_000
    buys_per_peer: int = 12
    buys_total: int = 3_000
    held_parts: int = 2_000
    held_sat: int = 1_000_000_000
    in_progress_per_peer: int = 10
    in_progress_total: int = 1_000


LIMIT_OPTIONS: NumberTable = {  # option: default, least, most, meaning
    "lsps2-max-info-per-peer": (60, 1, 10**6, "requests per minute that one peer may make, buys aside"),
    "lsps2-max-info": (30_000, 1, 10**7, "requests per minute in all, buys aside"),
    "lsps2-max-buys-per-minute-per-peer": (12, 1, 10**6, "buys per minute that one peer may make"),
    "lsps2-max-buys-per-minute": (3_000, 1, 10**7, "buys per minute in all"),
    "lsps2-max-held-parts": (2_000, 1, 10**6, "HTLCs that are held at one time"),
    "lsps2-max-held-sat": (1_000_000_000, 1, 10**15, "satoshis in HTLCs that are held at one time"),
    "lsps2-max-in-progress-per-peer": (10, 1, 10**6, "requests of one peer that are worked on at one time"),
    "lsps2-max-in-progress": (1_000, 1, 10**6, "requests that are worked on at one time"),
}


QUARTERS: Final = 4  # of a pot, that its shares are told in
LARGE_BYTES: Final = 4_096  # of a message; a buy has about 700, and 512 more with the longest promise


class Admit(StrEnum):
    """The verdict on a request."""

    YES = "yes"
    REFUSE = "refuse"  # answer code 1
    SILENCE = "silence"  # too often even for refusals: an answer costs us an RPC call


class _Flow:
    """One kind of request: a rate for each peer, one for all, and a third on top for peers that come seldom.

    A peer may use up its minute at once. A crowd that uses up the common rate does not come seldom, so the few requests
    of an honest peer still get through: `visit` of them in a minute.
    """

    def __init__(self, per_peer: int, total: int, visit: int) -> None:
        self._peers = PeerBuckets(per_peer / 60, per_peer)
        self._seldom = PeerBuckets(visit / 60, visit)
        self._common = TokenBucket(total / 60, max(1, total // 60))
        self._spare = TokenBucket(total / 180, max(1, total // 180))

    def take(self, peer_id: str, now_ms: int) -> Refusal | None:
        """None when the request may pass; it then counts."""
        if not self._peers.take(peer_id, now_ms):
            return Refusal.RATE_PEER
        seldom = self._seldom.take(peer_id, now_ms)
        if self._common.take(now_ms) or (seldom and self._spare.take(now_ms)):
            return None
        return Refusal.RATE_TOTAL


class Gate:
    """Stands before every request and every part."""

    def __init__(self, limits: GateLimits, refusals: Refusals) -> None:
        self._limits = limits
        self._refusals = refusals
        self._info = _Flow(limits.info_per_peer, limits.info_total, visit=3)  # protocols, menu, and once more
        self._buys = _Flow(limits.buys_per_peer, limits.buys_total, visit=1)
        self.in_progress = InFlight(limits.in_progress_per_peer, limits.in_progress_total)  # T-36
        self._large = PeerBuckets(10 / 60, 10)
        self._large_total = TokenBucket(20, 100)
        self._told = PeerBuckets(6 / 60, 6)
        self._told_total = TokenBucket(20, 20)

    def message(self, peer_id: str, size: int, now_ms: int) -> bool:
        """Return whether a message of so many bytes is read at all.

        Reading costs by the byte, and no honest one is large.
        """
        if size <= LARGE_BYTES or (self._large.take(peer_id, now_ms) and self._large_total.take(now_ms)):
            return True
        self._refusals.count(Refusal.LARGE_MESSAGE)
        return False

    def request(self, peer_id: str, is_buy: bool, now_ms: int) -> Admit:
        """Return whether a well-formed request of this peer is worked on; called once for each."""
        why = (self._buys if is_buy else self._info).take(peer_id, now_ms)
        if why is None:
            return Admit.YES
        self._refusals.count(why)
        told = self._told.take(peer_id, now_ms) and self._told_total.take(now_ms)
        return Admit.REFUSE if told else Admit.SILENCE

    def room_beside(self, held_parts: int, held_msat: int, quarters: int = QUARTERS) -> tuple[int, int]:
        """Return how many HTLCs, and with how many msat, may be held beside those already held.

        `quarters`: of the pot, which they may fill.
        """
        limits = self._limits
        parts, msat = limits.held_parts * quarters // QUARTERS, limits.held_sat * 1000 * quarters // QUARTERS
        return parts - held_parts, msat - held_msat

    def part(self, held_parts: int, held_msat: int, amount_msat: int, quarters: int = QUARTERS) -> bool:
        """Return whether one more HTLC may be held beside those already held; False: fail it temporarily (C-19)."""
        parts, msat = self.room_beside(held_parts, held_msat, quarters)
        if parts < 1:
            self._refusals.count(Refusal.HELD_PARTS)
            return False
        if amount_msat > msat:
            self._refusals.count(Refusal.HELD_SATS)
            return False
        return True
