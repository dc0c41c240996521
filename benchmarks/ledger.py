"""The sales ledger at a million sales: how long each question takes, what one sale costs the loop, how much memory.

`python benchmarks/ledger.py [--sales N]` prints each figure beside its bound and exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lsps2fast.actions import Channel, Finalize, Funding, SessionRecord
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.table import State
from lsps2fast_plugin.service.sales_ledger import schema, story
from lsps2fast_plugin.service.sales_ledger.facts import AttemptFact, BuyFact, ChannelFact, Fact
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger, reading
from lsps2fast_plugin.service.sales_ledger.listing import Wanted, page
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS
from lsps2fast_plugin.service.sales_ledger.report import BY, report
from lsps2fast_plugin.service.sales_ledger.tracker import AttemptTracker
from lsps2fast_plugin.service.sales_ledger.writes import write

YEAR = 1_767_225_600_000  # 2026-01-01
PEERS = 20_000
TOKENS = (None, "gold", "silver", "partner", "event")
REPORT_MOST_S, PAGE_MOST_S, LOOP_MOST_US, MEMORY_MOST_MB = 1.0, 0.05, 50.0, 5.0
ROUNDS = 5
BUSY = False  # beside other work: the time of the processor counts, not that of the clock


def history(sales: int) -> Iterator[Fact]:
    """Write a year of sales; one in five attempts fails, one channel in four is closed after a hundred days."""
    chance = random.Random(1)
    peers = [f"02{chance.getrandbits(256):064x}" for _ in range(PEERS)]
    for number in range(sales):
        at_ms = YEAR + number * 365 * DAY_MS // sales
        scid = f"{10_000_000 + number}x{number & 0xFFFFFF}x1"
        who: dict[str, Any] = {"jit_scid": scid, "peer_id": chance.choice(peers), "token": chance.choice(TOKENS)}
        who["band"] = f"fee_line {number % 3}"
        channel, capacity_sat = f"{chance.getrandbits(256):064x}", chance.randrange(100_000, 5_000_000)
        terms = {"min_fee_msat": 1_000_000, "proportional_ppm": 10_000, "min_lifetime_blocks": 1_008}
        more = {"valid_until_ms": at_ms + DAY_MS, "capacity_sat": capacity_sat, "client_trusts_lsp": False}
        yield BuyFact(created_ms=at_ms - 60_000, **who, **terms, **more)
        paid: dict[str, Any] = {
            "payment_hash": f"{chance.getrandbits(256):064x}",
            "amount_msat": 100_000_000,
            "parts": 3,
        }
        if number % 5 == 0:
            failed = {
                "outcome": "Failed",
                "failed_by": "payer",
                "code": "incomplete",
                "reason": "its parts never added up",
            }
            yield AttemptFact(began_ms=at_ms - 50_000, ended_ms=at_ms - 40_000, **who, **paid, **failed)
        times = {
            "opening_ms": at_ms - 800,
            "channel_ms": at_ms - 500,
            "forwarded_ms": at_ms - 300,
            "claimed_ms": at_ms - 100,
        }
        fee = {"fee_agreed_msat": 1_000_000, "fee_taken_msat": 1_000_000, "outcome": "Succeeded"}
        yield AttemptFact(began_ms=at_ms - 1_000, ended_ms=at_ms, channel_id=channel, **who, **paid, **times, **fee)
        where: dict[str, Any] = {"channel_id": channel, "jit_scid": scid, "peer_id": who["peer_id"]}
        yield ChannelFact(locked_ms=at_ms - 800, sent_ms=at_ms - 200, capacity_sat=capacity_sat, **where)
        if number % 4 == 0:
            yield ChannelFact(channel_id=channel, released_ms=at_ms + 100 * DAY_MS, close_mining_msat=300_000)


def fill(path: str, sales: int) -> None:
    """Write the year, as the writer would, in larger transactions."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -200000")
    schema.migrate(db)
    db.execute("BEGIN")
    for number, fact in enumerate(history(sales)):
        write(db, fact)
        if number % 200_000 == 199_999:
            db.execute("COMMIT")
            db.execute("BEGIN")
    db.execute("UPDATE channels SET mining_msat = 200000")
    db.execute("COMMIT")
    db.close()


