"""Growth of a fleet: what its nodes cost PostgreSQL, and how long a buy waits for it.

`python benchmarks/fleet.py [--seconds S] [--rounds N] [--plot FILE] [--page FILE]`. Each node is a process with the
fleet's own code and nothing else of the service, so that the database is what is measured: four buys at a time, one
after the other, under one token and for 5,000 clients, as fast as they are answered. PostgreSQL runs on this machine
beside them, and keeps its commits on the disk (fsync). `--page` writes tables and arithmetic into a page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet_page import Measured, Row, write_page

from lsps2fast.errors import PeerError, StoreError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.fleet.database import Client, Database
from lsps2fast_plugin.service.fleet.fleet import Fleet
from lsps2fast_plugin.service.fleet.holds import Ask, Holds
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE, NamedLine, Rules, Token, TrustRule
from lsps2fast_plugin.service.policy.shared import Place
from lsps2fast_plugin.service.sales_ledger.outbox import Shipment
from lsps2fast_plugin.tools.bench.report import Line, picture, table
from lsps2fast_plugin.tools.regtest.postgres import Postgres

NODES = (1, 2, 4, 8)
ON_FILE = (1, 10, 100, 1_000)
CLIENTS, AT_ONCE = 5_000, 4
PER_NODE = 100  # clients on file for each node
POTS = ("capital", "withheld", "mining", "mining-in-all", "token:spring")
BATCH = 100  # rows of the ledger in one shipment
KINDS = ("buy", "pot", "look", "ship")  # questions whose cost is measured
LEDGER_ROW = {
    "buys": {"jit_scid": "12345678x1234567x12345", "peer_id": "02" * 33, "token": "spring", "band": "fee_line 1",
             "created_ms": 1_900_000_000_000, "valid_until_ms": 1_900_003_600_000, "payment_size_msat": 100_000_000,
             "min_fee_msat": 2_000_000, "proportional_ppm": 10_000, "min_lifetime_blocks": 1_008,
             "capacity_sat": 200_000, "client_trusts_lsp": 1, "ended_ms": 1_900_000_100_000, "outcome": "Succeeded"},
}  # fmt: skip


class NoDisk:
    """A datastore that is not part of the measurement."""

    async def call(self, method: str, params: Any = None, timeout_s: float | None = None) -> dict[str, Any]:
        return {"datastore": []}


def wait_for_go() -> None:
    """Say that all is ready, and begin with the other nodes."""
    print("ready", flush=True)
    sys.stdin.readline()


async def until_seen(waits_ms: list[float]) -> None:
    """Print how long each question took, and stay connected until the server's processes were looked at."""
    print(json.dumps(waits_ms), flush=True)
    await asyncio.to_thread(sys.stdin.read)


# One node --------------------------------------------------------------------------------------------------------


async def sell(url: str, name: str, seconds: float) -> None:
    """Buy for so long."""
    token = Token(bytes(32), "spring", max_uses=10**9)
    trust = TrustRule(capital_budget_sat=10**9, mining_budget_sat=10**9)
    rules = Rules("bench", (NamedLine("one", DEFAULT_LINE),), tokens={token.hash: token}, trust=trust)
    holds = Holds()
    policy = Policy(rules, pots=holds)
    sold: dict[str, int] = {}
    fleet = Fleet(
        holds=holds,
        policy=policy,
        notebook=DatastoreRecords(NoDisk()),
        clock=Clock(),
        open_count=lambda peer_id: sold.get(peer_id, 0),
        buys_per_peer=10**6,
        alarm=lambda text: sys.stderr.write(f"{name}: {text}\n"),
    )
    running = asyncio.create_task(fleet.run(Database(url, "regtest", name, name, "bench")))
    for _ in range(600):
        if holds.joined:
            break
        await asyncio.sleep(0.05)
    await asyncio.to_thread(wait_for_go)
    dice = random.Random(name)
    waits_ms: list[float] = []
    end = time.monotonic() + seconds

    async def shop() -> None:
        while time.monotonic() < end:
            peer_id, began = f"02{dice.randrange(CLIENTS):064x}", time.perf_counter()
            try:
                async with fleet.place(Place(peer_id, token, 100_000, 0)):
                    policy.uses.take(token)
                    sold[peer_id] = sold.get(peer_id, 0) + 1
            except (PeerError, StoreError):
                continue
            waits_ms.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(shop() for _ in range(AT_ONCE)))
    await until_seen(waits_ms)
    running.cancel()


