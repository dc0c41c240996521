"""`lsps2fast watch`: a picture of the answers of a running service, at any width."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.service import LSP_TRUSTS, SIZE_MSAT, Stage

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools import cli, watch
from lsps2fast_plugin.tools.demo import film

STATS: dict[str, Any] = {
    "version": "1.2.3",
    "paused": False,
    "live_buys": 3,
    "live_sessions": 2,
    "held_parts": 4,
    "held_msat": 123_456_789,
    "held_blocks_left": 130,
    "limits": {"capital_budget": {"used_msat": 5_000_000_000, "limit_msat": 10_000_000_000, "binds": False}},
    "free_coins_sat": 1_234_567,
    "coins_needed_sat": 200_000,
    "withheld_channels": 1,
    "unpaid_channels": 2,
    "broadcasts_owed": 0,
    "alarms_by_kind": {"coins": 2, "bug": 0},
    "ledger_in_trouble": False,
}


def seen(payments: int = 2, **stats: Any) -> dict[str, Any]:
    """Answers with so many payments under way."""
    buys = [
        {
            "jit_channel_scid": f"1234567{number}x1234567x12345",
            "payments": [{"state": watch.LANE[number % 5], "sum_msat": 100_000_000, "opening_fee_msat": 1_000_000}],
        }
        for number in range(payments)
    ]
    today = {"sales": 12, "failed": 3, "earned_msat": 12_000_500, "net_msat": 9_000_000}
    return {"sessions": buys, "stats": STATS | stats, "today": today}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_is_there_at_any_width(width: int) -> None:
    """operator:O10: 60 columns are enough: no line is cut, and the money is whole."""
    shown = watch.lines(seen(5), width)
    assert max(map(len, watch.picture(seen(5), width))) <= width
    text = "\n".join(shown)
    for words in (
        "3 offers, 2 under way",
        "12 sold, 3 failed",
        "12,000.500 sat earned, 9,000 sat net",
        "4 parts, 123,456.789 sat, 130 blocks left",
        "5,000,000 of 10,000,000 sat",
        "1,234,567 sat free, 200,000 sat needed now",
        "ALARMS  coins 2",
        "100,000 sat fee 1,000 sat",
        "p pauses, q ends",
    ):
        assert words in text, (words, text)


def test_a_lane_moves_with_its_payment() -> None:
    """One mark further in each stage."""
    tracks = [line.split()[1] for line in watch.lines(seen(5), 120) if "x12345" in line]
    assert tracks == [">....", "=>...", "==>..", "===>.", "====>"]


def test_many_payments_are_counted_and_none_is_said() -> None:
    """rule:14: as many lanes as a terminal has room for."""
    assert "and 8 more" in "\n".join(watch.lines(seen(20), 80))
    assert "no payment is under way" in watch.lines(seen(0), 80)


def test_what_an_operator_must_see_stands_out() -> None:
    """operator:O12: a pause, a ledger in trouble, our own pause."""
    shown = "\n".join(watch.lines(seen(paused=True, ledger_in_trouble=True, free_coins_sat=None), 60, paused=True))
    for words in ("selling is PAUSED", "LEDGER  cannot be written", "not looked at yet", "; PAUSED"):
        assert words in shown


def test_a_node_without_a_ledger_is_watched_as_well() -> None:
    """`lsps2-ledger=off`."""

    def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "lsps2-report":
            raise ConfigError("no sales ledger is kept")
        return {"sessions": []} if method == "lsps2-listsessions" else STATS

    assert "today" not in "\n".join(watch.lines(watch.look(ask), 80))


def test_a_socket_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O10: one line, no traceback."""
    assert cli.main(["watch", "--rpc", "/no/such-rpc"]) == 2
    assert "name the socket of your lightningd" in capsys.readouterr().err


