"""What waits for a client to come back, over a channel that a payment and an alias share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from harness.negotiator import ALICE, StillClock

from lsps2fast import actions as order
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.waiting_orders import WaitingOrders


@pytest.mark.parametrize("parts", [1, 3])
def test_a_payment_gives_way_to_no_part_over_an_alias(parts: int) -> None:
    """rule:24, people:S16: both wait for one client, over one channel; the machine must hear of its own."""
    failed: list[order.PartKey] = []
    tasks: Any = SimpleNamespace(
        peer_of=lambda scid: ALICE,
        is_full=lambda scid, of_buy, of_peer: scid == 1 and of_buy >= 4,
        is_of_payment=lambda action: action.jit_scid == 9,
        spawn=lambda work, action: work.close(),
    )
    answers: Any = SimpleNamespace(fail=lambda keys, failure: failed.extend(keys))
    nothing: Any = None
    waiting = WaitingOrders(tasks, nothing, nothing, answers, StillClock(), PromisedRoom())
    waiting.unready.add("X")
    mine = tuple(order.Forward(1, number, 1_000, 0, "s") for number in range(parts))
    waiting.forward(order.ForwardParts(9, bytes(32), "X", mine))
    for number in range(10, 16):
        waiting.forward(order.ForwardParts(1, bytes(32), "X", (order.Forward(1, number, 500 + number, 0, "s"),)))
    assert len(failed) == 3
    assert not {part.key for part in mine} & set(failed)
