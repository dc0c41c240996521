"""The wallet on real nodes: what only lightningd itself can prove. Skipped, loudly, where there are none."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.client.channel_watch import SETTLED_BLOCKS
from lsps2fast_plugin.client.history import FOLDER
from lsps2fast_plugin.client.reports import KEY
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, find_programs, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, LSP_TRUSTS

pytestmark = pytest.mark.real
SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
TEMPORARY = "10070000"
UNTRUSTED: dict[str, Any] = {"lsps2-trusted-lsp": []}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def open_town() -> Iterator[Callable[[str], Town]]:
    """One town for each trust mode, made when first asked for."""
    try:
        programs = find_programs()
    except ConfigError as error:
        pytest.skip(f"real nodes are needed: {error}")
    towns: dict[str, Town] = {}

    def make(mode: str) -> Town:
        if mode not in towns:
            town = Town(Path(tempfile.mkdtemp(prefix="l2c-", dir="/tmp")), mode, programs=programs)
            towns[mode] = town
            town.open()
        return towns[mode]

    yield make
    for town in towns.values():
        town.close()
        town.remove()


def stored(wallet: Lightningd, root: str) -> list[Json]:
    """Records under a root of the datastore, folders opened."""
    found: list[Json] = []
    folders = [[root]]
    while folders:
        for row in wallet.call("listdatastore", {"key": folders.pop()})["datastore"]:
            folders += [] if "hex" in row else [row["key"]]
            found += [row] if "hex" in row else []
    return found


def kept(wallet: Lightningd) -> list[Json]:
    """What the wallet still has to do; purchases that are over and its reports stay as a list of what was."""
    rows = [*stored(wallet, "lsps"), *stored(wallet, "lsps2fast")]
    return [row for row in rows if tuple(row["key"][:3]) not in (FOLDER, KEY)]


def status(wallet: Lightningd) -> Json:
    got: Json = wallet.call("lsps2-status")
    return got


def state(wallet: Lightningd) -> str:
    approvals = status(wallet)["approvals"]
    return str(approvals[-1]["state"]) if approvals else "none"


def untrusting(town: Town, name: str, *, stock: bool = False, **more: Any) -> Lightningd:
    """A wallet that trusts no LSP; `stock`: its node is not in developer mode."""
    wallet = town.node(name)
    wallet.quick = not stock
    town.add_plugin(wallet, "client", more)
    wallet.start()
    wallet.wait_log("lsps2fast-client .* is ready")
    town.connect(wallet, town.lsp)
    return wallet


def test_an_lsp_that_is_not_trusted_is_paid_after_its_funding_confirmed(open_town: Callable[[str], Town]) -> None:
    """I-30, I-04, O-14: held over the mempool, released with the real scid; nothing is kept afterwards (I-33)."""
    town = open_town(LSP_TRUSTS)
    wallet = untrusting(town, "careful")
    bill = town.bill(wallet, SIZE_MSAT)
    amounts = [3_000_000, 7_000_000]
    sent = town.send_parts(bill, amounts)
    until(lambda: status(wallet)["held_parts"] == 2, "two held parts", say=wallet.log_text)
    assert state(wallet) == "receiving"
    town.mine()
    assert town.result(bill, sent, amounts).failures == ["", ""]
    town.mine(SETTLED_BLOCKS)
    until(lambda: not kept(wallet), "nothing to do", say=lambda: str(kept(wallet)))
    invoice = wallet.call("listinvoices", {"label": bill.label})["invoices"][0]
    assert invoice["amount_received_msat"] == SIZE_MSAT - FEE_MSAT
    next_one = wallet.call("invoice", {"amount_msat": 1000, "label": "next", "description": "d"})["bolt11"]
    assert len(bolt11.decode(next_one).hints) == 1  # the channel is an ordinary one now


def test_held_parts_survive_the_death_of_the_wallets_node(open_town: Callable[[str], Town]) -> None:
    """I-32, K-07: SIGKILL while the funding is awaited; lightningd replays without the TLVs."""
    town = open_town(LSP_TRUSTS)
    wallet = untrusting(town, "mortal")
    bill = town.bill(wallet, SIZE_MSAT)
    amounts = [4_000_000, 6_000_000]
    sent = town.send_parts(bill, amounts, spare_blocks=20)
    until(lambda: status(wallet)["held_parts"] == 2, "two held parts")
    wallet.kill()
    wallet.start()
    until(lambda: status(wallet)["held_parts"] == 2, "the replayed parts", say=wallet.log_text)
    until(lambda: town.connected(town.lsp, wallet), "the wallet back at the LSP")
    town.mine()
    assert town.result(bill, sent, amounts).failures == ["", ""]
    invoice = wallet.call("listinvoices", {"label": bill.label})["invoices"][0]
    assert invoice["amount_received_msat"] == SIZE_MSAT - FEE_MSAT


def test_the_invoice_is_what_a_stock_decoder_reads(open_town: Callable[[str], Town]) -> None:
    """cln:C6, I-02 to I-07: by lightningd's own `decode`, at another node."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "reader")
    bill = town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    read = town.payer.call("decode", {"string": bill.text})
    assert read["valid"] is True
    assert read["payee"] == wallet.node_id
    assert read["amount_msat"] == SIZE_MSAT
    assert read["features"] == "024100"
    ((hop,),) = read["routes"]
    assert (hop["pubkey"], hop["short_channel_id"]) == (town.lsp.node_id, bill.jit_scid)
    final = wallet.call("listconfigs", {"config": "cltv-final"})["configs"]["cltv-final"]["value_int"]
    assert read["min_final_cltv_expiry"] == final + 2


