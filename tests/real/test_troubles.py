"""What goes wrong in real networks, on real nodes: the LSP loses nothing and the next payment works."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from harness.evidence import Evidence, tidy

from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
TEMPORARY = "10070000"
UNKNOWN_NEXT_PEER = "400a"
NAMES = itertools.count(1)


def fresh(town: Town, amount_msat: int | None = SIZE_MSAT) -> Bill:
    """A bill of a wallet that bought nothing before."""
    return town.bill(town.wallet(f"t{next(NAMES)}"), amount_msat)


def paid_at_last(town: Town, bill: Bill, parts: int = 2) -> None:
    """The proof that an offer survived: this payment goes through."""
    assert town.pay(bill, [SIZE_MSAT // parts] * parts).failures == [""] * parts
    town.over(bill)
    town.mine()


def test_a_probe_costs_nothing_and_the_payment_works(each_town: Town) -> None:
    """trap:3, C-26: a payment with an unknown hash opens, is refused by the wallet, and leaves no trace on
    chain.
    """
    bill, evidence = fresh(each_town), Evidence(each_town)
    probe = f"{next(NAMES):064x}"
    result = each_town.pay(bill, [SIZE_MSAT], payment_hash=probe)
    assert [part.error["erring_index"] for part in result.parts] == [2]  # it reached the wallet
    end = {"client-trusts-lsp": "ABANDONED", "lsp-trusts-client": "FAILED"}[each_town.mode]
    until(lambda: evidence.states(probe)[-1:] == [end], "the end of the probe")
    back(each_town, bill)
    paid_at_last(each_town, bill)
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT


def test_parts_that_wait_in_vain_go_back_and_the_retry_is_paid(town: Town) -> None:
    """trap:2, C-20: after 90 s the held parts fail temporarily; the offer is still good."""
    bill = fresh(town)
    amounts = [2_000_000, 3_000_000]
    sent = town.send_parts(bill, amounts, total_msat=SIZE_MSAT)
    town.held(2)
    town.advance(town.lsp, 90)
    assert town.result(bill, sent, amounts).failures == [TEMPORARY] * 2
    paid_at_last(town, bill, 4)


def test_a_wallet_that_was_away_is_served_when_it_is_back(town: Town) -> None:
    """trap:4, C-08: complete parts wait for the wallet, which dials the LSP by itself."""
    bill = fresh(town)
    bill.wallet.stop()
    until(lambda: not town.connected(town.lsp, bill.wallet), "the wallet's leave")
    sent = town.send_parts(bill, [SIZE_MSAT])
    town.held(1)
    bill.wallet.start()
    assert town.result(bill, sent, [SIZE_MSAT]).failures == [""]
    town.over(bill)
    town.mine()


REFUSER = """
from pyln.client import Plugin
plugin = Plugin()
@plugin.hook("openchannel")
def on_open(openchannel, plugin, **kwargs):
    return {"result": "reject", "error_message": "not today"}
plugin.run()
"""


def script(directory: Path, name: str, text: str) -> str:
    """An executable plugin with this interpreter's pyln-client."""
    import sys

    path = directory / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o700)
    return str(path)


def test_a_refused_open_frees_the_coins_and_the_retry_is_paid(town: Town) -> None:
    """trap:27, O-08: the wallet says no once."""
    bill = fresh(town)
    refuser = script(bill.wallet.directory, "refuser", REFUSER)
    bill.wallet.call("plugin", {"subcommand": "start", "plugin": refuser})
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == [UNKNOWN_NEXT_PEER] * 2
    tidy(town)
    assert town.channels(town.lsp, bill.wallet) == []
    bill.wallet.call("plugin", {"subcommand": "stop", "plugin": refuser})
    paid_at_last(town, bill)


