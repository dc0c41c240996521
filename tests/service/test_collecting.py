"""Collecting parts: time-outs and retries, probes, replays, hashes and scids that cross, strangers, offline clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, HIDDEN, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice

HALF_MSAT = SIZE_MSAT // 2


async def test_after_a_collect_timeout_the_payer_tries_again_and_pays() -> None:
    """trap:2, C-06, C-16, rule:6: the parts fail temporarily, the offer stays, the set starts afresh."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [2_000_000] * 4, total_msat=SIZE_MSAT)
        await stage.held(4)
        await stage.world.advance(90)
        assert (await first).raw_messages == [TEMPORARY] * 4
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_the_collect_timeout_counts_from_the_first_part() -> None:
    """C-05: parts at 0 s and 60 s; held at 89 s, failed at 90 s, all together."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [1_000_000], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(60)
        second = payer.pay(invoice, [1_000_000], total_msat=SIZE_MSAT)
        await stage.held(2)
        await stage.world.advance(29)
        await stage.held(2)
        await stage.world.advance(1)
        assert (await first).raw_messages == [TEMPORARY]
        assert (await second).raw_messages == [TEMPORARY]


async def test_a_probe_costs_a_trusted_lsp_nothing_and_the_payment_after_it_is_paid() -> None:
    """trap:3, C-26, K-11: the withheld channel of a probe is dropped, its coins are free, nothing was sent."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        probe = client.invoice(SIZE_MSAT, invoice.scid, cltv_delta=144)
        del client.invoices[probe.payment_hash]
        result = await payer.pay(probe, [HALF_MSAT] * 2)
        assert [part.failcode for part in result.parts] == [0x400F] * 2
        await stage.state(probe, "ABANDONED")
        assert stage.calls("sendpsbt") == []
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_a_probe_leaves_a_public_channel_that_the_payment_after_it_pays_for() -> None:
    """trap:3, O-13, X-13: where the LSP trusts, the probe's channel stays; the next payment uses it and carries the
    fee.
    """
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        probe = client.invoice(SIZE_MSAT, invoice.scid, cltv_delta=144)
        del client.invoices[probe.payment_hash]
        assert not (await payer.pay(probe, [HALF_MSAT] * 2)).paid
        await stage.state(probe, "FAILED")
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert len(stage.calls("fundchannel_complete")) == 1


async def test_an_unfinished_probe_does_not_block_a_payment() -> None:
    """trap:3: parts of a random hash are being held while the real payment comes, is paid and ends."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        probe = client.invoice(SIZE_MSAT, invoice.scid, cltv_delta=144)
        del client.invoices[probe.payment_hash]
        held = payer.pay(probe, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.paid(payer, invoice)
        assert [part.failcode for part in (await held).parts] == [0x400F]
        await stage.over(invoice)


async def test_the_same_htlc_delivered_twice_counts_once() -> None:
    """trap:14, K-07, rule:3: half the payment, delivered three times, opens nothing; every call gets the one answer."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        answers = [stage.repeat(invoice), stage.repeat(invoice)]
        await stage.stats()
        assert stage.calls("fundchannel_start") == []
        second = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert (await first).paid
        assert (await second).paid
        results = stage.htlc_results(invoice.payment_hash)
        assert [(await answer)["result"] for answer in answers] == results[:1] * 2
        await stage.over(invoice)


async def test_a_forwarded_htlc_delivered_again_gets_its_stored_answer() -> None:
    """trap:14, H-16, K-07: the same amount, TLVs and channel."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(client.held, "the part is with the client")
        again = await stage.repeat(invoice)
        assert again["result"] == stage.htlc_results(invoice.payment_hash)[0]
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_one_hash_on_two_scids_of_two_clients_is_two_payments() -> None:
    """trap:16, C-02, C-15: half on each scid is not a whole; a whole on its own scid is paid, the other stays held."""
    async with Stage() as stage:
        alice, mallory, payer = stage.client("alice"), stage.client("mallory"), stage.payer()
        invoice = await stage.invoice(alice)
        theirs = await stage.invoice(mallory)
        own = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        crossed = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT, scid=theirs.scid)
        await stage.held(2)
        assert stage.calls("fundchannel_start") == []
        rest = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert (await own).paid
        assert (await rest).paid
        await stage.held(1)
        await stage.world.advance(90)
        assert (await crossed).raw_messages == [TEMPORARY]
        await stage.over(invoice)
        assert mallory.received == []


async def test_two_hashes_complete_on_one_scid_and_one_channel_is_opened() -> None:
    """trap:16, C-14, rule:2: the first takes the lock, the second fails temporarily and may come again afterwards."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        rival = client.invoice(SIZE_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=144)
        opening = stage.lsp.faults.late("fundchannel_complete")
        first = payer.pay(invoice, [SIZE_MSAT])
        await opening.reached.wait()
        second = payer.pay(rival, [HALF_MSAT] * 2)
        assert (await second).raw_messages == [TEMPORARY] * 2
        opening.release()
        assert (await first).paid
        await stage.over(invoice)
        await stage.paid(payer, rival)
        assert len(stage.calls("fundchannel_start")) == 1
        assert rival.fee_taken_msat == 0


