"""`make figures`: measure what docs/performance.md shows of sales, crowds and floods, and lay it into the page.

Each table is one command of `lsps2fast bench`, whose JSON is kept beside the commit that it was run on; the page is
filled from these files and from nothing else. Tables that were not measured stay as they are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from lsps2fast_plugin.tools.bench import crowd, real_sales, sweep

PAGE: Final = Path("docs/performance.md")
KEPT: Final = Path("build/figures")
PICTURE: Final = "docs/pictures/flood.svg"


class Table(NamedTuple):
    """One table of the page: what of `lsps2fast bench` measures it, in about how many minutes, and how it is shown."""

    command: str
    minutes: int
    kind: Any
    text: Callable[[Any], str]


class Measured(msgspec.Struct, frozen=True):
    """One file: which commit was measured, by which command, and what came of it."""

    commit: str
    command: str
    found: msgspec.Raw


TABLES: Final[MappingProxyType[str, Table]] = MappingProxyType(
    {
        "sale": Table("--real --sales", 6, real_sales.Sales, real_sales.sales_text),
        "crowd-50": Table("--real --crowd 50", 10, real_sales.Crowds, real_sales.crowd_text),
        "crowd-200": Table("--real --crowd 200 --rounds 1", 12, real_sales.Crowds, real_sales.crowd_text),
        "crowd-embedded": Table("--crowd 1000 --rounds 1", 4, dict[str, Any], crowd.text),
        "flood": Table(f"--flood --sweep --seconds 5 --plot {PICTURE}", 4, sweep.Sweep, sweep.text),
    }
)


def measure(name: str, kept: Path = KEPT) -> Path:
    """Run the command of this table; return the file with what came of it. Raises CalledProcessError."""
    table = TABLES[name]
    command = f"lsps2fast bench {table.command}"
    sys.stderr.write(f"{name}: {command}, about {table.minutes} minutes\n")
    words = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "bench", *table.command.split(), "--json"]
    found = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    changes = _git("status", "--porcelain", "-uno", "--", "src", "plugin")
    commit = _git("rev-parse", "--short", "HEAD") + (" and changes" if changes else "")
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{name}.json"
    path.write_bytes(msgspec.json.encode(Measured(commit, command, msgspec.Raw(found))))
    return path


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def block(name: str, measured: Measured) -> str:
    """Return one table as it stands in the page."""
    table = TABLES[name]
    shown = table.text(msgspec.json.decode(measured.found, type=table.kind))
    return f"`{measured.command}`, {measured.commit}:\n\n```text\n{shown.strip()}\n```\n"


def marks(name: str) -> tuple[str, str]:
    """Return what stands before a table, and behind it."""
    return f"<!-- figures: {name} -->\n", "<!-- figures end -->\n"


def filled(page: str, blocks: dict[str, str]) -> str:
    """Return the page with these tables in their places. Raises ValueError where the page has no such place."""
    for name, text in blocks.items():
        begin, end = marks(name)
        before, found, rest = page.partition(begin)
        _, closed, behind = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"docs/performance.md has no place for {name}: it begins with {begin.strip()}")
        page = f"{before}{begin}\n{text}\n{end}{behind}"
    return page


def fill(page: Path = PAGE, kept: Path = KEPT) -> list[str]:
    """Lay every table that was measured into the page; return their names."""
    found = [name for name in TABLES if (kept / f"{name}.json").exists()]
    read = {name: msgspec.json.decode((kept / f"{name}.json").read_bytes(), type=Measured) for name in found}
    text = filled(page.read_text(encoding="utf-8"), {name: block(name, each) for name, each in read.items()})
    page.write_text(text, encoding="utf-8")
    return found


def main() -> int:
    """Measure these tables, all by default, then fill the page; with `--fill` only that."""
    arguments = argparse.ArgumentParser(description="Measure the tables of docs/performance.md and fill it.")
    arguments.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    arguments.add_argument("--fill", action="store_true", help="fill the page from what was measured before")
    args = arguments.parse_args()
    if unknown := set(args.tables) - set(TABLES):
        arguments.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    for name in [] if args.fill else args.tables or TABLES:
        measure(name)
    sys.stderr.write(f"{PAGE}: {', '.join(fill())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
