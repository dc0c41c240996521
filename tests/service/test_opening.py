"""Opening the channel: refusals by client and wallet, results that come too late, limits of the client, few coins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.service.coins import INVALID_PARAMS

HALF_MSAT = SIZE_MSAT // 2
GUARD_BLOCKS = 12 + 144 - 6  # from the payment to K-06


@pytest.mark.parametrize("step", ["open", "funding", "ready"])
async def test_a_client_that_vanishes_during_the_open_comes_back_and_is_paid(mode: str, step: str) -> None:
    """trap:4, O-07, C-16: the parts fail temporarily (waiting for ready: when that time is over); the retry is paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(vanish_at=step), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: not client.online, "the client is gone")
        await stage.quiet()
        await stage.world.advance(120)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.ended(invoice)
        client.behaviour.vanish_at = ""
        client.connect()
        client.release_ready()
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_a_disconnect_shorter_than_the_wait_for_ready_costs_nothing(mode: str) -> None:
    """O-13, cln:R4: the client is back before the time is over; the same parts are paid over the same channel."""
    async with Stage(mode) as stage:
        client, payer = stage.client(vanish_at="ready"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        await stage.world.advance(60)
        client.connect()
        client.release_ready()
        assert (await payment).paid
        await stage.over(invoice)


def _reject_open(stage: Stage, client: Any) -> None:
    client.behaviour.reject_open = "I do not want a channel"


def _refuse_funding(stage: Stage, client: Any) -> None:
    client.behaviour.refuse_funding = "bad signature"


def _no_zeroconf(stage: Stage, client: Any) -> None:
    client.behaviour.zeroconf = False


def _fault(method: str, code: int, message: str) -> Callable[[Stage, Any], None]:
    def lay(stage: Stage, client: Any) -> None:
        stage.lsp.faults.fail(method, code=code, message=message)

    lay.__name__ = f"{method} fails"
    return lay


def _coins_of_before(stage: Stage, client: Any) -> None:
    """What was listed is taken by now, and lightningd does not say what is left."""
    stage.lsp.faults.fail("utxopsbt", code=INVALID_PARAMS, message="UTXO already reserved")
    stage.lsp.faults.fail("listfunds", code=-1, message="database is locked")


@pytest.mark.parametrize(
    ("cause", "answer"),
    [
        (_reject_open, UNKNOWN),
        (_refuse_funding, UNKNOWN),
        (_no_zeroconf, UNKNOWN),
        (_coins_of_before, TEMPORARY),
        (_fault("utxopsbt", 301, "Could not afford 200253sat using UTXOs totalling 0sat"), TEMPORARY),
        (_fault("reserveinputs", -1, "Failed to set version for PSBT"), TEMPORARY),
        (_fault("fundchannel_start", -1, "Disconnected"), TEMPORARY),
        (_fault("fundchannel_start", -1, "Already funding channel"), TEMPORARY),
        (_fault("fundchannel_start", 306, "Unknown peer"), TEMPORARY),
        (_fault("fundchannel_start", -32603, "internal"), TEMPORARY),
        (_fault("addpsbtoutput", -1, "no"), TEMPORARY),
        (_fault("signpsbt", -1, "Aborting PSBT signing. UTXO x:0 is not reserved"), TEMPORARY),
        (_fault("fundchannel_complete", 309, "No output to open channel"), TEMPORARY),
        (_fault("fundchannel_complete", -1, "Disconnected"), TEMPORARY),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_failed_open_fails_the_parts_at_once_and_leaves_the_offer(
    cause: Callable[[Stage, Any], None], answer: str
) -> None:
    """trap:27, O-08, O-09, O-15, O-20, O-21, K-26: the client's no is permanent, our trouble is not; a retry is
    paid.
    """
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        cause(stage, client)
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).raw_messages == [answer] * 2
        await stage.ended(invoice)
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        assert stage.calls("sendpsbt") == stage.calls("disconnect") == []
        client.behaviour = type(client.behaviour)()
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_an_empty_wallet_is_filled_and_the_payer_comes_again() -> None:
    """O-09: the real thing, no fault laid: the coins went away between the buy and the payment."""
    async with Stage(wallet_sat=(400_000,)) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        taken = await stage.lsp.call("fundpsbt", {"satoshi": 350_000, "feerate": "normal", "startweight": 400})
        assert (await payer.pay(invoice)).raw_messages == [TEMPORARY]
        await stage.lsp.call("unreserveinputs", {"psbt": taken["psbt"]})
        await stage.state(invoice, "FAILED")
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_a_client_that_always_refuses_is_not_asked_for_ever() -> None:
    """C-16: five attempts to open, then the buy counts as rejected; a new buy is served."""
    async with Stage() as stage:
        client, payer = stage.client(reject_open="no"), stage.payer()
        invoice = await stage.invoice(client)
        for _ in range(7):
            assert (await payer.pay(invoice)).raw_messages == [UNKNOWN]
            await stage.ended(invoice)
        assert len(client.opens) == 10  # two types an attempt
        client.behaviour.reject_open = None
        await stage.sale(client, payer)


# Results that come too late --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["utxopsbt", "reserveinputs", "fundchannel_start", "signpsbt", "fundchannel_complete"]
)
async def test_the_deadline_hits_while_the_channel_opens(mode: str, method: str) -> None:
    """trap:5, K-19, K-06: the parts fail in time, what the open still makes is undone: no orphan, coins free."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        slow = stage.lsp.faults.late(method)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await slow.reached.wait()
        stage.world.mine(GUARD_BLOCKS - 1)
        await stage.held(2)
        stage.world.mine()
        assert (await payment).raw_messages == [TEMPORARY] * 2
        slow.release()
        await stage.ended(invoice)
        assert [end for end in stage.lsp.ends if end.peer is client and not end.forgotten] == []
        assert stage.calls("sendpsbt") == []
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_the_channel_becomes_ready_after_its_parts_were_given_up(mode: str) -> None:
    """trap:5: channel_ready one moment after the deadline. Withheld: closed; public: kept for the next payment
    (O-13).
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        stage.world.mine(GUARD_BLOCKS)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        client.release_ready()
        client.behaviour.send_ready = True
        await stage.ended(invoice)
        await stage.quiet()
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert len(stage.calls("fundchannel_complete")) == (1 if mode == LSP_TRUSTS else 2)


async def test_an_answer_that_never_comes_ends_with_the_deadline_and_leaves_no_orphan() -> None:
    """K-13, K-19: fundchannel_complete did its work, its answer is lost with the connection; the channel is found."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.late("fundchannel_complete")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: client.ends, "the channel exists")
        stage.hang_up()
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.ended(invoice)
        assert client.ends[0].other.forgotten
        stage.lsp.faults.clear()
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_a_flood_of_parts_during_the_open_hurts_only_itself(mode: str) -> None:
    """trap:26, C-10, C-18, rule:22: beyond the limit each new part fails alone, temporarily; the payment that is
    opening is paid, and its promises hold.
    """
    async with Stage(mode, options={"lsps2-max-parts": 4}) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        opening = stage.lsp.faults.late("fundchannel_complete")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await opening.reached.wait()
        flood = payer.pay(invoice, [1_000] * 40, total_msat=SIZE_MSAT)
        await stage.until(lambda: sum(part.result.done() for part in flood.parts) == 38, "most of the flood is over")
        opening.release()
        assert (await payment).paid
        await stage.state(invoice, "UNDERPAID")  # the two that got in took a share of the fee with them
        await stage.until(lambda: stage.outcome(invoice.scid) == "Underpaid", "the final record")  # rule:22
        assert (await flood).raw_messages.count(TEMPORARY) == 38


# What the client's side allows ---------------------------------------------------------------------


async def test_a_client_with_a_large_minimum_gets_no_part_below_it(mode: str) -> None:
    """trap:19, H-02, H-03: ten small parts, htlc_minimum_msat 900,000: the fee is spread so that each stays above."""
    async with Stage(mode) as stage:
        client, payer = stage.client(htlc_minimum_msat=900_000), stage.payer()
        invoice = await stage.invoice(client)
        await stage.paid(payer, invoice, [SIZE_MSAT // 10] * 10)
        await stage.over(invoice)
        assert sorted(part.htlc.amount_msat for part in client.received) == [900_000] * 10


async def test_parts_too_small_for_the_clients_minimum_fail_before_anything_is_public(mode: str) -> None:
    """trap:19, O-06, H-05: the fee cannot be taken; the channel is dropped; from then on small parts fail on
    arrival.
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(htlc_minimum_msat=900_001), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [SIZE_MSAT // 10] * 10)).raw_messages == [TEMPORARY] * 10
        await stage.state(invoice, "ABANDONED")
        assert stage.calls("sendpsbt") == []
        small = await payer.pay(invoice, [900_000], total_msat=SIZE_MSAT)
        assert small.raw_messages == [f"100b{900_000:016x}0000"]
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


async def test_a_client_that_takes_little_in_flight_is_found_out_before_anything_is_public(mode: str) -> None:
    """trap:21, O-06: it takes less in flight than must be forwarded: dropped, temporary; exactly enough is paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(max_in_flight_msat=SIZE_MSAT - FEE_MSAT - 1), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).raw_messages == [TEMPORARY] * 2
        await stage.state(invoice, "ABANDONED")
        assert stage.calls("sendpsbt") == []
        client.behaviour.max_in_flight_msat += 1
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


@pytest.mark.parametrize(("delay_blocks", "paid"), [(2016, True), (2017, False), (65535, False)])
async def test_a_client_with_a_long_self_delay_gets_no_channel(mode: str, delay_blocks: int, paid: bool) -> None:
    """O-05: above max_client_to_self_delay: not sent, closed, 400a; the limit itself passes."""
    async with Stage(mode) as stage:
        client, payer = stage.client(to_self_delay=delay_blocks), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).raw_messages == ["" if paid else UNKNOWN] * 2
        await stage.ended(invoice)
        assert bool(stage.calls("sendpsbt")) is paid


async def test_a_client_that_takes_two_htlcs_loses_only_the_third(mode: str) -> None:
    """K-10, H-17: a part that the client's channel cannot take fails alone; another part comes in its place."""
    async with Stage(mode) as stage:
        client, payer = stage.client(max_accepted_htlcs=2, on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [4_000_000, 3_000_000, 3_000_000])
        await stage.until(lambda: len(client.held()) == 2, "two parts with the client")
        await stage.until(lambda: payment.parts[2].result.done(), "the third part has failed")
        assert payment.parts[2].result.result().raw_message.hex() == TEMPORARY
        client.settle_held()
        result = await payment
        assert [part.code for part in result.parts] == [0, 0, 204]
        await stage.underpaid(invoice)  # rule:20: this one claims although the whole payment is not there


# Ready in time ---------------------------------------------------------------------------------------


async def test_a_withheld_channel_that_is_not_ready_in_time_is_dropped() -> None:
    """O-13, K-22: after 120 s closed and released, 10070000; the next attempt opens another one."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        await stage.world.advance(119)
        await stage.held(2)
        await stage.world.advance(1)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.state(invoice, "ABANDONED")
        client.behaviour.send_ready = True
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert len(stage.calls("fundchannel_complete")) == 2


async def test_a_public_channel_that_is_not_ready_in_time_is_kept_and_paid_for_later() -> None:
    """O-13, X-14, H-15: 10070000 after 120 s; ready much later, the next payment uses it and carries the fee."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        await stage.world.advance(120)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.state(invoice, "FAILED")
        client.release_ready()
        stage.world.mine(3)
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert len(stage.calls("fundchannel_complete")) == 1


# Many opens -------------------------------------------------------------------------------------------


async def test_two_buys_of_one_client_paid_at_once_open_one_after_the_other(mode: str) -> None:
    """O-19: lightningd opens one channel at a time with a peer; both payments arrive."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoices = [await stage.invoice(client), await stage.invoice(client)]
        payments = [payer.pay(invoice, [HALF_MSAT] * 2) for invoice in invoices]
        assert [(await payment).paid for payment in payments] == [True, True]
        for invoice in invoices:
            await stage.over(invoice)


async def test_eight_clients_open_at_once_from_three_coins(mode: str) -> None:
    """trap:35: no coin in two fundings; who finds none is told so at once, temporarily, and is served when there is
    one.
    """
    async with Stage(mode, wallet_sat=(400_000,) * 3) as stage:
        payer = stage.payer(channels=2)
        clients = [stage.client(f"client {number}") for number in range(8)]
        invoices = [await stage.invoice(client) for client in clients]
        results = await asyncio.gather(*(payer.pay(invoice, [HALF_MSAT] * 2).wait() for invoice in invoices))
        paid = [invoice for invoice, result in zip(invoices, results, strict=True) if result.paid]
        assert len(paid) == 3
        assert {message for result in results for message in result.raw_messages} == {"", TEMPORARY}
        for invoice in paid:
            await stage.over(invoice)
        sent = list(stage.world.chain.mempool.values())
        spent = [point for tx in sent for point in tx.inputs]
        assert len(spent) == len(set(spent)) == 3
        stage.world.mine()
        left = [invoice for invoice in invoices if invoice not in paid][:2]
        results = await asyncio.gather(*(payer.pay(invoice, [HALF_MSAT] * 2).wait() for invoice in left))
        assert [result.paid for result in results] == [True, True]
        for invoice in left:
            await stage.over(invoice)
