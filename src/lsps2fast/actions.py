"""What the session machine is told and what it orders: plain data, each kind a type of its own.

Two values are equal only if they are of one kind. An action that cannot be taken back is given only after the machine
was told `STORED`, so whatever carries them out needs no order of its own among them. `jit_scid` and `payment_hash`
name the session to which the result is fed.

An amount bears one name on its whole way: `amount_msat` was delivered to us, `amt_to_forward_msat` is what the onion
asks (H-01), `extra_fee_msat` what we take, `out_msat` what is sent on: `amt_to_forward_msat - extra_fee_msat`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

TEMPORARY: Final = "10070000"  # temporary_channel_failure, u16 length 0 of channel_update (BOLT 4; C-19)
UNKNOWN_NEXT_PEER: Final = "400a"  # permanent (C-19): only where bLIP-52 demands it
FAILURE_NAMES: Final = {  # by the code a failure message begins with: all that are ever sent, by an LSP or a wallet
    "0015": "expiry_too_far",
    "0017": "mpp_timeout",
    "1007": "temporary_channel_failure",
    "100b": "amount_below_minimum",
    "100c": "fee_insufficient",
    "100d": "incorrect_cltv_expiry",
    "100e": "expiry_too_soon",
    "2002": "temporary_node_failure",
    "400a": "unknown_next_peer",
    "400f": "incorrect_or_unknown_payment_details",
}

SUCCEEDED: Final = "Succeeded"  # the whole opening fee came
UNDERPAID: Final = "Underpaid"  # the client took parts that carried less than the fee; the rest is owed (rule:20)
FORFEITED: Final = "Forfeited"  # the client was paid and gave its channel up before the funding was sent (rule:23)
UNPAID: Final = "Unpaid"  # a channel went on chain and no payment came; its money is back (people:S17)
ABANDONED: Final = "Abandoned"  # a channel or coins were given back
FAILED: Final = "Failed"
TIMEOUT: Final = "Timeout"  # nothing came before `valid_until`
REUSED: Final = "Reused"  # a payment went over a channel that the client had; the buy stands
OUTCOMES: Final = (SUCCEEDED, UNDERPAID, FORFEITED, UNPAID, ABANDONED, FAILED, TIMEOUT, REUSED)
ABOVE: Final = "above what was bought"
REFUSED: Final = (  # why parts are not let in, and what gave way: keys of `Sessions.refused`
    ABOVE,
    "a second part",
    "too many parts",
    "of a set with too many parts",
    "too many sets",
    "no room",
    "gave way",
    "its channel leaves",
    "would not be forwarded",
    "too late",
    "brings far more than it pays",
    "too small",
    "more in its onion than it brings",
    "too few blocks for us",
    "expires too soon",
    "expires too late",
)

ChannelKey = int | str
PartKey = tuple[ChannelKey, int]
"""What a part is called from its arrival on: incoming channel (its id where known, else its scid) and HTLC id."""


class PartStatus(IntEnum):
    """What has become of one part."""

    HELD = 0
    FORWARDED = 1
    FULFILLED = 2
    FAILED = 3  # we refused it, or it came back


class Fact(msgspec.Struct, frozen=True, gc=False):
    """What the machine is told."""


class Action(msgspec.Struct, frozen=True, gc=False):
    """What the machine orders."""


class Terms(Fact, frozen=True, gc=False):
    """What was agreed in a buy, as far as a payment must know it. `payment_size_msat` None: variable mode (B-02)."""

    payment_size_msat: int | None
    min_fee_msat: int
    proportional: int
    min_payment_size_msat: int
    max_payment_size_msat: int
    max_client_to_self_delay_blocks: int
    cltv_expiry_delta_blocks: int
    valid_until_ms: int
    client_trusts_lsp: bool


class Forward(Fact, frozen=True, gc=False):
    """One part on its way out: `out_msat` to the client, `extra_fee_msat` kept (0: no TLV, H-09).

    `in_scid` is the name its channel had when it came; `in_channel`, the channel's id, never changes ("": not known).
    """

    in_scid: int
    htlc_id: int
    out_msat: int
    extra_fee_msat: int
    in_channel: str = ""

    @property
    def key(self) -> PartKey:
        """The part's name, as `IncomingHtlc.key` (C-03, rule:3, rule:25)."""
        return self.in_channel or self.in_scid, self.htlc_id


