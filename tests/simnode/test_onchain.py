"""Channels that end on chain: balances, HTLCs in the commitment, states, and when upstream hears (cln:H14, people:S6,
people:S18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, open_channel
from harness.puppet import Strings, hearing

from lsps2fast_plugin.simnode import RpcError, World
from lsps2fast_plugin.simnode.onchain import FORGET_DEPTH

MakeWorld = Callable[..., World]


async def held_part(world: World, msat: int = 20_000_000) -> Any:
    """A public channel whose one part the client holds: payment, client, invoice."""
    lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
    invoice = client.invoice(msat, scid="1x1x1")
    payment = payer.pay(invoice, final_delta=20)
    (call,) = await strings.opened(1)
    opened = await open_channel(lsp, client)
    await broadcast(lsp, opened.psbt)
    world.mine()
    await strings.answer(call, result=forward(call, opened.channel_id))
    await world.until(lambda: client.held(), "the part at the client")
    world.open_books()
    return payment, client, invoice


async def mine_until(world: World, condition: Callable[[], object], most: int = 60) -> int:
    """Blocks one by one; how many it took."""
    for count in range(1, most + 1):
        world.mine()
        await world.until(lambda: True)
        if condition():
            return count
    raise AssertionError(f"not within {most} blocks\n{world.state()}")


async def test_a_htlc_nobody_claims_comes_back_after_its_expiry(make_world: MakeWorld) -> None:
    """cln:H14, people:S18: error on a public channel; the HTLC is taken back on chain,
    upstream fails three blocks later.
    """
    async with make_world(hearing("forward_event")) as world:
        payment, client, _ = await held_part(world)
        client.send_error()
        await world.until(lambda: world.lsp.ends[-1].state == "AWAITING_UNILATERAL", "the error")
        expiry = client.received[0].htlc.cltv_expiry
        await mine_until(world, lambda: payment.done)
        assert (await payment).raw_messages == ["4008"]
        assert world.chain.height >= expiry + 3
        assert [row["status"] for row in (await world.lsp.call("listforwards"))["forwards"]] == ["local_failed"]
        world.check_books()
        assert world.books()["client"] == 0
        assert world.books()["lsp"] < 0  # mining fees


async def test_a_preimage_claims_on_chain_and_upstream_is_paid(make_world: MakeWorld) -> None:
    """BOLT 5: the client fulfils behind its own error: it claims on chain, the LSP learns the preimage there."""
    async with make_world() as world:
        payment, client, _ = await held_part(world)
        client.send_error()
        await world.until(lambda: world.lsp.ends[-1].channel.dead, "the commitment")
        client.settle_held()
        blocks = await mine_until(world, lambda: payment.done)
        assert (await payment).paid
        assert blocks <= 4
        assert [row["status"] for row in (await world.lsp.call("listforwards"))["forwards"]] == ["settled"]
        world.check_books()
        assert 0 < world.books()["client"] <= 20_000_000


async def test_dust_in_a_commitment_is_lost_to_fees(make_world: MakeWorld) -> None:
    """people:S19: a HTLC without an output fails upstream once the commitment is three blocks deep."""
    async with make_world() as world:
        payment, client, _ = await held_part(world, 400_000)
        client.send_error()
        await world.until(lambda: world.lsp.ends[-1].channel.dead, "the commitment")
        assert await mine_until(world, lambda: payment.done) == 3
        world.check_books()


@pytest.mark.parametrize("how", ["mutual", "unilateral"])
async def test_states_until_a_closed_channel_is_forgotten(make_world: MakeWorld, how: str) -> None:
    """people:S6: the money of a close is back when a block has it;
    after 100 blocks the channel is only in the closed ones.
    """
    async with make_world(hearing("channel_state_changed")) as world:
        lsp, client = world.lsp, world.client()
        opened = await open_channel(lsp, client)
        await broadcast(lsp, opened.psbt)
        world.mine()
        {"mutual": lambda: None, "unilateral": client.go_offline}[how]()
        await lsp.call("close", {"id": opened.channel_id, "unilateraltimeout": 1})
        before = {"mutual": "CLOSINGD_COMPLETE", "unilateral": "AWAITING_UNILATERAL"}[how]
        assert lsp.ends[0].state == before
        world.mine()
        assert lsp.ends[0].state == "ONCHAIN"
        world.mine(FORGET_DEPTH)
        assert (await lsp.call("listpeerchannels"))["channels"] == []
        (row,) = (await lsp.call("listclosedchannels"))["closedchannels"]
        assert (row["funding_withheld"], row["closer"]) == (False, "local")
        events = await Strings(lsp).events("channel_state_changed")
        assert [event["new_state"] for event in events][-3:] == ["FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED"]
        world.check_books()


async def test_a_commitment_waits_for_its_funding(make_world: MakeWorld) -> None:
    """A funding that bitcoind forgot: the commitment goes out when the funding does, and nothing is lost."""
    async with make_world() as world:
        lsp, client = world.lsp, world.client()
        opened = await open_channel(lsp, client)
        await broadcast(lsp, opened.psbt)
        world.chain.forget(lsp.ends[0].channel.funding_txid)
        client.send_error()
        await world.until(lambda: lsp.ends[0].channel.dead, "the commitment")
        world.mine()
        assert lsp.ends[0].state == "AWAITING_UNILATERAL"
        world.check_books()
        await broadcast(lsp, opened.psbt)
        world.mine(2)
        assert lsp.ends[0].state == "ONCHAIN"
        world.check_books()


async def test_a_withheld_channel_cannot_be_closed_by_the_client_alone(make_world: MakeWorld) -> None:
    """wallet:W0: a wallet that force-closes a channel without a funding has nothing on chain."""
    async with make_world() as world:
        client = world.client(on_part="hold")
        await open_channel(world.lsp, client)
        with pytest.raises(RpcError, match="Could not find"):
            await world.lsp.call("close", {"id": "00" * 32})
        world.check_books()
