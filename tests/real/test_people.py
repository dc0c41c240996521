"""What people do to an LSP on real nodes: clients that err at the wrong moment, opens of other tools, lying onions."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
from harness.benches import REFUSER
from harness.evidence import Evidence, tidy
from harness.town import owned, revive
from harness.wallets import Hold, arrived, script

from lsps2fast.errors import NodeError
from lsps2fast_plugin.simnode import tlv
from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import LSP_TRUSTS

SIZE_MSAT = 10_000_000
NORMAL = "CHANNELD_NORMAL"
NAMES = itertools.count(1)
EVADER = f"""#!{sys.executable}
import threading
from pyln.client import Plugin
plugin = Plugin()
@plugin.subscribe("channel_opened")
def opened(channel_opened, plugin, **kwargs):
    threading.Timer(DELAY, lambda: plugin.rpc.call("dev-fail", {{"id": channel_opened["id"]}})).start()
plugin.run()
"""


def fresh(town: Town) -> Bill:
    """A bill of a wallet that has bought nothing before."""
    return town.bill(town.wallet(f"p{next(NAMES)}"), SIZE_MSAT)


@pytest.mark.parametrize("delay_s", [0, 0.008, 0.013, 0.05])
def test_a_client_that_errs_after_it_signed_costs_no_coin(found_town: Callable[..., Town], delay_s: float) -> None:
    """people:S0: it signs the funding, then sends `error`, before, at and after our broadcast; the payer may retry.

    In a town of its own: the unpaid channel that it may leave would be in the sums of other tests.
    """
    town = found_town(LSP_TRUSTS)
    bill = fresh(town)
    path = script(bill.wallet, "evader", EVADER.replace("DELAY", str(delay_s)))
    bill.wallet.call("plugin", {"subcommand": "start", "plugin": path})
    before = town.wealth_msat(town.lsp)
    sent = town.send_parts(bill, [SIZE_MSAT])
    assert not town.result(bill, sent, [SIZE_MSAT], timeout_s=60).paid  # in a channel that dies it has no end yet
    owned(town, bill)
    until(lambda: not town.stats()["held_parts"], "no held part")
    town.mine()
    owned(town, bill)
    lost_msat = before - town.wealth_msat(town.lsp)
    closing = [row for row in town.lsp.call("listpeerchannels")["channels"] if row["state"] != NORMAL]
    in_closing = sum(row["to_us_msat"] + sum(htlc["amount_msat"] for htlc in row["htlcs"]) for row in closing)
    assert lost_msat - in_closing < 20_000_000, "more than mining fees"


def give_up(town: Town, bill: Bill) -> None:
    """The wallet sends `error` for its channel: its node says it whenever a link is made, and the link ends at once."""
    bill.wallet.call("dev-fail", {"id": town.lsp.node_id})
    where = {"id": town.lsp.node_id, "host": "127.0.0.1", "port": town.lsp.port}

    def gone() -> bool:
        with contextlib.suppress(NodeError):
            bill.wallet.call("disconnect", {"id": town.lsp.node_id, "force": True})
        with contextlib.suppress(NodeError):
            bill.wallet.call("connect", where)
        return not any(row["state"] == NORMAL for row in town.channels(town.lsp, bill.wallet))

    until(gone, "the channel gone")


@pytest.mark.parametrize("kill", ["", "plugin", "node"])
def test_a_client_that_errs_between_the_look_and_sendpsbt_gets_no_coin(
    found_town: Callable[..., Town], kill: str
) -> None:
    """people:S0, rule:23, cln:O1, cln:N2: `sendpsbt` sends what its channel no longer owns; the coins are taken back.

    The call waits in the recorder until lightningd has deleted the channel. `kill`: who dies right after it; the start
    finds the funding.
    """
    town = found_town(LSP_TRUSTS)
    bill, evidence = fresh(town), Evidence(town)
    before_msat = town.wealth_msat(town.lsp)
    held = town.hold(town.lsp, "rpc>host", "sendpsbt")
    sent = town.send_parts(bill, [SIZE_MSAT])
    until(held.exists, "the call that is held")
    (channel,) = town.channels(town.lsp, bill.wallet)
    give_up(town, bill)
    if kill:
        town.trip(town.lsp, "host>rpc", "sendpsbt", "before", kill)
    held.unlink()
    if kill:
        revive(town, kill)
        town.rejoin(town.payer)
    until(lambda: any("takes its coins back" in line for line in said(town)), "the alarm", say=town.lsp.log_text)
    assert not town.result(bill, sent, [SIZE_MSAT]).paid
    assert len(evidence.calls("sendpsbt")) == 2, "the funding, and what takes its place"
    pool = town.bitcoind.call("getrawmempool")
    assert (len(pool), channel["funding_txid"] in pool) == (1, False)
    town.mine()
    assert before_msat - town.wealth_msat(town.lsp) < 20_000_000, "more than mining fees"
    assert town.stats()["alarms_by_kind"]["stray-funding"] == 1
    other = fresh(town)
    assert town.pay(other, [SIZE_MSAT]).paid
    town.over(other)
    town.mine()
    tidy(town)


def said(town: Town) -> list[str]:
    """Lines of the LSP's log that are alarms of the service."""
    return [line for line in town.lsp.log_text().splitlines() if "lsps2fast-service" in line]


