"""Which channels an LSP may open: the openchannel hook, as a function and in the plugin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.client import CHANNEL, LSP, OTHER_LSP, STRANGER, FakeRequest, Json, Lsp, Stage, Staging, channel_row, entry
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.client.channel_terms import CONTINUE, Decision, Limits, Wanted, decide, reserve_msat

ACCEPT = {"result": "continue", "mindepth": 0}
LIMITS = Limits(our_to_self_delay_blocks=144, zero_reserve=False)


def request(**fields: Any) -> Json:
    """The opening of the recordings."""
    return Stage.open_request(None, **fields)  # type: ignore[arg-type]


def wanted(receive_msat: int = 19_000_000, delay: int = 2016, free: bool = True) -> Wanted:
    return Wanted(receive_msat, delay, free)


def test_without_a_purchase_an_opening_is_none_of_our_business() -> None:
    """I-11: left to the node's own policy."""
    assert decide(request(), [], LIMITS) == Decision(CONTINUE)


def test_an_agreed_opening_is_zero_conf() -> None:
    """I-15, cln:C1."""
    assert decide(request(), [wanted()], LIMITS) == Decision(ACCEPT, None, 0)


def test_an_opening_without_option_zeroconf_is_accepted_all_the_same() -> None:
    """I-15, O-02: bit 50 is not required by bLIP-52."""
    kind = {"bits": [12, 22, 46], "names": []}
    assert decide(request(channel_type=kind), [wanted()], LIMITS) == Decision(ACCEPT, None, 0)


@pytest.mark.parametrize("bits", [[12], [12, 22], [12, 50], [12, 22, 50]])
def test_w16_an_opening_without_option_scid_alias_in_its_type_is_accepted_and_said(bits: list[int]) -> None:
    """wallet:W16, trap:57: LDK never sets it; the wallet's invoices use an alias all the same."""
    got = decide(request(channel_type={"bits": bits, "names": []}), [wanted()], LIMITS)
    assert got.answer == ACCEPT
    assert got.tolerated == ("option_scid_alias is not in its type",)


@pytest.mark.parametrize("sat", [20_000, 30_000, 45_000, 99_000])
def test_w16_the_reserve_that_ldk_asks_for_in_small_channels_is_accepted(sat: int) -> None:
    """wallet:W16: 1,000 sat, or 1 %; its dust limit is 354 sat. No honest LSP needs more."""
    fields = {"funding_msat": sat * 1000, "dust_limit_msat": 354_000}
    least = [wanted(19_000_000)]
    assert decide(request(**fields, channel_reserve_msat=1_000_000), least, LIMITS).answer == ACCEPT
    assert decide(request(**fields, channel_reserve_msat=1_546_001), least, LIMITS).answer["result"] == "reject"


@pytest.mark.parametrize(("zero_reserve", "reserve"), [(False, None), (True, 0)])
def test_zero_reserve_is_answered_only_when_opted_in(zero_reserve: bool, reserve: int | None) -> None:
    """I-18, O-18."""
    got = decide(request(), [wanted()], Limits(144, zero_reserve)).answer
    assert got.get("reserve") == reserve


WRONG: list[tuple[Json, str]] = [
    ({"channel_flags": 1}, "announced"),
    ({"channel_flags": 3}, "announced"),
    ({"push_msat": 1}, "push_msat"),
    ({"funding_msat": 19_000_000, "channel_reserve_msat": 0}, "too small"),
    ({"funding_msat": 19_545_999, "channel_reserve_msat": 0}, "too small"),
    ({"channel_reserve_msat": 2_546_001}, "channel_reserve_msat"),
    ({"channel_reserve_msat": 200_000_000}, "channel_reserve_msat"),
    ({"dust_limit_msat": 1_638_001}, "dust_limit_msat"),
    ({"dust_limit_msat": 100_000_000, "channel_reserve_msat": 100_000_000}, "dust_limit_msat"),
    ({"to_self_delay": 2017}, "to_self_delay 2017 is above our limit of 2016"),
    ({"to_self_delay": 65535}, "to_self_delay"),
    ({"max_accepted_htlcs": 1}, "max_accepted_htlcs 1 is below 2"),
    ({"max_accepted_htlcs": 0}, "max_accepted_htlcs"),
    ({"htlc_minimum_msat": 190_000_000}, "htlc_minimum_msat 190000000 is above our limit of 1000000"),
    ({"htlc_minimum_msat": 1_000_001}, "htlc_minimum_msat"),
    ({"max_htlc_value_in_flight_msat": 19_999_999}, "below a tenth of the channel"),
    ({"max_htlc_value_in_flight_msat": 1}, "below a tenth of the channel"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=str)
def test_an_opening_that_was_not_agreed_is_rejected_with_a_reason(wrong: Json, why: str) -> None:
    """I-12, I-14, wallet:W15: unsafe or useless: announced, money pushed, too small, a large reserve, dust, delay."""
    got = decide(request(**wrong), [wanted()], LIMITS)
    assert got.answer["result"] == "reject"
    assert why in got.answer["error_message"]
    assert why in (got.why or "")
    assert got.purchase is None


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=str)
def test_w15_what_cannot_be_a_jit_channel_and_need_not_be_used_at_once_is_the_nodes_own_business(
    wrong: Json, why: str
) -> None:
    """wallet:W15: an LSP's other openings are neither refused nor made zero-conf while a purchase waits."""
    asked = {"channel_type": {"bits": [12, 22], "names": []}, **wrong}
    assert decide(request(**asked), [wanted()], LIMITS) == Decision(CONTINUE)


