"""People against the LSP's money and its clients' liveness: each row, through the real plugin process."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
from harness.service import (
    CHANNEL_SAT,
    CLIENT_TRUSTS,
    COINS,
    FEE_MSAT,
    LSP_TRUSTS,
    SIZE_MSAT,
    TEMPORARY,
    UNKNOWN,
    Stage,
    refused,
)

from lsps2fast_plugin.simnode import Client, Payer, tlv
from lsps2fast_plugin.simnode.client import ClientInvoice, LspsError


async def failed_payment(stage: Stage, client: Client, payer: Payer) -> ClientInvoice:
    """A sale whose payment the client fails after its channel was made."""
    invoice = await stage.invoice(client)
    assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages != [""]
    await stage.quiet()
    return invoice


def opened_sat(stage: Stage) -> list[int]:
    """The channels that were asked for, in order."""
    return [int(call["amount"]) for call in stage.calls("fundchannel_start")]


# --- What is put in ---------------------------------------------------------------------------------------------------


async def test_no_overpayment_opens_a_channel_above_the_largest(mode: str) -> None:
    """people:S1, rule:18: 1,500 sat are sold, 20,000,000 are sent in one part, then the right sum."""
    options = {"lsps2-max-channel-sat": 500_000}
    async with Stage(mode, wallet_sat=(30_000_000,), options=options) as stage:
        client, payer = stage.client(), stage.payer(capacity_sat=60_000_000)
        invoice = await stage.invoice(client, 1_500_000)
        result = await payer.pay(invoice, [20_000_000_000])
        assert result.raw_messages == [TEMPORARY]
        assert all(sat <= 500_000 for sat in opened_sat(stage))
        await stage.paid(payer, invoice, [1_500_000])
        await stage.over(invoice)
        stage.world.mine()


@pytest.mark.parametrize(("size_msat", "paid_msat"), [(160_000_000, 300_000_000), (None, 400_000_000)])
async def test_the_budget_holds_for_what_is_opened(size_msat: int | None, paid_msat: int) -> None:
    """people:S1, people:S2, rule:18: fixed and variable buys of wallets that refuse, paid as far as it goes."""
    options = {
        "lsps2-capital-budget-sat": 500_000,
        "lsps2-withheld-budget-sat": 300_000,
        "lsps2-max-overpay-percent": 100,
    }
    async with Stage(LSP_TRUSTS, wallet_sat=COINS, options=options) as stage:
        payer = stage.payer(channels=2)
        for number in range(4):
            client = stage.client(f"taker {number}", on_part="fail")
            invoice = await stage.invoice(client, size_msat)
            await payer.pay(invoice, [paid_msat])
            await stage.quiet()
            limits = (await stage.stats())["limits"]
            assert limits["capital_budget"]["used_msat"] <= 500_000_000
            assert limits["withheld_budget"]["used_msat"] <= 300_000_000
        public = sum(end.channel.capacity_sat for end in stage.lsp.ends if end.opener and not end.channel.withheld)
        assert public <= 500_000
        assert public > 0
        assert (await stage.stats())["at_risk_msat"] == public * 1000
        stage.world.mine()


async def test_coins_of_withheld_channels_count_while_the_client_holds() -> None:
    """people:S11, rule:18: two channels fit into the budget; the third payment fails temporarily, its offer stays."""
    options = {"lsps2-capital-budget-sat": 2 * CHANNEL_SAT}
    async with Stage(CLIENT_TRUSTS, wallet_sat=COINS, options=options) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=3)
        invoices = [await stage.invoice(client) for _ in range(3)]
        payments = []
        for number, invoice in enumerate(invoices[:2], 1):
            payments.append(payer.pay(invoice, [SIZE_MSAT], final_delta=1_800))
            await stage.until(lambda number=number: len(client.held()) == number, "the part at the client")
        assert (await payer.pay(invoices[2], [SIZE_MSAT])).raw_messages == [TEMPORARY]
        stats = await stage.stats()
        reserved = sum(end.channel.capacity_sat for end in stage.lsp.ends if end.opener) * 1000
        assert stats["at_risk_msat"] == stats["limits"]["withheld_budget"]["used_msat"] == reserved
        assert stats["limits"]["withheld_budget"]["binds"] is True
        assert stats["refusals"]["withheld_budget"] == 1
        client.settle_held()
        assert [(await payment).paid for payment in payments] == [True, True]
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoices[2], [SIZE_MSAT])
        for invoice in invoices:
            await stage.over(invoice)
        assert (await stage.stats())["at_risk_msat"] == 0
        stage.world.mine()


async def test_a_part_that_would_bind_coins_for_weeks_can_be_refused() -> None:
    """people:S11, rule:18: the operator bounds how long a client may hold."""
    async with Stage(CLIENT_TRUSTS, options={"lsps2-max-hold-blocks": 720}) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [SIZE_MSAT], final_delta=721)).raw_messages == ["0015"]
        assert (await refused(stage))["hold_too_long"] == 1
        await stage.paid(payer, invoice, [SIZE_MSAT], final_delta=720)
        await stage.over(invoice)
        stage.world.mine()


async def test_a_client_holds_at_most_its_share_of_the_coins() -> None:
    """people:S11, rule:24: the second channel of one client must leave others their half."""
    async with Stage(CLIENT_TRUSTS, wallet_sat=(130_000,) * 3) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=2)
        invoices = [await stage.invoice(client) for _ in range(2)]
        payment = payer.pay(invoices[0], [SIZE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part at the client")
        assert (await payer.pay(invoices[1], [SIZE_MSAT])).raw_messages == [TEMPORARY]
        assert (await refused(stage))["client_share"] == 1
        await stage.still_sells()
        client.settle_held()
        await payment
        await stage.over(invoices[0])
        stage.world.mine()


async def test_closes_give_no_capital_back_before_their_block_and_no_mining_fee_ever() -> None:
    """people:S6, rule:18: identities that take a channel, do not pay and close."""
    options = {"lsps2-capital-budget-sat": 2 * CHANNEL_SAT, "lsps2-mining-budget-sat": 14_000}
    async with Stage(LSP_TRUSTS, wallet_sat=COINS, options=options) as stage:
        payer = stage.payer(channels=3)
        for number in range(6):
            client = stage.client(f"taker {number}", on_part="fail")
            await failed_payment(stage, client, payer)
            for end in [end for end in client.ends if not end.other.forgotten]:
                await stage.lsp.call(
                    "close", {"id": end.channel.channel_id, "unilateraltimeout": 1, "force_lease_closed": True}
                )
            await stage.quiet()
        sent = len(stage.calls("sendpsbt"))
        assert sent == 2
        assert (await stage.stats())["at_risk_msat"] > 0
        stage.world.mine()
        await stage.quiet()
        stats = await stage.stats()
        assert stats["at_risk_msat"] == 0
        assert stats["limits"]["mining_budget"]["used_msat"] == sent * 1_800 * stage.lsp.feerates.opening
        late = stage.client("late", on_part="fail")
        invoice = await stage.invoice(late)
        await payer.pay(invoice, [SIZE_MSAT])
        bought = await stage.buy(stage.client("later"))
        assert bought["client_trusts_lsp"] is True  # 4,500 sat a channel: the fourth would pass 14,000
        assert (await stage.stats())["limits"]["mining_budget"]["used_msat"] == 3 * 4_500_000
        stage.world.mine()


def raise_feerates(stage: Stage, times: int) -> None:
    """A block costs so many times as much from now on."""
    rates = stage.lsp.feerates
    dear = {field.name: getattr(rates, field.name) for field in dataclasses.fields(rates)}
    dear = {name: rate * times if isinstance(rate, int) else rate for name, rate in dear.items()}
    stage.lsp.feerates = dataclasses.replace(rates, **dear)


@pytest.mark.parametrize(("times", "served"), [(3, True), (4, False), (40, False)])
async def test_an_offer_is_no_option_on_the_miners_price(mode: str, times: int, served: bool) -> None:
    """people:S12, O-09: beyond 10,000 sat of loss it is our own trouble; the offer stays, and the operator hears."""
    options = {"lsps2-fee-floor": 100, "lsps2-offer-validity": 86_400}
    async with Stage(mode, options=options) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        cheap = stage.lsp.feerates
        raise_feerates(stage, times)
        await stage.world.advance(100)
        result = await payer.pay(invoice, [SIZE_MSAT])
        assert result.raw_messages == ([""] if served else [TEMPORARY])
        assert (await refused(stage)).get("sold_at_a_loss", 0) == (not served)
        if not served:
            stage.lsp.feerates = cheap
            await stage.world.advance(100)
            await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        stage.world.mine()


async def test_open_offers_that_would_be_sold_at_a_loss_are_counted_and_told_once() -> None:
    """people:S12: with the block after the feerate rose; nothing is left of it when it falls."""
    options = {"lsps2-fee-floor": 100, "lsps2-offer-validity": 86_400}
    async with Stage(LSP_TRUSTS, options=options) as stage:
        client = stage.client()
        for _ in range(3):
            await stage.invoice(client)
        cheap = stage.lsp.feerates
        for times, count in ((1, 0), (4, 3), (1, 0)):
            stage.lsp.feerates = cheap
            raise_feerates(stage, times)
            await stage.world.advance(100)
            stage.world.mine(2)
            await stage.quiet()
            stats = await stage.stats()
            assert (stats["offers_at_a_loss"], stats["offers_at_a_loss_msat"]) == (count, count * 13_500_000)
        assert len(stage.log_lines("3 open offers would be sold at a loss of 40500 sat")) == 1


# --- Judged when the money moves --------------------------------------------------------------------------------------


async def test_ten_buys_sold_before_the_first_payment_bring_two_channels() -> None:
    """people:S4, rule:19: temporary for the payer, counted, and the offers live on."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer(channels=2)
        invoices = [await stage.invoice(client) for _ in range(10)]
        results = [await payer.pay(invoice, [SIZE_MSAT]) for invoice in invoices]
        await stage.quiet()
        assert len(stage.calls("sendpsbt")) == 2
        assert [result.raw_messages for result in results[2:]] == [[TEMPORARY]] * 8
        assert (await refused(stage))["peer_unpaid"] == 8
        client.behaviour.on_part = "settle"
        for number in (0, 2, 1):
            await stage.paid(payer, invoices[number], [SIZE_MSAT])
            await stage.over(invoices[number])
        assert (await stage.stats())["at_risk_msat"] == 0
        stage.world.mine()


