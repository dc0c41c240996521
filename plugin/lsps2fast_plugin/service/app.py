"""lsps2fast-service: the LSP. Wires the host, the talk with clients, the session machine and its effects together.

Everything here runs on the host's one loop. Facts of the node become inputs of the machine; what it orders goes to
`ActionExecutor`. No rule about money is decided in this file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pyln.client import Plugin

from lsps2fast import BACKEND, __version__
from lsps2fast import _tlv as tlv
from lsps2fast._parts import IncomingHtlc, allocate
from lsps2fast._sessions import Sessions
from lsps2fast.actions import TEMPORARY, Action, Channel, FailParts, PartKey, PartStatus
from lsps2fast.actions import Terms as BuyTerms
from lsps2fast.errors import ConfigError, MalformedTlv, ProtocolBug
from lsps2fast.lsps.buys import Buy, BuyRegistry
from lsps2fast.lsps.lsps0 import FEATURE_BITS_HEX, MESSAGE_TYPE, MalformedField
from lsps2fast.lsps.lsps2 import format_scid, parse_scid
from lsps2fast.lsps.promise import Keyring
from lsps2fast.table import Input
from lsps2fast_plugin.cln import built_in
from lsps2fast_plugin.cln.channel_types import OurNode
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.models import CLOSING, get_info, list_configs, list_peer_channels, list_peers
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.cln.scid_aliases import ScidAliases
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.capital import BACK, CapitalAtRisk
from lsps2fast_plugin.service.coin_pool import CoinPool, PoolSize
from lsps2fast_plugin.service.coins import Coins, LowWater
from lsps2fast_plugin.service.events import TOPIC, SessionEvents
from lsps2fast_plugin.service.executor import ActionExecutor
from lsps2fast_plugin.service.forward_limits import ForwardLimits
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.incoming_names import IncomingNames
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.liquidity import NodeLiquidity
from lsps2fast_plugin.service.lsps0_server import Lsps0Server
from lsps2fast_plugin.service.metrics import MeteredRpc, Metrics
from lsps2fast_plugin.service.missed_events import MissedEventPoller
from lsps2fast_plugin.service.negotiation import Negotiator
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.operator_rpc import add_methods, stats_of
from lsps2fast_plugin.service.options import OWN_PREFIX, Settings, add_options, read_settings
from lsps2fast_plugin.service.oversight import Oversight
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.reconcile import Reconciler
from lsps2fast_plugin.service.recovery import Recovery
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.session_store import SessionStore, StoredSession
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.supply import NodeTerms, Supply
from lsps2fast_plugin.service.unfinished_guard import GUARDED, UnfinishedChannelGuard

log = logging.getLogger("lsps2fast_plugin.service.app")  # also when run as __main__

Answer = TypeVar("Answer")
EXPIRY_TOO_FAR = "0015"
NODE_FAILURE = "2002"
LOOK_EVERY_S = 5.0
ENDINGS = ("graceful", "stop")
START_PAUSE_MS = 5_000  # the longest between two questions that the start waits for
BUILT_IN = "cln-lsps-service"  # whose place this plugin takes
DAY_S = 86_400.0


def buy_terms(buy: Buy) -> BuyTerms:
    """Return the agreed terms as the machine needs them."""
    params = buy.params
    return BuyTerms(
        payment_size_msat=buy.payment_size_msat,
        min_fee_msat=params.min_fee_msat,
        proportional=params.proportional,
        min_payment_size_msat=params.min_payment_size_msat,
        max_payment_size_msat=params.max_payment_size_msat,
        max_client_to_self_delay_blocks=params.max_client_to_self_delay_blocks,
        cltv_expiry_delta_blocks=buy.cltv_expiry_delta_blocks,
        valid_until_ms=params.valid_until_ms,
        client_trusts_lsp=buy.client_trusts_lsp,
    )


class Service:
    """One LSP plugin process."""

    def __init__(self, announce: bool = False) -> None:
        """`announce`: set feature bit 729. lightningd takes it only from a plugin it starts itself (cln:M6)."""
        bits = FEATURE_BITS_HEX if announce else None
        self.plugin = Plugin(autopatch=False, dynamic=not announce, init_features=bits, node_features=bits)
        self.clock = Clock()
        self.interest = HtlcFilter()
        self.host = Host(self.plugin, self.interest, self._on_htlc)
        self.parts = HeldHtlcs(self.host)
        self.settings: Settings | None = None
        self.metrics: Metrics | None = None
        self.talk = Lsps0Server(self.host)
        self.set_aside: set[int] = set()  # scids of records that cannot be taken up
        self.names = ScidAliases()
        self.incoming = IncomingNames(self.names, self.host.spawn, lambda call: self.host.fail(call.id_raw, TEMPORARY))
        self._early_facts: list[Callable[[], None]] | None = []  # what lightningd told before the journal was read
        self._rearm = asyncio.Event()
        self._due: tuple[int | None, int | None] | None = None  # what `_watch_time` waits for
        add_options(self.plugin)
        self.plugin.add_notification_topic(TOPIC)
        self.plugin.init()(self._init)
        self.host.hook("custommsg", self.talk.on_custommsg, filters=[MESSAGE_TYPE])
        self.host.slow_hook("rpc_command", self._on_rpc_command, filters=[*GUARDED, *ENDINGS])
        for topic, handler in (
            ("connect", self._on_connect),
            ("disconnect", self._on_disconnect),
            ("block_added", self._on_block),
            ("channel_state_changed", self._on_channel_state),
            ("forward_event", self._on_forward_event),
            ("onionmessage_forward_fail", self._on_onion_message_lost),
        ):
            self.host.subscribe(topic, self._once_started(handler))
        self.host.on_shutdown(self._shutdown)
        add_methods(self)

    def _once_started(self, take: Callable[..., None]) -> Callable[..., None]:
        """What lightningd tells between our first look at its tables and the last
        session made live is not lost.
        """

        def call(**params: Any) -> None:
            if self._early_facts is None:
                take(**params)
            else:
                self._early_facts.append(lambda: take(**params))

        return call

    # Start ---------------------------------------------------------------------------------------

    def _init(self, options: dict[str, Any], configuration: dict[str, Any], **_: Any) -> dict[str, Any] | None:
        """Answer at once (rule:15); the journal is read in the background."""
        path = os.path.join(configuration["lightning-dir"], configuration["rpc-file"])
        try:
            settings = read_settings(self.plugin)
            self._build(settings, self._connection(settings, path))
        except ConfigError as error:
            return {"disable": str(error)}
        self.settings = settings
        self.reconciler = Reconciler(self.rpc, configuration["startup"], self.names)
        self.host.spawn(self._start())
        return None

    def _connection(self, settings: Settings, path: str) -> Rpc:
        """To lightningd; timed when somebody wants to know."""
        if settings.metrics_listen is None:
            return Rpc(path)
        self.metrics = Metrics(lambda: stats_of(self))
        return MeteredRpc(path, self.metrics.rpc_seconds)

    def _build(self, settings: Settings, rpc: Rpc) -> None:
        self.rpc = rpc
        self.notebook = DatastoreRecords(rpc)
        self.desk = Desk(settings, rpc, self.notebook, self.clock)
        self.sessions = Sessions(
            collect_ms=settings.collect_ms,
            max_parts=settings.max_parts,
            offline_ms=settings.offline_ms,
            overpay_ppm=settings.max_overpay_ppm,
            min_part_msat=settings.min_part_msat,
            min_final_expiry_blocks=settings.min_expiry_blocks,
            max_held_parts_per_buy=settings.held_parts_per_buy,
            max_held_parts_per_peer=settings.held_parts_per_peer,
            max_held_msat_per_peer=settings.held_msat_per_peer,
            max_held_parts=settings.gate.held_parts,
            max_held_msat=settings.gate.held_sat * 1000,
            hashes=self.interest.payment_hashes,
        )
        self.offers = BuyRegistry(settings.limits)
        self.store = SessionStore(rpc, lambda what, work: self.effects.insist(what, work))
        self.our_node = OurNode()
        self.forward_limits = ForwardLimits()
        low_water = LowWater(settings.coin_low_water_sat, lambda text: self.effects.alarm(text))
        self.coins = Coins(rpc, lambda: self.sessions.height, low_water)
        self.view = NodeLiquidity(rpc, self.coins, self.clock.now_ms, self.our_node)
        self.exposure = CapitalAtRisk(
            self.desk.policy,
            self.notebook,
            self.clock,
            self.host.spawn,
            feerate_perkw=self._feerate_perkw,
            last_perkw=lambda: funder.last_perkw,
            free_sat=lambda: low_water.free_sat,
            fee_msat=self._fee_msat,
            guard=lambda channel_id, peer_id: self.shut.look(channel_id, peer_id),
        )
        self.shut = ShutChannels(
            self.interest, self.exposure.is_unpaid, lambda peer_id: list_peer_channels(rpc, id=peer_id)
        )
        self.oversight = Oversight(
            policy=self.desk.policy,
            capital=self.exposure,
            clock=self.clock,
            rpc=rpc,
            unused=self._unused,
            is_live=self._is_live,
            channels=lambda: list_peer_channels(rpc),
            feerate_perkw=self._feerate_perkw,
        )
        self.pool = None if settings.coin_pool is None else self._pool(settings.coin_pool)
        self.afterwards = ChannelLeaseGuard(
            rpc=rpc,
            store=self.store,
            clock=self.clock,
            height=lambda: self.sessions.height,
            guard=settings.close_guard,
            keep_ms=settings.keep_records_ms,
        )
        self.unfinished = UnfinishedChannelGuard(rpc=rpc, sold=self._sold_channels, guard=settings.close_guard)
        self.books = SessionEvents(
            host=self.host,
            sessions=self.sessions,
            offers=self.offers,
            desk=self.desk,
            exposure=self.exposure,
            afterwards=self.afterwards,
            coins_moved=self.view.changed,
        )
        self.supply = Supply(self.view, self.books, self.desk, settings.max_parts)
        funder = Funder(
            rpc,
            self.coins,
            self.desk.zero_reserve,
            self.our_node,
            largest_sat=lambda: self.desk.policy.rules.capacity.max_sat,
            unforwardable=self._unforwardable,
        )
        broadcaster = Broadcaster(rpc, self.coins)
        self.effects = ActionExecutor(
            funder=funder,
            opener=Opener(rpc, self.desk.zero_reserve),
            broadcaster=broadcaster,
            store=self.store,
            answers=self.parts,
            clock=self.clock,
            buy_of=self.offers.get,
            feed=self.feed,
            withheld=self.shut.withhold,
            forgotten=self._forgotten,
            owned=self._owned,
            capital=self.exposure,
            sent=self._funding_sent,
            channel_of=self._channel_of,
            gone=self._never_funded,
        )
        self.lookout = MissedEventPoller(
            funder=funder,
            broadcaster=broadcaster,
            waiting=self._waiting,
            snapshot=lambda records: self.reconciler.snapshot(records),
            told=lambda part, settled: self.carry_out(self.sessions.resolve_from_tables(part, settled)),
            closed=self._channel_closed,
            money_seen=lambda channel_id: self.carry_out(self.sessions.money_seen(channel_id)),
            alarm=self.effects.alarm,
        )

    def _funding_sent(self, peer_id: str, channel: Channel) -> None:
        """Take note that bitcoind has this funding."""
        self.lookout.funding(peer_id, channel)
        self.exposure.mined(channel.channel_id)

    def _is_live(self, jit_scid: int) -> bool:
        """Whether the channel of this offer can still be paid for."""
        buy = self.offers.get(jit_scid)
        return buy is not None and buy.params.valid_until_ms > self.clock.wall_ms()

    def _unused(self) -> list[Buy]:
        """Offers that have no channel yet."""
        cores = ((buy, self.sessions.buys.get(buy.jit_scid)) for buy in self.offers)
        return [buy for buy, core in cores if core is not None and core.channel is None and core.holder is None]

    async def _feerate_perkw(self) -> int:
        return (await self.view.feerates()).opening_perkw

    def _fee_msat(self, jit_scid: int) -> int:
        """Return the opening fee that the payment under way brings."""
        core = self.sessions.buys.get(jit_scid)
        return 0 if core is None or core.holder is None else int(core.holder.fee_msat)

    def _unforwardable(self, jit_scid: int, channel_type: tuple[int, ...], feerate_perkw: int) -> str | None:
        """Say why lightningd would not forward the payment under way on this scid, or return None."""
        core = self.sessions.buys.get(jit_scid)
        if core is None or core.holder is None:
            return None
        values_msat = [
            part.amt_to_forward_msat for part in core.holder.parts if part.status == PartStatus.HELD
        ]  # those that are held
        fees_msat = allocate(values_msat, core.floor_msat, core.holder.fee_msat) or [0] * len(values_msat)
        out_msats = [value - fee for value, fee in zip(values_msat, fees_msat, strict=True)]
        return self.forward_limits.set_refusal(out_msats, channel_type, feerate_perkw)

    def _pool(self, size: PoolSize) -> CoinPool:
        return CoinPool(
            rpc=self.rpc,
            coins=self.coins,
            size=size,
            feerate_perkw=self._feerate_perkw,
            keep_sat=lambda: self.desk.policy.rules.capacity.keep_onchain_sat,
            alarm=lambda text: self.effects.alarm(text),
        )

    def _fill_pool(self) -> None:
        if self.pool is not None:
            self.host.spawn(self.pool.look())

    def _waiting(self) -> dict[tuple[int, bytes], StoredSession]:
        """Sessions with parts at their client, as records."""
        found = {}
        for jit_scid, core in self.sessions.buys.items():
            session, buy = core.holder, self.offers.get(jit_scid)
            if session is not None and session.in_flight and buy is not None:
                found[jit_scid, session.payment_hash] = StoredSession(buy, session.record("forwards"), None)
        return found

    async def _start(self) -> None:
        """Read the journal, look at the node, then let the parts in that waited (cln:W11)."""
        assert self.settings is not None
        await self._guard_withheld()
        if self.metrics is not None and self.settings.metrics_listen is not None:
            await self.metrics.listen(*self.settings.metrics_listen)
        info = await self.until_told("getinfo", lambda: get_info(self.rpc))
        self.sessions.block(info.blockheight)
        configs = await self.until_told("listconfigs", lambda: list_configs(self.rpc))
        self.our_node.learn(info, configs)
        self.forward_limits.learn(configs)
        # lightningd enforces its own cltv-delta when forwarding; ours is never below it (B-12)
        delta = max(self.settings.cltv_delta_blocks, configs.number("cltv-delta", 0))
        recovery = Recovery(self)
        stored = await recovery.load(delta)
        snapshot = await recovery.look(stored)
        await recovery.remember(stored)
        peers = await self.until_told("listpeers", lambda: list_peers(self.rpc))
        secret_of = {"string": "lsps2fast promise"}
        derived = await self.until_told("makesecret", lambda: self.rpc.call("makesecret", secret_of))
        keyring = self.desk.keyring(self.settings, bytes.fromhex(derived["secret"]))
        for peer in peers:
            if peer.connected:
                self.carry_out(self.sessions.peer(peer.id, True, self.clock.wall_ms()))
        recovery.revive_all(stored, snapshot)
        self._take_early_facts()
        self.shut.known()
        self.host.interest_loaded()
        self._sell(self.settings, keyring, delta)
        self.host.spawn(self._watch_time())
        self.host.spawn(self._watch_policy())
        self.host.spawn(self._tidy_daily(delta))
        self._fill_pool()
        log.info(f"lsps2fast-service {__version__} ({BACKEND} core) sells JIT channels: {len(self.offers)} buys live")

    def _take_early_facts(self) -> None:
        facts, self._early_facts = self._early_facts or [], None
        for fact in facts:
            try:
                fact()
            except Exception:  # as with every notification: one that cannot be taken stops no other
                log.error(f"a notification failed\n{traceback.format_exc()}")

    async def _guard_withheld(self) -> None:
        """Know every withheld channel first: forwards into others need not wait for the journal (rule:7, cln:W11).

        But those into channels that may have been sold do: only the journal says what is paid for (rule:21).
        """
        for channel in await self.until_told("listpeerchannels", lambda: list_peer_channels(self.rpc)):
            self.names.learn(channel.channel_id, channel.scids)
            if channel.is_withheld:
                self.shut.withhold(channel.channel_id, True, channel.peer_id)
            elif channel.is_ours and channel.private:
                self.shut.wait_for(channel.channel_id, channel.peer_id)
        self.host.channels_loaded()

    def _sell(self, settings: Settings, keyring: Keyring, delta: int) -> None:
        """Answer clients from now on, those who came early first."""
        negotiator = Negotiator(
            supply=self.supply,
            scid_taken=self.view.scid_taken,
            offers=self.offers,
            promises=keyring,
            desk=self.desk,
            terms=NodeTerms(delta),
            clock=self.clock,
            random64=lambda: secrets.randbits(64),
            accept=self._accept,
        )
        self.talk.begin(self.rpc, negotiator)

    async def until_told(self, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until lightningd answers: nothing can be sold before."""
        return await retry(what, ask, self.clock, longest_ms=START_PAUSE_MS)

    # Buys ----------------------------------------------------------------------------------------

    def go_live(self, buy: Buy) -> Any:
        if self.offers.get(buy.jit_scid) is None:
            self.offers.restore(buy)
        core = self.sessions.add_buy(buy.jit_scid, buy.peer_id, buy_terms(buy))
        self.interest.scids.add(buy.jit_scid)
        self._rearm.set()
        return core

    async def _accept(self, buy: Buy) -> None:
        await self.store.add(buy)
        self.go_live(buy)
        log.debug(f"sold {format_scid(buy.jit_scid)} to {buy.peer_id}")

    def _forgotten(self, jit_scid: int) -> None:
        self.interest.scids.discard(jit_scid)
        self.offers.remove(jit_scid)

    def _owned(self, channel_id: str) -> bool:
        buys = self.sessions.buys.values()
        held = (s.channel for buy in buys for s in buy.sets.values())
        known = (*(buy.channel for buy in buys), *held)
        return any(c is not None and c.channel_id == channel_id for c in known) or any(
            channel_id in buy.closing for buy in buys
        )

    def _sold_channels(self) -> dict[str, str]:
        """Return every channel of a payment under way or of a buy that lives, and those that were paid,
        with its jit scid.
        """
        found = self.afterwards.sold()
        for buy in self.sessions.buys.values():
            for channel in (buy.channel, *(session.channel for session in buy.sets.values())):
                if channel is not None:
                    found[channel.channel_id] = format_scid(buy.jit_scid)
        return found

    def _channel_of(self, jit_scid: int) -> Channel | None:
        """Return the channel of the payment under way on this scid."""
        core = self.sessions.buys.get(jit_scid)
        return None if core is None or core.holder is None else core.holder.channel

    # The machine ---------------------------------------------------------------------------------

    def carry_out(self, actions: tuple[Action, ...]) -> None:
        """Have these orders carried out, once those who keep books have heard of them."""
        self.books.take(actions)
        self.effects.carry_out(actions)
        if self.sessions.next_due() != self._due:
            self._rearm.set()

    def feed(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        try:
            self.carry_out(self.sessions.handle(jit_scid, payment_hash, kind, fact))
        except ProtocolBug as error:
            self.effects.alarm(f"session {format_scid(jit_scid)}: {error}")

    async def _watch_time(self) -> None:
        """Feed every time-out at its moment; sleeps until the next one."""
        while True:
            self._rearm.clear()
            self.carry_out(self.sessions.tick(self.clock.now_ms(), self.clock.wall_ms()))
            self._rearm.clear()
            due_ms, expiry_ms = self._due = self.sessions.next_due()
            waits = [] if due_ms is None else [due_ms - self.clock.now_ms()]
            waits += [] if expiry_ms is None else [expiry_ms - self.clock.wall_ms()]
            timeout_s = max(min(waits), 0) / 1000 if waits else None
            waiters = {asyncio.ensure_future(self.clock.turned(timeout_s)), asyncio.ensure_future(self._rearm.wait())}
            _, rest = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            for waiter in rest:
                waiter.cancel()

    async def _watch_policy(self) -> None:
        """Take over a changed policy file; write what could not be written before."""
        while True:
            await self.clock.turned(LOOK_EVERY_S)
            self.desk.look()
            await self.exposure.look()

    async def _tidy_daily(self, delta: int) -> None:
        while True:
            await self.afterwards.prune(delta)
            await self.clock.sleep_until(self.clock.now_ms() + round(DAY_S * 1000))

    # HTLCs ---------------------------------------------------------------------------------------

    def _on_htlc(self, call: Any) -> None:
        """A part for a jit scid, or a forward that lightningd would push into a withheld channel."""
        if self.shut.watches(call.peer_id):
            self.host.spawn(self._look_up(call))
        else:
            self._take_htlc(call)

    async def _look_up(self, call: Any) -> None:
        """Something comes from a peer that has a channel which carries nothing but its payment (rule:21)."""
        why = await self.shut.why_not_in(call.peer_id, call.in_scid)
        if why is not None:
            log.info(f"{call.amount_msat} msat refused {why}")
            self.host.fail(call.id_raw, TEMPORARY)
            return
        try:
            self._take_htlc(call)
        except Exception:  # as where the call would have been taken at once: it must be answered (K-20)
            log.error(f"an HTLC is failed because of a bug\n{traceback.format_exc()}")
            self.host.fail(call.id_raw, NODE_FAILURE)

    def _take_htlc(self, call: Any) -> None:
        if call.next_scid in self.set_aside:
            self.host.fail(call.id_raw, TEMPORARY)
            return
        if call.next_scid not in self.interest.scids:
            if call.forward_to in self.interest.channel_ids:
                self.host.fail(call.id_raw, TEMPORARY)  # rule:7
            else:
                self.host.let_go(call.id_raw)
            return
        try:
            payload = tlv.read_payload(call.payload_hex)
        except MalformedTlv as error:
            log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} has a broken payload: {error}")
            self.host.fail(call.id_raw, TEMPORARY)
            return
        amt_to_forward_msat, outgoing_cltv_value = payload.amt_to_forward_msat, payload.outgoing_cltv_value
        if payload.blinded or amt_to_forward_msat is None or outgoing_cltv_value is None:  # C-25
            why = "is inside a blinded path" if payload.blinded else "names no amount or no expiry"
            log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} {why}: no fee can be taken from it")
            self.host.fail(call.id_raw, TEMPORARY)
            return
        self.incoming.once_known(self.rpc, call, lambda: self._take(call, amt_to_forward_msat, outgoing_cltv_value))

    def _take(self, call: Any, amt_to_forward_msat: int, outgoing_cltv_value: int) -> None:
        """Let a part in, known by the id of its channel where that is known (rule:25)."""
        channel, htlc_id = self.names.key(call.in_scid, call.htlc_id, self.sessions.index)
        htlc = IncomingHtlc(
            jit_scid=call.next_scid,
            payment_hash=call.payment_hash,
            in_scid=channel if isinstance(channel, int) else call.in_scid,
            htlc_id=htlc_id,
            amount_msat=call.amount_msat,
            amt_to_forward_msat=amt_to_forward_msat,
            cltv_expiry=call.cltv_expiry,
            outgoing_cltv_value=outgoing_cltv_value,
            in_channel=channel if isinstance(channel, str) else "",
        )
        too_few = self.forward_limits.part_refusal(call.cltv_expiry, outgoing_cltv_value)
        jit = self.sessions.buys.get(call.next_scid)
        agreed = jit is not None and call.cltv_expiry >= outgoing_cltv_value + jit.terms.cltv_expiry_delta_blocks
        if too_few is not None and agreed and htlc.key not in self.sessions.index:  # else the core says so (C-04)
            log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} is not taken: {too_few}")
            self.host.fail(call.id_raw, TEMPORARY)
            return
        refusal = self._refusal(call, htlc.key, outgoing_cltv_value)
        if refusal is not None:
            self.parts.hold(htlc.key, call)
            self.carry_out((FailParts((htlc.key,), refusal),))
            return
        actions = self.sessions.part(htlc, self.clock.now_ms(), self.clock.wall_ms())
        self.parts.hold(htlc.key, call)
        self.carry_out(actions)

    def _refusal(self, call: Any, key: PartKey, outgoing_cltv_value: int) -> str | None:
        """Return why this part may not be held. What is held for a payment the core bounds itself (rule:24)."""
        jit = self.sessions.buys.get(call.next_scid)
        if jit is None or key in self.sessions.index:
            return None
        if jit.paid:  # people:S16: over the alias a part waits only while its channel is not back
            waits = jit.channel is not None and jit.channel.channel_id in self.effects.unready
            room = not waits or self.desk.gate.part(len(self.parts), self.parts.held_msat, call.amount_msat)
            return None if room else TEMPORARY
        assert self.settings is not None
        if outgoing_cltv_value - self.sessions.height > self.settings.max_hold_blocks:
            self.desk.refusals.count(Refusal.HOLD_TOO_LONG)
            return EXPIRY_TOO_FAR  # rule:18: so long the client could bind our coins
        return None

    def _on_forward_event(self, forward_event: dict[str, Any], **_: Any) -> None:
        status, preimage = forward_event["status"], forward_event.get("preimage")
        if status == "offered" or (status == "settled") != (preimage is not None):
            return  # a settlement without its preimage proves nothing (rule:16)
        in_scid, htlc_id = parse_scid(forward_event["in_channel"]), forward_event["in_htlc_id"]
        payment_hash = bytes.fromhex(forward_event["payment_hash"])
        end = payment_hash, None if preimage is None else bytes.fromhex(preimage)
        if payment_hash in self.sessions.by_hash:
            self.exposure.part_failed(payment_hash, forward_event)
        key = self.names.key(in_scid, htlc_id, self.sessions.index)
        if key in self.sessions.index or payment_hash not in self.sessions.by_hash:
            self.carry_out(self.sessions.resolved(key, *end))
        else:
            self.host.spawn(self._resolve_renamed(in_scid, htlc_id, *end))

    async def _resolve_renamed(self, in_scid: int, htlc_id: int, payment_hash: bytes, preimage: bytes | None) -> None:
        """A part of ours under a name we do not know: its channel may have been confirmed since it came (cln:H3)."""
        which = {"short_channel_id": format_scid(in_scid)}
        for channel in await self.until_told("listpeerchannels", lambda: list_peer_channels(self.rpc, **which)):
            self.names.learn(channel.channel_id, channel.scids)
        key = self.names.key(in_scid, htlc_id, self.sessions.index)
        self.carry_out(self.sessions.resolved(key, payment_hash, preimage))

    # Facts of the node -----------------------------------------------------------------------------

    def _on_connect(self, connect: dict[str, Any], **_: Any) -> None:
        self._peer(connect["id"], True)

    def _on_disconnect(self, disconnect: dict[str, Any], **_: Any) -> None:
        self._peer(disconnect["id"], False)

    def _peer(self, peer_id: str, online: bool) -> None:
        if self.settings is not None:
            self.effects.watch.all_changed()
            self.carry_out(self.sessions.peer(peer_id, online, self.clock.wall_ms()))

    def _on_block(self, block_added: dict[str, Any], **_: Any) -> None:
        if self.settings is not None:
            self.carry_out(self.sessions.block(block_added["height"]))
            self.host.spawn(self.lookout.block(block_added["height"]))
            self.host.spawn(self.oversight.block())
            self._fill_pool()

    def _on_channel_state(self, channel_state_changed: dict[str, Any], **_: Any) -> None:
        if self.settings is None:
            return
        channel_id = channel_state_changed["channel_id"]
        self.effects.watch.changed(channel_id)
        if channel_state_changed["new_state"] not in CLOSING:
            return
        self._closed(channel_id, channel_state_changed["new_state"], channel_state_changed.get("cause", ""))
        if channel_state_changed["new_state"] in BACK:
            self.carry_out(self.sessions.money_back(channel_id))

    def _closed(self, channel_id: str, state: str = "CLOSED", cause: str = "") -> None:
        """Tell all who are concerned that this channel is closing or gone."""
        self.exposure.channel_state(channel_id, state, cause)
        if state == "CLOSED":
            self.shut.gone(channel_id)
        self.afterwards.closed(channel_id)
        self._channel_closed(channel_id)

    def _never_funded(self, channel_id: str) -> None:
        """This channel is gone, and nothing was put into it."""
        self._closed(channel_id)
        self.carry_out(self.sessions.money_back(channel_id))

    def _channel_closed(self, channel_id: str) -> None:
        """Tell the sessions and buys that it belongs to."""
        self.carry_out(self.sessions.channel_closed(channel_id))

    def _on_onion_message_lost(self, onionmessage_forward_fail: dict[str, Any], **_: Any) -> None:
        """A-04: lightningd maps scids of onion messages itself and knows no jit scid; an operator should see it."""
        text = str(onionmessage_forward_fail.get("next_short_channel_id_dir", "")).partition("/")[0]
        if self.settings is not None and text and _scid(text) in self.interest.scids:
            log.info(f"an onion message for jit scid {text} was lost: lightningd cannot forward it")

    async def _on_rpc_command(self, rpc_command: dict[str, Any], **_: Any) -> dict[str, Any]:
        """A channel is to be closed or spliced (A-06, cln:N3), or the node is to end."""
        if self.settings is None:
            return {"result": "continue"}
        if rpc_command["method"] in ENDINGS:
            self._sell_no_more(rpc_command["method"])
            return {"result": "continue"}
        refusal = await self.unfinished.judge(rpc_command)
        if refusal is not None or rpc_command["method"] != "close":
            return refusal or {"result": "continue"}
        return await self.afterwards.judge(rpc_command)

    def _sell_no_more(self, method: str) -> None:
        """lightningd waits for HTLCs or ends, and tells plugins nothing else (cln:N8)."""
        if not self.desk.paused:
            self.desk.paused = True
            log.info(f"`{method}` was called: nothing is sold until `lsps2-resume` or the next start")

    # End -----------------------------------------------------------------------------------------

    async def _shutdown(self) -> None:
        if self.settings is None:
            return
        self.effects.stop()
        self.incoming.give_up()
        self.effects.carry_out(self.sessions.shutdown())
        if self.metrics is not None:
            await self.metrics.close()
        await self.rpc.close()


def _scid(text: str) -> int:
    try:
        return parse_scid(text)
    except MalformedField:
        return -1


def main(announce: bool = False) -> int:
    """Entry point: runs until lightningd ends us."""
    if built_in.is_beside(BUILT_IN, os.getpid()):
        return built_in.stand_aside(BUILT_IN, add_options, OWN_PREFIX)
    service = Service(announce)
    code: int = asyncio.run(service.host.run())
    return code


def main_announced() -> int:
    """Entry point of `lsps2fast-service-announced`: sets feature bit 729, so lightningd must start it itself."""
    return main(announce=True)


if __name__ == "__main__":
    sys.exit(main())
