"""Pages that are made from the code are the ones that the code makes."""

from __future__ import annotations

import re
from pathlib import Path

import lsps2fast_plugin
from lsps2fast_plugin.service.sales_ledger.evidence import CODES
from lsps2fast_plugin.tools import errors_page, runbook_page

ROOT = Path(__file__).parents[2]
SERVICE = Path(lsps2fast_plugin.__file__).parent / "service"
GIVEN = re.compile(r"(?:Blame\(\w+, |open_failed\(action, |code=|code = ')\"?([a-z_]+)[\"']")


def test_the_page_of_errors_is_the_one_that_the_code_makes() -> None:
    """operator:O9: `python -m lsps2fast_plugin.tools.errors_page`."""
    assert (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8") == errors_page.reference()


def test_the_runbook_is_the_one_that_the_code_makes() -> None:
    """operator:O12: `python -m lsps2fast_plugin.tools.runbook_page`."""
    assert (ROOT / "docs" / "how-to" / "runbook.md").read_text("utf-8") == runbook_page.reference()


def test_every_code_of_a_failed_payment_is_on_the_page() -> None:
    """operator:O9: and none is there that nothing gives."""
    sources = "\n".join(path.read_text("utf-8") for path in SERVICE.rglob("*.py"))
    given = set(GIVEN.findall(sources))
    assert given == CODES.keys(), given ^ CODES.keys()
