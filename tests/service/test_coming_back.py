"""A start over what an earlier life left: records of another version, clients that are late, coins about to lapse."""

from __future__ import annotations

import asyncio
import json

import pytest
from harness.service import CLIENT_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.service.coins import RESERVE_BLOCKS
from lsps2fast_plugin.service.session_record import VERSIONS
from lsps2fast_plugin.service.session_store import ROOT
from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payment

HALF_MSAT = SIZE_MSAT // 2
NEWER = max(VERSIONS) + 1


async def _with_the_client(stage: Stage, client: Client, payer: Payer, invoice: ClientInvoice) -> Payment:
    payment = payer.pay(invoice, [HALF_MSAT] * 2, final_delta=300)
    await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
    return payment


async def test_a_record_of_a_newer_version_waits_for_its_program() -> None:
    """K-08, K-11: for a start with an older one its parts fail for now and nothing it names is touched.

    Not at the end of the offer either, nor by a sale to the same client; the newer program then goes on with it.
    """
    async with Stage(CLIENT_TRUSTS, options={"lsps2-offer-validity": 600}) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer(channels=2)
        invoice = await stage.invoice(client)
        payment = await _with_the_client(stage, client, payer, invoice)
        coins = [row["txid"] for row in stage.lsp.wallet.rows() if row["reserved"]]
        await stage.kill()
        key = (*ROOT, "active", str(invoice.scid))
        ours, generation = stage.lsp.datastore.rows[key]
        theirs = json.dumps(json.loads(ours) | {"lsps2fast": {"version": NEWER, "inputs": "?"}}).encode()
        stage.lsp.datastore.rows[key] = (theirs, generation)
        await stage.start()
        assert len(stage.log_lines(f"cannot be read.*version {NEWER}.*kept")) == 1
        late = payer.pay(invoice, [HALF_MSAT])
        assert (await late).raw_messages == [TEMPORARY]
        await stage.world.advance(700)
        await stage.quiet()
        assert stage.lsp.datastore.rows[key] == (theirs, generation)
        assert [row["txid"] for row in stage.lsp.wallet.rows() if row["reserved"]] == coins
        assert client.ends[0].channel.withheld
        await stage.stop()
        stage.lsp.datastore.rows[key] = (ours, generation)
        await stage.start()
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        stage.errors_expected = True


async def _cut_off_before_the_answers(stage: Stage) -> tuple[Client, ClientInvoice, Payment]:
    """The power fails when the record says where the parts go, and lightningd does not know it yet."""
    client, payer = stage.client(), stage.payer()
    invoice = await stage.invoice(client)
    stuck = stage.lsp.faults.late("datastore", nth=2)  # the intent, then this
    payment = payer.pay(invoice, [HALF_MSAT] * 2)
    await stuck.reached.wait()
    client.disconnect()
    stuck.release()
    await stage.restart(power=True)
    await stage.held(2)
    return client, invoice, payment


async def test_parts_that_come_again_wait_until_their_client_is_back() -> None:
    """cln:R1, cln:R4, cln:H10: lightningd asks again before any peer is there, and fails what goes to one who is
    not.
    """
    async with Stage(CLIENT_TRUSTS) as stage:
        client, invoice, payment = await _cut_off_before_the_answers(stage)
        await stage.world.advance(50)
        await stage.quiet()
        assert stage.htlc_results(invoice.payment_hash) == [None, None]
        client.connect()
        assert (await payment).paid
        await stage.over(invoice)


