"""What peers did with our trust: unpaid channels, doubts, healing, and a memory with an end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.policy import ALICE, BOB, DAY_MS, WALL_MS
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.stakes import HOUR_MS, Fault, Stakes
from lsps2fast_plugin.service.policy.trust import TrustLedger

RULE = TrustRule(unpaid_limit=1, heal_days=30, probe_limit=3, probe_heal_hours=24)


@pytest.fixture
def ledger() -> TrustLedger:
    """An empty ledger."""
    return TrustLedger(RULE)


def opened(ledger: TrustLedger, peer_id: str, scid: int, msat: int = 5_000, wall_ms: int = WALL_MS) -> None:
    """A channel of this buy is on chain, not paid for yet."""
    ledger.reserved(peer_id, scid, msat, True, 100, wall_ms)
    ledger.sent(peer_id, scid, f"{scid:064x}", msat, wall_ms).mined = True


def closed(ledger: TrustLedger, scid: int, wall_ms: int = WALL_MS) -> None:
    """A block has the close of its channel."""
    stake = ledger.stakes.of_channel(f"{scid:064x}")
    assert stake is not None
    ledger.back(stake, wall_ms)


def at_risk(stakes: Stakes) -> int:
    """Both pots."""
    return stakes.msat(on_trust=True) + stakes.msat(on_trust=False)


def reloaded(ledger: TrustLedger) -> TrustLedger:
    """The ledger after a restart: what its changes said, through JSON."""
    disk = {record.key: json.dumps(record.value) for record in ledger.changes() if record.value is not None}
    again = TrustLedger(ledger.rule)
    assert again.load((key, json.loads(value)) for key, value in disk.items()) == []
    return again


STEPS = st.lists(
    st.tuples(st.sampled_from(("reserve", "send", "price", "paid", "back", "end")), st.integers(1, 4), st.booleans())
)


@given(STEPS)
def test_the_pots_hold_what_the_stakes_say(steps: list[tuple[str, int, bool]]) -> None:
    """rule:18, P24: the sums are kept, not made anew for each question, and agree after any history."""
    ledger = TrustLedger(RULE)
    for number, (step, scid, on_trust) in enumerate(steps):
        peer_id, channel_id = (ALICE, BOB)[scid % 2], f"{scid:064x}"
        stake = ledger.stakes.of_channel(channel_id) or ledger.stakes.now(scid)
        if step == "reserve":
            ledger.reserved(peer_id, scid, 1_000 + number, on_trust, 100 * (number % 2), WALL_MS)
        elif step == "send":
            ledger.sent(peer_id, scid, channel_id, 500 + number, WALL_MS + number * HOUR_MS // 2)
        elif step == "price" and stake is not None:
            ledger.stakes.price(stake, 10 + number)
        elif step == "paid":
            ledger.paid(peer_id, scid, WALL_MS)
        elif step == "back" and stake is not None:
            ledger.back(stake, WALL_MS)
        elif step == "end":
            ledger.buy_ended(scid)
        for pot in (True, False):
            held_msat = sum(stake.amount_msat for stake in ledger.stakes if stake.on_trust is pot)
            assert ledger.stakes.msat(on_trust=pot) == held_msat
        on_chain = [stake for stake in ledger.stakes if stake.on_trust]
        mining_msat = sum(stake.mining_msat for stake in on_chain)
        assert ledger.stakes.mining_msat(WALL_MS) == mining_msat + ledger.stakes.burnt.msat(WALL_MS)
        assert set(ledger.stakes.unpriced) == {stake for stake in on_chain if not stake.mining_msat}


def test_a_stake_counts_from_the_reservation_until_it_is_paid_or_back(ledger: TrustLedger) -> None:
    """people:S1, people:S11, rule:18: in both pots, each channel once, whatever its buy promised."""
    opened(ledger, ALICE, 1)
    ledger.sent(ALICE, 1, f"{1:064x}", 5_000, WALL_MS)
    opened(ledger, BOB, 2, 7_000)
    ledger.reserved(BOB, 3, 11_000, False, 100, WALL_MS)
    stakes = ledger.stakes
    assert (stakes.msat(on_trust=True), stakes.msat(on_trust=False)) == (12_000, 11_000)
    ledger.paid(ALICE, 1, WALL_MS)
    ledger.paid(ALICE, 1, WALL_MS)
    assert stakes.msat(on_trust=True) == 7_000
    closed(ledger, 2)
    ledger.let_go(BOB, 3, WALL_MS)
    assert at_risk(stakes) == 0
    assert ledger.why_not_trusted(ALICE, WALL_MS) is None
    assert ledger.why_not_trusted(BOB, WALL_MS) is None


def test_a_withheld_channel_that_goes_on_chain_unpaid_changes_the_pot(ledger: TrustLedger) -> None:
    """rule:18: what is public and unpaid is on trust, whatever the buy said."""
    ledger.reserved(ALICE, 1, 5_000, False, 0, WALL_MS)
    ledger.sent(ALICE, 1, "cc" * 32, 5_000, WALL_MS)
    assert (ledger.stakes.msat(on_trust=True), ledger.stakes.msat(on_trust=False)) == (5_000, 0)


def test_a_second_channel_of_a_buy_counts_beside_the_first_one(ledger: TrustLedger) -> None:
    """people:L9, rule:18: what is on chain stays a stake when the buy opens another."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS, Fault.DOUBT)
    ledger.reserved(ALICE, 1, 6_000, True, 0, WALL_MS)
    ledger.sent(ALICE, 1, f"{1:064x}", 5_000, WALL_MS)  # the first one once more, as a restart orders it
    assert at_risk(ledger.stakes) == 11_000
    ledger.paid(ALICE, 1, WALL_MS)
    assert at_risk(ledger.stakes) == 5_000
    closed(ledger, 1)
    assert at_risk(ledger.stakes) == 0


