"""The IDs that code, tests and docs cite, and the pages that have a row for each.

An ID carries its source, as in `cln:H9` or `rule:7`. Two kinds go without: the rules of the specification, which have a
hyphen (C-06), and the speed targets of docs/performance.md (P16).
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRAPS = "docs/explanation/traps.md"
PAGES = {
    "cln": "docs/reference/lightningd-contract.md",
    "rule": "docs/explanation/architecture.md",
    "trap": TRAPS,
    "people": TRAPS,
    "wallet": TRAPS,
    "operator": TRAPS,
    "specification": "docs/conformance.md",
    "speed": "docs/performance.md",
}
CODE = ("src", "plugin", "tests", "benchmarks")
SUFFIXES = (".py", ".pyx", ".pxd", ".pyi")

_SOURCED = re.compile(r"\b(cln|rule|trap|people|wallet|operator):([A-Z]?\d{1,3})\b")
_SPECIFIED = re.compile(r"(?<![\w{}:-])([ABCEFGHIKNOPSTXZ]-\d\d)(?!\w)")
_SPEED = re.compile(r"(?<![\w:./#`'-])(P\d{1,2})(?!\w|-\d|\.\d)")
_BARE = re.compile(r"(?<![\w:./#`'-])([WMHCOAFRLDBNTS][1-9]\d?|[SW]0)(?!\w|-\d|\.\d)|\b([Rr]ules? \d+|[Ii]ssues? \d+)")


class Citation(NamedTuple):
    """An ID, where it is cited, and the source whose page should have its row."""

    place: str
    source: str
    id: str


def rows(source: str) -> list[str]:
    """Return the IDs at the start of a table row on a source's page, in order."""
    text = (ROOT / PAGES[source]).read_text(encoding="utf-8")
    if source == "specification":
        return re.findall(r"^\| ([A-Z]-\d\d) \|", text, re.MULTILINE)
    if source == "speed":
        return re.findall(r"^\| (P\d+)", text, re.MULTILINE)
    return re.findall(rf"^\| {source}:([A-Z]?\d+) \|", text, re.MULTILINE)


def cited(place: str, text: str) -> Iterator[Citation]:
    """Yield every ID in a piece of prose."""
    for source, number in _SOURCED.findall(text):
        yield Citation(place, source, number)
    for number in _SPECIFIED.findall(text):
        yield Citation(place, "specification", number)
    for number in _SPEED.findall(text):
        yield Citation(place, "speed", number)


def bare(text: str) -> list[str]:
    """Return IDs without their source, and numbers of a tracker that a reader of the repository does not have."""
    return [found[0] or found[1] for found in _BARE.findall(text)]


def prose() -> Iterator[tuple[str, str]]:
    """Yield place and text of each comment, docstring and line of a page; code blocks are left out."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py*")):
            if path.suffix in SUFFIXES:
                yield from _of_code(path)
    entrance = [path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"]
    for path in [*entrance, *sorted((ROOT / "docs").rglob("*.md"))]:
        text = re.sub(
            r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), path.read_text(encoding="utf-8"), flags=re.S | re.M
        )
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def _of_code(path: Path) -> Iterator[tuple[str, str]]:
    lines = io.StringIO(path.read_text(encoding="utf-8"))
    for token in tokenize.generate_tokens(lines.readline):
        is_docstring = token.type == tokenize.STRING and token.string.lstrip("rR").startswith('"""')
        if is_docstring or (token.type == tokenize.COMMENT and "noqa" not in token.string):
            yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string


def faults(pieces: list[tuple[str, str]], known: dict[str, list[str]]) -> list[str]:
    """Return a sentence for each ID without a row and for each without a source."""
    found = [
        f"{place}: {source}:{id_} has no row in {PAGES[source]}"
        for piece in pieces
        for place, source, id_ in cited(*piece)
        if id_ not in known[source]
    ]
    return found + [f"{place}: {id_} does not say whose it is" for place, text in pieces for id_ in bare(text)]
