"""Real nodes between tests: retired, restarted, and what they own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Programs, Town, find_programs, until
from lsps2fast_plugin.tools.regtest.processes import Child
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS


def retire(town: Town, before: list[Child]) -> None:
    """Stop the nodes that a test has made: each is twenty processes, and every later block would wait for it."""
    for node in [child for child in town.children if child not in before]:
        assert isinstance(node, Lightningd)
        node.stop()
        town.children.remove(node)


def owned(town: Town, bill: Bill) -> None:
    """rule:23: every funding that was sent belongs to a channel that lightningd still has, or closed with our claim.

    One that went out for a channel that had just gone is taken back a moment later.
    """

    def strays() -> set[str]:
        rows = town.lsp.call("listpeerchannels", {"id": bill.wallet.node_id})["channels"]
        closed = town.lsp.call("listclosedchannels", {"id": bill.wallet.node_id})["closedchannels"]
        kept = {row["funding_txid"] for row in rows if not row.get("funding", {}).get("withheld")}
        kept |= {row["funding_txid"] for row in closed if not row.get("funding_withheld")}
        ours = {row["funding_txid"] for row in [*rows, *closed]}
        return set(town.bitcoind.call("getrawmempool")) & ours - kept

    until(lambda: not strays(), "the end of fundings that no channel owns", say=lambda: f"{strays()}")


def forget(town: Town, blocks: int) -> None:
    """Take the last blocks away; bitcoind starts anew with nothing in its mempool of what was in them."""
    bitcoind = town.bitcoind
    bitcoind.call("invalidateblock", bitcoind.call("getblockhash", bitcoind.height - blocks + 1))
    assert bitcoind.process is not None
    command = bitcoind.process.args
    assert isinstance(command, list)
    bitcoind.stop()
    (bitcoind.directory / "regtest" / "mempool.dat").unlink(missing_ok=True)
    bitcoind.spawn(command)

    def up() -> bool:
        with contextlib.suppress(OSError, NodeError):
            return "purse" in bitcoind.call("listwallets") or bool(bitcoind.call("loadwallet", "purse"))
        return False

    until(up, "bitcoind's return", say=bitcoind.tail)


def mine_nothing(town: Town) -> None:
    """Mine a block without transactions."""
    town.bitcoind.call("generateblock", town.bitcoind.call("getnewaddress"), [])


BUILT_IN_SERVICE = """
from pyln.client import Plugin
plugin = Plugin()
plugin.add_flag_option("experimental-lsps2-service", "stands for the built-in plugin")
plugin.add_option("experimental-lsps2-promise-secret", None, "stands for the built-in plugin")
@plugin.async_hook("htlc_accepted")
def on_htlc(onion, htlc, request, plugin, **kwargs):
    request.set_result({"result": "continue"})
plugin.run()
"""

BUILT_IN_CLIENT = """
from pyln.client import Plugin
plugin = Plugin()
plugin.add_flag_option("experimental-lsps-client", "stands for the built-in plugin")
@plugin.method("lsps-lsps2-getinfo")
def getinfo(plugin, lsp_id, token=None):
    return {}
plugin.run()
"""

BUILT_INS = {
    "service": ("cln-lsps-service", BUILT_IN_SERVICE),
    "client": ("cln-lsps-client", BUILT_IN_CLIENT),
}


def revive(town: Town, victim: str) -> None:
    """Start again what was killed; all nodes connect again."""
    until(lambda: not town.trip_file(town.lsp).exists(), "the kill")
    if victim == "node":
        town.lsp.gone()
        town.lsp.start()
    else:
        launcher, options = town.lsp.plugins[0]
        until(lambda: not _loaded(town), "the end of the plugin")
        town.lsp.call("plugin", {"subcommand": "start", "plugin": launcher, **options})
    until(lambda: _sells(town), "the service's return")


def _loaded(town: Town) -> bool:
    rows = town.lsp.call("plugin", {"subcommand": "list"})["plugins"]
    return any("lsps2fast-service" in row["name"] for row in rows)


def _sells(town: Town) -> bool:
    try:
        town.stats()
    except NodeError:
        return False
    return True


@pytest.fixture(scope="session")
def programs() -> Programs:
    """lightningd and bitcoind, or a skip that says what is missing."""
    try:
        return find_programs()
    except ConfigError as error:
        pytest.skip(f"real nodes are needed: {error}")


@pytest.fixture(scope="session")
def open_town(programs: Programs) -> Iterator[Callable[..., Town]]:
    """Make a town; all are closed and removed at the end of the run."""
    towns: list[Town] = []

    def make(mode: str = CLIENT_TRUSTS, **options: Any) -> Town:
        town = Town(Path(tempfile.mkdtemp(prefix="l2r-", dir="/tmp")), mode, programs=programs, **options)
        towns.append(town)
        town.open()
        return town

    yield make
    for town in towns:
        town.close()
        if os.environ.get("LSPS2FAST_KEEP") != "1":
            town.remove()


@pytest.fixture
def found_town(open_town: Callable[..., Town]) -> Iterator[Callable[..., Town]]:
    """Like `open_town`, and closed at the end of the test."""
    towns: list[Town] = []

    def make(mode: str = CLIENT_TRUSTS, **options: Any) -> Town:
        town = open_town(mode, **options)
        towns.append(town)
        return town

    yield make
    for town in towns:
        town.close()
