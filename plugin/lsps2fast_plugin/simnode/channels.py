"""Channels between two parties of the world, and the HTLCs on them.

One `Channel` is the shared truth; each `End` is one node's view of it (names, fees, state, books). Updates go
through `Channel.post()`: in order, one loop turn later, and only while the channel is reestablished. Messages that are
not delivered waits, over disconnections and restarts of either side, as retransmission after `channel_reestablish`
does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from .chain import Chain
from .feerates import FEERATE_OFFSET_PERKW, marginal_feerate
from .onions import Onion
from .psbt import Outpoint, Tx
from .wallet import Wallet

NORMAL = ("CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE")
U64_MAX = 2**64 - 1
DUST_SAT = 546
HTLC_TIMEOUT_WEIGHT, HTLC_SUCCESS_WEIGHT = 663, 703  # of the second transaction, without anchors (BOLT 3)
DUST_BUFFER_PERKW = 2530  # added to a fee rate, or a quarter of it, before dust is counted
ANCHORS_SAT = 660


class Owner(Protocol):
    """What a channel asks and tells the party at one of its ends."""

    name: str
    node_id: str
    mute: bool  # connected, and never says a word
    chain: Chain
    wallet: Wallet
    rng: Random
    ends: Ends
    force_closed: list[End]  # channels it had to close by force

    @property
    def links(self) -> Mapping[str, Owner]:
        """Who is connected now, by node id."""

    def change_state(self, end: End, state: str, cause: str, message: str | None) -> None:
        """Move its end to `state`."""

    def error_arrived(self, peer: Owner, end: End | None, text: str) -> None:
        """Take `error` from a peer: about its `end` of a channel, or (None) about an open under way."""

    def channel_closed(self, end: End) -> None:
        """Forget a channel whose end is deep enough in the chain."""

    def withheld_closed(self, end: End, closer: str, cause: str) -> None:
        """Forget a channel that it opened and never sent: closed by agreement."""

    def shutdown_goes_on(self, channel: Channel) -> None:
        """Go on with a shutdown: a HTLC is gone from the channel."""

    def close_feerate(self) -> int:
        """Return what it proposes for a closing transaction."""

    def books_msat(self) -> int:
        """Return everything it owns."""

    def htlc_committed(self, htlc: Htlc) -> None:
        """Note that its own HTLC is on the other side now."""

    def htlc_arrived(self, htlc: Htlc) -> None:
        """Take a HTLC of the other side, irrevocably committed."""

    def htlc_resolved(self, htlc: Htlc) -> None:
        """Take the other side's answer to its own HTLC: `preimage` or `failure`."""

    def htlc_removed(self, htlc: Htlc) -> None:
        """Drop a HTLC it had received: the other side took note of its answer."""


@dataclass(slots=True, eq=False)
class Htlc:
    """One HTLC. `taker` is the end that received it; `(taker.scid_now(), id)` names a part (cln:H3)."""

    offerer: End
    id: int
    amount_msat: int
    cltv_expiry: int
    payment_hash: bytes
    onion: Onion
    extra_tlvs: bytes
    delivered: bool = False
    received_s: float = 0.0  # when the taker got it; a replay does not change it
    preimage: bytes | None = None
    failure: bytes | None = None
    removing: bool = False
    removed: bool = False
    has_output: bool = False  # in the commitment
    lost_on_chain: bool = False  # taken back by who offered it, or dust in a commitment
    in_state: str = "RCVD_ADD_ACK_REVOCATION"
    out_state: str = "SENT_ADD_HTLC"

    @property
    def channel(self) -> Channel:
        return self.offerer.channel

    @property
    def taker(self) -> End:
        return self.offerer.other


class Counted:
    """Counts what is assigned to it: as long as `changes` stays, so does what was made of its members."""

    changes: int

    def __setattr__(self, name: str, value: Any) -> None:
        members = self.__dict__
        members[name] = value
        members["changes"] = members.get("changes", 0) + 1


