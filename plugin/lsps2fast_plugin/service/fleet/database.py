"""The fleet's PostgreSQL, asked over one connection, one question at a time.

Every question has an end (`PATIENCE_S`), also in the database, where it waits no longer for a lock. After one that
failed the connection is given up: `join` makes a new one, and waits in the database until what the old one had under
way is over. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from lsps2fast.errors import ConfigError, Lsps2Error
from lsps2fast_plugin.cln.no_openssl import give_tls
from lsps2fast_plugin.service.fleet.holds import Ask, Granted
from lsps2fast_plugin.service.fleet.schema import VERSION
from lsps2fast_plugin.service.policy.shared import Standing
from lsps2fast_plugin.service.sales_ledger.outbox import Shipment

CONNECT_S: Final = 5.0
PATIENCE_S: Final = 2.0  # for one answer
SEEN_EVERY_S: Final = 10.0
UNTOLD: Final = 500  # clients that are forgotten in one go
SCHEMA: Final = "lsps2fast"
FENCED: Final = "LF003"
LOCKED: Final = "55P03"  # lock_not_available

log = logging.getLogger(__name__)


class FleetAway(Lsps2Error):
    """The database did not answer, or not well; the sentence says what to do."""


class NotOurs(FleetAway):
    """It answers, and will not serve this node until the operator mends something."""


class Client(msgspec.Struct, frozen=True):
    """What a client has with this node, as it is told, or with the other nodes together, as it is heard."""

    peer: str
    buys: int
    unpaid: int
    probes: int
    unsettled: int
    under_way: int
    unpaid_msat: int

    @property
    def standing(self) -> Standing:
        """All but who it is."""
        return Standing(self.buys, self.unpaid, self.probes, self.unsettled, self.under_way, self.unpaid_msat)


class FleetNode(msgspec.Struct, frozen=True):
    """One node of the fleet, this one among them; `seen_s` since it was last heard of."""

    node: str
    alias: str
    program: str
    policy: str
    seen_s: int


class _About(msgspec.Struct, frozen=True):
    network: str
    version: int


class Placed(msgspec.Struct, frozen=True):
    """The answer about one buy; without `room` the client has too many already."""

    room: bool
    others: Client
    holds: list[Granted]


class News(msgspec.Struct, frozen=True):
    """What the others have told; `others`: by pot what they hold and use together, nothing for none.

    `clients` that changed since a moment, and `heard_until` which there are no more; `nodes` that changed since one,
    of `count`, as of `now`.
    """

    holds: list[Granted]
    others: dict[str, tuple[int, int]]
    clients: list[Client]
    heard_until: datetime
    nodes: list[FleetNode]
    count: int
    now: datetime


def split_url(url: str) -> tuple[list[str], str]:
    """Return a URL for the driver for each host, and the schema that the parameter `schema` names. Raises ConfigError.

    Of several hosts, each with a port of its own, one is wanted that takes writes, unless `target_session_attrs` says
    otherwise.
    """
    try:
        place = urlsplit(url)
        user, at, hosts = place.netloc.rpartition("@")
        places = [place._replace(netloc=f"{user}{at}{host}") for host in hosts.split(",")]
        wrong = [each for each in places if each.port == 0 or not each.hostname]
    except ValueError:  # its text may have a part of the password
        raise ConfigError(
            "lsps2-fleet is no URL; in a password write %40 for @, %3A for :, %2F for /, %23 for # and %3F for ?"
        ) from None
    if place.scheme not in ("postgres", "postgresql") or wrong:
        raise ConfigError("lsps2-fleet must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or with HOST,HOST:PORT")
    query = dict(parse_qsl(place.query))
    if len(places) > 1:
        query.setdefault("target_session_attrs", "read-write")
    schema = query.pop("schema", SCHEMA)
    if not schema.isidentifier() or not schema.isascii() or schema != schema.lower() or len(schema) > 63:
        raise ConfigError("the schema in lsps2-fleet must be made of a-z, 0-9 and _, as in ?schema=lsps2fast")
    return [urlunsplit(each._replace(query=urlencode(query))) for each in places], schema


async def connect(driver: Any, urls: Sequence[str], patience_s: float) -> Any:
    """Return a connection to the first of these servers that lets us in. Raises what the driver does at the last."""
    for url in urls:
        try:
            made = driver.connect(url, timeout=CONNECT_S, command_timeout=patience_s, statement_cache_size=0)
            return await asyncio.wait_for(made, CONNECT_S + 1)
        except Exception as error:
            if url == urls[-1]:
                raise
            said = without_password(str(error), url) or type(error).__name__
            log.debug(f"the fleet's server at {urlsplit(url).netloc.rpartition('@')[2]} does not do: {said}")
    raise ValueError("no server is named")


def without_password(text: str, url: str) -> str:
    """Return a text of the driver's or the system's, with the password of the URL hidden."""
    place = urlsplit(url)
    secrets = {place.password or "", unquote(place.password or "")}
    secrets |= {value for name, value in parse_qsl(place.query) if name in ("password", "sslpassword", "passfile")}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def load_driver() -> Any:
    """Return asyncpg. Raises ConfigError without it."""
    give_tls()
    try:
        import asyncpg
    except ImportError:
        raise ConfigError("lsps2-fleet needs asyncpg: pip install 'lsps2fast[fleet]', or leave it out") from None
    return asyncpg


class Database:
    """One node's talk with the fleet's database."""

    def __init__(self, url: str, network: str, node: str, alias: str, program: str) -> None:
        """Check the URL. Raises ConfigError."""
        self._urls, self._schema = split_url(url)
        self._driver = load_driver()
        self._network = network
        self.node, self._alias, self._program = node, alias, program
        self._connection: Any = None
        self._epoch = 0
        self._seen = "", 0.0  # what was told of this node, and when

    @property
    def place(self) -> str:
        """The server, without a password."""
        places = [urlsplit(url) for url in self._urls]
        return ",".join(f"{each.hostname}:{each.port or 5432}" for each in places) + places[0].path

    @property
    def fleet(self) -> str:
        """The place and the schema."""
        return f"{self.place}?schema={self._schema}"

    async def join(self, policy: str) -> None:
        """Connect, and act for this node from now on; an earlier process of it is refused. Raises FleetAway."""
        await self.leave()
        try:
            self._connection = await connect(self._driver, self._urls, PATIENCE_S)
        except Exception as error:
            raise self._away(error) from error
        about = await self._ask("network_and_version()", _About)
        if about.version != VERSION:
            what = "upgrade this program" if about.version > VERSION else "run `lsps2fast fleet init` with this program"
            raise NotOurs(
                f"the schema {self._schema} at {self.place} has version {about.version}, not {VERSION}: {what}"
            )
        if about.network != self._network:
            raise NotOurs(
                f"the fleet at {self.place} is one on {about.network}, this node is on {self._network}; give each its "
                "own database, or its own schema as in ?schema=lsps2fast_testnet"
            )
        self._epoch = await self._ask("join_fleet($1, $2, $3, $4)", int, self.node, self._alias, self._program, policy)
        self._seen = policy, asyncio.get_running_loop().time()

    async def place_buy(self, peer_id: str, buys: int, most_buys: int, asks: Sequence[Ask]) -> Placed:
        """Ask for a place for one more buy of a client, who then has `buys` here. Raises FleetAway."""
        what = (self.node, self._epoch, peer_id, buys, most_buys, *_columns(asks))
        placed: Placed = await self._ask("place_buy($1, $2, $3, $4, $5, $6, $7, $8, $9)", Placed, *what)
        return placed

    async def tell_and_hear(
        self,
        policy: str,
        asks: Sequence[Ask],
        watch: Sequence[str],
        clients: Sequence[Client],
        since: datetime | None = None,
        nodes_since: datetime | None = None,
    ) -> News:
        """Tell what has changed here, hear what has changed elsewhere, of the pots in `watch`. Raises FleetAway.

        `since`: as of when clients of this node were heard of, `nodes_since` the nodes; None for never.
        """
        told = msgspec.json.encode(clients).decode()
        what = (self.node, self._epoch, *_columns(asks), list(watch), told, since, nodes_since)
        moments = "coalesce($9, '-infinity'::timestamptz), coalesce($10, '-infinity'::timestamptz)"
        news: News = await self._ask(f"tell_and_hear($1, $2, $3, $4, $5, $6, $7, $8, {moments})", News, *what)
        now_s = asyncio.get_running_loop().time()
        if self._seen[0] != policy or now_s - self._seen[1] >= SEEN_EVERY_S:
            await self._ask("seen_now($1, $2)", None, self.node, policy)
            self._seen = policy, now_s
        return news

    async def forget_untold(self) -> bool:
        """Forget clients that were told of before this join and not since; return whether there are more."""
        found: int = await self._ask("forget_untold($1, $2)", int, self.node, self._epoch)
        return found >= UNTOLD

    async def list_nodes(self) -> list[FleetNode]:
        """Return all nodes. Raises FleetAway."""
        nodes: list[FleetNode] = await self._ask("list_nodes()", list[FleetNode])
        return nodes

    async def ship(self, shipment: Shipment) -> int:
        """Bring rows of this node's ledger there; return the last change that was there before. Raises FleetAway.

        They are taken only where that is no less than what was shipped.
        """
        rows = msgspec.json.encode(shipment.rows).decode()
        what = (self.node, self._epoch, shipment.ledger, shipment.shipped, shipment.last, rows)
        there: int = await self._ask("ship($1, $2, $3, $4, $5, $6)", int, *what)
        return there

    async def leave(self) -> None:
        """Close the connection, whatever it does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.terminate()

    async def _ask(self, call: str, answer: Any, *arguments: Any) -> Any:
        if self._connection is None:
            raise FleetAway(f"no connection to {self.place}")
        try:
            question = f"SELECT {self._schema}.{call} FROM set_config('lock_timeout', '{PATIENCE_S:g}s', true)"
            value = await asyncio.wait_for(self._connection.fetchval(question, *arguments), PATIENCE_S + 1)
            if answer is None or answer is int:
                return value
            return msgspec.json.decode(value, type=answer)
        except asyncio.CancelledError:
            await self.leave()  # the answer may still come; the next question needs a connection of its own
            raise
        except Exception as error:
            await self.leave()
            raise self._away(error) from error

    def _away(self, error: Exception) -> FleetAway:
        """Say what is wrong and what to do; the password never shows."""
        said = without_password(str(error), self._urls[0])
        code = str(getattr(error, "sqlstate", None) or "")
        where = f"the fleet's database at {self.place}"
        if isinstance(error, (TimeoutError, asyncio.TimeoutError)) or code == LOCKED:
            return FleetAway(f"{where} did not answer within {PATIENCE_S:g} s")
        if code == FENCED:
            return FleetAway(f"{where}: another process acts for this node, or it was forgotten there")
        if code in ("28P01", "28000"):
            return NotOurs(f"{where} refuses user or password; mend lsps2-fleet or the role there")
        if code in ("3D000", "3F000", "42P01", "42883"):
            return NotOurs(f"{where} has no schema {self._schema} of a fleet; run `lsps2fast fleet init URL` once")
        if code == "42501":
            return NotOurs(f"{where} lets this role not in; run `lsps2fast fleet init URL --role ROLE` for it")
        if isinstance(error, self._driver.TargetServerAttributeNotMatched):
            return FleetAway(f"{where}: no server there takes writes; promote one")
        if code == "25006":
            return FleetAway(f"{where} is read-only: a replica, or set so; name the server that takes writes")
        if code.startswith("53"):
            return FleetAway(f"{where} is out of disk, memory or connections ({said})")
        if code == "LF004":
            return NotOurs(f"{where}: set default_transaction_isolation to 'read committed' for this role")
        return FleetAway(f"{where}: {type(error).__name__}: {said.splitlines()[0] if said else 'no words'}")


def _columns(asks: Sequence[Ask]) -> tuple[list[str], list[int], list[int], list[int]]:
    """Sorted by pot, so that no two nodes wait for each other."""
    rows = sorted(asks)
    return (
        [ask.pot for ask in rows],
        [ask.used for ask in rows],
        [ask.want for ask in rows],
        [ask.most for ask in rows],
    )
