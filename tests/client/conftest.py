"""Fixtures for the wallet: coroutines as tests, a staged wallet, the recordings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness.client import Stage, Staging
from harness.two_processes import opened as opened


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
