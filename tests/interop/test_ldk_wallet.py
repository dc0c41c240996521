"""A stock ldk-node wallet buys from lsps2fast-service."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.peers import Ldk

from lsps2fast import bolt11
from lsps2fast.errors import NodeError
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.tools.regtest import Bill, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS

PAIR = "ldk-node buys, ours sells"
SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
Start = Callable[..., Ldk]


def wallet(start: Start, town: Town) -> Ldk:
    """A wallet without coins, connected to the LSP it is configured with."""
    lsp = {"id": town.lsp.node_id, "address": f"127.0.0.1:{town.lsp.port}"}
    peer = start(town, lsp=lsp)
    peer.call("connect", **lsp)
    until(lambda: town.connected(town.lsp, peer), "the wallet at the LSP")  # type: ignore[arg-type]
    return peer


def bill(peer: Ldk, town: Town, amount_msat: int = SIZE_MSAT) -> Bill:
    """Buy, and take the invoice apart for `Town.pay`."""
    text = peer.call("jit_invoice", amount_msat=amount_msat)
    invoice = bolt11.decode(text)
    hint = invoice.hints[0][0]
    return Bill(
        wallet=peer,  # type: ignore[arg-type]
        label="",
        text=text,
        payment_hash=invoice.payment_hash.hex(),
        payment_secret=invoice.payment_secret.hex(),
        amount_msat=amount_msat,
        jit_scid=format_scid(hint.scid),
        delta_blocks=hint.cltv_expiry_delta_blocks,
        final_blocks=invoice.min_final_cltv_blocks,
        opening_fee_msat=FEE_MSAT,
    )


def paid(town: Town, peer: Ldk, sold: Bill, received_msat: int) -> None:
    """The wallet has its money, the sale is over, its funding is in a block."""
    peer.heard("PaymentReceived", sold.payment_hash, f"amount_msat: {received_msat}")
    town.over(sold)
    town.mine()
    peer.synced()


@pytest.mark.parametrize("parts", [1, 5, 30])
def test_a_wallet_without_coins(town: Town, ldk: Start, parts: int) -> None:
    """Fixed amount, the wallet has no coins and refuses anchors; `sendpay`, so many parts over two channels."""
    peer = wallet(ldk, town)
    size_msat = parts * SIZE_MSAT
    sold = bill(peer, town, size_msat)
    assert town.pay(sold, [SIZE_MSAT] * parts).failures == [""] * parts
    paid(town, peer, sold, size_msat - max(FEE_MSAT, size_msat // 100))


@pytest.mark.parametrize("command", ["pay", "xpay"])
def test_stock_payers(client_trusts_town: Town, ldk: Start, command: str) -> None:
    """Fixed amount, paid by a stock command of lightningd."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    sold = bill(peer, town)
    result = town.payer.call(command, {"bolt11" if command == "pay" else "invstring": sold.text})
    assert result["payment_preimage"]
    paid(town, peer, sold, SIZE_MSAT - FEE_MSAT)


def test_a_wallet_with_coins_gets_anchors(client_trusts_town: Town, ldk: Start) -> None:
    """A wallet with coins on chain gets a channel with anchors."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    town.bitcoind.send([(peer.call("address"), 200_000)])
    town.mine(1)
    peer.synced()
    sold = bill(peer, town)
    assert town.pay(sold, [SIZE_MSAT]).paid
    paid(town, peer, sold, SIZE_MSAT - FEE_MSAT)
    (row,) = town.lsp.call("listpeerchannels", {"id": peer.node_id})["channels"]
    assert 22 in row["channel_type"]["bits"]


def test_a_further_purchase_and_a_restart(town: Town, ldk: Start) -> None:
    """A second purchase after a restart of the wallet, and an ordinary payment over the first channel."""
    peer = wallet(ldk, town)
    first = bill(peer, town)
    assert town.pay(first, [SIZE_MSAT]).paid
    paid(town, peer, first, SIZE_MSAT - FEE_MSAT)
    town.mine(6)
    peer.synced()
    peer.stop()
    peer.events.clear()
    peer.start()
    until(lambda: any(row["usable"] for row in peer.call("channels")), "the channel after the restart")
    second = bill(peer, town)
    assert town.pay(second, [SIZE_MSAT // 2] * 2).paid
    paid(town, peer, second, SIZE_MSAT - FEE_MSAT)
    ordinary = peer.call("invoice", amount_msat=1_000_000)
    assert town.payer.call("xpay", {"invstring": ordinary})["payment_preimage"]
    peer.heard("PaymentReceived", "amount_msat: 1000000")


def test_a_payment_out(client_trusts_town: Town, ldk: Start) -> None:
    """The wallet pays out of its JIT channel."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    sold = bill(peer, town, 50_000_000)
    assert town.pay(sold, [50_000_000]).paid
    paid(town, peer, sold, 49_000_000)
    town.mine(6)
    peer.synced()
    ask = {"amount_msat": 5_000_000, "label": f"out {peer.name}", "description": "out"}
    peer.call("pay", invoice=town.payer.call("invoice", ask)["bolt11"])
    peer.heard("PaymentSuccessful")


