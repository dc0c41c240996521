"""Which channels a rule would close: each condition with its boundary, and what no rule can pass over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.cln.models import CLOSING, NORMAL, OPENING
from lsps2fast_plugin.service.closing.decision import (
    USABLE,
    ChannelFacts,
    Now,
    Use,
    decide,
    return_ppm_a_year,
    why_bound,
    why_not,
)
from lsps2fast_plugin.service.policy.closing import LEAST_PERKW, CloseRule, Closing

DAY_MS = 86_400_000
WALL_MS = 1_900_000_000_000
NOW = Now(WALL_MS, 200_000)
RULE = CloseRule("idle", idle_days=30, max_client_sat=5_000)
YEAR_AGO = Use(WALL_MS - 365 * DAY_MS, 0)


def facts(**changes: Any) -> ChannelFacts:
    """A channel that a year ago was paid for and used last, that nothing binds, and that is nearly all ours."""
    usual = ChannelFacts(
        channel_id="cc" * 32,
        peer_id="02" + "11" * 32,
        jit_scid="1x2x3",
        scids=(1,),
        short_channel_id="100x1x0",
        state=USABLE,
        is_ours=True,
        is_ready=True,
        confirmations=1_008,
        min_lifetime_blocks=1_008,
        htlcs=0,
        capacity_msat=100_000_000,
        ours_msat=95_000_000,
        opening_fee_msat=1_000_000,
        mining_msat=500_000,
        locked_ms=WALL_MS - 365 * DAY_MS,
    )
    return usual._replace(**changes)


def closes(rule: CloseRule = RULE, use: Use = YEAR_AGO, **changes: Any) -> bool:
    """Whether this rule closes such a channel."""
    return decide((rule,), facts(**changes), use, NOW).rule is not None


def test_a_channel_that_nothing_binds_is_closed_by_a_rule_that_fits() -> None:
    """operator:O2: the plain case, from which all others differ in one thing."""
    assert closes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_ours": False}, "did not open it"),
        ({"confirmations": 1_007}, "sold to stay open for 1008 confirmations and has 1007"),
        ({"min_lifetime_blocks": 1_009}, "sold to stay open for 1009 confirmations and has 1008"),
        ({"htlcs": 1}, "1 HTLCs are in flight"),
        ({"is_ready": False}, "not connected, and nothing is closed by force"),
        ({"kept": "its client has an offer"}, "its client has an offer"),
        ({"state": "CHANNELD_AWAITING_SPLICE"}, "in state CHANNELD_AWAITING_SPLICE"),
        ({"confirmations": 0, "min_lifetime_blocks": 0}, "in no block"),
    ],
)
def test_what_binds_a_channel_stands_before_every_rule(changes: dict[str, Any], words: str) -> None:
    """A-06, rule:21: no rule, however wide, is asked about such a channel."""
    widest = CloseRule("all", idle_days=1, max_client_sat=10**12, min_ours_sat=0)
    verdict = decide((widest,), facts(**changes), YEAR_AGO, NOW)
    assert verdict.rule is None
    assert words in (verdict.bound or "")
    assert words in verdict.sentences[0]


@pytest.mark.parametrize(
    ("changes", "rule", "use", "fits"),
    [
        ({}, RULE._replace(idle_days=30), Use(WALL_MS - 30 * DAY_MS, 0), True),
        ({}, RULE._replace(idle_days=30), Use(WALL_MS - 30 * DAY_MS + 1, 0), False),
        ({}, RULE._replace(idle_days=30), Use(WALL_MS + DAY_MS, 0), False),  # a clock that was set back
        ({"confirmations": 1_108}, RULE._replace(past_lifetime_blocks=100), YEAR_AGO, True),
        ({"confirmations": 1_107}, RULE._replace(past_lifetime_blocks=100), YEAR_AGO, False),
        ({"ours_msat": 95_000_000}, RULE._replace(max_client_sat=5_000), YEAR_AGO, True),
        ({"ours_msat": 94_999_999}, RULE._replace(max_client_sat=5_000), YEAR_AGO, False),
        ({"ours_msat": 100_000_000}, RULE._replace(max_client_sat=0), YEAR_AGO, True),
        ({"ours_msat": 25_200_000}, RULE._replace(max_client_sat=10**6, min_ours_sat=25_000), YEAR_AGO, True),
        ({"ours_msat": 25_199_999}, RULE._replace(max_client_sat=10**6, min_ours_sat=25_000), YEAR_AGO, False),
        ({"ours_msat": 200_000}, RULE._replace(max_client_sat=10**6, min_ours_sat=0), YEAR_AGO, False),  # all of it fee
        ({}, RULE._replace(max_return_ppm=5_000), YEAR_AGO, True),  # 500 sat of 100,000 in a year
        ({}, RULE._replace(max_return_ppm=4_999), YEAR_AGO, False),
        ({}, RULE._replace(max_return_ppm=6_000), YEAR_AGO._replace(routing_fees_msat=101_000), False),
        ({"opening_fee_msat": 0}, RULE._replace(max_return_ppm=-5_000), YEAR_AGO, True),
        ({"opening_fee_msat": 1}, RULE._replace(max_return_ppm=-5_001), YEAR_AGO, False),
    ],
)
def test_each_condition_of_a_rule_has_its_boundary(
    changes: dict[str, Any], rule: CloseRule, use: Use, fits: bool
) -> None:
    """operator:O2: what a rule says is meant to the satoshi, the millisecond and the block."""
    assert closes(rule, use, **changes) is fits


@pytest.mark.parametrize("days", [29, 30, 31, 364, 366])
def test_forwards_that_lightningd_has_deleted_are_no_proof_of_idleness(days: int) -> None:
    """rule:10: with autoclean a channel looks idle although it was used: the rule has no say before it can know."""
    use = YEAR_AGO._replace(known_since_ms=WALL_MS - days * DAY_MS)
    assert closes(use=use) is (days >= 30)
    assert closes(RULE._replace(max_return_ppm=10**6), use) is (days >= 365)


def test_the_first_rule_that_fits_counts_and_all_others_say_why_not() -> None:
    """operator:O2: what the dry run prints."""
    rules = (RULE._replace(name="a", idle_days=400), RULE, RULE._replace(name="c"))
    assert decide(rules, facts(), YEAR_AGO, NOW).rule is RULE
    verdict = decide(rules, facts(ours_msat=1_000_000), YEAR_AGO, NOW)
    assert [name for name, _ in verdict.refusals] == ["a", "idle", "c"]
    assert verdict.sentences[1].startswith("idle: 99000 sat in it are the client's")
    assert decide((), facts(), YEAR_AGO, NOW).sentences == []


def test_a_return_is_of_the_whole_time_and_capacity() -> None:
    """operator:O2: 1,000 sat less 500 for the miners, of 100,000 sat in a year: half a per cent."""
    assert return_ppm_a_year(facts(), YEAR_AGO, WALL_MS) == 5_000
    assert return_ppm_a_year(facts(locked_ms=WALL_MS), YEAR_AGO, WALL_MS) > 10**9  # of no time no return can be told


counts = st.integers(0, 3)
blocks = st.integers(0, 3_000)
money = st.integers(0, 200_000_000)


@given(
    htlcs=counts,
    confirmations=blocks,
    promised=blocks,
    ours=money,
    state=st.sampled_from(sorted(NORMAL | OPENING | CLOSING)),
    ready=st.booleans(),
    kept=st.sampled_from([None, "an offer"]),
    rule=st.builds(
        CloseRule,
        st.just("any"),
        st.integers(1, 40),
        st.integers(0, 2_000),
        st.none() | st.integers(-(10**7), 10**7),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
    ),
    idle_days=st.integers(-1, 800),
)
def test_no_rule_ever_closes_what_is_bound(
    htlcs: int,
    confirmations: int,
    promised: int,
    ours: int,
    state: str,
    ready: bool,
    kept: str | None,
    rule: CloseRule,
    idle_days: int,
) -> None:
    """A-06: never with HTLCs, never inside the promised lifetime, never for less than it costs, for any rule."""
    channel = facts(
        htlcs=htlcs,
        confirmations=confirmations,
        min_lifetime_blocks=promised,
        ours_msat=min(ours, 100_000_000),
        state=state,
        is_ready=ready,
        kept=kept,
    )
    verdict = decide((rule,), channel, Use(WALL_MS - idle_days * DAY_MS, 0), NOW)
    if verdict.rule is None:
        assert len(verdict.sentences) == 1
        return
    assert htlcs == 0
    assert confirmations >= promised + rule.past_lifetime_blocks
    assert confirmations > 0
    assert (state, ready, kept) == (USABLE, True, None)
    assert channel.client_msat <= 1000 * rule.max_client_sat
    assert channel.ours_msat - NOW.closing_msat >= max(1000 * rule.min_ours_sat, 1)
    assert idle_days >= rule.idle_days
    assert why_bound(channel) is None is why_not(rule, channel, None, NOW)


# Cheap hours and pace ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("perkw", "was", "now"),
    [
        (1_000, False, True),
        (1_001, False, False),
        (1_250, False, False),
        (1_250, True, True),
        (1_251, True, False),
        (253, False, True),
    ],
)
def test_cheap_hours_begin_lower_than_they_end(perkw: int, was: bool, now: bool) -> None:
    """people:S12: an estimate that wavers about the ceiling does not begin and end them with each block."""
    assert Closing(max_feerate_perkw=1_250).is_cheap(perkw, was) is now


def test_the_lowest_ceiling_can_be_reached() -> None:
    """No estimate is below what nodes relay: four fifths of that would never come."""
    assert Closing(max_feerate_perkw=LEAST_PERKW).is_cheap(LEAST_PERKW, False)


@pytest.mark.parametrize(
    ("closed", "under_way", "room"), [(0, 0, 2), (0, 1, 1), (0, 2, 0), (0, 3, 0), (4, 0, 1), (5, 0, 0), (9, 9, 0)]
)
def test_closes_have_a_pace(closed: int, under_way: int, room: int) -> None:
    """rule:24: five a day and two at once by default."""
    assert Closing().room(closed, under_way) == room
