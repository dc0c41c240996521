"""What an operator asks and orders of the running service, as RPC methods; one more that only tests have."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from lsps2fast import BACKEND, __version__
from lsps2fast.errors import ConfigError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import format_scid, parse_msat, parse_node_id, parse_scid
from lsps2fast.table import State
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.service.ledger_rpc import LedgerMethods, add_ledger_methods
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.policy.rules import REUSES
from lsps2fast_plugin.service.rpc_errors import NOT_READY, STATE, UNKNOWN, refusal

log = logging.getLogger(__name__)

WAKE_METHODS = ("payment_incoming", "liquidity_management_request")  # of LSPS5, that an operator may send


def add_methods(host: Host, parts: Callable[[], ServiceParts | None]) -> LedgerMethods:
    """Register them with the host; `parts()` is None before `init`. Returns those that ask the sales ledger."""
    methods = Methods(parts)
    host.method("lsps2-listsessions", methods.list_sessions)
    host.method("lsps2-getsession", methods.get_session)
    host.method("lsps2-stats", methods.stats)
    host.method("lsps2-quote", methods.quote)
    host.method("lsps2-cancel", methods.cancel)
    host.method("lsps2-forgive", methods.forgive)
    host.method("lsps2-fleet", methods.fleet)
    host.method("lsps2-wake", methods.wake)
    host.method("lsps2-listorders", methods.list_orders)
    host.method("lsps2-pause", methods.pause)
    host.method("lsps2-resume", methods.resume)
    if os.environ.get("LSPS2FAST_TEST_CLOCK") == "1":
        host.method("lsps2-dev-advance", methods.advance)
    return add_ledger_methods(host, methods.ready_parts)


class Methods:
    """The methods of one service."""

    def __init__(self, parts: Callable[[], ServiceParts | None]) -> None:
        self._built = parts

    @property
    def _parts(self) -> ServiceParts:
        parts = self._built()
        if parts is None:
            raise refusal(NOT_READY, "lightningd has not started this plugin yet; ask again in a moment")
        return parts

    def ready_parts(self) -> ServiceParts:
        """Return the parts of a service that runs. Raises MethodError before."""
        self._ready()
        return self._parts

    async def list_sessions(self) -> dict[str, Any]:
        """Return live buys with their payment attempts, and channels with our money in them that are not paid for."""
        self._ready()
        return {
            "sessions": [self._describe(buy) for buy in self._parts.offers],
            "unpaid_channels": self._parts.exposure.unpaid_channels(),
        }

    async def get_session(self, jit_channel_scid: str) -> dict[str, Any]:
        """Return one live buy with its payment attempts."""
        return self._describe(self._buy(jit_channel_scid))

    async def quote(
        self, peer_id: str | None = None, token: str | None = None, payment_size_msat: int | str | None = None
    ) -> dict[str, Any]:
        """Return the offers that a client would get now, and why; without a peer_id any client. Changes nothing."""
        self._ready()
        parts = self._parts
        try:
            client = "" if peer_id is None else parse_node_id(peer_id, "peer_id").hex()
            size_msat = None if payment_size_msat is None else _size(payment_size_msat)
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        facts = await parts.supply.facts(client, fresh=True)
        answer = await parts.desk.quote(client, token, facts, size_msat)
        return answer | await self._existing(client, size_msat)

    async def _existing(self, client: str, size_msat: int | None) -> dict[str, Any]:
        """Return the member that says what would go over a channel of this client, and for which part of the fee."""
        reuse, most_msat = self._parts.desk.policy.rules.reuse, await self._parts.finder.most_msat(client)
        if reuse.mode == REUSES[0]:
            return {}
        answer = {"reuse": reuse.mode} | reuse.explain(most_msat)
        carries = {} if size_msat is None else {"carries_it": size_msat <= most_msat}
        return {"existing_channel": answer | carries}

    async def forgive(self, peer_id: str) -> dict[str, Any]:
        """Hold nothing against this client any more: unpaid channels and failed payments of its past."""
        self._ready()
        try:
            client = parse_node_id(peer_id, "peer_id").hex()
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        forgiven = self._parts.exposure.forgive(client)
        log.info(f"{client} was forgiven by the operator: {forgiven}")
        return {"peer_id": client, "forgiven": forgiven}

    async def wake(self, peer_id: str, notification: str = WAKE_METHODS[0]) -> dict[str, Any]:
        """Call the webhooks of a client that is away, for a payment, or because you want liquidity back (LSPS5).

        The answer comes once a server has answered, after ten seconds or so. Where none did, `called` is false and
        `reason` says why: the client is connected, or was called of late; too many calls; an address that is refused.
        """
        self._ready()
        try:
            client = parse_node_id(peer_id, "peer_id").hex()
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        if notification not in WAKE_METHODS:
            raise ConfigError(
                f"notification={notification!r} is none that is sent by hand: {' or '.join(WAKE_METHODS)}"
            )
        waker = self._parts.waker
        if waker is None:
            raise refusal(STATE, "there are no webhooks: lsps2-webhooks is not set")
        if client not in waker.book:
            raise refusal(UNKNOWN, f"{client} has registered no webhook")
        why = await waker.caller.call(client, f"lsps5.{notification}")
        answer = {"peer_id": client, "webhooks": len(waker.book.of(client)), "called": why is None}
        return answer if why is None else {**answer, "reason": why}

    async def fleet(self) -> dict[str, Any]:
        """Return what this node shares with the operator's others: nodes, their policies, what is held of each pot."""
        self._ready()
        fleet = self._parts.fleet
        if fleet is None:
            raise refusal(STATE, "this node is alone: lsps2-fleet is not set")
        return await fleet.state()

    async def list_orders(self, order_id: str | None = None) -> dict[str, Any]:
        """Return the channels that clients ordered with LSPS1, the newest first; or one of them."""
        self._ready()
        orders = self._parts.orders
        return {"orders": [] if orders is None else orders.book.describe(order_id)}

    async def cancel(self, jit_channel_scid: str) -> dict[str, Any]:
        """Take an unpaid offer back: parts it holds fail, later ones find no channel. A channel being made goes on."""
        buy = self._buy(jit_channel_scid)
        parts = self._parts
        if parts.sessions.buys[buy.jit_scid].paid:
            raise refusal(STATE, f"{jit_channel_scid} is paid for and stays an alias of its channel until valid_until")
        parts.sales.cancelled(buy.jit_scid)
        parts.driver.carry_out(parts.sessions.cancel(buy.jit_scid))
        log.info(f"{jit_channel_scid} of {buy.peer_id} was cancelled by the operator")
        return {"jit_channel_scid": jit_channel_scid, "ended": parts.offers.get(buy.jit_scid) is None}

    async def pause(self) -> dict[str, Any]:
        """Sell nothing from now on, also after a restart: menus are empty, buys refused. What is sold is honoured."""
        return await self._pause(True)

    async def resume(self) -> dict[str, Any]:
        """Sell again after `lsps2-pause`."""
        return await self._pause(False)

    async def _pause(self, yes: bool) -> dict[str, Any]:
        self._ready()
        await self._parts.desk.pause(yes)
        log.info("selling is paused by the operator" if yes else "selling goes on")
        return {"paused": yes, "live_buys": len(self._parts.offers)}

    def _buy(self, jit_channel_scid: str) -> Buy:
        self._ready()
        try:
            buy = self._parts.offers.get(parse_scid(jit_channel_scid, "jit_channel_scid"))
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        if buy is None:
            raise refusal(UNKNOWN, f"no live buy has the jit scid {jit_channel_scid}; lsps2-listsessions shows all")
        return buy

    async def stats(self) -> dict[str, Any]:
        """Return counters since the start."""
        self._ready()
        return stats_of(self._parts)

    async def advance(self, seconds: float, calls: bool = False) -> dict[str, Any]:
        """Turn the clock forward, for tests; with `calls` also for RPC calls that wait for their answer."""
        self._parts.clock.advance(float(seconds))
        if calls:
            self._parts.rpc.turned(float(seconds))
        return {"now_ms": self._parts.clock.now_ms()}

    def _ready(self) -> None:
        if not self._parts.interest.loaded:
            raise refusal(NOT_READY, "the journal is still being read; ask again in a moment")

    def _describe(self, buy: Buy) -> dict[str, Any]:
        core = self._parts.sessions.buys[buy.jit_scid]
        return {
            "jit_channel_scid": format_scid(buy.jit_scid),
            "peer_id": buy.peer_id,
            "payment_size_msat": buy.payment_size_msat,
            "valid_until": buy.params.raw["valid_until"],
            "client_trusts_lsp": buy.client_trusts_lsp,
            "attempts": core.attempts,
            "paid": core.paid,
            "channel_id": None if core.channel is None else core.channel.channel_id,
            "payments": [
                {
                    "payment_hash": payment_hash.hex(),
                    "state": State(session.state).name,
                    "parts": len(session.parts),
                    "sum_msat": session.sum_msat,
                    "opening_fee_msat": session.fee_msat,
                    "existing_channel_id": None if session.existing is None else session.existing.channel_id,
                }
                for payment_hash, session in core.sets.items()
            ],
        }


