"""`lsps2fast report`: from a file and from a node, as a table that cuts no amount, as CSV, as JSON."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness.sales_ledger import FEE_MSAT, SCID, T0, a_buy, a_channel, a_sale, an_attempt
from harness.service import LSP_TRUSTS, Stage

from lsps2fast_plugin.service.sales_ledger import schema
from lsps2fast_plugin.service.sales_ledger.periods import text_of
from lsps2fast_plugin.service.sales_ledger.writes import write
from lsps2fast_plugin.tools import cli
from lsps2fast_plugin.tools import report as command

WHEN = ["--since", str(T0 // 1000), "--until", str(T0 // 1000 + 86_400)]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """One sale and one failure, with a token that looks like a formula."""
    path = tmp_path / "sales.sqlite3"
    db = sqlite3.connect(path, isolation_level=None)
    schema.migrate(db)
    failed = an_attempt(outcome="Failed", failed_by="payer", code="incomplete", reason="no", ended_ms=T0 + 2_000)
    for fact in (a_buy(), failed, a_channel(), a_sale(began_ms=T0 + 3_000, token="=1+1")):
        write(db, fact)
    db.close()
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert cli.main(["report", *arguments]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_the_money_of_a_time(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O2: a total, and a row for each part."""
    out = said(capsys, "--file", ledger, *WHEN, "--by", "day")
    assert out.startswith(f"{text_of(T0)} to")
    assert "1,000" in out
    answer = json.loads(said(capsys, "--file", ledger, *WHEN, "--json"))
    assert (answer["total"]["earned_msat"], answer["total"]["sales"], answer["total"]["failed"]) == (FEE_MSAT, 1, 1)