@dataclass(eq=False)
class End(Counted):
    """One side of a channel. `to_us_msat` counts settled money; pending HTLCs are subtracted where needed."""

    channel: Channel
    owner: Owner
    to_us_msat: int
    alias: str
    fee_base_msat: int = 1
    fee_ppm: int = 10
    htlc_minimum_msat: int = 0  # of our channel_update: what we forward at least
    own_minimum_msat: int = 0  # of open_channel/accept_channel: what we take at least
    htlc_maximum_msat: int = 0
    cltv_delta: int = 6
    reserve_sat: int = 0  # what the other side must keep is on its own end; this is what we must keep
    to_self_delay: int = 6  # what we impose on the other side
    max_accepted_htlcs: int = 483
    max_in_flight_msat: int = U64_MAX
    state: str = "CHANNELD_AWAITING_LOCKIN"
    scid: str | None = None
    old_scids: list[str] = field(
        default_factory=list
    )  # before splices and reorgs; of a public channel they still count
    splicing_msat: int = 0  # added by a splice that is not locked yet
    ready_sent: bool = False
    other: End = field(init=False, repr=False)
    next_htlc_id: int = 0
    htlcs: dict[int, Htlc] = field(default_factory=dict)  # offered by us, finished ones included
    live: dict[int, Htlc] = field(default_factory=dict)  # those not yet removed
    pending_msat: int = 0  # their sum
    state_changes: list[dict[str, Any]] = field(default_factory=list)
    lifetime: dict[str, int] = field(default_factory=dict)
    old_fees: tuple[int, int, float] | None = None  # base, ppm, until when they still count
    forgotten: bool = False
    closer: str = ""
    min_to_us_msat: int = 0
    max_to_us_msat: int = 0
    rows: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)  # of a list, and made of what

    def __post_init__(self) -> None:
        self.min_to_us_msat = self.max_to_us_msat = self.to_us_msat

    @property
    def peer(self) -> Owner:
        return self.other.owner

    @property
    def opener(self) -> bool:
        return self.channel.opener is self

    def scid_now(self) -> str:
        """`scid or local alias`: the name HTLCs and forwards carry (cln:H3, cln:O5)."""
        return self.scid or self.alias

    def names(self) -> tuple[str, ...]:
        """Return every scid by which a forward may ask for this channel."""
        old = () if self.channel.private else tuple(self.old_scids)
        return (self.scid, self.alias, *old) if self.scid else (self.alias, *old)

    def is_named(self, scid: str) -> bool:
        """Return whether this is one of its names."""
        return scid in (self.scid, self.alias) or (bool(self.old_scids) and scid in self.names())

    def rename(self, scid: str) -> None:
        """Another real scid, because of a splice or a reorg (cln:N3)."""
        if self.scid is not None and self.scid != scid:
            self.old_scids.append(self.scid)
        self.scid = scid

    def can_add(self) -> bool:
        return self.state in NORMAL and self.channel.reestablished and self.other.ready_sent

    def count(self, what: str, amount_msat: int) -> None:
        """Lifetime counters of listpeerchannels: `in` or `out`, offered or fulfilled."""
        direction, _, stage = what.partition("_")
        self.lifetime[f"{direction}_payments_{stage}"] = self.lifetime.get(f"{direction}_payments_{stage}", 0) + 1
        self.lifetime[f"{direction}_{stage}_msat"] = self.lifetime.get(f"{direction}_{stage}_msat", 0) + amount_msat
        self.changes += 1

    def move(self, delta_msat: int) -> None:
        self.to_us_msat += delta_msat
        self.min_to_us_msat = min(self.min_to_us_msat, self.to_us_msat)
        self.max_to_us_msat = max(self.max_to_us_msat, self.to_us_msat)

    def accepts_fee(self, fee_msat: int, amount_msat: int, now_s: float) -> bool:
        """cln:H6; rates changed by setchannel stay good until their delay has passed."""
        if fee_msat >= self.fee_base_msat + amount_msat * self.fee_ppm // 1_000_000:
            return True
        if self.old_fees is None or now_s >= self.old_fees[2]:
            return False
        base, ppm, _ = self.old_fees
        return fee_msat >= base + amount_msat * ppm // 1_000_000

    def spendable_msat(self) -> int:
        """cln:O3: own money less reserve, HTLCs on the way and, for the opener, the commitment fee with its buffer."""
        left = self.to_us_msat - self.pending_msat - self.splicing_msat - self.reserve_sat * 1000
        if self.opener:
            left -= self.channel.commitment_reserve_sat() * 1000
        ceiling = min(self.htlc_maximum_msat, U64_MAX)
        return max(0, min(left, ceiling))


class Ends(list[End]):
    """The ends of one party. Those of a peer or of a channel are found without going through all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, list[End]] | None = None  # by the peer's node id and by channel_id

    def append(self, end: End) -> None:
        super().append(end)
        self._found = None

    def remove(self, end: End) -> None:
        super().remove(end)
        self._found = None

    def of(self, name: str) -> list[End]:
        """Return the ends, in order, to the peer or of the channel with this id."""
        if self._found is None:
            self._found = {}
            for end in self:
                for each in (end.other.owner.node_id, end.channel.channel_id):
                    self._found.setdefault(each, []).append(end)
        return self._found.get(name, [])


@dataclass(eq=False)
class OnChain:
    """What spends a channel's funding. `outputs` are those of HTLCs, `sweeps` what was made of them."""

    channel: Channel
    tx: Tx
    outputs: dict[Htlc, Outpoint | None]
    sweeps: dict[Htlc, Tx] = field(default_factory=dict)


