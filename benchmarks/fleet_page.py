"""What was measured of a fleet, as tables, and what follows from it for more nodes: each figure with its arithmetic."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from page import lay, markdown

from lsps2fast_plugin.tools.bench.figures import needed, quantile

MARK = "fleet"
RATE = 5  # buys a second at each node: nine times the busiest hour of the node on paper
PAPER = (10, 100, 1_000)
SALES_A_DAY = 10_000  # of one node
BUSY = 5  # so much more than on average in the busiest hour
LOOKS, SEEN, SHIPMENTS = 0.5, 0.1, 0.5  # a second
CHANGES = 6  # of the ledger's rows by one sale, as the outbox ships them
LEDGER_ROWS = 3  # that a sale leaves: its buy, its payment, its channel
IN_A_SHIPMENT = 100  # rows, as measured
WORDS = {
    "buy": "a buy whose pots have room",
    "pot": "a buy that takes from one pot",
    "look": "a look: five pots, one client",
    "ship": f"a shipment of {IN_A_SHIPMENT} rows of the ledger",
}


class Sold(NamedTuple):
    """One run of whole nodes; CPU of the services, of the embedded nodes with their wallets, and of the database."""

    waits_ms: list[float]
    refused: int
    took_s: float
    service_s: float
    node_s: float
    database_s: float
    idle_percent: float  # of the machine

    @property
    def per_s(self) -> float:
        """Return buys a second."""
        return len(self.waits_ms) / self.took_s


class Row(NamedTuple):
    """One run of one kind of question."""

    per_s: float
    p50_ms: float
    cpu_ms: float
    wal_bytes: float


class Spread(NamedTuple):
    """The median of several runs, and the least and the most of them."""

    median: float
    least: float
    most: float

    def shown(self, digits: int = 0) -> str:
        """Return it for people."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


def spread(rows: Sequence[Any], key: str) -> Spread:
    """Return what the runs had of this."""
    values = [getattr(row, key) for row in rows]
    return Spread(statistics.median(values), min(values), max(values))


