"""Messages of clients: replies that cannot be delivered, stray responses, two clients, slow answers, rubbish."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.service import FEE_MSAT, SIZE_MSAT, Stage

from lsps2fast.lsps.lsps0 import INTERNAL_ERROR
from lsps2fast_plugin.simnode import Client, LspsError

PARSE_ERROR = -32700


async def _bought(stage: Stage) -> dict[str, Any]:
    """The record of the only buy there is."""
    await stage.until(lambda: stage.records("active"), "the buy is stored")
    await stage.quiet()
    (record,) = stage.records("active").values()
    return record


async def test_a_buy_whose_answer_could_not_be_delivered_stands_until_it_expires() -> None:
    """T-32, T-38: the client goes away during lsps2.buy; one attempt to send, one line in the log, no resend."""
    async with Stage() as stage:
        client = stage.client()
        offer = await stage.offer(client)
        slow = stage.lsp.faults.late("datastore")
        client.send_raw(_request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)}))
        await slow.reached.wait()
        client.go_offline()
        slow.release()
        record = await _bought(stage)
        assert record["peer_id"] == client.node_id
        assert len(stage.calls("sendcustommsg")) == 2  # the menu and this
        assert len(stage.log_lines(f"reply to {client.node_id} could not be sent: .*No such peer")) == 1
        client.connect()
        await stage.quiet()
        assert len(stage.calls("sendcustommsg")) == 2
        await stage.world.advance(3600)
        await stage.until(lambda: not stage.records("active"), "the buy is forgotten in time (B-14)")


def _request(method: str, params: Any, request_id: str = "by hand") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": "1", "result": {"protocols": [2]}},
        {"jsonrpc": "2.0", "id": "1", "error": {"code": 1, "message": "no"}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": PARSE_ERROR, "message": "parse error"}},
    ],
)
async def test_a_response_is_not_for_the_service(message: dict[str, Any]) -> None:
    """T-39, T-12: objects with result or error are the client's business; two services must not talk in circles."""
    async with Stage() as stage:
        client = stage.client()
        client.send_raw(json.dumps(message).encode())
        await stage.offer(client)
        assert len(client.messages) == 1


async def test_messages_of_other_types_do_not_reach_us() -> None:
    """T-37, cln:M4: only 37913 is ours."""
    async with Stage() as stage:
        client = stage.client()
        client.send_raw(_request("lsps2.get_info", {}), message_type=37_915)
        await stage.offer(client)
        assert len(client.messages) == 1
        assert sum(method == "custommsg" for method, _ in stage.asked.values()) == 1


async def test_a_peer_that_never_spoke_to_us_hears_nothing() -> None:
    """T-28: not when it connects, not when another peer buys and is paid."""
    async with Stage() as stage:
        quiet = stage.client("quiet")
        await stage.sale(stage.client(), stage.payer())
        quiet.go_offline()
        quiet.connect()
        await stage.quiet()
        assert quiet.messages == []
        assert quiet.node_id not in {call["node_id"] for call in stage.calls("sendcustommsg")}


async def test_an_onion_message_to_a_jit_scid_is_lost_and_logged() -> None:
    """A-04: lightningd maps the scids of onion messages itself; a plugin can only tell the operator."""
    async with Stage() as stage:
        invoice = await stage.invoice(stage.client())
        for hop in (f"{invoice.scid}/0", f"{invoice.scid}/1", "1x1x1/0", "none", ""):
            stage.lsp.notify("onionmessage_forward_fail", {"next_short_channel_id_dir": hop})
        await stage.fence()
        assert len(stage.log_lines(f"an onion message for jit scid {invoice.scid} was lost")) == 2
        assert len(stage.log_lines("an onion message for")) == 2