async def test_a_client_that_fails_its_own_part_of_a_payment_gets_no_second_channel() -> None:
    """people:S4, rule:22: one deed that only the client can have done is enough."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=2)
        invoices = [await stage.invoice(client) for _ in range(2)]
        payment = payer.pay(invoices[0], [SIZE_MSAT // 2] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts at the client")
        first, second = client.held()
        client.fail(first)
        client.fulfill(second, invoices[0].preimage)
        await payment
        await stage.state(invoices[0], "UNDERPAID")
        assert (await payer.pay(invoices[1], [SIZE_MSAT])).raw_messages == [TEMPORARY]
        assert len(stage.calls("sendpsbt")) == 1
        stage.world.mine()


@pytest.mark.parametrize("known", [0, 1])
async def test_ten_buys_paid_at_once_and_failed_bring_two_channels(known: int) -> None:
    """people:S4, rule:19: also where nothing, or one failed payment, is known when they are asked for."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer(channels=3)
        invoices = [await stage.invoice(client) for _ in range(10)]
        for invoice in invoices[:known]:
            await payer.pay(invoice, [SIZE_MSAT])
            await stage.quiet()
        payments = [payer.pay(invoice, [SIZE_MSAT]) for invoice in invoices[known:]]
        for payment in payments:
            assert not (await payment).paid
        await stage.quiet()
        assert len(stage.calls("sendpsbt")) == 2
        stage.world.mine()


