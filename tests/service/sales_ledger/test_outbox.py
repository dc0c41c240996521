"""The outbox: each change of the ledger reaches the fleet's database, whatever is lost on the way, and counts once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from harness.sales_ledger import Closing
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast_plugin.service.sales_ledger import outbox, schema
from lsps2fast_plugin.service.sales_ledger.ledger import reading
from lsps2fast_plugin.service.sales_ledger.report import report

NODE = "02" + "ab" * 32
DAY_MS = 86_400_000


def ledger(path: Path, *, ships: bool = True) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, factory=Closing)
    schema.migrate(db)
    (outbox.keep if ships else outbox.drop)(db)
    return db


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    """A ledger whose path has signs that mean something in a URI is opened, not one that is called otherwise."""
    path = tmp_path / "sales of 100%41? #1.sqlite3"
    ledger(path).close()
    with reading(str(path)) as db:
        assert schema.version_of(db) == schema.VERSION
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def begin(db: sqlite3.Connection, number: int) -> None:
    """One attempt, open."""
    db.execute(
        "INSERT INTO attempts (jit_scid, payment_hash, began_ms, life, peer_id, fee_agreed_msat, fee_taken_msat,"
        " fee_owed_msat) VALUES (?, ?, ?, 1, ?, 1000, 0, 0)",
        (f"{number}x1x1", bytes([number] * 32), number, bytes(33)),
    )


def end(db: sqlite3.Connection, number: int, at_ms: int = DAY_MS) -> None:
    """It was paid."""
    db.execute(
        "UPDATE attempts SET outcome = 'Succeeded', ended_ms = ?, fee_taken_msat = 1000 WHERE jit_scid = ?",
        (at_ms, f"{number}x1x1"),
    )


class There:
    """The database: what `ship` promises."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.last: dict[str, int] = {}

    def ship(self, shipment: outbox.Shipment) -> int:
        before = self.last.setdefault(shipment.ledger, 0)
        if before < shipment.shipped:
            return before
        for each in json.loads(json.dumps(shipment.rows)):
            self.rows[shipment.ledger, each["kind"], each["name"]] = each["row"]
        self.last[shipment.ledger] = shipment.last
        return before

    def rebuilt(self, *ledgers: str) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None, factory=Closing)
        schema.migrate(db)
        rows = [[(kind, row) for (of, kind, _), row in self.rows.items() if of == each] for each in ledgers]
        outbox.rebuild(db, NODE, rows)
        return db


def ship_all(path: Path, there: There) -> None:
    while (shipment := outbox.oldest(str(path), NODE)) is not None:
        outbox.done(str(path), shipment, there.ship(shipment))


def earned_msat(db: sqlite3.Connection) -> int:
    return int(report(db, 0, 10 * DAY_MS, None, 10 * DAY_MS)["total"]["earned_msat"])


def test_a_ledger_without_a_fleet_has_no_outbox(tmp_path: Path) -> None:
    """Nothing grows where nothing is shipped; leaving a fleet clears what was kept."""
    db = ledger(tmp_path / "l", ships=False)
    begin(db, 1)
    assert outbox.oldest(str(tmp_path / "l"), NODE) is None
    ledger(tmp_path / "l").close()
    assert outbox.oldest(str(tmp_path / "l"), NODE) is not None
    outbox.drop(db)
    assert outbox.oldest(str(tmp_path / "l"), NODE) is None
    assert outbox.oldest(str(tmp_path / "none"), NODE) is None
    assert not (tmp_path / "none").exists()


