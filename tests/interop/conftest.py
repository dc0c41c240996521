"""Our plugins beside the nodes of others: ldk-node, lnd, and lightningd's built-in LSPS plugins (`make interop`).

Each peer is found or built (`programs`); where that cannot be done its tests are skipped with the reason. The table at
the end has a row for each scenario; LSPS2FAST_RECORD=1 writes it to docs/interop.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import programs as others
from harness.peers import Ldk, Lnd
from harness.town import found_town as found_town
from harness.town import open_town as open_town
from harness.town import programs as programs

from lsps2fast_plugin.tools.regtest import Bitcoind, Town
from lsps2fast_plugin.tools.regtest.processes import Child
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "interop.md"
MARK = "<!-- results -->"
ROWS = pytest.StashKey[dict[str, tuple[str, str, str, str]]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Builds of other people's nodes take minutes: nothing here is run unless it is asked for."""
    return True if HERE in collection_path.parents and "interop" not in str(config.option.markexpr) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is here, and note pair and scenario of each test: its module and its docstring."""
    config.stash[ROWS] = {}
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep a row for the table."""
    report = yield
    if HERE in item.path.parents and (report.when == "call" or report.outcome != "passed"):
        function = getattr(item, "obj", None)
        scenario = (function.__doc__ or item.name).strip().splitlines()[0].rstrip(".")
        words = re.search(r"\[(.*)\]", item.name)
        result = {"passed": "works", "failed": "FAILS", "skipped": "not run"}[report.outcome]
        pair = item.module.PAIR  # type: ignore[attr-defined]
        item.config.stash[ROWS][item.nodeid] = (pair, scenario, words[1] if words else "", result)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table; with LSPS2FAST_RECORD=1 write it to the page."""
    rows = list(config.stash.get(ROWS, {}).values())
    if not rows:
        return
    counts = {result: sum(row[3] == result for row in rows) for result in ("works", "FAILS", "not run")}
    terminalreporter.write_sep("=", ", ".join(f"{count} {result}" for result, count in counts.items()))
    for row in rows:
        terminalreporter.write_line(" | ".join(row))
    if os.environ.get("LSPS2FAST_RECORD") == "1":
        lines = [f"{len(rows)} scenarios: {counts['works']} work, {counts['FAILS']} fail, {counts['not run']} not run."]
        lines += [f"Run {time.strftime('%Y-%m-%d', time.gmtime())} on commit {commit()} with {versions()}.", ""]
        lines += ["| pair | scenario | variant | result |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(head + MARK + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def commit() -> str:
    """Of this tree, with a + where something in it is changed."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def versions() -> str:
    """Who took part."""
    from lsps2fast_plugin.tools.regtest import find_programs

    found = find_programs()
    commands = {"lightningd": [found.lightningd, "--version"], "bitcoind": [found.bitcoind, "--version"]}
    said = {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
        for name, command in commands.items()
    }
    lightningd, bitcoind = said["lightningd"][-1], said["bitcoind"][0].rpartition(" ")[2]
    return f"lightningd {lightningd}, bitcoind {bitcoind}, ldk-node {others.LDK_NODE}, lnd {others.LND}"


@pytest.fixture(scope="session")
def ldk_program() -> Path:
    """Our ldk-node, or a skip with the reason."""
    try:
        return others.ldk_peer()
    except others.NotHere as error:
        pytest.skip(f"no ldk-node: {error}")


@pytest.fixture(scope="session")
def lnd_programs() -> tuple[Path, Path]:
    """Lnd and lncli, or a skip with the reason."""
    try:
        return others.lnd()
    except others.NotHere as error:
        pytest.skip(f"no lnd: {error}")


@pytest.fixture(scope="module")
def towns(open_town: Callable[..., Town]) -> Callable[[str], Town]:
    """One town for each trust mode, shared by a module."""
    made: dict[str, Town] = {}

    def town(mode: str) -> Town:
        if mode not in made:
            made[mode] = open_town(mode, payer_channels=2)
        return made[mode]

    return town


@pytest.fixture(params=[CLIENT_TRUSTS, LSP_TRUSTS])
def town(request: pytest.FixtureRequest, towns: Callable[[str], Town]) -> Town:
    """Both trust modes."""
    return towns(request.param)


@pytest.fixture
def client_trusts_town(towns: Callable[[str], Town]) -> Town:
    """The LSP broadcasts after the client was paid."""
    return towns(CLIENT_TRUSTS)


@pytest.fixture
def ended() -> Iterator[Callable[[Child], Any]]:
    """Hand over a peer; it is stopped at the end of the test."""
    peers: list[Any] = []

    def keep(peer: Any) -> Any:
        peers.append(peer)
        return peer

    yield keep
    for peer in reversed(peers):
        peer.stop()


@pytest.fixture
def ldk(ldk_program: Path, ended: Callable[[Any], Any]) -> Callable[..., Ldk]:
    """Start an ldk-node in a town."""
    names = iter(range(1000))

    def start(town: Town, **config: Any) -> Ldk:
        name = f"ldk{next(names)}-{time.monotonic_ns() % 10**6}"
        peer: Ldk = ended(Ldk(name, town.directory / name, ldk_program, town.bitcoind, **config))
        peer.start()
        return peer

    return start


@pytest.fixture
def lnd(lnd_programs: tuple[Path, Path], ended: Callable[[Any], Any]) -> Callable[..., Lnd]:
    """Start an lnd beside a bitcoind."""

    def start(directory: Path, bitcoind: Bitcoind) -> Lnd:
        peer: Lnd = ended(Lnd("lnd", directory, lnd_programs, bitcoind))
        peer.start()
        return peer

    return start
