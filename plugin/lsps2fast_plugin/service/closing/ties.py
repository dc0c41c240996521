"""What is under way with a client, so that its channels stay: offers, payments, what is owed. Asked, never told."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, NamedTuple

from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.shut_channels import ShutChannels

if TYPE_CHECKING:
    from lsps2fast_plugin.service.wake.waker import Waker


class Ties:
    """The parts of a service that know of something under way."""

    def __init__(
        self,
        *,
        offers: BuyRegistry,
        driver: SessionDriver,
        capital: CapitalAtRisk,
        shut: ShutChannels,
        held: HeldHtlcs,
        waker: Waker | None,
    ) -> None:
        self._offers = offers
        self._driver = driver
        self._capital = capital
        self._shut = shut
        self._held = held
        self._waker = waker

    def look(self) -> UnderWay:
        """Return what is under way at this moment: one pass over all buys, however many channels are asked about."""
        owned: set[str] = set()
        for buy in self._driver.sessions.buys.values():
            owned.update(buy.closing)
            sessions = buy.sets.values()
            channels = (buy.channel, *(each.channel for each in sessions), *(each.existing for each in sessions))
            owned.update(channel.channel_id for channel in channels if channel is not None)
        waited = self._driver.clients_waited_for(self._held.keys())
        if self._waker is not None:
            waited = waited.union(self._waker.sleepers.waited_for())
        return UnderWay(self._offers, self._capital, self._shut, owned, waited)


class UnderWay(NamedTuple):
    """A moment of it. `owned`: channels of payments and offers; `waited`: clients for whom payments are held."""

    offers: BuyRegistry
    capital: CapitalAtRisk
    shut: ShutChannels
    owned: Set[str]
    waited: Set[str]

    def why_kept(self, channel_id: str, peer_id: str) -> str | None:
        """Return why this channel stays for now, or None.

        An offer that is good keeps every channel of its client: its jit scid may be an alias of one, and its payment
        may be meant to go over another.
        """
        if channel_id in self.owned:
            return "a payment under way or an offer has it"
        if self.offers.of_peer(peer_id):
            return "its client has an offer that is still good"
        if self.capital.is_unpaid(channel_id) or channel_id in self.shut.withheld:
            return "it is not paid for; close_unpaid_hours of [trust] is about such channels"
        return "payments are held for its client" if peer_id in self.waited else None
