"""The channel of one order: coins out of the pool that JIT sales use, opened withheld, sent, or cleared away."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from lsps2fast.actions import Channel, Funding
from lsps2fast.errors import Lsps2Error, NodeError
from lsps2fast_plugin.cln.channel_types import named
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.coins import RESERVE_BLOCKS, CoinTaken, NotEnoughCoins, NotReserved
from lsps2fast_plugin.service.executor import ActionExecutor
from lsps2fast_plugin.service.funding import (
    ChannelGone,
    ChannelTooLarge,
    Funder,
    MustNotClose,
    NoTypeLeft,
    OpenTerms,
    OwedToClient,
)
from lsps2fast_plugin.service.lsps1.book import Order
from lsps2fast_plugin.service.opening import Opener, RefusedByClient, TypeNotOpened
from lsps2fast_plugin.service.policy.preflight import spendable_sat
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.supply import Supply

log = logging.getLogger(__name__)

BURIED_BLOCKS = 6
RENEW_BLOCKS = 60  # after which coins are reserved for `RESERVE_BLOCKS` more


class NoChannel(Lsps2Error):
    """No channel can be opened for this order now."""


class Opened(NamedTuple):
    """A channel that both sides have signed, and which output of its funding it is."""

    channel: Channel
    outnum: int


class OrderChannels:
    """Makes and undoes channels. Every function may be called again."""

    def __init__(
        self,
        *,
        funder: Funder,
        opener: Opener,
        broadcaster: Broadcaster,
        effects: ActionExecutor,
        capital: CapitalAtRisk,
        supply: Supply,
        shut: ShutChannels,
    ) -> None:
        self._funder = funder
        self._opener = opener
        self._broadcaster = broadcaster
        self._effects = effects
        self._capital = capital
        self._supply = supply
        self._shut = shut
        self._tried: dict[str, set[tuple[int, ...]]] = {}  # types that the client of an order refused, by order id
        self._renewed: dict[str, int] = {}  # by order id: at which height
        self._choosing = asyncio.Lock()  # what is kept on chain is kept from all orders together

    async def choose(self, order: Order) -> Funding:
        """Choose coins for an order; nothing is reserved before they are written down. Raises NoChannel.

        What sales under way will still need is left to them (rule:24).
        """
        async with self._choosing:
            return await self._choose(order)

    async def _choose(self, order: Order) -> Funding:
        ask, tried = order.ask, self._tried.setdefault(order.id, set())
        try:
            room_sat = spendable_sat(await self._supply.facts(order.peer_id, fresh=True))
            if ask.capacity_sat > room_sat:
                raise NoChannel(f"{room_sat} sat are free for a channel of {ask.capacity_sat} sat")
            funding = await self._funder.choose_ordered(
                order.key, order.peer_id, ask.capacity_sat, _terms(order), tried
            )
        except (NotEnoughCoins, ChannelTooLarge, NoTypeLeft, NodeError) as error:
            self._tried.pop(order.id, None)
            raise NoChannel(str(error)) from error
        no = self._capital.may_open_order(order.key, order.peer_id, funding, order.fee_sat * 1000)
        if no is not None:
            self._funder.forget(order.key)
            raise NoChannel(no.why)
        return funding

    async def open(self, order: Order) -> Opened | None:
        """Reserve the coins of the record and open the channel; None: other coins, or another type, are to be chosen.

        Raises NoChannel: something may be left of the open (`clear`).
        """
        funding, key = order.funding, order.key
        assert funding is not None
        try:
            async with self._effects.opening.alone_with(order.peer_id):
                reserving = self._funder.reserve(key, funding, partial(self._effects.reserved_late, key, funding))
                late = partial(self._effects.opening.clear_late, order.peer_id, funding)
                opened = await self._opener.open(
                    order.peer_id, funding, reserving, late, look=False, terms=_terms(order)
                )
        except CoinTaken as error:
            log.info(f"choosing other coins: {error}")
            return None
        except RefusedByClient as error:
            if not error.at_once:
                raise NoChannel(f"the client refused to sign the funding: {error}") from error
            await self._other_type(order, funding, f"the client refused the channel: {error}")
            return None
        except TypeNotOpened as error:
            await self._other_type(order, funding, f"no channel was opened: {error}")
            return None
        except (NotReserved, ChannelGone, NodeError) as error:
            raise NoChannel(str(error)) from error
        channel = opened.channel
        self.shut(order, channel)
        return Opened(channel, _outnum(channel))

    async def _other_type(self, order: Order, funding: Funding, why: str) -> None:
        tried = self._tried.setdefault(order.id, set())
        tried.add(funding.channel_type)
        log.info(f"{order.peer_id}: no to {named(funding.channel_type)} ({why})")
        try:
            await self._funder.release(order.key, funding)
        except NodeError as error:
            raise NoChannel(f"{why}, and another cannot be asked for: {error}") from error

    async def clear(self, order: Order) -> None:
        """Leave nothing of an open: no channel, no reservation, no promise. Raises NodeError, or what a close says."""
        self._tried.pop(order.id, None)
        self._renewed.pop(order.id, None)
        if order.funding is not None:
            await self._effects.opening.clear(order.peer_id, order.funding)
            await self._funder.release(order.key, order.funding)
        self._funder.forget(order.key)
        self._capital.order_over(order.key)
        if order.channel is not None:
            self._shut.gone(order.channel.channel_id)

    async def drop(self, order: Order) -> bool:
        """Close a channel that is withheld; False: lightningd was asked to send its funding, so it is owed.

        Raises NodeError.
        """
        assert order.channel is not None
        try:
            await self._funder.close(order.peer_id, order.channel.channel_id)
        except (OwedToClient, MustNotClose):
            return False
        return True

    async def renew(self, order: Order, height: int) -> None:
        """Reserve the coins of a funding that is not sent yet for longer (rule:7); an error is one of the next time."""
        assert order.channel is not None
        assert order.funding is not None
        last = self._renewed.get(order.id, order.funding.reserved_to_block - RESERVE_BLOCKS)
        if height < last + RENEW_BLOCKS:
            return
        with suppress(NodeError, ChannelGone):  # one that is gone is told when it is sent
            await self._broadcaster.renew(order.key, order.funding, order.peer_id, order.channel.channel_id)
            self._renewed[order.id] = height

    async def send(self, order: Order) -> None:
        """Put the funding on chain. Raises ChannelGone, or NodeError as long as bitcoind does not have it."""
        assert order.channel is not None
        await self._broadcaster.send(order.peer_id, order.channel)
        self._funder.spent(order.key)

    async def is_buried(self, order: Order, height: int) -> bool:
        """Return whether the funding needs no more care; until then send it again. Raises NodeError, ChannelGone."""
        assert order.channel is not None
        found = await self._funder.find(order.peer_id, order.channel.channel_id)
        if found is not None and found.is_confirmed:
            if found.confirmations(height) >= BURIED_BLOCKS:
                return True
            await self._broadcaster.send_if_lost(order.peer_id, order.channel)
        elif found is not None:
            await self._broadcaster.send(order.peer_id, order.channel)
        return found is None

    # After a start ---------------------------------------------------------------------------------

    async def take_up(self, order: Order) -> None:
        """Know the coins and the channel of an order of an earlier run. Raises NodeError."""
        if order.funding is not None and not order.sent_ms:
            self._funder.promise(order.key, order.funding.inputs)
            await self._capital.order_found(order.key, order.peer_id, order.funding)
        if order.channel is not None and not order.sent_ms:
            self.shut(order, order.channel)

    def shut(self, order: Order, channel: Channel) -> None:
        """Let no other payment into a channel that is not paid for (rule:7, rule:21)."""
        self._shut.withhold(channel.channel_id, True, order.peer_id)

    def paid(self, order: Order) -> None:
        """Use the channel as any other."""
        assert order.channel is not None
        self._capital.order_over(order.key)
        self._shut.withhold(order.channel.channel_id, False, order.peer_id)

    def given_away(self, order: Order) -> None:
        """Take note that nothing is paid for a channel that is on chain."""
        assert order.channel is not None
        self._capital.order_over(order.key, given_away=order.channel.channel_id)
        self._shut.withhold(order.channel.channel_id, False, order.peer_id)


def _terms(order: Order) -> OpenTerms:
    return OpenTerms(order.ask.required_channel_confirmations, order.ask.announce_channel)


def _outnum(channel: Channel) -> int:
    """Return which output a channel is: its id is the txid XOR that (BOLT 2)."""
    theirs, ours = bytes.fromhex(channel.channel_id), bytes.fromhex(channel.funding_txid)[::-1]
    return int.from_bytes(theirs[30:]) ^ int.from_bytes(ours[30:])


def is_of(order: Order, channel: PeerChannel) -> bool:
    """Return whether a channel that lightningd lists is, or may be, the one of this order."""
    if order.channel is not None and order.channel.channel_id == channel.channel_id:
        return True
    return order.funding is not None and channel.peer_id == order.peer_id and not order.state.is_over
