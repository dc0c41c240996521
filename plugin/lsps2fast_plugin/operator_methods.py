"""What an operator asks of the running service: RPC methods that look, and one that only tests have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lsps2fast import __version__
from lsps2fast._select import BACKEND
from lsps2fast._table import State
from lsps2fast.errors import ConfigError
from lsps2fast.lsps0 import MalformedField
from lsps2fast.lsps2 import format_scid, parse_scid
from lsps2fast.offers import Buy

if TYPE_CHECKING:
    from lsps2fast_plugin.service import Service


def add_methods(service: Service) -> None:
    """Register them with the host."""
    methods = Methods(service)
    service.host.method("lsps2-listsessions", methods.list_sessions)
    service.host.method("lsps2-getsession", methods.get_session)
    service.host.method("lsps2-stats", methods.stats)
    if os.environ.get("LSPS2FAST_TEST_CLOCK") == "1":
        service.host.method("lsps2-dev-advance", methods.advance)


class Methods:
    """The methods of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_sessions(self) -> dict[str, Any]:
        """Every live buy with its payment attempts."""
        self._ready()
        return {"sessions": [self._describe(buy) for buy in self._service.offers]}

    async def get_session(self, jit_channel_scid: str) -> dict[str, Any]:
        """One live buy with its payment attempts."""
        self._ready()
        try:
            buy = self._service.offers.get(parse_scid(jit_channel_scid))
        except MalformedField as error:
            raise ConfigError(f"jit_channel_scid: {error}") from error
        if buy is None:
            raise ConfigError(f"no live buy has the jit scid {jit_channel_scid}; lsps2-listsessions shows all")
        return self._describe(buy)

    async def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        self._ready()
        service = self._service
        return {
            "version": __version__,
            "core": BACKEND,
            "live_buys": len(service.offers),
            "live_sessions": service.sessions.live,
            "held_parts": len(service.parts),
            "withheld_channels": len(service.interest.channel_ids),
            "journal_commits": service.store.commits,
            "alarms": service.effects.alarms,
        }

    async def advance(self, seconds: float) -> dict[str, Any]:
        """For tests: turn the clock forward."""
        self._service.clock.advance(float(seconds))
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