@pytest.mark.parametrize(
    "right",
    [
        {"funding_msat": 19_546_000, "channel_reserve_msat": 195_460},
        {"channel_reserve_msat": 2_546_000},
        {"channel_flags": 2},
        {"to_self_delay": 2016},
        {"max_accepted_htlcs": 2},
        {"htlc_minimum_msat": 1_000_000},
        {"max_htlc_value_in_flight_msat": 20_000_000},
    ],
    ids=str,
)
def test_the_limits_themselves_are_accepted(right: Json) -> None:
    """I-14, wallet:W15: payment less fee, and the reserve we ask of the LSP, to the msat."""
    assert decide(request(**right), [wanted()], LIMITS).answer == ACCEPT


def test_w15_the_owner_sets_the_limits() -> None:
    """wallet:W15: each is an option."""
    asked = request(to_self_delay=720, max_accepted_htlcs=5, htlc_minimum_msat=1_000)
    assert decide(asked, [wanted()], LIMITS).answer == ACCEPT
    for limits in (
        LIMITS._replace(max_to_self_delay_blocks=719),
        LIMITS._replace(least_htlcs=6),
        LIMITS._replace(max_htlc_minimum_msat=999),
    ):
        assert decide(asked, [wanted()], limits).answer["result"] == "reject"


@pytest.mark.parametrize(("agreed", "result"), [(143, "reject"), (144, "continue")])
def test_our_to_self_delay_must_be_within_the_agreement(agreed: int, result: str) -> None:
    """I-13, O-05."""
    assert decide(request(), [wanted(delay=agreed)], LIMITS).answer["result"] == result


@pytest.mark.parametrize(
    ("purchases", "funding_msat", "chosen"),
    [
        ([(19_000_000, True)], 20_000_000, 0),
        ([(19_000_000, False)], 20_000_000, None),
        ([(19_000_000, False), (19_000_000, True)], 20_000_000, 1),
        ([(10_000_000, True), (90_000_000, True)], 20_000_000, 0),
        ([(10_000_000, True), (90_000_000, True)], 100_000_000, 1),
        ([(10_000_000, False), (90_000_000, True)], 30_000_000, None),
        ([(10_000_000, True), (19_000_000, True), (15_000_000, True)], 20_000_000, 1),
    ],
)
def test_each_channel_needs_a_purchase_of_its_own(
    purchases: list[tuple[int, bool]], funding_msat: int, chosen: int | None
) -> None:
    """I-10, I-16, trap:36, wallet:W1: the one that fills it best among those that have none; not one channel more."""
    asked = request(funding_msat=funding_msat, channel_reserve_msat=0)
    got = decide(asked, [wanted(size_msat, free=free) for size_msat, free in purchases], LIMITS)
    assert got.purchase == chosen
    assert (got.answer == ACCEPT) == (chosen is not None)


sizes = st.tuples(st.integers(1_000_000, 50_000_000), st.booleans())


@given(st.lists(sizes, max_size=4), st.integers(1_000_000, 50_000_000))
def test_what_is_accepted_is_for_a_purchase_that_fits_and_has_none(
    purchases: list[tuple[int, bool]], funding_msat: int
) -> None:
    """trap:36, wallet:W1: any sizes."""
    asked = request(funding_msat=funding_msat, channel_reserve_msat=0)
    got = decide(asked, [wanted(size_msat, free=free) for size_msat, free in purchases], LIMITS)
    fitting = [size for size, free in purchases if free and size + reserve_msat(funding_msat, LIMITS) <= funding_msat]
    assert (got.answer == ACCEPT) == bool(fitting)
    assert (got.answer == CONTINUE) == (not purchases)
    if got.purchase is not None:
        assert purchases[got.purchase] == (max(fitting), True)


