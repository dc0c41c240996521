"""Pre-flight: what cannot be kept is refused at the buy, with the code of B-06."""

from __future__ import annotations

from typing import Any

import pytest
from harness.policy import WALL_MS, line
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps0 import INTERNAL_ERROR
from lsps2fast.lsps.lsps2 import BuyAsk, min_capacity_sat
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.preflight import (
    STEP_MSAT,
    Facts,
    Payable,
    largest_payment_msat,
    least_capacity_sat,
    preflight,
    provide,
    spendable_sat,
)
from lsps2fast_plugin.service.policy.rules import CapacityRule

PARAMS = line(2_000_000, 10_000, min_payment_size_msat=10_000_000).params(WALL_MS)
FIXED = BuyAsk(PARAMS, 1_000_000_000)
VARIABLE = BuyAsk(PARAMS, None)
RICH = Facts(
    connected=True,
    incoming_liquidity_msat=10**12,
    confirmed_sat=10**9,
    committed_sat=0,
    keep_onchain_sat=25_000,
    feerate_perkw=1_000,
    commitment_perkw=1_000,
    open_vbytes=250,
)
HELD = Refusal.HELD_SATS
RULE = CapacityRule(headroom_sat=100_000, min_sat=50_000, max_sat=2_000_000)
MINING_SAT = 1_000  # 250 vbytes at 1,000 sat per 1000 weight
LEAST_SAT = least_capacity_sat(FIXED, RICH)
LEAST_VARIABLE_SAT = least_capacity_sat(VARIABLE, RICH)


def funds(spendable: int, **changes: Any) -> Facts:
    """A node that can spend exactly so many sat on a channel."""
    return RICH._replace(confirmed_sat=spendable + MINING_SAT + RICH.keep_onchain_sat, **changes)


def judged(ask: BuyAsk, facts: Facts, rule: CapacityRule = RULE) -> tuple[int, set[str]]:
    """The capacity, or minus the code; and what was counted."""
    refusals = Refusals()
    try:
        outcome = preflight(ask, facts, rule, refusals)
    except PeerError as error:
        outcome = -error.code
    return outcome, {name for name, count in refusals.as_dict().items() if count}


def test_the_least_channel_holds_payment_reserve_and_fees() -> None:
    """O-03: the same arithmetic as at the opening, with room for ten parts."""
    assert least_capacity_sat(FIXED, RICH) == min_capacity_sat(990_000_000, 10, 1_000, False, False, 546)
    assert least_capacity_sat(VARIABLE, RICH) == min_capacity_sat(8_000_000, 10, 1_000, False, False, 546)
    few = RICH._replace(max_parts=3, zero_reserve=True)
    assert least_capacity_sat(FIXED, few) == min_capacity_sat(990_000_000, 3, 1_000, False, True, 546)


@pytest.mark.parametrize(
    ("plain", "anchors", "dearer"), [(1_000, 1_000, (1_000, True)), (5_000, 1_250, (5_000, False))]
)
def test_the_least_channel_is_enough_for_both_types(plain: int, anchors: int, dearer: tuple[int, bool]) -> None:
    """O-02, O-03: at the buy the client's later features are unknown: the dearer type counts."""
    facts = RICH._replace(commitment_perkw=plain, anchors_perkw=anchors)
    assert least_capacity_sat(FIXED, facts) == min_capacity_sat(990_000_000, 10, *dearer, False, 546)


@pytest.mark.parametrize(
    ("ask", "facts", "rule", "outcome", "counted"),
    [
        (FIXED, RICH, RULE, LEAST_SAT + 100_000, set()),
        (VARIABLE, RICH, RULE, LEAST_VARIABLE_SAT + 100_000, set()),
        (FIXED, RICH._replace(connected=False), RULE, -INTERNAL_ERROR, {"not_connected"}),
        (FIXED, RICH._replace(incoming_liquidity_msat=1_000_000_000), RULE, LEAST_SAT + 100_000, set()),
        (FIXED, RICH._replace(incoming_liquidity_msat=999_999_999), RULE, -203, {"inbound_liquidity"}),
        (FIXED, RICH._replace(incoming_liquidity_msat=None), RULE, LEAST_SAT + 100_000, set()),
        (VARIABLE, RICH._replace(incoming_liquidity_msat=0), RULE, LEAST_VARIABLE_SAT + 100_000, set()),
        (FIXED, RICH, RULE._replace(max_sat=LEAST_SAT), LEAST_SAT, set()),
        (FIXED, RICH, RULE._replace(max_sat=LEAST_SAT - 1), -203, {"channel_too_large"}),
        (VARIABLE, RICH, RULE._replace(max_sat=1_000), -INTERNAL_ERROR, {"channel_too_large"}),
        (FIXED, funds(LEAST_SAT + 100_000), RULE, LEAST_SAT + 100_000, set()),
        (FIXED, funds(LEAST_SAT + 99_999), RULE, LEAST_SAT + 99_999, set()),
        (FIXED, funds(LEAST_SAT), RULE, LEAST_SAT, set()),
        (FIXED, funds(LEAST_SAT - 1), RULE, -203, {"onchain_funds"}),
        (FIXED, funds(LEAST_SAT, committed_sat=1), RULE, -203, {"onchain_funds"}),
        (FIXED, funds(LEAST_VARIABLE_SAT - 1), RULE, -INTERNAL_ERROR, {"onchain_funds"}),
        (VARIABLE, funds(RULE.min_sat), RULE, RULE.min_sat, set()),
        (VARIABLE, funds(RULE.min_sat - 1), RULE, -INTERNAL_ERROR, {"onchain_funds"}),
        (FIXED, funds(RULE.min_sat - 1), RULE, -INTERNAL_ERROR, {"onchain_funds"}),
        (FIXED, funds(RULE.min_sat), RULE, -203, {"onchain_funds"}),
        (VARIABLE, RICH, RULE._replace(headroom_sat=0), RULE.min_sat, set()),
        (FIXED, RICH._replace(budget_sat=LEAST_SAT), RULE, LEAST_SAT, set()),
        (FIXED, RICH._replace(budget_sat=LEAST_SAT - 1), RULE, -203, {"capital_budget"}),
        (FIXED, RICH._replace(budget_sat=-1), RULE, -INTERNAL_ERROR, {"capital_budget"}),
        (FIXED, RICH._replace(confirmed_sat=0), RULE, -INTERNAL_ERROR, {"onchain_funds"}),
        (FIXED, RICH._replace(payable=Payable(1_000_000_000, HELD)), RULE, LEAST_SAT + 100_000, set()),
        (FIXED, RICH._replace(payable=Payable(999_999_999, HELD)), RULE, -203, {"held_sats"}),
        (VARIABLE, RICH._replace(payable=Payable(9_999_999, HELD)), RULE, -INTERNAL_ERROR, {"held_sats"}),
    ],
)
def test_what_cannot_be_kept_is_refused_at_the_buy(
    ask: BuyAsk, facts: Facts, rule: CapacityRule, outcome: int, counted: set[str]
) -> None:
    """B-06 steps 10 and 11, B-08, O-03, people:L5, people:L6: 203 where less would do, else 1; never below min_sat."""
    assert judged(ask, facts, rule) == (outcome, counted)


