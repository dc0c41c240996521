"""The embedded node is held to the truth: one list of scenarios, run on both, and what the plugin saw and did compared.

With LSPS2FAST_RECORD=1 the real runs are written to tests/data/real, where `tests/simnode/test_truth.py` compares the
embedded node with them on machines without lightningd.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness.benches import Real, embedded_run
from harness.scenarios import SCENARIOS, Scenario
from harness.trace import differences, trace

from lsps2fast_plugin.tools.regtest import Town

CONFIGS = ("fee-base", "fee-per-satoshi")  # of listconfigs: the rest is this machine's
DATA = Path(__file__).parent.parent / "data" / "real"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_the_plugin_sees_and_does_the_same_on_both(client_trusts_town: Town, scenario: Scenario) -> None:
    """Point 5: order of calls and answers, codes, shapes."""
    bench = Real(client_trusts_town)
    ends = asyncio.run(scenario(bench))
    entries = bench.entries()
    keep(scenario.__name__, entries)
    embedded_ends, embedded = asyncio.run(embedded_run(scenario, client_trusts_town.mode))
    assert embedded_ends == ends
    assert differences(trace(entries), embedded) == []


def keep(name: str, entries: list[dict[str, Any]]) -> None:
    """Write a recording if that is asked for; what only makes noise is left out."""
    if os.environ.get("LSPS2FAST_RECORD") != "1":
        return
    DATA.mkdir(parents=True, exist_ok=True)
    begin = entries[0]["t"]
    with open(DATA / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for entry in entries:
            if entry["msg"].get("method") not in ("log", "block_added"):
                line = {**entry, "t": round(entry["t"] - begin, 6), "msg": shortened(entry["msg"])}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shortened(value: Any) -> Any:
    """Without the bulk that proves nothing: onions, transactions and texts of ours that lightningd echoes."""
    if isinstance(value, dict):
        members = {name: value[name] for name in CONFIGS if name in value} if CONFIGS[0] in value else value
        return {name: shortened(member) for name, member in members.items()}
    if isinstance(value, list):
        return [shortened(member) for member in value]
    return f"{value[:64]}…" if isinstance(value, str) and len(value) > 600 else value
