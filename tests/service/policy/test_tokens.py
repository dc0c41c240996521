"""Quotas: never one buy too many and never a use lost, whatever crashes when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.policy import token
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lsps2fast_plugin.service.policy.tokens import Record, TokenUses

QUOTA = 3
SPRING = token(max_uses=QUOTA)
KEY = ("lsps", "lsps2", "tokens", SPRING.hash.hex())


class Seller(RuleBasedStateMachine):
    """A token's uses are the buys that were stored and did not end unused, over crashes at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[tuple[str, ...], str] = {}
        self.buys: set[int] = set()  # whose records are in the journal
        self.used: set[int] = set()  # those with a channel, paid long ago
        self.gone = 0  # used ones whose records are deleted
        self.number = 0
        self.uses = TokenUses()

    def _write(self, records: list[Record]) -> None:
        for record in records:
            self.disk[record.key] = json.dumps(record.value)

    def _start(self) -> None:
        self.uses = TokenUses()
        found = [(key, json.loads(value)) for key, value in self.disk.items()]
        complaints, write = self.uses.load(found, {SPRING.hash: self.buys | self.used})
        assert complaints == []
        self._write(write)

    @precondition(lambda self: self.uses.left(SPRING))
    @rule(point=st.sampled_from(["sold", "crash before the buy", "crash after the buy", "not stored"]))
    def sell(self, point: str) -> None:
        self.uses.take(SPRING)
        self.number += 1
        if point in ("sold", "crash after the buy"):
            self.buys.add(self.number)
        if point == "not stored":
            self.uses.give_back(SPRING.hash)
        if point.startswith("crash"):
            self._start()

    @precondition(lambda self: self.buys)
    @rule(crashed=st.booleans())
    def a_buy_ends_unused(self, crashed: bool) -> None:
        self.buys.pop()
        if crashed:
            self._start()
        else:
            self.uses.give_back(SPRING.hash)

    @precondition(lambda self: self.buys)
    @rule()
    def a_buy_is_used(self) -> None:
        self.used.add(self.buys.pop())

    @precondition(lambda self: self.used)
    @rule(point=st.sampled_from(["all", "not written", "crash not written", "crash in between", "fails in between"]))
    def records_are_deleted(self, point: str) -> None:
        """Those that stay are in the next batch."""
        records = self.uses.leave({SPRING.hash: set(self.used)})
        if "not written" not in point:
            self._write(records)
            for number in sorted(self.used)[: None if point == "all" else 1]:
                self.used.remove(number)
                self.gone += 1
        if point.startswith("crash"):
            self._start()

    @rule()
    def restart(self) -> None:
        self._start()

    @invariant()
    def the_quota_holds_and_nothing_is_lost(self) -> None:
        assert self.uses.uses(SPRING) == len(self.buys | self.used) + self.gone <= QUOTA


TestSeller = Seller.TestCase
TestSeller.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_two_buys_at_once_share_the_quota() -> None:
    """The count is taken before anything is awaited, so the last use is sold once."""
    uses = TokenUses()
    for _ in range(QUOTA):
        uses.take(SPRING)
    assert uses.left(SPRING) == 0
    with pytest.raises(ValueError, match="is used up"):
        uses.take(SPRING)


def test_a_token_gets_a_quota_while_its_buys_are_live() -> None:
    """rule:18: what was bought before counts, and what ends unused of it takes no other's use with it."""
    uses = TokenUses()
    free = SPRING._replace(max_uses=None)
    for _ in range(2):
        uses.take(free)
    assert uses.left(free) is None
    assert uses.left(SPRING) == QUOTA - 2
    uses.give_back(SPRING.hash)
    assert uses.left(SPRING) == QUOTA - 1


def test_a_lower_quota_after_a_reload_is_kept() -> None:
    """Uses stay when the operator lowers max_uses below them."""
    uses = TokenUses()
    uses.take(SPRING)
    uses.take(SPRING)
    assert uses.left(SPRING._replace(max_uses=1)) == 0


@pytest.mark.parametrize(("before", "gone"), [(5, 3), (2, 0), (0, 0)])
def test_a_record_of_an_earlier_version_counted_the_journal_too(before: int, gone: int) -> None:
    """K-24: what it counted beyond the journal's buys is what was deleted since; to be written at once."""
    uses = TokenUses()
    _, write = uses.load([(KEY, {"version": 1, "uses": before})], {SPRING.hash: {7, 8}})
    assert uses.uses(SPRING) == gone + 2
    assert write == [Record(KEY, {"version": 2, "uses": gone, "leaving": []})]


@pytest.mark.parametrize(
    "value", [None, [], {}, {"version": 3, "uses": 0, "leaving": []}, {"version": 1}, {"version": 1, "uses": -1},
              {"version": 1, "uses": "1"}, {"version": 1, "uses": True}, {"version": 1, "uses": 2**64},
              {"version": 2, "uses": 1}, {"version": 2, "uses": 1, "leaving": None},
              {"version": 2, "uses": 1, "leaving": ["x"]}]
)  # fmt: skip
def test_a_broken_record_counts_as_used_up(value: Any) -> None:
    """K-08, K-24: one broken record is told and touches no other; the quota may be spent, so nothing is sold."""
    other = token("other", max_uses=QUOTA)
    uses = TokenUses()
    theirs = (*KEY[:-1], other.hash.hex())
    complaints, write = uses.load([(KEY, value), (theirs, {"version": 2, "uses": 1, "leaving": []})], {})
    assert (len(complaints), write) == (1, [])
    assert (uses.left(SPRING), uses.left(other)) == (0, 2)
    uses.give_back(SPRING.hash)
    assert uses.left(SPRING) == 0
    assert uses.leave({SPRING.hash: {1}}) == []


@pytest.mark.parametrize("key", [(), ("lsps", "lsps2", "tokens", "zz")])
def test_a_key_that_is_no_token_is_left_alone(key: tuple[str, ...]) -> None:
    """K-08: told, not used."""
    complaints, write = TokenUses().load([(key, {"version": 1, "uses": 1})], {})
    assert (len(complaints), write) == (1, [])
