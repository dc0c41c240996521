"""Purchases are records: history, lookups, cancelling, notifications, reports that stay (wallet:W13)."""

from __future__ import annotations

import json

import pytest
from harness.client import CHANNEL, FEE, LSP, TXID, Json, Stage, Staging, claimed, entry, failure_of, ready
from harness.wallet_words import FIELDS

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.history import STEPS

STORED = FIELDS - {"payment_hash", "created_at", "state"} | {"confirmed_height"}


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
    """wallet:W13: no channel is let in for an invoice that cannot be paid."""
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


@pytest.mark.parametrize(
    ("state", "cause", "broken"),
    [
        ("CHANNELD_SHUTTING_DOWN", "remote", True),
        ("AWAITING_UNILATERAL", "remote", True),
        ("FUNDING_SPEND_SEEN", "onchain", True),
        ("CHANNELD_SHUTTING_DOWN", "user", False),
        ("AWAITING_UNILATERAL", "user", False),
        ("AWAITING_UNILATERAL", "local", False),
        ("AWAITING_UNILATERAL", "protocol", False),
    ],
)
async def test_w13_however_the_lsp_closes_it_early(staged: Staging, state: str, cause: str, broken: bool) -> None:
    """wallet:W13, A-05: with us, with an error, or with a commitment of its own; not when we closed it."""
    async with staged() as stage:
        await bought_and_paid(stage)
        await stage.state(CHANNEL, state, cause=cause)
        await stage.state(CHANNEL, "ONCHAIN", state, cause="onchain")  # what follows a close of ours is not the LSP's
        assert (LSP in stage.client.book.distrusted) == broken
        alarms = [each for each in stage.client.reports.kept if each["report"].startswith("ALARM: channel")]
        assert len(alarms) == broken


@pytest.mark.parametrize("closer", ["remote", "local"])
@pytest.mark.parametrize("listed", [True, False])
async def test_w13_a_close_while_the_plugin_was_away_is_found(staged: Staging, closer: str, listed: bool) -> None:
    """wallet:W13, A-05: restart between; lightningd lists it as closing, or no more."""
    async with staged() as stage:
        await bought_and_paid(stage)
        (row,) = stage.node.channels
        row |= {"state": "ONCHAIN", "closer": closer}
        if not listed:
            stage.node.channels, stage.node.closed = [], [row]
        await stage.restart()
        assert (LSP in stage.client.book.distrusted) == (closer == "remote")
        assert (await one(stage, label="label 1"))["funding"] == "closed"
        await stage.restart()
        assert len([each for each in stage.client.reports.kept if "is closed by" in each["report"]]) == (
            closer == "remote"
        )


async def test_w13_the_lifetime_is_counted_from_the_fundings_own_block(staged: Staging) -> None:
    """A-05, rule:22: an owner who asks for 3 confirmations, or was away, must not accuse an LSP that kept its word."""
    async with staged(funding_depth=3) as stage:
        stage.lsp.entries = [entry(min_lifetime=20)]
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm(height=stage.height + 1)
        stage.part(invoice, 20_000_000, FEE, cltv_expiry=stage.height + 40)
        await stage.block(3)
        await stage.pass_time(6)
        await stage.paid(invoice)
        stage.height += 16
        await stage.block()
        await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")
        record = await one(stage, label="label 1")
        assert (record["state"], record["funding"]) == ("paid", "closed")
        assert LSP not in stage.client.book.distrusted, stage.reports()


async def test_w13_an_invoice_that_was_deleted_while_the_plugin_was_away(staged: Staging) -> None:
    """wallet:W13: it was made, so it did not come to nothing by itself."""
    async with staged() as stage:
        await stage.invoice()
        await stage.calm()
        stage.node.invoices.clear()
        await stage.restart()
        record = await one(stage, label="label 1")
        assert (record["state"], record["reason"]) == ("cancelled", "its invoice was deleted")


