"""What every test file shares: the core in both runs, the wire vectors, hypothesis' profile, loud skips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from backends import RUNS, load_core
from hypothesis import settings
from logs import heard

settings.register_profile("lsps2fast", deadline=None, max_examples=80)
settings.load_profile("lsps2fast")


@pytest.fixture(autouse=True)
def log_is_heard() -> Iterator[None]:
    """Whatever a `Log` of the test is to hear."""
    with heard():
        yield


@pytest.fixture(scope="session", params=RUNS)
def tlv(request: pytest.FixtureRequest) -> ModuleType:
    """The TLV codec, compiled and pure."""
    return load_core(request.param, "_tlv")


@pytest.fixture(scope="session", params=RUNS)
def fsm(request: pytest.FixtureRequest) -> ModuleType:
    """The session machine, compiled and pure."""
    return load_core(request.param, "_fsm")


@pytest.fixture(scope="session", params=RUNS)
def hook(request: pytest.FixtureRequest) -> ModuleType:
    """The frame reader and answer writer, compiled and its Python twin."""
    return load_core(request.param, "_hook")


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """tests/data/wire-vectors.json; 64-bit numbers are decimal strings in it."""
    with (Path(__file__).parent / "data" / "wire-vectors.json").open(encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what did not run: a skip must never pass for a success."""
    skipped = len(terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.write_sep("!", f"{skipped} tests were SKIPPED and prove nothing", red=True, bold=True)