async def test_the_same_hash_paid_twice_opens_one_channel() -> None:
    """trap:16, K-03: a second whole payment of the same hash follows the first through the same channel."""
    async with Stage(options={"lsps2-max-overpay-percent": 100}) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the payment is with the client")
        second = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 4, "the second one too")
        client.settle_held()
        assert (await first).paid
        assert (await second).paid
        await stage.over(invoice)
        assert len(stage.calls("fundchannel_start")) == 1
        assert invoice.fee_taken_msat == FEE_MSAT


async def test_a_second_payment_of_the_same_hash_fails_beside_the_first() -> None:
    """trap:16, rule:18: by default no more than a tenth is taken on top; the first goes on, in one channel."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the payment is with the client")
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).raw_messages == [TEMPORARY] * 2
        client.settle_held()
        assert (await first).paid
        await stage.over(invoice)
        assert len(stage.calls("fundchannel_start")) == 1


@pytest.mark.parametrize(("parts", "received_msat"), [([12_345_678], 11_345_678), ([4_000_000] * 3, 11_000_000)])
async def test_an_overpayment_pays_the_fee_of_the_agreed_size(parts: list[int], received_msat: int) -> None:
    """trap:17, H-06, rule:4: the fee comes from payment_size_msat, the surplus goes to the client."""
    async with Stage(options={"lsps2-max-overpay-percent": 100}) as stage:
        invoice = await stage.invoice(stage.client())
        await stage.paid(stage.payer(), invoice, parts)
        await stage.over(invoice)
        assert (invoice.paid_msat, invoice.fee_taken_msat) == (received_msat, FEE_MSAT)


async def test_what_a_payer_adds_for_the_hop_stays_with_the_lsp() -> None:
    """H-01: the value of a part is what its onion says; the client's checks hold."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.world.open_books()
        await stage.paid(payer, invoice, [HALF_MSAT] * 2, overpay_msat=777)
        await stage.over(invoice)
        assert stage.world.books()[payer.name] == -(SIZE_MSAT + 2 * 777)
        assert invoice.paid_msat == SIZE_MSAT - FEE_MSAT


# valid_until --------------------------------------------------------------------------------------


async def test_held_parts_fail_for_good_the_moment_the_offer_ends() -> None:
    """trap:24, C-07, rule:5: long before the 90 s are over, with unknown_next_peer."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.world.advance(3600 - 20)
        payment = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(20)
        assert (await payment).raw_messages == [UNKNOWN]
        await stage.until(lambda: not stage.records("active"), "the unused buy is forgotten (B-14)")


async def test_a_sum_reached_after_the_offer_ended_opens_nothing() -> None:
    """trap:24, C-12: the last part comes too late; it fails for good like the others."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.world.advance(3600 - 5)
        first = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(6)
        second = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert (await first).raw_messages == [UNKNOWN]
        assert (await second).raw_messages == [UNKNOWN]
        assert stage.calls("fundchannel_start") == []


async def test_a_client_that_comes_back_after_the_offer_ended_gets_no_channel() -> None:
    """trap:24, C-07, C-08: the sum was there, the client was not; at valid_until the parts fail for good."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        client.go_offline()
        await stage.world.advance(3600 - 5)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.held(1)
        await stage.world.advance(5)
        assert (await payment).raw_messages == [UNKNOWN]
        client.connect()
        await stage.quiet()
        assert stage.calls("fundchannel_start") == []


async def test_the_end_of_the_offer_does_not_touch_a_payment_under_way(mode: str) -> None:
    """trap:24, C-12, K-16: a late part after valid_until is forwarded, the session ends well, the buy then is gone."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        await stage.world.advance(3600 - 5)
        first = payer.pay(invoice, [SIZE_MSAT], total_msat=SIZE_MSAT + 5_000)
        await stage.until(client.held, "the part is with the client")
        await stage.world.advance(60)
        late = payer.pay(invoice, [5_000], total_msat=SIZE_MSAT + 5_000)
        await stage.until(lambda: len(client.held()) == 2, "the late part with the client")
        client.settle_held()
        assert (await first).paid
        assert (await late).paid
        await stage.over(invoice)
        assert (await stage.lsp.call("lsps2-listsessions"))["sessions"] == []


# Strangers ----------------------------------------------------------------------------------------


def _too_small(payer: Payer, invoice: ClientInvoice) -> Any:
    return payer.pay(invoice, [0], overpay_msat=1_000)


def _below_the_onion(payer: Payer, invoice: ClientInvoice) -> Any:
    return payer.pay(invoice, [SIZE_MSAT], overpay_msat=-1)


def _thirty_one_parts(payer: Payer, invoice: ClientInvoice) -> Any:
    return payer.pay(invoice, [1_000] * 31, total_msat=SIZE_MSAT)


def _blinded(payer: Payer, invoice: ClientInvoice) -> Any:
    assert isinstance(invoice.payee, Client)
    return payer.pay(invoice.payee.blind(replace(invoice)), [SIZE_MSAT])


