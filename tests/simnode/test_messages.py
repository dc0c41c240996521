"""Custom messages and the datastore (facts cln:L and cln:D)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from harness.puppet import Strings, Wire, recorded_calls

from lsps2fast_plugin.simnode import LspsError, NodeProblem, RpcError, World

MakeWorld = Callable[..., World]
LISTEN = {
    "manifest": {"hooks": [{"name": "custommsg", "filters": [37913]}]},
    "hooks": {"custommsg": {"result": "continue"}},
}


async def test_messages_go_both_ways(make_world: MakeWorld) -> None:
    """cln:L1: type included in the hook, peer_id second; sendcustommsg's status."""
    async with make_world(LISTEN) as world:
        client, strings = world.client(), Strings(world.lsp)
        asked = world.background(client.request("lsps0.list_protocols"))
        (hook,) = await strings.seen("custommsg", 1)
        assert list(hook) == ["payload", "peer_id"]
        assert hook["peer_id"] == client.node_id
        request = json.loads(bytes.fromhex(hook["payload"])[2:])
        assert (hook["payload"][:4], request["method"], request["params"]) == ("9419", "lsps0.list_protocols", {})
        reply = {"jsonrpc": "2.0", "id": request["id"], "result": {"protocols": [2]}}
        message = {"node_id": client.node_id, "msg": "9419" + json.dumps(reply).encode().hex()}
        sent = await world.lsp.call("sendcustommsg", message)
        assert sent == {"status": "Message sent to connectd for delivery"}
        assert await asked == {"protocols": [2]}


async def test_an_error_of_the_lsp_is_raised(make_world: MakeWorld) -> None:
    """The client's view of a JSON-RPC error, and of a link that breaks."""
    async with make_world(LISTEN) as world:
        client = world.client()
        asked = world.background(client.request("lsps2.get_info"))
        await Strings(world.lsp).seen("custommsg", 1)
        reply = {"jsonrpc": "2.0", "id": "client-1", "error": {"code": 200, "message": "unrecognized token"}}
        message = {"node_id": client.node_id, "msg": "9419" + json.dumps(reply).encode().hex()}
        await world.lsp.call("sendcustommsg", message)
        with pytest.raises(LspsError, match="unrecognized token"):
            await asked
        broken = world.background(client.request("lsps2.get_info"))
        await Strings(world.lsp).seen("custommsg", 2)
        client.disconnect()
        with pytest.raises(NodeProblem, match="link"):
            await broken


@pytest.mark.parametrize(
    ("peer", "msg", "text"),
    [
        ("02" * 33, "9419", "No such peer: "),
        (None, "001100", "Cannot send messages of type 17 (WIRE_ERROR)"),
    ],
)
async def test_refusals_of_sendcustommsg(make_world: MakeWorld, peer: str | None, msg: str, text: str) -> None:
    """cln:L2: both -32600, with the recorded beginnings."""
    async with make_world() as world:
        client = world.client()
        with pytest.raises(RpcError) as refused:
            await world.lsp.call("sendcustommsg", {"node_id": peer or client.node_id, "msg": msg})
        assert refused.value.code == -32600
        assert refused.value.message.startswith(text)


@pytest.mark.parametrize(("size", "state"), [(65_535, "running"), (65_536, "crashed")])
async def test_a_message_too_long_kills_the_sender(make_world: MakeWorld, size: int, state: str) -> None:
    """cln:L4: 65 535 bytes pass, type included; one more and lightningd exits."""
    async with make_world() as world:
        client = world.client()
        message = {"node_id": client.node_id, "msg": "9419" + "20" * (size - 2)}
        sending = asyncio.gather(world.lsp.call("sendcustommsg", message), return_exceptions=True)
        await world.until(lambda: world.lsp.state == "crashed" or client.messages)
        await sending
        assert world.lsp.state == state


async def test_the_datastore_answers_as_recorded(make_world: MakeWorld) -> None:
    """cln:D1 to cln:D4: every call of o_datastore over the socket, answer by answer."""
    calls = recorded_calls("o_datastore", "l2/driver-rpc")
    calls = [call for call in calls if call[0]["params"] != {} and "characters in all" not in str(call)]
    assert len(calls) > 35
    async with make_world() as world, Wire(world.lsp) as wire:
        for request, answer in calls:
            # a string with an escape was sent as one: only that makes cln:D3 appear
            wire.send(json.dumps(request, ensure_ascii=_escaped(answer)).encode())
            mine = await wire.next()
            assert mine == answer, request


def _escaped(answer: dict[str, object]) -> bool:
    return "without \\u" in str(answer.get("error", {})).replace("\\\\", "\\")


async def test_large_values_and_long_keys(make_world: MakeWorld) -> None:
    """cln:D4: 1 MB and 5000 characters."""
    async with make_world() as world:
        row = await world.lsp.call("datastore", {"key": ["t", "k" * 5000], "string": "x" * 1_000_000})
        assert len(row["hex"]) == 2_000_000


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        ("datastore", {"string": "x"}, "missing required parameter: key"),
        ("datastore", {"key": ["a"], "text": "x"}, "unknown parameter: text"),
        ("sendcustommsg", ["02" * 33], "missing required parameter: msg"),
        ("getinfo", [1], "too many parameters"),
        ("fundpsbt", {"satoshi": "x", "feerate": "normal", "startweight": 0}, "satoshi: should be a satoshi amount"),
        ("no-such", {}, "Unknown command 'no-such'"),
        ("makesecret", {}, "Must have either hex or string"),
    ],
)
async def test_parameters_are_checked(make_world: MakeWorld, method: str, params: object, text: str) -> None:
    """The words of lightningd for missing, unknown and malformed parameters."""
    async with make_world() as world:
        with pytest.raises(RpcError, match=text.split(":")[0]) as refused:
            await world.lsp.call(method, params)
        assert text in refused.value.message


async def test_about_the_node(make_world: MakeWorld) -> None:
    """getinfo, feerates, listconfigs, makesecret, listpeers, help, datastoreusage give what they should."""
    async with make_world(fee_base_msat=1000, fee_ppm=10) as world:
        lsp, client = world.lsp, world.client()
        call = lsp.call
        assert (await call("getinfo"))["blockheight"] == 109
        assert (await call("feerates", {"style": "perkw"}))["perkw"]["opening"] == 2500
        assert (await call("listconfigs", {"config": "fee-base"}))["configs"]["fee-base"]["value_int"] == 1000
        first, again = [(await call("makesecret", {"string": "x"}))["secret"] for _ in range(2)]
        other = (await call("makesecret", {"string": "y"}))["secret"]
        assert (first == again, first == other, len(first)) == (True, False, 64)
        (peer,) = (await call("listpeers"))["peers"]
        assert (list(peer), peer["id"]) == (["id", "connected", "num_channels", "netaddr", "features"], client.node_id)
        commands = [row["command"].split()[0] for row in (await call("help"))["help"]]
        assert {"fundpsbt", "puppet-open"} <= set(commands)
        await call("datastore", {"key": ["a", "b"], "string": "abc"})
        assert (await call("datastoreusage"))["datastoreusage"]["total_bytes"] == 7
