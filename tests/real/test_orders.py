"""A channel that a stock lightningd orders with bLIP-51, in raw messages, and pays with `sendpay`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lsps2fast import bolt11
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
Json = dict[str, Any]


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


def send(town: Town, order: Any, parts: int = 1) -> tuple[Lightningd, str]:
    """Pay the invoice of an order from the payer, who has channels to the LSP; return who pays, and the hash."""
    text = order["payment"]["bolt11"]["invoice"]
    invoice = bolt11.decode(text)
    payer, total_msat = town.payer, invoice.amount_msat
    assert total_msat is not None
    amounts = [total_msat // parts] * (parts - 1)
    for partid, amount_msat in enumerate([*amounts, total_msat - sum(amounts)], start=1):
        hop = {
            "id": town.lsp.node_id,
            "channel": town.scids(payer, town.lsp)[0],
            "amount_msat": amount_msat,
            "delay": invoice.min_final_cltv_blocks + 1,
            "style": "tlv",
        }
        given = {"route": [hop], "payment_hash": invoice.payment_hash.hex(), "bolt11": text}
        given |= {"payment_secret": invoice.payment_secret.hex(), "amount_msat": total_msat}
        if parts > 1:
            given |= {"partid": partid, "groupid": 1}
        payer.call("sendpay", given)
    return payer, invoice.payment_hash.hex()


def statuses(town: Town, payment_hash: str) -> dict[int, str]:
    """How far the payer's parts are, by their ids."""
    sent = town.payer.call("listsendpays", {"payment_hash": payment_hash})["payments"]
    return {each.get("partid", 1): each["status"] for each in sent}


def booked(town: Town, payment_hash: str) -> list[tuple[str, int]]:
    """What the LSP's bookkeeper has of this payment: tags and credits."""
    events = town.lsp.call("bkpr-listaccountevents", {"payment_id": payment_hash})["events"]
    return sorted((each["tag"], each["credit_msat"]) for each in events)


def invoice_row(town: Town, payment_hash: str) -> Json:
    """The invoice as the LSP's lightningd lists it."""
    (row,) = town.lsp.call("listinvoices", {"payment_hash": payment_hash})["invoices"]
    return dict(row)


def test_ordered_paid_and_used(found_town: Callable[..., Town]) -> None:
    """E-02, E-10, E-13: held, opened, taken; the channel is there after a block, the invoice is gone."""
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
    until(lambda: not town.lsp.call("listinvoices", {"payment_hash": payment_hash})["invoices"], "the invoice is gone")
    assert booked(town, payment_hash) == [("invoice", bolt11_msat(order))]


def bolt11_msat(order: Any) -> int:
    """What the invoice of an order asks for."""
    return bolt11.decode(order["payment"]["bolt11"]["invoice"]).amount_msat or 0


def test_the_client_refuses_and_is_paid_back(found_town: Callable[..., Town]) -> None:
    """E-12, cln:H7: a stock node takes no zero-conf channel; its invoice is gone, the payer has its money."""
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
    row = invoice_row(town, payment_hash)
    assert (row["status"], row["amount_received_msat"]) == ("paid", bolt11_msat(order))
    assert booked(town, payment_hash) == [("invoice", bolt11_msat(order))]


