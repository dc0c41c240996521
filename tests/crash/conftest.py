"""A test that is a coroutine runs on a loop of its own."""

from __future__ import annotations

import asyncio
import inspect

import pytest

LIMIT_S = 300.0  # of many cases in a row, on a machine that does other things too


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Coroutines, within a limit."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    work = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(work, LIMIT_S))
    return True
