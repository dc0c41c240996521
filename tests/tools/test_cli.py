"""The command line ends plainly: on a closed pipe, Ctrl-C, SIGTERM, a path that cannot be written, a plain terminal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lsps2fast_plugin.tools import cli
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.transcript_report import PartRow

DEMO = """
import sys, tempfile
from lsps2fast_plugin.tools import cli
made = tempfile.mkdtemp
tempfile.mkdtemp = lambda prefix, dir=None: made(prefix=prefix, dir=sys.argv[1])
sys.exit(cli.main(["demo"]))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a folder whose name is short: a socket in it has at most 107 letters, wherever pytest puts its own."""
    with tempfile.TemporaryDirectory(prefix="l2f-", dir="/tmp") as folder:
        yield Path(folder)


def demo(place: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the demo with its folders in `place`."""
    return subprocess.Popen(
        [sys.executable, "-c", DEMO, str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_leaves_nothing(place: Path, number: signal.Signals) -> None:
    """operator:O10: no traceback, no folder, no process."""
    process = demo(place)
    assert process.stdout is not None
    assert "arrives" in next(line for line in process.stdout if "arrives" in line)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors, list(place.iterdir())) == (130, "", [])


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(place: Path) -> None:
    """operator:O10: `lsps2fast demo | head`."""
    with demo(place) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("lsps2fast demo")
        process.stdout.close()
        assert (process.stderr.read(), process.wait(120), list(place.iterdir())) == ("", 141, [])


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_only_is_enough(place: Path) -> None:
    """operator:O10."""
    output, errors = demo(place, PYTHONIOENCODING="ascii").communicate(timeout=120)
    assert errors == ""
    assert "checks hold" in output


def test_a_picture_that_cannot_be_written_is_told_before_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """operator:O10: not after ten minutes."""
    assert cli.main(["bench", "--plot", str(tmp_path / "no" / "such.svg")]) == 2
    assert "name a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("width", [50, 60, 200])
def test_a_narrow_terminal_cuts_no_amount(width: int) -> None:
    """operator:O10: rich shortens cells; then the table is plain."""
    screen, written = Screen(), io.StringIO()
    screen._console = Console(file=written, width=width, force_terminal=True, highlight=False)
    screen._parts([PartRow("103x1x0", 7, 123_456_789_012, 1_000_000, 123_455_789_012, "forwarded")])
    text = written.getvalue().replace("\n", "")
    assert "123,456,789,012" in text
    assert "…" not in text


def test_a_look_that_is_taken_again_is_told_once() -> None:
    """A wallet looks for a funding many times; the story has it once, and again after something else."""
    screen = Screen(silent=True)
    for what in ("looks", "looks", "finds", "looks", "looks"):
        screen.line(1.0, "client", what)
    assert [what for _, _, what in screen.story[0].lines] == ["looks", "finds", "looks"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [("table",), ("demo",), ("demo", "--json"), ("--help",), ("--version",), ("watch", "--help")],
    ids=" ".join,
)
def test_a_full_disk_ends_with_a_sentence(arguments: tuple[str, ...], unbuffered: str) -> None:
    """operator:O10: no traceback, no success; what was started is ended."""
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", *arguments]
    kept = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=300, env=kept
        )
    assert done.returncode == 1
    assert done.stderr == (
        "lsps2fast: what it says cannot be written: No space left on device; let it go to another place\n"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("arguments", "code"), [(("table",), 1), (("demo", "--evil-lsp", "greed"), 2)])
def test_a_full_standard_error_changes_no_exit_code(arguments: tuple[str, ...], code: int, unbuffered: str) -> None:
    """operator:O10: `> /dev/full 2>&1`."""
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", *arguments]
    kept = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=full, check=False, timeout=300, env=kept)
    assert done.returncode == code


def test_a_closed_output_ends_with_a_sentence() -> None:
    """operator:O10: `>&-`."""
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "table"]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (
        1,
        "lsps2fast: there is no standard output: leave out `>&-`, or give /dev/null\n",
    )
