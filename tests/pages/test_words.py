"""Words of code, pages and tests (CONTRIBUTING.md, "Sentences")."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "plugin", "docs", "tests", "benchmarks")
SUFFIXES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".md", ".json", ".toml"}
RULES = ("CONTRIBUTING.md", f"tests/pages/{Path(__file__).name}")  # they name the words
RECORDED = ("tests/data/real", "tests/data/recordings")  # as lightningd wrote it
UNWANTED = re.compile(r"\b(somebody|nobody|whoever|anybody|everybody)\b", re.IGNORECASE)


def files() -> list[Path]:
    """Return every text of the repository."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    paths = [*inside, *ROOT.glob("*.md")]
    return [path for path in paths if not path.relative_to(ROOT).as_posix().startswith((*RULES, *RECORDED))]


def unwanted(text: str) -> list[str]:
    """Return the lines with a word that hides who acts."""
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if UNWANTED.search(line)]


def test_sentences_name_who_acts() -> None:
    """Not "somebody", "nobody", "whoever": the payer, lightningd, the LSP."""
    found = {str(path.relative_to(ROOT)): unwanted(path.read_text(encoding="utf-8")) for path in files()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", ["# nobody asks", "Whoever pays, wins.", "that is somebody's coin"])
def test_such_a_word_is_found(line: str) -> None:
    assert unwanted(f"a\n{line}\n") == [f"2: {line}"]
