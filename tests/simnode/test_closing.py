"""Abandoning a withheld channel, closing a public one (facts cln:A)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, open_channel
from harness.puppet import Strings, hearing, recorded_calls, recording, shape

from lsps2fast_plugin.simnode import RpcError, World

MakeWorld = Callable[..., World]


def recorded_states(channel: int) -> list[tuple[Any, ...]]:
    """(old, new, cause, message) of the LSP's channel number `channel` in k_abandon."""
    events = [
        entry["msg"]["params"]["channel_state_changed"]
        for entry in recording("k_abandon")
        if entry["msg"].get("method") == "channel_state_changed"
    ]
    ids = list(dict.fromkeys(event["channel_id"] for event in events))
    return [_step(event) for event in events if event["channel_id"] == ids[channel]]


def _step(event: dict[str, Any]) -> tuple[Any, ...]:
    return event.get("old_state"), event["new_state"], event["cause"], event.get("message")


@pytest.mark.parametrize(("online", "kind", "channel"), [(True, "mutual", 1), (False, "unilateral", 3)])
async def test_a_withheld_channel_vanishes(make_world: MakeWorld, online: bool, kind: str, channel: int) -> None:
    """cln:A1, cln:A2, cln:A4, cln:A5: answer, states, closed row, freed inputs, as k_abandon; the client's end does not
    learn.
    """
    closed = next(
        answer["result"] for request, answer in recorded_calls("k_abandon") if request["method"] == "listclosedchannels"
    )
    async with make_world(hearing("channel_state_changed")) as world:
        lsp, client = world.lsp, world.client()
        opened = await open_channel(lsp, client)
        {True: lambda: None, False: client.go_offline}[online]()
        answer = await lsp.call("close", {"id": opened.channel_id, "unilateraltimeout": 1})
        assert answer == {"txs": [], "txids": [], "type": kind}
        events = await Strings(lsp).events("channel_state_changed", len(recorded_states(channel)))
        assert [_step(event) for event in events] == recorded_states(channel)
        assert (await lsp.call("listpeerchannels"))["channels"] == []
        (row,) = (await lsp.call("listclosedchannels"))["closedchannels"]
        assert shape(row) == shape(closed["closedchannels"][0])
        assert (row["funding_withheld"], row["close_cause"], row["closer"]) == (True, "user", "local")
        assert await lsp.call("unreserveinputs", {"psbt": opened.psbt}) == {"reservations": []}
        assert [output["reserved"] for output in (await lsp.call("listfunds"))["outputs"]] == [False] * 3
        assert client.ends[0].state == {True: "CLOSINGD_COMPLETE", False: "CHANNELD_NORMAL"}[online]
        with pytest.raises(RpcError, match="Unknown peer"):
            await lsp.call("dev-forget-channel", {"id": client.node_id, "channel_id": opened.channel_id})
        world.check_books()


async def test_a_client_that_was_away_learns_at_its_return(make_world: MakeWorld) -> None:
    """cln:A4 ends there: lightningd v26.06 answers the reestablishment with an error, and the client's end fails."""
    async with make_world() as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        client.go_offline()
        await world.lsp.call("close", {"id": opened.channel_id, "unilateraltimeout": 1})
        client.connect()
        await world.until(lambda: client.ends[0].state == "AWAITING_UNILATERAL")
        assert client.ends[0].state_changes[-1]["cause"] == "protocol"
        assert client.ends[0].state_changes[-1]["message"].endswith("Channel is closed and forgotten")


async def test_the_time_out_of_a_close_is_simulated_time(make_world: MakeWorld) -> None:
    """cln:A1: 1.0 s for an absent client, on the world's clock."""
    async with make_world() as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        client.go_offline()
        before_us = world.clock.now_us
        await world.lsp.call("close", {"id": opened.channel_id, "unilateraltimeout": 1})
        assert 1_000_000 <= world.clock.now_us - before_us < 1_001_000


async def test_closing_with_htlcs_leaves_rows_offered(make_world: MakeWorld) -> None:
    """cln:A3: 4008 upstream, no event, `offered` for good (k2_close_with_htlcs)."""
    async with make_world(hearing("forward_event")) as world:
        lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(2_000_000, scid="1x1x1"), [1_000_000, 1_000_000])
        calls = await strings.opened(2)
        opened = await open_channel(lsp, client)
        for call in calls:
            await strings.answer(call, result=forward(call, opened.channel_id))
        await world.until(lambda: len(client.held()) == 2)
        answer = await lsp.call("close", {"id": opened.channel_id, "unilateraltimeout": 1})
        assert answer["type"] == "unilateral"
        assert (await payment).raw_messages == ["4008", "4008"]
        world.mine(20)
        assert [row["status"] for row in (await lsp.call("listforwards"))["forwards"]] == ["offered"] * 2
        assert [event["status"] for event in await strings.events("forward_event")] == ["offered"] * 2
        assert client.ends[0].state == "CHANNELD_SHUTTING_DOWN"
        # the client may still know the preimages, but the line is dead: nothing of it counts
        client.settle_held()
        world.check_books()


async def test_a_public_channel_pays_both_sides(make_world: MakeWorld) -> None:
    """A mutual close of a broadcast channel: a transaction, money in both wallets, books in balance."""
    async with make_world() as world:
        lsp, client = world.lsp, world.client()
        world.open_books()
        opened = await open_channel(lsp, client)
        await broadcast(lsp, opened.psbt)
        world.mine()
        answer = await lsp.call("close", {"id": opened.channel_id})
        assert (answer["type"], len(answer["txids"])) == ("mutual", 1)
        world.mine()
        world.check_books()
        assert world.books()["lsp"] == -world.chain.fees_sat * 1000


async def test_close_of_nothing(make_world: MakeWorld) -> None:
    """close needs a channel."""
    async with make_world() as world:
        with pytest.raises(RpcError, match="Could not find"):
            await world.lsp.call("close", {"id": "ab" * 32})
