"""Starting with a long journal."""

from __future__ import annotations

import asyncio

import pytest

from lsps2fast_plugin.tools.bench.start import TARGETS_S, measure

BUYS = 5_000


@pytest.mark.slow
def test_a_long_journal_holds_up_neither_init_nor_selling() -> None:
    """P18, trap:11, rule:15: the bounds for 100,000 buys, with a twentieth of them because tests must be quick."""
    start = asyncio.run(measure(BUYS))
    assert start.init_s < TARGETS_S[0]
    assert start.live_s < TARGETS_S[1]
