"""Channels that clients order and pay ahead (bLIP-51), with the plugin's process on the embedded node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.orders import FAR, ON, ROOT, Shop, refusal, turn
from harness.service import Stage

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.cln.pyln_client import Plugin
from lsps2fast_plugin.service.lsps1.steps import EXPIRED_MS
from lsps2fast_plugin.service.options import add_options, read_settings
from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.errors import RpcError
from lsps2fast_plugin.simnode.payer import Payment

# Talk --------------------------------------------------------------------------------------------


def test_something_must_be_charged() -> None:
    """E-09, rule:18: channels for nothing would be the first to be taken."""
    plugin = Plugin(autopatch=False)
    add_options(plugin)
    assert read_settings(plugin, ON).orders == "on"
    for name in ("lsps2-order-fee-sat", "lsps2-order-fee-ppm"):
        plugin.options[name].value = 0
    with pytest.raises(ConfigError, match="are both 0"):
        read_settings(plugin, ON)


async def test_off_by_default() -> None:
    """E-01: nothing of it is there, and the protocol is not named."""
    async with Stage() as stage:
        client = stage.client()
        assert await client.request("lsps0.list_protocols") == {"protocols": [2]}
        for method in ("get_info", "create_order", "get_order"):
            assert (await refusal(client.request(f"lsps1.{method}"))).code == -32601
        assert await stage.lsp.call("lsps2-listorders") == {"orders": []}


async def test_on_it_is_named_and_says_what_it_sells() -> None:
    """E-01, E-02."""
    async with Shop(lsps2_order_max_sat=3_000_000, lsps2_order_min_sat=150_000) as shop:
        client = shop.client()
        assert await client.request("lsps0.list_protocols") == {"protocols": [1, 2]}
        info = await client.request("lsps1.get_info")
        assert info["min_initial_lsp_balance_sat"] == info["min_channel_balance_sat"] == "150000"
        assert info["max_initial_lsp_balance_sat"] == info["max_channel_balance_sat"] == "3000000"
        assert info["max_initial_client_balance_sat"] == "0"
        assert info["min_funding_confirms_within_blocks"] == 12
        assert info["max_channel_expiry_blocks"] == 12_960


async def test_a_price_is_base_lease_and_mining() -> None:
    """E-09: the lease grows with size and time; the invoice is for just that."""
    async with Shop(lsps2_order_fee_sat=0, lsps2_order_fee_ppm=10_000, lsps2_fee_floor=0) as shop:
        client = shop.client()
        prices = []
        for sats, blocks in ((200_000, 4_320), (400_000, 4_320), (200_000, 8_640), (200_000, 1)):
            told = await shop.order(client, lsp_balance_sat=str(sats), channel_expiry_blocks=blocks)
            payment = told["payment"]["bolt11"]
            assert payment["fee_total_sat"] == payment["order_total_sat"]
            row = (await shop.lsp.call("decode", {"string": payment["invoice"]}))["amount_msat"]
            assert row == int(payment["order_total_sat"]) * 1000
            prices.append(int(payment["fee_total_sat"]))
            shop.lsp.datastore.rows.pop((*ROOT, told["order_id"]), None)
            if len(prices) == 3:
                client = shop.client("bob")
        mining = prices[3] - 1
        assert [price - mining for price in prices] == [2_000, 4_000, 4_000, 1]


async def test_bad_orders_are_refused_and_leave_nothing() -> None:
    """E-03, E-05, E-06, E-07: no invoice, no record."""
    async with Shop() as shop:
        client = shop.client()
        for change, code, name in (
            ({"lsp_balance_sat": 5}, -32602, "lsp_balance_sat"),
            ({"lsp_balance_sat": "5"}, 100, "min_initial_lsp_balance_sat"),
            ({"client_balance_sat": "5"}, 100, "max_initial_client_balance_sat"),
        ):
            error = await refusal(shop.order(client, **change))
            assert (error.code, error.data["property"]) == (code, name)
        assert (await refusal(shop.order(client, token="abc"))).code == 102
        assert shop.lsp.invoices.by_hash == {}
        assert (await shop.lsp.call("lsps2-listorders"))["orders"] == []


async def test_an_order_is_for_the_eyes_of_its_client_alone() -> None:
    """E-08, E-11: 101 for others, and for what there is not."""
    async with Shop() as shop:
        client, other = shop.client(), shop.client("bob")
        order = await shop.order(client)
        assert await client.request("lsps1.get_order", {"order_id": order["order_id"]}) == order
        for who, which in ((other, order["order_id"]), (client, "x"), (client, order["order_id"].upper())):
            error = await refusal(who.request("lsps1.get_order", {"order_id": which}))
            assert (error.code, error.data) == (101, {})


async def test_unpaid_orders_are_bounded_and_end() -> None:
    """E-12, rule:24: so many of one client, so many in all; an hour after its invoice one is gone."""
    async with Shop(lsps2_max_orders_per_peer=2, lsps2_max_orders=3) as shop:
        client = shop.client()
        orders = [await shop.order(client) for _ in range(2)]
        assert (await refusal(shop.order(client))).code == -32603
        await shop.order(shop.client("bob"))
        assert (await refusal(shop.order(shop.client("carol")))).code == -32603
        await turn(shop, 3_600 + EXPIRED_MS / 1000 + 5)
        await shop.reaches(orders[0], "failed")
        await shop.reaches(orders[1], "failed")
        assert await shop.told(client, orders[0]) == ("FAILED", "REFUNDED")
        await shop.until(lambda: not shop.lsp.invoices.by_hash, "the invoices are gone")
        await turn(shop, 86_400)
        await shop.quiet()
        assert (await shop.lsp.call("lsps2-listorders"))["orders"] == []
        assert (await shop.order(client))["order_state"] == "CREATED"


async def test_nothing_is_taken_that_cannot_be_opened() -> None:
    """E-07: coins that are not there; a pause."""
    async with Shop() as shop:
        client = shop.client()
        taken = await shop.lsp.call("fundpsbt", {"satoshi": "all", "feerate": "normal", "startweight": 0})
        assert (await refusal(shop.order(client))).code == -32603
        await shop.lsp.call("unreserveinputs", {"psbt": taken["psbt"]})
        await shop.lsp.call("lsps2-pause")
        assert (await refusal(shop.order(client))).code == -32603
        await shop.lsp.call("lsps2-resume")
        assert (await shop.order(client))["channel"] is None


# Paid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announce", [False, True])
async def test_paid_opened_taken(announce: bool) -> None:
    """E-10, E-13: the payment is held until bitcoind has the funding; then the channel is the client's."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client, announce_channel=announce)
        stuck = shop.lsp.faults.hang("sendpsbt")
        payment = shop.pay(payer, order)
        await stuck.reached.wait()
        assert await shop.told(client, order) == ("CREATED", "HOLD")
        assert not payment.done
        stuck.release()
        assert (await payment).paid
        await shop.reaches(order, "sent")
        await shop.until(lambda: shop.record(order)["paid"], "the payment is taken")
        await shop.quiet()
        assert await shop.told(client, order) == ("COMPLETED", "PAID")
        (channel,) = shop.channels(client)
        now = await client.request("lsps1.get_order", {"order_id": order["order_id"]})
        assert now["channel"]["funding_outpoint"] == f"{channel.funding_txid}:{channel.funding_outnum}"
        assert (channel.capacity_sat, channel.private) == (200_000, not announce)
        assert 46 in channel.channel_type or announce
        (row,) = (await shop.lsp.call("lsps2-listorders"))["orders"]
        assert (row["state"], row["paid"], row["channel_id"]) == ("sent", True, channel.channel_id)
        stats = await shop.stats()
        assert (stats["at_risk_msat"], stats["withheld_channels"]) == (0, 0)
        await shop.over(order)


