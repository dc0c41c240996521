"""`make real` and `make interop` where there is nothing to run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = {"PATH": str(Path(sys.executable).parent), "HOME": "/nonexistent"}


@pytest.mark.parametrize(
    ("mark", "place"), [("real", "tests/real/test_speed.py"), ("interop", "tests/interop/test_lnd_payer.py")]
)
def test_a_run_in_which_nothing_ran_fails_and_says_so(mark: str, place: str) -> None:
    """operator:O10: skipped for want of nodes is no success; the counts are printed."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PATH", "HOME") and "LSPS2FAST" not in name
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", mark, place]
    run = subprocess.run(command, cwd=ROOT, env=kept | BARE, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode != 0, run.stdout
    assert f"NOTHING RAN: `make {mark}` fails" in run.stdout
    assert "0 passed" in run.stdout
