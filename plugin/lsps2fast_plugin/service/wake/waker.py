"""The wake-up calls of one service: hears what happens, and says who is to be called for it (bLIP-55).

Sent are `webhook_registered`, `payment_incoming`, `expiry_soon`, `onion_message_incoming`, and
`liquidity_management_request` when the operator asks for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, Final

from lsps2fast.actions import ChannelKey
from lsps2fast.errors import ConfigError, NodeError, StoreError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import CLOSING, PeerChannel, list_peer_channels
from lsps2fast_plugin.cln.models import Caller as Rpc
from lsps2fast_plugin.cln.notifications import OnionMessageLost
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.service.wake.caller import Caller
from lsps2fast_plugin.service.wake.onion_messages import OnionMessages
from lsps2fast_plugin.service.wake.posting import Post
from lsps2fast_plugin.service.wake.requests import WebhookRequests
from lsps2fast_plugin.service.wake.signer import NotSigned, Signer, choose
from lsps2fast_plugin.service.wake.sleepers import Sleepers
from lsps2fast_plugin.service.wake.webhooks import WebhookBook

log = logging.getLogger(__name__)

EXPIRY_BLOCKS: Final = 24  # as bLIP-55 has it
OUT: Final = "out"


class Waker:
    """The parts of it, told of what happens on the node."""

    protocol: Final = lsps5.PROTOCOL

    def __init__(
        self,
        *,
        rpc: Rpc,
        book: WebhookBook,
        caller: Caller,
        requests: WebhookRequests,
        sleepers: Sleepers,
        onions: OnionMessages,
        post: Post,
        clock: Clock,
        offers: BuyRegistry,
        waited_for: Callable[[], set[str]],
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        is_online: Callable[[str], bool],
        alarm: Callable[[str], None],
        command: tuple[str, ...] | None,
    ) -> None:
        """`waited_for()`: clients for whom parts of sales are held; `command`: it signs where lightningd cannot."""
        self._rpc = rpc
        self.book = book
        self.caller = caller
        self.sleepers = sleepers
        self._onions = onions
        self._post = post
        self._clock = clock
        self._offers = offers
        self._waited_for = waited_for
        self._spawn = spawn
        self._is_online = is_online
        self._alarm = alarm
        self._command = command
        self._decided = asyncio.Event()  # whether there is a signature that receivers believe
        self.methods = {
            lsps5.SET_WEBHOOK: requests.set_webhook,
            lsps5.LIST_WEBHOOKS: requests.list_webhooks,
            lsps5.REMOVE_WEBHOOK: requests.remove_webhook,
        }

    @property
    def is_on(self) -> bool:
        """Whether calls can be made: a signature was seen that receivers believe."""
        return self.caller.signer is not None

    async def knows(self) -> bool:
        """Return `is_on` once it is decided; a program that signs takes a moment to start."""
        await self._decided.wait()
        return self.is_on

    # Start and end ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what is stored. Raises StoreError."""
        await self.book.load()

    def sleep(self, channels: Iterable[PeerChannel], height: int) -> None:
        """Hold payments for the clients that are away at the start."""
        rows = list(channels)
        self.sleepers.block(height)
        for peer_id in self.book:
            self.sleepers.away(peer_id, rows)

    async def begin(self, node_id: str) -> None:
        """Find out who signs; until then there is no LSPS5. One that gives no answer now is asked again (rule:10)."""
        try:
            self.caller.signer = await retry(
                "no wake-up calls: signing a notification",
                lambda: self._choose(node_id),
                self._clock,
                final=ConfigError,
                alarm=self._alarm,
            )
        except ConfigError as error:
            self._alarm(f"there are no wake-up calls: {error}")
            self.sleepers.close()

    async def _choose(self, node_id: str) -> Signer:
        try:
            signer = await choose(self._rpc, self._command, node_id)
        except NotSigned:
            self.sleepers.may_hold = False
            raise
        finally:
            self._decided.set()
        self.sleepers.may_hold = True
        return signer

    def give_up(self) -> None:
        """Answer what is held, and break off calls."""
        self.sleepers.close()
        self._post.close()

    async def close(self) -> None:
        """End what signs."""
        if self.caller.signer is not None:
            await self.caller.signer.close()

    # What happens on the node ----------------------------------------------------------------------

    def connected(self, peer_id: str) -> None:
        """Take note that a peer is there."""
        self.caller.forget(peer_id)
        self.sleepers.back(peer_id)
        self._onions.back(peer_id)

    def disconnected(self, peer_id: str) -> None:
        """Take note that a peer is gone."""
        if peer_id in self.book and self.sleepers.wait_ms:
            self._spawn(self._sleeps(peer_id))

    async def _sleeps(self, peer_id: str) -> None:
        try:
            self.sleepers.away(peer_id, await list_peer_channels(self._rpc, id=peer_id))
        except NodeError as error:
            log.warning(f"payments for {peer_id} are not held, for its channels are not known: {error}")

    def part_came(self, peer_id: str) -> None:
        """Take note that a part of a payment for this client was taken in."""
        self.caller.wake(peer_id, lsps5.PAYMENT_INCOMING)

    def takes(self, call: Any, in_channel: ChannelKey) -> bool:
        """Hold a payment over a channel of a client that is away, and call the client; False: let it go."""
        peer_id = self.sleepers.client_of(call.forward_to)
        if peer_id is None or not self.sleepers.hold(peer_id, call, in_channel):
            return False
        self.caller.wake(peer_id, lsps5.PAYMENT_INCOMING)
        return True

    def onion_lost(self, lost: OnionMessageLost, scid: int) -> bool:
        """Keep an onion message that lightningd could not forward, for it is to a client that is away."""
        peer_id = lost.next_node_id or self.sleepers.client_at(scid)
        return peer_id is not None and self._onions.keep(peer_id, lost)

    def channel_left(self, in_scids: Collection[int]) -> list[Any]:
        """Return the hook calls held that the channel of these names brought: it goes to the chain (rule:19)."""
        return self.sleepers.drop(in_scids)

    def look(self, others: Iterable[str] = ()) -> None:
        """Call again for whom something still waits, and for these; let go what waited long enough."""
        self.sleepers.look()
        self._onions.look()
        for peer_id in {*self.sleepers.waited_for(), *self._waited_for(), *others}:
            self.caller.wake(peer_id, lsps5.PAYMENT_INCOMING)

    async def block(self, height: int) -> None:
        """Call clients that are away and have an HTLC which soon ends in a close by force (N-14)."""
        self.sleepers.block(height)
        away = [peer_id for peer_id in self.book if not self._is_online(peer_id)]
        if not self.is_on or not away:
            return
        try:
            channels = await list_peer_channels(self._rpc)
        except NodeError as error:
            log.warning(f"whether HTLCs of sleeping clients expire is not known: {error}")
            return
        soonest: dict[str, int] = {}
        for channel in channels:
            for timeout in expiries(channel, height):
                soonest[channel.peer_id] = min(timeout, soonest.get(channel.peer_id, timeout))
        for peer_id in away:
            if peer_id in soonest:
                self.caller.wake(peer_id, lsps5.EXPIRY_SOON, soonest[peer_id])

    async def tidy(self) -> None:
        """Forget clients that had no channel for long (N-15); errors are tomorrow's."""
        try:
            owners = {each.peer_id for each in await list_peer_channels(self._rpc) if each.state not in CLOSING}
            for peer_id in self.book:
                await self.book.look(peer_id, peer_id in owners, bool(self._offers.of_peer(peer_id)))
                if peer_id not in self.book:
                    self.caller.forget(peer_id)
                    self.sleepers.forget(peer_id)
        except (NodeError, StoreError) as error:
            log.warning(f"webhooks could not be looked through, tomorrow again: {error}")

    # For the operator ------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what `lsps2-stats` says of it."""
        return {
            "signing": self.is_on,
            "clients": len(self.book),
            "webhooks": self.book.count(),
            "woken": self.sleepers.woken,
            "in_vain": self.sleepers.in_vain,
            "gave_way": self.sleepers.gave_way,
            "onion_messages": self._onions.state(),
            "calls": dict(self.caller.calls),
        }


def expiries(channel: PeerChannel, height: int) -> Iterable[int]:
    """Yield the heights, 24 blocks ahead at most, at which we would have to close this channel for an HTLC of it.

    lightningd does so one block after an HTLC that it offered has expired. For one that the client offered it closes
    only if it knows the preimage, and then the client's own time runs, too; that is not foreseen here.
    """
    for htlc in channel.htlcs:
        if htlc.direction == OUT and htlc.is_pending and 0 < htlc.expiry <= height + EXPIRY_BLOCKS - 1:
            yield htlc.expiry + 1
