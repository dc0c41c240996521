"""Orders are plain data. Those that are made without a call of their constructor are what it would have made."""

from __future__ import annotations

import gc
import pickle
import sys
from functools import partial

import pytest

from core.scene import PREIMAGE, Scene
from lsps2fast import actions as order


def _sold(scene: partial[Scene]) -> Scene:
    play = scene()
    play.forward(400_000, 600_000)
    play.resolved(0, PREIMAGE)
    play.walk("sent settled2")
    return play


def test_orders_of_a_sale_are_what_their_constructors_make(scene: partial[Scene]) -> None:
    """K-15: records are compared, hashed and copied as any NamedTuple."""
    orders = _sold(scene).orders
    assert {type(each) for each in orders} == {
        order.ReserveCoins,
        order.Persist,
        order.OpenChannel,
        order.AwaitReady,
        order.ForwardParts,
        order.Broadcast,
        order.Finalize,
        order.RestoreFees,
    }
    for each in orders:
        again = type(each)(*each)
        assert (each, repr(each), hash(each)) == (again, repr(again), hash(again))
        assert pickle.loads(pickle.dumps(each)) == each


@pytest.mark.parametrize("kind", [order.Forward, order.Journal, order.Persist])
def test_what_is_ordered_keeps_its_class_alive_and_nothing_else(scene: partial[Scene], kind: type) -> None:
    """One reference from each object to its class: fewer would free the class, more would leak."""
    _sold(scene)
    gc.collect()
    before = sys.getrefcount(kind)
    held = [_sold(scene) for _ in range(20)]
    assert sys.getrefcount(kind) >= before + 20
    held.clear()
    gc.collect()
    assert sys.getrefcount(kind) == before