def test_check_setconfig_hashes_labels_and_deletions(open_town: Callable[[str], Town]) -> None:
    """wallet:W13 and point 8, by lightningd's own `check`, `setconfig`, `signinvoice` and `wait`."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "developer")
    asked = {"lsp_id": town.lsp.node_id, "amount_msat": SIZE_MSAT, "description": "d", "label": "l"}
    asked |= {"client_trusts_lsp": True, "deschashonly": True}
    command = {"command_to_check": "lsps-lsps2-invoice"}
    assert wallet.call("check", command | asked) == command
    with pytest.raises(NodeError, match="amount_msat must be positive"):
        wallet.call("check", command | asked | {"amount_msat": 0})
    assert not status(wallet)["approvals"]

    with pytest.raises(NodeError, match="lsps2-inbound='maybe' is unknown"):
        wallet.call("setconfig", {"config": "lsps2-inbound", "val": "maybe"})
    wallet.call("setconfig", {"config": "lsps2-max-fee-msat", "val": 1, "transient": True})
    with pytest.raises(NodeError, match="3103"):
        wallet.call("lsps-lsps2-invoice", asked)
    wallet.call("setconfig", {"config": "lsps2-max-fee-msat", "val": 100_000_000, "transient": True})

    made = wallet.call("lsps-lsps2-invoice", asked)
    assert wallet.call("lsps-lsps2-invoice", asked) == made
    read = town.payer.call("decode", {"string": made["bolt11"]})
    assert read["description_hash"] == hashlib.sha256(b"d").hexdigest()
    assert read["payee"] == wallet.node_id
    wallet.call("delinvoice", {"label": "l", "status": "unpaid"})
    until(lambda: not status(wallet)["approvals"], "the end of the purchase", say=wallet.log_text)
    assert wallet.call("lsps2-purchase", {"label": "l"})["state"] == "cancelled"


def test_consent_is_needed_and_enough(open_town: Callable[[str], Town]) -> None:
    """B-16, I-17, I-29: no trust without a word; then no waiting, and the watch ends with the confirmation."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "asked")
    with pytest.raises(NodeError, match="asks to be trusted"):
        town.bill(wallet, SIZE_MSAT)
    bill = town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    assert town.pay(bill, [SIZE_MSAT]).paid
    until(lambda: not stored(wallet, "lsps"), "CLN's own test: the client cleaned up after itself")
    town.over(bill)
    town.mine(SETTLED_BLOCKS)
    until(lambda: not kept(wallet), "the funding confirmed", say=lambda: str(kept(wallet)))


