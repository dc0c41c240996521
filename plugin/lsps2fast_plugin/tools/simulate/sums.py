"""What is told of runs: each as plain data, their sums, and both as text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lsps2fast import __version__

from .market import Result

Run = dict[str, Any]  # what `plain` makes of a Result
SUMMED = ("days", "steps", "frames", "cpu_s", "opening_fees_msat", "profit_msat")
COUNTED = ("totals", "visits", "deeds", "storms", "counts")


def plain(result: Result) -> Run:
    """Return a result for programs."""
    fields = vars(result) | {"command": result.plan.command()}
    fields["plan"] = asdict(result.plan) | {"without": sorted(result.plan.without)}
    violation = result.violation
    fields["violation"] = None if violation is None else {"rule": violation.rule, "sentence": violation.sentence}
    if violation is None:
        fields["last_lines"] = []
    return fields


def sums(runs: list[Run], wall_s: float, broken: Sequence[int] = ()) -> dict[str, Any]:
    """Return what the runs come to: what docs/explanation/what-we-promise.md quotes."""
    first, last = runs[0]["plan"], runs[-1]["plan"]
    found: dict[str, Any] = {
        "version": __version__,
        "commit": _commit(),
        "seeds": len(runs),
        "first_seed": min(each["plan"]["seed"] for each in runs),
        "last_seed": max(each["plan"]["seed"] for each in runs),
        "days_a_seed": last["days"],
        "people_a_day": last["people"],
        "only": list(first["only"]),
    }
    found |= {name: sum(each[name] for each in runs) for name in SUMMED}
    found["wall_s"] = wall_s
    found |= {name: _total(each[name] for each in runs) for name in COUNTED}
    found["sales"] = found["totals"].get("sales", 0)
    found["sales_a_minute_of_cpu"] = 60 * found["sales"] / max(found["cpu_s"], 0.001)
    found["faults"] = sum(found["storms"].values())
    names = sorted({name for each in runs for name in each["worst"]})
    found["worst"] = {name: max(each["worst"].get(name, 0) for each in runs) for name in names}
    found["violations"] = [
        {"seed": each["plan"]["seed"], "step": each["steps"], **each["violation"], "command": each["command"]}
        for each in runs
        if each["violation"] is not None
    ]
    found["broken"] = list(broken)  # seeds without a result
    found["interrupted"] = any(each["interrupted"] for each in runs)
    return found


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items()))


def _commit() -> str | None:
    """Return the commit of these sources, with `-dirty` behind it where they were changed; None outside of git."""
    here = Path(__file__)
    try:
        for words in (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty", "--exclude=*"]):
            done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=30)
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def as_json(runs: list[Run], wall_s: float, broken: Sequence[int] = ()) -> str:
    """Return the sums and all runs, for programs."""
    return json.dumps(sums(runs, wall_s, broken) | {"runs": runs}, indent=1) + "\n"


def as_text(runs: list[Run], wall_s: float, broken: Sequence[int] = ()) -> str:
    """Return the books so far, and the violations if there are any."""
    found = sums(runs, wall_s, broken)
    seeds = f"seed {found['first_seed']}"
    if found["seeds"] > 1:
        seeds = f"{found['seeds']} seeds from {found['first_seed']} to {found['last_seed']}"
    lines = [
        f"{seeds}: {round(found['days'], 2):,} simulated days, {found['sales']:,} sales, {found['steps']:,} steps,"
        f" {found['frames']:,} messages, {found['faults']:,} faults",
        f"{found['cpu_s']:.1f} s of CPU in {wall_s:.1f} s, {found['sales_a_minute_of_cpu']:.0f} sales a minute of CPU",
        _line("came of it", found["totals"]),
        _line("who came", found["visits"]),
        _line("who did their deed", found["deeds"]),
        _line("the weather", found["storms"]),
        _line("and", found["counts"]),
        _line("the highest", found["worst"]),
        f"opening fees {found['opening_fees_msat'] // 1000:,} sat, the LSP's gain {found['profit_msat'] // 1000:,} sat",
    ]
    for each in runs:
        if each["violation"] is not None:
            told = f"VIOLATION of {each['violation']['rule']}: {each['violation']['sentence']}"
            lines += ["", *each["last_lines"], "", told, f"again: {each['command']}"]
    if found["interrupted"]:
        lines.append("interrupted")
    elif broken:
        lines.append(f"no result of seeds {', '.join(map(str, broken))}: a bug of the town itself")
    elif not found["violations"]:
        lines.append("every promise held")
    return "\n".join(lines) + "\n"


def _line(head: str, counts: dict[str, int]) -> str:
    return f"{head}: " + (", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "nothing")
