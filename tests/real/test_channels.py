"""The channel that is sold: its type, its size, what it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from lsps2fast_plugin.regtest import Town

from .evidence import Evidence

SIZE_MSAT = 10_000_000
NAMES = itertools.count(1)


@pytest.mark.parametrize("size_msat", [2_500_000, 10_000_000, 1_000_000_000])
def test_a_zero_conf_private_channel_with_an_alias_that_carries_the_payment(town: Town, size_msat: int) -> None:
    """O-01 … O-03, O8: type, privacy, aliases; the capacity arithmetic holds in practice for thirty parts."""
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
    assert set(row["channel_type"]["bits"]) >= {12, 46, 50}
    assert row["total_msat"] == start["amount"] * 1000
    town.mine(6)
    assert town.channels(wallet, town.lsp)[0]["state"] == "CHANNELD_NORMAL"


def test_the_smallest_channel_carries_thirty_parts(found_town: Callable[..., Town]) -> None:
    """O-03: no room beyond the payment; reserve, commitment fee and spike buffer are all there is."""
    town = found_town(service_options={"lsps2-channel-headroom-sat": 0})
    bill, evidence = town.bill(town.wallet("tight"), SIZE_MSAT), Evidence(town)
    parts = [SIZE_MSAT // 30] * 29
    assert set(town.pay(bill, [*parts, SIZE_MSAT - sum(parts)]).failures) == {""}
    town.over(bill)
    assert evidence.calls("fundchannel_start")[0]["amount"] < 2 * SIZE_MSAT // 1000
