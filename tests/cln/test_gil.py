"""A free-threaded Python is refused with a sentence, before anything begins."""

from __future__ import annotations

import sys

import pytest

from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.service.app import Service

CONFIGURATION = {"lightning-dir": "/l", "rpc-file": "rpc"}


@pytest.mark.parametrize("app", [Service, Client])
def test_without_the_gil_the_plugin_disables_itself(
    app: type[Service] | type[Client], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """lightningd goes on, and says why the plugin does not."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    answer = app()._init({}, CONFIGURATION)
    assert answer is not None
    assert "without its GIL" in answer["disable"]
    assert "PYTHON_GIL=1" in answer["disable"]
    assert "not started" in capfd.readouterr().out
