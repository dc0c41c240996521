"""For wallet developers: what others' wallets give (wallet:W13, wallet:W14, and point 8 of the wallet's issue)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from harness.client import CHANNEL, LSP, OTHER_LSP, Json, Stage, Staging, channel_row, entry, failure_of
from pyln.client import RpcException

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, Lsps2Error, NodeError
from lsps2fast_plugin.client.app import METHODS, PURCHASE_METHODS
from lsps2fast_plugin.client.rpc_errors import FOREIGN, INBOUND, ForeignHash, HasInbound, answer
from lsps2fast_plugin.cln.pyln_adapter import MethodError

LONG = "a very long description " * 60


def bought(stage: Stage) -> int:
    return [each["method"] for each in stage.lsp.asked].count("lsps2.buy")


async def refused(stage: Stage, **more: Any) -> Lsps2Error:
    error = await failure_of(stage.invoice(**more))
    assert error is not None
    return error


# ---- the same label again


async def test_the_same_call_again_gives_the_first_invoice(staged: Staging) -> None:
    """Idempotent retry by label, also after a restart; the amount may be written otherwise."""
    async with staged() as stage:
        made = await stage.invoice(label="order 7", token="t", expiry=600)
        assert await stage.invoice("20000sat", label="order 7", token="t", expiry="600", timeout_s=5) == made
        await stage.restart()
        assert await stage.invoice(label="order 7", token="t", expiry=600) == made
        assert bought(stage) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"amount_msat": 20_000_001},
        {"description": "another"},
        {"token": "t"},
        {"expiry": 600},
        {"max_fee_msat": 5_000_000},
        {"client_trusts_lsp": False},
        {"preimage": "5a" * 32},
        {"min_lifetime": 1000},
        {"headroom_msat": 1},
        {"opening_fee_msat": 1_000_000},
        {"opening_fee_params": entry()},
        {"lsp_id": OTHER_LSP},
    ],
    ids=str,
)
async def test_another_call_with_that_label_says_the_difference(staged: Staging, other: Json) -> None:
    """The label is taken, by a purchase with another something."""
    async with staged() as stage:
        await stage.invoice(label="order 7")
        error = await refused(stage, label="order 7", **other)
        assert isinstance(error, NodeError)
        assert error.code == 900
        assert next(iter(other)) in str(error)
        assert bought(stage) == 1


async def test_no_invoice_is_given_again_when_it_is_over(staged: Staging) -> None:
    """Paid, expired, cancelled, deleted: a sentence, and nothing is bought."""
    async with staged() as stage:
        for label, end, word in (
            ("a", lambda made: stage.paid(made), "paid"),
            ("b", lambda made: stage.client.purchase_methods.cancel_purchase(label="b"), "cancelled"),
            ("c", lambda made: stage.node.call("delinvoice", {"label": "c", "status": "unpaid"}), "cancelled"),
            ("d", lambda made: stage.pass_time(700), "expired"),
        ):
            made = await stage.invoice(label=label, expiry=600)
            await end(made)
            await stage.calm()
            error = await refused(stage, label=label, expiry=600)
            assert isinstance(error, NodeError)
            assert error.code == 900
            assert f"its purchase is over: {word}" in str(error), label
        assert bought(stage) == 4


async def test_a_label_of_an_ordinary_invoice_is_taken(staged: Staging) -> None:
    async with staged() as stage:
        stage.node.own("11" * 32)
        assert "an invoice without a purchase has it" in str(await refused(stage, label="11" * 32))
        assert not bought(stage)


async def test_a_purchase_that_failed_leaves_its_label_free(staged: Staging) -> None:
    """The LSP said no, or the invoice could not be made: the same call is tried again."""
    async with staged() as stage:
        stage.lsp.errors["lsps2.get_info"] = [{"code": 1, "message": "x"}]
        assert await failure_of(stage.invoice(label="again"))
        stage.node.faults["createinvoice"] = [NodeError("createinvoice", -1, "no")]
        assert await failure_of(stage.invoice(label="again"))
        stage.node.faults.clear()
        assert await stage.invoice(label="again")


# ---- a deleted invoice


async def test_deleting_the_invoice_ends_the_purchase_at_once(staged: Staging) -> None:
    """wallet:W13: not at the next opening."""
    async with staged() as stage:
        made, kept = await stage.invoice(label="a"), await stage.invoice(label="b")
        await stage.node.call("delinvoice", {"label": "a", "status": "unpaid"})
        await stage.calm()
        assert {each.hex() for each in stage.client.book.approvals} == {kept["payment_hash"]}
        gone = await stage.client.purchase_methods.purchase(payment_hash=made["payment_hash"])
        assert (gone["state"], gone["reason"]) == ("cancelled", "its invoice was deleted")


async def test_parts_that_are_held_go_back_when_the_invoice_is_deleted(staged: Staging) -> None:
    """wallet:W13: the payer may not wait for what cannot come."""
    async with staged() as stage:
        made = await stage.invoice(label="a")
        await stage.channel()
        part = stage.part(made, 10_000_000, 500_000)
        await stage.calm()
        assert stage.answer(part) is None
        await stage.node.call("delinvoice", {"label": "a", "status": "unpaid"})
        await stage.calm()
        assert stage.answer(part) == {"result": "fail", "failure": "2002"}
        assert not stage.client.book.approvals


async def test_a_deletion_while_another_invoice_is_made_ends_only_its_own(staged: Staging) -> None:
    """wallet:W13: an approval is written before its invoice exists."""
    async with staged() as stage:
        await stage.invoice(label="a")
        real = stage.node.do_createinvoice

        def late(params: Json) -> Json:
            stage.node.do_delinvoice({"label": "a", "status": "unpaid"})
            return real(params)

        stage.node.do_createinvoice = late  # type: ignore[method-assign]
        made = await stage.invoice(label="b")
        await stage.calm()
        assert {each.hex() for each in stage.client.book.approvals} == {made["payment_hash"]}


async def test_deletions_are_heard_of_again_after_a_fault(staged: Staging) -> None:
    """wallet:W9: with growing pauses."""
    async with staged() as stage:
        await stage.invoice(label="a")
        await stage.node.call("delinvoice", {"label": "a", "status": "unpaid"})
        await stage.calm()
        asked = len(stage.node.named("wait"))
        stage.node.faults["wait"] = [NodeError("wait", -1, "no")] * 3
        await stage.invoice(label="b")
        await stage.node.call("delinvoice", {"label": "b", "status": "unpaid"})
        await stage.pass_time(1)
        for seconds in (1, 2, 4):
            await stage.pass_time(seconds)
        assert not stage.client.book.approvals
        assert len(stage.node.named("wait")) <= asked + 6


# ---- descriptions, hashes


async def test_the_payer_gets_the_hash_of_the_description(staged: Staging) -> None:
    """`deschashonly`, as lightningd's `invoice` has it; the node keeps the text. Again: the same words."""
    async with staged() as stage:
        made = await stage.invoice(label="h", description=LONG, deschashonly=True)
        read = bolt11.decode(made["bolt11"])
        assert (read.description, read.description_hash) == (None, hashlib.sha256(LONG.encode()).digest())
        assert stage.node.invoices["h"]["description"] == LONG[:639]
        await stage.restart()
        assert await stage.invoice(label="h", description=LONG, deschashonly=True) == made
        assert "description_hash" in str(await refused(stage, label="h", description=LONG + "x", deschashonly=True))


