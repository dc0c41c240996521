"""Peers that err, vanish or fall silent in an open, and what lightningd makes of it (cln:N1, cln:N2, people:S0,
people:S13).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, fund, open_channel
from harness.puppet import Strings, hearing

from lsps2fast_plugin.simnode import RpcError, World
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.script import MESSAGES

MakeWorld = Callable[..., World]


async def awaiting(world: World, client: Any) -> tuple[End, str]:
    """A withheld channel that awaits lock-in, made by another tool; its PSBT."""
    client.behaviour.send_ready = False
    _, psbt = await fund(world.lsp, client)
    done = await world.lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt, "withhold": True})
    end = world.lsp.end_by_id(done["channel_id"])
    assert end is not None
    return end, psbt


async def test_a_cancel_without_an_open_takes_the_first_channel_that_awaits_lockin(make_world: MakeWorld) -> None:
    """cln:N1, people:S8: both nodes forget it, and its coins stay reserved."""
    async with make_world(hearing("channel_state_changed")) as world:
        client = world.client()
        end, _ = await awaiting(world, client)
        answer = await world.lsp.call("fundchannel_cancel", {"id": client.node_id})
        assert answer == {"cancelled": "Channel open canceled by RPC(after fundchannel_complete)"}
        assert end.forgotten
        (row,) = (await world.lsp.call("listclosedchannels"))["closedchannels"]
        assert (row["funding_withheld"], "closer" in row) == (True, False)
        assert sum(row["reserved"] for row in world.lsp.wallet.rows()) == 1
        with pytest.raises(RpcError) as refused:
            await world.lsp.call("fundchannel_cancel", {"id": client.node_id})
        assert refused.value.code == 307


async def test_a_cancel_beside_a_broadcast_channel_is_not_safe(make_world: MakeWorld) -> None:
    """cln:N1: 308 for as long as that channel has no block, and the channel lives."""
    async with make_world() as world:
        client = world.client()
        end, psbt = await awaiting(world, client)
        await broadcast(world.lsp, psbt)
        with pytest.raises(RpcError) as refused:
            await world.lsp.call("fundchannel_cancel", {"id": client.node_id})
        assert (refused.value.code, end.forgotten) == (308, False)


async def test_an_error_deletes_a_withheld_channel_and_its_funding_can_still_be_lost(make_world: MakeWorld) -> None:
    """cln:N2, people:S0, rule:23: coins are free; sendpsbt alone refuses; reserve, sign, send lose them,
    and books say so.
    """
    async with make_world(hearing("channel_state_changed")) as world:
        world.client("other")
        client, lsp = world.client(), world.lsp
        opened = await open_channel(lsp, client)
        world.open_books()
        client.send_error("bye")
        await world.until(lambda: lsp.closed, "the closed row")
        assert (await lsp.call("listpeerchannels", {"id": client.node_id}))["channels"] == []
        (row,) = (await lsp.call("listclosedchannels"))["closedchannels"]
        assert (row["funding_withheld"], row["closer"]) == (True, "remote")
        assert not any(coin["reserved"] for coin in lsp.wallet.rows())
        events = await Strings(lsp).events("channel_state_changed", 3)
        assert events[-1]["new_state"] == "CLOSED"
        world.check_books()
        with pytest.raises(RpcError, match="is not reserved"):
            await broadcast(lsp, opened.psbt)
        await lsp.call("reserveinputs", {"psbt": opened.psbt})
        await broadcast(lsp, opened.psbt)
        with pytest.raises(AssertionError, match="200000 sat went into fundings that no channel owns"):
            world.check_books()
        assert world.books()["lsp"] < -200_000_000


async def test_an_error_with_parts_on_a_withheld_channel_fails_them_upstream(make_world: MakeWorld) -> None:
    """cln:N2, cln:A3: 4008 upstream, no event, rows stay offered."""
    async with make_world(hearing("forward_event")) as world:
        lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(1_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id))
        await world.until(lambda: client.held(), "the part at the client")
        client.send_error()
        assert (await payment).raw_messages == ["4008"]
        assert [row["status"] for row in (await lsp.call("listforwards"))["forwards"]] == ["offered"]


async def test_what_is_fulfilled_before_an_error_counts(make_world: MakeWorld) -> None:
    """people:S7: fulfil and error in one burst: the payer has paid, the channel with the client's money is gone."""
    async with make_world() as world:
        lsp, payer, strings = world.lsp, world.payer(), Strings(world.lsp)
        client = world.client(script={"update_fulfill_htlc": "error"}, check_fees=False)
        invoice = client.invoice(1_000_000, scid="1x1x1")
        world.open_books()
        payment = payer.pay(invoice)
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id))
        assert (await payment).paid
        await world.until(lambda: lsp.closed, "the closed row")
        assert world.books() == {"lsp": 1_000_000, "client": 0, "payer": -1_000_000}
        world.check_books()


