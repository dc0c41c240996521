"""A client that leaves, errs or falls silent at a message of an open, on real nodes, in both trust modes."""

from __future__ import annotations

import itertools

import pytest
from harness.evidence import tidy
from harness.town import owned

from lsps2fast_plugin.tools.regtest import Town, until

SIZE_MSAT = 10_000_000
NAMES = itertools.count(1)
POINTS = {  # lightningd's words for `dev-disconnect`: before a message, after it, and silence from it on
    "leaves before it accepts": "-WIRE_ACCEPT_CHANNEL",
    "leaves once it has accepted": "+WIRE_ACCEPT_CHANNEL",
    "leaves before it signs": "-WIRE_FUNDING_SIGNED",
    "leaves once it has signed": "+WIRE_FUNDING_SIGNED",
    "leaves before it is ready": "-WIRE_CHANNEL_READY",
    "is silent from its acceptance on": "0WIRE_ACCEPT_CHANNEL",
}


@pytest.mark.parametrize("point", POINTS)
def test_misbehaving_at_a_message_of_a_real_open(each_town: Town, point: str) -> None:
    """people:S0, people:S13, O-07, O-20, rule:9, rule:23: no coin is lost or locked, and the next try is paid."""
    town = each_town
    name = f"m{next(NAMES)}"
    words = town.directory / f"{name}.disconnect"
    words.write_text(POINTS[point] + "\n")
    wallet = town.wallet(name, {"dev-disconnect": str(words)})
    bill = town.bill(wallet, SIZE_MSAT)
    before_msat = town.wealth_msat(town.lsp)
    sent = town.send_parts(bill, [SIZE_MSAT])
    until(lambda: not town.connected(town.lsp, wallet) or town.stats()["held_parts"] == 0, "the deed is done")
    owned(town, bill)
    town.connect(wallet, town.lsp)
    paid = town.result(bill, sent, [SIZE_MSAT])
    if not paid.paid:
        assert set(paid.failures) <= {"10070000", "400a"}
        until(lambda: not any(coin["reserved"] for coin in town.lsp.call("listfunds")["outputs"]), "coins are free")
        town.connect(wallet, town.lsp)
        assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    owned(town, bill)
    town.mine()
    assert before_msat - town.wealth_msat(town.lsp) < 20_000_000, "more than mining fees"
    wallet.stop()
    tidy(town)
