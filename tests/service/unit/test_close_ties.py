"""What is under way with a client keeps its channels from every rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lsps2fast_plugin.service.closing.ties import Ties

CHANNEL, PEER = "cc" * 32, "02" + "11" * 32


def ties(**given: Any) -> Ties:
    """A service with nothing under way, but for what is given."""
    session = SimpleNamespace(channel=given.get("session"), existing=given.get("existing"))
    buy = SimpleNamespace(channel=given.get("channel"), sets={b"": session}, closing=given.get("closing", ()))
    driver = SimpleNamespace(
        sessions=SimpleNamespace(buys={1: buy}), clients_waited_for=lambda keys: set(given.get("held", ()))
    )
    asleep = given.get("asleep")
    parts: dict[str, Any] = {
        "offers": SimpleNamespace(of_peer=lambda peer_id: given.get("offers", [])),
        "driver": driver,
        "capital": SimpleNamespace(is_unpaid=lambda channel_id: given.get("unpaid", False)),
        "shut": SimpleNamespace(withheld=given.get("withheld", set())),
        "held": SimpleNamespace(keys=list),
        "waker": None if asleep is None else SimpleNamespace(sleepers=SimpleNamespace(waited_for=lambda: asleep)),
    }
    return Ties(**parts)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"channel": SimpleNamespace(channel_id=CHANNEL)}, "a payment under way or an offer has it"),
        ({"session": SimpleNamespace(channel_id=CHANNEL)}, "a payment under way or an offer has it"),
        ({"existing": SimpleNamespace(channel_id=CHANNEL)}, "a payment under way or an offer has it"),
        ({"closing": [CHANNEL]}, "a payment under way or an offer has it"),
        ({"offers": ["one"]}, "its client has an offer that is still good"),
        ({"unpaid": True}, "it is not paid for"),
        ({"withheld": {CHANNEL}}, "it is not paid for"),
        ({"held": [PEER]}, "payments are held for its client"),
        ({"asleep": [PEER]}, "payments are held for its client"),
    ],
)
def test_each_thing_under_way_keeps_a_channel(given: dict[str, Any], words: str) -> None:
    """A-03, A-06, rule:21: a payment, an offer, a fee that is owed, HTLCs held for its client (LSPS5 too)."""
    assert (ties(**given).look().why_kept(CHANNEL, PEER) or "").startswith(words)


def test_what_is_under_way_with_others_keeps_nothing() -> None:
    """rule:22: each client for itself."""
    other = ties(
        channel=SimpleNamespace(channel_id="dd" * 32), held=["03" + "22" * 32], asleep=[], withheld={"ee" * 32}
    )
    assert other.look().why_kept(CHANNEL, PEER) is None