@pytest.mark.parametrize("ending", ["disconnect", "speak"])
async def test_a_silent_peer_hangs_the_open_and_the_cancel_behind_it(make_world: MakeWorld, ending: str) -> None:
    """people:S13: complete and cancel wait for the peer alone; a cut line ends the open,
    and never answers the cancel.
    """
    async with make_world() as world:
        lsp, client = world.lsp, world.client(script={"funding_created": "silent"})
        _, psbt = await fund(lsp, client)
        complete = asyncio.ensure_future(lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt}))
        await world.until(lambda: client.script.done, "the silence")
        cancel = asyncio.ensure_future(lsp.call("fundchannel_cancel", {"id": client.node_id}))
        with pytest.raises(RpcError, match="Channel funding in progress"):
            await lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt})
        assert not complete.done()
        assert not cancel.done()
        if ending == "disconnect":
            await lsp.call("disconnect", {"id": client.node_id, "force": True})
            with pytest.raises(RpcError, match="Disconnected"):
                await complete
            assert not cancel.done()
            cancel.cancel()
            assert not lsp.ends
        else:
            client.speak()
            assert (await complete)["commitments_secured"]
            assert "after fundchannel_complete" in (await cancel)["cancelled"]
            assert lsp.ends[0].forgotten


@pytest.mark.parametrize("message", ["open_channel", "accept_channel", "funding_created"])
async def test_an_error_inside_an_open_ends_it(make_world: MakeWorld, message: str) -> None:
    """people:S0: before the channel exists nothing is left of it; the next open goes through."""
    async with make_world() as world:
        lsp, client = world.lsp, world.client(script={message: "error"})

        async def attempt() -> None:
            _, psbt = await fund(lsp, client)
            await world.until(lambda: client.script.done or message == "funding_created", "the deed")
            await lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt, "withhold": True})

        with pytest.raises(RpcError, match=r"They sent ERROR|No channel funding in progress"):
            await attempt()
        assert (lsp.ends, lsp.openings.pending) == ([], {})
        assert client.script.done == [(message, "error")]
        await open_channel(lsp, client)


async def test_a_script_knows_every_message_of_a_sale(make_world: MakeWorld) -> None:
    """The order of messages, and that each of them can be hit."""
    async with make_world() as world:
        lsp, payer, strings = world.lsp, world.payer(), Strings(world.lsp)
        client = world.client(check_fees=False)
        seen: list[str] = []
        client.script.at = lambda message, end=None: seen.append(message) or ""  # type: ignore[func-returns-value,method-assign]
        payment = payer.pay(client.invoice(1_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id))
        assert (await payment).paid
        assert tuple(seen) == MESSAGES[:-1]


async def test_a_client_that_asks_to_close_waits_for_its_htlcs(make_world: MakeWorld) -> None:
    """BOLT 2: `shutdown` lets HTLCs end; a withheld channel then vanishes with `closer: remote`."""
    async with make_world() as world:
        lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(1_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        opened = await open_channel(lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id))
        await world.until(lambda: client.held(), "the part at the client")
        client.send_shutdown()
        await world.until(lambda: client.ends[0].state == "CHANNELD_SHUTTING_DOWN", "shutdown")
        assert not lsp.closed
        client.fail(client.held()[0])
        assert not (await payment).paid
        await world.until(lambda: lsp.closed, "the closed row")
        assert (lsp.closed[0]["closer"], lsp.closed[0]["funding_withheld"]) == ("remote", True)
        assert not any(coin["reserved"] for coin in lsp.wallet.rows())
        world.check_books()
