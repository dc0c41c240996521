"""The programs under load, each started as lightningd starts a plugin.

As a module: `python -m lsps2fast_plugin.tools.bench.children KIND BUSY`. KIND is `c` or `python` (our host with that
reader) or `pyln` (stock pyln-client with synchronous hook); BUSY is the share of time that another
Python thread computes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pyln.client import Plugin

CEILING = r"""
/* The ceiling of the pipe: reads hook calls, answers continue, understands as little as can be. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

static char in[1 << 20], out[1 << 20];
static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":", tail[] = ",\"result\":{\"result\":\"continue\"}}\n\n";

static size_t answer(const char *frame, const char *end, char *to) {
    const char *id = memmem(frame, end - frame, "\"id\":\"", 6), *stop;
    if (!id) return 0;
    id += 5;
    stop = memchr(id + 1, '"', end - id - 1);
    if (!stop) return 0;
    size_t size = stop + 1 - id;
    memcpy(to, head, sizeof head - 1);
    memcpy(to + sizeof head - 1, id, size);
    memcpy(to + sizeof head - 1 + size, tail, sizeof tail - 1);
    return sizeof head - 1 + size + sizeof tail - 1;
}

int main(void) {
    size_t have = 0;
    for (;;) {
        ssize_t got = read(0, in + have, 65536);
        if (got <= 0) return 0;
        have += got;
        char *at = in, *end = in + have, *stop;
        size_t filled = 0;
        while ((stop = memchr(at, '\n', end - at)) && stop + 1 < end) {
            filled += answer(at, stop, out + filled);
            at = stop + 2;
        }
        have = end - at;
        memmove(in, at, have);
        for (size_t done = 0; done < filled;) {
            ssize_t wrote = write(1, out + done, filled - done);
            if (wrote < 0) return 1;
            done += wrote;
        }
    }
}
"""


def build_ceiling(directory: Path) -> list[str] | None:
    """Compile the C program; its command, None where there is no C compiler."""
    source, program = directory / "ceiling.c", directory / "ceiling"
    source.write_text(CEILING, encoding="utf-8")
    try:
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", str(program), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [str(program)]


def ours(lane: str, busy: float = 0.0) -> list[str]:
    """Return our host with the lane in C or in Python."""
    return [sys.executable, "-m", __name__, lane, str(busy)]


def stock(busy: float = 0.0) -> list[str]:
    """Stock pyln-client."""
    return ours("pyln", busy)


def service() -> list[str]:
    """Return the real plugin."""
    return [sys.executable, "-m", "lsps2fast_plugin.service.app"]


BUSY_EVERY_S = 0.1


def _compute(share: float) -> None:
    """Compute in a Python thread for `share` of every 100 ms, or all the time.

    A burst shorter than the 5 ms after which Python lets another thread in would only delay that one by its own length.
    """
    while True:
        begin = time.perf_counter()
        while share >= 1 or time.perf_counter() - begin < BUSY_EVERY_S * share:
            sum(range(1000))
        time.sleep(BUSY_EVERY_S * (1 - share))


def _run_pyln() -> None:
    plugin = Plugin(autopatch=False)

    def go_on(**_: Any) -> dict[str, str]:
        return {"result": "continue"}

    def block(seconds: float) -> dict[str, Any]:
        """Block."""
        time.sleep(float(seconds))
        return {}

    plugin.add_hook("htlc_accepted", go_on)
    plugin.add_method("block", block, description="block")
    plugin.add_subscription("forward_event", lambda **_: None)
    plugin.run()


async def _run_ours(lane: str) -> int:
    from lsps2fast_plugin.cln.host import Host, HtlcFilter

    plugin = Plugin(autopatch=False)
    interest = HtlcFilter(compiled=lane == "c")
    host = Host(plugin, interest, lambda scan: host.let_go(scan.id_raw))
    interest.scids.add(1)
    interest.payment_hashes.add(bytes(32))

    async def block(seconds: float) -> dict[str, Any]:
        """Block the loop, which nothing of ours does."""
        time.sleep(float(seconds))  # noqa: ASYNC251
        return {}

    host.method("block", block)
    host.hook("custommsg", lambda **_: {"result": "continue"})
    host.subscribe("forward_event", lambda **_: None)
    plugin.init()(lambda **_: host.interest_loaded())
    return await host.run()


def main() -> int:
    """Be the program that argv names."""
    kind, busy = sys.argv[1], float(sys.argv[2])
    if busy:
        threading.Thread(target=_compute, args=(busy,), daemon=True).start()
    if kind == "pyln":
        _run_pyln()
        return 0
    return asyncio.run(_run_ours(kind))


if __name__ == "__main__":
    sys.exit(main())
