"""`lsps2fast bench --crowd N`: so many sales at once on the embedded node, buys included.

Its node takes no time for a channel but its own, so this is about our program: every sale ends, and what each costs.
How long payers wait for real is `--real --crowd N`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lsps2fast_plugin.tools.bench.figures import figure
from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.bench.run import load, machine
from lsps2fast_plugin.tools.bench.sales import run_sales

Json = dict[str, Any]
COLUMNS = ("all over s", "a payer waits s (quartiles)", "p90", "CPU ms a sale", "calls a sale", "commits", "load")


def run_crowds(seed: int, sessions: int, rounds: int, say: Callable[[str], None], parts: int = 1) -> Json:
    """Sell to a crowd, again and again. Raises RuntimeError when a sale fails."""
    found: Json = {"machine": machine(), "crowds": []}
    for turn in range(rounds):
        say(f"{sessions:,} sales at once on the embedded node, {turn + 1} of {rounds}")
        found["crowds"].append({**run_sales(seed, sessions, parts), "load": load()})
    return found


def text(found: Json) -> str:
    """For people."""
    m = found["machine"]
    head = f"{m['cpu']}, {m['cores']} cores, load {m['load']} before, Python {m['python']}, {m['at']}"
    rows = [["sales at once, embedded node", *COLUMNS]]
    for crowd in found["crowds"]:
        waits = figure(crowd["waits_s"])
        each = [crowd[key] / crowd["sessions"] for key in ("rpc_calls", "commits")]
        cells = [f"{crowd['seconds']:.2f}", waits.shown(2), waits.shown_p90(2), f"{crowd['cpu_ms']:.2f}"]
        rows.append([f"{crowd['sessions']:,}", *cells, *(f"{value:.1f}" for value in each), f"{crowd['load']:g}"])
    return f"{head}\n\n{table(rows)}\n"


def as_json(found: Json) -> str:
    """For programs."""
    return json.dumps(found, indent=2) + "\n"
