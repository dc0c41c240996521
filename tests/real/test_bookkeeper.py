"""lightningd's own bookkeeper beside our sales ledger: the same money, to the msat, and the rows say whose they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

FEE_MSAT = 1_000_000


def income(town: Town) -> list[dict[str, Any]]:
    """What bookkeeper says was earned and spent."""
    rows: list[dict[str, Any]] = town.lsp.call("bkpr-listincome", {"consolidate_fees": True})["income_events"]
    return rows


def fees_msat(town: Town, bill: Bill) -> int:
    """Rows of one payment that are ours by their note."""
    ours = [row for row in income(town) if row.get("payment_id") == bill.payment_hash]
    for row in ours:
        assert row["description"].startswith("LSPS2 opening fee ")
        assert f"jit scid {bill.jit_scid}, client {bill.wallet.node_id}" in row["description"]
    return sum(row["credit_msat"] for row in ours)


def noted(town: Town, bill: Bill) -> bool:
    """Whether bookkeeper's rows of this payment have their note."""
    rows = [row for row in income(town) if row.get("payment_id") == bill.payment_hash]
    return bool(rows) and all("description" in row for row in rows)


def mined_msat(town: Town, channel_ids: set[str]) -> Counter[str]:
    """Mining fees of these channels, as bookkeeper has them."""
    found: Counter[str] = Counter()
    for row in income(town):
        if row["tag"] == "onchain_fee" and row["account"] in channel_ids:
            found[row["account"]] += row["debit_msat"] - row["credit_msat"]
    return found


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
def test_the_report_is_bookkeepers_to_the_msat(found_town: Callable[..., Town], mode: str) -> None:
    """operator:O11, operator:O2: over sales in parts, of any amount, a failed one, a later payment, and two closes."""
    town = found_town(mode, service_options={"lsps2-min-lifetime": 0, "lsps2-bookkeeper-notes": True})
    won, wallets = [], []
    for number, (amount, parts) in enumerate(
        [(10_000_000, [10_000_000]), (20_000_000, [7_000_001, 12_999_999]), (None, [30_000_007])]
    ):
        wallet = town.wallet(f"w{number}")
        bill = town.bill(wallet, amount)
        assert town.pay(bill, parts).paid
        town.over(bill)
        won.append(bill)
        wallets.append(wallet)
    lost = town.bill(town.wallet("loser"), 10_000_000)
    lost.wallet.call("delinvoice", {"label": lost.label, "status": "unpaid"})
    assert not town.pay(lost, [10_000_000]).paid
    town.mine(6)
    later = town.further_bill(won[0], 1_000_000)
    assert town.pay(later, [1_000_000]).paid  # over the channel it has: no opening fee
    for bill in won:
        until(lambda bill=bill: noted(town, bill), "bookkeeper's note")  # type: ignore[misc]
    sales = {row["payment_hash"]: row for row in town.lsp.call("lsps2-listsales")["sales"]}
    for bill in won:
        assert fees_msat(town, bill) == sales[bill.payment_hash]["fee_taken_msat"] >= FEE_MSAT
    others = [row for row in income(town) if row.get("payment_id") in (lost.payment_hash, later.payment_hash)]
    assert [(row["credit_msat"], "description" in row) for row in others] == [(0, False)]  # routed without a fee
    for wallet in wallets[:2]:
        wallet.call("close", {"id": town.lsp.node_id})
    town.mine(6)
    channel_ids = {sales[bill.payment_hash]["channel_id"] for bill in won}
    total: dict[str, Any] = {}

    def agrees() -> bool:
        total.update(town.lsp.call("lsps2-report")["total"])
        return bool(total["mining_msat"] == mined_msat(town, channel_ids).total())

    until(agrees, "mining fees of fundings and closes", say=lambda: f"{total}, {mined_msat(town, channel_ids)}")
    closed = [row for row in town.lsp.call("lsps2-listsales")["sales"] if "close_mining_msat" in row]
    assert len(closed) == 2
    assert total["earned_msat"] == sum(fees_msat(town, bill) for bill in won)
    assert (total["sales"], total["failed"]) == (3, 1)
    assert total["net_msat"] == total["earned_msat"] - mined_msat(town, channel_ids).total()
    notes = [row.get("description", "") for row in town.lsp.call("bkpr-listaccountevents")["events"]]
    for bill in won:
        assert f"LSPS2 JIT channel, client {bill.wallet.node_id}" in notes
