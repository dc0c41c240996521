"""What two plugins write to the log and to the datastore, in the demo and against a cheat, is what the pages say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lsps2fast_plugin.tools import log_page, records_page, service_rpc_page
from lsps2fast_plugin.tools.demo import evil, sales
from lsps2fast_plugin.tools.demo.screen import Screen

Entry = dict[str, Any]


async def _said(mode: str, vice: str | None) -> list[Entry]:
    service = sales.SERVICE if vice is None else evil.service_with(vice)
    async with sales.new_world(1, mode, service) as world:
        stage = sales.Stage(world, Screen(silent=True), mode)
        await (stage.play() if vice is None else evil.play(stage, vice))
        return list(world.transcript.entries)


@pytest.fixture(scope="module")
def said() -> list[Entry]:
    """Return all that went over the pipes and sockets of three sales, and of an LSP that cheats."""
    return [
        entry
        for mode, vice in ((sales.LSP_TRUSTS, None), (sales.CLIENT_TRUSTS, "skim"), (sales.LSP_TRUSTS, "withhold"))
        for entry in asyncio.run(_said(mode, vice))
    ]


def test_every_line_of_the_log_is_on_the_page(said: list[Entry]) -> None:
    """With its level; sentences that are made of others are known by their head."""
    events = [event for part in log_page.PARTS for event in log_page.events(part)]
    patterns = [
        (event.level, re.compile(".*".join(map(re.escape, event.text.replace("\\|", "|").split(log_page.HOLE))), re.S))
        for event in events
    ]
    lines = [
        (entry["msg"]["params"]["level"], entry["msg"]["params"]["message"])
        for entry in said
        if entry.get("msg", {}).get("method") == "log"
    ]
    assert len(lines) > 10
    for level, line in lines:
        words = " ".join(line.split())
        assert any(level == at and pattern.fullmatch(words) for at, pattern in patterns), (level, line)


def written(said: list[Entry]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (key, value) of all that was written to the datastore."""
    for entry in said:
        message = entry.get("msg", {})
        if message.get("method") == "datastore":
            params = message["params"]
            yield tuple(params["key"]), json.loads(bytes.fromhex(params["hex"]))


def is_of(family: records_page.Family, key: tuple[str, ...]) -> bool:
    """Return whether a record lies where the page says: words with a blank or a slash stand for what differs."""
    return len(family.key) == len(key) and all(
        " " in part or "/" in part or mine in part.split("|") for part, mine in zip(family.key, key, strict=True)
    )


def test_every_record_is_on_the_page(said: list[Entry]) -> None:
    """K-24: where it lies, with its members; and amounts are texts."""
    seen = set()
    for key, value in written(said):
        (family,) = (each for each in records_page.families() if is_of(each, key))
        seen.add(family.head)
        assert set(records_page.members(value)) <= set(records_page.members(family.example)), key
        for name, amount in value.items() if isinstance(value, dict) else ():
            if name.endswith("_msat"):
                assert amount is None or isinstance(amount, str), (key, name)
    assert len(seen) >= 5, seen


def test_notifications_have_the_members_of_the_page(said: list[Entry]) -> None:
    """`lsps2_session`, in the service's methods; the wallet's are held by its own page."""
    text = service_rpc_page.reference().partition("`lsps2_session`:")[2].partition("\nStates:")[0]
    named = set(re.findall(r"`(\w+)`", text))
    sent = [entry["msg"]["params"]["lsps2_session"] for entry in said if entry["msg"].get("method") == "lsps2_session"]
    assert len(sent) > 10
    assert {frozenset(params) for params in sent} == {frozenset(named)}
