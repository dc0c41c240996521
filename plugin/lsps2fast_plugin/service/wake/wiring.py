"""Builds the part that calls clients which are away, apart from `service.wiring`: most nodes never import it."""

from __future__ import annotations

from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.cln.models import CLOSING, list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.wake.caller import Caller
from lsps2fast_plugin.service.wake.onion_messages import OnionMessages
from lsps2fast_plugin.service.wake.post import HttpsPost
from lsps2fast_plugin.service.wake.posting import Post
from lsps2fast_plugin.service.wake.requests import WebhookRequests
from lsps2fast_plugin.service.wake.sleepers import Sleepers
from lsps2fast_plugin.service.wake.waker import Waker
from lsps2fast_plugin.service.wake.webhooks import WebhookBook


def build_waker(
    *,
    host: Host,
    rpc: Rpc,
    clock: Clock,
    settings: Settings,
    notebook: DatastoreRecords,
    desk: Desk,
    offers: BuyRegistry,
    driver: SessionDriver,
    shut: ShutChannels,
    held: HeldHtlcs,
    kinds: HeldKinds,
    room: PromisedRoom,
    post: Post | None,
) -> Waker:
    """Return what calls clients that are away. `post`: what makes the requests, by default ours."""
    sessions = driver.sessions
    post = post or HttpsPost(allow_loopback=settings.webhook_loopback)
    book = WebhookBook(notebook, clock, settings.webhooks)
    caller = Caller(book=book, post=post, clock=clock, spawn=host.spawn, is_online=sessions.is_online)
    sleepers = Sleepers(
        host=host,
        shut=shut,
        gate=desk.gate,
        clock=clock,
        spawn=host.spawn,
        channels_of=lambda peer_id: list_peer_channels(rpc, id=peer_id),
        is_online=sessions.is_online,
        kinds=kinds,
        room=room,
        ready=driver.effects.watch.changed,
        most_msat_of_client=settings.held_msat_per_peer,
        wait_ms=settings.wake_wait_ms,
    )

    onions = OnionMessages(
        rpc=rpc,
        clock=clock,
        caller=caller,
        spawn=host.spawn,
        asleep=sleepers.asleep,
        is_online=sessions.is_online,
        wait_ms=settings.wake_wait_ms,
    )

    def asleep(jit_scid: int) -> int:
        core = sessions.buys.get(jit_scid)
        return sleepers.wait_ms if core is not None and core.paid and sleepers.asleep(core.peer_id) else 0

    async def has_channel(peer_id: str) -> bool:
        return any(each.state not in CLOSING for each in await list_peer_channels(rpc, id=peer_id))

    driver.effects.let_sleep(asleep)
    return Waker(
        rpc=rpc,
        book=book,
        caller=caller,
        requests=WebhookRequests(
            book,
            caller,
            is_served=desk.policy.is_served,
            has_channel=has_channel,
            has_offer=lambda peer_id: bool(offers.of_peer(peer_id)),
            allow_loopback=settings.webhook_loopback,
        ),
        sleepers=sleepers,
        onions=onions,
        post=post,
        clock=clock,
        offers=offers,
        waited_for=lambda: driver.clients_waited_for(held.keys()),
        spawn=host.spawn,
        is_online=sessions.is_online,
        alarm=driver.alarm,
        command=settings.webhook_signer,
    )
