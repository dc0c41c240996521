"""The load generator: its calls are lightningd's, its harness counts right, its report can be read."""

from __future__ import annotations

import json
import random
import time
import xml.etree.ElementTree as ET

import pytest

from lsps2fast import _hook as hook
from lsps2fast_plugin.tools.bench import children, crowd, real, real_sales, report, sweep
from lsps2fast_plugin.tools.bench.calls import event_frame, hook_frame
from lsps2fast_plugin.tools.bench.figures import figure, of_pairs, quantile
from lsps2fast_plugin.tools.bench.harness import Child, percentiles
from lsps2fast_plugin.tools.bench.run import Results, ratios
from lsps2fast_plugin.tools.bench.sales import added_s, run_beside_a_hanging_one

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
    assert percentiles([float(n) for n in range(201)]) == {"p50_us": 100.0, "p99_us": 198.0, "p99_9_us": None}


def test_the_others_stand_still_while_one_is_measured() -> None:
    """P4: a thread of one program that computes takes no CPU from the one under load, and goes on behind it."""
    busy, other = Child(children.ours("python", 1.0)), Child(children.ours("python"))
    try:
        with other.alone([busy, other]):
            before_s = busy.cpu_s()
            other.offer([hook_frame(random.Random(1), 1)], 500, 0.1)
            assert busy.cpu_s() - before_s < 0.01
        before_s, last_s = busy.cpu_s(), time.monotonic() + 60
        while busy.cpu_s() - before_s <= 0.02:  # on a machine with other work it gets its turn late
            assert time.monotonic() < last_s
            busy.offer([hook_frame(random.Random(1), 1)], 500, 0.1)
    finally:
        busy.close()
        other.close()


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


def test_figures_from_a_real_lightningd_become_ratios() -> None:
    """P2, P21: what is divided by what."""
    late = {name: {"p50": p50, "p99": 3 * p50} for name, p50 in (("no plugin", 10.0), ("service", 11.0))}
    late |= {"our host": {"p50": 10.2, "p99": 30.0}, "pyln-client": {"p50": 60.0, "p99": 90.0}}
    late = {name: {**each, "p25": each["p50"], "p75": None} for name, each in late.items()}
    cpu_us = {"service": [20.0, 10.0, 20.0], "pyln-client": [500.0, 300.0, 100.0]}
    found = real.RealResults({"cpu": "x", "cores": 2, "load": "1"}, "v0", 1, late, late, cpu_us)
    found.ratios = real.ratios(found)
    assert list(found.ratios.values()) == [25.0, 5.0, 30.0, 1.02, 6.0, 1.1, 1.1]
    assert "8 needed" in real.text(found)
    assert "our host, 0.5 of 0.6 s blocked" in real.text(found)
    assert json.loads(real.as_json(found))["cpu_us"] == cpu_us


def test_the_report_can_be_read_by_people_programs_and_browsers() -> None:
    """Table, --json, --plot."""
    machine = {"cpu": "x & y", "cores": 2, "load": "1", "system": "s", "python": "3", "lsps2fast": "0"}
    rates = {1000: LATE, 10_000: LATE}
    results = Results(
        machine,
        latency={"service": rates},
        at_rate_cpu_us={"service": {1000: 1.0, 10_000: 2.0}},
        growth=[{"live": live, "cpu_us": 1.0, "rss_kb": 4096} for live in (1, 100_000)],
        sales=[{"sessions": 10, "parts": 10, "seconds": 1.0, "payer_waits_s": 0.5, "rpc_calls": 1, "commits": 60}],
    )
    assert "100,000" in report.text(results)
    assert json.loads(report.as_json(results))["machine"] == machine
    drawing = ET.fromstring(report.svg(results))
    assert drawing.tag.endswith("svg")
    assert [len(lines) for _, lines in report.charts(results)] == [2, 1, 2]
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 5


