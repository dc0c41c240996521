"""What of the ledger the fleet's database has not got yet: a table in the ledger's own file, filled by triggers.

A row of it is deleted once the database has the row of the ledger that it names, so nothing is lost; the database knows
each by its name, so nothing counts twice. There is an outbox only while the node is in a fleet.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from lsps2fast.errors import Lsps2Error
from lsps2fast_plugin.service.sales_ledger.schema import uri_of
from lsps2fast_plugin.service.sales_ledger.writes import CHANNEL_LATER

BUSY_S: Final = 5.0
BATCH: Final = 500
KEYS: Final = {"buys": "jit_scid", "attempts": "id", "channels": "channel_id", "closes": "channel_id"}
NAMES: Final = {  # what a row is known by, also in a ledger that was begun anew
    "buys": ("jit_scid",),
    "attempts": ("jit_scid", "payment_hash", "began_ms", "life"),
    "channels": ("channel_id",),
    "closes": ("channel_id",),
}
BLOBS: Final = frozenset({"peer_id", "payment_hash", "channel_id", "funding_txid"})


class Shipment(NamedTuple):
    """Rows of one ledger for the fleet, oldest change first. Changes have numbers: `last` is the last one among them,
    `shipped` the last one of earlier shipments.
    """

    ledger: str
    shipped: int
    last: int
    rows: list[dict[str, Any]]  # `kind`, `name` and `row`
    is_full: bool  # more may wait


class OtherNode(Lsps2Error):
    """The ledger is another node's; the sentence says what to do."""


def keep(db: sqlite3.Connection) -> None:
    """Begin an outbox in an open ledger, with all that it has; one that is there goes on, with kinds that are new."""
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'outbox%'")
    kept = {name for (name,) in rows}
    missing = [kind for kind in KEYS if f"outbox_{kind}_insert" not in kept]
    columns = {name for _, name, *_ in db.execute("PRAGMA table_info(outbox_of)")}
    if not missing and "node" in columns:
        return
    with _at_once(db):
        if not columns:
            db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key NOT NULL)")
            db.execute("CREATE TABLE outbox_of AS SELECT lower(hex(randomblob(8))) AS ledger, 0 AS shipped")
        if "node" not in columns:
            db.execute("ALTER TABLE outbox_of ADD COLUMN node TEXT")
        _all_again(db, missing)
        for kind in missing:
            for what in ("INSERT", "UPDATE"):
                db.execute(
                    f"CREATE TRIGGER outbox_{kind}_{what.lower()} AFTER {what} ON {kind} BEGIN"
                    f" INSERT INTO outbox (kind, key) VALUES ('{kind}', NEW.{KEYS[kind]}); END"
                )


def drop(db: sqlite3.Connection) -> None:
    """End the outbox of an open ledger: the node is in no fleet any more."""
    if not _is_kept(db):
        return
    with _at_once(db):
        for kind in KEYS:
            for what in ("insert", "update"):
                db.execute(f"DROP TRIGGER IF EXISTS outbox_{kind}_{what}")
        db.execute("DROP TABLE IF EXISTS outbox")
        db.execute("DROP TABLE outbox_of")


def oldest(path: str, node: str, *, empty: bool = False) -> Shipment | None:
    """Return what waits longest; for nothing None, or with `empty` a shipment without rows.

    The first `node` that asks is the one whose ledger this is. Raises sqlite3.Error, and OtherNode for another.
    """
    if not os.path.exists(path):
        return None
    with _opened(path) as db:
        if not _is_kept(db):
            return None
        waiting = db.execute("SELECT seq, kind, key FROM outbox ORDER BY seq LIMIT ?", (BATCH,)).fetchall()
        ledger, shipped, whose = db.execute("SELECT ledger, shipped, node FROM outbox_of").fetchone()
        if whose is None:
            db.execute("UPDATE outbox_of SET node = ?", (node,))
        elif whose != node:
            raise OtherNode(
                f"the sales ledger {path} is that of the node {whose}, copied here: nothing of it goes into the "
                "fleet's books; end this node, move the file away, and a new one is begun from the journal"
            )
        if not waiting:
            return Shipment(ledger, shipped, shipped, [], False) if empty and shipped else None
        rows = [_row(db, kind, key) for kind, key in dict.fromkeys((kind, key) for _, kind, key in waiting)]
        return Shipment(ledger, shipped, waiting[-1][0], rows, len(waiting) >= BATCH)


