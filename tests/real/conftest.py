"""Real nodes for tests: `town` is shared by a run, `found_town` makes one that a test may break.

Own fixtures instead of pyln-testing's, because the playground `lsps2fast regtest` needs the same nodes without pytest.
Set LSPS2FAST_KEEP=1 to keep the directories with the logs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.evidence import Evidence, tidy

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools.regtest import Lightningd, Programs, Town, find_programs
from lsps2fast_plugin.tools.regtest.processes import Child
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs real nodes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def programs() -> Programs:
    """lightningd and bitcoind, or a skip that says what is missing."""
    try:
        return find_programs()
    except ConfigError as error:
        pytest.skip(f"real nodes are needed: {error}")


@pytest.fixture(scope="session")
def open_town(programs: Programs) -> Iterator[Callable[..., Town]]:
    """Make a town; all are closed and removed at the end of the run."""
    towns: list[Town] = []

    def make(mode: str = CLIENT_TRUSTS, **options: Any) -> Town:
        town = Town(Path(tempfile.mkdtemp(prefix="l2r-", dir="/tmp")), mode, programs=programs, **options)
        towns.append(town)
        town.open()
        return town

    yield make
    for town in towns:
        town.close()
        if os.environ.get("LSPS2FAST_KEEP") != "1":
            town.remove()


@pytest.fixture
def found_town(open_town: Callable[..., Town]) -> Iterator[Callable[..., Town]]:
    """Like `open_town`, and closed at the end of the test."""
    towns: list[Town] = []

    def make(mode: str = CLIENT_TRUSTS, **options: Any) -> Town:
        town = open_town(mode, **options)
        towns.append(town)
        return town

    yield make
    for town in towns:
        town.close()


@pytest.fixture(scope="session")
def client_trusts_town(open_town: Callable[..., Town]) -> Town:
    """The LSP broadcasts after the client was paid."""
    return open_town(CLIENT_TRUSTS)


@pytest.fixture(scope="session")
def lsp_trusts_town(open_town: Callable[..., Town]) -> Town:
    """The LSP broadcasts at once."""
    return open_town(LSP_TRUSTS)


def retire(town: Town, before: list[Child]) -> None:
    """Stop the nodes that a test has made: each is twenty processes, and every later block would wait for it."""
    for node in [child for child in town.children if child not in before]:
        assert isinstance(node, Lightningd)
        node.stop()
        town.children.remove(node)


@pytest.fixture
def town(client_trusts_town: Town) -> Iterator[Town]:
    """The shared town; whatever happened, nothing may be left of it."""
    evidence, before = Evidence(client_trusts_town), list(client_trusts_town.children)
    yield client_trusts_town
    retire(client_trusts_town, before)
    tidy(client_trusts_town)
    assert evidence.unanswered() == []


@pytest.fixture(params=[CLIENT_TRUSTS, LSP_TRUSTS])
def each_town(request: pytest.FixtureRequest) -> Iterator[Town]:
    """Both trust modes, one after the other."""
    name = {CLIENT_TRUSTS: "client_trusts_town", LSP_TRUSTS: "lsp_trusts_town"}[request.param]
    town: Town = request.getfixturevalue(name)
    evidence, before = Evidence(town), list(town.children)
    yield town
    retire(town, before)
    tidy(town)
    assert evidence.unanswered() == []
