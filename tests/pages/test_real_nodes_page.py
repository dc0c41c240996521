"""docs/real-nodes.md names every scenario that runs on real nodes, and no other."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_the_page_names_every_test_on_real_nodes() -> None:
    page = (TESTS.parent / "docs" / "real-nodes.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in sorted((TESTS / "real").glob("test_*.py"))]
    written = re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE)
    assert sorted(re.findall(r"`(test_\w+)`", page)) == sorted(written)
