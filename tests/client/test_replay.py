"""The client's side of the recordings: what a real lightningd asked a wallet, answered by ours.

`data/hooks.json` holds the l1/plugin lines of a_single_var, b3_mpp5_invoice_msat, j_client_fails and
r_client_without_developer, hook calls with the prototype's answers; `data/more_hooks.json` the calls of every other
recording in which the wallet was asked about a channel or an HTLC. Onions' inner bytes are left out.
"""

from __future__ import annotations

import asyncio

import pytest
from harness.client import FakeRequest, Json, Stage, Staging, tlv
from harness.recorded_wallet import HOOKS, MORE, approve_payment, scan

ACCEPT = {"result": "continue", "mindepth": 0}
# What was claimed, as (recording, place of the payment in it). In g_open_rejected the prototype was told to refuse; in
# d_ordinary_forward the wallet is paid over an ordinary channel; k2 was closed with both parts held; p is half a set.
CLAIMED = [
    ("b2_mpp5_fast", 0),
    ("b_mpp5", 0),
    ("c_two_upstream", 0),
    ("i2_restart_clean_stop", 0),
    ("i7_restart_while_forwarded", 0),
    ("i8_restart_settled_while_plugin_down", 0),
    ("i_restart", 0),
    ("l_lsp_trusts_client", 0),
    ("n_wait", 0),
    ("p2_setchannel_zero_fee", 0),
    ("s_xpay_and_pay", 0),
    ("s_xpay_and_pay", 1),
]


def calls(name: str, method: str) -> list[Json]:
    return [each for each in {**HOOKS, **MORE}[name] if each["call"]["method"] == method]


def payment(name: str, place: int) -> list[Json]:
    """The parts of the n-th payment of a recording."""
    parts = calls(name, "htlc_accepted")
    hashes = list(dict.fromkeys(each["call"]["params"]["htlc"]["payment_hash"] for each in parts))
    return [each for each in parts if each["call"]["params"]["htlc"]["payment_hash"] == hashes[place]]


async def approve(stage: Stage, name: str, size_msat: int | None, fee_msat: int, *, opened: bool = True) -> Json:
    """The purchase behind a recording: its LSP, payment hash, amount and fee; the invoice and channel as they were."""
    return await approve_payment(
        stage, calls(name, "htlc_accepted")[0]["call"]["params"], size_msat, fee_msat, opened=opened
    )


def sent(stage: Stage, call: Json) -> bytes:
    """Hand one recorded call to the wallet; its id."""
    read = scan(call)
    stage.host.asked.add(read.id_raw)
    stage.client._on_htlc(read)
    id_raw: bytes = read.id_raw
    return id_raw


@pytest.mark.parametrize("name", sorted(HOOKS))
async def test_the_recorded_opening_is_accepted_as_it_was(staged: Staging, name: str) -> None:
    """cln:C1: {"result": "continue", "mindepth": 0}."""
    (opening,) = calls(name, "openchannel")
    async with staged() as stage:
        await approve(stage, name, None, 1, opened=False)
        request = FakeRequest()
        stage.client._on_openchannel(request, opening["call"]["params"]["openchannel"])  # type: ignore[arg-type]
        await stage.calm()
        assert request.result == opening["answer"]


@pytest.mark.parametrize(
    ("name", "size_msat", "fee_msat", "order"),
    [
        ("a_single_var", None, 1_000_000, 1),
        ("b3_mpp5_invoice_msat", 50_000_000, 12_000_000, 1),
        ("b3_mpp5_invoice_msat", 50_000_000, 12_000_000, -1),
        ("r_client_without_developer", 20_000_000, 1_000_000, 1),
    ],
)
async def test_recorded_parts_get_the_recorded_answers(
    staged: Staging, name: str, size_msat: int | None, fee_msat: int, order: int
) -> None:
    """cln:C2, I-28: payload and invoice_msat byte for byte; a real lightningd settled on them."""
    recorded = calls(name, "htlc_accepted")[::order]
    async with staged() as stage:
        stage.client.chain.block(109)
        await approve(stage, name, size_msat, fee_msat)
        ids = [sent(stage, each["call"]) for each in recorded]
        await stage.calm()
        for id_raw, each in zip(ids, recorded, strict=True):
            ours = {key: value for key, value in stage.host.answers[id_raw].items() if value is not None}
            assert ours == each["answer"]


@pytest.mark.parametrize(("name", "size_msat", "fee_msat"), [("b3_mpp5_invoice_msat", 50_000_000, 11_999_999)])
async def test_the_same_parts_are_refused_for_a_fee_one_msat_lower(
    staged: Staging, name: str, size_msat: int, fee_msat: int
) -> None:
    """trap:37: the recorded LSP took 12 000 000 msat over two of five parts."""
    async with staged() as stage:
        await approve(stage, name, size_msat, fee_msat)
        for each in calls(name, "htlc_accepted"):
            sent(stage, each["call"])
        await stage.calm()
        await stage.pass_time(91)
        answers = stage.host.answers.values()
        assert {answer["result"] for answer in answers} == {"fail"}
        assert len(answers) == 5