def _too_soon(payer: Payer, invoice: ClientInvoice) -> Any:
    return payer.pay(invoice, [SIZE_MSAT], final_delta=0)


def _dust(payer: Payer, invoice: ClientInvoice) -> Any:
    return payer.pay(invoice, [1] * 5 + [500_000], total_msat=500_005)


@pytest.mark.parametrize(
    ("send", "size_msat", "answers"),
    [
        (_too_small, SIZE_MSAT, [f"100b{0:016x}0000"]),
        (_below_the_onion, SIZE_MSAT, [f"100c{SIZE_MSAT - 1:016x}0000"]),
        (_thirty_one_parts, SIZE_MSAT, [TEMPORARY] * 31),
        (_blinded, SIZE_MSAT, [HIDDEN]),
        (_too_soon, SIZE_MSAT, ["100e0000"]),
        (_too_small, None, [f"100b{0:016x}0000"]),
        (_dust, None, [UNKNOWN] * 6),
        (_blinded, None, [HIDDEN]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_stranger_who_knows_the_invoice_cannot_use_it_up(
    send: Callable[[Payer, ClientInvoice], Any], size_msat: int | None, answers: list[str]
) -> None:
    """trap:26, C-04, C-10, C-24, C-25, rule:6: bad HTLCs fail alone, open nothing, and the payment that follows is
    paid.
    """
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, size_msat)
        assert (await send(payer, invoice)).raw_messages == answers
        assert stage.calls("utxopsbt") == []
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_a_bad_part_beside_good_ones_fails_alone() -> None:
    """C-04: the set it came with is not disturbed."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        good = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        bad = await payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT, cltv_delta=100)
        expiry = stage.lsp.chain.height + 12 + 100
        assert bad.raw_messages == [f"100d{expiry:08x}0000"]
        rest = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert (await good).paid
        assert (await rest).paid
        await stage.over(invoice)


async def test_more_than_three_payments_at_once_on_one_scid_are_turned_away() -> None:
    """C-10, rule:14: a fourth set fails temporarily; the third can still complete."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        strangers = [client.invoice(SIZE_MSAT, invoice.scid, cltv_delta=144) for _ in range(3)]
        held = [payer.pay(each, [HALF_MSAT], total_msat=SIZE_MSAT) for each in strangers[:2]]
        first = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(3)
        assert (await payer.pay(strangers[2], [HALF_MSAT], total_msat=SIZE_MSAT)).raw_messages == [TEMPORARY]
        rest = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert (await first).paid
        assert (await rest).paid
        await stage.over(invoice)
        await stage.world.advance(90)
        assert [(await payment).parts[0].failcode for payment in held] == [0x0017] * 2


# The client is away -------------------------------------------------------------------------------


async def test_a_client_that_comes_online_in_time_is_sold_its_channel() -> None:
    """C-13: sum reached, client offline; it connects at 30 s."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        client.go_offline()
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.held(2)
        await stage.world.advance(30)
        assert stage.calls("utxopsbt") == []
        client.connect()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_client_that_stays_away_lets_the_parts_fail_after_ten_minutes() -> None:
    """C-13: a complete payment outlasts the collect time-out; never online: 10070000, and the offer stays."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        client.go_offline()
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.held(2)
        await stage.world.advance(590)
        assert not payment.done
        await stage.world.advance(10)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        client.connect()
        await stage.paid(payer, invoice)


async def test_a_client_with_a_known_address_is_called() -> None:
    """C-13: the LSP connects by itself when the sum is there."""
    async with Stage() as stage:
        client, payer = stage.client(address_known=True), stage.payer()
        invoice = await stage.invoice(client)
        client.disconnect()
        await stage.paid(payer, invoice)
        assert stage.calls("connect") == [{"id": client.node_id}]


# Variable mode ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_msat", [1_499_999, 4_000_000_001, FEE_MSAT, 1])
async def test_a_first_part_of_the_wrong_size_fails_for_good_and_the_buy_stays(value_msat: int) -> None:
    """C-22, C-23: outside min and max of the offer, or not above the fee: 400a, nothing opened, the next is paid."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, None)
        assert (await payer.pay(invoice, [value_msat])).raw_messages == [UNKNOWN]
        assert stage.calls("utxopsbt") == []
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


@pytest.mark.parametrize("same_hash", [True, False])
async def test_a_second_part_in_variable_mode_fails_alone(same_hash: bool) -> None:
    """C-24, X-16: while the first is served, another HTLC on the scid, of any hash, gets 10070000."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client, None)
        other = invoice if same_hash else client.invoice(None, invoice.scid, cltv_delta=144)
        opening = stage.lsp.faults.late("fundchannel_complete")
        first = payer.pay(invoice, [SIZE_MSAT])
        await opening.reached.wait()
        assert (await payer.pay(other, [HALF_MSAT])).raw_messages == [TEMPORARY]
        opening.release()
        await stage.until(client.held, "the first part is with the client")
        assert (await payer.pay(other, [HALF_MSAT])).raw_messages == [TEMPORARY]
        client.settle_held()
        assert (await first).paid
        await stage.over(invoice)
