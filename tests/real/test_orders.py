"""A channel that a stock lightningd orders with bLIP-51, in raw messages, and pays with `sendpay`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lsps2fast import bolt11
from lsps2fast_plugin.service.options import TRY_ORDERS
from lsps2fast_plugin.tools.regtest import Lightningd, Town, until

ORDER = {
    "lsp_balance_sat": "200000",
    "client_balance_sat": "0",
    "required_channel_confirmations": 1,
    "funding_confirms_within_blocks": 12,
    "channel_expiry_blocks": 4_320,
    "announce_channel": False,
}
ON = {"lsps2-lsps1": "on"}


@pytest.fixture(autouse=True)
def _tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRY_ORDERS, "1")


def ask(town: Town, client: Lightningd, method: str, params: Any = None) -> Any:
    """One LSPS0 request of a node without any plugin of ours for it."""
    before = len(answers(town, client))
    body = json.dumps({"jsonrpc": "2.0", "id": "x", "method": method, "params": params or {}}).encode()
    client.call("sendcustommsg", {"node_id": town.lsp.node_id, "msg": "9419" + body.hex()})
    until(lambda: len(answers(town, client)) > before, f"an answer to {method}")
    return answers(town, client)[-1]["result"]


def answers(town: Town, client: Lightningd) -> list[Any]:
    """What the LSP has sent to this client, as its plugin's calls show it."""
    sent = [
        entry["msg"]["params"]
        for entry in town.entries(town.lsp)
        if entry["dir"] == "rpc>host" and entry["msg"].get("method") == "sendcustommsg"
    ]
    return [json.loads(bytes.fromhex(each["msg"])[2:]) for each in sent if each["node_id"] == client.node_id]


def send(town: Town, order: Any) -> tuple[Lightningd, str]:
    """Pay the invoice of an order from the payer, who has channels to the LSP; return who pays, and the hash."""
    text = order["payment"]["bolt11"]["invoice"]
    invoice = bolt11.decode(text)
    payer = town.payer
    scid = town.scids(payer, town.lsp)[0]
    hop = {
        "id": town.lsp.node_id,
        "channel": scid,
        "amount_msat": invoice.amount_msat,
        "delay": invoice.min_final_cltv_blocks + 1,
        "style": "tlv",
    }
    secret = invoice.payment_secret.hex()
    given = {"route": [hop], "payment_hash": invoice.payment_hash.hex(), "payment_secret": secret, "bolt11": text}
    payer.call("sendpay", given)
    return payer, invoice.payment_hash.hex()


def test_ordered_paid_and_used(found_town: Callable[..., Town]) -> None:
    """E-02, E-10, E-13, cln:N10: held, opened, taken; the channel is there after a block."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    assert ask(town, client, "lsps0.list_protocols") == {"protocols": [1, 2]}
    info = ask(town, client, "lsps1.get_info")
    assert info["min_required_channel_confirmations"] == 0
    order = ask(town, client, "lsps1.create_order", ORDER)
    payer, payment_hash = send(town, order)
    paid = payer.call("waitsendpay", {"payment_hash": payment_hash, "timeout": 60})
    assert paid["status"] == "complete"
    now = ask(town, client, "lsps1.get_order", {"order_id": order["order_id"]})
    assert now["order_state"] == "COMPLETED"
    (channel,) = town.channels(town.lsp, client)
    assert now["channel"]["funding_outpoint"] == f"{channel['funding_txid']}:{channel['funding_outnum']}"
    assert channel["total_msat"] == 200_000_000
    town.mine(6)
    until(lambda: town.channels(client, town.lsp)[0]["state"] == "CHANNELD_NORMAL", "the channel is usable")
    state = ask(town, client, "lsps1.get_order", {"order_id": order["order_id"]})["payment"]["bolt11"]["state"]
    assert state == "PAID"


def test_the_client_refuses_and_is_paid_back(found_town: Callable[..., Town]) -> None:
    """E-12, cln:C5: a stock node takes no zero-conf channel; its invoice is gone, the payer has its money."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", {**ORDER, "required_channel_confirmations": 0})
    payer, payment_hash = send(town, order)
    with pytest.raises(Exception, match=r"(?i)incorrect_or_unknown"):
        payer.call("waitsendpay", {"payment_hash": payment_hash, "timeout": 60})
    now = ask(town, client, "lsps1.get_order", {"order_id": order["order_id"]})
    assert (now["order_state"], now["payment"]["bolt11"]["state"]) == ("FAILED", "REFUNDED")
    assert town.channels(town.lsp, client) == []
    assert town.lsp.call("listinvoices", {"payment_hash": payment_hash})["invoices"] == []


def test_the_plugin_dies_while_the_payment_is_held(found_town: Callable[..., Town]) -> None:
    """E-12: lightningd takes what it holds, as it lets HTLCs go on (cln:H12); the next start owes the channel."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    town.trip(town.lsp, "host>rpc", "fundchannel_complete", "before", "plugin")
    payer, payment_hash = send(town, order)
    assert payer.call("waitsendpay", {"payment_hash": payment_hash, "timeout": 60})["status"] == "complete"
    (launcher, options), begin = town.lsp.plugins[0], len(town.lsp.log_text())
    town.lsp.call("plugin", {"subcommand": "start", "plugin": launcher, **options})
    until(lambda: "sells JIT channels" in town.lsp.log_text()[begin:], "the service")
    listed = {"order_id": order["order_id"]}
    until(lambda: town.lsp.call("lsps2-listorders", listed)["orders"][0]["state"] == "sent", "the channel is sent")
    (channel,) = town.channels(town.lsp, client)
    assert not channel["funding"].get("withheld")
    state = ask(town, client, "lsps1.get_order", {"order_id": order["order_id"]})
    assert state["payment"]["bolt11"]["state"] == "PAID"


@pytest.mark.parametrize("power", [False, True])
def test_a_restart_while_the_payment_is_held(found_town: Callable[..., Town], power: bool) -> None:
    """E-12, cln:R1: lightningd asks again; with the plugin alone gone it takes the payment, and the channel is owed."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    client.stop()
    until(lambda: not town.connected(town.lsp, client), "the client is away")
    payer, payment_hash = send(town, order)
    listed = {"order_id": order["order_id"]}
    until(lambda: town.lsp.call("lsps2-listorders", listed)["orders"][0]["state"] == "held", "the payment is held")
    if power:
        town.lsp.kill()
    else:
        town.lsp.stop()
    town.lsp.start()
    client.start()
    town.connect(client, town.lsp)
    paid = payer.call("waitsendpay", {"payment_hash": payment_hash, "timeout": 60})
    assert paid["status"] == "complete"
    until(lambda: len(town.channels(town.lsp, client)) == 1, "one channel")
