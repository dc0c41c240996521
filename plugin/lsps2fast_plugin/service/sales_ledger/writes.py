"""How each fact becomes rows. A fact that comes a second time changes nothing.

An attempt is known by scid, payment hash and its beginning. One that goes on after a start has another beginning to
us; it is the open one of its payment, or one that ended in the ledger before it ended in the journal. Fees are the
proof: what the payments of a scid have brought in the ledger is never more than the journal says, and after a look at
the journal never less.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from lsps2fast_plugin.cln.psbt import fee_sat
from lsps2fast_plugin.service.sales_ledger.facts import (
    ONCE,
    REUSED,
    UNDERPAID,
    AttemptFact,
    BuyEndFact,
    BuyFact,
    ChannelFact,
    CloseFact,
    Fact,
    LiveFact,
    RecordFact,
    StandingFact,
)

_BUY = """INSERT INTO buys (jit_scid, peer_id, token, band, created_ms, valid_until_ms, payment_size_msat, min_fee_msat,
  proportional_ppm, min_lifetime_blocks, capacity_sat, client_trusts_lsp) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT DO NOTHING"""
_BUY_END = "UPDATE buys SET ended_ms = ?, outcome = ? WHERE jit_scid = ? AND outcome IS NULL"
_FIELDS = (
    "amount_msat", "parts", "fee_agreed_msat", "fee_taken_msat", "fee_owed_msat", "channel_id", "opening_ms",
    "channel_ms", "forwarded_ms", "claimed_ms", "ended_ms", "outcome", "failed_by", "code", "reason",
)  # fmt: skip
_ATTEMPT = f"""INSERT INTO attempts (jit_scid, payment_hash, began_ms, life, peer_id, token, band, {", ".join(_FIELDS)})
  VALUES ({", ".join("?" * (7 + len(_FIELDS)))})
  ON CONFLICT (jit_scid, payment_hash, began_ms, life) DO UPDATE SET
  {", ".join(f"{name} = COALESCE(excluded.{name}, {name})" for name in _FIELDS)} WHERE attempts.outcome IS NULL"""
_CHANNEL_FIELDS = (
    "jit_scid", "peer_id", "token", "band", "funding_txid", "capacity_sat", "mining_msat", "close_mining_msat",
    "locked_ms", "sent_ms", "released_ms",
)  # fmt: skip
_LATER = ("funding_txid", "mining_msat", "close_mining_msat", "sent_ms", "released_ms")  # known after the rest
CHANNEL_LATER: Final = ", ".join(f"{name} = COALESCE({name}, excluded.{name})" for name in _LATER)
_CHANNEL = f"""INSERT INTO channels (channel_id, {", ".join(_CHANNEL_FIELDS)})
  VALUES ({", ".join("?" * (1 + len(_CHANNEL_FIELDS)))}) ON CONFLICT (channel_id) DO UPDATE SET
  {CHANNEL_LATER}"""
_CLOSE = """INSERT INTO closes (channel_id, rule, decided_ms, feerate_perkw, ours_msat, client_msat, opening_fee_msat,
  routing_fees_msat, idle_days) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_Row = tuple[int, int]
UNSEEN = "it ended while the plugin was not running"


def write(db: sqlite3.Connection, fact: Fact) -> None:
    """Write one fact, within the transaction that is open. Raises sqlite3.Error."""
    match fact:
        case BuyFact():
            _buy(db, fact)
        case BuyEndFact():
            db.execute(_BUY_END, (fact.ended_ms, fact.outcome, fact.jit_scid))
        case AttemptFact():
            _attempt(db, fact)
        case ChannelFact():
            _channel(db, fact)
        case CloseFact():
            _close(db, fact)
        case RecordFact():
            _record(db, fact)
        case LiveFact():
            _live(db, fact)
        case StandingFact():
            _standing(db, fact)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _buy(db: sqlite3.Connection, buy: BuyFact) -> None:
    terms = (buy.min_fee_msat, buy.proportional_ppm, buy.min_lifetime_blocks, buy.capacity_sat, buy.client_trusts_lsp)
    who = (buy.jit_scid, _bytes(buy.peer_id), buy.token, buy.band)
    db.execute(_BUY, (*who, buy.created_ms, buy.valid_until_ms, buy.payment_size_msat, *terms))


def _attempt(db: sqlite3.Connection, fact: AttemptFact, row: _Row | None = None) -> None:
    """`row`: beginning and life under which this attempt is written."""
    if fact.revived and row is None:
        row = _row_of_revived(db, fact)
        if row is None:
            return
    values: dict[str, Any] = {name: getattr(fact, name) for name in _FIELDS}
    values["channel_id"] = _bytes(fact.channel_id)
    begun = row or (fact.began_ms, fact.life)
    key = (fact.jit_scid, _bytes(fact.payment_hash), *begun, _bytes(fact.peer_id), fact.token, fact.band)
    db.execute(_ATTEMPT, (*key, *values.values()))


def _open_row(db: sqlite3.Connection, jit_scid: str, payment_hash: str) -> _Row | None:
    """Return the row of this payment that is not over."""
    found: _Row | None = db.execute(
        "SELECT began_ms, life FROM attempts WHERE jit_scid = ? AND payment_hash = ? AND outcome IS NULL"
        " ORDER BY began_ms DESC LIMIT 1",
        (jit_scid, _bytes(payment_hash)),
    ).fetchone()
    return found


