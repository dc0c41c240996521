"""P18, P27: a start of the service with many stored buys. `python -m lsps2fast_plugin.tools.bench.start`.

Two times: until `init` is answered, and until all buys are live again. The node is the embedded one, in this process:
what it needs to write its `listdatastore` answer is shown beside them and is part of the second. Then the memory of a
buy, against a start without any, and the longest turn of the plugin's loop, in CPU: so long did everything else wait.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams, format_scid
from lsps2fast_plugin.service.session_record import FRESH, record_of
from lsps2fast_plugin.service.session_store import ROOT
from lsps2fast_plugin.simnode import World

BUYS = 100_000
TARGETS_S = (1.0, 5.0)
MOST_BYTES = 1_500
PATIENCE_S = 300.0
TIMED = """
import asyncio, pathlib, runpy, sys, time
run, longest, told = asyncio.Handle._run, [0.0], pathlib.Path(sys.argv.pop())
def timed(handle):
    began = time.thread_time()
    run(handle)
    took = time.thread_time() - began
    if took > longest[0]:
        longest[0] = took
        told.write_text(str(took))
asyncio.Handle._run = timed
runpy.run_module("lsps2fast_plugin.service.app", run_name="__main__")
"""
TERMS = FeeParams.from_json(
    {
        "min_fee_msat": "1000000",
        "proportional": 10_000,
        "valid_until": "2099-01-01T00:00:00.000Z",
        "min_lifetime": 1008,
        "max_client_to_self_delay": 2016,
        "min_payment_size_msat": "1000",
        "max_payment_size_msat": "10000000000",
        "promise": "ab" * 40,
    }
)


class Start(NamedTuple):
    """Seconds since `init` was sent; `node_s` of them the node spent on its own answers."""

    init_s: float
    live_s: float
    node_s: float
    turn_s: float  # CPU of the longest turn of the plugin's loop
    rss_bytes: int  # of the plugin, once all is live and written


async def written(world: World) -> None:
    """Wait until the plugin's ledger has all that the journal says."""
    for _ in range(round(PATIENCE_S / 0.1)):
        if not (await world.lsp.call("lsps2-stats"))["ledger"]["waiting"]:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("the ledger was never written")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scid_of(number: int) -> int:
    """Return the jit scid of a buy that `fill` made."""
    return 0x7FFF_0000_0000_0000 + number * 0x1_0001


def fill(world: World, buys: int, peers: Sequence[str] = ()) -> None:
    """Put so many buys of these clients, or of a hundred, into the journal."""
    peers = peers or [f"02{number:064x}" for number in range(100)]
    for number in range(buys):
        scid, peer_id = scid_of(number), peers[number % len(peers)]
        buy = Buy(scid, peer_id, TERMS, 10_000_000, 144, True, 1_700_000_000_000, 200_000)
        value = msgspec.json.encode(record_of(buy, FRESH))
        world.lsp.datastore.rows[*ROOT, "active", format_scid(scid)] = (value, 0)


async def measure(buys: int) -> Start:
    """One start with so many stored buys."""
    times: dict[str, float] = {}
    node_s = 0.0

    def take(entry: dict[str, Any]) -> None:
        message, now = entry["msg"], time.perf_counter()
        if entry["dir"] == "host>plugin" and message.get("method") == "init":
            times["begin"], times["init id"] = now, message["id"]
        elif entry["dir"] == "plugin>host" and message.get("id") == times.get("init id", ""):
            times["answered"] = now
        elif message.get("method") == "log" and "sells JIT channels" in message["params"]["message"]:
            assert f": {buys} buys live" in message["params"]["message"]
            times["live"] = now

    told = Path(tempfile.mkdtemp(prefix="l2f-")) / "turn"
    command = [sys.executable, "-c", TIMED, str(told)]
    world = World(plugin=command, timeout_s=PATIENCE_S, transcript_limit=10)
    listing = world.lsp.datastore.under

    def timed(key: Any) -> list[dict[str, Any]]:
        nonlocal node_s
        began = time.perf_counter()
        rows = listing(key)
        node_s += time.perf_counter() - began
        return rows

    world.lsp.datastore.under = timed  # type: ignore[method-assign]
    fill(world, buys)
    world.transcript.listeners.append(take)
    async with world:
        await world.until(lambda: "live" in times, "all buys are live", PATIENCE_S)
        await written(world)
        rss_bytes = _resident(world.lsp.plugin.pid)
    turn_s = float(told.read_text())
    told.unlink()
    told.parent.rmdir()
    return Start(times["answered"] - times["begin"], times["live"] - times["begin"], node_s, turn_s, rss_bytes)


def main() -> int:
    """Measure and compare with P18 and P27."""
    buys = int(sys.argv[1]) if len(sys.argv) > 1 else BUYS
    empty, start = asyncio.run(measure(0)), asyncio.run(measure(buys))
    bytes_a_buy = (start.rss_bytes - empty.rss_bytes) / max(buys, 1)
    print(f"{buys} stored buys: init answered after {start.init_s:.3f} s (P18: < {TARGETS_S[0]:g} s)")
    print(f"all live after {start.live_s:.1f} s (P27: < {TARGETS_S[1]:g} s), {start.node_s:.1f} s of it listing rows")
    print(f"the longest turn of the loop took {start.turn_s * 1000:.0f} ms (P27: <= 20 ms)")
    print(f"{bytes_a_buy:.0f} bytes a buy (P27: <= {MOST_BYTES}), {empty.rss_bytes / 1e6:.1f} MB without any")
    return int(start.init_s >= TARGETS_S[0] or start.live_s >= TARGETS_S[1] or bytes_a_buy > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