async def test_a_hash_alone_will_do(staged: Staging) -> None:
    """`description_hash`, for LNURL and the like."""
    async with staged() as stage:
        digest = hashlib.sha256(b"metadata").hexdigest()
        made = await stage.invoice(description=None, description_hash=digest)
        assert (bolt11.decode(made["bolt11"]).description_hash or b"").hex() == digest
        both = await stage.invoice(description="metadata", description_hash=digest)
        assert bolt11.decode(both["bolt11"]).description is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"description": "other", "description_hash": "5a" * 32}, "is not the hash of this description"),
        ({"description_hash": "5a"}, "description_hash must be 64 hex digits"),
        ({"description": LONG}, "deschashonly=true"),
        ({"description": None, "deschashonly": True}, "description"),
        ({"deschashonly": "maybe"}, "deschashonly='maybe' must be true or false"),
    ],
    ids=str,
)
async def test_descriptions_that_cannot_be(staged: Staging, given: Json, why: str) -> None:
    async with staged() as stage:
        error = await refused(stage, **given)
        assert isinstance(error, ConfigError)
        assert why in str(error)


async def test_a_foreign_hash_is_refused_before_anything_is_bought(staged: Staging) -> None:
    """Hold invoices and swaps: their own code, and a sentence; not a channel first and a refusal then."""
    async with staged() as stage:
        errors = [
            await refused(stage, payment_hash="11" * 32),
            await failure_of(stage.client.methods.approve(LSP, "1x2x3", "11" * 32, None, entry(), "20000000")),
        ]
        for error in errors:
            assert isinstance(error, ForeignHash)
            assert "hold invoices and swaps are not served" in str(error)
            assert answer(error).code == FOREIGN.number
        assert not stage.lsp.asked
        assert not stage.client.book.approvals
        own = hashlib.sha256(b"\x5a" * 32).hexdigest()
        assert (await stage.invoice(preimage="5a" * 32, payment_hash=own))["payment_hash"] == own
        wrong = await refused(stage, preimage="5a" * 32, payment_hash="11" * 32)
        assert "not the hash of this preimage" in str(wrong)


