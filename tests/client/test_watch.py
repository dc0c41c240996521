"""After the sale: fundings that are owed, LSPs that break their word, channels that were given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.client import CHANNEL, LSP, OTHER_LSP, TXID, FakeRequest, Json, Stage, Staging, channel_row

from lsps2fast._tlv import scid_from_str
from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.records import Distrust
from lsps2fast_plugin.client.route_hints import rewritten
from lsps2fast_plugin.cln.htlc_filter import Verdict
from lsps2fast_plugin.cln.models import peer_channels

ALIAS = channel_row()["alias"]["local"]
FEE = 1_000_000
WATCHED = ("lsps2fast", "client", "channel", CHANNEL)
DISTRUSTED = ("lsps2fast", "client", "distrust", LSP)


async def paid(stage: Stage) -> Json:
    """A payment made in client-trusts-LSP mode; the funding is owed."""
    stage.lsp.trust = True
    invoice = await stage.invoice(client_trusts_lsp=True)
    await stage.channel()
    stage.part(invoice, 20_000_000, FEE)
    await stage.calm()
    stage.node.channels[0]["to_us_msat"] = stage.node.channels[0]["max_to_us_msat"] = 19_000_000
    await stage.paid(invoice)
    return invoice


async def test_a_funding_that_appears_in_time_ends_the_watch(staged: Staging) -> None:
    """I-33, trap:46: in the mempool it is still watched, confirmed it is done; the datastore is empty then."""
    async with staged() as stage:
        await paid(stage)
        assert stage.keys == {CHANNEL}
        stage.fund()
        await stage.pass_time(1_000)
        assert stage.keys == {CHANNEL}
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert (await stage.client._status())["channels"] == []
        assert not stage.client.awaited.guard
        await stage.block(5)
        assert not stage.working
        assert not stage.client.reports.kept


async def test_a_channel_that_blocks_in_one_breath_settle_stays_dropped(staged: Staging) -> None:
    """wallet:W3, I-33: looks of six blocks go side by side; an earlier one does not bring the record back."""
    async with staged() as stage:
        await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height + 1)
        for _ in range(6):
            stage.height += 1
            stage.client.hear("block_added", block_added={"hash": "00", "height": stage.height})
        await stage.calm(200)
        assert WATCHED not in stage.node.datastore
        assert not stage.client.book.channels


async def test_a_funding_that_is_confirmed_already_is_not_watched(staged: Staging) -> None:
    """A-08: LSP-trusts-client mode ends with the payment."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm(height=stage.height)
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        await stage.paid(invoice)
        assert not stage.client.watch.owed
        await stage.block(5)
        assert not stage.working


async def test_a_funding_that_does_not_appear_raises_the_alarm_once(staged: Staging) -> None:
    """trap:46: warned, distrusted, no longer offered; all of it durable."""
    async with staged() as stage:
        await paid(stage)
        await stage.pass_time(599)
        assert DISTRUSTED not in stage.node.datastore
        await stage.pass_time(2)
        assert DISTRUSTED in stage.node.datastore
        assert stage.host.said("warn").count("ALARM") == 1
        assert "not seen within 600 s" in stage.reports()
        assert stage.client.awaited.guard
        await stage.pass_time(1_000)
        await stage.block(3)
        assert stage.host.said("warn").count("ALARM") == 1
        await stage.restart()
        assert stage.client.awaited.guard
        assert LSP in stage.client.book.distrusted


@pytest.mark.parametrize(("sat", "script"), [(200_001, "0020" + "5a" * 32), (200_000, "5120" + "5a" * 32)])
async def test_a_funding_that_is_not_what_was_agreed_raises_the_alarm(staged: Staging, sat: int, script: str) -> None:
    """trap:46: wrong amount or script is detected, also when it is broadcast."""
    async with staged() as stage:
        await paid(stage)
        stage.fund(sat, script)
        await stage.block()
        assert "not the output that was agreed" in stage.reports()
        assert DISTRUSTED in stage.node.datastore


async def test_a_funding_that_comes_late_lifts_the_guard_but_not_the_distrust(staged: Staging) -> None:
    """trap:46: confirmed the channel is good after all, not when it is only seen; the LSP's word was not."""
    async with staged() as stage:
        await paid(stage)
        await stage.pass_time(601)
        stage.fund()
        await stage.block()
        assert stage.client.awaited.guard
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert not stage.client.awaited.guard
        assert "after all" in stage.host.said("info")
        await stage.block(5)
        assert set(stage.working) == {DISTRUSTED}


