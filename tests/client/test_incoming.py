"""HTLCs of approved payments in the plugin: held, claimed, refused; over restarts, with trust and without."""

from __future__ import annotations

import json

import pytest
from harness.client import (
    CHANNEL,
    FEE,
    JIT_SCID,
    LSP,
    NOW_MS,
    STRANGER,
    Json,
    Stage,
    Staging,
    channel_row,
    claimed,
    details,
    ready,
    tlv,
)

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.funding_status import FundingStatus
from lsps2fast_plugin.client.records import Distrust


async def test_a_set_is_held_until_it_is_complete_and_then_claimed_whole(staged: Staging) -> None:
    """I-24, I-27, I-28: amounts as they arrived, the sum in each, the invoice lowered to it."""
    async with staged() as stage:
        invoice = await ready(stage)
        first = stage.part(invoice, 12_000_000, 600_000)
        await stage.calm()
        assert stage.answer(first) is None
        second = stage.part(invoice, 8_000_000, 400_000)
        await stage.calm()
        assert claimed(stage.answer(first)) == (11_400_000, 19_000_000, 19_000_000)
        assert claimed(stage.answer(second)) == (7_600_000, 19_000_000, 19_000_000)


async def test_a_variable_payment_is_claimed_without_touching_the_invoice(staged: Staging) -> None:
    """I-25, I-28: invoice_msat only where the invoice has an amount (cln:C2)."""
    async with staged() as stage:
        invoice = await ready(stage, "any")
        part = stage.part(invoice, 5_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part)) == (4_000_000, 4_000_000, None)


async def test_an_lsp_may_take_less_than_it_may(staged: Staging) -> None:
    """I-23, I-24."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, 5)
        await stage.calm()
        assert claimed(stage.answer(part)) == (19_999_995, 19_999_995, 19_999_995)


async def test_an_overpaid_set_is_claimed_whole(staged: Staging) -> None:
    """I-28: lightningd then sees exactly the sum it was told."""
    async with staged() as stage:
        invoice = await ready(stage)
        parts = [stage.part(invoice, 15_000_000, FEE, total_msat=30_000_000)]
        parts.append(stage.part(invoice, 15_000_000, total_msat=30_000_000))
        await stage.calm()
        assert [claimed(stage.answer(part)) for part in parts] == [
            (14_000_000, 29_000_000, 29_000_000),
            (15_000_000, 29_000_000, 29_000_000),
        ]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"peer_id": STRANGER}, "did not come from the LSP"),
        ({"secret": "00" * 32}, "secret is not the invoice's"),
        ({"htlc_msat": 18_999_999}, "not what the payer sent"),
        ({"htlc_msat": 20_000_000}, "not what the payer sent"),
        ({"extra_tlvs": None}, "not what the payer sent"),
        ({"total_msat": 19_999_999}, "less than the invoice"),
        ({"total_msat": 40_000_001}, "more than twice"),
    ],
    ids=str,
)
async def test_a_part_that_breaks_the_agreement_is_failed_and_reported(staged: Staging, fields: Json, why: str) -> None:
    """I-20, I-21, I-26, trap:37: 400f with amount and height; never claimed."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, FEE, **fields)
        await stage.calm()
        assert stage.answer(part) == details(fields.get("htlc_msat", 19_000_000), stage)
        assert why in stage.reports()
        assert "nothing of it was claimed" in stage.reports()


async def test_one_msat_too_much_ends_the_payment(staged: Staging) -> None:
    """I-23, trap:37: spread over the parts; what is held goes back at once."""
    async with staged() as stage:
        invoice = await ready(stage)
        parts = [stage.part(invoice, 10_000_000, 500_000), stage.part(invoice, 10_000_000, 500_001)]
        await stage.calm()
        assert [stage.answer(part) for part in parts] == [details(9_500_000, stage), details(9_499_999, stage)]
        assert "exceed the agreed opening fee" in stage.reports()


