"""A service that a test makes up, behind the real page: any number of payments, any alarm, any answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.page.feed import Lane
from lsps2fast_plugin.service.page.server import PageServer
from lsps2fast_plugin.service.payment_reports import BOUNDS_S, STEPS
from lsps2fast_plugin.service.recent import Recent

STATES = ("COLLECTING", "OPENING", "AWAITING_CHANNEL_READY", "AWAITING_SETTLEMENT", "BROADCASTING")
DAY_MS = 86_400_000
PEER = "02" + "ab" * 32
HASH = "cd" * 32


def limit(used: int, most: int) -> dict[str, Any]:
    return {"used_msat": used, "limit_msat": most, "binds": used >= most}


STATS: dict[str, Any] = {
    "version": "1.2.3",
    "starting": False,
    "paused": False,
    "live_buys": 41,
    "live_sessions": 0,
    "held_parts": 7,
    "held_msat": 123_456_789,
    "held_blocks_left": 130,
    "at_risk_msat": 2_150_000_000,
    "withheld_channels": 2,
    "unpaid_channels": 1,
    "oldest_withheld_s": 75,
    "broadcasts_owed": 1,
    "free_coins_sat": 8_250_000,
    "coins_needed_sat": 400_000,
    "ledger_in_trouble": False,
    "ledger": {"trouble": None},
    "menus": 912,
    "buys": 318,
    "payments": {"succeeded": 240, "failed": 21, "abandoned": 3, "underpaid": 1},
    "refusals": {"rate_peer": 3, "paused": 0, "too_small": 12},
    "payments_by_stage": dict.fromkeys((state.lower() for state in STATES), 0),
    "payment_failures": [
        {"stage": "collecting", "failed_by": "payer", "code": "incomplete", "count": 14},
        {"stage": "opening", "failed_by": "lsp", "code": "open_failed", "count": 2},
        {"stage": "awaiting_channel_ready", "failed_by": "client", "code": "not_ready", "count": 5},
        {"stage": "awaiting_settlement", "failed_by": "client", "code": "part_failed", "count": 3},
        {"stage": "broadcasting", "failed_by": "client", "code": "underpaid", "count": 1},
    ],
    "limits": {
        "capital_budget": limit(2_150_000_000, 10_000_000_000),
        "mining_budget": limit(180_000_000, 200_000_000),
        "withheld_budget": limit(500_000_000, 500_000_000),
        "open_offers": {"used_offers": 41, "limit_offers": 10_000, "binds": False},
    },
    "steps": {step: [[0, 1, 40, 90, 60, 10, 5, 0, 0, 1, 0, 0, 0], 99.0] for step in STEPS.values()},
    "step_bounds_s": BOUNDS_S,
}


class FakeService:
    """A `Source`, and the answers about its ledger; an answer that is an error is raised."""

    def __init__(self) -> None:
        self.alarms, self.ended = Recent(), Recent()
        self.now: dict[str, Any] = {}  # differs from STATS
        self.under_way: dict[str, Lane] = {}
        self.clock = Clock()
        self.questions: dict[str, Any] = {
            "report": self.days(30),
            "list_sales": {"sales": []},
            "explain": {"offers": [{"jit_channel_scid": "1x2x3", "story": ["It began.", "It is paid: 1,000 sat."]}]},
            "closable": {"feerate_perkw": 253, "closing_msat": 184_000, "channels": []},
        }

    def days(self, count: int) -> dict[str, Any]:
        """A report by day: growing, with two days on which mining was more than the fees."""
        rows = []
        for number in range(count):
            earned = (3 + number * 7 % 11) * 1_000_500
            mining = 15_000_000 if number in (4, 17) else 900_000
            row = {"sales": 3 + number % 5, "failed": number % 3, "earned_msat": earned, "mining_msat": mining}
            rows.append({"day": f"2026-11-{number + 1:02}", **row, "net_msat": earned - mining})
        names = ("sales", "failed", "earned_msat", "mining_msat", "net_msat")
        return {"rows": rows, "total": {name: sum(row[name] for row in rows) for name in names}}

    def pay(self, number: int, state: int = 0, parts: int = 3, sum_msat: int = 25_000_000) -> str:
        """A payment has come to a stage (0 to 4); its name."""
        scid, digest = f"{number}x1x1", f"{number:064x}"
        began_ms = self.clock.wall_ms() - 5_000
        lane = (scid, digest, PEER, STATES[state], parts, sum_msat, 250_000, began_ms)
        self.under_way[f"{scid} {digest}"] = lane
        return f"{scid} {digest}"

    def end(self, name: str, outcome: str = "Succeeded", **more: Any) -> None:
        """It is over."""
        scid, digest = name.split()
        row = {"jit_scid": scid, "payment_hash": digest, "peer_id": PEER, "outcome": outcome, "stage": "COLLECTING"}
        row |= {"amount_msat": 25_000_000, "fee_taken_msat": 250_000, "ended_ms": self.clock.wall_ms()}
        self.ended.tell(row | {"failed_by": None, "code": None, "reason": None} | more)
        del self.under_way[name]

    def stats(self) -> dict[str, Any]:
        """What is so now."""
        return STATS | {"live_sessions": len(self.under_way)} | self.now

    def lanes(self, most: int) -> dict[str, Lane]:
        """Payments under way."""
        return dict(list(self.under_way.items())[:most])

    def _said(self, name: str) -> Any:
        answer = self.questions[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def report(self, by: str | None, since: int, until: int) -> dict[str, Any]:
        """`lsps2-report`."""
        found: dict[str, Any] = self._said("report")
        return found

    async def list_sales(self, limit: int) -> dict[str, Any]:
        """`lsps2-listsales`."""
        found: dict[str, Any] = self._said("list_sales")
        return found

    async def explain(self, about: str) -> dict[str, Any]:
        """`lsps2-explain`."""
        found: dict[str, Any] = self._said("explain")
        return found

    async def closable(self) -> dict[str, Any]:
        """`lsps2-closable`."""
        found: dict[str, Any] = self._said("closable")
        return found


@contextlib.asynccontextmanager
async def served(service: FakeService, token: str | None = None, port: int = 0) -> AsyncIterator[PageServer]:
    """The page of this service, on the loopback."""
    server = PageServer(("127.0.0.1", port), token, service, service, service.clock)
    await server.listen()
    try:
        yield server
    finally:
        await server.close()
