"""A crowd at the counter: 1,000 peers, 10,000 requests a second. `LSPS2FAST_FLOOD_S=10` runs the whole ten seconds."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
from itertools import count

import pytest
from harness.negotiator import ALICE, BOB, Shop

from lsps2fast.lsps import lsps0
from lsps2fast.lsps.lsps2 import BUY, GET_INFO

SECONDS = int(os.environ.get("LSPS2FAST_FLOOD_S", "2"))
PEERS = 1_000
A_SECOND = 10_000
NEWCOMER = "03" + BOB[2:]


def crowd() -> list[str]:
    """Node ids of the crowd."""
    return [f"02{number:064x}" for number in range(1, PEERS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["menus", "buys", "strangers' offers", "rubbish"])
async def test_ten_thousand_requests_a_second_bound_work_memory_and_commits(kind: str) -> None:
    """trap:31, T-36, B-14: memory and commits are bounded, an honest peer is still served."""
    shop = Shop()
    peers = crowd()
    stolen = (await shop.menu(ALICE))[0]
    ours = dict.fromkeys(peers, stolen)
    if kind == "buys":
        ours = {peer: shop.negotiator._signed(peer, [params], None)["opening_fee_params_menu"][0] for peer in peers
                for params in [shop.desk.policy.rules.lines[0].line.params(shop.clock.wall)]}  # fmt: skip
    payloads = {
        "menus": lambda _: lsps0.encode_request("x", GET_INFO, {}),
        "buys": lambda peer: lsps0.encode_request("x", BUY, {"opening_fee_params": ours[peer]}),
        "strangers' offers": lambda _: lsps0.encode_request("x", BUY, {"opening_fee_params": stolen}),
        "rubbish": lambda _: b'{"jsonrpc": "2.0", "id": 5}',
    }
    replies = 0
    messages = count()
    tracemalloc.start()
    sizes = []
    for _ in range(SECONDS):
        for _ in range(A_SECOND // 10):
            for peer in (peers[next(messages) % PEERS] for _ in range(10)):
                replies += await shop.send(peer, payloads[kind](peer)) is not None
            shop.clock.pass_ms(1)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    # What an answer costs is an RPC call, what a buy costs a commit.
    assert replies <= {"rubbish": 200 + 20 * (SECONDS + 1)}.get(kind, 700 * (SECONDS + 1))
    assert len(shop.sold) <= 60 * (SECONDS + 1)
    assert shop.datastore.commits == 0
    assert sum(shop.counted().values()) >= next(messages) - replies
    assert sizes[-1] < 12_000_000
    assert len(shop.log) <= 200 + 20 * (SECONDS + 1)
    honest = await shop.menu(NEWCOMER)
    assert await shop.code(honest[0], peer_id=NEWCOMER) is None


@pytest.mark.slow
async def test_a_million_node_ids_cannot_fill_the_memory() -> None:
    """trap:31, rule:14: what is remembered of a peer is remembered for a bounded number of peers."""
    shop = Shop()
    request = lsps0.encode_request("x", GET_INFO, {})
    for number in range(30_000):
        await shop.send(f"02{number:064x}", request)
        await shop.send(f"02{number:064x}", b"rubbish")
    flow = shop.desk.gate._info
    assert len(flow._peers) <= 10_000
    assert len(flow._seldom) <= 10_000
    assert len(shop.desk.gate._told) <= 10_000
    assert len(shop.negotiator._rubbish) <= 10_000
    assert len(shop.desk.gate.in_progress) == 0


async def test_a_crowd_that_has_bought_all_it_may_leaves_room() -> None:
    """B-14: the last fifth of all places is for peers that hold none."""
    shop = Shop(lsps2_max_buys=20, lsps2_max_buys_per_minute=10**6)
    for peer in crowd()[:2]:
        offer = (await shop.menu(peer))[0]
        codes = await asyncio.gather(*(shop.code(offer, peer_id=peer) for _ in range(10)))
        assert codes.count(None) >= 6
    assert len(shop.offers) == 16
    assert await shop.code((await shop.menu(NEWCOMER))[0], peer_id=NEWCOMER) is None
    assert json.dumps(shop.counted()) == json.dumps({"offer_limits": 4})
