"""A fee buys a channel: one fee, one channel, one purchase each (rule:27, I-16, I-20, I-22, wallet:W1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.client import (
    CHANNEL,
    FEE,
    LSP,
    OTHER_LSP,
    STRANGER,
    FakeRequest,
    Json,
    Stage,
    Staging,
    channel_row,
    claimed,
    details,
    ready,
    tlv,
)
from harness.purchases import OVER_OLD, OVER_SECOND, SECOND, another, approval, second

from lsps2fast.errors import NodeError, StoreError
from lsps2fast_plugin.client.channel_terms import MOST_OPENINGS, WORN_OUT

REFUSED = {"result": "fail", "failure": "2002"}


async def served(stage: Stage, **wish: Any) -> Json:
    """A purchase that was paid with its channel, confirmed."""
    invoice = await ready(stage, **wish)
    stage.fund()
    stage.confirm(height=stage.height)
    stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    await stage.paid(invoice)
    return invoice


async def funded(stage: Stage) -> Json:
    """An invoice in LSP-trusts-client mode, and its channel, confirmed."""
    invoice = await stage.invoice()
    await stage.channel()
    stage.fund()
    stage.confirm(height=stage.height)
    return invoice


@pytest.mark.parametrize("trust", [True, False])
async def test_w1_a_fee_over_an_old_channel_is_refused_and_the_lsp_has_broken_its_word(
    staged: Staging, trust: bool
) -> None:
    """wallet:W1, I-20: nothing was opened; the ordinary, confirmed channel is not what the fee is for. Both modes."""
    async with staged() as stage:
        stage.lsp.trust = trust
        stage.node.channels.append(channel_row(short_channel_id="500x1x1"))
        await stage.restart()
        invoice = await stage.invoice(client_trusts_lsp=trust or None)
        part = stage.part(invoice, 20_000_000, FEE, **OVER_OLD)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert "did not come over the channel that was opened for it" in stage.reports()
        (lsp,) = (await stage.client._status())["lsps"]
        assert "without opening a channel for it" in lsp["broke_its_word"]
        await stage.restart()
        assert LSP in stage.client.book.distrusted


@pytest.mark.parametrize("fee_msat", [1, 1000, 999_000, 1_001_000, 19_999_999])
async def test_a_payer_cannot_frame_the_lsp(staged: Staging, fee_msat: int) -> None:
    """rule:22 for LSPs: who pays can put the TLV on a part himself, and an honest node passes it on. It is refused, and
    the LSP keeps its name; so does the honest payment that waits: nothing of it is failed.
    """
    async with staged() as stage:
        stage.node.channels.append(channel_row(short_channel_id="500x1x1"))
        await stage.restart()
        invoice = await stage.invoice()
        part = stage.part(invoice, 20_000_000, fee_msat, **OVER_OLD)
        await stage.calm()
        assert (stage.answer(part) or {})["result"] == "fail"
        assert "refused a part of 20000000 msat" in stage.reports()
        (lsp,) = (await stage.client._status())["lsps"]
        assert lsp["broke_its_word"] is None
        assert (await stage.opening()).get("mindepth") == 0


@pytest.mark.parametrize(
    "bad", [{"htlc_msat": 1_000_000}, {"htlc_msat": 999_999, "fee": 1}, {"fee": 2_000_000}], ids=str
)
async def test_a_payer_cannot_end_the_honest_payment(staged: Staging, bad: Json) -> None:
    """K-27: parts over the LSP's other channels are a payer's doing; what is held over the purchase's own stays."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(short_channel_id="500x1x1", channel_id="0d" * 32, alias={}))
        await stage.restart()
        invoice = await stage.invoice()
        await stage.channel()
        held = stage.part(invoice, 10_000_000, 500_000)
        await stage.calm()
        given = dict(bad)
        stage.part(invoice, 10_000_000, given.pop("fee", None), in_scid=500 << 40 | 1 << 16 | 1, **given)
        await stage.calm()
        assert stage.answer(held) is None
        assert stage.client.incoming.holds(bytes.fromhex(invoice["payment_hash"]))


