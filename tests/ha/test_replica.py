"""The machine of the database dies with that of the LSP; its replica, which was in step, has every commit."""

from __future__ import annotations

import itertools
import shutil

import pytest
from harness.evidence import tidy
from harness.takeover import FEE_MSAT, HALVES, MOMENTS, SIZE_MSAT, reconnected

from lsps2fast_plugin.tools.regtest import until
from lsps2fast_plugin.tools.regtest.machines import Machines, open_to_all

NUMBERS = itertools.count(1)


@pytest.mark.parametrize("moment", ["a part arrives", "channel made", "parts let go", "before the broadcast"])
def test_a_promoted_replica_has_the_whole_sale(machines: Machines, moment: str) -> None:
    """cln:N6, rule:11: a commit is answered once the replica has it, so what was acted upon is never lost."""
    town, name = machines, f"replica{next(NUMBERS)}"
    replica = town.database.replica(name, open_to_all(town.directory / name))
    town.children.insert(0, replica)
    town.database.wait_for(name)
    other = town.machine(replica.url)
    wallet = town.wallet(f"r{name[-1]}")
    bill = town.bill(wallet, SIZE_MSAT)
    town.trip(town.lsp, *MOMENTS[moment], "node")
    sent = town.send_parts(bill, HALVES)
    until(lambda: not town.trip_file(town.lsp).exists(), "the kill")
    town.lose_machine()
    lost, town.database = town.database, replica
    lost.crash()
    town.children.remove(lost)
    shutil.rmtree(lost.directory)
    replica.promote()
    town.take_over(other)
    reconnected(town, bill)
    result = town.result(bill, sent, HALVES)
    if not result.paid:
        assert "" not in result.failures, "paid in part"
        tidy(town)
        reconnected(town, bill)
        until(lambda: not town.channels(wallet, town.lsp), "the wallet's clean-up")
        assert town.pay(bill, HALVES).failures == ["", ""]
    town.over(bill)
    town.mine()
    assert town.wealth_msat(wallet) == SIZE_MSAT - FEE_MSAT
