"""A search recovers millions of times: what that logs is not kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nothing is logged."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