async def test_two_clients_buy_and_each_scid_leads_to_its_own() -> None:
    """B-05: the peer that asked is the peer that gets the channel."""
    async with Stage() as stage:
        payer = stage.payer()
        alice, bob = stage.client("alice"), stage.client("bob")
        invoices = [await stage.invoice(client) for client in (alice, bob)]
        assert invoices[0].scid != invoices[1].scid
        for invoice in reversed(invoices):
            await stage.paid(payer, invoice)
            await stage.over(invoice)
        assert [len(client.opens) for client in (alice, bob)] == [1, 1]


async def test_an_offer_made_to_one_client_is_worth_nothing_to_another() -> None:
    """B-05, P-03, trap:29: the promise is bound to the peer."""
    async with Stage() as stage:
        offer = await stage.offer(stage.client("alice"))
        with pytest.raises(LspsError) as refused:
            await stage.client("bob").request("lsps2.buy", {"opening_fee_params": offer})
        assert refused.value.code == 201


async def test_the_same_offer_may_be_bought_twice() -> None:
    """B-13: each buy has a scid of its own."""
    async with Stage() as stage:
        client = stage.client()
        offer = await stage.offer(client)
        scids = [
            (await client.request("lsps2.buy", {"opening_fee_params": offer}))["jit_channel_scid"] for _ in range(2)
        ]
        assert len(set(scids)) == 2


async def test_sold_channels_do_not_count_as_unused_buys() -> None:
    """B-14, rule:14: the limit is on buys that wait; a client that uses each of them is served on."""
    async with Stage(options={"lsps2-max-buys-per-peer": 2}) as stage:
        client, payer = stage.client(), stage.payer()
        for _ in range(3):
            await stage.sale(client, payer)


async def test_unused_buys_are_limited_and_free_again_when_they_expire() -> None:
    """B-14, rule:14: code 1 above the limit; nothing stored for it."""
    async with Stage(options={"lsps2-max-buys-per-peer": 2}) as stage:
        client = stage.client()
        for _ in range(2):
            await stage.buy(client)
        with pytest.raises(LspsError) as refused:
            await stage.buy(client)
        assert refused.value.code == INTERNAL_ERROR
        assert len(stage.records("active")) == 2
        await stage.buy(stage.client("bob"))
        await stage.world.advance(3600)
        await stage.until(lambda: not stage.records("active"), "all are forgotten")
        await stage.buy(client)


async def test_a_slow_answer_to_one_client_delays_no_other() -> None:
    """T-37: the hook is answered at once; a buy that hangs hangs alone."""
    async with Stage() as stage:
        alice, bob = stage.client("alice"), stage.client("bob")
        offer = await stage.offer(alice)
        slow = stage.lsp.faults.hang("datastore")
        buying = asyncio.ensure_future(alice.request("lsps2.buy", {"opening_fee_params": offer}))
        await slow.reached.wait()
        await stage.buy(bob)
        assert not buying.done()
        slow.release()
        await buying


async def test_eleven_requests_at_once_are_ten_and_a_refusal() -> None:
    """T-36, rule:14: the eleventh of one peer gets -32603; others are served."""
    async with Stage(options={"lsps2-max-buys-per-peer": 100}) as stage:
        alice, bob = stage.client("alice"), stage.client("bob")
        offer = await stage.offer(alice)
        slow = stage.lsp.faults.hang("datastore", times=10)
        ask = {"opening_fee_params": offer}
        buying = [asyncio.ensure_future(alice.request("lsps2.buy", ask)) for _ in range(11)]
        (refused,), waiting = await asyncio.wait(buying, return_when=asyncio.FIRST_COMPLETED)
        assert "-32603" in str(refused.exception())
        await stage.until(lambda: slow.hits == 10, "ten under way")
        await stage.buy(bob)
        slow.release()
        assert len([(await each)["jit_channel_scid"] for each in waiting]) == 10


