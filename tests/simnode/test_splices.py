"""Channels that are called otherwise: splices and reorgs, and the rows of parts that were under way (cln:N3,
people:S9).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, open_channel
from harness.puppet import Strings, hearing

from lsps2fast_plugin.simnode import RpcError, World
from lsps2fast_plugin.simnode.splices import LOCK_DEPTH

MakeWorld = Callable[..., World]


async def part_at_client(world: World) -> Any:
    """One part held by the client over a withheld channel; the payment."""
    lsp, client, payer, strings = world.lsp, world.client(on_part="hold"), world.payer(), Strings(world.lsp)
    world.chain.grant(50_000, payer.wallet.new_script())
    payment = payer.pay(client.invoice(1_000_000, scid="1x1x1"), final_delta=60)
    (call,) = await strings.opened(1)
    opened = await open_channel(lsp, client)
    await strings.answer(call, result=forward(call, opened.channel_id))
    await world.until(lambda: client.held(), "the part at the client")
    return payment, payer, client


@pytest.mark.parametrize("then", ["settled", "failed"])
async def test_a_part_of_a_spliced_channel_ends_in_a_new_row(make_world: MakeWorld, then: str) -> None:
    """cln:N3, people:S9: the old row says offered for good, the new one has the scid of
    the moment and no updated_index.
    """
    async with make_world(hearing("forward_event")) as world:
        payment, payer, client = await part_at_client(world)
        old = payer.ends[0].scid
        world.splice(payer.ends[0], 10_000)
        assert world.lsp.ends[0].state == "CHANNELD_AWAITING_SPLICE"
        world.mine(LOCK_DEPTH)
        new = payer.ends[0].scid
        assert (world.lsp.ends[0].state, new != old) == ("CHANNELD_NORMAL", True)
        {"settled": client.settle_held, "failed": lambda: client.fail(client.held()[0])}[then]()
        assert (await payment).paid is (then == "settled")
        rows = (await world.lsp.call("listforwards"))["forwards"]
        assert [(row["in_channel"], row["status"]) for row in rows] == [(old, "offered"), (new, then)]
        assert "updated_index" not in rows[1]
        event = (await Strings(world.lsp).events("forward_event", 2))[-1]
        assert (event["in_channel"], event["status"], "created_index" in event) == (new, then, True)


async def test_an_old_scid_is_hidden_and_still_finds_a_public_channel(make_world: MakeWorld) -> None:
    """cln:N3: not in any row; `listpeerchannels short_channel_id=` finds it, of a private channel it does not."""
    async with make_world() as world:
        payer = world.payer()
        private = world.add_channel(payer, world.lsp, private=True)
        for end in (payer.ends[0], private):
            old = end.scid
            world.chain.grant(50_000, payer.wallet.new_script())
            world.splice(end)
            world.mine(LOCK_DEPTH)
            assert old not in str(await world.lsp.call("listpeerchannels"))
            found = (await world.lsp.call("listpeerchannels", {"short_channel_id": old}))["channels"]
            assert [row["short_channel_id"] for row in found] == ([] if end is private else [end.scid])


async def test_what_a_splice_adds_counts_when_it_is_locked(make_world: MakeWorld) -> None:
    """cln:N3: new capacity is usable after six blocks; the money is in the channel at once."""
    async with make_world() as world:
        payer = world.payer(capacity_sat=100_000)
        world.chain.grant(500_000, payer.wallet.new_script())
        world.open_books()
        end, before = payer.ends[0], payer.ends[0].spendable_msat()
        world.splice(end, 200_000)
        world.mine(LOCK_DEPTH - 1)
        assert end.spendable_msat() <= before
        world.mine()
        end.htlc_maximum_msat = 10**12
        assert end.spendable_msat() > before + 190_000_000
        world.check_books()
        assert world.books()["payer"] == -300_000


async def test_splicein_on_an_unconfirmed_channel_closes_it_by_force(make_world: MakeWorld) -> None:
    """cln:N3: what lightningd does to a zero-conf channel without a block."""
    async with make_world() as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        await broadcast(world.lsp, opened.psbt)
        with pytest.raises(RpcError):
            await world.lsp.call("splicein", {"channel": opened.channel_id, "amount": 50_000})
        assert world.lsp.ends[0].state == "AWAITING_UNILATERAL"


async def test_a_reorg_takes_a_channel_to_another_scid(make_world: MakeWorld) -> None:
    """trap:46, wallet:W3: the funding is in no block for a while, then in another; block heights go back and on."""
    async with make_world(hearing("block_added")) as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        await broadcast(world.lsp, opened.psbt)
        world.mine()
        end, height = world.lsp.ends[0], world.chain.height
        old, old_hash = end.scid, world.chain.hash_of(height)
        world.mine(2)
        world.reorg(3)
        assert world.chain.hash_of(height) != old_hash
        assert (end.scid, world.chain.depth(end.channel.funding_txid)) == (old, 4)
        world.reorg(4, without=(end.channel.funding_txid,))
        assert not world.chain.knows(end.channel.funding_txid)
        world.mine(2)
        await broadcast(world.lsp, opened.psbt)
        world.mine()
        assert end.scid != old
        events = await Strings(world.lsp).events("block_added")
        heights = [event["height"] for event in events]
        assert any(later <= earlier for earlier, later in pairwise(heights))
        world.check_books()


async def test_a_funding_can_be_replaced(make_world: MakeWorld) -> None:
    """wallet:W3: its inputs go elsewhere, and getutxout knows it no more."""
    async with make_world() as world:
        client = world.client()
        opened = await open_channel(world.lsp, client)
        await broadcast(world.lsp, opened.psbt)
        channel = world.lsp.ends[0].channel
        spot = {"txid": channel.funding_txid, "vout": channel.funding_outnum}
        assert (await world.lsp.call("getutxout", spot))["amount"] == 200_000
        world.chain.replace(channel.funding_txid, world.lsp.wallet.new_script())
        assert await world.lsp.call("getutxout", spot) == {"amount": None, "script": None}
        world.mine()
        assert world.lsp.ends[0].scid is None