async def test_a_funding_that_is_owed_is_looked_at_when_that_is_due(staged: Staging) -> None:
    """trap:46: with each block, half a minute after the last look, and when its time is over; other things that
    happen are no reason to ask bitcoind.
    """
    async with staged(funding_timeout_ms=45_000) as stage:
        await paid(stage)
        await stage.pass_time(0.001)  # the look that the payment made due

        def looks() -> int:
            return len(stage.node.named("getutxout"))

        before = looks()
        for _ in range(5):
            stage.client._rearm.set()
            await stage.calm()
        await stage.pass_time(29)
        assert looks() == before
        await stage.pass_time(2)
        assert looks() == before + 1
        await stage.block()
        assert looks() == before + 2
        await stage.pass_time(15)  # 46 s after the payment, 15 after the look
        assert looks() == before + 3
        assert "was not seen within 45 s" in stage.reports()


async def test_an_error_of_the_backend_is_not_a_missing_funding(staged: Staging) -> None:
    """K-13: unknown."""
    async with staged() as stage:
        await paid(stage)
        stage.node.faults["getutxout"] = [NodeError("getutxout", -1, "bitcoind is away")] * 50
        await stage.pass_time(2_000)
        assert DISTRUSTED not in stage.node.datastore


async def test_a_channel_closed_in_the_ordinary_way_is_not_missing(staged: Staging) -> None:
    """The funding was spent while we did not look."""
    async with staged() as stage:
        await paid(stage)
        stage.node.closed.append({"channel_id": CHANNEL, "short_channel_id": "801x1x1"})
        stage.node.channels.clear()
        await stage.pass_time(2_000)
        assert not stage.working


async def test_a_channel_that_vanished_without_funding_is_missing(staged: Staging) -> None:
    """trap:46: what lightningd forgot was never there; the distrust stays when the watch ends."""
    async with staged() as stage:
        await paid(stage)
        stage.node.channels.clear()
        await stage.pass_time(601)
        await stage.pass_time(31)
        assert set(stage.working) == {DISTRUSTED}
        assert not stage.client.awaited.guard


async def test_a_payment_settled_while_we_were_away_is_watched_from_the_start(staged: Staging) -> None:
    """cln:F4: notifications are not repeated; the tables tell."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        next(iter(stage.node.invoices.values()))["status"] = "paid"
        await stage.restart()
        assert stage.keys == {CHANNEL}
        assert [channel.channel_id for channel in stage.client.watch.owed] == [CHANNEL]


async def test_a_store_that_fails_at_the_payment_is_made_good_at_the_next_start(staged: Staging) -> None:
    """K-08, rule:11."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "disk full")]
        await stage.paid(invoice)
        assert "put off" in stage.host.said("warn")
        await stage.restart()
        assert stage.keys == {CHANNEL}


async def test_a_look_that_cannot_be_written_down_fails_no_payment(staged: Staging) -> None:
    """K-13, I-32: it can be looked again; what was stored of the held parts stays."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        part = stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "the node is going down")] * 2
        stage.fund()
        await stage.pass_time(6)
        assert stage.answer(part) is None
        assert "it is looked at again" in stage.host.said("warn")
        stage.confirm(height=stage.height + 1)
        await stage.block()
        assert stage.answer(part)["result"] == "continue"  # type: ignore[index]


# --- Nothing over a channel without funding ---------------------------------------------------------------------------


async def test_payments_over_the_missing_channel_are_refused_and_others_let_go(staged: Staging) -> None:
    """trap:46: what comes over it would be lost; everything else of the node goes on."""
    async with staged() as stage:
        invoice = await paid(stage)
        await stage.pass_time(601)
        stage.node.channels.append(
            channel_row(channel_id="ef" * 32, alias={"local": "7x7x7"}, short_channel_id="700x1x1")
        )
        foreign = {"payment_hash": b"\x01" * 32}
        over = stage.part(invoice, 1_000, **foreign)
        beside = stage.part(invoice, 1_000, in_scid=7 << 40 | 7 << 16 | 7, **foreign)
        onward = stage.part(invoice, 1_000, next_scid=9, **foreign)
        away = stage.part(invoice, 1_000, next_scid=9, in_scid=7 << 40 | 7 << 16 | 7, **foreign)
        await stage.calm()
        assert [stage.answer(part) for part in (over, onward)] == [{"result": "fail", "failure": "2002"}] * 2
        assert [stage.answer(part) for part in (beside, away)] == [{"result": "continue"}] * 2
        assert "never funded" in stage.reports()


async def test_nothing_but_its_purchase_is_received_over_a_channel_whose_funding_is_not_there(staged: Staging) -> None:
    """trap:46, I-30: an LSP that opens, never funds, and forwards what else is paid to the wallet."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        other = {"payment_hash": b"\x01" * 32}
        early = stage.part(invoice, 1_000, **other)
        await stage.calm()
        assert stage.answer(early) == {"result": "fail", "failure": "2002"}
        assert f"refused 1000 msat over channel {CHANNEL}: its funding transaction is not seen" in stage.reports()
        stage.fund()
        shallow = stage.part(invoice, 1_000, **other)
        await stage.calm()
        assert stage.answer(shallow) == {"result": "fail", "failure": "2002"}
        stage.confirm(height=stage.height)
        deep = stage.part(invoice, 1_000, **other)
        await stage.calm()
        assert stage.answer(deep) == {"result": "continue"}
        assert not stage.client.awaited.guard