async def test_nearly_everything_of_a_variable_payment_is_not_taken(staged: Staging) -> None:
    """I-25: the LSP forwards 1 msat of 10 000 000."""
    async with staged() as stage:
        invoice = await ready(stage, "any")
        part = stage.part(invoice, 10_000_000, 9_999_999)
        await stage.calm()
        assert stage.answer(part) == details(1, stage)


@pytest.mark.parametrize(
    "fields",
    [
        {"payload_hex": ""},
        {"payload_hex": "zz"},
        {"payload_hex": "0402010a"},
        {"payload_hex": "ff"},
        {"extra_tlvs": "fe000100010400002710"},
        {"extra_tlvs": "02"},
        {"extra_tlvs": "not hex"},
        {"payload_hex": "03020101"},
    ],
    ids=str,
)
async def test_malformed_bytes_are_an_ordinary_failure(staged: Staging, fields: Json) -> None:
    """I-31, I-21: wrong lengths, cut short, no payment data."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, FEE, **fields)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)


async def test_what_is_not_ours_is_let_go(staged: Staging) -> None:
    """I-20: forwards, and payments without an approval."""
    async with staged() as stage:
        invoice = await ready(stage)
        onward = stage.part(invoice, 1_000, next_scid=5, peer_id=STRANGER)
        known = stage.part(invoice, 1_000, forward_to=CHANNEL, peer_id=STRANGER)
        foreign = stage.part(invoice, 1_000, payment_hash=b"\x01" * 32, in_scid=5, peer_id=STRANGER)
        await stage.calm()
        assert [stage.answer(part) for part in (onward, known, foreign)] == [{"result": "continue"}] * 3


async def test_a_set_that_stays_incomplete_times_out(staged: Staging) -> None:
    """I-27, C-27: 90 s from the first part, mpp_timeout; the approval stays for the next try."""
    async with staged() as stage:
        invoice = await ready(stage)
        first = stage.part(invoice, 10_000_000, FEE)
        await stage.calm()
        await stage.pass_time(60)
        second = stage.part(invoice, 5_000_000)
        await stage.calm()
        await stage.pass_time(29.9)
        assert stage.answer(first) is None
        await stage.pass_time(0.2)
        assert [stage.answer(part) for part in (first, second)] == [{"result": "fail", "failure": "0017"}] * 2
        again = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(again)) == (19_000_000, 19_000_000, 19_000_000)


async def test_who_holds_the_invoice_occupies_its_set_for_the_hold_time_and_no_longer(staged: Staging) -> None:
    """K-27, I-27, rule:24: one part with another total; a payer who comes meanwhile fails alone, the next one pays."""
    async with staged() as stage:
        invoice = await ready(stage)
        occupied = stage.part(invoice, 1, total_msat=40_000_000)
        await stage.calm()
        refused = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert (stage.answer(occupied), stage.answer(refused)) == (None, details(19_000_000, stage))
        await stage.pass_time(89)
        assert stage.answer(occupied) is None
        await stage.pass_time(1)
        assert stage.answer(occupied) == {"result": "fail", "failure": "0017"}
        paying = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(paying)) == (19_000_000, 19_000_000, 19_000_000)


async def test_a_set_that_would_expire_is_failed_in_time(staged: Staging) -> None:
    """K-06, trap:28: before lightningd would refuse it (cltv-final 10)."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 10_000_000, FEE, cltv_expiry=stage.height + 12)
        await stage.block(2)
        assert stage.answer(part) is None
        await stage.block()
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}


async def test_a_block_between_invoice_and_payment_does_no_harm(staged: Staging) -> None:
    """I-04, trap:38."""
    async with staged() as stage:
        invoice = await ready(stage)
        expiry = stage.height + 12
        await stage.block(2)
        part = stage.part(invoice, 20_000_000, FEE, cltv_expiry=expiry)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_old_blocks_after_a_restart_are_not_believed(staged: Staging) -> None:
    """cln:R2: the height never falls."""
    async with staged() as stage:
        invoice = await ready(stage)
        await stage.block(5)
        stage.client.hear("block_added", block_added={"hash": "00", "height": 700})
        part = stage.part(invoice, 20_000_000, FEE, htlc_msat=1)
        await stage.calm()
        assert stage.answer(part) == details(1, stage)


