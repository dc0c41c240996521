"""Stories of the selling plugin: the real process on the embedded node, one world for each test."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from .stage import CLIENT_TRUSTS, LSP_TRUSTS

STORY_LIMIT_S = 15.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs on a loop of its own, within a limit."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    work = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(work, STORY_LIMIT_S))
    return True


@pytest.fixture(params=[LSP_TRUSTS, CLIENT_TRUSTS])
def mode(request: pytest.FixtureRequest) -> str:
    """Both trust modes."""
    chosen: str = request.param
    return chosen
