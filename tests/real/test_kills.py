"""The plugin or its lightningd dies at a bad moment and comes back: one channel, books balanced, nothing left over.

The recorder kills at a frame, so every moment is exact. What must hold afterwards (rule:2, rule:8, rule:9): the
payer has paid once or not at all, the wallet owns in a channel whose funding is on chain what the payer lost less the
opening fee, and no coin or channel of the LSP stays behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from harness.evidence import tidy
from harness.town import retire, revive

from lsps2fast_plugin.tools.regtest import Bill, Town, until

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
NAMES = itertools.count(1)

MOMENTS = {  # direction, method, before or after it passes the recorder
    "a part arrives": ("host>plugin", "htlc_accepted", "after"),
    "coins chosen": ("host>rpc", "utxopsbt", "after"),
    "coins reserved": ("host>rpc", "reserveinputs", "after"),
    "channel made": ("host>rpc", "fundchannel_complete", "before"),
    "parts let go": ("plugin>host", "htlc_accepted", "after"),
    "before the broadcast": ("rpc>host", "sendpsbt", "before"),
}


@pytest.fixture(scope="module")
def mortal_town(open_town: Callable[..., Town]) -> Town:
    """A town of its own."""
    return open_town()


@pytest.fixture
def own_town(mortal_town: Town) -> Iterator[Town]:
    """It again, without the wallet of the test before."""
    before = list(mortal_town.children)
    yield mortal_town
    retire(mortal_town, before)


def reconnected(town: Town, bill: Bill) -> None:
    """Payer and wallet are connected to the LSP again."""
    for node in (town.payer, bill.wallet):
        town.rejoin(node)


@pytest.mark.parametrize("victim", ["plugin", "node"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_whoever_dies_the_books_balance(own_town: Town, moment: str, victim: str) -> None:
    """trap:6, trap:13, K-07 … K-12: killed at an exact frame, started again, paid once, nothing left behind."""
    town = own_town
    wallet = town.wallet(f"k{next(NAMES)}")
    bill = town.bill(wallet, SIZE_MSAT)
    before = town.wealth_msat(town.payer)
    town.trip(town.lsp, *MOMENTS[moment], victim)
    amounts = [SIZE_MSAT // 2] * 2
    sent = town.send_parts(bill, amounts)
    revive(town, victim)
    reconnected(town, bill)
    result = town.result(bill, sent, amounts)
    if not result.paid:
        assert "" not in result.failures, "paid in part"
        tidy_then_pay(town, bill)
    town.over(bill)
    town.mine()
    assert town.wealth_msat(town.payer) - before == -SIZE_MSAT
    assert town.wealth_msat(wallet) == SIZE_MSAT - FEE_MSAT
    rows = town.channels(town.lsp, wallet)
    assert [row["state"] for row in rows if row["state"] != "CLOSED"] == ["CHANNELD_NORMAL"]
    until(lambda: town.channels(town.lsp, wallet)[0].get("short_channel_id"), "confirmation of the channel")


def tidy_then_pay(town: Town, bill: Bill) -> None:
    """The first attempt failed as a whole: nothing stays of it, and the payer tries again."""
    tidy(town)
    reconnected(town, bill)
    until(lambda: not town.channels(bill.wallet, town.lsp), "the wallet's clean-up")  # else it refuses another
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == ["", ""]