def test_a_wallet_that_is_away(town: Town, ldk: Start) -> None:
    """The wallet goes away after its purchase and is back while the parts are held."""
    peer = wallet(ldk, town)
    sold = bill(peer, town)
    peer.stop()
    until(lambda: not town.connected(town.lsp, peer), "the wallet gone")  # type: ignore[arg-type]
    amounts = [SIZE_MSAT // 2] * 2
    sent = town.send_parts(sold, amounts)
    town.held(2)
    peer.start()
    assert town.result(sold, sent, amounts).failures == ["", ""]
    paid(town, peer, sold, SIZE_MSAT - FEE_MSAT)


def test_a_variable_amount(client_trusts_town: Town, ldk: Start) -> None:
    """Variable amount: ldk-node 0.7.1 refuses the parts itself; the payer gets its coins back, and so does the LSP."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    text = peer.call("jit_invoice")
    invoice = bolt11.decode(text)
    with pytest.raises(NodeError):
        town.payer.call("pay", {"bolt11": text, "amount_msat": SIZE_MSAT, "retry_for": 10})
    assert not any("PaymentReceived" in event for event in peer.events)
    until(lambda: not any(coin["reserved"] for coin in town.lsp.call("listfunds")["outputs"]), "coins free again")
    assert town.records("active")[format_scid(invoice.hints[0][0].scid)]["peer_id"] == peer.node_id


def test_the_limit_of_buys_does_not_silence_the_wallet(client_trusts_town: Town, ldk: Start) -> None:
    """The eleventh unused purchase is refused in words that ldk-node reads: it goes on asking."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    for _ in range(10):
        peer.call("jit_invoice", amount_msat=SIZE_MSAT)
    with pytest.raises(NodeError):
        peer.call("jit_invoice", amount_msat=SIZE_MSAT)
    (spare, *_) = [scid for scid, row in town.records("active").items() if row["peer_id"] == peer.node_id]
    town.lsp.call("lsps2-cancel", {"jit_channel_scid": spare})
    sold = bill(peer, town)
    assert town.pay(sold, [SIZE_MSAT]).paid
    paid(town, peer, sold, SIZE_MSAT - FEE_MSAT)


def test_our_plugin_is_killed_with_parts_held(client_trusts_town: Town, ldk: Start) -> None:
    """The LSP's plugin dies with half of the payment held, and starts again; the other half completes it."""
    town, peer = client_trusts_town, wallet(ldk, client_trusts_town)
    assert town.mode == CLIENT_TRUSTS
    sold = bill(peer, town)
    sent = town.send_parts(sold, [SIZE_MSAT // 2], total_msat=SIZE_MSAT)
    town.held(1)
    launcher, options = town.lsp.plugins[0]
    town.lsp.call("plugin", {"subcommand": "stop", "plugin": launcher})
    assert town.result(sold, sent, [SIZE_MSAT // 2]).failures == ["10070000"]
    begin = len(town.lsp.log_text())
    town.lsp.call("plugin", {"subcommand": "start", "plugin": launcher, **options})
    until(lambda: "sells JIT channels" in town.lsp.log_text()[begin:], "the service")
    assert town.pay(sold, [SIZE_MSAT // 2] * 2).paid
    paid(town, peer, sold, SIZE_MSAT - FEE_MSAT)


@pytest.mark.parametrize("announce", [False, True])
def test_a_channel_is_ordered(
    found_town: Callable[..., Town], ldk: Start, announce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LSPS1: a channel is ordered, its invoice paid by another node, the channel opened.

    LDK does not know the payment state HOLD, and hears a node no more that says it: so it asks when that is over.
    """
    town = found_town(service_options={"lsps2-lsps1": "on"})
    lsp = {"id": town.lsp.node_id, "address": f"127.0.0.1:{town.lsp.port}"}
    peer = ldk(town, seller=lsp)
    peer.call("connect", **lsp)
    until(lambda: town.connected(town.lsp, peer), "the wallet at the LSP")  # type: ignore[arg-type]
    order = peer.call("order", lsp_balance_sat=200_000, blocks=4_320, announce=announce)
    assert order["payment"] == "ExpectPayment"
    paid = town.payer.call("pay", {"bolt11": order["invoice"]})
    assert paid["status"] == "complete"
    which = {"order_id": order["order_id"]}
    until(lambda: town.lsp.call("lsps2-listorders", which)["orders"][0]["paid"], "the payment is taken")
    status = peer.call("order_status", order_id=order["order_id"])
    assert status["payment"] == "Paid"
    (channel,) = town.channels(town.lsp, peer)  # type: ignore[arg-type]
    assert status["outpoint"] == f"{channel['funding_txid']}:{channel['funding_outnum']}"
    assert (channel["total_msat"], channel["private"]) == (200_000_000, not announce)
    town.mine(6)
    peer.synced()
    until(lambda: peer.call("channels")[0]["usable"], "the wallet uses the channel")
