"""The embedded node's part in the load: the real service on real pipes, and whole sessions, counted."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.service.policy.rules import MODES
from lsps2fast_plugin.simnode import World
from lsps2fast_plugin.tools.bench import children
from lsps2fast_plugin.tools.bench.harness import Child, cpu_s
from lsps2fast_plugin.tools.bench.start import PATIENCE_S, fill

COMMITS = frozenset(("datastore", "deldatastore"))
READY = "sells JIT channels"
SIZE_MSAT = 10_000_000
OURS = frozenset(("plugin>host", "rpc>host"))


class ServiceUnderLoad:
    """The real service: its pipes in the hands of the harness, its RPC calls answered by an embedded node."""

    def __init__(
        self,
        seed: int,
        people: Sequence[str] = (),
        wallet_sat: tuple[int, ...] = (),
        buys: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        """`people`: names of clients that are connected; their node ids are in `ids`. `buys`: how many are live."""
        self._buys = buys
        self._seed = seed
        self._people = people
        self._wallet_sat = wallet_sat
        self.ids: list[str] = []
        self._ready: Future[World] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self._end = asyncio.Event()
        self._thread.start()
        self._world = self._ready.result(PATIENCE_S)
        self.child = Child(children.service(), shake_hands=False)
        self.child.shake_hands(options or {}, self._world.lsp.lightning_dir, "lightning-rpc")
        self.child.wait_for_log(f"{READY}: {buys} buys live", PATIENCE_S)

    async def _serve(self) -> None:
        async with World(seed=self._seed, wallet_sat=self._wallet_sat) as world:
            self.ids = [world.client(name).node_id for name in self._people]
            fill(world, self._buys, self.ids)
            self._ready.set_result(world)
            await self._end.wait()

    def rpc_calls(self) -> Counter[str]:
        """Return what the service has asked lightningd so far, by method."""
        return Counter(entry["msg"]["method"] for entry in self._world.transcript.select("rpc>host"))

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Have every entry of the node's transcript, on the node's thread."""
        self._world.transcript.listeners.append(listener)

    def close(self) -> None:
        """End the plugin, then the node."""
        self.child.close()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()


