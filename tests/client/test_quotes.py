"""Ranges, quotes, time-outs and error codes: what a caller can rely on (trap:56, trap:59)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from harness.client import (
    CHANNEL,
    FEE,
    LSP,
    NOW_MS,
    OTHER_LSP,
    Json,
    Lsp,
    Stage,
    Staging,
    claimed,
    details,
    entry,
    failure_of,
)

from lsps2fast.errors import ConfigError, Lsps2Error, NodeError, PeerError, StoreError
from lsps2fast.lsps.lsps2 import FeeParams, Unacceptable
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.client.options import NUMBERS
from lsps2fast_plugin.client.purchase import Limits, Wish, amount_of_most, choose, smallest_payment_msat
from lsps2fast_plugin.client.rpc_errors import CODES, answer
from lsps2fast_plugin.cln import lenient_json
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE


def other(stage: Stage, **fields: Any) -> Lsp:
    """Another LSP that is connected."""
    stage.lsps[OTHER_LSP] = Lsp(OTHER_LSP, **fields)
    stage.node.peers[OTHER_LSP] = {"netaddr": ["127.0.0.1:9736"], "features": ""}
    return stage.lsps[OTHER_LSP]


@pytest.mark.parametrize(
    ("fields", "limits", "largest", "smallest"),
    [
        ({}, Limits(10**9, 500_000), 4 * 10**9, 2_000_000),
        ({"min_payment_size_msat": "3000000"}, Limits(10**9, 500_000), 4 * 10**9, 3_000_000),
        ({"min_fee_msat": "1"}, Limits(10**9, 500_000), 4 * 10**9, 1_500_000),
        ({}, Limits(10**9, 100_000), 4 * 10**9, 10_000_000),
        ({"proportional": 99_999, "min_fee_msat": "0"}, Limits(10**9, 100_000), 4 * 10**9, 1_500_000),
    ],
    ids=str,
)
def test_w12_the_range_is_exact_at_both_ends(fields: Json, limits: Limits, largest: int, smallest: int) -> None:
    """wallet:W12: at the smallest payment the fee is allowed, one msat below it or the menu's least is not."""
    params = FeeParams.from_json(entry(**fields))
    got = smallest_payment_msat(params, largest, limits)
    assert got == smallest
    for payment_msat in (got, got + 1, got + 999, largest):
        assert (params.fee_msat(payment_msat) or 0) <= limits.at(payment_msat)
    below = got - 1
    assert below < params.min_payment_size_msat or (params.fee_msat(below) or 0) > limits.at(below)