async def test_after_a_purchase_on_trust_it_is_not_enough_to_see_the_funding(staged: Staging) -> None:
    """wallet:W2, wallet:W3: the consent was to the purchase; seen is not confirmed, and may be any output."""
    async with staged() as stage:
        invoice = await paid(stage)
        early = stage.part(invoice, 1_000, payment_hash=b"\x01" * 32)
        await stage.calm()
        stage.fund()
        seen = stage.part(invoice, 1_000, payment_hash=b"\x02" * 32)
        await stage.calm()
        stage.confirm(height=stage.height)
        deep = stage.part(invoice, 1_000, payment_hash=b"\x03" * 32)
        await stage.calm()
        assert [stage.answer(part) for part in (early, seen)] == [{"result": "fail", "failure": "2002"}] * 2
        assert stage.answer(deep) == {"result": "continue"}


async def test_channels_of_an_lsp_that_is_trusted_need_no_guard(staged: Staging) -> None:
    """I-15: its word is enough for the owner, until it breaks it."""
    async with staged(trusted=frozenset({LSP})) as stage:
        await stage.invoice()
        await stage.channel()
        assert not stage.client.awaited.guard
        await stage.client.book.distrust(Distrust(LSP, "x", 1))
        assert stage.client.awaited.guard
        await stage.client.methods.trust(LSP)
        assert not stage.client.awaited.guard


async def test_a_funding_that_cannot_be_looked_at_is_not_there(staged: Staging) -> None:
    """K-13, K-20: the payer may try again."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.node.faults["getutxout"] = [NodeError("getutxout", -1, "bitcoind is away")]
        part = stage.part(invoice, 1_000, payment_hash=b"\x01" * 32)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert "cannot be looked at" in stage.reports()


async def test_a_bug_of_the_guard_costs_a_temporary_failure(staged: Staging) -> None:
    """K-20: whatever is raised."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.client.chain.funding = None  # type: ignore[method-assign, assignment]
        part = stage.part(invoice, 1_000, payment_hash=b"\x01" * 32)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert "TypeError" in stage.host.said("error")


async def test_without_a_missing_channel_foreign_payments_never_reach_us(staged: Staging) -> None:
    """Foreign HTLCs as quick as in the service."""
    async with staged() as stage:
        await paid(stage)
        stage.fund()
        stage.confirm(height=stage.height)
        await stage.pass_time(31)
        stage.client.interest.loaded = True
        judge = stage.client.interest.judge
        assert judge(-1, None, b"\x01" * 32, False) is Verdict.FOREIGN
        assert judge(-1, None, next(iter(stage.client.awaited.hashes)), False) is Verdict.OURS
        stage.client.awaited.watch({LSP})
        assert judge(-1, None, b"\x01" * 32, False, LSP) is Verdict.OURS
        assert judge(5, CHANNEL, b"\x01" * 32, False, LSP) is Verdict.OURS
        assert judge(5, CHANNEL, b"\x01" * 32, False, OTHER_LSP) is Verdict.FOREIGN


