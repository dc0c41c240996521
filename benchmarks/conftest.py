"""The part of the benchmarks that is C, compiled now: yardsticks, and loops that call the core without Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """`inside.pyx`."""
    import work

    return work.compile_inside(tmp_path_factory.mktemp("inside"))


@pytest.fixture(scope="session")
def empty_call(inside: ModuleType) -> Callable[[], None]:
    """Return a Cython method that does nothing."""
    call: Callable[[], None] = inside.Empty().call
    return call
