"""The money of each group over a run, beside the same town of honest people only, drawn as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from .market import Result

WIDTH, HEIGHT = 960, 420
LEFT, TOP, BOTTOM, PANEL, BETWEEN = 92, 84, 52, 300, 60
GROUPS = {
    "fees": ("opening fees that came", "#2a78b8"),
    "lsp": ("the LSP, after miners", "#2b8a3e"),
    "miners": ("miners", "#8a8a8a"),
    "strategists": ("dishonest people", "#c0392b"),
}
STEPS = 4
Scale = Callable[[float], float]


def svg(honest: Result, result: Result) -> str:
    """Return the picture of a run, right, and of the same town without dishonest people, left."""
    return "\n".join(_draw(honest, result)) + "\n"


def _draw(honest: Result, result: Result) -> Iterator[str]:
    amounts = [each[group] // 1000 for one in (honest, result) for each in one.money for group in GROUPS] or [0]
    low, high = min(0, *amounts), max(1, *amounts)
    step = _round((high - low) / STEPS)
    low, high = step * (low // step), step * -(-high // step)

    def y(sat: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - sat) / (high - low)

    plan = result.plan
    title = f"What each group gained, in sat (seed {plan.seed}, {plan.people:g} people a day, {plan.days:g} days)"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    yield f'<text x="{LEFT}" y="26" font-size="16">{escape(title)}</text>'
    for sat in range(low, high + 1, step):
        yield f'<text x="{LEFT - 8}" y="{y(sat) + 4:.1f}" font-size="12" text-anchor="end">{sat:,} sat</text>'
    heads = (f"honest people only: {honest.totals['sales']} sales", f"with strategists: {result.totals['sales']} sales")
    for place, (one, head) in enumerate(zip((honest, result), heads, strict=True)):
        yield from _panel(one, head, LEFT + place * (PANEL + BETWEEN), range(low, high + 1, step), y)
    yield from _labels(result, y)
    yield "</svg>"


def _panel(result: Result, head: str, left: int, lines: range, y: Scale) -> Iterator[str]:
    days = max((each["hours"] / 24 for each in result.money), default=1.0)

    def x(day: float) -> float:
        return left + PANEL * day / days

    yield f'<text x="{left}" y="{TOP - 22}" font-size="14">{escape(head)}</text>'
    for sat in lines:
        colour = "#888" if sat == 0 else "#ddd"
        yield f'<path d="M{left} {y(sat):.1f}H{left + PANEL}" stroke="{colour}"/>'
    for day in range(0, int(days) + 1, max(1, round(days / 5))):
        yield f'<text x="{x(day):.1f}" y="{HEIGHT - 22}" font-size="12" text-anchor="middle">day {day}</text>'
    for group, (_, colour) in GROUPS.items():
        points = " ".join(f"{x(each['hours'] / 24):.1f},{y(each[group] / 1000):.1f}" for each in result.money)
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _labels(result: Result, y: Scale) -> Iterator[str]:
    """Beside the end of each line, one below the other where lines end together."""
    ends = sorted((y(result.money[-1][group] / 1000), group) for group in GROUPS) if result.money else []
    last = -100.0
    for place, group in ends:
        last = max(place, last + 17)
        label, colour = GROUPS[group]
        right = LEFT + 2 * PANEL + BETWEEN + 8
        yield f'<text x="{right}" y="{last + 4:.1f}" font-size="13" fill="{colour}">{label}</text>'


def _round(step: float) -> int:
    """Return the next of 1, 2, 5, 10, 20 …"""
    size = 1
    while True:
        for digit in (1, 2, 5):
            if digit * size >= step:
                return digit * size
        size *= 10
