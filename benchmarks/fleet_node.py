"""One node of a fleet, whole: `lsps2fast-service` on an embedded node, and wallets that buy of it by custommsg.

`python benchmarks/fleet_node.py URL NUMBER NODES`; orders as in `together.py`: `{"seconds": S, "rate": R}`. Each wallet
is a new one: it connects, asks for the menu under a token, and buys. R 0: four wallets at a time, as fast as they are
answered; else so many a second.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from together import serve

from lsps2fast_plugin.simnode import World
from lsps2fast_plugin.simnode.client import LspsError
from lsps2fast_plugin.tools.bench.harness import cpu_s
from lsps2fast_plugin.tools.bench.sales import READY, SIZE_MSAT

AT_ONCE = 4
WARM_S = 1.0  # of buys before the first order
JOINS_S = 120.0
TOKEN = "spring"
POLICY = f"""\
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
[floor]
factor_percent = 0
[[token]]
token = "{TOKEN}"
max_uses = {10**9}
"""
LIMITS = ("lsps2-max-buys", "lsps2-max-buys-per-minute", "lsps2-max-info")  # a machine's load is no client's


class Shop:
    """The wallets' side: who buys, and how long a buy took."""

    def __init__(self, world: World, place: float) -> None:
        """`place`: in the time between two buys of a steady rate, so that not all nodes sell at the same moment."""
        self._world = world
        self._place = place
        self._wallets = 0
        self.waits_ms: list[float] = []
        self.refused = 0

    async def _buy(self) -> None:
        """Let a wallet come, ask for the menu and buy."""
        self._wallets += 1
        wallet = self._world.client(f"wallet{self._wallets}")
        try:
            menu = await wallet.request("lsps2.get_info", {"token": TOKEN})
            asks = {"opening_fee_params": menu["opening_fee_params_menu"][0], "payment_size_msat": str(SIZE_MSAT)}
            began = time.perf_counter()
            await wallet.request("lsps2.buy", asks)
        except (LspsError, IndexError):
            self.refused += 1
        else:
            self.waits_ms.append((time.perf_counter() - began) * 1000)

    async def opened(self) -> None:
        """Wait until something is sold here: nodes that came first hold more than their share until they look again."""
        end = time.monotonic() + JOINS_S
        while not self.waits_ms:
            if time.monotonic() > end:
                raise TimeoutError("nothing is offered")
            await asyncio.sleep(0.2)
            await self._buy()

    async def crowd(self, seconds: float) -> None:
        """Buy as fast as it goes, so many at a time."""
        end = time.monotonic() + seconds

        async def one_after_the_other() -> None:
            while time.monotonic() < end:
                await self._buy()

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))

    async def stream(self, seconds: float, rate: float) -> None:
        """Buy at a steady rate, whether those before were answered or not."""
        begin = time.monotonic()
        under_way = []
        for number in range(round(seconds * rate)):
            await asyncio.sleep(begin + (number + self._place) / rate - time.monotonic())
            under_way.append(asyncio.ensure_future(self._buy()))
        await asyncio.gather(*under_way)

    async def carry_out(self, order: dict[str, float]) -> dict[str, Any]:
        """Sell for so long; return what it took, CPU of the service and of this process, which is node and wallets."""
        self.waits_ms, self.refused = [], 0
        pid, began = self._world.lsp.plugin.pid, time.monotonic()
        service_s, node_s = cpu_s(pid), time.process_time()
        rate = order["rate"]
        await (self.stream(order["seconds"], rate) if rate else self.crowd(order["seconds"]))
        return {
            "waits_ms": self.waits_ms,
            "refused": self.refused,
            "took_s": time.monotonic() - began,
            "service_s": cpu_s(pid) - service_s,
            "node_s": time.process_time() - node_s,
        }


async def joined(world: World, nodes: int) -> None:
    """Wait until this node knows of all nodes. Raises TimeoutError."""
    end = time.monotonic() + JOINS_S
    while time.monotonic() < end:
        state: dict[str, Any] = await world.lsp.call("lsps2-fleet")
        if state["joined"] and len(state["nodes"]) == nodes:
            return
        await asyncio.sleep(0.2)
    raise TimeoutError(f"there are {len(state['nodes'])} of {nodes} nodes: {state['why_away']}")


async def be_node(url: str, number: int, nodes: int, directory: Path) -> None:
    """Join, warm up, and sell when told."""
    file = directory / "policy.toml"
    file.write_text(POLICY)
    options = dict.fromkeys(LIMITS, 10**6) | {"lsps2-fleet": url, "lsps2-policy-file": str(file)}
    service = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
    async with World(seed=number, plugin=service, options=options, transcript_limit=10, sphinx=False) as world:
        await world.until(lambda: any(READY in text for *_, text in world.lsp.logs), "the service sells")
        await joined(world, nodes)
        shop = Shop(world, number / nodes)
        await shop.opened()
        await shop.crowd(WARM_S)
        await serve(shop.carry_out)


def main() -> int:
    """Be one node."""
    url, number, nodes = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="l2n-") as directory:
        asyncio.run(be_node(url, int(number), int(nodes), Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