@pytest.mark.parametrize("write", [1, 2, 3])
async def test_a_channel_that_comes_in_the_middle_of_an_exchange_finds_its_purchase(
    staged: Staging, write: int
) -> None:
    """rule:22, rule:27: two channels of one LSP, opened for the purchases the other way round; the second is seen while
    the fee over the first is being settled. Both are paid, and the LSP has broken no word.
    """
    async with staged() as stage:
        stage.lsp.trust = True
        first = await stage.invoice(client_trusts_lsp=True)
        other = await another(stage)
        await stage.channel()  # the wallet takes it for the first; it is for the other
        row = channel_row(channel_id=SECOND, alias={"local": "7x7x7"}, funding_txid="12" * 32)
        assert (await stage.opening()).get("mindepth") == 0
        good, writes = stage.node.call, 0

        async def slow(method: str, params: Json | None = None, timeout_s: float | None = 60.0, **_: Any) -> Json:
            nonlocal writes
            if method == "datastore" and "opening" in json.loads(bytes.fromhex((params or {})["hex"])):
                writes += 1
                if writes == write:
                    stage.node.channels.append(row)
                    event = {"peer_id": LSP, "channel_id": SECOND, "new_state": "CHANNELD_NORMAL", "cause": "remote"}
                    stage.client.hear("channel_state_changed", channel_state_changed=event)
                    for _ in range(20):  # turns of the loop, in which all else goes on
                        await asyncio.sleep(0)
            return await good(method, params, timeout_s)

        stage.node.call = slow  # type: ignore[method-assign]
        parts = [stage.part(other, 20_000_000, FEE)]
        await stage.calm()
        parts.append(stage.part(first, 20_000_000, FEE, **OVER_SECOND))
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in parts] == [19_000_000] * 2
        assert not stage.client.book.distrusted


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("deep", [0, 6], ids=["watched", "no longer watched"])
async def test_w1_one_channel_does_not_earn_two_fees(staged: Staging, restarts: int, deep: int) -> None:
    """wallet:W1, I-22: the second purchase's fee over the first one's channel, while it is watched and long after."""
    async with staged() as stage:
        await served(stage)
        await stage.block(deep)
        for _ in range(restarts):
            await stage.restart()
        invoice = await another(stage)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert LSP in stage.client.book.distrusted


async def test_w1_nor_while_the_first_purchase_is_being_paid(staged: Staging) -> None:
    """wallet:W1: two at once over one channel; one is claimed, the other is not."""
    async with staged() as stage:
        one = await funded(stage)
        two = await stage.invoice()
        parts = [stage.part(one, 20_000_000, FEE), stage.part(two, 20_000_000, FEE)]
        await stage.calm()
        answers = [stage.answer(part) for part in parts]
        assert sorted(answer["result"] for answer in answers if answer) == ["continue", "fail"]
        assert details(19_000_000, stage) in answers


