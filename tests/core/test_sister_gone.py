"""The funding pays several channels and one of them is given up before it is sent: the others open another."""

from __future__ import annotations

import pytest
from harness.scene import CLTV, FUNDING, HASH, PUBLIC, SCID, Machine, Scene, failed, kinds
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import Input, State

SIGNED = "half half reserved stored funded stored"
OTHER = order.Channel("22" * 32, "cHNidA==", "33" * 32)
OTHER_COINS = replace(FUNDING, inputs=(f"{'44' * 32}:1",))


def test_the_payment_opens_another_channel_and_is_paid_over_that(machine: Machine) -> None:
    """trap:60, rule:22: no part fails, no attempt of the buy is used, the new record names the new coins alone."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED)
    actions = scene.tell(Input.SISTER_GONE)
    assert kinds(actions) == ["ReserveCoins"]
    assert actions[0].parts == 2
    assert not actions[0].may_reuse
    assert scene.state is State.OPENING
    (intent,) = scene.tell(Input.COINS_CHOSEN, OTHER_COINS)
    assert intent.record.stage == "intent"
    assert intent.record.funding == OTHER_COINS
    assert intent.record.channel is None
    assert intent.record.attempts == 1
    scene.walk("stored")
    scene.tell(Input.FUNDED, order.Opened(OTHER))
    scene.walk("stored")
    assert scene.of(order.Broadcast)[-1].channel == OTHER
    scene.walk("sent ready stored")
    assert scene.of(order.ForwardParts)[-1].channel_id == OTHER.channel_id
    assert not scene.of(order.FailParts)


def test_what_joins_meanwhile_goes_with_the_others(machine: Machine) -> None:
    """C-18: parts that come while the second channel is made are held like those before."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED + " sister")
    scene.walk("late")
    scene.tell(Input.COINS_CHOSEN, OTHER_COINS)
    scene.walk("stored")
    scene.tell(Input.FUNDED, order.Opened(OTHER))
    scene.walk("stored sent ready stored")
    assert len(scene.of(order.ForwardParts)[-1].parts) == 3


def test_a_close_of_the_old_channel_is_no_news_for_the_new_attempt(machine: Machine) -> None:
    """rule:26: we close it ourselves; lightningd's word of that must not end the payment."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED + " sister")
    old = scene.of(order.Broadcast)[-1].channel
    assert scene.note(scene.core.channel_closed(old.channel_id)) == ()
    assert scene.note(scene.core.money_back(old.channel_id)) == ()
    assert scene.state is State.OPENING


def test_a_payment_given_up_meanwhile_undoes_its_channel(machine: Machine) -> None:
    """K-19: the deadline came while its funding was to be sent; that it never is frees the channel and its coins."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED)
    assert failed([0, 1]) in scene.block(CLTV - 6)
    assert scene.state is State.ABORTING
    actions = scene.tell(Input.SISTER_GONE)
    assert kinds(actions)[-1] == "Undo"
    scene.walk("undone")
    assert scene.state is State.ABANDONED


def test_a_channel_in_which_money_of_the_client_was_seen_comes_to_an_end_too(machine: Machine) -> None:
    """rule:10, K-11: given up at the deadline, then owed to the chain; its funding would pay one that is gone."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED + " deadline money")
    assert scene.state is State.BROADCASTING
    actions = scene.tell(Input.SISTER_GONE)
    assert kinds(actions)[-1] == "Undo"
    scene.walk("undone")
    assert scene.state is State.ABANDONED


def test_no_coins_for_another_channel_gives_the_old_ones_back(machine: Machine) -> None:
    """rule:9: the coins of the first attempt are still this payment's."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED + " sister")
    actions = scene.tell(Input.OPEN_FAILED, False)
    assert kinds(actions) == ["FailParts", "Undo"]
    assert actions[1].channel is None
    assert actions[1].funding == FUNDING


def test_a_funding_that_is_out_has_no_such_end(machine: Machine) -> None:
    """rule:8: what was sent is not opened again."""
    scene = Scene(machine, **PUBLIC)
    scene.walk(SIGNED + " sent")
    with pytest.raises(ProtocolBug, match="is out"):
        scene.session.apply(Input.SISTER_GONE)
    assert scene.core.buys[SCID].sets[HASH].sent
