"""The channel that is sold: its type, its size, what it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from harness.evidence import Evidence

from lsps2fast_plugin.tools.regtest import Town

SIZE_MSAT = 10_000_000
BIG_MSAT = 300_000_000
NAMES = itertools.count(1)


@pytest.mark.parametrize("size_msat", [2_500_000, 10_000_000, 1_000_000_000])
def test_a_zero_conf_private_channel_with_an_alias_that_carries_the_payment(town: Town, size_msat: int) -> None:
    """O-01 … O-03, cln:O8: type, privacy, aliases; the capacity arithmetic holds in practice for thirty parts."""
    wallet = town.wallet(f"c{next(NAMES)}")
    bill, evidence = town.bill(wallet, size_msat), Evidence(town)
    parts = [size_msat // 30] * 29
    assert set(town.pay(bill, [*parts, size_msat - sum(parts)]).failures) == {""}
    town.over(bill)
    row = town.channels(wallet, town.lsp)[0]
    assert row["private"]
    assert "local" in row["alias"]
    start = evidence.calls("fundchannel_start")[0]
    assert (start["announce"], start["mindepth"]) == (False, 0)
    assert row["total_msat"] == start["amount"] * 1000
    town.mine(6)
    assert town.channels(wallet, town.lsp)[0]["state"] == "CHANNELD_NORMAL"


@pytest.mark.parametrize(
    ("lacks", "bits"),
    [
        (None, [12, 22, 46, 50]),
        ("-23", [12, 46, 50]),
        ("-51", [12, 22, 46]),
    ],
    ids=["stock", "no anchors", "no zeroconf"],
)
def test_the_best_type_both_nodes_have(each_town: Town, lacks: str | None, bits: list[int]) -> None:
    """O-02: anchors where the wallet's node has them, static_remotekey where not; zero-conf also without its bit."""
    wallet = each_town.wallet(f"c{next(NAMES)}", {"dev-force-features": lacks})
    bill, evidence = each_town.bill(wallet, SIZE_MSAT), Evidence(each_town)
    assert each_town.pay(bill, [SIZE_MSAT // 5] * 5).paid
    each_town.over(bill)
    each_town.mine()
    assert evidence.calls("fundchannel_start")[0]["channel_type"] == bits
    for one, other in ((wallet, each_town.lsp), (each_town.lsp, wallet)):
        assert each_town.channels(one, other)[0]["channel_type"]["bits"] == bits


@pytest.fixture(scope="module")
def tight_town(open_town: Callable[..., Town]) -> Town:
    """No room beyond the payment, and fee rates that rise right after a channel was opened."""
    steep = {"force-feerates": "300/300/6000/300/300/300"}  # opening, mutual_close, unilateral_close, ...
    return open_town(lsp_options=steep, service_options={"lsps2-channel-headroom-sat": 0})


@pytest.mark.parametrize("lacks", [None, "-23"], ids=["anchors", "no anchors"])
def test_the_smallest_channel_carries_thirty_parts(tight_town: Town, lacks: str | None) -> None:
    """O-03, cln:O11: reserve, commitment fee and spike buffer are all there is, and no part is dust."""
    town = tight_town
    wallet = town.wallet(f"c{next(NAMES)}", {"dev-force-features": lacks, "ignore-fee-limits": "true"})
    bill, evidence = town.bill(wallet, BIG_MSAT), Evidence(town)
    assert set(town.pay(bill, [BIG_MSAT // 30] * 30).failures) == {""}
    town.over(bill)
    town.mine()
    assert evidence.calls("fundchannel_start")[0]["amount"] * 1000 < BIG_MSAT * 1.3
