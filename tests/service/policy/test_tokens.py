"""Quotas: never one buy too many, whatever crashes when."""

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


def stored(disk: dict[tuple[str, ...], str]) -> TokenUses:
    """Uses as a start finds them."""
    uses = TokenUses()
    assert uses.load((key, json.loads(value)) for key, value in disk.items()) == []
    return uses


class Seller(RuleBasedStateMachine):
    """A token's quota is never exceeded over restarts.

    The service journals uses before buys, and may crash, or fail to write, at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[tuple[str, ...], str] = {}
        self.buys = 0  # stored and unused or used; given back ones are gone
        self.uses = stored(self.disk)

    def _write(self, record: Record | None) -> None:
        assert record is not None
        assert record.value is not None
        self.disk[record.key] = json.dumps(record.value)

    @precondition(lambda self: self.uses.left(SPRING))
    @rule(point=st.sampled_from(["sold", "crash before the record", "crash before the buy", "buy not stored"]))
    def sell(self, point: str) -> None:
        record = self.uses.take(SPRING)
        steps = {
            "crash before the record": (False, False, True),
            "crash before the buy": (True, False, True),
            "buy not stored": (True, False, False),
            "sold": (True, True, False),
        }
        written, sold, crashed = steps[point]
        for _ in range(written):
            self._write(record)
        self.buys += sold
        for _ in range(not sold and not crashed):
            self._write(self.uses.give_back(SPRING.hash))
        self.uses = stored(self.disk) if crashed else self.uses

    @precondition(lambda self: self.buys)
    @rule(crashed=st.booleans())
    def buy_ends_unused(self, crashed: bool) -> None:
        self.buys -= 1
        for _ in range(not crashed):
            self._write(self.uses.give_back(SPRING.hash))
        self.uses = stored(self.disk)

    @rule()
    def restart(self) -> None:
        self.uses = stored(self.disk)

    @invariant()
    def the_quota_holds(self) -> None:
        assert self.buys <= QUOTA
        assert self.buys <= self.uses.uses(SPRING) <= QUOTA


TestSeller = Seller.TestCase
TestSeller.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_two_buys_at_once_share_the_quota() -> None:
    """The count is taken before anything is awaited, so the last use is sold once."""
    uses = TokenUses()
    taken = [uses.take(SPRING) for _ in range(QUOTA)]
    assert [record.value for record in taken if record is not None] == [{"version": 1, "uses": n} for n in (1, 2, 3)]
    assert uses.left(SPRING) == 0
    with pytest.raises(ValueError, match="is used up"):
        uses.take(SPRING)


def test_whoever_writes_last_writes_the_last_count() -> None:
    """Writers that take turns each write the count of that moment, so an old count never overwrites a new one."""
    uses = TokenUses()
    first = uses.take(SPRING)
    uses.take(SPRING)
    assert first is not None
    assert uses.record(SPRING.hash) == Record(first.key, {"version": 1, "uses": 2})
    assert first.key == ("lsps", "lsps2", "tokens", SPRING.hash.hex())


def test_a_token_without_a_quota_costs_no_commit() -> None:
    """One commit for each buy, no more, unless a quota asks for it."""
    uses = TokenUses()
    free = token()
    assert uses.take(free) is None
    assert uses.left(free) is None
    assert uses.give_back(free.hash) is None


def test_a_lower_quota_after_a_reload_is_kept() -> None:
    """Uses stay when the operator lowers max_uses below them."""
    uses = TokenUses()
    uses.take(SPRING)
    uses.take(SPRING)
    assert uses.left(SPRING._replace(max_uses=1)) == 0


@pytest.mark.parametrize(
    "value", [None, [], {}, {"version": 2, "uses": 0}, {"version": 1}, {"version": 1, "uses": -1},
              {"version": 1, "uses": "1"}, {"version": 1, "uses": True}, {"version": 1, "uses": 2**64}]
)  # fmt: skip
def test_a_broken_record_counts_as_used_up(value: Any) -> None:
    """K-08, K-24: one broken record is told and touches no other; the quota may be spent, so nothing is sold."""
    other = token("other", max_uses=QUOTA)
    uses = TokenUses()
    keys = [("lsps", "lsps2", "tokens", each.hash.hex()) for each in (SPRING, other)]
    complaints = uses.load([(keys[0], value), (keys[1], {"version": 1, "uses": 1})])
    assert len(complaints) == 1
    assert (uses.left(SPRING), uses.left(other)) == (0, 2)
    assert uses.give_back(SPRING.hash) is None


@pytest.mark.parametrize("key", [(), ("lsps", "lsps2", "tokens", "zz")])
def test_a_key_that_is_no_token_is_left_alone(key: tuple[str, ...]) -> None:
    """K-08: told, not used."""
    assert len(TokenUses().load([(key, {"version": 1, "uses": 1})])) == 1
