"""Both plugins, each a process of its own, on the embedded node."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from lsps2fast_plugin.simnode import Node, Payer, World, methods
from lsps2fast_plugin.simnode.party import connect

SERVICE = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
CLIENT = [sys.executable, "-m", "lsps2fast_plugin.client.app"]
SIZE_MSAT, FEE_MSAT = 20_000_000, 1_000_000
CLIENT_TRUSTS, LSP_TRUSTS = "client-trusts-lsp", "lsp-trusts-client"
Json = dict[str, Any]
Opening = Callable[..., AbstractAsyncContextManager["Pair"]]


def getutxout(node: Node, txid: str, vout: int) -> Json:
    """bitcoind's gettxout, mempool included."""
    chain = node.chain
    for channel in node.world.channels:
        seen = txid in chain.confirmed or txid in chain.mempool
        if seen and (channel.funding_txid, channel.funding_outnum) == (txid, int(vout)):
            return {"amount": f"{channel.capacity_sat}sat", "script": "0020" + "ab" * 32}
    return {"amount": None, "script": None}


class Pair:
    """An LSP, a wallet and a payer."""

    def __init__(self, world: World, wallet: Node, payer: Payer) -> None:
        self.world, self.wallet, self.payer = world, wallet, payer

    async def invoice(self, **more: Any) -> Json:
        given = {"lsp_id": self.world.lsp.node_id, "amount_msat": SIZE_MSAT, "description": "d", "label": "l"}
        made: Json = await self.wallet.call("lsps-lsps2-invoice", given | more)
        return made

    async def status(self) -> Json:
        got: Json = await self.wallet.call("lsps2-status", {})
        return got

    async def until(self, condition: Callable[[Json], object], what: str) -> None:
        """The wallet's status comes to meet the condition."""

        async def poll() -> None:
            while not condition(await self.status()):
                pass

        await self.world.bounded(poll(), None, what)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opening:
    """`async with opened(mode) as pair`."""
    if "getutxout" not in methods.TABLE:
        monkeypatch.setitem(methods.TABLE, "getutxout", methods.Method(
            "getutxout", getutxout, ("txid", "vout"), frozenset({"txid", "vout"})
        ))  # fmt: skip

    @asynccontextmanager
    async def make(mode: str, **options: Any) -> AsyncIterator[Pair]:
        async with World(seed=5, plugin=SERVICE, options={"lsps2-trust-mode": mode, "lsps2-fee-floor": 0}) as world:
            wallet = world.add_node("wallet")
            wallet.plan_plugin(CLIENT, options, world.env)
            await wallet.start()
            connect(wallet, world.lsp)
            yield Pair(world, wallet, world.payer("payer", channels=2))

    return make
