"""The invoice: what a payer reads in it, what lightningd keeps, and what is left when making it fails."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from harness.client import JIT_SCID, LSP, NOW_MS, WALLET, Json, Stage, Staging, entry, failure_of, key

from lsps2fast import bolt11
from lsps2fast.errors import Lsps2Error, NodeError, NodeUnreachable, StoreError
from lsps2fast.lsps.lsps2 import format_datetime, parse_scid


async def test_steps_come_in_the_order_that_loses_nothing(staged: Staging) -> None:
    """I-01, G-01: menu, buy, durable approval, invoice."""
    async with staged() as stage:
        before = len(stage.node.calls)
        await stage.invoice()
        steps = [
            name for name, _ in stage.node.calls[before:] if name in ("sendcustommsg", "datastore", "createinvoice")
        ]
        assert steps == ["sendcustommsg", "sendcustommsg", "datastore", "createinvoice"]
        assert [request["method"] for request in stage.lsp.asked] == ["lsps2.get_info", "lsps2.buy"]


async def test_a_fixed_invoice_says_what_was_agreed(staged: Staging) -> None:
    """I-03 to I-07: one hint of one hop without fee, +2 blocks, basic_mpp, our key, a secret lightningd knows."""
    async with staged(trusted=frozenset({LSP})) as stage:
        result = await stage.invoice(20_000_000)
        invoice = bolt11.decode(result["bolt11"])
        assert invoice.hints == ((bolt11.Hint(bytes.fromhex(LSP), parse_scid(JIT_SCID), 0, 0, 144),),)
        assert invoice.amount_msat == 20_000_000
        assert invoice.min_final_cltv_blocks == 12
        assert invoice.features == {8, 14, 17}
        assert invoice.payee is not None
        assert invoice.payee.hex() == WALLET
        assert invoice.other_fields == ()
        preimage = stage.preimages[invoice.payment_hash]
        assert hashlib.sha256(preimage).digest() == invoice.payment_hash
        assert bolt11.payment_secret_for(preimage) == invoice.payment_secret


async def test_a_variable_invoice_forbids_many_parts(staged: Staging) -> None:
    """I-05: no amount, no basic_mpp."""
    async with staged() as stage:
        invoice = bolt11.decode((await stage.invoice("any"))["bolt11"])
        assert invoice.amount_msat is None
        assert invoice.features == {8, 14}


@pytest.mark.parametrize(
    ("trust", "depth", "trusted", "blocks"),
    [(True, 3, False, 12), (False, 3, True, 12), (False, 1, False, 13), (False, 3, False, 15), (False, 0, False, 12)],
)
async def test_blocks_that_will_be_waited_for_are_in_the_invoice(
    staged: Staging, trust: bool, depth: int, trusted: bool, blocks: int
) -> None:
    """I-04, trap:38: normal + 2, and the confirmations we mean to wait for."""
    async with staged(funding_depth=depth, trusted=frozenset({LSP} if trusted else ())) as stage:
        stage.lsp.trust = trust
        made = await stage.invoice(client_trusts_lsp=trust)
        assert bolt11.decode(made["bolt11"]).min_final_cltv_blocks == blocks


@pytest.mark.parametrize(
    ("valid_ms", "expiry", "life_s"),
    [
        (3_600_000, None, 3_590),
        (3_600_999, None, 3_590),
        (140_001, None, 130),
        (3_600_000, 900, 900),
        (86_400_000 * 30, None, 7 * 86_400),
        (3_600_000, 3_000, 3_000),
    ],
)
async def test_the_invoice_ends_before_the_lsps_offer(
    staged: Staging, valid_ms: int, expiry: int | None, life_s: int
) -> None:
    """I-02: rounded down, with a margin of 10 s, never longer than asked."""
    async with staged() as stage:
        stage.lsp.entries = [entry(valid_until=format_datetime(NOW_MS + valid_ms))]
        invoice = bolt11.decode((await stage.invoice(expiry=expiry))["bolt11"])
        assert invoice.expiry_s == life_s
        assert (invoice.timestamp_s + invoice.expiry_s) * 1000 <= NOW_MS + valid_ms - 10_000


@pytest.mark.parametrize(("valid_ms", "expiry"), [(129_000, None), (3_600_000, 3_590)])
async def test_an_offer_that_ends_too_soon_is_not_bought(staged: Staging, valid_ms: int, expiry: int | None) -> None:
    """I-02, G-13: at least a minute, or what was asked, beside the margins."""
    async with staged() as stage:
        stage.lsp.entries = [entry(valid_until=format_datetime(NOW_MS + valid_ms))]
        with pytest.raises(Lsps2Error, match="ends too soon"):
            await stage.invoice(expiry=expiry)


async def test_an_lsp_that_answers_too_late_leaves_no_invoice(staged: Staging) -> None:
    """I-02: the time counts that goes into the invoice, not that of the choice."""
    async with staged() as stage:
        good = stage.lsp.result

        def slow(request: Json) -> Json:
            stage.clock._offset_ms += 62_000 * (request["method"] == "lsps2.buy")
            return good(request)

        stage.lsp.result = slow  # type: ignore[method-assign]
        stage.lsp.entries = [entry(valid_until=format_datetime(NOW_MS + 131_000))]
        with pytest.raises(Lsps2Error, match="too soon for an invoice"):
            await stage.invoice()
        assert not stage.node.invoices
        assert not stage.keys


async def test_the_result_has_clns_members_and_ours(staged: Staging) -> None:
    """Drop-in: bolt11, payment_hash, payment_secret, expires_at, created_index."""
    async with staged() as stage:
        result = await stage.invoice()
        invoice = bolt11.decode(result["bolt11"])
        assert result["payment_hash"] == invoice.payment_hash.hex()
        assert result["payment_secret"] == invoice.payment_secret.hex()
        assert result["expires_at"] == invoice.timestamp_s + invoice.expiry_s
        assert result["created_index"] == 1
        assert (result["opening_fee_msat"], result["jit_channel_scid"]) == (1_000_000, JIT_SCID)


async def test_one_invoice_for_the_full_amount_is_kept(staged: Staging) -> None:
    """I-08: never deleted, never made again with less; cln:C6: only createinvoice."""
    async with staged() as stage:
        await stage.invoice()
        (row,) = stage.node.invoices.values()
        assert row["amount_msat"] == 20_000_000
        used = {name for name, _ in stage.node.calls}
        assert not used & {"invoice", "delinvoice"}
        assert len(stage.node.named("createinvoice")) == 1


async def test_no_preimage_is_stored_or_said(staged: Staging) -> None:
    """K-28."""
    async with staged() as stage:
        await stage.invoice()
        (preimage,) = stage.preimages.values()
        assert all(preimage.hex().encode() not in value for value in stage.node.datastore.values())
        assert all(preimage.hex() not in text for text, _ in stage.host.logs)


async def test_a_label_that_is_taken_fails_before_anything_is_bought(staged: Staging) -> None:
    """lightningd's error 900."""
    async with staged() as stage:
        await stage.invoice(30_000_000, label="twice")
        with pytest.raises(NodeError, match="Duplicate label 'twice'") as failed:
            await stage.invoice(label="twice")
        assert failed.value.code == 900
        assert len(stage.lsp.asked) == 2


