"""Growth of a fleet: what a buy costs PostgreSQL, and how long it waits, as 1, 2, 4, 8 nodes ask for buys at once.

`python benchmarks/fleet.py [--seconds S] [--plot FILE]`. Each node is a process with the fleet's own code and nothing
else of the service: four buys at a time, one after the other, under one token and for 5,000 clients, as fast as they
are answered. PostgreSQL runs on this machine, and keeps its commits on the disk (fsync).
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
from pathlib import Path
from typing import Any

from lsps2fast.errors import PeerError, StoreError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.fleet.database import Database
from lsps2fast_plugin.service.fleet.fleet import Fleet
from lsps2fast_plugin.service.fleet.holds import Holds
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE, NamedLine, Rules, Token, TrustRule
from lsps2fast_plugin.service.policy.shared import Place
from lsps2fast_plugin.tools.bench.report import Line, picture, table
from lsps2fast_plugin.tools.regtest.postgres import Postgres

NODES = (1, 2, 4, 8)
CLIENTS, AT_ONCE = 5_000, 4
SCHEMA = "growth"


class NoDisk:
    """A datastore that is not part of the measurement."""

    async def call(self, method: str, params: Any = None, timeout_s: float | None = None) -> dict[str, Any]:
        return {"datastore": []}


async def work(url: str, name: str, seconds: float) -> dict[str, Any]:
    """Buy for so long; how many, and how long each waited in ms."""
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
    running.cancel()
    return {"buys": len(waits_ms), "waits_ms": waits_ms}


def worker(url: str, name: str, seconds: float) -> int:
    """Print what `work` found, and stay until stdin ends, so that the server's processes can be looked at."""
    found = asyncio.run(work(url, name, seconds))
    print(json.dumps(found), flush=True)
    sys.stdin.read()
    return 0


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


def measure(server: Postgres, nodes: int, seconds: float) -> dict[str, float]:
    """One row of the table."""
    url = f"{server.url}?schema={SCHEMA}"
    before = cpu_s(server)
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", url, f"n{number}", "--seconds", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(nodes)
    ]
    try:
        found = [json.loads(each.stdout.readline()) for each in workers]  # type: ignore[union-attr]
        used = cpu_s(server) - before
    finally:
        for each in workers:
            each.communicate(timeout=60)
    buys = sum(each["buys"] for each in found)
    waits = sorted(wait for each in found for wait in each["waits_ms"])
    return {
        "nodes": nodes,
        "buys_per_s": buys / seconds,
        "p50_ms": statistics.median(waits),
        "p99_ms": waits[len(waits) * 99 // 100],
        "database_cpu_ms": used / buys * 1000,
    }


def main() -> int:
    """Measure each number of nodes; print a table, draw it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--worker", nargs=2, metavar=("URL", "NAME"))
    args = parser.parse_args()
    if args.worker:
        url, name = args.worker
        return worker(url, name, args.seconds)
    load = os.getloadavg()[0]
    directory = Path(tempfile.mkdtemp(prefix="l2g-", dir="/tmp"))
    server = Postgres("growth", directory, {"fsync": "on"})
    try:
        server.start()
        url = f"{server.url}?schema={SCHEMA}"
        command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "fleet", "init", url, "--network", "regtest"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        rows = [measure(server, nodes, args.seconds) for nodes in NODES]
    finally:
        server.crash()
        shutil.rmtree(directory, ignore_errors=True)
    heads = ["nodes", "buys/s", "p50 ms", "p99 ms", "database CPU ms/buy"]
    lines = [[f"{row['nodes']}", f"{row['buys_per_s']:,.0f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}",
              f"{row['database_cpu_ms']:.2f}"] for row in rows]  # fmt: skip
    print(table([heads, *lines]))
    where = f"{os.cpu_count()} cores for nodes and database, load {load:.1f} before, {args.seconds:g} s each"
    print(where)
    if args.plot:
        drawn = [
            ("Buys a second, all nodes together, over nodes", "buys_per_s", "#0a7d4f"),
            ("A buy's wait for the database in ms (p99) over nodes", "p99_ms", "#b03030"),
            ("CPU of the database in ms a buy over nodes", "database_cpu_ms", "#c98a00"),
        ]
        charts = [
            (title, [Line(key, [(row["nodes"], row[key]) for row in rows], colour)]) for title, key, colour in drawn
        ]
        args.plot.write_text(picture(charts, where), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
