"""Sales on real nodes: unmodified lightningd with its default routing fees, our service, our client."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from harness.evidence import Evidence

from lsps2fast_plugin.tools.regtest import Bill, Town, until

FEE_MSAT = 1_000_000
SIZE_MSAT = 10_000_000
NAMES = itertools.count(1)


def split(total_msat: int, parts: int) -> list[int]:
    """Uneven parts that add up."""
    base = total_msat // parts
    amounts = [base + n - parts // 2 for n in range(parts)]
    return [*amounts[:-1], total_msat - sum(amounts[:-1])]


def fresh(town: Town, **options: object) -> Bill:
    """A bill of a wallet that bought nothing before."""
    wallet = town.wallet(f"w{next(NAMES)}")
    return town.bill(wallet, SIZE_MSAT, **options)


def received_msat(bill: Bill) -> int:
    """What lightningd says the invoice brought."""
    row = bill.wallet.call("listinvoices", {"label": bill.label})["invoices"][0]
    assert row["status"] == "paid"
    received: int = row["amount_received_msat"]
    return received


def check_books(town: Town, evidence: Evidence, bill: Bill, before: dict[str, int], paid_msat: int) -> None:
    """Payer, wallet and LSP to the msat; the LSP also paid the miner of the funding."""
    town.over(bill)
    town.mine()
    txid = town.records("finalized")[bill.jit_scid]["funding_txid"]
    miner_sat = round(-town_fee(town, txid))
    assert town.wealth_msat(town.payer) - before["payer"] == -paid_msat
    assert received_msat(bill) == paid_msat - FEE_MSAT
    assert town.wealth_msat(bill.wallet) - before["wallet"] == paid_msat - FEE_MSAT
    assert town.wealth_msat(town.lsp) - before["lsp"] == FEE_MSAT - miner_sat * 1000
    assert evidence.fees_msat(bill.payment_hash) == FEE_MSAT


def town_fee(town: Town, txid: str) -> float:
    """Mining fee of a confirmed transaction, as a negative number of sat."""
    tx = town.bitcoind.call("getrawtransaction", txid, 2)
    return float(round(-tx["fee"] * 10**8))


def wealth(town: Town, bill: Bill) -> dict[str, int]:
    """Books before a payment."""
    nodes = {"payer": town.payer, "wallet": bill.wallet, "lsp": town.lsp}
    return {name: town.wealth_msat(node) for name, node in nodes.items()}


@pytest.mark.parametrize("parts", [1, 2, 5, 30])
def test_a_fixed_invoice_in_so_many_parts_over_two_channels(each_town: Town, parts: int) -> None:
    """trap:1, H-03, F-01: default routing fees, every split; fees add up to the opening fee, books to the msat."""
    bill, evidence = fresh(each_town), Evidence(each_town)
    before = wealth(each_town, bill)
    result = each_town.pay(bill, split(SIZE_MSAT, parts))
    assert result.failures == [""] * parts
    check_books(each_town, evidence, bill, before, SIZE_MSAT)
    channels = {params["htlc"]["short_channel_id"] for params, _ in evidence.hooks(bill.payment_hash).values()}
    assert len(channels) == min(parts, 2)
    assert len(evidence.calls("fundchannel_complete")) == 1


def test_an_invoice_without_an_amount(each_town: Town) -> None:
    """C-24: variable mode, the fee is worked out from what came."""
    wallet = each_town.wallet(f"w{next(NAMES)}")
    bill, evidence = each_town.bill(wallet, None), Evidence(each_town)
    before = wealth(each_town, bill)
    assert each_town.pay(bill, [7_654_321]).failures == [""]
    check_books(each_town, evidence, bill, before, 7_654_321)


@pytest.mark.parametrize("command", ["pay", "xpay"])
def test_a_stock_payer_finds_the_jit_channel(each_town: Town, command: str) -> None:
    """I-03, cln:H8: lightningd's own payment commands read our invoice and pay it."""
    bill, evidence = fresh(each_town), Evidence(each_town)
    name = {"pay": "bolt11", "xpay": "invstring"}[command]
    before = wealth(each_town, bill)
    result = each_town.payer.call(command, {name: bill.text})
    paid_msat = result["amount_sent_msat"]
    check_books(each_town, evidence, bill, before, paid_msat)
    assert paid_msat == SIZE_MSAT


def test_xpay_splits_what_one_channel_cannot_carry(town: Town) -> None:
    """C-10: a split the payer chose."""
    wallet = town.wallet(f"w{next(NAMES)}")
    town.grant(town.lsp, [2_000_000] * 3)
    size_msat = 3_500_000_000
    bill, evidence = town.bill(wallet, size_msat), Evidence(town)
    town.payer.call("xpay", {"invstring": bill.text})
    town.over(bill)
    town.mine()
    assert len(evidence.hooks(bill.payment_hash)) >= 2
    assert received_msat(bill) == size_msat - 35_000_000
    assert evidence.fees_msat(bill.payment_hash) == 35_000_000