def broken(stage: Stage, fault: NodeError) -> None:
    stage.node.faults["createinvoice"] = [fault]


async def test_a_refused_invoice_leaves_no_approval(staged: Staging) -> None:
    """I-01: what was recorded is removed."""
    async with staged() as stage:
        broken(stage, NodeError("createinvoice", 900, "Duplicate label"))
        with pytest.raises(NodeError, match="Duplicate"):
            await stage.invoice()
        assert not stage.keys
        assert not stage.client.awaited.hashes


async def test_an_approval_that_cannot_be_stored_leaves_no_invoice(staged: Staging) -> None:
    """I-01, rule:11."""
    async with staged() as stage:
        stage.node.faults["datastore"] = [NodeError("datastore", -1, "disk full")]
        with pytest.raises(StoreError):
            await stage.invoice()
        assert not stage.node.invoices
        assert not stage.client.book.approvals


@pytest.mark.parametrize("made", [True, False])
async def test_an_answer_that_got_lost_is_looked_up(staged: Staging, made: bool) -> None:
    """K-13: no answer is not a no."""
    async with staged() as stage:
        good = stage.node.do_createinvoice

        def lost(params: Json) -> Json:
            for _ in range(made):
                good(params)
            raise NodeUnreachable("createinvoice", "closed")

        stage.node.do_createinvoice = lost  # type: ignore[method-assign]
        failed = await failure_of(stage.invoice())
        assert isinstance(failed, NodeUnreachable) != made
        assert {row["payment_hash"] for row in stage.node.invoices.values()} == stage.keys
        assert bool(stage.node.invoices) == made


@pytest.mark.parametrize(
    "change",
    [
        {"amount_msat": 19_000_000},
        {"min_final_cltv_blocks": 10},
        {"hints": ()},
        {"features": frozenset({8, 14})},
        {"payment_secret": b"\0" * 32},
    ],
    ids=str,
)
async def test_an_invoice_other_than_the_one_meant_is_not_given_out(staged: Staging, change: dict[str, Any]) -> None:
    """I-03 to I-08: another plugin may have changed it."""
    async with staged() as stage:
        good = stage.node.do_createinvoice

        def other(params: Json) -> Json:
            row = good(params)
            invoice = bolt11.decode(row["bolt11"])._replace(**change)
            return row | {"bolt11": bolt11.encode(invoice, lambda digest: key(9).sign_recoverable(digest, hasher=None))}

        stage.node.do_createinvoice = other  # type: ignore[method-assign]
        with pytest.raises(Lsps2Error, match="another invoice"):
            await stage.invoice()
        assert not stage.keys


async def test_a_crash_between_approval_and_invoice_leaves_no_orphan(staged: Staging) -> None:
    """I-01: kill between the steps; the next start cleans up."""
    async with staged() as stage:
        broken(stage, NodeError("createinvoice", -1, "x"))
        stage.node.faults["deldatastore"] = [NodeError("deldatastore", -1, "killed")]
        with pytest.raises(Lsps2Error):
            await stage.invoice()
        assert len(stage.keys) == 1
        await stage.restart()
        assert not stage.keys
        assert "was never made" in stage.host.said("info")


async def test_an_approval_without_a_label_is_its_callers_business(staged: Staging) -> None:
    """Drop-in: the invoice is the caller's."""
    async with staged() as stage:
        stage.node.own("11" * 32)
        await stage.client.methods.approve(LSP, "1x2x3", "11" * 32, False, entry(), "20000000")
        await stage.restart()
        assert stage.keys == {"11" * 32}


async def test_approving_an_invoice_learns_its_secret(staged: Staging) -> None:
    """I-20: parts with another secret are refused here."""
    async with staged() as stage:
        made = await stage.invoice()
        await stage.client.book.drop(next(iter(stage.client.book.approvals.values())))
        await stage.client.methods.approve(LSP, "1x2x3", made["payment_hash"], False, entry(), "20000000")
        (approval,) = stage.client.book.approvals.values()
        assert approval.payment_secret is not None
        assert approval.payment_secret.hex() == made["payment_secret"]
