"""The tutorial on the embedded node: each command runs, and says what the page shows. tests/real plays the others."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from harness.tutorials import is_part, missing, plain, steps

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "the-embedded-node.md"
STEPS = steps(PAGE)


def test_there_are_steps_with_answers() -> None:
    """Each command of the page shows something of what it says."""
    assert [step.command.split()[1] for step in STEPS] == ["demo", "demo", "watch"]
    assert all(step.shown for step in STEPS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.command)
def test_a_command_says_what_the_page_shows(step: object) -> None:
    """Figures and sentences; times, ids and hashes differ in each run."""
    assert isinstance(step, type(STEPS[0]))
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", *shlex.split(step.command)[1:]]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    lacking = [line for kind, shown in step.shown for line in missing(kind, shown, done.stdout)]
    assert not lacking, done.stdout


def test_what_an_answer_lacks_is_seen() -> None:
    """The comparison itself: members left out are fine, wrong ones are not."""
    assert plain("   2.539  service  sells jit channel 14846678x5235086x22818") == "service sells jit channel SCID"
    assert missing("text", "a 1\nb 2", "a 1\nb 3") == ["b 2"]
    assert is_part({"a": [{"b": "… ends"}]}, {"a": [{"b": "it ends", "c": 1}, {}], "d": 2})
    assert not is_part({"a": []}, {"a": [1]})
    assert not is_part({"a": [1]}, {"a": [2]})
    assert missing("json", '{"a": 1}', '{"b": 1}') == ['{"a": 1}']