async def test_a_channel_that_is_used_after_a_block() -> None:
    """E-14: a client that wants confirmations gets a channel without zero-conf."""
    async with Shop() as shop:
        client, payer = shop.client(zeroconf=False), shop.payer()
        order = await shop.order(client, required_channel_confirmations=1)
        assert (await shop.pay(payer, order)).paid
        (channel,) = shop.channels(client)
        assert 50 not in channel.channel_type
        (start,) = shop.calls("fundchannel_start")
        assert start["mindepth"] == 1
        await shop.over(order)


async def test_a_leased_channel_is_kept_open() -> None:
    """E-13, rule:20: closing it early is refused as for channels that were sold just in time."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client, channel_expiry_blocks=20)
        assert (await shop.pay(payer, order)).paid
        await shop.over(order)
        (channel,) = shop.channels(client)
        with pytest.raises(Exception, match=f"order {order['order_id']}"):
            await shop.lsp.call("close", {"id": channel.channel_id})
        await shop.stop()
        await shop.start()
        with pytest.raises(Exception, match="20 confirmations"):
            await shop.lsp.call("close", {"id": channel.channel_id})
        shop.world.mine(20)
        await shop.quiet()
        await shop.lsp.call("close", {"id": channel.channel_id})


async def test_an_order_and_a_sale_share_the_coins() -> None:
    """rule:24: two at once, each with coins of its own; what is left over pays for neither."""
    async with Shop() as shop:
        client, other, payer = shop.client(), shop.client("bob"), shop.payer()
        order, invoice = await shop.order(client), await shop.invoice(other)
        ordered, sale = shop.pay(payer, order), payer.pay(invoice, [10_000_000])
        assert (await ordered).paid
        assert (await sale).paid
        await shop.over(order)
        spent = [point for psbt in shop.calls("reserveinputs") for point in [psbt["psbt"]]]
        assert len(set(spent)) == len(spent)


# Refunded ----------------------------------------------------------------------------------------


async def refunded(shop: Shop, client: Client, payment: Payment, order: dict[str, Any]) -> None:
    """The payer has its money, the order failed, nothing is left of it."""
    assert not (await payment).paid
    await shop.reaches(order, "failed")
    client.behaviour.vanish_at = ""
    client.speak()
    client.connect()
    assert await shop.told(client, order) == ("FAILED", "REFUNDED")
    await shop.quiet()
    assert shop.channels(client) == []
    assert shop.lsp.invoices.by_hash == {}
    assert (await shop.stats())["at_risk_msat"] == 0


@pytest.mark.parametrize(
    "behaviour",
    [
        {"reject_open": "not now"},
        {"refuse_funding": "no"},
        {"vanish_at": "open"},
        {"vanish_at": "funding"},
        {"script": {"funding_signed": "error"}},
        {"zeroconf": False},
    ],
    ids=["rejects", "does not sign", "gone at the open", "gone at the funding", "gives up", "takes no zero-conf"],
)
async def test_the_open_fails_and_the_payment_goes_back(behaviour: dict[str, Any]) -> None:
    """E-12: exactly a refund."""
    async with Shop() as shop:
        client, payer = shop.client(**behaviour), shop.payer()
        order = await shop.order(client)
        await refunded(shop, client, shop.pay(payer, order), order)


async def test_a_client_that_falls_silent_in_the_open() -> None:
    """E-12, people:S13: it is hung up on; the payment goes back."""
    async with Shop() as shop:
        client, payer = shop.client(script={"funding_created": "silent"}), shop.payer()
        order = await shop.order(client)
        payment = shop.pay(payer, order)
        await shop.reaches(order, "opening")
        await shop.until(lambda: shop.calls("fundchannel_complete"), "the client is asked to sign")
        await shop.lsp.call("lsps2-dev-advance", {"seconds": 31, "calls": True})
        await refunded(shop, client, payment, order)


async def test_a_client_that_is_away_is_waited_for_within_bounds() -> None:
    """E-12: back in time it gets its channel, else the payment goes back."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        first, second = await shop.order(client), await shop.order(client)
        client.go_offline()
        payment = shop.pay(payer, first)
        await shop.reaches(first, "held")
        await turn(shop, 300)
        client.connect()
        assert (await payment).paid
        client.go_offline()
        payment = shop.pay(payer, second)
        await shop.reaches(second, "held")
        await turn(shop, 601)
        assert not (await payment).paid
        await shop.reaches(second, "failed")
        client.connect()
        await shop.over(first)