def _size(value: int | str) -> int:
    return parse_msat(_digits(value), "payment_size_msat")


def _digits(value: int | str) -> str:
    """Read an amount as it is given on a command line: a number, or its digits."""
    return str(value) if type(value) is int else str(value).removesuffix("msat")


def open_offers(parts: ServiceParts) -> dict[str, dict[str, Any]]:
    """Return how many unpaid offers are out, beside the most there may be."""
    used, most = parts.offers.open_count(), parts.settings.limits.buys_total
    return {"open_offers": {"used_offers": used, "limit_offers": most, "binds": used >= most}}


def stats_of(parts: ServiceParts) -> dict[str, Any]:
    """Return the answer of `lsps2-stats`, which the page for Prometheus is made of, too."""
    sleeping = None if parts.waker is None else parts.waker.sleepers.nearest_expiry()
    nearest = min((each for each in (parts.held.nearest_expiry(), sleeping) if each is not None), default=None)
    withheld_ms = parts.exposure.oldest_withheld_ms()
    ledger, stages, unread = parts.sales.state(), parts.sales.tracker.by_stage(), parts.host.shed()
    return {
        "version": __version__,
        "core": BACKEND,
        "node_id": parts.our_node.id,
        "network": parts.our_node.network,
        "live_buys": len(parts.offers),
        "live_sessions": parts.sessions.live,
        "menus": parts.desk.menus,
        "buys": parts.desk.buys,
        "held_parts": len(parts.held_kinds.all) + len(parts.incoming),
        "held_msat": parts.held_kinds.all.held_msat,
        "withheld_channels": len(parts.shut.withheld),
        "unpaid_channels": len(parts.exposure.unpaid_channels()),
        "at_risk_msat": parts.exposure.at_risk_msat(),
        "free_coins_sat": parts.coins.low_water.free_sat,
        "pool_coins": None if parts.pool is None else parts.pool.ready,
        "coin_splits": 0 if parts.pool is None else parts.pool.splits,
        "batches": parts.effects.batches.counts.transactions,
        "batched_channels": parts.effects.batches.counts.channels,
        "batches_spoilt": parts.effects.batches.counts.spoilt,
        "channels_to_keep_open": len(parts.afterwards),
        "closes_refused": parts.afterwards.refused,
        "closes_by_rule": parts.closer.state(),
        "payments": {name.lower(): count for name, count in parts.books.ends.items()},
        "failed_by": dict(parts.reports.failed_by),
        "failed_parts": dict(parts.books.failed_parts),
        "offers_at_a_loss": parts.oversight.at_a_loss.offers,
        "offers_at_a_loss_msat": parts.oversight.at_a_loss.msat,
        "refusals": parts.desk.refusals.as_dict(),
        "refused_parts": dict(parts.sessions.refused),
        "fees_earned_msat": parts.reports.fees_msat,
        "errors_sent": {str(code): count for code, count in sorted(parts.desk.errors.items())},
        "limits": parts.exposure.limits() | parts.held_limits.limits() | open_offers(parts),
        "held_parts_limit": parts.settings.gate.held_parts,
        "held_msat_limit": parts.settings.gate.held_sat * 1000,
        "hold_blocks_limit": parts.settings.max_hold_blocks,
        "paused": parts.desk.paused,
        "fleet_joined": None if parts.fleet is None else parts.fleet.holds.joined,
        "fleet_nodes": None if parts.fleet is None else parts.fleet.holds.nodes,
        "policy": parts.desk.policy.rules.source,
        "journal_commits": parts.store.commits + parts.notebook.commits,
        "unread": unread.as_dict(),
        "unread_by_peer": unread.worst(5),
        "alarms": len(parts.alarms),
        "alarms_by_kind": dict(parts.alarms.by_kind),
        "ledger": ledger,
        "mining_paid_msat": ledger["mining_paid_msat"],
        "ledger_in_trouble": parts.sales.is_behind,
        "payments_by_stage": stages,
        "payment_failures": [
            {"stage": stage, "failed_by": who, "code": code, "count": count}
            for (stage, who, code), count in sorted(parts.reports.failures.items())
        ],
        "broadcasts_owed": stages["broadcasting"],
        "held_blocks_left": None if nearest is None else nearest - parts.driver.height(),
        "oldest_withheld_s": 0 if withheld_ms is None else max(parts.clock.wall_ms() - withheld_ms, 0) // 1000,
        "coins_needed_sat": parts.books.committed_sat(),
        "wake_calls": {} if parts.waker is None else dict(parts.waker.caller.outcomes),
        "wake_held": None if parts.waker is None else len(parts.waker.sleepers),
        "wake_up": None if parts.waker is None else parts.waker.state(),
    }
