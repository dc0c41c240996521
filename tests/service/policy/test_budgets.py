"""What may be put in before anything is paid: each limit by itself, counted on the channel that is really opened."""

from __future__ import annotations

from typing import Any

import pytest
from harness.policy import ALICE, BOB, WALL_MS, rules
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.service.policy.budgets import Budgets, Opening
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.rules import CapacityRule, Floor, TrustRule
from lsps2fast_plugin.service.policy.stakes import DAY_MS, HOUR_MS, Burnt, Fault
from lsps2fast_plugin.service.policy.trust import TrustLedger

SAT = 1_000
RULE = TrustRule(capital_budget_sat=500_000, withheld_budget_sat=300_000, mining_budget_sat=1_000)
OPENING = Opening(
    peer_id=ALICE, on_trust=True, capacity_sat=100_000, fee_msat=1_000_000, feerate_perkw=253, free_sat=10**9
)


def budgets(trust: TrustRule = RULE, **changes: Any) -> Budgets:
    """Limits of a node that has put nothing in."""
    made = rules(trust=trust, **changes)
    return Budgets(made, TrustLedger(made.trust))


def put(
    limits: Budgets, sat: int, peer_id: str = BOB, scid: int = 1, *, on_trust: bool = True, mining_sat: int = 0
) -> None:
    """So much lies in a channel of this peer."""
    limits._ledger.reserved(peer_id, scid, sat * SAT, on_trust, mining_sat * SAT, WALL_MS)


def why(limits: Budgets, wall_ms: int = WALL_MS, **changes: Any) -> str | None:
    """Why such an opening is refused, None when it is not."""
    no = limits.why_not_open(OPENING._replace(**changes), wall_ms)
    return None if no is None else no.reason.value


def test_both_modes_have_a_budget_of_their_own() -> None:
    """people:S1, people:S2, people:S11, rule:18: the last sat of each pot is used; one does not empty the other."""
    limits = budgets()
    put(limits, 400_000)
    assert why(limits) is None
    assert why(limits, capacity_sat=100_001) == "capital_budget"
    put(limits, 200_000, scid=2, on_trust=False)
    assert why(limits, on_trust=False) is None
    assert why(limits, on_trust=False, capacity_sat=100_001) == "withheld_budget"
    assert why(limits) is None


@pytest.mark.parametrize(
    ("capital_sat", "withheld_sat", "most_sat"), [(7, None, 7), (7, 9, 9), (0, None, 10_000_000), (7, 0, 0)]
)
def test_the_budget_of_withheld_channels_follows_the_other_unless_given(
    capital_sat: int, withheld_sat: int | None, most_sat: int
) -> None:
    """people:S11: who does nothing on trust still sells in the safe mode."""
    rule = TrustRule(capital_budget_sat=capital_sat, withheld_budget_sat=withheld_sat)
    assert rule.most_withheld_msat == most_sat * SAT


@pytest.mark.parametrize(
    ("peer_id", "safe_only", "room_sat"),
    [(ALICE, False, 400_000), (ALICE, True, 300_000), (BOB, False, 150_000), (BOB, True, 150_000)],
)
def test_the_room_of_a_client_is_that_of_its_pots_and_its_share(peer_id: str, safe_only: bool, room_sat: int) -> None:
    """people:L8, rule:18, rule:24: half of all coins, those in channels counted; its first channel is free of it."""
    limits = budgets()
    put(limits, 100_000, BOB)
    assert limits.room_msat(peer_id, 400_000, safe_only, 455_400, WALL_MS) == room_sat * SAT


def test_no_channel_is_larger_than_the_largest() -> None:
    """people:S1, rule:18: whatever arrived."""
    limits = budgets(capacity=CapacityRule(max_sat=100_000))
    assert why(limits) is None
    assert why(limits, capacity_sat=100_001) == "channel_too_large"
    assert why(limits, capacity_sat=100_001, on_trust=False) == "channel_too_large"