async def test_two_payments_at_one_lsp_are_kept_apart(staged: Staging) -> None:
    """I-10, trap:36: fees and sums by payment hash."""
    async with staged() as stage:
        one = await ready(stage)
        two = await stage.invoice(30_000_000, client_trusts_lsp=True)
        await stage.channel(channel_id="ef" * 32, alias={"local": "7x7x7"}, funding_txid="12" * 32)
        over = {"in_scid": tlv.scid_from_str("7x7x7")}
        parts = [
            stage.part(one, 10_000_000, FEE),
            stage.part(two, 30_000_000, FEE, **over),
            stage.part(one, 10_000_000),
        ]
        await stage.calm()
        assert [claimed(stage.answer(part))[1] for part in parts] == [19_000_000, 29_000_000, 19_000_000]


# --- The invoice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "paid"}, "invoice is paid"),
        ({"amount_msat": 20_000_001}, "asks for 20000001 msat"),
    ],
    ids=str,
)
async def test_an_invoice_that_is_not_the_one_agreed_to_is_not_settled(staged: Staging, change: Json, why: str) -> None:
    """I-08: we tell lightningd what to expect, so it would not notice."""
    async with staged() as stage:
        invoice = await ready(stage)
        next(iter(stage.node.invoices.values())).update(change)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert why in stage.reports()


async def test_an_invoice_that_was_deleted_is_not_settled(staged: Staging) -> None:
    """lightningd would refuse it; we say so."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.node.invoices.clear()
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)


# --- Time and order ---------------------------------------------------------------------------------------------------


def watch_writes(stage: Stage, *parts: object) -> list[tuple[list[bool], Json]]:
    """Return what is written of approvals from now on: which parts were answered by then, and the record."""
    seen: list[tuple[list[bool], Json]] = []
    good = stage.node.do_datastore

    def watched(params: Json) -> Json:
        record = json.loads(bytes.fromhex(params["hex"]))
        if "fees" in record:
            seen.append(([stage.answer(part) is not None for part in parts], record))
        return good(params)

    stage.node.do_datastore = watched  # type: ignore[method-assign]
    return seen


async def test_a_fee_is_stored_before_its_part_is_claimed_and_the_release_with_it(staged: Staging) -> None:
    """I-32: lightningd forgets the TLV; the release is stored before it is answered (K-23)."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, FEE)
        seen = watch_writes(stage, part)
        await stage.calm()
        ((answered, record),) = seen
        assert answered == [False]
        assert record["fees"] == [[CHANNEL, 2, "1000000"]]
        assert record["released"]["total_msat"] == "19000000"
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_a_fee_is_stored_at_once_where_its_part_must_wait(staged: Staging) -> None:
    """I-30, I-32: for the rest of its payment, or for its funding."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()  # and no funding yet
        seen = watch_writes(stage)
        stage.part(invoice, 10_000_000, 400_000)
        await stage.calm()
        assert [record["fees"] for _, record in seen] == [[[CHANNEL, 2, "400000"]]]
        stage.part(invoice, 10_000_000, 600_000)
        await stage.calm()
        assert [len(record["fees"]) for _, record in seen] == [1, 2]
        assert seen[1][1]["released"] is None
        assert stage.client.incoming.held_parts() == 2


async def test_only_what_is_stored_is_shown_as_held(staged: Staging) -> None:
    """I-32: what the status counts is known again after a death, whether its part waits for others or its funding."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()  # and no funding yet
        shown: list[int] = []
        write = stage.node.do_datastore

        def counted(params: Json) -> Json:
            if "fees" in json.loads(bytes.fromhex(params["hex"])):
                shown.append(stage.client.incoming.held_parts())
            return write(params)

        stage.node.do_datastore = counted  # type: ignore[method-assign]
        for fee_msat in (400_000, 600_000):
            stage.part(invoice, 10_000_000, fee_msat)
            await stage.calm()
        assert shown == [0, 1]
        assert stage.client.incoming.held_parts() == 2


