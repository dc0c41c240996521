"""The money of each group over a run, drawn as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .market import Result

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 380, 90, 40, 170, 40
GROUPS = {
    "fees": ("opening fees that came", "#2a78b8"),
    "lsp": ("the LSP, after miners", "#2b8a3e"),
    "miners": ("miners", "#8a8a8a"),
    "strategists": ("dishonest people", "#c0392b"),
}
STEPS = 4


def svg(result: Result) -> str:
    """Return the picture of one run."""
    return "\n".join(_draw(result)) + "\n"


def _draw(result: Result) -> Iterator[str]:
    days = max((each["hours"] / 24 for each in result.money), default=1.0)
    amounts = [each[group] // 1000 for each in result.money for group in GROUPS] or [0]
    low, high = min(0, *amounts), max(1, *amounts)
    step = _round((high - low) / STEPS)
    low, high = step * (low // step), step * -(-high // step)

    def x(day: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * day / days

    def y(sat: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - sat) / (high - low)

    plan = result.plan
    title = f"{days:.0f} days of seed {plan.seed}, {plan.people:g} people a day, {result.totals['sales']} sales"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    yield f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>'
    for sat in range(low, high + 1, step):
        yield f'<path d="M{LEFT} {y(sat):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y(sat) + 4:.1f}" font-size="11" text-anchor="end">{sat:,} sat</text>'
    for day in range(0, int(days) + 1, max(1, round(days / 6))):
        yield f'<text x="{x(day):.1f}" y="{HEIGHT - 16}" font-size="11" text-anchor="middle">day {day}</text>'
    for group, (_, colour) in GROUPS.items():
        points = " ".join(f"{x(each['hours'] / 24):.1f},{y(each[group] / 1000):.1f}" for each in result.money)
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from _labels(result, y)
    yield "</svg>"


def _labels(result: Result, y: object) -> Iterator[str]:
    """Beside the end of each line, one below the other where lines end together."""
    assert callable(y)
    ends = sorted((y(result.money[-1][group] / 1000), group) for group in GROUPS) if result.money else []
    last = -100.0
    for place, group in ends:
        last = max(place, last + 15)
        label, colour = GROUPS[group]
        yield f'<text x="{WIDTH - RIGHT + 6}" y="{last + 4:.1f}" font-size="12" fill="{colour}">{label}</text>'


def _round(step: float) -> int:
    """Return the next of 1, 2, 5, 10, 20 …"""
    size = 1
    while True:
        for digit in (1, 2, 5):
            if digit * size >= step:
                return digit * size
        size *= 10