async def test_w1_a_channel_that_was_not_opened_for_a_purchase_earns_no_fee(staged: Staging) -> None:
    """wallet:W1: an unconfirmed channel that came without our yes, by whatever way."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(client_trusts_lsp=True)
        stage.node.channels.append(channel_row())
        await stage.state(CHANNEL, "CHANNELD_AWAITING_LOCKIN", None)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)


@pytest.mark.parametrize("restarts", [0, 1])
async def test_w1_two_purchases_at_once_get_a_channel_each_whichever_the_lsp_meant(
    staged: Staging, restarts: int
) -> None:
    """wallet:W1, trap:36: lightningd does not say what an opening is for; the first fee does."""
    async with staged() as stage:
        one = await ready(stage)
        two = await another(stage)
        await second(stage)
        assert approval(stage, one).channel_id == CHANNEL
        for _ in range(restarts):
            await stage.restart()
        parts = [stage.part(two, 20_000_000, FEE), stage.part(one, 20_000_000, FEE, **OVER_SECOND)]
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in parts] == [19_000_000, 19_000_000]
        assert [approval(stage, each).channel_id for each in (one, two)] == [SECOND, CHANNEL]
        assert stage.reports() == ""


@pytest.mark.parametrize("clock_back_s", [0, 3600])
async def test_w1_channels_seen_in_another_order_than_they_were_opened_are_enough_for_all(
    staged: Staging, clock_back_s: int
) -> None:
    """wallet:W1, trap:36: both are new when we look; only the later one can be that of the opening accepted last, also
    when the clock was put back in between."""
    async with staged() as stage:
        stage.lsp.trust = True
        one = await stage.invoice(client_trusts_lsp=True)
        two = await another(stage)
        first = channel_row()
        later = channel_row(channel_id=SECOND, alias={"local": "7x7x7"}, funding_txid="12" * 32)
        asked = {"funding_msat": first["total_msat"], "channel_reserve_msat": first["total_msat"] // 100}
        assert (await stage.opening(**asked)).get("mindepth") == 0
        stage.node.channels.append(first)
        stage.clock.wall_jump_ms -= clock_back_s * 1000
        assert (await stage.opening(**asked)).get("mindepth") == 0
        stage.node.channels.insert(0, later)
        for row in (later, first):
            await stage.state(row["channel_id"], "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN", row["peer_id"])
        parts = [stage.part(one, 20_000_000, FEE), stage.part(two, 20_000_000, FEE, **OVER_SECOND)]
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in parts] == [19_000_000, 19_000_000]
        assert stage.reports() == ""


async def test_w1_an_lsp_may_open_for_the_later_purchase_first(staged: Staging) -> None:
    """wallet:W1, trap:36: the earlier one is left without a channel, and gets its own."""
    async with staged() as stage:
        stage.lsp.trust = True
        one = await stage.invoice(client_trusts_lsp=True)
        two = await another(stage)
        await stage.channel()
        part = stage.part(two, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        await second(stage)
        part = stage.part(one, 20_000_000, FEE, **OVER_SECOND)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_w1_a_channel_is_not_exchanged_once_its_fee_is_held(staged: Staging) -> None:
    """wallet:W1: half of the first payment is there, with its fee, over the only channel."""
    async with staged() as stage:
        one = await funded(stage)
        two = await stage.invoice()
        held = stage.part(one, 12_000_000, FEE)
        await stage.calm()
        late = stage.part(two, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(held) is None
        assert stage.answer(late) == details(19_000_000, stage)
        rest = stage.part(one, 8_000_000)
        await stage.calm()
        assert [claimed(stage.answer(part))[1] for part in (held, rest)] == [19_000_000] * 2


async def test_w1_a_channel_is_not_exchanged_for_one_that_does_not_fit(staged: Staging) -> None:
    """wallet:W1, I-14: the small purchase's channel cannot hold the large payment."""
    async with staged() as stage:
        stage.lsp.trust = True
        await stage.invoice(20_000_000, client_trusts_lsp=True)
        large = await another(stage, amount_msat=150_000_000)
        await stage.channel(total_msat=25_000_000)
        part = stage.part(large, 150_000_000, 1_500_000)
        await stage.calm()
        assert stage.answer(part) == details(148_500_000, stage)


@pytest.mark.parametrize("good_writes", [0, 1, 2])
async def test_w1_an_exchange_that_cannot_be_stored_does_not_happen(staged: Staging, good_writes: int) -> None:
    """wallet:W1, rule:11: whatever is left on disk, no two purchases have one channel."""
    async with staged() as stage:
        one = await ready(stage)
        two = await another(stage)
        await second(stage)
        good, left = stage.node.do_datastore, [good_writes]

        def failing(params: Json) -> Json:
            if left[0] == 0:
                raise NodeError("datastore", -1, "disk full")
            left[0] -= 1
            return good(params)

        stage.node.do_datastore = failing  # type: ignore[method-assign]
        part = stage.part(two, 20_000_000, FEE)
        while stage.answer(part) is None:
            await stage.pass_time(0.5)  # between two tries
        assert stage.answer(part) == REFUSED
        stage.node.do_datastore = good  # type: ignore[method-assign]
        await stage.restart()
        channels = [approval(stage, each).channel_id for each in (one, two)]
        assert len({each for each in channels if each}) == len([each for each in channels if each])