async def test_parts_that_come_together_are_stored_together(staged: Staging) -> None:
    """I-32, P24: those that come while one is being written share the next write."""
    async with staged() as stage:
        invoice = await ready(stage)
        seen = watch_writes(stage)
        parts = [stage.part(invoice, 4_000_000, 200_000) for _ in range(5)]
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in parts] == [3_800_000] * 5
        assert len(seen) <= 3
        assert seen[-1][1]["released"]["total_msat"] == "19000000"


async def test_held_parts_survive_a_restart_without_their_tlvs(staged: Staging) -> None:
    """I-32, K-07: replayed without extra_tlvs; the payment is still accepted, to the msat."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 10_000_000, 700_000, htlc_id=0)
        await stage.calm()
        await stage.restart()
        again = stage.part(invoice, 10_000_000, 700_000, htlc_id=0, extra_tlvs=None)
        await stage.calm()
        assert stage.answer(again) is None
        rest = stage.part(invoice, 10_000_000, 300_000, htlc_id=1)
        await stage.calm()
        assert claimed(stage.answer(again)) == (9_300_000, 19_000_000, 19_000_000)
        assert claimed(stage.answer(rest)) == (9_700_000, 19_000_000, 19_000_000)


async def test_a_stop_of_the_node_forgets_nothing(staged: Staging) -> None:
    """cln:W12, I-32: our last answers are ignored, and the same parts come again without their TLVs."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 10_000_000, FEE, htlc_id=0)
        await stage.calm()
        await stage.client._shutdown()
        await stage.calm()
        await stage.restart()
        again = stage.part(invoice, 10_000_000, FEE, htlc_id=0, extra_tlvs=None)
        rest = stage.part(invoice, 10_000_000, htlc_id=1)
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in (again, rest)] == [9_000_000, 10_000_000]


async def test_a_channel_that_got_its_real_scid_keeps_its_fees(staged: Staging) -> None:
    """I-32 with cln:H3: the replay carries the new name."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 10_000_000, FEE, htlc_id=0)
        await stage.calm()
        stage.confirm(height=801)
        await stage.restart()
        scid = tlv.scid_from_str("801x1x1")
        again = stage.part(invoice, 10_000_000, FEE, htlc_id=0, extra_tlvs=None, in_scid=scid)
        rest = stage.part(invoice, 10_000_000, htlc_id=1, in_scid=scid)
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in (again, rest)] == [9_000_000, 10_000_000]


async def test_released_parts_get_the_same_answer_again(staged: Staging) -> None:
    """K-07: lightningd restarts before it has settled; the set need not be complete again."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 10_000_000, FEE, htlc_id=0)
        stage.part(invoice, 10_000_000, htlc_id=1)
        await stage.calm()
        await stage.restart()
        again = stage.part(invoice, 10_000_000, FEE, htlc_id=0, extra_tlvs=None)
        await stage.calm()
        assert claimed(stage.answer(again)) == (9_000_000, 19_000_000, 19_000_000)


async def test_a_payment_that_lightningd_did_not_settle_can_be_made_again(staged: Staging) -> None:
    """I-16: new HTLCs, a new set, the fee once."""
    async with staged() as stage:
        invoice = await ready(stage)
        for _ in range(3):
            part = stage.part(invoice, 20_000_000, FEE)
            await stage.calm()
            assert claimed(stage.answer(part)) == (19_000_000, 19_000_000, 19_000_000)


async def test_fees_of_failed_parts_are_forgotten(staged: Staging) -> None:
    """rule:14: nothing grows; and a replay of a failed part fails again."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 10_000_000, FEE, htlc_id=0)
        await stage.calm()
        await stage.pass_time(91)
        record = json.loads(stage.node.datastore["lsps", "invoice", invoice["payment_hash"]])
        assert record["fees"] == []
        again = stage.part(invoice, 10_000_000, FEE, htlc_id=0, extra_tlvs=None)
        await stage.calm()
        assert stage.answer(again) == details(9_000_000, stage)


async def test_a_second_fee_after_the_payment_is_refused(staged: Staging) -> None:
    """I-22: no fee is expected any more; a part without one is lightningd's business."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        await stage.paid(invoice)
        with_fee, without = stage.part(invoice, 1_000_000, 1), stage.part(invoice, 1_000_000)
        await stage.calm()
        assert stage.answer(with_fee) == details(999_999, stage)
        assert stage.answer(without) == {"result": "continue"}


