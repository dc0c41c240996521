"""Purchases are records: history, lookups, cancelling, notifications, reports that stay (wallet:W13)."""

from __future__ import annotations

import json

import pytest
from harness.client import CHANNEL, FEE, LSP, TXID, Json, Stage, Staging, claimed, failure_of, ready
from harness.wallet_words import FIELDS

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.history import STEPS


async def one(stage: Stage, **which: str) -> Json:
    got: Json = await stage.client.purchase_methods.purchase(**which)
    return got


async def bought_and_paid(stage: Stage) -> Json:
    invoice = await ready(stage)
    stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    await stage.paid(invoice)
    stage.fund()
    await stage.block()
    stage.confirm(height=stage.height + 1)
    await stage.block()
    return invoice


async def test_w13_a_purchase_is_a_record_that_stays(staged: Staging) -> None:
    """wallet:W13: fee, LSP, channel, funding, times, outcome; over restarts and the end of the watch."""
    async with staged() as stage:
        invoice = await bought_and_paid(stage)
        await stage.block(6)
        await stage.pass_time(7_200)
        await stage.restart()
        assert not stage.working
        record = await one(stage, payment_hash=invoice["payment_hash"])
        assert record.keys() == FIELDS
        assert (record["state"], record["label"], record["lsp_id"]) == ("paid", "label 1", LSP)
        assert (record["fee_taken_msat"], record["opening_fee_msat"]) == (FEE, FEE)
        assert (record["received_msat"], record["payment_size_msat"]) == (19_000_000, 20_000_000)
        assert (record["channel_id"], record["funding_txid"], record["funding_outnum"]) == (CHANNEL, TXID, 1)
        assert record["funding"] == "confirmed"
        assert set(record["times"]) == set(STEPS) - {"funding_missing"}
        assert await one(stage, label="label 1") == record


async def test_w13_every_step_is_told_with_the_same_fields(staged: Staging) -> None:
    """wallet:W13: custom notification topics, in order, each once; all are in the manifest."""
    async with staged() as stage:
        await bought_and_paid(stage)
        told = stage.host.sent
        assert [name.removeprefix("lsps2_purchase_") for name, _ in told] == [
            "bought",
            "channel_opened",
            "parts_held",
            "claimed",
            "ended",
            "funding_seen",
            "funding_confirmed",
        ]
        assert {name for name, _ in told} <= set(stage.client.plugin.notification_topics)
        for name, fields in told:
            assert fields[name].keys() == FIELDS | {"step"}


async def test_w13_a_funding_that_is_missing_is_told(staged: Staging) -> None:
    """wallet:W13, trap:46."""
    async with staged() as stage:
        invoice = await ready(stage)
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        await stage.paid(invoice)
        await stage.pass_time(601)
        assert stage.host.sent[-1][0] == "lsps2_purchase_funding_missing"
        assert (await one(stage, label="label 1"))["funding"] == "missing"


async def test_w13_what_came_to_nothing_says_why(staged: Staging) -> None:
    """wallet:W13: parts that went back, and the end."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.part(invoice, 10_000_000)
        await stage.calm()
        assert (await one(stage, label="label 1"))["state"] == "receiving"
        await stage.pass_time(91)
        record = await one(stage, label="label 1")
        assert (record["state"], record["reason"]) == ("awaited", "the rest of the payment did not come in time")
        await stage.pass_time(3_600)
        record = await one(stage, label="label 1")
        assert (record["state"], record["reason"]) == ("expired", "the rest of the payment did not come in time")


async def test_w13_the_list_is_paged_and_filtered(staged: Staging) -> None:
    """wallet:W13: by state, label, hash; from a start, at most so many; where the next page begins."""
    async with staged() as stage:
        made = [await stage.invoice() for _ in range(5)]
        methods = stage.client.purchase_methods
        await methods.cancel_purchase(label="label 2")
        everything = await methods.list_purchases()
        assert [each["label"] for each in everything["purchases"]] == [f"label {n}" for n in range(1, 6)]
        assert (everything["total"], everything["next"]) == (5, None)
        first = await methods.list_purchases(limit=2)
        assert (len(first["purchases"]), first["next"]) == (2, 2)
        last = await methods.list_purchases(start=4, limit=2)
        assert ([each["label"] for each in last["purchases"]], last["next"]) == (["label 5"], None)
        assert [each["label"] for each in (await methods.list_purchases("cancelled"))["purchases"]] == ["label 2"]
        assert (await methods.list_purchases(payment_hash=made[3]["payment_hash"]))["purchases"][0][
            "label"
        ] == "label 4"


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("list_purchases", {"state": "lost"}, "state='lost' is none; give one of awaited"),
        ("list_purchases", {"limit": 0}, "limit=0 must be a whole number from 1 to 1000"),
        ("list_purchases", {"start": -1}, "start=-1 must be a whole number"),
        ("purchase", {}, "give either payment_hash or label"),
        ("purchase", {"label": "x", "payment_hash": "11" * 32}, "give either payment_hash or label"),
        ("purchase", {"label": "x"}, "there is no such purchase"),
        ("cancel_purchase", {"payment_hash": "11" * 32}, "there is no such purchase"),
    ],
    ids=str,
)
async def test_w13_wrong_questions_get_a_sentence(staged: Staging, method: str, given: Json, sentence: str) -> None:
    """wallet:W13, wallet:W10."""
    async with staged() as stage:
        error = await failure_of(getattr(stage.client.purchase_methods, method)(**given))
        assert sentence in str(error)


async def test_w13_a_cancelled_purchase_lets_no_channel_in_and_gives_its_parts_back(staged: Staging) -> None:
    """wallet:W13: the invoice goes, too."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        part = stage.part(invoice, 10_000_000)
        await stage.calm()
        record = await stage.client.purchase_methods.cancel_purchase(label="label 1")
        assert (record["state"], record["reason"]) == ("cancelled", "its owner cancelled it")
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert not stage.node.invoices
        assert not stage.client.book.approvals
        assert await stage.opening() == {"result": "continue"}
        await stage.restart()
        assert (await one(stage, label="label 1"))["state"] == "cancelled"


