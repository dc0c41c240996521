"""The session machine in both runs. A missing extension fails the test, it never skips it."""

from __future__ import annotations

from functools import partial

import pytest
from harness.scene import RUNS, Machine, Scene


@pytest.fixture(params=RUNS)
def machine(request: pytest.FixtureRequest) -> Machine:
    """The machine's modules, compiled and interpreted."""
    return Machine.load(request.param)


@pytest.fixture
def scene(machine: Machine) -> partial[Scene]:
    """Makes a machine with one buy; keywords as for `Scene`."""
    return partial(Scene, machine)
