"""What every test file shares: coroutines as tests, the log, the core in both runs, who may start processes."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.backends import RUNS, load_core
from harness.logs import heard
from hypothesis import settings

settings.register_profile("lsps2fast", deadline=None, max_examples=80)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("lsps2fast")

HERE = Path(__file__).parent
LIMIT_S = 120.0  # of a coroutine; another with the mark `within`
PROCESSES = (  # folders and files whose tests start processes; `make quick` leaves them out
    "browser",
    "crash",
    "ha",
    "interop",
    "model",
    "real",
    "replay",
    "simnode",
    "tools",
    *(f"client/test_{name}.py" for name in ("any_amount", "drain", "framed", "process", "real", "reuse")),
    "client/test_two_processes.py",
    *(f"cln/test_{name}.py" for name in ("built_in", "end")),
    "core/test_no_cython.py",
    "service/fleet/test_bad_input.py",
    "service/fleet/test_bench.py",
    "service/fleet/test_books.py",
    "service/fleet/test_database.py",
    "service/fleet/test_exactly.py",
    "service/fleet/test_hosts.py",
    "service/fleet/test_nodes.py",
    "service/fleet/test_pooler.py",
    "service/recovery/test_start.py",
    "service/unit/test_webhook_signer.py",
    "test_types.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes."""
    for item in items:
        path = item.path.relative_to(HERE) if HERE in item.path.parents else item.path
        is_story = path.parent == Path("service")
        if is_story or any(path.is_relative_to(place) for place in PROCESSES):
            item.add_marker(pytest.mark.process)


@pytest.fixture(autouse=True)
def no_process_without_the_mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep `make quick` quick: a test that starts a process says so."""
    if request.node.get_closest_marker("process") is None:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError(
                "this test starts a process: mark it, or name its file in PROCESSES of tests/conftest.py"
            )

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine within a limit: on the loop of its fixture `runner`, else on one of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    work = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    within = pyfuncitem.get_closest_marker("within")
    limited = asyncio.wait_for(work, within.args[0] if within else LIMIT_S)
    runner: asyncio.Runner | None = pyfuncitem.funcargs.get("runner")
    if runner is None:
        asyncio.run(limited)
    else:
        runner.run(limited)
    return True


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
    with (HERE / "data" / "wire-vectors.json").open(encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail `make real`, `interop`, `ha` and `fleet` where nothing ran: a skip proves nothing (operator:O10)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    asked = str(session.config.option.markexpr)
    if reporter is None or asked not in ("real", "interop", "ha", "fleet") or session.config.option.collectonly:
        return
    counts = {kind: len(reporter.stats.get(kind, ())) for kind in ("passed", "failed", "error", "skipped")}
    reporter.ensure_newline()
    reporter.write_line(f"make {asked}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if not counts["passed"] and not session.exitstatus:
        reporter.write_line(f"NOTHING RAN: `make {asked}` fails, because no test of it could be tried here", red=True)
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what did not run: a skip must never pass for a success."""
    skipped = len(terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.write_sep("!", f"{skipped} tests were SKIPPED and prove nothing", red=True, bold=True)