# --- An unpaid channel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["nothing", "restart", "power", "a block"])
async def test_an_unpaid_channel_on_chain_carries_nothing_but_its_payment(then: str) -> None:
    """people:S5, rule:21: not by its alias, not by its scid, not after a restart; its payment opens it for all."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer(channels=2)
        invoice = await failed_payment(stage, client, payer)
        client.behaviour.on_part = "settle"
        end = client.ends[0].other
        if then == "a block":
            stage.world.mine()
        elif then != "nothing":
            await stage.restart(power=then == "power")
        for name in sorted({end.scid_now(), end.alias}):
            other = client.invoice(1_000_000, name)
            result = await payer.pay(other, [1_000_000], overpay_msat=10_000)
            assert result.raw_messages == [TEMPORARY]
            assert not other.paid_msat
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        other = client.invoice(1_000_000, end.scid_now())
        assert (await payer.pay(other, [1_000_000], overpay_msat=10_000)).paid
        stage.world.mine()


async def test_an_unpaid_channel_is_listed_until_its_money_is_back() -> None:
    """people:S17: also after its offer has lapsed and after a restart."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        await failed_payment(stage, client, payer)
        stage.world.mine()
        await stage.world.advance(4_000)
        await stage.quiet()
        channel_id = client.ends[0].channel.channel_id
        for _ in range(2):
            listed = await stage.lsp.call("lsps2-listsessions")
            assert [each["channel_id"] for each in listed["sessions"]] == [channel_id]
            assert [row["channel_id"] for row in listed["unpaid_channels"]] == [channel_id]
            assert (await stage.stats())["unpaid_channels"] == 1
            await stage.restart()
        await stage.lsp.call("close", {"id": channel_id, "unilateraltimeout": 1, "force_lease_closed": True})
        stage.world.mine()
        await stage.quiet()
        assert (await stage.lsp.call("lsps2-listsessions"))["unpaid_channels"] == []
        assert (await stage.stats())["at_risk_msat"] == 0


