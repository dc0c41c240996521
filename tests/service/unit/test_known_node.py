"""What the node said of late: asked once for a crowd, and again when it may be otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lsps2fast.errors import NodeError
from lsps2fast_plugin.service.known_node import FRESH_MS, USABLE_MS, ClientFeatures, KnownFeerates

ALICE = "02" + "aa" * 32


class Node:
    """Counts its calls; `meanwhile` happens before the next answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now_ms = 1_000_000
        self.answers = True
        self.connected = True
        self.features = "08"
        self.meanwhile: Callable[[], None] = lambda: None

    async def call(self, method: str, params: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        self.asked.append(method)
        await asyncio.sleep(0)
        self.meanwhile()
        if not self.answers:
            raise NodeError(method, -1, "bitcoind is away")
        if method == "feerates":
            return {"perkw": {"min_acceptable": 253, "opening": 1_000 + len(self.asked)}}
        return {"peers": [{"id": ALICE, "connected": self.connected, "features": self.features}]}


def rates(node: Any) -> KnownFeerates:
    return KnownFeerates(node, lambda: node.now_ms)


def clients(node: Any) -> ClientFeatures:
    return ClientFeatures(node)


async def test_fee_rates_are_asked_once_for_a_crowd_and_again_when_they_are_old() -> None:
    """P17, P24."""
    node = Node()
    known = rates(node)
    assert {each.funding for each in await asyncio.gather(*(known.perkw() for _ in range(20)))} == {1_001}
    node.now_ms += FRESH_MS - 1
    assert (await known.perkw()).funding == 1_001
    node.now_ms += 1
    assert (await known.perkw()).funding == 1_002
    assert node.asked == ["feerates"] * 2


async def test_old_fee_rates_do_while_lightningd_has_none() -> None:
    """rule:10: for ten minutes."""
    node = Node()
    known = rates(node)
    await known.perkw()
    node.answers = False
    node.now_ms += USABLE_MS - 1
    assert (await known.perkw()).funding == 1_001
    node.now_ms += 1
    with pytest.raises(NodeError):
        await known.perkw()


async def test_what_a_client_can_do_is_asked_once_a_connection() -> None:
    """P17, O-02."""
    node = Node()
    known = clients(node)
    assert [await known.of(ALICE) for _ in range(3)] == ["08"] * 3
    known.link_changed(ALICE)
    node.features = "88"
    assert [await known.of(ALICE) for _ in range(3)] == ["88"] * 3
    assert node.asked == ["listpeers"] * 2


@pytest.mark.parametrize("how", ["it came back meanwhile", "it is away"])
async def test_what_may_be_otherwise_by_now_is_not_kept(how: str) -> None:
    """O-02: another software may be behind the next connection."""
    node = Node()
    known = clients(node)
    if how == "it is away":
        node.connected = False
    else:
        node.meanwhile = lambda: known.link_changed(ALICE)
    assert [await known.of(ALICE) for _ in range(2)] == ["08"] * 2
    assert node.asked == ["listpeers"] * 2
