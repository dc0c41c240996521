"""Figures on a page of docs/: tables, where they were measured, and the marks between which they stand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

Rows = list[list[str]]


def markdown(rows: Rows) -> str:
    """Return a table for a page."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def lay(path: Path, mark: str, blocks: list[str]) -> None:
    """Write these blocks between the page's marks of this name."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    head, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, also, tail = rest.partition(end)
    if not (found and also):
        raise ValueError(f"{path} has no marks {begin} and {end}")
    path.write_text("\n\n".join([head + begin, *blocks, end + tail]), encoding="utf-8")


def where(before: float, what: str = "") -> str:
    """Return commit, cores and load. `before`: the load when it began."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    return f"commit {commit}, {os.cpu_count()} cores{what}, load {before:.1f} before and {os.getloadavg()[0]:.1f} after"
