"""What all tests of the ledger share."""

from __future__ import annotations

import pytest

from lsps2fast_plugin.service.sales_ledger import writer


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writer sync no file: where the disk is busy with other things each sync takes seconds."""
    monkeypatch.setattr(writer, "SYNCHRONOUS", "OFF")
