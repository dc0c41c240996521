"""What was measured, as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from html import escape
from typing import Any

from lsps2fast_plugin.load.run import Results

WIDTH, HEIGHT, MARGIN = 760, 420, 60
COLOURS = {"C ceiling": "#888888", "service": "#0a7d4f", "interpreted": "#c98a00", "pyln-client": "#b03030"}


def table(rows: list[list[str]]) -> str:
    """Columns as wide as they need to be; the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _machine(results: Results) -> str:
    m = results.machine
    versions = f"Python {m['python']}, lsps2fast {m['lsps2fast']}"
    return f"{m['cpu']}, {m['cores']} cores, load {m['load']}, {m['system']}, {versions}"


def text(results: Results) -> str:
    """For people."""
    quiet = [["saturated", "hooks/s", "CPU µs/hook", "min", "max", "RSS MB"]]
    for name, row in results.saturation.items():
        cpu = [f"{row[key]:.2f}" for key in ("cpu_us", "cpu_us_min", "cpu_us_max")]
        quiet.append([name, f"{row['per_s']:,.0f}", *cpu, f"{results.rss_kb[name] / 1024:.1f}"])
    steady = [["steady rate", "hooks/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/hook"]]
    for name, rates in results.latency.items():
        for rate, late in rates.items():
            cpu_us = results.at_rate_cpu_us[name][rate]
            steady.append([name, f"{rate:,}", *_late(late), f"{cpu_us:.2f}"])
    odd = [["disturbed, latency in µs", "p50", "p99", "p99.9"]]
    odd += [[f"blocking method: {name}", *_late(late)] for name, late in results.blocking.items()]
    odd += [[f"busy thread: {name}", *_late(late)] for name, late in results.busy.items()]
    sales = [["sales at once", "parts", "seconds", "RPC calls", "commits"]]
    for sale in results.sales:
        sales.append([str(sale[key]) for key in ("sessions", "parts", "seconds", "rpc_calls", "commits")])
    events = ", ".join(f"{name} {cpu_us} µs" for name, cpu_us in results.events_cpu_us.items())
    bounds = [["ratio", "target", "value", "bound", "met"]]
    for each in results.ratios:
        met = "yes" if each["met"] else "NO"
        bounds.append([each["what"], each["target"], f"{each['value']:g}", each["bound"], met])
    tables = [table(rows) for rows in (quiet, steady, odd, sales)]
    tables.insert(3, f"CPU of a forward_event that is not ours: {events}")
    return "\n\n".join([_machine(results), *tables, table(bounds), f"{results.seconds:g} s in all"]) + "\n"


def _late(late: dict[str, float]) -> list[str]:
    return [f"{late[key]:,.0f}" for key in ("p50_us", "p99_us", "p99_9_us")]


def as_json(results: Results) -> str:
    """For programs."""
    return json.dumps(asdict(results), indent=2) + "\n"


def svg(results: Results) -> str:
    """Latency over offered rate, both logarithmic: p99 drawn through, p50 dashed."""
    points = [(rate, late) for rates in results.latency.values() for rate, late in rates.items()]
    x = _scale([rate for rate, _ in points], MARGIN, WIDTH - MARGIN)
    y = _scale([late[key] for _, late in points for key in ("p50_us", "p99_us")], HEIGHT - MARGIN, MARGIN)
    shapes: list[str] = []
    for value in x.ticks:
        at = x(value)
        shapes.append(_line(at, MARGIN, at, HEIGHT - MARGIN, "#dddddd"))
        shapes.append(_text(at, HEIGHT - MARGIN + 18, f"{value:,.0f}", "middle"))
    for value in y.ticks:
        at = y(value)
        shapes.append(_line(MARGIN, at, WIDTH - MARGIN, at, "#dddddd"))
        shapes.append(_text(MARGIN - 6, at + 4, f"{value:,.0f}", "end"))
    for place, (name, rates) in enumerate(results.latency.items()):
        colour = COLOURS.get(name, "#444444")
        for key, dash in (("p99_us", ""), ("p50_us", "5 4")):
            path = " ".join(f"{x(rate):.1f},{y(late[key]):.1f}" for rate, late in sorted(rates.items()))
            shapes.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
        shapes.append(_text(MARGIN + 10, MARGIN + 16 * (place + 1), name, "start", colour))
    shapes.append(
        _text(WIDTH / 2, 24, "Latency of a foreign hook in µs (p99; dashed p50) over hooks a second", "middle")
    )
    shapes.append(_text(WIDTH / 2, HEIGHT - 12, _machine(results)[:110], "middle", "#888888"))
    body = "\n".join(shapes)
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


class _Log:
    """A logarithmic axis from one pixel to another."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        if self._low == self._high:
            self._high += 1
        self._start, self._end = start, end
        self.ticks = [10.0**power for power in range(self._low, self._high + 1)]

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _scale(values: list[Any], start: float, end: float) -> _Log:
    return _Log(max(min(values), 1e-3), max(values), start, end)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
