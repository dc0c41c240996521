"""The tables of the ledger, their version, and how an older file becomes a newer one.

Append-only is not a promise but a rule of the file: triggers refuse to delete a row, or to change one that is over.
Amounts and times have their unit in the name; hashes and ids are bytes (`hex()` shows them).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from lsps2fast.errors import Lsps2Error

APPLICATION_ID: Final = 0x4C535032  # "LSP2"
VERSION: Final = 2

_FIRST: Final = """
CREATE TABLE buys (
  jit_scid TEXT PRIMARY KEY, peer_id BLOB NOT NULL, token TEXT, band TEXT,
  created_ms INTEGER NOT NULL, valid_until_ms INTEGER NOT NULL, payment_size_msat INTEGER,
  min_fee_msat INTEGER NOT NULL, proportional_ppm INTEGER NOT NULL, min_lifetime_blocks INTEGER NOT NULL,
  capacity_sat INTEGER NOT NULL, client_trusts_lsp INTEGER NOT NULL,
  ended_ms INTEGER, outcome TEXT
) WITHOUT ROWID;
CREATE INDEX buys_of_peer ON buys (peer_id, created_ms);

CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  jit_scid TEXT NOT NULL, payment_hash BLOB NOT NULL, began_ms INTEGER NOT NULL,
  life INTEGER NOT NULL,
  peer_id BLOB NOT NULL, token TEXT, band TEXT, amount_msat INTEGER, parts INTEGER,
  fee_agreed_msat INTEGER NOT NULL, fee_taken_msat INTEGER NOT NULL, fee_owed_msat INTEGER NOT NULL,
  channel_id BLOB, opening_ms INTEGER, channel_ms INTEGER, forwarded_ms INTEGER, claimed_ms INTEGER,
  ended_ms INTEGER, outcome TEXT, failed_by TEXT, code TEXT, reason TEXT,
  UNIQUE (jit_scid, payment_hash, began_ms, life)
);
CREATE INDEX attempts_by_end ON attempts (ended_ms, fee_taken_msat, outcome);
CREATE INDEX attempts_of_hash ON attempts (payment_hash);
CREATE INDEX attempts_of_peer ON attempts (peer_id, ended_ms);
CREATE INDEX attempts_by_token ON attempts (token, ended_ms) WHERE token IS NOT NULL;
CREATE INDEX attempts_by_outcome ON attempts (outcome, ended_ms);
CREATE INDEX attempts_open ON attempts (jit_scid) WHERE outcome IS NULL;