@given(
    st.none() | st.integers(10_000_000, 4_000_000_000),
    st.integers(0, 10**8),
    st.integers(0, 10**7),
    st.integers(253, 10**6),
    st.builds(
        CapacityRule, st.integers(0, 10**6), st.integers(100, 500), st.integers(0, 10**5), st.integers(10**5, 10**7)
    ),
)
def test_what_is_granted_is_enough_and_affordable(
    size_msat: int | None, confirmed_sat: int, committed_sat: int, perkw: int, rule: CapacityRule
) -> None:
    """O-03, people:L5, people:L6: never below the smallest, above the largest, or above what can be spent."""
    facts = RICH._replace(
        confirmed_sat=confirmed_sat,
        committed_sat=committed_sat,
        feerate_perkw=perkw,
        commitment_perkw=perkw,
        anchors_perkw=max(perkw, 1250),
    )
    ask = BuyAsk(PARAMS, size_msat)
    capacity, why = provide(ask, facts, rule)
    least_sat = rule.floor_sat(least_capacity_sat(ask, facts))
    reach_sat = min(spendable_sat(facts), rule.max_sat)
    assert isinstance(capacity, Lack) == (why is not None) == (least_sat > reach_sat)
    assert isinstance(capacity, Lack) or least_sat <= capacity <= reach_sat


@given(
    st.integers(0, 5 * 10**6),
    st.none() | st.integers(0, 5 * 10**9),
    st.integers(0, 5 * 10**6),
    st.builds(
        CapacityRule, st.integers(0, 10**6), st.integers(100, 500), st.integers(0, 10**5), st.integers(10**5, 10**7)
    ),
)
def test_what_is_offered_can_be_bought(
    confirmed_sat: int, liquidity_msat: int | None, budget_sat: int, rule: CapacityRule
) -> None:
    """people:L8, operator:O4: the largest payment of a menu is sold, one a step larger is not."""
    facts = RICH._replace(confirmed_sat=confirmed_sat, incoming_liquidity_msat=liquidity_msat, budget_sat=budget_sat)
    largest_msat, why = largest_payment_msat(PARAMS, facts, rule)
    refusals = Refusals()

    def sold(size_msat: int) -> bool:
        try:
            preflight(BuyAsk(PARAMS, size_msat), facts, rule, refusals)
        except PeerError:
            return False
        return True

    if largest_msat is None:
        assert why
        assert not sold(PARAMS.min_payment_size_msat)
        return
    assert PARAMS.min_payment_size_msat <= largest_msat <= PARAMS.max_payment_size_msat
    assert sold(largest_msat)
    assert bool(why) == (largest_msat < PARAMS.max_payment_size_msat)
    assert not why or not sold(largest_msat + STEP_MSAT)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"confirmed_sat": 700_000}, "onchain_funds"),
        ({"budget_sat": 700_000}, "capital_budget"),
        ({"incoming_liquidity_msat": 700_000_000}, "inbound_liquidity"),
        ({"payable": Payable(700_000_000, Refusal.HTLC_MAXIMUM)}, "htlc_maximum"),
    ],
)
def test_a_menu_says_what_bounds_it(changes: dict[str, Any], why: str) -> None:
    """people:L8: coins, budgets, inbound liquidity; the operator reads which."""
    largest_msat, bound = largest_payment_msat(PARAMS, RICH._replace(**changes), RULE)
    assert largest_msat is not None
    assert 600_000_000 < largest_msat <= 700_000_000
    assert bound == why
