"""The embedded node against recordings of real runs of our own plugin: same calls, answers, codes and shapes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from harness.benches import embedded_run
from harness.scenarios import SCENARIOS, Scenario
from harness.trace import differences, trace

DATA = Path(__file__).parent.parent / "data" / "real"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_the_embedded_node_tells_what_a_real_one_told(scenario: Scenario) -> None:
    """Point 5 of real nodes: recordings of lightningd v26.06-258 with unmodified stock settings."""
    with open(DATA / f"{scenario.__name__}.jsonl", encoding="utf-8") as file:
        real = trace([json.loads(line) for line in file])
    _, embedded = asyncio.run(embedded_run(scenario, "client-trusts-lsp"))
    assert differences(real, embedded) == []
