"""Yardsticks for the benchmarks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

EMPTY = """
import cython

@cython.cclass
class Empty:
    def call(self):
        return None
"""


@pytest.fixture(scope="session")
def empty_call(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """A Cython method that does nothing, compiled now."""
    directory = tmp_path_factory.mktemp("empty")
    (directory / "empty.py").write_text(EMPTY, encoding="utf-8")
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "-3", "empty.py"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    (built,) = directory.glob("empty.*.so")
    spec = importlib.util.spec_from_file_location("empty", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    call: Callable[[], Any] = module.Empty().call
    return call