async def test_w1_what_an_opening_is_for_is_written_before_it_is_accepted(staged: Staging) -> None:
    """wallet:W1, rule:27, K-23: no record, no channel."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "disk full")] * 1000
        assert (await stage.opening())["result"] == "reject"
        assert "cannot be noted what it is for" in stage.reports()
        stage.node.faults.clear()
        assert (await stage.opening())["mindepth"] == 0
        await stage.restart()
        assert approval(stage, invoice).opening.capacity_msat == 200_000_000


@pytest.mark.parametrize("later", [False, True], ids=["unconfirmed", "confirmed meanwhile"])
async def test_w1_the_channel_is_found_again_after_a_restart(staged: Staging, later: bool) -> None:
    """wallet:W1: killed between the yes and the channel; others of the LSP were there before, or are not ours."""
    async with staged() as stage:
        stage.lsp.trust = True
        stage.node.channels.append(channel_row(channel_id="0a" * 32, short_channel_id="500x1x1"))
        stage.node.channels.append(channel_row(channel_id="0b" * 32, alias={"local": "9x9x9"}))
        invoice = await stage.invoice(client_trusts_lsp=True)
        assert (await stage.opening())["mindepth"] == 0
        stage.node.channels.append(channel_row(channel_id="0c" * 32, total_msat=300_000_000, alias={"local": "8x8x8"}))
        stage.node.channels.append(channel_row())
        if later:
            stage.confirm()
        await stage.restart()
        assert approval(stage, invoice).channel_id == CHANNEL
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_w6_after_a_restart_the_next_purchase_gets_its_channel(staged: Staging) -> None:
    """wallet:W6: an ordinary channel that confirmed, and one whose purchase lapsed, belong to no purchase."""
    async with staged() as stage:
        await stage.invoice(expiry=600)
        await stage.channel()
        stage.node.channels.append(channel_row(channel_id="0a" * 32, alias={"local": "9x9x9"}))
        await stage.state("0a" * 32, "CHANNELD_AWAITING_LOCKIN", None)
        await stage.pass_time(700)
        await stage.restart()
        stage.node.channels[1]["short_channel_id"] = "801x1x1"
        await stage.state("0a" * 32, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
        stage.lsp.scid = "29452x4815x1"
        await stage.invoice()
        assert (await stage.opening())["mindepth"] == 0
        assert "refused a channel" not in stage.reports()


@pytest.mark.parametrize("between", ["disconnect", "restart", "both"])
async def test_w6_one_channel_a_purchase_whatever_breaks_in_between(staged: Staging, between: str) -> None:
    """I-16, wallet:W6: the channel in normal operation counts, also when we had not yet seen it."""
    async with staged() as stage:
        await stage.invoice()
        await stage.opening()
        stage.node.channels.append(channel_row())
        if between != "restart":
            stage.disconnect(LSP)
        if between != "disconnect":
            await stage.restart()
        stage.connect(LSP)
        assert (await stage.opening())["result"] == "reject"


@pytest.mark.parametrize("others", [OTHER_LSP, STRANGER])
async def test_w8_a_payment_without_a_fee_may_come_any_other_way(staged: Staging, others: str) -> None:
    """wallet:W8, I-20: a wallet with public channels; in full, over another peer's channel, the LSP never used."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(peer_id=others, channel_id=SECOND, short_channel_id="600x1x1"))
        invoice = await stage.invoice()
        over = {"in_scid": tlv.scid_from_str("600x1x1"), "peer_id": others}
        parts = [stage.part(invoice, 15_000_000, **over), stage.part(invoice, 5_000_000, **over)]
        await stage.calm()
        assert [claimed(stage.answer(part)) for part in parts] == [
            (15_000_000, 20_000_000, 20_000_000),
            (5_000_000, 20_000_000, 20_000_000),
        ]