# --- In the plugin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [[12, 46, 50], [12, 22, 46]])
@pytest.mark.parametrize(
    ("flag", "trusted", "claimed_at_once"), [(True, False, True), (False, True, True), (False, False, False)]
)
async def test_the_channel_is_ready_at_once_and_the_preimage_waits_for_what_is_missing(
    staged: Staging, bits: list[int], flag: bool, trusted: bool, claimed_at_once: bool
) -> None:
    """I-15, I-17, O-14: flag, policy and bit 50; zero-conf always, since it is the preimage that waits (I-30)."""
    async with staged(trusted=frozenset({LSP} if trusted else ())) as stage:
        stage.lsp.trust = flag
        invoice = await stage.invoice(client_trusts_lsp=flag)
        assert await stage.opening(channel_type={"bits": bits, "names": []}) == ACCEPT
        stage.node.channels.append(channel_row())
        await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
        part = stage.part(invoice, 20_000_000, 1_000_000)
        await stage.calm()
        assert (stage.answer(part) is not None) == claimed_at_once


async def test_zero_conf_only_for_an_lsp_we_bought_from(staged: Staging) -> None:
    """I-11: another peer's opening is left alone."""
    async with staged() as stage:
        await stage.invoice()
        assert await stage.opening() == ACCEPT
        assert await stage.opening(id=STRANGER) == CONTINUE


async def test_an_approval_that_has_ended_opens_nothing(staged: Staging) -> None:
    """I-11: unexpired."""
    async with staged() as stage:
        await stage.invoice()
        stage.clock._offset_ms += 3_600_000
        assert await stage.opening() == CONTINUE
        assert "what it was bought for ended" in stage.reports()


async def test_an_ordinary_channel_after_an_approval_has_ended_is_none_of_our_business(staged: Staging) -> None:
    """I-11: and nothing is said of it."""
    async with staged() as stage:
        await stage.invoice()
        stage.clock._offset_ms += 3_600_000
        assert await stage.opening(channel_type={"bits": [12, 22], "names": []}) == CONTINUE
        assert stage.reports() == ""


async def test_an_approval_that_was_served_opens_nothing(staged: Staging) -> None:
    """I-11, I-16, trap:36: used once."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.part(invoice, 20_000_000, 1_000_000)
        await stage.calm()
        await stage.paid(invoice)
        assert await stage.opening() == CONTINUE


async def test_a_second_zero_conf_channel_for_one_purchase_is_refused(staged: Staging) -> None:
    """I-16, trap:36."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        assert (await stage.opening())["result"] == "reject"
        assert "has its channel already" in stage.reports()


async def test_two_purchases_at_one_lsp_take_two_channels_and_no_third(staged: Staging) -> None:
    """trap:36."""
    async with staged() as stage:
        await stage.invoice()
        await stage.invoice()
        await stage.channel()
        await stage.channel(channel_id="ef" * 32, alias={"local": "9x9x9"})
        assert (await stage.opening())["result"] == "reject"


async def test_a_channel_that_is_coming_counts_already(staged: Staging) -> None:
    """I-16: an LSP that opens two in a row, faster than either is ready; and while we still look at the first."""
    async with staged() as stage:
        await stage.invoice()
        await stage.opening()
        stage.node.channels.append(channel_row(state="CHANNELD_AWAITING_LOCKIN"))
        event = {"peer_id": LSP, "channel_id": CHANNEL, "new_state": "CHANNELD_AWAITING_LOCKIN", "cause": "remote"}
        stage.client.hear("channel_state_changed", channel_state_changed=event)
        await asyncio.sleep(0)
        assert (await stage.opening())["result"] == "reject"
        await stage.calm()
        assert (await stage.opening())["result"] == "reject"


async def test_an_opening_that_a_lost_link_interrupted_may_be_made_again(staged: Staging) -> None:
    """O-16, trap:4: the LSP may have forgotten a channel that was never ready."""
    async with staged() as stage:
        await stage.invoice()
        await stage.opening()
        stage.node.channels.append(channel_row(state="CHANNELD_AWAITING_LOCKIN"))
        await stage.state(CHANNEL, "CHANNELD_AWAITING_LOCKIN", None)
        stage.disconnect(LSP)
        stage.connect(LSP)
        assert await stage.opening() == ACCEPT


