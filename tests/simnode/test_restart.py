"""Stop, kill, restart, replays (facts cln:R)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.node_steps import broadcast, forward, invoice_with_fee, open_channel, part_of, row_of
from harness.puppet import Strings, hearing

from lsps2fast_plugin.simnode import Node, World
from lsps2fast_plugin.simnode.party import connect

MakeWorld = Callable[..., World]
FAIL = {"result": "fail", "failure_message": "10070000"}


async def kill(node: Node) -> None:
    node.sigkill()


async def stop(node: Node) -> None:
    await node.stop()


@pytest.mark.parametrize("end", [kill, stop])
async def test_held_parts_are_replayed_in_one_burst_before_peers_connect(
    make_world: MakeWorld, end: Callable[[Node], object]
) -> None:
    """cln:R1, cln:R2, cln:R5: three of four parts over two channels; relative expiry wrong, old heights, then peers
    (i_restart).
    """
    async with make_world(hearing("block_added", "connect", "shutdown")) as world:
        lsp, client, payer, strings = world.lsp, world.client(), world.payer(channels=2), Strings(world.lsp)
        invoice = invoice_with_fee(client)
        payment = payer.pay(invoice, [5_000_000] * 3, total_msat=20_000_000, channels=[0, 0, 1])
        before = await strings.opened(3)
        await end(lsp)
        assert not payment.done
        world.mine(2)
        await lsp.start()
        after = await strings.opened(3)
        assert {part_of(call) for call in after} == {part_of(call) for call in before}
        expiry = before[0]["params"]["htlc"]["cltv_expiry"]
        relative = {call["params"]["htlc"]["cltv_expiry_relative"] for call in after}
        assert relative == {expiry - (109 - 30)}
        heights = [event["height"] for event in await strings.events("block_added", 32)]
        assert heights == list(range(80, 112))
        assert [event["id"] for event in await strings.events("connect", 1)] == [payer.node_id]
        order = [entry["msg"].get("method") for entry in world.transcript.select("host>plugin", "lsp/plugin")]
        order = order[len(order) - 1 - order[::-1].index("init") :]
        assert order.index("htlc_accepted") < order.index("block_added") < order.index("connect")
        client.connect()
        fourth = payer.pay(invoice, [5_000_000], total_msat=20_000_000)
        calls = await strings.opened(4)
        opened = await open_channel(lsp, client)
        for number, call in enumerate(calls):
            await strings.answer(call, result=forward(call, opened.channel_id, 0 if number else 1_000_000))
        assert (await payment).paid
        assert (await fourth).paid


async def test_replays_come_after_init_at_daemon_start(make_world: MakeWorld) -> None:
    """cln:R1, cln:W11: the node waits for init, however long that takes."""
    async with make_world() as world:
        strings = Strings(world.lsp)
        world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        await strings.opened(1)
        world.lsp.sigkill()
        argv, options, env = world.lsp.plugin_plans[0]
        world.lsp.plugin_plans[0] = (argv, options, {**env, "PUPPET": '{"init_hold": true}'})
        starting = world.background(world.lsp.start())
        await world.until(lambda: len(world.transcript.select("host>plugin", method="init")) == 2)
        assert await strings.open() == []
        assert not starting.done()
        await world.lsp.call("puppet-init")
        await strings.opened(1)
        await starting


async def test_parts_that_were_forwarded_are_not_replayed(make_world: MakeWorld) -> None:
    """cln:R3: they settle after the reconnect, with an event (i7_restart_while_forwarded)."""
    async with make_world(hearing("forward_event")) as world:
        lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, 10_000_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
        await world.until(lambda: client.held())
        lsp.sigkill()
        client.settle_held()
        assert not payment.done
        await lsp.start()
        assert await strings.open() == []
        assert (await payment).paid
        (event,) = await strings.events("forward_event", 1)
        assert (event["status"], len(event["preimage"])) == ("settled", 64)
        assert (await row_of(lsp, opened.channel_id))["funding"]["withheld"] is True
        await broadcast(lsp, opened.psbt)


async def test_a_settle_while_the_plugin_is_down_is_only_in_the_tables(make_world: MakeWorld) -> None:
    """cln:F4: i8; no event is replayed."""
    async with make_world(hearing("forward_event")) as world:
        lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, 10_000_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
        await world.until(lambda: client.held())
        plugin = lsp.plugin
        await lsp.stop_plugin()
        client.settle_held()
        assert (await payment).paid
        await lsp.start_plugin(plugin.argv, env=plugin.env)
        assert await strings.seen("forward_event") == []
        assert [row["status"] for row in (await lsp.call("listforwards"))["forwards"]] == ["settled"]
        assert (await row_of(lsp, opened.channel_id))["funding"]["withheld"] is True


async def test_a_channel_without_link_is_not_reestablished(make_world: MakeWorld) -> None:
    """cln:R1, cln:R4, cln:R6: CHANNELD_NORMAL says nothing about the link; a client without a channel does not come
    back.
    """
    async with make_world() as world:
        lsp, alice, bob = world.lsp, world.client("alice"), world.client("bob")
        opened = await open_channel(lsp, alice)
        lsp.sigkill()
        alice.online = False
        await lsp.start()
        row = await row_of(lsp, opened.channel_id)
        assert (row["state"], row["peer_connected"], "reestablished" in row) == ("CHANNELD_NORMAL", False, False)
        assert not bob.links
        alice.connect()
        await world.until(lambda: lsp.ends[-1].channel.reestablished)
        assert (await row_of(lsp, opened.channel_id))["reestablished"] is True


async def test_an_answer_after_stop_does_not_count(make_world: MakeWorld) -> None:
    """cln:W12: on stop answers are ignored and parts replay at the next start."""
    plan = hearing("shutdown", going={"result": "fail", "failure_message": "2002"})
    async with make_world(plan) as world:
        strings = Strings(world.lsp)
        payment = world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        await strings.opened(1)
        await world.lsp.stop()
        assert not payment.done
        await world.lsp.start()
        (call,) = await strings.opened(1)
        await strings.answer(call, result=FAIL)
        assert (await payment).raw_messages == ["10070000"]


async def test_a_restart_drops_openings_and_keeps_reservations(make_world: MakeWorld) -> None:
    """cln:O1, R: what is stored stays, what is in memory goes."""
    async with make_world() as world:
        lsp, client = world.lsp, world.client()
        start = {"id": client.node_id, "amount": 200_000, "mindepth": 0, "announce": False}
        await lsp.call("fundchannel_start", start)
        await lsp.call("fundpsbt", {"satoshi": 200_000, "feerate": "normal", "startweight": 1000})
        await lsp.call("datastore", {"key": ["k"], "string": "v"})
        lsp.sigkill()
        await lsp.start()
        client.connect()
        await lsp.call("fundchannel_start", start)
        assert sum(output["reserved"] for output in (await lsp.call("listfunds"))["outputs"]) == 1
        assert (await lsp.call("listdatastore", {"key": ["k"]}))["datastore"][0]["string"] == "v"


async def test_extra_tlvs_do_not_outlive_a_restart(make_world: MakeWorld) -> None:
    """K-29: a part offered but not committed reaches the client without extra_fee, which it refuses."""
    async with make_world() as world:
        lsp, client, payer, strings = world.lsp, world.client(), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, 10_000_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        lsp.ends[-1].channel.pause()
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
        await world.until(lambda: lsp.ends[-1].live)
        lsp.sigkill()
        lsp.ends[-1].channel.pause(False)
        await lsp.start()
        assert (await payment).raw_messages[0].startswith("400f")
        assert client.refused == ["9000000 + 0 is not 10000000"]


async def test_a_node_may_die_twice(make_world: MakeWorld) -> None:
    """Peers that redial are not forgotten by a second death."""
    async with make_world() as world:
        payer = world.payer()
        world.lsp.sigkill()
        world.mine()
        await world.lsp.start()
        world.lsp.sigkill()
        await world.lsp.start()
        assert payer.links
        connect(payer, world.lsp)
        assert len(world.lsp.links) == 1
