"""Limits that bite after an open, the wallet's reserve, what later releases say (people:S14, people:S15, people:S19,
cln:O18, cln:N9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import forward, open_channel
from harness.puppet import Strings, hearing

from lsps2fast_plugin.simnode import RpcError, World
from lsps2fast_plugin.simnode.feerates import Feerates

MakeWorld = Callable[..., World]


async def forwarded(world: World, amounts: list[int], **more: Any) -> list[str]:
    """Parts over a fresh channel; what the payer gets for each."""
    lsp, payer, strings = world.lsp, world.payer(capacity_sat=5_000_000), Strings(world.lsp)
    client = world.client(on_part="hold")
    payment = payer.pay(client.invoice(sum(amounts), scid="1x1x1"), amounts, **more)
    calls = await strings.opened(len(amounts))
    opened = await open_channel(lsp, client, 500_000)
    for call in calls:
        await strings.answer(call, result=forward(call, opened.channel_id))
    await world.until(lambda: len(client.held()) + sum(part.result.done() for part in payment.parts) == len(amounts))
    for part in client.held():
        client.fulfill(part, client.invoices[part.htlc.payment_hash].preimage)
    return (await payment).raw_messages


async def test_htlc_maximum_msat_refuses_after_the_open(make_world: MakeWorld) -> None:
    """people:S14: the node's option, shown by listconfigs and in the channel's row."""
    async with make_world() as world:
        world.lsp.htlc_maximum_msat = 10_000_000
        assert await forwarded(world, [10_000_000, 10_000_001]) == ["", "10070000"]
        configs = (await world.lsp.call("listconfigs"))["configs"]
        assert configs["htlc-maximum-msat"]["value_msat"] == 10_000_000
        (row,) = [row for row in (await world.lsp.call("listpeerchannels"))["channels"] if row["private"]]
        assert row["maximum_htlc_out_msat"] == 10_000_000


async def test_cltv_delta_is_what_the_node_says_now(make_world: MakeWorld) -> None:
    """people:S15: raised after the sale, parts with the old delta fail with 100d."""
    async with make_world() as world:
        world.lsp.cltv_delta = 49
        (message,) = await forwarded(world, [10_000_000], cltv_delta=48)
        assert message.startswith("100d")


async def test_dust_exposure_refuses_what_is_too_much(make_world: MakeWorld) -> None:
    """people:S19: 30 x 2,000 sat without anchors at 258 perkw:
    25 fit into 50,000 sat at lightningd's accelerated rate.
    """
    async with make_world() as world:
        world.lsp.feerates = Feerates(opening=253, unilateral_close=253, unilateral_anchor_close=253)
        messages = await forwarded(world, [2_000_000] * 30)
        assert messages == [""] * 25 + ["10070000"] * 5


async def test_a_channel_that_is_not_ready_is_no_next_peer(make_world: MakeWorld) -> None:
    """cln:H10: by state unknown_next_peer, by line temporary_channel_failure."""
    async with make_world() as world:
        lsp, payer, strings = world.lsp, world.payer(), Strings(world.lsp)
        client = world.client()
        opened = await open_channel(lsp, client)
        for answer in ("10070000", "400a"):
            payment = payer.pay(client.invoice(1_000_000, scid="1x1x1"))
            (call,) = await strings.opened(1)
            if answer == "10070000":
                client.go_offline()
            else:
                lsp.change_state(lsp.ends[-1], "CHANNELD_SHUTTING_DOWN", "user", None)
            await strings.answer(call, result=forward(call, opened.channel_id))
            assert (await payment).raw_messages == [answer]


async def test_the_emergency_reserve_stays_for_anchors(make_world: MakeWorld) -> None:
    """cln:O18: with one channel with anchors the last 25,000 sat become change, or the call is refused with 313."""
    async with make_world(wallet_sat=(100_000,)) as world:
        ask = {"satoshi": 90_000, "feerate": "normal", "startweight": 1000}
        assert "change_outnum" not in await world.lsp.call("fundpsbt", {**ask, "reserve": 0})
        world.payer()
        with pytest.raises(RpcError) as refused:
            await world.lsp.call("fundpsbt", ask)
        assert refused.value.code == 313
        funded = await world.lsp.call("fundpsbt", {**ask, "satoshi": 60_000, "reserve": 0})
        assert (funded["change_outnum"], funded["excess_msat"] > 14_000_000) == (0, True)
        world.chain.grant(25_000, world.lsp.wallet.new_script())
        assert "change_outnum" not in await world.lsp.call("fundpsbt", {**ask, "reserve": 0})


async def test_invoices_expire_on_the_world_s_clock(make_world: MakeWorld) -> None:
    """wallet:W4: expired in the list; a part for it is refused with 400f, also one of a set that was waiting."""
    async with make_world() as world:
        payer = world.payer()
        ask = {"amount_msat": 2_000_000, "description": "d"}
        first = await world.lsp.call("invoice", {**ask, "label": "a", "expiry": 60})
        await world.lsp.call("invoice", {**ask, "label": "b", "expiry": 3600})
        half = payer.pay(first["bolt11"], [1_000_000], total_msat=2_000_000)
        (call,) = await Strings(world.lsp).opened(1)
        await Strings(world.lsp).answer(call, result={"result": "continue"})
        await world.until(lambda: world.lsp.invoices.sets, "the waiting half")
        await world.advance(61)
        rows = (await world.lsp.call("listinvoices"))["invoices"]
        assert {row["label"]: row["status"] for row in rows} == {"a": "expired", "b": "unpaid"}
        late = payer.pay(first["bolt11"], [1_000_000], total_msat=2_000_000)
        (call,) = await Strings(world.lsp).opened(1)
        await Strings(world.lsp).answer(call, result={"result": "continue"})
        assert (await late).raw_messages[0].startswith("400f")
        await world.advance(10)
        assert (await half).raw_messages == ["0017"]


async def test_a_light_wallet_takes_nothing_for_an_invoice_that_is_over(make_world: MakeWorld) -> None:
    """wallet:W4: the objection of a client, in words."""
    async with make_world() as world:
        payer, client, strings = world.payer(), world.client(), Strings(world.lsp)
        invoice = client.invoice(1_000_000, scid="1x1x1", expiry_s=60)
        payment = payer.pay(invoice)
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client)
        await world.advance(61)
        await strings.answer(call, result=forward(call, opened.channel_id))
        assert not (await payment).paid
        assert client.refused == ["invoice is over"]


@pytest.mark.parametrize("says", [False, True])
async def test_a_later_lightningd_gives_reasons(make_world: MakeWorld, says: bool) -> None:
    """cln:N9: `failure_reason` in the event and in the row of what failed, and only there."""
    async with make_world(hearing("forward_event")) as world:
        world.lsp.says_failure_reason = says
        world.lsp.htlc_maximum_msat = 10_000_000
        await forwarded(world, [10_000_000, 10_000_001])
        events = await Strings(world.lsp).events("forward_event", 3)
        rows = (await world.lsp.call("listforwards"))["forwards"]
        for row in (*events, *rows):
            assert ("failure_reason" in row) is (says and row["status"] == "local_failed")
            assert row.get("failure_reason", "insufficient_outgoing_liquidity") == "insufficient_outgoing_liquidity"


async def test_unknown_members_are_everywhere_when_asked_for(make_world: MakeWorld) -> None:
    """cln:N9: rows, events, hooks and answers of a lightningd that has learned something."""
    async with make_world(hearing("block_added")) as world:
        world.lsp.unknown_members = True
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payer.pay(client.invoice(1_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        assert "added_later" in call["params"]["htlc"]
        world.mine()
        assert "added_later" in (await strings.events("block_added", 1))[0]


async def test_graceful_lists_what_is_pending(make_world: MakeWorld) -> None:
    """cln:N8: a held part is listed after the time-out, and the plugin is not told."""
    async with make_world(hearing("shutdown")) as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payer.pay(client.invoice(1_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        asked = world.background(world.lsp.call("graceful", {"timeout": 5}))
        await world.until(lambda: world.lsp.clock._timers, "the time-out")
        await world.advance(5)
        assert (await asked)["pending_htlc_expiries"] == [call["params"]["htlc"]["cltv_expiry"]]
        assert await strings.events("shutdown") == []


@pytest.mark.parametrize("can", [False, True])
async def test_check_goes_to_a_plugin_that_can(make_world: MakeWorld, can: bool) -> None:
    """cln:N8: a log line and a yes for a plugin that cannot check; our own methods are checked for their names."""
    plan = {"manifest": {"cancheck": can}}
    async with make_world(plan) as world:
        lsp = world.lsp
        assert await lsp.call("check", {"command_to_check": "close", "id": "x"}) == {"command_to_check": "close"}
        with pytest.raises(RpcError, match="missing required"):
            await lsp.call("check", {"command_to_check": "close"})
        if can:
            world.background(lsp.call("check", {"command_to_check": "puppet-open"}))
            assert await Strings(lsp).seen("check", 1) == [{"command_to_check": "puppet-open"}]
        else:
            assert await lsp.call("check", {"command_to_check": "puppet-open"}) == {"command_to_check": "puppet-open"}
            assert any("does not support check" in text for _, _, text in lsp.logs)
