"""The table of `make bench`: what pytest-benchmark measured, with the targets beside it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.bench.run import machine


def seconds(row: dict[str, Any], key: str = "median") -> float:
    """Of one operation."""
    return float(row["stats"][key]) / float(row["extra_info"].get("per", 1))


def short(value_s: float) -> str:
    """With a unit people can read."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value_s >= size:
            return f"{value_s / size:.2f} {unit}"
    return f"{value_s * 1e9:.1f} ns"


def ratio(info: dict[str, Any], case: str) -> float:
    """To the empty call, measured in turn with it."""
    return float(info[case]) / float(info["empty"])


def exponent(after_s: float, before_s: float, growth: float) -> float:
    """Of cost over size."""
    return math.log(after_s / before_s) / math.log(growth)


def targets(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the ratios the targets are about."""
    t = {name: seconds(row) for name, row in rows.items()}
    more = {name: row["extra_info"] for name, row in rows.items()}
    growth = exponent(more["test_part[100000]"]["call"], more["test_part[1]"]["call"], 100_000)
    whole = [more[f"test_lifecycle[{parts}-compiled]"]["call"] for parts in (16, 483)]
    found = [
        ("P8", "part by call, µs", more["test_part[1]"]["call"] * 1e6, 0.6),
        ("P9", "session of 10 parts by call, µs", more["test_lifecycle[10-compiled]"]["call"] * 1e6, 20.0),
        ("P10", "exponent of a part, 1 to 100,000 sessions", growth, 0.05),
        ("P10", "exponent of a session, 16 to 483 parts", exponent(whole[1], whole[0], 483 / 16), 1.03),
        ("P11", "fee on one of 10 parts, in C, ns", t["test_allocate[10]"] / 10 * 1e9, 1.0),
        ("P11", "fee on one of 483 parts, in C, ns", t["test_allocate[483]"] / 483 * 1e9, 1.0),
        ("P12", "bytes of a session with 10 parts, allocated", more["test_memory"]["bytes_a_session"], 1500.0),
        ("P12", "bytes of a session with 10 parts, resident", more["test_memory"]["rss_a_session"], 1500.0),
        ("P15", "idle block, 100,000 sessions, µs", t["test_block[idle-100000]"] * 1e6, 50.0),
        ("P15", "block that looks at 100,000 sessions, µs", t["test_block[swept-100000]"] * 1e6, 50.0),
        ("P13", "payload 2-4-6 ÷ interpreted", t["test_tlv[2-4-6-compiled]"] / t["test_tlv[2-4-6-interpreted]"], 0.06),
        ("P13", "payload 2-4-8 ÷ interpreted", t["test_tlv[2-4-8-compiled]"] / t["test_tlv[2-4-8-interpreted]"], 0.06),
        ("P14", "foreign scan ÷ msgspec", t["test_scan[foreign, compiled]"] / t["test_scan[msgspec]"], 0.08),
        ("P14", "JIT scan ÷ msgspec", t["test_scan[jit, compiled]"] / t["test_scan[msgspec]"], 0.16),
    ]
    cpu = {name: info["cpu_us"] for name, info in more.items() if "cpu_us" in info}
    lane, pyln = "test_pipe[lane-quiet]", "test_pipe[pyln-quiet]"
    interpreted, ceiling = "test_pipe[interpreted-quiet]", "test_pipe[c-noop-quiet]"
    found += [
        ("P1", "CPU of a foreign call, saturated ÷ C no-op", cpu[lane] / cpu[ceiling], 1.25),
        ("P2", "CPU of a foreign call ÷ pyln-client", cpu[lane] / cpu[pyln], 1 / 50),
        ("P7", "time of a foreign call, saturated ÷ pyln-client", t[lane] / t[pyln], 1 / 25),
        ("P20", "CPU of a foreign call, interpreted ÷ pyln-client", cpu[interpreted] / cpu[pyln], 0.08),
        ("P18", "init answered with 10,000 stored buys, s", more["test_buys"]["init_s"], 1.0),
        ("P18", "10,000 stored buys live, s", more["test_buys"]["live_s"], 2.0),
    ]
    lines = [["target", "what", "value", "at most", "met"]]
    lines += [
        [name, what, f"{is_:.3g}", f"{most:g}", "yes" if is_ <= most else "NO"] for name, what, is_, most in found
    ]
    return lines


def main() -> int:
    """Print both tables."""
    rows = {row["name"]: row for row in json.loads(Path(sys.argv[1]).read_text())["benchmarks"]}
    lines = [["benchmark", "median", "iqr", "rounds"]]
    for name, row in rows.items():
        lines.append([name, short(seconds(row)), short(seconds(row, "iqr")), str(row["stats"]["rounds"])])
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"\n{table(lines)}\n\n{table(targets(rows))}\n")
    for sessions in (1_000, 10_000):
        each_s = seconds(rows[f"test_at_once[{sessions}]"])
        rates = f"{1 / each_s:,.0f} sessions and {10 / each_s:,.0f} parts a second"
        print(f"{sessions:,} sessions of ten parts at once: {rates}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