def test_coins_chosen_anew_for_the_same_channel_count_once(ledger: TrustLedger) -> None:
    """rule:18: a coin that another program took is not counted with the one that replaced it."""
    ledger.reserved(ALICE, 1, 5_000, True, 0, WALL_MS)
    ledger.reserved(ALICE, 1, 6_000, True, 0, WALL_MS)
    assert at_risk(ledger.stakes) == 6_000


def test_mining_fees_count_for_a_day_unless_the_channel_is_paid(ledger: TrustLedger) -> None:
    """people:S6, rule:18: a close gives back coins, not what the miners took."""
    opened(ledger, ALICE, 1)
    opened(ledger, ALICE, 2)
    opened(ledger, ALICE, 3)
    assert ledger.stakes.mining_msat(WALL_MS) == 300
    ledger.paid(ALICE, 1, WALL_MS)
    closed(ledger, 2, WALL_MS + HOUR_MS)
    assert ledger.stakes.mining_msat(WALL_MS + HOUR_MS) == 200
    assert ledger.stakes.mining_msat(WALL_MS + 26 * HOUR_MS) == 0


def test_what_never_reached_the_chain_burns_nothing(ledger: TrustLedger) -> None:
    """people:S0, people:S6: an open that was undone, and a channel given up before its funding was sent."""
    stake = ledger.sent(BOB, 2, "cc" * 32, 5_000, WALL_MS)
    ledger.stakes.price(stake, 100)
    ledger.back(stake, WALL_MS)
    ledger.reserved(ALICE, 1, 5_000, True, 100, WALL_MS)
    ledger.let_go(ALICE, 1, WALL_MS)
    assert ledger.stakes.mining_msat(WALL_MS) == 0
    assert at_risk(ledger.stakes) == 0


# --- Standing -----------------------------------------------------------------------------------------------------