def test_ratios_are_held_against_their_bounds() -> None:
    """P1, P2, P7, P16, P18, P19: which side is good is part of the target."""
    results = Results(
        {},
        rounds={
            "saturated CPU": {
                "C ceiling": [1.0, 2.0, 1.0],
                "service": [1.2, 2.2, 1.3],
                "pyln-client": [48.0, 88.0, 52.0],
                "interpreted": [1.0, 1.0],
            },
            "p99_us at 10000": {"service": [9.0, None, None], "C ceiling": [9.0, 9.0, 9.0]},
            "saturated calls": {"service": [400.0] * 3, "pyln-client": [10.0] * 3},
        },
        sales=[{"sessions": 10, "parts": 10, "commits": 60}],
        start={"stored": 1000, "init_s": 0.5, "live_s": 30.0},
        beside={"paid": 8, "others": 9},
        growth=[{"live": 1, "cpu_us": 1.0}, {"live": 1000, "cpu_us": 1.1}],
    )
    found = {(row["target"], row["what"].split(",")[0].split(" until")[0]): row for row in ratios(results)}
    assert [found["P1s", "CPU a hook"][key] for key in ("low", "high")] == [1.1, 1.3]
    assert {key: (row["value"], row["met"]) for key, row in found.items()} == {
        ("P1s", "CPU a hook"): (1.2, True),
        ("P2", "CPU a hook: pyln-client ÷ ours"): (40.0, False),
        ("P6", "RPC calls for 0 foreign hooks"): (0, True),
        ("P7", "saturation: ours ÷ pyln-client"): (40.0, True),
        ("P16", "commits a session"): (6.0, False),
        ("P18", "s"): (30.0, False),
        ("P19", "sales paid beside a hanging one ÷ all of them"): (0.889, False),
        ("flat", "CPU a hook"): (1.1, True),
    }


def test_time_up_to_what_lightningd_says_is_its_own() -> None:
    """P17: the arithmetic, on a story of one part before the stretch and one that begins it."""

    def entry(at_s: float, direction: str, **message: object) -> dict[str, object]:
        return {"t": at_s, "dir": direction, "msg": message}

    story = [
        entry(0.0, "host>plugin", method="htlc_accepted", id="a"),
        entry(5.0, "host>plugin", method="htlc_accepted", id="b"),
        entry(5.25, "rpc>host", method="fundpsbt", id=1),
        entry(7.0, "host>rpc", id=1, result={}),
        entry(7.5, "plugin>host", id="a", result={}),
        entry(7.75, "plugin>host", id="b", result={}),
        entry(9.0, "plugin>host", method="log"),
    ]
    assert added_s(story) == 1.0


def test_no_figure_of_a_run_too_short_for_it() -> None:
    """P23, P24: a quantile has two values beyond it; a figure comes with its spread, or says how many are missing."""
    values = [float(n) for n in range(20)]
    assert [quantile(values, share) for share in (0.5, 0.9, 0.99)] == [9.0, 17.0, None]
    assert quantile(values[:19], 0.9) is None
    assert figure(values).shown(1) == "9.5 (4.0 to 14.0)"
    assert (figure(values[:7]).shown(), figure(values[:19]).shown_p90()) == ("7 of 8 needed", "19 of 20 needed")
    assert of_pairs([2.0, 9.0, 8.0, 4.0, 4.0], [1.0, 3.0, 2.0, 1.0]).median == 3.5  # 2, 3, 4, 4: pair by pair


MACHINE = {"cpu": "x", "cores": 2, "load": "1", "python": "3", "lsps2fast": "0", "at": "now"}


def test_sales_are_divided_by_the_payments_of_their_round() -> None:
    """P23: medians, p90, failures, and a kind that the built-in service does not serve is named, not counted."""
    kinds = (
        ("ours", 1, 300.0),
        ("built-in", 1, 1200.0),
        ("ordinary payment", 1, 200.0),
        ("ordinary payment", 5, 400.0),
    )
    cases = [real_sales.Case(name, parts, [ms + n for n in range(20)]) for name, parts, ms in kinds]
    cases[0].take(real_sales.Paid(1.0, 0.5, "failed: WIRE_TEMPORARY_CHANNEL_FAILURE"))
    found = real_sales.Sales(
        MACHINE, "v0", [*cases, real_sales.Case("built-in", 5, [], ["unknown_next_peer"] * 3)], [2.0]
    )
    real_sales.leave_out(found)
    assert [round(ratio.median or 0, 2) for _, _, ratio in real_sales.ratios(found)] == [1.48, 0.26]
    lines = real_sales.sales_text(found).splitlines()
    assert next(line for line in lines if line.startswith("ours, 1 part ")).split()[4:] == [
        "310", "(304", "to", "314)", "317", "1",
    ]  # fmt: skip
    assert "left out: built-in, 5 parts: none of 3 was served: unknown_next_peer" in lines
    assert json.loads(real_sales.as_json(found))["cases"][0]["failures"] == ["failed: WIRE_TEMPORARY_CHANNEL_FAILURE"]


