"""Worlds that stories hand on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from harness.world_pool import Houses


async def test_a_world_never_changes_loops() -> None:
    """Its pipes are read by the loop it began on: elsewhere it would never answer."""
    houses, world = Houses(), cast(Any, object())
    elsewhere = asyncio.new_event_loop()
    houses.open(elsewhere)
    houses._spare["a mode"] = world
    assert houses.take("a mode") is None
    assert not await houses.keep("another mode", world)
    houses.open(asyncio.get_running_loop())
    assert houses.take("a mode") is world
    elsewhere.close()