@pytest.mark.parametrize("guard", [False, True])
async def test_a_fee_for_a_payment_without_an_approval_is_refused(staged: Staging, guard: bool) -> None:
    """I-22, I-26: never claimed, said why; what carries no fee stays lightningd's business."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.client.awaited.watch({LSP} if guard else set())
        stage.node.channels.append(channel_row(short_channel_id="700x1x1"))
        other = {"payment_hash": b"\x01" * 32}
        with_fee = stage.part(invoice, 1_000_000, 1, **other)
        broken = stage.part(invoice, 1_000_000, extra_tlvs="fe0001000101ff", **other)
        without, odd = stage.part(invoice, 1_000_000, **other), stage.part(invoice, 5, extra_tlvs="0100", **other)
        forward = stage.part(invoice, 1_000_000, 1, next_scid=5, **other)
        await stage.calm()
        assert stage.answer(with_fee) == details(999_999, stage)
        assert stage.answer(broken) == details(1_000_000, stage)
        assert stage.answer(without) == stage.answer(odd) == stage.answer(forward) == {"result": "continue"}
        assert stage.reports().count("refused a part") == 2
        assert "no channel is being bought with this payment" in stage.host.said("warn")


async def test_what_comes_on_top_of_a_paid_invoice_goes_back(staged: Staging) -> None:
    """I-22: a late part that was held when the invoice became paid."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        late = stage.part(invoice, 5_000_000)
        await stage.calm()
        assert stage.answer(late) is None
        await stage.paid(invoice)
        assert stage.answer(late) == details(5_000_000, stage)


# --- Trust ------------------------------------------------------------------------------------------------------------


async def test_in_client_trusts_lsp_mode_nothing_is_waited_for(staged: Staging) -> None:
    """I-29: a chain that cannot be asked holds up nothing."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.node.faults["getutxout"] = [NodeError("getutxout", -1, "bitcoind is away")] * 50
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part)) == (19_000_000, 19_000_000, 19_000_000)


async def waiting(stage: Stage) -> tuple[Json, bytes]:
    """A complete payment in LSP-trusts-client mode, from an LSP that is not trusted."""
    invoice = await stage.invoice()
    await stage.channel()
    part = stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    return invoice, part


async def test_the_preimage_waits_for_the_funding_to_confirm(staged: Staging) -> None:
    """I-30: in the mempool is not enough; confirmed with the real scid is."""
    async with staged() as stage:
        _, part = await waiting(stage)
        stage.fund()
        await stage.pass_time(100)
        assert stage.answer(part) is None
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_as_many_confirmations_as_the_owner_chose(staged: Staging) -> None:
    """I-30, I-04: N = 3."""
    async with staged(funding_depth=3) as stage:
        _, part = await waiting(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block(2)
        assert stage.answer(part) is None
        await stage.block()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_seen_in_the_mempool_is_enough_for_who_trusts_a_little(staged: Staging) -> None:
    """I-30: N = 0."""
    async with staged(funding_depth=0) as stage:
        _, part = await waiting(stage)
        assert stage.answer(part) is None
        stage.fund()
        await stage.state(CHANNEL, "CHANNELD_NORMAL")
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_an_lsp_that_is_trusted_by_name_need_not_confirm(staged: Staging) -> None:
    """I-15, I-30."""
    async with staged(trusted=frozenset({LSP})) as stage:
        _, part = await waiting(stage)
        assert claimed(stage.answer(part))[0] == 19_000_000


@pytest.mark.parametrize(("sat", "script"), [(199_999, "0020" + "5a" * 32), (200_000, "0014" + "5a" * 20)])
async def test_a_wrong_funding_output_ends_the_payment(staged: Staging, sat: int, script: str) -> None:
    """I-30, trap:46: amount or script."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund(sat, script)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert "not the output that was agreed" in stage.reports()