@pytest.mark.parametrize(("payment_msat", "taken"), [(1_999_999, False), (2_000_000, True), (10_000_000, True)])
async def test_w12_what_is_told_is_what_is_taken(staged: Staging, payment_msat: int, taken: bool) -> None:
    """wallet:W12, trap:56: the owner reads the range and the rule of the fee, and both ends hold."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice("any", client_trusts_lsp=True)
        assert (invoice["smallest_payment_msat"], invoice["min_fee_msat"], invoice["proportional"]) == (
            2_000_000,
            1_000_000,
            10_000,
        )
        await stage.channel()
        part = stage.part(invoice, payment_msat, FEE)
        await stage.calm()
        if taken:
            assert claimed(stage.answer(part))[0] == payment_msat - FEE
        else:
            assert stage.answer(part) == details(payment_msat - FEE, stage)


def test_w12_our_own_two_plugins_agree_by_default() -> None:
    """wallet:W12, trap:56: a default wallet takes every payment that a default LSP opens a channel for."""
    limits = Limits(NUMBERS["lsps2-max-fee-msat"][0], NUMBERS["lsps2-max-fee-ppm"][0])
    sold = DEFAULT_LINE
    entries = [FeeParams.from_json(entry(
        min_fee_msat=str(sold.min_fee_msat),
        proportional=sold.proportional,
        min_payment_size_msat=str(sold.min_payment_size_msat),
        max_payment_size_msat=str(sold.max_payment_size_msat),
    ))]  # fmt: skip
    choice = choose(entries, Wish(None, None, limits, False, 0), NOW_MS, 144)
    assert choice.largest_payment_msat == sold.max_payment_size_msat
    assert smallest_payment_msat(choice.entry, choice.largest_payment_msat, limits) == sold.min_payment_size_msat


@pytest.mark.parametrize(
    ("ends", "more", "told"),
    [
        (("2000000", "4000000000"), {}, None),
        (("1500000", "4000000000"), {}, "payments of 2000000 to 4000000000 msat, the LSP sells channels for 1500000 "),
        (("2000000", "4000000000"), {"max_payment_msat": 50_000_000}, "payments of 2000000 to 50000000 msat"),
        (("2000000", "20000000000"), {}, "payments of 2000000 to 10000000000 msat"),
    ],
    ids=str,
)
async def test_w12_what_the_lsp_sells_and_we_do_not_take_is_said(
    staged: Staging, ends: tuple[str, str], more: Json, told: str | None
) -> None:
    """wallet:W12, trap:56: LSPS2 has no word for a range, so the owner is told, each time he gets the invoice."""
    async with staged() as stage:
        stage.lsp.entries = [entry(min_payment_size_msat=ends[0], max_payment_size_msat=ends[1])]
        for _ in range(2):  # the same call again
            made = await stage.invoice("any", label="x", **more)
            assert (told in made["warning_range"]) if told else ("warning_range" not in made)
        record = await stage.client.purchase_methods.purchase(label="x")
        assert (record["smallest_payment_msat"], record["largest_payment_msat"]) == (
            made["smallest_payment_msat"],
            made["largest_payment_msat"],
        )
        fixed = await stage.invoice(20_000_000)
        assert "warning_range" not in fixed
        assert (fixed["smallest_payment_msat"], fixed["largest_payment_msat"]) == (20_000_000, 20_000_000)


async def test_w12_a_payment_outside_the_range_costs_nothing_and_ends_nothing(staged: Staging) -> None:
    """wallet:W12: it goes back with the code for a wrong amount; the purchase, its channel and the LSP's name stay."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice("any", client_trusts_lsp=True, max_payment_msat=50_000_000)
        await stage.channel()
        for payment_msat in (1_999_999, 50_000_001):
            part = stage.part(invoice, payment_msat, FEE)
            await stage.calm()
            assert stage.answer(part) == details(payment_msat - FEE, stage)
        assert not stage.client.book.distrusted
        (approval,) = stage.client.book.approvals.values()
        assert (approval.fees_msat, approval.channel_id, approval.served) == ({}, CHANNEL, False)
        part = stage.part(invoice, 50_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 49_000_000


async def test_w12_no_channel_is_let_in_that_only_holds_what_we_would_refuse(staged: Staging) -> None:
    """wallet:W12: sized for a payment below the smallest."""
    async with staged() as stage:
        await stage.invoice("any")
        small = await stage.opening(funding_msat=1_400_000, channel_reserve_msat=0)
        assert small["result"] == "reject"
        assert "too small to receive 1000000 msat" in small["error_message"]
        assert (await stage.opening(funding_msat=1_600_000, channel_reserve_msat=0))["mindepth"] == 0


async def test_w17_the_fee_that_was_quoted_or_nothing(staged: Staging) -> None:
    """wallet:W17: between the quote and the call the LSP raised its price tenfold; the ceiling would allow it."""
    async with staged() as stage:
        (offer,) = (await stage.client.methods.compare(20_000_000, [LSP]))["offers"]
        stage.lsp.entries = [entry(min_fee_msat="10000000")]
        error = await failure_of(stage.invoice(opening_fee_msat=offer["opening_fee_msat"]))
        assert "the fee is 10000000 msat now, 1000000 were quoted" in str(error)
        assert "lsps2.buy" not in [each["method"] for each in stage.lsp.asked]
        made = await stage.invoice(opening_fee_params=offer["opening_fee_params"])
        assert made["opening_fee_msat"] == FEE
        assert stage.lsp.asked[-1]["params"]["opening_fee_params"] == offer["opening_fee_params"]
        stage.lsp.errors = {"lsps2.buy": [{"code": 201, "message": "x"}]}
        error = await failure_of(stage.invoice(opening_fee_params=offer["opening_fee_params"]))
        assert "no longer stands by this offer" in str(error)
        stage.lsp.entries = [entry(min_fee_msat="10"), entry()]
        made = await stage.invoice(opening_fee_msat=FEE)
        assert made["opening_fee_msat"] < FEE


async def test_w11_offers_are_compared_at_one_amount(staged: Staging) -> None:
    """wallet:W11: 1 % up to 4,000,000 sat beside 5 % up to 100,000 sat: the cheap one first."""
    async with staged() as stage:
        other(stage, proportional=50_000, max_payment_size_msat="100000000")
        got = await stage.client.methods.compare("any", [LSP, OTHER_LSP])
        assert [offer["lsp_id"] for offer in got["offers"]] == [LSP, OTHER_LSP]
        assert [offer["payment_msat"] for offer in got["offers"]] == [100_000_000] * 2
        assert [offer["opening_fee_msat"] for offer in got["offers"]] == [1_000_000, 5_000_000]
        assert [offer["largest_payment_msat"] for offer in got["offers"]] == [4_000_000_000, 100_000_000]


@pytest.mark.parametrize(
    ("ranges", "payment_msat", "in_it"),
    [
        ([(2, 4_000_000), (200_000, 4_000_000)], 4_000_000, 2),
        ([(2, 100_000), (200_000, 4_000_000)], 100_000, 1),
        ([(2, 100_000), (200_000, 4_000_000), (50_000, 300_000)], 100_000, 2),
        ([(2, 100_000), (200_000, 4_000_000), (250_000, 300_000)], 300_000, 2),
        ([], 0, 0),
    ],
    ids=str,
)
def test_w11_the_one_amount_lies_in_as_many_offers_as_can_be(
    ranges: list[tuple[int, int]], payment_msat: int, in_it: int
) -> None:
    """wallet:W11."""
    assert amount_of_most(ranges) == payment_msat
    assert sum(least <= payment_msat <= most for least, most in ranges) == in_it


async def test_w11_an_offer_without_that_amount_is_not_compared_at_it(staged: Staging) -> None:
    """wallet:W11: one sells up to 100,000 sat, the other from 200,000 sat on; asked by name each has its place."""
    async with staged() as stage:
        other(stage, proportional=1, min_fee_msat="1", min_payment_size_msat="200000000")
        stage.lsp.entries = [entry(max_payment_size_msat="100000000")]
        got = await stage.client.methods.compare("any", [LSP, OTHER_LSP])
        assert [offer["lsp_id"] for offer in got["offers"]] == [LSP]
        assert (got["offers"][0]["payment_msat"], got["offers"][0]["opening_fee_msat"]) == (100_000_000, 1_000_000)
        (out,) = got["refused"]
        assert out["lsp_id"] == OTHER_LSP
        assert "its offer is for 200000000 to 4000000000 msat, the others are compared at 100000000" in out["why"]
        (offer,) = (await stage.client.methods.compare("any", [OTHER_LSP]))["offers"]
        assert offer["payment_msat"] == 4_000_000_000
        for amount_msat, seller in ((50_000_000, LSP), (300_000_000, OTHER_LSP)):
            got = await stage.client.methods.compare(amount_msat, [LSP, OTHER_LSP])
            assert [each["lsp_id"] for each in got["offers"]] == [seller]
            assert [("is outside" in each["why"]) for each in got["refused"]] == [True]
            assert (got["offers"][0]["smallest_payment_msat"], got["offers"][0]["payment_msat"]) == (amount_msat,) * 2
        none = await stage.client.methods.compare(150_000_000, [LSP, OTHER_LSP])
        assert (none["offers"], len(none["refused"])) == ([], 2)


async def test_w11_the_amount_is_one_that_its_owners_limits_allow(staged: Staging) -> None:
    """wallet:W11, wallet:W12: 1,000 sat of 1,600 are above half; nothing is compared there."""
    async with staged() as stage:
        other(stage, max_payment_size_msat="1600000", min_fee_msat="1")
        got = await stage.client.methods.compare("any", [LSP, OTHER_LSP])
        assert [offer["lsp_id"] for offer in got["offers"]] == [OTHER_LSP]
        assert "its offer is for 2000000 to 4000000000 msat" in got["refused"][0]["why"]


@pytest.mark.parametrize("longer", [LSP, OTHER_LSP])
async def test_w11_of_two_at_one_price_the_longer_lifetime_is_first(staged: Staging, longer: str) -> None:
    """wallet:W11: lifetime and trust stand beside the price, of either LSP."""
    async with staged() as stage:
        other(stage)
        stage.lsps[longer].entries = [entry(min_lifetime=4032)]
        got = await stage.client.methods.compare(20_000_000, [LSP, OTHER_LSP])
        assert [offer["min_lifetime"] for offer in got["offers"]] == [4032, 1008]
        assert [offer["trusted"] for offer in got["offers"]] == [False, False]


async def test_w14_one_silent_lsp_does_not_hold_up_the_others(staged: Staging) -> None:
    """wallet:W14: 15 s, or as long as the caller says; the others' offers are there."""
    async with staged() as stage:
        other(stage).silent = True
        for given, longest in (({}, 15), ({"timeout_s": 3}, 3)):
            task = asyncio.ensure_future(stage.client.methods.compare(20_000_000, [LSP, OTHER_LSP], **given))
            await stage.calm()
            await stage.pass_time(longest - 0.1)
            assert not task.done()
            await stage.pass_time(0.2)
            got = task.result()
            assert [offer["lsp_id"] for offer in got["offers"]] == [LSP]
            assert got["refused"] == [{"lsp_id": OTHER_LSP, "why": f"{OTHER_LSP} did not answer within {longest} s"}]


async def test_w14_an_invoice_is_made_in_time_or_not(staged: Staging) -> None:
    """wallet:W14: however slowly each answer comes; nothing is left behind."""
    async with staged() as stage:
        stage.lsp.silent = True
        task = asyncio.ensure_future(failure_of(stage.invoice(timeout_s=20)))
        await stage.calm()
        await stage.pass_time(20.1)
        assert "did not sell a channel within 20 s" in str(task.result())
        assert not stage.client.book.approvals
        assert len(stage.client.talk) == 0


async def test_w14_dialling_an_address_that_does_not_answer_ends_in_time_too(staged: Staging) -> None:
    """wallet:W14: lightningd's `connect` takes minutes to give up."""
    async with staged() as stage:
        stage.node.peers.clear()
        call = stage.node.call

        async def slow(method: str, params: Json | None = None, timeout_s: float | None = 60.0, **_: Any) -> Json:
            if method == "connect":
                await asyncio.Event().wait()
            return await call(method, params, timeout_s)

        stage.node.call = slow  # type: ignore[method-assign]
        for work in (
            stage.invoice(lsp_id=f"{LSP}@10.0.0.1:9735", timeout_s=5),
            stage.client.methods.compare(20_000_000, [LSP], timeout_s=5),
        ):
            task = asyncio.ensure_future(work)
            await stage.calm()
            await stage.pass_time(4)
            assert not task.done()
            await stage.pass_time(2)
            assert "within 5 s" in str(task.exception() or task.result())


@pytest.mark.parametrize(("scid", "delta"), [("0x0x0", 144), ("29451x4815x1", 0)])
async def test_w15_an_answer_that_no_payer_can_use_is_refused(staged: Staging, scid: str, delta: int) -> None:
    """wallet:W15."""
    async with staged() as stage:
        stage.lsp.scid, stage.lsp.delta = scid, delta
        assert "that no payer can use" in str(await failure_of(stage.invoice()))
        assert not stage.node.invoices


async def test_a_lifetime_can_be_asked_for(staged: Staging) -> None:
    """Wishes as parameters: the cheapest of those that keep the channel long enough, or a sentence."""
    async with staged() as stage:
        stage.lsp.entries = [entry(min_fee_msat="10"), entry(min_lifetime=4032)]
        assert (await stage.invoice(min_lifetime=4032))["opening_fee_msat"] == FEE
        got = await stage.client.methods.compare(20_000_000, [LSP], min_lifetime=5000)
        assert got["refused"][0]["why"] == "no offer keeps the channel for 5000 blocks"


async def test_trap_58_a_preimage_of_the_callers_own(staged: Staging) -> None:
    """trap:58: swaps; bad ones are refused without being repeated (K-28)."""
    async with staged() as stage:
        made = await stage.invoice(preimage="5a" * 32)
        assert made["payment_hash"] == hashlib.sha256(b"\x5a" * 32).hexdigest()
        error = await failure_of(stage.invoice(preimage="5a" * 31))
        assert str(error) == "preimage must be 64 hex digits"


async def test_one_label_twice_at_once_buys_once(staged: Staging) -> None:
    """A double click: each gets the one invoice that is made."""
    async with staged() as stage:
        calls = (stage.invoice(label="same") for _ in range(3))
        made = await asyncio.gather(*calls)
        assert made[0] == made[1] == made[2]
        assert [each["method"] for each in stage.lsp.asked].count("lsps2.buy") == 1
        assert len(stage.client.book.approvals) == 1


async def test_an_lsp_never_met_is_dialled_at_the_address_given(staged: Staging) -> None:
    """id@host:port."""
    async with staged() as stage:
        stage.disconnect(LSP)
        stage.node.reachable = {f"{LSP}@lsp.example:9735"}
        assert (await stage.invoice(lsp_id=f"{LSP}@lsp.example:9735"))["lsp_id"] == LSP
        error = await failure_of(stage.invoice(lsp_id=f"{LSP}@lsp example"))
        assert "give host or host:port" in str(error)


@pytest.mark.parametrize("code", [900, 205, -32601, 2**31, 10**30, 0])
async def test_w10_an_lsps_code_never_becomes_the_commands(staged: Staging, code: int) -> None:
    """wallet:W10, trap:59: 900 would read as a duplicate label; a number that programs cannot hold is left out."""
    async with staged() as stage:
        stage.lsp.errors = {"lsps2.get_info": [{"code": code, "message": "x"}]}
        error = await failure_of(stage.invoice())
        assert isinstance(error, Lsps2Error)
        told = answer(error)
        assert told.code == 3101
        assert told.data is not None
        assert told.data["lsp_code"] == (code if abs(code) < 2**31 else None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), -32602),
        (PeerError(1, "x"), 3101),
        (Unavailable("x"), 3102),
        (Unacceptable("x"), 3103),
        (NodeError("createinvoice", 900, "Duplicate label"), 900),
        (NodeError("connect", 400, "x"), 3104),
        (StoreError("x"), 3105),
        (Lsps2Error("x"), 3106),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else str(each),
)
def test_w10_each_reason_has_a_code_of_its_own(error: Lsps2Error, code: int) -> None:
    """wallet:W10: one table."""
    told = answer(error)
    assert told.code == code
    assert code in {each.number for each in CODES}
    assert len({each.number for each in CODES}) == len(CODES)
    frame = json.loads(lenient_json.refusal("cli:1", told.code, str(told), told.data))
    assert frame["error"].keys() <= {"code", "message", "data"}
