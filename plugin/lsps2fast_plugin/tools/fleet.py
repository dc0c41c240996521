"""`lsps2fast fleet`: makes the tables that several nodes share, shows who is in, and takes a node out for good."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import Any, Final

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet.database import connect, load_driver, split_url, without_password
from lsps2fast_plugin.service.fleet.schema import CALLABLE, MIGRATIONS, VERSION
from lsps2fast_plugin.service.sales_ledger.outbox import NotReadable, rebuild
from lsps2fast_plugin.service.sales_ledger.schema import migrate

PATIENCE_S: Final = 30.0


async def _version(connection: Any, schema: str, network: str) -> int:
    """Return the version of a schema, 0 for one that is empty. Raises ConfigError for one that is not for us."""
    if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.about") is None:
        mine = "WHERE %snamespace = $1::text::regnamespace"
        things = f"EXISTS (SELECT FROM pg_class {mine % 'rel'}) OR EXISTS (SELECT FROM pg_proc {mine % 'pro'})"
        if await connection.fetchval(f"SELECT {things}", schema):
            raise ConfigError(
                f"the schema {schema} has other things in it; name one of its own, as in ?schema=lsps2fast"
            )
        return 0
    row = await connection.fetchrow("SELECT version, network FROM about")
    if row["network"] != network:
        raise ConfigError(
            f"the schema {schema} is that of a fleet on {row['network']}; name another one, as in "
            f"?schema=lsps2fast_{network}"
        )
    version: int = row["version"]
    if version > VERSION:
        raise ConfigError(f"the schema {schema} has version {version}, newer than {VERSION}: upgrade this program")
    return version


async def init(connection: Any, schema: str, args: Namespace) -> str:
    """Make the schema, or bring it to this version and lose nothing; let a role in. Raises ConfigError."""
    async with connection.transaction():
        await connection.fetchval("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", schema)  # one at a time
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(f"SET LOCAL search_path = {schema}, pg_temp")
        version = await _version(connection, schema, args.network)
        if 0 < version < VERSION:  # every question looks here first: those under way end, and others wait
            await connection.execute("LOCK TABLE node")
        for migration in MIGRATIONS[version:]:
            await connection.execute(migration)
        if version == 0:
            await connection.execute("INSERT INTO about (version, network) VALUES ($1, $2)", VERSION, args.network)
        else:
            await connection.execute("UPDATE about SET version = $1", VERSION)
        names = "SELECT oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = $1::text::regnamespace"
        for row in await connection.fetch(names, schema):
            await connection.execute(f"ALTER FUNCTION {row['name']} SET search_path = {schema}, pg_temp")
            await connection.execute(f"REVOKE ALL ON FUNCTION {row['name']} FROM PUBLIC")
        if args.role is not None:
            role = '"' + args.role.replace('"', '""') + '"'
            await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
            for function in CALLABLE:
                await connection.execute(f"GRANT EXECUTE ON FUNCTION {schema}.{function} TO {role}")
    words = "made" if version == 0 else "is as it was" if version == VERSION else f"brought from version {version}"
    allowed = "" if args.role is None else f"; {args.role} may call its functions, and nothing else"
    return f"schema {schema} for a fleet on {args.network}, version {VERSION}: {words}{allowed}\n"


async def show(connection: Any, schema: str, args: Namespace) -> str:
    """Return the nodes and the pots, a line each."""
    lines = []
    seen = "extract(epoch FROM now() - seen)::bigint AS s"
    for row in await connection.fetch(f"SELECT node, alias, program, policy, {seen} FROM {schema}.node ORDER BY node"):
        lines.append(
            f"node {row['node']} {row['alias']}: version {row['program']}, policy {row['policy']}, "
            f"heard of {row['s']} s ago\n"
        )
    for row in await connection.fetch(
        f"SELECT pot, sum(held) AS held, sum(used) AS used, count(*) AS n FROM {schema}.hold GROUP BY pot ORDER BY pot"
    ):
        lines.append(f"pot {row['pot']}: {row['used']} used, {row['held']} held by {row['n']} nodes\n")
    clients = await connection.fetchval(f"SELECT count(DISTINCT peer) FROM {schema}.client")
    return "".join(lines) + f"{clients} clients are known\n"


async def forget(connection: Any, schema: str, args: Namespace) -> str:
    """Take a node out that will not come back: its part is free, but for what it sold of tokens. Raises ConfigError."""
    async with connection.transaction():
        mine = f"SELECT pot FROM {schema}.hold WHERE node = $1"  # in the order in which nodes lock them
        lock = f"SELECT pot FROM {schema}.pot WHERE pot IN ({mine}) ORDER BY pot FOR UPDATE"
        await connection.fetch(lock, args.node)
        gone = await connection.execute(f"DELETE FROM {schema}.node WHERE node = $1", args.node)
    if gone == "DELETE 0":
        raise ConfigError(f"no node {args.node} is known; `lsps2fast fleet show` lists them")
    return f"{args.node} is forgotten; its part is free for others, but the uses of tokens that it sold stay counted\n"


async def _ledgers(url: str) -> list[tuple[str, str, list[tuple[str, dict[str, Any]]]]]:
    """Return node, ledger and rows, the oldest ledger of each node first."""
    driver, (urls, schema) = load_driver(), split_url(url)
    connection = await _connected(driver, urls)
    try:
        found = []
        for each in await connection.fetch(f"SELECT ledger, node FROM {schema}.ledger ORDER BY node, since"):
            rows = await connection.fetch(
                f"SELECT kind, row FROM {schema}.ledger_row WHERE ledger = $1 ORDER BY kind, name", each["ledger"]
            )
            found.append((each["node"], each["ledger"], [(row["kind"], json.loads(row["row"])) for row in rows]))
        return found
    except driver.PostgresError as error:
        raise ConfigError(f"{error}; reading the fleet's ledger needs the role that made the schema") from error
    finally:
        connection.terminate()


def read_ledgers(url: str) -> dict[str, sqlite3.Connection]:
    """Return a ledger in memory for each node, and under the name "" one with the sales of all. Raises ConfigError."""
    by_node: dict[str, list[list[tuple[str, dict[str, Any]]]]] = {}
    for node, _, rows in asyncio.run(_ledgers(url)):
        by_node.setdefault(node, []).append(rows)
    found = {}
    for name in ("", *by_node):
        db = sqlite3.connect(":memory:", isolation_level=None)
        migrate(db)
        for node in by_node if name == "" else (name,):
            try:
                rebuild(db, node, by_node[node])
            except NotReadable as error:
                raise ConfigError(
                    f"what the node {node} shipped cannot be read ({error}); a newer lsps2fast may: upgrade this one"
                ) from error
        found[name] = db
    return found


async def _connected(driver: Any, urls: list[str]) -> Any:
    try:
        return await connect(driver, urls, PATIENCE_S)
    except Exception as error:  # whatever the driver, the system or the server say: the sentence goes to a person
        said = without_password(str(error), urls[0]) or type(error).__name__
        raise ConfigError(f"the database cannot be reached: {said}") from error


ACTIONS: Final[dict[str, Callable[[Any, str, Namespace], Awaitable[str]]]] = {
    "init": init,
    "show": show,
    "forget": forget,
}


async def _run(args: Namespace) -> str:
    driver, (urls, schema) = load_driver(), split_url(args.url)
    if args.action == "forget" and args.node is None:
        raise ConfigError("name the node to forget: its id, 66 hex digits")
    connection = await _connected(driver, urls)
    try:
        return await ACTIONS[args.action](connection, schema, args)
    except TimeoutError as error:
        what = "something holds its tables, as a backup does; nothing was changed, try again later"
        raise ConfigError(f"the database did not answer within {PATIENCE_S:g} s: {what}") from error
    except driver.UndefinedTableError as error:
        raise ConfigError(f"there is no fleet in the schema {schema}; run `lsps2fast fleet init URL` once") from error
    except driver.PostgresError as error:
        raise ConfigError(f"{error}; this needs a role that may create in the database") from error
    finally:
        connection.terminate()


def run(args: Namespace) -> int:
    """Do one of `ACTIONS` and print what came of it; 2 when that cannot be."""
    try:
        sys.stdout.write(asyncio.run(_run(args)))
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast fleet: {error}\n")
        return 2
    return 0
