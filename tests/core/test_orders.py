"""Orders are plain data, each kind a type of its own."""

from __future__ import annotations

import pickle
from functools import partial

import msgspec
import pytest
from harness.scene import PREIMAGE, Scene

from lsps2fast import actions as order


def _sold(scene: partial[Scene]) -> Scene:
    play = scene()
    play.forward(400_000, 600_000)
    play.resolved(0, PREIMAGE)
    play.walk("sent settled2")
    return play


def test_orders_of_a_sale_are_values(scene: partial[Scene]) -> None:
    """K-15: records are compared, hashed and copied by what they say."""
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
        again = type(each)(**msgspec.structs.asdict(each))
        assert (each, repr(each), hash(each)) == (again, repr(again), hash(again))
        assert pickle.loads(pickle.dumps(each)) == each


KINDS = [
    each for each in vars(order).values() if isinstance(each, type) and issubclass(each, (order.Action, order.Fact))
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (order.Action, order.Fact)])
def test_actions_of_two_kinds_are_never_equal(kind: type) -> None:
    """An order to open is none to renew, whatever both say: structural equality would let a mutant pass."""
    count = len(msgspec.structs.fields(kind))
    one = kind(*range(count))
    assert one == kind(*range(count))
    for other in KINDS:
        if other is not kind and len(msgspec.structs.fields(other)) == count:
            assert one != other(*range(count))
    assert one != tuple(range(count))


@pytest.mark.parametrize("kind", KINDS)
def test_an_action_cannot_be_changed(kind: type) -> None:
    """What was ordered stays what was ordered."""
    one = kind(*range(len(msgspec.structs.fields(kind))))
    for field in msgspec.structs.fields(kind):
        with pytest.raises(AttributeError):
            setattr(one, field.name, 0)
