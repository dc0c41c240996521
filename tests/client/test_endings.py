"""Starts, ends, and staying in touch: I-19, I-33, K-08, and what the owner sees."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from harness.client import CHANNEL, JIT_SCID, LSP, NOW_MS, STRANGER, Json, Stage, Staging, entry, failure_of

from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.lsps2 import format_datetime

FEE = 1_000_000


async def test_nothing_is_left_after_success_but_the_watch(staged: Staging) -> None:
    """I-33: the approval goes with the payment; late parts are still known in memory."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm()
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        await stage.paid(invoice)
        await stage.block(6)
        assert not stage.working
        assert (await stage.client._status())["approvals"][0]["state"] == "paid"
        await stage.pass_time(3_600)
        assert not stage.client.book.approvals
        assert not stage.client.awaited.hashes


async def test_work_that_is_cancelled_before_it_begins_leaves_no_coroutine(staged: Staging) -> None:
    """rule:17: the node ends in the same turn in which it told of a payment and of a channel."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await stage.invoice()
        preimage = stage.preimages[bytes.fromhex(invoice["payment_hash"])]
        stage.client.hear("invoice_payment", invoice_payment={"msat": 1, "preimage": preimage.hex(), "label": "x"})
        event = {"peer_id": LSP, "channel_id": CHANNEL, "new_state": "CHANNELD_NORMAL", "cause": "user"}
        stage.client.hear("channel_state_changed", channel_state_changed=event)
        await stage.stop()  # "never awaited" is an error here, as every warning
        gc.collect()


async def test_nothing_is_left_after_the_offer_ended(staged: Staging) -> None:
    """I-33, B-14 for the wallet: a timer, not only a restart."""
    async with staged() as stage:
        await stage.invoice()
        await stage.client.methods.buy(LSP, None, stage.lsp.entries[0])
        assert len(stage.keys) == 2
        await stage.pass_time(3_589)
        assert len(stage.keys) == 2
        await stage.pass_time(2)
        assert not stage.client.awaited.hashes
        await stage.pass_time(10)
        assert set(stage.working) == {("lsps2fast", "client", "lapsed", LSP)}


async def test_an_approval_does_not_outlive_its_invoice(staged: Staging) -> None:
    """I-33: whatever the LSP says about its offer, no LSP is dialled and nothing accepted for a dead invoice."""
    async with staged() as stage:
        stage.lsp.entries = [entry(valid_until="9999-01-01T00:00:00Z")]
        await stage.invoice(expiry=120)
        await stage.pass_time(121)
        assert not stage.client.book.approvals
        stage.disconnect(LSP)
        await stage.calm()
        assert not stage.node.named("connect")


async def test_what_ended_unpaid_is_remembered_over_a_restart_until_the_next_purchase(staged: Staging) -> None:
    """I-11: an LSP that opens too late is told apart from a stranger; one short record an LSP."""
    async with staged() as stage:
        await stage.invoice()
        await stage.pass_time(3_600)
        await stage.restart()
        (lsp,) = (await stage.client._status())["lsps"]
        assert lsp["last_lapse"] == format_datetime(NOW_MS + 3_590_000)
        assert await stage.opening() == {"result": "continue"}
        assert f"what it was bought for ended {lsp['last_lapse']}" in stage.reports()
        stage.lsp.entries = [entry(valid_until="2030-01-01T00:00:00Z")]
        await stage.invoice()
        assert not stage.client.book.lapsed
        assert [key for key in stage.working if key[:2] != ("lsps", "invoice")] == []


async def test_parts_held_at_the_end_of_the_offer_are_not_forgotten(staged: Staging) -> None:
    """I-33, C-17: the approval ends after its parts were answered."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        await stage.pass_time(3_580)
        part = stage.part(invoice, 10_000_000, FEE)
        await stage.calm()
        await stage.pass_time(20)
        assert stage.answer(part) is None
        assert invoice["payment_hash"] in stage.keys
        await stage.pass_time(90)
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}
        await stage.calm()
        assert invoice["payment_hash"] not in stage.keys


