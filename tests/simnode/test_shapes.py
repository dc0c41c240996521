"""Rows and notifications that no other test compares with the recordings; stock pyln-client as a plugin."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.node_steps import open_channel, row_of
from harness.puppet import PUPPET, Wire, hearing, recorded_calls, recording, shape

from lsps2fast_plugin.simnode import World, listings
from lsps2fast_plugin.simnode.chain import Chain
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.party import disconnect
from lsps2fast_plugin.simnode.psbt import Output, Tx
from lsps2fast_plugin.simnode.wallet import Wallet

MakeWorld = Callable[..., World]
HERE = Path(__file__).parent
FAIL = {"result": "fail", "failure_message": "2002"}


async def test_a_channel_whose_peer_is_away(make_world: MakeWorld) -> None:
    """cln:H10, cln:R4: the row of i9, member by member: no reestablished, no remote update, no owner."""
    rows = [
        answer["result"]["channels"]
        for _, answer in recorded_calls("i9_continue_before_client_back")
        if "channels" in answer["result"]
    ]
    real = next(row for each in rows for row in each if row["peer_connected"] is False)
    async with make_world() as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        client.go_offline()
        assert shape(await row_of(world.lsp, opened.channel_id)) == shape(real)


async def test_a_row_is_as_new_as_its_channel(make_world: MakeWorld) -> None:
    """A row is kept while nothing of it changes: whatever its fresh one is made of, a change of it is seen."""
    looked_at: set[str] = set()

    class Watched(End):
        def __getattribute__(self, name: str) -> Any:
            looked_at.add(name)
            return super().__getattribute__(name)

    async with make_world() as world:
        end = world.add_channel(world.lsp, world.client("dave"))
        end.__class__ = Watched
        listings._channel_row(end)
        end.__class__ = End
        for side in (end, end.other):
            for name in sorted(looked_at & vars(side).keys()):
                value = getattr(side, name)
                if type(value) is int or type(value) is str or value is None:
                    setattr(side, name, value + 1 if type(value) is int else f"{value or 1}x1x1")
                    assert listings.channel_row(end) == listings._channel_row(end), name
                    assert listings.funds_channel(end) == listings._funds_channel(end), name
        for what, amount_msat in (("in_offered", 7), ("out_fulfilled", 8), ("in_offered", 9)):
            end.count(what, amount_msat)
            assert listings.channel_row(end) == listings._channel_row(end), what
        row = listings.channel_row(end)
        assert listings.channel_row(end) is row
        with pytest.raises(TypeError):
            row["state"] = "of the caller"
        disconnect(world.lsp, world.parties["dave"])
        assert listings.channel_row(end) == listings._channel_row(end) != row


def test_what_is_kept_of_a_wallet_is_as_new_as_its_coins() -> None:
    """The sum that goes along, and the rows of listfunds that are listed again: whatever becomes of a coin is seen."""
    chain = Chain()
    wallet = Wallet(chain, b"w")

    def look() -> list[dict[str, Any]]:
        rows = wallet.rows()
        assert rows == wallet.rows() == [dict(row) for row in fresh().rows()]
        assert wallet.balance_sat() == sum(output.amount_sat for output in wallet.outputs().values())
        return rows

    def fresh() -> Wallet:
        other = Wallet(chain, b"w")
        other._mine, other.reserved = wallet._mine, wallet.reserved
        return other

    point = chain.grant(50_000, wallet.new_script(), confirmed=False)
    assert [row["status"] for row in look()] == ["unconfirmed"]
    chain.mine()
    assert [row["status"] for row in look()] == ["confirmed"]
    tx = Tx((point,), (Output(49_000, wallet.new_script()),), (chain.unspent[point],)).sign(b"w")
    wallet.reserve(tx, 2, exclusive=True)
    assert [row["reserved"] for row in look()] == [True]
    chain.mine(2)
    assert [row["reserved"] for row in look()] == [False]
    chain.submit(tx)
    assert [row["amount_msat"] for row in look()] == [49_000_000]
    chain.mine()
    chain.unwind(1)
    assert [row["status"] for row in look()] == ["unconfirmed"]
    chain.replace(tx.txid, wallet.new_script(), fee_sat=2_000)
    assert [row["amount_msat"] for row in look()] == [48_000_000]
    chain.forget(next(iter(chain.mempool)))
    assert [row["amount_msat"] for row in look()] == [50_000_000]


async def test_listfunds(make_world: MakeWorld) -> None:
    """Reserved and free outputs and channels, as in i9."""
    calls = recorded_calls("i9_continue_before_client_back")
    real = next(answer["result"] for request, answer in calls if request["method"] == "listfunds")
    outputs, channels = [shape(row) for row in real["outputs"]], [shape(row) for row in real["channels"]]
    async with make_world() as world:
        world.payer()
        await open_channel(world.lsp, world.client())
        funds = await world.lsp.call("listfunds")
        assert [shape(row) in outputs for row in funds["outputs"]] == [True] * 3
        assert [shape(row) in channels for row in funds["channels"]] == [True] * 2
        assert [row["reserved"] for row in funds["outputs"]] == [True, False, False]


@pytest.mark.parametrize("topic", ["block_added", "plugin_started", "connect", "disconnect", "shutdown", "warning"])
async def test_notifications(make_world: MakeWorld, topic: str) -> None:
    """cln:W3, cln:W4: method and params only, the payload under its own name, as recorded."""
    entries = recording("i9_continue_before_client_back")
    real = [entry["msg"] for entry in entries if entry["msg"].get("method") == topic]
    async with make_world(hearing(topic)) as world:
        client = world.client()
        client.disconnect()
        world.mine()
        await world.lsp.stop()
        ours = world.transcript.select("host>plugin", method=topic)[0]["msg"]
        assert list(ours) == ["jsonrpc", "method", "params"]
        assert shape(ours) == shape(real[0])


async def test_plugin_list_and_stop_by_rpc(make_world: MakeWorld) -> None:
    """cln:M5: `plugin list`, `plugin stop`, `plugin start` over RPC."""
    async with make_world() as world, Wire(world.lsp) as wire:
        wire.ask(1, "plugin", {"subcommand": "list"})
        (row,) = (await wire.next())["result"]["plugins"]
        assert (list(row), row["name"]) == (["name", "active", "dynamic"], PUPPET[-1])
        wire.ask(2, "plugin", {"subcommand": "stop", "plugin": "puppet.py"})
        assert (await wire.next())["result"] == {"command": "stop", "result": "Successfully stopped puppet.py."}


async def test_a_node_without_plugin_does_the_usual(make_world: MakeWorld) -> None:
    """No hook: forwards go through, a jit scid is unknown."""
    async with make_world(plugin=None) as world:
        dave, payer = world.client("dave"), world.payer()
        world.add_channel(world.lsp, dave)
        assert (await payer.pay(dave.invoice(1_000))).paid
        assert (await payer.pay(dave.invoice(1_000, scid="1x1x1"))).raw_messages == ["400a"]


async def test_two_plugins_are_asked_in_turn(make_world: MakeWorld) -> None:
    """cln:H13: the second in the chain sees what the first left; a fail ends the chain."""
    async with make_world({"hooks": {"htlc_accepted": {"result": "continue", "payload": "0201050401ff"}}}) as world:
        plan = {"manifest": {"rpcmethods": []}, "hooks": {"htlc_accepted": FAIL}}
        await world.lsp.start_plugin(PUPPET, env={"PUPPET": json.dumps(plan)})
        result = await world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        assert result.raw_messages == ["2002"]
        first, second = world.transcript.select("host>plugin", method="htlc_accepted")
        assert first["msg"]["params"]["onion"]["forward_msat"] == 1_000
        assert second["msg"]["params"]["onion"]["payload"] == "060201050401ff"
        assert "short_channel_id" not in second["msg"]["params"]["onion"]


async def test_a_line_that_is_cut(make_world: MakeWorld) -> None:
    """K-13: the call was carried out, the caller only sees the end of the line."""
    async with make_world() as world, Wire(world.lsp) as wire:
        world.lsp.faults.cut("datastore", after=True)
        wire.ask(1, "datastore", {"key": ["k"], "string": "v"})
        with pytest.raises((AssertionError, ConnectionError)):
            await wire.next()
        assert ("k",) in world.lsp.datastore.rows


@pytest.mark.slow
async def test_stock_pyln_client_runs_on_it(make_world: MakeWorld) -> None:
    """cln:W7, cln:W8: options, a method with an RPC call inside, a background hook, a handler that raises becomes
    2002.
    """
    plugin = [sys.executable, str(HERE / "plugins" / "stock.py")]
    async with make_world(plugin=plugin, options={"stock-word": "hello"}) as world:
        answer = await world.lsp.call("stock-info")
        assert answer == {"word": "hello", "id": world.lsp.node_id, "startup": True}
        client, payer = world.client(), world.payer()
        assert (await payer.pay(client.invoice(1_000, scid="1x1x1"))).raw_messages == ["10070000"]
        assert (await payer.pay(client.invoice(13, scid="1x1x1"))).raw_messages == ["2002"]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind() -> None:
    """A driver that is interrupted takes its plugin and directory with it."""
    found = asyncio.run(_interrupted(signal.SIGINT))
    assert (found["alive"], found["directory"]) == (False, False)


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process() -> None:
    """Even SIGKILL: the plugin sees the end of its stdin."""
    assert asyncio.run(_interrupted(signal.SIGKILL))["alive"] is False


async def _interrupted(sign: signal.Signals) -> dict[str, bool]:
    driver = [sys.executable, str(HERE / "plugins" / "driver.py"), *PUPPET]
    process = await asyncio.create_subprocess_exec(*driver, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pid, directory = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()
    process.send_signal(sign)
    await asyncio.wait_for(process.wait(), 60)

    async def dead() -> None:
        while _lives(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await asyncio.wait_for(dead(), 60)
    left = {"alive": _lives(pid), "directory": Path(directory).exists()}  # noqa: ASYNC240
    shutil.rmtree(directory, ignore_errors=True)  # after SIGKILL it is left behind
    return left


def _lives(pid: str) -> bool:
    """Running and not a zombie (a zombie has no command line)."""
    command = Path(f"/proc/{pid}/cmdline")
    return command.exists() and bool(command.read_bytes())
