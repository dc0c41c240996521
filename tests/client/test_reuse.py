"""Both processes: LSPs that take a fee twice (wallet:W1) or open twice, and the program of the how-to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from harness import two_processes as sale
from harness.two_processes import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Opening, Pair

pytestmark = pytest.mark.slow
EVIL = [sys.executable, "-m", "lsps2fast_plugin.tools.demo.evil_lsp"]


async def sold_once(pair: Pair, trust: bool) -> None:
    """A sale as it should be."""
    invoice = await pair.invoice(client_trusts_lsp=trust or None)
    payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
    if not trust:
        await pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        pair.world.mine()
    assert (await payment).codes == [0, 0]
    await pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
async def test_w1_the_second_fee_over_one_channel_is_refused(
    opened: Opening, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wallet:W1: nothing of the second payment is claimed, and the LSP has broken its word."""
    monkeypatch.setattr(sale, "SERVICE", [*EVIL, "reuse"])
    trust = mode == CLIENT_TRUSTS
    async with opened(mode) as pair:
        await sold_once(pair, trust)
        pair.world.mine()
        invoice = await pair.invoice(label="second", client_trusts_lsp=trust or None)
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await pair.until(lambda status: status["lsps"][0]["broke_its_word"], "the refusal")
        while not payment.done:
            await pair.wallet.call("lsps2-dev-advance", {"seconds": 91})
            await pair.world.advance(91)
        assert 0 not in (await payment).codes
        assert len(pair.wallet.ends) == 1
        assert pair.wallet.ends[0].to_us_msat == SIZE_MSAT - FEE_MSAT
        assert "without opening a channel for it" in (await pair.status())["lsps"][0]["broke_its_word"]


async def test_i16_a_second_channel_for_one_purchase_is_refused(
    opened: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-16, wallet:W6: and the sale goes on over the first."""
    monkeypatch.setattr(sale, "SERVICE", [*EVIL, "second-channel"])
    async with opened(CLIENT_TRUSTS) as pair:
        invoice = await pair.invoice(client_trusts_lsp=True)
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await pair.until(lambda status: status["reports"] or payment.done, "the refusal")
        reports = [each["report"] for each in (await pair.status())["reports"]]
        assert any("has its channel already" in each for each in reports)
        assert len([end for end in pair.wallet.ends if end.state == "CHANNELD_NORMAL"]) <= 1


async def test_the_wallet_of_the_how_to_is_paid(opened: Opening, tmp_path: Path) -> None:
    """docs/how-to/jit-receive-in-your-wallet.md: the program as it stands there, beside real processes."""
    page = (Path(__file__).parents[2] / "docs/how-to/jit-receive-in-your-wallet.md").read_text()
    program = tmp_path / "wallet.py"
    program.write_text(page.split("```python\n")[1].split("```")[0])
    async with opened(CLIENT_TRUSTS) as pair:
        arguments = (pair.wallet.rpc_path, pair.world.lsp.node_id, str(SIZE_MSAT), "how-to", "trust")
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(program), *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        assert (await child.stdout.readline()).startswith(b"fee: 1000000 msat, the channel stays")
        bolt11 = (await child.stdout.readline()).removeprefix(b"invoice: ").strip().decode()
        assert (await pair.payer.pay(bolt11, [12_000_000, 8_000_000], final_delta=13)).codes == [0, 0]
        assert await child.stdout.readline() == b"state: paid\n"
        assert await child.wait() == 0
