"""A server for fleets: its administrator makes the schemas, its nodes have a role that may only call functions."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet.database import Database
from lsps2fast_plugin.tools import fleet
from lsps2fast_plugin.tools.regtest.postgres import SERVER_USER, Postgres
from lsps2fast_plugin.tools.regtest.processes import START_S, Child, free_port, until

ROLE = "lsp"
NETWORK = "regtest"


class FleetServer(Postgres):
    """PostgreSQL with the roles that a fleet needs."""

    def __init__(self, directory: Path) -> None:
        super().__init__("fleet", directory)

    def start(self) -> None:
        """Up; the roles are made at the first start."""
        first = not self.data.exists()
        super().start()
        if first:
            self.query(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'")

    def remove(self) -> None:
        """End, and leave nothing."""
        self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, action: str, schema: str, node: str | None = None, network: str = NETWORK) -> tuple[int, str]:
        """Run `lsps2fast fleet`; its exit code and what it printed."""
        args = argparse.Namespace(
            action=action, url=f"{self.url}?schema={schema}", node=node, role=ROLE, network=network
        )
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = fleet.run(args)
        return code, said.getvalue()

    def fleet(self, schema: str) -> str:
        """Make an empty fleet; the URL for its nodes."""
        code, said = self.command("init", schema)
        assert code == 0, said
        return self.node_url(schema)

    def node_url(self, schema: str) -> str:
        """Return what a node names."""
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/lightning?schema={schema}"

    def value(self, schema: str, sql: str) -> str:
        """Ask as the administrator."""
        return self.query(f"SET search_path = {schema}; {sql}", database="lightning").removeprefix("SET").strip()


def database(url: str, node: str, network: str = NETWORK) -> Database:
    """Return one node's talk with it."""
    return Database(url, network, node, node.upper(), "0.2.0")


class Pooler(Child):
    """PgBouncer in transaction mode: after each transaction another client may get its connection to the server."""

    CONNECTIONS = 2

    def __init__(self, server: FleetServer, directory: Path) -> None:
        """Raises ConfigError where the machine has none (Debian's package pgbouncer, or named in the environment)."""
        super().__init__("pgbouncer", directory)
        named = os.environ.get("LSPS2FAST_PGBOUNCER", "pgbouncer")
        self.program = shutil.which(named, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if self.program is None:
            raise ConfigError("PgBouncer was not found: install Debian's package pgbouncer, or put it on PATH")
        self._server = server
        self.port = free_port()
        self._user = SERVER_USER if os.geteuid() == 0 else None

    def start(self) -> None:
        """Up, in front of the server."""
        assert self.program is not None
        users, settings = self.directory / "users", self.directory / "pgbouncer.ini"
        users.write_text(f'"{ROLE}" "{self._server.password}"\n')
        settings.write_text(
            f"[databases]\nlightning = host=127.0.0.1 port={self._server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {self.CONNECTIONS}\nmax_client_conn = 100\nunix_socket_dir =\nlogfile =\n"
        )
        if self._user is not None:
            for path in (self.directory, users, settings):
                shutil.chown(path, self._user)
        self.spawn([self.program, str(settings)], user=self._user)
        until(self._listens, "port of PgBouncer", START_S, self.tail)

    def _listens(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"PgBouncer ended\n{self.tail()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def in_front(self, url: str) -> str:
        """Return the URL of a fleet by way of the pooler."""
        return url.replace(f"127.0.0.1:{self._server.port}/", f"127.0.0.1:{self.port}/")

    def remove(self) -> None:
        """End, and leave nothing."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