@pytest.mark.parametrize("missing", [None, *sorted(STORED)])
async def test_w13_a_record_of_an_older_version_has_every_field(staged: Staging, missing: str | None) -> None:
    """wallet:W13: each field is there in the list, in one record and in the next notification, null when unknown."""
    async with staged() as stage:
        invoice = await bought_and_paid(stage)
        key = ("lsps2fast", "client", "purchase", invoice["payment_hash"])
        record = json.loads(stage.node.datastore[key])
        assert record.keys() == STORED | {"version", "payment_hash", "created_ms", "state"}
        if missing is not None:
            del record[missing]
        stage.node.datastore[key] = json.dumps(record).encode()
        await stage.restart()
        (shown,) = (await stage.client.purchase_methods.list_purchases())["purchases"]
        assert shown.keys() == FIELDS
        stage.client.history._step(invoice["payment_hash"], "funding_seen")
        name, fields = stage.host.sent[-1]
        assert fields[name].keys() == FIELDS | {"step"}
        await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")


async def test_w13_every_report_has_the_same_fields(staged: Staging) -> None:
    """wallet:W13: refusals, repeated ones, alarms; also those that an older version wrote."""
    async with staged() as stage:
        stage.client._report(LSP, "refused")
        stage.client._report(LSP, "refused")
        stage.client._report(LSP, "ALARM: x")
        stage.client.reports.write(at_once=True)
        await stage.calm()
        old = [{"report": "old"}, {"time": "t", "lsp_id": LSP, "report": "ALARM: old"}, 5, {"report": 5}]
        key = ("lsps2fast", "client", "reports")
        stage.node.datastore[key] = json.dumps(old + json.loads(stage.node.datastore[key])).encode()
        await stage.restart()
        reports = (await stage.client._status())["reports"]
        assert {tuple(each) for each in reports} == {("time", "lsp_id", "report", "times")}
        assert [(each["report"], each["times"]) for each in reports] == [
            ("old", 1), ("ALARM: old", 1), ("refused", 2), ("ALARM: x", 1)
        ]  # fmt: skip
        stage.client._report("", "old")


async def test_w13_every_word_that_was_broken_is_an_alarm(staged: Staging) -> None:
    """wallet:W13: a fee taken elsewhere, a close too early; noise does not push them out, either."""
    async with staged() as stage:
        stage.lsp.trust = True
        first = await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        stage.part(first, 20_000_000, FEE)
        await stage.calm()
        await stage.paid(first)
        stage.lsp.scid = "29452x4815x1"
        second = await stage.invoice(client_trusts_lsp=True)
        stage.part(second, 20_000_000, FEE)
        await stage.calm()
        stage.fund()
        stage.confirm()
        await stage.block()
        await stage.state(CHANNEL, "CHANNELD_SHUTTING_DOWN")
        for number in range(500):
            stage.client._report(LSP, f"refused part {number}")
        alarms = [each["report"] for each in stage.client.reports.kept if each["report"].startswith("ALARM")]
        assert [words.split()[1] for words in alarms] == ["it", "channel"]


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
        good = {"version": 1, "state": "paid", "payment_hash": "11" * 32, "created_ms": 5}
        bad: list[Json] = [{"opening_fee_msat": "x"}, {"times": 1}, {"created_ms": "5"}, {"opening_fee_params": 7}]
        bad += [{"received_msat": []}, {"times": {"bought": "x"}}, {"payment_hash": None}, {"state": "lost"}]
        broken = [json.dumps(good | each).encode() for each in bad]
        for rubbish in (b"{}", b"[]", b"x", b'{"version":9}', *broken):
            stage.node.datastore["lsps2fast", "client", "purchase", rubbish.hex()] = rubbish
        await stage.restart()
        assert (await stage.client.purchase_methods.list_purchases())["total"] == 1
        assert len(stage.node.datastore) == 14