async def ask(url: str, name: str, seconds: float, kind: str) -> None:
    """Ask one kind of question again and again."""
    node = Database(url, "regtest", name, name, "bench")
    await node.join("p")
    news = await node.tell_and_hear("p", [], POTS, [])
    await asyncio.to_thread(wait_for_go)
    dice, waits_ms, number = random.Random(name), list[float](), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        peer_id, began = f"02{dice.randrange(CLIENTS):064x}", time.perf_counter()
        match kind:
            case "buy":
                await node.place_buy(peer_id, number, 10**6, [])
            case "pot":
                await node.place_buy(peer_id, number, 10**6, [Ask("token:spring", number, number + 1, 10**12)])
            case "look":
                asks = [Ask(pot, number % 5, 5 + number % 7, 10**12) for pot in POTS]
                told = [Client(peer_id, number % 9, 0, 0, 0, 1, number)]
                news = await node.tell_and_hear("p", asks, POTS, told, news.heard_until, news.now)
            case "ship":
                rows = [
                    {"kind": "buys", "name": f"{number}-{each}", "row": LEDGER_ROW["buys"]} for each in range(BATCH)
                ]
                await node.ship(Shipment(name, number - 1, number, rows, True))
        waits_ms.append((time.perf_counter() - began) * 1000)
    await until_seen(waits_ms)
    await node.leave()


def worker(url: str, name: str, seconds: float, kind: str) -> int:
    """Be one node."""
    asyncio.run(sell(url, name, seconds) if kind == "sell" else ask(url, name, seconds, kind))
    return 0


# The server ------------------------------------------------------------------------------------------------------


def cpu_s(server: Postgres) -> float:
    """Return what the server and its processes have used, those that ended included."""
    assert server.process is not None
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if server.process.pid in (int(fields[1]), int(stat.parent.name)):
            ticks += int(fields[11]) + int(fields[12])
            if int(stat.parent.name) == server.process.pid:
                ticks += int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(server: Postgres) -> float:
    """Return what one connection's process has for itself."""
    assert server.process is not None
    found = []
    for status in Path("/proc").glob("[0-9]*/smaps_rollup"):
        try:
            stat = (status.parent / "stat").read_text().rpartition(")")[2].split()
            title = (status.parent / "cmdline").read_text()
            if int(stat[1]) == server.process.pid and "127.0.0.1" in title:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines()[1:])
                found.append(int(lines["Private_Dirty"].split()[0]) / 1024)
        except (OSError, IndexError):  # it has ended
            continue
    return max(found, default=0.0)


