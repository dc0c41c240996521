"""`make lint` finds words that pages do without; the pages have none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("prose", Path(__file__).parents[2] / "release" / "prose.py")
assert SPEC is not None
assert SPEC.loader is not None
prose = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prose)


def test_the_pages_do_without() -> None:
    """Each fault with its line and what to write instead."""
    found = [(page.name, *fault) for page in prose.pages() for fault in prose.faults(page.read_text("utf-8"))]
    assert found == []
    assert len(prose.pages()) > 40


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sign it anew.", ["anew"]),
        ("a channel of ours\nlest it fails", ["of ours", "lest"]),
        ("It is told by the node, as short as may be.", ["is told by", "as short as may be"]),
        ("Please note: this simply works", ["simply", "Please"]),
        ("This never fails.", ["never fails"]),
        ("the the node", ["the the"]),
        ('`of ours` is code, "anew" a quotation', []),
        ("```text\nanew\n```\nand anew", ["anew"]),
    ],
)
def test_each_is_seen_outside_of_code(text: str, words: list[str]) -> None:
    """Nothing of code and quotations."""
    assert sorted(found for _, found, _ in prose.faults(text)) == sorted(words)