# ---- inbound that is there already


async def wide(stage: Stage, **fields: Any) -> None:
    """A sound private channel with room for 90,000 sat."""
    policy = {"fee_base_msat": 7, "fee_proportional_millionths": 8, "cltv_expiry_delta": 34}
    row = channel_row(
        peer_id=OTHER_LSP,
        channel_id="77" * 32,
        opener="local",
        receivable_msat=90_000_000,
        short_channel_id="700x1x1",
        updates={"remote": policy},
    )
    stage.node.channels.append(row | fields)


async def test_inbound_that_is_there_is_said(staged: Staging) -> None:
    """The default: the channel is bought, and the owner hears that it was not needed."""
    async with staged() as stage:
        await wide(stage)
        made = await stage.invoice()
        assert "can receive 90000000 msat" in made["warning_inbound"]
        assert "warning_inbound" not in await stage.invoice(100_000_000)
        assert "warning_inbound" not in await stage.invoice("any")
        assert "warning_inbound" in await stage.invoice("any", max_payment_msat=50_000_000)


async def test_nothing_is_bought_where_it_is_not_needed(staged: Staging) -> None:
    """`lsps2-inbound=refuse`."""
    async with staged(inbound="refuse") as stage:
        await wide(stage)
        error = await refused(stage)
        assert isinstance(error, HasInbound)
        refusal = answer(error)
        assert (refusal.code, refusal.data) == (INBOUND.number, {"receivable_msat": 90_000_000})
        assert not stage.lsp.asked
        assert await stage.invoice(100_000_000)


@pytest.mark.parametrize(
    "fields",
    [{"peer_connected": False}, {"state": "CLOSINGD_SIGEXCHANGE"}, {"receivable_msat": 19_999_999}],
    ids=str,
)
async def test_only_what_can_be_received_now_counts(staged: Staging, fields: Json) -> None:
    async with staged(inbound="refuse") as stage:
        await wide(stage, **fields)
        assert await stage.invoice()


async def test_a_channel_that_is_not_sound_is_no_inbound(staged: Staging) -> None:
    """wallet:W0: nothing comes in over it."""
    async with staged(inbound="refuse") as stage:
        stage.node.channels.append(channel_row(receivable_msat=190_000_000))
        assert await stage.invoice()


async def test_one_invoice_serves_both_ways(staged: Staging) -> None:
    """`lsps2-inbound=both`: paid in one part, over the channel there is and without a fee, or over a new one."""
    async with staged(inbound="both") as stage:
        await wide(stage)
        made = await stage.invoice()
        read = bolt11.decode(made["bolt11"])
        (old,), (new,) = read.hints
        assert (old.node_id.hex(), old.fee_base_msat, old.cltv_expiry_delta_blocks) == (OTHER_LSP, 7, 34)
        assert new.node_id.hex() == LSP
        assert bolt11.BASIC_MPP not in read.features
        part = stage.part(made, 20_000_000, peer_id=OTHER_LSP, in_scid=old_scid(stage))
        await stage.calm()
        assert (stage.answer(part) or {})["result"] == "continue"
        await stage.paid(made)
        record = await stage.client.purchase_methods.purchase(payment_hash=made["payment_hash"])
        assert (record["state"], record["fee_taken_msat"]) == ("paid", 0)


def old_scid(stage: Stage) -> int:
    return 700 << 40 | 1 << 16 | 1


# ---- wishes


async def test_headroom_is_asked_of_menu_and_channel(staged: Staging) -> None:
    """A wish: room for more than the payment."""
    async with staged() as stage:
        error = await refused(stage, headroom_msat=4_000_000_000)
        assert "no offer is for a channel that can receive 4020000000 msat" in str(error)
        await stage.invoice(headroom_msat=500_000_000)
        refusal = await stage.opening(funding_msat=200_000_000)
        assert "too small to receive 519000000 msat" in refusal["error_message"]
        assert (await stage.opening(funding_msat=600_000_000, channel_reserve_msat=6_000_000)).get("mindepth") == 0


# ---- options and `check`