class Bench:
    """One server, and what was measured on it."""

    def __init__(self, server: Postgres, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.memory_mb = 0.0

    def make(self, schema: str) -> str:
        """Make an empty fleet; its URL."""
        url = f"{self.server.url}?schema={schema}"
        command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "fleet", "init", url, "--network", "regtest"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        return url

    def sql(self, schema: str, text: str) -> str:
        """Ask as the administrator."""
        answer = self.server.query(f"SET search_path = {schema}; {text}", database="lightning")
        return answer.removeprefix("SET").strip()

    def fill(self, schema: str, nodes: int) -> None:
        """Put so many nodes on file, each with its part of every pot, and its clients."""
        series = f"generate_series(1, {nodes}) AS n"
        pots = ", ".join(f"('{pot}')" for pot in POTS)
        self.sql(
            schema,
            f"INSERT INTO node SELECT 'n' || n, 1, 'n', 'bench', 'p', now(), now() - interval '1 day' FROM {series};"
            f"INSERT INTO hold SELECT pot, 'n' || n, 10, 5 FROM {series}, (VALUES {pots}) AS pots (pot);"
            "INSERT INTO pot SELECT pot, sum(held), sum(used) FROM hold GROUP BY pot;"
            "INSERT INTO client (peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told, elsewhere)"
            f" SELECT 'x' || n || '-' || c, 'n' || n, 1, 0, 0, 0, 0, 0, now(), now() FROM {series},"
            f" generate_series(1, {PER_NODE}) AS c",
        )
        self.server.query("VACUUM ANALYZE", database="lightning")

    def run(self, url: str, kind: str, nodes: int) -> Row:
        """Let so many nodes ask for so long."""
        options = ["--seconds", str(self.seconds), "--kind", kind]
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", url, f"w{number}", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(nodes)
        ]
        try:
            for each in workers:
                assert each.stdout is not None
                assert each.stdout.readline() == "ready\n"
            wal, before = self.wal(), cpu_s(self.server)
            for each in workers:
                assert each.stdin is not None
                each.stdin.write("go\n")
                each.stdin.flush()
            time.sleep(self.seconds / 2)
            if kind == "sell":
                self.memory_mb = max(self.memory_mb, memory_mb(self.server))
            found = [json.loads(each.stdout.readline()) for each in workers]  # type: ignore[union-attr]
            used = cpu_s(self.server) - before
            wal = self.wal() - wal
        finally:
            for each in workers:
                each.communicate(timeout=60)
        waits = sorted(wait for each in found for wait in each)
        return Row(
            len(waits) / self.seconds,
            statistics.median(waits),
            waits[len(waits) * 99 // 100],
            used / len(waits) * 1000,
            wal / len(waits),
        )

    def wal(self) -> int:
        """Return how many bytes were written to the journal of the server."""
        return int(self.server.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").partition(".")[0])

    def bytes_a_row(self, schema: str, name: str) -> float:
        """Return what a row of a table takes with its indexes."""
        size = f"SELECT pg_total_relation_size('{schema}.{name}') / greatest(count(*), 1) FROM {name}"
        return float(self.sql(schema, size))


def measure(bench: Bench, rounds: int, growing: Sequence[int], on_file: Sequence[int]) -> Measured:
    """Take turns: each number of nodes, then each kind of question with each number of nodes on file."""
    found = Measured()
    growth = bench.make("growth")
    for _ in range(rounds):
        for nodes in growing:
            found.growth.setdefault(nodes, []).append(bench.run(growth, "sell", nodes))
    found.client_bytes = bench.bytes_a_row("growth", "client")
    urls = {}
    for nodes in on_file:
        urls[nodes] = bench.make(f"file_{nodes}")
        bench.fill(f"file_{nodes}", nodes)
    for _ in range(rounds):
        for nodes in on_file:
            for kind in KINDS:
                found.cost.setdefault((kind, nodes), []).append(bench.run(urls[nodes], kind, 1))
    found.hot = [bench.run(growth, "pot", growing[-1]) for _ in range(rounds)]
    found.ledger_bytes = bench.bytes_a_row(f"file_{on_file[-1]}", "ledger_row")
    found.memory_mb = bench.memory_mb
    return found


def drawn(found: Measured, where: str) -> str:
    """Return the picture."""

    def line(key: str, colour: str) -> list[Line]:
        middle = [(n, statistics.median(getattr(row, key) for row in rows)) for n, rows in found.growth.items()]
        least = [(n, min(getattr(row, key) for row in rows)) for n, rows in found.growth.items()]
        most = [(n, max(getattr(row, key) for row in rows)) for n, rows in found.growth.items()]
        return [Line("median", middle, colour), Line("least", least, "#bbbbbb"), Line("most", most, "#777777")]

    charts = [
        ("Buys a second, all nodes together, over nodes", line("per_s", "#0a7d4f")),
        ("A buy's wait for the database in ms (p99) over nodes", line("p99_ms", "#b03030")),
        ("CPU of the database in ms a buy over nodes", line("cpu_ms", "#c98a00")),
    ]
    return picture(charts, where)


def main() -> int:
    """Measure; print tables, draw and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--quick", action="store_true", help="few nodes: whether it works")
    parser.add_argument("--rounds", type=int, default=5, help="of all runs, in turn")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--page", type=Path, help="a page with marks, between which tables and arithmetic go")
    parser.add_argument("--worker", nargs=2, metavar=("URL", "NAME"))
    parser.add_argument("--kind", default="sell")
    args = parser.parse_args()
    if args.worker:
        url, name = args.worker
        return worker(url, name, args.seconds, args.kind)
    loads = [os.getloadavg()[0]]
    directory = Path(tempfile.mkdtemp(prefix="l2g-", dir="/tmp"))
    server = Postgres("growth", directory, {"fsync": "on"})
    try:
        server.start()
        bench = Bench(server, args.seconds)
        found = measure(bench, args.rounds, *((NODES[:2], ON_FILE[:2]) if args.quick else (NODES, ON_FILE)))
    finally:
        server.crash()
        shutil.rmtree(directory, ignore_errors=True)
    loads.append(os.getloadavg()[0])
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    where = (
        f"commit {commit}, {os.cpu_count()} cores for nodes and database, load {loads[0]:.1f} before and "
        f"{loads[1]:.1f} after, {args.rounds} rounds of {args.seconds:g} s"
    )
    for rows in found.tables():
        print(table(rows) + "\n")
    print(where)
    if args.plot:
        args.plot.write_text(drawn(found, where), encoding="utf-8")
    if args.page:
        write_page(args.page, found, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