async def test_a_payment_whose_channel_cannot_be_looked_up_is_failed(staged: Staging) -> None:
    """rule:27: unknown is not sound; the payer may try again."""
    async with staged() as stage:
        invoice = await paid(stage)
        await stage.pass_time(601)
        stage.node.faults["listpeerchannels"] = [NodeError("listpeerchannels", -1, "x")]
        part = stage.part(invoice, 1_000, payment_hash=b"\x01" * 32, in_scid=5)
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}


GOOD = channel_row(channel_id="ef" * 32, alias={"local": "7x7x7", "remote": "8x8x8"})
BAD = channel_row()
PUBLIC = channel_row(channel_id="12" * 32, private=False, short_channel_id="5x5x5")


@pytest.mark.parametrize(
    ("params", "rows", "exposed"),
    [
        ({"label": "l"}, [BAD], False),
        ({"label": "l"}, [BAD, GOOD], ["7x7x7"]),
        ({"label": "l"}, [BAD, GOOD, PUBLIC], None),
        ({"label": "l", "exposeprivatechannels": True}, [BAD, GOOD, PUBLIC], ["7x7x7"]),
        ({"label": "l", "exposeprivatechannels": "true"}, [BAD, PUBLIC], False),
        ({"label": "l", "exposeprivatechannels": False}, [BAD, GOOD], None),
        ({"label": "l", "exposeprivatechannels": ["7x7x7"]}, [BAD, GOOD], None),
        ({"label": "l", "exposeprivatechannels": [BAD["alias"]["local"], "7x7x7"]}, [BAD, GOOD], ["7x7x7"]),
        ({"label": "l", "exposeprivatechannels": BAD["alias"]["local"]}, [BAD, GOOD], False),
        ([1000, "l", "d"], [BAD, GOOD], ["7x7x7"]),
    ],
    ids=str,
)
def test_the_owners_own_invoices_do_not_offer_it(params: Any, rows: list[Json], exposed: Any) -> None:
    """trap:46: `invoice` with exposeprivatechannels as the caller wished, less the missing channel."""
    got = rewritten(params, peer_channels({"channels": rows}), {CHANNEL})
    assert (got or {}).get("exposeprivatechannels") == exposed
    assert got is None or got["label"] == "l"


def test_what_an_invoice_offers_goes_by_its_alias() -> None:
    """A-01: never the real scid, never the jit scid, also when the channel has confirmed."""
    rows = [BAD, GOOD | {"short_channel_id": "700x1x1"}]
    asked = rewritten({"label": "l"}, peer_channels({"channels": rows}), {CHANNEL})
    assert asked == {
        "label": "l",
        "exposeprivatechannels": ["7x7x7"],
    }


async def test_the_invoice_command_is_rewritten_only_while_a_funding_is_missing(staged: Staging) -> None:
    """trap:46: rpc_command, filtered to `invoice`; not in sight, in the mempool, gone again for too long."""
    async with staged() as stage:
        await paid(stage)
        command = {"id": 1, "method": "invoice", "params": {"label": "l"}}
        hidden = {"replace": {**command, "params": {"label": "l", "exposeprivatechannels": False}}}

        async def answer() -> Json | None:
            request = FakeRequest()
            stage.client._on_rpc_command(request, command)  # type: ignore[arg-type]
            await stage.calm()
            return request.result

        assert await answer() == hidden
        stage.fund()
        assert await answer() == hidden
        stage.confirm(height=stage.height)
        assert await answer() == {"replace": {**command, "params": {"label": "l", "exposeprivatechannels": [ALIAS]}}}
        assert await answer() == {"result": "continue"}
        stage.node.utxos.clear()
        await stage.block()
        assert await answer() == hidden


async def test_the_invoice_command_goes_on_whatever_happens(staged: Staging) -> None:
    """K-20: a broken hook must not stop the owner."""
    async with staged() as stage:
        await paid(stage)
        await stage.pass_time(601)
        stage.node.faults["listpeerchannels"] = [NodeError("listpeerchannels", -1, "x")]
        request = FakeRequest()
        stage.client._on_rpc_command(request, {"method": "invoice", "params": {}})  # type: ignore[arg-type]
        await stage.calm()
        assert request.result == {"result": "continue"}


# --- Channels that were given up --------------------------------------------------------------------------------------


async def given_up(stage: Stage, state: str, **fields: Any) -> None:
    stage.lsp.trust = True
    await stage.invoice(client_trusts_lsp=True)
    await stage.channel()
    stage.node.channels[0] |= fields
    await stage.state(CHANNEL, state)