def seconds(question: Callable[[sqlite3.Connection], Any], path: str) -> float:
    """Return the median of some rounds, each with a connection of its own as the plugin does."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter(), time.thread_time()
        with reading(path) as db:
            question(db)
        waited, worked = time.perf_counter() - began[0], time.thread_time() - began[1]
        found.append(worked if BUSY else waited)
    return statistics.median(found)


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class _Sale:
    """What the loop does for one sale: seven changes of a session, of which the ledger hears in five batches."""

    def __init__(self, ledger: SalesLedger, tracker_of: Callable[[Any, Any], None], number: int) -> None:
        params = FeeParams.build(
            min_fee_msat=1_000_000,
            proportional=10_000,
            valid_until_ms=YEAR * 2,
            min_lifetime_blocks=1_008,
            max_client_to_self_delay_blocks=2_016,
            min_payment_size_msat=1_500_000,
            max_payment_size_msat=4_000_000_000,
        )
        self.buy = Buy(
            jit_scid=(10_000_000 << 40) + number,
            peer_id="02" + "11" * 32,
            params=params,
            payment_size_msat=10_000_000,
            cltv_expiry_delta_blocks=144,
            client_trusts_lsp=False,
            created_at_ms=YEAR,
            capacity_sat=200_000,
        )
        self.hash = number.to_bytes(32, "big")
        self.channel = Channel(number.to_bytes(32, "big").hex(), "", "aa" * 32)
        funding = Funding("", (), 0, 200_000)
        self.session = SimpleNamespace(
            payment_hash=self.hash, sum_msat=10_000_000, parts=[0] * 5, fee_msat=1_000_000, fee_paid_msat=1_000_000,
            channel=self.channel, funding=funding, claimed=True, sent=True,
        )  # fmt: skip
        self.core = SimpleNamespace(fee_paid_msat=0, sets={self.hash: self.session}, holder=self.session)
        self.ledger = ledger
        tracker_of(self.buy, self.core)

    def play(self) -> None:
        scid, key, ledger = self.buy.jit_scid, self.hash, self.ledger
        ledger.bought(self.buy)
        ledger.take([(scid, key, None, State.COLLECTING), (scid, key, State.COLLECTING, State.OPENING)], ())
        ledger.take([(scid, key, State.OPENING, State.AWAITING_CHANNEL_READY)], ())
        ledger.take([(scid, key, State.AWAITING_CHANNEL_READY, State.AWAITING_SETTLEMENT)], ())
        ledger.funding_sent(self.channel)
        record = SessionRecord("paid", key, 1, 1_000_000, None, self.channel, (), None, 1_000_000)
        ends = [
            (scid, key, State.AWAITING_SETTLEMENT, State.BROADCASTING),
            (scid, key, State.BROADCASTING, State.SUCCEEDED),
        ]
        ledger.take(ends, (Finalize(scid, record, "Succeeded"),))


async def on_the_loop(path: str, sales: int) -> tuple[float, float]:
    """Microseconds of the loop for one sale, and megabytes that the ledger and its writer take."""
    buys: dict[int, Buy] = {}
    cores: dict[int, Any] = {}
    gc.collect()
    before_mb = resident_mb()
    tracker = AttemptTracker(
        wall_ms=lambda: time.time_ns() // 1_000_000,
        now_ms=lambda: time.monotonic_ns() // 1_000_000,
        buy_of=buys.get,
        core_of=cores.get,
        terms_of=lambda buy: (None, "fee_line 1"),
        is_online=lambda peer: True,
        collect_ms=90_000,
    )
    clock = SimpleNamespace(wall_ms=lambda: time.time_ns() // 1_000_000)
    ledger = SalesLedger(
        path=path,
        tracker=tracker,
        terms_of=tracker._terms_of,
        clock=clock,  # type: ignore[arg-type]
        alarm=print,
        catch_up=lambda: None,
        ended=lambda payment: None,
    )
    await ledger.settled()
    played = []

    def known(buy: Buy, core: Any) -> None:
        buys[buy.jit_scid], cores[buy.jit_scid] = buy, core

    ready = [_Sale(ledger, known, number) for number in range(sales)]
    for sale in ready[:10]:
        sale.play()
    await ledger.settled()
    spent = []
    for sale in ready[10:]:
        began = time.thread_time_ns()
        sale.play()
        spent.append((time.thread_time_ns() - began) / 1000)
        played.append(sale)
    await ledger.settled()
    await ledger.ask(lambda db: page(db, Wanted(), None, 100))
    await ledger.ask(lambda db: report(db, YEAR, YEAR + 30 * DAY_MS, "day", YEAR * 2))
    after_mb = resident_mb()
    await ledger.close()
    return statistics.median(spent), after_mb - before_mb


def main() -> int:
    """0 when every bound is kept."""
    import asyncio

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sales", type=int, default=1_000_000)
    parser.add_argument("--busy", action="store_true", help="count the processor's time: for a machine that does more")
    args = parser.parse_args()
    global BUSY
    BUSY = args.busy
    with tempfile.TemporaryDirectory() as folder:
        small = f"{folder}/small.sqlite3"
        loop_us, memory_mb = asyncio.run(on_the_loop(small, 500))
        path = f"{folder}/sales.sqlite3"
        began = time.perf_counter()
        fill(path, args.sales)
        size_mb = Path(path).stat().st_size / 1e6
        print(f"  {args.sales:,} sales written in {time.perf_counter() - began:.0f} s, {size_mb:,.0f} MB")
        since_ms, until_ms = YEAR + 181 * DAY_MS, YEAR + 212 * DAY_MS  # July
        figures = [
            ("loop, one sale (us)", loop_us, LOOP_MOST_US),
            ("memory of the ledger (MB)", memory_mb, MEMORY_MOST_MB),
        ]
        for by in (None, *BY):
            took = seconds(lambda db, by=by: report(db, since_ms, until_ms, by, YEAR * 2), path)  # type: ignore[misc]
            figures.append((f"report of a month by {by} (s)", took, REPORT_MOST_S))
        with reading(path) as db:
            (peer,) = db.execute("SELECT lower(hex(peer_id)) FROM attempts LIMIT 1").fetchone()
            (payment_hash,) = db.execute("SELECT lower(hex(payment_hash)) FROM attempts LIMIT 1").fetchone()
        for name, wanted, cursor in (
            ("first page", Wanted(), None),
            ("page in the middle", Wanted(), (since_ms, 1)),
            ("page of a peer", Wanted(peer_id=peer), None),
            ("page of a token", Wanted(token="gold"), None),
            ("page of what failed", Wanted(outcome="Failed"), None),
            ("page of a peer's failures in a month", Wanted(since_ms, until_ms, peer, None, "Failed"), None),
            ("page of a token's failures", Wanted(token="gold", outcome="Failed"), None),
            ("page of nothing", Wanted(token="lead"), None),
        ):
            took = seconds(lambda db, w=wanted, c=cursor: page(db, w, c, 100), path)  # type: ignore[misc]
            figures.append((f"{name} (s)", took, PAGE_MOST_S))
        for name, what in (("hash", payment_hash), ("peer", peer)):
            took = seconds(lambda db, what=what: story.explain(db, what), path)  # type: ignore[misc]
            figures.append((f"story of a {name} (s)", took, PAGE_MOST_S))
    for name, value, most in figures:
        print(f"  {value:10.4f}  at most {most:<6g} {'' if value <= most else 'MISSED '} {name}")
    threads = [thread.name for thread in threading.enumerate() if thread.name == "sales-ledger"]
    assert not threads, threads
    return int(any(value > most for _, value, most in figures))


if __name__ == "__main__":
    sys.exit(main())
