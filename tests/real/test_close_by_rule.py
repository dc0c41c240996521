"""Channels that a rule closes, on lightningd: by agreement, within the ceiling, waiting for a client that is away."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.evidence import Evidence

from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
DAYS_S = 3 * 86_400
LIFETIME = 6
NAMES = itertools.count(1)
RECORDS = ["lsps", "lsps2", "closes"]
POLICY = f"""
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
validity_s = 3_600
min_lifetime_blocks = {LIFETIME}

[floor]
factor_percent = 0

[[closing.rule]]
name = "idle"
idle_days = 2
max_client_sat = 9_000
"""


def settled(town: Town) -> Bill:
    """A sale to a new wallet that is over; then days without a payment."""
    bill = town.bill(town.wallet(f"c{next(NAMES)}"), SIZE_MSAT)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()
    town.advance(town.lsp, DAYS_S)
    return bill


def records(town: Town) -> list[str]:
    """Channels that something is decided about."""
    return [row["key"][-1] for row in town.lsp.call("listdatastore", {"key": RECORDS})["datastore"]]


def is_over(town: Town) -> bool:
    """Whether no record is left; if one is there comes a block, for what cannot be written now waits for the next."""
    if records(town):
        town.mine()
    return not records(town)


def by_rule(town: Town, bill: Bill) -> str | None:
    """The rule that closed the channel of a sale, as the books have it."""
    sales = town.lsp.call("lsps2-listsales", {"peer_id": bill.wallet.node_id})["sales"]
    return next((sale.get("closed_by_rule") for sale in sales), None)


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
def test_a_channel_is_closed_by_a_rule_and_its_coin_comes_back(
    found_town: Callable[..., Town], mode: str, tmp_path: Path
) -> None:
    """operator:O2: the dry run names the rule, `setconfig` lets it act, both sides have their own money on chain."""
    file = tmp_path / "policy.toml"
    file.write_text(f'{POLICY}\n[trust]\ndefault = "{mode}"\n')
    town = found_town(mode, service_options={"lsps2-policy-file": str(file)})
    bill, evidence = settled(town), Evidence(town)
    (channel,) = town.channels(town.lsp, bill.wallet)
    town.mine(LIFETIME - 2)
    kept = town.lsp.call("lsps2-closable", {"kept": True})["kept"]
    assert [each["why"] for each in kept] == ["it was sold to stay open for 6 confirmations and has 5"]
    town.mine()
    (free,) = town.lsp.call("lsps2-closable")["channels"]
    assert (free["channel_id"], free["rule"], free["why_not"]) == (channel["channel_id"], "idle", [])
    assert evidence.calls("close") == []
    town.lsp.call("setconfig", {"config": "lsps2-close-by-rule", "val": "on", "transient": True})
    town.mine()
    until(lambda: records(town) == [channel["channel_id"]], "the decision", say=town.lsp.log_text)
    until(lambda: town.channels(town.lsp, bill.wallet)[0]["state"] == "CLOSINGD_COMPLETE", "the close")
    (asked,) = evidence.calls("close")
    assert asked["unilateraltimeout"] == 0
    for _ in range(3):
        town.mine()
        until(lambda: town.lsp.call("getinfo")["blockheight"] == town.bitcoind.call("getblockcount"), "the block")
    until(lambda: is_over(town), "the end of the record", say=town.lsp.log_text)
    assert by_rule(town, bill) == "idle"
    (sale,) = town.lsp.call("lsps2-listsales", {"peer_id": bill.wallet.node_id})["sales"]
    outputs = town.lsp.call("listfunds")["outputs"]
    back = [row for row in outputs if row["amount_msat"] == channel["to_us_msat"] - sale["close_mining_msat"]]
    assert len(back) == 1
    theirs = bill.wallet.call("listfunds")["outputs"]
    assert sum(row["amount_msat"] for row in theirs) == SIZE_MSAT - FEE_MSAT
    assert 0 < sale["close_mining_msat"] <= 1_250 * 800
    assert len(evidence.calls("close")) == 1


def test_a_client_that_is_away_is_waited_for_and_never_closed_by_force(
    found_town: Callable[..., Town], tmp_path: Path
) -> None:
    """rule:10: nothing is asked while it is away; when it comes the next block closes the channel by agreement."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    options = {"lsps2-policy-file": str(file), "lsps2-close-by-rule": "on"}
    town = found_town(LSP_TRUSTS, service_options=options)
    bill, evidence = settled(town), Evidence(town)
    bill.wallet.stop()
    until(lambda: not town.channels(town.lsp, bill.wallet)[0]["peer_connected"], "the client to be gone")
    town.mine(LIFETIME)
    (free,) = town.lsp.call("lsps2-closable")["channels"]
    assert free["rule"] is None
    assert "nothing is closed by force" in free["why_not"][0]
    assert evidence.calls("close") == []
    bill.wallet.start()
    town.rejoin(bill.wallet)
    town.mine()
    until(lambda: town.channels(town.lsp, bill.wallet)[0]["state"] == "CLOSINGD_COMPLETE", "the close")
    town.mine(2)
    until(lambda: is_over(town), "the end of the record", say=town.lsp.log_text)
    assert by_rule(town, bill) == "idle"
