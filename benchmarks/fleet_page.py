"""What was measured of a fleet, as tables, and what follows from it for more nodes: each figure with its arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- fleet: begin -->", "<!-- fleet: end -->"
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


class Row(NamedTuple):
    """One run."""

    per_s: float
    p50_ms: float
    p99_ms: float
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


def spread(rows: Sequence[Row], key: str) -> Spread:
    """Return what the runs had of this."""
    values = [getattr(row, key) for row in rows]
    return Spread(statistics.median(values), min(values), max(values))


class Measured:
    """All runs."""

    def __init__(self) -> None:
        self.growth: dict[int, list[Row]] = {}
        self.cost: dict[tuple[str, int], list[Row]] = {}  # by kind of question and nodes on file
        self.hot: list[Row] = []
        self.client_bytes = self.ledger_bytes = self.memory_mb = 0.0

    def tables(self) -> list[list[list[str]]]:
        """Return growth, cost, and what more nodes need."""
        return [self.growth_table(), self.cost_table(), self.paper_table()]

    def growth_table(self) -> list[list[str]]:
        """Nodes that sell at once."""
        rows = [["nodes at once", "buys/s", "p50 ms", "p99 ms", "database CPU ms a buy"]]
        for nodes, runs in self.growth.items():
            shown = [spread(runs, key).shown(digits) for key, digits in
                     (("per_s", 0), ("p50_ms", 1), ("p99_ms", 1), ("cpu_ms", 2))]  # fmt: skip
            rows.append([str(nodes), *shown])
        return rows

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
                f"{nodes:,}, {nodes * self.memory_mb:,.0f} MB",
                f"{self.pooled(nodes):,}",
            )
            rows.append([f"{nodes:,}", *cells])
        return rows

    def sentences(self) -> list[str]:
        """Return the arithmetic."""
        look, buy, ship = (self.of(kind, "cpu_ms") for kind in ("look", "pot", "ship"))
        best = max(self.growth)
        reached = spread(self.growth[best], "per_s")
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
            f"- A connection has {self.memory_mb:.1f} MB for itself. With a pooler: transactions a second ×"
            f" {self.of('look', 'p50_ms'):.1f} ms each are busy at one moment; three times that, and one.",
            f"- {best} nodes as fast as they could sold {reached.median:,.0f} a second, beside their own processes on"
            f" the same cores: as many transactions as {reached.median / self.questions:,.0f} such nodes make.",
            f"- One pot that every buy of every node must raise gave {hot.shown()} raises a second, however many"
            " nodes ask: a raise holds its row until the commit is on the disk.",
        ]


def markdown(rows: list[list[str]]) -> str:
    """Return a table for a page."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_page(path: Path, found: Measured, where: str) -> None:
    """Write what was measured between the page's marks."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    body = "\n\n".join(
        [
            f"Measured: {where}. A figure is the median of the rounds, with the least and the most.",
            markdown(found.growth_table()),
            "One node asks, one question at a time; the nodes on file have their parts of five pots and a hundred"
            " clients each:",
            markdown(found.cost_table()),
            "A node in its busiest hour:",
            "\n".join(found.sentences()),
            "So nodes need of the database:",
            markdown(found.paper_table()),
        ]
    )
    path.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}", encoding="utf-8")
