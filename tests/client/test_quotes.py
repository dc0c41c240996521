"""Ranges, quotes, time-outs and error codes: what a caller can rely on (trap:56, trap:59)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from harness.client import FEE, LSP, OTHER_LSP, Json, Lsp, Stage, Staging, claimed, details, entry, failure_of

from lsps2fast.errors import ConfigError, Lsps2Error, NodeError, PeerError, StoreError
from lsps2fast.lsps.lsps2 import FeeParams, Unacceptable
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.client.purchase import Limits, smallest_payment_msat
from lsps2fast_plugin.client.rpc_errors import CODES, answer
from lsps2fast_plugin.cln import lenient_json


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


async def test_w11_of_two_at_one_price_the_longer_lifetime_is_first(staged: Staging) -> None:
    """wallet:W11: lifetime and trust stand beside the price."""
    async with staged() as stage:
        other(stage, min_lifetime=4032)
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
