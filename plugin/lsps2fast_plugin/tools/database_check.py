"""`lsps2fast check-database`: whether lightningd's PostgreSQL may lose what an LSP has acted upon.

lightningd tells its peers of a commitment, and we tell a payer that a part is held, once PostgreSQL has answered the
commit. A server that answers before the commit is on a disk, or on the replica that will be promoted, can forget it;
the node would then start with an old state, and may lose what its channels hold. What can be seen of that is refused.
Asked with PostgreSQL's own psql, so that a server needs no more packages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from lsps2fast.errors import ConfigError

TIMEOUT_S: Final = 20
SETTINGS: Final = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
COMMITS_THAT_LAST: Final = ("on", "remote_apply")
QUESTION: Final = (
    *(f"SELECT '{name}', current_setting('{name}')" for name in SETTINGS),
    "SELECT 'replica', pg_is_in_recovery()::text",
    "SELECT 'standby', application_name || ' ' || coalesce(sync_state, '?') FROM pg_stat_replication",
)


class Finding(NamedTuple):
    """One thing that was looked at: well, or what to change."""

    well: bool
    text: str


def _is_on_some_only(names: str) -> bool:
    """Return whether a commit waits for a number of these replicas, whichever they are, and not for all."""
    any_of = re.match(r"\s*ANY\s+(\d+)\s*\((.*)\)", names, re.IGNORECASE | re.DOTALL)
    return any_of is not None and ("*" in any_of[2] or int(any_of[1]) < len(any_of[2].split(",")))


def _may_change(names: str) -> bool:
    """Return whether another replica takes the place of one that is in step and goes away: fewer than are named."""
    first_of = re.match(r"\s*(?:FIRST\s+)?(\d+)\s*\((.*)\)", names, re.IGNORECASE | re.DOTALL)
    count, listed = (int(first_of[1]), first_of[2]) if first_of else (1, names)
    return "*" in listed or count < len(listed.split(","))


def judge(settings: dict[str, str], standbys: list[tuple[str, str]]) -> list[Finding]:
    """Judge what a server says of itself. `standbys`: name and state (`sync`, `quorum`, `async` …, "?" for hidden)."""
    if settings["replica"] == "true":
        return [Finding(False, "this server is a replica that was not promoted; lightningd cannot write to it")]
    found = [
        Finding(settings["fsync"] == "on", "fsync = on: a commit is on this server's disk when it is answered"),
        Finding(settings["full_page_writes"] == "on", "full_page_writes = on: a page is never half written"),
        Finding(
            settings["synchronous_commit"] in COMMITS_THAT_LAST,
            f"synchronous_commit is {settings['synchronous_commit']}; for this role it must be on or remote_apply",
        ),
    ]
    in_step = [name for name, state in standbys if state in ("sync", "quorum")]
    hidden = [name for name, state in standbys if state == "?"]
    late = [name for name, state in standbys if state not in ("sync", "quorum", "potential", "?")]
    if not settings["synchronous_standby_names"]:
        found.append(
            Finding(
                not standbys,
                "synchronous_standby_names is empty: "
                + (
                    f"the replicas {', '.join(name for name, _ in standbys)} may lack the last commits; name the one"
                    " that is to be promoted"
                    if standbys
                    else "there is no replica; when this server's disk is lost, so are the channels"
                ),
            )
        )
    elif _is_on_some_only(settings["synchronous_standby_names"]):
        text = f"synchronous_standby_names is {settings['synchronous_standby_names']}: a commit may be on any of them"
        found.append(Finding(False, f"{text}, and not on the others; write FIRST, or as many as there are names"))
    elif in_step and _may_change(settings["synchronous_standby_names"]):
        text = f"in step with {', '.join(in_step)} now, and with another one while that is away: promote the replica"
        found.append(Finding(True, f"{text} that has received most, and only if you can ask all that are named"))
    elif in_step:
        found.append(Finding(True, f"in step with {', '.join(in_step)}: promote no other"))
    elif hidden:
        found.append(
            Finding(False, "whether a replica is in step is hidden from this role; GRANT pg_read_all_stats to it")
        )
    else:
        found.append(Finding(False, "no replica is in step; every commit of lightningd waits until one is"))
    found += [Finding(True, f"{name} follows behind: never promote it") for name in late if in_step]
    return found


def ask(url: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the settings and the replicas of a server. Raises ConfigError."""
    psql = shutil.which("psql")
    if psql is None:
        raise ConfigError("psql was not found on PATH: install Debian's package postgresql-client")
    try:
        place = urlsplit(url)
        port = str(place.port or 5432)
    except ValueError:  # its text may have a part of the password
        raise ConfigError("this is no URL; in a password write %40 for @, %3A for : and %2F for /") from None
    if place.scheme not in ("postgres", "postgresql") or not place.hostname:
        raise ConfigError("the URL must be lightningd's own, as postgres://USER:PASSWORD@HOST:PORT/DATABASE")
    environment = {
        **os.environ,
        "PGHOST": place.hostname,
        "PGPORT": port,
        "PGUSER": unquote(place.username or ""),
        "PGPASSWORD": unquote(place.password or ""),
        "PGDATABASE": place.path.strip("/"),
        "PGCONNECT_TIMEOUT": "10",
    }
    command = [psql, "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
    for question in QUESTION:
        command += ["-c", question]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{place.hostname}:{port} did not answer within {TIMEOUT_S} s") from None
    if done.returncode:
        raise ConfigError(f"{place.hostname}:{port}: {done.stderr.strip() or 'psql failed'}")
    rows = [line.split("\t", 1) for line in done.stdout.splitlines()]
    standbys = [value.rpartition(" ") for name, value in rows if name == "standby"]
    return {name: value for name, value in rows if name != "standby"}, [(name, state) for name, _, state in standbys]


def run(args: Namespace) -> int:
    """Print the findings; 0 when all is well, 1 when commits may be lost, 2 when the server cannot be asked."""
    url = args.url or os.environ.get("LIGHTNINGD_WALLET")
    try:
        if not url:
            raise ConfigError("name the URL of lightningd's option `wallet`, or set LIGHTNINGD_WALLET to it")
        findings = judge(*ask(url))
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast check-database: {error}\n")
        return 2
    for finding in findings:
        sys.stdout.write(f"{'ok   ' if finding.well else 'WRONG'}  {finding.text}\n")
    return 0 if all(finding.well for finding in findings) else 1
