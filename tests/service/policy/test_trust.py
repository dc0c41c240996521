"""What peers did with our trust: unpaid channels, probes, capital at risk, healing, and a memory with an end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.trust import TrustLedger
from service.policy.support import ALICE, BOB, DAY_MS, WALL_MS

HOUR_MS = 3_600_000
RULE = TrustRule(unpaid_limit=1, heal_days=30, probe_limit=3, probe_heal_hours=24)


@pytest.fixture
def ledger() -> TrustLedger:
    """An empty ledger."""
    return TrustLedger(RULE)


def reloaded(ledger: TrustLedger) -> TrustLedger:
    """The ledger after a restart: what its changes said, through JSON."""
    disk = {record.key: json.dumps(record.value) for record in ledger.changes() if record.value is not None}
    again = TrustLedger(ledger.rule)
    assert again.load((key, json.loads(value)) for key, value in disk.items()) == []
    return again


def test_an_open_channel_is_capital_at_risk_until_it_is_paid(ledger: TrustLedger) -> None:
    """The budget counts channels that are opened and unpaid, each once."""
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    ledger.opened(BOB, 2, 7_000, WALL_MS)
    assert ledger.at_risk_msat() == 12_000
    ledger.paid(ALICE, 1, WALL_MS)
    ledger.paid(ALICE, 1, WALL_MS)
    assert ledger.at_risk_msat() == 7_000
    ledger.closed(BOB, 2, WALL_MS)
    assert ledger.at_risk_msat() == 0
    assert not ledger.is_suspect(ALICE, WALL_MS)
    assert not ledger.is_suspect(BOB, WALL_MS)


def test_a_peer_who_let_a_channel_go_unpaid_is_a_suspect(ledger: TrustLedger) -> None:
    """B-15: automatically switched to the safe mode; told twice it counts once."""
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    assert ledger.awaiting(ALICE) == 1
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.let_go(ALICE, 1, WALL_MS)
    assert ledger.unpaid(ALICE, WALL_MS) == 1
    assert ledger.is_suspect(ALICE, WALL_MS)
    assert not ledger.is_suspect(BOB, WALL_MS)
    assert ledger.at_risk_msat() == 5_000


def test_a_debt_that_is_paid_late_is_forgiven_at_once(ledger: TrustLedger) -> None:
    """O-13: the fee stays due with the next payment; who pays it is no debtor."""
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.paid(ALICE, 1, WALL_MS + 1)
    assert ledger.unpaid(ALICE, WALL_MS + 1) == 0
    assert ledger.at_risk_msat() == 0


def test_a_closed_debt_heals_with_time_and_a_standing_one_does_not(ledger: TrustLedger) -> None:
    """Healing over time."""
    for peer_id in (ALICE, BOB):
        ledger.opened(peer_id, 1, 5_000, WALL_MS)
        ledger.let_go(peer_id, 1, WALL_MS)
    ledger.closed(ALICE, 1, WALL_MS)
    assert ledger.is_suspect(ALICE, WALL_MS + 30 * DAY_MS - 1)
    assert not ledger.is_suspect(ALICE, WALL_MS + 30 * DAY_MS)
    assert ledger.is_suspect(BOB, WALL_MS + 3_000 * DAY_MS)


def test_three_probes_end_the_service_for_a_while(ledger: TrustLedger) -> None:
    """C-26: count per client, stop serving above a limit; one probe is forgotten each day."""
    for _ in range(2):
        ledger.probed(ALICE, WALL_MS)
    assert not ledger.is_prober(ALICE, WALL_MS)
    ledger.probed(ALICE, WALL_MS)
    assert ledger.is_prober(ALICE, WALL_MS)
    assert not ledger.is_prober(ALICE, WALL_MS + 24 * HOUR_MS)
    ledger.probed(ALICE, WALL_MS + 24 * HOUR_MS)
    assert ledger.is_prober(ALICE, WALL_MS + 24 * HOUR_MS)
    assert not ledger.is_prober(BOB, WALL_MS)


def test_a_clock_that_goes_back_heals_nothing(ledger: TrustLedger) -> None:
    """K-25: wall time may jump."""
    ledger.probed(ALICE, WALL_MS)
    assert ledger.probes(ALICE, WALL_MS - 99 * DAY_MS) == 1


def test_new_limits_judge_old_deeds(ledger: TrustLedger) -> None:
    """A reload needs no restart here either."""
    ledger.probed(ALICE, WALL_MS)
    ledger.rule = RULE._replace(probe_limit=1)
    assert ledger.is_prober(ALICE, WALL_MS)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["opened", "paid", "let_go", "closed", "probed"]),
        st.sampled_from([ALICE, BOB]),
        st.integers(1, 4),
        st.integers(0, 40 * DAY_MS),
    ),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=60)
def test_a_restart_changes_nothing(events: list[tuple[str, str, int, int]]) -> None:
    """K-24: the journal carries everything, and the sum at risk is that of the open channels."""
    ledger = TrustLedger(RULE)
    wall_ms = WALL_MS
    open_: dict[tuple[str, int], int] = {}
    for kind, peer_id, scid, wait_ms in events:
        wall_ms += wait_ms
        facts: dict[str, Any] = {
            "opened": (peer_id, scid, 1_000 * scid, wall_ms),
            "probed": (peer_id, wall_ms),
        }
        getattr(ledger, kind)(*facts.get(kind, (peer_id, scid, wall_ms)))
        after = {"opened": 1_000 * scid, "paid": 0, "closed": 0}
        open_[peer_id, scid] = after.get(kind, open_.get((peer_id, scid), 0))
        assert ledger.at_risk_msat() == sum(open_.values())
    again = reloaded(ledger)
    for peer_id in (ALICE, BOB):
        assert again.unpaid(peer_id, wall_ms) == ledger.unpaid(peer_id, wall_ms)
        assert again.probes(peer_id, wall_ms) == ledger.probes(peer_id, wall_ms)
        assert again.awaiting(peer_id) == ledger.awaiting(peer_id)
    assert again.at_risk_msat() == ledger.at_risk_msat()


def test_changes_name_each_peer_once_and_come_back_when_they_were_not_written(ledger: TrustLedger) -> None:
    """rule:11: stored means stored."""
    ledger.probed(ALICE, WALL_MS)
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    first = ledger.changes()
    assert [record.key for record in first] == [("lsps", "lsps2", "trust", ALICE)]
    assert ledger.changes() == []
    ledger.paid(ALICE, 1, WALL_MS)
    ledger.changes()
    ledger.unsaved(first)
    again = ledger.changes()
    assert [record.key for record in again] == [record.key for record in first]
    assert again[0].value is not None
    assert again[0].value["open"] == []


def node_id(number: int) -> str:
    """A peer of its own for each number."""
    return f"02{number:064x}"


def test_memory_ends_at_the_bound_but_never_forgets_an_open_channel() -> None:
    """rule:14: many node ids are cheap, channels are not."""
    ledger = TrustLedger(RULE, max_peers=20)
    ledger.opened(ALICE, 1, 5_000, WALL_MS)
    for number in range(500):
        ledger.probed(node_id(number), WALL_MS + number)
    assert len(ledger) <= 20
    assert ledger.awaiting(ALICE) == 1
    assert ledger.at_risk_msat() == 5_000
    forgotten = [record.key[-1] for record in ledger.changes() if record.value is None]
    assert node_id(0) in forgotten


def test_who_has_healed_is_forgotten_on_disk_too(ledger: TrustLedger) -> None:
    """rule:14: the datastore does not grow for ever."""
    ledger.probed(ALICE, WALL_MS)
    ledger.changes()
    ledger.probed(BOB, WALL_MS + DAY_MS)
    values = {record.key[-1]: record.value for record in ledger.changes()}
    assert values[ALICE] is None
    assert values[BOB] is not None
    assert len(ledger) == 1


GOOD = {"version": 1, "unpaid": [1, WALL_MS], "probes": [0, 0], "open": [["1x1x1", "5000", WALL_MS, False]]}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        GOOD | {"version": 2},
        GOOD | {"unpaid": [1]},
        GOOD | {"unpaid": [-1, 0]},
        GOOD | {"probes": [True, 0]},
        GOOD | {"open": 3},
        GOOD | {"open": [["1x1", "5000", 0, False]]},
        GOOD | {"open": [["1x1x1", 5000, 0, False]]},
        GOOD | {"open": [["1x1x1", "5000", 0]]},
    ],
)
def test_a_broken_record_is_told_and_touches_no_other(ledger: TrustLedger, value: Any) -> None:
    """K-08: never silently skipped, never in the way of the rest."""
    root = ("lsps", "lsps2", "trust")
    complaints = ledger.load([((*root, ALICE), value), ((*root, "alice"), GOOD), ((*root, BOB), GOOD), ((), GOOD)])
    assert len(complaints) == 3
    assert ledger.at_risk_msat() == 5_000
    assert ledger.is_suspect(BOB, WALL_MS)
