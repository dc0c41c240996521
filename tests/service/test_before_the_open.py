"""What lightningd would refuse to forward later is not opened for, in either mode: the offer stands."""

from __future__ import annotations

from typing import Any

import pytest
from harness.service import LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import ClientInvoice


async def _nothing_was_opened(stage: Stage, client: Any) -> None:
    await stage.at_rest()
    assert stage.calls("fundchannel_start") == stage.calls("reserveinputs") == []
    quote = await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id})
    assert quote["served"]


async def test_parts_above_the_largest_htlc_of_the_node(mode: str) -> None:
    """people:S14: `htlc-maximum-msat` below the payment; in parts that are small enough it is paid."""
    async with Stage(mode, fresh=True) as stage:
        stage.lsp.htlc_maximum_msat = SIZE_MSAT // 2
        await stage.restart()
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        await _nothing_was_opened(stage, client)
        assert stage.log_lines("htlc-maximum-msat", "warn")
        await stage.paid(payer, invoice, [SIZE_MSAT // 4] * 4)
        await stage.over(invoice)


async def test_parts_with_fewer_blocks_than_the_node_asks_for_now(mode: str) -> None:
    """people:S15: `cltv-delta` was raised between sale and payment."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.cltv_delta = invoice.cltv_delta + 1
        await stage.restart()
        client.connect()
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        await _nothing_was_opened(stage, client)
        invoice.cltv_delta += 1
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


@pytest.mark.parametrize(("parts", "fits"), [(30, False), (20, True)])
async def test_more_dust_than_the_node_exposes(mode: str, parts: int, fits: bool) -> None:
    """people:S19: thirty parts of 2,000 sat to a client without anchors; twenty are paid."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        client.lacks = {22, 23}
        client.disconnect()
        client.connect()
        part_msat = 2_000_000
        invoice = await stage.invoice(client, parts * part_msat)
        if fits:
            await stage.paid(payer, invoice, [part_msat] * parts)
            await stage.over(invoice)
            return
        assert (await payer.pay(invoice, [part_msat] * parts)).raw_messages == [TEMPORARY] * parts
        await _nothing_was_opened(stage, client)
        await stage.paid(payer, invoice, [parts * part_msat // 2] * 2)
        await stage.over(invoice)


async def test_more_parts_than_may_be_out_at_once(mode: str) -> None:
    """people:S19's kind: a node with `max-concurrent-htlcs` of three."""
    async with Stage(mode, fresh=True) as stage:
        stage.lsp.max_concurrent_htlcs = 3
        await stage.restart()
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [SIZE_MSAT // 4] * 4)).raw_messages == [TEMPORARY] * 4
        await _nothing_was_opened(stage, client)
        await stage.paid(payer, invoice, [SIZE_MSAT // 2] * 2)
        await stage.over(invoice)


async def test_what_would_be_more_than_the_node_forwards_in_all_parts_is_not_sold(mode: str) -> None:
    """people:S14, people:L8: `htlc-maximum-msat` times the parts bounds menu, quote and buy."""
    async with Stage(mode, fresh=True) as stage:
        stage.lsp.htlc_maximum_msat = 1_000_000
        await stage.restart()
        client = stage.client()
        offer = await stage.offer(client)
        assert offer["max_payment_size_msat"] == "30000000"
        asked: dict[str, Any] = {"peer_id": client.node_id, "payment_size_msat": 30_000_001}
        (line,) = (await stage.lsp.call("lsps2-quote", asked))["menu"]
        assert line["fits"] is False
        assert any("htlc_maximum" in rule for rule in line["rules"])


@pytest.mark.parametrize("option", ["lsps2-max-held-sat", "lsps2-max-held-sat-per-peer"])
async def test_what_would_be_more_than_may_be_held_is_not_sold(option: str) -> None:
    """people:L8, rule:24: a payment that no pot has room for is not offered."""
    async with Stage(options={option: 20_000}) as stage:
        client, payer = stage.client(), stage.payer()
        assert (await stage.offer(client))["max_payment_size_msat"] == "20000000"
        invoice = await stage.invoice(client, 20_000_000)
        await stage.paid(payer, invoice, [4_000_000] * 5)
        await stage.over(invoice)
        stage.world.mine()


async def test_dust_that_joins_an_open_fails_alone(mode: str) -> None:
    """people:S19, C-18: what may be out at once is asked again for parts that come while the channel is made."""
    async with Stage(mode, fresh=True) as stage:
        client, payer, stranger = without_anchors(stage), stage.payer(), stage.payer("stranger")
        invoice = await stage.invoice(client, 200_000_000)
        stuck = stage.lsp.faults.hang("fundchannel_start")
        payment = payer.pay(invoice, [160_000_000] + [2_000_000] * 20)
        await stage.until(stuck.reached.is_set, "the open hangs")
        joining = [stranger.pay(invoice, [2_000_000], total_msat=200_000_000) for _ in range(5)]
        await stage.held(26)
        late = await stranger.pay(invoice, [2_000_000], total_msat=200_000_000)
        assert late.raw_messages == [TEMPORARY]
        assert (await stage.stats())["refusals"]["not_forwardable"] == 1
        stuck.release()
        assert (await payment).paid
        for each in joining:
            await each  # the client may have been paid before them
        told = stage.world.transcript.select("host>plugin", method="forward_event")
        assert [row["msg"]["params"]["forward_event"]["status"] for row in told].count("local_failed") == 0
        await stage.until(lambda: stage.outcome(invoice.scid) in ("Succeeded", "Underpaid"), "the final record")
        stage.world.mine()


@pytest.mark.parametrize("then", ["nothing", "restart", "power"])
async def test_dust_over_a_channel_that_an_earlier_payment_left_is_asked_about_too(then: str) -> None:
    """people:S19, O-13: the channel is there and unpaid; thirty small parts fail, ten large ones pay for it."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = without_anchors(stage), stage.payer()
        client.behaviour.on_part = "fail"
        invoice = await stage.invoice(client, 60_000_000)
        assert not (await payer.pay(invoice, [60_000_000])).paid
        await stage.quiet()
        client.behaviour.on_part = "settle"
        if then != "nothing":
            await stage.restart(power=then == "power")
            client.connect()
            await stage.quiet()
        assert (await payer.pay(invoice, [2_000_000] * 30)).raw_messages == [TEMPORARY] * 30
        assert stage.log_lines("is failed: lightningd would not forward it", "warn")
        assert client.held() == []
        await stage.at_rest()  # parts that come while a payment is being ended fail with it
        await stage.paid(payer, invoice, [6_000_000] * 10)
        await stage.over(invoice)
        stage.world.mine()


DUST_MSAT = 2_000_000  # in a channel without anchors
WITH_DUST = [152_000_000] + [DUST_MSAT] * 24  # as much of it as the node exposes
DUSTY_MSAT = sum(WITH_DUST)


async def crumbs_fail_alone(stage: Stage, invoice: ClientInvoice, honest: list[int], crumb: int) -> None:
    """A stranger's crumbs are held when the payment comes; it is paid without them."""
    payer, stranger = stage.payer(), stage.payer("stranger")
    crumbs = [stranger.pay(invoice, [crumb], total_msat=sum(honest)) for _ in range(3)]
    await stage.held(3)
    payment = payer.pay(invoice, honest)
    assert (await payment).raw_messages == [""] * len(honest)
    assert [(await each).raw_messages for each in crumbs].count([TEMPORARY]) >= 2
    await stage.until(lambda: stage.outcome(invoice.scid) in ("Succeeded", "Underpaid"), "the final record")
    assert (await stage.stats())["refused_parts"]["would not be forwarded"] >= 2
    told = stage.world.transcript.select("host>plugin", method="forward_event")
    assert [row["msg"]["params"]["forward_event"]["status"] for row in told].count("local_failed") == 0
    stage.world.mine()


async def test_crumbs_that_are_too_much_dust_beside_a_payment_fail_alone(mode: str) -> None:
    """people:S19, people:L3, rule:24: held while it collects; the sum of all would be refused by lightningd."""
    async with Stage(mode, fresh=True) as stage:
        client = without_anchors(stage)
        invoice = await stage.invoice(client, DUSTY_MSAT)
        await crumbs_fail_alone(stage, invoice, WITH_DUST, DUST_MSAT - 1)


async def test_crumbs_that_are_too_many_beside_a_payment_fail_alone(mode: str) -> None:
    """people:S19, people:L3, rule:24: a node with `max-concurrent-htlcs` of three."""
    async with Stage(mode, fresh=True) as stage:
        stage.lsp.max_concurrent_htlcs = 3
        await stage.restart()
        client = stage.client()
        invoice = await stage.invoice(client, 9_000_000)
        await crumbs_fail_alone(stage, invoice, [3_000_000] * 3, 1_000)


@pytest.mark.parametrize("then", ["nothing", "restart"])
async def test_crumbs_that_are_too_much_dust_fail_alone_over_a_channel_that_is_there(then: str) -> None:
    """people:S19, people:L3, O-13: the channel of an earlier payment, also one of an earlier run."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, first = without_anchors(stage), stage.payer("first")
        client.behaviour.on_part = "fail"
        invoice = await stage.invoice(client, DUSTY_MSAT)
        assert not (await first.pay(invoice, [DUSTY_MSAT])).paid
        await stage.quiet()
        client.behaviour.on_part = "settle"
        if then == "restart":
            await stage.restart()
            await stage.quiet()
        await crumbs_fail_alone(stage, invoice, WITH_DUST, DUST_MSAT - 1)


async def test_a_part_that_joins_takes_the_place_of_smaller_dust(mode: str) -> None:
    """people:S19, rule:24: crumbs have used up the dust, and completed the sum; the payer's last part comes."""
    async with Stage(mode, fresh=True) as stage:
        client, payer, stranger = without_anchors(stage), stage.payer(), stage.payer("stranger")
        invoice = await stage.invoice(client, DUSTY_MSAT)
        stuck = stage.lsp.faults.hang("fundchannel_start")
        crumbs = [stranger.pay(invoice, [DUST_MSAT - 1], total_msat=DUSTY_MSAT) for _ in range(2)]
        await stage.held(2)
        most = payer.pay(invoice, WITH_DUST[:-1], total_msat=DUSTY_MSAT)
        await stage.until(stuck.reached.is_set, "the open hangs")
        last = payer.pay(invoice, WITH_DUST[-1:], total_msat=DUSTY_MSAT)
        assert (await crumbs[1]).raw_messages == [TEMPORARY]
        stuck.release()
        assert [(await each).paid for each in (most, last)] == [True, True]
        await stage.over(invoice)
        stage.world.mine()


@pytest.mark.parametrize(("parts", "served"), [(30, False), (4, True)])
async def test_little_dust_goes_to_a_client_that_refuses_anchors(parts: int, served: bool) -> None:
    """people:S19: an ldk-node without coins refuses anchors and closes by force for dust that our node would allow."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        client.behaviour.reject_types = frozenset({22})
        invoice = await stage.invoice(client, parts * 1_000_000)
        result = await payer.pay(invoice, [1_000_000] * parts)
        assert result.raw_messages == [""] * parts if served else [TEMPORARY] * parts
        assert len(stage.calls("sendpsbt")) == served
        if served:
            await stage.over(invoice)
        else:
            await stage.at_rest()
            await stage.paid(payer, invoice, [10_000_000] * 3)
            await stage.over(invoice)
        stage.world.mine()


def without_anchors(stage: Stage) -> Client:
    """A wallet that has none."""
    client = stage.client()
    client.lacks = {22, 23}
    client.disconnect()
    client.connect()
    return client