@pytest.mark.parametrize("jump_s", [-7_200, 7_200])
async def test_a_jump_of_the_wall_clock_fails_no_set(staged: Staging, jump_s: int) -> None:
    """K-25: time-outs are monotonic; only `valid_until` is the wall clock's."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.channel()
        part = stage.part(invoice, 10_000_000, FEE)
        await stage.calm()
        stage.clock.wall_jump_ms = jump_s * 1000
        await stage.pass_time(89)
        assert stage.answer(part) is None
        await stage.pass_time(2)
        assert stage.answer(part) == {"result": "fail", "failure": "0017"}
        await stage.calm()
        assert (invoice["payment_hash"] in stage.keys) == (jump_s < 0)


async def test_a_payment_released_at_the_end_of_the_offer_is_not_lost(staged: Staging) -> None:
    """I-33: lightningd is asked whether it was paid."""
    async with staged() as stage:
        stage.lsp.trust = True
        invoice = await stage.invoice(client_trusts_lsp=True)
        await stage.channel()
        stage.part(invoice, 20_000_000, FEE)
        await stage.calm()
        next(iter(stage.node.invoices.values()))["status"] = "paid"
        await stage.pass_time(3_600)
        assert invoice["payment_hash"] not in stage.keys
        assert len(stage.client.watch.owed) == 1


async def test_everything_is_there_again_after_a_restart(staged: Staging) -> None:
    """K-07, K-24: buys, approvals, what the host must hand over."""
    async with staged() as stage:
        invoice = await stage.invoice()
        await stage.client.methods.buy(LSP, "20000000", stage.lsp.entries[0])
        before = (await stage.client._status())["approvals"], (await stage.client._status())["buys"]
        await stage.restart()
        assert stage.host.loaded
        after = (await stage.client._status())["approvals"], (await stage.client._status())["buys"]
        assert after == before
        assert stage.client.awaited.hashes == {bytes.fromhex(invoice["payment_hash"])}


GOOD = {
    "version": 1,
    "lsp_id": LSP,
    "jit_channel_scid": JIT_SCID,
    "opening_fee_params": entry(),
    "lsp_cltv_expiry_delta": 144,
    "client_trusts_lsp": False,
    "opening_fee_msat": "1",
    "largest_payment_msat": "1",
    "max_fee_msat": "1",
    "max_fee_ppm": 1,
    "consent": False,
    "created_ms": 1,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("11" * 32, b"\xff"),
        ("11" * 32, b"[]"),
        ("11" * 32, b"null"),
        ("11" * 32, b'"' + LSP.encode() + b'"'),
        ("11" * 32, json.dumps({**GOOD, "version": 2}).encode()),
        ("11" * 32, json.dumps({**GOOD, "lsp_id": "x"}).encode()),
        ("11" * 32, json.dumps({key: value for key, value in GOOD.items() if key != "max_fee_msat"}).encode()),
        ("11" * 31, json.dumps(GOOD).encode()),
        ("zz", json.dumps(GOOD).encode()),
    ],
)
async def test_one_broken_record_does_not_hinder_the_others(staged: Staging, name: str, value: bytes) -> None:
    """K-08, K-24: said, kept, left alone."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.node.datastore["lsps", "invoice", name] = value
        await stage.restart()
        assert {each.hex() for each in stage.client.book.approvals} == {invoice["payment_hash"]}
        assert stage.node.datastore["lsps", "invoice", name] == value
        assert "is left alone" in stage.host.said("warn")


async def test_the_owner_is_told_what_to_do_about_a_record_of_the_built_in_client(staged: Staging) -> None:
    """K-24: it has no version and notes no fee, so nothing can be checked against it."""
    async with staged() as stage:
        old = {key: value for key, value in GOOD.items() if key != "version"}
        stage.node.datastore["lsps", "invoice", "11" * 32] = json.dumps(old).encode()
        await stage.restart()
        assert "made by CLN's built-in client, which notes no fee; make a new invoice" in stage.host.said("warn")
        assert not stage.client.book.approvals


async def test_records_tolerate_what_they_do_not_know(staged: Staging) -> None:
    """K-24: unknown members, missing optional ones."""
    async with staged() as stage:
        stage.node.datastore["lsps", "invoice", "11" * 32] = json.dumps({**GOOD, "later": 1}).encode()
        await stage.restart()
        (approval,) = stage.client.book.approvals.values()
        assert (approval.buy.payment_size_msat, approval.payment_secret, approval.label) == (None, None, None)


@pytest.mark.parametrize("method", ["getinfo", "listconfigs", "listdatastore", "listpeers"])
async def test_a_slow_node_at_the_start_is_asked_again(staged: Staging, method: str) -> None:
    """rule:10, K-08: nothing is lost because one call failed."""
    stage = Stage()
    stage.node.faults[method] = [NodeError(method, -28, "warming up")] * 3
    await stage.start()
    for pause_s in (0.5, 1, 2):  # each twice as long as the one before
        await stage.pass_time(pause_s)
    assert stage.host.loaded
    assert await stage.invoice()
    await stage.stop()


async def test_an_approval_that_cannot_be_looked_up_at_the_start_is_kept(staged: Staging) -> None:
    """K-13: an error is not a missing invoice."""
    async with staged() as stage:
        await stage.invoice()
        stage.node.faults["listinvoices"] = [NodeError("listinvoices", -1, "x")]
        await stage.restart()
        assert len(stage.client.book.approvals) == 1


