"""Which core an installation runs: compiled, or interpreted where it was built without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lsps2fast

pytestmark = pytest.mark.process
BACKEND_OF = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import lsps2fast
from lsps2fast._tlv import decode_bigsize
print(lsps2fast.BACKEND)
"""


def said_by(package: Path, code: str = BACKEND_OF) -> tuple[str, str]:
    """Return what `code` prints with this copy of the package, and its last line of stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "LSPS2FAST_PURE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout.strip(), done.stderr.strip().splitlines()[-1] if done.stderr else ""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The package without any extension, as an installation without a compiler has it."""
    here = Path(lsps2fast.__file__).parent
    return Path(
        shutil.copytree(here, tmp_path / "lsps2fast", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    )


def test_an_installation_without_extensions_runs_interpreted(bare: Path) -> None:
    """Style §8: a machine without a compiler needs no switch."""
    assert said_by(bare) == ("pure", "")


def test_extensions_of_another_python_are_an_error(bare: Path) -> None:
    """Style §8: an installation that was compiled never gets slow in silence; the error says what to do."""
    (bare / "_fsm.cpython-27-x86_64-linux-gnu.so").touch()
    answer, error = said_by(bare)
    assert answer == ""
    assert "lsps2fast._tlv is missing; install a wheel or run `make build`, or set LSPS2FAST_PURE=1" in error