def done(path: str, shipment: Shipment, there: int) -> None:
    """Delete what has been shipped. `there`: the last change that the database had before. Raises sqlite3.Error.

    A database that had less than was shipped has lost something. It took nothing, and gets all rows again.
    """
    was_taken = there >= shipment.shipped
    with _opened(path) as db, _at_once(db):
        db.execute("UPDATE outbox_of SET shipped = ?", (shipment.last if was_taken else there,))
        if was_taken:
            db.execute("DELETE FROM outbox WHERE seq <= ?", (shipment.last,))
        else:
            db.execute("DELETE FROM outbox")
            _all_again(db)


def _is_kept(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox_of'").fetchone() is not None


def _all_again(db: sqlite3.Connection, kinds: Iterable[str] = KEYS) -> None:
    for kind in kinds:
        db.execute(f"INSERT INTO outbox (kind, key) SELECT '{kind}', {KEYS[kind]} FROM {kind}")


@contextlib.contextmanager
def _at_once(db: sqlite3.Connection) -> Iterator[None]:
    """Commit all that is done within, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(uri_of(path, "mode=rw"), timeout=BUSY_S, isolation_level=None, uri=True)
    try:
        yield db
    finally:
        db.close()


def _row(db: sqlite3.Connection, kind: str, key: Any) -> dict[str, Any]:
    found = db.execute(f"SELECT * FROM {kind} WHERE {KEYS[kind]} = ?", (key,))
    names = [column[0] for column in found.description]
    row = {
        name: value.hex() if isinstance(value, bytes) else value.replace("\0", "�") if isinstance(value, str) else value
        for name, value in zip(names, found.fetchone(), strict=True)
        if name != "id"
    }
    return {"kind": kind, "name": "|".join(str(row[name]) for name in NAMES[kind]), "row": row}


class NotReadable(Lsps2Error):
    """A shipped row is none of a ledger of this version."""


def rebuild(db: sqlite3.Connection, node: str, ledgers: list[list[tuple[str, dict[str, Any]]]]) -> None:
    """Write the rows of one node, of all its ledgers, into an open ledger that may have those of others.

    `ledgers`: oldest first, each a list of kind and row. A ledger that was begun anew, or on another machine, tells
    some sales a second time, from the journal: of each jit scid only the ledger counts that knows most. Jit scids get
    the node behind them. Raises NotReadable.
    """
    columns = {kind: {name for _, name, *_ in db.execute(f"PRAGMA table_info({kind})")} for kind in KEYS}
    try:
        knows_most = _knows_most(ledgers)
        for wanted in (True, False):  # what a channel lacks in one ledger may stand in another
            for number, rows in reversed([*enumerate(ledgers)]):
                for kind, row in rows:
                    is_best = knows_most.get(row.get("jit_scid", ""), number) == number
                    if is_best == wanted and (is_best or kind == "channels"):
                        if unknown := row.keys() - columns[kind]:
                            raise ValueError(f"a row of {kind} has {', '.join(sorted(unknown))}")
                        _insert(db, node, kind, row)
    except (sqlite3.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotReadable(f"{type(error).__name__}: {error}") from error


def _insert(db: sqlite3.Connection, node: str, kind: str, row: dict[str, Any]) -> None:
    values = {name: _value(name, value) for name, value in row.items()}
    if (scid := row.get("jit_scid")) is not None:
        values["jit_scid"] = f"{scid}@{node[:8]}"
    twice = f"(channel_id) DO UPDATE SET {CHANNEL_LATER}" if kind == "channels" else "DO NOTHING"
    places = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO {kind} ({', '.join(values)}) VALUES ({places}) ON CONFLICT {twice}", (*values.values(),))


def _knows_most(ledgers: list[list[tuple[str, dict[str, Any]]]]) -> dict[str, int]:
    """Return for each jit scid the ledger that has most fees, of equal ones one in which it is over, or the newest."""
    best: dict[str, tuple[int, bool, int]] = {}
    for number, rows in enumerate(ledgers):
        known: dict[str, tuple[int, bool, int]] = {}
        for kind, row in rows:
            if (scid := row.get("jit_scid")) is not None:
                fees_msat, is_over, _ = known.get(scid, (0, False, number))
                fees_msat += row["fee_taken_msat"] if kind == "attempts" else 0
                known[scid] = fees_msat, is_over or (kind == "buys" and row["outcome"] is not None), number
        for scid, each in known.items():
            best[scid] = max(best.get(scid, each), each)
    return {scid: number for scid, (_, _, number) in best.items()}


def _value(name: str, value: Any) -> Any:
    return bytes.fromhex(value) if name in BLOBS and value is not None else value
