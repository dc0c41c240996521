"""Payments of orders, part by part, with the plugin's process on the embedded node."""

from __future__ import annotations

from typing import Any

import pytest
from harness.orders import FAR, Shop, turn

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.bolt11 import decode
from lsps2fast_plugin.simnode.closing import force_close
from lsps2fast_plugin.simnode.errors import RpcError
from lsps2fast_plugin.simnode.failures import MPP_TIMEOUT
from lsps2fast_plugin.simnode.payer import Payment

UNKNOWN = "400f"  # incorrect_or_unknown_payment_details
TIMEOUT = "0017"  # mpp_timeout


def total_msat(order: dict[str, Any]) -> int:
    """What an order costs."""
    return int(order["payment"]["bolt11"]["order_total_sat"]) * 1000


def halves(order: dict[str, Any]) -> list[int]:
    """It in two parts."""
    total = total_msat(order)
    return [total // 2, total - total // 2]


async def code(payment: Payment) -> set[str]:
    """How its parts failed."""
    return {message[:4] for message in (await payment).raw_messages}


async def two(shop: Shop) -> tuple[Client, Payer, dict[str, Any]]:
    """A client that has ordered, and a payer with two channels."""
    client, payer = shop.client(), shop.payer(channels=2)
    return client, payer, await shop.order(client)


async def gets_it(shop: Shop, client: Client, payer: Payer, order: dict[str, Any]) -> None:
    """Whatever came before, the order can be paid."""
    assert (await shop.pay(payer, order)).paid
    await shop.over(order)
    assert len(shop.channels(client)) == 1


# Parts that are no good ----------------------------------------------------------------------------


async def test_a_part_with_another_secret_is_refused_alone() -> None:
    """E-12, rule:3: a stranger who knows the hash cannot end the payment."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        text = order["payment"]["bolt11"]["invoice"]
        other = decode(text)
        other.payment_secret = b"\7" * 32
        first = shop.pay(payer, order, amounts_msat=halves(order)[:1], total_msat=total_msat(order), channels=[0])
        await shop.held(1)
        false = payer.pay(other.sign(shop.lsp.private_key), final_delta=FAR)
        assert await code(false) == {UNKNOWN}
        second = shop.pay(payer, order, amounts_msat=halves(order)[1:], total_msat=total_msat(order), channels=[1])
        assert (await first).paid
        assert (await second).paid
        await shop.over(order)


@pytest.mark.parametrize("more", [-1, 1, 2])
async def test_a_part_that_names_another_total_is_refused_alone(more: int) -> None:
    """E-12, rule:20: less than is asked, more than twice, or other than the first part; the rest goes on."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        asked = total_msat(order)
        first = shop.pay(payer, order, amounts_msat=halves(order)[:1], total_msat=asked, channels=[0])
        await shop.held(1)
        odd = {-1: asked - 1, 1: asked + 1, 2: 2 * asked + 1}[more]
        assert await code(shop.pay(payer, order, amounts_msat=[asked], total_msat=odd)) == {UNKNOWN}
        second = shop.pay(payer, order, amounts_msat=halves(order)[1:], total_msat=asked, channels=[1])
        assert (await first).paid
        assert (await second).paid
        await shop.over(order)


async def test_a_part_too_many_is_refused() -> None:
    """rule:1, E-12: a payment is whole once; what comes beside it goes back, before and after it is taken."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        client.go_offline()
        payment = shop.pay(payer, order)
        await shop.reaches(order, "held")
        for _ in range(3):
            assert await code(shop.pay(payer, order)) == {UNKNOWN}
        client.connect()
        assert (await payment).paid
        assert await code(shop.pay(payer, order)) == {UNKNOWN}
        await shop.over(order)
        assert await code(shop.pay(payer, order)) == {UNKNOWN}
        assert len(shop.channels(client)) == 1


async def test_a_sum_above_twice_the_price_is_refused() -> None:
    """E-12, rule:22: a slip of the payer costs it nothing."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        asked = total_msat(order)
        assert await code(shop.pay(payer, order, amounts_msat=[2 * asked + 1], total_msat=asked)) == {UNKNOWN}
        payment = shop.pay(payer, order, amounts_msat=[2 * asked], total_msat=asked)
        assert (await payment).paid
        await shop.over(order)


async def test_parts_that_wait_too_long_for_the_others_time_out() -> None:
    """E-12, rule:5: as lightningd would; the order may be paid afterwards."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        part = shop.pay(payer, order, amounts_msat=halves(order)[:1], total_msat=total_msat(order))
        await shop.held(1)
        await turn(shop, 96)
        assert await code(part) == {TIMEOUT}
        assert await shop.told(client, order) == ("CREATED", "EXPECT_PAYMENT")
        await gets_it(shop, client, payer, order)


async def test_parts_are_bounded_in_number() -> None:
    """rule:24: as those of a sale."""
    async with Shop(lsps2_max_parts=4) as shop:
        client, payer, order = await two(shop)
        asked = total_msat(order)
        dust = shop.pay(payer, order, amounts_msat=[1000] * 6, total_msat=asked)
        await shop.held(4)
        await turn(shop, 96)
        assert await code(dust) == {TIMEOUT, "2002"}
        await gets_it(shop, client, payer, order)


async def test_an_order_that_has_ended_takes_nothing() -> None:
    """E-12: its invoice lives on for a while at lightningd, and no part gets there."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        await turn(shop, 3_600 + 125)
        assert await code(shop.pay(payer, order)) == {UNKNOWN}
        await shop.reaches(order, "failed")
        assert shop.lsp.invoices.by_hash == {}


# Parts that get lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["collecting", "client away", "opening"])
async def test_the_channel_of_a_part_goes_to_the_chain(when: str) -> None:
    """rule:19: what it brought is worth nothing certain, so all of it goes back and no channel is given."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("fundchannel_complete") if when == "opening" else None
        if when == "client away":
            client.go_offline()
        parts = halves(order)[: 1 if when == "collecting" else 2]
        payment = shop.pay(payer, order, amounts_msat=parts, total_msat=total_msat(order))
        if stuck is not None:
            await stuck.reached.wait()
        else:
            await shop.held(len(parts))
            await shop.quiet()
        force_close(payer.channels[0], "by the payer")
        await shop.held(0)
        if stuck is not None:
            stuck.release()
        client.connect()
        shop.world.mine(200)
        await turn(shop, 2)
        if when == "collecting":
            assert await shop.told(client, order) == ("CREATED", "EXPECT_PAYMENT")
        else:
            await shop.reaches(order, "failed")
        assert shop.channels(client) == []
        assert not payment.done or not (await payment).paid


async def test_a_part_is_lost_and_nothing_tells_us() -> None:
    """E-12, rule:16, rule:23: before a funding is sent lightningd is asked whether it has every part."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("fundchannel_complete")
        payment = shop.pay(payer, order, amounts_msat=halves(order))
        await stuck.reached.wait()
        part = next(iter(shop.lsp.htlcs.held.values()))
        shop.lsp.htlcs.parts.fail(part, MPP_TIMEOUT)
        stuck.release()
        assert await code(payment) == {TIMEOUT, "2002"}
        await shop.reaches(order, "failed")
        assert shop.channels(client) == []


async def test_a_part_is_withdrawn_while_bitcoind_refuses_the_funding(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:2, rule:19: lightningd has begun to send it, so the channel is owed, and what is left is taken."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        tries: list[Any] = []

        def refuse(tx: Any) -> dict[str, Any]:
            tries.append(tx)
            raise RpcError(-1, "Error broadcasting transaction: mempool min fee not met")

        with monkeypatch.context() as patch:
            patch.setattr(shop.lsp.wallet, "send", refuse)
            asked = total_msat(order)
            crumb = shop.pay(payer, order, amounts_msat=[1], total_msat=asked, channels=[0])
            payment = shop.pay(payer, order, amounts_msat=[asked - 1], total_msat=asked, channels=[1])
            await shop.until(lambda: tries, "a sending is tried")
            force_close(payer.channels[0], "by the payer")
            for _ in range(4):
                await turn(shop, 61)
        assert (await payment).paid
        await turn(shop, 61)
        await shop.over(order)
        assert shop.record(order)["paid"]
        assert len(shop.channels(client)) == 1
        assert not crumb.done or not (await crumb).paid


async def test_every_part_is_on_chain_when_the_funding_is_sent() -> None:
    """rule:19, rule:20: who has the preimage may claim it there, so it counts as taken, and the channel is leased."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        late = shop.lsp.faults.late("sendpsbt")
        payment = shop.pay(payer, order)
        await late.reached.wait()
        force_close(payer.channels[0], "by the payer")
        await shop.fence()
        late.release()
        await shop.reaches(order, "sent")
        await shop.over(order)
        assert (await payment).paid
        assert shop.record(order)["paid"]
        (channel,) = shop.channels(client)
        with pytest.raises(Exception, match=f"order {order['order_id']}"):
            await shop.lsp.call("close", {"id": channel.channel_id})


async def given_away(shop: Shop, payer: Payer, order: dict[str, Any]) -> None:
    """lightningd gives the part of a payment up in the moment in which the funding is sent."""
    late = shop.lsp.faults.late("sendpsbt")
    payment = shop.pay(payer, order)
    await late.reached.wait()
    part = next(iter(shop.lsp.htlcs.held.values()))
    shop.lsp.htlcs.parts.fail(part, MPP_TIMEOUT)
    assert not (await payment).paid
    late.release()
    await shop.until(lambda: shop.record(order)["why"] == "it was not paid for", "it is given away")


async def test_a_channel_that_was_never_paid_for_is_not_leased() -> None:
    """rule:20: its operator may close it, after a start, too; and no one pays for it any more."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        await given_away(shop, payer, order)
        await shop.over(order)
        assert shop.lsp.invoices.by_hash == {}
        assert await code(shop.pay(payer, order)) == {UNKNOWN}
        await shop.stop()
        await shop.start()
        (channel,) = shop.channels(client)
        await shop.lsp.call("close", {"id": channel.channel_id})


async def test_a_channel_that_was_given_away_is_paid_for_after_all() -> None:
    """rule:20, rule:10: by an invoice that could not be deleted yet; it is owed what was promised for that."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        shop.lsp.faults.fail("delinvoice", times=10_000, message="no")
        await given_away(shop, payer, order)
        await shop.kill()
        assert (await shop.pay(payer, order)).paid
        await shop.start()
        client.connect()
        await turn(shop, 40)
        shop.lsp.faults.clear()
        await shop.over(order)
        assert shop.record(order)["paid"]
        (channel,) = shop.channels(client)
        with pytest.raises(Exception, match=f"order {order['order_id']}"):
            await shop.lsp.call("close", {"id": channel.channel_id})


async def test_an_invoice_is_paid_in_the_moment_in_which_it_would_be_deleted() -> None:
    """rule:10: lightningd's last word on the invoice counts, whatever was read before."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("delinvoice")
        await given_away(shop, payer, order)
        await stuck.reached.wait()
        (invoice,) = shop.lsp.invoices.by_hash.values()
        invoice.status, invoice.paid_msat = "paid", total_msat(order)
        stuck.release()
        await shop.over(order)
        assert shop.record(order)["paid"]


# Without us ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["on", "off"])
async def test_a_paid_invoice_is_deleted_before_we_are_back(choice: str) -> None:
    """E-12, rule:10: people clean up; what the bookkeeper knows of is owed."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        await shop.stop()
        assert (await shop.pay(payer, order)).paid
        (invoice,) = shop.lsp.invoices.by_hash.values()
        await shop.lsp.call("delinvoice", {"label": invoice.label, "status": "paid"})
        shop.lsp.plugin_plans[0][1]["lsps2-lsps1"] = choice
        await shop.start()
        await turn(shop, 40)
        await shop.reaches(order, "sent")
        assert shop.record(order)["paid"]
        await shop.over(order)
        shop.lsp.plugin_plans[0][1]["lsps2-lsps1"] = "on"


@pytest.mark.parametrize("was_held", [False, True])
async def test_a_deleted_invoice_that_no_one_can_ask_about_is_told(was_held: bool) -> None:
    """E-12, rule:10: without the bookkeeper the operator hears of it, with the hash and the sum; once."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        if was_held:
            client.go_offline()
            payment = shop.pay(payer, order)
            await shop.reaches(order, "held")
            await shop.kill()
        else:
            await shop.stop()
            payment = shop.pay(payer, order)
        assert (await payment).paid
        (invoice,) = shop.lsp.invoices.by_hash.values()
        await shop.lsp.call("delinvoice", {"label": invoice.label, "status": "paid"})
        shop.lsp.faults.fail("bkpr-listaccountevents", times=100, code=-32601, message="Unknown command")
        await shop.start()
        told = f"ALARM.*payment hash {invoice.payment_hash.hex()}"
        await turn(shop, 3_800)
        await shop.until(lambda: shop.log_lines(told), "the alarm")  # a failed record goes within the hour
        (_,) = shop.log_lines(told)
        client.connect()


@pytest.mark.parametrize("how", ["restart", "power"])
async def test_a_death_when_the_payment_was_just_taken(how: str) -> None:
    """rule:2, rule:11: what the record says is taken stays taken when lightningd asks again; the payer pays once."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("datastore", nth=4, after=True)
        payment = shop.pay(payer, order, amounts_msat=halves(order))
        await stuck.reached.wait()
        await shop.until(lambda: shop.record(order)["state"] == "sent", "the record")
        await shop.restart(power=how == "power")
        stuck.release()
        client.connect()
        await turn(shop, 2)
        assert (await payment).paid
        await turn(shop, 40)
        await shop.over(order)
        assert len(shop.channels(client)) == 1
        assert shop.lsp.invoices.by_hash == {}


@pytest.mark.parametrize("again", [False, True])
async def test_a_payment_that_lightningd_took_for_us_is_no_second_one(again: bool) -> None:
    """rule:10, rule:11: the operator is told to pay back what came twice, and only that."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("datastore", nth=4, after=True)
        payment = shop.pay(payer, order)
        await stuck.reached.wait()
        await shop.until(lambda: shop.record(order)["state"] == "sent", "the record")
        if again:
            shop.lsp.faults.fail("delinvoice", times=10_000, message="no")  # one that hung would be carried out later
            stuck.release()
            assert (await payment).paid
            await shop.kill()
            shop.lsp.faults.clear()
            assert (await shop.pay(payer, order)).paid
        else:
            await shop.kill()
            stuck.release()
            assert (await payment).paid
        await shop.start()
        client.connect()
        await turn(shop, 40)
        await shop.over(order)
        assert bool(shop.log_lines("paid twice")) == again


# A start while a funding may be on its way ----------------------------------------------------------


class Full:
    """bitcoind refuses what lightningd has begun to send, for as long as `refuses`."""

    def __init__(self, shop: Shop) -> None:
        self.tries, self.refuses = 0, True
        self._send, shop.lsp.wallet.send = shop.lsp.wallet.send, self._take  # type: ignore[method-assign]

    def _take(self, tx: Any) -> Any:
        self.tries += 1
        if self.refuses:
            raise RpcError(-1, "Error broadcasting transaction: mempool min fee not met")
        return self._send(tx)


async def begun_and_down(shop: Shop, payer: Payer, order: dict[str, Any], blocks: int) -> tuple[Payment, Full]:
    """A payment of two parts whose funding lightningd has begun to send; then the power goes, and `blocks` come.

    Of the parts only the second will come back.
    """
    bitcoind, asked = Full(shop), total_msat(order)
    shop.pay(payer, order, amounts_msat=[1], total_msat=asked, channels=[0])
    payment = shop.pay(payer, order, amounts_msat=[asked - 1], total_msat=asked, channels=[1])
    await shop.until(lambda: bitcoind.tries, "a sending is tried")
    shop.lsp.sigkill()
    force_close(payer.channels[0], "by the payer")
    shop.world.mine(blocks)
    return payment, bitcoind


async def comes_back(shop: Shop) -> None:
    """The node starts again."""
    starts = len(shop.log_lines("sells JIT channels"))
    shop._forget_process()
    for calls in (shop.asked, shop.answered, shop.results):
        calls.clear()
    await shop.lsp.start()
    shop.plugin_lives = True
    await shop.selling(starts + 1)


@pytest.mark.parametrize("blocks", [1, FAR - 10])
async def test_some_parts_come_back_to_a_start_that_owes_the_channel(blocks: int) -> None:
    """rule:2, rule:19: they are taken, though the payment is not whole and lightningd would take it no more."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        payment, bitcoind = await begun_and_down(shop, payer, order, blocks)
        await comes_back(shop)
        client.connect()
        for _ in range(4):
            await turn(shop, 40)
        assert (await payment).paid
        assert shop.record(order)["paid"]
        bitcoind.refuses = False
        await turn(shop, 61)
        await shop.over(order)
        assert len(shop.channels(client)) == 1


async def test_a_start_sends_nothing_for_a_payment_that_runs_out() -> None:
    """rule:5: a channel whose funding lightningd never began to send is dropped, and its payment goes back."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        away = shop.lsp.faults.fail("sendpsbt", times=10_000, message="bitcoind is away")
        payment = shop.pay(payer, order)
        await away.reached.wait()
        shop.lsp.sigkill()
        shop.lsp.faults.clear()
        shop.world.mine(FAR - 22)
        await comes_back(shop)
        client.connect()
        assert await code(payment) == {UNKNOWN}
        await shop.reaches(order, "failed")
        assert shop.channels(client) == []


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_start_waits_for_the_latest_blocks(in_time: bool) -> None:
    """rule:5, cln:O12: until lightningd has read them a payment may have run out, so no funding is sent for it."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        away = shop.lsp.faults.fail("sendpsbt", times=10_000, message="bitcoind is away")
        payment = shop.pay(payer, order)
        await away.reached.wait()
        shop.lsp.sigkill()
        shop.lsp.faults.clear()
        shop.lsp.syncing = True
        await comes_back(shop)
        client.connect()
        for _ in range(3 if in_time else 11):
            await turn(shop, 61)
            assert not shop.channels(client)
        shop.lsp.syncing = False
        await turn(shop, 2)
        assert (await payment).paid is in_time
        if in_time:
            await shop.over(order)
        assert len(shop.channels(client)) == in_time


async def test_a_new_part_comes_before_those_that_are_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:3, rule:20: after a start only the parts that were held before are let in, also if another is first."""
    async with Shop() as shop:
        client, payer, order = await two(shop)
        client.go_offline()
        payment = shop.pay(payer, order, amounts_msat=halves(order))
        await shop.reaches(order, "held")
        shop.lsp.sigkill()
        replay = shop.lsp._replay
        with monkeypatch.context() as patch:
            patch.setattr(shop.lsp, "_replay", lambda: None)
            await comes_back(shop)
        more_msat = total_msat(order) + 1
        odd = shop.pay(payer, order, amounts_msat=[1], total_msat=more_msat, channels=[0])
        await shop.until(lambda: len(shop.asked) > 0, "the new part is asked about")
        replay()
        client.connect()
        assert (await payment).paid
        assert await code(odd) == {UNKNOWN}
        await shop.over(order)


async def test_records_that_cannot_be_read_hold_up_no_other_payment() -> None:
    """rule:15, cln:W11: a payment to the node itself waits for them a minute, then it is lightningd's alone."""
    async with Shop() as shop:
        payer = shop.payer()
        made = await shop.lsp.call("invoice", {"amount_msat": 5_000_000, "label": "mine", "description": "x"})
        await shop.stop()
        fault = shop.lsp.faults.fail("listdatastore", times=10_000, message="no")
        await shop.start(ready=False)
        payment = payer.pay(made["bolt11"], final_delta=FAR)
        await shop.until(lambda: fault.hits > 2, "the journal is asked for")
        assert not payment.done
        await shop.lsp.call("lsps2-dev-advance", {"seconds": 61})
        assert (await payment).paid
        fault.times = 0
        for _ in range(4):
            await shop.lsp.call("lsps2-dev-advance", {"seconds": 61})


async def test_coins_of_a_funding_that_waits_stay_reserved() -> None:
    """rule:7: a payment that lightningd took has no end, so its coins are reserved again and again."""
    async with Shop() as shop:
        _client, payer, order = await two(shop)
        stuck = shop.lsp.faults.hang("fundchannel_start")
        payment = shop.pay(payer, order)
        await stuck.reached.wait()
        await shop.kill()
        stuck.release()
        assert (await payment).paid
        fault = shop.lsp.faults.fail("sendpsbt", times=10_000, message="bitcoind is away")
        await shop.start()
        for _ in range(6):
            await turn(shop, 61)
        await shop.reaches(order, "funded")
        for _ in range(4):
            shop.world.mine(50)
            await turn(shop, 61)
        assert [row["reserved"] for row in shop.lsp.wallet.rows()].count(True) == 1
        fault.times = 0
        await turn(shop, 61)
        await shop.over(order)


# Many ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["orders", "sales"])
async def test_orders_and_sales_share_what_may_be_held(first: str) -> None:
    """rule:24: one pot, of which orders may fill half; lsps2-stats shows the sum."""
    async with Shop(lsps2_max_held_parts=8, lsps2_max_parts=4) as shop:
        client, payer = shop.client(), shop.payer(channels=2)
        ordered = [await shop.order(client), await shop.order(client)]
        sales = [await shop.invoice(shop.client(name)) for name in ("bob", "carol")]

        async def fill_by_orders(held: int, more: int) -> None:
            for order, count in zip(ordered, (4, more), strict=True):
                shop.pay(payer, order, amounts_msat=[1] * count, total_msat=total_msat(order))
                await shop.quiet()
            assert await pot() == held

        async def fill_by_sales(held: int) -> None:
            for sale in sales:
                payer.pay(sale, [1000] * 4, total_msat=10_000_000)
                await shop.quiet()
            assert await pot() == held

        async def pot() -> int:
            stats = await shop.stats()
            assert stats["limits"]["held_parts"]["used_parts"] == stats["held_parts"] == len(shop.lsp.htlcs.held)
            return int(stats["held_parts"])

        if first == "orders":
            await fill_by_orders(4, 2)
            await fill_by_sales(8)
        else:
            await fill_by_sales(8)
            await fill_by_orders(8, 2)
        await turn(shop, 96)
        assert await pot() == 0


async def test_what_is_worth_little_gives_way_when_orders_crowd() -> None:
    """rule:24: first of clients who have hung up, and never in its first ten minutes, nor once a part has come."""
    async with Shop(lsps2_max_orders=3, lsps2_max_orders_per_peer=3) as shop:
        client, away, payer = shop.client(), shop.client("bob"), shop.payer()
        dear = await shop.order(away, lsp_balance_sat="900000")
        begun = await shop.order(away)
        kept = await shop.order(client, lsp_balance_sat="300000")
        part = shop.pay(payer, begun, amounts_msat=[1000], total_msat=total_msat(begun))
        await shop.held(1)
        away.go_offline()
        with pytest.raises(Exception, match="as many orders wait"):
            await shop.order(shop.client("carol"))
        await turn(shop, 601)
        part = shop.pay(payer, begun, amounts_msat=[1000], total_msat=total_msat(begun))
        await shop.held(1)
        new = await shop.order(shop.client("dave"))
        await turn(shop, 6)
        await shop.reaches(dear, "failed")
        assert {shop.record(each)["state"] for each in (begun, kept, new)} == {"expected"}
        await turn(shop, 96)
        assert not (await part).paid
        away.connect()