class Measured:
    """All runs."""

    def __init__(self) -> None:
        self.steady: dict[int, list[Sold]] = {}
        self.crowd: dict[int, list[Sold]] = {}
        self.cost: dict[tuple[str, int], list[Row]] = {}  # by kind of question and nodes on file
        self.hot: list[Row] = []
        self.client_bytes = self.ledger_bytes = self.connection_mb = 0.0

    def tables(self) -> list[list[list[str]]]:
        """Return growth, cost, and what more nodes need."""
        return [self.crowd_table(), self.steady_table(), self.cost_table(), self.paper_table()]

    # Whole nodes --------------------------------------------------------------------------------------------------

    @staticmethod
    def wait(runs: Sequence[Sold], share: float) -> float | None:
        """Return this quantile of all waits, None for too few."""
        return quantile([wait for run in runs for wait in run.waits_ms], share)

    @staticmethod
    def cpu(runs: Sequence[Sold], key: str) -> float:
        """Return the CPU of a buy in ms, over all runs."""
        return 1000 * sum(getattr(run, key) for run in runs) / max(sum(len(run.waits_ms) for run in runs), 1)

    def _waits(self, runs: Sequence[Sold]) -> list[str]:
        return [
            f"{needed(share)} buys needed" if (late := self.wait(runs, share)) is None else f"{late:,.1f}"
            for share in (0.5, 0.99)
        ]

    def crowd_table(self) -> list[list[str]]:
        """Nodes that sell as fast as they can."""
        rows = [["nodes at once", "buys/s", "p50 ms", "p99 ms", "CPU ms a buy: service", "database",
                 "embedded node and wallets", "idle CPU %", "refused"]]  # fmt: skip
        for nodes, runs in self.crowd.items():
            cpu = [f"{self.cpu(runs, key):.2f}" for key in ("service_s", "database_s", "node_s")]
            idle = f"{spread(runs, 'idle_percent').median:.0f}"
            refused = str(sum(run.refused for run in runs))
            rows.append([str(nodes), spread(runs, "per_s").shown(), *self._waits(runs), *cpu, idle, refused])
        return rows

    def steady_table(self) -> list[list[str]]:
        """Nodes that sell so many each."""
        rows = [[f"nodes at once, {RATE} buys/s each", "buys", "p50 ms", "p99 ms", "CPU ms a buy: service", "database",
                 "idle CPU %", "refused"]]  # fmt: skip
        for nodes, runs in self.steady.items():
            cpu = [f"{self.cpu(runs, key):.2f}" for key in ("service_s", "database_s")]
            idle = f"{spread(runs, 'idle_percent').median:.0f}"
            counts = [f"{sum(len(run.waits_ms) for run in runs):,}", str(sum(run.refused for run in runs))]
            rows.append([str(nodes), counts[0], *self._waits(runs), *cpu, idle, counts[1]])
        return rows

    def limit(self) -> list[str]:
        """Return in sentences what ends the growth on one machine, and what does not depend on it."""
        most = max(self.crowd)
        runs = self.crowd[most]
        service, database, node = (self.cpu(runs, key) for key in ("service_s", "database_s", "node_s"))
        cores = sum(run.service_s + run.database_s + run.node_s for run in runs) / sum(run.took_s for run in runs)
        idle = spread(runs, "idle_percent").median
        others = max((os.cpu_count() or 1) * (1 - idle / 100) - cores, 0)
        return [
            f"- The limit is the machine: {most} nodes, their wallets and the database together used {cores:.1f} of its"
            f" {os.cpu_count()} cores, other programs {others:.1f}; {idle:.0f} % was idle.",
            f"- What the machine does not bend: a CPU second of a service sells {1000 / service:,.0f} buys,"
            " each with the wallet's connection and its menu; a CPU second of the database"
            f" {1000 / database:,.0f}. So a core of the database keeps up with {service / database:.1f} services that"
            " have a core each and do nothing else.",
            f"- A buy costs a service {self._grown('service_s')} times the CPU with {most} nodes that it costs with"
            f" {min(self.crowd)}, the database {self._grown('database_s')} times. The {node:.1f} ms of the embedded"
            " node and the wallets stand for lightningd and for the clients' own machines.",
        ]

    def _grown(self, key: str) -> str:
        return f"{self.cpu(self.crowd[max(self.crowd)], key) / self.cpu(self.crowd[min(self.crowd)], key):.2f}"

    # The database alone -------------------------------------------------------------------------------------------

    def cost_table(self) -> list[list[str]]:
        """One node that asks, and so many on file."""
        sizes = sorted({nodes for _, nodes in self.cost})
        rows = [["database CPU ms of", *(f"{nodes:,} nodes" for nodes in sizes), "p50 ms", "WAL bytes"]]
        for kind, words in WORDS.items():
            last = self.cost[kind, sizes[-1]]
            cpu = [spread(self.cost[kind, nodes], "cpu_ms").shown(2) for nodes in sizes]
            wal = f"{spread(last, 'wal_bytes').median:,.0f}"
            rows.append([words, *cpu, f"{spread(last, 'p50_ms').median:.1f}", wal])
        return rows

    def of(self, kind: str, key: str) -> float:
        """Return the median with the most nodes on file."""
        return spread(self.cost[kind, max(nodes for _, nodes in self.cost)], key).median

    # On paper -----------------------------------------------------------------------------------------------------

    @property
    def buys(self) -> float:
        """Return buys of a node in its busiest hour, a second."""
        return SALES_A_DAY * BUSY / 86_400

    @property
    def questions(self) -> float:
        """Return transactions of a node then, a second."""
        return LOOKS + SEEN + self.buys + SHIPMENTS

    def of_node(self, key: str) -> float:
        """Return what a node costs a second: CPU in ms, or bytes of WAL."""
        ledger = self.buys * CHANGES / IN_A_SHIPMENT
        return (LOOKS + SEEN) * self.of("look", key) + self.buys * self.of("pot", key) + ledger * self.of("ship", key)

    def pooled(self, nodes: int) -> int:
        """Return how many connections are busy at one moment, times three, and one."""
        return math.ceil(3 * nodes * self.questions * self.of("look", "p50_ms") / 1000) + 1

    def paper_table(self) -> list[list[str]]:
        """Return what so many nodes need."""
        rows = [["nodes", "transactions/s", "CPU cores", "WAL MB/s", "clients' rows", "MB of them", "books, GB a year",
                 "connections", "with a pooler"]]  # fmt: skip
        for nodes in PAPER:
            clients = nodes * SALES_A_DAY
            books = clients * LEDGER_ROWS * 365 * self.ledger_bytes / 1e9
            cells = (
                f"{nodes * self.questions:,.0f}",
                f"{nodes * self.of_node('cpu_ms') / 1000:,.2f}",
                f"{nodes * self.of_node('wal_bytes') / 1e6:,.2f}",
                f"{clients:,}",
                f"{clients * self.client_bytes / 1e6:,.0f}",
                f"{books:,.0f}",
                f"{nodes:,}, {nodes * self.connection_mb:,.0f} MB",
                f"{self.pooled(nodes):,}",
            )
            rows.append([f"{nodes:,}", *cells])
        return rows

    def sentences(self) -> list[str]:
        """Return the arithmetic."""
        look, buy, ship = (self.of(kind, "cpu_ms") for kind in ("look", "pot", "ship"))
        hot = spread(self.hot, "per_s")
        return [
            f"- Buys: {SALES_A_DAY:,} a day × {BUSY} ÷ 86,400 s = {self.buys:.2f} a second.",
            f"- Transactions: {LOOKS} looks + {SEEN} signs of life + {self.buys:.2f} buys + {SHIPMENTS} shipments ="
            f" {self.questions:.2f} a second.",
            f"- CPU: {LOOKS + SEEN:.1f} × {look:.2f} ms + {self.buys:.2f} × {buy:.2f} ms + {self.buys:.2f} ×"
            f" {CHANGES} rows ÷ {IN_A_SHIPMENT} × {ship:.2f} ms = {self.of_node('cpu_ms'):.2f} ms a second.",
            f"- WAL: the same with bytes instead of ms: {self.of_node('wal_bytes'):,.0f} bytes a second.",
            f"- A client's row is kept for a day after its last buy, and takes {self.client_bytes:,.0f} bytes with"
            f" its indexes. A sale leaves {LEDGER_ROWS} rows of {self.ledger_bytes:,.0f} bytes in the books.",
            f"- A connection has {self.connection_mb:.1f} MB for itself. With a pooler: transactions a second ×"
            f" {self.of('look', 'p50_ms'):.1f} ms each are busy at one moment; three times that, and one.",
            f"- One pot that every buy of every node must raise gave {hot.shown()} raises a second, however many"
            " nodes ask: a raise holds its row until the commit is on the disk.",
        ]


def write_page(path: Path, found: Measured, where: str) -> None:
    """Write what was measured between the page's marks."""
    blocks = [
        f"Measured: {where}. Rates are the median of the rounds, with the least and the most; waits and CPU of"
        " whole nodes are those of all rounds.",
        "As fast as the machine allows:",
        markdown(found.crowd_table()),
        "\n".join(found.limit()),
        "At a steady rate, three times as long:",
        markdown(found.steady_table()),
        "One node asks, one question at a time; the nodes on file have their parts of five pots and a hundred"
        " clients each:",
        markdown(found.cost_table()),
        "A node in its busiest hour:",
        "\n".join(found.sentences()),
        "So nodes need of the database:",
        markdown(found.paper_table()),
    ]
    lay(path, MARK, blocks)
