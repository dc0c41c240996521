"""PostgreSQL as lightningd's database, on loopback: one server, a replica that follows it, and an end without warning.

The programs are those of the machine (Debian: package `postgresql`). A server refuses to run as root, so root hands it
to the user `postgres`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools.regtest.processes import START_S, Child, free_port, until

ROLE = "lightning"  # owns the database of lightningd, which bears the same name
ADMIN = "admin"
STEP_S = 120  # for one of PostgreSQL's own programs
SERVER_USER = "postgres"


def find_postgres() -> Path:
    """Return the directory of PostgreSQL's programs. Raises ConfigError."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    on_path = shutil.which("initdb")
    for place in ([Path(on_path).resolve().parent] if on_path else []) + debian[::-1]:
        if all((place / name).exists() for name in ("initdb", "postgres", "pg_basebackup", "psql")):
            return place
    raise ConfigError("PostgreSQL's server was not found: install Debian's package postgresql, or put initdb on PATH")


class Postgres(Child):
    """One server; `settings` are lines of its configuration."""

    def __init__(self, name: str, directory: Path, settings: dict[str, Any] | None = None) -> None:
        super().__init__(name, directory)
        self.programs = find_postgres()
        self.port = free_port()
        self.settings = {"fsync": "off"} | (settings or {})  # a crash here is one of processes, not of the machine
        self.data = directory / "data"
        self.password = secrets.token_hex(16)
        self._user = SERVER_USER if os.geteuid() == 0 else None
        if self._user is not None:
            try:
                pwd.getpwnam(self._user)
            except KeyError:
                raise ConfigError(f"PostgreSQL does not run as root, and there is no user {self._user}") from None
            shutil.chown(directory, self._user)

    @property
    def url(self) -> str:
        """What lightningd's option `wallet` takes."""
        return self.url_of(ROLE)

    def url_of(self, role: str) -> str:
        """Return it for another role."""
        return f"postgres://{role}:{self.password}@127.0.0.1:{self.port}/{ROLE}"

    def start(self) -> None:
        """Up; makes the database at the first start."""
        if not self.data.exists():
            password = self.directory / "password"
            password.write_text(self.password)
            if self._user is not None:
                shutil.chown(password, self._user)
            options = ["-U", ADMIN, "--pwfile", str(password), "-A", "scram-sha-256", "-E", "UTF8", "--no-locale"]
            self._run("initdb", "-D", str(self.data), *options)
            self.serve()
            self.query(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'")
            self.query(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
        else:
            self.serve()

    def serve(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.directory, "port": self.port}
        flags = [flag for name, value in (settings | self.settings).items() for flag in ("-c", f"{name}={value}")]
        self.spawn([str(self.programs / "postgres"), "-D", str(self.data), *flags], user=self._user)
        until(self._answers, f"answer of PostgreSQL {self.name}", START_S, self.tail)

    def _answers(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"PostgreSQL {self.name} ended\n{self.tail()}")
        try:
            return self.query("SELECT 1", database="postgres") == "1"
        except subprocess.CalledProcessError:
            return False

    def query(self, sql: str, database: str = "postgres") -> str:
        """Run a statement as the administrator; its rows as text. Raises CalledProcessError."""
        command = [str(self.programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-U", ADMIN, "-d", database, "-c", sql]
        environment = os.environ | {"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=STEP_S)
        return done.stdout.strip()

    def replica(self, name: str, directory: Path, settings: dict[str, Any] | None = None) -> Postgres:
        """Return a server that follows this one, running."""
        follower = Postgres(name, directory, {"hot_standby": "on"} | (settings or {}))
        follower.password = self.password
        source = f"host=127.0.0.1 port={self.port} user={ADMIN} password={self.password} application_name={name}"
        self._run("pg_basebackup", "-D", str(follower.data), "-d", source, "-R", "-X", "stream", "-c", "fast")
        follower.serve()
        linked = f"SELECT 1 FROM pg_stat_replication WHERE application_name='{name}'"
        until(lambda: self.query(linked), f"link of {name}")
        return follower

    def wait_for(self, replica: str) -> None:
        """Answer a commit from now on only once this replica has it on its disk."""
        self.query(f"ALTER SYSTEM SET synchronous_standby_names = '{replica}'")
        self.query("SELECT pg_reload_conf()")
        state = f"SELECT sync_state FROM pg_stat_replication WHERE application_name='{replica}'"
        until(lambda: self.query(state) == "sync", f"{replica} in step with {self.name}")

    def promote(self) -> None:
        """Make this replica the server that takes writes."""
        self.query("SELECT pg_promote()")
        until(lambda: self.query("SELECT pg_is_in_recovery()") == "f", f"promotion of {self.name}")

    def crash(self) -> None:
        """End at once, without a checkpoint and without a word to replicas or clients."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)  # SIGKILL would leave its children behind, still writing
            self.gone()

    def kill(self) -> None:
        """As `crash`."""
        self.crash()

    def stop(self) -> None:
        """End cleanly."""
        if self.runs and self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.gone()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        try:
            subprocess.run(
                command, user=self._user, cwd=self.directory, capture_output=True, text=True, check=True, timeout=STEP_S
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{program} failed: {error.stderr.strip()}") from None
