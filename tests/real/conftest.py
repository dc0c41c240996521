"""Real nodes for tests: `town` is shared by a run, `found_town` makes one that a test may break.

Own fixtures instead of pyln-testing's, because the playground `lsps2fast regtest` needs the same nodes without pytest.
Set LSPS2FAST_KEEP=1 to keep the directories with the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.evidence import Evidence, tidy
from harness.town import found_town as found_town
from harness.town import open_town as open_town
from harness.town import programs as programs
from harness.town import retire

from lsps2fast_plugin.tools.regtest import Town
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs real nodes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def client_trusts_town(open_town: Callable[..., Town]) -> Town:
    """The LSP broadcasts after the client was paid."""
    return open_town(CLIENT_TRUSTS)


@pytest.fixture(scope="session")
def lsp_trusts_town(open_town: Callable[..., Town]) -> Town:
    """The LSP broadcasts at once."""
    return open_town(LSP_TRUSTS)


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
