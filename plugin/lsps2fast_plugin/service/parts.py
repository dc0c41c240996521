"""What a running service is made of: built once by `app`, used by recovery, intake and the operator's methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsps2fast._sessions import Sessions
from lsps2fast.lsps.buys import BuyRegistry
from lsps2fast_plugin.cln.channel_types import OurNode
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.cln.scid_aliases import ScidAliases
from lsps2fast_plugin.service.alarms import Alarms
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.closing.closer import Closer
from lsps2fast_plugin.service.coin_pool import CoinPool
from lsps2fast_plugin.service.coins import Coins
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
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.liquidity import NodeLiquidity
from lsps2fast_plugin.service.missed_events import MissedEventPoller
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.oversight import Oversight
from lsps2fast_plugin.service.payment_reports import PaymentReports
from lsps2fast_plugin.service.reconcile import Reconciler
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.session_store import SessionStore
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.supply import Supply
from lsps2fast_plugin.service.unfinished_guard import UnfinishedChannelGuard

if TYPE_CHECKING:
    from lsps2fast_plugin.service.fleet.fleet import Fleet
    from lsps2fast_plugin.service.lsps1.orders import Orders
    from lsps2fast_plugin.service.wake.waker import Waker


@dataclass(kw_only=True)
class ServiceParts:
    """The parts, by the names that all modules use. Only `orders` is set later, where a start finds some."""

    host: Host
    clock: Clock
    settings: Settings
    rpc: Rpc
    interest: HtlcFilter
    held: HeldHtlcs
    held_kinds: HeldKinds
    held_limits: HeldLimits
    notebook: DatastoreRecords
    desk: Desk
    offers: BuyRegistry
    sessions: Sessions
    driver: SessionDriver
    store: SessionStore
    reconciler: Reconciler
    names: ScidAliases
    incoming: IncomingNames
    our_node: OurNode
    forward_limits: ForwardLimits
    coins: Coins
    funder: Funder
    finder: RoomFinder
    pool: CoinPool | None
    view: NodeLiquidity
    supply: Supply
    exposure: CapitalAtRisk
    fee_notes: FeeNotes
    shut: ShutChannels
    oversight: Oversight
    afterwards: ChannelLeaseGuard
    unfinished: UnfinishedChannelGuard
    books: SessionEvents
    sales: SalesLedger
    reports: PaymentReports
    effects: ActionExecutor
    alarms: Alarms
    lookout: MissedEventPoller
    closer: Closer
    fleet: Fleet | None
    waker: Waker | None
    orders: Orders | None
    make_orders: Callable[[], Orders]