async def test_an_lsp_may_give_up_an_opening_and_try_again(staged: Staging) -> None:
    """I-16, O-15, O-16: the approval survives, as often as it takes."""
    async with staged() as stage:
        await stage.invoice()
        for _ in range(3):
            await stage.channel()
            await stage.state(CHANNEL, "CLOSINGD_COMPLETE")
            stage.node.channels.clear()
        assert await stage.opening() == ACCEPT


async def test_an_lsp_that_opens_again_sooner_than_we_learn_of_its_giving_up_is_not_refused(staged: Staging) -> None:
    """O-08, O-16: it must call a refusal permanent, and the payer would not try again."""
    async with staged() as stage:
        await stage.invoice()
        row = await stage.channel()
        again = FakeRequest()
        stage.client._on_openchannel(again, stage.open_request())  # type: ignore[arg-type]
        await stage.pass_time(1)
        assert again.result is None
        row["state"] = "AWAITING_UNILATERAL"
        await stage.pass_time(1)
        assert again.result == ACCEPT
        assert stage.reports() == ""


async def test_a_channel_of_before_that_stays_in_use_is_refused_a_second_after_five_seconds(staged: Staging) -> None:
    """I-16, trap:36: not sooner, not later, said once."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        again = FakeRequest()
        stage.client._on_openchannel(again, stage.open_request())  # type: ignore[arg-type]
        await stage.calm()
        await stage.pass_time(4.9)
        assert again.result is None
        await stage.pass_time(0.1)
        assert again.result is not None
        assert "has its channel already" in again.result["error_message"]
        assert stage.reports().count("refused a channel") == 1


async def test_an_opening_whose_link_breaks_while_we_look_is_over(staged: Staging) -> None:
    """K-20: it gets its answer, and the next channel of this LSP is not taken for the one that never came."""
    async with staged() as stage:
        await stage.invoice()
        row = await stage.channel()
        again = FakeRequest()
        stage.client._on_openchannel(again, stage.open_request())  # type: ignore[arg-type]
        await stage.calm()
        stage.disconnect(LSP)
        row["state"] = "AWAITING_UNILATERAL"
        await stage.pass_time(1)
        assert again.result == CONTINUE
        assert next(iter(stage.client.book.approvals.values())).channel_id == CHANNEL


async def test_an_opening_whose_link_breaks_while_it_is_noted_gets_no_terms(staged: Staging) -> None:
    """K-20: lightningd has no opening any more that terms could be set for, nor one to refuse."""
    async with staged() as stage:
        await stage.invoice()
        first = FakeRequest()
        accept = stage.client.bindings.accept

        async def accept_then_lose(*words: Any) -> bool:
            accepted = await accept(*words)
            stage.disconnect(LSP)
            return accepted

        stage.client.bindings.accept = accept_then_lose  # type: ignore[method-assign]
        stage.client._on_openchannel(first, stage.open_request())  # type: ignore[arg-type]
        await stage.calm()
        assert first.result == CONTINUE
        stage.client.bindings.accept = accept  # type: ignore[method-assign]
        assert await stage.opening() == ACCEPT, "the next one is taken"


async def test_an_opening_whose_link_breaks_before_the_records_are_read_gets_no_terms(staged: Staging) -> None:
    """K-20, cln:W11: of two that wait the one whose link is there is judged."""
    async with staged() as stage:
        await stage.invoice()
        stage.client._ready.clear()
        lost, there = FakeRequest(), FakeRequest()
        stage.client._on_openchannel(lost, stage.open_request())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        stage.disconnect(LSP)
        stage.client._on_openchannel(there, stage.open_request())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert lost.result is None
        stage.client._ready.set()
        await stage.calm()
        assert lost.result == CONTINUE
        assert there.result == ACCEPT


async def test_a_bug_while_we_look_again_costs_a_refusal(staged: Staging) -> None:
    """K-20: an opening without an answer hangs the LSP."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        stage.client.watch.look_at = None  # type: ignore[method-assign, assignment]
        assert (await stage.opening())["error_message"] == "internal error of the plugin"
        assert "TypeError" in stage.host.said("error")