RUBBISH: list[bytes] = [
    b"",
    b"\0",
    b"hello",
    b"[]",
    b"{}",
    b"null",
    b"{" * 1000,
    b'{"jsonrpc":"2.0","id":"1","method":"lsps2.get_info","params":{}}x',
    b'{"jsonrpc":"2.0","id":"1","method":"lsps2.get_info","params":{},"id":"2"}',
    b'{"jsonrpc":"1.0","id":"1","method":"lsps2.get_info","params":{}}',
    b'{"jsonrpc":"2.0","id":1,"method":"lsps2.get_info","params":{}}',
    b'{"jsonrpc":"2.0","id":"1","method":7,"params":{}}',
    b"\xff\xfe{}",
    b'{"jsonrpc":"2.0","id":"1","method":"lsps2.get_info","params":{"x":NaN}}',
    b"\n\n" + b'{"jsonrpc":"2.0","method":"forward_event","params":{}}' + b"\n\n",
    b"[" * 30_000 + b"]" * 30_000,
]


async def _replies(stage: Stage, client: Client) -> list[Any]:
    await stage.quiet()
    return [json.loads(message[2:]) for message in client.messages]


async def test_rubbish_gets_an_error_or_silence_and_changes_nothing() -> None:
    """trap:33, T-11, T-12, rule:16: at most one reply each, ten a minute, nothing stored, and then a sale."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        for message in RUBBISH:
            client.send_raw(message)
        replies = await _replies(stage, client)
        assert {reply["error"]["code"] for reply in replies} == {PARSE_ERROR}
        assert len(replies) <= 10
        assert stage.lsp.datastore.rows == {}
        await stage.sale(client, payer)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"opening_fee_params": None}, -32602),
        ({"opening_fee_params": []}, -32602),
        ({"payment_size_msat": 10_000_000}, -32602),
        ({"payment_size_msat": "1e7"}, -32602),
        ({"payment_size_msat": "-1"}, -32602),
        ({"payment_size_msat": str(2**64)}, -32602),
        ({"payment_size_msat": "0"}, 202),
        ({"payment_size_msat": str(2**64 - 1)}, 203),
        ({"unknown": "key"}, -32602),
    ],
)
async def test_a_buy_with_odd_parameters_is_refused_and_nothing_is_stored(change: dict[str, Any], code: int) -> None:
    """B-01, B-06, trap:33: the code of bLIP-52 or -32602; the next buy is sold."""
    async with Stage() as stage:
        client = stage.client()
        ask = {"opening_fee_params": await stage.offer(client), "payment_size_msat": str(SIZE_MSAT)} | change
        with pytest.raises(LspsError) as refused:
            await client.request("lsps2.buy", ask)
        assert refused.value.code == code
        assert stage.lsp.datastore.rows == {}
        await stage.buy(client)


@pytest.mark.parametrize(
    "change",
    [
        {"min_fee_msat": str(FEE_MSAT - 1)},
        {"proportional": 0},
        {"valid_until": "2099-01-01T00:00:00.000Z"},
        {"valid_until": "1969-01-01T00:00:00.000Z"},
        {"min_lifetime": 1},
        {"promise": "00" * 32},
        {"extra": "1"},
    ],
)
async def test_an_offer_that_was_changed_is_refused(change: dict[str, Any]) -> None:
    """trap:29, X-04, P-03: 201 whatever was touched."""
    async with Stage() as stage:
        client = stage.client()
        offer = await stage.offer(client) | change
        with pytest.raises(LspsError) as refused:
            await client.request("lsps2.buy", {"opening_fee_params": offer})
        assert refused.value.code == 201
        assert stage.lsp.datastore.rows == {}


async def test_requests_that_come_while_the_journal_is_read_are_answered_afterwards() -> None:
    """rule:15, T-37: the hook at once, the answer when we can give one."""
    stage = Stage(ready=False)
    slow = stage.lsp.faults.late("listdatastore")
    async with stage:
        client = stage.client()
        await slow.reached.wait()
        asking = asyncio.ensure_future(client.request("lsps2.get_info"))
        await stage.until(lambda: stage.asked, "the hook call")
        await stage.until(lambda: stage.answered[next(iter(stage.asked))], "its answer")
        assert not asking.done()
        slow.release()
        assert (await asking)["opening_fee_params_menu"]
        await stage.selling()
