"""Where two ways of giving a client room meet: reuse, wake-up, BOLT 12, batches, closing by rule, orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.batches import Crowd
from harness.orders import Shop, turn
from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast_plugin.simnode import RpcError
from lsps2fast_plugin.simnode.client import LspsError

from .sleeping import registered, wakes, wakes_and_sells_ahead

POLICY = """
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
validity_s = 3_600
min_lifetime_blocks = 6

[trust]
default = "lsp-trusts-client"

[floor]
factor_percent = 0

[[closing.rule]]
name = "idle"
idle_days = 2
max_client_sat = 200_000
"""
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
@pytest.mark.parametrize("over", ["the channel", "its alias"])
async def test_a_woken_wallet_gets_both_what_is_held_and_what_was_sold(
    server: WebhookServer, nth: int, over: str
) -> None:
    """rule:18, N-19: each fits alone, both do not; what is held has the room, though it goes out later by a look."""
    async with wakes(server, lsps2_reuse="free") as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        await registered(stage, server, client)
        bought = await stage.sale(client, payer)
        await stage.at_rest()
        sold = await stage.invoice(client, ROOM_MSAT)
        client.go_offline()
        await stage.quiet()
        name = client.ends[0].other.scid_now() if over == "the channel" else bought.scid
        ordinary = client.invoice(ROOM_MSAT, name, cltv_delta=144)
        payments = [
            payer.pay(ordinary, [ROOM_MSAT], overpay_msat=10_000),
            payer.pay(sold, [ROOM_MSAT // 2] * 2),
        ]
        await stage.held(3)
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


# What was tried, and holds ------------------------------------------------------------------------------


async def test_a_sale_goes_over_an_ordered_channel_once_that_is_paid_for() -> None:
    """rule:7, rule:13, A-06: withheld it carries nothing; then without a fee, and lease and routing fees stay."""
    async with Shop(lsps2_reuse="free") as shop:
        client, payer = shop.client(), shop.payer(channels=2)
        order = await shop.order(client)
        shop.lsp.faults.fail("sendpsbt", message="bitcoind is away")
        payment = shop.pay(payer, order)
        await shop.reaches(order, "funded")
        await shop.paid(payer, early := await shop.invoice(client))
        assert early.fee_taken_msat == FEE_MSAT
        await turn(shop, 70)
        assert (await payment).paid
        await shop.over(order)
        (ordered,) = [end.other for end in client.ends if end.channel.capacity_sat == 200_000]
        which = {"id": ordered.channel.channel_id}
        await shop.lsp.call("setchannel", {**which, "feebase": 77, "feeppm": 7})
        await shop.paid(payer, late := await shop.invoice(client, 150_000_000), [75_000_000] * 2)
        await shop.at_rest()
        assert (late.fee_taken_msat, len(client.ends)) == (0, 2)
        assert (ordered.fee_base_msat, ordered.fee_ppm) == (77, 7)
        await shop.restart()
        client.connect()
        await shop.quiet()
        with pytest.raises(RpcError, match="to stay open for 4320 confirmations"):
            await shop.lsp.call("close", which)
        await shop.lsp.call("setchannel", {**which, "enforcedelay": 0})


async def test_blinded_payments_wait_for_a_wallet_and_race_for_its_room(server: WebhookServer) -> None:
    """C-25, N-19, rule:18: over an alias, and two that are sold of which the room has space for one."""
    async with wakes(server, lsps2_blinded_paths=True, lsps2_reuse="free") as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        await registered(stage, server, client)
        first = client.blind(await stage.invoice(client))
        await stage.paid(payer, first, [SIZE_MSAT // 2] * 2)
        await stage.over(first)
        invoices = [
            client.blind(client.invoice(SIZE_MSAT, first.scid, cltv_delta=first.cltv_delta)),
            client.blind(await stage.invoice(client, ROOM_MSAT)),
            await stage.invoice(client, ROOM_MSAT),
        ]
        client.go_offline()
        await stage.quiet()
        payments = [payer.pay(invoice, [(invoice.amount_msat or 0) // 2] * 2) for invoice in invoices]
        await stage.held(6)
        client.connect()
        assert [(await payment).paid for payment in payments] == [True] * 3
        assert sorted(invoice.fee_taken_msat for invoice in invoices) == [0, 0, FEE_MSAT]
        await stage.at_rest()


async def test_a_client_orders_while_its_sale_is_in_a_batch() -> None:
    """rule:2, rule:24, O-19: one open at a time with it, coins of its own for each, all are paid."""
    async with Shop(LSP_TRUSTS, lsps2_batch_window_ms=2_000) as shop:
        crowd = Crowd(shop)
        await crowd.come("alice", "bertha")
        order = await shop.order(crowd.clients[0])
        await crowd.pay()
        await shop.world.advance(1.9)
        ordered = shop.pay(shop.payer("another"), order)
        await shop.quiet()
        assert await crowd.results(0.2) == [True] * 2
        assert (await ordered).paid
        await shop.over(order)
        assert len(crowd.fundings()) == 2
        assert (await shop.stats())["batched_channels"] == 2


async def test_a_rule_closes_what_was_sold_and_never_what_was_ordered(tmp_path: Path) -> None:
    """operator:O2, A-06: both of one client, both past their lifetime, also while another order of it is held."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    async with Shop(LSP_TRUSTS, lsps2_policy_file=str(file), lsps2_close_by_rule="on") as shop:
        client, payer = shop.client(), shop.payer(channels=2)
        await shop.paid(payer, await shop.invoice(client))
        await shop.at_rest()
        orders = [await shop.order(client, channel_expiry_blocks=3) for _ in range(2)]
        assert (await shop.pay(payer, orders[0])).paid
        client.go_offline()
        held = shop.pay(payer, orders[1])
        await shop.world.advance(300)
        await shop.over(orders[0])
        client.connect()
        assert (await held).paid
        await shop.over(orders[1])
        await shop.world.advance(3 * 86_400)
        await shop.quiet()
        shop.world.mine()
        await shop.until(lambda: shop.calls("close"), "one is closed")
        await shop.restart()
        client.connect()
        for _ in range(3):
            shop.world.mine()
            await shop.quiet()
        (closed,) = [end.channel for end in client.ends if end.channel.capacity_sat != 200_000]
        assert [close["id"] for close in shop.calls("close")] == [closed.channel_id]


async def test_reuse_is_switched_off_while_a_payment_goes_over_an_old_channel() -> None:
    """rule:13, K-09: the record says over which, and what that charged; the next one gets a channel of its own."""
    async with Stage(LSP_TRUSTS, options={"lsps2-reuse": "free"}) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        end = client.ends[0].other
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 77, "feeppm": 7})
        client.behaviour.on_part = "hold"
        sold = await stage.invoice(client, ROOM_MSAT)
        payment = payer.pay(sold, [ROOM_MSAT])
        await stage.until(client.held, "the part is with the client")
        stage.lsp.plugin_plans[0][1]["lsps2-reuse"] = "off"
        await stage.restart(power=True)
        client.connect()
        await stage.quiet()
        client.settle_held()
        client.behaviour.on_part = "settle"
        assert (await payment).paid
        await stage.at_rest()
        assert (sold.fee_taken_msat, end.fee_base_msat, end.fee_ppm) == (0, 77, 7)
        await stage.paid(payer, other := await stage.invoice(client, 20_000_000), [20_000_000])
        await stage.over(other)
        assert (other.fee_taken_msat, len(client.ends)) == (FEE_MSAT, 2)
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "enforcedelay": 0})
