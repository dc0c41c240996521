"""What operators do: stop the plugin, sell to many at once, come from the built-in plugin and go back to it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.evidence import Evidence, tidy
from harness.town import BUILT_IN_SERVICE, BUILT_INS

from lsps2fast.errors import NodeError
from lsps2fast.lsps.lsps2 import FeeParams, parse_datetime
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
TEMPORARY = "10070000"
SESSIONS = ["lsps", "lsps2", "sessions"]
NAMES = itertools.count(1)
OURS_BESIDE_IT = "lsps2fast"


def fresh(town: Town) -> Bill:
    """A bill of a wallet that bought nothing before."""
    return town.bill(town.wallet(f"o{next(NAMES)}"), SIZE_MSAT)


def plugin(town: Town, subcommand: str, path: str, **options: object) -> None:
    """`lightning-cli plugin …` at the LSP."""
    town.lsp.call("plugin", {"subcommand": subcommand, "plugin": path, **options})


def restart_service(town: Town) -> None:
    """`plugin start` of our service, and wait until it sells."""
    launcher, options = town.lsp.plugins[0]
    begin = len(town.lsp.log_text())
    plugin(town, "start", launcher, **options)
    until(lambda: "sells JIT channels" in town.lsp.log_text()[begin:], "the service")


def test_plugin_stop_fails_held_parts_temporarily(town: Town) -> None:
    """trap:50, cln:W12: `plugin stop` with parts held; started again it knows the offer, and the retry is paid."""
    bill = fresh(town)
    amounts = [100_000] * 20
    sent = town.send_parts(bill, amounts, total_msat=SIZE_MSAT)
    town.held(20)
    plugin(town, "stop", town.lsp.plugins[0][0])
    assert town.result(bill, sent, amounts).failures == [TEMPORARY] * 20
    restart_service(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()


def test_fifty_sessions_at_once(found_town: Callable[..., Town]) -> None:
    """trap:35, O-19: five wallets, ten purchases each, all paid in two parts at the same time, books to the msat."""
    town = found_town(coins_sat=(200_000,) * 60)
    wallets = [town.wallet(f"f{number}") for number in range(5)]
    bills = [town.bill(wallet, SIZE_MSAT) for _ in range(10) for wallet in wallets]
    before, evidence = town.wealth_msat(town.payer), Evidence(town)
    amounts = [SIZE_MSAT // 2] * 2
    sent = [town.send_parts(bill, amounts) for bill in bills]
    failures = [town.result(bill, one, amounts).failures for bill, one in zip(bills, sent, strict=True)]
    assert failures == [["", ""]] * 50
    for bill in bills:
        town.over(bill)
    town.mine()
    assert town.wealth_msat(town.payer) - before == -50 * SIZE_MSAT
    assert [town.wealth_msat(wallet) for wallet in wallets] == [10 * (SIZE_MSAT - FEE_MSAT)] * 5
    assert sum(evidence.fees_msat(bill.payment_hash) for bill in bills) == 50 * FEE_MSAT
    coins = [coin for call in evidence.calls("sendpsbt") for coin in (call["psbt"],)]
    assert len(set(coins)) == 50
    tidy(town)


# ---- from and to the built-in plugin


def test_a_large_coin_is_split_into_a_pool(found_town: Callable[..., Town]) -> None:
    """`multiwithdraw` splits one coin; with its block three wallets are paid at once."""
    town = found_town(coins_sat=(2_000_000,), service_options={"lsps2-coin-pool": "3x200000"})

    def filled(splits: int) -> None:
        until(lambda: town.lsp.call("lsps2-stats")["coin_splits"] == splits, f"split {splits}")
        town.mine()
        until(lambda: town.lsp.call("lsps2-stats")["pool_coins"] == 4, "three coins and the change")
        coins = [row["amount_msat"] for row in town.lsp.call("listfunds")["outputs"]]
        assert coins.count(200_000_000) == 3

    filled(1)
    bills = [fresh(town) for _ in range(3)]
    sent = [town.send_parts(bill, [SIZE_MSAT]) for bill in bills]
    assert [town.result(bill, one, [SIZE_MSAT]).failures for bill, one in zip(bills, sent, strict=True)] == [[""]] * 3
    for bill in bills:
        town.over(bill)
    town.mine()
    filled(2)
    tidy(town)


def as_built_in(town: Town, jit_scid: str) -> None:
    """Leave of a record what the built-in plugin would have written."""
    record = town.records("active")[jit_scid]
    del record[OURS_BESIDE_IT]
    key = [*SESSIONS, "active", jit_scid]
    town.lsp.call("datastore", {"key": key, "string": json.dumps(record), "mode": "must-replace"})


def test_a_buy_sold_by_the_built_in_plugin_is_honoured(town: Town) -> None:
    """Drop-in: a record without our fields, found at start; its invoice is paid."""
    bill = fresh(town)
    plugin(town, "stop", town.lsp.plugins[0][0])
    as_built_in(town, bill.jit_scid)
    restart_service(town)
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == ["", ""]
    town.over(bill)
    town.mine()


def test_a_payment_the_built_in_plugin_was_at_is_brought_to_its_end(town: Town) -> None:
    """K-09, rule:8: parts settled while the plugin was away, record of the built-in plugin:
    the funding is broadcast.
    """
    bill = fresh(town)
    town.trip(town.lsp, "plugin>host", "htlc_accepted", "after", "plugin")
    sent = town.send_parts(bill, [SIZE_MSAT])
    assert town.result(bill, sent, [SIZE_MSAT]).paid
    as_built_in(town, bill.jit_scid)
    assert town.channels(town.lsp, bill.wallet)[0]["funding"]["withheld"]
    restart_service(town)
    town.over(bill)
    town.mine()
    until(lambda: town.channels(town.lsp, bill.wallet)[0].get("short_channel_id"), "the channel on chain")


def test_the_built_in_plugin_finds_what_it_needs_in_our_records(town: Town) -> None:
    """Switch back: each field it reads, in its types, in a waiting, a paid and a withheld record."""
    waiting, paid = fresh(town), fresh(town)
    assert town.pay(paid, [SIZE_MSAT]).paid
    town.over(paid)
    town.mine()
    for record in (town.records("active")[waiting.jit_scid], town.records("finalized")[paid.jit_scid]):
        assert FeeParams.from_json(record["opening_fee_params"]).max_payment_size_msat > 0
        assert record["peer_id"] in (waiting.wallet.node_id, paid.wallet.node_id)
        assert int(record["channel_capacity_msat"]) > SIZE_MSAT
        assert record["expected_payment_size"] == str(SIZE_MSAT)
        assert parse_datetime(record["created_at"]) > 0
    final = town.records("finalized")[paid.jit_scid]
    channel = town.channels(town.lsp, paid.wallet)[0]
    assert final["outcome"] == "Succeeded"
    assert final["channel_id"] == channel["channel_id"]
    assert final["funding_txid"] == channel["funding_txid"]
    assert len(final["preimage"]) == len(final["payment_hash"]) == 64
    assert parse_datetime(final["finalized_at"]) >= parse_datetime(final["created_at"])


BYSTANDER = """
from pyln.client import Plugin
plugin = Plugin()
def on_htlc(onion, htlc, plugin, **kwargs):
    return {"result": "continue"}
