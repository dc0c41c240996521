"""Every state of small worlds around the real machine, in both runs of the core: no rule about money breaks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from .bounds import LEAST_STATES, PAYMENTS, SMALL
from .search import search
from .world import Rules


@pytest.mark.parametrize("name", SMALL)
def test_no_step_and_no_death_breaks_a_rule(name: str) -> None:
    """rule:1, rule:2, rule:4, rule:8 and rule:9, K-02, K-09, K-11, K-15: a crash at any step, then the real
    recovery.
    """
    found = search(SMALL[name])
    print(found)
    assert not found.broken, str(found)
    assert found.states > LEAST_STATES
    assert found.machine_states > 100
    assert found.ends > 30


@dataclass(frozen=True)
class Mutant:
    """Something that is broken on purpose, where, and the rule that must be seen to break."""

    what: str
    client_trusts_lsp: bool
    broken: str


MUTANTS = (
    Mutant("unwritten intent", True, "is in no record"),
    Mutant("unwritten forwards", True, "paid, and the final record lacks that"),
    Mutant("unwritten forwards", False, "paid, and the final record lacks that"),
    Mutant("unwritten channel", False, "paid, and the final record lacks that"),
    Mutant("reserved before the intent", True, "a coin stays reserved"),
    Mutant("coins not released", True, "a coin stays reserved"),
    Mutant("recovery sees no parts", True, "paid, and the final record lacks that"),
    Mutant("recovery orders nothing", True, "a payment is under way for ever"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: f"{each.what} {each.client_trusts_lsp}")
def test_a_missing_safeguard_is_found(mutant: Mutant) -> None:
    """K-02, rule:2, rule:11: an order before its record, a recovery that forgets; the steps can be read."""
    found = search(Rules(PAYMENTS["one part"], mutant.client_trusts_lsp, mishaps=0, mutant=mutant.what))
    assert mutant.broken in found.broken
    assert found.steps[0] == "part 0 arrives"
    assert any("dies" in step or "refuses" in step or "fails" in step for step in found.steps), str(found)
