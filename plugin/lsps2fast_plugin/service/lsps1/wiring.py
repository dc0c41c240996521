"""Builds the parts that sell channels ahead, apart from `service.wiring`: most nodes never import it."""

from __future__ import annotations

from collections.abc import Callable

from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.alarms import Alarms
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.lsps1.book import OrderBook
from lsps2fast_plugin.service.lsps1.channels import OrderChannels
from lsps2fast_plugin.service.lsps1.desk import OrderDesk
from lsps2fast_plugin.service.lsps1.invoices import OrderInvoices
from lsps2fast_plugin.service.lsps1.order_parts import OrderParts, SharedHashes
from lsps2fast_plugin.service.lsps1.orders import Orders
from lsps2fast_plugin.service.lsps1.steps import OrderSteps
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.supply import Supply
from lsps2fast_plugin.service.unfinished_guard import UnfinishedChannelGuard


def build_orders(
    *,
    host: Host,
    rpc: Rpc,
    clock: Clock,
    settings: Settings,
    notebook: DatastoreRecords,
    desk: Desk,
    driver: SessionDriver,
    shut: ShutChannels,
    funder: Funder,
    opener: Opener,
    broadcaster: Broadcaster,
    capital: CapitalAtRisk,
    leases: ChannelLeaseGuard,
    unfinished: UnfinishedChannelGuard,
    supply: Supply,
    shared: SharedHashes,
    held: HeldKinds,
    alarms: Alarms,
    scid_taken: Callable[[int], bool],
    replays: bool,
) -> Orders:
    """Return what goes on with orders, and takes new ones where `lsps2-lsps1=on`."""
    driver.interest.see_final_hops()
    sold = driver.sessions.by_hash
    parts = OrderParts(driver.interest, shared, sold, host, settings.collect_ms, settings.max_parts)
    held.orders(parts)
    book, invoices = OrderBook(notebook, clock, alarms.tell, parts), OrderInvoices(rpc)
    taker = OrderDesk(
        sells=settings.orders == "on",
        terms=settings.order_terms,
        policy=desk.policy,
        book=book,
        invoices=invoices,
        means=supply,
        clock=clock,
        zero_reserve=settings.zero_reserve,
        is_paused=lambda: desk.paused,
        scid_taken=scid_taken,
        is_online=driver.sessions.is_online,
    )
    channels = OrderChannels(
        funder=funder,
        opener=opener,
        broadcaster=broadcaster,
        effects=driver.effects,
        capital=capital,
        supply=supply,
        shut=shut,
    )
    steps = OrderSteps(
        book=book,
        parts=parts,
        invoices=invoices,
        channels=channels,
        leases=leases,
        clock=clock,
        height=driver.height,
        is_online=driver.sessions.is_online,
        alarm=alarms.tell,
        hold_ms=settings.offline_ms,
        replays=replays,
    )
    orders = Orders(
        book=book,
        parts=parts,
        steps=steps,
        channels=channels,
        leases=leases,
        host=host,
        gate=desk.gate,
        held=held,
        clock=clock,
        height=driver.height,
        alarm=alarms.tell,
        keep_ms=settings.keep_records_ms,
        desk=taker,
    )
    unfinished.guards(orders)
    return orders