def test_a_refused_open_leaves_the_channel_of_another_tool_alone(town: Town) -> None:
    """people:S8, rule:26, cln:N1: `fundchannel_cancel` would take that one; our coins come back all the same."""
    bill, evidence = fresh(town), Evidence(town)
    coin = {"satoshi": 200_000, "feerate": "normal", "startweight": 1000, "excess_as_change": True}
    psbt = town.lsp.call("fundpsbt", coin)["psbt"]
    start = town.lsp.call("fundchannel_start", {"id": bill.wallet.node_id, "amount": 200_000, "announce": False})
    output = {"satoshi": 200_000, "initialpsbt": psbt, "destination": start["funding_address"]}
    ready = town.lsp.call("addpsbtoutput", output)["psbt"]
    theirs = town.lsp.call("fundchannel_complete", {"id": bill.wallet.node_id, "psbt": ready})["channel_id"]
    path = script(bill.wallet, "refuser", REFUSER)
    bill.wallet.call("plugin", {"subcommand": "start", "plugin": path})
    assert town.pay(bill, [SIZE_MSAT]).failures == ["400a"]
    rows = town.channels(town.lsp, bill.wallet)
    assert [(row["channel_id"], row["state"]) for row in rows] == [(theirs, "CHANNELD_AWAITING_LOCKIN")]
    assert evidence.calls("fundchannel_cancel") == []
    town.lsp.call("fundchannel_cancel", {"id": bill.wallet.node_id})
    town.lsp.call("unreserveinputs", {"psbt": psbt})
    tidy(town)


def send_lie(
    town: Town, bill: Bill, delivered_msat: int, said_msat: int, part: int, group: int = 77, total_msat: int = SIZE_MSAT
) -> None:
    """Send an HTLC whose onion tells the LSP to forward more than it brings."""
    final = bill.final_blocks + 2 + town.bitcoind.height
    payload = tlv.prefixed(tlv.hop_payload(said_msat, final, bill.jit_scid)).hex()
    hops = [{"pubkey": node.node_id, "payload": payload} for node in (town.lsp, bill.wallet)]
    onion = town.payer.call("createonion", {"hops": hops, "assocdata": bill.payment_hash})
    first = {"id": town.lsp.node_id, "amount_msat": delivered_msat, "delay": bill.final_blocks + 2 + bill.delta_blocks}
    town.payer.call(
        "sendonion",
        {
            "onion": onion["onion"],
            "first_hop": first,
            "payment_hash": bill.payment_hash,
            "shared_secrets": onion["shared_secrets"],
            "partid": part,
            "groupid": group,
            "total_amount_msat": total_msat,
        },
    )


def failure(town: Town, bill: Bill, part: int, group: int = 77) -> Any:
    """How that part ended."""
    return town.result(bill, (group, range(part, part + 1)), [SIZE_MSAT]).failures[0]


