"""What `reconcile.judge` makes of one record and what lightningd says: each row of K-09, and the host's traps."""

from __future__ import annotations

from typing import Any

import pytest
from harness.session_records import (
    ALIAS,
    CHANNEL,
    FUNDING,
    HELD,
    ID,
    JIT,
    KEYS,
    PARTS,
    REAL,
    STRANGER,
    channel,
    record,
    row,
    snapshot,
)

from lsps2fast import actions as order
from lsps2fast.actions import Forward
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.reconcile import LOST, OPEN, SETTLED, first_orders, judge, resolved_rows


def test_an_intent_without_a_channel_is_undone() -> None:
    """K-09 row 1."""
    verdict = judge(record("intent"), snapshot(), set())
    assert (verdict.journal.channel, verdict.sent, verdict.public, verdict.gone) == (None, False, False, False)
    assert first_orders(verdict, JIT, "ABORTING") == (order.Undo(JIT, b"\x07" * 32, None, FUNDING),)


def test_a_withheld_channel_nobody_names_is_the_intent_s() -> None:
    """trap:6, K-02: the crash fell between fundchannel_complete and the next write."""
    verdict = judge(record("intent"), snapshot(channel()), set())
    assert verdict.journal.channel is not None
    assert verdict.journal.channel.channel_id == ID


@pytest.mark.parametrize(
    "other",
    [
        channel(peer_id=STRANGER),
        channel(opener="remote"),
        channel(funding={"withheld": False}),
    ],
    ids=["of another peer", "opened by the peer", "public"],
)
def test_other_channels_are_not_taken_for_it(other: PeerChannel) -> None:
    """K-11: nothing of others is touched."""
    assert judge(record("intent"), snapshot(other), set()).journal.channel is None


def test_a_channel_that_a_record_owns_is_not_taken_for_it() -> None:
    """K-09: two half-made opens to one client."""
    assert judge(record("intent"), snapshot(channel()), {ID}).journal.channel is None


def test_an_unknown_channel_is_gone_and_its_parts_are_lost() -> None:
    """K-09 row 2, cln:A3: a row says `offered` for ever after a close."""
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(rows=(row(0, "offered"),)), {ID})
    assert (verdict.gone, verdict.ended) == (True, dict.fromkeys(KEYS, LOST))


def test_a_part_of_a_closed_channel_is_open_while_its_incoming_htlc_is_there() -> None:
    """cln:A3, rule:20: the client may claim it on chain; its row says nothing, the incoming HTLC does."""
    journal = record("forwards", CHANNEL, PARTS)
    rows = (row(0, "offered"), row(1, "offered"))
    said = snapshot(channel(state="ONCHAIN", **PUBLIC), rows=rows, incoming={HELD[1]})
    assert judge(journal, said, {ID}).ended == {KEYS[0]: LOST, KEYS[1]: OPEN}
    assert resolved_rows(journal.journal, said) == {KEYS[0]: LOST}


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [
        (("settled", "failed"), (SETTLED, LOST)),
        (("offered", "local_failed"), (OPEN, LOST)),
        (("offered", "settled"), (OPEN, SETTLED)),
    ],
)
def test_the_table_says_how_parts_ended(statuses: tuple[str, str], ends: tuple[str, str]) -> None:
    """K-09 rows 4 to 6, cln:F4."""
    rows = tuple(row(number, status) for number, status in enumerate(statuses))
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(channel(), rows=rows), {ID})
    assert verdict.ended == dict(zip(KEYS, ends, strict=True))


@pytest.mark.parametrize("name", [ALIAS, REAL])
def test_rows_are_found_under_each_name_of_the_incoming_channel(name: int) -> None:
    """cln:H3, cln:F6: the part came under the alias, the row may carry the real scid."""
    rows = (row(0, "settled", name), row(1, "settled", name))
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(channel(), rows=rows), {ID})
    assert set(verdict.ended.values()) == {SETTLED}


@pytest.mark.parametrize(("replays", "end"), [(True, OPEN), (False, LOST)])
def test_a_part_that_is_still_held_comes_again_only_with_lightningd(replays: bool, end: str) -> None:
    """cln:H12, cln:R1: after a start of the plugin alone lightningd has let it go already."""
    said = snapshot(channel(), held=set(HELD), replays=replays)
    assert set(judge(record("forwards", CHANNEL, PARTS), said, {ID}).ended.values()) == {end}


@pytest.mark.parametrize(
    ("to_us_msat", "ends"),
    [(1_000, (LOST, LOST)), (600, (SETTLED, LOST)), (500, (LOST, SETTLED)), (100, (SETTLED,) * 2)],
)
def test_parts_in_no_channel_any_more_have_ended_as_the_money_says(to_us_msat: int, ends: tuple[str, str]) -> None:
    """people:S9, rule:25, cln:N3: their rows say `offered` for good; 400 and 500 msat went to the client."""
    facts = {"to_us_msat": to_us_msat, "total_msat": 1_000}
    rows = (row(0, "offered"), row(1, "offered"))
    said = snapshot(channel(**facts), rows=rows, incoming=set())
    judged = judge(record("forwards", CHANNEL, PARTS), said, {ID}).ended
    if to_us_msat == 500:  # either part may be the one of 400, and it is looked for first
        assert sorted(judged.values()) == sorted(ends)
    else:
        assert judged == dict(zip(KEYS, ends, strict=True))


