"""Payments over a channel that the wallet has, on real nodes: nothing is opened, and it takes no second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.evidence import Evidence, tidy

from lsps2fast_plugin.tools.regtest import Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

SIZE_MSAT = 10_000_000
SPARE_MSAT = 50_000_000  # into 100,000 sat that the first channel has to spare
LARGE_MSAT = 300_000_000
FEE_MSAT = 1_000_000


def served(town: Town, name: str, **options: Any) -> Any:
    """A wallet that has bought a channel, which is in a block."""
    wallet = town.wallet(name, **options)
    bill = town.bill(wallet, SIZE_MSAT)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()
    until(lambda: channels(town, wallet)[0].get("short_channel_id"), "the block of its funding")
    return wallet


def channels(town: Town, wallet: Any) -> list[dict[str, Any]]:
    """What the LSP lists of this wallet."""
    rows: list[dict[str, Any]] = town.lsp.call("listpeerchannels", {"id": wallet.node_id})["channels"]
    return rows


def reused(town: Town, bill: Any) -> None:
    """Wait until the journal says so; the buy stands as sold."""
    until(lambda: town.records("finalized").get(bill.jit_scid, {}).get("outcome") == "Reused", "the record")
    until(lambda: town.records("active")[bill.jit_scid]["lsps2fast"]["stage"] == "buy", "the buy as it was")


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
def test_fifty_thousand_goes_over_the_channel_and_three_hundred_thousand_opens_one(
    found_town: Callable[..., Town], mode: str
) -> None:
    """rule:13, rule:18: no transaction and no fee; then one channel for the whole fee."""
    town = found_town(mode, service_options={"lsps2-reuse": "free"})
    wallet = served(town, "reuser")
    evidence, before = Evidence(town), town.wealth_msat(wallet)
    fees = [(row["fee_base_msat"], row["fee_proportional_millionths"]) for row in channels(town, wallet)]
    bill = town.bill(wallet, SPARE_MSAT)
    began = time.monotonic()
    assert town.pay(bill, [SPARE_MSAT // 2] * 2).paid
    print(f"paid over the channel that was there in {time.monotonic() - began:.3f} s")
    reused(town, bill)
    assert town.wealth_msat(wallet) - before == SPARE_MSAT
    assert evidence.calls("fundchannel_start") == []
    assert town.bitcoind.call("getrawmempool") == []
    until(
        lambda: [(row["fee_base_msat"], row["fee_proportional_millionths"]) for row in channels(town, wallet)] == fees,
        "the routing fees of before",
    )
    large = town.bill(wallet, LARGE_MSAT)
    assert town.pay(large, [LARGE_MSAT // 2] * 2).paid
    town.over(large)
    assert len(channels(town, wallet)) == 2
    assert len(evidence.calls("fundchannel_start")) == 1
    assert evidence.fees_msat(large.payment_hash) == LARGE_MSAT // 100
    town.mine()
    tidy(town)


def test_two_at_once_into_room_for_one(found_town: Callable[..., Town]) -> None:
    """rule:18, rule:27: one goes over the channel, the other opens one, and both are paid at once: the wallet may have
    taken the new channel for that of its other purchase, and leaves it.
    """
    town = found_town(CLIENT_TRUSTS, service_options={"lsps2-reuse": "free"})
    wallet = served(town, "racer")
    bills = [town.bill(wallet, 70_000_000) for _ in range(2)]
    sent = [town.send_parts(bill, [35_000_000] * 2) for bill in bills]
    results = [town.result(bill, one, [35_000_000] * 2) for bill, one in zip(bills, sent, strict=True)]
    assert all(result.paid for result in results), [result.failures for result in results]
    until(lambda: len(channels(town, wallet)) == 2, "the second channel")

    def outcomes() -> set[object]:
        records = town.records("finalized")
        return {records.get(bill.jit_scid, {}).get("outcome") for bill in bills}

    until(lambda: outcomes() == {"Succeeded", "Reused"}, "the ends")
    town.mine()
    tidy(town)


def test_a_wallet_that_allows_it_pays_a_part_of_the_fee_and_another_gets_a_channel(
    found_town: Callable[..., Town],
) -> None:
    """rule:27, I-20: by default a fee is paid for a channel only; the payer's second try then gets one."""
    town = found_town(CLIENT_TRUSTS, service_options={"lsps2-reuse": "fee", "lsps2-reuse-fee-percent": 20})
    willing = served(town, "willing", **{"lsps2-max-reuse-fee-percent": 25})
    bill, evidence = town.bill(willing, SPARE_MSAT), Evidence(town)
    assert town.pay(bill, [SPARE_MSAT // 2] * 2).paid
    reused(town, bill)
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT // 5
    strict = served(town, "strict")
    other = town.bill(strict, SPARE_MSAT)
    assert not town.pay(other, [SPARE_MSAT]).paid
    until(lambda: not any(each["payments"] for each in town.sessions()), "the end of the first try")
    assert town.pay(other, [SPARE_MSAT]).paid
    town.over(other)
    town.mine()
    tidy(town)
