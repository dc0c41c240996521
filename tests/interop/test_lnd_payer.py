"""A stock lnd pays for JIT channels that lsps2fast sells to a wallet with lsps2fast-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from harness.peers import Lnd

from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS

PAIR = "lnd pays, ours sells and buys"
SIZE_MSAT = 10_000_000
CHANNEL_SAT = 5_000_000


@pytest.fixture(scope="module")
def town(open_town: Callable[..., Town]) -> Town:
    """The LSP broadcasts after the client was paid.

    It has one public channel before lnd comes: of two in one block lightningd may tell the second first, and lnd hangs
    up on a peer that does ("current sid … isn't greater than last sid").
    """
    return open_town(CLIENT_TRUSTS, payer_channels=1)


@pytest.fixture(scope="module")
def payer(town: Town, lnd_programs: tuple[object, object]) -> Iterator[Lnd]:
    """Lnd with two channels to the LSP."""
    peer = Lnd("lnd", town.directory / "lnd", lnd_programs, town.bitcoind)  # type: ignore[arg-type]
    try:
        peer.start()
        peer.link(town.lsp, CHANNEL_SAT, 2)
        yield peer
    finally:
        peer.stop()


NUMBERS = iter(range(1000))


@pytest.fixture
def wallet(town: Town) -> Iterator[Lightningd]:
    """A wallet that has bought nothing yet."""
    node = town.wallet(f"w{next(NUMBERS)}")
    yield node
    node.stop()
    town.children.remove(node)


def over(town: Town, sold: Bill, payer: Lnd) -> None:
    """The sale is over and its funding in a block."""
    assert sold.wallet.call("listinvoices", {"label": sold.label})["invoices"][0]["status"] == "paid"
    town.over(sold)
    town.mine()
    payer.synced()


def test_a_plain_payment(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """A fixed invoice, paid with `payinvoice`; then an ordinary one over the new channel."""
    sold = town.bill(wallet, SIZE_MSAT)
    assert payer.pay(sold.text)["status"] == "SUCCEEDED"
    over(town, sold, payer)
    ask = {"amount_msat": 1_000_000, "label": f"ordinary {sold.label}", "description": "ordinary"}
    until(lambda: town.channels(wallet, town.lsp)[0].get("short_channel_id"), "the channel in a block")
    assert payer.pay(wallet.call("invoice", ask)["bolt11"])["status"] == "SUCCEEDED"


def test_a_variable_amount(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """An invoice without an amount."""
    sold = town.bill(wallet, None)
    assert payer.pay(sold.text, f"--amt={SIZE_MSAT // 1000}")["status"] == "SUCCEEDED"
    over(town, sold, payer)


def test_many_shards(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """Split into shards of a fifteenth, over two channels."""
    sold = town.bill(wallet, 150_000_000)
    result = payer.pay(sold.text, "--max_parts=16", "--max_shard_size_sat=10000")
    assert result["status"] == "SUCCEEDED"
    assert len([htlc for htlc in result["htlcs"] if htlc["status"] == "SUCCEEDED"]) >= 15
    over(town, sold, payer)


def test_more_than_one_channel_holds(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """More than one of its channels can carry: split over both."""
    amounts = [int(row["local_balance"]) for row in payer.call("listchannels")["channels"]]
    size_sat = max(amounts) + 100_000
    if size_sat > 3_900_000:
        size_sat = 3_900_000
    town.grant(town.lsp, [size_sat + 1_000_000])
    sold = town.bill(wallet, size_sat * 1000)
    assert payer.pay(sold.text)["status"] == "SUCCEEDED"
    over(town, sold, payer)


def test_a_wallet_that_is_away_for_a_moment(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """The wallet is away when the payment comes, and back while it is held."""
    sold = town.bill(wallet, SIZE_MSAT)
    wallet.stop()
    until(lambda: not town.connected(town.lsp, wallet), "the wallet gone")
    payer.spawn_pay(sold.text)
    town.held(1)
    wallet.start()
    town.connect(wallet, town.lsp)
    assert payer.paid()["status"] == "SUCCEEDED"
    over(town, sold, payer)


def test_a_probe_opens_nothing(town: Town, payer: Lnd, wallet: Lightningd) -> None:
    """Its own probe (`estimateroutefee` with the invoice) opens no channel that is put on chain; the payment works."""
    sold = town.bill(wallet, SIZE_MSAT)
    payer.call("estimateroutefee", f"--pay_req={sold.text}", "--timeout=20s", timeout_s=60)
    assert not any(row.get("short_channel_id") for row in town.channels(town.lsp, wallet))
    assert payer.pay(sold.text)["status"] == "SUCCEEDED"
    over(town, sold, payer)