@pytest.mark.parametrize("hours", [0, 2])
async def test_an_unpaid_channel_is_closed_when_the_operator_says_so(hours: int) -> None:
    """A-07, people:L9: after its offer, so long after its last payment; its coins are back with the block."""
    async with Stage(LSP_TRUSTS, options={"lsps2-close-unpaid": hours, "lsps2-offer-validity": 3_600}) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        await failed_payment(stage, client, payer)
        end = client.ends[0].other
        for seconds, closed in ((0, False), (3_700, False), (3_600, bool(hours))):
            await stage.world.advance(seconds)
            stage.world.mine()
            await stage.quiet()
            assert bool(stage.calls("close")) is closed
        stage.world.mine()
        await stage.quiet()
        stats = await stage.stats()
        assert (stats["at_risk_msat"] == 0) is bool(hours)
        assert (end.state in ("ONCHAIN", "CLOSED")) is bool(hours)


# --- Standing ---------------------------------------------------------------------------------------------------------


async def test_a_stranger_with_an_invoice_ends_nobodys_service(mode: str) -> None:
    """people:L1, rule:22, C-26: three payments with hashes of its own; served at once, in full within a day."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        victim, stranger = stage.client("victim"), stage.payer("stranger", channels=3)
        invoice = await stage.invoice(victim)
        for _ in range(3):
            fake = victim.invoice(SIZE_MSAT, invoice.scid, preimage=os.urandom(32), cltv_delta=144)
            del victim.invoices[fake.payment_hash]
            await stranger.pay(fake, [SIZE_MSAT])
            await stage.quiet()
        quote = await stage.lsp.call("lsps2-quote", {"peer_id": victim.node_id})
        assert quote["served"] is True
        assert quote["trust"]["probes"] == 1
        assert "failed behind us" in quote["trust"]["reasons"][0]
        await stage.buy(victim)
        await stage.world.advance(86_400)
        assert (await stage.buy(victim))["client_trusts_lsp"] is (mode == CLIENT_TRUSTS)
        stage.world.mine()


@pytest.mark.parametrize("size_msat", [SIZE_MSAT, None])
async def test_no_number_of_strangers_payments_uses_an_offer_up(mode: str, size_msat: int | None) -> None:
    """people:L1, rule:22, C-16: more of them than an offer has attempts; then the payer's comes."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        victim, payer, stranger = stage.client("victim"), stage.payer(), stage.payer("stranger", channels=2)
        invoice = await stage.invoice(victim, size_msat)
        for _ in range(7):
            fake = victim.invoice(SIZE_MSAT, invoice.scid, preimage=os.urandom(32), cltv_delta=144)
            del victim.invoices[fake.payment_hash]
            assert (await stranger.pay(fake, [SIZE_MSAT])).raw_messages not in ([""], [UNKNOWN])
            await stage.at_rest()
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        stage.world.mine()