def test_a_clients_own_deed_makes_it_a_suspect(ledger: TrustLedger) -> None:
    """B-15, rule:22: told twice it counts once; no other client is touched."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.let_go(ALICE, 1, WALL_MS)
    assert ledger.unpaid(ALICE, WALL_MS) == 1
    assert ledger.why_not_trusted(ALICE, WALL_MS) == "1 channels of this peer went unpaid"
    assert ledger.why_not_trusted(BOB, WALL_MS) is None
    assert at_risk(ledger.stakes) == 5_000


@pytest.mark.parametrize("fault", [Fault.DOUBT, Fault.NONE])
def test_what_may_be_somebody_elses_deed_is_forgotten_within_a_day(ledger: TrustLedger, fault: Fault) -> None:
    """people:L1, people:L2, rule:22: the stated bound is probe_heal_hours, also while the channel stands."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS, fault)
    assert ledger.unpaid(ALICE, WALL_MS) == 0
    assert ledger.why_not_trusted(ALICE, WALL_MS + DAY_MS - 1) == "an open channel of this peer is not yet paid for"
    assert ledger.why_not_trusted(ALICE, WALL_MS + DAY_MS) is None
    assert at_risk(ledger.stakes) == 5_000


def test_a_client_that_closes_an_unpaid_channel_did_it_itself(ledger: TrustLedger) -> None:
    """people:S6, rule:22: no other party can close its channel for it; told again it counts once."""
    opened(ledger, ALICE, 1)
    ledger.closing(f"{1:064x}", False, WALL_MS)
    assert ledger.unpaid(ALICE, WALL_MS) == 0
    ledger.closing(f"{1:064x}", True, WALL_MS)
    ledger.closing(f"{1:064x}", True, WALL_MS)
    closed(ledger, 1)
    assert ledger.unpaid(ALICE, WALL_MS) == 1
    assert len(ledger.reasons(ALICE)) == 1


def test_a_debt_that_is_paid_late_is_forgiven_at_once(ledger: TrustLedger) -> None:
    """O-13, rule:22: who pays for the channel is no debtor."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.paid(ALICE, 1, WALL_MS + 1)
    assert ledger.unpaid(ALICE, WALL_MS + 1) == 0
    assert ledger.reasons(ALICE) == []


def test_a_closed_debt_heals_with_time_and_a_standing_one_does_not(ledger: TrustLedger) -> None:
    """: healing over time."""
    for peer_id, scid in ((ALICE, 1), (BOB, 2)):
        opened(ledger, peer_id, scid)
        ledger.let_go(peer_id, scid, WALL_MS)
    closed(ledger, 1)
    assert ledger.why_not_trusted(ALICE, WALL_MS + 30 * DAY_MS - 1)
    assert ledger.why_not_trusted(ALICE, WALL_MS + 30 * DAY_MS) is None
    assert ledger.why_not_trusted(BOB, WALL_MS + 3_000 * DAY_MS)


def test_probes_count_once_a_buy_and_heal_within_a_day(ledger: TrustLedger) -> None:
    """C-26, people:L1: a stranger with one invoice counts once, however often it pays."""
    for _ in range(9):
        ledger.probed(ALICE, 1, WALL_MS)
    assert ledger.probes(ALICE, WALL_MS) == 1
    for scid in (2, 3):
        ledger.probed(ALICE, scid, WALL_MS)
    assert str(ledger.why_not_trusted(ALICE, WALL_MS)).startswith("payments for 3 sales")
    assert ledger.why_not_trusted(ALICE, WALL_MS + 24 * HOUR_MS) is None
    assert ledger.why_not_trusted(BOB, WALL_MS) is None


def test_a_paid_sale_clears_the_probes_before_it(ledger: TrustLedger) -> None:
    """rule:22, C-26: at once, and its reasons with them."""
    for scid in (1, 2, 3):
        ledger.probed(ALICE, scid, WALL_MS)
    assert len(ledger.reasons(ALICE)) == 3
    ledger.paid(ALICE, 4, WALL_MS)
    assert ledger.probes(ALICE, WALL_MS) == 0
    assert ledger.reasons(ALICE) == []


def test_a_sale_that_a_share_is_missing_of_frees_its_channel_and_books_a_doubt(ledger: TrustLedger) -> None:
    """rule:22: who failed the parts beside a whole payment is not known: counted once a buy, and it clears nothing."""
    ledger.probed(ALICE, 1, WALL_MS)
    opened(ledger, ALICE, 2)
    for _ in range(2):
        ledger.paid(ALICE, 2, WALL_MS, whole_fee=False)
    assert at_risk(ledger.stakes) == 0
    assert (ledger.probes(ALICE, WALL_MS), ledger.unpaid(ALICE, WALL_MS)) == (2, 0)
    assert "a share of the opening fee" in ledger.reasons(ALICE)[-1]
    assert reloaded(ledger).reasons(ALICE) == ledger.reasons(ALICE)
    ledger.paid(ALICE, 3, WALL_MS)
    assert (ledger.probes(ALICE, WALL_MS), ledger.reasons(ALICE)) == (0, [])


def test_the_operator_can_forgive(ledger: TrustLedger) -> None:
    """rule:22: `lsps2-forgive`; the capital that lies there still counts."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.probed(ALICE, 2, WALL_MS)
    assert ledger.forgive(ALICE, WALL_MS) == {"unpaid_channels": 1, "probes": 1}
    assert ledger.why_not_trusted(ALICE, WALL_MS) is None
    assert ledger.reasons(ALICE) == []
    assert at_risk(ledger.stakes) == 5_000
    assert ledger.forgive(BOB, WALL_MS) == {"unpaid_channels": 0, "probes": 0}
    again = reloaded(ledger)
    assert again.why_not_trusted(ALICE, WALL_MS) is None
    assert at_risk(again.stakes) == 5_000


