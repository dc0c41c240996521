"""What the hook of a held payment is answered when the plugin ends (bLIP-51)."""

from __future__ import annotations

import asyncio
from typing import Any

from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.lsps1.book import OrderBook
from lsps2fast_plugin.service.lsps1.orders import Orders
from lsps2fast_plugin.service.lsps1.terms import LABEL


class Empty:
    """No records."""

    async def read(self, root: Any) -> list[Any]:
        """Return none."""
        return []


def orders() -> Orders:
    """Orders of a node that has none."""
    nothing: Any = None
    return Orders(
        book=OrderBook(Empty(), Clock(), print),  # type: ignore[arg-type]
        invoices=nothing,
        channels=nothing,
        leases=nothing,
        clock=Clock(),
        height=lambda: 100,
        is_online=lambda _: False,
        alarm=print,
        hold_ms=1,
        keep_ms=1,
        replays=True,
        desk=None,
    )


async def test_an_end_before_the_records_are_read_takes_the_payment() -> None:
    """E-12, rule:1: its channel may be on chain already; what is taken is owed. With the records it goes back."""
    young = orders()
    answer = asyncio.ensure_future(young.on_payment(f"{LABEL}x"))
    await asyncio.sleep(0)
    young.stop()
    answer.cancel()
    assert await answer == {"result": "continue"}
    grown = orders()
    await grown.load()
    grown.begin([])
    assert await grown.on_payment(f"{LABEL}x") == {"result": "reject"}
