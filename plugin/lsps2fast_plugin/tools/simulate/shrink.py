"""Makes the story of a violation shorter: fewer people and less weather,
as long as the same rule breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .cast import coming
from .market import Result, simulate
from .plan import Plan

MOST_RUNS = 60


def shrink(found: Result, say: Callable[[str], None]) -> Result:
    """Return the shortest run found that breaks the same rule."""
    assert found.violation is not None
    best, runs = found, 0

    def attempt(plan: Plan) -> bool:
        nonlocal best, runs
        runs += 1
        result = simulate(plan)
        if result.violation is None or result.violation.rule != found.violation.rule:  # type: ignore[union-attr]
            return False
        best = result
        say(f"{len(numbers(plan))} happenings are enough")
        return True

    left = numbers(best.plan)
    size = max(1, len(left) // 2)
    while size and runs < MOST_RUNS:
        for place in range(0, len(left), size):
            out = frozenset(left[place : place + size])
            if out and runs < MOST_RUNS and attempt(replace(best.plan, without=best.plan.without | out)):
                left = numbers(best.plan)
                break
        else:
            size //= 2
            continue
        size = min(size, max(1, len(left) // 2))
    return best


def numbers(plan: Plan) -> list[int]:
    """Return the numbers of everything that happens in a plan."""
    return [each.number for each in coming(plan)]
