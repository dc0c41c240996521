"""Every alarm has a kind, and every kind a section of the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness.logs import Log

import lsps2fast
import lsps2fast_plugin
from lsps2fast_plugin.service.alarms import KINDS, OTHER, TOPIC, Alarms, kind_of

ROOT = Path(__file__).parents[3]
PLACES = (Path(lsps2fast.__file__).parent, Path(lsps2fast_plugin.__file__).parent / "service")
CALL = re.compile(r"(?:[aA]larm|_told)\(\s*f?\"([^\"]*)\"")


def said() -> list[str]:
    """The literal texts of alarms in the sources, each as far as its first quotation mark."""
    files = [path for place in PLACES for path in [*place.rglob("*.py"), *place.rglob("*.pyx")]]
    return [text for path in files for text in CALL.findall(path.read_text("utf-8")) if " " in text]


@pytest.mark.parametrize("text", said())
def test_an_alarm_in_the_sources_has_a_kind(text: str) -> None:
    """operator:O12: an alert can name it."""
    spoken = re.sub(r"\{what\}", "a part of aa was paid after its channel was given up", text)
    spoken = re.sub(r"\{text\}", "the offer of 1x1x1 has lapsed; its channel cc stays on chain", spoken)
    assert kind_of(spoken) != OTHER, text


def test_there_are_alarms_to_look_at() -> None:
    """The pattern finds them: the machine's and the service's."""
    assert len(said()) >= 12


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("writing the journal has failed 1 times: disk is full", "journal"),
        ("closing channel cc has failed 3 times: lightningd is away", "stuck"),
        ("sending the funding aa of channel cc has failed 3 times: bitcoind is away", "funding-late"),
        ("withheld channel cc to 02aa is in no record", "unknown-channel"),
        ("record 1x1x1 cannot be taken up; it is kept and its parts fail", "journal"),
        ("ReserveCoins broke\nTraceback", "bug"),
        ("session 1x1x1: FUNDED cannot come in COLLECTING", "bug"),
        ("channel cc may not be dropped: money has moved in it, or it is public", "given-up"),
        ("order aa of 02aa was paid twice, so its invoice records: pay 5 sat back", "paid-twice"),
        ("the invoice of order aa of 02aa was deleted, and no bookkeeper has a record of it: if", "perhaps-paid"),
        ("the record of order aa cannot be read and is kept; its client may be owed: x", "journal"),
        ("order aa has its channel on chain, and its payment went back: it stays on chain", "unpaid-channel"),
        ("something else", OTHER),
    ],
)
def test_the_kind_follows_from_the_words(text: str, kind: str) -> None:
    """operator:O12: the more special one first."""
    assert kind_of(text) == kind


def test_every_kind_has_its_section_in_the_runbook() -> None:
    """operator:O12: in the order of the code, none for nothing."""
    page = (ROOT / "docs" / "how-to" / "runbook.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", page, re.M) == [*(kind.name for kind in KINDS), OTHER]


def test_an_alarm_is_a_line_a_notification_and_a_count() -> None:
    """operator:O12: once each, the trace only in the log."""
    sent: list[tuple[str, Any]] = []
    alarms, log = Alarms(lambda topic, params: sent.append((topic, params)), lambda: 5), Log()
    alarms.tell("ReserveCoins broke\nTraceback …")
    ((topic, params),) = sent
    assert topic == TOPIC
    assert params[TOPIC] == {"kind": "bug", "text": "ReserveCoins broke", "runbook": "runbook.md#bug"}
    assert alarms.recent.after(0) == [{"at_ms": 5, "kind": "bug", "text": "ReserveCoins broke"}]
    assert alarms.by_kind["bug"] == len(alarms) == 1
    assert "ALARM: ReserveCoins broke" in log.text("warn")