async def test_w13_what_is_paid_or_being_claimed_cannot_be_cancelled(staged: Staging) -> None:
    """wallet:W13: lightningd has the preimage out already."""
    async with staged() as stage:
        invoice = await ready(stage)
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert claimed(stage.answer(part))[0] == 19_000_000
        cancel = stage.client.purchase_methods.cancel_purchase
        assert "being claimed" in str(await failure_of(cancel(label="label 1")))
        await stage.paid(invoice)
        assert "is over: paid" in str(await failure_of(cancel(label="label 1")))


async def test_w13_deleting_the_invoice_ends_the_approval(staged: Staging) -> None:
    """wallet:W13: no channel is let in for an invoice that nobody can pay."""
    async with staged() as stage:
        await stage.invoice()
        stage.node.invoices.clear()
        assert "mindepth" not in await stage.opening()
        record = await one(stage, label="label 1")
        assert (record["state"], record["reason"]) == ("cancelled", "its invoice was deleted")


@pytest.mark.parametrize(("depth", "broken"), [(1, True), (1007, True), (1008, False)])
async def test_w13_a_close_before_the_lifetime_that_was_paid_for_is_the_lsps_broken_word(
    staged: Staging, depth: int, broken: bool
) -> None:
    """wallet:W13, A-05: also when the channel has long been an ordinary one."""
    async with staged() as stage:
        await bought_and_paid(stage)
        await stage.block(6)
        stage.client.chain.block(stage.height - 6 + depth - 1)
        await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")
        assert (LSP in stage.client.book.distrusted) == broken
        assert ("it was paid to stay for 1008" in stage.reports()) == broken
        assert (await one(stage, label="label 1"))["funding"] == "closed"


async def test_w13_alarms_are_not_pushed_out_by_noise_and_outlive_a_restart(staged: Staging) -> None:
    """wallet:W13: a stranger can have parts refused as often as he likes."""
    async with staged() as stage:
        stage.client._report(LSP, "ALARM: a channel has no funding")
        before = len(stage.node.named("datastore"))
        for number in range(500):
            stage.client._report(LSP, f"refused part {number}")
            await stage.calm(5)
        assert len(stage.node.named("datastore")) - before <= 2
        await stage.pass_time(61)
        await stage.block()
        await stage.restart()
        kept = [each["report"] for each in (await stage.client._status())["reports"]]
        assert kept[0] == "ALARM: a channel has no funding"
        assert kept[-1] == "refused part 499"
        assert len(kept) == 101


async def test_w13_a_record_that_cannot_be_written_holds_up_nothing_and_is_written_later(staged: Staging) -> None:
    """rule:11, wallet:W9: money does not depend on the history."""
    async with staged() as stage:
        good = stage.node.do_datastore

        def bad(params: Json) -> Json:
            if params["key"][2:3] == ["purchase"]:
                raise NodeError("datastore", -1, "disk full")
            return good(params)

        stage.node.do_datastore = bad  # type: ignore[method-assign]
        invoice = await bought_and_paid(stage)
        stage.node.do_datastore = good  # type: ignore[method-assign]
        for _ in range(10):
            await stage.pass_time(70)
        (value,) = (value for name, value in stage.node.datastore.items() if name[-1] == invoice["payment_hash"])
        assert json.loads(value)["state"] == "paid"


async def test_w13_a_record_that_cannot_be_read_is_left_alone(staged: Staging) -> None:
    """K-08, K-24."""
    async with staged() as stage:
        await stage.invoice()
        for rubbish in (b"{}", b"[]", b"x", b'{"version":9}'):
            stage.node.datastore["lsps2fast", "client", "purchase", rubbish.hex()] = rubbish
        await stage.restart()
        assert (await stage.client.purchase_methods.list_purchases())["total"] == 1
        assert len(stage.node.datastore) == 6
