"""Pages, reports and stories, on a ledger whose sums are known."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

import pytest
from harness.sales_ledger import FEE_MSAT, PEER, T0, a_buy, a_channel, a_sale, an_attempt, memory

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.sales_ledger.facts import ChannelFact, Fact
from lsps2fast_plugin.service.sales_ledger.listing import Wanted, page, read_cursor
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS, month_of, read_time, split
from lsps2fast_plugin.service.sales_ledger.report import BY, report
from lsps2fast_plugin.service.sales_ledger.story import explain

JUNE = 1_780_272_000_000  # 2026-06-01T00:00:00Z, a Monday
DAYS = 40
SALES_A_DAY = 3
OTHER = "03" + "22" * 32


def _history() -> list[Fact]:
    """Forty days from June on: three sales a day of 100,000 sat, one of every fourth closed two days later."""
    facts: list[Fact] = []
    for number in range(DAYS * SALES_A_DAY):
        at_ms = JUNE + number * DAY_MS // SALES_A_DAY + 10_000
        scid, channel = f"{number}x1x1", number.to_bytes(32, "big").hex()
        who: dict[str, Any] = {"jit_scid": scid, "peer_id": (PEER, OTHER)[number % 2]}
        who |= {"token": (None, "gold", "silver")[number % 3], "band": f"fee_line {number % 2}"}
        facts.append(a_buy(created_ms=at_ms - 5_000, **who))
        if number % 5 == 0:
            failed = {"outcome": "Failed", "failed_by": "payer", "code": "incomplete", "reason": "it never came"}
            facts.append(an_attempt(began_ms=at_ms - 4_000, ended_ms=at_ms - 3_000, **who, **failed))
        times = {"opening_ms": at_ms - 800, "channel_ms": at_ms - 600, "forwarded_ms": at_ms - 400}
        facts.append(a_sale(began_ms=at_ms - 1_000, ended_ms=at_ms, channel_id=channel, **who, **times))
        where: dict[str, Any] = {"channel_id": channel, "jit_scid": scid, "peer_id": who["peer_id"]}
        facts.append(a_channel(locked_ms=at_ms - 800, sent_ms=at_ms - 500, capacity_sat=100_000, **where))
        if number % 4 == 0:
            facts.append(ChannelFact(channel_id=channel, close_mining_msat=300_000))
            facts.append(ChannelFact(channel_id=channel, released_ms=at_ms + 2 * DAY_MS))
    return facts


@pytest.fixture(scope="module")
def db() -> sqlite3.Connection:
    """The history, each funding with 200,000 msat for miners."""
    found = memory(*_history())
    found.execute("UPDATE channels SET mining_msat = 200000")
    return found


END = JUNE + 50 * DAY_MS


def test_pages_join_without_a_gap(db: sqlite3.Connection) -> None:
    """operator:O2: each row once, the newest first, whatever the size of the page."""
    whole = page(db, Wanted(), None, 1_000)
    assert "next_cursor" not in whole
    joined: list[dict[str, Any]] = []
    cursor = None
    while True:
        answer = page(db, Wanted(), cursor, 7)
        joined += answer["sales"]
        if "next_cursor" not in answer:
            break
        cursor = read_cursor(answer["next_cursor"])
    assert joined == whole["sales"]
    assert len(joined) == DAYS * SALES_A_DAY * 6 // 5
    assert [row["ended_at"] for row in joined] == sorted((row["ended_at"] for row in joined), reverse=True)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Wanted(peer_id=PEER, outcome="Succeeded"), 60),
        (Wanted(token="gold", outcome="Succeeded"), 40),
        (Wanted(outcome="Failed"), 24),
        (Wanted(since_ms=JUNE + DAY_MS, until_ms=JUNE + 2 * DAY_MS, outcome="Succeeded"), 3),
        (Wanted(token="lead"), 0),
    ],
)
def test_a_page_of_what_is_wanted(db: sqlite3.Connection, wanted: Wanted, count: int) -> None:
    """operator:O2: by time, peer, token, outcome, and all of them together."""
    rows = page(db, wanted, None, 1_000)["sales"]
    assert len(rows) == count
    for row in rows:
        assert wanted.peer_id in (None, row["peer_id"])
        assert wanted.token in (None, row.get("token"))
        assert wanted.outcome in (None, row["outcome"])


@pytest.mark.parametrize("by", BY)
def test_the_parts_of_a_report_are_the_whole(db: sqlite3.Connection, by: str) -> None:
    """operator:O2: to the msat, whatever it is split by; the total is what was put in."""
    answer = report(db, JUNE, END, by, END)
    total = answer["total"]
    assert total["sales"] == DAYS * SALES_A_DAY
    assert total["failed"] == 24
    assert total["earned_msat"] == 120 * FEE_MSAT
    assert total["mining_msat"] == 120 * 200_000 + 30 * 300_000
    assert total["net_msat"] == total["earned_msat"] - total["mining_msat"]
    sums = Counter[str]()
    for row in answer["rows"]:
        sums.update({name: value for name, value in row.items() if name not in (by, "return_percent_per_year")})
    for name in ("sales", "failed", "earned_msat", "mining_msat", "net_msat", "owed_msat"):
        assert sums[name] == total[name], name
    assert sums["capital_sat_days"] == pytest.approx(total["capital_sat_days"], abs=len(answer["rows"]))


def _slowly_sat_days(since_ms: int, until_ms: int) -> float:
    """Capital-days as one would say them: each channel by itself."""
    locks = {fact.channel_id: fact.locked_ms for fact in _history() if isinstance(fact, ChannelFact) and fact.locked_ms}
    ends = {fact.channel_id: fact.released_ms for fact in _history() if isinstance(fact, ChannelFact)}
    found = 0.0
    for channel, locked_ms in locks.items():
        end = min(ends.get(channel) or until_ms, until_ms)
        found += 100_000 * max(end - max(locked_ms, since_ms), 0) / DAY_MS
    return found


@pytest.mark.parametrize(
    ("since_ms", "until_ms"),
    [(JUNE, END), (JUNE + 10 * DAY_MS + 777, JUNE + 12 * DAY_MS + 5), (END, END + DAY_MS), (JUNE - DAY_MS, JUNE)],
)
def test_capital_days_are_counted_to_the_hour(db: sqlite3.Connection, since_ms: int, until_ms: int) -> None:
    """operator:O2: what lay in channels before, what came and what went within."""
    expected = _slowly_sat_days(since_ms, until_ms)
    for by in BY:
        answer = report(db, since_ms, until_ms, by, until_ms)
        assert answer["total"]["capital_sat_days"] == pytest.approx(expected, abs=1)
        assert sum(row["capital_sat_days"] for row in answer["rows"]) == pytest.approx(expected, abs=60)


@pytest.mark.parametrize(("minutes", "told"), [(5, False), (23 * 60, False), (25 * 60, True), (30 * 24 * 60, True)])
@pytest.mark.parametrize("by", ["token", "band", "peer"])
def test_of_young_capital_no_return_of_a_year_is_told(by: str, minutes: int, told: bool) -> None:
    """operator:O2: before it has lain a day there would be a return of millions of per cent; each row by itself."""
    db = memory(a_buy(), a_channel(locked_ms=T0, sent_ms=T0), a_sale(began_ms=T0))
    now_ms = T0 + minutes * 60_000
    answer = report(db, T0 - DAY_MS, now_ms, by, now_ms)
    rows = [row for row in answer["rows"] if row["capital_sat_days"]]
    assert {row["return_percent_per_year"] is not None for row in [answer["total"], *rows]} == {told}


def test_what_lay_there_is_kept_day_by_day(db: sqlite3.Connection) -> None:
    """operator:O2: the sums that reports begin with are those of the rows, for each token and fee line."""
    for column, sums in (("locked_ms", "locked_sat"), ("released_ms", "released_sat")):
        rows = db.execute(
            f"SELECT {column} / 86400000, COALESCE(token, ''), COALESCE(band, ''), sum(capacity_sat) FROM channels"
            f" WHERE {column} IS NOT NULL GROUP BY 1, 2, 3"
        ).fetchall()
        kept = db.execute(f"SELECT day, token, band, {sums} FROM capital WHERE {sums} ORDER BY 1, 2, 3").fetchall()
        assert sorted(rows) == kept


def test_a_month_is_a_month_and_a_week_begins_on_monday(db: sqlite3.Connection) -> None:
    """operator:O2: rows of a report by their names."""
    months = report(db, JUNE, END, "month", END)["rows"]
    assert [(row["month"], row["sales"]) for row in months] == [("2026-06", 90), ("2026-07", 30)]
    assert report(db, JUNE, END, "week", END)["rows"][0]["week"] == "2026-W23"
    assert month_of(JUNE + 5) == (JUNE, JUNE + 30 * DAY_MS)
    assert [period.name for period in split(JUNE - 5, JUNE + 5, "day")] == ["2026-05-31", "2026-06-01"]
    with pytest.raises(ConfigError, match="too many"):
        split(0, END, "day")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-06-01", JUNE),
        ("2026-06-01T00:00:00Z", JUNE),
        ("2026-06-01T02:00:00+02:00", JUNE),
        (JUNE // 1000, JUNE),
        (str(JUNE // 1000), JUNE),
        ("20260601", JUNE),
        (None, None),
    ],
)
def test_times_as_people_give_them(value: int | str | None, expected: int | None) -> None:
    """operator:O9: in UTC unless it says otherwise."""
    assert read_time(value, "since") == expected


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", -1, "9" * 30])
def test_a_time_that_is_none_is_told(value: int | str) -> None:
    """operator:O9: under the name that the caller gave it."""
    with pytest.raises(ConfigError, match=r"since=.* is no time; give a date such as"):
        read_time(value, "since")


@pytest.mark.parametrize("text", ["x", "1", "1-", "-1", "1-2-3", "9" * 50 + "-1"])
def test_a_cursor_that_is_none_is_told(text: str) -> None:
    """operator:O9: not taken for the beginning."""
    with pytest.raises(ConfigError, match="is not from this method"):
        read_cursor(text)


def test_the_story_of_a_payment(db: sqlite3.Connection) -> None:
    """operator:O1: what support needs, in sentences, in order."""
    (offer,) = explain(db, "0x1x1")["offers"]
    story = "\n".join(offer["story"])
    assert offer["peer_id"] == PEER
    for words in (
        "bought a channel for any payment: fee of 10000 ppm, at least 1,000 sat, band fee_line 0",
        "It failed by the payer (incomplete): it never came.",
        "in 2 parts",
        "Both sides had signed the channel.",
        "its funding was sent; miners get 200 sat.",
        "It is paid: 1,000 sat of an opening fee of 1,000 sat came.",
        "is closed, and our money is back; closing cost 300 sat.",
    ):
        assert words in story, words
    assert offer["story"] == sorted(offer["story"])


def test_a_story_by_hash_channel_or_client(db: sqlite3.Connection) -> None:
    """operator:O1: whatever name support was given."""
    assert explain(db, (7).to_bytes(32, "big").hex())["offers"][0]["jit_channel_scid"] == "7x1x1"
    assert len(explain(db, PEER)["offers"]) == 20
    with pytest.raises(ConfigError, match="knows nothing of 9x9x9"):
        explain(db, "9x9x9")
    with pytest.raises(ConfigError, match="no payment hash, channel id, jit scid or node id"):
        explain(db, "alice")


def test_a_month_ends_in_december() -> None:
    """The next one is January."""
    since_ms, until_ms = month_of(JUNE + 213 * DAY_MS)
    assert (until_ms - since_ms) // DAY_MS == 31
