"""Stories of the selling plugin: the real process on the embedded node; one loop for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS
from harness.world_pool import HOUSES


@pytest.fixture(scope="session")
def stories() -> Iterator[asyncio.Runner]:
    """One loop for all stories, so that a world can outlive its own."""
    with asyncio.Runner() as runner:
        HOUSES.open(runner.get_loop())
        yield runner
        runner.run(HOUSES.close())


@pytest.fixture(autouse=True)
def runner(request: pytest.FixtureRequest) -> asyncio.Runner | None:
    """The loop of the stories; tests in the folders below have loops of their own."""
    if request.path.parent != Path(__file__).parent:
        return None
    shared: asyncio.Runner = request.getfixturevalue("stories")
    return shared


@pytest.fixture(params=[LSP_TRUSTS, CLIENT_TRUSTS])
def mode(request: pytest.FixtureRequest) -> str:
    """Both trust modes."""
    chosen: str = request.param
    return chosen