# --- Reconnecting -----------------------------------------------------------------------------------------------------


def dialled(stage: Stage) -> list[str]:
    return [call["id"] for call in stage.node.named("connect")]


async def test_an_lsp_that_owes_a_channel_is_dialled_again(staged: Staging) -> None:
    """I-19: by id, then by its last address, with growing pauses, until it is back."""
    async with staged() as stage:
        await stage.invoice()
        stage.disconnect(LSP)
        await stage.calm()
        assert dialled(stage) == [LSP, f"{LSP}@127.0.0.1:9735"]
        for seconds in (1, 2, 4):
            await stage.pass_time(seconds - 0.1)
            count = len(dialled(stage))
            await stage.pass_time(0.2)
            assert len(dialled(stage)) == count + 2
        stage.node.reachable.add(f"{LSP}@127.0.0.1:9735")
        await stage.pass_time(60)
        assert LSP in stage.node.peers
        count = len(dialled(stage))
        await stage.pass_time(600)
        assert len(dialled(stage)) == count


@pytest.mark.parametrize("given", ["203.0.113.7:9736", "[2001:db8::7]:9735", "lsp.example", f"{'v' * 56}.onion:9735"])
async def test_an_lsp_is_dialled_where_its_owner_said_and_not_at_the_port_it_came_from(
    staged: Staging, given: str
) -> None:
    """I-19: it is connected already, by a link of its own making; that port is closed an hour later."""
    async with staged() as stage:
        stage.node.peers[LSP] = {"netaddr": ["203.0.113.7:51234"]}
        await stage.invoice(lsp_id=f"{LSP}@{given}")
        assert not dialled(stage)
        stage.disconnect(LSP)
        await stage.calm()
        assert dialled(stage) == [LSP, f"{LSP}@{given}"]


