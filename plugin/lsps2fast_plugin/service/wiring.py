"""Builds the parts of a service and tells them of each other; nothing is asked and nothing begins here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from lsps2fast._sessions import Sessions
from lsps2fast.actions import TEMPORARY, Channel
from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast.lsps.lsps2 import parse_scid
from lsps2fast_plugin.cln.channel_types import OurNode
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.models import list_peer_channels
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.cln.scid_aliases import ScidAliases
from lsps2fast_plugin.service.alarms import Alarms
from lsps2fast_plugin.service.bookkeeper import BookkeeperNotes
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.closing.closer import Closer
from lsps2fast_plugin.service.closing.journal import CloseJournal
from lsps2fast_plugin.service.closing.survey import Survey
from lsps2fast_plugin.service.closing.ties import Ties
from lsps2fast_plugin.service.coin_pool import CoinPool
from lsps2fast_plugin.service.coins import Coins, LowWater
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.events import SessionEvents
from lsps2fast_plugin.service.executor import ActionExecutor
from lsps2fast_plugin.service.existing_channels import RoomFinder
from lsps2fast_plugin.service.fee_notes import FeeNotes
from lsps2fast_plugin.service.forward_limits import ForwardLimits
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.held_limits import HeldLimits
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.incoming_names import IncomingNames
from lsps2fast_plugin.service.known_node import KnownFeerates
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.liquidity import NodeLiquidity
from lsps2fast_plugin.service.lsps1.order_parts import SharedHashes
from lsps2fast_plugin.service.missed_events import MissedEventPoller
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.oversight import Oversight
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.payment_reports import PaymentReports
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.reconcile import Reconciler
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger, path_of
from lsps2fast_plugin.service.sales_ledger.tracker import AttemptTracker, Ended
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.session_store import SessionStore
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.supply import Supply, largest_payable
from lsps2fast_plugin.service.unfinished_guard import UnfinishedChannelGuard

if TYPE_CHECKING:
    from lsps2fast_plugin.service.fleet.fleet import Fleet
    from lsps2fast_plugin.service.lsps1.orders import Orders
    from lsps2fast_plugin.service.wake.posting import Post


def build_parts(
    *,
    host: Host,
    interest: HtlcFilter,
    clock: Clock,
    settings: Settings,
    rpc: Rpc,
    lightning_dir: str,
    replays: bool,
    reload_ledger: Callable[[], None],
    post: Post | None = None,
) -> ServiceParts:
    """Return the parts. `replays`: lightningd has just started, and asks again for each HTLC that it held (cln:R1);
    `reload_ledger` brings the sales ledger up to date with the journal; `post` makes requests to webhooks.
    """
    notebook = DatastoreRecords(rpc, lambda what, work: driver.insist(what, work))
    desk = Desk(settings, rpc, notebook, clock)
    shared = SharedHashes(interest.payment_hashes)
    sessions = Sessions(
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
        hashes=shared,
    )
    offers = BuyRegistry(settings.limits)
    alarms = Alarms(host.send, clock.wall_ms)
    our_node, forward_limits = OurNode(), ForwardLimits()
    driver = SessionDriver(
        sessions=sessions, offers=offers, interest=interest, clock=clock, forward_limits=forward_limits
    )
    store = SessionStore(rpc, driver.insist, desk.unused)
    low_water = LowWater(settings.coin_low_water_sat, driver.alarm)
    coins = Coins(rpc, driver.height, clock.now_ms, low_water)
    known = KnownFeerates(rpc, clock.now_ms)
    view = NodeLiquidity(rpc, coins, known, clock.now_ms, our_node)
    exposure = CapitalAtRisk(
        desk.policy,
        notebook,
        clock,
        host.spawn,
        feerate_perkw=view.opening_perkw,
        last_perkw=lambda: funder.last_perkw,
        free_sat=lambda: low_water.free_sat,
        sessions=driver,
    )
    shut = ShutChannels(interest, exposure.is_unpaid, lambda peer_id: list_peer_channels(rpc, id=peer_id))
    afterwards = ChannelLeaseGuard(
        rpc=rpc,
        store=store,
        clock=clock,
        height=driver.height,
        guard=settings.close_guard,
        keep_ms=settings.keep_records_ms,
        leave=desk.leave,
    )
    terms_of = desk.terms_of
    reports = PaymentReports(lambda scid: offers.get(parse_scid(scid)), clock.wall_ms)
    notes = BookkeeperNotes(rpc, host.spawn, clock, wanted=settings.bookkeeper_notes)

    def ended(payment: Ended) -> None:
        reports.ended(payment)
        notes.ended(payment.attempt)

    sales = SalesLedger(
        path=path_of(settings.ledger, lightning_dir),
        tracker=AttemptTracker(
            wall_ms=clock.wall_ms,
            now_ms=clock.now_ms,
            buy_of=offers.get,
            core_of=sessions.buys.get,
            terms_of=terms_of,
            is_online=sessions.is_online,
            collect_ms=settings.collect_ms,
        ),
        terms_of=terms_of,
        clock=clock,
        alarm=driver.alarm,
        catch_up=reload_ledger,
        ended=ended,
        threadless=None if host.has_threads else host.spawn,
        ships=settings.fleet is not None,
    )
    fleet = _fleet(desk, settings, notebook, clock, offers, alarms, sales.path, sessions)
    books = SessionEvents(
        host=host,
        sessions=sessions,
        offers=offers,
        exposure=exposure,
        afterwards=afterwards,
        attempt_ended=lambda scid, hash_, outcome: store.attempt_ended(scid, hash_, outcome, clock.wall_ms()),
        sales=sales,
        touched=None if fleet is None else fleet.touched,
    )
    funder = Funder(
        rpc,
        coins,
        known,
        desk.zero_reserve,
        our_node,
        largest_sat=lambda: desk.policy.rules.capacity.max_sat,
        unforwardable=driver.unforwardable,
    )
    broadcaster = Broadcaster(rpc, coins, driver.alarm, clock.now_ms)
    names = ScidAliases()
    reconciler = Reconciler(rpc, replays, names)
    lookout = MissedEventPoller(funder=funder, broadcaster=broadcaster, tables=reconciler, sessions=driver)
    held = HeldHtlcs(host)
    kinds = HeldKinds(held)
    room = PromisedRoom()

    def reuse_fee_msat(opening_fee_msat: int) -> int | None:
        return desk.policy.rules.reuse.fee_msat(opening_fee_msat)  # the policy of now: it is read again when it changes

    finder = RoomFinder(rpc, room, forward_limits, shut.lets_nothing_out, reuse_fee_msat)

    def sent(peer_id: str, channel: Channel) -> None:
        driver.funding_sent(peer_id, channel)
        notes.funding_sent(peer_id, channel)

    opener, fee_notes = Opener(rpc, desk.zero_reserve), FeeNotes(notebook)
    effects = ActionExecutor(
        funder=funder,
        opener=opener,
        broadcaster=broadcaster,
        store=store,
        answers=held,
        clock=clock,
        driver=driver,
        withheld=shut.withhold,
        capital=exposure,
        sent=sent,
        alarms=alarms,
        rpc=rpc,
        finder=finder,
        room=room,
        fee_notes=fee_notes,
        batch_window_ms=settings.batch_window_ms,
        batch_channels=settings.batch_channels,
    )
    kinds.returning.add(effects.returning)
    driver.attach(books=books, executor=effects, capital=exposure, leases=afterwards, shut=shut, lookout=lookout)
    waker = None
    if settings.webhooks > 0:
        from lsps2fast_plugin.service.wake.wiring import build_waker  # a node without webhooks needs no TLS

        waker = build_waker(
            host=host,
            rpc=rpc,
            clock=clock,
            settings=settings,
            notebook=notebook,
            desk=desk,
            offers=offers,
            driver=driver,
            shut=shut,
            held=held,
            kinds=kinds,
            room=room,
            post=post,
        )
        kinds.sleepers(waker.sleepers)
    supply = Supply(
        view,
        books,
        desk,
        settings.max_parts,
        settings.max_overpay_ppm,
        partial(largest_payable, settings, forward_limits),
    )

    unfinished = UnfinishedChannelGuard(rpc=rpc, sales=driver, guard=settings.close_guard)

    def make_orders() -> Orders:
        from lsps2fast_plugin.service.lsps1.wiring import build_orders  # a node that sells none ahead needs none of it

        return build_orders(
            host=host,
            rpc=rpc,
            clock=clock,
            settings=settings,
            notebook=notebook,
            desk=desk,
            driver=driver,
            shut=shut,
            funder=funder,
            opener=opener,
            broadcaster=broadcaster,
            capital=exposure,
            leases=afterwards,
            unfinished=unfinished,
            supply=supply,
            shared=shared,
            held=kinds,
            alarms=alarms,
            scid_taken=lambda scid: scid in offers or view.scid_taken(scid),
            replays=replays,
        )

    ties = Ties(offers=offers, driver=driver, capital=exposure, shut=shut, held=held, waker=waker)
    closer = Closer(
        rpc=rpc,
        survey=Survey(rpc, sales, afterwards, ties),
        journal=CloseJournal(notebook),
        sales=sales,
        policy=desk.policy,
        rates=view,
        clock=clock,
        is_on=settings.close_by_rule,
    )
    pool = settings.coin_pool and CoinPool(
        rpc=rpc,
        coins=coins,
        size=settings.coin_pool,
        feerate_perkw=view.opening_perkw,
        keep_sat=lambda: desk.policy.rules.capacity.keep_onchain_sat,
        alarm=driver.alarm,
    )
    return ServiceParts(
        host=host,
        clock=clock,
        settings=settings,
        rpc=rpc,
        interest=interest,
        held=held,
        held_kinds=kinds,
        held_limits=HeldLimits(sessions, kinds.beside_sales),
        notebook=notebook,
        desk=desk,
        offers=offers,
        sessions=sessions,
        driver=driver,
        store=store,
        reconciler=reconciler,
        names=names,
        incoming=IncomingNames(names, host.spawn, lambda call: host.fail(call.id_raw, TEMPORARY)),
        our_node=our_node,
        forward_limits=forward_limits,
        coins=coins,
        funder=funder,
        finder=finder,
        pool=pool,
        view=view,
        supply=supply,
        exposure=exposure,
        fee_notes=fee_notes,
        shut=shut,
        oversight=Oversight(policy=desk.policy, capital=exposure, clock=clock, rpc=rpc, offers=driver, node=view),
        afterwards=afterwards,
        unfinished=unfinished,
        books=books,
        sales=sales,
        reports=reports,
        effects=effects,
        alarms=alarms,
        lookout=lookout,
        closer=closer,
        fleet=fleet,
        waker=waker,
        orders=make_orders() if settings.orders != "off" else None,
        make_orders=make_orders,
    )


def _fleet(
    desk: Desk,
    settings: Settings,
    notebook: DatastoreRecords,
    clock: Clock,
    offers: BuyRegistry,
    alarms: Alarms,
    ledger_path: str | None,
    sessions: Sessions,
) -> Fleet | None:
    if desk.holds is None:
        return None
    from lsps2fast_plugin.service.fleet.fleet import Fleet  # a node that is alone does not need it

    def largest_promise_sat() -> int:
        cores = ((buy, sessions.buys.get(buy.jit_scid)) for buy in offers)
        return max((buy.capacity_sat for buy, core in cores if core is not None and core.channel is None), default=0)

    return Fleet(
        holds=desk.holds,
        policy=desk.policy,
        notebook=notebook,
        clock=clock,
        open_count=offers.open_count,
        buys_per_peer=settings.limits.buys_per_peer,
        alarm=alarms.tell,
        ledger_path=ledger_path,
        largest_promise_sat=largest_promise_sat,
        clients=lambda: {*desk.policy.ledger.peers(), *(buy.peer_id for buy in offers)},
    )