def _row_of_revived(db: sqlite3.Connection, fact: AttemptFact) -> _Row | None:
    """Return the row under which this attempt is written; None for one that has ended in the ledger already."""
    payment, new = (fact.jit_scid, _bytes(fact.payment_hash)), (fact.began_ms, fact.life)
    found = _open_row(db, fact.jit_scid, fact.payment_hash)
    if found is not None:
        return found
    if fact.outcome is None:  # its row may be over already: only its end says
        return None
    if fact.outcome in ONCE:
        same = "SELECT 1 FROM attempts WHERE jit_scid = ? AND outcome = ?"
        return None if db.execute(same, (fact.jit_scid, fact.outcome)).fetchone() else new
    if fact.fee_taken_msat:
        return None if _came_msat(db, fact.jit_scid) > fact.fee_before_msat else new
    last = db.execute(
        "SELECT outcome FROM attempts WHERE jit_scid = ? AND payment_hash = ? ORDER BY began_ms DESC LIMIT 1", payment
    ).fetchone()
    return None if last is not None and last[0] == fact.outcome else new


def _came_msat(db: sqlite3.Connection, jit_scid: str) -> int:
    """Return what the payments of a scid have brought, as far as is written."""
    total = "SELECT COALESCE(SUM(fee_taken_msat), 0) FROM attempts WHERE jit_scid = ?"
    return int(db.execute(total, (jit_scid,)).fetchone()[0])


def _channel(db: sqlite3.Connection, fact: ChannelFact) -> None:
    token, band = None, None
    if fact.jit_scid is not None:
        found = db.execute("SELECT token, band FROM buys WHERE jit_scid = ?", (fact.jit_scid,)).fetchone()
        token, band = found or (None, None)
    elif not db.execute("SELECT 1 FROM channels WHERE channel_id = ?", (_bytes(fact.channel_id),)).fetchone():
        return  # none of ours
    who = (_bytes(fact.channel_id), fact.jit_scid, _bytes(fact.peer_id), token, band, _bytes(fact.funding_txid))
    mining = (mining_of(fact), fact.close_mining_msat)
    db.execute(_CHANNEL, (*who, fact.capacity_sat, *mining, fact.locked_ms, fact.sent_ms, fact.released_ms))


def _close(db: sqlite3.Connection, close: CloseFact) -> None:
    what = (_bytes(close.channel_id), close.rule, close.decided_ms, close.feerate_perkw, close.ours_msat)
    fees = (close.opening_fee_msat, close.routing_fees_msat)
    db.execute(_CLOSE, (*what, close.client_msat, *fees, close.idle_days))


def mining_of(fact: ChannelFact) -> int | None:
    """Return what miners get for this channel's funding, in msat; None where that is not known."""
    if fact.mining_sat is not None:
        return 1000 * fact.mining_sat
    try:
        return None if not fact.signed_psbt else 1000 * fee_sat(fact.signed_psbt)
    except ValueError:  # of a version to come: what miners got is then not known here
        return None


def _record(db: sqlite3.Connection, fact: RecordFact) -> None:
    """Write what is missing of this sale, exactly."""
    missing_msat = fact.fee_paid_msat - _came_msat(db, fact.jit_scid)
    again = "SELECT 1 FROM attempts WHERE jit_scid = ? AND outcome = ?"
    known = fact.outcome not in ONCE or db.execute(again, (fact.jit_scid, fact.outcome)).fetchone() is not None
    if missing_msat > 0 or not known:
        _missed(db, fact, max(missing_msat, 0))
    if fact.outcome is not None:
        db.execute(_BUY_END, (fact.ended_ms, fact.outcome, fact.jit_scid))


def _missed(db: sqlite3.Connection, fact: RecordFact, taken_msat: int) -> None:
    payment_hash, outcome = fact.payment_hash or "", fact.outcome or (UNDERPAID if fact.channel_id else REUSED)
    again = "SELECT 1 FROM attempts WHERE jit_scid = ? AND outcome = ?"
    if outcome in ONCE and db.execute(again, (fact.jit_scid, outcome)).fetchone():
        payment_hash, outcome = "", UNDERPAID  # the sale is known; it was another payment that was missed
    attempt = AttemptFact(
        jit_scid=fact.jit_scid,
        payment_hash=payment_hash,
        began_ms=fact.ended_ms,
        peer_id=fact.peer_id,
        token=fact.token,
        band=fact.band,
        fee_agreed_msat=fact.fee_agreed_msat,
        fee_taken_msat=taken_msat,
        fee_owed_msat=max(fact.fee_agreed_msat - taken_msat, 0) if outcome == UNDERPAID else 0,
        channel_id=fact.channel_id,
        ended_ms=fact.ended_ms,
        outcome=outcome,
        code="from_the_journal",
        reason="written from the journal: " + UNSEEN,
    )
    row = _open_row(db, fact.jit_scid, payment_hash) or (fact.ended_ms, fact.fee_paid_msat)
    _attempt(db, attempt, row)


def _live(db: sqlite3.Connection, fact: LiveFact) -> None:
    live = {(scid, bytes.fromhex(payment_hash)) for scid, payment_hash in fact.live}
    rows = db.execute("SELECT id, jit_scid, payment_hash FROM attempts WHERE outcome IS NULL").fetchall()
    for number, scid, payment_hash in rows:
        if (scid, payment_hash) not in live:
            db.execute(
                "UPDATE attempts SET outcome = 'Failed', ended_ms = ?, failed_by = 'lsp', code = 'restart', reason = ?"
                " WHERE id = ?",
                (fact.at_ms, UNSEEN, number),
            )


def _standing(db: sqlite3.Connection, fact: StandingFact) -> None:
    standing = "SELECT channel_id FROM channels WHERE released_ms IS NULL AND locked_ms <= ?"
    rows = db.execute(standing, (fact.at_ms,)).fetchall()
    for (channel_id,) in rows:
        if channel_id.hex() not in fact.channel_ids:
            db.execute("UPDATE channels SET released_ms = ? WHERE channel_id = ?", (fact.at_ms, channel_id))