async def test_parts_whose_client_stays_away_fail_for_now_and_the_channel_goes() -> None:
    """cln:R4, cln:F2, rule:9: the wait is bounded; the coins are free, and the payer comes again later."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, invoice, payment = await _cut_off_before_the_answers(stage)
        await stage.world.advance(61)
        assert not (await payment).paid
        assert await stage.ended(invoice) == "ABANDONED"
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        client.connect()
        await stage.paid(stage.payer("again"), invoice)
        await stage.over(invoice)


async def test_a_reservation_is_renewed_over_a_restart_in_its_last_block() -> None:
    """O-04, trap:8, rule:7: none was renewed until then; lightningd lets them lapse with their block.

    Its tip is rolled back at the start (cln:R2), so the height alone does not say that it is urgent.
    """
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = await _with_the_client(stage, client, payer, invoice)
        stage.lsp.faults.fail("reserveinputs", times=1000)
        stage.world.mine(RESERVE_BLOCKS - 1)
        await stage.quiet()
        (coin,) = [row for row in stage.lsp.wallet.rows() if row["reserved"]]
        assert coin["reserved_to_block"] == stage.lsp.height + 1
        stage.lsp.faults.clear()
        await stage.restart(power=True)
        await stage.quiet()
        stage.world.mine()
        (same,) = [row for row in stage.lsp.wallet.rows() if row["reserved"]]
        assert (same["txid"], same["reserved_to_block"] > coin["reserved_to_block"]) == (coin["txid"], True)
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


@pytest.mark.parametrize("method", ["getinfo", "listconfigs", "listforwards", "listpeers", "makesecret"])
async def test_a_reservation_is_renewed_whatever_question_of_a_start_is_not_answered(method: str) -> None:
    """O-04, trap:8, rule:7: a call may hang for a minute, and the reservation lapse with the next block."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = await _with_the_client(stage, client, payer, invoice)
        (coin,) = [row for row in stage.lsp.wallet.rows() if row["reserved"]]
        await stage.kill()
        stuck = stage.lsp.faults.hang(method)
        starting = asyncio.ensure_future(stage.start())
        await stage.until(stuck.reached.is_set, f"{method} hangs")
        renewed = stage.lsp.wallet.rows
        await stage.until(lambda: next(row for row in renewed() if row["reserved"]) != coin, "the coin is renewed")
        stuck.release()
        await starting
        await stage.quiet()
        assert len(stage.calls("reserveinputs")) == 2  # at the opening, and once now
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_crowd_over_a_paid_scid_waits_within_the_limits_and_asks_once() -> None:
    """people:S16, rule:24: the client is away after a restart; as many parts wait as may, one task looks for it."""
    limit, sent = 20, 35
    options = {"lsps2-max-held-parts": 2 * limit, "lsps2-max-parts": limit}  # half of them for clients that are away
    async with Stage(CLIENT_TRUSTS, options=options) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.sale(client, payer)
        await stage.restart()
        client.go_offline()
        asked = len(stage.calls("listpeerchannels"))
        other = client.invoice(sent * 1_000_000, invoice.scid, cltv_delta=144)
        payment = payer.pay(other, [1_000_000] * sent)
        await stage.until(lambda: len(stage.lsp.htlcs.held) == limit, "as many wait as may")
        for _ in range(4):
            await stage.world.advance(5)
            await stage.quiet()
        assert len(stage.calls("listpeerchannels")) <= asked + 8
        client.connect()
        await stage.until(lambda: not stage.lsp.htlcs.held, "the others go out")
        await stage.world.advance(71)  # the client has less than the whole
        assert (await payment).raw_messages.count(TEMPORARY) == sent - limit
        stage.leaves = ("payment",)


@pytest.mark.parametrize("share", ["lsps2-max-held-parts-per-buy", "lsps2-max-held-parts-per-peer"])
async def test_a_crowd_over_a_paid_scid_takes_no_more_than_a_share(share: str) -> None:
    """people:S16, rule:24: one paid channel whose client is away takes its share of what may be held."""
    limit, sent = 10, 25
    async with Stage(CLIENT_TRUSTS, options={share: limit, "lsps2-max-parts": limit}) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await stage.sale(client, payer)
        await stage.restart()
        client.go_offline()
        other = client.invoice(sent * 1_000_000, invoice.scid, cltv_delta=144)
        payment = payer.pay(other, [1_000_000] * sent)
        await stage.until(lambda: len(stage.lsp.htlcs.held) == limit, "as many wait as may")
        client.connect()
        await stage.until(lambda: not stage.lsp.htlcs.held, "the others go out")
        await stage.world.advance(71)  # the client has less than the whole
        assert (await payment).raw_messages.count(TEMPORARY) == sent - limit
        stage.leaves = ("payment",)
