"""A node that only asks: the fleet's own code and nothing else of the service, so that the database is measured.

`python benchmarks/fleet_questions.py URL NAME`; orders as in `together.py`: `{"seconds": S, "kind": K}`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time

from together import serve

from lsps2fast_plugin.service.fleet.database import Client, Database
from lsps2fast_plugin.service.fleet.holds import Ask
from lsps2fast_plugin.service.sales_ledger.outbox import Shipment

CLIENTS = 5_000
POTS = ("capital", "withheld", "mining", "mining-in-all", "token:spring")
BATCH = 100  # rows of the ledger in one shipment
KINDS = ("buy", "pot", "look", "ship")
LEDGER_ROW = {
    "buys": {"jit_scid": "12345678x1234567x12345", "peer_id": "02" * 33, "token": "spring", "band": "fee_line 1",
             "created_ms": 1_900_000_000_000, "valid_until_ms": 1_900_003_600_000, "payment_size_msat": 100_000_000,
             "min_fee_msat": 2_000_000, "proportional_ppm": 10_000, "min_lifetime_blocks": 1_008,
             "capacity_sat": 200_000, "client_trusts_lsp": 1, "ended_ms": 1_900_000_100_000, "outcome": "Succeeded"},
}  # fmt: skip


class Questions:
    """Asks one kind of question again and again."""

    def __init__(self, url: str, name: str) -> None:
        self._ledger = f"{name}-{os.getpid()}"  # one of its own: the rows of another round are not written over
        self._node = Database(url, "regtest", name, name, "bench")
        self._dice = random.Random(name)
        self._number = 0
        self._shipped = 0

    async def ask(self) -> None:
        """Join, and ask when told."""
        await self._node.join("p")
        self._news = await self._node.tell_and_hear("p", [], POTS, [])
        await serve(self._carry_out)
        await self._node.leave()

    async def _carry_out(self, order: dict[str, float | str]) -> list[float]:
        """Return how long each question took, in ms."""
        waits_ms: list[float] = []
        end = time.monotonic() + float(order["seconds"])
        while time.monotonic() < end:
            self._number += 1
            began = time.perf_counter()
            await self._one(str(order["kind"]))
            waits_ms.append((time.perf_counter() - began) * 1000)
        return waits_ms

    async def _one(self, kind: str) -> None:
        node, number = self._node, self._number
        peer_id = f"02{self._dice.randrange(CLIENTS):064x}"
        match kind:
            case "buy":
                await node.place_buy(peer_id, number, 10**6, [])
            case "pot":
                await node.place_buy(peer_id, number, 10**6, [Ask("token:spring", number, number + 1, 10**12)])
            case "look":
                asks = [Ask(pot, number % 5, 5 + number % 7, 10**12) for pot in POTS]
                told = [Client(peer_id, number % 9, 0, 0, 0, 1, number)]
                news = self._news
                self._news = await node.tell_and_hear("p", asks, POTS, told, news.heard_until, news.now)
            case "ship":
                rows = [
                    {"kind": "buys", "name": f"{number}-{each}", "row": LEDGER_ROW["buys"]} for each in range(BATCH)
                ]
                there = await node.ship(Shipment(self._ledger, self._shipped, number, rows, True))
                if there != self._shipped:
                    raise RuntimeError(f"change {there} was the last there, not {self._shipped}: no row was taken")
                self._shipped = number


if __name__ == "__main__":
    asyncio.run(Questions(*sys.argv[1:]).ask())
