"""What goes wrong while a payment comes in: the node, the store, our own bugs, and every order of everything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.client import CHANNEL, FEE, STORY_LIMIT_S, Json, Stage, Staging, channel_row, claimed, entry, ready, tlv
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast.errors import NodeError


async def test_one_failed_write_is_tried_again(staged: Staging) -> None:
    """trap:32, rule:11."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "busy")]
        part = stage.part(invoice, 20_000_000, FEE)
        while stage.answer(part) is None:
            await stage.pass_time(0.5)  # between two tries
        assert claimed(stage.answer(part))[0] == 19_000_000


@pytest.mark.parametrize("good_writes", [0, 1])
async def test_what_cannot_be_stored_is_not_claimed(staged: Staging, good_writes: int) -> None:
    """K-23, rule:11: a temporary failure; nothing is held without its record."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "disk full")] * 20
        good = stage.node.call
        left = [good_writes]

        async def call(method: str, params: Json | None = None, timeout_s: float | None = 60.0, **_: Any) -> Json:
            if method == "datastore" and left[0] > 0:
                left[0] -= 1
                return stage.node.do_datastore(params or {})
            return await good(method, params, timeout_s)

        stage.node.call = call  # type: ignore[method-assign]
        parts = [stage.part(invoice, 10_000_000, FEE)]
        await stage.calm()
        parts.append(stage.part(invoice, 10_000_000))
        while any(stage.answer(part) is None for part in parts):
            await stage.pass_time(0.5)  # between two tries, and until the rest does not come
        assert stage.answer(parts[0]) == {"result": "fail", "failure": "2002"}
        assert all((stage.answer(part) or {})["result"] == "fail" for part in parts)
        assert stage.client.incoming.held_parts() == 0


@pytest.mark.parametrize("method", ["listinvoices", "listpeerchannels"])
async def test_a_node_that_does_not_answer_costs_a_temporary_failure(staged: Staging, method: str) -> None:
    """I-31: one answer, not an error to lightningd."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.client.chain._names.clear()
        stage.node.faults[method] = [NodeError(method, -1, "x")] * 3
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}


async def test_a_bug_of_ours_costs_a_temporary_failure(staged: Staging) -> None:
    """K-20: whatever is raised."""
    async with staged() as stage:
        invoice = await ready(stage)

        def bug(scan: Any) -> Any:
            raise ZeroDivisionError

        stage.client.incoming._key = bug  # type: ignore[method-assign]
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert "ZeroDivisionError" in stage.host.said("error")


async def test_a_bug_while_claiming_gives_the_parts_back(staged: Staging) -> None:
    """K-20, C-17 for the wallet: no held call is forgotten."""
    async with staged() as stage:
        invoice = await ready(stage)

        async def bug(payment_hash: bytes) -> Any:
            raise ZeroDivisionError

        stage.client.invoices.by_hash = bug  # type: ignore[method-assign, assignment]
        parts = [stage.part(invoice, 10_000_000, FEE), stage.part(invoice, 10_000_000)]
        await stage.calm()
        assert [stage.answer(part) for part in parts] == [{"result": "fail", "failure": "2002"}] * 2
        assert stage.client.incoming.held_parts() == 0


async def test_a_bug_after_a_part_was_held_takes_it_out_again(staged: Staging) -> None:
    """K-20: what was failed no longer counts as received."""
    async with staged() as stage:
        invoice = await ready(stage)

        def bug() -> None:
            raise ZeroDivisionError

        stage.client.incoming._changed = bug
        part = stage.part(invoice, 10_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert stage.client.incoming.held_parts() == 0


async def test_a_part_that_fails_while_the_release_is_stored_stops_the_release(staged: Staging) -> None:
    """I-24: one of two channels closes in that moment; the other part is not claimed alone."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.node.channels.append(channel_row(channel_id="ef" * 32, alias={"local": "7x7x7"}))
        good = stage.node.do_datastore

        def closing(params: Json) -> Json:
            if b'"released":{' in bytes.fromhex(params["hex"]):
                stage.client.incoming.channel_closes("ef" * 32)
            return good(params)

        stage.node.do_datastore = closing  # type: ignore[method-assign]
        stays = stage.part(invoice, 10_000_000, FEE)
        goes = stage.part(invoice, 10_000_000, in_scid=tlv.scid_from_str("7x7x7"))
        await stage.calm()
        assert stage.answer(goes) == {"result": "fail", "failure": "2002"}
        assert stage.answer(stays) is None
        await stage.pass_time(91)
        assert stage.answer(stays) == {"result": "fail", "failure": "0017"}


async def test_going_away_gives_everything_back(staged: Staging) -> None:
    """rule:17, cln:W12: temporary, so that the payer may try again."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 10_000_000, FEE)
        await stage.calm()
        await stage.client._shutdown()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}


steps = st.one_of(
    st.tuples(
        st.just("part"),
        st.integers(0, 3),
        st.integers(0, 12_000_000),
        st.sampled_from([None, 0, 1, 500_000, 1_000_000, 1_000_001, 2**64 - 1]),
        st.sampled_from([0, 0, 0, 1, -1]),
    ),
    st.tuples(st.just("raw"), st.integers(0, 3), st.binary(max_size=50), st.none() | st.binary(max_size=20)),
    st.tuples(st.sampled_from(["time", "block", "restart", "paid", "close"])),
)


@settings(max_examples=40)
@given(st.lists(steps, max_size=12), st.booleans())
def test_whatever_comes_every_call_gets_one_answer_and_no_claim_is_short(story: list[Any], trust: bool) -> None:
    """K-20, K-21, I-31, trap:37: fuzzed hooks in any order with restarts; FakeHost refuses second and invalid
    answers.
    """
    asyncio.run(asyncio.wait_for(_play(story, trust), STORY_LIMIT_S))


async def _play(story: list[Any], trust: bool) -> None:
    stage = Stage()
    await stage.start()
    stage.lsp.trust = trust
    stage.lsp.entries = [entry(min_payment_size_msat="1", min_fee_msat="1000")]
    invoice = await stage.invoice(10_000_000, client_trusts_lsp=trust)
    await stage.channel()
    for step in story:
        await _step(stage, invoice, *step)
    await stage.client._shutdown()
    await stage.calm()
    assert set(stage.host.answers) == stage.host.asked
    claims = [answer for answer in stage.host.answers.values() if "payload" in answer]
    assert all((claimed(answer)[1] or 0) >= 10_000_000 - 100_000 for answer in claims)
    await stage.stop()


async def _step(stage: Stage, invoice: Json, kind: str, *more: Any) -> None:
    match kind, more:
        case "part", (number, amount_msat, fee_msat, hidden):
            htlc_msat = max(amount_msat - (fee_msat or 0) - hidden, 0)
            stage.part(invoice, amount_msat, fee_msat, htlc_msat=htlc_msat, htlc_id=number)
        case "raw", (number, payload, tlvs):
            extra = None if tlvs is None else tlvs.hex()
            stage.part(invoice, 5, None, payload_hex=payload.hex() or "00", extra_tlvs=extra, htlc_id=number)
        case "time", _:
            await stage.pass_time(50)
        case "block", _:
            await stage.block()
        case "restart", _:
            await stage.client._shutdown()
            await stage.calm()
            assert set(stage.host.answers) == stage.host.asked
            await stage.restart()
        case "paid", _:
            await stage.paid(invoice)
        case "close", _:
            await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")
    await stage.calm()
