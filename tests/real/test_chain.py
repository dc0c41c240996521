"""What the chain does to a sale on real nodes: blocks that are replaced."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from harness.evidence import Evidence
from harness.town import forget, mine_nothing

from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

SIZE_MSAT = 10_000_000
HALF_MSAT = SIZE_MSAT // 2
NORMAL = "CHANNELD_NORMAL"
NAMES = itertools.count(1)


def fresh(town: Town) -> Bill:
    """A bill of a wallet that bought nothing before."""
    return town.bill(town.wallet(f"x{next(NAMES)}"), SIZE_MSAT)


def confirmations(town: Town, channel: dict[str, Any]) -> int | None:
    """Of a funding; None when neither chain nor mempool of bitcoind has it."""
    output = town.bitcoind.call("gettxout", channel["funding_txid"], channel["funding_outnum"])
    return None if output is None else int(output["confirmations"])


@pytest.mark.parametrize(
    ("mode", "buried", "away"),
    [(CLIENT_TRUSTS, 1, ""), (LSP_TRUSTS, 4, ""), (CLIENT_TRUSTS, 4, "plugin"), (LSP_TRUSTS, 1, "plugin")],
)
def test_a_funding_that_a_reorg_takes_out_is_sent_again(
    found_town: Callable[..., Town], mode: str, buried: int, away: str
) -> None:
    """rule:8, rule:23: within six blocks; bitcoind forgot it with its mempool, and lightningd names its block still.

    `away`: the plugin is stopped meanwhile, and finds at its start that the funding is gone.
    """
    town = found_town(mode)
    bill, evidence = fresh(town), Evidence(town)
    assert town.pay(bill, [HALF_MSAT] * 2).paid
    town.over(bill)
    (channel,) = town.channels(town.lsp, bill.wallet)
    town.mine(buried)
    assert confirmations(town, channel) == buried
    launcher, options = town.lsp.plugins[0]
    if away:
        town.lsp.call("plugin", {"subcommand": "stop", "plugin": launcher})
    sent = len(evidence.calls("sendpsbt"))
    forget(town, buried)
    assert confirmations(town, channel) is None
    for _ in range(buried + 1):
        mine_nothing(town)
    for node in (town.lsp, town.payer, bill.wallet):
        node.synced()
    if away:
        town.lsp.call("plugin", {"subcommand": "start", "plugin": launcher, **options})
    for _ in range(6):
        if confirmations(town, channel) is None:
            mine_nothing(town)
            town.lsp.synced()
    until(lambda: confirmations(town, channel) is not None, "the funding again", say=town.lsp.log_text)
    assert len(evidence.calls("sendpsbt")) == sent + 1
    town.mine(6)
    assert confirmations(town, channel) == 6
    for one, other in ((town.lsp, bill.wallet), (bill.wallet, town.lsp)):
        until(lambda one=one, other=other: alive(town.channels(one, other)), f"the channel at {one.name}")  # type: ignore[misc]
    later = town.further_bill(bill, 1_000_000)
    assert town.pay(later, [1_000_000]).paid


def alive(rows: list[dict[str, Any]]) -> bool:
    """Whether there is one channel, in use and confirmed."""
    return [(row["state"], "short_channel_id" in row) for row in rows] == [(NORMAL, True)]
