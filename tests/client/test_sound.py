"""Which channels are sound, and what comes in over those that are not: nothing, for us or through us (rule:27)."""

from __future__ import annotations

import pytest
from harness.client import CHANNEL, CHANNEL_SCID, FEE, LSP, Json, Stage, Staging, channel_row, ready, tlv

from lsps2fast.errors import NodeError

REFUSED = {"result": "fail", "failure": "2002"}
GONE_ON = {"result": "continue"}
OWN_SCRIPT = "0020" + "ee" * 32
BY_ALIAS = tlv.scid_from_str(CHANNEL_SCID)


async def paid(stage: Stage) -> Json:
    """A purchase paid on trust; its funding is owed."""
    invoice = await ready(stage)
    stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    await stage.paid(invoice)
    return invoice


async def tried(stage: Stage, invoice: Json, in_scid: int = BY_ALIAS) -> list[Json | None]:
    """A payment to us, a forward by scid, and one into a channel that lightningd knows; all in over this channel."""
    over = {"in_scid": in_scid, "payment_hash": stage._count.to_bytes(32, "big"), "total_msat": 150_000_000}
    parts = [
        stage.part(invoice, 150_000_000, **over),
        stage.part(invoice, 150_000_000, next_scid=700 << 40, **over),
        stage.part(invoice, 150_000_000, next_scid=700 << 40, forward_to="cc" * 32, **over),
    ]
    await stage.calm()
    return [stage.answer(part) for part in parts]


async def test_w2_an_output_of_the_lsps_own_is_an_alarm_in_time_and_nothing_comes_in(staged: Staging) -> None:
    """wallet:W2: right amount, a P2WSH, mined or not: lightningd, which knows the script, never gives it a scid."""
    async with staged() as stage:
        invoice = await paid(stage)
        stage.fund(script=OWN_SCRIPT)
        await stage.block()
        assert await tried(stage, invoice) == [REFUSED] * 3
        await stage.block(142)
        assert LSP not in stage.client.book.distrusted
        await stage.block(2)
        assert "ALARM" in stage.reports()
        assert "was seen, but not confirmed within 144 blocks" in stage.reports()
        assert LSP in stage.client.book.distrusted
        assert await tried(stage, invoice) == [REFUSED] * 3


async def test_w2_lightningd_that_closes_over_a_wrong_script_is_an_alarm_at_once(staged: Staging) -> None:
    """wallet:W2: it knows the script; a channel that is closed before it is confirmed was not what was paid for."""
    async with staged() as stage:
        await paid(stage)
        stage.fund(script=OWN_SCRIPT)
        await stage.block()
        await stage.state(CHANNEL, "AWAITING_UNILATERAL")
        assert "it was closed before its funding was confirmed" in stage.reports()
        assert LSP in stage.client.book.distrusted


async def test_w3_a_funding_that_is_replaced_has_ten_minutes_and_carries_nothing(staged: Staging) -> None:
    """wallet:W3: seen once, then its inputs went elsewhere; counted from when it was last seen."""
    async with staged() as stage:
        invoice = await paid(stage)
        stage.fund()
        await stage.block()
        assert await tried(stage, invoice) == [REFUSED] * 3
        await stage.pass_time(300)
        stage.node.utxos.clear()
        await stage.pass_time(31)
        assert await tried(stage, invoice) == [REFUSED] * 3
        await stage.pass_time(500)
        assert LSP not in stage.client.book.distrusted
        await stage.pass_time(101)
        assert "has gone, and not come back within 600 s" in stage.reports()
        assert LSP in stage.client.book.distrusted


@pytest.mark.parametrize("scid_too", [True, False], ids=["lightningd knows", "only the backend knows"])
async def test_w3_a_block_that_is_reorganised_away_makes_the_channel_unsound_at_once(
    staged: Staging, scid_too: bool
) -> None:
    """wallet:W3, rule:27: confirmed, then not; by its alias and by the scid it had; confirmed again it is good."""
    async with staged() as stage:
        invoice = await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        had = tlv.scid_from_str(stage.node.channels[0]["short_channel_id"])
        assert await tried(stage, invoice, had) == [GONE_ON] * 3
        assert not stage.client.awaited.guard
        stage.node.utxos.clear()
        if scid_too:
            del stage.node.channels[0]["short_channel_id"]
        stage.client.hear("block_added", block_added={"hash": "01", "height": stage.height})
        assert stage.client.awaited.guard  # before anything was looked at
        await stage.calm()
        for name in (had, BY_ALIAS):
            assert await tried(stage, invoice, name) == [REFUSED] * 3
        assert "was confirmed and is now not seen; nothing comes in over it" in stage.reports()
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert await tried(stage, invoice) == [GONE_ON] * 3


