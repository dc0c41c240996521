"""docs/explanation/lsp-risk.md: each bound names the tests that prove it, and there are such tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "lsp-risk.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
NAMED = sorted(set(re.findall(r"`(test_\w+)`", PAGE)))


def test_the_page_names_many_tests() -> None:
    """rule:18, rule:19: a page that lost its proofs is found."""
    assert len(NAMED) > 20


@pytest.mark.parametrize("name", NAMED)
def test_each_test_that_the_page_names_is_there(name: str) -> None:
    """rule:18, rule:19."""
    assert re.search(rf"^(async )?def {name}\(", TESTS, re.M)
