"""lsps2fast-service: the LSP. Wires the host, the talk with clients, the session machine and its effects together.

Everything here runs on the host's one loop. Facts of the node become inputs of the machine; what it orders goes to
`ActionExecutor`. No rule about money is decided in this file.
"""

from __future__ import annotations

from lsps2fast_plugin.cln import no_openssl  # noqa: F401 - before all else: it imports asyncio

# isort: split

import asyncio
import logging
import random
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from lsps2fast import BACKEND, __version__
from lsps2fast.errors import ConfigError, NodeError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps0 import FEATURE_BITS_HEX, MESSAGE_TYPE, MalformedField
from lsps2fast.lsps.lsps2 import format_scid, parse_scid
from lsps2fast.lsps.promise import Keyring
from lsps2fast_plugin.cln import plugin_app
from lsps2fast_plugin.cln.answers import derived_secret
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.models import (
    CLOSING,
    LEFT,
    NodeInfo,
    find_channel,
    get_info,
    list_configs,
    list_peer_channels,
    list_peers,
)
from lsps2fast_plugin.cln.notifications import BlockAdded, ChannelStateChanged, ForwardEvent, OnionMessageLost, PeerLink
from lsps2fast_plugin.cln.plugin_app import PluginApp
from lsps2fast_plugin.cln.pyln_client import Plugin, RpcException
from lsps2fast_plugin.cln.retry import until_answered
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.alarms import TOPIC as ALARM_TOPIC
from lsps2fast_plugin.service.capital import BACK
from lsps2fast_plugin.service.events import TOPIC
from lsps2fast_plugin.service.intake import HtlcIntake
from lsps2fast_plugin.service.lsps0_server import Lsps0Server
from lsps2fast_plugin.service.lsps1.terms import ROOT as ORDERS
from lsps2fast_plugin.service.metrics import MeteredRpc, Metrics
from lsps2fast_plugin.service.negotiation import Negotiator
from lsps2fast_plugin.service.operator_rpc import add_methods, stats_of
from lsps2fast_plugin.service.options import OWN_PREFIX, Settings, add_options, read_settings
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.recovery import Recovery, reload_ledger
from lsps2fast_plugin.service.rpc_errors import INVALID_PARAMS
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.supply import NodeTerms
from lsps2fast_plugin.service.unfinished_guard import GUARDED
from lsps2fast_plugin.service.wiring import build_parts

if TYPE_CHECKING:
    from lsps2fast_plugin.service.page.server import PageServer
    from lsps2fast_plugin.service.wake.posting import Post

log = logging.getLogger("lsps2fast_plugin.service.app")  # also when run as __main__

LOOK_EVERY_S = 5.0
LONGEST_WAIT_MS = 60_000  # of a payment to the node itself, while records are read
ENDINGS = ("graceful", "stop")
BUILT_IN = "cln-lsps-service"  # whose place this plugin takes
DAY_S = 86_400.0
DUAL_FUNDS = (
    "experimental-dual-fund is set: lightningd opens no JIT channel to a client that has it too, and its payments fail;"
    " remove that line from the configuration to sell to everyone"
)
CLOSE_IS_SIGNED = ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN")


