"""`make compare`: the comparison of the embedded node with a real one as a page, nothing left behind.

Each scenario runs on both. Printed are how many steps the plugin took, what differs (an error), and what a real node
says beyond the embedded one (no error: the plugin does not need it).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.benches import Real, embedded_run
from harness.scenarios import SCENARIOS, Scenario
from harness.trace import Trace, differences, lacking, trace

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools.regtest import Town, find_programs
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS


def compared(town: Town, scenario: Scenario) -> tuple[Trace, Trace, list[str]]:
    """Both traces and every difference, how the parts ended among them."""
    bench = Real(town)
    ends = asyncio.run(scenario(bench))
    real = trace(bench.entries())
    embedded_ends, embedded = asyncio.run(embedded_run(scenario, town.mode))
    found = [] if embedded_ends == ends else [f"parts end in {ends} on the real node, {embedded_ends} on the embedded"]
    return real, embedded, found + differences(real, embedded)


def page(town: Town) -> Iterator[str]:
    """Lines of the report; the last says how many differences there are."""
    left_out: set[str] = set()
    total = 0
    for scenario in SCENARIOS:
        real, embedded, found = compared(town, scenario)
        left_out.update(lacking(real, embedded))
        total += len(found)
        shared = sum(path in real.shape for path in embedded.shape)
        yield f"{scenario.__name__:20} {len(real.order):3} steps, {shared:3} members: {len(found) or 'no'} differences"
        yield from (f"    {line}" for line in found)
    yield f"\nleft out by the embedded node: {len(left_out)} members"
    yield from (f"    {path}" for path in sorted(left_out))
    yield f"\n{total or 'no'} differences in {len(SCENARIOS)} scenarios"


def main() -> int:
    """1 when something differs, 2 without real nodes."""
    try:
        programs = find_programs()
    except ConfigError as error:
        sys.stderr.write(f"real nodes are needed: {error}\n")
        return 2
    last = ""
    with (
        tempfile.TemporaryDirectory(prefix="l2c-", dir="/tmp") as directory,
        Town(Path(directory) / "t", CLIENT_TRUSTS, programs=programs) as town,
    ):
        for last in page(town):
            sys.stdout.write(last + "\n")
            sys.stdout.flush()
    return 0 if last.startswith("\nno ") else 1


if __name__ == "__main__":
    sys.exit(main())
