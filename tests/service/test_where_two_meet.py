"""Where two ways of giving a client room meet: reuse, wake-up, BOLT 12, batches, closing by rule, orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.orders import Shop, turn
from harness.service import SIZE_MSAT
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast_plugin.simnode.client import LspsError

from .sleeping import registered, sleeps_with_a_channel, wakes, wakes_and_sells_ahead

DUST_MSAT = 330_000
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


# Orders, and what else goes on with their clients -----------------------------------------------------


async def test_a_wallet_that_sleeps_is_called_for_the_channel_that_it_has_paid(server: WebhookServer) -> None:
    """N-09, E-12: else its payment would only wait, and go back."""
    async with wakes_and_sells_ahead(server) as shop:
        client, payer = shop.client(), shop.payer()
        await registered(shop, server, client)
        order = await shop.order(client)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        await turn(shop, 6)
        await shop.until(lambda: len(server.requests) == 2, "the client is called")
        assert server.kinds(shop.lsp.node_id)[1:] == ["payment_incoming"]
        for _ in range(3):
            await turn(shop, 6)
        client.connect()
        assert (await payment).paid
        await shop.over(order)
        await turn(shop, 200)
        assert len(server.requests) == 2


async def test_a_sale_with_the_payment_hash_of_an_order_outlives_it() -> None:
    """rule:12, rule:16: who knows a preimage may use it twice; the end of the order takes no news from the sale."""
    async with Shop() as shop:
        client, payer = shop.client(on_part="hold"), shop.payer(channels=2)
        order = await shop.order(client)
        sold = await shop.invoice(client, SIZE_MSAT, preimage=bytes.fromhex(shop.record(order)["preimage"]))
        sale = payer.pay(sold, [SIZE_MSAT])
        await shop.until(lambda: len(client.held()) == 1, "the part is with the client")
        assert (await shop.pay(payer, order)).paid
        await shop.over(order)
        client.settle_held()
        assert (await sale).paid
        await shop.state(sold, "SUCCEEDED")
        shop.world.mine()
        await shop.at_rest()


# What may be held in all --------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["a channel", "an alias"])
async def test_payments_for_wallets_that_sleep_leave_sales_and_orders_their_room(
    server: WebhookServer, over: str
) -> None:
    """rule:24: a stranger who pays wallets that sleep, for nothing, keeps no sale and no order from being paid."""
    async with wakes(server, lsps2_max_held_parts=40, lsps2_lsps1="on") as stage:
        payer, stranger = stage.payer(), stage.payer("mallory", channels=2)
        sleepers = [stage.client(name) for name in ("alice", "bob", "carol")]
        dust = []
        for client in sleepers:
            await registered(stage, server, client)
            invoice = await stage.sale(client, payer)
            await stage.at_rest()
            client.go_offline()
            await stage.quiet()
            scid = client.ends[0].other.scid_now() if over == "a channel" else invoice.scid
            crumbs = client.invoice(20 * DUST_MSAT, scid, cltv_delta=144)
            dust.append(stranger.pay(crumbs, [DUST_MSAT] * 20, overpay_msat=10_000))
            await stage.quiet()
        assert len(stage.lsp.htlcs.held) == 20  # half of what may be held
        zoe = stage.client("zoe")
        sold, order = await stage.invoice(zoe), await Shop.order(stage, zoe)  # type: ignore[arg-type]
        await stage.paid(payer, sold)
        assert (await Shop.pay(stage, payer, order)).paid  # type: ignore[arg-type]
        for client in sleepers:
            client.connect()
        await stage.world.advance(100)
        for payment in dust:
            await payment
        for _ in range(7):
            stage.world.mine()
            await stage.quiet()


async def test_a_client_that_holds_up_its_orders_holds_no_more_of_them() -> None:
    """rule:24: what is held for an order is not paid yet; one client does not fill what may be held for all."""
    async with Shop(lsps2_max_orders_per_peer=2) as shop:
        client, payer = shop.client(script={"funding_created": "silent"}), shop.payer()
        orders = [await shop.order(client) for _ in range(2)]
        payments = [shop.pay(payer, order) for order in orders]
        await shop.until(lambda: {shop.record(order)["state"] for order in orders} == {"opening"}, "both are held")
        with pytest.raises(LspsError) as refused:
            await shop.order(client)
        assert refused.value.code == -32603
        for _ in orders:
            await shop.lsp.call("lsps2-dev-advance", {"seconds": 31, "calls": True})
            await shop.quiet()
        client.behaviour.script = {}
        client.speak()
        client.connect()
        for _ in range(3):
            await turn(shop, 11)
        for order, payment in zip(orders, payments, strict=True):
            await payment
            await shop.until(lambda order=order: shop.record(order)["state"] in ("failed", "sent"), "an end")
        again = await shop.order(client)
        assert (await shop.pay(payer, again)).paid
        await shop.over(again)
