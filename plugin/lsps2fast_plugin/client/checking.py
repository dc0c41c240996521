"""lightningd's `check`: a method looks at its parameters and does nothing else."""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

_only: ContextVar[bool] = ContextVar("only_checking", default=False)


class Checked(Exception):
    """The parameters are right, and no more was asked."""


def parameters_are_right() -> None:
    """Go no further when the call is only a check. Raises Checked, which `check` takes."""
    if _only.get():
        raise Checked


async def check(work: Awaitable[Any]) -> dict[str, Any]:
    """Run a method up to where its parameters are known to be right. Raises what is wrong with them."""
    token = _only.set(True)
    try:
        await work
    except Checked:
        pass
    finally:
        _only.reset(token)
    return {}
