"""Measurements as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any, NamedTuple

from lsps2fast_plugin.tools.bench.harness import Late
from lsps2fast_plugin.tools.bench.run import Results

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
    growth = [["live buys", "CPU µs/foreign hook", "RSS MB"]]
    growth += [[f"{g['live']:,}", f"{g['cpu_us']:.2f}", f"{g['rss_kb'] / 1024:.1f}"] for g in results.growth]
    columns = ("sessions", "parts", "seconds", "payer_waits_s", "rpc_calls", "commits")
    sales = [["sales at once", "parts", "seconds", "payer waits s", "RPC calls", "commits"]]
    sales += [[str(sale[key]) for key in columns] for sale in results.sales]
    events = ", ".join(f"{name} {cpu_us} µs" for name, cpu_us in results.events_cpu_us.items())
    bounds = [["ratio", "target", "median", "least", "most", "bound", "met"]]
    for each in results.ratios:
        met = "yes" if each["met"] else "NO"
        bounds.append(
            [each["what"], each["target"], *(f"{each[key]:g}" for key in ("value", "low", "high")), each["bound"], met]
        )
    tables = [table(rows) for rows in (quiet, steady, odd, growth, sales)]
    tables.insert(3, f"CPU of a forward_event that is not ours: {events}")
    return (
        "\n\n".join([_machine(results), *tables, *_watched(results), table(bounds), f"{results.seconds:g} s in all"])
        + "\n"
    )


def _watched(results: Results) -> list[str]:
    lines = []
    if results.start:
        start = results.start
        lines.append(
            f"start with {start['stored']:,} stored buys: init answered after {start['init_s']} s, all live after"
            f" {start['live_s']} s, of which the node took {start['node_s']} s to list them"
        )
    if results.added_ms:
        added = results.added_ms
        shown = [f"{name} too few sales" if ms is None else f"{name} {ms:.2f} ms" for name, ms in added.items()]
        lines.append(f"added between last part and answers: {', '.join(shown)}")
    if results.beside:
        beside = results.beside
        lines.append(
            f"{beside['sessions']:,} sales at once, one hanging: {beside['paid']:,} of {beside['others']:,} others"
            f" paid, their payers waited {beside['payer_waits_s']} s (median)"
        )
    return lines


def _late(late: Late) -> list[str]:
    """Leave out what the run was too short for."""
    return ["-" if (us := late[key]) is None else f"{us:,.0f}" for key in ("p50_us", "p99_us", "p99_9_us")]


def as_json(results: Results) -> str:
    """For programs."""
    return json.dumps(asdict(results), indent=2) + "\n"


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: list[tuple[float, float]]
    colour: str
    dash: str = ""


def charts(results: Results) -> list[tuple[str, list[Line]]]:
    """Return what is drawn: title and lines; a chart without points is left out."""
    late = [
        Line(
            name,
            sorted((rate, us) for rate, each in rates.items() if (us := each[key]) is not None),
            COLOURS.get(name, "#444444"),
            dash,
        )
        for name, rates in results.latency.items()
        for key, dash in (("p99_us", ""), ("p50_us", "5 4"))
    ]
    green = COLOURS["service"]
    cpu = [Line("CPU µs", [(g["live"], g["cpu_us"]) for g in results.growth], green)]
    wait = [Line("payer waits, s", [(s["sessions"], s["payer_waits_s"]) for s in results.sales], green)]
    wait.append(Line("all over, s", [(s["sessions"], s["seconds"]) for s in results.sales], "#444444"))
    wanted = [
        ("Latency of a foreign hook in µs (p99; dashed p50) over hooks a second", late),
        ("CPU of a foreign hook in µs over live buys", cpu),
        ("Seconds of a sale over sales at once", wait),
    ]
    return [(title, lines) for title, lines in wanted if any(line.points for line in lines)]


def svg(results: Results) -> str:
    """Return all charts below each other, axes logarithmic."""
    return picture(charts(results), _machine(results)[:110])


def picture(drawn: Sequence[tuple[str, list[Line]]], foot_text: str) -> str:
    """Return charts below each other, axes logarithmic, and where they come from."""
    body = "\n".join(_chart(place * HEIGHT, title, lines) for place, (title, lines) in enumerate(drawn))
    height = len(drawn) * HEIGHT + 30
    foot = _text(WIDTH / 2, height - 12, foot_text, "middle", "#888888")
    view = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n{body}\n{foot}\n</svg>\n'
    )


def _chart(top: float, title: str, lines: list[Line]) -> str:
    points = [point for line in lines for point in line.points]
    x = _scale([at for at, _ in points], MARGIN, WIDTH - MARGIN)
    y = _scale([value for _, value in points], top + HEIGHT - MARGIN, top + MARGIN)
    shapes = [_text(WIDTH / 2, top + 24, title, "middle")]
    for value in x.ticks:
        shapes.append(_line(x(value), top + MARGIN, x(value), top + HEIGHT - MARGIN, "#dddddd"))
        shapes.append(_text(x(value), top + HEIGHT - MARGIN + 18, f"{value:,g}", "middle"))
    for value in y.ticks:
        shapes.append(_line(MARGIN, y(value), WIDTH - MARGIN, y(value), "#dddddd"))
        shapes.append(_text(MARGIN - 6, y(value) + 4, f"{value:,g}", "end"))
    for line in lines:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
        style = f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dash}"'
        shapes.append(f'<polyline points="{path}" {style}/>')
    for place, line in enumerate(line for line in lines if not line.dash):
        shapes.append(_text(MARGIN + 10, top + MARGIN + 16 * (place + 1), line.name, "start", line.colour))
    return "\n".join(shapes)


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
