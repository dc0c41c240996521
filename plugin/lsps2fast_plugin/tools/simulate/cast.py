"""All kinds of people and weather, and which of them come to a town."""

from __future__ import annotations

from collections.abc import Iterator

from . import both_ways, customers, honest, order_tricks, slumber, strategies, together, weather
from .plan import FIRST_GUEST, NONE, Guests, Happening, Plan, happenings
from .scene import Visitor

STRATEGISTS: dict[str, type[Visitor]] = {
    **strategies.KINDS,
    **order_tricks.ORDER_TRICKS,
    **together.KINDS,
    **slumber.KINDS,
    **both_ways.KINDS,
}
KINDS: dict[str, type[Visitor]] = {**honest.KINDS, **customers.HONEST, **STRATEGISTS}


def coming(plan: Plan) -> list[Happening]:
    """Return everything that comes to town in a run of this plan."""
    chosen = plan.strategists(strategies.KINDS)
    return happenings(plan, list(honest.KINDS), chosen, list(weather.EVENTS), _guests(plan))


def _guests(plan: Plan) -> Iterator[Guests]:
    if plan.sells_ahead:
        chosen = plan.strategists(order_tricks.ORDER_TRICKS)
        yield Guests("customers", FIRST_GUEST, 1 / 3, list(customers.HONEST), chosen)
    if plan.sells_ahead and (chosen := plan.strategists(both_ways.KINDS)):
        yield Guests("both ways", FIRST_GUEST + 400_000, 1 / 6, chosen)
    if chosen := plan.strategists(slumber.KINDS):
        yield Guests("sleepers", FIRST_GUEST + 300_000, 1 / 8, chosen)
    if plan.batches and plan.reuse_mode != "off" and (chosen := plan.strategists(together.KINDS)):
        yield Guests("together", FIRST_GUEST + 200_000, 1 / 6, chosen)


def unknown(names: list[str]) -> list[str]:
    """Return those that name no strategy."""
    return [name for name in names if name not in STRATEGISTS and names != [NONE]]
