"""Wallets on real nodes that do not do as they should, by a small plugin of their own."""

from __future__ import annotations

import sys

from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until


def script(node: Lightningd, name: str, text: str) -> str:
    """Write an executable plugin."""
    path = node.directory / name
    path.write_text(text)
    path.chmod(0o700)
    return str(path)


HOLDER = f"""#!{sys.executable}
import os, threading, time
from pyln.client import Plugin
plugin = Plugin()
@plugin.hook("htlc_accepted")
def hold(htlc, onion, plugin, **kwargs):
    while not os.path.exists("RELEASE"):
        time.sleep(0.05)
    return {{"result": "continue"}}
plugin.run()
"""


class Hold:
    """A wallet whose node keeps every HTLC until it is told to go on."""

    def __init__(self, wallet: Lightningd) -> None:
        self._release = wallet.directory / "release"
        path = script(wallet, "holder", HOLDER.replace("RELEASE", str(self._release)))
        wallet.call("plugin", {"subcommand": "start", "plugin": path})

    def release(self) -> None:
        """Let all go on."""
        self._release.touch()


def arrived(town: Town, bill: Bill, count: int = 1) -> None:
    """Wait until so many HTLCs are at the wallet."""

    def there() -> bool:
        return sum(len(row["htlcs"]) for row in town.channels(bill.wallet, town.lsp)) >= count

    until(there, f"{count} HTLCs at the wallet")