class Funding(Fact, frozen=True, gc=False):
    """Coins set aside for one channel (fact of `COINS_CHOSEN`). `inputs` are "txid:vout".

    The node reserves them only once the intent that names them is stored, and then at least to `reserved_to_block`.
    `channel_type`: the feature bits to ask for, for which the capacity was worked out (O-02). `batch`: the jit scids
    whose channels the same coins pay for, in one transaction; () where they pay for this channel alone.
    """

    psbt: str
    inputs: tuple[str, ...]
    reserved_to_block: int
    capacity_sat: int
    channel_type: tuple[int, ...] = (12, 46, 50)
    batch: tuple[int, ...] = ()


class ChannelLimits(Fact, frozen=True, gc=False):
    """What the client's side of the channel allows (fact of `READY`)."""

    htlc_minimum_msat: int
    spendable_msat: int
    max_in_flight_msat: int
    to_self_delay_blocks: int


class Channel(Fact, frozen=True, gc=False):
    """A channel that both sides have signed; `signed_psbt` needs only to be sent (O-21).

    `sisters`: the other channels that it funds, as (node id, channel id); `mining_sat`: this one's share of the
    miners' part, None where all of that is its own.
    """

    channel_id: str
    signed_psbt: str
    funding_txid: str
    sisters: tuple[tuple[str, str], ...] = ()
    mining_sat: int | None = None


class ExistingChannel(Fact, frozen=True, gc=False):
    """A channel of the client that carries a payment in place of a new one (fact of `CHANNEL_FOUND`).

    `fee_msat` is taken instead of the opening fee. While the payment is under way the channel takes no routing fee
    (rule:13); `fee_base_msat` and `fee_ppm` are what it took before, None where the operator's own fees are.
    """

    channel_id: str
    fee_msat: int
    fee_base_msat: int | None = None
    fee_ppm: int | None = None


class Opened(Fact, frozen=True, gc=False):
    """A channel was made (fact of `FUNDED`).

    `limits` are what is known right after the open, so that a channel which does not fit (O-05, O-06) is dropped before
    it is public; None: not looked at yet.
    """

    channel: Channel
    limits: ChannelLimits | None = None


class SessionRecord(Fact, frozen=True, gc=False):
    """What must survive a crash of one session. The store writes it beside the facts of the buy.

    At stage "channel" `forwards` say where each part will go once the funding is sent, if that was known (P16).
    `opening_fee_msat` is what this payment is to bring, or what is still owed where none is under way; `fee_paid_msat`
    is what has come for this jit scid so far.
    """

    stage: str  # "buy" (no session), "intent", "channel", "forwards", "paid"
    payment_hash: bytes | None
    attempts: int
    opening_fee_msat: int
    funding: Funding | None
    channel: Channel | None
    forwards: tuple[Forward, ...]
    preimage: bytes | None
    fee_paid_msat: int = 0
    existing: ExistingChannel | None = None  # the forwards go into this one, and there is no `channel`


class Persist(Action, frozen=True, gc=False):
    """Write the record, then answer `STORED` or, when it cannot be written, `STORE_FAILED`."""

    jit_scid: int
    payment_hash: bytes
    record: SessionRecord


class ReserveCoins(Action, frozen=True, gc=False):
    """Choose wallet coins for a channel that can carry `out_msat` in so many parts: `COINS_CHOSEN` or `OPEN_FAILED`.

    Nothing outlives a crash of this step (K-02). `may_reuse`: or find a channel that the client has, `CHANNEL_FOUND`.
    """

    jit_scid: int
    payment_hash: bytes
    out_msat: int
    parts: int
    may_reuse: bool = True


class OpenChannel(Action, frozen=True, gc=False):
    """Reserve the coins, open and sign, funding not yet sent: `FUNDED(Opened)` or `OPEN_FAILED(by_client)`.

    `COINS_CHOSEN(Funding)` once more: a coin was taken meanwhile, these were chosen instead and are to be journalled.
    """

    jit_scid: int
    payment_hash: bytes
    funding: Funding


