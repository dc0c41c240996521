"""Desks for the tests of the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.host import (
    Desk,
)


@pytest.fixture(params=[True, False], ids=["lane in C", "lane in Python"])
def compiled(request: pytest.FixtureRequest) -> bool:
    """Which lane reads. A missing one fails, it does not skip."""
    return bool(request.param)


@pytest.fixture
def open_desk(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> Iterator[Callable[..., Desk]]:
    """Makes desks, and takes them and pyln's log handlers away afterwards."""
    monkeypatch.setenv("LIGHTNINGD_PLUGIN", "1")
    handlers = list(logging.getLogger().handlers)
    desks: list[Desk] = []

    def make(**options: Any) -> Desk:
        desks.append(Desk(compiled=compiled, **options))
        return desks[-1]

    yield make
    for desk in desks:
        desk.clean()
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    """A running host of a service whose scids are known."""
    opened = open_desk()
    opened.load()
    return opened
