"""`lsps2fast check-database`: what PostgreSQL may forget is refused, on a real server where there is one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools import cli
from lsps2fast_plugin.tools.database_check import judge
from lsps2fast_plugin.tools.regtest.machines import open_to_all
from lsps2fast_plugin.tools.regtest.postgres import Postgres, find_postgres

GOOD = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "b",
    "replica": "false",
}
IN_STEP = [("b", "sync")]
QUORUM = {"synchronous_standby_names": "ANY 1 (b, c)"}


def complaints(settings: dict[str, str], standbys: list[tuple[str, str]]) -> str:
    """What is wrong, in one text."""
    return "; ".join(finding.text for finding in judge({**GOOD, **settings}, standbys) if not finding.well)


@pytest.mark.parametrize(
    ("settings", "standbys", "word"),
    [
        ({"replica": "true"}, [], "was not promoted"),
        ({"fsync": "off"}, IN_STEP, "fsync = on"),
        ({"full_page_writes": "off"}, IN_STEP, "full_page_writes = on"),
        ({"synchronous_commit": "off"}, IN_STEP, "synchronous_commit is off"),
        ({"synchronous_commit": "local"}, IN_STEP, "synchronous_commit is local"),
        ({"synchronous_commit": "remote_write"}, IN_STEP, "synchronous_commit is remote_write"),
        ({"synchronous_standby_names": ""}, [("b", "async"), ("c", "async")], "the replicas b, c may lack"),
        ({}, [], "no replica is in step"),
        ({}, [("b", "potential"), ("c", "async")], "no replica is in step"),
        ({}, [("b", "?")], "GRANT pg_read_all_stats"),
        (QUORUM, [("b", "quorum"), ("c", "quorum")], "is ANY 1 (b, c): a commit may be on any of them"),
        (QUORUM, [("b", "quorum")], "a commit may be on any of them"),
        ({"synchronous_standby_names": "any 2 (*)"}, [("b", "quorum"), ("c", "quorum")], "a commit may be on any"),
    ],
)
def test_what_may_lose_commits_is_named(settings: dict[str, str], standbys: list[tuple[str, str]], word: str) -> None:
    """cln:N6, rule:11: each setting that lets a commit be forgotten, alone."""
    assert word in complaints(settings, standbys)


@pytest.mark.parametrize(
    ("settings", "standbys"),
    [
        ({}, IN_STEP),
        (
            {"synchronous_commit": "remote_apply", "synchronous_standby_names": "ANY 2 (b, c)"},
            [("b", "quorum"), ("c", "quorum")],
        ),
        ({"synchronous_standby_names": "FIRST 1 (b, c)"}, [*IN_STEP, ("c", "potential")]),
        ({}, [*IN_STEP, ("c", "async")]),
        ({"synchronous_standby_names": ""}, []),
    ],
)
def test_what_loses_nothing_is_let_be(settings: dict[str, str], standbys: list[tuple[str, str]]) -> None:
    """cln:N6: a second replica may follow behind, and a server without any is its owner's choice."""
    assert complaints(settings, standbys) == ""


