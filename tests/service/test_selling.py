"""The plain story: a sale in both modes of trust and of payment, what it costs, and what the jit scid is afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, UNKNOWN, Stage

from lsps2fast_plugin.simnode import openings

GENEROUS = {"lsps2-max-overpay-percent": 100, "lsps2-min-part-msat": 1}  # as much again, in parts of any size

COMMITS = ("datastore", "deldatastore", "fundchannel_start", "sendpsbt", "forward")


@pytest.mark.parametrize(("base_msat", "ppm"), [(0, 0), (1, 10), (1000, 10)])
async def test_five_parts_settle_on_a_node_that_charges_for_routing(mode: str, base_msat: int, ppm: int) -> None:
    """trap:1, rule:13, rule:20: each part carries its share of the opening fee, and no routing fee beside it."""
    async with Stage(mode, fee_base_msat=base_msat, fee_ppm=ppm) as stage:
        invoice = await stage.sale(stage.client(), stage.payer(channels=2))
        extra = [result["extra_tlvs"] for result in stage.htlc_results(invoice.payment_hash)]
        assert extra == [f"fe0001000108{FEE_MSAT // 5:016x}"] * 5
        assert sum(part.htlc.amount_msat for part in invoice.payee.received) == SIZE_MSAT - FEE_MSAT


async def test_an_invoice_without_an_amount_is_paid_by_one_part(mode: str) -> None:
    """C-20, H-19: the first part alone decides; forwarded is its value less the fee."""
    async with Stage(mode) as stage:
        invoice = await stage.invoice(stage.client(), None)
        await stage.paid(stage.payer(), invoice, [7_654_321])
        await stage.over(invoice)
        assert (invoice.paid_msat, invoice.fee_taken_msat) == (7_654_321 - FEE_MSAT, FEE_MSAT)


@pytest.mark.parametrize(
    ("mode", "flag", "order"),
    [
        (LSP_TRUSTS, False, ["fundchannel_complete", "sendpsbt", "forward", "forward"]),
        (CLIENT_TRUSTS, True, ["fundchannel_complete", "forward", "forward", "sendpsbt"]),
    ],
)
async def test_the_flag_told_to_the_client_decides_when_the_funding_is_sent(
    mode: str, flag: bool, order: list[str]
) -> None:
    """O-10, O-11, O-12, B-15: sent before the first part goes out, or kept back until a preimage was seen."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        bought = await stage.buy(client)
        assert bought.get("client_trusts_lsp", False) is flag
        invoice = client.invoice(SIZE_MSAT, bought["jit_channel_scid"], opening_fee_msat=FEE_MSAT, cltv_delta=144)
        await stage.paid(payer, invoice, [SIZE_MSAT // 2] * 2)
        await stage.over(invoice)
        assert stage.order("fundchannel_complete", "sendpsbt", "forward") == order


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (LSP_TRUSTS, ["intent", "fundchannel_start", "channel", "sendpsbt", "forward", "paid", "delete"]),
        (CLIENT_TRUSTS, ["intent", "fundchannel_start", "forwards", "forward", "sendpsbt", "paid", "delete"]),
    ],
)
async def test_a_session_of_ten_parts_costs_no_commit_per_part(mode: str, expected: list[str]) -> None:
    """P16: one before funding, one before what is public and forwarded, final record and delete; none a part.

    The buy is one commit (B-10): five in both modes. Where the LSP trusts the client the channel and where each
    part will go are journalled before it is public.
    """
    async with Stage(mode) as stage:
        invoice = await stage.invoice(stage.client())
        assert len(stage.calls("datastore")) == 1
        await stage.paid(stage.payer(), invoice, [SIZE_MSAT // 10] * 10)
        await stage.over(invoice)
        await stage.quiet()
        written = iter(stage.calls("datastore")[1:])
        steps = []
        for step in stage.order(*COMMITS)[1:]:
            if step == "datastore":
                record = bytes.fromhex(next(written)["hex"]).decode()
                step = record.partition('"stage":"')[2].partition('"')[0]
            steps.append("delete" if step == "deldatastore" else step)
        assert steps[: expected.index("forward")] == expected[: expected.index("forward")]
        assert steps.count("forward") == 10
        assert [step for step in steps if step != "forward"] == [step for step in expected if step != "forward"]


async def test_foreign_htlcs_cost_no_call_and_no_commit() -> None:
    """P6, C-01: forwards and own invoices pass, and lightningd hears nothing but the answers."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        stage.world.add_channel(stage.lsp, client, 1_000_000)
        await stage.quiet()
        before = stage.order()
        forwarded = await payer.pay(client.invoice(50_000), overpay_msat=2_000)
        label = await stage.lsp.call("invoice", {"amount_msat": 70_000, "label": "ours", "description": "ours"})
        own = await payer.pay(label["bolt11"])
        strange = await payer.pay(client.invoice(50_000, "1x1x1"))
        assert forwarded.paid
        assert own.paid
        assert strange.raw_messages == [UNKNOWN]
        assert stage.order()[len(before) :] == ["continue"] * 3


async def test_routing_fees_are_zero_during_a_session_and_the_nodes_own_afterwards(mode: str) -> None:
    """rule:13, O-17, A-02."""
    async with Stage(mode, fee_base_msat=1234, fee_ppm=56) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.state(invoice, "AWAITING_SETTLEMENT")
        await stage.until(client.held, "the part is with the client")
        end = client.ends[0].other
        assert (end.fee_base_msat, end.fee_ppm) == (0, 0)
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        await stage.until(lambda: (end.fee_base_msat, end.fee_ppm) == (1234, 56), "the node's fees are back")


async def test_after_success_the_jit_scid_is_an_alias_until_valid_until(mode: str) -> None:
    """trap:25, A-03, A-02: a second payment passes with no further fee, although the node charges; then it is
    unknown.
    """
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.sale(client, payer)
        again = client.invoice(3_000_000, invoice.scid, cltv_delta=144)
        await stage.paid(payer, again, [1_000_000] * 3)
        assert again.fee_taken_msat == 0
        assert len(stage.calls("fundchannel_start")) == 1
        await stage.world.advance(3600)
        await stage.until(lambda: stage.records("finalized"), "the final record stays")
        late = client.invoice(3_000_000, invoice.scid, cltv_delta=144)
        assert (await payer.pay(late)).raw_messages == [UNKNOWN]


@pytest.mark.parametrize("same", [True, False])
async def test_the_channels_own_alias_may_be_the_jit_scid_or_not(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """O-22, A-03: parts go by the channel's id, whatever its names are, also after it was paid."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        draw = openings.make_end

        def made(channel: Any, owner: Any, to_us_msat: int) -> Any:
            end = draw(channel, owner, to_us_msat)
            end.alias = invoice.scid if same and owner is stage.lsp else end.alias
            return end

        monkeypatch.setattr(openings, "make_end", made)
        await stage.paid(payer, invoice, [SIZE_MSAT // 2] * 2)
        await stage.over(invoice)
        assert (client.ends[0].other.alias == invoice.scid) == same
        again = client.invoice(3_000_000, invoice.scid, cltv_delta=144)
        await stage.paid(payer, again, [3_000_000])
        assert (invoice.fee_taken_msat, again.fee_taken_msat) == (FEE_MSAT, 0)


async def test_a_restart_of_lightningd_leaves_the_alias_as_it_was(mode: str) -> None:
    """A-03, cln:A7: lightningd forgets the rate of zero that was promised; the next start sets it again, fees after
    it.
    """
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.sale(client, payer)
        await stage.restart()
        client.connect()
        await stage.quiet()
        again = client.invoice(3_000_000, invoice.scid, cltv_delta=144)
        await stage.paid(payer, again, [1_000_000] * 3)
        end = client.ends[0].other
        assert (end.fee_base_msat, end.fee_ppm) == (1000, 10)


async def test_an_alias_serves_payments_that_were_collecting_when_it_was_paid(mode: str) -> None:
    """A-03, C-14: parts of another payment on the same scid go out as plain forwards once the channel is paid."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        other = client.invoice(4_000_000, invoice.scid, cltv_delta=144)
        waiting = payer.pay(other, [4_000_000])
        await stage.held(1)
        assert (await payer.pay(invoice, [SIZE_MSAT // 5] * 5)).paid
        assert (await waiting).paid
        assert invoice.fee_taken_msat == FEE_MSAT
        assert other.fee_taken_msat == 0


@pytest.mark.parametrize("late_msat", [1, 2_500_000])
async def test_a_part_that_comes_after_the_others_went_out_is_forwarded_in_full(mode: str, late_msat: int) -> None:
    """C-18, H-06: no fee, no TLV, the same channel, and it is journalled before it goes."""
    async with Stage(mode, options=GENEROUS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        first = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.until(lambda: len(client.held()) == 2, "two parts with the client")
        late = payer.pay(invoice, [late_msat], total_msat=SIZE_MSAT + late_msat)
        await stage.until(lambda: len(client.held()) == 3, "the late part with the client")
        assert client.held()[2].htlc.amount_msat == late_msat
        assert stage.htlc_results(invoice.payment_hash)[2]["extra_tlvs"] == ""
        assert len(stage.records("active")[str(invoice.scid)]["lsps2fast"]["forwards"]) == 3
        client.settle_held()
        assert (await first).paid
        assert (await late).paid
        await stage.over(invoice)


async def test_a_surplus_part_that_comes_while_the_channel_opens_shares_its_way(mode: str) -> None:
    """C-18, trap:17: a third part joins during the opening; the fee stays, the surplus is the client's."""
    async with Stage(mode, options=GENEROUS) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        opening = stage.lsp.faults.late("fundchannel_complete")
        first = payer.pay(invoice, [5_000_000, 5_000_000], total_msat=12_000_000)
        await opening.reached.wait()
        second = payer.pay(invoice, [2_000_000], total_msat=12_000_000)
        await stage.held(3)
        opening.release()
        assert (await first).paid
        assert (await second).paid
        await stage.over(invoice)
        assert (invoice.paid_msat, invoice.fee_taken_msat) == (11_000_000, FEE_MSAT)