plugin.add_hook("htlc_accepted", on_htlc, before=BEFORE, after=AFTER)
plugin.run()
"""


def script(node: Lightningd, name: str, text: str) -> str:
    """An executable plugin with this interpreter's pyln-client."""
    path = node.directory / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o700)
    return str(path)


def test_the_built_in_plugin_beside_ours_is_refused_by_name(town: Town) -> None:
    """Both loaded by mistake, the second while the node runs: an error with the reason, and ours goes on selling."""
    path = script(town.lsp, "cln-lsps-service", BUILT_IN_SERVICE)
    with pytest.raises(NodeError, match='Option "experimental-lsps2-service" already registered'):
        plugin(town, "start", path)
    bill = fresh(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine()


def test_beside_an_enabled_built_in_plugin_ours_stands_aside_and_says_why(client_trusts_town: Town) -> None:
    """Nothing disables the other one; the node starts, and the log has the line to add.

    Options that only ours has may stand in the configuration. Where lightningd was built without it a stand-in runs.
    """
    node = client_trusts_town.node(f"both {next(NAMES)}", built_ins=True)
    (node.directory / "config").write_text("lsps2-fee-ppm=10000\nlsps2-max-fee-ppm=5000\n")
    for which, built_in, text in (("service", *BUILT_INS["service"]), ("client", *BUILT_INS["client"])):
        node.plugins.append((str(Path(sys.executable).parent / f"lsps2fast-{which}"), {}))
        if not (Path(node.programs.lightningd).parent / f"../libexec/c-lightning/plugins/{built_in}").exists():
            node.plugins.append((script(node, built_in, text), {}))
    node.start()
    for built_in, _ in BUILT_INS.values():
        node.wait_log(
            f"not started: lightningd runs its built-in {built_in}, .* add the line disable-plugin={built_in} "
        )
    assert not any("lsps2fast" in row["name"] for row in node.call("plugin", {"subcommand": "list"})["plugins"])
    node.stop()
    node.options["disable-plugin"] = [built_in for built_in, _ in BUILT_INS.values()]
    node.start()
    node.wait_log("sells JIT channels")
    node.wait_log("lsps2fast-client .* is ready")
    node.stop()


def test_nothing_of_the_operator_breaks_a_channel_before_its_first_block(each_town: Town) -> None:
    """cln:N3: paid and in no block yet, `close` and each way to splice are refused; channel and coins stay.

    A splice in lightningd's own language may abbreviate the channel: its plugin then asks for `splice_init`.
    """
    town, bill = each_town, fresh(each_town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    (row,) = town.channels(town.lsp, bill.wallet)
    channel_id, peer_id = row["channel_id"], bill.wallet.node_id
    coins = town.lsp.call("listfunds")["outputs"]  # the funding of the sale stays reserved for a while, spent or not
    ask: list[tuple[str, object]] = [
        ("close", {"id": peer_id}),
        ("close", [row["alias"]["local"]]),
        ("splicein", {"channel": channel_id, "amount": 10_000}),
        ("spliceout", [channel_id, 10_000]),
        ("splice_init", {"channel_id": channel_id, "relative_amount": 10_000}),
        ("stfu_channels", {"channel_ids": [channel_id]}),
        ("dev-splice", {"script_or_json": f"wallet -> 10000; 10000 -> {channel_id}"}),
        ("dev-splice", {"script_or_json": f"wallet -> 10000; 10000 -> {peer_id[:12]}:?"}),
        ("dev-splice", {"script_or_json": "wallet -> 10000; 10000 -> *:?"}),
    ]
    for command, params in ask:
        with pytest.raises(NodeError, match="its funding is in no block yet"):
            town.lsp.call(command, params)  # type: ignore[arg-type]
    assert town.channels(town.lsp, bill.wallet)[0]["state"] == "CHANNELD_NORMAL"
    assert town.lsp.call("listfunds")["outputs"] == coins
    town.mine()


def test_graceful_and_stop_end_the_sales_first(client_trusts_town: Town) -> None:
    """cln:N8: lightningd tells plugins nothing, so ours hears of both commands before they are carried out."""
    node = client_trusts_town.node(f"graceful {next(NAMES)}")
    client_trusts_town.add_plugin(node, "service")
    for command in ("graceful", "stop"):
        node.start()
        node.wait_log("sells JIT channels")
        assert not node.call("lsps2-stats")["paused"]
        node.call(command, {"timeout": 1} if command == "graceful" else None)
        node.wait_log(f"`{command}` was called: nothing is sold until")
        node.stop()


@pytest.mark.parametrize(("before", "after"), [(["lsps2fast-service"], []), ([], ["lsps2fast-service"])])
def test_another_plugin_on_htlc_accepted(town: Town, before: list[str], after: list[str]) -> None:
    """One that lets HTLCs go on, before or after ours in the chain, changes nothing."""
    text = BYSTANDER.replace("BEFORE", repr(before)).replace("AFTER", repr(after))
    path = script(town.lsp, f"bystander{len(before)}", text)
    plugin(town, "start", path)
    bill, evidence = fresh(town), Evidence(town)
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == ["", ""]
    town.over(bill)
    town.mine()
    plugin(town, "stop", path)
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT


def test_stock_settings_without_developer_mode(found_town: Callable[..., Town]) -> None:
    """Nothing of ours needs developer mode: a sale on nodes that look at the chain every 30 s, plugin as installed."""
    town = found_town(quick=False, record=False)
    bill = town.bill(town.wallet("plain"), SIZE_MSAT)
    assert town.pay(bill, [SIZE_MSAT // 2] * 2).failures == ["", ""]
    town.over(bill)