@pytest.mark.parametrize("where", ["in", "out"])
def test_parts_that_are_still_in_a_channel_are_open(where: str) -> None:
    """rule:10, rule:25: in the one they came from, or in the one they went to."""
    htlc = {"direction": "out", "id": 7, "state": "SENT_ADD_ACK_REVOCATION", "payment_hash": "07" * 32}
    row_of_channel = channel(htlcs=[htlc] if where == "out" else [])
    incoming = set() if where == "out" else set(HELD)
    said = snapshot(row_of_channel, rows=(row(0, "offered"), row(1, "offered")), incoming=incoming)
    assert set(judge(record("forwards", CHANNEL, PARTS), said, {ID}).ended.values()) == {OPEN}


def test_of_two_rows_of_a_part_the_one_that_says_more_counts() -> None:
    """cln:N3: the first row stays `offered` under the old name, another is made under the new one."""
    rows = (row(0, "offered"), row(0, "settled", REAL), row(1, "failed", REAL), row(1, "offered"))
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(channel(), rows=rows), {ID})
    assert verdict.ended == dict(zip(KEYS, (SETTLED, LOST), strict=True))


@pytest.mark.parametrize("state", ["CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE", "CHANNELD_AWAITING_LOCKIN"])
def test_these_states_are_alive(state: str) -> None:
    """K-13, trap:9."""
    assert not judge(record("forwards", CHANNEL, PARTS), snapshot(channel(state=state)), {ID}).gone


@pytest.mark.parametrize(
    ("facts", "public", "sent"),
    [
        ({}, False, False),
        ({"funding": {"withheld": False}}, True, False),
        ({"funding": {"withheld": False}, "short_channel_id": "7x1x0"}, True, True),
    ],
    ids=["withheld", "no longer withheld", "confirmed"],
)
def test_only_a_confirmation_proves_that_the_funding_is_out(facts: dict[str, Any], public: bool, sent: bool) -> None:
    """rule:8: lightningd clears `withheld` before it asks bitcoind."""
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(channel(**facts)), {ID})
    assert (verdict.public, verdict.sent) == (public, sent)
    broadcasts = [step for step in first_orders(verdict, JIT, None) if isinstance(step, order.Broadcast)]
    assert len(broadcasts) == int(public and not sent)


RENEWAL = order.RenewInputs(JIT, b"\x07" * 32, FUNDING)
RESTORED = order.RestoreFees(ID)
PUBLIC: dict[str, Any] = {"funding": {"withheld": False}}
FREE: dict[str, Any] = {"fee_base_msat": 0, "fee_proportional_millionths": 0}


def test_coins_of_a_withheld_channel_are_reserved_anew_at_once() -> None:
    """O-04, trap:8, rule:7: their 72 blocks may be over with the next block, or already."""
    verdict = judge(record("forwards", CHANNEL, PARTS), snapshot(channel(**FREE)), {ID})
    assert first_orders(verdict, JIT, "AWAITING_SETTLEMENT") == (RENEWAL,)


@pytest.mark.parametrize(
    ("facts", "state", "owed"),
    [
        (PUBLIC | FREE, None, True),
        (PUBLIC | {"fee_base_msat": 1, "fee_proportional_millionths": 0}, None, False),
        (PUBLIC | FREE, "AWAITING_SETTLEMENT", False),
        (FREE, None, False),
    ],
    ids=["public and unpaid", "it charges already", "a payment is under way", "withheld"],
)
def test_a_public_channel_that_nobody_pays_for_gets_its_fees_back(
    facts: dict[str, Any], state: str | None, owed: bool
) -> None:
    """rule:13, O-13: we died between the zero and the rest."""
    verdict = judge(record("channel", CHANNEL), snapshot(channel(**facts)), {ID})
    assert (RESTORED in first_orders(verdict, JIT, state)) is owed


def test_what_a_channels_record_only_planned_is_forgotten() -> None:
    """P16, K-09: no part of it is in lightningd's table, so none went out: the channel can be undone, or waits."""
    verdict = judge(record("channel", CHANNEL, PARTS), snapshot(channel(), held={HELD[0]}), {ID})
    assert (verdict.journal.forwards, verdict.ended) == ((), {})


@pytest.mark.parametrize("name", [ALIAS, REAL])
def test_parts_of_a_channels_record_went_out_if_one_is_known(name: int) -> None:
    """P16, K-09, cln:H3: then the record stands for all of them, and each is judged."""
    said = snapshot(channel(**PUBLIC), rows=(row(0, "settled", name),))
    verdict = judge(record("channel", CHANNEL, PARTS), said, {ID})
    assert verdict.journal.forwards == PARTS
    assert verdict.ended == {KEYS[0]: SETTLED, KEYS[1]: LOST}


def test_the_parts_of_a_built_in_record_are_what_was_forwarded() -> None:
    """Architecture 5: it names none."""
    verdict = judge(record("forwards", CHANNEL), snapshot(channel(), rows=(row(0, "offered"),)), {ID})
    assert verdict.journal.forwards == (Forward(ALIAS, 0, 400, 100),)


def test_a_look_while_all_runs_says_nothing_of_parts_without_a_row() -> None:
    """A part may be on its way into the table."""
    journal = record("forwards", CHANNEL, PARTS).journal
    said = snapshot(channel(), rows=(row(1, "settled"),))
    assert resolved_rows(journal, said) == {(ALIAS, 1): SETTLED}
