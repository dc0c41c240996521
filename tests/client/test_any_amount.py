"""Both plugins with an invoice of any amount: what is opened for is taken (wallet:W12, trap:56)."""

from __future__ import annotations

import pytest
from harness.two_processes import CLIENT_TRUSTS, LSP_TRUSTS, Opening, Pair

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size_msat", [1_000_001, 1_499_999, 1_500_000, 1_999_999, 2_000_000, 4_000_000_001])
async def test_w12_a_default_wallet_takes_all_that_a_default_lsp_opens_for(opened: Opening, size_msat: int) -> None:
    """wallet:W12, trap:56: a payment is claimed, or no channel was opened for it: never a channel for nothing."""
    async with opened(LSP_TRUSTS, **{"lsps2-trusted-lsp": "any"}) as pair:
        pair.world.open_books()
        invoice = await pair.invoice(amount_msat="any")
        assert "warning_range" not in invoice
        result = await pair.payer.pay(invoice["bolt11"], [size_msat], final_delta=13)
        sold = invoice["smallest_payment_msat"] <= size_msat <= invoice["largest_payment_msat"]
        assert (result.codes == [0]) == sold
        assert bool(pair.wallet.ends) == sold
        assert not (await pair.status())["reports"]


async def test_w12_a_payment_that_only_the_owner_refuses_goes_back_and_the_next_is_taken(opened: Opening) -> None:
    """wallet:W12: limits below the LSP's menu are told; such a payment costs neither money nor the purchase."""
    async with opened(CLIENT_TRUSTS, **{"lsps2-max-fee-ppm": 100_000}) as pair:
        pair.world.open_books()
        invoice = await pair.invoice(amount_msat="any", client_trusts_lsp=True)
        assert "your limits allow payments of 10000000 to" in invoice["warning_range"]
        refused = await pair.payer.pay(invoice["bolt11"], [9_999_999])
        assert refused.codes != [0]
        assert (await pair.status())["approvals"][0]["state"] == "awaited"
        await pair.world.until(lambda: pair.wallet.ends[0].state == "CLOSINGD_COMPLETE", "the LSP gives its channel up")
        await pair.world.bounded(_nothing_under_way(pair), 60, "the end of the first payment at the LSP")
        paid = await pair.payer.pay(invoice["bolt11"], [10_000_000])
        assert paid.codes == [0], (await pair.status())["reports"]
        await pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")
        assert pair.world.books()["wallet"] == 9_000_000
        assert not [each for each in (await pair.status())["lsps"] if each["broke_its_word"]]


async def _nothing_under_way(pair: Pair) -> None:
    """Until the LSP has nothing of the first payment left: it opens one channel for an offer at a time."""
    while (await pair.world.lsp.call("lsps2-stats"))["live_sessions"]:
        pass
