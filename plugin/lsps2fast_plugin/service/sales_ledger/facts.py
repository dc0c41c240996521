"""What the ledger is told: plain values, each written so that it may come twice.

Times are UTC milliseconds, None where a stage was not reached. Hashes, node ids and channel ids are hex, scids as
people write them.
"""

from __future__ import annotations

from typing import Final

import msgspec

SUCCEEDED: Final = "Succeeded"
UNDERPAID: Final = "Underpaid"
REUSED: Final = "Reused"  # it went over a channel that the client had
ALIAS: Final = "Alias"  # another payment has paid for the channel meanwhile; this one went on over it
ONCE: Final = (SUCCEEDED, "Forfeited")  # an offer ends so at most once


class Fact(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Something to write."""


class BuyFact(Fact, frozen=True, gc=False, kw_only=True):
    """An offer was bought."""

    jit_scid: str
    peer_id: str
    created_ms: int
    valid_until_ms: int
    min_fee_msat: int
    proportional_ppm: int
    min_lifetime_blocks: int
    capacity_sat: int
    client_trusts_lsp: bool
    payment_size_msat: int | None = None
    token: str | None = None
    band: str | None = None


class BuyEndFact(Fact, frozen=True, gc=False, kw_only=True):
    """A jit scid is no more; `outcome` as in the journal."""

    jit_scid: str
    outcome: str
    ended_ms: int


class AttemptFact(Fact, frozen=True, gc=False, kw_only=True):
    """One payment on an offer, as far as it has come; with `outcome` it is over.

    `fee_before_msat` is what earlier payments on this scid have brought. `revived`: it goes on after a start, so its
    beginning may stand in the ledger already.
    """

    jit_scid: str
    payment_hash: str
    began_ms: int
    life: int = 0  # of the plugin, any number: two lives may begin something at one moment by a clock that was set back
    peer_id: str
    token: str | None = None
    band: str | None = None
    amount_msat: int | None = None
    parts: int | None = None
    fee_agreed_msat: int = 0
    fee_taken_msat: int = 0
    fee_owed_msat: int = 0
    fee_before_msat: int = 0
    channel_id: str | None = None
    opening_ms: int | None = None
    channel_ms: int | None = None
    forwarded_ms: int | None = None
    claimed_ms: int | None = None
    ended_ms: int | None = None
    outcome: str | None = None
    failed_by: str | None = None
    code: str | None = None
    reason: str | None = None
    revived: bool = False


class ChannelFact(Fact, frozen=True, gc=False, kw_only=True):
    """Something about a channel that was made for a sale; what is None is not known now, or not new.

    `signed_psbt` of its funding says what miners get, `mining_sat` its share where that pays several channels.
    `released_ms`: nothing of ours is in it any more.
    """

    channel_id: str
    jit_scid: str | None = None
    peer_id: str | None = None
    funding_txid: str | None = None
    signed_psbt: str | None = None
    mining_sat: int | None = None
    capacity_sat: int | None = None
    locked_ms: int | None = None
    sent_ms: int | None = None
    released_ms: int | None = None
    close_mining_msat: int | None = None


class CloseFact(Fact, frozen=True, gc=False, kw_only=True):
    """A rule of the operator closed a channel; amounts as they were when it was decided."""

    channel_id: str
    rule: str
    decided_ms: int
    feerate_perkw: int
    ours_msat: int
    client_msat: int
    opening_fee_msat: int
    routing_fees_msat: int
    idle_days: int


class RecordFact(Fact, frozen=True, gc=False, kw_only=True):
    """What a record of the journal says of a sale: whatever the ledger has missed of it is written now."""

    jit_scid: str
    peer_id: str
    outcome: str | None
    payment_hash: str | None
    fee_agreed_msat: int
    fee_paid_msat: int
    ended_ms: int
    channel_id: str | None = None
    token: str | None = None
    band: str | None = None


class LiveFact(Fact, frozen=True, gc=False, kw_only=True):
    """After a start: these payments (scid, hash) go on. What else the ledger has as open ended while we were away."""

    live: tuple[tuple[str, str], ...]
    at_ms: int


class StandingFact(Fact, frozen=True, gc=False, kw_only=True):
    """After a start: the channels with money of ours in them. In all others there is none any more."""

    channel_ids: frozenset[str]
    at_ms: int
