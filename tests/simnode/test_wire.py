"""The pipes between the node and a plugin, and the RPC socket (facts cln:W and cln:P, shutdown)."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from harness.puppet import Strings, Wire, hearing

from lsps2fast_plugin.simnode import PluginFailed, RpcError, WaitTimeout, World
from lsps2fast_plugin.simnode.errors import NodeDown
from lsps2fast_plugin.simnode.frames import BadFrame, Splitter, parse, raw_member
from lsps2fast_plugin.simnode.lightningd import Node
from lsps2fast_plugin.simnode.process import Child, start_process
from lsps2fast_plugin.simnode.rpcserver import RpcServer

MakeWorld = Callable[..., World]


async def test_the_first_two_requests_are_getmanifest_and_init(make_world: MakeWorld) -> None:
    """cln:W1, cln:M2: order, ids, and what init says."""
    async with make_world() as world:
        first, second = world.transcript.select("host>plugin")[:2]
        assert first["msg"]["method"] == "getmanifest"
        assert first["msg"]["params"] == {"allow-deprecated-apis": False}
        assert first["msg"]["id"] == "cln:getmanifest#19"
        configuration = second["msg"]["params"]["configuration"]
        assert list(configuration) == ["lightning-dir", "rpc-file", "startup", "network", "feature_set"]
        assert configuration["lightning-dir"].endswith("/regtest")
        assert (configuration["rpc-file"], configuration["startup"]) == ("lightning-rpc", True)
        assert Path(world.lsp.rpc_path) == Path(configuration["lightning-dir"]) / "lightning-rpc"


async def test_the_environment_is_that_of_lightningd(make_world: MakeWorld) -> None:
    """cln:W1: LIGHTNINGD_PLUGIN and LIGHTNINGD_VERSION are set, the working directory is lightning-dir."""
    async with make_world() as world:
        process = Path(f"/proc/{world.lsp.plugin.pid}")
        environment = (process / "environ").read_bytes().split(b"\0")
        assert b"LIGHTNINGD_PLUGIN=1" in environment
        assert f"LIGHTNINGD_VERSION={world.lsp.version}".encode() in environment
        assert str((process / "cwd").readlink()) == world.lsp.lightning_dir
        assert str((process / "fd" / "0").readlink()).startswith("pipe:")


async def test_a_call_on_behalf_of_a_caller_carries_his_id(make_world: MakeWorld) -> None:
    """cln:W1: caller's id, a slash, our own."""
    async with make_world() as world, Wire(world.lsp) as wire:
        wire.ask("mine#7", "puppet-echo", {})
        assert (await wire.next())["id"] == "mine#7"
        asked = world.transcript.select("host>plugin", method="puppet-echo")[0]["msg"]["id"]
        assert asked.startswith("mine#7/cln:puppet-echo#")


async def test_several_hooks_are_open_and_answered_in_any_order(make_world: MakeWorld) -> None:
    """cln:W2, cln:W10: five parts open together, answered last first."""
    async with make_world() as world:
        strings, client, payer = Strings(world.lsp), world.client(), world.payer()
        payment = payer.pay(client.invoice(5_000, scid="1x1x1"), [1_000] * 5)
        for call in reversed(await strings.opened(5)):
            await strings.answer(call, result={"result": "fail", "failure_message": "10070000"})
        assert (await payment).raw_messages == ["10070000"] * 5


async def test_frames_are_found_by_structure_and_params_go_on_verbatim(make_world: MakeWorld) -> None:
    """cln:W9: two newlines and braces inside a string smuggle nothing in, and reach the plugin as they are."""
    forged = '{"a":"}\n\n{\\"jsonrpc\\":\\"2.0\\",\\"method\\":\\"forward_event\\"}","b":1}'
    async with make_world() as world, Wire(world.lsp) as wire:
        frame = '{"jsonrpc":"2.0","id":"x","method":"puppet-echo","params":' + forged + "}"
        wire.send(frame[:40].encode())
        await asyncio.sleep(0)
        wire.send(frame[40:].encode() + b'{"jsonrpc":"2.0","id":"y","method":"getinfo","params":{}}')
        answers = {answer["id"]: answer for answer in (await wire.next(), await wire.next())}
        assert answers["x"]["result"] == json.loads(forged, strict=False)
        assert world.transcript.select("host>plugin", method="puppet-echo")[0]["msg"]["params"] == forged


@pytest.mark.parametrize("text", ["hello", '{"id":"none","jsonrpc":"2.0","result":{}}', "}", '["a"]', "{]}"])
async def test_a_plugin_that_breaks_the_line_is_killed(make_world: MakeWorld, text: str) -> None:
    """cln:W9, rule:1: no JSON, or an answer to nothing, and lightningd kills the plugin; it lives on itself."""
    async with make_world() as world:
        broken = asyncio.ensure_future(world.lsp.call("puppet-raw", {"text": text}))
        await world.until(lambda: not world.lsp.plugins, "the plugin is gone")
        assert isinstance((await asyncio.gather(broken, return_exceptions=True))[0], RpcError)
        assert world.lsp.state == "running"