def test_crowds_are_divided_round_by_round() -> None:
    """P24: total, median wait and CPU of ours and of the built-in service."""

    def rush(name: str, total_s: float, waits_s: list[float], cpu_ms: float) -> real_sales.Rush:
        return real_sales.Rush(name, len(waits_s), total_s, figure(waits_s), max(waits_s), cpu_ms, [])

    waits_s = [1.0, 2.0, 3.0, 4.0]
    rushes = [rush("ours", 8.0, waits_s, 2.0), rush("built-in", 10.0, [2 * wait for wait in waits_s], 4.0)]
    text = real_sales.crowd_text(
        real_sales.Crowds(MACHINE, "v0", [*rushes, rush("ours", 9.0, waits_s, 2.0)], [1.0, 3.5])
    )
    assert "load 1 before, 1 to 3.5 meanwhile" in text
    ratios = {line.split("  ")[0]: line.split()[-3:] for line in text.splitlines() if line.endswith("0")}
    assert ratios["a payer waits, median"] == ["0.50", "0.50", "0.50"]
    assert next(line for line in text.splitlines() if line.startswith("all paid")).split()[-3:] == ["0.80"] * 3


def test_a_crowd_that_was_not_paid_makes_nobody_quicker() -> None:
    """P24: of an LSP that loses half of its sales the time is shared by those that were paid."""
    whole = real_sales.Rush("ours", 4, 8.0, figure([1.0] * 4), 1.0, 2.0, [])
    half = real_sales.Rush("built-in", 4, 4.0, figure([1.0] * 2), 1.0, 2.0, ["lost", "lost"])
    text = real_sales.crowd_text(real_sales.Crowds(MACHINE, "v0", [whole, half], [1.0]))
    rows = {line.split("  ")[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
    assert rows["all paid"] == "2.00"
    assert rows["the same, by sales that were paid"] == "1.00"


def test_why_sales_of_a_crowd_came_to_nothing_is_shown() -> None:
    """P24: what the payer heard, and what our service logged; a sale that was paid is not among them."""
    log = (
        "2026 INFO plugin-service: sold: 10,000 sat to 02ab over 1x2x3 (payment 00); opening fee 1 sat\n"
        "2026 INFO plugin-service: not sold: 10,000 sat to 02ab over 1x2x3 (payment 00); failed by this node in "
        "OPENING (no_coins): none\n"
    )
    told = real_sales.NOT_SOLD.findall(log)
    rush = real_sales.Rush("ours", 2, 1.0, figure([1.0]), 1.0, 2.0, ["failed: WIRE_TEMPORARY_CHANNEL_FAILURE"], told)
    text = real_sales.crowd_text(real_sales.Crowds(MACHINE, "v0", [rush], [1.0]))
    assert "failed 1 times, ours: failed: WIRE_TEMPORARY_CHANNEL_FAILURE" in text
    assert "failed 1 times, ours: failed by this node in OPENING (no_coins): none" in text
    assert text.count("failed 1 times") == 2


@pytest.mark.slow
def test_a_crowd_on_the_embedded_node() -> None:
    """P24, P16: each sale is paid, and costs five commits however many come."""
    found = crowd.run_crowds(1, 5, 1, print)
    (sold,) = found["crowds"]
    assert (len(sold["waits_s"]), sold["commits"]) == (5, 25)
    assert sold["cpu_ms"] > 0
    assert crowd.text(found).splitlines()[-1].split()[-2] == "5.0"


@pytest.mark.slow
def test_a_sale_that_hangs_holds_up_no_other() -> None:
    """P19, on a few sales."""
    found = run_beside_a_hanging_one(1, 4, 2)
    assert (found["hangs"], found["others"], found["paid"]) == (True, 3, 3)


@pytest.mark.slow
def test_a_sweep_floods_a_real_service_and_a_blocked_loop() -> None:
    """P25: each rate twice, forwards and wallets at each; the lane answers while its loop is blocked; a picture."""
    found = sweep.run_sweep(1, 0.5, print, rates=(100.0, 2_000.0), peers=20, block_s=0.5)
    assert [(step.per_s, step.wallets_served) for step in found.steps] == [(100.0, 20), (2_000.0, 20)]
    assert all(len(step.forward_us) >= 2 * 40 for step in found.steps)
    assert all(len(step.own_us) == len(step.forward_us) and min(step.own_us) >= 0.0 for step in found.steps)
    assert [each.lane for each in found.blocked] == ["c", "python"]
    assert all(len(each.rest_us) >= 40 and len(each.blocked_us) >= 40 for each in found.blocked)
    assert "of 200" in sweep.text(found)  # too few for a p99
    drawing = ET.fromstring(sweep.svg(found))
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert json.loads(sweep.as_json(found))["peers"] == 20
