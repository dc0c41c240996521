"""Stories of the selling plugin: the real process on the embedded node; one loop for all of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from .houses import HOUSES
from .stage import CLIENT_TRUSTS, LSP_TRUSTS

STORY_LIMIT_S = 15.0
RUNNER = pytest.StashKey[asyncio.Runner]()


@pytest.fixture(scope="session", autouse=True)
def loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """One loop for all stories, so that a world can outlive its own."""
    with asyncio.Runner() as runner:
        request.config.stash[RUNNER] = runner
        HOUSES.open = True
        yield
        runner.run(HOUSES.close())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs on our loop, within a limit."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    work = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    pyfuncitem.config.stash[RUNNER].run(asyncio.wait_for(work, STORY_LIMIT_S))
    return True


@pytest.fixture(params=[LSP_TRUSTS, CLIENT_TRUSTS])
def mode(request: pytest.FixtureRequest) -> str:
    """Both trust modes."""
    chosen: str = request.param
    return chosen
