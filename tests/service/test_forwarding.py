"""Parts on their way to the client: errors and deadlines meanwhile, foreign settlements, steering, broadcast."""

from __future__ import annotations

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import tlv
from lsps2fast_plugin.simnode.channels import Htlc

HALF_MSAT = SIZE_MSAT // 2


async def test_an_extra_fee_from_upstream_does_not_travel_on(mode: str) -> None:
    """H-10, H-08, H-09: what the client sees is ours alone: on each part its share of the fee."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        forged = tlv.write_records({65537: (5_000).to_bytes(8, "big"), 99_999: b"x"})
        await stage.paid(payer, invoice, [HALF_MSAT] * 2, extra_tlvs=forged)
        await stage.over(invoice)
        assert [part.htlc.extra_tlvs.hex() for part in client.received] == [f"fe0001000108{500_000:016x}"] * 2


async def test_expiries_travel_on_unchanged() -> None:
    """H-20: the outgoing HTLC has the expiry that the onion asks for."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.paid(payer, invoice, [SIZE_MSAT], final_delta=33)
        await stage.over(invoice)
        assert [part.htlc.cltv_expiry for part in client.received] == [stage.lsp.height + 33]


# One error is not an outcome ---------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_errors_while_waiting_for_ready_are_not_an_outcome(mode: str, times: int) -> None:
    """trap:9, K-13, rule:10: listpeerchannels fails, the session waits on and is paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        stage.lsp.faults.fail("listpeerchannels", times=times)
        client.release_ready()
        for _ in range(times):
            await stage.quiet()
            await stage.world.advance(5)
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_setchannel_that_fails_once_is_tried_again(mode: str) -> None:
    """rule:10, rule:13: no part goes out before the fees are zero."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("setchannel")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        await stage.world.advance(5)
        assert (await payment).paid
        await stage.over(invoice)


async def test_where_the_operator_charges_nothing_no_fee_is_set(mode: str) -> None:
    """rule:13, P24: a channel is born without a fee then, and two commits of lightningd a sale are saved."""
    async with Stage(mode, fee_base_msat=0, fee_ppm=0) as stage:
        await stage.sale(stage.client(), stage.payer())
        assert stage.calls("setchannel") == []


async def test_a_fee_that_another_has_set_is_no_hindrance(mode: str) -> None:
    """rule:13: the operator's fee is none, but a plugin that tunes fees had put one on the channel, and keeps it."""
    async with Stage(mode, fee_base_msat=0, fee_ppm=0) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        stage.lsp.ends[-1].fee_base_msat = 5000
        client.release_ready()
        assert (await payment).paid
        await stage.over(invoice)
        await stage.until(lambda: len(stage.calls("setchannel")) == 2, "its fee")
        assert [call["feebase"] for call in stage.calls("setchannel")] == [0, 5000]
        assert stage.lsp.ends[-1].fee_base_msat == 5000
        stage.lsp.ends[-1].fee_base_msat = 0  # or the stage would miss the operator's


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_splice_while_parts_are_out_does_not_abandon_them(mode: str, when: str) -> None:
    """trap:9, K-13: CHANNELD_AWAITING_SPLICE is a state like NORMAL."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold", send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        client.release_ready()
        end = client.ends[0].other
        if when == "before":
            await stage.until(lambda: end.state == "CHANNELD_NORMAL", "normal")
            stage.lsp.change_state(end, "CHANNELD_AWAITING_SPLICE", "user", "splice")
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        if when == "after":
            stage.lsp.change_state(end, "CHANNELD_AWAITING_SPLICE", "user", "splice")
        await stage.quiet()
        await stage.world.advance(60)
        assert len(client.held()) == 2
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_client_that_goes_away_with_the_parts_comes_back_and_claims_them(mode: str) -> None:
    """K-13, rule:10: a disconnect after forwarding is no outcome; the preimage that comes later counts."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        client.go_offline()
        await stage.quiet()
        await stage.world.advance(300)
        client.connect()
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


# Deadlines -------------------------------------------------------------------------------------------------


