"""A server for fleets: its administrator makes the schemas, its nodes have a role that may only call functions."""

from __future__ import annotations

import argparse
import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lsps2fast_plugin.service.fleet.database import Database
from lsps2fast_plugin.tools import fleet
from lsps2fast_plugin.tools.regtest.postgres import Postgres

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
