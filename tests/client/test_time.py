"""An invoice promises what can be kept: its end, the offer's, the wait for a confirmation (wallet:W4, trap:55)."""

from __future__ import annotations

import pytest
from harness.client import FEE, Json, Stage, Staging, claimed

from lsps2fast.errors import NodeError


def expire(stage: Stage) -> None:
    """As lightningd does with an invoice that was not paid in time."""
    for row in stage.node.invoices.values():
        if row["status"] == "unpaid" and stage.clock.wall_ms() >= row["expires_at"] * 1000:
            row["status"] = "expired"


async def waiting(stage: Stage, expiry: int, paid_after_s: float = 0) -> tuple[Json, bytes]:
    """A whole payment that waits for the block with its funding."""
    invoice = await stage.invoice(expiry=expiry)
    await stage.pass_time(paid_after_s)
    await stage.channel()
    stage.fund()
    part = stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    return invoice, part


@pytest.mark.parametrize(("expiry", "paid_after_s"), [(60, 0), (60, 59), (300, 0), (600, 599), (900, 890)])
async def test_w4_a_payment_that_came_in_time_is_claimed_when_its_funding_is_sound(
    staged: Staging, expiry: int, paid_after_s: int
) -> None:
    """wallet:W4, trap:55: the block takes ten minutes, the stored invoice ended before it."""
    async with staged() as stage:
        invoice, part = await waiting(stage, expiry, paid_after_s)
        for _ in range(10):
            await stage.pass_time(60)
            expire(stage)
        assert stage.answer(part) is None
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert claimed(stage.answer(part)) == (19_000_000, 19_000_000, 19_000_000)
        (row,) = stage.node.invoices.values()
        assert row["status"] == "unpaid"
        assert row["expires_at"] * 1000 > stage.clock.wall_ms()
        assert row["payment_hash"] == invoice["payment_hash"]
        await stage.paid(invoice)
        assert (await stage.client._status())["approvals"][0]["state"] == "paid"


async def test_w4_the_owner_sees_what_a_payment_waits_for(staged: Staging) -> None:
    """wallet:W4: how far the funding has come, and as of which block; nothing where nothing waits."""

    async def awaits(stage: Stage) -> tuple[str | None, int | None]:
        (shown,) = (await stage.client._status())["approvals"]
        return shown["awaits"], shown["awaits_height"]

    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        assert await awaits(stage) == (None, None)
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert await awaits(stage) == ("not seen", stage.height)
        stage.fund()
        await stage.block()
        assert await awaits(stage) == ("in the mempool", stage.height)
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert await awaits(stage) == (None, None)


async def test_w4_one_whose_funding_does_not_come_may_be_tried_again(staged: Staging) -> None:
    """wallet:W4: before the HTLCs expire, with a code that is not permanent; also when the invoice ended."""
    async with staged() as stage:
        _, part = await waiting(stage, 60)
        await stage.pass_time(61)
        expire(stage)
        await stage.block(3)
        assert stage.answer(part) is None
        await stage.block()
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}


async def test_w4_an_invoice_with_a_preimage_of_its_owners_ends_and_may_be_tried_again(staged: Staging) -> None:
    """wallet:W4: such an invoice cannot be renewed; its payment goes back with a code that is not permanent."""
    async with staged() as stage:
        invoice = await stage.invoice(expiry=60, preimage="17" * 32)
        await stage.channel()
        stage.fund()
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        await stage.pass_time(61)
        expire(stage)
        assert stage.answer(part) is None
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}


@pytest.mark.parametrize("died", ["before the old one is deleted", "between the two"])
async def test_w4_a_death_while_the_invoice_is_renewed_costs_nothing(staged: Staging, died: str) -> None:
    """wallet:W4, K-07: the words of the new one are stored first."""
    async with staged() as stage:
        invoice, part = await waiting(stage, 60)
        await stage.pass_time(61)
        expire(stage)
        method = "delinvoice" if died.startswith("before") else "createinvoice"
        stage.node.faults[method] = [NodeError(method, -1, "killed")] * 1000
        stage.confirm(height=stage.height + 1)
        await stage.block()
        await stage.stop()
        stage.node.faults.clear()
        stage._born()
        await stage.start()
        again = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(again)) == (19_000_000, 19_000_000, 19_000_000)
        del part


async def test_t55_a_channel_that_was_accepted_in_time_is_waited_for(staged: Staging) -> None:
    """trap:55: the invoice ends while the channel is made; its parts come seconds later, and are taken."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(expiry=60, client_trusts_lsp=True)
        await stage.pass_time(58)
        await stage.channel()
        await stage.pass_time(5)
        expire(stage)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part)) == (19_000_000, 19_000_000, 19_000_000)


async def test_t55_an_lsp_that_opens_again_and_again_gains_no_time(staged: Staging) -> None:
    """trap:55: 90 s after the end it is over, whatever was accepted meanwhile."""
    async with staged() as stage:
        await stage.invoice(expiry=60)
        await stage.pass_time(58)
        for second in range(0, 180, 30):
            answer = await stage.opening()
            assert ("mindepth" in answer) == (second < 92), second
            await stage.pass_time(30)


async def test_t55_but_not_for_ever(staged: Staging) -> None:
    """trap:55, I-33: 90 s after the yes; an opening after the end is none of ours."""
    async with staged() as stage:
        invoice = await stage.invoice(expiry=60)
        await stage.pass_time(58)
        await stage.channel()
        await stage.pass_time(91)
        assert not stage.client.book.approvals
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part)["result"] == "fail"  # type: ignore[index]
