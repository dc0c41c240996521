"""A day of business on simulated time: what the journal is asked to write, and what foreign HTLCs wait for.

`python benchmarks/load_day.py [--people N] [--page FILE]`: the town of `lsps2fast simulate --only none`, its weather
included, and beside it a stream of HTLCs that are not ours; one day, and two. `--page` writes tables into a page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from page import Rows, lay, markdown, where

from lsps2fast.lsps.lsps2 import parse_scid
from lsps2fast_plugin.cln.htlc_filter import Verdict
from lsps2fast_plugin.cln.reader import FrameSorter
from lsps2fast_plugin.simnode.datastore import Key
from lsps2fast_plugin.tools.bench.calls import hook_frame
from lsps2fast_plugin.tools.bench.figures import quantile
from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.simulate.life import InnerPlugin
from lsps2fast_plugin.tools.simulate.market import Market
from lsps2fast_plugin.tools.simulate.plan import DAY_S, NONE, Plan
from lsps2fast_plugin.tools.simulate.town import play

MARK = "days"
WRITTEN = {
    "sessions/active": "offers and payments under way",
    "sessions/finalized": "final records",
    "trust": "what clients did, for the policy",
}
HOUR_S = 3_600.0
EVERY_S = 2.0  # simulated, between two foreign HTLCs
MADE = 500  # foreign HTLCs that differ; then the first comes again
SHARES = 0.5, 0.99
WIRES = 3  # turns of the loop: into the pipe, to the lane, back to lightningd


class Journal:
    """Counts commits of the LSP's datastore by hour, and by what was written."""

    def __init__(self, market: Market) -> None:
        self._town = market.town
        self.foreign = Foreign(market)
        self._store = market.town.lsp.datastore
        self._put, self._delete = self._store.put, self._store.delete
        self._store.put = self._counted_put  # type: ignore[method-assign]
        self._store.delete = self._counted_delete  # type: ignore[method-assign]
        self._town.transcript.listeners.append(self._look)
        self.by_hour: Counter[int] = Counter()
        self.by_kind: Counter[str] = Counter()
        self.busy: set[int] = set()  # hours in which a client or a payer wanted something

    @property
    def _hour(self) -> int:
        return int(self._town.loop.time() // HOUR_S)

    def _count(self, key: Key) -> None:
        self.by_hour[self._hour] += 1
        self.by_kind["/".join(key[2:4] if key[2] == "sessions" else key[2:3])] += 1

    def _counted_put(self, key: Key, *how: Any) -> dict[str, Any]:
        row = self._put(key, *how)
        self._count(key)
        return row

    def _counted_delete(self, key: Key, *how: Any) -> dict[str, Any]:
        row = self._delete(key, *how)
        self._count(key)
        return row

    def _look(self, entry: dict[str, Any]) -> None:
        if entry["dir"] != "host>plugin" or self.foreign.is_asking:
            return
        if entry["msg"].get("method") in ("custommsg", "htlc_accepted", "init"):
            self.busy.add(self._hour)

    def found(self) -> dict[str, Any]:
        """Return the commits, and those of idle hours; the last hour has not ended."""
        idle = set(range(self._hour)) - self.busy
        return {
            "commits": sum(self.by_hour.values()),
            "idle_hours": len(idle),
            "idle_commits": sum(self.by_hour[hour] for hour in idle),
            "by_kind": dict(self.by_kind.most_common()),
        }


class Foreign:
    """HTLCs of other people's payments: for each, how many turns of the loop went by until the plugin's answer.

    The lane answers in the turn in which it reads. What it hands to the loop is answered a turn later, or more. The
    lane of a town is the one in Python; the one in C also reads who sent an HTLC, and so hands over fewer.
    """

    def __init__(self, market: Market) -> None:
        self._lsp, self._loop = market.town.lsp, market.town.loop
        dice = random.Random(1)
        self._calls = [json.loads(hook_frame(dice, number))["params"] for number in range(MADE)]
        self.is_asking = False
        self.asked = self.unheard = self.in_c = self.at_once = 0
        self.lane_us: list[float] = []  # from reading to answering
        self.later: list[int] = []  # turns that those of the loop took
        self.later_us: list[float] = []  # and all that went on meanwhile, the town's own work, too

    async def come(self, days: float) -> None:
        """Come one after the other, for so many days."""
        while self._loop.time() < days * DAY_S:
            await asyncio.sleep(EVERY_S)
            self._ask()

    def _ask(self) -> None:
        plugin = next((each for each in self._lsp.plugins if each.ready), None)
        if not isinstance(plugin, InnerPlugin):
            return  # the node is down, or its plugin
        call = self._calls[self.asked % MADE]
        self.asked += 1
        self.in_c += plugin.life.app.interest.judge(*_hop(call)) is Verdict.FOREIGN
        turns, began = self._loop.turns, time.perf_counter()

        def answered(answer: dict[str, Any] | None) -> None:
            if answer is None:
                self.unheard += 1  # the process died
                return
            assert answer["result"] == {"result": "continue"}
            took = self._loop.turns - turns - WIRES
            if took == 0:
                self.at_once += 1
            else:
                self.later.append(took)
                self.later_us.append((time.perf_counter() - began) * 1e6)

        self.is_asking = True
        plugin.request("htlc_accepted", call, answered)
        self.is_asking = False

    @contextmanager
    def timed(self) -> Iterator[None]:
        """While this lasts take the time from reading to answering."""
        answer = FrameSorter._answer

        def _answer(sorter: FrameSorter, read_s: float) -> None:
            count = len(sorter._answers)
            answer(sorter, read_s)
            self.lane_us.extend([(time.perf_counter() - read_s) * 1e6] * count)

        with patch.object(FrameSorter, "_answer", _answer):
            yield

    def found(self) -> dict[str, Any]:
        """Return what became of them."""
        return {
            "foreign": self.asked,
            "unheard": self.unheard,
            "in_c": self.in_c,
            "at_once": self.at_once,
            "lane_us": [quantile(self.lane_us, share) for share in SHARES],
            "later": len(self.later),
            "later_us": [quantile(self.later_us, share) for share in SHARES],
            "most_turns": max(self.later, default=0),
        }


def _hop(call: dict[str, Any]) -> tuple[int, str, bytes, bool, str]:
    """Return what a lane reads of a call."""
    scid, payment_hash = parse_scid(call["onion"]["short_channel_id"]), bytes.fromhex(call["htlc"]["payment_hash"])
    return scid, call["forward_to"], payment_hash, "extra_tlvs" in call["htlc"], call["peer_id"]


async def days(plan: Plan) -> dict[str, Any]:
    """Play them. Raises Violation when a promise did not hold."""
    market = Market(plan)
    journal = Journal(market)
    foreign = journal.foreign
    with foreign.timed():
        stream = asyncio.ensure_future(foreign.come(plan.days))
        result = await market.run()
        await stream
    if result.violation is not None:
        raise result.violation
    return {"sales": result.totals["sales"], **journal.found(), **foreign.found()}


# What was found ---------------------------------------------------------------------------------------------------


def tables(people: int) -> list[Rows]:
    """Return tables of one simulated day of a town, and of two: what the second adds is what a day leaves."""
    town: Rows = [["simulated days", "sales", "commits", "a sale", "an idle hour", "idle hours",
                   "most RSS MB of the whole town", "CPU s"]]  # fmt: skip
    commits: Rows = [["commits of the journal", "1 day", "a sale", "2 days", "a sale"]]
    lane: Rows = [["simulated days", "foreign HTLCs", "the lane in C answers", "answered by the one in Python",
                   "µs p50", "p99", "by the loop", "turns later", "µs p50", "p99"]]  # fmt: skip
    found = [one_town(count, people) for count in (1, 2)]
    for count, (day, rss_mb, cpu_s) in enumerate(found, 1):
        idle = day["idle_commits"] / max(day["idle_hours"], 1)
        each = [f"{day['commits'] / max(day['sales'], 1):.1f}", f"{idle:.1f}", str(day["idle_hours"])]
        town.append([str(count), f"{day['sales']:,}", f"{day['commits']:,}", *each, f"{rss_mb:,.0f}", f"{cpu_s:,.0f}"])
        counts = [f"{day[name]:,}" for name in ("foreign", "in_c", "at_once")]
        later = [f"{day['later']:,}", f"{day['most_turns']}"]
        lane.append([str(count), *counts, *micros(day["lane_us"]), *later, *micros(day["later_us"])])
    for kind in found[0][0]["by_kind"]:
        cells = [(day["by_kind"].get(kind, 0), day["sales"]) for day, *_ in found]
        commits.append(
            [WRITTEN.get(kind, kind), *(cell for n, sales in cells for cell in (f"{n:,}", f"{n / max(sales, 1):.1f}"))]
        )
    return [town, commits, lane]


def one_town(count: int, people: int) -> tuple[dict[str, Any], float, float]:
    """Return what so many days came to, MB and CPU seconds of the process. Raises RuntimeError."""
    command = [sys.executable, __file__, "--people", str(people), "--play", str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(said), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def micros(values: list[float | None]) -> list[str]:
    """Return quantiles for people."""
    return ["too few" if value is None else f"{value:,.0f}" for value in values]


def main() -> int:
    """Measure; print tables, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=300, help="who come to town in a day")
    parser.add_argument("--page", type=Path, help="a page with marks, between which the figures go")
    parser.add_argument("--play", type=float, help="play so many days; the result is JSON")
    args = parser.parse_args()
    if args.play:
        plan = Plan(seed=1, days=args.play, people=args.people, only=(NONE,))
        print(json.dumps(play(lambda: days(plan))))
        return 0
    before = os.getloadavg()[0]
    found = tables(args.people)
    measured = where(before)
    for rows in found:
        print(table(rows) + "\n")
    print(measured)
    if args.page:
        lay(args.page, MARK, [f"Measured: {measured}.", *map(markdown, found)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