def test_leaving_a_fleet_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    """A disk that is full in the middle: an outbox without its table would keep the ledger shut at the next start."""
    db = ledger(tmp_path / "l")

    def refuse(action: int, name: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if (action, name) == (sqlite3.SQLITE_DROP_TABLE, "outbox_of") else sqlite3.SQLITE_OK

    db.set_authorizer(refuse)
    with contextlib.suppress(sqlite3.DatabaseError):
        outbox.drop(db)
    db.set_authorizer(None)
    outbox.keep(db)
    begin(db, 1)
    assert outbox.oldest(str(tmp_path / "l"), NODE) is not None


STEPS = st.lists(
    st.sampled_from(("begin", "end", "ship", "lost before", "lost after", "crash", "copied", "restored")), max_size=60
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_every_change_arrives_and_counts_once(tmp_path_factory: Any, steps: list[str]) -> None:
    """rule:2: answers are lost, the node dies between shipping and its note, the database is restored from a copy."""
    path = tmp_path_factory.mktemp("outbox") / "l"
    db, there = ledger(path), There()
    begun = ended = 0
    copy: tuple[dict[Any, Any], dict[str, int]] = ({}, {})
    for step in steps:
        match step:
            case "begin":
                begun += 1
                begin(db, begun)
            case "end" if ended < begun:
                ended += 1
                end(db, ended)
            case "ship":
                ship_all(path, there)
            case "copied":
                copy = dict(there.rows), dict(there.last)
            case "lost after":
                if (shipment := outbox.oldest(str(path), NODE)) is not None:
                    there.ship(shipment)
            case "crash":
                db.close()
                db = ledger(path)
            case "restored":
                there.rows, there.last = dict(copy[0]), dict(copy[1])
    begun += 1
    begin(db, begun)  # a change after which a loss is found out
    ship_all(path, there)
    (name,) = db.execute("SELECT ledger FROM outbox_of").fetchone()
    assert earned_msat(there.rebuilt(name)) == ended * 1000 == earned_msat(db)
    assert len(there.rows) == begun


def close(db: sqlite3.Connection, number: int) -> None:
    """A rule closed this channel."""
    values = (bytes([number] * 32), "idle", DAY_MS, 253, 90_000_000, 10_000_000, 1_000_000, 0, 60)
    db.execute(f"INSERT INTO closes VALUES ({', '.join('?' * len(values))})", values)


CLOSES = "SELECT lower(hex(channel_id)), rule, ours_msat, idle_days FROM closes ORDER BY channel_id"


def test_closes_by_rule_arrive_too(tmp_path: Path) -> None:
    """operator:O2: each once, also those of a ledger that was begun anew."""
    there = There()
    old, new = ledger(tmp_path / "old"), ledger(tmp_path / "new")
    close(old, 1)
    for number in (1, 2):
        close(new, number)
    ship_all(tmp_path / "old", there)
    ship_all(tmp_path / "new", there)
    names = [db.execute("SELECT ledger FROM outbox_of").fetchone()[0] for db in (old, new)]
    told = there.rebuilt(*names).execute(CLOSES).fetchall()
    assert told == new.execute(CLOSES).fetchall()
    assert len(told) == 2


def test_an_outbox_of_before_goes_on_with_closes(tmp_path: Path) -> None:
    """A ledger that was kept before closes were shipped, and of no node: those that it has go, and those that come."""
    db, there = ledger(tmp_path / "l"), There()
    db.execute("ALTER TABLE outbox_of DROP COLUMN node")
    outbox.keep(db)
    for what in ("insert", "update"):
        db.execute(f"DROP TRIGGER outbox_closes_{what}")
    begin(db, 1)
    close(db, 1)
    ship_all(tmp_path / "l", there)
    assert [kind for _, kind, _ in there.rows] == ["attempts"]
    db.close()
    db = ledger(tmp_path / "l")
    close(db, 2)
    ship_all(tmp_path / "l", there)
    assert [kind for _, kind, _ in there.rows] == ["attempts", "closes", "closes"]


def test_a_database_that_lost_rows_gets_all_again(tmp_path: Path) -> None:
    """An older copy was restored: what was shipped after it comes once more."""
    db, there = ledger(tmp_path / "l"), There()
    begin(db, 1)
    ship_all(tmp_path / "l", there)
    copy = dict(there.rows), dict(there.last)
    begin(db, 2)
    ship_all(tmp_path / "l", there)
    there.rows, there.last = copy
    begin(db, 3)
    ship_all(tmp_path / "l", there)
    assert len(there.rows) == 3


def test_a_ledger_that_was_begun_anew_counts_no_sale_twice(tmp_path: Path) -> None:
    """operator:O1: the journal tells the new file of sales that the old one had shipped already."""
    there = There()
    old, new = ledger(tmp_path / "old"), ledger(tmp_path / "new")
    for number in (1, 2):
        begin(old, number)
        end(old, number)
    begin(new, 2)
    end(new, 2, at_ms=2 * DAY_MS)
    begin(new, 3)
    end(new, 3)
    ship_all(tmp_path / "old", there)
    ship_all(tmp_path / "new", there)
    names = [db.execute("SELECT ledger FROM outbox_of").fetchone()[0] for db in (old, new)]
    assert earned_msat(there.rebuilt(*names)) == 3000


def channel(db: sqlite3.Connection, number: int, released_ms: int | None = None) -> None:
    """The channel that was made for it, and whether it is closed."""
    db.execute(
        "INSERT INTO channels (channel_id, jit_scid, capacity_sat, locked_ms, sent_ms, released_ms) VALUES"
        " (?, ?, 100000, ?, ?, ?)",
        (bytes([number] * 32), f"{number}x1x1", number, number, released_ms),
    )


def test_a_sale_counts_where_it_was_ended(tmp_path: Path) -> None:
    """operator:O1: another machine took over with a ledger of its own, and then the first one again: each is behind
    the other in something.
    """
    there = There()
    first, second = ledger(tmp_path / "first"), ledger(tmp_path / "second")
    for number in (1, 2, 3):
        begin(first, number)
        begin(second, number)
    end(first, 1)
    end(second, 2)
    channel(first, 1, released_ms=DAY_MS)
    channel(second, 1)
    end(second, 3)
    end(first, 3)
    channel(first, 3)
    channel(second, 3, released_ms=DAY_MS)
    for name in ("first", "second"):
        ship_all(tmp_path / name, there)
    names = [db.execute("SELECT ledger FROM outbox_of").fetchone()[0] for db in (first, second)]
    for order in (names, names[::-1]):
        books = there.rebuilt(*order)
        assert earned_msat(books) == 3000
        released = books.execute("SELECT released_ms FROM channels ORDER BY jit_scid").fetchall()
        assert released == [(DAY_MS,), (DAY_MS,)]
        assert books.execute("SELECT count(*) FROM attempts WHERE outcome IS NULL").fetchone() == (0,)