@pytest.mark.parametrize(
    ("names", "may_change"),
    [
        ("b", False),
        ("FIRST 1 (b)", False),
        ("FIRST 2 (b, c)", False),
        ("2 (b, c)", False),
        ("FIRST 1 (b, c)", True),
        ("first 2 (b, c, d)", True),
        ("1 (b, c)", True),
        ("b, c", True),
        ("*", True),
    ],
)
def test_which_replica_is_in_step_may_change(names: str, may_change: bool) -> None:
    """cln:N6, rule:11: a look at the start says nothing of a replica that goes away after it."""
    rows = [("b", "sync"), ("c", "potential")]
    said = "; ".join(finding.text for finding in judge({**GOOD, "synchronous_standby_names": names}, rows))
    assert ("in step with b: promote no other" in said) != may_change
    assert ("in step with b now" in said) == may_change
    assert "c follows behind" not in said


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server on loopback."""
    try:
        find_postgres()
    except ConfigError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="l2pg-") as directory:
        server = Postgres("a", open_to_all(Path(directory) / "a"), {"fsync": "on"})
        server.start()
        try:
            yield server
        finally:
            server.crash()


def check(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The command, and what it says."""
    code = cli.main(["check-database", url])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_a_real_server_and_its_replica(server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """cln:N6: alone it is well, with a replica that may lag it is not, in step it is; the replica itself is refused."""
    assert check(server.url, capsys)[0] == 0
    replica = server.replica("b", open_to_all(server.directory.parent / "b"))
    try:
        server.query("GRANT pg_read_all_stats TO lightning")
        code, out, _ = check(server.url, capsys)
        assert (code, "the replicas b may lack the last commits" in out) == (1, True)
        server.wait_for("b")
        code, out, _ = check(server.url, capsys)
        assert (code, "in step with b" in out) == (0, True)
        server.query("REVOKE pg_read_all_stats FROM lightning")
        code, out, _ = check(server.url, capsys)
        assert (code, "GRANT pg_read_all_stats" in out) == (1, True)
        code, out, _ = check(server.url.replace(str(server.port), str(replica.port)), capsys)
        assert (code, "was not promoted" in out) == (1, True)
    finally:
        replica.crash()


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "high-availability.md"


@pytest.mark.slow
def test_the_pages_recipe_for_a_server_that_is_gone(server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """cln:N6, trap: a replica whose settings are a copy takes the fence, and commits, once it waits for none."""
    (recipe,) = (block for block in PAGE.read_text().split("```") if "pg_promote" in block)
    server.query("CREATE ROLE lsp_a LOGIN IN ROLE lightning")
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'b'")
    replica = server.replica("b", open_to_all(server.directory.parent / "b"), {"fsync": "on"})
    try:
        server.query("SELECT pg_reload_conf()")
        server.crash()
        for line in recipe.removeprefix("sql").split("\n")[1:-1]:
            replica.query(line.strip())
        assert replica.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'lsp_a'") == "f"
        code, out, _ = check(replica.url, capsys)
        assert (code, "there is no replica" in out) == (0, True)
    finally:
        replica.crash()


@pytest.mark.slow
def test_a_server_that_does_not_let_us_in(server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong password and a wrong database are told, and the password is not."""
    code, out, err = check(server.url.replace(server.password, "wrong"), capsys)
    assert (code, out) == (2, "")
    assert "password authentication failed" in err
    assert server.password not in err
    code, _, err = check(server.url[: -len("lightning")] + "nowhere", capsys)
    assert (code, '"nowhere" does not exist' in err) == (2, True)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqlite3:///tmp/x", "lightningd's own"),
        ("postgres://", "lightningd's own"),
        ("postgres://u:sesame/p@h:5432/d", "no URL"),
        ("postgres://u:p@127.0.0.1:1/d", "127.0.0.1:1: "),
    ],
)
def test_what_cannot_be_asked_is_said(url: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad URL, or no server there: exit code 2 and a sentence."""
    if "127.0.0.1:1/" in url and shutil.which("psql") is None:
        pytest.skip("psql is not on PATH")
    code, out, err = check(url, capsys)
    assert (code, out) == (2, "")
    assert word in err
    assert "sesame" not in err


def test_the_url_may_stand_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password does not belong on a command line."""
    monkeypatch.setenv("LIGHTNINGD_WALLET", "sqlite3:///tmp/x")
    assert cli.main(["check-database"]) == 2
    assert "lightningd's own" in capsys.readouterr().err
    monkeypatch.delenv("LIGHTNINGD_WALLET")
    assert cli.main(["check-database"]) == 2
    assert "set LIGHTNINGD_WALLET" in capsys.readouterr().err
