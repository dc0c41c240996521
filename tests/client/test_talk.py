"""LSPS0 from the wallet's side: requests that no other peer can answer, and peers that lie."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.client import LSP, OTHER_LSP, Json, Lsp, Stage, Staging, StillClock

from lsps2fast.errors import NodeError, NodeUnreachable, PeerError
from lsps2fast.lsps.lsps0 import ErrorName
from lsps2fast_plugin.client.lsps0_client import SENTENCES, Lsps0Client, Unavailable


def sent(stage: Stage) -> list[Json]:
    return [json.loads(bytes.fromhex(call["msg"])[2:]) for call in stage.node.named("sendcustommsg")]


async def asked(stage: Stage, method: str = "lsps2.get_info", peer_id: str = LSP) -> asyncio.Task[Json]:
    """A request on its way; its answer is the test's business."""
    stage.lsps.setdefault(peer_id, Lsp(peer_id)).silent = True
    stage.node.peers.setdefault(peer_id, {})
    task = asyncio.ensure_future(stage.client.talk.call(peer_id, method, {}))
    await stage.calm()
    return task


def last_id(stage: Stage) -> str:
    identifier: str = sent(stage)[-1]["id"]
    return identifier


def reply(request_id: str, **body: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, **body}).encode()


async def test_a_request_is_one_object_with_four_members(staged: Staging) -> None:
    """T-01, T-05, T-06: type 37913, by name, with an id; never a notification."""
    async with staged() as stage:
        await stage.client.methods.get_info(LSP, "coupon")
        assert stage.node.named("sendcustommsg")[0]["msg"].startswith("9419")
        (request,) = sent(stage)
        assert set(request) == {"jsonrpc", "method", "params", "id"}
        assert (request["jsonrpc"], request["method"], request["params"]) == (
            "2.0",
            "lsps2.get_info",
            {"token": "coupon"},
        )
        assert isinstance(request["id"], str)