async def test_a_paid_sale_clears_what_led_up_to_it(mode: str) -> None:
    """people:L1, rule:22: the honest payment comes after the stranger's; nothing is left of it."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        victim, stranger = stage.client("victim"), stage.payer("stranger", channels=2)
        invoice = await stage.invoice(victim)
        fake = victim.invoice(SIZE_MSAT, invoice.scid, preimage=os.urandom(32), cltv_delta=144)
        del victim.invoices[fake.payment_hash]
        await stranger.pay(fake, [SIZE_MSAT])
        await stage.quiet()
        await stage.paid(stage.payer(), invoice, [SIZE_MSAT])
        await stage.over(invoice)
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": victim.node_id}))["trust"]
        assert (trust["probes"], trust["unpaid_channels"], trust["reasons"]) == (0, 0, [])
        assert (await stage.buy(victim))["client_trusts_lsp"] is (mode == CLIENT_TRUSTS)
        stage.world.mine()


@pytest.mark.parametrize("restarted", [False, True])
async def test_our_own_nodes_failures_are_nobodys_probes(mode: str, restarted: bool) -> None:
    """people:L2, rule:22: three payments that lightningd itself refuses; also over a restart."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        client.behaviour.max_accepted_htlcs = 0
        for _ in range(3):
            await stage.world.advance(30)
            await failed_payment(stage, client, payer)
        if restarted:
            await stage.restart()
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]
        assert (trust["probes"], trust["unpaid_channels"]) == (0, 0)
        await stage.buy(client)
        stage.world.mine()