async def test_w3_a_look_that_finds_it_gone_counts_without_a_block(staged: Staging) -> None:
    """wallet:W3: lightningd's own notification, or our look at what is owed, comes sooner than the block."""
    async with staged() as stage:
        invoice = await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert await tried(stage, invoice) == [GONE_ON] * 3
        stage.node.utxos.clear()
        del stage.node.channels[0]["short_channel_id"]
        await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE")
        assert await tried(stage, invoice) == [REFUSED] * 3


@pytest.mark.parametrize("asked_by", ["a look at all", "an HTLC", "an invoice of the owner's"])
async def test_w3_a_block_during_a_look_makes_it_worth_nothing(staged: Staging, asked_by: str) -> None:
    """wallet:W3: the table was read, the block reorganised the funding away, and then the answer was noted."""
    async with staged() as stage:
        invoice = await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        came, call = [], stage.node.call

        async def late(method: str, given: Json | None = None, timeout_s: float | None = 60.0, **_: object) -> Json:
            answer = await call(method, given, timeout_s)
            if method == "getutxout" and not came:
                came.append(1)
                del stage.node.channels[0]["short_channel_id"]  # it is in the mempool again
                stage.client.hear("block_added", block_added={"hash": "01", "height": stage.height})
                await stage.calm(200)  # the look that is due to the block is over before this one
            return answer

        stage.client.watch.block()
        stage.node.call = late  # type: ignore[method-assign]
        if asked_by == "a look at all":
            await stage.client._look_all()
        elif asked_by == "an HTLC":
            await tried(stage, invoice)
            await stage.calm(400)
            assert REFUSED in stage.host.answers.values()
        else:
            assert await stage.client.watch.all_unsafe() == {CHANNEL}
        assert came
        assert not stage.client.watch._sound
        assert await tried(stage, invoice) == [REFUSED] * 3


@pytest.mark.parametrize("all_unsafe", [True, False])
async def test_w3_nor_does_the_rest_of_a_table_of_before_the_block_count(staged: Staging, all_unsafe: bool) -> None:
    """wallet:W3: one table for all looks; the block came while the first of two channels was looked at."""
    async with staged() as stage:
        names = [CHANNEL, "ef" * 32]
        for number, name in enumerate(names):
            row = channel_row(
                channel_id=name, funding_txid=f"{number:064x}", short_channel_id=f"{stage.height}x{number}x1"
            )
            stage.node.channels.append(row)
            stage.fund(txid=row["funding_txid"])
        await stage.restart()
        assert stage.client.watch._sound == set(names)
        came, call = [], stage.node.call

        async def late(method: str, given: Json | None = None, timeout_s: float | None = 60.0, **_: object) -> Json:
            answer = await call(method, given, timeout_s)
            if method == "getutxout" and not came:
                came.append(1)
                for row in stage.node.channels:
                    row.pop("short_channel_id", None)  # both are in the mempool again
                stage.client.hear("block_added", block_added={"hash": "01", "height": stage.height})
                await stage.calm(200)
            return answer

        stage.client.watch.block()
        stage.node.call = late  # type: ignore[method-assign]
        if all_unsafe:
            assert await stage.client.watch.all_unsafe() == set(names)
        else:
            await stage.client._look_all()
        assert not stage.client.watch._sound


@pytest.mark.parametrize("depth", [2, 3, 6])
async def test_w0_as_deep_as_the_owner_asks(staged: Staging, depth: int) -> None:
    """rule:27: one block less is not enough, by its new scid, which we had not been told."""
    async with staged(funding_depth=depth) as stage:
        invoice = await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        had = tlv.scid_from_str(stage.node.channels[0]["short_channel_id"])
        for _ in range(depth - 1):
            await stage.block()
            assert await tried(stage, invoice, had) == [REFUSED] * 3
        await stage.block()
        assert await tried(stage, invoice, had) == [GONE_ON] * 3


async def test_w0_depth_zero_is_for_the_purchase_alone(staged: Staging) -> None:
    """wallet:W2, I-30: seen is enough to be paid what was bought, not to be paid or drained over it."""
    async with staged(funding_depth=0) as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        assert stage.answer(part)["result"] == "continue"  # type: ignore[index]
        assert await tried(stage, invoice) == [REFUSED] * 3


async def test_w0_a_channel_is_watched_before_it_is_there(staged: Staging) -> None:
    """rule:27: an HTLC right behind the yes, sooner than lightningd's notification was looked at."""
    async with staged() as stage:
        invoice = await stage.invoice()
        assert not stage.client.awaited.guard
        await stage.opening()
        assert stage.client.awaited.guard
        stage.node.channels.append(channel_row())
        assert await tried(stage, invoice) == [REFUSED] * 3