@pytest.mark.parametrize("delivered_msat", [1, 1_000_000, SIZE_MSAT - 1])
def test_an_onion_that_says_more_than_it_brings_opens_nothing(town: Town, delivered_msat: int) -> None:
    """trap:51: refused as too little fee (100c) before any channel exists; the honest payment is then paid."""
    bill, evidence = fresh(town), Evidence(town)
    send_lie(town, bill, delivered_msat, SIZE_MSAT, 1)
    assert failure(town, bill, 1).startswith("100c")
    assert evidence.calls("fundchannel_start") == []
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()


def test_an_onion_that_lies_over_the_alias_is_refused(town: Town) -> None:
    """trap:51: after the sale, over the jit scid that is now the channel's alias."""
    bill = fresh(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()
    later = town.further_bill(bill, 1_000_000)
    send_lie(town, later, 500_000, 1_000_000, 2)
    assert failure(town, later, 2) != ""
    assert bill.wallet.call("listinvoices", {"label": later.label})["invoices"][0]["status"] == "unpaid"


def test_a_client_that_takes_its_money_and_errs_while_the_plugin_is_down_gave_its_channel_up(town: Town) -> None:
    """people:S7, people:S20, cln:N2: lightningd deletes the withheld channel; its funding is never sent."""
    bill, evidence = fresh(town), Evidence(town)
    town.trip(town.lsp, "plugin>host", "htlc_accepted", "after", "plugin")
    sent = town.send_parts(bill, [SIZE_MSAT])
    assert town.result(bill, sent, [SIZE_MSAT]).paid
    give_up(town, bill)
    revive(town, "plugin")
    town.over(bill, "Forfeited")
    assert town.bitcoind.call("getrawmempool") == []
    assert evidence.calls("sendpsbt") == []
    assert not any(coin["reserved"] for coin in town.lsp.call("listfunds")["outputs"])
    tidy(town)


def test_a_splice_of_the_payers_channel_while_its_part_is_at_the_wallet(found_town: Any) -> None:
    """people:S9, rule:25, cln:N3: the scid that the settlement is told under is not the one the part came under."""
    town = found_town(payer_channels=1)
    town.grant(town.payer, (3_000_000,))
    bill = fresh(town)
    hold = Hold(bill.wallet)
    channel = town.channels(town.payer, town.lsp)[0]
    sent = town.send_parts(bill, [SIZE_MSAT], spare_blocks=30)
    arrived(town, bill)
    town.payer.call("splicein", {"channel": channel["channel_id"], "amount": 200_000})

    def renamed() -> bool:
        rows = town.channels(town.payer, town.lsp)
        row = next(row for row in rows if row["channel_id"] == channel["channel_id"])
        return bool(row["state"] == NORMAL and row.get("short_channel_id") != channel["short_channel_id"])

    for _ in range(8):
        town.mine()
    until(renamed, "the channel has its new name")
    hold.release()
    assert town.result(bill, sent, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()
    rows = town.channels(town.lsp, bill.wallet)
    assert [row["state"] for row in rows] == [NORMAL]
    assert not rows[0].get("funding", {}).get("withheld")


def test_a_late_part_whose_onion_lies_is_refused_alone(town: Town) -> None:
    """trap:51: while the first is with the wallet; the payment goes on to its end, fee and all."""
    bill = fresh(town)
    hold, total_msat = Hold(bill.wallet), SIZE_MSAT + 1_000_000
    group, _ = sent = town.send_parts(bill, [SIZE_MSAT], total_msat=total_msat)
    arrived(town, bill)
    send_lie(town, bill, 500_000, 1_000_000, 3, group, total_msat)
    assert failure(town, bill, 3, group).startswith("100c")
    late = town.send_parts(bill, [1_000_000], total_msat=total_msat, first_part=4, group=group)
    arrived(town, bill, 2)
    hold.release()
    assert town.result(bill, sent, [SIZE_MSAT]).paid
    assert town.result(bill, late, [1_000_000]).paid
    town.over(bill)
    town.mine()