def test_a_sale_that_paid_less_than_its_fee_lowers_the_standing(ledger: TrustLedger) -> None:
    """people:S3, rule:20: the client's own deed; the rest pays for it."""
    opened(ledger, ALICE, 1)
    ledger.underpaid(ALICE, 1, WALL_MS)
    ledger.underpaid(ALICE, 1, WALL_MS)
    assert ledger.unpaid(ALICE, WALL_MS) == 1
    assert "failed those that carried the rest" in ledger.reasons(ALICE)[0]
    ledger.paid(ALICE, 1, WALL_MS)
    assert ledger.unpaid(ALICE, WALL_MS) == 0


def test_a_clock_that_goes_back_heals_nothing(ledger: TrustLedger) -> None:
    """K-25: wall time may jump."""
    ledger.probed(ALICE, 1, WALL_MS)
    assert ledger.probes(ALICE, WALL_MS - 99 * DAY_MS) == 1


def test_new_limits_judge_old_deeds(ledger: TrustLedger) -> None:
    """: a reload needs no restart here either."""
    ledger.probed(ALICE, 1, WALL_MS)
    assert ledger.why_not_trusted(ALICE, WALL_MS) is None
    ledger.rule = RULE._replace(probe_limit=1)
    assert ledger.why_not_trusted(ALICE, WALL_MS)


# --- Memory -------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["opened", "paid", "let_go", "doubt", "back", "probed", "underpaid"]),
        st.sampled_from([ALICE, BOB]),
        st.integers(1, 4),
        st.integers(0, 40 * DAY_MS),
    ),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=60)