async def test_an_lsp_that_never_broadcasts_gets_no_preimage(staged: Staging) -> None:
    """I-30, wallet:W4: the wait ends before the HTLCs expire; the payer may try again, the invoice stays payable."""
    async with staged() as stage:
        invoice, part = await waiting(stage)
        await stage.block(3)
        assert stage.answer(part) is None
        await stage.block()
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}
        assert stage.reports().endswith(
            "its 1 parts of 19000000 msat go back to the payer: the funding transaction is not seen, and its HTLCs"
            " would soon expire; nothing of it was claimed"
        )
        assert invoice["payment_hash"] in stage.keys


async def test_an_error_of_the_node_is_no_answer_of_the_chain(staged: Staging) -> None:
    """K-13, rule:10: asked again."""
    async with staged() as stage:
        stage.node.faults["getutxout"] = [NodeError("getutxout", -1, "bitcoind is away")]
        _, part = await waiting(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_parts_over_an_old_channel_of_the_lsp_are_as_good(staged: Staging) -> None:
    """O-22, A-03: the LSP chooses the channel; that one is confirmed."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm(height=700)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_parts_that_join_while_the_funding_is_awaited_are_claimed_too(staged: Staging) -> None:
    """I-24: an overpaying payer's late part."""
    async with staged() as stage:
        invoice, part = await waiting(stage)
        late = stage.part(invoice, 1_000)
        await stage.calm()
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert [claimed(stage.answer(each))[1] for each in (part, late)] == [19_001_000, 19_001_000]


async def test_parts_that_come_over_another_channel_while_the_funding_is_looked_at_are_looked_at_too(
    staged: Staging,
) -> None:
    """I-30: a good funding is no reason to release over a channel without one, however the LSP times it."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm(height=stage.height)
        stage.node.channels.append(channel_row(channel_id="ef" * 32, alias={"local": "7x7x7"}, funding_txid="12" * 32))
        late: list[bytes] = []
        good = stage.client.watch.lacking

        async def swap(channel_id: str) -> FundingStatus | None:
            stage.client.watch.lacking = good  # type: ignore[method-assign]
            lacking = await good(channel_id)
            stage.client.incoming.channel_closes(CHANNEL)
            late.append(stage.part(invoice, 20_000_000, None, in_scid=tlv.scid_from_str("7x7x7")))
            await stage.calm()
            return lacking

        stage.client.watch.lacking = swap  # type: ignore[method-assign]
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(late[0]) == {"result": "fail", "failure": "2002"}


async def test_a_channel_that_closes_gives_its_parts_back(staged: Staging) -> None:
    """cln:A4: an LSP that gives up with parts on the way; the payer may try again."""
    async with staged() as stage:
        _, part = await waiting(stage)
        await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}


async def test_an_lsp_that_broke_its_word_since_is_not_trusted_with_an_old_purchase(staged: Staging) -> None:
    """trap:46, I-29: consent was given before; the preimage is not."""
    async with staged() as stage:
        invoice = await ready(stage)
        await stage.client.book.distrust(Distrust(LSP, "withheld", NOW_MS))
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert "broke its word before: withheld" in stage.reports()


async def test_trust_taken_back_at_the_approval_counts(staged: Staging) -> None:
    """I-15, B-16: lsps-lsps2-approve with client_trusts_lsp false."""
    async with staged() as stage:
        stage.lsp.trust = True
        await stage.client.methods.buy(LSP, "20000000", stage.lsp.entries[0], True)
        made = await stage.invoice(client_trusts_lsp=True)
        await stage.client.book.drop(next(iter(stage.client.book.approvals.values())))
        await stage.client.methods.approve(LSP, JIT_SCID, made["payment_hash"], False)
        await stage.channel()
        part = stage.part(made, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert "did not allow" in stage.reports()
