"""The machine of the LSP dies at a bad moment, and another one on the same database takes its place.

The recorder kills lightningd at a frame, so every moment is exact; the rest of the machine dies with it. Afterwards the
books are those of a restart (`tests/real/test_kills.py`): paid once or not at all, one channel, nothing left over.
"""

from __future__ import annotations

import itertools

import pytest
from harness.evidence import tidy
from harness.takeover import FEE_MSAT, HALVES, MOMENTS, SIZE_MSAT, reconnected

from lsps2fast_plugin.tools.regtest import until
from lsps2fast_plugin.tools.regtest.machines import Machines

MOST_OURS_S = 10.0  # until the service sells, once lightningd is up
NAMES = itertools.count(1)


@pytest.mark.parametrize("moment", MOMENTS)
def test_another_machine_ends_the_sale(machines: Machines, moment: str) -> None:
    """cln:N6, rule:2, rule:8, rule:9: nothing double, nothing lost, and it serves within ten seconds."""
    town, other = machines, machines.machine()
    wallet = town.wallet(f"h{next(NAMES)}")
    bill = town.bill(wallet, SIZE_MSAT)
    before = town.wealth_msat(town.payer)
    town.trip(town.lsp, *MOMENTS[moment], "node")
    sent = town.send_parts(bill, HALVES)
    until(lambda: not town.trip_file(town.lsp).exists(), "the kill")
    town.lose_machine()
    assert town.take_over(other).ours_s < MOST_OURS_S
    reconnected(town, bill)
    result = town.result(bill, sent, HALVES)
    if not result.paid:
        assert "" not in result.failures, "paid in part"
        tidy(town)
        reconnected(town, bill)
        until(lambda: not town.channels(wallet, town.lsp), "the wallet's clean-up")  # else it refuses another
        assert town.pay(bill, HALVES).failures == ["", ""]
    town.over(bill)
    town.mine()
    assert town.wealth_msat(town.payer) - before == -SIZE_MSAT
    assert town.wealth_msat(wallet) == SIZE_MSAT - FEE_MSAT
    rows = town.channels(town.lsp, wallet)
    assert [row["state"] for row in rows if row["state"] != "CLOSED"] == ["CHANNELD_NORMAL"]
    until(lambda: town.channels(town.lsp, wallet)[0].get("short_channel_id"), "confirmation of the channel")


def test_half_a_payment_waits_for_the_other_machine(machines: Machines) -> None:
    """cln:N6: the held part comes back to the machine that took over, and the payer's second one completes it."""
    town, other = machines, machines.machine()
    bill = town.bill(town.wallet(f"h{next(NAMES)}"), SIZE_MSAT)
    first = town.send_parts(bill, HALVES[:1], total_msat=SIZE_MSAT)
    town.held(1)
    town.lose_machine()
    town.take_over(other)
    reconnected(town, bill)
    second = town.send_parts(bill, HALVES[1:], total_msat=SIZE_MSAT, first_part=2, group=first[0])
    assert town.result(bill, first, HALVES[:1]).paid
    assert town.result(bill, second, HALVES[1:]).paid
    town.over(bill)
    town.mine()


def test_the_ledger_of_the_other_machine_has_the_sale(machines: Machines) -> None:
    """operator:O1: the ledger lies on the disk that is gone; records and tables tell the other what was sold."""
    town, other = machines, machines.machine()
    wallet = town.wallet(f"h{next(NAMES)}")
    bill = town.bill(wallet, SIZE_MSAT)
    assert town.pay(bill, HALVES).paid
    town.over(bill)
    town.mine()
    town.lose_machine()
    town.take_over(other)

    def sold() -> list[int]:
        rows = town.lsp.call("lsps2-listsales", {"peer_id": wallet.node_id})["sales"]
        return [row["fee_taken_msat"] for row in rows if row["outcome"] == "Succeeded"]

    until(lambda: sold() == [FEE_MSAT], "the sale in the ledger", say=lambda: f"{sold()}")
    reconnected(town, bill)