async def test_w8_some_parts_may_come_another_way(staged: Staging) -> None:
    """wallet:W8: the fee over the channel that was bought, the rest over a sound one."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(peer_id=STRANGER, channel_id=SECOND, short_channel_id="600x1x1"))
        invoice = await ready(stage)
        here = stage.part(invoice, 15_000_000, FEE)
        there = stage.part(invoice, 5_000_000, in_scid=tlv.scid_from_str("600x1x1"), peer_id=STRANGER)
        await stage.calm()
        assert [claimed(stage.answer(part))[1] for part in (here, there)] == [19_000_000] * 2


async def test_w8_but_not_over_a_channel_without_funding(staged: Staging) -> None:
    """wallet:W8, rule:27: trust for one purchase is trust in its channel, not in the LSP's others."""
    async with staged() as stage:
        one = await ready(stage)
        await another(stage)
        await second(stage)
        here, there = stage.part(one, 15_000_000, FEE), stage.part(one, 5_000_000, **OVER_SECOND)
        await stage.calm()
        assert stage.answer(here) is None
        assert stage.answer(there) == REFUSED
        assert f"refused a part over channel {SECOND}: its funding transaction is not seen" in stage.reports()


@pytest.mark.parametrize("fields", [{"htlc_msat": 4_999_999}, {"total_msat": 19_000_000}], ids=str)
async def test_w8_a_strangers_wrong_part_does_not_end_the_payment(staged: Staging, fields: Json) -> None:
    """K-27, wallet:W8: the payer knows the invoice; what only an LSP can do is not believed of it."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(peer_id=STRANGER, channel_id=SECOND, short_channel_id="600x1x1"))
        invoice = await ready(stage)
        good = stage.part(invoice, 15_000_000, FEE)
        await stage.calm()
        bad = stage.part(invoice, 5_000_000, in_scid=tlv.scid_from_str("600x1x1"), peer_id=STRANGER, **fields)
        await stage.calm()
        assert stage.answer(bad)["result"] == "fail"  # type: ignore[index]
        assert stage.answer(good) is None
        rest = stage.part(invoice, 5_000_000)
        await stage.calm()
        assert [claimed(stage.answer(part))[1] for part in (good, rest)] == [19_000_000] * 2


async def test_a_stranger_cannot_claim_a_fee(staged: Staging) -> None:
    """I-20, rule:22: another peer's extra_fee is refused, and is not the LSP's deed."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(peer_id=STRANGER, channel_id=SECOND, short_channel_id="600x1x1"))
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, FEE, in_scid=tlv.scid_from_str("600x1x1"), peer_id=STRANGER)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert LSP not in stage.client.book.distrusted


async def test_records_of_a_version_that_noted_no_openings_are_mended(staged: Staging) -> None:
    """K-24: a channel it accepted goes to the purchase that it fits, and still earns its fee once."""
    async with staged() as stage:
        invoice = await ready(stage)
        for name, value in list(stage.node.datastore.items()):
            record = value.replace(b'"opening":{', b'"once":{') if name[1] == "invoice" else value
            if name[2:3] == ("channel",):
                old = json.loads(value)
                record = json.dumps(
                    {key: old[key] for key in old if key not in ("confirmed", "seen_height", "seen_ms")}
                    | {"payment_hash": None}
                ).encode()
            stage.node.datastore[name] = record
        await stage.restart()
        assert approval(stage, invoice).channel_id == CHANNEL
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000


async def test_an_opening_for_a_purchase_that_ends_meanwhile_is_refused(staged: Staging) -> None:
    """K-20, I-33: cancelled while it is being written down."""
    async with staged() as stage:
        invoice = await stage.invoice()
        request = FakeRequest()
        stage.client._on_openchannel(request, stage.open_request())  # type: ignore[arg-type]
        await stage.client.book.drop(approval(stage, invoice))
        await stage.calm()
        while request.result is None:
            await stage.pass_time(1)
        assert "mindepth" not in request.result


@pytest.mark.parametrize("how", ["claimed", "paid", "paid while we were away"])
async def test_w1_a_channel_is_not_exchanged_once_its_purchase_is_claimed(staged: Staging, how: str) -> None:
    """wallet:W1, I-22: its own payment came without a fee; all the same the channel is not there for another's fee."""
    async with staged() as stage:
        first = await ready(stage)
        if how != "paid while we were away":
            part = stage.part(first, 20_000_000)
            await stage.calm()
            assert (stage.answer(part) or {})["result"] == "continue"
        assert not approval(stage, first).fees_msat
        if how != "claimed":
            await stage.paid(first)
        invoice = await another(stage)
        other = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert (stage.answer(other) or {})["result"] == "fail"
        assert approval(stage, first).channel_id == CHANNEL
        assert approval(stage, invoice).channel_id is None


