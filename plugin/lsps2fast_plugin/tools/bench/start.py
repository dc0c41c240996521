"""P18: how long the service takes to start with many stored buys. `python -m lsps2fast_plugin.tools.bench.start`.

Two times: until `init` is answered, and until all buys are live again. The node is the embedded one, in this process:
what it needs to write its `listdatastore` answer is shown beside them and is part of the second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, NamedTuple

import msgspec

from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams, format_scid
from lsps2fast_plugin.service.session_record import FRESH, record_of
from lsps2fast_plugin.service.session_store import ROOT
from lsps2fast_plugin.simnode import World

BUYS = 100_000
TARGETS_S = (1.0, 20.0)
PATIENCE_S = 300.0
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


def fill(world: World, buys: int) -> None:
    """Put so many buys of a hundred clients into the journal."""
    for number in range(buys):
        scid = 0x7FFF_0000_0000_0000 + number * 0x1_0001
        peer_id = f"02{number % 100:064x}"
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

    command = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
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
    return Start(times["answered"] - times["begin"], times["live"] - times["begin"], node_s)


def main() -> int:
    """Measure and compare with P18."""
    buys = int(sys.argv[1]) if len(sys.argv) > 1 else BUYS
    start = asyncio.run(measure(buys))
    print(f"{buys} stored buys: init answered after {start.init_s:.3f} s (P18: < {TARGETS_S[0]:g} s)")
    print(f"all live after {start.live_s:.1f} s (P18: < {TARGETS_S[1]:g} s), {start.node_s:.1f} s of it listing rows")
    return int(start.init_s >= TARGETS_S[0] or start.live_s >= TARGETS_S[1])


if __name__ == "__main__":
    sys.exit(main())
