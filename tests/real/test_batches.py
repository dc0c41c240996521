"""Channels of several wallets in one funding transaction, on real nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.evidence import Evidence, tidy

from lsps2fast_plugin.tools.regtest import Town, until
from lsps2fast_plugin.tools.regtest.town import LSP_TRUSTS

SIZE_MSAT = 10_000_000
MOST_VBYTES = 60  # of the transaction, for each channel
WINDOW = {"lsps2-batch-window-ms": 4_000}


def pay_at_once(town: Town, bills: list[Any]) -> list[bool]:
    """Send all within one window; who was paid."""
    sent = [town.send_parts(bill, [SIZE_MSAT]) for bill in bills]
    return [town.result(bill, one, [SIZE_MSAT]).paid for bill, one in zip(bills, sent, strict=True)]


def sold_in(town: Town, bills: list[Any]) -> set[str]:
    """The funding transactions of these sales."""
    for bill in bills:
        town.over(bill)
    return {town.records("finalized")[bill.jit_scid]["funding_txid"] for bill in bills}


@pytest.mark.parametrize("wallets", [10])
def test_ten_wallets_have_their_channels_in_one_transaction(found_town: Callable[..., Town], wallets: int) -> None:
    """trap:60: all are paid; a channel costs no more than 60 vB, and the ledger splits the fee to the sat."""
    town = found_town(LSP_TRUSTS, service_options=WINDOW)
    bills = [town.bill(town.wallet(f"sister{number}"), SIZE_MSAT) for number in range(wallets)]
    evidence = Evidence(town)
    assert pay_at_once(town, bills) == [True] * wallets
    (txid,) = sold_in(town, bills)
    assert len(evidence.calls("sendpsbt")) == 1
    assert len(evidence.calls("fundchannel_complete")) == wallets
    vbytes = town.bitcoind.call("getrawtransaction", txid, 1)["vsize"]
    print(f"{wallets} channels in one transaction of {vbytes} vB: {vbytes / wallets:.1f} vB a channel")
    assert vbytes <= MOST_VBYTES * wallets
    fee_sat = round(town.bitcoind.call("getmempoolentry", txid)["fees"]["base"] * 10**8)
    sales = town.lsp.call("lsps2-listsales")["sales"]
    mining = [sale["mining_msat"] for sale in sales]
    assert sum(mining) == fee_sat * 1000
    assert max(mining) - min(mining) <= 1000 * wallets
    town.mine()
    tidy(town)


def test_a_wallet_that_refuses_costs_the_others_nothing(found_town: Callable[..., Town]) -> None:
    """trap:60, O-08: it takes no zero-conf channel any more; the two others share a transaction."""
    town = found_town(LSP_TRUSTS, service_options=WINDOW)
    wallets = [town.wallet(f"sister{number}") for number in range(3)]
    bills = [town.bill(wallet, SIZE_MSAT) for wallet in wallets]
    wallets[1].call("plugin", {"subcommand": "stop", "plugin": "lsps2fast-client"})
    assert pay_at_once(town, bills) == [True, False, True]
    assert len(sold_in(town, [bills[0], bills[2]])) == 1
    until(lambda: not any(each["payments"] for each in town.sessions()), "the end of all payments")
    town.mine()
