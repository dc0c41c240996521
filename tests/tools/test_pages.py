"""The codes of failed payments on docs/reference/errors.md are those that are given."""

from __future__ import annotations

import re
from pathlib import Path

import lsps2fast_plugin
from lsps2fast_plugin.service.sales_ledger.evidence import CODES

SERVICE = Path(lsps2fast_plugin.__file__).parent / "service"
GIVEN = re.compile(r"(?:Blame\(\w+, |open_failed\(action, |code=|code = ')\"?([a-z_]+)[\"']")


def test_every_code_of_a_failed_payment_is_on_the_page() -> None:
    """operator:O9: and none is there that nothing gives."""
    sources = "\n".join(path.read_text("utf-8") for path in SERVICE.rglob("*.py"))
    given = set(GIVEN.findall(sources))
    assert given == CODES.keys(), given ^ CODES.keys()