async def test_a_payment_that_runs_out_soon_is_not_held() -> None:
    """rule:5: the payer broke the invoice's terms; the order may still be paid by them."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        assert not (await shop.pay(payer, order, final_delta=50)).paid
        assert await shop.told(client, order) == ("CREATED", "EXPECT_PAYMENT")
        assert (await shop.pay(payer, order)).paid
        await shop.over(order)


async def test_blocks_come_while_the_client_is_away() -> None:
    """rule:5: the payment goes back long before it runs out."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        shop.world.mine(FAR - 37)
        await turn(shop, 2)
        assert not payment.done
        shop.world.mine(2)
        await turn(shop, 2)
        assert not (await payment).paid
        await shop.reaches(order, "failed")
        client.connect()


async def test_an_order_that_is_paid_long_after_a_start() -> None:
    """E-13, rule:6: what is asked about the chain at a start is asked when the first payment comes, however late."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        await turn(shop, 700)
        assert (await shop.pay(payer, order)).paid
        await shop.over(order)


async def test_a_funding_that_bitcoind_does_not_take() -> None:
    """E-12, rule:8: tried until the payment can wait no longer; what lightningd has begun to send is owed, and paid."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        fault = shop.lsp.faults.fail("sendpsbt", times=10_000, message="bitcoind is away")
        payment = shop.pay(payer, order)
        await shop.reaches(order, "funded")
        await turn(shop, 30)
        assert await shop.told(client, order) == ("CREATED", "HOLD")
        shop.world.mine(FAR - 23)
        for _ in range(4):
            await turn(shop, 61)
        assert not (await payment).paid  # it never came to lightningd, so the channel could be dropped
        await shop.reaches(order, "failed")
        fault.times = 0
        assert shop.channels(client) == []


