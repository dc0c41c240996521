"""Lightningd's built-in LSPS plugins: its wallet buys from ours, our wallet buys from its service."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lsps2fast.errors import NodeError
from lsps2fast_plugin.tools.bench.market import stock_lsp
from lsps2fast_plugin.tools.regtest import Lightningd, Programs, Town, until
from lsps2fast_plugin.tools.regtest.processes import built_in
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS

PAIR = "lightningd's built-in plugins and ours"
SIZE_MSAT = 10_000_000
NUMBERS = iter(range(1000))


@pytest.fixture(scope="module")
def town(towns: Callable[[str], Town]) -> Town:
    """The built-in plugins always let the client trust."""
    return towns(CLIENT_TRUSTS)


def needs(programs: Programs, name: str) -> None:
    """Skip where lightningd was built without this plugin."""
    if built_in(programs, name) is None:
        pytest.skip(f"this lightningd was built without {name}")


@pytest.mark.parametrize("parts", [1, 2])
def test_the_built_in_wallet_buys_from_ours(town: Town, programs: Programs, parts: int) -> None:
    """Built-in wallet, our service: a fixed invoice."""
    needs(programs, "cln-lsps-client")
    wallet = town.node(f"c{next(NUMBERS)}", {"experimental-lsps-client": True}, built_ins=True)
    wallet.options["disable-plugin"] = ["cln-lsps-service"]
    wallet.start()
    town.connect(wallet, town.lsp)
    ask = {"lsp_id": town.lsp.node_id, "amount_msat": SIZE_MSAT, "description": "built-in", "label": "built-in"}
    text = wallet.call("lsps-lsps2-invoice", ask)["bolt11"]
    if parts == 1:
        town.payer.call("pay", {"bolt11": text, "retry_for": 30})
    else:
        town.payer.call("xpay", {"invstring": text})
    assert wallet.call("listinvoices", {"label": "built-in"})["invoices"][0]["status"] == "paid"
    until(lambda: not any(row["funding"]["withheld"] for row in town.channels(town.lsp, wallet)), "the funding sent")
    town.mine()
    wallet.stop()
    town.children.remove(wallet)


@pytest.fixture(scope="module")
def built_in_lsp(town: Town, programs: Programs) -> Iterator[Lightningd]:
    """A node that sells with the built-in plugin."""
    needs(programs, "cln-lsps-service")
    node = stock_lsp(town)
    node.start()
    town.grant(node, [1_000_000] * 3)
    town.link(town.payer, node)
    yield node
    node.stop()
    town.children.remove(node)


@pytest.fixture
def wallet(town: Town, built_in_lsp: Lightningd) -> Iterator[Lightningd]:
    """A wallet of ours at that node."""
    node = town.node(f"c{next(NUMBERS)}")
    town.add_plugin(node, "client", {"lsps2-trusted-lsp": "any"})
    node.start()
    node.wait_log("lsps2fast-client .* is ready")
    town.connect(node, built_in_lsp)
    yield node
    node.stop()
    town.children.remove(node)


def test_our_wallet_buys_from_the_built_in_service(town: Town, built_in_lsp: Lightningd, wallet: Lightningd) -> None:
    """Our wallet, built-in service: a variable amount."""
    sold = town.bill(wallet, None, lsp_id=built_in_lsp.node_id)
    town.payer.call("pay", {"bolt11": sold.text, "retry_for": 30, "amount_msat": SIZE_MSAT})
    assert wallet.call("listinvoices", {"label": sold.label})["invoices"][0]["status"] == "paid"
    town.mine()


def test_the_built_in_service_does_not_serve_fixed_amounts_yet(
    town: Town, built_in_lsp: Lightningd, wallet: Lightningd
) -> None:
    """Our wallet, built-in service of v26.06: a fixed amount is sold and then not served; nothing is lost."""
    sold = town.bill(wallet, SIZE_MSAT, lsp_id=built_in_lsp.node_id)
    try:
        town.payer.call("pay", {"bolt11": sold.text, "retry_for": 10})
        status = "paid"  # a later version serves it
    except NodeError:
        status = "unpaid"
        assert not town.channels(built_in_lsp, wallet)
    assert wallet.call("listinvoices", {"label": sold.label})["invoices"][0]["status"] == status
    town.mine()
