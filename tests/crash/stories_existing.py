"""Payments over a channel that the client has."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.simnode import Client

from .stage import SIZE_MSAT, Sale, Stage
from .story import THIRDS, WEBHOOK, parts_held, scenario, served

FREE = {"lsps2-reuse": "free"}
FEE_PERCENT = 20
SHARE_MSAT = 30_000_000
SPARE_MSAT = 70_000_000  # of the 100,000 sat that the first channel has to spare: once, not twice


async def _reusing(stage: Stage, client: Client, size_msat: int = SIZE_MSAT, percent: int = 0) -> Sale:
    sale = await stage.sale(client, size_msat)
    sale.reuse_percent = percent
    return sale


def _opened_none(stage: Stage, client: Client) -> None:
    """Say it if there is a second channel, although nothing went wrong."""
    if not stage.died and stage.hit and len(client.ends) > 1:
        stage.problems.append(f"{client.name} got {len(client.ends)} channels, and its payment fitted into the first")


@scenario(options=FREE)
async def over_existing(stage: Stage) -> None:
    """Three parts over the channel that the client has: nothing is opened."""
    client = await served(stage)
    await stage.begin()
    sale = await _reusing(stage, client)
    await stage.pay(stage.payers[0], sale, THIRDS)
    if stage.misdeed is None:
        _opened_none(stage, client)


@scenario(options={"lsps2-reuse": "fee", "lsps2-reuse-fee-percent": FEE_PERCENT})
async def over_existing_for_a_fee(stage: Stage) -> None:
    """The same for a fifth of the opening fee, and a second payment that is too large for what is left."""
    client = await served(stage)
    sales = [await _reusing(stage, client, SPARE_MSAT, FEE_PERCENT) for _ in range(2)]
    await stage.begin()
    for sale in sales:
        await stage.pay(stage.payers[0], sale, [SPARE_MSAT])


@scenario(options=FREE)
async def over_existing_race(stage: Stage) -> None:
    """Two payments at once into room for one: neither fails, one of them opens a channel (rule:18)."""
    client = await served(stage)
    sales = [await _reusing(stage, client, SPARE_MSAT) for _ in range(2)]
    await stage.begin()
    payments = [await stage.send(stage.payers[0], sale, [SPARE_MSAT // 2] * 2) for sale in sales]
    results = await stage.result(*payments)
    if not stage.died and stage.hit and stage.misdeed is None and not all(result.paid for result in results):
        stage.problems.append("two payments raced for one room, and one of them failed")
    for sale in sales:
        await stage.pay_unpaid(stage.payers[0], sale, [SPARE_MSAT])


@scenario(options=FREE)
async def over_existing_shared(stage: Stage) -> None:
    """Two payments share the room, and the first is over before the record of the second is written (rule:13)."""
    client = await served(stage)
    sales = [await _reusing(stage, client, SHARE_MSAT) for _ in range(2)]
    client.behaviour.on_part = "hold"
    await stage.begin()
    first = await parts_held(stage, client, sales[0], [SHARE_MSAT])
    slow = stage.lsp.faults.hang("datastore")
    client.behaviour.on_part = "settle"
    second = await stage.send(stage.payers[0], sales[1], [SHARE_MSAT])
    await stage.quiet()
    client.settle_held()
    await stage.result(first)
    await stage.quiet()
    stage.lsp.faults.remove(slow)
    await stage.result(second)
    for sale in sales:
        await stage.pay_unpaid(stage.payers[0], sale, [SHARE_MSAT])


@scenario(options=FREE)
async def over_existing_refused(stage: Stage) -> None:
    """The client fails what comes over its old channel; the next try gets one of its own (rule:22)."""
    client = await served(stage)
    client.behaviour.on_part = "fail"
    sale = await _reusing(stage, client)
    await stage.begin()
    await stage.pay(stage.payers[0], sale, THIRDS, tries=1)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(stage.payers[0], sale, THIRDS)


@scenario(options=FREE)
async def over_existing_room_goes(stage: Stage) -> None:
    """The room is gone when all is written: a channel is opened in the same payment."""
    client = await served(stage)
    sale = await _reusing(stage, client)
    ours = client.ends[0].other

    def room_goes(entry: dict[str, Any]) -> None:
        if entry["dir"] == "rpc>host" and b'"existing":{'.hex() in str(entry["msg"].get("params")):
            ours.htlc_maximum_msat = 1_000

    stage.world.transcript.listeners.append(room_goes)
    await stage.begin()
    await stage.pay(stage.payers[0], sale, THIRDS)


@scenario(options=FREE)
async def over_existing_held(stage: Stage) -> None:
    """The client holds the parts for a while; meanwhile its channel gets another name (rule:25)."""
    client = stage.client()
    payer = stage.payer()
    await stage.pay(payer, await stage.sale(client))
    await stage.quiet()
    client.behaviour.on_part = "hold"
    sale = await _reusing(stage, client)
    await stage.begin()
    payment = await parts_held(stage, client, sale, THIRDS)
    stage.world.mine()
    await stage.turn()
    client.behaviour.on_part = "settle"
    client.settle_held()
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale, THIRDS)


@scenario(options=FREE)
async def over_existing_then_another(stage: Stage) -> None:
    """The next payment on the scid needs a channel before lightningd has set the first one's fees again (rule:13)."""
    client = await served(stage)
    scid, delta, terms = await stage.buy(client, SPARE_MSAT)
    sales = [stage.second_sale(client, scid, delta, terms, SPARE_MSAT) for _ in range(2)]
    for sale in sales:
        sale.reuse_percent = 0
    client.behaviour.on_part = "hold"
    await stage.begin()
    first = await parts_held(stage, client, sales[0], [SPARE_MSAT])
    slow = stage.lsp.faults.hang("setchannel")
    client.behaviour.on_part = "settle"
    client.settle_held()
    await stage.result(first)
    second = await stage.send(stage.payers[0], sales[1], [SPARE_MSAT])
    await stage.quiet()
    stage.lsp.faults.remove(slow)
    await stage.result(second)
    for sale in sales:
        await stage.pay_unpaid(stage.payers[0], sale, [SPARE_MSAT])


@scenario(options=FREE | {"lsps2-webhooks": 1})
async def over_existing_beside_what_is_held(stage: Stage) -> None:
    """The client sleeps; a payment over its channel is held, and one that is sold wants the same room when it comes."""
    client = await served(stage)
    payer, scid = stage.payers[0], client.ends[0].other.scid_now()
    await stage.request(client, "lsps5.set_webhook", WEBHOOK)
    sale = await _reusing(stage, client, SPARE_MSAT)
    invoice = client.invoice(SPARE_MSAT, scid, cltv_delta=40)
    held = Sale(client, invoice, 0, must_pay=False, jit=False, overpay_msat=10_000)
    stage.sales.append(held)
    client.go_offline()
    await stage.begin()
    payments = [await stage.send(payer, each, [SPARE_MSAT]) for each in (held, sale)]
    await stage.turn(20)
    await stage.quiet()
    client.connect()
    results = await stage.result(*payments)
    if stage.undisturbed and not all(result.paid for result in results):
        stage.problems.append("a payment that was held had no room beside one that was sold")
    await stage.pay_unpaid(payer, sale, [SPARE_MSAT])