async def test_setconfig_is_in_force_at_once(staged: Staging) -> None:
    """Dynamic options: what is agreed from now on."""
    async with staged() as stage:
        client = stage.client
        client.plugin.options["lsps2-max-fee-msat"].value = 100_000_000
        client._on_setconfig(client.plugin, "lsps2-max-fee-msat", "999999")
        assert "above" in str(await refused(stage))
        client._on_setconfig(client.plugin, "lsps2-max-fee-msat", "1000000")
        assert await stage.invoice()
        client._on_setconfig(client.plugin, "lsps2-inbound", "refuse")
        await wide(stage)
        assert isinstance(await refused(stage), HasInbound)


@pytest.mark.parametrize(
    ("name", "text"), [("lsps2-max-fee-ppm", "1000001"), ("lsps2-hold-timeout", "x"), ("lsps2-inbound", "maybe")]
)
async def test_setconfig_refuses_what_cannot_be(staged: Staging, name: str, text: str) -> None:
    """With the sentence of the start; the old value stays."""
    async with staged() as stage:
        before = stage.client.settings
        with pytest.raises(RpcException, match=name):
            stage.client._on_setconfig(stage.client.plugin, name, text)
        with pytest.raises(ConfigError, match=name):
            await stage.client._check("setconfig", {"config": name, "val": text})
        assert stage.client.settings is before


async def test_a_deeper_funding_is_asked_of_channels_there_are(staged: Staging) -> None:
    """rule:27: `lsps2-funding-depth` by setconfig."""
    async with staged() as stage:
        made = await stage.invoice()
        await stage.channel()
        stage.fund()
        stage.confirm()
        await stage.block()
        assert stage.client.watch.is_surely_safe(CHANNEL)
        stage.client._on_setconfig(stage.client.plugin, "lsps2-funding-depth", "6")
        await stage.calm()
        assert not stage.client.watch.is_surely_safe(CHANNEL)
        part = stage.part(made, 20_000_000, 1_000_000)
        await stage.calm()
        assert stage.answer(part) is None


async def test_check_does_nothing_but_look_at_parameters(staged: Staging) -> None:
    """`lightning-cli check`: no method asks lightningd or an LSP for anything, or changes a record."""
    async with staged() as stage:
        made = await stage.invoice(label="l")
        good: dict[str, Json] = {
            "lsps-listprotocols": {"lsp_id": LSP},
            "lsps-lsps2-getinfo": {"lsp_id": LSP, "token": "t"},
            "lsps-lsps2-buy": {"lsp_id": LSP, "payment_size_msat": "20000000", "opening_fee_params": entry()},
            "lsps-lsps2-approve": {"lsp_id": LSP, "jit_channel_scid": "1x2x3", "payment_hash": "11" * 32},
            "lsps-lsps2-invoice": {"lsp_id": LSP, "amount_msat": "any", "description": "d", "label": "l2"},
            "lsps2-compare": {"amount_msat": "20000sat"},
            "lsps2-trust": {"lsp_id": LSP},
            "lsps2-listpurchases": {"state": "awaited"},
            "lsps2-purchase": {"label": "l"},
            "lsps2-cancel-purchase": {"payment_hash": made["payment_hash"]},
        }
        assert set(good) == {*METHODS, *PURCHASE_METHODS}
        await stage.calm()
        stage.node.calls.clear()
        before = dict(stage.node.datastore)
        for name, given in good.items():
            await stage.client._check(name, given)
        await stage.client._check("setconfig", {"config": "lsps2-inbound", "val": "both"})
        await stage.calm()
        assert not stage.node.calls
        assert stage.node.datastore == before
        assert len(stage.client.book.approvals) == 1


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("lsps-lsps2-invoice", {"lsp_id": LSP, "amount_msat": 0, "description": "d", "label": "l"}, "must be positive"),
        ("lsps-lsps2-invoice", {"lsp_id": LSP, "amount_msat": 1, "label": "l"}, "missing required parameter"),
        ("lsps-lsps2-buy", {"lsp_id": "02"}, "lsp_id"),
        ("lsps2-compare", {"amount_msat": 1, "timeout_s": 0}, "timeout_s"),
        ("lsps2-listpurchases", {"limit": -1}, "limit"),
    ],
)
async def test_check_says_what_is_wrong(staged: Staging, name: str, given: Json, why: str) -> None:
    async with staged() as stage:
        with pytest.raises(MethodError, match=why):
            await stage.client._check(name, given)
        assert not stage.lsp.asked


async def test_calls_at_once_with_one_label_and_a_failure(staged: Staging) -> None:
    """The second of two calls tries itself when the first one fails."""
    async with staged() as stage:
        stage.lsp.errors["lsps2.get_info"] = [{"code": 1, "message": "x"}]
        made = await asyncio.gather(*(stage.invoice(label="s") for _ in range(2)), return_exceptions=True)
        assert [isinstance(each, Exception) for each in made] == [True, False]
        assert not stage.client.methods._making
