"""Every refusal, to the byte (trap:23, C-19). The table of codes is also held at the end of every story
(`Stage.tidy`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, NODE_FAILURE, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast.actions import FAILURE_NAMES
from lsps2fast_plugin.simnode import Payer
from lsps2fast_plugin.simnode.client import ClientInvoice

FINAL_BLOCKS, DELTA_BLOCKS = 12, 144
Story = Callable[[Stage, Payer, ClientInvoice], Awaitable[Any]]


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ({"amounts_msat": [0], "overpay_msat": 500}, "100b00000000000000000000"),
        ({"overpay_msat": -1}, "100c00000000009896" + "7f0000"),
        ({"overpay_msat": -SIZE_MSAT + 1}, "100c00000000000000010000"),
        ({"cltv_delta": DELTA_BLOCKS - 1}, "100d{expiry:08x}0000"),
        ({"cltv_delta": 0}, "100d{expiry:08x}0000"),
        ({"final_delta": 0}, "100e0000"),
        ({"final_delta": 6}, "100e0000"),  # people:S18: nearer than any client would take it
        ({"final_delta": 2017}, "0015"),
        # the first matching code in numeric order (BOLT 4): below the onion's amount and too soon, late and too far
        ({"overpay_msat": -1, "final_delta": 0}, "100c00000000009896" + "7f0000"),
        ({"cltv_delta": 1, "final_delta": 0}, "100d{expiry:08x}0000"),
    ],
)
async def test_a_part_that_lightningd_would_refuse_is_refused_on_arrival(how: dict[str, Any], answer: str) -> None:
    """trap:23, C-04: alone, before it is counted, with the bytes of BOLT 4."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        before = (await stage.stats())["failed_parts"]
        result = await payer.pay(invoice, **how)
        expiry = stage.lsp.height + how.get("final_delta", FINAL_BLOCKS) + how.get("cltv_delta", DELTA_BLOCKS)
        assert result.raw_messages == [answer.format(expiry=expiry)]
        assert stage.calls("utxopsbt") == []
        after = (await stage.stats())["failed_parts"]
        assert after == before | {(name := FAILURE_NAMES[answer[:4]]): before[name] + 1}


@pytest.mark.parametrize("how", [{"final_delta": 7}, {"final_delta": 2016}, {"cltv_delta": DELTA_BLOCKS}])
async def test_a_part_at_the_very_edge_is_accepted(how: dict[str, Any]) -> None:
    """C-04: the other side of each boundary."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        await stage.paid(payer, await stage.invoice(client), [SIZE_MSAT], **how)


async def _timeout(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    payment = payer.pay(invoice, [4_000_000] * 2, total_msat=SIZE_MSAT)
    await stage.held(2)
    await stage.world.advance(90)
    return await payment


async def _offer_ended(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    await stage.world.advance(3600 - 5)
    payment = payer.pay(invoice, [4_000_000], total_msat=SIZE_MSAT)
    await stage.held(1)
    await stage.world.advance(5)
    return await payment


async def _too_many_parts(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    return await payer.pay(invoice, [1_000] * 31, total_msat=SIZE_MSAT)


async def _rejected(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    invoice.payee.behaviour.reject_open = "no channels please"
    return await payer.pay(invoice)


async def _gone(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    invoice.payee.behaviour.vanish_at = "open"
    return await payer.pay(invoice)


async def _no_funds(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    stage.lsp.faults.fail("utxopsbt", code=301, message="Could not afford 200000sat using UTXOs totalling 0sat")
    return await payer.pay(invoice)


async def _too_late(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    payment = payer.pay(invoice, [4_000_000], total_msat=SIZE_MSAT)
    await stage.held(1)
    stage.world.mine(FINAL_BLOCKS + DELTA_BLOCKS - 6)
    return await payment


async def _not_ready(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    invoice.payee.behaviour.send_ready = False
    payment = payer.pay(invoice)
    await stage.state(invoice, "AWAITING_CHANNEL_READY")
    await stage.quiet()
    await stage.world.advance(120)
    return await payment


async def _self_delay(stage: Stage, payer: Payer, invoice: ClientInvoice) -> Any:
    invoice.payee.behaviour.to_self_delay = 2017
    return await payer.pay(invoice)


@pytest.mark.parametrize(
    ("mode", "story", "answer"),
    [
        (CLIENT_TRUSTS, _timeout, TEMPORARY),
        (CLIENT_TRUSTS, _offer_ended, UNKNOWN),
        (CLIENT_TRUSTS, _too_many_parts, TEMPORARY),
        (CLIENT_TRUSTS, _rejected, UNKNOWN),
        (CLIENT_TRUSTS, _gone, TEMPORARY),
        (CLIENT_TRUSTS, _no_funds, TEMPORARY),
        (CLIENT_TRUSTS, _too_late, TEMPORARY),
        (CLIENT_TRUSTS, _not_ready, TEMPORARY),
        (LSP_TRUSTS, _not_ready, TEMPORARY),
        (CLIENT_TRUSTS, _self_delay, UNKNOWN),
        (LSP_TRUSTS, _self_delay, UNKNOWN),
    ],
)
async def test_a_payment_that_cannot_be_served_gets_the_code_of_its_cause(mode: str, story: Story, answer: str) -> None:
    """trap:23, C-19: temporary where a retry can help, unknown_next_peer only where bLIP-52 asks for it."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        result = await story(stage, payer, await stage.invoice(client))
        assert set(result.raw_messages) == {answer}


async def test_a_transient_error_of_the_journal_is_temporary() -> None:
    """trap:23: never unknown_next_peer for a trouble of our own."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("datastore", times=4)
        payment = payer.pay(invoice)
        for _ in range(3):
            await stage.quiet()
            await stage.world.advance(2)
        assert (await payment).raw_messages == [TEMPORARY]
        await stage.ended(invoice)
        await stage.paid(payer, invoice)


async def test_a_call_that_nobody_can_read_gets_the_code_of_last_resort() -> None:
    """trap:23, C-19: temporary_node_failure, only from the handler of what must not happen."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        params = stage.part_call(invoice, payer)
        del params["htlc"]["amount_msat"]
        answer = await stage.hook_call(params)
        assert answer["result"] == {"result": "fail", "failure_message": NODE_FAILURE}
        stage.errors_expected = True
