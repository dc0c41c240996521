"""lsps2fast-client buys from an ldk-node that sells JIT channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from harness.peers import Ldk

from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS

PAIR = "ours buys, ldk-node sells"
SIZE_MSAT = 100_000_000
NUMBERS = iter(range(1000))


@pytest.fixture(scope="module")
def town(towns: Callable[[str], Town]) -> Town:
    """Bitcoind and a payer; its own LSP only stands by."""
    return towns(CLIENT_TRUSTS)


@pytest.fixture(scope="module", params=[True, False], ids=["client trusts", "LSP trusts"])
def lsp(request: pytest.FixtureRequest, town: Town, ldk_program: object) -> Iterator[Ldk]:
    """An ldk-node with coins, and a payer's channel to it."""
    name = f"seller{next(NUMBERS)}"
    service = {"client_trusts_lsp": request.param}
    peer = Ldk(name, town.directory / name, ldk_program, town.bitcoind, service=service)  # type: ignore[arg-type]
    peer.start()
    town.bitcoind.send([(peer.call("address"), 2_000_000) for _ in range(3)])
    town.mine(1)
    peer.synced()
    until(lambda: peer.call("balances")["onchain_sat"] > 5_000_000, "its coins")
    town.grant(town.payer, [3_000_000])
    town.payer.call("connect", {"id": peer.node_id, "host": "127.0.0.1", "port": peer.port})
    town.payer.call("fundchannel", {"id": peer.node_id, "amount": 2_000_000, "minconf": 1})
    town.mine(6)
    peer.synced()
    until(lambda: any(row["usable"] for row in peer.call("channels")), "the payer's channel")
    yield peer
    peer.stop()


@pytest.fixture
def wallet(town: Town, lsp: Ldk) -> Iterator[Lightningd]:
    """A wallet of ours at that LSP."""
    node = town.node(f"b{next(NUMBERS)}")
    town.add_plugin(node, "client", {"lsps2-trusted-lsp": "any"})
    node.start()
    node.wait_log("lsps2fast-client .* is ready")
    node.call("connect", {"id": lsp.node_id, "host": "127.0.0.1", "port": lsp.port})
    yield node
    node.stop()
    town.children.remove(node)


@pytest.mark.parametrize("amount_msat", [SIZE_MSAT, None], ids=["fixed", "variable"])
def test_a_payment(town: Town, lsp: Ldk, wallet: Lightningd, amount_msat: int | None) -> None:
    """A JIT channel of an ldk-node LSP, paid by `pay`."""
    sold: Bill = town.bill(wallet, amount_msat, lsp_id=lsp.node_id)
    more = {} if amount_msat else {"amount_msat": SIZE_MSAT}
    town.payer.call("pay", {"bolt11": sold.text, "retry_for": 30, **more})
    assert wallet.call("listinvoices", {"label": sold.label})["invoices"][0]["status"] == "paid"
    town.mine()
    lsp.synced()