async def test_nothing_can_be_written_and_the_payment_goes_back() -> None:
    """rule:5, rule:11: the order waits for its record, the payer does not."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        fault = shop.lsp.faults.fail("datastore", times=10_000, message="no space")
        payment = shop.pay(payer, order)
        await shop.until(lambda: fault.hits, "a write fails")
        shop.world.mine(FAR - 11)
        await shop.quiet()
        assert not (await payment).paid
        fault.times = 0
        await turn(shop, 61)
        await shop.reaches(order, "failed")


async def test_a_limit_of_the_policy() -> None:
    """rule:18: the budget for withheld channels holds for orders, too; asked when the money moves."""
    async with Shop(lsps2_withheld_budget_sat=150_000) as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        await refunded(shop, client, shop.pay(payer, order), order)
        assert (await shop.stats())["refusals"]["withheld_budget"] == 1


# Deaths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fundchannel_start", "fundchannel_complete", "sendpsbt", "utxopsbt"])
@pytest.mark.parametrize("how", ["plugin", "stop", "restart", "power"])
async def test_a_death_in_the_middle(method: str, how: str) -> None:
    """E-12, rule:1, rule:2: one channel and a payment, or none and none; nothing taken is lost."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        stuck = shop.lsp.faults.hang(method)
        payment = shop.pay(payer, order)
        await stuck.reached.wait()
        if how == "plugin":
            await shop.kill()
            await shop.start()
        elif how == "stop":
            await shop.stop()
            await shop.start()
        else:
            await shop.restart(power=how == "power")
        stuck.release()
        client.connect()
        for _ in range(6):
            await turn(shop, 40)
        paid = (await payment).paid
        if how == "plugin":
            assert paid  # lightningd goes on without us
        if how in ("restart", "power") and not paid:  # it asks again, unless the dying plugin saw its call cut off
            assert "the connection was closed" in shop.record(order)["why"]
        for _ in range(8):
            shop.world.mine()
            await turn(shop, 40)
        assert len(shop.channels(client)) == paid
        assert shop.record(order)["state"] == ("done" if paid else "failed")


