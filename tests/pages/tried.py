"""docs/explanation/what-we-promise.md: what was tried, from what `make campaign` has printed.

`make tried` writes the passage between the two marks; nothing else of the page is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "what-we-promise.md"
BEGIN, END = "<!-- made by `make tried` -->\n", "<!-- end -->\n"
COLUMNS = 2


def passage(found: dict[str, Any]) -> str:
    """Return the passage about a campaign. Raises ValueError for one that does not tell of a commit, or was cut off."""
    if found["commit"] is None or found["commit"].endswith("-dirty"):
        raise ValueError(f"the figures are of no commit ({found['commit']}): play them on a clean tree")
    if found["interrupted"] or found["broken"]:
        raise ValueError(f"the campaign was interrupted, or seeds broke: {found['broken']}")
    return "\n".join(_lines(found)) + "\n"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    worst, counts = found["worst"], found["counts"]
    yield (
        f"All strategies and all weather in one town, {found['people_a_day']:g} people a day: {found['seeds']} seeds of"
        f" {found['days_a_seed']:g} days ({found['first_seed']} to {found['last_seed']}), all of one commit"
        f" ({found['commit']}): {found['days']:,.0f} simulated days, {found['sales']:,} sales,"
    )
    yield f"{found['steps']:,} steps, {found['frames']:,} messages, {found['faults']:,} faults;"
    yield f"{_broken_promises(found)}."
    yield (
        f"Of the pots, capital reached {worst['capital']:,} sat, {worst['withheld']:,} sat of it withheld; burnt mining"
        f" {worst['mining']:,} sat in a day on trust and {worst['all mining']:,} sat in all; held parts"
    )
    yield (
        f"{worst['parts']:,}, {worst['parts of a client']:,} of one client, {worst['parts of a buy']:,} of one offer;"
        f" unpaid channels of one client {worst['unpaid of a client']:,}."
    )
    yield (
        f"{counts['sales compared with ledger and record']:,} sales were compared with ledger and record and"
        f" {counts['metrics pages compared']:,} metrics pages with the books. It took {found['cpu_s']:,.0f} s of CPU in"
    )
    yield (
        f"{found['wall_s']:,.0f} s: {found['sales_a_minute_of_cpu']:.0f} sales a minute of CPU."
        " And the weather did this:"
    )
    yield ""
    yield "| what | times " * COLUMNS + "|"
    yield "|---|---" * COLUMNS + "|"
    cells = [f"| {what} | {times:,} " for what, times in sorted(found["storms"].items())]
    cells += ["| | "] * (-len(cells) % COLUMNS)
    for place in range(0, len(cells), COLUMNS):
        yield "".join(cells[place : place + COLUMNS]) + "|"


def _broken_promises(found: dict[str, Any]) -> str:
    if not found["violations"]:
        return "no promise broken"
    told = [f"seed {each['seed']} at step {each['step']} ({each['rule']})" for each in found["violations"]]
    return f"promises broken: {', '.join(told)}"


def written(page: str, found: dict[str, Any]) -> str:
    """Return the page with this campaign in it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"the page lacks its marks, {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{passage(found)}\n{END}{after}"


def main(path: str) -> None:
    """Put the campaign in this file on the page."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main(sys.argv[1])