async def test_a_recorded_set_whose_second_part_never_comes_times_out_here(staged: Staging) -> None:
    """j_client_fails, group 4: lightningd would hold it for 70 s from our answer (cln:C4); we hold it and fail all."""
    lonely = calls("j_client_fails", "htlc_accepted")[-1]
    async with staged() as stage:
        await approve(stage, "j_client_fails", 20_000_000, 2_000_000)
        id_raw = sent(stage, lonely["call"])
        await stage.calm()
        assert id_raw not in stage.host.answers
        await stage.pass_time(91)
        assert stage.host.answers[id_raw] == {"result": "fail", "failure": "0017"}


async def test_recorded_pairs_that_were_failed_or_not_rewritten_are_claimed_here(staged: Staging) -> None:
    """j_client_fails, groups 1 to 3: each pair is a payment of its own, with the fee once."""
    recorded = calls("j_client_fails", "htlc_accepted")
    async with staged() as stage:
        await approve(stage, "j_client_fails", 20_000_000, 2_000_000)
        for pair in (recorded[0:2], recorded[2:4], recorded[4:6]):
            ids = [sent(stage, each["call"]) for each in pair]
            await asyncio.sleep(0)
            await stage.calm()
            assert [stage.host.answers[id_raw]["invoice_msat"] for id_raw in ids] == [18_000_000] * 2


def test_every_recording_in_which_a_wallet_was_asked_is_here() -> None:
    """Each of these is replayed below."""
    held_or_let_go = {"d_ordinary_forward", "k2_close_with_htlcs", "p_zero_fee_part_and_lsp_fees"}
    asked = {name for name in MORE if calls(name, "htlc_accepted")}
    assert asked == {name for name, _ in CLAIMED} | held_or_let_go


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", [name for name in sorted(MORE) if calls(name, "openchannel")])
async def test_every_other_recorded_opening_is_accepted_unless_it_is_announced_or_pushes(
    staged: Staging, name: str, odd: bool
) -> None:
    """cln:C1, I-12, I-14: what real nodes asked for breaks no other limit; d and g have announced ones, g a push."""
    openings = [each["call"]["params"]["openchannel"] for each in calls(name, "openchannel")]
    for request in [each for each in openings if bool(each["channel_flags"] & 1 or each["push_msat"]) == odd]:
        part = {"peer_id": request["id"], "onion": {"payment_secret": "00" * 32}}
        part["htlc"] = {"payment_hash": "11" * 32, "short_channel_id": "1x1x1"}
        async with staged() as stage:
            await approve_payment(stage, part, None, 1, opened=False)
            answered = FakeRequest()
            stage.client._on_openchannel(answered, request)  # type: ignore[arg-type]
            await stage.calm()
            assert answered.result is not None
            assert (answered.result == ACCEPT) == (not odd)


async def fed(stage: Stage, parts: list[Json]) -> list[Json]:
    """Approve what these parts pay, hand them over, and what became of each."""
    first = parts[0]["call"]["params"]
    fees_msat = [tlv.read_extra_fee(each["call"]["params"]["htlc"].get("extra_tlvs")) or 0 for each in parts]
    await approve_payment(stage, first, first["onion"]["total_msat"], sum(fees_msat))
    ids = [sent(stage, each["call"]) for each in parts]
    await stage.calm()
    return [stage.host.answers.get(id_raw, {}) for id_raw in ids]


@pytest.mark.parametrize(("name", "place"), CLAIMED)
async def test_every_other_recorded_payment_is_claimed_with_the_recorded_payload(
    staged: Staging, name: str, place: int
) -> None:
    """cln:C2, I-28: byte for byte; the prototype lowered its invoice where we answer `invoice_msat` (I-08)."""
    parts = payment(name, place)
    async with staged() as stage:
        answers = await fed(stage, parts)
        assert [each["payload"] for each in answers] == [each["answer"]["payload"] for each in parts]


async def test_the_recorded_set_that_was_closed_on_is_claimed_at_once(staged: Staging) -> None:
    """k2_close_with_htlcs: the prototype was told to hold its parts; both are there, so we do not."""
    async with staged() as stage:
        answers = await fed(stage, payment("k2_close_with_htlcs", 0))
        assert [each["invoice_msat"] for each in answers] == [19_000_000, 19_000_000]


async def test_the_recorded_half_of_a_set_is_held_and_times_out(staged: Staging) -> None:
    """p_zero_fee_part_and_lsp_fees: the other part was lost at the LSP (cln:H6)."""
    async with staged() as stage:
        assert await fed(stage, payment("p_zero_fee_part_and_lsp_fees", 0)) == [{}]
        await stage.pass_time(91)
        assert list(stage.host.answers.values()) == [{"result": "fail", "failure": "0017"}]


async def test_the_recorded_ordinary_payment_is_let_go(staged: Staging) -> None:
    """d_ordinary_forward, I-20: it was not approved."""
    (part,) = payment("d_ordinary_forward", 0)
    async with staged() as stage:
        id_raw = sent(stage, part["call"])
        await stage.calm()
        assert stage.host.answers[id_raw] == part["answer"] == {"result": "continue"}
