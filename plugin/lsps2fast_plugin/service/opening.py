"""Opens one channel at lightningd, its funding withheld, and ends an open that does not become a channel.

A refused or failed `fundchannel_start` has ended the open: nothing is left to cancel. `fundchannel_cancel` without an
open under way takes the first channel of the peer that awaits lock-in, of any opener (cln:N1), so it is called
only while lightningd lists an open of ours and no channel of that peer that it could take instead (rule:26). A peer
that keeps silent inside the open is disconnected (people:S13): `openingd` listens to the peer and hears no cancel.

Nothing is decided here: every function either returns what came out or raises one of the errors below, and may be
called again. What a call that got no answer has done is found out by looking (K-13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from lsps2fast.actions import Channel, ChannelLimits, Funding, Opened
from lsps2fast.errors import AnswerPending, Lsps2Error, NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import number, text
from lsps2fast_plugin.cln.channel_types import named, opened_instead
from lsps2fast_plugin.cln.late_replies import Late
from lsps2fast_plugin.cln.models import (
    OpenAttempt,
    PeerChannel,
    find_channel,
    list_peer_channels,
    open_attempts,
    peer_channels,
)
from lsps2fast_plugin.cln.psbt import inputs_of
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coins import CoinTaken, NotReserved
from lsps2fast_plugin.service.funding import JIT_TERMS, ChannelGone, OpenTerms, limits_of

SILENCE_S: Final = 30.0  # for one answer of the peer inside an open (K-22)
UNDO_TIMEOUT_S: Final = 10.0  # for a call that ends an open
CANCEL_ANSWERED: Final = (306, 307, 308)  # no such peer, nothing to cancel, not safe: asking again changes nothing
UNCOMMITTED: Final = "OPENINGD"
AWAITING_LOCKIN: Final = ("CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN")
NO_SUCH_TYPE: Final = "channel_type not supported"  # of our lightningd (cln:O15)
NOT_TO_BE_TAKEN: Final = (  # how lightningd begins to say that no channel can be made of the client's answer (cln:O19)
    "Return unoffered channel_type",
    "accept_channel without a channel_type",
    "dust limit ",
    "to_self_delay ",
    "channel_reserve_satoshis ",
    "cannot add anchors to reserve ",
    "htlc_minimum_msat ",
    "channel capacity with funding ",
    "channel funding ",
    "max_accepted_htlcs ",
)


T = TypeVar("T")
U = TypeVar("U")


class TypeNotOpened(Lsps2Error):
    """lightningd opens no channel of this type; it may open one of another."""


class RefusedByClient(Lsps2Error):
    """The client wants no such channel (O-08); `at_once`: it said so to the first message, which names the type."""

    def __init__(self, text: str, *, at_once: bool) -> None:
        super().__init__(text)
        self.at_once = at_once


def funding_txid(channel_id: str, outnum: int) -> str:
    """Return the funding txid of a v1 channel id, which is txid XOR output index (BOLT 2), as people write txids."""
    raw = bytearray.fromhex(channel_id)
    raw[30] ^= outnum >> 8
    raw[31] ^= outnum & 0xFF
    return raw[::-1].hex()


def is_funded_by(channel: PeerChannel, funding: Funding) -> bool:
    """Return whether this is a withheld channel that spends these coins, and so is ours."""
    if not channel.is_withheld or not channel.is_ours:
        return False
    try:
        return set(inputs_of(channel.funding.psbt or "")) == set(funding.inputs)
    except ValueError:
        return False


class Opener:
    """Opens channels at one lightningd. One open at a time with a peer: the caller sees to that (O-19)."""

    def __init__(self, rpc: Rpc, zero_reserve: Callable[[str], bool]) -> None:
        """`zero_reserve(peer_id)`: ask this peer for no reserve of ours (O-18, opt-in)."""
        self._rpc = rpc
        self._zero_reserve = zero_reserve

    async def open(
        self,
        peer_id: str,
        funding: Funding,
        reserved: Awaitable[None],
        late: Late | None = None,
        *,
        look: bool = True,
        terms: OpenTerms = JIT_TERMS,
        address: str | None = None,
    ) -> Opened:
        """Negotiate, sign and complete; the funding is withheld until it is sent.

        `address`: what a `start` of this very channel has returned.

        `reserved` is done once the coins are reserved: nothing is signed before. `look`: also return what the channel
        allows, if lightningd knows (O-05), for its funding is sent before it is usable. `late` is called when a step
        that was given up has been carried out after all (see `Rpc.call`).
        Raises RefusedByClient, TypeNotOpened, ChannelGone (signed by the client and gone again), NodeError, or what
        `reserved` raises. Then no open of ours is under way any more, unless lightningd answers nothing at all.
        """
        work = self._negotiate(peer_id, funding, reserved, late, terms, address)
        channel = await self._or_ended(peer_id, funding, work)
        return Opened(channel, await self.first_limits(peer_id, channel.channel_id) if look else None)

    async def start(self, peer_id: str, funding: Funding, late: Late | None = None) -> str:
        """Propose one channel of several that share a transaction; return the address of its output. As `open`."""
        return await self._or_ended(peer_id, funding, self._start(peer_id, funding, late, SILENCE_S, JIT_TERMS))

    async def complete(
        self, peer_id: str, funding: Funding, psbt: str, late: Late | None = None, silence_s: float = SILENCE_S
    ) -> str:
        """Have one of them signed by its client, its funding withheld; return the channel's id. Raises as `open`."""
        return await self._or_ended(peer_id, funding, self._complete(peer_id, psbt, late, silence_s))

    async def _or_ended(self, peer_id: str, funding: Funding, work: Awaitable[T]) -> T:
        """Return what comes of a step of an open; where it fails no open is under way any more."""
        try:
            return await work
        except AnswerPending:  # of the two calls that wait for the peer, or of a signer that sleeps
            await self.hang_up(peer_id)
            raise
        except (TypeNotOpened, CoinTaken, NotReserved):
            await self.end(peer_id, funding)
            raise
        except NodeError as error:
            at_once = error.method == "fundchannel_start"
            if error.message.startswith("They sent ") or (at_once and error.message.startswith(NOT_TO_BE_TAKEN)):
                raise RefusedByClient(error.message, at_once=at_once) from error
            if at_once and error.message.startswith(NO_SUCH_TYPE):
                raise TypeNotOpened(error.message) from error
            await self.end(peer_id, funding)
            raise

    async def _start(
        self, peer_id: str, funding: Funding, late: Late | None, silence_s: float, terms: OpenTerms
    ) -> str:
        start: dict[str, Any] = {
            "id": peer_id,
            "amount": funding.capacity_sat,
            "mindepth": terms.mindepth,
            "channel_type": list(funding.channel_type),
            "announce": terms.announce,
        }
        if self._zero_reserve(peer_id):
            start["reserve"] = 0
        started = await self._rpc.call("fundchannel_start", start, silence_s, late)
        if (other := opened_instead(started, funding.channel_type)) is not None:
            raise TypeNotOpened(f"lightningd asked for {named(other)} in its place")  # for which this is not the size
        return text(started, "fundchannel_start", "funding_address")

    async def _complete(self, peer_id: str, psbt: str, late: Late | None, silence_s: float) -> str:
        complete = {"id": peer_id, "psbt": psbt, "withhold": True}
        completed = await self._rpc.call("fundchannel_complete", complete, silence_s, late)
        return text(completed, "fundchannel_complete", "channel_id")

    async def add_output(self, psbt: str, amount_sat: int, address: str) -> tuple[str, int]:
        """Add the output of a channel; return the PSBT, and the place of the output. Raises NodeError."""
        output = {"satoshi": amount_sat, "initialpsbt": psbt, "destination": address}
        added = await self._rpc.call("addpsbtoutput", output)
        return text(added, "addpsbtoutput", "psbt"), number(added, "addpsbtoutput", "outnum")

    async def sign(self, psbt: str) -> str:
        """Return the PSBT with our signatures. Raises NodeError."""
        return text(await self._rpc.call("signpsbt", {"psbt": psbt}), "signpsbt", "signed_psbt")

    async def _negotiate(
        self,
        peer_id: str,
        funding: Funding,
        reserved: Awaitable[None],
        late: Late | None,
        terms: OpenTerms,
        address: str | None,
    ) -> Channel:
        if address is None:
            _, place = await _both(reserved, self._start(peer_id, funding, late, SILENCE_S, terms))
        else:
            await reserved
            place = address
        psbt, outnum = await self.add_output(funding.psbt, funding.capacity_sat, place)
        # A channel whose funding cannot be signed is withheld, and closed like any that an open has left behind (O-21).
        signed_psbt, channel_id = await _both(self.sign(psbt), self._complete(peer_id, psbt, late, SILENCE_S))
        return Channel(channel_id, signed_psbt, funding_txid(channel_id, outnum))

    async def first_limits(self, peer_id: str, channel_id: str) -> ChannelLimits | None:
        """Return what is known right after the open; None when lightningd does not say: it will be asked again.

        Raises ChannelGone when it says that there is no such channel any more (rule:23).
        """
        try:
            channel = await find_channel(self._rpc, channel_id, id=peer_id)
        except NodeError:
            return None
        if channel is None:
            raise ChannelGone(f"channel {channel_id} is gone as soon as it was signed")
        return limits_of(channel)

    # Ending an open --------------------------------------------------------------------------------

    async def end(self, peer_id: str, funding: Funding) -> None:
        """End the open of this channel if it is under way. Raises NodeUnreachable if lightningd does not answer."""
        answer = await self._rpc.call("listpeerchannels", {"id": peer_id})
        if not any(_is_this_open(attempt, funding) for attempt in open_attempts(answer)):
            return
        if any(
            channel.state in AWAITING_LOCKIN for channel in peer_channels(answer)
        ):  # a cancel that comes too late would take it (cln:N1)
            await self.hang_up(peer_id)
            return
        try:
            await self._rpc.call("fundchannel_cancel", {"id": peer_id}, UNDO_TIMEOUT_S)
        except NodeUnreachable:
            await self.hang_up(peer_id)
        except NodeError as error:
            if error.code not in CANCEL_ANSWERED:
                await self.hang_up(peer_id)
                return
            answer = await self._rpc.call("listpeerchannels", {"id": peer_id})
            if any(_is_this_open(attempt, funding) for attempt in open_attempts(answer)):
                await self.hang_up(peer_id)  # it waits for the peer's first answer: not to be cancelled yet

    async def hang_up(self, peer_id: str) -> None:
        """Disconnect the peer: that ends the open, and other channels live on. Raises NodeUnreachable."""
        try:
            await self._rpc.call("disconnect", {"id": peer_id, "force": True}, UNDO_TIMEOUT_S)
        except NodeUnreachable:
            raise
        except NodeError:
            pass  # it is not connected

    async def made_of(self, peer_id: str, funding: Funding) -> list[PeerChannel]:
        """Return withheld channels that spend these coins: a call whose answer was lost made them. Raises NodeError."""
        channels = await list_peer_channels(self._rpc, id=peer_id)
        return [channel for channel in channels if is_funded_by(channel, funding)]


async def _both(ours: Awaitable[T], peers: Awaitable[U]) -> tuple[T, U]:
    """Return what comes of two calls that are made in this order, once both are answered (P17).

    Raises what the second raises, which waits for the peer, else what the first does: what both have done is known.
    """
    done = await asyncio.gather(ours, peers, return_exceptions=True)
    if isinstance(done[1], BaseException):
        raise done[1]
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0], done[1]


def _is_this_open(attempt: OpenAttempt, funding: Funding) -> bool:
    ours = attempt.state == UNCOMMITTED and attempt.is_ours
    return ours and attempt.total_msat == funding.capacity_sat * 1000
