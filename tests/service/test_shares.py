"""Shares of what may be held, through the whole service: no crowd of crumbs keeps a real payment from its sale."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from harness.service import SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.payer import Payment

CRUMB_MSAT = 1_000


def crumbs(client: Client, payer: Payer, invoice: ClientInvoice, count: int, msat: int = CRUMB_MSAT) -> Payment:
    """So many small parts under a hash of their own."""
    fake = client.invoice(SIZE_MSAT, invoice.scid, preimage=os.urandom(32), cltv_delta=144)
    del client.invoices[fake.payment_hash]
    return payer.pay(fake, [msat] * count, total_msat=SIZE_MSAT)


async def end(stage: Stage, payments: Sequence[Payment]) -> None:
    """Let what is still held time out; over the alias of a paid channel its client refuses what it never asked for."""
    await stage.world.advance(100)
    for payment in payments:
        assert {message[:4] for message in (await payment).raw_messages} <= {TEMPORARY[:4], "400f"}


async def test_crumbs_with_the_invoices_own_hash_give_way(mode: str) -> None:
    """people:L3, rule:24: thirty parts of a sat fill the payment's places; the real parts take them."""
    async with Stage(mode) as stage:
        client, payer, stranger = stage.client(), stage.payer(), stage.payer("stranger")
        invoice = await stage.invoice(client)
        dust = stranger.pay(invoice, [CRUMB_MSAT] * 30, total_msat=SIZE_MSAT)
        await stage.held(30)
        assert (await payer.pay(invoice, [SIZE_MSAT // 5] * 5)).paid
        await dust
        await stage.until(lambda: stage.outcome(invoice.scid) in ("Succeeded", "Underpaid"), "the final record")
        assert (await stage.stats())["refused_parts"]["gave way"] >= 5
        stage.world.mine()


@pytest.mark.parametrize(
    ("options", "whose"),
    [
        ({"lsps2-max-held-parts-per-buy": 30}, "buy"),
        ({"lsps2-max-held-parts-per-peer": 30}, "client"),
        ({"lsps2-max-held-parts": 30}, "node"),
        ({"lsps2-max-held-sat-per-peer": SIZE_MSAT // 1000}, "client"),
        ({"lsps2-max-held-sat": SIZE_MSAT // 1000}, "node"),
    ],
)
async def test_in_each_share_the_small_gives_way_to_the_real(options: dict[str, int], whose: str) -> None:
    """people:L3, people:L4, rule:24: of a buy, a client and the node, in parts and in sats."""
    async with Stage(options=options) as stage:
        client, payer, stranger = stage.client(), stage.payer(), stage.payer("stranger", channels=2)
        invoice = await stage.invoice(client)
        other = stage.client("other") if whose == "node" else client
        crowded = invoice if whose == "buy" else await stage.invoice(other)
        large = 1 if "parts" in next(iter(options)) else 300  # sats: nearly the whole of a share
        dust = crumbs(other, stranger, crowded, 30, large * CRUMB_MSAT)
        await stage.held(30)
        limits = (await stage.stats())["limits"]
        assert any(use.get("used_parts") == use.get("limit_parts") == 30 for use in limits.values()) is (large == 1)
        await stage.paid(payer, invoice, [SIZE_MSAT // 5] * 5)
        await stage.over(invoice)
        assert len(stage.log_lines("binds from now on", "warn")) == 1
        await end(stage, [dust])
        await stage.world.advance(10)
        await stage.until(lambda: stage.log_lines("has room again"), "the share has room")
        assert len(stage.log_lines("has room again")) == 1
        assert (await stage.stats())["refused_parts"]["gave way"] >= 1
        stage.world.mine()


@pytest.mark.parametrize("msat", [1, CRUMB_MSAT])
async def test_crumbs_on_a_hundred_scids_keep_no_real_payment_from_its_sale_here_either(msat: int) -> None:
    """people:L4, rule:24: ten identities, ten buys each, all that may be held, msats or sats; three sales go on."""
    options = {"lsps2-max-held-parts": 200, "lsps2-min-part-msat": msat, "lsps2-max-buys-per-minute": 10**6}
    async with Stage(options=options, wallet_sat=(1_000_000,) * 6) as stage:
        stranger, dust = stage.payer("stranger", channels=4), []
        for number in range(10):
            identity = stage.client(f"identity {number}")
            for _ in range(10):
                dust.append(crumbs(identity, stranger, await stage.invoice(identity), 3, msat))
        await stage.quiet()
        assert (await stage.stats())["held_parts"] == 200
        for number in range(3):
            client, payer = stage.client(f"honest {number}"), stage.payer(f"payer {number}")
            invoice = await stage.invoice(client)
            await stage.paid(payer, invoice)
            await stage.over(invoice)
        await end(stage, dust)
        stage.world.mine()


async def test_sixty_parts_at_once_do_not_spoil_the_next_try() -> None:
    """people:L7, C-10: all fail at once, none begins a set of its own; with fewer parts it is paid."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, 12_000_000)
        assert (await payer.pay(invoice, [200_000] * 60)).raw_messages == [TEMPORARY] * 60
        stats = await stage.stats()
        assert stats["held_parts"] == 0
        assert stats["refused_parts"]["of a set with too many parts"] == 29
        await stage.paid(payer, invoice, [600_000] * 20)
        await stage.over(invoice)
        stage.world.mine()