def test_ids_are_long_random_and_fresh() -> None:
    """T-07: at least 80 bits from the system's generator."""
    talk = Lsps0Client(None, StillClock())  # type: ignore[arg-type]
    ids = {talk._token() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert min(map(len, ids)) >= 20


async def test_without_randomness_there_is_no_request(staged: Staging) -> None:
    """T-07: no fall-back."""
    async with staged() as stage:

        def broken() -> str:
            raise OSError("no entropy")

        stage.client.talk._token = broken
        with pytest.raises(OSError, match="entropy"):
            await stage.client.talk.call(LSP, "lsps2.get_info", {})
        assert not sent(stage)


@pytest.mark.parametrize("name", ["result for an open request a1", "error for an open request a1"])
async def test_vectors_that_are_answers(staged: Staging, vectors: dict[str, Any], name: str) -> None:
    """V:json_rpc.client_input: result and error reach the caller."""
    vector = next(each for each in vectors["json_rpc"]["client_input"] if each["name"] == name)
    async with staged() as stage:
        stage.client.talk._token = lambda: "a1"
        task = await asked(stage)
        stage.message(LSP, bytes.fromhex(vector["frame_hex"])[2:])
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        assert done == {"protocols": [2]} or (isinstance(done, PeerError) and done.code == -32603)


@pytest.mark.parametrize(
    "name", ["unknown id", "same id from another peer", "unknown notification", "id null parse error"]
)
async def test_vectors_to_ignore(staged: Staging, vectors: dict[str, Any], name: str) -> None:
    """V:json_rpc.client_input (T-08, T-26, T-27): the request goes on waiting, the peer is not muted."""
    vector = next(each for each in vectors["json_rpc"]["client_input"] if each["name"] == name)
    sender = OTHER_LSP if "another peer" in name else LSP
    async with staged() as stage:
        stage.client.talk._token = lambda: "a1"
        task = await asked(stage)
        stage.message(sender, bytes.fromhex(vector["frame_hex"])[2:])
        await stage.calm()
        assert not task.done()
        assert not stage.client.talk.muted(sender)
        task.cancel()


BAD = [
    "not JSON",
    "array",
    "both result and error",
    "neither result nor error nor method",
    "wrong version",
    "zero byte",
    "numeric id",
]


@pytest.mark.parametrize("name", BAD)
async def test_a_peer_that_sends_rubbish_is_left_alone_until_it_reconnects(
    staged: Staging, vectors: dict[str, Any], name: str
) -> None:
    """T-24: V:json_rpc.client_input, bad messages; the next request fails here without a message to the peer."""
    vector = next(each for each in vectors["json_rpc"]["client_input"] if each["name"] == name)
    async with staged() as stage:
        stage.client.talk._token = lambda: "a1"
        task = await asked(stage)
        stage.message(LSP, bytes.fromhex(vector["frame_hex"])[2:])
        with pytest.raises(Unavailable, match="no LSPS message"):
            await task
        count = len(sent(stage))
        with pytest.raises(Unavailable, match="left alone"):
            await stage.client.methods.get_info(LSP)
        assert len(sent(stage)) == count
        stage.disconnect(LSP)
        stage.connect(LSP)
        stage.lsp.silent = False
        assert await stage.client.methods.get_info(LSP)


async def test_a_new_connection_alone_forgives(staged: Staging) -> None:
    """T-24: a peer may come back before lightningd has told that it left."""
    async with staged() as stage:
        stage.message(LSP, b"rubbish")
        assert stage.client.talk.muted(LSP)
        stage.connect(LSP)
        assert await stage.client.methods.get_info(LSP)


async def test_a_peer_cannot_fill_the_log(staged: Staging) -> None:
    """rule:14: what is ignored is logged ten times a connection, rubbish once."""
    async with staged() as stage:
        for _ in range(50):
            stage.message(LSP, b'{"jsonrpc":"2.0","id":"unknown","result":{}}')
        assert stage.host.said("info").count("not open") == 10
        for _ in range(50):
            stage.message(LSP, b"rubbish")
        assert stage.host.said("warn").count("ignored") == 1
        stage.disconnect(LSP)
        stage.connect(LSP)
        stage.message(LSP, b"rubbish")
        assert stage.host.said("warn").count("ignored") == 2


async def test_an_answer_counts_only_from_the_peer_that_was_asked(staged: Staging) -> None:
    """T-08: another LSP that knows the id cannot answer."""
    async with staged() as stage:
        task = await asked(stage)
        stage.node.peers[OTHER_LSP] = {}
        stage.message(OTHER_LSP, reply(last_id(stage), result={"evil": True}))
        stage.message(LSP, reply(last_id(stage), result={"good": True}))
        assert await task == {"good": True}


async def test_a_second_answer_is_nobodys(staged: Staging) -> None:
    """T-08."""
    async with staged() as stage:
        task = await asked(stage)
        request_id = last_id(stage)
        stage.message(LSP, reply(request_id, result={"first": 1}))
        stage.message(LSP, reply(request_id, result={"second": 2}))
        assert await task == {"first": 1}
        assert "not open" in stage.host.said("info")


async def test_answers_may_come_in_any_order(staged: Staging) -> None:
    """T-29: matched by id only."""
    async with staged() as stage:
        one = await asked(stage)
        two = await asked(stage)
        first, second = (request["id"] for request in sent(stage))
        stage.message(LSP, reply(second, result={"n": 2}))
        stage.message(LSP, reply(first, result={"n": 1}))
        assert (await one, await two) == ({"n": 1}, {"n": 2})


async def test_a_silent_lsp_is_given_up_and_its_late_answer_ignored(staged: Staging) -> None:
    """T-09: 60 s; then T-08."""
    async with staged() as stage:
        task = await asked(stage)
        await stage.pass_time(59.9)
        assert not task.done()
        await stage.pass_time(0.2)
        with pytest.raises(Unavailable, match=r"did not answer lsps2\.get_info within 60 s"):
            await task
        assert len(stage.client.talk) == 0
        stage.message(LSP, reply(last_id(stage), result={}))
        assert "not open" in stage.host.said("info")


async def test_a_disconnect_ends_the_waiting(staged: Staging) -> None:
    """T-38: temporary, and at once."""
    async with staged() as stage:
        task = await asked(stage)
        stage.disconnect(LSP)
        with pytest.raises(Unavailable, match="disconnected"):
            await task


@pytest.mark.parametrize(
    "fault",
    [NodeError("sendcustommsg", -32600, "No such peer: x"), NodeUnreachable("sendcustommsg", "closed")],
    ids=["no such peer", "node gone"],
)
async def test_a_message_that_cannot_be_sent_fails_at_once(staged: Staging, fault: NodeError) -> None:
    """T-38."""
    async with staged() as stage:
        stage.node.faults["sendcustommsg"] = [fault]
        with pytest.raises(Unavailable, match="could not be sent"):
            await stage.client.talk.call(LSP, "lsps2.get_info", {})
        assert len(stage.client.talk) == 0


async def test_requests_of_a_peer_are_left_to_the_service(staged: Staging) -> None:
    """T-39: a node that is both."""
    async with staged() as stage:
        stage.message(LSP, reply("7", method="lsps2.get_info", params={}))
        assert not stage.client.talk.muted(LSP)
        assert not sent(stage)


async def test_other_message_types_are_none_of_our_business(staged: Staging) -> None:
    """T-01, T-37."""
    async with staged() as stage:
        assert stage.client._on_custommsg(LSP, "0007deadbeef") == {"result": "continue"}
        assert not stage.client.talk.muted(LSP)


@pytest.mark.parametrize(
    ("code", "data", "name"),
    [
        (-32700, None, "parse_error"),
        (-32601, None, "method_not_found"),
        (-32602, {"unrecognized": []}, "invalid_params"),
        (-32602, None, "unrecognized"),
        (-32603, None, "internal_error"),
        (-32099, None, "internal_error"),
        (-32000, None, "internal_error"),
        (1, {"message": "no"}, "client_rejected"),
        (1, None, "unrecognized"),
        (200, None, "unrecognized_or_stale_token"),
        (201, None, "invalid_opening_fee_params"),
        (202, None, "payment_size_too_small"),
        (203, None, "payment_size_too_large"),
        (5, None, "unrecognized"),
        (299, None, "unrecognized"),
        (12345, None, "unrecognized"),
    ],
)
async def test_an_error_of_the_lsp_fails_the_command_with_its_code(
    staged: Staging, code: int, data: Any, name: ErrorName
) -> None:
    """T-19, T-22, T-23, I-34: the code stays, the words are ours."""
    async with staged() as stage:
        error = {"code": code, "message": "whatever"} | ({} if data is None else {"data": data})
        stage.lsp.errors["lsps2.get_info"] = [error]
        with pytest.raises(PeerError) as failed:
            await stage.client.methods.get_info(LSP)
        assert failed.value.code == code
        assert failed.value.message == f"lsps2.get_info: {SENTENCES[name]} ({name})"


async def test_an_lsps_text_reaches_neither_user_nor_log_unwashed(staged: Staging) -> None:
    """T-21: no control characters, no markup, 512 characters at most, only in the debug log."""
    async with staged() as stage:
        text = "<b>\x1b[31m\nWIRE TO MALLORY" + "x" * 2000
        stage.lsp.errors["lsps2.get_info"] = [{"code": 203, "message": text}]
        with pytest.raises(PeerError) as failed:
            await stage.client.methods.get_info(LSP)
        assert "MALLORY" not in failed.value.message
        (line,) = [text for text, _ in stage.host.logs if "MALLORY" in text]
        assert "MALLORY" in stage.host.said("debug")
        assert not set(line) & set("<\x1b\n")
        assert len(line) < 700


async def test_the_wallet_claims_no_feature_bit(staged: Staging) -> None:
    """T-33: option_supports_lsps is for LSPs."""
    async with staged() as stage:
        assert not any(stage.client.plugin.featurebits.values())