def test_mining_fees_that_nobody_paid_for_have_a_budget_a_day() -> None:
    """people:S6, rule:18: closed channels count, too; the next day is another one. The safe mode has as much again."""
    limits = budgets()  # opening and closing cost 455 sat at 253 sat per 1000 weight
    put(limits, 1, mining_sat=500)
    assert why(limits) is None
    put(limits, 1, scid=2, mining_sat=100)
    assert why(limits) == "mining_budget"
    assert why(limits, on_trust=False) is None
    for scid in (1, 2):
        stake = limits._ledger.sent(BOB, scid, f"{scid:064x}", 1, WALL_MS)
        stake.mined = True
        limits._ledger.let_go(BOB, scid, WALL_MS)
        limits._ledger.back(stake, WALL_MS + 1)
    assert why(limits) == "mining_budget"
    assert why(limits, wall_ms=WALL_MS + DAY_MS + HOUR_MS) is None


@pytest.mark.parametrize(("budget_sat", "most_sat"), [(1_000, 2_000), (0, 100_000)])
def test_what_crumbs_burn_has_a_budget_too(budget_sat: int, most_sat: int) -> None:
    """people:S3, people:S6, rule:18: a client takes a crumb out of a withheld channel, and its funding is owed."""
    limits = budgets(RULE._replace(mining_budget_sat=budget_sat))
    put(limits, 1, on_trust=False, mining_sat=most_sat - 456)
    limits._ledger.sent(BOB, 1, "cc" * 32, 1, WALL_MS)
    assert why(limits) == "mining_budget"
    assert why(limits, on_trust=False) is None
    assert limits.room_msat(ALICE, 10**9, False, 455_400, WALL_MS) > 0
    put(limits, 1, scid=2, mining_sat=1)
    assert why(limits, on_trust=False) == "mining_budget"
    assert limits.room_msat(ALICE, 10**9, False, 455_400, WALL_MS) == 0  # the menu says the same


def test_what_changed_the_pot_unpaid_leaves_less_room_for_the_next() -> None:
    """people:S3, people:S11, rule:18: withheld, a crumb taken, on chain, and again: both pots together are the end."""
    limits = budgets(TrustRule(capital_budget_sat=100_000, withheld_budget_sat=100_000))
    for scid in (1, 2):
        assert why(limits, on_trust=False) is None
        put(limits, 100_000, scid=scid, on_trust=False)
        limits._ledger.sent(BOB, scid, f"{scid:064x}", 1, WALL_MS)
    assert why(limits, on_trust=False, capacity_sat=1) == "withheld_budget"


def test_one_client_holds_at_most_its_share_of_the_coins() -> None:
    """people:S11, rule:24: in both modes together; its first channel is free of that, and others are not touched."""
    limits = budgets(TrustRule(client_share_percent=50))
    assert why(limits, free_sat=100_000) is None
    put(limits, 100_000, ALICE)
    assert why(limits, free_sat=300_000) is None  # 200,000 of 400,000
    assert why(limits, free_sat=299_999) == "client_share"
    assert why(limits, free_sat=299_999, on_trust=False) == "client_share"
    assert why(limits, free_sat=299_999, peer_id=BOB) is None


@pytest.mark.parametrize(("feerate_perkw", "refused"), [(2_500, None), (6_111, None), (6_112, "sold_at_a_loss")])
def test_an_offer_is_no_option_on_the_miners_price(feerate_perkw: int, refused: str | None) -> None:
    """people:S12, O-09: 1,000 sat of fee and 10,000 sat of loss pay for 11,000 sat of mining; in both modes."""
    limits = budgets(TrustRule())
    assert why(limits, feerate_perkw=feerate_perkw) == refused
    assert why(limits, feerate_perkw=feerate_perkw, on_trust=False) == refused
    assert why(budgets(TrustRule(), floor=Floor(max_loss_sat=0)), feerate_perkw=556) == "sold_at_a_loss"
    assert why(budgets(TrustRule(), floor=Floor(max_loss_sat=0)), feerate_perkw=555) is None


def fail(limits: Budgets, scid: int, fault: Fault) -> None:
    """The payment for a channel of Alice, which is on chain, fails."""
    put(limits, 1, ALICE, scid)
    limits._ledger.sent(ALICE, scid, f"{scid:064x}", 1, WALL_MS)
    assert why(limits) is None  # its first payment is under way
    limits._ledger.let_go(ALICE, scid, WALL_MS, fault)