async def test_no_part_is_held_within_the_margin_of_its_expiry() -> None:
    """trap:28, K-06, C-11, rule:5: held one block before the margin, failed at it, and no channel is closed by
    force.
    """
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        expiry = payment.parts[0].htlc.cltv_expiry
        stage.world.mine(expiry - 6 - 1 - stage.lsp.height)
        await stage.held(1)
        stage.world.mine()
        assert (await payment).raw_messages == [TEMPORARY]
        assert stage.lsp.height == expiry - 6


async def test_the_earliest_part_decides_for_its_set() -> None:
    """K-06: one part with less time fails the whole set, which is no use without it."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        long = payer.pay(invoice, [2_000_000], total_msat=SIZE_MSAT, final_delta=100)
        short = payer.pay(invoice, [2_000_000], total_msat=SIZE_MSAT)
        await stage.held(2)
        stage.world.mine(12 + 144 - 6)
        assert (await short).raw_messages == [TEMPORARY]
        assert (await long).raw_messages == [TEMPORARY]


async def test_a_late_preimage_is_still_passed_upstream_and_the_coins_are_still_ours(mode: str) -> None:
    """trap:28, trap:8, O-04, rule:5, rule:7: 150 blocks with the client; inputs renewed, then paid and sent."""
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2, final_delta=200)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        for _ in range(15):
            stage.world.mine(10)
            await stage.quiet()
        coins = [row for row in stage.lsp.wallet.rows() if row["reserved"]]
        assert len(coins) == (1 if mode == CLIENT_TRUSTS else 0)
        assert not payment.done
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_reservation_that_could_not_be_renewed_at_once_is_renewed_later() -> None:
    """O-04, rule:7: reserveinputs fails twice; no other buy gets the coins."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2, final_delta=200)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        stage.lsp.faults.fail("reserveinputs", times=2)
        stage.world.mine(61)
        for _ in range(2):
            await stage.quiet()
            await stage.world.advance(2)
        await stage.quiet()
        stage.world.mine(30)
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


# Whose settlement ------------------------------------------------------------------------------------------


async def test_the_same_hash_settled_over_another_channel_is_not_a_settlement() -> None:
    """K-18, trap:43, rule:12: the client claims the hash over its old channel; the JIT parts fail; nothing is sent."""

    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        stage.world.add_channel(stage.lsp, client, 1_000_000)
        old = client.ends[0]
        client.behaviour.on_part = lambda htlc: "settle" if htlc.taker is old else "hold"
        client.behaviour.check_fees = False
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        stolen = await payer.pay(invoice, [1_000_000], scid=old.other.scid_now(), overpay_msat=5_000)
        assert stolen.paid
        await stage.quiet()
        assert stage.calls("sendpsbt") == []
        for part in client.held():
            client.fail(part)
        assert not (await payment).paid
        assert await stage.ended(invoice) == "ABANDONED"
        assert stage.calls("sendpsbt") == []


async def test_one_part_paid_and_one_failed_is_a_payment_in_either_order(mode: str) -> None:
    """K-10, K-11, rule:20: the preimage of one part leads to the broadcast, whether the other failed before or after.

    The fee of the other is owed.
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        for paid_first in (True, False):
            invoice = await stage.invoice(client)
            payment = payer.pay(invoice, [HALF_MSAT] * 2)
            await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
            first, second = client.held()
            if paid_first:
                client.fulfill(first, invoice.preimage)
                await stage.quiet()
                client.fail(second)
            else:
                client.fail(first)
                await stage.quiet()
                client.fulfill(second, invoice.preimage)
            assert sorted((await payment).codes) == [0, 203]
            await stage.underpaid(invoice)


async def test_a_client_that_fails_all_parts_of_a_trusted_session_loses_the_channel() -> None:
    """K-11, K-14, rule:9: only after the last part; the offer stays and a retry is paid."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        first, second = client.held()
        client.fail(first)
        await stage.quiet()
        assert stage.calls("close") == []
        client.fail(second)
        assert not (await payment).paid
        assert await stage.ended(invoice) == "ABANDONED"
        client.behaviour.on_part = "settle"
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_a_part_that_fails_while_others_live_may_be_sent_again_with_its_fee() -> None:
    """H-17: the failed part carried half of the fee; the part that replaces it carries it then."""
    async with Stage() as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        carrier = next(part for part in client.held() if part.extra_fee_msat)
        client.fail(carrier)
        await stage.until(lambda: len(stage.lsp.htlcs.by_out) == 1, "one part is left")
        await stage.quiet()
        again = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.until(lambda: len(client.held()) == 2, "the part is there again")
        assert [part.extra_fee_msat for part in client.held()] == [500_000, 500_000]
        client.settle_held()
        assert (await again).paid
        await payment
        await stage.over(invoice)


