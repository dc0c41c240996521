"""docs/conformance.md: every requirement of the specification, and the tests whose docstrings carry its ID.

`make conformance` writes the page. The rules are in data/requirements.json, the reasons for rules that no test can
show in data/untested.json; `faults` says what is wrong with either, or with a docstring.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
TESTS = ROOT / "tests"

HEAD = """# Conformance

Every rule of bLIP-50, bLIP-51 (the LSP's half), bLIP-52 and bLIP-55, with our decisions where they are silent, and the
tests that show it. L is the LSP, C the client, B both, which then needs tests of both. A test belongs to a rule when
its docstring carries the ID. Where there is none, the reason stands in its place. `make conformance` writes this page;
the reasons are in `tests/data/untested.json`; `tests/pages/test_conformance.py` fails when either is out of date.

"""

_MARK = r"[A-Z]-\d+\b"
_MARKS = re.compile(rf"\b({_MARK})(?:(?: to | … |–|-)({_MARK}))?")


class Rule(NamedTuple):
    """One requirement; `level` and `role` are those of the specification, `about` is ours."""

    id: str
    level: str
    role: str
    section: str
    about: str


class OpenPoint(NamedTuple):
    """A question that the specification leaves open, and our answer."""

    id: str
    question: str
    answer: str


class Place(NamedTuple):
    """A docstring: file below the root, what it belongs to, and the IDs in it."""

    path: str
    name: str
    ids: tuple[str, ...]
    is_test: bool


class Requirements(NamedTuple):
    """data/requirements.json: titles by section, the rules in order, and the open points."""

    sections: dict[str, str]
    rules: list[Rule]
    open_points: list[OpenPoint]


def read_requirements() -> Requirements:
    """Raises KeyError or TypeError for a file that lacks something."""
    data = json.loads((TESTS / "data" / "requirements.json").read_text(encoding="utf-8"))
    rules = [Rule(**rule) for rule in data["rules"]]
    return Requirements(data["sections"], rules, [OpenPoint(**point) for point in data["open_points"]])


def read_reasons() -> dict[str, str]:
    """Why a rule has no test, by its ID."""
    reasons: dict[str, str] = json.loads((TESTS / "data" / "untested.json").read_text(encoding="utf-8"))
    return reasons


def ids_in(text: str) -> list[str]:
    """The IDs in a text, ranges such as "C-20 to C-23" written out."""
    found: list[str] = []
    for first, last in _MARKS.findall(text):
        found += _range(first, last) if last else [first]
    return found


def _range(first: str, last: str) -> list[str]:
    """What lies between two IDs of one kind; both of them when they are of two kinds or the wrong way round."""
    kind, start = re.fullmatch(r"([A-Z]-)(\d+)", first).groups()  # type: ignore[union-attr]
    end_kind, end = re.fullmatch(r"([A-Z]-)(\d+)", last).groups()  # type: ignore[union-attr]
    if kind != end_kind or int(start) > int(end):
        return [first, last]
    return [f"{kind}{number:0{len(start)}}" for number in range(int(start), int(end) + 1)]


@functools.cache
def read_places() -> list[Place]:
    """Every docstring below tests/ with an ID in it."""
    return [place for path in sorted(TESTS.rglob("*.py")) for place in _places_of(path)]


def _places_of(path: Path) -> Iterator[Place]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            name = getattr(node, "name", "the file")
            ids = tuple(ids_in(ast.get_docstring(node) or ""))
            is_test = path.name.startswith("test_") and name.startswith("test_")
            if ids:
                yield Place(path.relative_to(ROOT).as_posix(), name, ids, is_test)


OF_BOTH = ("tests/core/", "tests/real/", "tests/tools/", "tests/pages/", "tests/test_")
MACHINE = frozenset({"fees", "index", "losses", "orders", "properties", "start", "stories", "table", "troubles"})


def sides(path: str) -> str:
    """Whose program the tests of a file are about: C, L or both; empty for the embedded node."""
    if path.startswith("tests/simnode/"):
        return ""
    if path.startswith("tests/client/"):
        return "C"
    if path.startswith("tests/core/test_") and Path(path).stem.removeprefix("test_") in MACHINE:
        return "L"
    return "LC" if path.startswith(OF_BOTH) else "L"


def tested(places: list[Place]) -> dict[str, list[str]]:
    """The files with tests of each ID, in order."""
    files: dict[str, set[str]] = {}
    for place in places:
        for mark in place.ids if place.is_test and sides(place.path) else ():
            files.setdefault(mark, set()).add(place.path)
    return {mark: sorted(paths) for mark, paths in files.items()}


def untested(rule: Rule, paths: list[str]) -> str:
    """The sides that this rule binds and none of these files is about, such as "C"; a rule for both needs two."""
    bound = "LC" if "B" in rule.role else "".join(side for side in "LC" if side in rule.role)
    shown = "".join(map(sides, paths))
    return "".join(side for side in bound if side not in shown)


def faults(requirements: Requirements, places: list[Place], reasons: dict[str, str]) -> list[str]:
    """A sentence for each ID that does not exist, each rule without test or reason, each reason without need."""
    rules = {rule.id for rule in requirements.rules}
    known = rules.union(point.id for point in requirements.open_points)
    shown = tested(places)
    missing = {rule.id: sides for rule in requirements.rules if (sides := untested(rule, shown.get(rule.id, [])))}
    found = [
        f"{place.path}, {place.name}: {mark} does not exist"
        for place in places
        for mark in place.ids
        if mark not in known
    ]
    found += [
        f"{mark} has neither a test nor a reason for {missing[mark]}" for mark in sorted(missing.keys() - reasons)
    ]
    found += [f"{mark} has its tests, the reason is stale" for mark in sorted(reasons.keys() & rules - missing.keys())]
    found += [f"{mark} has a reason and does not exist" for mark in sorted(reasons.keys() - rules)]
    return found


def page(requirements: Requirements, places: list[Place], reasons: dict[str, str]) -> str:
    """The whole of docs/conformance.md."""
    shown = tested(places)
    text = HEAD
    for section, title in requirements.sections.items():
        text += f"## {title}\n\n| ID | level | role | rule | tests |\n|---|---|---|---|---|\n"
        for rule in requirements.rules:
            if rule.section == section:
                where = [*map(_link, shown.get(rule.id, [])), *filter(None, [reasons.get(rule.id)])]
                text += f"| {rule.id} | {rule.level} | {rule.role} | {rule.about} | {', '.join(where)} |\n"
        text += "\n"
    text += "## Open points of the specification\n\n| ID | question | our answer |\n|---|---|---|\n"
    text += "".join(f"| {point.id} | {point.question} | {point.answer} |\n" for point in requirements.open_points)
    return text.rstrip("\n") + "\n"


def _link(path: str) -> str:
    return f"[{path.removeprefix('tests/').removesuffix('.py')}](../{path})"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read_requirements(), read_places(), read_reasons()), encoding="utf-8")


if __name__ == "__main__":
    main()
