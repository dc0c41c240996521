"""Pages of attempts and sales, newest first. A cursor says where the next page begins; new sales move no page."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.sales_ledger.periods import text_of

MOST_ROWS: Final = 1_000
OUTCOMES: Final = ("Succeeded", "Underpaid", "Forfeited", "Abandoned", "Failed", "Alias", "Reused")

_COLUMNS: Final = """a.id, a.jit_scid, lower(hex(a.payment_hash)) AS payment_hash, lower(hex(a.peer_id)) AS peer_id,
  a.token, a.band, a.outcome, a.failed_by, a.code, a.reason, a.amount_msat, a.parts, a.fee_agreed_msat,
  a.fee_taken_msat, a.fee_owed_msat, lower(hex(a.channel_id)) AS channel_id, c.capacity_sat,
  CASE a.outcome WHEN 'Reused' THEN 0 ELSE c.mining_msat END AS mining_msat,
  lower(hex(c.funding_txid)) AS funding_txid, c.close_mining_msat,
  k.rule AS closed_by_rule, c.locked_ms, c.sent_ms, c.released_ms, a.began_ms, a.opening_ms,
  a.channel_ms, a.forwarded_ms, a.claimed_ms, a.ended_ms"""
TIMES: Final = (
    "began", "opening", "channel", "forwarded", "claimed", "ended", "locked", "sent", "released",
)  # fmt: skip


class Wanted(NamedTuple):
    """Which attempts; None does not matter. Times in ms, from `since_ms` on and before `until_ms`."""

    since_ms: int | None = None
    until_ms: int | None = None
    peer_id: str | None = None
    token: str | None = None
    outcome: str | None = None


def read_cursor(text: str | None) -> tuple[int, int] | None:
    """Return (end, number) of the last row of the page before. Raises ConfigError."""
    if text is None:
        return None
    ended, dash, number = str(text).partition("-")
    if not (dash and ended.isdigit() and number.isdigit() and len(text) < 40):
        raise ConfigError(f"cursor={text!r} is not from this method; give the next_cursor of the page before, or none")
    return int(ended), int(number)


def page(db: sqlite3.Connection, wanted: Wanted, cursor: tuple[int, int] | None, limit: int) -> dict[str, Any]:
    """Return one page: rows, and the cursor of the next where there is one."""
    clauses, values = conditions(wanted)
    if cursor is not None:
        clauses.append("(a.ended_ms, a.id) < (?, ?)")
        values += cursor
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM attempts a LEFT JOIN channels c ON c.channel_id = a.channel_id"
        " LEFT JOIN closes k ON k.channel_id = a.channel_id"
        f" WHERE {' AND '.join(clauses)} ORDER BY a.ended_ms DESC, a.id DESC LIMIT ?",
        (*values, limit + 1),
    )
    names = [column[0] for column in rows.description]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    answer: dict[str, Any] = {"sales": [describe(row) for row in found[:limit]]}
    if len(found) > limit:
        last = found[limit - 1]
        answer["next_cursor"] = f"{last['ended_ms']}-{last['id']}"
    return answer


def conditions(wanted: Wanted) -> tuple[list[str], list[Any]]:
    """Return the conditions of a query over attempts that are over, and their values."""
    clauses, values = ["a.ended_ms IS NOT NULL"], list[Any]()
    for clause, value in (
        ("a.ended_ms >= ?", wanted.since_ms),
        ("a.ended_ms < ?", wanted.until_ms),
        ("a.peer_id = ?", None if wanted.peer_id is None else bytes.fromhex(wanted.peer_id)),
        ("a.token = ?", wanted.token),
        ("a.outcome = ?", wanted.outcome),
    ):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    return clauses, values


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is answered: without what is not known, times as text."""
    shown = {
        name: value
        for name, value in row.items()
        if value not in (None, "") and name != "id" and not name.endswith("_ms")
    }
    for name in TIMES:
        if row.get(f"{name}_ms") is not None:
            shown[f"{name}_at"] = text_of(row[f"{name}_ms"])
    return shown
