"""Fixtures for the wallet: coroutines as tests, a staged wallet, the recordings."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from .stage import Stage

STORY_LIMIT_S = 30.0
Staging = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is a coroutine runs on a loop of its own, within a limit."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    work = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(work, STORY_LIMIT_S))
    return True


@pytest.fixture
def staged() -> Staging:
    """`async with staged(**options) as stage`: a wallet that has started, and is stopped afterwards."""

    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[Stage]:
        stage = Stage(**options)
        await stage.start()
        try:
            yield stage
        finally:
            await stage.stop()

    return make