def test_without_coins_the_parts_go_back_at_once(town: Town) -> None:
    """O-05: no coins, no channel, the offer stays; with coins again it is paid."""
    bill = fresh(town)
    psbt = town.lsp.call("fundpsbt", {"satoshi": "all", "feerate": "normal", "startweight": 1000})["psbt"]
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == [TEMPORARY] * 2
    town.lsp.call("unreserveinputs", {"psbt": psbt})
    paid_at_last(town, bill)


def test_held_parts_go_back_before_they_expire(town: Town) -> None:
    """K-06, cln:H14: blocks come while one part waits; the payer's channel lives."""
    bill = fresh(town)
    amounts = [SIZE_MSAT // 2]
    sent = town.send_parts(bill, amounts, total_msat=SIZE_MSAT, spare_blocks=0)
    town.held(1)
    expiry = next(iter(Evidence(town, 0).hooks(bill.payment_hash).values()))[0]["htlc"]["cltv_expiry"]
    town.mine(expiry - town.bitcoind.height - 7)
    assert town.stats()["held_parts"] == 1
    town.mine(1)
    assert town.result(bill, sent, amounts).failures == [TEMPORARY]
    assert {row["state"] for row in town.channels(town.payer, town.lsp)} == {"CHANNELD_NORMAL"}
    paid_at_last(town, bill)


def test_a_part_the_channel_cannot_take_fails_and_so_does_the_rest_in_the_end(town: Town) -> None:
    """K-10, trap:10: the wallet takes two HTLCs at once; the third fails alone, the others wait for it, then go
    back.
    """
    wallet = town.wallet(f"t{next(NAMES)}", {"max-concurrent-htlcs": 2})
    bill, evidence = town.bill(wallet, SIZE_MSAT), Evidence(town)
    amounts = [4_000_000, 3_000_000, 3_000_000]
    sent = town.send_parts(bill, amounts)
    until(lambda: wallet.call("lsps2-status")["held_parts"] == 2, "two parts at the wallet")
    until(lambda: evidence.ends("local_failed"), "the third part's failure")
    assert evidence.states(bill.payment_hash)[-1] == "AWAITING_SETTLEMENT"
    town.advance(wallet, 90)
    result = town.result(bill, sent, amounts)
    assert [part.status for part in result.parts] == ["failed"] * 3
    tidy(town)
    back(town, bill)
    paid_at_last(town, bill)


ONE_FAILS = """
from pyln.client import Plugin
plugin = Plugin()
failed = []
def on_htlc(onion, htlc, plugin, **kwargs):
    if failed:
        return {"result": "continue"}
    failed.append(htlc)
    return {"result": "fail", "failure_message": "2002"}
plugin.add_hook("htlc_accepted", on_htlc, before=["lsps2fast-client"])
plugin.run()
"""


def ends(town: Town, bill: Bill) -> dict[str, list[int]]:
    """Part ids of a payment that were settled and that failed, as its payer sees it."""
    rows = town.payer.call("listsendpays", {"payment_hash": bill.payment_hash})["payments"]
    return {end: [row["partid"] for row in rows if row["status"] == end] for end in ("complete", "failed")}


def test_one_part_fails_and_the_others_settle_with_its_successor(each_town: Town) -> None:
    """K-10, H-17: the wallet's node fails one part of three; that part is sent again, all is paid, the fee once."""
    town, wallet = each_town, each_town.wallet(f"t{next(NAMES)}")
    wallet.call("plugin", {"subcommand": "start", "plugin": script(wallet.directory, "one-fails", ONE_FAILS)})
    bill, before = town.bill(wallet, SIZE_MSAT), town.wealth_msat(town.payer)
    amounts = [5_000_000, 3_000_000, 2_000_000]
    group, _ = town.send_parts(bill, amounts)
    (failed,) = until(lambda: ends(town, bill)["failed"], "the part that failed")
    until(lambda: wallet.call("lsps2-status")["held_parts"] == 2, "the two others, at the wallet")
    again = [amounts[failed - 1]]
    sent = town.send_parts(bill, again, total_msat=SIZE_MSAT, first_part=4, group=group)
    assert town.result(bill, sent, again).paid
    town.over(bill)
    town.mine()
    assert ends(town, bill) == {"complete": sorted({1, 2, 3, 4} - {failed}), "failed": [failed]}
    assert town.wealth_msat(town.payer) - before == -SIZE_MSAT
    assert town.wealth_msat(wallet) == SIZE_MSAT - FEE_MSAT


def back(town: Town, bill: Bill) -> None:
    """Wait until the wallet has cleaned up after a channel that was given up, and is connected again."""
    wallet, lsp = bill.wallet, town.lsp
    until(lambda: {row["state"] for row in town.channels(wallet, lsp)} <= {"CHANNELD_NORMAL"}, "the wallet's clean-up")
    town.connect(wallet, lsp)


def test_a_payer_may_overpay(town: Town) -> None:
    """trap:17: fee from the agreed size; what came on top is the wallet's."""
    bill, evidence = fresh(town), Evidence(town)
    amounts = [5_400_000, 5_400_000]
    assert town.pay(bill, amounts).failures == ["", ""]
    town.over(bill)
    town.mine()
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT
    row = bill.wallet.call("listinvoices", {"label": bill.label})["invoices"][0]
    assert row["amount_received_msat"] == 10_800_000 - FEE_MSAT


@pytest.fixture(scope="module")
def shop(client_trusts_town: Town) -> Lightningd:
    """A node behind the LSP that is paid in the ordinary way."""
    town = client_trusts_town
    shop = town.node("shop")
    shop.start()
    town.grant(town.lsp, [1_200_000])
    town.lsp.call("connect", {"id": shop.node_id, "host": "127.0.0.1", "port": shop.port})
    town.lsp.call("fundchannel", {"id": shop.node_id, "amount": 1_000_000})
    town.mine(6)
    until(lambda: [row["state"] for row in town.channels(shop, town.lsp)] == ["CHANNELD_NORMAL"], "the shop's channel")
    scid = town.scids(town.lsp, shop)[0]
    until(lambda: len(town.payer.call("listchannels", {"short_channel_id": scid})["channels"]) == 2, "gossip")
    return shop


def test_ordinary_forwards_go_on_while_a_session_runs(town: Town, shop: Lightningd) -> None:
    """rule:1: HTLCs that are none of ours pass while parts are held, with the operator's fee."""
    bill, evidence = fresh(town), Evidence(town)
    sent = town.send_parts(bill, [4_000_000], total_msat=SIZE_MSAT)
    town.held(1)
    for number in range(10):
        ask = {"amount_msat": 1_000_000, "label": f"{bill.jit_scid}/{number}", "description": "goods"}
        assert town.payer.call("xpay", {"invstring": shop.call("invoice", ask)["bolt11"]})["amount_msat"] == 1_000_000
    more = town.send_parts(bill, [6_000_000], total_msat=SIZE_MSAT, first_part=2, group=sent[0])
    assert town.result(bill, sent, [4_000_000]).paid
    assert town.result(bill, more, [6_000_000]).paid
    town.over(bill)
    town.mine()
    others = [call for call in evidence.hooks().values() if call[0]["htlc"]["payment_hash"] != bill.payment_hash]
    assert [answers for _, answers in others] == [[{"result": "continue"}]] * 10


def test_a_jit_scid_nobody_bought_is_unknown(town: Town) -> None:
    """C-01, cln:H10: not ours, so lightningd answers: unknown_next_peer."""
    bill = fresh(town)
    stranger = bill.__class__(**{**bill.__dict__, "jit_scid": format_scid((700_000 << 40) | (5 << 16) | 1)})
    assert [part.error["failcode"] for part in town.pay(stranger, [SIZE_MSAT]).parts] == [0x400A]
    paid_at_last(town, bill)
