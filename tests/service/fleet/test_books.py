"""The books of all nodes in a real database: nothing is missing and nothing counts twice, whatever is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.fleet import FleetServer, database
from harness.fleet_histories import RULES
from harness.fleet_model import FleetMember
from harness.fleet_model import Server as Nothing

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet import fleet
from lsps2fast_plugin.service.fleet.database import Database, FleetAway
from lsps2fast_plugin.service.sales_ledger import outbox, schema
from lsps2fast_plugin.tools.fleet import read_ledgers

NODE = "02" + "ab" * 32


class Bookkeeper(FleetMember):
    """A node of the model with a ledger on disk and a real database; the answer to `ship` may be lost."""

    def __init__(self, url: str, directory: Path) -> None:
        self.path = str(directory / "ledger.sqlite3")
        self.db = sqlite3.connect(self.path, isolation_level=None)
        schema.migrate(self.db)
        outbox.keep(self.db)
        super().__init__(Nothing(), NODE, RULES)
        self.real: Database = database(url, NODE)
        self.loses_answers = False
        self.fleet._ledger_path = self.path
        self.fleet._wire = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def ship(self, shipment: outbox.Shipment) -> int:
        there = await self.real.ship(shipment)
        if self.loses_answers:
            await self.real.leave()
            raise FleetAway("the answer is lost")
        return there

    def close_channels(self, *numbers: int) -> None:
        """A rule closed these channels."""
        for number in numbers:
            values = (bytes([number]) * 32, "idle", number, 253, 90_000_000, 10_000_000, 1_000_000, 0, 60)
            self.db.execute(f"INSERT INTO closes VALUES ({', '.join('?' * len(values))})", values)

    async def __aenter__(self) -> Bookkeeper:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.real.leave()

    async def turn(self) -> None:
        """One turn of `run`."""
        await self.fleet.look()
        await self.fleet.ship()


@pytest.fixture
def keeper(url: str, tmp_path: Path) -> Iterator[Bookkeeper]:
    """A node with a ledger, not joined yet."""
    node = Bookkeeper(url, tmp_path)
    yield node
    node.db.close()


CLOSES = "SELECT lower(hex(channel_id)), rule, decided_ms, ours_msat, idle_days FROM closes ORDER BY channel_id"


async def told(server: FleetServer, url: str) -> list[Any]:
    """The closes by rule in the books of the fleet."""

    def read() -> list[Any]:
        ledgers = read_ledgers(f"{server.url}?schema={url.rpartition('=')[2]}")
        found = ledgers[""].execute(CLOSES).fetchall()
        for db in ledgers.values():
            db.close()
        return found

    return await asyncio.to_thread(read)


def copy(server: FleetServer, url: str) -> None:
    """Keep a copy of the books."""
    both = "CREATE TABLE old_ledger AS TABLE ledger; CREATE TABLE old_row AS TABLE ledger_row"
    server.value(url.rpartition("=")[2], both)


def restore(server: FleetServer, url: str) -> None:
    """Put the copy in the place of the books."""
    back = "INSERT INTO ledger TABLE old_ledger; INSERT INTO ledger_row TABLE old_row"
    server.value(url.rpartition("=")[2], f"TRUNCATE ledger, ledger_row; {back}")


async def test_closes_by_rule_are_in_the_books_of_the_fleet(server: FleetServer, url: str, keeper: Bookkeeper) -> None:
    """operator:O2: with a real database, each once, also what was closed while it was away."""
    async with keeper:
        keeper.close_channels(1, 2)
        await keeper.turn()
        server.crash()
        keeper.close_channels(3)
        await keeper.turn()
        server.start()
        await keeper.turn()
        assert await told(server, url) == keeper.db.execute(CLOSES).fetchall()
        assert len(await told(server, url)) == 3


async def test_a_loss_is_found_out_though_the_answer_that_told_of_it_was_lost(
    server: FleetServer, url: str, keeper: Bookkeeper
) -> None:
    """rule:2: an older copy is restored, and the first shipment after it is written, and no one hears that."""
    async with keeper:
        keeper.close_channels(1)
        await keeper.turn()
        copy(server, url)
        keeper.close_channels(2)
        await keeper.turn()
        restore(server, url)
        keeper.close_channels(3)
        keeper.loses_answers = True
        await keeper.turn()
        keeper.loses_answers = False
        for _ in range(2):
            await keeper.turn()
        assert await told(server, url) == keeper.db.execute(CLOSES).fetchall()


async def test_a_node_that_sells_nothing_finds_out_what_the_database_has_lost(
    server: FleetServer, url: str, keeper: Bookkeeper
) -> None:
    """The books are whole again at the next look, not at the next sale."""
    async with keeper:
        copy(server, url)
        keeper.close_channels(1, 2)
        await keeper.turn()
        restore(server, url)
        await keeper.real.leave()  # as it is when a server is stopped for that
        for _ in range(2):
            await keeper.turn()
        assert await told(server, url) == keeper.db.execute(CLOSES).fetchall()


async def test_a_large_ledger_keeps_the_node_from_nothing_else(
    url: str, keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rule:22: what a client did is told while years of books are shipped."""
    async with keeper:
        monkeypatch.setattr(outbox, "BATCH", 1)
        monkeypatch.setattr(fleet, "MOST_SHIPPED", 3)
        keeper.close_channels(*range(1, 8))
        shipped = []
        for _ in range(3):
            await keeper.turn()
            shipped.append(7 - keeper.db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        assert shipped == [3, 6, 7]


async def test_a_label_with_a_nul_keeps_no_node_out(server: FleetServer, url: str, keeper: Bookkeeper) -> None:
    """PostgreSQL takes none: the rest of the label is shipped, or no row of this node would ever be."""
    keeper.close_channels(1)
    keeper.db.execute(
        "INSERT INTO buys VALUES ('1x1x1', ?, ?, NULL, 1, 2, NULL, 1, 1, 1, 1, 0, NULL, NULL)", (b"\2" * 33, "a\0b")
    )
    async with keeper:
        await keeper.turn()
        assert keeper.holds.joined
        assert await told(server, url) == keeper.db.execute(CLOSES).fetchall()
        found = server.value(url.rpartition("=")[2], "SELECT row ->> 'token' FROM ledger_row WHERE kind = 'buys'")
        assert found == "a\ufffdb"


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE ledger_row SET row = '{"channel_id": "00", "colour": "red"}'""",
        """UPDATE ledger_row SET kind = 'closes (rule) VALUES (1); --'""",
        """UPDATE ledger_row SET row = '{"channel_id": "no hex"}'""",
        """UPDATE ledger_row SET row = '[]'""",
    ],
)
async def test_rows_of_a_newer_version_are_told_in_words(
    server: FleetServer, url: str, keeper: Bookkeeper, change: str
) -> None:
    """rule:16 in kind: what a node shipped is data, and never a part of a statement."""
    async with keeper:
        keeper.close_channels(1)
        await keeper.turn()
        server.value(url.rpartition("=")[2], change)
        with pytest.raises(ConfigError, match=f"what the node {NODE} shipped cannot be read"):
            await told(server, url)
