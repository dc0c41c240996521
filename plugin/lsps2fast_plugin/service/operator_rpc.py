"""What an operator asks and orders of the running service, as RPC methods; one more that only tests have."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from lsps2fast import BACKEND, __version__
from lsps2fast.errors import ConfigError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import format_scid, parse_msat, parse_node_id, parse_scid
from lsps2fast.table import State

if TYPE_CHECKING:
    from lsps2fast_plugin.service.app import Service

log = logging.getLogger(__name__)


def add_methods(service: Service) -> None:
    """Register them with the host."""
    methods = Methods(service)
    service.host.method("lsps2-listsessions", methods.list_sessions)
    service.host.method("lsps2-getsession", methods.get_session)
    service.host.method("lsps2-stats", methods.stats)
    service.host.method("lsps2-quote", methods.quote)
    service.host.method("lsps2-cancel", methods.cancel)
    service.host.method("lsps2-forgive", methods.forgive)
    service.host.method("lsps2-pause", methods.pause)
    service.host.method("lsps2-resume", methods.resume)
    if os.environ.get("LSPS2FAST_TEST_CLOCK") == "1":
        service.host.method("lsps2-dev-advance", methods.advance)


class Methods:
    """The methods of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_sessions(self) -> dict[str, Any]:
        """Return every live buy with its payment attempts, and every channel with our
        money in it that is not paid for.
        """
        self._ready()
        return {
            "sessions": [self._describe(buy) for buy in self._service.offers],
            "unpaid_channels": self._service.exposure.unpaid_channels(),
        }

    async def get_session(self, jit_channel_scid: str) -> dict[str, Any]:
        """One live buy with its payment attempts."""
        return self._describe(self._buy(jit_channel_scid))

    async def quote(
        self, peer_id: str | None = None, token: str | None = None, payment_size_msat: int | str | None = None
    ) -> dict[str, Any]:
        """Return what a client would be offered now, and why; without a peer_id what anybody would. Changes nothing."""
        self._ready()
        service = self._service
        try:
            client = "" if peer_id is None else parse_node_id(peer_id, "peer_id").hex()
            size_msat = None if payment_size_msat is None else _size(payment_size_msat)
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        facts = await service.supply.facts(client, fresh=True)
        return await service.desk.quote(client, token, facts, size_msat)

    async def forgive(self, peer_id: str) -> dict[str, Any]:
        """Hold nothing against this client any more: unpaid channels and failed payments of its past."""
        self._ready()
        try:
            client = parse_node_id(peer_id, "peer_id").hex()
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        forgiven = self._service.exposure.forgive(client)
        self._service.host.log(f"{client} was forgiven by the operator: {forgiven}", "info")
        return {"peer_id": client, "forgiven": forgiven}

    async def cancel(self, jit_channel_scid: str) -> dict[str, Any]:
        """Take an unpaid offer back: parts it holds fail, later ones find no channel. A channel being made goes on."""
        buy = self._buy(jit_channel_scid)
        service = self._service
        if service.sessions.buys[buy.jit_scid].paid:
            raise ConfigError(f"{jit_channel_scid} is paid for and stays an alias of its channel until valid_until")
        service.carry_out(service.sessions.cancel(buy.jit_scid))
        log.info(f"{jit_channel_scid} of {buy.peer_id} was cancelled by the operator")
        return {"jit_channel_scid": jit_channel_scid, "ended": service.offers.get(buy.jit_scid) is None}

    async def pause(self) -> dict[str, Any]:
        """Sell nothing from now on, also after a restart: menus are empty, buys refused. What is sold is honoured."""
        return await self._pause(True)

    async def resume(self) -> dict[str, Any]:
        """Sell again after `lsps2-pause`."""
        return await self._pause(False)

    async def _pause(self, yes: bool) -> dict[str, Any]:
        self._ready()
        await self._service.desk.pause(yes)
        log.info("selling is paused by the operator" if yes else "selling goes on")
        return {"paused": yes, "live_buys": len(self._service.offers)}

    def _buy(self, jit_channel_scid: str) -> Buy:
        self._ready()
        try:
            buy = self._service.offers.get(parse_scid(jit_channel_scid, "jit_channel_scid"))
        except MalformedField as error:
            raise ConfigError(str(error)) from error
        if buy is None:
            raise ConfigError(f"no live buy has the jit scid {jit_channel_scid}; lsps2-listsessions shows all")
        return buy

    async def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        self._ready()
        return stats_of(self._service)

    async def advance(self, seconds: float, calls: bool = False) -> dict[str, Any]:
        """For tests: turn the clock forward; with `calls` also for RPC calls that wait for their answer."""
        self._service.clock.advance(float(seconds))
        if calls:
            self._service.rpc.turned(float(seconds))
        return {"now_ms": self._service.clock.now_ms()}

    def _ready(self) -> None:
        if not self._service.interest.loaded:
            raise ConfigError("the journal is still being read; ask again in a moment")

    def _describe(self, buy: Buy) -> dict[str, Any]:
        core = self._service.sessions.buys[buy.jit_scid]
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
                }
                for payment_hash, session in core.sets.items()
            ],
        }


def _size(value: int | str) -> int:
    return parse_msat(_digits(value), "payment_size_msat")


def _digits(value: int | str) -> str:
    """Return an amount as people give it on a command line: a number, or its digits."""
    return str(value) if type(value) is int else str(value).removesuffix("msat")


def stats_of(service: Service) -> dict[str, Any]:
    """Return the answer of `lsps2-stats`, and what the page for Prometheus is made of."""
    return {
        "version": __version__,
        "core": BACKEND,
        "live_buys": len(service.offers),
        "live_sessions": service.sessions.live,
        "menus": service.desk.menus,
        "buys": service.desk.buys,
        "held_parts": len(service.parts) + len(service.incoming),
        "held_msat": service.parts.held_msat,
        "withheld_channels": len(service.shut.withheld),
        "unpaid_channels": len(service.exposure.unpaid_channels()),
        "at_risk_msat": service.exposure.at_risk_msat(),
        "free_coins_sat": service.coins.low_water.free_sat,
        "pool_coins": None if service.pool is None else service.pool.ready,
        "coin_splits": 0 if service.pool is None else service.pool.splits,
        "channels_to_keep_open": len(service.afterwards),
        "closes_refused": service.afterwards.refused,
        "payments": {name.lower(): count for name, count in service.books.ends.items()},
        "failed_parts": dict(service.books.failed_parts),
        "offers_at_a_loss": service.oversight.at_a_loss.offers,
        "offers_at_a_loss_msat": service.oversight.at_a_loss.msat,
        "refusals": service.desk.refusals.as_dict(),
        "fees_earned_msat": service.books.fees_earned_msat,
        "errors_sent": {str(code): count for code, count in sorted(service.desk.errors.items())},
        "limits": service.exposure.limits(),
        "held_parts_limit": 0 if service.settings is None else service.settings.gate.held_parts,
        "held_msat_limit": 0 if service.settings is None else service.settings.gate.held_sat * 1000,
        "hold_blocks_limit": 0 if service.settings is None else service.settings.max_hold_blocks,
        "paused": service.desk.paused,
        "policy": service.desk.policy.rules.source,
        "journal_commits": service.store.commits + service.notebook.commits,
        "alarms": service.effects.alarms,
    }