def test_what_lightningd_says_of_a_payment_that_we_took(found_town: Callable[..., Town]) -> None:
    """E-12, rule:10: an answer `resolve` leaves the invoice unpaid, and the bookkeeper has each part as "invoice".

    `OrderInvoices.is_taken_beside` stands on that, and simnode's model of it: the credits of a hash against
    `amount_received_msat` of its invoice. In the transcript: `sendpsbt`, `datastore` (state "sent", "taken" names two
    parts), two `resolve`, then `listpeerchannels` without them, then `delinvoice` of an invoice that is "unpaid".
    """
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    held = town.hold(town.lsp, "rpc>host", "delinvoice")
    _, payment_hash = send(town, order, parts=2)
    until(held.exists, "the plugin deletes the invoice")
    until(lambda: set(statuses(town, payment_hash).values()) == {"complete"}, "the payment is taken")
    row, asked = invoice_row(town, payment_hash), bolt11_msat(order)
    assert (row["status"], row.get("amount_received_msat")) == ("unpaid", None)
    until(lambda: len(booked(town, payment_hash)) == 2, "the bookkeeper has heard of it")
    assert booked(town, payment_hash) == [("invoice", asked // 2), ("invoice", asked - asked // 2)]
    held.unlink()
    until(lambda: not town.lsp.call("listinvoices", {"payment_hash": payment_hash})["invoices"], "the invoice is gone")
    assert len(booked(town, payment_hash)) == 2


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


# Parts too many, parts that are lost ---------------------------------------------------------------


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def _tu(value: int) -> bytes:
    return value.to_bytes(8, "big").lstrip(b"\0")


def onion(town: Town, text: str, partid: int, more_msat: int = 0) -> Json:
    """One whole payment, as a raw onion: lightningd does not ask whether another one is under way.

    `more_msat`: that much more than the invoice asks for.
    """
    invoice, payer, lsp = bolt11.decode(text), town.payer, town.lsp.node_id
    amount = invoice.amount_msat
    assert amount is not None
    amount += more_msat
    delay = invoice.min_final_cltv_blocks + 1
    cltv = payer.call("getinfo")["blockheight"] + delay
    body = _tlv(2, _tu(amount)) + _tlv(4, _tu(cltv)) + _tlv(8, invoice.payment_secret + _tu(amount))
    hops = [{"pubkey": lsp, "payload": (bytes([len(body)]) + body).hex()}]
    made = payer.call("createonion", {"hops": hops, "assocdata": invoice.payment_hash.hex()})
    row = next(each for each in town.channels(payer, town.lsp))
    hop = {"id": lsp, "amount_msat": amount, "delay": delay, "channel": row["short_channel_id"]}
    given = {"onion": made["onion"], "first_hop": hop, "payment_hash": invoice.payment_hash.hex()}
    given |= {"partid": partid, "groupid": 1, "shared_secrets": made["shared_secrets"]}
    return given


@pytest.mark.parametrize("more_msat", [0, 1])
def test_what_comes_beside_a_whole_payment_goes_back(found_town: Callable[..., Town], more_msat: int) -> None:
    """E-12, rule:1, rule:20: of the same total or of another; what is held stays held, and buys a channel."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    text = order["payment"]["bolt11"]["invoice"]
    client.stop()
    until(lambda: not town.connected(town.lsp, client), "the client is away")
    town.payer.call("sendonion", onion(town, text, 1))
    reaches(town, order, "held")
    for partid in (2, 3):
        town.payer.call("sendonion", onion(town, text, partid, more_msat))
    payment_hash = bolt11.decode(text).payment_hash.hex()

    until(lambda: statuses(town, payment_hash) == {1: "pending", 2: "failed", 3: "failed"}, "the others end")
    client.start()
    town.connect(client, town.lsp)
    reaches(town, order, "sent")
    until(lambda: statuses(town, payment_hash)[1] == "complete", "the payment is taken")
    assert len(town.channels(town.lsp, client)) == 1
    assert not [line for line in town.lsp.log_text().splitlines() if "BROKEN" in line]


def reaches(town: Town, order: Any, state: str) -> None:
    """The LSP says so of this order."""
    listed = {"order_id": order["order_id"]}
    until(lambda: town.lsp.call("lsps2-listorders", listed)["orders"][0]["state"] == state, f"the order is {state}")


def leave(town: Town, payment_hash: str) -> None:
    """The payer's channel that carries this payment goes to the chain with it.

    The LSP's lightningd is told nothing by the payer's: it learns of the close from the block that has it.
    """
    rows = [row for row in town.channels(town.payer, town.lsp) if payment_hash in str(row["htlcs"])]
    town.payer.call("close", {"id": rows[0]["channel_id"], "unilateraltimeout": 1})

    def is_known() -> bool:
        town.mine()
        return state_at_lsp(town, rows[0]["channel_id"]) not in SHARED

    until(is_known, "the LSP knows of the close")


SHARED = ("CHANNELD_NORMAL", "CHANNELD_SHUTTING_DOWN")


def state_at_lsp(town: Town, channel_id: str) -> str:
    """Of this channel of the payer."""
    (row,) = [row for row in town.channels(town.lsp, town.payer) if row["channel_id"] == channel_id]
    return str(row["state"])


def test_the_channel_of_a_part_closes_while_it_is_held(found_town: Callable[..., Town]) -> None:
    """E-12, rule:19: the order ends at once; the payer has its part back from the chain, after its expiry only."""
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    client.stop()
    until(lambda: not town.connected(town.lsp, client), "the client is away")
    _, payment_hash = send(town, order)
    reaches(town, order, "held")
    leave(town, payment_hash)
    reaches(town, order, "failed")
    assert statuses(town, payment_hash) == {1: "pending"}
    for _ in range(8):
        town.mine(25)
    until(lambda: statuses(town, payment_hash) == {1: "failed"}, "the payer has its part back")
    assert town.channels(town.lsp, client) == []


def test_the_channel_of_a_part_closes_while_the_funding_is_sent(found_town: Callable[..., Town]) -> None:
    """E-12, rule:19, rule:20: lightningd tries to claim the part on chain with the preimage that we give it.

    The order counts as paid by then; whether a block ever has the claim is not tried here.
    """
    town = found_town(service_options=ON)
    client = town.node("client")
    client.start()
    town.connect(client, town.lsp)
    order = ask(town, client, "lsps1.create_order", ORDER)
    held = town.hold(town.lsp, "host>rpc", "sendpsbt")
    _, payment_hash = send(town, order)
    until(held.exists, "lightningd has sent the funding")
    leave(town, payment_hash)
    held.unlink()
    reaches(town, order, "sent")
    (row,) = town.lsp.call("lsps2-listorders", {"order_id": order["order_id"]})["orders"]
    assert row["paid"]
    town.mine()
    until(lambda: "we spent THEIR_HTLC" in str(town.channels(town.lsp, town.payer)), "lightningd claims")
    assert len(town.channels(town.lsp, client)) == 1
