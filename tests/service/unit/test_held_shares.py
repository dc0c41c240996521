"""Shares by incoming channel of what is held for clients that sleep, for any order in which channels come."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.service.held_shares import Claim, giving_way

MOST, MOST_MSAT = 8, 1_000
CHANNELS = (1, 2, 3)

claims = st.lists(st.tuples(st.sampled_from(CHANNELS), st.integers(1, 400)), max_size=40)


def room_of(arrivals: list[tuple[int, int]]) -> tuple[list[Claim], list[Claim]]:
    """Return what is held after these came, and what was turned away or gave way."""
    held: list[Claim] = []
    out: list[Claim] = []
    for number, (channel, amount_msat) in enumerate(arrivals):
        new = Claim(channel, amount_msat, b"%d" % number)
        gone = giving_way(held, new, MOST, MOST_MSAT)
        out += [new] if gone is None else gone
        if gone is not None:
            held = [claim for claim in held if claim not in gone] + [new]
        assert len(held) <= MOST
        assert sum(claim.amount_msat for claim in held) <= MOST_MSAT
    return held, out


@given(claims)
def test_no_order_keeps_a_channel_from_its_share(arrivals: list[tuple[int, int]]) -> None:
    """rule:24: a channel that finds no room holds its share already, in number or in msat, however many came before."""
    held, _ = room_of(arrivals)
    new = Claim(4, MOST_MSAT // 8, b"new")
    parts = Counter(claim.channel for claim in held)
    msat = Counter[object]()
    for claim in held:
        msat[claim.channel] += claim.amount_msat
    if giving_way(held, new, MOST, MOST_MSAT) is None:
        assert max(parts.values()) <= 1 or max(msat.values()) <= new.amount_msat


@given(claims)
def test_nothing_gives_way_where_there_is_room(arrivals: list[tuple[int, int]]) -> None:
    """rule:24: what waits is disturbed only by what has no room beside it, and goes at most once."""
    held, out = room_of(arrivals)
    assert len({claim.name for claim in [*held, *out]}) == len(arrivals)
    new = Claim(1, 1, b"new")
    if len(held) < MOST and sum(claim.amount_msat for claim in held) < MOST_MSAT:
        assert giving_way(held, new, MOST, MOST_MSAT) == []


def test_the_end_is_the_same_whoever_is_first() -> None:
    """rule:24: a crowd that was there first and one that comes later share by halves."""
    crowd, other = [(1, 1)] * 50, [(2, 100)] * 4
    for arrivals in (crowd + other, other + crowd):
        held, _ = room_of(arrivals)
        assert Counter(claim.channel for claim in held) == {1: 4, 2: 4}
