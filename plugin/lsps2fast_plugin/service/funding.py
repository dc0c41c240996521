"""The RPC calls that make, watch and undo one channel, in order, each error told apart.

Nothing is decided here: every function either returns what came out or raises one of the errors below, and may be
called again. What a call that got no answer has done is found out by looking (K-13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from msgspec.structs import replace

from lsps2fast.actions import ChannelLimits, Funding
from lsps2fast.errors import Lsps2Error, NodeError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import min_capacity_sat
from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.channel_types import (
    ANCHORS,
    LARGE_CHANNELS,
    LARGEST_PLAIN_SAT,
    SCID_ALIAS,
    ZERO_CONF,
    OurNode,
    named,
    newer_types,
    offers,
)
from lsps2fast_plugin.cln.late_replies import Late
from lsps2fast_plugin.cln.models import PeerChannel, find_channel, list_configs, list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coin_table import Need
from lsps2fast_plugin.service.coins import Coins
from lsps2fast_plugin.service.forward_limits import Room
from lsps2fast_plugin.service.known_node import RENEW_MS, ClientFeatures, KnownFeerates
from lsps2fast_plugin.service.refused_types import RefusedTypes

OUTPUT_WEIGHT = 214  # transaction frame and one P2WSH output, in weight units
MORE_OUTPUT_WEIGHT = 172  # one more such output
CLOSE_TIMEOUT_S = 60.0
MOST_DELAY_S = 2**32 - 1
NO_BOUND_SAT = 10**12
DEFAULT_FEE_BASE_MSAT, DEFAULT_FEE_PPM = 1000, 10  # lightningd's own
HALF_CLOSED = ("CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE")  # lightningd died in the middle of our close


class ChannelGone(Lsps2Error):
    """lightningd says positively that the channel is closing or gone."""


class FundingTakenBack(ChannelGone):
    """The channel had gone when its funding was sent: the coins were spent again, to ourselves."""


class ChannelTooLarge(Lsps2Error):
    """The sum that arrived needs a larger channel than any that is opened (rule:18)."""


class NotForwardable(Lsps2Error):
    """lightningd would not forward these parts, whatever channel is made for them."""


class NoTypeLeft(Lsps2Error):
    """The client has refused every type of channel that may be asked for."""


class OpenTerms(NamedTuple):
    """How a channel is opened: JIT channels are used at once, and announced to no one."""

    mindepth: int = 0
    announce: bool = False

    def variant(self, channel_type: tuple[int, ...]) -> tuple[int, ...]:
        """Return a type of JIT channel without what these terms do not go with (BOLT 2)."""
        dropped = {SCID_ALIAS} if self.announce else set()
        if self.mindepth:
            dropped |= {SCID_ALIAS, ZERO_CONF}
        return tuple(bit for bit in channel_type if bit not in dropped)


JIT_TERMS: Final = OpenTerms()


class MustNotClose(Lsps2Error):
    """The channel has HTLCs that may still be paid (K-11)."""


class OwedToClient(Lsps2Error):
    """The channel that was to be dropped holds money of the client, or is public by now; `found` is its row."""

    def __init__(self, found: PeerChannel) -> None:
        super().__init__(f"channel {found.channel_id} may not be dropped: money has moved in it, or it is public")
        self.found = found


def money_of_client_msat(channel: PeerChannel) -> int:
    """Return what was paid through it: how much less than the whole we hold."""
    return channel.total_msat - channel.to_us_msat


def holds_money_of_client(channel: PeerChannel) -> bool:
    """Return whether something was paid through it."""
    return money_of_client_msat(channel) > 0


def limits_of(channel: PeerChannel) -> ChannelLimits:
    """Return what a channel says about HTLCs that we may send."""
    spendable_msat = channel.spendable_msat
    if spendable_msat == channel.maximum_htlc_out_msat:  # that of the largest HTLC, not of several together
        spendable_msat = channel.to_us_msat
    return ChannelLimits(
        channel.minimum_htlc_out_msat,
        spendable_msat,
        channel.their_max_htlc_value_in_flight_msat,
        channel.our_to_self_delay,
    )


class TypesLeft(NamedTuple):
    """Whether a client may be asked for another type of channel, and what is done about it."""

    other: bool
    sentence: str


class Plan(NamedTuple):
    """What channel is to be opened, at which feerate."""

    capacity_sat: int
    channel_type: tuple[int, ...]
    feerate_perkw: int


def need_of(plans: Collection[Plan]) -> Need:
    """Return what one transaction with an output for each of these channels needs."""
    return Need(
        sum(plan.capacity_sat for plan in plans),
        OUTPUT_WEIGHT + (len(plans) - 1) * MORE_OUTPUT_WEIGHT,
        max(plan.feerate_perkw for plan in plans),
        any(ANCHORS in plan.channel_type for plan in plans),
    )


class Funder:
    """Opens and undoes channels at one lightningd."""

    def __init__(
        self,
        rpc: Rpc,
        coins: Coins,
        known: KnownFeerates,
        zero_reserve: Callable[[str], bool],
        node: OurNode,
        largest_sat: Callable[[], int] = lambda: NO_BOUND_SAT,
        unforwardable: Callable[[int, Room], str | None] = lambda *_: None,
    ) -> None:
        """`zero_reserve(peer_id)`: ask him for no reserve of ours (O-18, opt-in); `node` may learn later what it is.

        `largest_sat()`: no channel is larger, whatever was paid. `unforwardable(jit_scid, room)`
        says why lightningd would not forward the parts of the payment under way into such a channel.
        """
        self._rpc = rpc
        self._coins = coins
        self._known = known
        self._clients = ClientFeatures(rpc)
        self.link_changed = self._clients.link_changed
        self._node = node
        self._zero_reserve = zero_reserve
        self._largest_sat = largest_sat
        self._unforwardable = unforwardable
        self.last_perkw: int | None = None  # what a funding transaction pays, as of the last choice of coins
        self._own_fees: dict[str, int] | None = None
        self._refused = RefusedTypes()

    async def choose(self, buy: Buy, out_msat: int, parts: int) -> Funding:
        """Choose coins for a channel that carries these parts, at least as large as was sold; nothing is reserved yet.

        Raises NotForwardable, ChannelTooLarge, NotEnoughCoins or NodeError.
        """
        plan = await self.plan(buy, out_msat, parts)
        funding = await self._coins.choose(buy.jit_scid, need_of([plan]))
        return replace(funding, channel_type=plan.channel_type)

    async def choose_for_all(self, plans: dict[int, Plan]) -> Funding:
        """Choose coins for several channels in one transaction; promised to all. NotEnoughCoins or NodeError."""
        batch = tuple(plans)
        return await self._coins.choose(batch[0], need_of(plans.values()), batch)

    async def psbt_again(self, batch: tuple[int, ...], inputs: tuple[str, ...], plans: Sequence[Plan]) -> str:
        """Return a PSBT of the same coins, which are promised to all of these, for other channels. Raises NodeError."""
        perkw = await self._perkw()
        now = [plan._replace(feerate_perkw=perkw.funding) for plan in plans]
        return await self._coins.again(batch, inputs, need_of(now))

    async def plan(self, buy: Buy, out_msat: int, parts: int) -> Plan:
        """Return what channel carries these parts, at least as large as was sold.

        Of the types that the client may take, the best that it has not refused. Raises NotForwardable, ChannelTooLarge
        or NodeError.
        """
        features, perkw = await self._clients.of(buy.peer_id), await self._perkw()  # mostly known, as the coins (P17)
        types = self._node.channel_types(features)
        channel_type = self._refused.left(buy.peer_id, types) or types[0]
        feerate = self._node.commitment_rates(perkw).of(channel_type)
        refused_anchors = ANCHORS in types[0] and ANCHORS not in channel_type
        if (why := self._unforwardable(buy.jit_scid, Room(channel_type, feerate, refused_anchors))) is not None:
            raise NotForwardable(why)
        anchors = ANCHORS in channel_type
        needed = min_capacity_sat(out_msat, parts, feerate, anchors, self._zero_reserve(buy.peer_id), 546)
        capacity_sat = max(needed, buy.capacity_sat)
        if capacity_sat > (most_sat := self._largest_sat()):
            raise ChannelTooLarge(f"the payment needs a channel of {capacity_sat} sat, {most_sat} sat is the largest")
        if features is not None and not offers(features, LARGE_CHANNELS):  # lightningd would refuse (300)
            if needed > LARGEST_PLAIN_SAT:
                raise ChannelTooLarge(
                    f"the payment needs a channel of {needed} sat, and the client takes no large ones"
                )
            capacity_sat = min(capacity_sat, LARGEST_PLAIN_SAT)
        return Plan(capacity_sat, channel_type, perkw.funding)

    async def choose_ordered(
        self, key: int, peer_id: str, capacity_sat: int, terms: OpenTerms, tried: Container[tuple[int, ...]]
    ) -> Funding:
        """Choose coins for a channel of this size that a client has ordered, of the best type that was not `tried`.

        Raises ChannelTooLarge, NoTypeLeft, NotEnoughCoins or NodeError.
        """
        features, perkw = await self._clients.of(peer_id), await self._perkw()
        types = [terms.variant(each) for each in self._node.channel_types(features)]
        channel_type = next((each for each in types if each not in tried), None)
        if channel_type is None:
            raise NoTypeLeft("the client takes no type of channel that lightningd opens")
        if capacity_sat > LARGEST_PLAIN_SAT and features is not None and not offers(features, LARGE_CHANNELS):
            raise ChannelTooLarge(f"{capacity_sat} sat were ordered, and the client takes no large channels")
        need = Need(capacity_sat, OUTPUT_WEIGHT, perkw.funding, ANCHORS in channel_type)
        funding = await self._coins.choose(key, need)
        return replace(funding, channel_type=channel_type)

    async def refused(self, peer_id: str, channel_type: tuple[int, ...]) -> TypesLeft:
        """Remember that the client refused this type of channel; return what is left to ask for. Raises NodeError."""
        features = await self._clients.of(peer_id)
        self._refused.add(peer_id, channel_type)
        other = self._refused.left(peer_id, self._node.channel_types(features))
        if other is not None:
            return TypesLeft(True, f"asking for {named(other)}")
        self._refused.forget(peer_id)
        newer = newer_types(features or "")
        also = f"; it also offers {' and '.join(newer)}, which lightningd cannot open" if newer else ""
        return TypesLeft(False, f"no other type is left{also}")

    async def choose_again(self, jit_scid: int, funding: Funding) -> Funding:
        """Choose other coins for the same channel, for one of these was taken. Raises NotEnoughCoins or NodeError."""
        perkw = await self._perkw()
        plan = Plan(funding.capacity_sat, funding.channel_type, perkw.funding)
        other = await self._coins.choose(jit_scid, need_of([plan]))
        return replace(other, channel_type=funding.channel_type)

    async def prepare(self, peer_id: str) -> None:
        """Ask ahead for what `choose` goes by, where it is not known; an error is one of the sale itself."""
        with suppress(NodeError):
            await self._clients.of(peer_id)
            await self._known.perkw()
            await self._coins.known()
            await self.own_fees()

    async def keep_known(self) -> None:
        """Ask again for what is old by now, so that a sale finds it known; an error is no matter."""
        with suppress(NodeError):
            await asyncio.gather(self._known.perkw(RENEW_MS), self._coins.known(RENEW_MS))

    async def _perkw(self) -> PerKw:
        """Return lightningd's fee rates. Raises NodeError."""
        perkw = await self._known.perkw()
        self.last_perkw = perkw.funding
        return perkw

    async def reserve(self, jit_scid: int, funding: Funding, late: Late) -> None:
        """Reserve the coins that were chosen and journalled. Raises CoinTaken or NotReserved. `late`: as in `open`."""
        await self._coins.reserve(jit_scid, funding, late)

    async def release(self, jit_scid: int, funding: Funding, late: Late | None = None) -> None:
        """Give the coins back; free already is fine (cln:A2). Raises NodeError."""
        await self._coins.release(jit_scid, funding, late)

    async def keep(self, funding: Funding) -> None:
        """Reserve coins of a batch again that lightningd freed with one of its channels. Raises NodeError."""
        await self._coins.keep(funding)

    def standing(self, funding: Funding) -> dict[int, Funding]:
        """Return the reservations that stand now on any of these coins, by jit scid."""
        return self._coins.standing(funding)

    def reserved_by(self, jit_scid: int) -> list[Funding]:
        """Return the reservation that stands for this scid, if there is one."""
        return self._coins.reserved_by(jit_scid)

    def is_promised(self, funding: Funding) -> bool:
        """Return whether any of these coins is set aside."""
        return self._coins.is_promised(funding)

    def promise(self, jit_scid: int, inputs: Iterable[str]) -> None:
        """Promise coins that stand in a record, after a start."""
        self._coins.promise(jit_scid, inputs)

    def forget(self, jit_scid: int) -> None:
        """Promise the coins of this scid no longer: they are given back."""
        self._coins.forget(jit_scid)

    def part(self, jit_scid: int, funding: Funding) -> None:
        """Leave coins of a batch to its others."""
        self._coins.part(jit_scid, funding)

    def spent(self, jit_scid: int) -> None:
        """Promise the coins of this scid no longer: they are spent."""
        self._coins.spent(jit_scid)

    async def find(self, peer_id: str, channel_id: str) -> PeerChannel | None:
        """Return lightningd's view of this channel, or None when it says there is none. Raises NodeError."""
        return await find_channel(self._rpc, channel_id, id=peer_id)

    async def channels(self) -> list[PeerChannel]:
        """Return all channels that lightningd lists. Raises NodeError."""
        return await list_peer_channels(self._rpc)

    async def living(self, peer_id: str, channel_id: str) -> PeerChannel:
        """Return a channel that is there, usable or not yet. Raises ChannelGone or NodeError."""
        channel = await self.find(peer_id, channel_id)
        if channel is None or not channel.is_alive:
            raise ChannelGone(f"channel {channel_id} is {'gone' if channel is None else channel.state}")
        return channel

    async def room(self, channel: PeerChannel, known: Room | None) -> Room:
        """Return what a channel that is there is, for the parts that go out into it. Raises NodeError.

        Whether its client refused anchors is asked for unless it is `known`.
        """
        bits = channel.channel_type.bits
        if known is None:
            types = self._node.channel_types(await self._clients.of(channel.peer_id))
            return Room(bits, channel.feerate.perkw, ANCHORS in types[0] and ANCHORS not in bits)
        return known._replace(channel_type=bits, feerate_perkw=channel.feerate.perkw) if bits else known

    async def zero_fees(self, channel_id: str, late: Late | None = None) -> None:
        """Take no routing fee on this channel from now on (rule:13)."""
        params = {"id": channel_id, "feebase": 0, "feeppm": 0, "enforcedelay": 0}
        await self._rpc.call("setchannel", params, late=late)

    async def own_fees(self) -> dict[str, int]:
        """Return the operator's configured routing fees, as `setchannel` takes them. Raises NodeError.

        lightningd reads them when it starts, and never again: so it is asked once.
        """
        if self._own_fees is None:
            configs = await list_configs(self._rpc)
            self._own_fees = {
                "feebase": configs.number("fee-base", DEFAULT_FEE_BASE_MSAT),
                "feeppm": configs.number("fee-per-satoshi", DEFAULT_FEE_PPM),
            }
        return self._own_fees

    async def set_fees(self, channel_id: str, fees: dict[str, int], grace_s: int, late: Late | None = None) -> None:
        """Set these fees; for `grace_s` more forwards at the rate before still pass (A-03).

        They must be named: what setchannel is not given it leaves as it is.
        """
        params = {"id": channel_id, **fees, "enforcedelay": min(grace_s, MOST_DELAY_S)}
        await self._rpc.call("setchannel", params, late=late)

    async def is_open(self, channel_id: str) -> bool:
        """Return whether a channel of this id can carry anything now or soon. Raises NodeError."""
        channel = await find_channel(self._rpc, channel_id)
        return channel is not None and channel.is_alive

    async def close(self, peer_id: str, channel_id: str) -> bool:
        """Drop a withheld channel (cln:A1); False if it was gone already.

        Whatever the journal says, lightningd has the last word on what may not be dropped (K-11): MustNotClose when its
        HTLCs are not resolved, OwedToClient when money has moved or its funding may be on its way. Raises NodeError.
        """
        found = await self.find(peer_id, channel_id)
        if found is None or not (found.is_alive or (found.state in HALF_CLOSED and found.is_withheld)):
            return False  # K-14: left alone
        if not found.is_withheld or holds_money_of_client(found):
            raise OwedToClient(found)
        if any(htlc.direction == "out" for htlc in found.htlcs):
            raise MustNotClose(f"channel {channel_id} has HTLCs that are not resolved")
        await self._rpc.call("close", {"id": channel_id, "unilateraltimeout": 1}, CLOSE_TIMEOUT_S)
        return True

    async def close_unpaid(self, peer_id: str, channel_id: str) -> None:
        """Close a public channel that was never paid for (A-07); one that is closing or gone is left alone.

        Raises NodeError.
        """
        found = await self.find(peer_id, channel_id)
        if found is not None and found.is_alive:
            await self._rpc.call("close", {"id": channel_id, "unilateraltimeout": 1}, CLOSE_TIMEOUT_S)

    async def connect(self, peer_id: str) -> None:
        """Try to reach the client at an address lightningd knows."""
        await self._rpc.call("connect", {"id": peer_id})
