"""What the sales ledger must say when a world has come to its end: every finished sale once, every msat of fee."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

SESSIONS = ("lsps", "lsps2", "sessions")
Rows = list[tuple[str, str, int]]  # scid, outcome, fee that came


def read(path: str) -> Rows:
    """Attempts that are over, as the file has them."""
    db = sqlite3.connect(path)
    try:
        query = "SELECT jit_scid, outcome, fee_taken_msat FROM attempts WHERE outcome IS NOT NULL ORDER BY id"
        return list(db.execute(query))
    finally:
        db.close()


def records(rows: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    """The journal's last word of each offer; that of one attempt says nothing of it, unless it brought a fee."""
    found: dict[str, dict[str, Any]] = {}
    for folder in ("active", "finalized"):  # the final one is the last word
        for key, (value, _) in rows.items():
            if key[:-1] == (*SESSIONS, folder):
                record = json.loads(value)
                if not record.get("lsps2fast", {}).get("attempt") or record["outcome"] == "Reused":
                    found[key[-1]] = record
    return found


def differences(ledger: Rows, journal: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What the ledger and the journal do not agree about."""
    came = Counter[str]()
    ends: dict[str, list[str]] = {}
    for scid, outcome, fee_msat in ledger:
        came[scid] += fee_msat
        ends.setdefault(scid, []).append(outcome)
    for scid, record in journal.items():
        fee_msat = int(record["lsps2fast"]["fee_paid_msat"])
        if came[scid] != fee_msat:
            yield f"ledger: {came[scid]} msat came over {scid}, the journal says {fee_msat}"
        for outcome in ("Succeeded", "Forfeited"):
            expected = int(record.get("outcome") == outcome)
            found = ends.get(scid, []).count(outcome)
            if found != expected:
                yield f"ledger: {scid} ended {outcome} {found} times, the journal has {record.get('outcome')}"
    for scid in came.keys() - journal.keys():
        if came[scid] or "Succeeded" in ends[scid]:
            yield f"ledger: {came[scid]} msat came over {scid}, of which the journal knows nothing"
