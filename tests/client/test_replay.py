"""The client's side of the recordings: what a real lightningd asked a wallet, answered by ours.

`data/hooks.json` holds the l1/plugin lines of a_single_var, b3_mpp5_invoice_msat, j_client_fails and
r_client_without_developer, hook calls with the prototype's answers; onions' inner bytes are left out.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lsps2fast.lsps2 import FeeParams
from lsps2fast_plugin.wallet.records import Approval, Buy

from .conftest import Staging
from .stage import NOW_MS, FakeRequest, Json, Stage, channel_row, entry, hook

HOOKS: dict[str, list[Json]] = json.loads((Path(__file__).parent / "data" / "hooks.json").read_text())


def calls(name: str, method: str) -> list[Json]:
    return [each for each in HOOKS[name] if each["call"]["method"] == method]


def scan(call: Json) -> Any:
    """Through the frame reader, as the host does it."""
    read = hook.scan(json.dumps(call).encode())
    assert read is not None
    return read


async def approve(stage: Stage, name: str, size_msat: int | None, fee_msat: int) -> Json:
    """The purchase behind a recording: its LSP, payment hash, amount and fee; the invoice and channel as they were."""
    first = calls(name, "htlc_accepted")[0]["call"]["params"]
    lsp_id, payment_hash = first["peer_id"], first["htlc"]["payment_hash"]
    params = FeeParams.from_json(entry(min_fee_msat=str(fee_msat), proportional=0))
    buy = Buy(
        lsp_id=lsp_id,
        jit_scid=1,
        params=params,
        payment_size_msat=size_msat,
        cltv_expiry_delta_blocks=48,
        client_trusts_lsp=True,
        opening_fee_msat=fee_msat,
        largest_payment_msat=2**40,
        max_fee_msat=2**40,
        max_fee_ppm=10**6,
        consent=True,
        created_ms=NOW_MS,
    )
    secret = bytes.fromhex(first["onion"]["payment_secret"])
    await stage.client.book.approve(Approval(buy, bytes.fromhex(payment_hash), secret, "l", None))
    row: Json = {"label": "l", "payment_hash": payment_hash, "status": "unpaid"}
    stage.node.invoices["l"] = row | ({} if size_msat is None else {"amount_msat": size_msat})
    stage.node.channels.append(channel_row(peer_id=lsp_id, alias={"local": first["htlc"]["short_channel_id"]}))
    return first


def sent(stage: Stage, call: Json) -> bytes:
    """Hand one recorded call to the wallet; its id."""
    read = scan(call)
    stage.host.asked.add(read.id_raw)
    stage.client._on_htlc(read)
    id_raw: bytes = read.id_raw
    return id_raw


@pytest.mark.parametrize("name", sorted(HOOKS))
async def test_the_recorded_opening_is_accepted_as_it_was(staged: Staging, name: str) -> None:
    """C1: {"result": "continue", "mindepth": 0}."""
    (opening,) = calls(name, "openchannel")
    async with staged() as stage:
        await approve(stage, name, None, 1)
        request = FakeRequest()
        stage.client._on_openchannel(request, opening["call"]["params"]["openchannel"])  # type: ignore[arg-type]
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
    """C2, I-28: payload and invoice_msat byte for byte; a real lightningd settled on them."""
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
    """T37: the recorded LSP took 12 000 000 msat over two of five parts."""
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
    """j_client_fails, group 4: lightningd would hold it for 70 s from our answer (C4); we hold it and fail all."""
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
