"""Facts become rows once, whatever comes twice, late or never."""

from __future__ import annotations

import itertools
import sqlite3

import pytest
from harness.sales_ledger import (
    CHANNEL,
    FEE_MSAT,
    HASH,
    SCID,
    T0,
    a_buy,
    a_channel,
    a_record,
    a_sale,
    an_attempt,
    memory,
    table,
)

from lsps2fast_plugin.service.sales_ledger.facts import (
    BuyEndFact,
    ChannelFact,
    Fact,
    LiveFact,
    StandingFact,
)
from lsps2fast_plugin.service.sales_ledger.writes import write

WON = [("Succeeded", FEE_MSAT)]


def test_facts_that_come_twice_are_written_once() -> None:
    """operator:O2: a write whose answer was lost is repeated."""
    facts = [a_buy(), an_attempt(opening_ms=T0 + 2_000), a_channel(), a_sale(), a_record()]
    db = memory(*facts, *facts)
    assert table(db) == WON
    assert table(db, "began_ms, opening_ms, ended_ms") == [(T0 + 1_000, T0 + 2_000, T0 + 5_000)]
    assert len(table(db, "1", "buys")) == len(table(db, "1", "channels")) == 1


@pytest.mark.parametrize("known", range(5))
def test_a_start_completes_what_a_death_cut_off(known: int) -> None:
    """operator:O2: the plugin dies after any number of facts; the journal has the sale, so the ledger has it, once."""
    story: list[Fact] = [a_buy(), an_attempt(opening_ms=T0 + 2_000), a_channel(), a_sale()]
    db = memory(*story[:known])
    for _ in range(2):
        for fact in (a_buy(), a_channel(), a_record(), LiveFact(live=(), at_ms=T0 + 9_000)):
            write(db, fact)
    assert table(db) == WON
    assert db.execute("SELECT outcome FROM buys").fetchall() == [("Succeeded",)]


@pytest.mark.parametrize(("known", "fee_msat"), list(itertools.product(range(4), (FEE_MSAT, 0))))
def test_a_payment_that_goes_on_after_a_start_is_the_same_one(known: int, fee_msat: int) -> None:
    """operator:O2: it ends in the new life; it may have ended in the ledger, and not in the journal, before."""
    story: list[Fact] = [a_buy(), an_attempt(opening_ms=T0 + 2_000), a_sale(fee_taken_msat=fee_msat)]
    db = memory(*story[:known])
    again = a_sale(began_ms=T0 + 7_000, ended_ms=T0 + 8_000, revived=True, fee_taken_msat=fee_msat)
    for fact in (a_buy(), LiveFact(live=((SCID, HASH),), at_ms=T0 + 7_000), again, again):
        write(db, fact)
    write(db, a_record(fee_paid_msat=fee_msat))
    assert table(db) == [("Succeeded", fee_msat)]


def test_the_rest_of_an_underpaid_sale_is_a_payment_of_its_own() -> None:
    """rule:20: 400,000 came, then 600,000; the ledger says both, and their sum is the journal's."""
    first = an_attempt(outcome="Underpaid", fee_taken_msat=400_000, fee_owed_msat=600_000, ended_ms=T0 + 2_000)
    rest = a_sale(payment_hash="bb" * 32, fee_taken_msat=600_000, fee_before_msat=400_000, revived=True)
    db = memory(a_buy(), first, rest, rest, a_record())
    assert table(db) == [("Succeeded", 600_000), ("Underpaid", 400_000)]
    lost = memory(a_buy(), a_record(outcome=None, payment_hash=None, fee_paid_msat=400_000), a_record())
    assert sorted(table(lost, "fee_taken_msat")) == [(400_000,), (600_000,)]


def test_an_underpaid_sale_that_ends_again_after_a_start_is_counted_once() -> None:
    """rule:20: it had ended in the ledger, and the plugin died before the journal had it."""
    first = an_attempt(outcome="Underpaid", fee_taken_msat=400_000, fee_owed_msat=600_000, ended_ms=T0 + 2_000)
    again = an_attempt(
        outcome="Underpaid", fee_taken_msat=400_000, began_ms=T0 + 7_000, ended_ms=T0 + 8_000, revived=True
    )
    assert table(memory(a_buy(), first, again, again)) == [("Underpaid", 400_000)]
    assert table(memory(a_buy(), again, again)) == [("Underpaid", 400_000)]


def test_a_sale_without_a_fee_is_a_sale() -> None:
    """operator:O2: found in the journal alone; there is no sum that lacks anything."""
    record = a_record(fee_agreed_msat=0, fee_paid_msat=0)
    assert table(memory(a_buy(), record, record)) == [("Succeeded", 0)]


def test_a_retry_with_the_same_hash_is_another_attempt() -> None:
    """operator:O1: failed, then paid: two rows, one sale."""
    failed = an_attempt(outcome="Failed", ended_ms=T0 + 2_000, failed_by="client")
    db = memory(a_buy(), failed, a_sale(began_ms=T0 + 3_000), a_record())
    assert table(db) == [("Failed", 0), ("Succeeded", FEE_MSAT)]


def test_what_ended_while_we_were_away_is_closed() -> None:
    """operator:O2: an open row is of a payment that goes on, or it is over."""
    db = memory(a_buy(), an_attempt(), an_attempt(payment_hash="bb" * 32))
    write(db, LiveFact(live=((SCID, HASH),), at_ms=T0 + 9_000))
    assert table(db, "outcome, code, ended_ms") == [(None, None, None), ("Failed", "restart", T0 + 9_000)]


def test_capital_is_released_when_the_channel_is_no_more() -> None:
    """rule:18: heard of, or found gone at the next start; and what miners took of the close."""
    db = memory(a_buy(), a_channel(), a_channel(channel_id="dd" * 32), a_channel(channel_id="ee" * 32))
    write(db, ChannelFact(channel_id=CHANNEL, close_mining_msat=500_000))
    write(db, ChannelFact(channel_id=CHANNEL, released_ms=T0 + 7_000))
    write(db, ChannelFact(channel_id="99" * 32, released_ms=T0 + 7_000))  # none of ours
    write(db, a_channel(channel_id="ff" * 32, locked_ms=T0 + 9_500))  # made after lightningd was asked
    write(db, StandingFact(channel_ids=frozenset({"ee" * 32}), at_ms=T0 + 9_000))
    found = table(db, "hex(channel_id), released_ms, close_mining_msat", "channels")
    assert found == [
        (CHANNEL.upper(), T0 + 7_000, 500_000),
        ("DD" * 32, T0 + 9_000, None),
        ("EE" * 32, None, None),
        ("FF" * 32, None, None),
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM attempts",
        "UPDATE attempts SET fee_taken_msat = 0",
        "DELETE FROM buys",
        "UPDATE buys SET peer_id = x'00'",
        "DELETE FROM channels",
    ],
)
def test_what_is_written_stays(sql: str) -> None:
    """operator:O2: append-only for every program that opens the file."""
    db = memory(a_buy(), a_channel(), a_sale(), BuyEndFact(jit_scid=SCID, outcome="Succeeded", ended_ms=T0 + 6_000))
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|is over"):
        db.execute(sql)
