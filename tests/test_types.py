"""The seam between plugin and core is typed: mypy reports what is called wrongly there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WRONG = """
from lsps2fast import _hook, _tlv
from lsps2fast._sessions import Sessions

sessions = Sessions(collect_ms=90_000)
sessions.blok(800_000)
sessions.block("800000")
_tlv.read_paylod("00")
_tlv.read_payload("00", prefixed=True, more=1)
_hook.scan("text")
"""
EXPECTED = {
    6: '"Sessions" has no attribute "blok"',
    7: 'Argument 1 to "block" of "Sessions" has incompatible type "str"; expected "int"',
    8: 'Module has no attribute "read_paylod"',
    9: 'Unexpected keyword argument "more" for "read_payload"',
    10: 'Argument 1 to "scan" has incompatible type "str"; expected "bytes"',
}


@pytest.mark.slow
def test_a_misspelt_method_and_a_wrong_argument_of_the_core_are_errors(tmp_path: Path) -> None:
    """What the plugin asks of the compiled core is checked like any other call."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(wrong)]
    done = subprocess.run(
        command, cwd=ROOT, env={"MYPYPATH": "src:plugin"}, capture_output=True, text=True, check=False
    )
    found = [
        line.partition(".py:")[2].partition(": error: ") for line in done.stdout.splitlines() if ": error: " in line
    ]
    told = {int(number): text for number, _, text in found}
    assert told.keys() == EXPECTED.keys(), done.stdout + done.stderr
    assert all(EXPECTED[line] in told[line] for line in told), done.stdout