async def test_an_lsp_that_comes_from_another_port_is_the_same_lsp(staged: Staging) -> None:
    """I-19: it restarts and calls, twice, each time from a new port; its channel is taken and the payment made."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await stage.invoice()
        for port in (50_001, 50_002):
            stage.disconnect(LSP)
            await stage.calm()
            stage.node.peers[LSP] = {"netaddr": [f"127.0.0.1:{port}"]}
            stage.connect(LSP)
        await stage.channel()
        for fee in (FEE, 0):
            stage.part(invoice, 10_000_000, fee)
            await stage.calm()
        assert (await stage.client._status())["approvals"][0]["state"] == "released"
        count = len(dialled(stage))
        await stage.pass_time(600)
        assert len(dialled(stage)) == count


async def test_an_lsp_that_comes_back_by_itself_is_not_dialled(staged: Staging) -> None:
    """I-19."""
    async with staged() as stage:
        await stage.invoice()
        stage.disconnect(LSP)
        await stage.calm()
        stage.connect(LSP)
        count = len(dialled(stage))
        await stage.pass_time(600)
        assert len(dialled(stage)) == count


@pytest.mark.parametrize("who", ["we dial", "it dials"])
async def test_w9_an_lsp_that_hangs_up_again_and_again_is_dialled_with_growing_pauses(
    staged: Staging, who: str
) -> None:
    """wallet:W9, I-19: an LSP that takes the call only to hang up must not make us dial all day."""
    async with staged() as stage:
        await stage.invoice()
        if who == "we dial":
            stage.node.reachable.add(LSP)
        for second in range(1_200):
            if who == "it dials" and second % 3 == 0:
                stage.connect(LSP)
            if LSP in stage.node.peers:
                stage.disconnect(LSP)
            await stage.pass_time(1)
        count = len(dialled(stage))
        assert count <= (2 if who == "it dials" else 1) * 30, count
        stage.connect(LSP)
        await stage.pass_time(61)
        stage.disconnect(LSP)
        await stage.calm()
        assert len(dialled(stage)) > count  # a link that stood a minute is dialled again at once


async def test_nobody_is_dialled_without_a_reason(staged: Staging) -> None:
    """I-19: from buy until the approval ends."""
    async with staged() as stage:
        stage.disconnect(LSP)
        stage.node.peers[STRANGER] = {}
        stage.disconnect(STRANGER)
        await stage.calm()
        assert not dialled(stage)
        stage.connect(LSP)
        await stage.invoice()
        await stage.pass_time(3_600)
        stage.disconnect(LSP)
        await stage.calm()
        assert not dialled(stage)


async def test_dialling_ends_with_the_purchase(staged: Staging) -> None:
    """I-19, I-33."""
    async with staged() as stage:
        stage.lsp.entries = [entry(valid_until=format_datetime(NOW_MS + 200_000))]
        await stage.invoice()
        stage.disconnect(LSP)
        await stage.pass_time(300)
        count = len(dialled(stage))
        await stage.pass_time(600)
        assert len(dialled(stage)) == count


async def test_after_a_restart_the_lsp_is_dialled_at_once(staged: Staging) -> None:
    """I-19, cln:R6: a wallet without a channel does not reconnect by itself."""
    async with staged() as stage:
        await stage.invoice()
        stage.node.peers.clear()
        await stage.restart()
        assert dialled(stage)[:1] == [LSP]


# --- What the owner sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "state"),
    [(0, "awaited"), (1, "receiving"), (2, "released"), (3, "paid")],
)
async def test_status_says_how_far_a_payment_is(staged: Staging, steps: int, state: str) -> None:
    """lsps2-status."""
    async with staged(trusted=frozenset({LSP})) as stage:
        invoice = await stage.invoice()
        await stage.channel()
        story: list[Any] = [
            lambda: stage.part(invoice, 10_000_000, FEE),
            lambda: stage.part(invoice, 10_000_000),
        ]
        for step in story[:steps]:
            step()
            await stage.calm()
        for _ in range(steps - 2):
            await stage.paid(invoice)
        status = await stage.client._status()
        assert status["approvals"][0]["state"] == state
        assert status["held_parts"] == (steps == 1)


async def test_status_says_whom_not_to_trust_and_what_was_refused(staged: Staging) -> None:
    """LSPs trusted or not; refusals as sentences."""
    async with staged() as stage:
        invoice = await stage.invoice()
        stage.part(invoice, 20_000_000, FEE, htlc_msat=5)
        await stage.calm()
        stage.message(LSP, b"rubbish")
        (lsp,) = (await stage.client._status())["lsps"]
        assert lsp == {"lsp_id": LSP, "trusted": False, "broke_its_word": None, "last_lapse": None, "muted": True}
        (report,) = (await stage.client._status())["reports"]
        assert report["lsp_id"] == LSP
        assert "not what the payer sent" in report["report"]


async def test_reports_are_bounded(staged: Staging) -> None:
    """rule:14."""
    async with staged() as stage:
        for _ in range(300):
            stage.client._report(LSP, f"x{stage.client.reports._number}")
        assert len(stage.client.reports.kept) == 100


@pytest.mark.parametrize("how", ["sweep", "cancel", "deletion"])
@pytest.mark.parametrize("method", ["listinvoices", "datastore", "delinvoice", "deldatastore"])
async def test_k20_a_part_that_comes_while_its_purchase_ends_is_answered(
    staged: Staging, how: str, method: str
) -> None:
    """K-20, I-33: at each call to lightningd on the way; a hook without an answer would cost the channel."""
    async with staged() as stage:
        invoice = await stage.invoice(expiry=600)
        await stage.channel()
        parts: list[bytes] = []
        call = stage.node.call

        async def with_a_part(name: str, given: Json | None = None, timeout_s: float | None = 60.0, **_: Any) -> Json:
            if name == method and len(parts) < 20 and "reports" not in (given or {}).get("key", ()):
                parts.append(stage.part(invoice, 10_000_000))
                await stage.calm(20)  # lightningd takes its time
            return await call(name, given, timeout_s)

        stage.node.call = with_a_part  # type: ignore[method-assign]
        if how == "sweep":
            await stage.pass_time(700)
            await stage.calm(300)
        elif how == "cancel":
            await stage.client.purchase_methods.cancel_purchase(label="label 1")
        else:
            stage.node.do_delinvoice({"label": "label 1", "status": "unpaid"})
        await stage.calm()
        stage.node.call = call  # type: ignore[method-assign]
        for _ in range(4):
            await stage.pass_time(100)
        assert all(stage.answer(part) for part in parts)
        assert not stage.client.incoming.held_parts()


async def test_w9_a_purchase_that_cannot_be_ended_yet_is_ended_later_and_once(staged: Staging) -> None:
    """wallet:W9, rule:11: a disk that is full; cancelling says so, and nothing comes back after a restart."""
    async with staged() as stage:
        await stage.invoice()
        await stage.calm()
        good = stage.node.do_deldatastore

        def bad(given: Json) -> Json:
            raise NodeError("deldatastore", -1, "disk full")

        stage.node.do_deldatastore = bad  # type: ignore[method-assign]
        assert isinstance(await failure_of(stage.client.purchase_methods.cancel_purchase(label="label 1")), StoreError)
        assert len(stage.client.book.approvals) == 1
        stage.node.do_deldatastore = good  # type: ignore[method-assign]
        record = await stage.client.purchase_methods.cancel_purchase(label="label 1")
        assert record["state"] == "cancelled"
        await stage.restart()
        assert not stage.client.book.approvals
        told = [name for name, _ in stage.host.sent]
        assert "lsps2_purchase_ended" not in told
