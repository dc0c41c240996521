"""Menus: price, order, sizes; whatever the operator wrote and the miners ask."""

from __future__ import annotations

import pytest
from harness.policy import WALL_MS, line, named
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.lsps.lsps2 import check_menu_order, why_unsound
from lsps2fast_plugin.service.policy.menu import build_menu
from lsps2fast_plugin.service.policy.rules import MIN_VALIDITY_S, FeeLine

SMALL = st.one_of(st.integers(0, 4), st.integers(0, 10**15))
ANY_LINE = st.builds(
    FeeLine,
    min_fee_msat=SMALL,
    proportional=st.one_of(st.integers(0, 4), st.integers(0, 10**6)),
    validity_s=st.integers(MIN_VALIDITY_S, 10**8),
    min_lifetime_blocks=st.integers(0, 10**6),
    max_client_to_self_delay_blocks=st.integers(1, 65_535),
    min_payment_size_msat=SMALL,
    max_payment_size_msat=SMALL,
).filter(lambda each: each.min_payment_size_msat <= each.max_payment_size_msat)


@given(
    st.lists(ANY_LINE, max_size=8),
    st.one_of(st.integers(0, 6), st.integers(0, 2**64)),
    st.integers(0, 100),
    st.none() | st.integers(0, 10**8),
)
def test_every_menu_keeps_the_rules(lines: list[FeeLine], floor_msat: int, discount: int, left_s: int | None) -> None:
    """G-06, G-07, G-08, and no fee below the mining cost: for any lines, discount, feerate and end of a token."""
    menu = build_menu(named(*lines), floor_msat=floor_msat, discount_percent=discount, left_s=left_s)
    params = [entry.line.params(WALL_MS) for entry in menu.entries]
    assert check_menu_order(params)
    assert all(why_unsound(each) is None for each in params)
    assert all(each.valid_until_ms - WALL_MS >= 600_000 for each in params)
    assert all(each.min_fee_msat >= floor_msat for each in params)
    assert all(each.min_payment_size_msat > each.min_fee_msat for each in params)
    assert left_s is None or all(entry.line.validity_s <= left_s for entry in menu.entries)
    names = [entry.name for entry in menu.entries] + [gone.name for gone in menu.left_out]
    assert sorted(names) == sorted(name for name, _ in named(*lines))
    assert all(gone.why for gone in menu.left_out)


@given(st.lists(ANY_LINE, max_size=8), st.integers(0, 100))
def test_nobody_pays_less_than_the_discount_gives(lines: list[FeeLine], discount: int) -> None:
    """A discount rounds in our favour, and keeping lines apart costs at most a msat for each line."""
    menu = build_menu(named(*lines), floor_msat=0, discount_percent=discount)
    before = dict(named(*lines))
    for entry in menu.entries:
        exact = before[entry.name].min_fee_msat * (100 - discount)
        assert exact <= 100 * entry.line.min_fee_msat < exact + 100 * (len(lines) + 1)
        assert 100 * entry.line.proportional >= before[entry.name].proportional * (100 - discount)


def test_lines_that_the_floor_made_equal_both_stay() -> None:
    """G-07: two sizes at one price must not cost the larger payments their offer when fees rise."""
    lines = named(line(500_000, max_payment_size_msat=9_999_999), line(1_000_000, min_payment_size_msat=10_000_000))
    menu = build_menu(lines, floor_msat=3_000_000)
    assert [entry.line.min_fee_msat for entry in menu.entries] == [3_000_000, 3_000_001]
    assert "expected mining cost of 3000000 msat" in menu.entries[0].rules[0]
    assert menu.left_out == ()


def test_a_line_that_crosses_is_left_out_with_a_sentence() -> None:
    """G-07: sort by (min_fee, proportional), drop offenders, say so."""
    menu = build_menu(named(line(1_000, 20), line(2_000, 10), line(3_000, 30)), floor_msat=0)
    assert [entry.name for entry in menu.entries] == ["fee_line 1", "fee_line 3"]
    assert menu.left_out[0].why.startswith("min_fee_msat 2000 with 10 ppm crosses fee_line 1 (1000 with 20 ppm)")


def test_the_floor_can_uncross_lines() -> None:
    """G-07 is judged by what is sent: raised to one minimum, the smaller percentage simply comes first."""
    menu = build_menu(named(line(1_000, 20), line(2_000, 10)), floor_msat=5_000)
    assert [(entry.line.min_fee_msat, entry.line.proportional) for entry in menu.entries] == [(5_000, 10), (5_000, 20)]


def test_a_line_whose_payments_the_fee_would_eat_is_left_out() -> None:
    """G-08: max_payment_size_msat exceeds min_fee_msat, also when miners ask a lot."""
    menu = build_menu(named(line(max_payment_size_msat=5_000_000)), floor_msat=5_000_000)
    assert menu.entries == ()
    assert "leaves nothing of 5000000 msat" in menu.left_out[0].why


def test_the_smallest_payment_rises_with_the_fee() -> None:
    """A client learns from the menu, not from error 202, that its payment is too small now."""
    entry = build_menu(named(line()), floor_msat=3_000_000).entries[0]
    assert entry.line.min_payment_size_msat == 3_000_001


@pytest.mark.parametrize(("left_s", "validity_s"), [(10_000, [3_600]), (3_000, [3_000]), (600, [600]), (599, [])])
def test_no_offer_outlives_its_token(left_s: int, validity_s: list[int]) -> None:
    """G-03, G-06: an expiring token shortens its offers, down to the ten minutes that every offer must have."""
    menu = build_menu(named(line()), floor_msat=0, left_s=left_s)
    assert [entry.line.validity_s for entry in menu.entries] == validity_s
