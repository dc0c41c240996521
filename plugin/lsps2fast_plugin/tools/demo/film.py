"""The demo's three sales as `lsps2fast watch` sees them: a look at the service at each change of a session."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from lsps2fast_plugin.simnode import Node
from lsps2fast_plugin.tools.demo.sales import CLIENT_TRUSTS, SERVICE, Stage, new_world, quiet
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.timeline import Entry

Answer = dict[str, Any]


async def look(lsp: Node) -> Answer:
    """Return what `watch.look` would find at this node."""
    since = {"since": time.strftime("%Y-%m-%d", time.gmtime())}
    return {
        "sessions": (await lsp.call("lsps2-listsessions"))["sessions"],
        "stats": await lsp.call("lsps2-stats"),
        "today": (await lsp.call("lsps2-report", since))["total"],
    }


async def _shoot(seed: int) -> list[Answer]:
    taken: list[Answer] = []
    async with new_world(seed, CLIENT_TRUSTS, SERVICE) as world:
        changed = asyncio.Event()

        def notice(entry: Entry) -> None:
            if entry["dir"] == "plugin>host" and entry["msg"].get("method") in ("lsps2_session", "lsps2_buy"):
                changed.set()

        async def take() -> None:
            while True:
                await changed.wait()
                changed.clear()
                taken.append(await look(world.lsp))

        with quiet(world):
            stage = Stage(world, Screen(silent=True), CLIENT_TRUSTS)
            world.transcript.listeners.append(notice)
            world.background(take())
            await stage.play()
            taken.append(await look(world.lsp))
    return taken


def frames(seed: int = 1) -> list[Answer]:
    """Play the three sales and return what was seen meanwhile, in order."""
    return asyncio.run(_shoot(seed))
