"""One LSP on several machines, lightningd on PostgreSQL (`make ha`). What is missing is said, takeovers are counted."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.evidence import tidy
from harness.town import programs as programs
from harness.town import retire

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools.regtest import Programs
from lsps2fast_plugin.tools.regtest.machines import Machines, TakenOver
from lsps2fast_plugin.tools.regtest.postgres import find_postgres
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

HERE = Path(__file__).parent
TAKEN_OVER = pytest.StashKey[list[TakenOver]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A quarter of an hour of real nodes: nothing here is run unless it is asked for."""
    return True if HERE in collection_path.parents and "ha" not in str(config.option.markexpr).split() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is here."""
    config.stash[TAKEN_OVER] = []
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ha)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell how often another machine took over, and how long that took."""
    if times := config.stash.get(TAKEN_OVER, []):
        ours, theirs = sorted(each.ours_s for each in times), sorted(each.lightningd_s for each in times)
        terminalreporter.write_line(
            f"{len(times)} takeovers: lightningd was up after {theirs[len(theirs) // 2]:.1f} s (most {theirs[-1]:.1f}),"
            f" the service sold {ours[len(ours) // 2]:.2f} s later (most {ours[-1]:.2f})"
        )


@pytest.fixture(scope="session")
def postgres(programs: Programs) -> None:
    """Skip with the reason where lightningd cannot use PostgreSQL or there is none."""
    try:
        find_postgres()
    except ConfigError as error:
        pytest.skip(f"{error}")
    libraries = subprocess.run(["ldd", programs.lightningd], capture_output=True, text=True, check=False).stdout
    if "libpq" not in libraries:
        pytest.skip("this lightningd was built without libpq")


@pytest.fixture(scope="session")
def build_machines(postgres: None, programs: Programs) -> Iterator[Callable[..., Machines]]:
    """Make a town with machines; all are closed and removed at the end of the run."""
    towns: list[Machines] = []

    def make(mode: str = CLIENT_TRUSTS) -> Machines:
        town = Machines(Path(tempfile.mkdtemp(prefix="l2h-", dir="/tmp")), mode, programs=programs)
        towns.append(town)
        town.open()
        return town

    yield make
    for town in towns:
        town.close()
        if os.environ.get("LSPS2FAST_KEEP") != "1":
            town.remove()


@pytest.fixture(scope="session")
def client_trusts_machines(build_machines: Callable[..., Machines]) -> Machines:
    """The LSP broadcasts after the client was paid."""
    return build_machines(CLIENT_TRUSTS)


@pytest.fixture(scope="session")
def lsp_trusts_machines(build_machines: Callable[..., Machines]) -> Machines:
    """The LSP broadcasts at once."""
    return build_machines(LSP_TRUSTS)


@pytest.fixture(params=[CLIENT_TRUSTS, LSP_TRUSTS])
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Both trust modes, one after the other; whatever happened, nothing may be left of it."""
    name = {CLIENT_TRUSTS: "client_trusts_machines", LSP_TRUSTS: "lsp_trusts_machines"}[request.param]
    town: Machines = request.getfixturevalue(name)
    yield town
    request.config.stash[TAKEN_OVER] += town.taken_over
    town.taken_over.clear()
    retire(town, [town.bitcoind, town.database, town.payer, town.lsp])
    tidy(town)
