"""Puts fundings on chain, and only those of channels that lightningd still has (rule:23).

lightningd deletes a withheld channel the moment its peer sends an error or the channel is closed, and frees the coins
of its funding (cln:N2). A funding sent after that pays an output that no channel owns. Nothing in lightningd
prevents it: `reserveinputs`, `signpsbt` and `sendpsbt` know coins, not channels.

So the order is always: the coins are reserved, *then* the channel is looked up, *then* the funding is sent, *then* the
channel is looked up again. The second look is asked for while the sending goes on: a channel that is not withheld any
more shows that it has begun. Once `sendpsbt` has begun, lightningd keeps the channel; one that went in the milliseconds
before has freed its coins, but `sendpsbt` does not ask for reservations (cln:O1). What went out so is taken back.
A funding is sent in one place, which asks for a `ProofOfLife`; only `Broadcaster.look` makes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from msgspec.structs import replace

from lsps2fast.actions import Channel, Funding
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.answers import text
from lsps2fast_plugin.cln.late_replies import Late
from lsps2fast_plugin.cln.models import ClosedChannel, PeerChannel, find_channel, find_closed_channel
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coins import RESERVE_BLOCKS, Coins
from lsps2fast_plugin.service.funding import ChannelGone, FundingTakenBack, holds_money_of_client
from lsps2fast_plugin.service.stray_fundings import StrayFundings

NOT_RESERVED: Final = "is not reserved"  # of signpsbt (cln:O1)
NOT_SIGNED: Final = "PSBT not finalizeable"
KNOWN_TO_BITCOIND: Final = (
    "already in utxo set",
    "already in block chain",
    "txn-already-in-mempool",
    "txn-already-known",
)
AHEAD_MS: Final = 500  # so long before its funding is sent a channel may have been looked up
ROUNDS: Final = 4  # look and send; reserve again, look and send; sign, look and send; once more
MOST_GIVEN_UP: Final = 10_000  # fundings that are remembered
_SEAL: Final = object()


class NeverFunded(ChannelGone):
    """lightningd says positively that the channel was given up before its funding was sent."""


class SisterGone(ChannelGone):
    """A channel that the same transaction funds was given up before that was sent: it is sent for none (trap:60)."""


class ProofOfLife:
    """A moment ago lightningd had this channel. Made by `Broadcaster.look` alone."""

    __slots__ = ("channel_id", "is_on_chain", "is_withheld")

    def __init__(self, seal: object, channel_id: str, is_on_chain: bool, is_withheld: bool = False) -> None:
        """`is_on_chain`: a block has its funding, or it was closed after that was sent: nothing is left to do.

        `is_withheld`: lightningd has not begun to send it.
        """
        if seal is not _SEAL:
            raise TypeError("a proof of life comes from Broadcaster.look")
        self.channel_id = channel_id
        self.is_on_chain = is_on_chain
        self.is_withheld = is_withheld


class _Ahead(NamedTuple):
    """A look that was asked for ahead, and when."""

    asked_ms: int
    look: asyncio.Task[ProofOfLife]


class Broadcaster:
    """Sends fundings and keeps their coins reserved."""

    def __init__(self, rpc: Rpc, coins: Coins, alarm: Callable[[str], None], now_ms: Callable[[], int]) -> None:
        """`alarm(text)` hears of a funding that went out for a channel that had gone."""
        self._rpc = rpc
        self._coins = coins
        self._now_ms = now_ms
        self._alarm = alarm
        self._ahead: dict[str, _Ahead] = {}  # by channel id
        self._strays = StrayFundings(rpc, alarm)
        self._tried: set[str] = set()  # channel ids: perhaps sent, and not looked at since
        self._taken_back: set[str] = set()  # txids of fundings of several channels
        self._given_up: dict[str, None] = {}  # likewise, oldest first: sent for none of them
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reserved_again: dict[str, str] = {}  # channel id: PSBT whose coins we reserved here

    def _alone(self, name: str) -> asyncio.Lock:
        """Return the lock under which coins of this channel are reserved or its funding is sent, or taken back."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def look(self, peer_id: str, channel_id: str) -> ProofOfLife:
        """Ask lightningd for this channel.

        Raises ChannelGone if it was deleted, is unknown, or is being closed before its funding was sent and before the
        client had money in it; NodeError if lightningd does not say.
        """
        channel = await find_channel(self._rpc, channel_id, id=peer_id)
        if channel is not None:
            if channel.is_withheld and not channel.is_alive and not holds_money_of_client(channel):
                raise NeverFunded(f"channel {channel_id} is {channel.state}, its funding was not sent")
            is_on_chain = not channel.is_withheld and channel.is_confirmed
            return ProofOfLife(_SEAL, channel_id, is_on_chain, channel.is_withheld)
        closed = await find_closed_channel(self._rpc, channel_id, id=peer_id)
        if closed is None:
            raise ChannelGone(f"lightningd knows no channel {channel_id}")
        if _was_never_sent(closed):
            why = NeverFunded if closed.funding_withheld else ChannelGone
            raise why(f"channel {channel_id} was deleted before its funding was sent")
        return ProofOfLife(_SEAL, channel_id, True)

    async def _look_at_all(self, peer_id: str, channel: Channel) -> ProofOfLife:
        """Ask for this channel, and for those that the same transaction funds (rule:23, trap:60).

        Raises as `look`, and SisterGone if one of the others was given up before that was sent. One that lightningd
        does not know at all keeps a funding from being sent that was not; once it was, it says nothing.
        """
        if not channel.sisters:
            return await self.look(peer_id, channel.channel_id)
        sisters = (self.look(*sister) for sister in channel.sisters)
        own, *others = await asyncio.gather(self.look(peer_id, channel.channel_id), *sisters, return_exceptions=True)
        if isinstance(own, BaseException):
            raise own
        if own.is_on_chain:
            return own
        if channel.funding_txid in self._given_up:  # they are being closed, and may be there yet
            raise SisterGone(f"the funding {channel.funding_txid} is given up")
        for other in others:
            if isinstance(other, NeverFunded) or (isinstance(other, ChannelGone) and own.is_withheld):
                raise SisterGone(str(other)) from other
            if isinstance(other, BaseException) and not isinstance(other, ChannelGone):
                raise other
        return own

    def give_up(self, funding_txid: str) -> None:
        """Send this funding for none of its channels from now on: they are about to be closed (trap:60)."""
        self._given_up[funding_txid] = None
        if len(self._given_up) > MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def look_ahead(self, peer_id: str, channel_id: str) -> None:
        """Ask for a channel whose funding is about to be sent; the record that comes first is being written (P17)."""
        now_ms = self._now_ms()
        self._ahead = {name: each for name, each in self._ahead.items() if now_ms - each.asked_ms < AHEAD_MS}
        look = asyncio.ensure_future(self.look(peer_id, channel_id))
        look.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come to no sending
        self._ahead[channel_id] = _Ahead(now_ms, look)

    async def _look_now(self, peer_id: str, channel: Channel) -> ProofOfLife:
        """Look right before a sending, unless that has just been done. Raises as `look`."""
        ahead = self._ahead.pop(channel.channel_id, None)
        if ahead is not None and self._now_ms() - ahead.asked_ms < AHEAD_MS:
            return await ahead.look
        return await self._look_at_all(peer_id, channel)

    async def send_if_lost(self, peer_id: str, channel: Channel) -> bool:
        """Send a funding that had a block again if bitcoind has it no more; return whether it was so.

        lightningd goes on naming the block that a reorg has taken it out of. Raises as `send`.
        """
        if await self._strays.is_out(channel):
            return False
        await self._send_alone(peer_id, channel, lost=True)
        return True

    async def send(self, peer_id: str, channel: Channel) -> str:
        """Put the funding on chain and return its txid. May be repeated.

        lightningd clears `withheld` before it asks bitcoind, and never asks again for a zero-conf channel. So that flag
        proves nothing: only a good answer does, bitcoind's word that it has it already (cln:O6), or a confirmation.
        Raises ChannelGone if nothing may be sent any more (FundingTakenBack if it was sent too late), NodeError as long
        as bitcoind does not have it.
        """
        return await self._send_alone(peer_id, channel, lost=False)

    async def _send_alone(self, peer_id: str, channel: Channel, *, lost: bool) -> str:
        async with self._alone(channel.channel_id):
            try:
                txid = await self._send(peer_id, channel, lost)
            except ChannelGone as gone:
                if await self._take_back(peer_id, channel, gone):
                    raise FundingTakenBack(f"{gone}; it had been sent") from gone
                await self._give_back(channel.channel_id)
                raise
            self._tried.discard(channel.channel_id)
            return txid

    async def take_back(self, peer_id: str, channel: Channel) -> bool:
        """Take the funding of a channel that is gone back, if it went out all the same; return whether it had.

        Raises NodeError.
        """
        async with self._alone(channel.channel_id):
            try:
                await self._look_at_all(peer_id, channel)
            except ChannelGone as gone:
                return await self._take_back(peer_id, channel, gone)
            return False

    async def _take_back(self, peer_id: str, channel: Channel, gone: ChannelGone) -> bool:
        async with self._alone(f"funding {channel.funding_txid}"):  # its sisters ask for the same, perhaps now
            return channel.funding_txid in self._taken_back or await self._take_back_first(peer_id, channel, gone)

    async def _take_back_first(self, peer_id: str, channel: Channel, gone: ChannelGone) -> bool:
        if channel.channel_id not in self._tried and not await self._strays.is_out(channel):
            return False
        if channel.sisters and not await self._may_be_taken_back(peer_id, channel, gone):
            return False
        await self._strays.take_back(peer_id, channel, gone)
        if channel.sisters:
            self._taken_back.add(channel.funding_txid)
        self._tried.discard(channel.channel_id)
        self._reserved_again.pop(channel.channel_id, None)
        return True

    async def _may_be_taken_back(self, peer_id: str, channel: Channel, gone: ChannelGone) -> bool:
        """Return whether nothing has gone into any channel that this transaction funds. Raises NodeError.

        Parts go out once a look at all of them has shown that none was given up before; so after such a word
        of lightningd there are none. It is asked all the same: to take back what a client was paid is theft.
        """
        if not isinstance(gone, (NeverFunded, SisterGone)):
            return False
        rows = await asyncio.gather(
            *(
                find_channel(self._rpc, each, id=peer)
                for peer, each in ((peer_id, channel.channel_id), *channel.sisters)
            )
        )
        used = [row.channel_id for row in rows if row is not None and (row.htlcs or holds_money_of_client(row))]
        if used:
            self._alarm(f"funding {channel.funding_txid} also pays a channel that is gone; {', '.join(used)} need it")
        return not used

    async def _send(self, peer_id: str, channel: Channel, lost: bool) -> str:
        psbt = channel.signed_psbt
        for left in reversed(range(ROUNDS)):
            life = await self._look_now(peer_id, channel)
            if life.is_on_chain and not lost:
                break
            sent, after = await asyncio.gather(
                self._put_on_chain(life, psbt), self._look_at_all(peer_id, channel), return_exceptions=True
            )
            if isinstance(sent, NodeError):
                if not any(words in sent.message for words in KNOWN_TO_BITCOIND):
                    if not left:
                        raise sent
                    psbt = await self._mend(sent, life, psbt)
                    continue
            elif isinstance(sent, BaseException):
                raise sent
            if not isinstance(after, ProofOfLife) or after.is_withheld:  # asked before lightningd had begun to send
                await self._look_at_all(peer_id, channel)  # it may have gone before that
            return sent if isinstance(sent, str) else channel.funding_txid
        return channel.funding_txid

    async def _put_on_chain(self, life: ProofOfLife, psbt: str) -> str:
        """Call `sendpsbt`. The proof must be of the look before."""
        if not isinstance(life, ProofOfLife):
            raise TypeError("no funding is sent without a proof that its channel lives")
        self._tried.add(life.channel_id)
        return text(await self._rpc.call("sendpsbt", {"psbt": psbt}), "sendpsbt", "txid")

    async def _mend(self, error: NodeError, life: ProofOfLife, psbt: str) -> str:
        """Do what `sendpsbt` says is missing and return the PSBT to send; the channel must be looked up again."""
        try:
            if NOT_SIGNED in error.message:  # the built-in plugin journals what it has not signed yet
                self._tried.discard(life.channel_id)
                return text(await self._rpc.call("signpsbt", {"psbt": psbt}), "signpsbt", "signed_psbt")
            raise error
        except NodeError as cause:
            if NOT_RESERVED not in cause.message:
                raise
        # trap:8: their time was over, or lightningd freed them with the channel: the look that follows says which.
        again = {"psbt": psbt, "exclusive": True, "reserve": RESERVE_BLOCKS}
        await self._rpc.call("reserveinputs", again, late=partial(self._note_reserved, life.channel_id, psbt))
        self._note_reserved(life.channel_id, psbt)
        return psbt

    def _note_reserved(self, channel_id: str, psbt: str) -> None:
        self._reserved_again[channel_id] = psbt

    async def _give_back(self, channel_id: str) -> None:
        """Free coins that were reserved here for a channel that is gone. Raises NodeError."""
        if psbt := self._reserved_again.get(channel_id):
            await self._rpc.call("unreserveinputs", {"psbt": psbt, "reserve": RESERVE_BLOCKS})
            del self._reserved_again[channel_id]

    async def send_as_found(self, peer_id: str, found: PeerChannel, known: Channel | None = None) -> Channel:
        """Put a channel's funding on chain from what lightningd itself keeps of it. Raises ChannelGone or NodeError.

        `known`: what the record says of it.
        """
        channel = Channel(found.channel_id, found.funding.psbt or "", found.funding_txid)
        if known is not None and known.channel_id == found.channel_id:
            channel = replace(channel, sisters=known.sisters, mining_sat=known.mining_sat)
        await self.send(peer_id, channel)
        return channel

    async def renew(
        self, jit_scid: int, funding: Funding, peer_id: str, channel_id: str | None, late: Late | None = None
    ) -> None:
        """Reserve the coins of this channel, or of one that is being opened, for longer.

        Raises ChannelGone or NodeError.
        """
        if channel_id is None:
            await self._coins.renew(jit_scid, funding, late)
            return
        async with self._alone(channel_id):
            if not (await self.look(peer_id, channel_id)).is_on_chain:
                await self._coins.renew(jit_scid, funding, late)


def _was_never_sent(closed: ClosedChannel) -> bool:
    """Return whether the funding of a closed channel was not sent by anyone."""
    withheld = closed.funding_withheld
    return not closed.is_confirmed if withheld is None else withheld
