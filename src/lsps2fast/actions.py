"""What the session machine orders: plain data, carried out by somebody who may touch the world.

Every order that cannot be taken back is only given after the machine was told `STORED`, so whoever carries them
out needs no order of its own among them. `jit_scid` and `payment_hash` name the session to which the result is fed.
"""

from __future__ import annotations

from typing import NamedTuple

TEMPORARY = "10070000"  # temporary_channel_failure, u16 length 0 of channel_update (BOLT 4; C-19)
UNKNOWN_NEXT_PEER = "400a"  # permanent (C-19): only where bLIP-52 demands it
FAILURE_NAMES = {  # by the code a failure message begins with: all that are ever sent, by an LSP or a wallet
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


class Terms(NamedTuple):
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


class Part(NamedTuple):
    """One HTLC of a payment as its session has it; `status` 0: held, 1: forwarded, 2: paid, 3: failed or lost."""

    in_scid: int
    htlc_id: int
    value_msat: int
    cltv_expiry: int
    taken_msat: int
    status: int

    @property
    def key(self) -> tuple[int, int]:
        """What lightningd calls it: incoming channel and number, nothing less (C-03, rule:3)."""
        return self.in_scid, self.htlc_id


class Forward(NamedTuple):
    """One part on its way out: `forward_msat` to the client, `extra_fee_msat` kept (0: no TLV, H-09)."""

    in_scid: int
    htlc_id: int
    forward_msat: int
    extra_fee_msat: int


class Funding(NamedTuple):
    """Coins set aside for one channel (fact of `RESERVED`). `inputs` are "txid:vout".

    The node reserves them only once the intent that names them is stored, and then at least to `reserved_to_block`.
    `channel_type`: the feature bits to ask for, for which the capacity was worked out (O-02).
    """

    psbt: str
    inputs: tuple[str, ...]
    reserved_to_block: int
    capacity_sat: int
    channel_type: tuple[int, ...] = (12, 46, 50)


class Limits(NamedTuple):
    """What the client's side of the channel allows (fact of `READY`)."""

    htlc_minimum_msat: int
    spendable_msat: int
    max_in_flight_msat: int
    to_self_delay_blocks: int


class Channel(NamedTuple):
    """A channel that both sides have signed (fact of `FUNDED`); `signed_psbt` needs only to be sent (O-21).

    `limits`, only in the fact: what is known right after the open, so that a channel which does not fit (O-05, O-06) is
    dropped before it is public. Records never hold it.
    """

    channel_id: str
    signed_psbt: str
    funding_txid: str
    limits: Limits | None = None


class Journal(NamedTuple):
    """What must survive a crash of one session. The store writes it beside the facts of the buy.

    At stage "channel" `forwards` say where each part will go once the funding is sent, if that was known (P16).
    """

    stage: str  # "buy" (no session), "intent", "channel", "forwards", "paid"
    payment_hash: bytes | None
    attempts: int
    opening_fee_msat: int
    funding: Funding | None
    channel: Channel | None
    forwards: tuple[Forward, ...]
    preimage: bytes | None


class Persist(NamedTuple):
    """Write the record, then answer `STORED` or, when it cannot be written, `UNSTORED`."""

    jit_scid: int
    payment_hash: bytes
    journal: Journal


class ReserveCoins(NamedTuple):
    """Set wallet coins aside for a channel that can carry these parts: `RESERVED(Funding)` or `REFUSED`.

    Nothing outlives a crash of this step (K-02).
    """

    jit_scid: int
    payment_hash: bytes
    sum_forward_msat: int
    parts: int


class OpenChannel(NamedTuple):
    """Reserve the coins, open and sign, funding not yet sent: `FUNDED(Channel)` or `REFUSED(by_client)`.

    `RESERVED(Funding)` once more: somebody else has taken a coin, these were chosen instead and are to be journalled.
    """

    jit_scid: int
    payment_hash: bytes
    funding: Funding


class AwaitReady(NamedTuple):
    """Set routing fees to zero and wait: `READY(Limits)`, `UNREADY` or `CLOSED`. An `Undo` ends the watch."""

    jit_scid: int
    payment_hash: bytes
    channel_id: str


class Broadcast(NamedTuple):
    """Put the funding on chain and try until it is in the mempool or confirmed: `SENT`. Idempotent (rule:8)."""

    jit_scid: int
    payment_hash: bytes
    channel: Channel


class ForwardParts(NamedTuple):
    """Answer the held hook calls of these parts with `continue` into this channel, all together (H-15)."""

    jit_scid: int
    payment_hash: bytes
    channel_id: str
    parts: tuple[Forward, ...]


class FailParts(NamedTuple):
    """Answer the held hook calls of these parts, each (in_scid, htlc_id), with this failure message (hex)."""

    parts: tuple[tuple[int, int], ...]
    failure: str


class Undo(NamedTuple):
    """Cancel a half-made open, close the channel if there is one, release the coins: `UNDONE`. Repeatable (O-20)."""

    jit_scid: int
    payment_hash: bytes
    channel: Channel | None
    funding: Funding | None


class RenewInputs(NamedTuple):
    """Extend the reservation of a withheld channel's coins (O-04, trap:8)."""

    jit_scid: int
    payment_hash: bytes
    funding: Funding


class ConnectPeer(NamedTuple):
    """Try to reach the client; it decides nothing if that fails (C-13)."""

    peer_id: str


class Finalize(NamedTuple):
    """The session is over: write the final record, then delete the active one (K-15). `outcome` as CLN names it."""

    jit_scid: int
    journal: Journal
    outcome: str


class Reset(NamedTuple):
    """The attempt is over and the offer stands: the active record becomes that of a plain buy again (rule:6)."""

    jit_scid: int
    journal: Journal


class ForgetBuy(NamedTuple):
    """This jit scid is no longer ours: take it from the live set and the journal. `outcome` as CLN names it."""

    jit_scid: int
    outcome: str


class RestoreFees(NamedTuple):
    """The session is over: give the channel the operator's routing fees (rule:13).

    Until `zero_until_ms` (UTC) forwards over the jit scid still come with a fee of zero (A-03) and must pass: that is
    `enforcedelay` of setchannel. 0: nobody was promised anything.
    """

    channel_id: str
    zero_until_ms: int = 0


class Alarm(NamedTuple):
    """Something an operator must know, in one sentence."""

    text: str


Action = (
    Persist
    | ReserveCoins
    | OpenChannel
    | AwaitReady
    | Broadcast
    | ForwardParts
    | FailParts
    | Undo
    | RenewInputs
    | ConnectPeer
    | Finalize
    | Reset
    | ForgetBuy
    | RestoreFees
    | Alarm
)
