"""The page for the browser beside a running service: what its feed costs while 1,000 payments are under way.

`python benchmarks/page_feed.py [--payments N]` starts the plugin on the embedded node, has so many first parts held,
and reads the CPU time of the plugin's process without a page open, and with one and sixteen pages open.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

import aiohttp

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.simnode import Client, Payer, World

COMMAND = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
MOST_SHARE = 0.05  # of a core, for a page
SIZE_MSAT = 10_000_000
CLIENTS = 20
LOOK_S = 15.0
OPTIONS = {
    "dev-lsps2-collect-timeout": 3_600,
    "lsps2-max-buys-per-peer": 10_000,
    "lsps2-max-held-parts-per-peer": 10_000,
    "lsps2-max-held-parts": 100_000,
    "lsps2-max-info-per-peer": 1_000_000,
    "lsps2-max-buys-per-minute-per-peer": 1_000_000,
    "lsps2-max-buys-per-minute": 1_000_000,
    "lsps2-fee-floor": 0,
}


async def begin_payment(client: Client, payer: Payer) -> None:
    """Buy, and send half of what was bought."""
    offer = (await client.request("lsps2.get_info"))["opening_fee_params_menu"][0]
    bought = await client.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})
    fee_msat = FeeParams.from_json(offer).fee_msat(SIZE_MSAT) or 0
    invoice = client.invoice(
        SIZE_MSAT,
        bought["jit_channel_scid"],
        opening_fee_msat=lambda _: fee_msat,
        cltv_delta=bought["lsp_cltv_expiry_delta"],
    )
    payer.pay(invoice, [SIZE_MSAT // 2], total_msat=SIZE_MSAT)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def share(pid: int, url: str, pages: int) -> float:
    """Return which share of a core the process takes with so many pages open."""
    async with aiohttp.ClientSession() as session:
        readers = [asyncio.create_task(read(session, url)) for _ in range(pages)]
        await asyncio.sleep(2)
        began, clock = cpu_s(pid), asyncio.get_running_loop().time()
        await asyncio.sleep(LOOK_S)
        used = (cpu_s(pid) - began) / (asyncio.get_running_loop().time() - clock)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return used


async def read(session: aiohttp.ClientSession, url: str) -> None:
    """Read a feed for ever."""
    async with session.get(url) as answer:
        async for _ in answer.content.iter_any():
            pass


async def measure(payments: int) -> bool:
    """Print the figures; False where the bound is missed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = World(plugin=COMMAND, options=OPTIONS | {"lsps2-page-listen": port}, seed=1, wallet_sat=(10**9,))
    async with world:
        clients = [world.client(f"client {number}") for number in range(CLIENTS)]
        payer = world.payer(channels=8, capacity_sat=10**9)
        for number in range(payments):
            await begin_payment(clients[number % CLIENTS], payer)
        while (await world.lsp.call("lsps2-stats"))["live_sessions"] < payments:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        pid = world.lsp.plugins[0].pid
        url = f"http://127.0.0.1:{port}/api/events"
        found = {pages: await share(pid, url, pages) for pages in (0, 1, 16)}
    for pages, used in found.items():
        print(f"{payments} payments under way, {pages:2} pages open: {100 * used:5.2f} % of a core")
    return found[1] - found[0] <= MOST_SHARE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=1_000)
    sys.exit(0 if asyncio.run(measure(parser.parse_args().payments)) else 1)