class AwaitReady(Action, frozen=True, gc=False):
    """Set routing fees to zero and wait: `READY(ChannelLimits)`, `READY_TIMEOUT` or `CLOSED`.

    An `Undo` ends the watch. `was_there`: before this payment, so its operator may have set its fees.
    """

    jit_scid: int
    payment_hash: bytes
    channel_id: str
    was_there: bool = False


class PrepareChannel(Action, frozen=True, gc=False):
    """Set the routing fees of an existing channel to zero, and look once more whether it has room.

    `READY(ChannelLimits)`, or `READY_TIMEOUT` where it has none, or is gone.
    """

    jit_scid: int
    payment_hash: bytes
    existing: ExistingChannel


class LeaveChannel(Action, frozen=True, gc=False):
    """A payment is done with an existing channel: free its room and, once no other is under way, restore its fees.

    `zero_until_ms` as in `RestoreFees`: the channel may be promised at zero by another buy.
    """

    jit_scid: int
    payment_hash: bytes
    existing: ExistingChannel
    zero_until_ms: int = 0


class Broadcast(Action, frozen=True, gc=False):
    """Put the funding on chain, idempotent (rule:8): `FUNDING_BROADCAST`, `CLOSED(True)` (rule:23) or `SISTER_GONE`.

    Look the channel up before each try. Where lightningd has given it up before its funding was sent, send nothing and
    answer `CLOSED` with `never_sent` True. Otherwise try until the transaction is in the mempool or confirmed. Where it
    funds a channel besides that was given up, it is sent for none of them (trap:60): `SISTER_GONE`, and this channel is
    closed.
    """

    jit_scid: int
    payment_hash: bytes
    channel: Channel


class ForwardParts(Action, frozen=True, gc=False):
    """Answer the held hook calls of these parts with `continue` into this channel, all together (H-15)."""

    jit_scid: int
    payment_hash: bytes
    channel_id: str
    parts: tuple[Forward, ...]


class FailParts(Action, frozen=True, gc=False):
    """Answer the held hook calls of these parts with this failure message (hex)."""

    parts: tuple[PartKey, ...]
    failure: str


class Undo(Action, frozen=True, gc=False):
    """Cancel a half-made open, close the channel if there is one, release the coins: `UNDONE`. Repeatable (O-20)."""

    jit_scid: int
    payment_hash: bytes
    channel: Channel | None
    funding: Funding | None


class RenewInputs(Action, frozen=True, gc=False):
    """Extend the reservation of a withheld channel's coins (O-04, trap:8)."""

    jit_scid: int
    payment_hash: bytes
    funding: Funding


class CloseChannel(Action, frozen=True, gc=False):
    """Close an unpaid public channel that cannot carry its payment (A-07, people:L9); try until it is closing.

    lightningd's word that it is closing (`Sessions.channel_closed`) lets the buy open another.
    """

    jit_scid: int
    channel_id: str


class ConnectPeer(Action, frozen=True, gc=False):
    """Try to reach the client; it decides nothing if that fails (C-13)."""

    peer_id: str


class Finalize(Action, frozen=True, gc=False):
    """The buy is over: write the final record, then delete the active one (K-15). `outcome`: one of OUTCOMES."""

    jit_scid: int
    record: SessionRecord
    outcome: str


class Reset(Action, frozen=True, gc=False):
    """A payment is over and the buy stands: the active record becomes that of a buy without a payment (rule:6).

    `outcome` says how the payment ended; after `Underpaid` the record names what is still owed.
    """

    jit_scid: int
    record: SessionRecord
    outcome: str = FAILED


class ForgetBuy(Action, frozen=True, gc=False):
    """This jit scid is no longer ours: take it from the live set and the journal. `outcome`: one of OUTCOMES."""

    jit_scid: int
    outcome: str


class RestoreFees(Action, frozen=True, gc=False):
    """The session is over: give the channel the operator's routing fees (rule:13).

    Until `zero_until_ms` (UTC) forwards over the jit scid still come with a fee of zero (A-03) and must pass: that is
    `enforcedelay` of setchannel. 0: nothing was promised. `rates`: base in msat and ppm, None for the operator's own.
    """

    channel_id: str
    zero_until_ms: int = 0
    rates: tuple[int, int] | None = None


class Alarm(Action, frozen=True, gc=False):
    """Something an operator must know, in one sentence."""

    text: str
