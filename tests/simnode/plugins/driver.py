"""A world that waits to be interrupted; prints the plugin's pid and its directory."""

import asyncio
import signal
import sys

from lsps2fast_plugin.simnode import World


async def main() -> None:
    async with World(plugin=sys.argv[1:]) as world:
        print(world.lsp.plugin.pid, world.directory, flush=True)
        await asyncio.Event().wait()


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control starts `&` with it ignored
asyncio.run(main())
