"""A guard taken away: what that is, and the run that finds the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .plan import Plan

BATCHES = {"batch": "on", "people": 60.0}
ORDERS = {"orders": "on", "people": 60.0}
SEED, DAYS, PEOPLE = 2, 6.0, 80.0


@dataclass(frozen=True)
class Mutant:
    """What it takes away, which rule that guards, and in which town the loss is looked for."""

    rule: str
    takes_away: str
    only: tuple[str, ...]
    patches: tuple[tuple[Any, str, Any], ...]
    town: dict[str, Any] = field(default_factory=dict)

    def plan(self, name: str) -> Plan:
        """Return the run that finds it."""
        usual = {"seed": SEED, "days": DAYS, "people": PEOPLE, "mode": "lsp-trusts-client", "weather": False}
        return Plan(**{**usual, **self.town}, only=self.only, mutant=name)