@pytest.mark.parametrize("state", ["CLOSINGD_COMPLETE", "CHANNELD_SHUTTING_DOWN", "AWAITING_UNILATERAL"])
async def test_a_channel_the_lsp_gave_up_is_cleaned_away(staged: Staging, state: str) -> None:
    """cln:A4: our side does not learn; with developer mode it goes, the approval stays usable (O-16)."""
    async with staged() as stage:
        stage.node.developer = True
        await given_up(stage, state)
        assert stage.node.named("dev-forget-channel") == [{"id": LSP, "channel_id": CHANNEL}]
        assert bool(stage.node.named("close")) == (state == "CHANNELD_SHUTTING_DOWN")
        assert not stage.node.channels
        assert WATCHED not in stage.node.datastore
        assert len(stage.client.book.approvals) == 1


async def test_two_looks_at_once_forget_a_channel_once(staged: Staging) -> None:
    """Seen on a real node: lightningd dies of a second dev-forget-channel while the first is under way."""
    async with staged() as stage:
        stage.node.developer = True
        stage.lsp.trust = True
        await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        stage.node.channels[0]["state"] = "CLOSINGD_COMPLETE"
        await asyncio.gather(stage.client.watch.look_all(), stage.client.watch.look_all())
        assert stage.node.named("dev-forget-channel") == [{"id": LSP, "channel_id": CHANNEL}]


async def test_without_developer_mode_the_rest_is_lightningds(staged: Staging) -> None:
    """cln:A4: said once; nothing of ours is kept."""
    async with staged() as stage:
        await given_up(stage, "CLOSINGD_COMPLETE")
        assert "stays listed until lightningd forgets it" in stage.host.said("info")
        assert WATCHED not in stage.node.datastore


@pytest.mark.parametrize(("passed_s", "lives"), [(0, 1), (0, 2), (3_600, 2)])
async def test_the_owner_reads_what_a_channel_is_that_the_lsp_gave_up(
    staged: Staging, passed_s: int, lives: int
) -> None:
    """cln:A4: in words, as long as lightningd lists it, over restart and end of the purchase; no invoice offers it."""
    async with staged() as stage:
        await given_up(stage, "CLOSINGD_COMPLETE")
        await stage.pass_time(passed_s)
        for _ in range(lives - 1):
            await stage.restart()
        status = await stage.client._status()
        ((dead,), channels) = status["given_up"], status["channels"]
        assert (dead["channel_id"], dead["lsp_id"], dead["state"]) == (CHANNEL, LSP, "CLOSINGD_COMPLETE")
        assert "there is nothing to do: lightningd forgets it 2016 blocks" in dead["note"]
        assert channels == []
        rows = peer_channels({"channels": [*stage.node.channels, GOOD]})
        offered = rewritten({"label": "l"}, rows, await stage.client.watch.all_unsafe())
        assert offered == {"label": "l", "exposeprivatechannels": [GOOD["alias"]["local"]]}


@pytest.mark.parametrize(
    "fields",
    [{"state": "CHANNELD_NORMAL"}, {"opener": "local"}, {"max_to_us_msat": 1}, {"short_channel_id": "801x1x1"}],
    ids=str,
)
async def test_other_channels_are_not_called_given_up(staged: Staging, fields: Json) -> None:
    """cln:A4: in use, our own, with money of ours in it, on chain."""
    async with staged() as stage:
        stage.node.channels.append(channel_row(**{"state": "CLOSINGD_COMPLETE", **fields}))
        await stage.restart()
        assert (await stage.client._status())["given_up"] == []


async def test_a_closed_channel_whose_funding_is_in_sight_is_not_called_given_up(staged: Staging) -> None:
    """cln:A4: it was broadcast after all."""
    async with staged() as stage:
        stage.fund()
        stage.node.channels.append(channel_row(state="CLOSINGD_COMPLETE"))
        await stage.restart()
        assert (await stage.client._status())["given_up"] == []


async def test_what_lightningd_has_forgotten_is_no_longer_said_to_be_given_up(staged: Staging) -> None:
    """cln:A4: 2016 blocks later; until then its state is the one lightningd shows."""
    async with staged() as stage:
        await given_up(stage, "CLOSINGD_COMPLETE")
        stage.node.channels[0]["state"] = "AWAITING_UNILATERAL"
        await stage.block()
        assert [dead["state"] for dead in (await stage.client._status())["given_up"]] == ["AWAITING_UNILATERAL"]
        stage.node.channels.clear()
        await stage.block()
        assert (await stage.client._status())["given_up"] == []