async def test_w1_what_is_claimed_gets_no_other_channel(staged: Staging) -> None:
    """I-22: the payment was claimed over another way; a fee that comes now moves no channel."""
    async with staged() as stage:
        first = await ready(stage)
        invoice = await another(stage)
        stage.node.channels.append(
            channel_row(channel_id="0d" * 32, peer_id=OTHER_LSP, short_channel_id="500x1x1", alias={}, opener="local")
        )
        part = stage.part(invoice, 20_000_000, peer_id=OTHER_LSP, **OVER_OLD)
        await stage.calm()
        assert (stage.answer(part) or {})["result"] == "continue"
        late = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert (stage.answer(late) or {})["result"] == "fail"
        assert approval(stage, first).channel_id == CHANNEL
        assert approval(stage, invoice).channel_id is None


async def test_w1_a_purchase_with_a_fee_held_moves_to_no_other_channel(staged: Staging) -> None:
    """wallet:W1: half of it is held over its own channel; the other half claims its fee over another purchase's."""
    async with staged() as stage:
        first = await funded(stage)
        invoice = await another(stage, amount_msat=20_000_000)
        await second(stage)
        held = stage.part(invoice, 12_000_000, 600_000, **OVER_SECOND)
        await stage.calm()
        assert stage.answer(held) is None
        late = stage.part(invoice, 8_000_000, 400_000)
        await stage.calm()
        assert stage.answer(late) == details(7_600_000, stage)
        assert [approval(stage, each).channel_id for each in (first, invoice)] == [CHANNEL, SECOND]


async def test_w1_a_fee_of_a_part_that_died_with_the_plugin_binds_no_channel(staged: Staging) -> None:
    """wallet:W1, rule:22: lightningd fails what a dead plugin held; the next channel may be for that purchase again."""
    async with staged() as stage:
        stage.lsp.trust = True
        larger = await stage.invoice(30_000_000, client_trusts_lsp=True)
        smaller = await another(stage)
        await stage.channel()
        stage.part(smaller, 10_000_000, 500_000, total_msat=20_000_000)
        await stage.calm()
        assert approval(stage, smaller).channel_id == CHANNEL
        await stage.restart()
        assert approval(stage, smaller).fees_msat
        stage.node.channels.clear()
        await stage.state(CHANNEL, "CLOSINGD_COMPLETE")
        stage.disconnect(LSP)
        stage.connect(LSP)
        await second(stage)
        assert approval(stage, larger).channel_id == SECOND
        part = stage.part(smaller, 20_000_000, FEE, **OVER_SECOND)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        assert not stage.client.book.distrusted


@pytest.mark.parametrize("other", ["waits", "has ended"])
async def test_a_payer_who_pays_over_the_channel_of_another_invoice_does_not_frame_the_lsp(
    staged: Staging, other: str
) -> None:
    """rule:22 for LSPs: two invoices of one price; the LSP opens what each jit scid is for, and the payer of the first
    sends its hash through both. No channel was reused, so no word is broken.
    """
    async with staged() as stage:
        stage.lsp.trust = True
        paid = await stage.invoice(client_trusts_lsp=True, **({"expiry": 3_000} if other == "has ended" else {}))
        await stage.channel()
        idle = await another(stage, **({"expiry": 60} if other == "has ended" else {}))
        await second(stage)
        if other == "has ended":
            await stage.pass_time(200)
            assert bytes.fromhex(idle["payment_hash"]) not in stage.client.book.approvals
        honest = stage.part(paid, 10_000_000, 500_000, total_msat=20_000_000)
        await stage.calm()
        twice = stage.part(paid, 20_000_000, FEE, **OVER_SECOND)
        await stage.calm()
        assert stage.answer(twice) == details(19_000_000, stage)
        assert not stage.client.book.distrusted, stage.reports()
        rest = stage.part(paid, 10_000_000, 500_000, total_msat=20_000_000)
        await stage.calm()
        assert claimed(stage.answer(honest)) == claimed(stage.answer(rest))