async def test_w0_an_unconfirmed_channel_that_nobody_bought_carries_nothing_either(staged: Staging) -> None:
    """rule:27: let in by another plugin's hook, before or after a restart; with its scid it is an ordinary one."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.node.channels.append(channel_row())
        await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
        assert await tried(stage, invoice) == [REFUSED] * 3
        await stage.restart()
        assert await tried(stage, invoice) == [REFUSED] * 3
        stage.fund()
        stage.confirm()
        await stage.block()
        assert await tried(stage, invoice) == [GONE_ON] * 3


async def test_w0_an_ordinary_channel_is_as_deep_as_the_owner_asks_too(staged: Staging) -> None:
    """rule:27: it came from whom it may; found at the start with a single confirmation where three are asked."""
    async with staged(funding_depth=3) as stage:
        invoice = await stage.invoice()
        stage.node.channels.append(channel_row(short_channel_id=f"{stage.height}x1x1"))
        stage.fund()
        await stage.restart()
        assert await tried(stage, invoice) == [REFUSED] * 3
        await stage.block(2)
        assert await tried(stage, invoice) == [GONE_ON] * 3


@pytest.mark.parametrize("depth", [1, 5])
async def test_w3_an_ordinary_channel_may_lose_its_block_too(staged: Staging, depth: int) -> None:
    """wallet:W3, rule:27: a young one that is found at the start, or that we first hear of when it is confirmed."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.node.channels.append(channel_row(short_channel_id=f"{stage.height - depth + 1}x1x1"))
        stage.fund()
        await stage.restart()
        assert await tried(stage, invoice) == [GONE_ON] * 3
        assert not stage.client.awaited.guard
        stage.node.utxos.clear()
        del stage.node.channels[0]["short_channel_id"]
        stage.client.hear("block_added", block_added={"hash": "01", "height": stage.height})
        assert await tried(stage, invoice) == [REFUSED] * 3
        stage.fund()
        stage.confirm(height=stage.height)
        await stage.block(5)
        assert await tried(stage, invoice) == [GONE_ON] * 3
        assert not stage.client.book.channels  # settled: no more watching
        assert not [name for name in stage.node.datastore if "channel" in name]


@pytest.mark.parametrize("depth", [1, 5])
@pytest.mark.parametrize("bought", [True, False])
async def test_w3_lightningds_word_is_not_enough_for_a_young_channel_after_a_start(
    staged: Staging, depth: int, bought: bool
) -> None:
    """wallet:W3, rule:27: a reorg took its block while we were away; lightningd lists its scid, the chain no output."""
    async with staged() as stage:
        invoice = await stage.invoice()
        if bought:
            await stage.channel()
            stage.node.channels.clear()
        stage.node.channels.append(channel_row(short_channel_id=f"{stage.height - depth + 1}x1x1"))
        await stage.restart()
        assert await tried(stage, invoice) == [REFUSED] * 3
        stage.fund()
        await stage.block()
        assert await tried(stage, invoice) == [GONE_ON] * 3


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("state", ["CHANNELD_SHUTTING_DOWN", "CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "ONCHAIN"])
async def test_w3_a_young_channel_that_is_closed_is_not_one_that_lost_its_funding(
    staged: Staging, state: str, away: bool
) -> None:
    """wallet:W3, K-13: the close spends the output; lightningd lists the block it was in. No alarm, no distrust."""
    async with staged() as stage:
        await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        await stage.block()
        stage.node.utxos.clear()
        await stage.state(CHANNEL, state, cause="user")
        await stage.block()
        if away:
            await stage.restart()
        await stage.pass_time(601)
        assert "ALARM" not in stage.reports()
        assert LSP not in stage.client.book.distrusted


async def test_w0_it_is_watched_while_it_is_written_down(staged: Staging) -> None:
    """rule:27: an HTLC between finding a channel and noting what it is for."""
    async with staged() as stage:
        await stage.invoice()
        await stage.opening()
        stage.node.channels.append(channel_row())
        good, watched = stage.node.do_datastore, []

        def looking(params: Json) -> Json:
            stage.client.watch.guard()
            watched.append(stage.client.awaited.guard)
            return good(params)

        stage.node.do_datastore = looking  # type: ignore[method-assign]
        await stage.state(CHANNEL, "CHANNELD_AWAITING_LOCKIN", None)
        assert watched
        assert all(watched)


async def test_w0_our_own_channels_are_sound(staged: Staging) -> None:
    """rule:27: what we funded ourselves, however young, is not watched."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(opener="local"))
        await stage.state(CHANNEL, "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
        assert not stage.client.awaited.guard


async def test_cln_w11_no_htlc_is_let_in_before_the_channels_were_looked_at(staged: Staging) -> None:
    """cln:W11, rule:27: a node that does not answer at the start; unknown is not sound."""
    async with staged() as stage:
        await paid(stage)
        await stage.stop()
        stage.node.faults["listpeerchannels"] = [NodeError("listpeerchannels", -1, "busy")] * 3
        stage._born()
        stage.host.spawn(stage.client._start())
        await stage.calm()
        assert not stage.host.loaded
        for _ in range(10):
            await stage.pass_time(5)
        assert stage.host.loaded
        assert stage.client.awaited.guard