def test_who_left_a_channel_unpaid_by_its_own_deed_gets_no_other_on_trust() -> None:
    """people:S4, rule:19: whatever it was sold before, until that channel is paid for."""
    limits = budgets(TrustRule())
    fail(limits, 1, Fault.CLIENT)
    assert why(limits) == "peer_unpaid"
    assert why(limits, on_trust=False) is None
    assert why(limits, peer_id=BOB) is None
    assert why(limits, wall_ms=WALL_MS + 99_999 * HOUR_MS) == "peer_unpaid"
    limits._ledger.paid(ALICE, 1, WALL_MS)
    assert why(limits) is None


@pytest.mark.parametrize("fault", [Fault.DOUBT, Fault.NONE])
def test_one_doubt_keeps_no_other_sale_waiting_and_two_do(fault: Fault) -> None:
    """people:L1, people:S4, rule:22: for a day at the most, and not a moment once a sale is paid."""
    limits = budgets(TrustRule())
    fail(limits, 1, fault)
    assert (limits.has_turn(ALICE, 0, WALL_MS), limits.has_turn(ALICE, 1, WALL_MS)) == (True, False)
    fail(limits, 2, fault)
    assert (why(limits), limits.has_turn(ALICE, 0, WALL_MS)) == ("peer_unpaid", False)
    assert why(limits, on_trust=False) is None
    assert why(limits, peer_id=BOB) is None
    assert why(limits, wall_ms=WALL_MS + 24 * HOUR_MS) is None
    limits._ledger.paid(ALICE, 3, WALL_MS)
    assert (why(limits), limits.has_turn(ALICE, 1, WALL_MS)) == (None, True)


@pytest.mark.parametrize(("limit", "doubts"), [(1, 2), (2, 2), (5, 5)])
def test_the_operator_may_allow_more_unpaid_channels(limit: int, doubts: int) -> None:
    """people:S4: `unpaid_limit`; doubts never weigh more than deeds."""
    limits = budgets(TrustRule(unpaid_limit=limit))
    for scid in range(doubts):
        fail(limits, scid, Fault.DOUBT)
    assert why(limits) == "peer_unpaid"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 400_000)), max_size=20), st.integers(0, 10**6))
def test_no_order_of_openings_passes_a_limit(asked: list[tuple[bool, bool, int]], free_sat: int) -> None:
    """rule:18: each pot and the share stay within their limits, whatever is asked in whatever order."""
    limits = budgets()
    coins_sat = free_sat
    for scid, (on_trust, alice, sat) in enumerate(asked):
        peer_id = ALICE if alice else BOB
        first = not limits._stakes.of_peer(peer_id)
        opening = Opening(peer_id, on_trust, sat, 10**6, 253, coins_sat)
        if sat <= coins_sat and limits.why_not_open(opening, WALL_MS) is None:
            coins_sat -= sat
            put(limits, sat, peer_id, scid, on_trust=on_trust)
            assert first or limits._stakes.of_peer_msat(peer_id) <= free_sat * SAT // 2
        uses = limits.uses(coins_sat, WALL_MS)
        for pot in (Refusal.CAPITAL_BUDGET, Refusal.WITHHELD_BUDGET, Refusal.MINING_BUDGET):
            assert uses[pot].used <= uses[pot].limit


def test_burnt_fees_survive_a_restart_and_end_with_their_day() -> None:
    """people:S6, rule:18: persisted over restarts."""
    burnt = Burnt()
    burnt.add("aa", WALL_MS, 500, WALL_MS)
    burnt.add("bb", WALL_MS - 2 * DAY_MS, 9_000, WALL_MS)
    assert burnt.changed
    again = Burnt()
    again.read(burnt.write())
    assert not burnt.changed
    again.add("aa", WALL_MS, 700, WALL_MS)
    again.add("bb", WALL_MS, 700, WALL_MS)
    again.add("cc", WALL_MS, 0, WALL_MS)
    assert not again.changed
    assert again.msat(WALL_MS) == 500
    assert again.msat(WALL_MS + 26 * HOUR_MS) == 0
    again.add("dd", WALL_MS + 8 * DAY_MS, 1, WALL_MS + 8 * DAY_MS)
    assert again.write()["counted"] == [["dd", WALL_MS + 8 * DAY_MS]]
    with pytest.raises(ValueError, match="version"):
        again.read({"version": 7, "hours": []})
