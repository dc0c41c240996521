"""Load on one node: stored buys, connected wallets, sessions at once.

`python benchmarks/load.py [--buys N] [--wallets N] [--sessions N] [--page FILE]`. The real service on real
pipes: this program is lightningd's end of them and times each foreign HTLC from the moment it was due; an embedded node
answers the service's calls. `--page` writes the figures into a page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page import Rows, lay, markdown, where

from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.tools.bench.calls import hook_frame
from lsps2fast_plugin.tools.bench.harness import Child, percentiles
from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.bench.sales import ServiceUnderLoad, run_sales
from lsps2fast_plugin.tools.bench.start import scid_of

MARK = "load"
RATE = 1_000  # foreign HTLCs a second
PATIENCE_S = 300.0
PAYLOAD = "1302033d09000402012c06080000010000020003"  # 4,000,000 msat of a payment of ten, until block 300


def part(dice: random.Random, number: int) -> bytes:
    """Return the first part of a payment for a stored buy: its session then waits for the rest."""
    call = json.loads(hook_frame(dice, 10**7 + number, format_scid(scid_of(number))))
    params = call["params"]
    params["onion"] |= {"payload": PAYLOAD, "forward_msat": 4_000_000, "outgoing_cltv_value": 300}
    params["htlc"] |= {"amount_msat": 4_100_000, "cltv_expiry": 600, "cltv_expiry_relative": 300}
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"


def foreign(child: Child, what: str, seconds: float) -> list[str]:
    """Return a row: memory, and what foreign HTLCs wait for."""
    dice = random.Random(7)
    frames = [hook_frame(dice, number) for number in range(2_000)]
    child.offer(frames, RATE, seconds / 5)  # what is under way from the step before is not measured
    rss_mb = child.rss_kb() / 1024
    late = percentiles(child.offer(frames, RATE, seconds))
    shown = ["too short" if late[key] is None else f"{late[key]:,.0f}" for key in ("p50_us", "p99_us")]
    return [what, f"{rss_mb:,.1f}", *shown]


def until(child: Child, holds: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Ask for the numbers of the service until this is true of them."""
    end = time.monotonic() + PATIENCE_S
    while not holds(child.ask("lsps2-stats", {}, PATIENCE_S)):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.2)


def one_node(buys: int, wallets: int, sessions: int, seconds: float, hold_s: int) -> Rows:
    """Load one service step by step."""
    options = {"lsps2-max-held-parts": 10**5, "dev-lsps2-collect-timeout": hold_s}
    rows: Rows = [["one node", "RSS MB", f"foreign HTLCs p50 µs at {RATE:,}/s", "p99 µs"]]
    empty = ServiceUnderLoad(1, options=options)
    try:
        rows.append(foreign(empty.child, "nothing sold, no wallet", seconds))
    finally:
        empty.close()
    began = time.monotonic()
    service = ServiceUnderLoad(1, [f"wallet{number}" for number in range(wallets)], (), buys, options)
    try:
        print(f"{buys:,} buys live after {time.monotonic() - began:.0f} s, the embedded node's own start in it")
        child, dice = service.child, random.Random(1)
        until(child, lambda stats: not stats["ledger"]["waiting"], "the sales ledger is written")
        print(f"and written into the sales ledger after {time.monotonic() - began:.0f} s")
        rows.append(foreign(child, f"{buys:,} stored buys, {wallets:,} wallets connected", seconds))
        for number in range(sessions):
            child.send(part(dice, number))
        until(child, lambda stats: bool(stats["live_sessions"] == sessions), "all sessions are there")
        rows.append(foreign(child, f"beside them {sessions:,} sessions that hold a part", seconds))
        until(child, lambda stats: not stats["live_sessions"], "all sessions are over")
        rows.append(foreign(child, "after these were given up", seconds))
    finally:
        service.close()
    return rows


def whole_sales(sessions: int) -> Rows:
    """Sell to so many at once, on the embedded node."""
    sold = run_sales(1, sessions, 1)
    heads = ["sales at once", "all over s", "a payer waits s (p50)", "CPU ms a sale", "calls a sale", "commits a sale"]
    each = [f"{sold[key] / sessions:.1f}" for key in ("rpc_calls", "commits")]
    return [
        heads,
        [f"{sessions:,}", f"{sold['seconds']:.1f}", f"{sold['payer_waits_s']:.1f}", f"{sold['cpu_ms']:.1f}", *each],
    ]


def main() -> int:
    """Measure; print tables, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buys", type=int, default=100_000)
    parser.add_argument("--wallets", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of foreign HTLCs")
    parser.add_argument("--hold", type=int, default=60, help="seconds until a payment that came in part is given up")
    parser.add_argument("--page", type=Path, help="a page with marks, between which the figures go")
    args = parser.parse_args()
    before = os.getloadavg()[0]
    tables = [one_node(args.buys, args.wallets, args.sessions, args.seconds, args.hold), whole_sales(args.sessions)]
    measured = where(before)
    for rows in tables:
        print(table(rows) + "\n")
    print(measured)
    if args.page:
        lay(args.page, MARK, [f"Measured: {measured}.", *map(markdown, tables)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
