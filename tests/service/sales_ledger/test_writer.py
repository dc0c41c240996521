"""A disk that is full, a file that is locked, damaged, read-only or newer: told once, and nothing is lost."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.sales_ledger import FEE_MSAT, T0, Desk, a_buy, a_channel, a_sale, an_attempt

from lsps2fast_plugin.service.sales_ledger import schema, writer
from lsps2fast_plugin.service.sales_ledger.facts import AttemptFact

WON = [("Succeeded", FEE_MSAT)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sales.sqlite3"


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    opened: list[Desk] = []
    yield opened
    for desk in opened:
        desk.writer.stop()


def test_what_is_put_in_is_in_the_file(path: Path, desks: list[Desk]) -> None:
    """operator:O2: for no eyes but its owner's; and after a stop it is a whole database in one file."""
    desk = Desk(path)
    desk.writer.put(a_buy())
    desk.writer.put(a_sale())
    desk.writer.stop()
    assert desk.rows() == WON
    assert path.stat().st_mode & 0o077 == 0
    assert not path.with_name(path.name + "-wal").exists()
    assert desk.alarms == []


def _damage(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is longer than the head of one" * 100)


def _another(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (it)")
    db.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_damage, "it is no database: move it away"),
        (_another, "database of another program; give lsps2-ledger another path"),
        (_newer, "a newer lsps2fast made it .* upgrade"),
        (_folder, "it cannot be opened: see to the folder"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(spoil: object, words: str, path: Path, desks: list[Desk]) -> None:
    """operator:O2: told once with what to do; once it is moved away, all that had waited is written."""
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    desks.append(desk := Desk(path))
    desk.writer.put(a_buy())
    desk.writer.put(a_sale())
    assert desk.told(lambda: desk.alarms)
    desk.writer.retry()
    assert desk.told(lambda: desk.writer.trouble is not None)
    (alarm,) = desk.alarms
    assert re.search(words, alarm), alarm
    assert "Selling goes on" in alarm
    if path.is_file():
        assert path.read_bytes() == before
        path.rename(path.with_suffix(".old"))
    else:
        path.rmdir()
    desk.writer.retry()
    assert desk.written()
    assert desk.rows() == WON
    assert desk.told(lambda: desk.writer.trouble is None)


def test_a_file_that_is_locked_is_waited_for(path: Path, desks: list[Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O2: a copy takes long, and sales go on meanwhile."""
    monkeypatch.setattr(writer, "BUSY_S", 0.01)
    desks.append(desk := Desk(path))
    desk.writer.put(a_buy())
    assert desk.written()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    desk.writer.put(a_sale())
    assert desk.told(lambda: desk.alarms)
    assert "another program has locked it" in desk.alarms[0]
    db.execute("ROLLBACK")
    db.close()
    assert desk.written()
    assert desk.rows() == WON
    assert len(desk.alarms) == 1


@pytest.mark.parametrize("text", ["database or disk is full", "attempt to write a readonly database"])
def test_a_full_disk_and_a_read_only_one_lose_nothing(
    text: str, path: Path, desks: list[Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """operator:O2: half a batch is undone, and written whole later."""
    broken = [True]
    real = writer.write

    def write(db: sqlite3.Connection, fact: object) -> None:
        real(db, fact)  # type: ignore[arg-type]
        if broken[0] and not isinstance(fact, type(a_buy())):
            raise sqlite3.OperationalError(text)

    monkeypatch.setattr(writer, "write", write)
    desks.append(desk := Desk(path))
    desk.writer.put(a_buy())
    desk.writer.put(a_sale())
    assert desk.told(lambda: desk.alarms)
    assert desk.rows() == []
    broken[0] = False
    assert desk.written()
    assert desk.rows() == WON


def test_what_no_table_takes_is_told_and_stops_nothing(path: Path, desks: list[Desk]) -> None:
    """A bug of ours must not stand in the way of the sales behind it."""
    desks.append(desk := Desk(path))
    desk.writer.put(a_buy())
    desk.writer.put(an_attempt(payment_hash="zz"))
    desk.writer.put(an_attempt(amount_msat=1 << 70))
    desk.writer.put(a_sale())
    assert desk.written()
    assert desk.rows() == WON
    assert desk.alarms == []


def test_too_many_facts_are_dropped_and_asked_for_later(
    path: Path, desks: list[Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rule:14: memory is bounded; what was dropped the journal still has."""
    monkeypatch.setattr(writer, "MOST_WAITING", 3)
    path.mkdir()
    desks.append(desk := Desk(path))
    assert desk.told(lambda: desk.alarms)
    for number in range(5):
        desk.writer.put(a_sale(began_ms=T0 + number, jit_scid=f"{number}x1x1"))
    assert len(desk.writer) == 3
    assert desk.writer.dropped == 2
    path.rmdir()
    desk.writer.retry()
    assert desk.told(lambda: desk.caught_up == 1)
    assert len(desk.rows()) == 3
    assert desk.writer.dropped == 0


def test_many_facts_are_made_when_their_turn_comes(
    path: Path, desks: list[Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rule:14, operator:O2: a journal longer than the queue is written whole, and so never asked for again."""
    monkeypatch.setattr(writer, "MOST_WAITING", 10)
    monkeypatch.setattr(writer, "BATCH", 7)
    made: list[int] = []

    def facts() -> Iterator[AttemptFact]:
        for number in range(100):
            made.append(number)
            yield a_sale(began_ms=T0 + number, jit_scid=f"{number}x1x1")

    path.mkdir()
    desks.append(desk := Desk(path))
    desk.writer.put(writer.Many(facts()))
    desk.writer.put(a_buy())
    assert desk.told(lambda: desk.alarms)
    assert len(made) == 0  # the file could not even be opened
    path.rmdir()
    assert desk.written()
    assert len(desk.rows()) == made[-1] + 1 == 100
    assert len(desk.rows("jit_scid", "buys")) == 1
    assert desk.writer.dropped == desk.caught_up == len(desk.writer) == 0


def test_a_batch_that_fails_keeps_its_place(path: Path, desks: list[Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O2: what was made for a batch that a full disk undid is written with the next try, once."""
    monkeypatch.setattr(writer, "BATCH", 4)
    broken, real = [True], writer.write

    def write(db: sqlite3.Connection, fact: AttemptFact) -> None:
        real(db, fact)
        if broken[0] and fact.jit_scid == "5x1x1":
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(writer, "write", write)
    desks.append(desk := Desk(path))
    desk.writer.put(writer.Many(a_sale(began_ms=T0 + n, jit_scid=f"{n}x1x1") for n in range(9)))
    assert desk.told(lambda: desk.alarms)
    broken[0] = False
    assert desk.written()
    assert len(desk.rows()) == 9


def test_what_cannot_be_made_stops_nothing(path: Path, desks: list[Desk]) -> None:
    """A bug in the reading of the journal must not stand in the way of the sales behind it."""

    def facts() -> Iterator[AttemptFact]:
        yield a_sale()
        raise KeyError("a bug")

    desks.append(desk := Desk(path))
    desk.writer.put(writer.Many(facts()))
    desk.writer.put(a_sale(began_ms=T0 + 7))
    assert desk.written()
    assert desk.rows() == WON * 2


def test_a_file_of_the_first_version_learns_of_closes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O2: what it has stays as it is."""
    with monkeypatch.context() as before:
        before.setattr(schema, "VERSION", 1)
        before.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        first = Desk(path)
        first.writer.put(a_buy())
        first.writer.put(a_sale())
        first.writer.stop()
        assert first.rows("name", "sqlite_master WHERE name = 'closes'") == []
    second = Desk(path)
    second.writer.put(a_channel())
    second.writer.stop()
    assert second.alarms == []
    assert second.rows() == WON
    assert second.rows("*", "closes") == []


def test_an_older_file_is_brought_forward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O2: kept for years; a migration is one transaction, and what it cannot finish it has not begun."""
    first = Desk(path)
    first.writer.put(a_buy())
    first.writer.stop()
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    broken = (*schema.MIGRATIONS, "ALTER TABLE buys ADD COLUMN colour TEXT;\nCREATE TABLE buys (it);\n")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    second = Desk(path)
    assert second.told(lambda: second.alarms)
    second.writer.stop()
    assert "colour" not in str(second.rows("sql", "sqlite_master WHERE name = 'buys'"))
    monkeypatch.setattr(schema, "MIGRATIONS", (*broken[:-1], "ALTER TABLE buys ADD COLUMN colour TEXT;\n"))
    third = Desk(path)
    third.writer.put(a_sale())
    third.writer.stop()
    assert third.alarms == []
    assert third.rows() == WON
    assert third.rows("colour", "buys") == [(None,)]
    assert os.stat(path).st_size
