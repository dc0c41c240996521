"""What is under way with a client, so that its channels stay: offers, payments, what is owed. Asked, never told."""

from __future__ import annotations

from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.shut_channels import ShutChannels
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

    def why_kept(self, channel_id: str, peer_id: str) -> str | None:
        """Return why this channel stays for now, or None.

        An offer that is good keeps every channel of its client: its jit scid may be an alias of one, and its payment
        may be meant to go over another.
        """
        if self._driver.owns(channel_id):
            return "a payment under way or an offer has it"
        if self._offers.of_peer(peer_id):
            return "its client has an offer that is still good"
        if self._capital.is_unpaid(channel_id) or channel_id in self._shut.withheld:
            return "it is not paid for; close_unpaid_hours of [trust] is about such channels"
        waits = peer_id in self._driver.clients_waited_for(self._held.keys())
        if waits or (self._waker is not None and peer_id in self._waker.sleepers.waited_for()):
            return "payments are held for its client"
        return None