async def _sell(world: World, number: int, parts: int, size_msat: int, **behaviour: Any) -> float:
    """One whole sale; how many seconds the payer waited."""
    client = world.client(f"wallet{number}", **behaviour)
    menu = await client.request("lsps2.get_info")
    offer = menu["opening_fee_params_menu"][0]
    bought = await client.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(size_msat)})
    fee_msat = FeeParams.from_json(offer).fee_msat(size_msat)
    assert fee_msat is not None
    invoice = client.invoice(
        size_msat, bought["jit_channel_scid"], opening_fee_msat=fee_msat, cltv_delta=bought["lsp_cltv_expiry_delta"]
    )
    payer = world.payer(f"payer{number}", channels=1, capacity_sat=1_000_000)
    begin = time.monotonic()
    result = await payer.pay(invoice, [size_msat // parts] * parts)
    if not result.paid:
        raise RuntimeError(f"sale {number} failed: {result.codes}")
    return time.monotonic() - begin


def _ended(world: World) -> int:
    changes = world.transcript.select("plugin>host", method="lsps2_session")
    return sum(change["msg"]["params"]["lsps2_session"]["new_state"] == "SUCCEEDED" for change in changes)


def _world(seed: int, sessions: int, mode: str = MODES[0]) -> World:
    return World(
        seed=seed,
        plugin=[sys.executable, "-m", "lsps2fast_plugin.service.app"],
        options={
            "lsps2-trust-mode": mode,
            "lsps2-fee-floor": 0,
            "lsps2-max-buys-per-minute": 10**6,
            "lsps2-max-info": 10**6,
            "lsps2-capital-budget-sat": 10**9,
            "lsps2-mining-budget-sat": 10**9,
            "lsps2-max-held-parts": 10**5,
        },
        wallet_sat=(400_000,) * (sessions + 2),
        fee_base_msat=1000,
        timeout_s=60.0 + sessions / 2,
        sphinx=False,
    )


async def _is_ready(world: World) -> None:
    await world.until(lambda: any(READY in text for *_, text in world.lsp.logs), "the service is ready")


async def _run(seed: int, sessions: int, parts: int, mode: str) -> dict[str, Any]:
    async with _world(seed, sessions, mode) as world:
        await _is_ready(world)
        pid = world.lsp.processes[0].pid
        mark, begin, before_s = len(world.transcript.entries), time.monotonic(), cpu_s(pid)
        waits_s = await asyncio.gather(*(_sell(world, number, parts, SIZE_MSAT) for number in range(sessions)))
        await world.until(lambda: _ended(world) == sessions, "all sessions are over")
        await world.until(lambda: _journalled(world) == sessions, "all records are final")
        took_s, used_s = time.monotonic() - begin, cpu_s(pid) - before_s
        calls = Counter(e["msg"]["method"] for e in list(world.transcript.entries)[mark:] if e["dir"] == "rpc>host")
    commits = sum(calls[method] for method in COMMITS)
    return {
        "sessions": sessions,
        "parts": parts,
        "seconds": round(took_s, 3),
        "payer_waits_s": round(statistics.median(waits_s), 3),
        "waits_s": [round(wait_s, 3) for wait_s in waits_s],
        "cpu_ms": round(used_s * 1e3 / sessions, 2),
        "rpc_calls": sum(calls.values()),
        "commits": commits,
        "by_method": dict(sorted(calls.items())),
    }


def _journalled(world: World) -> int:
    keys = [key for key in world.lsp.datastore.rows if key[:3] == ("lsps", "lsps2", "sessions") and len(key) == 5]
    return sum(1 if key[3] == "finalized" else -1 for key in keys)


def run_sales(seed: int, sessions: int, parts: int, mode: str = MODES[0]) -> dict[str, Any]:
    """Sell `sessions` channels at once, each paid in `parts`; what the service asked of lightningd."""
    return asyncio.run(_run(seed, sessions, parts, mode))


async def _beside_a_hanging_one(seed: int, sessions: int, parts: int) -> dict[str, Any]:
    async with _world(seed, sessions) as world:
        await _is_ready(world)
        hanging = asyncio.ensure_future(_sell(world, 0, parts, SIZE_MSAT, send_ready=False))
        others = [_sell(world, number, parts, SIZE_MSAT) for number in range(1, sessions)]
        waits_s = await asyncio.gather(*others, return_exceptions=True)
        still = not hanging.done()
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    paid_s = [wait for wait in waits_s if isinstance(wait, float)]
    return {
        "sessions": sessions,
        "parts": parts,
        "hangs": still,
        "others": len(others),
        "paid": len(paid_s),
        "payer_waits_s": round(statistics.median(paid_s), 3) if paid_s else None,
    }


def run_beside_a_hanging_one(seed: int, sessions: int, parts: int) -> dict[str, Any]:
    """P19: sell at once to so many, one of whom never gets ready; who of the others was paid."""
    return asyncio.run(_beside_a_hanging_one(seed, sessions, parts))


def added_s(entries: list[dict[str, Any]]) -> float:
    """P17: what the plugin itself took between the last part of a sale and the last answer to its parts.

    A stretch between two messages belongs to whom the later one is from: time up to what lightningd says is its own,
    time up to what the plugin says or asks is ours, even if a call of ours was under way.
    """
    asked = [
        n for n, e in enumerate(entries) if e["dir"] == "host>plugin" and e["msg"].get("method") == "htlc_accepted"
    ]
    ids = {entries[n]["msg"]["id"] for n in asked}
    answers = [n for n, e in enumerate(entries) if e["dir"] == "plugin>host" and e["msg"].get("id") in ids]
    stretch = entries[asked[-1] : answers[-1] + 1]
    return float(sum(e["t"] - before["t"] for before, e in itertools.pairwise(stretch) if e["dir"] in OURS))


async def _in_turn(seed: int, sessions: int, parts: int) -> list[float]:
    found: list[float] = []
    async with _world(seed, sessions) as world:
        await _is_ready(world)
        for number in range(sessions):
            mark = len(world.transcript.entries)
            await _sell(world, number, parts, SIZE_MSAT)
            found.append(added_s(list(itertools.islice(world.transcript.entries, mark, None))) * 1e3)
    return found


def run_in_turn(seed: int, sessions: int, parts: int) -> list[float]:
    """P17: one sale after the other; for each, in ms, what we added between the last part and the answers."""
    return asyncio.run(_in_turn(seed, sessions, parts))