class Service(PluginApp):
    """One LSP plugin process: hears lightningd, starts, ends. `parts` is there from `init` on."""

    def __init__(
        self,
        announce: bool = False,
        *,
        clock: Clock | None = None,
        dice: random.Random | None = None,
        make_host: Callable[..., Host] = Host,
        post: Post | None = None,
    ) -> None:
        """`announce`: set feature bit 729. lightningd takes it only from a plugin it starts itself (cln:M6).

        Time, chance, standard streams and requests to webhooks are the process's own; a simulation brings others.
        """
        self._post = post
        bits = FEATURE_BITS_HEX if announce else None
        plugin = Plugin(autopatch=False, dynamic=not announce, init_features=bits, node_features=bits)
        super().__init__(plugin, HtlcFilter(), self._add_options, clock=clock, dice=dice, make_host=make_host)
        self.parts: ServiceParts | None = None
        self.metrics: Metrics | None = None
        self.page: PageServer | None = None
        self.talk = Lsps0Server(self.host)
        self._delta = 0  # cltv delta of what is sold
        self._early_facts: list[Callable[[], None]] | None = []  # what lightningd told before the journal was read
        self.plugin.add_notification_topic(TOPIC)
        self.plugin.add_notification_topic(ALARM_TOPIC)
        self.host.hook("custommsg", self.talk.on_custommsg, filters=[MESSAGE_TYPE])
        self.host.slow_hook("rpc_command", self._on_rpc_command, filters=[*GUARDED, *ENDINGS])
        handlers: dict[str, Callable[[Any], None]] = {
            "connect": self._on_connect,
            "disconnect": self._on_disconnect,
            "block_added": self._on_block,
            "channel_state_changed": self._on_channel_state,
            "forward_event": self._on_forward_event,
            "onionmessage_forward_fail": self._on_onion_message_lost,
        }
        self._subscribe({topic: self._once_started(handler) for topic, handler in handlers.items()})
        self.ledger_methods = add_methods(self.host, lambda: self.parts)

    def _once_started(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """Keep what lightningd tells between our first look at its tables and the last session made live."""

        def call(event: Any) -> None:
            if self._early_facts is None:
                take(event)
            else:
                self._early_facts.append(lambda: take(event))

        return call

    def _add_options(self, plugin: Plugin) -> None:
        add_options(plugin, self._on_setconfig)

    def _on_setconfig(self, _: Plugin, name: str, text: Any) -> None:
        """`setconfig` of the dynamic option: in force at once."""
        try:
            is_on = read_settings(self.plugin, {name: text}).close_by_rule
        except ConfigError as error:
            raise RpcException(str(error), INVALID_PARAMS.number) from None
        log.info(f"{name} is {text} now")
        if self.parts is not None:
            self.parts.closer.is_on = is_on

    # Start ---------------------------------------------------------------------------------------

    def _begin(self, rpc_path: str, configuration: dict[str, Any]) -> None:
        settings = read_settings(self.plugin)
        if settings.webhook_loopback and configuration["network"] == "bitcoin":
            raise ConfigError("lsps2-webhook-loopback is for tests: leave it out on the main network")
        self.parts = build_parts(
            host=self.host,
            interest=self.interest,
            clock=self.clock,
            settings=settings,
            rpc=self._connection(settings, rpc_path),
            lightning_dir=configuration["lightning-dir"],
            replays=configuration["startup"],
            reload_ledger=self._reload_ledger,
            post=self._post,
        )
        self.intake = HtlcIntake(self.parts)
        self.page = self._page(settings, self.parts)
        if self.parts.orders is not None:
            self.host.spawn(self._bound_wait())
        self.host.spawn(self._start(self.parts))  # the journal is read in the background (rule:15)

    def _on_htlc(self, call: Any) -> None:
        self.intake.on_htlc(call)

    def _connection(self, settings: Settings, path: str) -> Rpc:
        """Return a connection to lightningd; timed when that is asked for."""
        if settings.metrics_listen is None:
            return Rpc(path)
        self.metrics = Metrics(
            lambda: {} if self.parts is None else stats_of(self.parts),
            lambda: {} if self.parts is None else self.parts.reports.durations,
            self.host.hook_latencies,
        )
        return MeteredRpc(path, self.metrics.rpc_seconds)

    def _page(self, settings: Settings, parts: ServiceParts) -> PageServer | None:
        if settings.page_listen is None:
            return None
        from lsps2fast_plugin.service.page.server import PageServer  # a node without a page does not need it
        from lsps2fast_plugin.service.page.source import ServiceSource

        source = ServiceSource(parts)
        return PageServer(settings.page_listen, settings.page_token, source, self.ledger_methods, self.clock)

    async def _start(self, parts: ServiceParts) -> None:
        """Read the journal, look at the node, then let the parts in that waited (cln:W11).

        The coins that records name may lapse with the next block (trap:8): only their renewal needs no other answer.
        """
        settings, rpc, driver = parts.settings, parts.rpc, parts.driver
        recovery = Recovery(parts)
        stored, _ = await asyncio.gather(recovery.load(settings.cltv_delta_blocks), self._guard_withheld(parts))
        if self.metrics is not None and settings.metrics_listen is not None:
            await self.metrics.listen(*settings.metrics_listen)
        if self.page is not None:
            await self.page.listen()
        info = await until_answered("getinfo", lambda: get_info(rpc), self.clock)
        parts.sessions.block(info.blockheight)
        configs = await until_answered("listconfigs", lambda: list_configs(rpc), self.clock)
        parts.our_node.learn(info, configs)
        if parts.our_node.dual_funds:
            log.warning(DUAL_FUNDS)
        parts.forward_limits.learn(configs)
        # lightningd enforces its own cltv-delta when forwarding; ours is never below it (B-12)
        delta = self._delta = max(settings.cltv_delta_blocks, configs.number("cltv-delta", 0))
        if delta != settings.cltv_delta_blocks:  # that of records which name none
            stored = await recovery.load(delta)
        begun = recovery.begun(stored)
        await self._load_orders(parts)
        snapshot = await recovery.look(begun)
        await recovery.remember(stored, begun)
        peers = await until_answered("listpeers", lambda: list_peers(rpc), self.clock)
        derived = await until_answered("makesecret", lambda: derived_secret(rpc, "lsps2fast promise"), self.clock)
        keyring = parts.desk.keyring(settings, derived)
        for peer in peers:
            if peer.connected:
                driver.carry_out(parts.sessions.peer(peer.id, True, self.clock.wall_ms()))
        parts.sales.tracker.life = self._dice.getrandbits(31)
        with parts.sales.reviving():
            recovery.revive_begun(begun, snapshot)
        parts.sales.load(stored, recovery.channels)  # before a payment that goes on can end: its record would say less
        for _ in recovery.revive_offers(stored, begun):
            await asyncio.sleep(0)
        self._take_early_facts()
        parts.shut.known()
        await until_answered("reading what was decided about closes", parts.closer.journal.load, self.clock)
        if parts.waker is not None:
            await until_answered("reading webhooks", parts.waker.load, self.clock)
            parts.waker.sleep(recovery.channels, parts.driver.height())
            self.host.spawn(parts.waker.begin(info.id))
        if parts.orders is not None:
            self.interest.see_final_hops()
        self._loaded()
        await self._join_fleet(parts, info)
        self._sell(parts, keyring, delta)
        if parts.orders is not None:
            parts.orders.begin(recovery.channels)
        self.host.spawn(driver.run())
        self.host.spawn(self._watch_policy(parts))
        self.host.spawn(self._tidy_daily(parts, delta))
        self._fill_pool(parts)
        log.info(f"lsps2fast-service {__version__} ({BACKEND} core) sells JIT channels: {len(parts.offers)} buys live")

    async def _load_orders(self, parts: ServiceParts) -> None:
        """Read the orders; where they are off, those there are come to their end, and leases go on."""
        if parts.orders is None:
            if not await until_answered("looking for orders", lambda: parts.notebook.read(ORDERS), self.clock):
                return
            parts.orders = parts.make_orders()
        await until_answered("reading orders", parts.orders.load, self.clock)

    async def _bound_wait(self) -> None:
        """Let payments to this node itself wait for our records no longer than this; lightningd takes them then."""
        await self.clock.sleep_until(self.clock.now_ms() + LONGEST_WAIT_MS)
        if not self.interest.loaded:
            log.warning("the records of orders cannot be read yet: payments to this node wait for them no longer")
            self.interest.see_final_hops(False)
            self.host.let_ends_go()

    async def _join_fleet(self, parts: ServiceParts, info: NodeInfo) -> None:
        """Know what this node holds before anything is sold; whether the database answers is no condition."""
        fleet, url = parts.fleet, parts.settings.fleet
        if fleet is None or url is None:
            return
        from lsps2fast_plugin.service.fleet.database import Database

        wire = Database(url, info.network, info.id, info.alias, __version__)
        await until_answered("reading what is held of the fleet", lambda: fleet.load(wire), self.clock)
        self.host.spawn(fleet.run())

    def _take_early_facts(self) -> None:
        facts, self._early_facts = self._early_facts or [], None
        for fact in facts:
            try:
                fact()
            except Exception:  # as with every notification: one that cannot be taken stops no other
                log.error(f"a notification failed\n{traceback.format_exc()}")

    async def _guard_withheld(self, parts: ServiceParts) -> None:
        """Know every withheld channel first: forwards into others need not wait for the journal (rule:7, cln:W11).

        But those into channels that may have been sold do: only the journal says what is paid for (rule:21).
        """
        ask = partial(list_peer_channels, parts.rpc)
        for channel in await until_answered("listpeerchannels", ask, self.clock):
            parts.incoming.learn(channel)
            if channel.is_withheld:
                parts.shut.withhold(channel.channel_id, True, channel.peer_id)
            elif channel.is_ours and channel.private:
                parts.shut.wait_for(channel.channel_id, channel.peer_id)
        self.host.channels_loaded()

    def _sell(self, parts: ServiceParts, keyring: Keyring, delta: int) -> None:
        """Answer clients from now on, those who came early first."""

        async def accept(buy: Buy) -> None:
            await parts.store.add(buy)
            parts.driver.go_live(buy)
            self.host.spawn(parts.funder.prepare(buy.peer_id))
            parts.sales.bought(buy)
            log.debug(f"sold {format_scid(buy.jit_scid)} to {buy.peer_id}")

        if parts.orders is not None:
            parts.orders.desk.random64 = lambda: self._dice.getrandbits(64)
        negotiator = Negotiator(
            supply=parts.supply,
            scid_taken=parts.view.scid_taken,
            offers=parts.offers,
            promises=keyring,
            desk=parts.desk,
            terms=NodeTerms(delta),
            clock=self.clock,
            random64=lambda: self._dice.getrandbits(64),
            accept=accept,
            buying=parts.fleet,
            waker=parts.waker,
            orders=None if parts.orders is None else parts.orders.desk,
            existing=parts.finder.most_msat,
        )
        self.talk.begin(parts.rpc, negotiator)

    def _fill_pool(self, parts: ServiceParts) -> None:
        if parts.pool is not None:
            self.host.spawn(parts.pool.look())

    async def _watch_policy(self, parts: ServiceParts) -> None:
        """Take over a changed policy file; write what could not be written before."""
        while True:
            await self.clock.turned(LOOK_EVERY_S)
            parts.desk.look()
            await parts.exposure.look()
            parts.held_limits.look()
            if parts.orders is not None:
                await parts.orders.look()
            if parts.waker is not None:
                parts.waker.look(() if parts.orders is None else parts.orders.waited_for())
            if len(parts.offers):
                await parts.funder.keep_known()

    async def _tidy_daily(self, parts: ServiceParts, delta: int) -> None:
        while True:
            if not parts.sales.is_behind:  # what it lacks only the records have
                await parts.afterwards.prune(delta)
            if parts.waker is not None:
                await parts.waker.tidy()
            await self.clock.sleep_until(self.clock.now_ms() + round(DAY_S * 1000))

    # Facts of the node -----------------------------------------------------------------------------

    def _on_connect(self, peer: PeerLink) -> None:
        self._peer(peer.id, True)

    def _on_disconnect(self, peer: PeerLink) -> None:
        self._peer(peer.id, False)

    def _peer(self, peer_id: str, online: bool) -> None:
        if self.parts is not None:
            self.parts.effects.watch.all_changed()
            self.parts.funder.link_changed(peer_id)
            if online and self.parts.offers.of_peer(peer_id):
                self.host.spawn(self.parts.funder.prepare(peer_id))
            self.parts.driver.carry_out(self.parts.sessions.peer(peer_id, online, self.clock.wall_ms()))
            if self.parts.waker is not None:
                (self.parts.waker.connected if online else self.parts.waker.disconnected)(peer_id)

    def _on_block(self, block: BlockAdded) -> None:
        if self.parts is not None:
            self.parts.driver.carry_out(self.parts.sessions.block(block.height))
            self.host.spawn(self.parts.lookout.block(block.height))
            self.host.spawn(self.parts.oversight.block())
            self.host.spawn(self.parts.effects.block())
            self.host.spawn(self.parts.closer.look())
            if self.parts.orders is not None:
                self.parts.orders.block()
            if self.parts.waker is not None:
                self.host.spawn(self.parts.waker.block(block.height))
            self._fill_pool(self.parts)

    def _on_channel_state(self, event: ChannelStateChanged) -> None:
        if self.parts is None:
            return
        channel_id, state = event.channel_id, event.new_state
        self.parts.effects.watch.changed(channel_id)
        if state in LEFT:
            self.intake.channel_left(channel_id)
        if state in CLOSING:
            self.parts.driver.closed(channel_id, state, event.cause)
            self.host.spawn(self._look_at_close(self.parts, channel_id, event.peer_id, state))
        if state in BACK:
            self.parts.driver.money_back(channel_id)

    async def _look_at_close(self, parts: ServiceParts, channel_id: str, peer_id: str, state: str) -> None:
        """See what miners get for a close; only for the books, so an error is no matter."""
        if state in CLOSE_IS_SIGNED:
            with suppress(NodeError):
                channel = await find_channel(parts.rpc, channel_id, id=peer_id)
                if channel is not None:
                    parts.sales.closing_costs(channel)

    def _reload_ledger(self) -> None:
        if self.parts is not None:
            self.host.spawn(reload_ledger(self.parts, self._delta))

    def _on_forward_event(self, event: ForwardEvent) -> None:
        self.intake.on_forward_event(event)

    def _on_onion_message_lost(self, lost: OnionMessageLost) -> None:
        """A-04: lightningd maps scids of onion messages itself and knows no jit scid; an operator should see it."""
        text = lost.next_short_channel_id_dir.partition("/")[0]
        scid = _scid(text)
        if self.parts is not None and self.parts.waker is not None and self.parts.waker.onion_lost(lost, scid):
            return
        if scid in self.interest.scids:
            log.info(f"an onion message for jit scid {text} was lost: lightningd cannot forward it")

    async def _on_rpc_command(self, rpc_command: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Decide on a call that closes or splices a channel (A-06, cln:N3) or ends the node."""
        if self.parts is None:
            return {"result": "continue"}
        if rpc_command["method"] in ENDINGS:
            self._sell_no_more(self.parts.desk, rpc_command["method"])
            return {"result": "continue"}
        refusal = await self.parts.unfinished.judge(rpc_command)
        if refusal is not None or rpc_command["method"] != "close":
            return refusal or {"result": "continue"}
        return await self.parts.afterwards.judge(rpc_command)

    def _sell_no_more(self, desk: Desk, method: str) -> None:
        """Sell nothing any more: lightningd waits for HTLCs or ends, and tells plugins nothing else (cln:N8)."""
        if self.parts is not None:
            self.parts.closer.hold()
        if not desk.paused:
            desk.paused = True
            log.info(f"`{method}` was called: nothing is sold until `lsps2-resume` or the next start")

    # End -----------------------------------------------------------------------------------------

    async def _shutdown(self) -> None:
        if self.parts is None:
            return
        if self.parts.orders is not None:
            self.parts.orders.stop()
        self.parts.effects.stop()
        self.parts.incoming.give_up()
        if self.parts.waker is not None:
            self.parts.waker.give_up()
        self.parts.sales.tracker.ending = True
        ended = self.parts.sessions.shutdown()
        self.parts.sales.take(self.parts.sessions.take_changes(), ())
        self.parts.effects.carry_out(ended)
        await self.parts.sales.close()
        if self.metrics is not None:
            await self.metrics.close()
        if self.page is not None:
            await self.page.close()
        if self.parts.fleet is not None:
            await self.parts.fleet.close()
        if self.parts.waker is not None:
            await self.parts.waker.close()
        await self.parts.rpc.close()


def _scid(text: str) -> int:
    try:
        return parse_scid(text)
    except MalformedField:
        return -1


def main(announce: bool = False) -> int:
    """Entry point: runs until lightningd ends us."""
    return plugin_app.run(lambda: Service(announce), BUILT_IN, add_options, OWN_PREFIX)


def main_announced() -> int:
    """Entry point of `lsps2fast-service-announced`: sets feature bit 729, so lightningd must start it itself."""
    return main(announce=True)


if __name__ == "__main__":
    sys.exit(main())