async def test_a_purchase_that_ended_takes_its_channel_out_of_the_count(staged: Staging) -> None:
    """I-33: a live purchase is not hindered by what a dead one left behind."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        stage.lsp.entries = [entry(valid_until="2030-01-01T00:00:00Z")]
        await stage.invoice()
        await stage.pass_time(3_600)
        assert len(stage.client.book.approvals) == 1
        assert await stage.opening() == ACCEPT


async def test_the_size_follows_the_purchase(staged: Staging) -> None:
    """I-14, wallet:W12: fixed: payment less fee; variable: the smallest payment that will be taken, less its fee."""
    async with staged() as stage:
        await stage.invoice(100_000_000)
        assert (await stage.opening(funding_msat=99_000_000, channel_reserve_msat=0))["result"] == "reject"
        assert "too small to receive 99000000 msat" in stage.reports()
        await stage.invoice("any")
        assert (await stage.opening(funding_msat=1_500_000, channel_reserve_msat=0))["result"] == "reject"
        assert await stage.opening(funding_msat=1_600_000, channel_reserve_msat=0) == ACCEPT


async def test_each_lsp_has_its_own_count(staged: Staging) -> None:
    """I-10: keyed by payment hash, asked by LSP."""
    async with staged() as stage:
        stage.lsps[OTHER_LSP] = Lsp(OTHER_LSP)
        stage.node.peers[OTHER_LSP] = {}
        await stage.invoice()
        await stage.invoice(lsp_id=OTHER_LSP)
        await stage.channel()
        assert (await stage.opening())["result"] == "reject"
        assert await stage.opening(id=OTHER_LSP) == ACCEPT


async def test_our_own_delay_is_the_nodes(staged: Staging) -> None:
    """I-13: watchtime-blocks decides what is bought and accepted."""
    stage = Stage()
    stage.node.configs = {"watchtime-blocks": {"value_int": 3000}}
    await stage.start()
    stage.lsp.entries = [entry(max_client_to_self_delay=3000)]
    await stage.invoice()
    assert await stage.opening() == ACCEPT
    await stage.stop()


async def test_the_count_survives_a_restart(staged: Staging) -> None:
    """I-16: which channels are in use is stored."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        await stage.restart()
        assert (await stage.opening())["result"] == "reject"


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({}, "reject"),
        ({"opener": "local"}, "continue"),
        ({"private": False}, "continue"),
        ({"peer_id": STRANGER}, "continue"),
        ({"total_msat": 200_000_001}, "continue"),
        ({"short_channel_id": "801x1x1"}, "reject"),
        ({"state": "CHANNELD_AWAITING_LOCKIN"}, "continue"),
    ],
    ids=str,
)
async def test_a_channel_that_came_while_the_plugin_was_away_counts(staged: Staging, fields: Json, result: str) -> None:
    """I-16: killed between its yes to an opening and the record of the channel; ordinary channels count for nothing."""
    async with staged() as stage:
        await stage.invoice()
        await stage.opening()
        stage.node.channels.append(channel_row(**fields))
        await stage.restart()
        assert (await stage.opening())["result"] == result


async def test_an_opening_before_the_records_are_read_waits(staged: Staging) -> None:
    """cln:W11: hooks may come before init is answered; the answer is right, not quick."""
    async with staged() as stage:
        await stage.invoice()
        await stage.stop()
        stage._born()
        early = FakeRequest()
        stage.host.spawn(stage.client._start())
        stage.client._on_openchannel(early, stage.open_request())  # type: ignore[arg-type]
        assert early.result is None
        await stage.calm()
        assert early.result == ACCEPT


@pytest.mark.parametrize(
    "broken",
    [{}, {"id": 5}, {"funding_msat": "much"}, {"channel_type": None}, {"channel_flags": None}, {"push_msat": {}}],
    ids=str,
)
async def test_any_opening_gets_one_valid_answer(staged: Staging, broken: Json) -> None:
    """K-20: an answer that is none ends lightningd."""
    async with staged() as stage:
        await stage.invoice()
        early = FakeRequest()
        asked = {**stage.open_request(), **broken} if broken else {}
        stage.client._on_openchannel(early, asked)  # type: ignore[arg-type]
        await stage.calm()
        assert early.result is not None
        assert early.result["result"] in ("continue", "reject")
        assert "mindepth" not in early.result


async def test_a_channel_we_did_not_agree_to_is_not_adopted(staged: Staging) -> None:
    """An ordinary channel of the same LSP counts for nothing."""
    async with staged() as stage:
        await stage.invoice()
        stage.node.channels.append(channel_row())
        await stage.state(CHANNEL, "CHANNELD_AWAITING_LOCKIN", None)
        assert await stage.opening() == ACCEPT