async def test_paid_while_no_plugin_ran() -> None:
    """E-12: lightningd takes the payment of an invoice that is there; the next start owes the channel."""
    async with Shop() as shop:
        client, payer = shop.client(reject_open="not now"), shop.payer()
        order = await shop.order(client)
        await shop.stop()
        assert (await shop.pay(payer, order)).paid
        await shop.start()
        await shop.until(lambda: shop.calls("fundchannel_start"), "an open")
        await turn(shop, 1)
        assert await shop.told(client, order) == ("CREATED", "PAID")
        client.behaviour.reject_open = None
        for _ in range(8):
            await turn(shop, 60)
        await shop.over(order)
        assert len(shop.channels(client)) == 1


@pytest.mark.parametrize("choice", ["off", "finish"])
async def test_what_was_ordered_comes_to_its_end_when_nothing_is_sold_any_more(choice: str) -> None:
    """E-01, E-11: no one's money is kept; clients hear of their orders, of nothing else."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        await shop.stop()
        shop.lsp.plugin_plans[0][1]["lsps2-lsps1"] = choice
        await shop.start()
        assert await client.request("lsps0.list_protocols") == {"protocols": [2]}
        for method in ("get_info", "create_order"):
            assert (await refusal(client.request(f"lsps1.{method}"))).code == -32601
        assert (await shop.pay(payer, order)).paid
        await shop.over(order)
        assert await shop.told(client, order) == ("COMPLETED", "PAID")
        (channel,) = shop.channels(client)
        await shop.stop()
        await shop.start()
        with pytest.raises(Exception, match=f"order {order['order_id']}"):
            await shop.lsp.call("close", {"id": channel.channel_id})
        shop.lsp.plugin_plans[0][1]["lsps2-lsps1"] = "on"


async def test_invoices_of_the_node_itself_are_let_through() -> None:
    """rule:1: whatever their label."""
    async with Shop() as shop:
        payer = shop.payer()
        for label in ("mine", "lsps2fast-order-x"):
            made = await shop.lsp.call("invoice", {"amount_msat": 5_000_000, "label": label, "description": "x"})
            assert (await payer.pay(made["bolt11"], final_delta=FAR)).paid


async def test_a_record_that_cannot_be_read_is_kept() -> None:
    """rule:11: it is told, the payment goes back, and others are sold."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order, other = await shop.order(client), await shop.order(client)
        await shop.stop()
        key = (*ROOT, order["order_id"])
        shop.lsp.datastore.rows[key] = (b'{"version": 9}', shop.lsp.datastore.rows[key][1])
        await shop.start()
        assert shop.log_lines("cannot be read and is kept")
        assert not (await shop.pay(payer, order)).paid
        assert (await shop.pay(payer, other)).paid
        assert key in shop.lsp.datastore.rows
        await shop.over(other)


async def test_two_parts_and_two_orders_at_once() -> None:
    """O-19, C-24: one open at a time with a client; each payment has its channel."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer(channels=2)
        orders = [await shop.order(client), await shop.order(client)]
        total = int(orders[0]["payment"]["bolt11"]["order_total_sat"]) * 1000
        halves = [total // 2, total - total // 2]
        payments = [payer.pay(order["payment"]["bolt11"]["invoice"], halves, final_delta=FAR) for order in orders]
        results = await asyncio.gather(*(payment.wait() for payment in payments))
        assert all(result.paid for result in results)
        assert len(shop.channels(client)) == 2
        for order in orders:
            await shop.over(order)


# Attacks -----------------------------------------------------------------------------------------


async def test_the_invoice_ends_while_its_payment_is_held() -> None:
    """E-12, rule:20: lightningd takes nothing for an invoice that has expired: no channel may be given for it."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        await turn(shop, 3_590)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        await turn(shop, 20)
        client.connect()
        paid = (await payment).paid
        await shop.quiet()
        assert len(shop.channels(client)) == paid


