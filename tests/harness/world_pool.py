"""Running worlds that pass from one story to the next, because starting a plugin takes longer than most stories.

A world is handed on only if its story left it as good as new: `Stage.tidy` held, every buy has expired since, the
plugin was never stopped. Its pipes are read by the loop it began on, so a story on another loop never gets it: it would
wait for an answer that is never read. Outside of a pytest session nothing is kept: every story has a world of its own.
"""

from __future__ import annotations

import asyncio

from lsps2fast_plugin.simnode import World

STORIES = 12  # then the channels that earlier stories have left begin to cost
LOOKS = 50  # at the buys that are still live
LOG_LINES = 100  # the plugin cuts a flood of them, and stories look at what it says
WEALTH_SAT = (400_000,) * 6  # coins a story finds in the LSP's wallet
_PAST_EVERY_OFFER_S = 4_000


class Houses:
    """At most one spare world for each mode of trust."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # whose stories share; None: they do not
        self._spare: dict[str, World] = {}
        self._stories: dict[World, int] = {}
        self._lines: dict[World, int] = {}

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand worlds on from story to story of this loop."""
        self._loop = loop

    def _share(self) -> bool:
        return asyncio.get_running_loop() is self._loop

    def take(self, mode: str) -> World | None:
        """A world that runs and sells, or None."""
        return self._spare.pop(mode, None) if self._share() else None

    def story(self, world: World) -> int:
        """How many stories it has seen."""
        return self._stories.get(world, 0)

    async def keep(self, mode: str, world: World) -> bool:
        """Make it new again and keep it; False when its owner has to close it."""
        if not self._share():
            return False
        stories = self._stories.pop(world, 0) + 1
        lines = self._lines.pop(world, 0) + len(world.transcript.select("plugin>host", method="log"))
        if mode in self._spare or stories >= STORIES or lines >= LOG_LINES:
            return False
        self._stories[world], self._lines[world] = stories, lines
        if not await self._renew(world):
            return False
        self._spare[mode] = world
        return True

    async def _renew(self, world: World) -> bool:
        """False where a buy lives on: an unpaid channel whose money is not back (people:S17)."""
        lsp = world.lsp
        lsp.faults.clear()
        await world.advance(_PAST_EVERY_OFFER_S)
        for _ in range(LOOKS):  # a buy that has ended may still have its last record to write
            if not (await lsp.call("lsps2-stats"))["live_buys"] and not any(
                "active" in key for key in lsp.datastore.rows
            ):
                break
        else:
            return False
        world.mine()
        free = sum(not row["reserved"] for row in lsp.wallet.rows() if row["amount_msat"] >= WEALTH_SAT[0] * 1000)
        for amount_sat in WEALTH_SAT[free:]:
            world.chain.grant(amount_sat, lsp.wallet.new_script())
        lsp.datastore.rows.clear()
        world.transcript.entries.clear()
        return True

    async def close(self) -> None:
        """End them all."""
        self._loop = None
        while self._spare:
            _, world = self._spare.popitem()
            await world.__aexit__(None, None, None)


HOUSES = Houses()
