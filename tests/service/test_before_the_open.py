"""What lightningd would refuse to forward later is not opened for, in either mode: the offer stands."""

from __future__ import annotations

from typing import Any

import pytest

from .stage import SIZE_MSAT, TEMPORARY, Stage


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
