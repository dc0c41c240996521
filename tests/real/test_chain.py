"""What the chain does to a sale on real nodes: blocks that are replaced, a payer's channel that goes to the chain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from harness.evidence import Evidence
from harness.town import forget, mine_nothing
from harness.wallets import Hold, arrived

from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
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
    """Whether there is one channel, in use, confirmed, and open to HTLCs: lightningd begins it anew after a reorg."""
    in_use = ("peer_connected", "reestablished")
    return [(row["state"], "short_channel_id" in row, *map(row.get, in_use)) for row in rows] == [(NORMAL, *[True] * 3)]


def go_to_chain(town: Town, scid: str) -> None:
    """The payer closes a channel alone, with what is in it, and a block has its commitment."""
    before = set(town.bitcoind.call("getrawmempool"))
    town.payer.call("close", {"id": scid, "unilateraltimeout": 1})
    until(lambda: set(town.bitcoind.call("getrawmempool")) - before, "the payer's commitment")
    town.mine()


def states(town: Town) -> dict[str, str]:
    """States of the LSP's channels with the payer, by scid."""
    return {row["short_channel_id"]: row["state"] for row in town.channels(town.lsp, town.payer)}


def on_chain(town: Town, scid: str) -> None:
    """Wait until the LSP knows that this channel has left."""
    until(lambda: states(town).get(scid) in ("FUNDING_SPEND_SEEN", "ONCHAIN"), f"{scid} on chain")


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
def test_a_payers_channel_that_dies_while_its_part_is_held(found_town: Callable[..., Town], mode: str) -> None:
    """rule:19, rule:1: the part is dropped, nothing is opened for the rest; the next payment over this scid is paid."""
    town = found_town(mode)
    bill, evidence = fresh(town), Evidence(town)
    dying, living = town.scids(town.payer, town.lsp)
    before = town.wealth_msat(town.lsp)
    group, _ = town.send_parts(bill, [HALF_MSAT], total_msat=SIZE_MSAT)  # over the first
    town.held(1)
    go_to_chain(town, dying)
    on_chain(town, dying)
    town.held(0)
    assert town.stats()["refused_parts"]["its channel leaves"] == 1
    assert [answer["result"] for answer in evidence.answers(bill.payment_hash)] == ["fail"]
    town.rejoin(town.payer)
    amounts = [HALF_MSAT]
    sent = town.send_parts(bill, amounts, total_msat=SIZE_MSAT, first_part=2, group=group)
    town.held(1)
    assert evidence.calls("fundchannel_start") == []
    town.advance(town.lsp, 90)
    assert town.result(bill, sent, amounts).failures == ["10070000"]
    (row,) = [row for row in town.channels(town.payer, town.lsp) if row["state"] == NORMAL]
    assert row["short_channel_id"] == living
    assert town.pay(bill, [SIZE_MSAT], first_part=3, group=group).paid
    town.over(bill)
    town.mine()
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT
    assert evidence.unanswered() == []
    assert town.wealth_msat(bill.wallet) == SIZE_MSAT - FEE_MSAT
    assert town.wealth_msat(town.lsp) - before > -20_000_000, "more than mining fees"


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
def test_a_payers_channel_that_dies_while_its_part_is_at_the_wallet(found_town: Callable[..., Town], mode: str) -> None:
    """rule:5, rule:19: what is out stays out; the preimage claims the payer's HTLC on chain, and the sale is paid."""
    town = found_town(mode, payer_channels=1)
    bill, evidence = fresh(town), Evidence(town)
    hold = Hold(bill.wallet)
    (scid,) = town.scids(town.payer, town.lsp)
    town.send_parts(bill, [SIZE_MSAT], spare_blocks=30)
    arrived(town, bill)
    go_to_chain(town, scid)
    on_chain(town, scid)
    assert town.stats()["refused_parts"].get("its channel leaves", 0) == 0
    hold.release()
    town.over(bill)
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT

    town.lsp.wait_log("we spent THEIR_HTLC .* using THEIR_HTLC_FULFILL_TO_US")
    assert town.wealth_msat(bill.wallet) == SIZE_MSAT - FEE_MSAT
