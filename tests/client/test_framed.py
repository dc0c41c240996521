"""Both processes: a payer who puts the LSP's word about its fee on a part himself (rule:22, K-27)."""

from __future__ import annotations

import pytest
from harness.two_processes import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, Json, Opening, Pair

from lsps2fast._tlv import extra_fee_tlvs
from lsps2fast_plugin.simnode import tlv
from lsps2fast_plugin.simnode.payer import Payment

pytestmark = pytest.mark.slow


async def first_channel(pair: Pair, trust: bool) -> str:
    """Buy a channel as usual; the scid by which payers reach it."""
    invoice = await pair.invoice(client_trusts_lsp=trust or None)
    payment = pair.payer.pay(invoice["bolt11"], [20_000_000], final_delta=13)
    if not trust:
        await pair.until(lambda status: status["held_parts"] == 1, "the part held")
        pair.world.mine()
    assert (await payment).codes == [0]
    await pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")
    pair.world.mine(6)
    (end,) = pair.wallet.ends
    scid: str = end.other.scid_now()
    return scid


def frame(pair: Pair, invoice: Json, scid: str, fee_msat: int) -> Payment:
    """Send less than the last hop is told, over the ordinary channel, and call the rest a fee."""
    height, sent_msat = pair.world.chain.height, SIZE_MSAT - fee_msat
    secret = bytes.fromhex(invoice["payment_secret"])
    last = tlv.hop_payload(SIZE_MSAT, height + 13, payment_secret=secret, total_msat=SIZE_MSAT)
    hops = [
        (bytes.fromhex(pair.world.lsp.node_id), tlv.hop_payload(sent_msat, height + 13, scid)),
        (bytes.fromhex(pair.wallet.node_id), last),
    ]
    word = bytes.fromhex(extra_fee_tlvs(fee_msat))
    return pair.payer.send_along(bytes.fromhex(invoice["payment_hash"]), hops, SIZE_MSAT + 10_000, height + 200, word)


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
async def test_an_honest_lsp_is_not_framed_by_a_payer(opened: Opening, mode: str) -> None:
    """rule:22 for LSPs: the node passes the TLV on; the part is refused, the LSP keeps its name, and the payment that
    the invoice was made for comes in.
    """
    trust = mode == CLIENT_TRUSTS
    async with opened(mode) as pair:
        scid = await first_channel(pair, trust)
        invoice = await pair.invoice(label="second", client_trusts_lsp=trust or None)
        framed = frame(pair, invoice, scid, 5_000)
        assert 0 not in (await framed).codes
        reports = [each["report"] for each in (await pair.status())["reports"]]
        assert any("it carries an opening fee, but did not come over the channel" in each for each in reports)
        assert all(lsp["broke_its_word"] is None for lsp in (await pair.status())["lsps"])
        payment = pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        if not trust:
            await pair.until(lambda status: status["held_parts"] == 2, "both parts held")
            pair.world.mine()
        assert (await payment).codes == [0, 0]
