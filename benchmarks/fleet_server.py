"""PostgreSQL under load: fleets in it, what it has used, and what its rows take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fleet_questions import CLIENTS, POTS

from lsps2fast_plugin.tools.regtest.postgres import Postgres

PER_NODE = 100  # clients on file for each node


class Server(Postgres):
    """A server that keeps its commits on the disk."""

    def __init__(self, directory: Path) -> None:
        super().__init__("growth", directory, {"fsync": "on"})
        self.connection_mb = 0.0

    # ---- fleets in it

    def make(self, schema: str) -> str:
        """Make an empty fleet; its URL."""
        url = f"{self.url}?schema={schema}"
        command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "fleet", "init", url, "--network", "regtest"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
        return url

    def sql(self, schema: str, text: str) -> str:
        """Ask as the administrator."""
        answer = self.query(f"SET search_path = {schema}; {text}", database="lightning")
        return answer.removeprefix("SET").strip()

    def fill(self, schema: str, nodes: int) -> None:
        """Put so many nodes on file, each with its part of every pot, and its clients.

        The node that asks has old clients: it would hear of new ones for ten seconds.
        """
        series = f"generate_series(1, {nodes}) AS n"
        pots = ", ".join(f"('{pot}')" for pot in POTS)
        node, peer = "'02' || md5('n' || n) || md5(n || 'n')", "'03' || md5(n || '-' || c) || md5(c || '-' || n)"
        columns = "peer, node, buys, unpaid, probes, unsettled, under_way, unpaid_msat, told, elsewhere"
        old = "1, 0, 0, 0, 0, 0, now() - interval '1 hour', now() - interval '1 hour'"
        asker = "'02' || lpad(to_hex(c), 64, '0'), 'w0'"
        self.sql(
            schema,
            f"INSERT INTO node SELECT {node}, 1, 'n', 'bench', 'p', now(), now() - interval '1 day' FROM {series};"
            f"INSERT INTO hold SELECT pot, {node}, 10, 5 FROM {series}, (VALUES {pots}) AS pots (pot);"
            "INSERT INTO pot SELECT pot, sum(held), sum(used) FROM hold GROUP BY pot;"
            "INSERT INTO node VALUES ('w0', 1, 'n', 'bench', 'p', now(), now());"
            f"INSERT INTO client ({columns}) SELECT {peer}, {node}, {old} FROM {series},"
            f" generate_series(1, {PER_NODE}) AS c;"
            f"INSERT INTO client ({columns}) SELECT {asker}, {old} FROM generate_series(0, {CLIENTS - 1}) AS c",
        )
        self.query("VACUUM ANALYZE", database="lightning")

    def bytes_a_row(self, schema: str, name: str) -> float:
        """Return what a row of a table takes with its indexes."""
        size = f"SELECT pg_total_relation_size('{schema}.{name}') / greatest(count(*), 1) FROM {name}"
        return float(self.sql(schema, size))

    # ---- what it has used

    def wal(self) -> int:
        """Return how many bytes were written to its journal."""
        return int(self.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").partition(".")[0])

    def cpu_s(self) -> float:
        """Return what it and its processes have used, those that ended included."""
        assert self.process is not None
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if self.process.pid in (int(fields[1]), int(stat.parent.name)):
                ticks += int(fields[11]) + int(fields[12])
                if int(stat.parent.name) == self.process.pid:
                    ticks += int(fields[13]) + int(fields[14])
        return ticks / os.sysconf("SC_CLK_TCK")

    def look_at_memory(self) -> None:
        """Take note of what the largest connection's process has for itself."""
        assert self.process is not None
        for status in Path("/proc").glob("[0-9]*/smaps_rollup"):
            try:
                stat = (status.parent / "stat").read_text().rpartition(")")[2].split()
                title = (status.parent / "cmdline").read_text()
                if int(stat[1]) == self.process.pid and "127.0.0.1" in title:
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()[1:])
                    self.connection_mb = max(self.connection_mb, int(lines["Private_Dirty"].split()[0]) / 1024)
            except (OSError, IndexError):  # it has ended
                continue


def idle_s() -> float:
    """Return how long all cores together have had nothing to do; what waits for the disk is idle, too."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
