"""The public API: page, `__all__`, docstrings and signatures say the same, and docs use public names only."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pages.python_api import PAGE, faults, page

import lsps2fast

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOR_CONTRIBUTORS = {"write-a-strategy"}  # what they write becomes part of the package


def _blocks(pages: list[Path]) -> list[Any]:
    return [
        pytest.param(code, id=f"{path.stem}-{number}")
        for path in pages
        for number, code in enumerate(
            re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)
        )
    ]


def test_the_page_is_up_to_date() -> None:
    """`make api` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_each_public_name_has_a_docstring_and_a_signature() -> None:
    """Also methods, also compiled; and each has its section on the page."""
    assert faults() == []


def test_all_lists_what_dir_shows() -> None:
    """Lazy names can be found and completed."""
    assert set(lsps2fast.__all__) <= set(dir(lsps2fast))
    assert len(set(lsps2fast.__all__)) == len(lsps2fast.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        lsps2fast.nonsense  # noqa: B018


@pytest.mark.parametrize("code", _blocks([path for path in PAGES if path.stem not in FOR_CONTRIBUTORS]))
def test_pages_import_public_names_only(code: str) -> None:
    """A name that is not in `__all__` may change."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lsps2fast"):
            base, _, module = (node.module or "").partition(".")
            assert base == "lsps2fast"
            names = [module] if module else [alias.name for alias in node.names]
            assert set(names) <= set(lsps2fast.__all__), ast.unparse(node)


@pytest.mark.parametrize("code", _blocks(PAGES))
def test_python_on_a_page_runs(code: str) -> None:
    """Each block by itself."""
    exec(compile(code, "page", "exec"), {})
