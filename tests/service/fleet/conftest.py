"""A PostgreSQL of Debian's on loopback, where the machine has one; each test gets a schema of its own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fleet import FleetServer, Pooler

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet import database
from lsps2fast_plugin.tools.regtest.postgres import find_postgres

HERE = Path(__file__).parent
SCHEMAS = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the server."""
    for item in items:
        if HERE in item.path.parents and "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.fleet)


@pytest.fixture(scope="session")
def server() -> Iterator[FleetServer]:
    """Skip with the reason where there is no PostgreSQL."""
    try:
        find_postgres()
        directory = Path(tempfile.mkdtemp(prefix="l2f-", dir="/tmp"))
        running = FleetServer(directory)
    except ConfigError as error:
        pytest.skip(f"a fleet needs PostgreSQL: {error}")
    running.start()
    yield running
    running.remove()


@pytest.fixture
def url(server: FleetServer) -> str:
    """An empty fleet on regtest, as its nodes name it."""
    if not server.runs:
        server.start()
    return server.fleet(f"fleet_{next(SCHEMAS)}")


@pytest.fixture(scope="session")
def pooler(server: FleetServer) -> Iterator[Pooler]:
    """Skip with the reason where there is none."""
    try:
        running = Pooler(server, Path(tempfile.mkdtemp(prefix="l2p-", dir="/tmp")))
    except ConfigError as error:
        pytest.skip(f"a pooler is tried with PgBouncer: {error}")
    running.start()
    yield running
    running.remove()


@pytest.fixture(params=["direct", "pooler"])
def door(request: pytest.FixtureRequest, url: str) -> str:
    """The same, straight or by way of a pooler."""
    if request.param == "direct":
        return url
    pooler: Pooler = request.getfixturevalue("pooler")
    return pooler.in_front(url)


@pytest.fixture
def other_url(server: FleetServer) -> str:
    """Another fleet in the same database."""
    return server.fleet(f"fleet_{next(SCHEMAS)}")


@pytest.fixture
def impatient() -> None:
    """For tests of a database that does not answer: questions end after two seconds, as they do for operators."""


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a machine that stands still for a moment is no database that is away."""
    if "impatient" not in request.fixturenames:
        monkeypatch.setattr(database, "PATIENCE_S", 60.0)