async def test_a_payment_that_is_held_stays_held_whatever_else_comes() -> None:
    """E-12, rule:20: parts beside it go back alone, of the same total or of another."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer(channels=2)
        order = await shop.order(client)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        msat = int(order["payment"]["bolt11"]["order_total_sat"]) * 1000
        for total_msat in (msat + 1, msat):
            assert not (await shop.pay(payer, order, amounts_msat=[msat], total_msat=total_msat)).paid
        client.connect()
        paid = (await payment).paid
        await shop.quiet()
        assert len(shop.channels(client)) == paid
        assert paid
        await shop.over(order)


async def test_orders_that_others_are_making_are_no_matter_to_a_client() -> None:
    """rule:24: the bound of a client counts its own."""
    async with Shop(lsps2_max_orders_per_peer=1) as shop:
        busy, client = shop.client("bob"), shop.client()
        stuck = shop.lsp.faults.hang("invoice")
        making = asyncio.ensure_future(shop.order(busy))
        await stuck.reached.wait()
        other = asyncio.ensure_future(shop.order(client))
        await shop.until(lambda: len(shop.calls("invoice")) == 2 or other.done(), "another order")
        stuck.release()
        assert {(await making)["order_state"], (await other)["order_state"]} == {"CREATED"}


async def test_a_client_that_is_away_for_good_keeps_no_order_open() -> None:
    """E-12: a payment that ran out in a burst of blocks ends its order, also while its client stays away."""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        shop.world.mine(FAR - 11)
        await shop.quiet()
        assert not (await payment).paid
        await turn(shop, 61)
        await turn(shop, 61)
        await shop.reaches(order, "failed")
        client.connect()


# Commands of the operator ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["close", "splicein", "fundchannel_cancel"])
async def test_what_would_take_the_channel_of_an_order_before_it_is_sent_is_refused(command: str) -> None:
    """cln:N1, cln:N3, rule:7: its payment is held, its funding is not sent; another tool cleans up after itself."""
    async with Shop() as shop:
        client, payer = shop.client(send_ready=command != "fundchannel_cancel"), shop.payer()
        order = await shop.order(client)
        sending = shop.lsp.faults.hang("sendpsbt")
        payment = shop.pay(payer, order)
        await sending.reached.wait()
        (end,) = client.ends
        ask = {"splicein": {"channel": end.channel.channel_id, "amount": 10_000}}.get(command, {"id": client.node_id})
        with pytest.raises(RpcError, match=f"sold as order {order['order_id']} and its funding is not sent yet"):
            await shop.lsp.call(command, ask)
        client.release_ready()
        sending.release()
        assert (await payment).paid
        await shop.over(order)


async def test_a_cancel_during_its_open_is_refused_too() -> None:
    """cln:N1, rule:26: lightningd has made the channel, and we have not heard its id yet."""
    async with Shop() as shop:
        client, payer = shop.client(send_ready=False), shop.payer()
        order = await shop.order(client)
        signed = shop.lsp.faults.late("fundchannel_complete")
        payment = shop.pay(payer, order)
        await signed.reached.wait()
        await shop.until(lambda: bool(client.ends), "the channel")
        with pytest.raises(RpcError, match=f"sold as order {order['order_id']}"):
            await shop.lsp.call("fundchannel_cancel", {"id": client.node_id})
        client.release_ready()
        signed.release()
        assert (await payment).paid
        await shop.over(order)


async def test_an_operator_who_closes_it_all_the_same_ends_the_order_and_the_payment_goes_back() -> None:
    """E-12, rule:9, rule:23: by force, while its funding waits: nothing is sent, no invoice left, coins are free"""
    async with Shop() as shop:
        client, payer = shop.client(), shop.payer()
        order = await shop.order(client)
        sending = shop.lsp.faults.fail("sendpsbt", times=1)
        payment = shop.pay(payer, order)
        await shop.until(lambda: sending.hits > 0, "the sending")
        await shop.lsp.call("close", {"id": client.node_id, "force_lease_closed": True, "unilateraltimeout": 1})
        for _ in range(5):
            await turn(shop, 2)
        assert not (await payment).paid
        await shop.reaches(order, "failed")
        assert shop.channels(client) == []
        assert not shop.world.orphaned_sat()
        assert shop.lsp.invoices.by_hash == {}
        assert [row for row in shop.lsp.wallet.rows() if row["reserved"]] == []