async def record(command: list[str], width: int) -> None:
    """Show it at this width: nothing is cut. LSPS2FAST_PICTURES names a folder for the pictures in the docs."""
    from rich.console import Console
    from rich.text import Text

    seen = await asyncio.create_subprocess_exec(
        *command, "--once", stdout=asyncio.subprocess.PIPE, env={**os.environ, "COLUMNS": str(width), "LINES": "24"}
    )
    out, _ = await seen.communicate()
    text = out.decode()
    assert seen.returncode == 0
    assert max(map(len, text.splitlines())) <= width
    assert "under way" in text
    if folder := os.environ.get("LSPS2FAST_PICTURES"):
        console = Console(record=True, width=width, file=io.StringIO())
        console.print(Text(text.rstrip()))
        drawn = console.export_svg(title=f"lsps2fast watch, {width} columns", unique_id="watch")
        drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)  # nothing is loaded from elsewhere
        drawn = drawn.replace("Fira Code, monospace", "monospace")
        await asyncio.to_thread(Path(folder, f"watch-{width}.svg").write_text, drawn, "utf-8")


async def press_p_and_q(terminal: int) -> None:
    """Read what is drawn; `p` once a payment is seen, `q` once the pause is."""
    drawn, pressed = b"", False
    while b"ends; PAUSED" not in drawn:
        drawn += await asyncio.to_thread(os.read, terminal, 65_536)
        if b"5,000 sat" in drawn and not pressed:  # once: twice before it draws again would be no pause
            os.write(terminal, b"p")
            pressed = True
    os.write(terminal, b"q")


async def test_a_running_service_is_watched_on_a_terminal_until_q() -> None:
    """operator:O12: once without a terminal; on one it is drawn, paused and ended by keys."""
    async with Stage(LSP_TRUSTS) as stage:
        invoice = await stage.invoice(stage.client())
        payment = stage.payer().pay(invoice, [SIZE_MSAT // 2])
        await stage.held(1)
        command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "watch", "--rpc", f"{stage.lsp.rpc_path}"]
        once = await asyncio.create_subprocess_exec(*command, "--once", stdout=asyncio.subprocess.PIPE)
        out, _ = await once.communicate()
        assert once.returncode == 0
        assert f"{invoice.scid}" in out.decode()
        assert "1 parts, 5,000 sat" in out.decode()
        for width in (60, 120):
            await record(command, width)
        ours, theirs = pty.openpty()
        watching = await asyncio.create_subprocess_exec(*command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        try:
            await press_p_and_q(ours)
            assert await watching.wait() == 0
        finally:
            if watching.returncode is None:
                watching.kill()  # ends the thread that reads the terminal, too
            os.close(ours)
        await stage.world.advance(91)
        await payment


@pytest.mark.slow
def test_the_demo_is_watched_as_a_node_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O6: what was seen at each change, in order; the last look has the three sales and what they earned."""
    taken = film.frames()
    states = [payment["state"] for each in taken for buy in each["sessions"] for payment in buy["payments"]]
    assert set(states) & set(watch.LANE)
    assert [each["today"]["sales"] for each in taken] == sorted(each["today"]["sales"] for each in taken)
    last = taken[-1]
    assert (last["today"]["sales"], last["today"]["earned_msat"]) == (3, 13_500_000)
    monkeypatch.setattr(film, "frames", lambda: taken)
    assert cli.main(["watch", "--demo", "--once"]) == 0
    assert "3 sold" in capsys.readouterr().out


@pytest.mark.parametrize("speed", ["0", "x", "nan", "-1", "1000"])
def test_a_speed_that_cannot_be_gets_a_sentence(speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O10."""
    with pytest.raises(SystemExit):
        cli.main(["watch", "--demo", "--speed", speed])
    assert f"{speed} is not a number from 0.1 to 100" in capsys.readouterr().err


def test_a_terminal_without_rich_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, as where anything else is missing."""
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(SystemExit) as end:
        watch._live(dict, {}, 1.0)
    assert end.value.code == 2
    assert "pip install 'lsps2fast[terminal]'" in capsys.readouterr().err
