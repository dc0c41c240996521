"""The story of one payment, offer or client in sentences with times: what support needs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from lsps2fast.errors import ConfigError

MOST_OFFERS: Final = 20


class NothingKnown(ConfigError):
    """No story is told of this."""


Row = dict[str, Any]


def rows(db: sqlite3.Connection, sql: str, *values: object) -> list[Row]:
    """Return the rows of a query as dictionaries."""
    found = db.execute(sql, values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def explain(db: sqlite3.Connection, what: str) -> dict[str, Any]:
    """Return the offers that a payment hash, jit scid or node id is about, each with its story. Raises ConfigError."""
    name = what.strip().lower()
    if re.fullmatch(r"[0-9a-f]{64}", name):
        key = bytes.fromhex(name)
        sql = (
            "SELECT jit_scid FROM attempts WHERE payment_hash = ? UNION SELECT jit_scid FROM channels"
            " WHERE channel_id = ?"
        )
        scids = [row["jit_scid"] for row in rows(db, sql, key, key)]
    elif re.fullmatch(r"0[23][0-9a-f]{64}", name):
        sql = "SELECT jit_scid FROM buys WHERE peer_id = ? ORDER BY created_ms DESC LIMIT ?"
        scids = [row["jit_scid"] for row in rows(db, sql, bytes.fromhex(name), MOST_OFFERS)]
    elif re.fullmatch(r"\d+x\d+x\d+", name):
        scids = [name]
    else:
        raise ConfigError(f"{what!r} is no payment hash, channel id, jit scid or node id")
    stories = [story for scid in scids if (story := _offer(db, scid)) is not None]
    if not stories:
        raise NothingKnown(f"the sales ledger knows nothing of {name}; lsps2-listsessions shows what is under way")
    return {"about": name, "offers": stories}


def _offer(db: sqlite3.Connection, scid: str) -> dict[str, Any] | None:
    buys = rows(db, "SELECT * FROM buys WHERE jit_scid = ?", scid)
    if not buys:
        return None
    attempts = rows(db, "SELECT * FROM attempts WHERE jit_scid = ? ORDER BY began_ms, id", scid)
    channels = rows(db, "SELECT * FROM channels WHERE jit_scid = ? ORDER BY locked_ms", scid)
    by_rule = "SELECT k.* FROM closes k JOIN channels c USING (channel_id) WHERE c.jit_scid = ?"
    told = [*_of_buy(buys[0], bool(attempts)), *(line for each in attempts for line in _of_attempt(each))]
    shared = "SELECT COUNT(*) AS count FROM channels WHERE funding_txid = ?"
    told += [
        line for each in channels for line in _of_channel(each, rows(db, shared, each["funding_txid"])[0]["count"] - 1)
    ]
    told += [_of_close(each) for each in rows(db, by_rule, scid)]
    return {
        "jit_channel_scid": scid,
        "peer_id": buys[0]["peer_id"].hex(),
        "story": [f"{_at(when)} {text}" for when, text in sorted(told, key=lambda line: line[0])],
    }


def _at(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sat(msat: int | None) -> str:
    """Return an amount as people read it: whole satoshis, with the rest where there is one."""
    whole, rest = divmod(msat or 0, 1000)
    return f"{whole:,}.{rest:03} sat" if rest else f"{whole:,} sat"


def _of_buy(buy: Row, was_paid_to: bool) -> Iterator[tuple[int, str]]:
    size = buy["payment_size_msat"]
    what = "any payment" if size is None else f"a payment of {sat(size)}"
    trust = "the client trusts us" if buy["client_trusts_lsp"] else "we trust the client"
    terms = f"fee of {buy['proportional_ppm']} ppm, at least {sat(buy['min_fee_msat'])}"
    under = "".join(f", {name} {buy[name]}" for name in ("token", "band") if buy[name])
    yield buy["created_ms"], f"{buy['peer_id'].hex()} bought a channel for {what}: {terms}{under}; {trust}."
    if buy["outcome"] == "Timeout":
        yield (
            buy["ended_ms"],
            "The offer ended" + ("; no payment had gone through." if was_paid_to else "; no payment had come."),
        )
    elif buy["outcome"] is not None and buy["outcome"] != "Succeeded":
        yield buy["ended_ms"], f"The offer ended: {buy['outcome']}."


def _of_attempt(each: Row) -> Iterator[tuple[int, str]]:
    parts = "1 part" if each["parts"] == 1 else f"{each['parts']} parts"
    amount = f"{sat(each['amount_msat'])} in {parts}" if each["amount_msat"] else "a payment"
    yield each["began_ms"], f"Parts of payment {each['payment_hash'].hex()} began to come in ({amount} in all)."
    for name, text in (
        ("opening_ms", "The payment was complete; a channel was being opened."),
        ("channel_ms", "Both sides had signed the channel."),
        ("forwarded_ms", "The channel was usable; the parts went out to the client."),
        ("claimed_ms", "The client took the payment."),
    ):
        if each[name] is not None:
            yield each[name], text
    if each["ended_ms"] is not None:
        yield each["ended_ms"], _end(each)


def _end(each: Row) -> str:
    fee = f"{sat(each['fee_taken_msat'])} of an opening fee of {sat(each['fee_agreed_msat'])} came"
    match each["outcome"]:
        case "Succeeded":
            return f"It is paid: {fee}."
        case "Alias":
            return "Another payment had paid for the channel meanwhile; this one went on over it, without a fee."
        case "Reused":
            return f"It went over a channel that the client had, and none was opened: {fee}."
        case "Underpaid":
            return f"It ended underpaid: {fee}, {sat(each['fee_owed_msat'])} are owed ({each['reason']})."
    blame = {"payer": "the payer", "client": "the client", "lsp": "this node", "operator": "the operator"}
    who = f" by {blame.get(each['failed_by'], each['failed_by'])}" if each["failed_by"] else ""
    return f"It failed{who} ({each['code']}): {each['reason']}. The payer has its money back or may try again."


def _of_close(each: Row) -> tuple[int, str]:
    earned = f"{sat(each['opening_fee_msat'])} of opening fees and {sat(each['routing_fees_msat'])} of routing fees"
    shares = f"{sat(each['ours_msat'])} in it were ours, {sat(each['client_msat'])} the client's"
    return each["decided_ms"], (
        f"Rule {each['rule']!r} closed channel {each['channel_id'].hex()}, unused for {each['idle_days']} days:"
        f" it had earned {earned}; {shares}."
    )


def _of_channel(each: Row, sisters: int) -> Iterator[tuple[int, str]]:
    """Return lines about a channel; `sisters`: so many others are in its funding transaction."""
    name = f"Channel {each['channel_id'].hex()}"
    if each["sent_ms"] is not None:
        paid = "" if each["mining_msat"] is None else f"; miners get {sat(each['mining_msat'])}"
        others = "" if sisters < 1 else f", in one transaction with {sisters} other{'s' if sisters > 1 else ''}"
        size = "" if each["capacity_sat"] is None else f" of {each['capacity_sat']:,} sat"
        yield each["sent_ms"], f"{name}{size}: its funding was sent{others}{paid}."
    if each["released_ms"] is not None:
        cost = "" if each["close_mining_msat"] is None else f"; closing cost {sat(each['close_mining_msat'])}"
        how = "is closed, and our money is back" if each["sent_ms"] is not None else "was undone, its coins are free"
        yield each["released_ms"], f"{name} {how}{cost}."