@pytest.mark.parametrize(
    "fields", [{"max_to_us_msat": 1}, {"short_channel_id": "801x1x1"}], ids=["money was in it", "it is on chain"]
)
async def test_a_channel_with_a_stake_is_never_forgotten(staged: Staging, fields: Json) -> None:
    """cln:A4, K-11 for the wallet."""
    async with staged() as stage:
        stage.node.developer = True
        await given_up(stage, "CLOSINGD_COMPLETE", **fields)
        await stage.block(3)
        assert not stage.node.named("dev-forget-channel")


async def test_a_channel_whose_funding_is_in_sight_is_never_forgotten(staged: Staging) -> None:
    """cln:A4: it was broadcast after all."""
    async with staged() as stage:
        stage.node.developer = True
        stage.fund()
        await given_up(stage, "CLOSINGD_COMPLETE")
        assert not stage.node.named("dev-forget-channel")


async def test_a_channel_that_is_gone_is_forgotten_here_too(staged: Staging) -> None:
    """I-33."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        assert WATCHED in stage.node.datastore
        stage.node.channels.clear()
        await stage.block()
        assert WATCHED not in stage.node.datastore


async def test_an_unpaid_channel_that_confirmed_is_an_ordinary_one(staged: Staging) -> None:
    """I-33: LSP-trusts-client, unpaid: when the purchase is over nothing is kept."""
    async with staged() as stage:
        await stage.invoice()
        await stage.channel()
        stage.confirm()
        await stage.pass_time(3_600)
        await stage.block(6)
        assert WATCHED not in stage.node.datastore
        assert not stage.client.awaited.guard


async def test_what_is_watched_names_its_outpoint(staged: Staging) -> None:
    """trap:46: it can be checked by hand."""
    async with staged() as stage:
        await paid(stage)
        status = await stage.client._status()
        assert status["channels"][0]["funding_txid"] == TXID
        assert status["channels"][0]["funding"] == "owed"


async def test_a_peer_cannot_take_the_name_of_another_channel(staged: Staging) -> None:
    """rule:25, cln:H3: lightningd never calls a channel by the alias its peer chose, so neither do we."""
    async with staged() as stage:
        alias = {"local": "9x9x9", "remote": BAD["alias"]["local"]}
        stage.node.channels += [channel_row(), channel_row(channel_id="ef" * 32, peer_id=LSP, alias=alias)]
        assert await stage.client.chain.channel_of(scid_from_str(BAD["alias"]["local"])) == CHANNEL


async def test_w0_a_missing_funding_stays_missing_for_an_lsp_that_is_trusted_again(staged: Staging) -> None:
    """wallet:W0, rule:27: the owner forgives, and names it in lsps2-trusted-lsp; it still carries nothing."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await paid(stage)
        await stage.pass_time(700)
        assert (await stage.client.methods.trust(LSP))["was_distrusted"]
        for onward in (-1, 12345):
            strange = {**invoice, "payment_hash": "77" * 32}
            part = stage.part(strange, 5_000_000, in_scid=scid_from_str(ALIAS), next_scid=onward)
            await stage.calm()
            assert stage.answer(part) == {"result": "fail", "failure": "2002"}


async def test_rule_14_channels_of_strangers_cost_one_table_a_block(staged: Staging) -> None:
    """rule:14, wallet:W0: anyone may open channels to us and never fund them; nothing is written."""
    async with staged() as stage:
        for number in range(200):
            peer_id = f"02{number:064x}"
            row = channel_row(channel_id=f"{number:064x}", peer_id=peer_id, alias={"local": f"{number + 1}x1x1"})
            stage.node.channels.append(row)
            await stage.state(row["channel_id"], "CHANNELD_AWAITING_LOCKIN", None, peer_id)
        assert len(stage.client.book.channels) == 200
        for work in (stage.block(), stage.client.watch.all_unsafe()):
            before = len(stage.node.named("listpeerchannels"))
            await work
            await stage.calm(1_000)
            assert len(stage.node.named("listpeerchannels")) - before == 1
        assert len(await stage.client.watch.all_unsafe()) == 200
        assert not stage.keys
        stage.node.channels.clear()
        await stage.block()
        await stage.calm(1_000)
        assert not stage.client.book.channels
        assert not stage.client.awaited.guard
