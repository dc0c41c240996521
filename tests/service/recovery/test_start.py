"""Starting with a long journal."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest

from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger
from lsps2fast_plugin.service.session_store import AT_ONCE
from lsps2fast_plugin.tools.bench.start import TARGETS_S, fill, measure
from lsps2fast_plugin.tools.simulate.life import InnerPlugin
from lsps2fast_plugin.tools.simulate.town import Town, play

BUYS = 5_000
OFFERS = 3 * AT_ONCE


@pytest.mark.slow
def test_a_long_journal_holds_up_neither_init_nor_selling() -> None:
    """P18, trap:11, rule:15: the bounds for 100,000 buys, with a twentieth of them because tests must be quick."""
    start = asyncio.run(measure(BUYS))
    assert start.init_s < TARGETS_S[0]
    assert start.live_s < TARGETS_S[1]


def test_the_books_hear_of_the_journal_before_the_loop_goes_round() -> None:
    """operator:O2, P27: offers come alive in slices, and a payment may end between them."""
    alive_then: list[int] = []
    load = SalesLedger.load

    def offers(town: Town) -> int:
        plugin = town.lsp.plugins[0]
        assert isinstance(plugin, InnerPlugin)
        return len(plugin.life.app.parts.offers)

    async def start() -> None:
        town = Town(1, plugin=["lsps2fast-service"])
        fill(town, OFFERS)

        def noted(ledger: SalesLedger, *what: Any) -> None:
            alive_then.append(offers(town))
            load(ledger, *what)

        with patch.object(SalesLedger, "load", noted):
            async with town:
                await town.until(lambda: offers(town) == OFFERS, "all offers are alive")

    play(start)
    assert alive_then == [0]
