"""A day of business on simulated time: what the journal is asked to write, and what foreign HTLCs wait for.

`python benchmarks/load_day.py DAYS PEOPLE`: the town of `lsps2fast simulate --only none`, its weather included, and
beside it a stream of HTLCs that are not ours. The result is one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lsps2fast.lsps.lsps2 import parse_scid
from lsps2fast_plugin.cln.htlc_filter import Verdict
from lsps2fast_plugin.cln.reader import FrameSorter
from lsps2fast_plugin.simnode.datastore import Key
from lsps2fast_plugin.tools.bench.calls import hook_frame
from lsps2fast_plugin.tools.bench.figures import quantile
from lsps2fast_plugin.tools.simulate.life import InnerPlugin
from lsps2fast_plugin.tools.simulate.market import Market
from lsps2fast_plugin.tools.simulate.plan import DAY_S, NONE, Plan
from lsps2fast_plugin.tools.simulate.town import play

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
        if entry["msg"].get("method") in ("custommsg", "htlc_accepted"):
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


def main() -> int:
    """Print what was found."""
    plan = Plan(seed=1, days=float(sys.argv[1]), people=float(sys.argv[2]), only=(NONE,))
    print(json.dumps(play(lambda: days(plan))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