async def test_a_client_that_closes_its_unpaid_channel_is_remembered_and_can_be_forgiven() -> None:
    """rule:22, people:S6: its own deed, with its reason, over a restart, until `lsps2-forgive`."""
    async with Stage(LSP_TRUSTS, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        await failed_payment(stage, client, payer)
        end = client.ends[0].other
        stage.lsp.change_state(end, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")
        await stage.quiet()
        await stage.restart()
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]
        assert trust["unpaid_channels"] == 1
        assert any("left unpaid by the client itself" in reason for reason in trust["reasons"])
        with pytest.raises(Exception, match="peer_id"):
            await stage.lsp.call("lsps2-forgive", {"peer_id": "no node id"})
        answer = await stage.lsp.call("lsps2-forgive", {"peer_id": client.node_id})
        assert answer["forgiven"]["unpaid_channels"] == 1
        trust = (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]
        assert (trust["mode"], trust["unpaid_channels"], trust["reasons"]) == (LSP_TRUSTS, 0, [])
        stage.leaves = ("channel",)


@pytest.mark.parametrize("mode", [LSP_TRUSTS, CLIENT_TRUSTS])
async def test_a_client_that_takes_parts_without_the_whole_fee_has_paid_what_came(mode: str) -> None:
    """people:S3, rule:20: outcome, counters, log, standing and guard go by the fee that came; the rest pays for it."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.until(lambda: len(client.held()) == 2, "both parts at the client")
        first, second = client.held()
        client.fail(first)
        client.fulfill(second, invoice.preimage)
        await payment
        await stage.quiet()
        assert stage.states(invoice)[-1] == "UNDERPAID"
        stats = await stage.stats()
        assert stats["payments"]["underpaid"] == 1
        assert stats["payments"]["succeeded"] == stats["channels_to_keep_open"] == 0
        assert stats["at_risk_msat"] > 0
        quote = await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id})
        assert quote["trust"]["mode"] == CLIENT_TRUSTS
        assert quote["trust"]["unpaid_channels"] == 1
        end = client.ends[0].other
        other = client.invoice(1_000_000, end.scid_now())
        client.behaviour.on_part = "settle"
        assert (await payer.pay(other, [1_000_000], overpay_msat=10_000)).raw_messages == [TEMPORARY]
        stage.world.mine()
        stage.leaves = ("active", "record", "channel", "no")


# --- Channel sizes and one preflight ----------------------------------------------------------------------------------


async def test_a_wallet_that_takes_no_small_channel_is_served() -> None:
    """people:L5: no headroom, 2,000 sat, and a wallet that wants 20,000 sat at least."""
    async with Stage(LSP_TRUSTS, options={"lsps2-channel-headroom-sat": 0}) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer, 2_000_000, parts=1)
        assert opened_sat(stage) == [20_000]


async def test_few_coins_make_no_channel_below_the_smallest() -> None:
    """people:L6: a sale that would need a smaller one is not made."""
    async with Stage(LSP_TRUSTS, wallet_sat=(75_000,), options={"lsps2-min-channel-sat": 60_000}) as stage:
        client = stage.client()
        menu = (await client.request("lsps2.get_info"))["opening_fee_params_menu"]
        assert menu == []
        quote = await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id, "payment_size_msat": 2_000_000})
        assert "onchain_funds" in quote["left_out"][0]["why"]
        assert stage.calls("fundchannel_start") == []


async def test_what_the_menu_offers_is_sold_and_opened() -> None:
    """people:L8, operator:O4: 700,000 sat of coins; the largest payment of the menu is paid, one above it is 203."""
    async with Stage(LSP_TRUSTS, wallet_sat=(700_000,)) as stage:
        client, payer = stage.client(), stage.payer()
        offer = await stage.offer(client)
        largest_msat = int(offer["max_payment_size_msat"])
        assert 600_000_000 < largest_msat < 700_000_000
        asked: dict[str, Any] = {"peer_id": client.node_id, "payment_size_msat": largest_msat}
        (line,) = (await stage.lsp.call("lsps2-quote", asked))["menu"]
        assert line["fits"] is True
        asked["payment_size_msat"] = largest_msat + 1_000_000
        (line,) = (await stage.lsp.call("lsps2-quote", asked))["menu"]
        assert line["fits"] is False
        with pytest.raises(LspsError) as error:
            await client.request(
                "lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(largest_msat + 1_000_000)}
            )
        assert error.value.code == 203
        assert (await stage.stats())["errors_sent"] == {"203": 1}
        invoice = await stage.invoice(client, None)
        assert (await payer.pay(invoice, [2_000_000_000])).raw_messages == [UNKNOWN]  # C-23
        result = await payer.pay(invoice, [largest_msat])
        assert result.paid
        await stage.over(invoice)
        assert stage.log_lines("ALARM: no coins") == []
        stage.world.mine()


async def test_what_was_refused_is_counted_by_its_reason() -> None:
    """operator:O5: 201, 202 and 203 by terms, each under its own name and code."""
    async with Stage(LSP_TRUSTS) as stage:
        client = stage.client()
        offer = await stage.offer(client)
        for size_msat, terms in ((1, {}), (10**13, {}), (SIZE_MSAT, {"min_fee_msat": "1"})):
            ask = {"opening_fee_params": offer | terms, "payment_size_msat": str(size_msat)}
            with pytest.raises(LspsError):
                await client.request("lsps2.buy", ask)
        counts = await refused(stage)
        assert counts == {"payment_too_small": 1, "payment_too_large": 1, "offer_invalid": 1}
        assert (await stage.stats())["errors_sent"] == {"201": 1, "202": 1, "203": 1}


async def test_an_amount_that_is_none_gets_one_sentence() -> None:
    """operator:O9: the parameter is named once."""
    async with Stage(LSP_TRUSTS) as stage:
        with pytest.raises(Exception, match="payment_size_msat") as error:
            await stage.lsp.call("lsps2-quote", {"payment_size_msat": "1sat"})
        assert str(error.value).count("payment_size_msat") == 1


def test_the_fee_of_these_stories_is_the_default() -> None:
    """people:S12: 1,000 sat, which the bounds above are worked out for."""
    assert FEE_MSAT == 1_000_000


async def test_nothing_comes_in_over_an_unpaid_channel_either() -> None:
    """people:S5, rule:21: under none of its names, nor under one that lightningd does not list; others go on."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        invoice = await failed_payment(stage, client, payer)
        end, out = client.ends[0].other, payer.channels[0].other

        async def answer(sender: Client | Payer, in_scid: str, htlc_id: int) -> Any:
            params = stage.part_call(invoice, payer, htlc_id=htlc_id)
            params["peer_id"] = sender.node_id
            params["htlc"]["short_channel_id"] = in_scid
            params["onion"]["short_channel_id"] = out.scid_now()
            params["forward_to"] = out.channel.channel_id
            return stage.valid(await stage.hook_call(params))

        for number, name in enumerate((end.alias, "1x1x1")):
            result = await answer(client, name, 9_000 + number)
            assert result == {"result": "fail", "failure_message": TEMPORARY}
        assert await answer(payer, out.scid_now(), 9_010) == {"result": "continue"}
        stage.world.mine()
        assert (await answer(client, end.scid_now(), 9_011))["result"] == "fail"
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        assert await answer(client, end.scid_now(), 9_012) == {"result": "continue"}


async def test_not_even_our_own_node_is_paid_over_an_unpaid_channel() -> None:
    """rule:21, people:S5: a final hop that comes from there fails; one over another channel is lightningd's to answer.

    Nothing is lost by taking it, but a client that took a part of its payment would spend what it has not paid for.
    """
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        invoice = await failed_payment(stage, client, payer)
        end, out = client.ends[0].other, payer.channels[0].other

        async def pay_us(sender: Client | Payer, in_scid: str, htlc_id: int) -> Any:
            params = stage.part_call(invoice, payer, htlc_id=htlc_id)
            params["peer_id"] = sender.node_id
            params["htlc"]["short_channel_id"] = in_scid
            secret = os.urandom(32)
            del params["onion"]["short_channel_id"]
            params["onion"] |= {"payment_secret": secret.hex(), "total_msat": SIZE_MSAT}
            payload = tlv.prefixed(
                tlv.hop_payload(SIZE_MSAT, stage.lsp.height + 12, payment_secret=secret, total_msat=SIZE_MSAT)
            )
            params["onion"]["payload"] = payload.hex()
            return stage.valid(await stage.hook_call(params))

        assert await pay_us(client, end.alias, 9_000) == {"result": "fail", "failure_message": TEMPORARY}
        assert await pay_us(payer, out.scid_now(), 9_001) == {"result": "continue"}
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        assert await pay_us(client, end.alias, 9_002) == {"result": "continue"}
        stage.world.mine()