# Withheld means unusable -----------------------------------------------------------------------------------


async def test_an_ordinary_forward_steered_into_a_withheld_channel_is_failed() -> None:
    """trap:45, cln:H15, rule:7: lightningd chose the JIT channel for the old one's scid; after the session it may."""
    async with Stage(CLIENT_TRUSTS, fee_base_msat=0, fee_ppm=0) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        stage.world.add_channel(stage.lsp, client, 60_000)
        old = client.ends[0]
        client.behaviour.on_part = _hold_on_all_but(client, old)
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        ordinary = client.invoice(2_000_000)
        assert (await payer.pay(ordinary, scid=old.other.scid_now())).raw_messages == [TEMPORARY]
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        client.behaviour.on_part = "settle"
        assert (await payer.pay(ordinary, scid=old.other.scid_now())).paid


def _hold_on_all_but(client: object, old: object) -> object:
    def act(htlc: Htlc) -> str:
        return "settle" if htlc.taker is old else "hold"

    return act


async def test_a_channel_that_is_already_ours_may_be_steered_into() -> None:
    """rule:7 forbids nothing else: the JIT channel of a finished session serves ordinary forwards."""
    async with Stage(LSP_TRUSTS, fee_base_msat=0, fee_ppm=0) as stage:
        client, payer = stage.client(), stage.payer()
        stage.world.add_channel(stage.lsp, client, 60_000)
        old = client.ends[0].other.scid_now()
        await stage.sale(client, payer)
        assert (await payer.pay(client.invoice(2_000_000), scid=old)).paid


# Broadcast -------------------------------------------------------------------------------------------------


async def test_a_funding_that_cannot_be_sent_is_tried_until_it_is_accepted() -> None:
    """trap:7, K-12, rule:8: sendpsbt fails three times after the preimage; an alarm is raised, the session does not
    end.
    """
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("sendpsbt", times=3, message="Error broadcasting transaction: bitcoind is away")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        assert (await payment).paid
        for _ in range(3):
            await stage.quiet()
            assert stage.states(invoice)[-1] == "BROADCASTING"
            await stage.world.advance(5)
        await stage.over(invoice)
        assert len(stage.calls("sendpsbt")) == 4
        assert len(stage.log_lines("ALARM.*has failed 3 times.*bitcoind is away")) == 1
        assert stage.world.chain.mempool


async def test_a_funding_sent_by_a_call_that_got_no_answer_is_not_sent_again() -> None:
    """K-12, cln:O6, K-13: lightningd says the channel is no longer withheld, and that is enough."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("sendpsbt", after=True, message="Transaction outputs already in utxo set")
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)
        assert len(stage.calls("sendpsbt")) == 1


async def test_a_funding_that_cannot_be_sent_before_the_parts_keeps_them_held_then_fails_them() -> None:
    """O-10, K-06: where the LSP trusts, nothing goes out before the funding does; in time the parts fail."""
    async with Stage(LSP_TRUSTS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        away = stage.lsp.faults.fail("sendpsbt", times=100, message="bitcoind is away")
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await away.reached.wait()
        await stage.quiet()
        await stage.held(2)
        stage.world.mine(12 + 144 - 6)
        assert (await payment).raw_messages == [TEMPORARY] * 2
        stage.lsp.faults.clear()
        await stage.world.advance(60)
        await stage.until(lambda: stage.world.chain.depth(client.ends[0].channel.funding_txid) == 0, "unconfirmed")
        await stage.quiet()
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)
        assert len(stage.calls("fundchannel_complete")) == 1