CREATE TABLE channels (
  channel_id BLOB PRIMARY KEY, jit_scid TEXT, peer_id BLOB, token TEXT, band TEXT,
  funding_txid BLOB, capacity_sat INTEGER, mining_msat INTEGER, close_mining_msat INTEGER,
  locked_ms INTEGER, sent_ms INTEGER, released_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX channels_locked ON channels (locked_ms, capacity_sat, token, band);
CREATE INDEX channels_released ON channels (released_ms, capacity_sat, token, band, locked_ms, close_mining_msat)
  WHERE released_ms IS NOT NULL;
CREATE INDEX channels_sent ON channels (sent_ms, mining_msat, token, band);
CREATE INDEX channels_of_peer ON channels (peer_id, locked_ms, released_ms, capacity_sat);
CREATE INDEX channels_standing ON channels (channel_id) WHERE released_ms IS NULL;
CREATE INDEX channels_of_scid ON channels (jit_scid);

CREATE TABLE capital (
  day INTEGER NOT NULL, token TEXT NOT NULL, band TEXT NOT NULL,
  locked_sat INTEGER NOT NULL DEFAULT 0, released_sat INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (day, token, band)
) WITHOUT ROWID;
CREATE TRIGGER capital_new AFTER INSERT ON channels WHEN NEW.locked_ms IS NOT NULL BEGIN
  INSERT INTO capital (day, token, band, locked_sat)
    VALUES (NEW.locked_ms / 86400000, COALESCE(NEW.token, ''), COALESCE(NEW.band, ''), COALESCE(NEW.capacity_sat, 0))
    ON CONFLICT DO UPDATE SET locked_sat = locked_sat + excluded.locked_sat;
  INSERT INTO capital (day, token, band, released_sat)
    SELECT NEW.released_ms / 86400000, COALESCE(NEW.token, ''), COALESCE(NEW.band, ''), COALESCE(NEW.capacity_sat, 0)
    WHERE NEW.released_ms IS NOT NULL
    ON CONFLICT DO UPDATE SET released_sat = released_sat + excluded.released_sat;
END;
CREATE TRIGGER capital_released AFTER UPDATE ON channels
  WHEN NEW.locked_ms IS NOT NULL AND OLD.released_ms IS NULL AND NEW.released_ms IS NOT NULL BEGIN
  INSERT INTO capital (day, token, band, released_sat)
    VALUES (NEW.released_ms / 86400000, COALESCE(NEW.token, ''), COALESCE(NEW.band, ''), COALESCE(NEW.capacity_sat, 0))
    ON CONFLICT DO UPDATE SET released_sat = released_sat + excluded.released_sat;
END;
CREATE TRIGGER channels_keep_size BEFORE UPDATE ON channels
  WHEN OLD.locked_ms IS NOT NEW.locked_ms OR OLD.capacity_sat IS NOT NEW.capacity_sat
    OR OLD.token IS NOT NEW.token OR OLD.band IS NOT NEW.band OR OLD.released_ms <> NEW.released_ms
  BEGIN SELECT RAISE(ABORT, 'the size of a channel and its times stay'); END;

CREATE TRIGGER buys_stay BEFORE DELETE ON buys
  BEGIN SELECT RAISE(ABORT, 'the sales ledger is append-only'); END;
CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts
  BEGIN SELECT RAISE(ABORT, 'the sales ledger is append-only'); END;
CREATE TRIGGER channels_stay BEFORE DELETE ON channels
  BEGIN SELECT RAISE(ABORT, 'the sales ledger is append-only'); END;
CREATE TRIGGER buys_that_ended BEFORE UPDATE ON buys WHEN OLD.outcome IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'this buy is over'); END;
CREATE TRIGGER attempts_that_ended BEFORE UPDATE ON attempts WHEN OLD.outcome IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'this attempt is over'); END;
"""

_SECOND: Final = """
CREATE TABLE closes (
  channel_id BLOB PRIMARY KEY, rule TEXT NOT NULL, decided_ms INTEGER NOT NULL, feerate_perkw INTEGER NOT NULL,
  ours_msat INTEGER NOT NULL, client_msat INTEGER NOT NULL, opening_fee_msat INTEGER NOT NULL,
  routing_fees_msat INTEGER NOT NULL, idle_days INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX closes_decided ON closes (decided_ms);
CREATE TRIGGER closes_stay BEFORE DELETE ON closes
  BEGIN SELECT RAISE(ABORT, 'the sales ledger is append-only'); END;
CREATE TRIGGER closes_keep BEFORE UPDATE ON closes
  BEGIN SELECT RAISE(ABORT, 'this close was decided'); END;
"""

MIGRATIONS: Final = (_FIRST, _SECOND)  # from version n to n + 1


class NotOurs(Lsps2Error):
    """The file is none that this program may write to; `writer.advice` says what to do."""


def uri_of(path: str, query: str) -> str:
    """Return a file as SQLite's URI of it."""
    for sign in "%?#":  # all that ends a path there
        path = path.replace(sign, f"%{ord(sign):02x}")
    return f"file:{path}?{query}"


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of an open file, 0 for a new one. Raises NotOurs, or sqlite3.Error."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables or version:
            raise NotOurs("it is the database of another program")
        return 0
    if version > VERSION:
        raise NotOurs(f"a newer lsps2fast made it (version {version}, this one knows {VERSION})")
    return int(version)


def migrate(db: sqlite3.Connection) -> None:
    """Bring an open file to this version, in one transaction. Raises NotOurs, or sqlite3.Error and nothing is done."""
    version = version_of(db)
    if version == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """Return the statements of a script (`executescript` would commit in between)."""
    found, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found
