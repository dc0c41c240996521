"""Clients that fail in a batch on purpose, and nodes that die in the worst moment of one (trap:60)."""

from __future__ import annotations

from harness.service import SIZE_MSAT

from .test_batches import Crowd, batching

SOON_S = 5.0  # far less than a client may keep silent


async def test_a_second_payment_of_a_client_keeps_no_batch_waiting() -> None:
    """trap:60, rule:24: one client has two payments at once and says nothing to the one that stands alone."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come("alice", "bertha", "mallory")
        mallory = crowd.clients[2]
        crowd.invoices.append(await stage.invoice(mallory))
        mallory.behaviour.script = {"open_channel": "silent"}
        for invoice in crowd.invoices:
            crowd.payments.append(crowd.payer.pay(invoice, [SIZE_MSAT // 2] * 2))
        for invoice in crowd.invoices:
            await stage.state(invoice, "OPENING")
        await stage.until(lambda: len(stage.calls("fundchannel_start")) == 1, "the one that stands alone")
        await stage.world.advance(2)
        done = lambda: all(payment.done for payment in crowd.payments[:2])  # noqa: E731
        await stage.world.until(done, "the others are paid", SOON_S)
        assert [(await payment).paid for payment in crowd.payments[:2]] == [True, True]
        mallory.disconnect()