async def test_i16_an_lsp_that_opens_and_gives_up_without_end_is_stopped(staged: Staging) -> None:
    """I-16, rule:14: lightningd lists each such channel for two weeks; over restarts, and another purchase is free."""
    async with staged() as stage:
        invoice = await stage.invoice()
        for number in range(MOST_OPENINGS):
            assert (await stage.opening()).get("mindepth") == 0
            stage.disconnect(LSP)
            stage.connect(LSP)
            if number == 50:
                await stage.restart()
        refused = await stage.opening()
        assert refused["error_message"] == f"no JIT channel: {WORN_OUT}"
        assert "make a new invoice" in stage.reports()
        stage.lsp.scid = "29452x4815x1"
        await stage.invoice()
        assert (await stage.opening()).get("mindepth") == 0
        assert approval(stage, invoice).openings == MOST_OPENINGS


async def test_one_hash_is_approved_once_however_often_it_is_asked_at_once(staged: Staging) -> None:
    """I-10: two buys, one payment."""
    async with staged() as stage:
        stage.node.own("22" * 32)
        entries = [(await stage.client.methods.get_info(LSP))["opening_fee_params_menu"][0]] * 3
        approve = stage.client.methods.approve
        got = await asyncio.gather(
            *(
                approve(LSP, f"{number}x1x1", "22" * 32, opening_fee_params=entry)
                for number, entry in enumerate(entries, 1)
            ),
            return_exceptions=True,
        )
        assert [str(each) for each in got] == ["{}"] + ["this payment hash is approved already"] * 2
        assert len(stage.client.book.approvals) == 1


async def test_w1_a_broken_word_that_cannot_be_written_yet_is_known_at_once_and_written_later(staged: Staging) -> None:
    """wallet:W1, K-20, rule:11: one answer for the part, and the same for forgiving."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(short_channel_id="500x1x1"))
        await stage.restart()
        invoice = await stage.invoice()
        await stage.calm()
        good = stage.node.do_datastore

        def bad(given: Json) -> Json:
            raise NodeError("datastore", -1, "disk full")

        stage.node.do_datastore = bad  # type: ignore[method-assign]
        part = stage.part(invoice, 20_000_000, FEE, **OVER_OLD)
        await stage.calm()
        assert stage.answer(part) == details(19_000_000, stage)
        assert LSP in stage.client.book.distrusted
        await stage.pass_time(10)
        stage.node.do_datastore = good  # type: ignore[method-assign]
        await stage.pass_time(120)
        await stage.restart()
        assert LSP in stage.client.book.distrusted
        remove = stage.node.do_deldatastore
        stage.node.do_deldatastore = bad  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await stage.client.methods.trust(LSP)
        assert LSP in stage.client.book.distrusted
        stage.node.do_deldatastore = remove  # type: ignore[method-assign]
        assert (await stage.client.methods.trust(LSP))["was_distrusted"]
        await stage.restart()
        assert LSP not in stage.client.book.distrusted


async def test_w8_trust_for_a_purchase_is_trust_in_its_own_channel_alone(staged: Staging) -> None:
    """wallet:W8, wallet:W3: a part lies in another channel of the LSP's, whose block goes before the rest has come."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        row = channel_row(
            channel_id=SECOND, alias={"local": "7x7x7"}, funding_txid="12" * 32, short_channel_id=f"{stage.height}x1x1"
        )
        stage.node.channels.append(row)
        stage.fund(txid="12" * 32)
        parts = [stage.part(invoice, 10_000_000, FEE), stage.part(invoice, 5_000_000, **OVER_SECOND)]
        await stage.calm()
        del row["short_channel_id"]
        await stage.block()
        parts.append(stage.part(invoice, 5_000_000))
        await stage.calm()
        assert [stage.answer(part) for part in parts] == [None] * 3
        stage.confirm(SECOND, height=stage.height + 1)
        await stage.block()
        await stage.calm()
        assert [claimed(stage.answer(part))[0] for part in parts] == [9_000_000, 5_000_000, 5_000_000]
