"""lightningd's notifications, read once: those of the recordings, later members, and what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lsps2fast.errors import NodeUnreachable
from lsps2fast_plugin.cln.notifications import KINDS, ForwardEvent, heard

DATA = Path(__file__).parents[1] / "data"
FORWARD = {"status": "failed", "payment_hash": "00" * 32, "in_channel": "1x2x3", "in_htlc_id": 4}


def recorded() -> list[tuple[str, dict[str, Any]]]:
    """Return every notification of the recordings that is one of ours."""
    paths = [path for folder in ("recordings", "real") for path in sorted((DATA / folder).glob("*.jsonl"))]
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines()]
    told = [json.loads(line)["msg"] for line in lines if '"host>plugin"' in line]
    return [(each["method"], each["params"]) for each in told if each.get("method") in KINDS and "id" not in each]


def test_every_notification_that_was_recorded_is_read() -> None:
    """cln:W3: the payload is under the notification's name; nothing is lost of what is read."""
    seen = set()
    for topic, params in recorded():
        event = heard(topic, params)
        told = {name: value for name, value in msgspec.to_builtins(event).items() if value not in (None, "")}
        assert told.items() <= params[topic].items()
        seen.add(topic)
    assert seen >= {"connect", "disconnect", "block_added", "channel_state_changed", "forward_event"}


@pytest.mark.parametrize("reason", ["outgoing_peer_offline", {"code": 7}, 7, None])
def test_the_reason_of_a_failure_is_of_any_form(reason: object) -> None:
    """cln:N9: a word more or of another kind must not keep us from hearing that a part came back."""
    event = heard("forward_event", {"forward_event": FORWARD | {"failure_reason": reason, "new": [1]}, "origin": "x"})
    assert isinstance(event, ForwardEvent)
    assert (event.in_htlc_id, event.reason) == (4, "" if reason is None else str(reason))


@pytest.mark.parametrize(
    ("topic", "body", "said"),
    [
        ("block_added", {}, "missing required field `height`"),
        ("block_added", {"height": "7"}, "Expected `int`, got `str` - at `$.height`"),
        ("connect", None, "Expected `object`, got `null`"),
        ("channel_state_changed", {"channel_id": "00", "new_state": "CLOSED"}, "missing required field `peer_id`"),
        ("forward_event", {**FORWARD, "in_htlc_id": None}, "Expected `int`, got `null` - at `$.in_htlc_id`"),
        ("invoice_payment", {"label": "x"}, "missing required field `preimage`"),
    ],
)
def test_a_notification_without_sense_is_told(topic: str, body: object, said: str) -> None:
    """The log says which notification and what is wrong with it."""
    with pytest.raises(NodeUnreachable) as failed:
        heard(topic, {topic: body})
    assert topic in str(failed.value)
    assert said in str(failed.value)