async def test_a_second_answer_to_one_call_kills_the_plugin(make_world: MakeWorld) -> None:
    """rule:1: the id is no longer open."""
    async with make_world() as world:
        strings, client, payer = Strings(world.lsp), world.client(), world.payer()
        payer.pay(client.invoice(1_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        failure = {"result": {"result": "fail", "failure_message": "2002"}}
        await strings.answer(call, **failure)
        with pytest.raises(RpcError, match="terminated"):
            await strings.answer(call, **failure)
        events = [str(entry["msg"].get("event")) for entry in world.transcript.entries]
        assert any("non-existent request" in event for event in events)


async def test_init_may_call_the_node_before_it_is_answered(make_world: MakeWorld) -> None:
    """cln:M2: the socket is open while init is."""
    world = make_world({"init_hold": True})
    async with asyncio.timeout(60):
        starting = asyncio.ensure_future(world.__aenter__())
        await world.until(lambda: world.transcript.select("host>plugin", method="init"))
        async with Wire(world.lsp) as wire:
            wire.ask("early", "getinfo", {})
            assert (await wire.next())["result"]["id"] == world.lsp.node_id
        await world.lsp.call("puppet-init")
        await starting
        await world.__aexit__(None, None, None)


@pytest.mark.slow
async def test_a_deaf_plugin_does_not_hold_the_node_for_ever(make_world: MakeWorld) -> None:
    """cln:W6: the handshake is bounded."""
    world = make_world({"deaf": True})
    world.lsp.plugin_patience_s = 0.3
    with pytest.raises(PluginFailed, match="getmanifest"):
        await world.__aenter__()


@pytest.mark.parametrize("turns", range(6))
def test_whoever_connects_as_the_node_dies_is_hung_up_on(tmp_path: Path, turns: int) -> None:
    """P1, cln:R5: at every turn of the loop at which a connection can be under way; else its socket stays open for
    ever.
    """
    path = str(tmp_path / "rpc")
    caller = socket.socket(socket.AF_UNIX)

    async def die() -> None:
        server = RpcServer(cast(Node, SimpleNamespace(name="lsp")))
        await server.start(path)
        caller.connect(path)
        for _ in range(turns):
            await asyncio.sleep(0)
        server.stop()
        await server.stopped()

    with warnings.catch_warnings(record=True) as said, caller:
        warnings.simplefilter("always")
        asyncio.run(die())
        gc.collect()
    assert [str(warning.message) for warning in said] == []


async def test_a_question_to_a_plugin_that_is_gone_fails_at_once(make_world: MakeWorld) -> None:
    """cln:W6, cln:H12: the patience is not waited for when the process has ended."""
    async with make_world() as world:
        plugin = world.lsp.plugin
        await world.lsp.kill_plugin()
        with pytest.raises(PluginFailed, match="exited"):
            await plugin.ask("puppet-echo", {})


async def test_a_process_that_ends_while_it_starts_is_no_plugin(make_world: MakeWorld) -> None:
    """cln:M5: its end came before its pipe was read, and `plugin start` says so at once."""
    async with make_world() as world:

        async def start_and_bury(*given: Any) -> Child:
            child = await start_process(*given)
            await child.wait()
            return child

        world.start_process = start_and_bury
        with pytest.raises(RpcError, match="exited before completing handshake"):
            await world.lsp.start_plugin([sys.executable, "-c", ""])
        assert len(world.lsp.plugins) == 1


async def test_hooks_arrive_before_init_is_answered_on_a_dynamic_start(make_world: MakeWorld) -> None:
    """cln:W11, cln:M2: startup is false, and a part comes before init's answer."""
    async with make_world() as world:
        argv, plan = world.lsp.plugin.argv, json.dumps({"init_hold": True})
        await world.lsp.stop_plugin()
        starting = asyncio.ensure_future(world.lsp.start_plugin(argv, env={"PUPPET": plan}))
        await world.until(lambda: len(world.transcript.select("host>plugin", method="init")) == 2)
        payment = world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        strings = Strings(world.lsp)
        (call,) = await strings.opened(1)
        assert not starting.done()
        await world.lsp.call("puppet-init")
        await starting
        second_init = world.transcript.select("host>plugin", method="init")[1]["msg"]
        assert second_init["params"]["configuration"]["startup"] is False
        await strings.answer(call, result={"result": "fail", "failure_message": "2002"})
        assert (await payment).raw_messages == ["2002"]


async def test_answers_on_the_way_out_count(make_world: MakeWorld) -> None:
    """cln:W5, cln:W12: a subscriber to shutdown answers its open hooks while it goes."""
    plan = hearing("shutdown", going={"result": "fail", "failure_message": "10070000"})
    async with make_world(plan) as world:
        payment = world.payer().pay(world.client().invoice(3_000, scid="1x1x1"), [1_000] * 3)
        await Strings(world.lsp).opened(3)
        plugin = world.lsp.plugin
        await world.lsp.stop_plugin()
        assert plugin.exit_code == 0
        assert (await payment).raw_messages == ["10070000"] * 3


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_plugin_gone_turns_held_parts_into_unknown_next_peer(make_world: MakeWorld, how: str) -> None:
    """cln:H12, cln:W12: silent plugins leave 400a behind, by plugin stop and by kill -9; the node lives on."""
    async with make_world() as world:
        payment = world.payer().pay(world.client().invoice(2_000, scid="1x1x1"), [1_000] * 2)
        await Strings(world.lsp).opened(2)
        await {"stop": world.lsp.stop_plugin, "kill": world.lsp.kill_plugin}[how]()
        assert (await payment).raw_messages == ["400a"] * 2
        assert [row.status for row in world.lsp.htlcs.forwards] == ["local_failed"] * 2


@pytest.mark.slow
async def test_a_plugin_that_lingers_is_killed_after_its_grace(make_world: MakeWorld) -> None:
    """cln:W5: lightningd waits, then kills."""
    async with make_world(hearing("shutdown", linger=True)) as world:
        world.lsp.shutdown_grace_s = 0.2
        plugin = world.lsp.plugin
        await world.lsp.stop_plugin()
        assert plugin.exit_code == -9


async def test_a_killed_node_is_an_end_of_file_for_the_plugin(make_world: MakeWorld) -> None:
    """cln:W5: SIGKILL of lightningd shows as EOF on stdin and a dead socket, nothing else."""
    async with make_world(hearing("shutdown")) as world:
        plugin = world.lsp.plugin
        world.lsp.sigkill()
        await asyncio.wait_for(plugin.gone.wait(), 60)
        assert not world.transcript.select("host>plugin", method="shutdown")
        with pytest.raises(NodeDown):
            await world.lsp.call("getinfo")


async def test_requests_on_one_connection_overtake_each_other(make_world: MakeWorld) -> None:
    """P1: a blocking wait does not hold up getinfo; five hundred writes come back complete."""
    async with make_world() as world, Wire(world.lsp) as wire:
        wire.ask("slow", "wait", {"subsystem": "forwards", "indexname": "created", "nextvalue": 1})
        for number in range(500):
            wire.ask(number, "datastore", {"key": ["t", str(number)], "hex": "ab" * 700})
        answers = [await wire.next() for _ in range(500)]
        assert [answer["id"] for answer in answers] == list(range(500))


@pytest.mark.slow
async def test_full_pipes_lose_nothing(make_world: MakeWorld) -> None:
    """cln:W10: lightningd reads nothing while a megabyte of answers waits; then all are there."""
    async with make_world() as world, Wire(world.lsp) as wire:
        world.lsp.plugin.listen(False)
        for number in range(300):
            wire.ask(number, "puppet-echo", {"text": "x" * 4000})
        await world.until(lambda: len(world.transcript.select("host>plugin", method="puppet-echo")) == 300)
        assert not world.transcript.select("plugin>host", "lsp/plugin")[2:]
        world.lsp.plugin.listen(True)
        assert [(await wire.next())["id"] for _ in range(300)] == list(range(300))


async def test_an_error_of_a_wait_shows_what_was_said(make_world: MakeWorld) -> None:
    """A bounded wait ends with the last lines of the transcript."""
    async with make_world() as world:
        with pytest.raises(WaitTimeout, match="getmanifest"):
            await world.until(lambda: False, "a miracle", timeout_s=0.2)


def test_the_splitter_takes_any_cut() -> None:
    """cln:W9: one byte at a time gives the same frames as all at once."""
    data = b'{"a":"\\"}{"}\n\n {"b":[{"c":"]"}]}{}\n'
    whole = Splitter().feed(data)
    slow = Splitter()
    assert [frame for byte in data for frame in slow.feed(bytes([byte]))] == whole
    assert [parse(frame) for frame in whole] == [{"a": '"}{'}, {"b": [{"c": "]"}]}, {}]


@pytest.mark.parametrize("data", [b"x{}", b"]", b"[]", b'{} "a" {}', b"{}1"])
def test_the_splitter_refuses_what_is_no_object(data: bytes) -> None:
    """cln:W9: never resynchronise."""
    with pytest.raises(BadFrame):
        Splitter().feed(data)


def test_raw_members_are_found_at_the_top_only() -> None:
    """cln:W9: `params` inside a string or deeper down is another one."""
    frame = b'{"id":"\\"params\\":1","x":{"params":2},"params": {"a" : "b\n"} ,"method":"m"}'
    assert raw_member(frame, "params") == b'{"a" : "b\n"}'
    assert raw_member(frame, "nothing") is None