class Channel(Counted):
    """The shared part: funding, type, fee rate, and the line over which updates travel."""

    def __init__(
        self, capacity_sat: int, channel_type: tuple[int, ...], funding: tuple[str, int], private: bool
    ) -> None:
        self.capacity_sat = capacity_sat
        self.channel_type = channel_type
        self.funding_txid, self.funding_outnum = funding
        raw = bytearray(bytes.fromhex(self.funding_txid)[::-1])
        raw[30] ^= self.funding_outnum >> 8
        raw[31] ^= self.funding_outnum & 0xFF
        self.channel_id = raw.hex()
        self.private = private
        self.zero_conf = False  # usable before it confirms, with or without the bit of that name
        self.feerate_perkw = 2500  # as proposed
        self.raised_perkw = 2500 + FEERATE_OFFSET_PERKW  # what the first update_fee brings (cln:O11)
        self.untrimmed = 0  # live HTLCs of either side that have an output of their own
        self.ends: tuple[End, End]
        self.opener: End
        self.withheld = False
        self.withheld_ever = False
        self.funding_psbt: str | None = None
        self.reestablished = True
        self.dead = False  # on chain or given up: no more updates
        self.over = asyncio.Event()  # set once it is dead because it closed
        self.settled_on_chain = False  # what spends its funding is in the mempool or in a block
        self.on_chain: OnChain | None = None
        self.splice: Tx | None = None  # not locked yet
        self.moved = False  # a reorg took its funding to another place
        self.shutdown_by: End | None = None  # who asked for a close that waits for HTLCs
        self._line: deque[tuple[Owner, Callable[[], None]]] = deque()
        self._pumping = False
        self._paused = False

    def join(self, opener: End, other: End) -> None:
        self.ends = (opener, other)
        self.opener = opener
        opener.other, other.other = other, opener

    @property
    def anchors(self) -> bool:
        return 22 in self.channel_type

    def commitment_reserve_sat(self) -> int:
        """Fee of a commitment with one more HTLC and a spike of the fee rate, plus anchors (cln:O3)."""
        weight = (1124 if self.anchors else 724) + 172 * (self.untrimmed + 2)
        return weight * marginal_feerate(self.feerate_perkw) // 1000 + (ANCHORS_SAT if self.anchors else 0)

    def has_output(self, htlc: Htlc) -> bool:
        """Return whether an HTLC is more than dust in the opener's commitment (BOLT 3); anchors: its
        own fee does not matter.
        """
        ours = htlc.offerer is self.opener
        return htlc.amount_msat >= self._least_output_msat(ours, self.feerate_perkw)

    def _least_output_msat(self, offered: bool, feerate_perkw: int) -> int:
        """Of a HTLC in one side's commitment, which that side offered or not."""
        weight = 0 if self.anchors else HTLC_TIMEOUT_WEIGHT if offered else HTLC_SUCCESS_WEIGHT
        return (DUST_SAT + weight * feerate_perkw // 1000) * 1000

    def dust_exposure_msat(self, offerer: End, amount_msat: int) -> int:
        """Return the worse of both commitments with one more HTLC, at the accelerated fee rate of lightningd's
        channeld.

        0 for a HTLC that is dust in neither: it exposes nothing.
        """
        perkw = max(self.feerate_perkw * 5 // 4, self.feerate_perkw + DUST_BUFFER_PERKW)
        if amount_msat >= max(self._least_output_msat(ours, perkw) for ours in (True, False)):
            return 0
        sums = []
        for side in self.ends:
            amounts = [(end is side, htlc.amount_msat) for end in self.ends for htlc in end.live.values()]
            amounts.append((offerer is side, amount_msat))
            sums.append(sum(msat for ours, msat in amounts if msat < self._least_output_msat(ours, perkw)))
        return max(sums)

    def commitment_fee_sat(self) -> int:
        """Fee of the present commitment."""
        weight = (1124 if self.anchors else 724) + 172 * self.untrimmed
        return weight * self.feerate_perkw // 1000

    def last_tx_fee_sat(self) -> int:
        """Fee of the transaction that lightningd would send last, or has sent (`last_tx_fee_msat`)."""
        return self.commitment_fee_sat() if self.on_chain is None else self.on_chain.tx.fee_sat

    # the line between the two sides

    def post(self, to: Owner, deliver: Callable[[], None]) -> None:
        """Deliver to `to` one turn later, in order; waits while the channel is not reestablished."""
        self._line.append((to, deliver))
        self._pump_soon()

    def pause(self, paused: bool = True) -> None:
        """Slow the line down: nothing is delivered until `pause(False)`, though both sides are connected."""
        self._paused = paused
        self._pump_soon()

    def set_reestablished(self, up: bool) -> None:
        self.reestablished = up
        if up:
            self._pump_soon()

    def _flows(self) -> bool:
        return (
            self.reestablished and not self.dead and not self._paused and not any(end.owner.mute for end in self.ends)
        )

    def _pump_soon(self) -> None:
        if not self._pumping and self._flows() and self._line:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for _ in range(len(self._line)):
            if not self._flows() or not self._line:
                return
            _, deliver = self._line.popleft()
            deliver()
        self._pump_soon()

    # updates

    def update_fee(self) -> None:
        """Bring the fee rate up to date, as the opener does before the first HTLC (cln:O11)."""
        self.feerate_perkw = self.raised_perkw

    def offer(
        self, end: End, amount_msat: int, cltv_expiry: int, payment_hash: bytes, onion: Onion, extra_tlvs: bytes = b""
    ) -> Htlc:
        """update_add_htlc by `end`; the caller has checked that the channel can take it."""
        htlc = Htlc(end, end.next_htlc_id, amount_msat, cltv_expiry, payment_hash, onion, extra_tlvs)
        end.next_htlc_id += 1
        end.htlcs[htlc.id] = end.live[htlc.id] = htlc
        end.pending_msat += amount_msat
        self.update_fee()
        htlc.has_output = self.has_output(htlc)
        self.untrimmed += htlc.has_output
        end.count("out_offered", amount_msat)
        end.other.count("in_offered", amount_msat)
        self.post(end.other.owner, lambda: self._deliver_add(htlc))
        return htlc

    def _deliver_add(self, htlc: Htlc) -> None:
        htlc.delivered = True
        htlc.out_state = "SENT_ADD_ACK_REVOCATION"
        htlc.offerer.owner.htlc_committed(htlc)
        htlc.taker.owner.htlc_arrived(htlc)

    def fulfill(self, htlc: Htlc, preimage: bytes) -> None:
        """update_fulfill_htlc by the taker."""
        htlc.preimage = preimage
        self._remove(htlc)

    def fail(self, htlc: Htlc, blob: bytes) -> None:
        """update_fail_htlc by the taker."""
        htlc.failure = blob
        self._remove(htlc)

    def _remove(self, htlc: Htlc) -> None:
        if htlc.removing:
            raise RuntimeError(f"HTLC {htlc.id} on {self.channel_id} resolved twice")
        htlc.removing = True
        htlc.in_state = "SENT_REMOVE_HTLC"
        self.post(htlc.offerer.owner, lambda: self._deliver_removal(htlc))

    def _deliver_removal(self, htlc: Htlc) -> None:
        htlc.in_state = "RCVD_REMOVE_REVOCATION"
        htlc.out_state = "RCVD_REMOVE_ACK_REVOCATION"
        htlc.removed = True
        del htlc.offerer.live[htlc.id]
        htlc.offerer.pending_msat -= htlc.amount_msat
        self.untrimmed -= htlc.has_output
        if htlc.preimage is not None:
            htlc.offerer.move(-htlc.amount_msat)
            htlc.taker.move(htlc.amount_msat)
            htlc.offerer.count("out_fulfilled", htlc.amount_msat)
            htlc.taker.count("in_fulfilled", htlc.amount_msat)
        htlc.offerer.owner.htlc_resolved(htlc)
        self.post(htlc.taker.owner, lambda: self._finish(htlc))

    def _finish(self, htlc: Htlc) -> None:
        htlc.in_state = "SENT_REMOVE_ACK_REVOCATION"
        htlc.taker.owner.htlc_removed(htlc)
        if self.shutdown_by is not None:
            self.shutdown_by.owner.shutdown_goes_on(self)

    def forget_tlvs(self, owner: Owner) -> None:
        """lightningd stores no extra TLVs: a restart takes them off what was not sent yet and what came in (K-29)."""
        for end in self.ends:
            for htlc in end.live.values():
                if htlc.delivered is (end.owner is not owner):
                    htlc.extra_tlvs = b""