def test_rows_for_a_spreadsheet(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O2: msat, whole ids; what a spreadsheet would take for a formula is text."""
    rows = list(csv.DictReader(io.StringIO(said(capsys, "sales", "--file", ledger, "--csv"))))
    assert [(row["outcome"], row["fee_taken_msat"], row["token"]) for row in rows] == [
        ("Succeeded", str(FEE_MSAT), "'=1+1"),
        ("Failed", "0", ""),
    ]
    by_token = said(capsys, "--file", ledger, *WHEN, "--by", "token", "--csv")
    assert sum(int(row["earned_msat"]) for row in csv.DictReader(io.StringIO(by_token))) == FEE_MSAT


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_a_narrow_terminal_cuts_no_amount(
    width: int, ledger: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """operator:O10: columns are left out, the money last."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = said(capsys, "--file", ledger, *WHEN)
    lines = out.splitlines()[1:]
    assert "1,000" in lines[-1]
    assert width < 40 or all(len(line) <= width for line in lines)
    sales = said(capsys, "sales", "--file", ledger, "--outcome", "Succeeded")
    assert "Succeeded" in sales
    assert width < 60 or "1,000" in sales


def test_a_story(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O1: a sentence a line."""
    assert "It is paid: 1,000 sat of an opening fee of 1,000 sat came." in said(
        capsys, "explain", SCID, "--file", ledger
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "/no/such.sqlite3"], "there is no ledger /no/such.sqlite3"),
        (["--rpc", "/no/such-rpc"], "name the socket of your lightningd with --rpc, or a ledger with --file"),
        (["closable", "--file", "LEDGER"], "only a running node knows"),
        (["explain", "--file", "LEDGER"], "explain what?"),
        (["--since", "soon", "--file", "LEDGER"], "--since='soon' is no time"),
        (["sales", "--limit", "0", "--file", "LEDGER"], "--limit must be at least 1"),
        (["sales", "--peer", "alice", "--file", "LEDGER"], "--peer"),
        (["sales", "02ab", "--file", "LEDGER"], "'02ab' has no place here"),
        (["--file", __file__], "it is no database"),
        (["--file", "EMPTY"], "is empty: name the ledger of a service that has run"),
        (["--file", "OLD"], "has version 1: the service brings it to 2 when it starts"),
    ],
)
def test_what_cannot_be_answered_is_told(
    arguments: list[str], words: str, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """operator:O9, operator:O10: one line, no traceback."""
    empty = tmp_path / "empty.sqlite3"
    empty.touch()
    old = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(old)) as db:
        db.executescript(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 1;")
    names = {"LEDGER": ledger, "EMPTY": str(empty), "OLD": str(old)}
    err = said(capsys, *[names.get(each, each) for each in arguments], code=2)
    assert words in err
    assert err.count("\n") == 1


CHANNEL: dict[str, Any] = {
    "channel_id": "cc" * 32,
    "short_channel_id": "100x1x0",
    "peer_id": "02" + "11" * 32,
    "capacity_msat": 120_000_000,
    "to_us_msat": 110_000_000,
    "opening_fee_msat": 1_000_000,
    "routing_fees_msat": 0,
    "mining_msat": 500_000,
    "idle_days": 71,
    "last_used_at": "2026-09-19T00:00:00Z",
    "rule": "spent",
    "why_not": [],
}


@pytest.mark.parametrize(
    ("is_on", "is_cheap", "rules", "words"),
    [
        (
            True,
            False,
            ["spent", "old"],
            "closing by rule is on (spent, old); no cheap hours now, at most 1250 sat per 1000 weight; in 24 hours 1 of"
            " 5, under way 2",
        ),
        (False, True, ["spent"], "closing by rule is off (spent); cheap hours now, at most 1250"),
        (False, True, [], "closing by rule: the policy has no rules"),
    ],
)
def test_the_dry_run_of_closes_is_a_table(
    is_on: bool,
    is_cheap: bool,
    rules: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """operator:O2: what a rule would do, or why it would not, and what binds the others."""
    kept = {"short_channel_id": "200x1x0", "confirmations": 5, "min_lifetime_blocks": 6, "peer_id": "03" + "22" * 32}
    by_rule = {
        "is_on": is_on,
        "is_cheap": is_cheap,
        "rules": rules,
        "max_feerate_perkw": 1_250,
        "closed_in_24_hours": 1,
        "closes_per_day": 5,
        "under_way": [{}, {}],
    }
    other = CHANNEL | {
        "short_channel_id": "101x1x0",
        "rule": None,
        "why_not": ["spent: it was used", "old: it is young"],
    }
    answer = {
        "feerate_perkw": 253,
        "closing_msat": 202_400,
        "by_rule": by_rule,
        "channels": [CHANNEL, other],
        "kept": [kept | {"why": "its client has an offer that is still good"}],
    }
    asked: list[Any] = []
    monkeypatch.setattr(command, "call", lambda path, method, params: asked.append((method, params)) or answer)
    lines = said(capsys, "closable", "--kept").splitlines()
    assert asked == [("lsps2-closable", {"kept": True})]
    assert lines[0] == "closing costs 203 sat at 253 sat per 1000 weight"
    assert lines[1].startswith(words)
    assert lines[3].split()[:4] == ["100x1x0", "71", "spent", "1,000"]
    assert lines[4].endswith("spent: it was used; old: it is young")
    assert lines[-1].split()[:3] == ["200x1x0", "5", "6"]
    assert "its client has an offer that is still good" in lines[-1]
    assert "spent: it was used; old: it is young" in said(capsys, "closable", "--csv")
    answer["channels"] = []
    assert "no channel can be closed" in said(capsys, "closable").splitlines()


async def test_a_node_answers_the_same_as_its_file() -> None:
    """operator:O2: over lightning-rpc, page by page, and from the file."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        await stage.sale(stage.client(), stage.payer())
        rpc, path = f"{stage.lsp.lightning_dir}/lightning-rpc", f"{stage.lsp.lightning_dir}/lsps2-sales.sqlite3"

        async def ask(*arguments: str) -> str:
            command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "report", *arguments]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode()

        asked = await ask("sales", "--json", "--rpc", rpc)
        assert len(json.loads(asked)["sales"]) == 1
        assert await ask("sales", "--json", "--file", path) == asked
        assert json.loads(await ask("--json", "--rpc", rpc))["total"]["earned_msat"] == FEE_MSAT
        assert await ask("closable", "--rpc", rpc)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sales", "--by", "day"), "--by has no place here: it goes with `report money`"),
        (("--limit", "5"), "--limit has no place here: it goes with `report sales`"),
        (("--idle-days", "3"), "--idle-days has no place here: it goes with `report closable`"),
        (("explain", SCID, "--since", "2026-01-01"), "it goes with `report money` and `report sales`"),
        (("closable", "--token", "gold"), "--token has no place here"),
    ],
)
def test_an_option_of_another_question_is_refused(
    ledger: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    """operator:O10: whatever would be ignored is told."""
    assert words in said(capsys, *arguments, "--file", ledger, code=2)


def test_a_file_that_is_no_ledger_is_told_in_terms_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """operator:O10: no word of the service's options."""
    other, text, newer = (tmp_path / name for name in ("other.sqlite3", "text", "newer.sqlite3"))
    for path, script in ((other, "CREATE TABLE t (x)"), (newer, "PRAGMA application_id = 0x4C535032")):
        db = sqlite3.connect(path)
        db.executescript(script + "; PRAGMA user_version = 99;")
        db.close()
    text.write_text("no database " * 100)
    for path in (other, text, newer):
        told = said(capsys, "--file", str(path), code=2)
        assert "name another file with --file" in told
        assert "lsps2-ledger" not in told
