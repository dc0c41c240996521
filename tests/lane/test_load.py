"""The load generator: its calls are lightningd's, its harness counts right, its report can be read."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET

import pytest

from lsps2fast import _select
from lsps2fast_plugin.load import children, report
from lsps2fast_plugin.load.calls import event_frame, hook_frame
from lsps2fast_plugin.load.harness import Child, percentiles
from lsps2fast_plugin.load.run import Results

hook = _select.load("_hook")
LATE = {"p50_us": 100.0, "p99_us": 900.0, "p99_9_us": 1500.0}


def test_made_up_calls_are_in_the_usual_shape() -> None:
    """P5: the strict reader knows them, so the lane answers them itself; the same seed makes the same ones."""
    frame = hook_frame(random.Random(1), 7)
    found = hook.scan(frame.strip())
    assert found.id_raw == b'"cln:htlc_accepted#7"'
    assert found.forward_to is not None
    assert hook.event_hash(event_frame(random.Random(1), 1).strip()) is not None
    assert frame == hook_frame(random.Random(1), 7)


def test_percentiles_of_a_hundred() -> None:
    """The figures of every table."""
    assert percentiles([float(n) for n in range(101)]) == {"p50_us": 50.0, "p99_us": 99.0, "p99_9_us": 99.0}


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["c", "python"])
def test_every_call_offered_is_answered(lane: str) -> None:
    """P6's ground: nothing is lost at a rate, or as fast as it goes, also while a method blocks the loop."""
    frames = [hook_frame(random.Random(n), n) for n in range(50)]
    call = b'{"jsonrpc":"2.0","id":"b","method":"block","params":{"seconds":0.01}}\n\n'
    child = Child(children.ours(lane))
    try:
        assert len(child.offer(frames, 500, 0.2, call, 0.1)) == 100
        assert child.saturate(b"".join(frames) * 4, 200).cpu_us > 0
        assert child.rss_kb() > 0
    finally:
        child.close()


def test_the_report_can_be_read_by_people_programs_and_browsers() -> None:
    """Issue 7: table, --json, --plot."""
    machine = {"cpu": "x & y", "cores": 2, "load": "1", "system": "s", "python": "3", "lsps2fast": "0"}
    rates = {1000: LATE, 10_000: LATE}
    results = Results(machine, latency={"service": rates}, at_rate_cpu_us={"service": {1000: 1.0, 10_000: 2.0}})
    assert "10,000" in report.text(results)
    assert json.loads(report.as_json(results))["machine"] == machine
    assert ET.fromstring(report.svg(results)).tag.endswith("svg")
