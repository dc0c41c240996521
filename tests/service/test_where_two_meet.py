"""Where two ways of giving a client room meet: reuse, wake-up, BOLT 12, batches, closing by rule, orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.orders import Shop
from harness.webhook_server import WebhookServer, webhook_server

from .sleeping import sleeps_with_a_channel, wakes

ROOM_MSAT = 60_000_000  # into the 100,000 sat that a first channel has to spare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebhookServer]:
    """The app developer's server."""
    with webhook_server(tmp_path) as found:
        yield found


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


# Room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_woken_wallet_gets_both_what_is_held_and_what_was_sold(server: WebhookServer, nth: int) -> None:
    """rule:18, N-19: each fits alone, both do not; what is held has the room, though it goes out later by a look."""
    async with wakes(server, lsps2_reuse="free") as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        await sleeps_with_a_channel(stage, server, client, payer)
        client.connect()
        await stage.quiet()
        sold = await stage.invoice(client, ROOM_MSAT)
        client.go_offline()
        await stage.quiet()
        ordinary = client.invoice(ROOM_MSAT, client.ends[0].other.scid_now())
        payments = [
            payer.pay(ordinary, [ROOM_MSAT], overpay_msat=10_000),
            payer.pay(sold, [ROOM_MSAT // 2] * 2),
        ]
        await stage.held(3)
        assert (await stage.stats())["wake_held"] == 1
        slow = stage.lsp.faults.late("listpeerchannels", nth=nth)
        client.connect()
        await slow.reached.wait()
        for _ in range(50):
            await stage.fence()
        slow.release()
        assert [(await payment).paid for payment in payments] == [True, True]
        await stage.at_rest()
        assert len(client.ends) == 2