def test_a_restart_changes_nothing_of_what_is_over(events: list[tuple[str, str, int, int]]) -> None:
    """K-24, rule:18: the journal carries every stake that no session tells of, and each peer's standing."""
    ledger = TrustLedger(RULE)
    wall_ms = WALL_MS
    for kind, peer_id, number, wait_ms in events:
        wall_ms += wait_ms
        scid = number if peer_id == ALICE else number + 10
        stake = ledger.stakes.now(scid)
        if kind == "opened" and stake is None:
            opened(ledger, peer_id, scid, 1_000 * scid, wall_ms)
        elif kind == "back" and stake is not None:
            ledger.back(stake, wall_ms)
        elif kind == "doubt":
            ledger.let_go(peer_id, scid, wall_ms, Fault.DOUBT)
        elif kind in ("paid", "let_go", "probed", "underpaid"):
            getattr(ledger, kind)(peer_id, scid, wall_ms)
    over = sum(stake.amount_msat for stake in ledger.stakes if stake.over)
    unpaid = {peer_id: ledger.unpaid(peer_id, wall_ms) for peer_id in (ALICE, BOB)}
    reasons = {peer_id: ledger.reasons(peer_id) for peer_id in (ALICE, BOB) if unpaid[peer_id]}
    again = reloaded(ledger)
    assert at_risk(again.stakes) == over
    assert {peer_id: again.unpaid(peer_id, wall_ms) for peer_id in unpaid} == unpaid
    assert {peer_id: again.reasons(peer_id) for peer_id in reasons} == reasons
    for peer_id in (ALICE, BOB):
        assert again.probes(peer_id, wall_ms) == ledger.probes(peer_id, wall_ms)
        assert again.unsettled(peer_id, wall_ms) == ledger.unsettled(peer_id, wall_ms)


def test_an_honest_peer_costs_no_write(ledger: TrustLedger) -> None:
    """rule:18: a channel under way stands in its session's record."""
    opened(ledger, ALICE, 1)
    assert [record.value for record in ledger.changes()] == [None]
    ledger.paid(ALICE, 1, WALL_MS)
    assert [record.value for record in ledger.changes()] == [None]


def test_changes_name_each_peer_once_and_come_back_when_they_were_not_written(ledger: TrustLedger) -> None:
    """rule:11: stored means stored."""
    opened(ledger, ALICE, 1)
    ledger.let_go(ALICE, 1, WALL_MS)
    first = ledger.changes()
    assert [record.key for record in first] == [("lsps", "lsps2", "trust", ALICE)]
    assert ledger.changes() == []
    ledger.probed(ALICE, 1, WALL_MS)
    closed(ledger, 1)
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
    opened(ledger, ALICE, 1)
    ledger.probed(ALICE, 1, WALL_MS)
    for number in range(500):
        ledger.probed(node_id(number), number + 2, WALL_MS + number)
    assert len(ledger) <= 20
    assert (ledger.probes(ALICE, WALL_MS), len(ledger.reasons(ALICE))) == (1, 1)
    assert at_risk(ledger.stakes) == 5_000
    forgotten = [record.key[-1] for record in ledger.changes() if record.value is None]
    assert node_id(0) in forgotten


def test_who_has_healed_is_forgotten_on_disk_too(ledger: TrustLedger) -> None:
    """rule:14: the datastore does not grow for ever."""
    ledger.probed(ALICE, 1, WALL_MS)
    ledger.changes()
    ledger.probed(BOB, 2, WALL_MS + DAY_MS)
    values = {record.key[-1]: record.value for record in ledger.changes()}
    assert values[ALICE] is None
    assert values[BOB] is not None
    assert len(ledger) == 1


GOOD = {"version": 1, "unpaid": [1, WALL_MS], "probes": [0, 0], "open": [["1x1x1", "5000", WALL_MS, True]]}
MORE = {"channel_id": None, "mining_msat": "0", "fault": "doubt", "ended_ms": 0}


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
        GOOD | {"channels": [MORE, MORE]},
        GOOD | {"channels": [MORE | {"fault": "mine"}]},
        GOOD | {"channels": [MORE | {"ended_ms": None}]},
        GOOD | {"events": [[0, "probe"]]},
    ],
)
def test_a_broken_record_is_told_and_touches_no_other(ledger: TrustLedger, value: Any) -> None:
    """K-08: never silently skipped, never in the way of the rest; records of earlier versions are read."""
    root = ("lsps", "lsps2", "trust")
    complaints = ledger.load([((*root, ALICE), value), ((*root, "alice"), GOOD), ((*root, BOB), GOOD), ((), GOOD)])
    assert len(complaints) == 3
    assert at_risk(ledger.stakes) == 5_000
    assert ledger.unpaid(BOB, WALL_MS) == 1