def test_the_funding_goes_out_before_or_after_the_parts(each_town: Town) -> None:
    """O-13: the trust mode decides when it is broadcast."""
    bill, evidence = fresh(each_town), Evidence(each_town)
    assert each_town.pay(bill, [SIZE_MSAT]).paid
    each_town.over(bill)
    each_town.mine()
    expected = {"client-trusts-lsp": ["forward", "sendpsbt"], "lsp-trusts-client": ["sendpsbt", "forward"]}
    assert evidence.order("forward", "sendpsbt") == expected[each_town.mode]


def test_a_wallet_that_trusts_nobody_waits_for_a_block(lsp_trusts_town: Town) -> None:
    """I-30: with an LSP that broadcasts first the wallet keeps the preimage until the funding has confirmed."""
    town = lsp_trusts_town
    wallet = town.wallet(f"w{next(NAMES)}", **{"lsps2-trusted-lsp": None})
    bill = town.bill(wallet, SIZE_MSAT)
    sent = town.send_parts(bill, [SIZE_MSAT])
    wallet.wait_log("JIT channel")
    town.lsp.wait_log("funding .* is on its way to the chain", len(town.records("finalized")) + 1)
    assert wallet.call("listinvoices", {"label": bill.label})["invoices"][0]["status"] == "unpaid"
    town.mine()
    assert town.result(bill, sent, [SIZE_MSAT]).paid
    town.over(bill)


def test_what_was_paid_for_is_an_ordinary_channel_afterwards(town: Town) -> None:
    """A-01, A-02, rule:13: both directions work, at the operator's fees, and an invoice names the channel's alias."""
    bill = fresh(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine(6)

    def fees() -> tuple[int, int]:
        row = town.channels(town.lsp, bill.wallet)[0]
        return row["fee_base_msat"], row["fee_proportional_millionths"]

    def told() -> int:
        """What the wallet has heard of that: it writes its hints by it."""
        row = town.channels(bill.wallet, town.lsp)[0]
        return int(row.get("updates", {}).get("remote", {}).get("fee_base_msat", 0))

    until(lambda: fees() == (1, 10), "the operator's routing fees")
    until(lambda: told() == 1, "the same at the wallet")
    row = town.channels(town.lsp, bill.wallet)[0]
    again = bill.wallet.call("invoice", {"amount_msat": 50_000_000, "label": "again", "description": "again"})
    (hint,) = bill.wallet.call("decode", {"string": again["bolt11"]})["routes"]
    assert [hop["short_channel_id"] for hop in hint] == [row["alias"]["local"]]
    assert (hint[0]["fee_base_msat"], hint[0]["fee_proportional_millionths"]) == (1, 10)
    assert row["alias"]["local"] != bill.jit_scid
    assert town.payer.call("xpay", {"invstring": again["bolt11"]})["amount_msat"] == 50_000_000
    back = town.payer.call("invoice", {"amount_msat": 20_000_000, "label": f"back {bill.jit_scid}", "description": "b"})
    assert bill.wallet.call("xpay", {"invstring": back["bolt11"]})["amount_msat"] == 20_000_000


@pytest.mark.parametrize("own", [None, (77, 7), (0, 0)])
def test_the_jit_scid_still_forwards_after_a_restart_of_lightningd(
    found_town: Callable[..., Town], own: tuple[int, int] | None
) -> None:
    """A-03, rule:13, cln:A7, trap:25: the rate of zero that forwards were promised is not kept by lightningd; we set
    it again. Then the channel charges what it did before, also where its operator has set that.
    """
    town = found_town()
    bill = fresh(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine(6)
    row = town.channels(town.lsp, bill.wallet)[0]
    if own is not None:
        town.lsp.call("setchannel", {"id": row["channel_id"], "feebase": own[0], "feeppm": own[1]})
    town.lsp.stop()
    town.lsp.start()
    town.lsp.wait_log("sells JIT channels")
    for node in (town.payer, bill.wallet):
        town.rejoin(node)
    for amounts in ([2_000_000], [1_000_000] * 3):
        assert town.pay(town.further_bill(bill, sum(amounts)), amounts).failures == [""] * len(amounts)
    row = town.channels(town.lsp, bill.wallet)[0]
    assert (row["fee_base_msat"], row["fee_proportional_millionths"]) == (own or (1, 10))


def test_a_wallet_buys_twice(town: Town) -> None:
    """B-07: a second channel for the same wallet, beside the first."""
    bill = fresh(town)
    assert town.pay(bill, [SIZE_MSAT]).paid
    second = town.bill(bill.wallet, SIZE_MSAT)
    assert town.pay(second, split(SIZE_MSAT, 3)).paid
    town.over(second)
    town.mine()
    assert len(town.channels(town.lsp, bill.wallet)) == 2
