"""Fixtures for the embedded node: worlds with a puppet plugin, raw sockets, and the recordings to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.puppet import puppet

from lsps2fast_plugin.simnode import World


@pytest.fixture
def make_world() -> Callable[..., World]:
    """`make_world(plan, **keywords)`: a world whose LSP runs the puppet, with no routing fees unless said."""

    def make(plan: dict[str, Any] | None = None, **keywords: Any) -> World:
        return World(**{"seed": 1, "fee_base_msat": 0, "fee_ppm": 0, **puppet(plan), **keywords})

    return make
