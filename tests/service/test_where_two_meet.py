"""Where two ways of giving a client room meet: reuse, wake-up, BOLT 12, batches, closing by rule, orders."""

from __future__ import annotations

import pytest
from harness.orders import Shop

# Limits after a start --------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [False, True])
async def test_the_channel_of_an_order_counts_after_a_start_too(power: bool) -> None:
    """rule:18: withheld and not paid for, before the plugin dies and after."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        fault = shop.lsp.faults.fail("sendpsbt", times=10_000, message="bitcoind is away")
        payment = shop.pay(payer, order)
        await shop.reaches(order, "funded")

        async def used() -> int:
            limits = (await shop.stats())["limits"]
            return int(limits["withheld_budget"]["used_msat"])

        assert await used() == 200_000_000
        await shop.restart(power=power)
        client.connect()
        await shop.quiet()
        assert await used() == 200_000_000
        fault.release()
        shop.lsp.faults.clear()
        for _ in range(3):
            await shop.world.advance(70)
            await shop.quiet()
        assert (await payment).paid
        assert await used() == 0
        await shop.over(order)