def test_an_lsp_that_gives_up_is_forgiven_and_cleaned_up_after(open_town: Callable[[str], Town]) -> None:
    """cln:A4, O-16: a probe makes it open and close a withheld channel; the invoice is paid all the same afterwards."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "probed")
    bill = town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    wrong = Bill(**{**bill.__dict__, "payment_secret": "00" * 32})
    (failure,) = town.pay(wrong, [SIZE_MSAT]).failures
    assert failure.startswith("400f")
    wallet.wait_log("gave up the unfunded channel")
    assert town.pay(bill, [SIZE_MSAT]).failures == [""]
    town.over(bill)


def test_a_wallet_back_from_the_dead_takes_the_next_channel_at_once(open_town: Callable[[str], Town]) -> None:
    """O-16, O-08: the LSP gave its channel up meanwhile and opens the next one as soon as the wallet is connected."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "returned")
    bill = town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    given_up = withheld(town, wallet)
    wallet.kill()
    town.lsp.call("close", {"id": given_up, "unilateraltimeout": 1})
    sent = town.send_parts(bill, [SIZE_MSAT])
    town.held(1)
    wallet.start()
    (failure,) = town.result(bill, sent, [SIZE_MSAT]).failures
    assert failure in ("", TEMPORARY)  # lightningd breaks the link when it learns of the end of a channel (O-07)
    assert "refused a channel" not in wallet.log_text()
    assert failure == "" or town.pay(bill, [SIZE_MSAT]).failures == [""]
    town.over(bill)


def test_a_stock_node_lists_what_was_given_up_and_the_status_says_what_it_is(open_town: Callable[[str], Town]) -> None:
    """cln:A4: nothing can be forgotten without developer mode; lightningd offers it in no invoice."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "stock", stock=True)
    town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    channel_id = withheld(town, wallet)
    town.lsp.call("close", {"id": channel_id, "unilateraltimeout": 1})
    wallet.wait_log("stays listed until lightningd forgets it")
    assert [row["state"] for row in town.channels(wallet, town.lsp)] == ["CLOSINGD_COMPLETE"]
    (dead,) = status(wallet)["given_up"]
    assert dead["channel_id"] == channel_id
    asked = {"amount_msat": 1000, "label": "next", "description": "d", "exposeprivatechannels": True}
    assert bolt11.decode(wallet.call("invoice", asked)["bolt11"]).hints == ()


def withheld(town: Town, wallet: Lightningd) -> str:
    """A channel in use whose funding the LSP keeps back, opened as the service does it; its id."""
    lsp, asked = town.lsp, {"id": wallet.node_id, "announce": False, "mindepth": 0, "channel_type": [12, 22, 46, 50]}
    address = lsp.call("fundchannel_start", {**asked, "amount": 200_000})["funding_address"]
    coins = {"satoshi": 200_000, "feerate": "2500perkw", "startweight": 1000, "excess_as_change": True}
    psbt = lsp.call("fundpsbt", {**coins, "opening_anchor_channel": True})["psbt"]
    paid = lsp.call("addpsbtoutput", {"satoshi": 200_000, "initialpsbt": psbt, "destination": address})["psbt"]
    made = lsp.call("fundchannel_complete", {"id": wallet.node_id, "psbt": paid, "withhold": True})
    until(lambda: town.channels(wallet, lsp)[0]["state"] == "CHANNELD_NORMAL", "the channel")
    return str(made["channel_id"])


def test_an_lsp_that_keeps_the_funding_back_is_found_out(open_town: Callable[[str], Town]) -> None:
    """trap:46: it took the preimage and never broadcast: warned, distrusted, not offered, nothing more received."""
    town = open_town(CLIENT_TRUSTS)
    wallet = untrusting(town, "robbed")
    bill = town.bill(wallet, SIZE_MSAT, client_trusts_lsp=True)
    town.trip(town.lsp, "rpc>host", "sendpsbt", "before", "plugin")
    assert town.pay(bill, [SIZE_MSAT]).paid
    until(lambda: state(wallet) == "paid", "the invoice paid")
    before = bolt11.decode(wallet.call("invoice", {"amount_msat": 1000, "label": "a", "description": "d"})["bolt11"])
    assert before.hints == ()  # its funding is not in sight yet
    town.advance(wallet, 601)
    wallet.wait_log("ALARM: channel .* was not seen within 600 s")
    after = bolt11.decode(wallet.call("invoice", {"amount_msat": 1000, "label": "b", "description": "d"})["bolt11"])
    assert after.hints == ()
    (lsp,) = status(wallet)["lsps"]
    assert "was not seen" in lsp["broke_its_word"]
    assert json.dumps(status(wallet)["reports"]).count("ALARM") == 1
