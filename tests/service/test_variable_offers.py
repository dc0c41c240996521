"""An offer without a size is judged when it is paid, by the amount that came, however old it is (rule:19)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, TEMPORARY, Stage

SMALL_MSAT, LARGE_MSAT = 10_000_000, 2_000_000_000
COINS = (6_000_000,) * 2


def feerates_rise(stage: Stage, times: int) -> None:
    """A block costs so many times as much from now on."""
    rates = stage.lsp.feerates
    dear = {field.name: getattr(rates, field.name) for field in dataclasses.fields(rates)}
    dear = {name: rate * times if isinstance(rate, int) else rate for name, rate in dear.items()}
    stage.lsp.feerates = dataclasses.replace(rates, **dear)


async def refused(stage: Stage) -> dict[str, int]:
    """What was refused so far, by its reason."""
    return {name: count for name, count in (await stage.stats())["refusals"].items() if count}


@pytest.mark.parametrize("mode", [LSP_TRUSTS, CLIENT_TRUSTS])
async def test_the_loss_is_that_of_the_amount_that_came(mode: str) -> None:
    """people:S12, rule:19: at five times the fee rate a small payment would cost us 12,500 sat, a large one nothing."""
    options = {"lsps2-fee-floor": 100, "lsps2-offer-validity": 86_400}
    async with Stage(mode, options=options, wallet_sat=COINS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, None)
        feerates_rise(stage, 5)
        await stage.world.advance(3_600)
        assert (await payer.pay(invoice, [SMALL_MSAT])).raw_messages == [TEMPORARY]
        assert (await refused(stage))["sold_at_a_loss"] == 1
        await stage.paid(payer, invoice, [LARGE_MSAT])
        await stage.over(invoice)
        assert invoice.fee_taken_msat == LARGE_MSAT // 100
        stage.world.mine()


LIMITS: list[tuple[dict[str, Any], str, str]] = [
    ({"lsps2-capital-budget-sat": 500_000, "lsps2-withheld-budget-sat": 500_000}, LSP_TRUSTS, "capital_budget"),
    ({"lsps2-withheld-budget-sat": 500_000}, CLIENT_TRUSTS, "withheld_budget"),
    ({"lsps2-max-channel-sat": 500_000}, LSP_TRUSTS, "channel_too_large"),
]


@pytest.mark.parametrize(("options", "mode", "why"), LIMITS)
async def test_a_limit_that_came_after_the_sale_holds_for_the_amount_that_came(
    options: dict[str, Any], mode: str, why: str
) -> None:
    """rule:18, rule:19, people:L8: the operator has lowered it; temporary, counted, and the offer serves what fits."""
    async with Stage(mode, wallet_sat=COINS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, None)
        await stage.stop()
        stage.lsp.plugin_plans[0][1].update(options)
        await stage.start()
        assert (await payer.pay(invoice, [LARGE_MSAT])).raw_messages == [TEMPORARY]
        assert (await refused(stage))[why] == 1
        assert not stage.calls("fundchannel_start")
        await stage.paid(payer, invoice, [SMALL_MSAT])
        await stage.over(invoice)
        stage.world.mine()


async def test_coins_that_are_gone_since_the_sale_are_missed_for_the_amount_that_came(mode: str) -> None:
    """rule:19, people:L8: a large payment fails for now, a small one over the same offer is served."""
    async with Stage(mode, wallet_sat=(3_000_000, 300_000)) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client, None)
        large = next(row for row in stage.lsp.wallet.rows() if row["amount_msat"] == 3_000_000_000)
        coin = {"satoshi": 2_900_000, "feerate": "253perkw", "startweight": 0, "reserve": 100}
        await stage.lsp.call("utxopsbt", coin | {"utxos": [f"{large['txid']}:{large['output']}"]})
        assert (await payer.pay(invoice, [LARGE_MSAT])).raw_messages == [TEMPORARY]
        assert not stage.calls("fundchannel_start")
        await stage.paid(payer, invoice, [SMALL_MSAT])
        await stage.over(invoice)
        stage.world.mine()
        stage.leaves = ("coin",)
