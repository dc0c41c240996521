"""Growth of a fleet: whole nodes that sell as one LSP, and what their questions cost PostgreSQL.

`python benchmarks/fleet.py [--seconds S] [--rounds N] [--plot FILE] [--page FILE]`. First 1, 2, 4 and 8 whole services,
each on an embedded node of its own (`fleet_node.py`). Then one process asks the database alone, with more nodes on file
than a machine can hold (`fleet_questions.py`). PostgreSQL runs on this machine beside them. `--page` writes tables and
arithmetic into a page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fleet_page import RATE, Measured, Row, Sold, write_page
from fleet_questions import KINDS
from fleet_server import Server, idle_s
from page import where
from together import Team

from lsps2fast_plugin.tools.bench.report import Line, picture, table

HERE = Path(__file__).parent
NODES = (1, 2, 4, 8)
ON_FILE = (1, 10, 100, 1_000)
STEADY = 3  # times as long as the others: at a steady rate there are few buys


class Bench:
    """One server, and runs on it."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self._fleets = 0

    def sell(self, nodes: int) -> tuple[Sold, Sold]:
        """Let so many whole nodes sell, as one new fleet: at a steady rate, and as fast as they can."""
        self._fleets += 1
        url = self.server.make(f"growth_{self._fleets}")
        with Team([[str(HERE / "fleet_node.py"), url, str(number), str(nodes)] for number in range(nodes)]) as team:
            return self._sell(team, self.seconds * STEADY, RATE), self._sell(team, self.seconds, 0)

    def _sell(self, team: Team, seconds: float, rate: float) -> Sold:
        idle, database = idle_s(), self.server.cpu_s()
        found = team.order({"seconds": seconds, "rate": rate}, self.server.look_at_memory)
        idle, database = idle_s() - idle, self.server.cpu_s() - database
        took_s = max(each["took_s"] for each in found)
        return Sold(
            waits_ms=[wait for each in found for wait in each["waits_ms"]],
            refused=sum(each["refused"] for each in found),
            took_s=took_s,
            service_s=sum(each["service_s"] for each in found),
            node_s=sum(each["node_s"] for each in found),
            database_s=database,
            idle_percent=100 * idle / took_s / (os.cpu_count() or 1),
        )

    def ask(self, url: str, kinds: Sequence[str], nodes: int = 1) -> dict[str, Row]:
        """Let so many nodes ask each kind of question for so long."""
        with Team([[str(HERE / "fleet_questions.py"), url, f"w{number}"] for number in range(nodes)]) as team:
            return {kind: self._ask(team, kind) for kind in kinds}

    def _ask(self, team: Team, kind: str) -> Row:
        wal, before = self.server.wal(), self.server.cpu_s()
        waits_ms = [wait for each in team.order({"seconds": self.seconds, "kind": kind}) for wait in each]
        used, wal = self.server.cpu_s() - before, self.server.wal() - wal
        count = len(waits_ms)
        return Row(count / self.seconds, statistics.median(waits_ms), used / count * 1000, wal / count)


def measure(bench: Bench, rounds: int, growing: Sequence[int], on_file: Sequence[int]) -> Measured:
    """Take turns: each number of nodes, then each kind of question with each number of nodes on file."""
    found = Measured()
    for _ in range(rounds):
        for nodes in growing:
            steady, crowd = bench.sell(nodes)
            found.steady.setdefault(nodes, []).append(steady)
            found.crowd.setdefault(nodes, []).append(crowd)
            print(f"{nodes} nodes: {crowd.per_s:.0f} buys/s", file=sys.stderr)
    urls = {}
    for nodes in on_file:
        urls[nodes] = bench.server.make(f"file_{nodes}")
        bench.server.fill(f"file_{nodes}", nodes)
    for _ in range(rounds):
        for nodes in on_file:
            for kind, row in bench.ask(urls[nodes], KINDS).items():
                found.cost.setdefault((kind, nodes), []).append(row)
    hot = bench.server.make("hot")
    found.hot = [bench.ask(hot, ["pot"], growing[-1])["pot"] for _ in range(rounds)]
    found.client_bytes = bench.server.bytes_a_row(f"file_{on_file[-1]}", "client")
    found.ledger_bytes = bench.server.bytes_a_row(f"file_{on_file[-1]}", "ledger_row")
    found.connection_mb = bench.server.connection_mb
    return found


def drawn(found: Measured, measured: str) -> str:
    """Return the picture."""
    rate = [(nodes, statistics.median(run.per_s for run in runs)) for nodes, runs in found.crowd.items()]
    waits = [
        Line(name, [(nodes, late) for nodes, runs in found.steady.items() if (late := found.wait(runs, share))], colour)
        for name, share, colour in (("p99", 0.99, "#b03030"), ("p50", 0.5, "#888888"))
    ]
    cpu = [
        Line(name, [(nodes, found.cpu(runs, key)) for nodes, runs in found.crowd.items()], colour)
        for name, key, colour in (("service", "service_s", "#0a7d4f"), ("database", "database_s", "#c98a00"))
    ]
    charts = [
        ("Buys a second as fast as the machine allows, over nodes", [Line("all nodes", rate, "#0a7d4f")]),
        (f"A client's wait for a buy in ms at {RATE} buys a second and node, over nodes", waits),
        ("CPU of a buy in ms as fast as the machine allows, over nodes", cpu),
    ]
    return picture(charts, measured)


def main() -> int:
    """Measure; print tables, draw and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--quick", action="store_true", help="few nodes: whether it works")
    parser.add_argument("--rounds", type=int, default=5, help="of all runs, in turn")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--page", type=Path, help="a page with marks, between which tables and arithmetic go")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    directory = Path(tempfile.mkdtemp(prefix="l2g-", dir="/tmp"))
    server = Server(directory)
    began = time.monotonic()
    try:
        server.start()
        sizes = (NODES[:2], ON_FILE[:2]) if args.quick else (NODES, ON_FILE)
        found = measure(Bench(server, args.seconds), args.rounds, *sizes)
    finally:
        server.crash()
        shutil.rmtree(directory, ignore_errors=True)
    measured = f"{where(load, ' for nodes, wallets and database')}, {args.rounds} rounds of {args.seconds:g} s"
    for rows in found.tables():
        print(table(rows) + "\n")
    print(f"{measured}; {time.monotonic() - began:.0f} s in all")
    if args.plot:
        args.plot.write_text(drawn(found, measured), encoding="utf-8")
    if args.page:
        write_page(args.page, found, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
